//! A program under construction: instructions, forward jumps, subprograms.

use skep_abi::{AluOp, CallTarget, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, Width};

/// Jumps and calls are patched when their targets are known.
#[derive(Default)]
pub(super) struct Builder {
    slots: Vec<RawInsn>,
}

/// A jump whose target is still open.
#[must_use = "an open jump has to land"]
pub(super) struct Open(usize);

impl Builder {
    pub(super) fn here(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn finish(self) -> Vec<RawInsn> {
        self.slots
    }

    pub(super) fn add(&mut self, insn: Insn) {
        insn.push_to(&mut self.slots);
    }

    pub(super) fn mov(&mut self, dst: Reg, src: Reg) {
        self.alu(Width::W64, AluOp::Mov, dst, Operand::Reg(src));
    }

    pub(super) fn set(&mut self, dst: Reg, imm: i32) {
        self.alu(Width::W64, AluOp::Mov, dst, Operand::Imm(imm));
    }

    pub(super) fn add_imm(&mut self, dst: Reg, imm: i32) {
        self.alu(Width::W64, AluOp::Add, dst, Operand::Imm(imm));
    }

    pub(super) fn add_reg(&mut self, dst: Reg, src: Reg) {
        self.alu(Width::W64, AluOp::Add, dst, Operand::Reg(src));
    }

    pub(super) fn alu(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) {
        self.add(Insn::Alu { width, op, dst, src });
    }

    pub(super) fn constant(&mut self, dst: Reg, value: u64) {
        self.add(Insn::LdImm64 { dst, imm: Imm64::Const(value) });
    }

    pub(super) fn map(&mut self, dst: Reg, map: usize) {
        self.add(Insn::LdImm64 { dst, imm: Imm64::MapFd(i32::try_from(map).expect("few maps")) });
    }

    pub(super) fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.add(Insn::Load { size, sign_extend: false, dst, base, off });
    }

    pub(super) fn store(&mut self, size: Size, base: Reg, off: i16, src: Operand) {
        self.add(Insn::Store { size, base, off, src });
    }

    pub(super) fn call(&mut self, helper: i32) {
        self.add(Insn::Call { target: CallTarget::Helper(helper) });
    }

    pub(super) fn exit(&mut self) {
        self.add(Insn::Exit);
    }

    /// A conditional jump to somewhere later.
    pub(super) fn branch(&mut self, width: Width, op: JmpOp, dst: Reg, src: Operand) -> Open {
        let at = self.here();
        self.add(Insn::Jcond { width, op, dst, src, off: 0 });
        Open(at)
    }

    /// A jump to somewhere later.
    pub(super) fn skip(&mut self) -> Open {
        let at = self.here();
        self.add(Insn::Ja { off: 0, long: false });
        Open(at)
    }

    /// `may_goto` to somewhere later.
    pub(super) fn may_goto(&mut self) -> Open {
        let at = self.here();
        self.add(Insn::MayGoto { off: 0 });
        Open(at)
    }

    /// A call of a subprogram that is not there yet, or its address.
    pub(super) fn refer(&mut self, address: Option<Reg>) -> Open {
        let at = self.here();
        self.add(match address {
            Some(dst) => Insn::LdImm64 { dst, imm: Imm64::Func(0) },
            None => Insn::Call { target: CallTarget::Subprog(0) },
        });
        Open(at)
    }

    /// The open jump leads here.
    pub(super) fn land(&mut self, open: Open) {
        let distance = self.here() - open.0 - 1;
        self.slots[open.0].off = i16::try_from(distance).expect("a short program");
    }

    /// The open call or address is that of the subprogram that begins here.
    pub(super) fn define(&mut self, open: &Open) {
        self.slots[open.0].imm = i32::try_from(self.here() - open.0 - 1).expect("a short program");
    }

    /// A jump back to `to`.
    pub(super) fn back(&mut self, to: usize) {
        let off = i32::try_from(to).expect("short") - i32::try_from(self.here()).expect("short") - 1;
        self.add(Insn::Ja { off, long: false });
    }

    /// A conditional jump back to `to`.
    pub(super) fn branch_back(&mut self, width: Width, op: JmpOp, dst: Reg, src: Operand, to: usize) {
        let off = i64::try_from(to).expect("short") - i64::try_from(self.here()).expect("short") - 1;
        self.add(Insn::Jcond { width, op, dst, src, off: i16::try_from(off).expect("a short program") });
    }
}
