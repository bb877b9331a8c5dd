//! Program kinds to probe the kernel with: every type that loads here, with its attach types.
//!
//! Owns what a type needs beside its instructions (an attach type, a kernel function to be about). Nothing is attached:
//! a load alone tells what a type may call and read.

use std::sync::OnceLock;

use skep_abi::{AttachType, ProgType, RawInsn, prog_flags};
use skep_btf::{Btf, Kind};

use crate::kernel::{LoadFailure, Loaded, ProgLoad};

/// A program type with what its load depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgKind {
    /// Type.
    pub prog: ProgType,
    /// Attach type.
    pub attach: AttachType,
    /// Kernel type or function that `attach_btf_id` names.
    pub target: Option<(&'static str, Kind)>,
    /// Loaded with BPF_F_SLEEPABLE.
    pub sleepable: bool,
}

/// The kernel's own BTF.
///
/// # Panics
/// When the running kernel has none; [`crate::kernel::require`] is asked first.
#[must_use]
#[expect(clippy::expect_used, reason = "a probe without BTF cannot go on")]
pub fn vmlinux() -> &'static Btf {
    static VMLINUX: OnceLock<Btf> = OnceLock::new();
    VMLINUX.get_or_init(|| {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").expect("the kernel has BTF");
        Btf::parse(&bytes).expect("the kernel's BTF is valid")
    })
}

impl ProgKind {
    const fn plain(prog: ProgType, attach: AttachType) -> Self {
        Self { prog, attach, target: None, sleepable: false }
    }

    /// Loads a program of this kind, with a log at `log_level`.
    ///
    /// # Errors
    /// As [`ProgLoad::load_once`].
    pub fn load(&self, insns: &[RawInsn], log_level: u32) -> Result<Loaded, LoadFailure> {
        self.request(insns, log_level).load_once()
    }

    /// The load that [`ProgKind::load`] asks for, to be changed before.
    #[must_use]
    pub fn request<'a>(&self, insns: &'a [RawInsn], log_level: u32) -> ProgLoad<'a> {
        let attach_btf_id = self.target.and_then(|(name, kind)| vmlinux().find(name, kind)).map_or(0, |id| id.0);
        let sleepable = if self.sleepable { prog_flags::BPF_F_SLEEPABLE } else { 0 };
        ProgLoad {
            attach_type: self.attach,
            flags: sleepable,
            log_level,
            attach_btf_id,
            ..ProgLoad::new(self.prog, insns)
        }
    }
}

/// Every kind that this kernel can load, one per attach type.
#[must_use]
pub fn kinds() -> Vec<ProgKind> {
    use AttachType as A;
    use ProgType as P;
    let groups: &[(P, &[A])] = &[
        (P::SocketFilter, &[A::CgroupInetIngress]),
        (
            P::Kprobe,
            &[A::PerfEvent, A::TraceKprobeMulti, A::TraceKprobeSession, A::TraceUprobeMulti, A::TraceUprobeSession],
        ),
        (P::SchedCls, &[A::CgroupInetIngress, A::TcxIngress, A::NetkitPrimary]),
        (P::SchedAct, &[A::CgroupInetIngress]),
        (P::Tracepoint, &[A::PerfEvent]),
        (P::Xdp, &[A::Xdp, A::XdpDevmap, A::XdpCpumap]),
        (P::PerfEvent, &[A::PerfEvent]),
        (P::CgroupSkb, &[A::CgroupInetIngress, A::CgroupInetEgress]),
        (
            P::CgroupSock,
            &[A::CgroupInetSockCreate, A::CgroupInetSockRelease, A::CgroupInet4PostBind, A::CgroupInet6PostBind],
        ),
        (P::LwtIn, &[A::CgroupInetIngress]),
        (P::LwtOut, &[A::CgroupInetIngress]),
        (P::LwtXmit, &[A::CgroupInetIngress]),
        (P::SockOps, &[A::CgroupSockOps]),
        (P::SkSkb, &[A::SkSkbStreamParser, A::SkSkbStreamVerdict, A::SkSkbVerdict]),
        (P::CgroupDevice, &[A::CgroupDevice]),
        (P::SkMsg, &[A::SkMsgVerdict]),
        (P::RawTracepoint, &[A::CgroupInetIngress]),
        (
            P::CgroupSockAddr,
            &[
                A::CgroupInet4Bind,
                A::CgroupInet6Bind,
                A::CgroupInet4Connect,
                A::CgroupInet6Connect,
                A::CgroupUnixConnect,
                A::CgroupUdp4Sendmsg,
                A::CgroupUdp6Sendmsg,
                A::CgroupUnixSendmsg,
                A::CgroupUdp4Recvmsg,
                A::CgroupUdp6Recvmsg,
                A::CgroupUnixRecvmsg,
                A::CgroupInet4Getpeername,
                A::CgroupInet6Getpeername,
                A::CgroupUnixGetpeername,
                A::CgroupInet4Getsockname,
                A::CgroupInet6Getsockname,
                A::CgroupUnixGetsockname,
            ],
        ),
        (P::LwtSeg6local, &[A::CgroupInetIngress]),
        (P::SkReuseport, &[A::SkReuseportSelect, A::SkReuseportSelectOrMigrate]),
        (P::FlowDissector, &[A::FlowDissector]),
        (P::CgroupSysctl, &[A::CgroupSysctl]),
        (P::RawTracepointWritable, &[A::CgroupInetIngress]),
        (P::CgroupSockopt, &[A::CgroupGetsockopt, A::CgroupSetsockopt]),
        (P::SkLookup, &[A::SkLookup]),
        (P::Netfilter, &[A::Netfilter]),
    ];
    let plain = groups.iter().flat_map(|(prog, attach)| attach.iter().map(|attach| ProgKind::plain(*prog, *attach)));
    let mut kinds: Vec<ProgKind> = plain.collect();
    kinds.push(ProgKind { sleepable: true, ..ProgKind::plain(P::Syscall, A::CgroupInetIngress) });
    let about = |prog, attach, name, kind| ProgKind { target: Some((name, kind)), ..ProgKind::plain(prog, attach) };
    kinds.push(about(P::Tracing, A::TraceRawTp, "btf_trace_sched_switch", Kind::Typedef));
    kinds.push(about(P::Tracing, A::TraceFentry, "bpf_fentry_test1", Kind::Func));
    kinds.push(about(P::Tracing, A::TraceFexit, "bpf_fentry_test1", Kind::Func));
    kinds.push(about(P::Tracing, A::ModifyReturn, "bpf_modify_return_test", Kind::Func));
    kinds.push(about(P::Tracing, A::TraceIter, "bpf_iter_task", Kind::Func));
    kinds.push(about(P::Lsm, A::LsmMac, "bpf_lsm_file_open", Kind::Func));
    kinds.push(about(P::Lsm, A::LsmCgroup, "bpf_lsm_socket_bind", Kind::Func));
    kinds.push(about(P::StructOps, A::CgroupInetIngress, "tcp_congestion_ops", Kind::Struct));
    kinds.retain(is_offered);
    kinds
}

/// Whether this kernel loads such programs at all: a program that cannot be accepted gets as far as the verifier's log.
fn is_offered(kind: &ProgKind) -> bool {
    let exit = [RawInsn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 }];
    match kind.load(&exit, 1) {
        Ok(_) => true,
        Err(failure) => failure.log.contains("processed "),
    }
}
