//! Contexts that are plain memory (registers, tracepoint records, arguments), and the netfilter hook's.

use super::{CtxField as F, CtxFieldKind as K, CtxLayout};

/// `struct pt_regs` of x86-64.
pub(super) static KPROBE: CtxLayout = CtxLayout::fixed("bpf_user_pt_regs_t", 168, 168, &[]).with_region(0, 168, false);

/// The record of a tracepoint; its first 8 bytes are the kernel's.
pub(super) static TRACEPOINT: CtxLayout = CtxLayout::fixed("trace_entry", 8192, 8192, &[]).with_region(8, 8192, false);

/// Up to 12 arguments of 8 bytes.
pub(super) static RAW_TP: CtxLayout =
    CtxLayout::fixed("bpf_raw_tracepoint_args", 96, 96, &[]).with_region(0, 96, false);

pub(super) static RAW_TP_WRITABLE: CtxLayout =
    CtxLayout::fixed("bpf_raw_tracepoint_args", 96, 96, &[F::new("args[0]", 0, 8, K::TpBuffer)])
        .with_region(1, 96, false);

/// What the caller of `bpf_prog_test_run` hands over; the program may change it.
pub(super) static SYSCALL: CtxLayout = CtxLayout::fixed("void", 65535, 65535, &[]).with_region(0, 65535, true);

/// The sample of an infrared receiver.
pub(super) static LIRC: CtxLayout = CtxLayout::fixed("lirc_mode2", 4, 4, &[F::word("sample", 0).whole()]);

pub(super) static NETFILTER: CtxLayout = CtxLayout::fixed(
    "bpf_nf_ctx",
    16,
    16,
    &[F::new("state", 0, 8, K::Btf("nf_hook_state")), F::new("skb", 8, 8, K::Btf("sk_buff"))],
);

const fn reg(name: &'static str, number: u16) -> F {
    F::word(name, number * 8).sized(8).whole()
}

/// Registers as wholes, then the sample.
pub(super) static PERF_EVENT: CtxLayout = CtxLayout::fixed(
    "bpf_perf_event_data",
    184,
    184,
    &[
        reg("r15", 0),
        reg("r14", 1),
        reg("r13", 2),
        reg("r12", 3),
        reg("rbp", 4),
        reg("rbx", 5),
        reg("r11", 6),
        reg("r10", 7),
        reg("r9", 8),
        reg("r8", 9),
        reg("rax", 10),
        reg("rcx", 11),
        reg("rdx", 12),
        reg("rsi", 13),
        reg("rdi", 14),
        reg("orig_rax", 15),
        reg("rip", 16),
        reg("cs", 17),
        reg("eflags", 18),
        reg("rsp", 19),
        reg("ss", 20),
        F::word("sample_period", 168).sized(8),
        F::word("addr", 176).sized(8),
    ],
);
