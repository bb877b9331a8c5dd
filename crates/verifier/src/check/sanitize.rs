//! What speculative execution asks of programs loaded without `CAP_PERFMON`.
//!
//! A CPU may go the wrong way at a branch for a while. So the ways that no value takes are walked as well, with operands that
//! may be anything, until something goes wrong there, where a barrier stops the CPU; and what is added to a pointer is masked
//! by how far the pointer may move, which has to be the same on every path. Invariant: none of this accepts what is refused
//! otherwise. Kernel counterpart: `sanitize_ptr_alu`, `sanitize_speculative_path`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{AluOp, Operand, Reg as R};

use crate::env::{Check, Env, Reject, reject};
use crate::state::bounds::Bounds;
use crate::state::frame::State;
use crate::state::reg::{Base, Reg};
use crate::verified::RejectionKind;

/// How the other operand of an addition is masked, and the limit of the mask; all paths have to agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mask {
    kind: MaskKind,
    limit: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MaskKind {
    /// Two numbers.
    Numbers,
    /// A pointer moves.
    Pointer { negative: bool, constant: bool, reversed: bool },
}

/// A pointer addition under way.
#[derive(Clone, Copy)]
pub(crate) struct Move {
    op: AluOp,
    dst: u8,
    src: u8,
    /// The pointer is the second operand.
    reversed: bool,
    kind: MaskKind,
    to_left: bool,
    limit: u32,
}

enum Reason {
    Bounds,
    Type,
    Paths,
    Limit,
}

impl Env<'_> {
    /// Whether an operation needs no mask.
    fn unmasked(&self, src: Operand) -> bool {
        let aux = self.aux.get(self.insn as usize);
        self.caps.perfmon || matches!(src, Operand::Imm(_)) || aux.is_some_and(|aux| aux.nospec)
    }

    /// Adding two numbers: no path may add to a pointer by the same instruction.
    pub(crate) fn sanitize_numbers(&mut self, op: AluOp, dst: R, src: Operand) -> Check {
        if !matches!(op, AluOp::Add | AluOp::Sub) || self.unmasked(src) {
            return Ok(());
        }
        let mask = Mask { kind: MaskKind::Numbers, limit: 0 };
        self.agree(mask).map_err(|reason| self.unmaskable(&reason, op, dst.number(), dst.number(), false))
    }

    /// Before a pointer moves: `None` where no mask is needed.
    pub(crate) fn sanitize_move(
        &mut self,
        (op, dst, src): (AluOp, u8, Operand),
        ptr: &Reg,
        off: &Bounds,
        reversed: bool,
    ) -> Check<Option<Move>> {
        let Operand::Reg(by) = src else { return Ok(None) };
        if !matches!(op, AluOp::Add | AluOp::Sub) || self.unmasked(src) {
            return Ok(None);
        }
        let (constant, negative) = (off.is_const(), off.s64.min < 0);
        let to_left = (op == AluOp::Add) == negative;
        let kind = MaskKind::Pointer { negative, constant, reversed };
        let mut step = Move { op, dst, src: by.number(), reversed, kind, to_left, limit: 0 };
        if !self.cur.speculative {
            if !constant && negative != (off.s64.max < 0) {
                return Err(self.unmaskable(&Reason::Bounds, op, dst, step.src, reversed));
            }
            match self.pointer_limit(ptr, to_left) {
                Ok(limit) => step.limit = limit,
                Err(reason) => return Err(self.unmaskable(&reason, op, dst, step.src, reversed)),
            }
            self.explores_limits |= !constant;
        }
        if !constant {
            // The mask may make the offset 0.
            let at = self.insn;
            let stays = *ptr;
            let branch = self.push_branch(at + 1, at, true)?;
            branch.frame_mut().regs[usize::from(dst)] = stays;
        }
        Ok(Some(step))
    }

    /// After a pointer has moved to `moved`.
    pub(crate) fn sanitize_moved(&mut self, step: Option<Move>, moved: &Reg) -> Check {
        let Some(step) = step.filter(|_| !self.cur.speculative) else { return Ok(()) };
        let agreed = self.pointer_limit(moved, step.to_left).and_then(|limit| {
            let limit = step.limit.cast_signed().wrapping_sub(limit.cast_signed()).unsigned_abs();
            self.agree(Mask { kind: step.kind, limit })
        });
        agreed.map_err(|reason| self.unmaskable(&reason, step.op, step.dst, step.src, step.reversed))
    }

    /// How far a pointer may move in a direction.
    fn pointer_limit(&self, ptr: &Reg, to_left: bool) -> Result<u32, Reason> {
        let off = i64::from(ptr.off);
        let (limit, most) = match ptr.base() {
            Base::Stack => {
                (ptr.bounds.var_off.value.cast_signed().wrapping_add(off).wrapping_neg(), 512 + i64::from(to_left))
            }
            Base::MapValue => {
                let from = if to_left { ptr.bounds.s64.min } else { ptr.bounds.u64.max.cast_signed() };
                (from.wrapping_add(off), self.map_of(ptr).map_or(0, |map| i64::from(map.value_size)))
            }
            _ => return Err(Reason::Type),
        };
        // The kernel's arithmetic is in 32 bits without sign.
        let limit = u32::try_from(limit & 0xffff_ffff).unwrap_or(u32::MAX);
        if i64::from(limit) >= most { Err(Reason::Limit) } else { Ok(limit) }
    }

    /// Keeps the mask of the current instruction, which has to be that of earlier paths.
    fn agree(&mut self, mask: Mask) -> Result<(), Reason> {
        let Some(aux) = self.aux.get_mut(self.insn as usize) else { return Ok(()) };
        if aux.mask.is_some_and(|before| before != mask) {
            return Err(Reason::Paths);
        }
        aux.mask = Some(mask);
        Ok(())
    }

    fn unmaskable(&mut self, reason: &Reason, op: AluOp, dst: u8, src: u8, reversed: bool) -> Box<Reject> {
        let how = if op == AluOp::Add { "add" } else { "sub" };
        let (ptr, off) = if reversed { (src, dst) } else { (dst, src) };
        let (reg, what) = match reason {
            Reason::Bounds => (off, "has unknown scalar with mixed signed bounds".to_owned()),
            Reason::Type => (ptr, "has pointer with unsupported alu operation".to_owned()),
            Reason::Paths => (dst, format!("tried to {how} from different maps, paths or scalars")),
            Reason::Limit => (dst, format!("tried to {how} beyond pointer bounds")),
        };
        reject!(self, EACCES, "R{reg} {what}, pointer arithmetic with it prohibited for !root")
    }

    /// The way that a jump never goes, walked as a CPU may go it: nothing is known of what decided the jump.
    pub(crate) fn speculate(&mut self, way: u32, operands: [Option<u8>; 2]) -> Check {
        if self.caps.perfmon {
            return Ok(());
        }
        let (at, unknown) = (self.insn, self.unknown());
        let branch: &mut State = self.push_branch(way, at, true)?;
        for number in operands.into_iter().flatten() {
            branch.frame_mut().regs[usize::from(number)] = unknown;
        }
        Ok(())
    }

    /// What goes wrong on a path that no values take is stopped by a barrier before the instruction.
    pub(crate) fn stop_speculation(&mut self, refused: &Reject) -> bool {
        use skep_abi::Errno;
        let stoppable = match refused.kind {
            RejectionKind::Unsupported => true,
            RejectionKind::Internal => false,
            _ => [Errno::EPERM, Errno::EACCES, Errno::EINVAL].contains(&refused.errno),
        };
        if !self.cur.speculative || !stoppable || !self.options.profile.stops_speculation {
            return false;
        }
        if let Some(aux) = self.aux.get_mut(self.executed as usize) {
            aux.nospec = true;
            aux.mask = None;
        }
        true
    }
}
