//! Instructions to slots, the inverse of [`crate::decode()`].

use crate::insn::{AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, Width};
use crate::opcode as op;

impl Insn {
    /// How many slots it takes: 2 for `ld_imm64`, else 1.
    #[must_use]
    pub const fn slots(&self) -> usize {
        if matches!(self, Self::LdImm64 { .. }) { 2 } else { 1 }
    }

    /// Its slots; the second is present for `ld_imm64` only.
    ///
    /// A jump offset that the short form cannot hold is cut to 16 bits: choose `long` before.
    #[must_use]
    pub fn encode(&self) -> (RawInsn, Option<RawInsn>) {
        let one = match *self {
            Self::LdImm64 { dst, imm } => return encode_ld_imm64(dst, imm),
            Self::Alu { width, op: kind, dst, src } => {
                let signed = matches!(kind, AluOp::Sdiv | AluOp::Smod);
                let (bit, src, imm) = split(src);
                slot(alu_class(width) | alu_code(kind) | bit, dst, src, i16::from(signed), imm)
            }
            Self::MovSx { width, bits, dst, src } => {
                slot(alu_class(width) | op::MOV | op::X, dst, src.number(), i16::from(bits), 0)
            }
            Self::Neg { width, dst } => slot(alu_class(width) | op::NEG, dst, 0, 0, 0),
            Self::End { kind, bits, dst } => {
                let code = match kind {
                    EndKind::ToLe => op::ALU | op::END,
                    EndKind::ToBe => op::ALU | op::END | op::X,
                    EndKind::Bswap => op::ALU64 | op::END,
                };
                slot(code, dst, 0, 0, i32::from(bits))
            }
            Self::AddrSpaceCast { dst, src, imm } => {
                slot(op::ALU64 | op::MOV | op::X, dst, src.number(), op::ADDR_SPACE_CAST, imm)
            }
            Self::MovPercpu { dst, src } => slot(op::ALU64 | op::MOV | op::X, dst, src.number(), op::ADDR_PERCPU, 0),
            Self::Load { size, sign_extend, dst, base, off } => {
                let mode = if sign_extend { op::MEMSX } else { op::MEM };
                slot(op::LDX | mode | size_code(size), dst, base.number(), off, 0)
            }
            Self::Store { size, base, off, src } => {
                let class = if matches!(src, Operand::Reg(_)) { op::STX } else { op::ST };
                let (_, src, imm) = split(src);
                slot(class | op::MEM | size_code(size), base, src, off, imm)
            }
            Self::Atomic { op: kind, fetch, size, base, off, src } => {
                atomic(size, base, src, off, atomic_imm(kind, fetch))
            }
            Self::LoadAcquire { size, dst, base, off } => atomic(size, dst, base, off, op::LOAD_ACQ),
            Self::StoreRelease { size, base, off, src } => atomic(size, base, src, off, op::STORE_REL),
            Self::LdAbs { size, imm } => slot(op::LD | op::ABS | size_code(size), Reg::R0, 0, 0, imm),
            Self::LdInd { size, src, imm } => slot(op::LD | op::IND | size_code(size), Reg::R0, src.number(), 0, imm),
            Self::Ja { off, long: true } => slot(op::JMP32 | op::JA, Reg::R0, 0, 0, off),
            Self::Ja { off, long: false } => slot(op::JMP | op::JA, Reg::R0, 0, low16(off), 0),
            Self::Jcond { width, op: kind, dst, src, off } => {
                let class = if width == Width::W64 { op::JMP } else { op::JMP32 };
                let (bit, src, imm) = split(src);
                slot(class | jmp_code(kind) | bit, dst, src, off, imm)
            }
            Self::MayGoto { off } => slot(op::JMP | op::JCOND, Reg::R0, 0, off, 0),
            Self::Call { target } => {
                let (src, off, imm) = match target {
                    CallTarget::Helper(id) => (0, 0, id),
                    CallTarget::Subprog(off) => (1, 0, off),
                    CallTarget::Kfunc { id, obj } => (2, obj, id),
                };
                slot(op::JMP | op::CALL, Reg::R0, src, off, imm)
            }
            Self::TailCall { imm } => slot(op::JMP | op::TAIL_CALL, Reg::R0, 0, 0, imm.0),
            Self::Exit => slot(op::JMP | op::EXIT, Reg::R0, 0, 0, 0),
        };
        (one, None)
    }

    /// Appends its slots to `program`.
    pub fn push_to(&self, program: &mut Vec<RawInsn>) {
        let (first, second) = self.encode();
        program.push(first);
        program.extend(second);
    }
}

const fn slot(code: u8, dst: Reg, src: u8, off: i16, imm: i32) -> RawInsn {
    RawInsn { code, dst: dst.number(), src, off, imm }
}

const fn atomic(size: Size, dst: Reg, src: Reg, off: i16, imm: i32) -> RawInsn {
    slot(op::STX | op::ATOMIC | size_code(size), dst, src.number(), off, imm)
}

const fn low16(off: i32) -> i16 {
    let bytes = off.to_le_bytes();
    i16::from_le_bytes([bytes[0], bytes[1]])
}

fn split(src: Operand) -> (u8, u8, i32) {
    match src {
        Operand::Reg(reg) => (op::X, reg.number(), 0),
        Operand::Imm(imm) => (op::K, 0, imm),
    }
}

fn encode_ld_imm64(dst: Reg, imm: Imm64) -> (RawInsn, Option<RawInsn>) {
    let (src, low, high) = match imm {
        Imm64::Const(value) => {
            let b = value.to_le_bytes();
            (0, i32::from_le_bytes([b[0], b[1], b[2], b[3]]), i32::from_le_bytes([b[4], b[5], b[6], b[7]]))
        }
        Imm64::MapFd(fd) => (1, fd, 0),
        Imm64::MapValue { fd, off } => (2, fd, off.cast_signed()),
        Imm64::BtfId { id, obj_fd } => (3, id, obj_fd),
        Imm64::Func(off) => (4, off, 0),
        Imm64::MapIdx(idx) => (5, idx, 0),
        Imm64::MapIdxValue { idx, off } => (6, idx, off.cast_signed()),
    };
    (slot(op::LD_IMM64, dst, src, 0, low), Some(RawInsn { imm: high, ..RawInsn::default() }))
}

const fn alu_class(width: Width) -> u8 {
    match width {
        Width::W32 => op::ALU,
        Width::W64 => op::ALU64,
    }
}

const fn size_code(size: Size) -> u8 {
    match size {
        Size::B => op::B,
        Size::H => op::H,
        Size::W => op::W,
        Size::Dw => op::DW,
    }
}

const fn alu_code(kind: AluOp) -> u8 {
    match kind {
        AluOp::Add => op::ADD,
        AluOp::Sub => op::SUB,
        AluOp::Mul => op::MUL,
        AluOp::Div | AluOp::Sdiv => op::DIV,
        AluOp::Or => op::OR,
        AluOp::And => op::AND,
        AluOp::Lsh => op::LSH,
        AluOp::Rsh => op::RSH,
        AluOp::Mod | AluOp::Smod => op::MOD,
        AluOp::Xor => op::XOR,
        AluOp::Mov => op::MOV,
        AluOp::Arsh => op::ARSH,
    }
}

const fn jmp_code(kind: JmpOp) -> u8 {
    match kind {
        JmpOp::Eq => op::JEQ,
        JmpOp::Gt => op::JGT,
        JmpOp::Ge => op::JGE,
        JmpOp::Set => op::JSET,
        JmpOp::Ne => op::JNE,
        JmpOp::Sgt => op::JSGT,
        JmpOp::Sge => op::JSGE,
        JmpOp::Lt => op::JLT,
        JmpOp::Le => op::JLE,
        JmpOp::Slt => op::JSLT,
        JmpOp::Sle => op::JSLE,
    }
}

const fn atomic_imm(kind: AtomicOp, fetch: bool) -> i32 {
    let base = match kind {
        AtomicOp::Add => op::ATOMIC_ADD,
        AtomicOp::Or => op::ATOMIC_OR,
        AtomicOp::And => op::ATOMIC_AND,
        AtomicOp::Xor => op::ATOMIC_XOR,
        AtomicOp::Xchg => op::ATOMIC_XCHG | op::FETCH,
        AtomicOp::Cmpxchg => op::ATOMIC_CMPXCHG | op::FETCH,
    };
    if fetch { base | op::FETCH } else { base }
}
