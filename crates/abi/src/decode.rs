//! Slots to instructions and back.
//!
//! Owns the one definition of which encodings exist. Invariant: `decode(encode(i)) == i` for every instruction, and what
//! [`decode`] refuses is what Linux 6.18 refuses, with the kernel's words. Kernel counterpart: `bpf_opcode_in_insntable`
//! (kernel/bpf/core.c), `resolve_pseudo_ldimm64`, `check_alu_op`, `check_atomic` (kernel/bpf/verifier.c).

use crate::insn::{
    AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, TailCallImm, Width,
};
use crate::opcode as op;

/// Why a slot is not an instruction. The text is what the kernel's verifier prints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DecodeError {
    /// No instruction has this opcode.
    #[error("unknown opcode {0:02x}")]
    UnknownOpcode(u8),
    /// A field that the instruction does not use is not zero, or holds a value without a meaning.
    #[error("{0} uses reserved fields")]
    Reserved(&'static str),
    /// A register number above 10.
    #[error("R{0} is invalid")]
    Register(u8),
    /// The second slot of an `ld_imm64` is missing or not empty.
    #[error("invalid bpf_ld_imm64 insn")]
    LdImm64Tail,
    /// The `src` field of an `ld_imm64` names no pseudo kind, or a map reference has a second immediate.
    #[error("unrecognized bpf_ld_imm64 insn")]
    LdImm64Kind,
    /// `addr_space_cast` with an immediate other than 1 and 0x10000.
    #[error("addr_space_cast insn can only convert between address space 1 and 0")]
    AddrSpaceCast,
    /// `BPF_JCOND` that is not `may_goto`.
    #[error("invalid may_goto imm {0}")]
    MayGoto(i32),
    /// An atomic whose immediate names no operation.
    #[error("BPF_ATOMIC uses invalid atomic opcode {0:02x}")]
    AtomicOpcode(i32),
    /// A read-modify-write of 1 or 2 bytes.
    #[error("invalid atomic operand size")]
    AtomicSize,
    /// The position is not inside the program.
    #[error("jump or fall through out of the program at insn {0}")]
    OutOfProgram(usize),
}

impl DecodeError {
    /// Whether the kernel finds this in its pass over all slots before it walks the program.
    ///
    /// The others are reported only where the walk arrives, after what it finds on the way.
    #[must_use]
    pub const fn is_found_before_walk(self) -> bool {
        match self {
            Self::UnknownOpcode(_) | Self::LdImm64Tail | Self::LdImm64Kind => true,
            Self::Reserved(what) => matches!(what.as_bytes(), b"BPF_LDX"),
            _ => false,
        }
    }
}

/// Program bytes whose length is not a multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("program of {0} bytes is not a sequence of 8-byte instructions")]
pub struct OddLength(pub usize);

impl RawInsn {
    /// Reads a slot from its little-endian bytes.
    #[must_use]
    pub const fn from_bytes(b: [u8; 8]) -> Self {
        Self {
            code: b[0],
            dst: b[1] & 15,
            src: b[1] >> 4,
            off: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }

    /// The slot's little-endian bytes; register numbers are cut to 4 bits.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        let off = self.off.to_le_bytes();
        let imm = self.imm.to_le_bytes();
        [self.code, (self.dst & 15) | ((self.src & 15) << 4), off[0], off[1], imm[0], imm[1], imm[2], imm[3]]
    }

    /// Reads a whole program from its little-endian bytes.
    ///
    /// # Errors
    /// [`OddLength`] when the length is not a multiple of 8.
    pub fn program_from_bytes(bytes: &[u8]) -> Result<Vec<Self>, OddLength> {
        let (slots, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(OddLength(bytes.len()));
        }
        Ok(slots.iter().map(|slot| Self::from_bytes(*slot)).collect())
    }

    /// The bytes of a whole program.
    #[must_use]
    pub fn program_to_bytes(program: &[Self]) -> Vec<u8> {
        program.iter().flat_map(|insn| insn.to_bytes()).collect()
    }

    /// Whether this is the first slot of an `ld_imm64`, which takes two.
    #[must_use]
    pub const fn is_ld_imm64(self) -> bool {
        self.code == op::LD_IMM64
    }
}

impl TailCallImm {
    /// Packs what is known of a tail call's map and index; `poke` is an index into the poke table.
    ///
    /// A poke index above 65534 cannot be represented and is dropped, which only loses the direct jump.
    #[must_use]
    pub const fn new(map: u8, unknown: bool, poke: Option<u16>) -> Self {
        let poke = match poke {
            Some(index) if index < u16::MAX => index + 1,
            _ => 0,
        };
        let poke = poke.to_le_bytes();
        Self(i32::from_le_bytes([map, if unknown { 1 } else { 0 }, poke[0], poke[1]]))
    }

    /// Index of the map in the program's used maps.
    #[must_use]
    pub const fn map(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Whether the map differs between paths, so that [`TailCallImm::map`] says nothing.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.0.to_le_bytes()[1] != 0
    }

    /// Index into the poke table, when both map and index are constants.
    #[must_use]
    pub const fn poke(self) -> Option<u16> {
        let bytes = self.0.to_le_bytes();
        u16::from_le_bytes([bytes[2], bytes[3]]).checked_sub(1)
    }
}

/// Decodes the instruction at slot `at` of a program as a user may load it.
///
/// # Errors
/// What the kernel says of a slot that is no instruction. Immediate division by zero and immediate shifts out of range
/// are instructions: they have a meaning in RFC 9669, and the verifier refuses them.
pub fn decode(program: &[RawInsn], at: usize) -> Result<Insn, DecodeError> {
    decode_with(program, at, Reg::R10)
}

/// As [`decode`], with the forms that only rewritten programs contain: `AX`, [`Insn::TailCall`], [`Insn::MovPercpu`].
///
/// # Errors
/// As [`decode`].
pub fn decode_xlated(program: &[RawInsn], at: usize) -> Result<Insn, DecodeError> {
    decode_with(program, at, Reg::AX)
}

/// Decodes with registers up to `last`; `AX` as the last one means a rewritten program.
fn decode_with(program: &[RawInsn], at: usize, last: Reg) -> Result<Insn, DecodeError> {
    let raw = *program.get(at).ok_or(DecodeError::OutOfProgram(at))?;
    let regs = Regs { last };
    match raw.code & op::CLASS {
        op::LD => decode_ld(program, at, raw, regs),
        op::LDX => decode_ldx(raw, regs),
        op::ST => decode_st(raw, regs),
        op::STX if raw.code & op::MODE == op::ATOMIC => decode_atomic(raw, regs),
        op::STX => decode_stx(raw, regs),
        op::ALU | op::ALU64 => decode_alu(raw, regs),
        _ => decode_jmp(raw, regs),
    }
}

/// Which register numbers exist.
#[derive(Clone, Copy)]
struct Regs {
    last: Reg,
}

impl Regs {
    fn get(self, number: u8) -> Result<Reg, DecodeError> {
        Reg::new(number).filter(|reg| *reg <= self.last).ok_or(DecodeError::Register(number))
    }

    fn xlated(self) -> bool {
        self.last == Reg::AX
    }
}

const fn size_of(code: u8) -> Size {
    match code & op::SIZE {
        op::W => Size::W,
        op::H => Size::H,
        op::B => Size::B,
        _ => Size::Dw,
    }
}

fn reserved_if(bad: bool, what: &'static str) -> Result<(), DecodeError> {
    if bad { Err(DecodeError::Reserved(what)) } else { Ok(()) }
}

fn decode_ld(program: &[RawInsn], at: usize, raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    if raw.code == op::LD_IMM64 {
        return decode_ld_imm64(program, at, raw, regs);
    }
    let size = size_of(raw.code);
    let mode = raw.code & op::MODE;
    if size == Size::Dw || (mode != op::ABS && mode != op::IND) {
        return Err(DecodeError::UnknownOpcode(raw.code));
    }
    let bad = raw.dst != 0 || raw.off != 0 || (mode == op::ABS && raw.src != 0);
    reserved_if(bad, "BPF_LD_[ABS|IND]")?;
    if mode == op::ABS {
        return Ok(Insn::LdAbs { size, imm: raw.imm });
    }
    Ok(Insn::LdInd { size, src: regs.get(raw.src)?, imm: raw.imm })
}

fn decode_ld_imm64(program: &[RawInsn], at: usize, raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    let tail = match program.get(at.saturating_add(1)) {
        Some(RawInsn { code: 0, dst: 0, src: 0, off: 0, imm }) => *imm,
        _ => return Err(DecodeError::LdImm64Tail),
    };
    let low = u64::from(raw.imm.cast_unsigned());
    let high = tail.cast_unsigned();
    let imm = match raw.src {
        0 => Imm64::Const(low | u64::from(high) << 32),
        1 if tail == 0 => Imm64::MapFd(raw.imm),
        2 => Imm64::MapValue { fd: raw.imm, off: high },
        3 => Imm64::BtfId { id: raw.imm, obj_fd: tail },
        4 => Imm64::Func(raw.imm),
        5 if tail == 0 => Imm64::MapIdx(raw.imm),
        6 => Imm64::MapIdxValue { idx: raw.imm, off: high },
        _ => return Err(DecodeError::LdImm64Kind),
    };
    reserved_if(raw.off != 0 || (raw.src == 4 && tail != 0), "BPF_LD_IMM64")?;
    Ok(Insn::LdImm64 { dst: regs.get(raw.dst)?, imm })
}

fn decode_ldx(raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    let size = size_of(raw.code);
    let sign_extend = match raw.code & op::MODE {
        op::MEM => false,
        op::MEMSX => true,
        _ => return Err(DecodeError::Reserved("BPF_LDX")),
    };
    // The kernel looks at mode and immediate before it looks the opcode up.
    reserved_if(raw.imm != 0, "BPF_LDX")?;
    if sign_extend && size == Size::Dw {
        return Err(DecodeError::UnknownOpcode(raw.code));
    }
    let base = regs.get(raw.src)?;
    Ok(Insn::Load { size, sign_extend, dst: regs.get(raw.dst)?, base, off: raw.off })
}

fn decode_st(raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    if raw.code & op::MODE != op::MEM {
        return Err(DecodeError::UnknownOpcode(raw.code));
    }
    reserved_if(raw.src != 0, "BPF_ST")?;
    Ok(Insn::Store { size: size_of(raw.code), base: regs.get(raw.dst)?, off: raw.off, src: Operand::Imm(raw.imm) })
}

fn decode_stx(raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    if raw.code & op::MODE != op::MEM {
        return Err(DecodeError::UnknownOpcode(raw.code));
    }
    reserved_if(raw.imm != 0, "BPF_STX")?;
    let src = Operand::Reg(regs.get(raw.src)?);
    Ok(Insn::Store { size: size_of(raw.code), base: regs.get(raw.dst)?, off: raw.off, src })
}

fn decode_atomic(raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    let size = size_of(raw.code);
    let off = raw.off;
    match raw.imm {
        op::LOAD_ACQ => {
            let base = regs.get(raw.src)?;
            return Ok(Insn::LoadAcquire { size, dst: regs.get(raw.dst)?, base, off });
        }
        op::STORE_REL => {
            let src = regs.get(raw.src)?;
            return Ok(Insn::StoreRelease { size, base: regs.get(raw.dst)?, off, src });
        }
        _ => {}
    }
    let (kind, fetch) = match raw.imm & !op::FETCH {
        op::ATOMIC_ADD => (AtomicOp::Add, raw.imm & op::FETCH != 0),
        op::ATOMIC_OR => (AtomicOp::Or, raw.imm & op::FETCH != 0),
        op::ATOMIC_AND => (AtomicOp::And, raw.imm & op::FETCH != 0),
        op::ATOMIC_XOR => (AtomicOp::Xor, raw.imm & op::FETCH != 0),
        op::ATOMIC_XCHG if raw.imm & op::FETCH != 0 => (AtomicOp::Xchg, true),
        op::ATOMIC_CMPXCHG if raw.imm & op::FETCH != 0 => (AtomicOp::Cmpxchg, true),
        _ => return Err(DecodeError::AtomicOpcode(raw.imm)),
    };
    if !matches!(size, Size::W | Size::Dw) {
        return Err(DecodeError::AtomicSize);
    }
    let src = regs.get(raw.src)?;
    Ok(Insn::Atomic { op: kind, fetch, size, base: regs.get(raw.dst)?, off, src })
}

fn decode_alu(raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    let wide = raw.code & op::CLASS == op::ALU64;
    let width = if wide { Width::W64 } else { Width::W32 };
    let by_reg = raw.code & op::X != 0;
    let kind = match raw.code & op::OP {
        op::ADD => AluOp::Add,
        op::SUB => AluOp::Sub,
        op::MUL => AluOp::Mul,
        op::DIV if raw.off == 1 => AluOp::Sdiv,
        op::DIV => AluOp::Div,
        op::OR => AluOp::Or,
        op::AND => AluOp::And,
        op::LSH => AluOp::Lsh,
        op::RSH => AluOp::Rsh,
        op::MOD if raw.off == 1 => AluOp::Smod,
        op::MOD => AluOp::Mod,
        op::XOR => AluOp::Xor,
        op::ARSH => AluOp::Arsh,
        op::MOV => return decode_mov(raw, regs, width),
        op::NEG if !by_reg => {
            reserved_if(raw.src != 0 || raw.off != 0 || raw.imm != 0, "BPF_NEG")?;
            return Ok(Insn::Neg { width, dst: regs.get(raw.dst)? });
        }
        op::END if !(wide && by_reg) => return decode_end(raw, regs, wide, by_reg),
        _ => return Err(DecodeError::UnknownOpcode(raw.code)),
    };
    let signed = matches!(kind, AluOp::Sdiv | AluOp::Smod);
    let unused = if by_reg { raw.imm != 0 } else { raw.src != 0 };
    reserved_if(unused || (raw.off != 0 && !signed), "BPF_ALU")?;
    let src = operand(raw, regs)?;
    Ok(Insn::Alu { width, op: kind, dst: regs.get(raw.dst)?, src })
}

fn decode_end(raw: RawInsn, regs: Regs, wide: bool, to_be: bool) -> Result<Insn, DecodeError> {
    let bits = match raw.imm {
        16 => 16,
        32 => 32,
        64 => 64,
        _ => return Err(DecodeError::Reserved("BPF_END")),
    };
    reserved_if(raw.src != 0 || raw.off != 0, "BPF_END")?;
    let kind = match (wide, to_be) {
        (true, _) => EndKind::Bswap,
        (false, true) => EndKind::ToBe,
        (false, false) => EndKind::ToLe,
    };
    Ok(Insn::End { kind, bits, dst: regs.get(raw.dst)? })
}

fn decode_mov(raw: RawInsn, regs: Regs, width: Width) -> Result<Insn, DecodeError> {
    const WHAT: &str = "BPF_MOV";
    if raw.code & op::X == 0 {
        reserved_if(raw.src != 0 || raw.off != 0, WHAT)?;
        return Ok(Insn::Alu { width, op: AluOp::Mov, dst: regs.get(raw.dst)?, src: Operand::Imm(raw.imm) });
    }
    if width == Width::W64 && raw.off == op::ADDR_SPACE_CAST {
        if raw.imm != 1 && raw.imm != 1 << 16 {
            return Err(DecodeError::AddrSpaceCast);
        }
        let src = regs.get(raw.src)?;
        return Ok(Insn::AddrSpaceCast { dst: regs.get(raw.dst)?, src, imm: raw.imm });
    }
    reserved_if(raw.imm != 0, WHAT)?;
    let bits = match raw.off {
        0 => None,
        8 => Some(8),
        16 => Some(16),
        32 if width == Width::W64 => Some(32),
        op::ADDR_PERCPU if width == Width::W64 && regs.xlated() => None,
        _ => return Err(DecodeError::Reserved(WHAT)),
    };
    let src = regs.get(raw.src)?;
    let dst = regs.get(raw.dst)?;
    Ok(match bits {
        Some(bits) => Insn::MovSx { width, bits, dst, src },
        None if raw.off == op::ADDR_PERCPU => Insn::MovPercpu { dst, src },
        None => Insn::Alu { width, op: AluOp::Mov, dst, src: Operand::Reg(src) },
    })
}

fn decode_jmp(raw: RawInsn, regs: Regs) -> Result<Insn, DecodeError> {
    let wide = raw.code & op::CLASS == op::JMP;
    let width = if wide { Width::W64 } else { Width::W32 };
    let by_reg = raw.code & op::X != 0;
    let kind = match raw.code & op::OP {
        op::JEQ => JmpOp::Eq,
        op::JGT => JmpOp::Gt,
        op::JGE => JmpOp::Ge,
        op::JSET => JmpOp::Set,
        op::JNE => JmpOp::Ne,
        op::JSGT => JmpOp::Sgt,
        op::JSGE => JmpOp::Sge,
        op::JLT => JmpOp::Lt,
        op::JLE => JmpOp::Le,
        op::JSLT => JmpOp::Slt,
        op::JSLE => JmpOp::Sle,
        op::JA if !by_reg => {
            let unused = if wide { raw.imm != 0 } else { raw.off != 0 };
            reserved_if(raw.src != 0 || raw.dst != 0 || unused, "BPF_JA")?;
            let off = if wide { i32::from(raw.off) } else { raw.imm };
            return Ok(Insn::Ja { off, long: !wide });
        }
        op::CALL if wide && !by_reg => return decode_call(raw),
        op::EXIT if wide && !by_reg => {
            // The kernel does not look at the offset of `exit`, so neither do we; it has no meaning and is dropped.
            reserved_if(raw.imm != 0 || raw.src != 0 || raw.dst != 0, "BPF_EXIT")?;
            return Ok(Insn::Exit);
        }
        op::JCOND if wide && !by_reg => {
            if raw.src != 0 || raw.dst != 0 || raw.imm != 0 {
                return Err(DecodeError::MayGoto(raw.imm));
            }
            return Ok(Insn::MayGoto { off: raw.off });
        }
        op::TAIL_CALL if wide && !by_reg && regs.xlated() => {
            reserved_if(raw.src != 0 || raw.dst != 0 || raw.off != 0, "BPF_TAIL_CALL")?;
            return Ok(Insn::TailCall { imm: TailCallImm(raw.imm) });
        }
        _ => return Err(DecodeError::UnknownOpcode(raw.code)),
    };
    let dst = regs.get(raw.dst)?;
    let unused = if by_reg { raw.imm != 0 } else { raw.src != 0 };
    reserved_if(unused, "BPF_JMP/JMP32")?;
    Ok(Insn::Jcond { width, op: kind, dst, src: operand(raw, regs)?, off: raw.off })
}

fn decode_call(raw: RawInsn) -> Result<Insn, DecodeError> {
    const WHAT: &str = "BPF_CALL";
    reserved_if(raw.dst != 0 || (raw.src != 2 && raw.off != 0), WHAT)?;
    let target = match raw.src {
        0 => CallTarget::Helper(raw.imm),
        1 => CallTarget::Subprog(raw.imm),
        2 => CallTarget::Kfunc { id: raw.imm, obj: raw.off },
        _ => return Err(DecodeError::Reserved(WHAT)),
    };
    Ok(Insn::Call { target })
}

fn operand(raw: RawInsn, regs: Regs) -> Result<Operand, DecodeError> {
    if raw.code & op::X != 0 { Ok(Operand::Reg(regs.get(raw.src)?)) } else { Ok(Operand::Imm(raw.imm)) }
}
