//! Instructions as text, in the syntax of the verifier's log.
//!
//! Owns the spelling of every instruction. Invariant: [`crate::asm::assemble`] reads back what is written here, except
//! names that only [`Names`] knows. The log has no spelling for references (it prints the kernel's addresses): ours are
//! `map[NAME]`, `map_value[NAME]+8`, `func[pc+7]`, `btf_id[12]`. Kernel counterpart: kernel/bpf/disasm.c, 6.18.

use core::fmt::{self, Display, Formatter, Write};

use crate::decode::decode_xlated;
use crate::helper::helper_name;
use crate::insn::{
    AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, TailCallImm, Width,
};

/// What numbers in instructions are called. Every method may answer `None`, and the number is printed.
pub trait Names {
    /// Name of a helper, `bpf_map_lookup_elem`.
    fn helper(&self, id: i32) -> Option<String> {
        helper_name(id).map(str::to_owned)
    }

    /// Name of a kernel function.
    fn kfunc(&self, _id: i32, _obj: i16) -> Option<String> {
        None
    }

    /// Name of the map with this number (of [`Imm64::MapFd`] and the other map forms).
    fn map(&self, _number: i32) -> Option<String> {
        None
    }

    /// Whole right-hand side of an `ld_imm64`, where the caller knows better (an address, for one).
    fn imm64(&self, _imm: Imm64) -> Option<String> {
        None
    }
}

/// Helpers by the kernel's names, everything else by number.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {}

/// The text of the instruction at slot `at`, without position and opcode: `r0 = 0`, `if w1 s< 0x5 goto pc+3`.
///
/// A slot that is no instruction is `.raw 0x…`, its eight bytes as a little-endian number.
#[must_use]
pub fn disasm(program: &[RawInsn], at: usize, names: &dyn Names) -> String {
    match decode_xlated(program, at) {
        Ok(insn) => insn.display(names).to_string(),
        Err(_) => {
            let raw = program.get(at).copied().unwrap_or_default();
            format!(".raw {:#018x}", u64::from_le_bytes(raw.to_bytes()))
        }
    }
}

/// A whole program, one line per instruction, `12: (b7) r0 = 0` as the log numbers them.
#[must_use]
pub fn listing(program: &[RawInsn], names: &dyn Names) -> String {
    let mut out = String::new();
    let mut at = 0;
    while let Some(raw) = program.get(at) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{at}: ({:02x}) {}", raw.code, disasm(program, at, names));
        at += decode_xlated(program, at).map_or(1, |insn| insn.slots());
    }
    out
}

impl Insn {
    /// Its text; see [`disasm`].
    #[must_use]
    pub fn display<'a>(&'a self, names: &'a dyn Names) -> impl Display + 'a {
        Shown { insn: self, names }
    }
}

impl Display for Insn {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Shown { insn: self, names: &NoNames }.fmt(f)
    }
}

impl Display for Reg {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.number())
    }
}

impl Size {
    /// `u8`, `u16`, `u32` or `u64`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::B => "u8",
            Self::H => "u16",
            Self::W => "u32",
            Self::Dw => "u64",
        }
    }

    const fn signed_name(self) -> &'static str {
        match self {
            Self::B => "s8",
            Self::H => "s16",
            Self::W => "s32",
            Self::Dw => "s64",
        }
    }
}

impl AluOp {
    /// The assignment operator: `+=`, `s/=`, `=`.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+=",
            Self::Sub => "-=",
            Self::Mul => "*=",
            Self::Div => "/=",
            Self::Sdiv => "s/=",
            Self::Or => "|=",
            Self::And => "&=",
            Self::Lsh => "<<=",
            Self::Rsh => ">>=",
            Self::Mod => "%=",
            Self::Smod => "s%=",
            Self::Xor => "^=",
            Self::Mov => "=",
            Self::Arsh => "s>>=",
        }
    }
}

impl JmpOp {
    /// The comparison operator: `==`, `s<`, `&`.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "==",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::Set => "&",
            Self::Ne => "!=",
            Self::Sgt => "s>",
            Self::Sge => "s>=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Slt => "s<",
            Self::Sle => "s<=",
        }
    }
}

impl AtomicOp {
    /// The word in `atomic_fetch_WORD`, `xchg` and `cmpxchg`.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Or => "or",
            Self::And => "and",
            Self::Xor => "xor",
            Self::Xchg => "xchg",
            Self::Cmpxchg => "cmpxchg",
        }
    }
}

struct Shown<'a> {
    insn: &'a Insn,
    names: &'a dyn Names,
}

/// `w` for 32-bit operations, `r` for 64-bit ones.
const fn letter(width: Width) -> char {
    match width {
        Width::W32 => 'w',
        Width::W64 => 'r',
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self.insn {
            Insn::Alu { .. } | Insn::MovSx { .. } | Insn::Neg { .. } | Insn::End { .. } => fmt_alu(f, self.insn),
            Insn::AddrSpaceCast { dst, src, imm } => {
                let imm = imm.cast_unsigned();
                write!(f, "{dst} = addr_space_cast({src}, {}, {})", imm >> 16, imm & 0xffff)
            }
            Insn::MovPercpu { dst, src } => write!(f, "{dst} = &(void __percpu *)({src})"),
            Insn::LdImm64 { dst, imm } => {
                write!(f, "{dst} = ")?;
                self.fmt_imm64(f, imm)
            }
            Insn::Load { size, sign_extend, dst, base, off } => {
                let name = if sign_extend { size.signed_name() } else { size.name() };
                write!(f, "{dst} = *({name} *)({base} {off:+})")
            }
            Insn::Store { size, base, off, src: Operand::Reg(src) } => {
                write!(f, "*({} *)({base} {off:+}) = {src}", size.name())
            }
            Insn::Store { size, base, off, src: Operand::Imm(imm) } => {
                write!(f, "*({} *)({base} {off:+}) = {imm}", size.name())
            }
            Insn::Atomic { .. } => fmt_atomic(f, self.insn),
            Insn::LoadAcquire { size, dst, base, off } => {
                write!(f, "{dst} = load_acquire(({} *)({base} {off:+}))", size.name())
            }
            Insn::StoreRelease { size, base, off, src } => {
                write!(f, "store_release(({} *)({base} {off:+}), {src})", size.name())
            }
            Insn::LdAbs { size, imm } => write!(f, "r0 = *({} *)skb[{imm}]", size.name()),
            Insn::LdInd { size, src, imm } => write!(f, "r0 = *({} *)skb[{src} + {imm}]", size.name()),
            Insn::Ja { off, long } => write!(f, "{} pc{off:+}", if long { "gotol" } else { "goto" }),
            Insn::Jcond { width, op, dst, src, off } => {
                let letter = letter(width);
                write!(f, "if {letter}{} {} ", dst.number(), op.symbol())?;
                match src {
                    Operand::Reg(src) => write!(f, "{letter}{}", src.number())?,
                    Operand::Imm(imm) => write!(f, "{imm:#x}")?,
                }
                write!(f, " goto pc{off:+}")
            }
            Insn::MayGoto { off } => write!(f, "may_goto pc{off:+}"),
            Insn::Call { target } => self.fmt_call(f, target),
            Insn::TailCall { imm: TailCallImm(0) } => f.write_str("tail_call"),
            Insn::TailCall { imm } => write!(f, "tail_call {:#x}", imm.0),
            Insn::Exit => f.write_str("exit"),
        }
    }
}

impl Shown<'_> {
    fn fmt_imm64(&self, f: &mut Formatter<'_>, imm: Imm64) -> fmt::Result {
        if let Some(text) = self.names.imm64(imm) {
            return f.write_str(&text);
        }
        let map = |number: i32| self.names.map(number).unwrap_or_else(|| number.to_string());
        match imm {
            Imm64::Const(value) => write!(f, "{value:#x}"),
            Imm64::MapFd(fd) => write!(f, "map[{}]", map(fd)),
            Imm64::MapValue { fd, off } => write!(f, "map_value[{}]+{off}", map(fd)),
            Imm64::MapIdx(idx) => write!(f, "map_idx[{idx}]"),
            Imm64::MapIdxValue { idx, off } => write!(f, "map_idx_value[{idx}]+{off}"),
            Imm64::BtfId { id, obj_fd: 0 } => write!(f, "btf_id[{id}]"),
            Imm64::BtfId { id, obj_fd } => write!(f, "btf_id[{id}]@{obj_fd}"),
            Imm64::Func(off) => write!(f, "func[pc{off:+}]"),
        }
    }

    fn fmt_call(&self, f: &mut Formatter<'_>, target: CallTarget) -> fmt::Result {
        match target {
            CallTarget::Subprog(off) => write!(f, "call pc{off:+}"),
            CallTarget::Helper(id) => {
                write!(f, "call {}#{id}", self.names.helper(id).as_deref().unwrap_or("unknown"))
            }
            CallTarget::Kfunc { id, obj } => match self.names.kfunc(id, obj) {
                Some(name) => write!(f, "call {name}#{id}"),
                None if obj == 0 => write!(f, "call kernel-function#{id}"),
                None => write!(f, "call kernel-function#{id}@{obj}"),
            },
        }
    }
}

fn fmt_alu(f: &mut Formatter<'_>, insn: &Insn) -> fmt::Result {
    match *insn {
        Insn::Alu { width, op, dst, src } => {
            let letter = letter(width);
            write!(f, "{letter}{} {} ", dst.number(), op.symbol())?;
            match src {
                Operand::Reg(src) => write!(f, "{letter}{}", src.number()),
                Operand::Imm(imm) => write!(f, "{imm}"),
            }
        }
        Insn::MovSx { width, bits, dst, src } => {
            let letter = letter(width);
            write!(f, "{letter}{} = (s{bits}){letter}{}", dst.number(), src.number())
        }
        Insn::Neg { width, dst } => {
            let letter = letter(width);
            write!(f, "{letter}{0} = -{letter}{0}", dst.number())
        }
        Insn::End { kind, bits, dst } => {
            let word = match kind {
                EndKind::ToLe => "le",
                EndKind::ToBe => "be",
                EndKind::Bswap => "bswap",
            };
            write!(f, "{dst} = {word}{bits} {dst}")
        }
        _ => Ok(()),
    }
}

fn fmt_atomic(f: &mut Formatter<'_>, insn: &Insn) -> fmt::Result {
    let Insn::Atomic { op, fetch, size, base, off, src } = *insn else { return Ok(()) };
    let name = size.name();
    let wide = if size == Size::Dw { "64" } else { "" };
    match op {
        AtomicOp::Cmpxchg => write!(f, "r0 = atomic{wide}_cmpxchg(({name} *)({base} {off:+}), r0, {src})"),
        AtomicOp::Xchg => write!(f, "{src} = atomic{wide}_xchg(({name} *)({base} {off:+}), {src})"),
        _ if fetch => write!(f, "{src} = atomic{wide}_fetch_{}(({name} *)({base} {off:+}), {src})", op.word()),
        AtomicOp::Add => write!(f, "lock *({name} *)({base} {off:+}) += {src}"),
        AtomicOp::Or => write!(f, "lock *({name} *)({base} {off:+}) |= {src}"),
        AtomicOp::And => write!(f, "lock *({name} *)({base} {off:+}) &= {src}"),
        AtomicOp::Xor => write!(f, "lock *({name} *)({base} {off:+}) ^= {src}"),
    }
}
