//! Packet pointers: comparisons with the end, and what they prove.
//!
//! Owns packet ranges. Invariant: a packet pointer's range is a number of bytes from its base that lie before the packet's
//! end on this path. Kernel counterpart: `try_match_pkt_pointers`, `find_good_pkt_pointers`, kernel/bpf/verifier.c, 6.18.

use skep_abi::ctx::{CtxFieldKind, CtxLayout};
use skep_abi::{JmpOp, ProgType};

use crate::check::Access;
use crate::env::{Check, Env, reject};
use crate::mutant::{self, Mutant};
use crate::state::frame::State;
use crate::state::reg::{AT_PKT_END, BEYOND_PKT_END, Base, Extra, OF_A_CALLER, Reg, flags};

/// Largest offset into a packet (`MAX_PACKET_OFF`).
const MAX_PACKET_OFF: u64 = 0xffff;

fn flip(op: JmpOp) -> JmpOp {
    match op {
        JmpOp::Gt => JmpOp::Lt,
        JmpOp::Lt => JmpOp::Gt,
        JmpOp::Ge => JmpOp::Le,
        JmpOp::Le => JmpOp::Ge,
        JmpOp::Sgt => JmpOp::Slt,
        JmpOp::Slt => JmpOp::Sgt,
        JmpOp::Sge => JmpOp::Sle,
        JmpOp::Sle => JmpOp::Sge,
        JmpOp::Eq | JmpOp::Ne | JmpOp::Set => op,
    }
}

/// The way a comparison with the packet's end goes after an earlier one.
pub(crate) fn packet_branch(op: JmpOp, dst: &Reg, src: &Reg) -> Option<bool> {
    let (op, pkt) = if src.base() == Base::PacketEnd {
        (op, dst)
    } else if dst.base() == Base::PacketEnd {
        (flip(op), src)
    } else {
        return None;
    };
    let range = pkt.range();
    match op {
        JmpOp::Le | JmpOp::Gt if range == BEYOND_PKT_END => Some(op == JmpOp::Gt),
        JmpOp::Lt | JmpOp::Ge if range == BEYOND_PKT_END || range == AT_PKT_END => Some(op == JmpOp::Ge),
        _ => None,
    }
}

/// Whether this is `ctx->data` itself.
fn is_start(reg: &Reg) -> bool {
    reg.base() == Base::Packet && reg.off == 0 && reg.id == 0
}

/// Bytes up to `reg` lie in the packet: tells all pointers with its base.
fn widen(state: &mut State, reg: &Reg, open: bool) {
    if reg.off < 0 || (reg.off == 0 && open) {
        return;
    }
    let max = reg.bounds.u64.max;
    let off = u64::from(reg.off.unsigned_abs());
    if max.saturating_add(off) > MAX_PACKET_OFF {
        return;
    }
    let range = reg.off + i32::from(open || mutant::active(Mutant::LongPacket));
    let (ty, id) = (reg.ty, reg.id);
    state.for_each_reg(|r| r.ty == ty && r.id == id, |r| r.extra = Extra::Range(r.range().max(range)));
}

/// The pointer is at the end, or beyond it.
fn mark_end(state: &mut State, reg: u8, beyond: bool) {
    let reg = &mut state.frame_mut().regs[reg as usize];
    if reg.base() == Base::Packet {
        reg.extra = Extra::Range(if beyond { BEYOND_PKT_END } else { AT_PKT_END });
    }
}

impl Env<'_> {
    /// Learns from a comparison of two packet pointers; false if it is not one.
    pub(crate) fn match_packet(&mut self, op: JmpOp, d: u8, s: u8) -> bool {
        let (dst, src) = (*self.reg(d), *self.reg(s));
        let bounded = |pkt: &Reg, end: &Reg| {
            (pkt.base() == Base::Packet && end.base() == Base::PacketEnd)
                || (pkt.base() == Base::PacketMeta && is_start(end))
        };
        let (op, pkt, number) = if bounded(&dst, &src) {
            (op, dst, d)
        } else if bounded(&src, &dst) {
            (flip(op), src, s)
        } else {
            return false;
        };
        let Some(mut other) = self.pending.pop() else { return false };
        // `here` falls through, `there` has jumped.
        let (here, there) = (&mut self.cur, &mut other.state);
        let matched = match op {
            JmpOp::Gt => {
                widen(here, &pkt, false);
                mark_end(there, number, true);
                true
            }
            JmpOp::Lt => {
                widen(there, &pkt, true);
                mark_end(here, number, false);
                true
            }
            JmpOp::Ge => {
                widen(here, &pkt, true);
                mark_end(there, number, false);
                true
            }
            JmpOp::Le => {
                widen(there, &pkt, false);
                mark_end(here, number, true);
                true
            }
            _ => false,
        };
        self.pending.push(other);
        matched
    }

    /// Whether this program may touch packet bytes directly, or through a helper whose prototype says so.
    pub(crate) fn may_touch_packet(&mut self, access: Access, helper_pkt_access: Option<bool>) -> bool {
        let read_only = matches!(
            self.spec.prog_type,
            ProgType::LwtIn
                | ProgType::LwtOut
                | ProgType::LwtSeg6local
                | ProgType::SkReuseport
                | ProgType::FlowDissector
                | ProgType::CgroupSkb
        );
        if read_only && access == Access::Write {
            return false;
        }
        let reads_and_writes = matches!(
            self.spec.prog_type,
            ProgType::SchedCls
                | ProgType::SchedAct
                | ProgType::Xdp
                | ProgType::LwtXmit
                | ProgType::SkSkb
                | ProgType::SkMsg
        );
        // An embedder's context that has packet fields is one whose packets its programs may read, and write if it says so.
        let own = self.spec.ctx.is_some();
        let bytes_are_writable = |ctx: &CtxLayout| {
            ctx.fields.iter().any(|field| field.kind == CtxFieldKind::PacketData && field.write_narrow)
        };
        if own && access == Access::Write && !self.spec.ctx.is_some_and(bytes_are_writable) {
            return false;
        }
        if read_only || reads_and_writes || own {
            if let Some(allowed) = helper_pkt_access {
                return allowed;
            }
            self.seen_direct_write |= access == Access::Write;
            return true;
        }
        self.spec.prog_type == ProgType::CgroupSockopt
    }

    /// Bytes `off .. off + size` of the packet from the register's base.
    pub(crate) fn check_packet_access(&mut self, number: u8, off: i32, size: u32, zero_ok: bool) -> Check {
        let reg = *self.reg(number);
        if reg.bounds.s64.min < 0 {
            let text = "min value is negative, either use unsigned index or do a if (index >=0) check.";
            return Err(reject!(self, EACCES, "R{number} {text}"));
        }
        let Ok(range) = u32::try_from(reg.range()) else {
            return Err(reject!(self, EINVAL, "R{number} offset is outside of the packet"));
        };
        if self.check_region(number, i64::from(off), size, range, zero_ok).is_err() {
            return Err(reject!(self, EACCES, "R{number} offset is outside of the packet"));
        }
        Ok(())
    }

    /// Whether memory may move with the packet.
    pub(crate) fn may_be_of_a_packet(&self, reg: &Reg) -> bool {
        let of_a_caller = matches!(reg.extra, Extra::Slice { record: OF_A_CALLER, .. });
        is_packet_any(reg) || reg.ty.has(flags::DYNPTR_PACKET) || of_a_caller
    }

    /// Packet data may have moved: every pointer into it becomes a number.
    pub(crate) fn clear_packet_pointers(&mut self) {
        if mutant::active(Mutant::StalePacket) {
            return;
        }
        let unknown = self.unknown();
        let touched = |r: &Reg| is_packet_any(r) || (r.base() == Base::Mem && r.ty.has(flags::DYNPTR_PACKET));
        self.cur.for_each_reg(touched, |r| *r = unknown);
        // The kernel does not know of these that they may be of the packet.
        self.cur.lose_slices_of(OF_A_CALLER);
    }
}

fn is_packet_any(reg: &Reg) -> bool {
    matches!(reg.base(), Base::Packet | Base::PacketMeta | Base::PacketEnd)
}
