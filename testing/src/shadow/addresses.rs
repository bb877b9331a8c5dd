//! Where an execution turns an address into data: from there on its result is that of one process, and no other engine has it.
//!
//! Invariant: what is not understood counts as turned, so that an execution that did not is the same wherever its memory lies.

use std::rc::Rc;

use skep_abi::{AluOp, CallTarget, Insn, JmpOp, Operand, Reg as Number, Size, Width};
use skep_verifier::state::frame::Frame;
use skep_verifier::state::reg::{Base, Reg};

/// Whether `insn`, executed in the state that `frames` describe, makes a number of a pointer, decides by one, or puts one where
/// it can be seen.
pub(super) fn shows_address(insn: &Insn, frames: &[Rc<Frame>]) -> bool {
    let Some(frame) = frames.last() else { return false };
    let reg = |number: Number| &frame.regs[number.index()];
    let points = |number: Number| reg(number).is_pointer();
    let source = |operand: &Operand| matches!(operand, Operand::Reg(number) if points(*number));
    match insn {
        Insn::Alu { width, op: AluOp::Mov, src, .. } => *width == Width::W32 && source(src),
        Insn::Alu { width: Width::W64, op: AluOp::Add, .. } => false,
        Insn::Alu { width: Width::W64, op: AluOp::Sub, src, .. } => source(src),
        Insn::Alu { dst, src, .. } => points(*dst) || source(src),
        Insn::MovSx { src, .. } | Insn::LdInd { src, .. } => points(*src),
        Insn::Neg { dst, .. } | Insn::End { dst, .. } => points(*dst),
        Insn::Jcond { op, dst, src, .. } => compares(*op, reg(*dst), src, &reg),
        Insn::Load { size, base, .. } | Insn::LoadAcquire { size, base, .. } => in_part(*size, reg(*base), frames),
        Insn::Store { size, base, src, .. } => stores(*size, reg(*base), source(src), frames),
        Insn::StoreRelease { size, base, src, .. } => stores(*size, reg(*base), points(*src), frames),
        Insn::Atomic { size, base, src, .. } => points(*src) || in_part(*size, reg(*base), frames),
        Insn::Call { target: CallTarget::Subprog(_) } => false,
        // A key or a value on the stack may have a pointer within.
        Insn::Call { .. } => frame.regs[1..6].iter().any(|reg| reg.base() == Base::Stack && keeps_pointer(reg, frames)),
        Insn::Exit => frames.len() == 1 && frame.regs[0].is_pointer(),
        _ => false,
    }
}

fn compares<'r>(op: JmpOp, dst: &'r Reg, src: &Operand, reg: &impl Fn(Number) -> &'r Reg) -> bool {
    let in_packet = |reg: &Reg| matches!(reg.base(), Base::Packet | Base::PacketMeta | Base::PacketEnd);
    match src {
        Operand::Imm(0) if matches!(op, JmpOp::Eq | JmpOp::Ne) => false,
        Operand::Imm(_) => dst.is_pointer(),
        Operand::Reg(number) => {
            let src = reg(*number);
            (dst.is_pointer() || src.is_pointer()) && !(in_packet(dst) && in_packet(src))
        }
    }
}

fn stores(size: Size, base: &Reg, pointer: bool, frames: &[Rc<Frame>]) -> bool {
    let whole = size == Size::Dw && base.base() == Base::Stack;
    (pointer && !whole) || in_part(size, base, frames)
}

/// Whether an access through `base` may take a pointer on the stack in part.
fn in_part(size: Size, base: &Reg, frames: &[Rc<Frame>]) -> bool {
    base.base() == Base::Stack
        && (size != Size::Dw || base.bounds.const_value().is_none())
        && keeps_pointer(base, frames)
}

fn keeps_pointer(base: &Reg, frames: &[Rc<Frame>]) -> bool {
    let frame = frames.get(base.frame());
    frame.is_some_and(|frame| frame.stack.iter().any(|slot| slot.is_spilled() && slot.reg.is_pointer()))
}

#[cfg(test)]
mod tests {
    use skep_abi::asm;
    use skep_verifier::shadow::verify_recorded;
    use skep_verifier::{Log, Options};

    use super::*;
    use crate::generate::{self, Program};
    use crate::verdict::with_spec;

    /// Whether an instruction of an XDP program shows an address, by its text.
    fn shown(text: &str) -> Vec<usize> {
        let insns = asm::assemble(text).expect("a program");
        let program = Program { insns, starts: vec![0], ..generate::program(1) };
        let program = Program { prog_type: skep_abi::ProgType::Xdp, ..program };
        with_spec(&program, |spec| {
            let (verdict, recording) = verify_recorded(spec, &Options::default(), &mut Log::new(), 1000);
            verdict.expect("an accepted program");
            let nodes = (0..).map_while(|id| recording.node(id));
            let of = |at: u32| skep_abi::decode(&program.insns, at as usize).expect("an instruction");
            nodes.filter(|node| shows_address(&of(node.insn), &node.frames)).map(|node| node.insn as usize).collect()
        })
    }

    #[test]
    fn an_address_is_data_where_it_leaves_the_pointers() {
        let packet = "r6 = *(u32 *)(r1 +0)\nr7 = *(u32 *)(r1 +4)\nr2 = r6\nr2 += 8\nif r2 > r7 goto pc+1\n";
        let end = "\nr0 = 1\nexit\n";
        // Within a packet, on the stack and against null nothing is shown.
        for quiet in ["*(u64 *)(r6 +0) = 3", "*(u64 *)(r10 -8) = r6", "r6 += 4", "if r10 == 0 goto pc+0"] {
            assert_eq!(shown(&format!("{packet}{quiet}{end}")), Vec::<usize>::new(), "{quiet}");
        }
        for loud in ["*(u32 *)(r6 +2) = r6", "w3 = w6", "r7 -= r6", "if r6 s> 8 goto pc+0"] {
            assert_eq!(shown(&format!("{packet}{loud}{end}")), [5], "{loud}");
        }
        assert_eq!(shown("*(u64 *)(r10 -8) = r1\n*(u8 *)(r10 -8) = 1\nr0 = 1\nexit\n"), [1]);
        assert_eq!(shown("r0 = r10\nexit\n"), [1]);
    }
}
