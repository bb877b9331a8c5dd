//! States, instructions and source lines, as the kernel's log shows them.
//!
//! Owns the text of registers and stack slots. Invariant: what is printed is the state itself, never a rounded form of it, so
//! that logs of two engines can be compared as text. Kernel counterpart: kernel/bpf/log.c, 6.18.

use std::fmt::Write as _;

use crate::env::{Env, log};
use crate::state::frame::{RefKind, State};
use crate::state::reg::{Base, Extra, IterState, Reg, RegType, flags};
use crate::state::stack::{ByteKind, SLOT};

/// Column at which a state follows its instruction.
const ALIGN: usize = 40;

fn unsigned(out: &mut String, v: u64) {
    let _ = if v <= 0xffff { write!(out, "{v}") } else { write!(out, "{v:#x}") };
}

fn signed(out: &mut String, v: i64) {
    let _ = if (-0x8000..=0x7fff).contains(&v) { write!(out, "{v}") } else { write!(out, "{v:#x}") };
}

/// The kernel's name of a register type.
pub(crate) fn type_name(ty: RegType) -> String {
    let base = match ty.base {
        Base::NotInit => "?",
        Base::Scalar => "scalar",
        Base::Ctx => "ctx",
        Base::ConstMap => "map_ptr",
        Base::MapValue => "map_value",
        Base::Stack => "fp",
        Base::Packet => "pkt",
        Base::PacketMeta => "pkt_meta",
        Base::PacketEnd => "pkt_end",
        Base::FlowKeys => "flow_keys",
        Base::Socket => "sock",
        Base::SockCommon => "sock_common",
        Base::TcpSock => "tcp_sock",
        Base::TpBuffer => "tp_buffer",
        Base::XdpSock => "xdp_sock",
        Base::BtfId => "ptr_",
        Base::Mem => "mem",
        Base::Arena => "arena",
        Base::Buf => "buf",
        Base::Func => "func",
        Base::MapKey => "map_key",
        Base::Dynptr => "dynptr_ptr",
    };
    let mut out = String::new();
    for (flag, prefix) in [
        (flags::RDONLY, "rdonly_"),
        (flags::RINGBUF, "ringbuf_"),
        (flags::USER, "user_"),
        (flags::PERCPU, "percpu_"),
        (flags::UNTRUSTED, "untrusted_"),
        (flags::TRUSTED, "trusted_"),
        (flags::RCU, "rcu_"),
    ] {
        if ty.has(flag) {
            out.push_str(prefix);
        }
    }
    out.push_str(base);
    if ty.maybe_null() {
        out.push_str(if ty.base == Base::BtfId { "or_null_" } else { "_or_null" });
    }
    out
}

/// One value among the ranges.
struct Range {
    name: &'static str,
    value: u64,
    omit: bool,
}

fn ranges(out: &mut String, reg: &Reg, sep: &mut &'static str) {
    let b = &reg.bounds;
    // Small 32-bit values print as numbers, others as their 32 bits.
    let s32 = |v: i32| {
        if (-0x8000..=0x7fff).contains(&v) { i64::from(v).cast_unsigned() } else { u64::from(v.cast_unsigned()) }
    };
    let mut list = [
        Range { name: "smin", value: b.s64.min.cast_unsigned(), omit: b.s64.min == i64::MIN },
        Range { name: "smax", value: b.s64.max.cast_unsigned(), omit: b.s64.max == i64::MAX },
        Range { name: "umin", value: b.u64.min, omit: b.u64.min == 0 },
        Range { name: "umax", value: b.u64.max, omit: b.u64.max == u64::MAX },
        Range { name: "smin32", value: s32(b.s32.min), omit: b.s32.min == i32::MIN },
        Range { name: "smax32", value: s32(b.s32.max), omit: b.s32.max == i32::MAX },
        Range { name: "umin32", value: u64::from(b.u32.min), omit: b.u32.min == 0 },
        Range { name: "umax32", value: u64::from(b.u32.max), omit: b.u32.max == u32::MAX },
    ];
    let negative = |r: &Range| r.name.starts_with('s') && r.value.cast_signed() < 0;
    for i in 0..list.len() {
        if list[i].omit {
            continue;
        }
        let _ = write!(out, "{}{}=", *sep, list[i].name);
        *sep = ",";
        let mut j = i + 2;
        while j < list.len() {
            if !list[j].omit && list[j].value == list[i].value && negative(&list[i]) == negative(&list[j]) {
                list[j].omit = true;
                let _ = write!(out, "{}=", list[j].name);
            }
            j += 2;
        }
        if list[i].name.starts_with('s') {
            signed(out, list[i].value.cast_signed());
        } else {
            unsigned(out, list[i].value);
        }
    }
}

impl Env<'_> {
    /// The part of a register after its name.
    pub(crate) fn fmt_reg(&self, reg: &Reg, frame: u8) -> String {
        let mut out = String::new();
        if reg.is_scalar() {
            if reg.precise {
                out.push('P');
            }
            if let Some(v) = reg.bounds.const_value() {
                signed(&mut out, v.cast_signed());
                return out;
            }
        }
        out.push_str(&type_name(reg.ty));
        match reg.base() {
            Base::Arena => return out,
            Base::Stack => {
                if let Extra::Frame(f) = reg.extra
                    && f != frame
                {
                    let _ = write!(out, "[{f}]");
                }
                if let Some(v) = reg.bounds.const_value() {
                    signed(&mut out, v.cast_signed().wrapping_add(i64::from(reg.off)));
                    return out;
                }
            }
            Base::BtfId => out.push_str(&self.btf_type_name(reg)),
            _ => {}
        }
        self.fmt_attributes(&mut out, reg);
        out
    }

    fn fmt_attributes(&self, out: &mut String, reg: &Reg) {
        let mut sep = "";
        out.push('(');
        if reg.id != 0 {
            let _ = write!(out, "id={}", reg.id);
            sep = ",";
        }
        if reg.add_const {
            let _ = write!(out, "{:+}", reg.off);
        }
        if reg.ref_obj_id != 0 {
            let _ = write!(out, "{sep}ref_obj_id={}", reg.ref_obj_id);
            sep = ",";
        }
        if reg.ty.is_non_owning() {
            let _ = write!(out, "{sep}non_own_ref");
            sep = ",";
        }
        if reg.ty.is_map()
            && let Some(shape) = self.map_of(reg)
        {
            if !shape.name.is_empty() {
                let _ = write!(out, "{sep}map={}", shape.name);
                sep = ",";
            }
            let _ = write!(out, "{sep}ks={},vs={}", shape.key_size, shape.value_size);
            sep = ",";
        }
        if !reg.is_scalar() && reg.off != 0 {
            let _ = write!(out, "{sep}off=");
            signed(out, i64::from(reg.off));
            sep = ",";
        }
        if reg.ty.is_packet() {
            let _ = write!(out, "{sep}r=");
            unsigned(out, i64::from(reg.range()).cast_unsigned());
            sep = ",";
        }
        if reg.base() == Base::Mem {
            let _ = write!(out, "{sep}sz=");
            unsigned(out, u64::from(reg.mem_size()));
            sep = ",";
        }
        if let (Base::Dynptr, Extra::Dynptr { kind, .. }) = (reg.base(), reg.extra) {
            let _ = write!(out, "{sep}type={}", kind.name());
            sep = ",";
        }
        let var = reg.bounds.var_off;
        if let Some(v) = reg.bounds.const_value() {
            if v != 0 {
                let _ = write!(out, "{sep}imm=");
                signed(out, v.cast_signed());
            }
        } else {
            ranges(out, reg, &mut sep);
            if !var.is_unknown() {
                let _ = write!(out, "{sep}var_off={var}");
            }
        }
        out.push(')');
    }

    /// Registers and slots of one frame: all of them, or those touched since the last print.
    pub(crate) fn print_state(&mut self, state: &State, number: usize, all: bool) {
        if self.options.log_level == 0 {
            return;
        }
        let Some(frame) = state.frames.get(number) else { return };
        let mut out = String::new();
        if frame.number != 0 {
            let _ = write!(out, " frame{}:", frame.number);
        }
        for (i, reg) in frame.regs.iter().enumerate() {
            if reg.base() == Base::NotInit || !(all || self.print.regs & (1 << i) != 0) {
                continue;
            }
            let _ = write!(out, " R{i}={}", self.fmt_reg(reg, frame.number));
        }
        let mut i = 0;
        while i < frame.stack.len() {
            let slot = &frame.stack[i];
            let at = i;
            i += 1;
            if !(all || (at < 64 && self.print.slots & (1 << at) != 0))
                || slot.bytes.iter().all(|b| *b == ByteKind::Invalid)
            {
                continue;
            }
            let letters: String = slot.bytes.iter().map(|b| b.letter()).collect();
            let off = |slot: usize| -(i64::try_from(slot).unwrap_or(0) + 1) * 8;
            match slot.bytes[SLOT - 1] {
                ByteKind::Spill => {
                    let above: String = letters.chars().take_while(|c| *c != 'r').collect();
                    let _ = write!(out, " fp{}={above}{}", off(at), self.fmt_reg(&slot.reg, frame.number));
                }
                ByteKind::Dynptr => {
                    i += 1;
                    let main = frame.stack.get(at + 1).map_or(slot.reg, |s| s.reg);
                    let _ = write!(out, " fp{}={}", off(at + 1), Self::fmt_dynptr(&main));
                }
                ByteKind::Iter => {
                    if let Some(text) = Self::fmt_iter(&slot.reg) {
                        let _ = write!(out, " fp{}={text}", off(at));
                    }
                }
                _ => {
                    let _ = write!(out, " fp{}={letters}", off(at));
                }
            }
        }
        let mut sep = " refs=";
        for r in state.res.refs.iter().filter(|r| r.id != 0) {
            if r.kind == RefKind::Irq && r.id == 0 {
                continue;
            }
            let _ = write!(out, "{sep}{}", r.id);
            sep = ",";
        }
        if frame.callback.is_some() {
            out.push_str(" cb");
        }
        if frame.in_async {
            out.push_str(" async_cb");
        }
        out.push('\n');
        self.log.push(&out);
        if !all {
            self.print.regs = 0;
            self.print.slots = 0;
        }
    }

    fn fmt_dynptr(reg: &Reg) -> String {
        let mut out = String::from("dynptr_");
        if let Extra::Dynptr { kind, .. } = reg.extra {
            out.push_str(kind.name());
        }
        out.push('(');
        let mut sep = "";
        for (name, value) in [("id", reg.id), ("ref_id", reg.ref_obj_id), ("dynptr_id", reg.dynptr_id)] {
            if value != 0 {
                let _ = write!(out, "{sep}{name}={value}");
                sep = ",";
            }
        }
        out.push(')');
        out
    }

    fn fmt_iter(reg: &Reg) -> Option<String> {
        if reg.ref_obj_id == 0 {
            return None;
        }
        let Extra::Iter { kind, state, depth } = reg.extra else { return None };
        let name = crate::check::kfunc::iter_name(kind);
        let state = match state {
            IterState::Active => "active",
            IterState::Drained => "drained",
        };
        Some(format!("iter_{name}(ref_id={},state={state},depth={depth})", reg.ref_obj_id))
    }

    /// The current state, in a line of its own.
    pub(crate) fn print_cur(&mut self, all: bool) {
        let cur = std::mem::replace(&mut self.cur, State::hollow());
        let depth = cur.depth();
        self.print_state(&cur, depth, all);
        self.cur = cur;
    }

    /// What the last instruction changed, at the end of its line where that is still the last one.
    pub(crate) fn print_insn_state(&mut self) {
        if self.print.prev_log_pos != 0 && self.print.prev_log_pos == self.log.end() {
            let end = self.log.end();
            self.log.reset(end - 1);
            let pos = self.print.insn_width;
            let column = (pos + 4).max(ALIGN).next_multiple_of(8);
            let pad = column - pos - 1;
            log!(self, "{:>pad$};", ' ', pad = pad.max(1));
        } else {
            let at = self.insn;
            log!(self, "{at}:");
        }
        self.print_cur(false);
    }

    /// One instruction with its opcode byte.
    pub(crate) fn print_insn(&mut self, at: u32) {
        if self.options.log_level == 0 {
            return;
        }
        let text = self.disassemble(at);
        self.log.push(&text);
        self.log.push("\n");
    }

    /// The source line of a slot, unless it was printed last.
    pub(crate) fn print_line(&mut self, at: u32, prefix: &str) {
        if self.options.log_level == 0 {
            return;
        }
        let lines = self.spec.line_info;
        let Some(index) = lines.partition_point(|l| l.insn_off <= at).checked_sub(1) else { return };
        if self.print.prev_line == Some(index) {
            return;
        }
        let Some(btf) = self.spec.btf else { return };
        let line = &lines[index];
        if let Some(prev) = self.print.prev_line.and_then(|i| lines.get(i))
            && prev.file == line.file
            && prev.line_num == line.line_num
        {
            return;
        }
        let file = btf.str_at(line.file);
        let file = file.rsplit('/').next().unwrap_or(file);
        let text = btf.str_at(line.line).trim_start().to_owned();
        log!(self, "{prefix}{text} @ {file}:{}\n", line.line_num);
        self.print.prev_line = Some(index);
    }
}
