//! One line: comment, label, instruction.

use super::cursor::{Cursor, is_name, to_i32};
use super::{Problem, Resolve};
use crate::helper::helper_id;
use crate::insn::{
    AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, TailCallImm, Width,
};

/// A line's instruction; the target of a jump is filled in when all labels are known.
pub(super) enum Parsed {
    Raw(RawInsn),
    Insn(Insn, Option<Target>),
}

impl Parsed {
    pub(super) fn slots(&self) -> usize {
        match self {
            Self::Raw(_) => 1,
            Self::Insn(insn, _) => insn.slots(),
        }
    }
}

pub(super) enum Target {
    Relative(i64),
    Label(String),
}

/// The line without its comment.
pub(super) fn strip(line: &str) -> &str {
    let end = [line.find(';'), line.find("//")].into_iter().flatten().min().unwrap_or(line.len());
    line.get(..end).unwrap_or(line)
}

/// Takes `label:` and the log's `12:` and `(b7)` from the start; numbers are no labels.
pub(super) fn split_label(line: &str) -> (Option<&str>, &str) {
    let trimmed = line.trim_start();
    let Some((name, rest)) = trimmed.split_once(':') else { return (None, trimmed) };
    if name.is_empty() || !name.chars().all(is_name) {
        return (None, trimmed);
    }
    if !name.chars().all(|c| c.is_ascii_digit()) {
        return (Some(name), rest);
    }
    let rest = rest.trim_start();
    match rest.split_at_checked(4) {
        Some((code, after)) if code.starts_with('(') && code.ends_with(')') => (None, after),
        _ => (None, rest),
    }
}

/// Parses what is left of a line; `None` for an empty one.
pub(super) fn parse(text: &str, names: &mut dyn Resolve) -> Result<Option<Parsed>, Problem> {
    let mut c = Cursor::new(text);
    if c.is_end() {
        return Ok(None);
    }
    let mut target = None;
    let insn = if c.eat_word("exit") {
        Insn::Exit
    } else if c.eat_word("goto") {
        target = Some(jump_target(&mut c)?);
        Insn::Ja { off: 0, long: false }
    } else if c.eat_word("gotol") {
        target = Some(jump_target(&mut c)?);
        Insn::Ja { off: 0, long: true }
    } else if c.eat_word("may_goto") {
        target = Some(jump_target(&mut c)?);
        Insn::MayGoto { off: 0 }
    } else if c.eat_word("call") {
        let (call, to) = parse_call(&mut c, names)?;
        target = to;
        Insn::Call { target: call }
    } else if c.eat_word("tail_call") {
        Insn::TailCall { imm: TailCallImm(if c.is_end() { 0 } else { c.imm32()? }) }
    } else if c.eat_word("if") {
        let (insn, to) = parse_if(&mut c)?;
        target = Some(to);
        insn
    } else if c.eat_word("lock") {
        parse_lock(&mut c)?
    } else if c.eat_word("store_release") {
        parse_store_release(&mut c)?
    } else if c.eat_word("lddw") {
        let dst = c.reg()?;
        c.need(",")?;
        let (value, _) = c.number()?;
        Insn::LdImm64 { dst, imm: Imm64::Const(to_u64(value)?) }
    } else if c.eat(".raw") {
        let (value, _) = c.number()?;
        let value = u64::try_from(value).map_err(|_| Problem::Range)?;
        c.end()?;
        return Ok(Some(Parsed::Raw(RawInsn::from_bytes(value.to_le_bytes()))));
    } else if c.rest().starts_with('*') {
        parse_store(&mut c)?
    } else {
        let before = c;
        let (width, dst) = c.any_reg().ok_or_else(|| before.expected("an instruction"))?;
        let (insn, to) = parse_assign(&mut c, width, dst, names)?;
        target = to;
        insn
    };
    c.end()?;
    Ok(Some(Parsed::Insn(insn, target)))
}

fn to_u64(value: i128) -> Result<u64, Problem> {
    match u64::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => Ok(i64::try_from(value).map_err(|_| Problem::Range)?.cast_unsigned()),
    }
}

/// `pc+3`, `+3`, `-3` or a label.
fn jump_target(c: &mut Cursor<'_>) -> Result<Target, Problem> {
    let mut after = *c;
    after.eat("pc");
    if after.rest().starts_with(['+', '-']) {
        let (distance, _) = after.number()?;
        *c = after;
        return Ok(Target::Relative(i64::try_from(distance).map_err(|_| Problem::Range)?));
    }
    let before = *c;
    match c.name() {
        "" => Err(before.expected("a label, +N or pc+N")),
        name => Ok(Target::Label(name.to_owned())),
    }
}

fn parse_call(c: &mut Cursor<'_>, names: &mut dyn Resolve) -> Result<(CallTarget, Option<Target>), Problem> {
    if c.rest().starts_with(['+', '-']) || c.rest().starts_with("pc+") || c.rest().starts_with("pc-") {
        return Ok((CallTarget::Subprog(0), Some(jump_target(c)?)));
    }
    let mut after = *c;
    if after.eat("kernel-function") {
        after.need("#")?;
        let id = after.imm32()?;
        let obj = if after.eat("@") { i16::try_from(after.number()?.0).map_err(|_| Problem::Range)? } else { 0 };
        *c = after;
        return Ok((CallTarget::Kfunc { id, obj }, None));
    }
    if c.rest().starts_with(|first: char| first.is_ascii_digit()) {
        return Ok((CallTarget::Helper(c.imm32()?), None));
    }
    let before = *c;
    let kfunc_only = c.eat_word("kfunc");
    let name = c.name();
    if name.is_empty() {
        return Err(before.expected("a function"));
    }
    let number = if c.eat("#") { Some(c.imm32()?) } else { None };
    if kfunc_only {
        let (id, obj) = names.kfunc(name).ok_or_else(|| Problem::Function(name.to_owned()))?;
        return Ok((CallTarget::Kfunc { id, obj }, None));
    }
    let helper = helper_id(name).filter(|id| number.is_none_or(|number| number == *id));
    match (helper, number) {
        (Some(id), _) => Ok((CallTarget::Helper(id), None)),
        (None, Some(id)) if matches!(name, "unknown" | "bpf_unspec") => Ok((CallTarget::Helper(id), None)),
        (None, Some(id)) => match names.kfunc(name) {
            Some((id, obj)) => Ok((CallTarget::Kfunc { id, obj }, None)),
            None => Ok((CallTarget::Kfunc { id, obj: 0 }, None)),
        },
        (None, None) => match names.kfunc(name) {
            Some((id, obj)) => Ok((CallTarget::Kfunc { id, obj }, None)),
            None if name.starts_with("bpf_") => Err(Problem::Function(name.to_owned())),
            None => Ok((CallTarget::Subprog(0), Some(Target::Label(name.to_owned())))),
        },
    }
}

fn parse_if(c: &mut Cursor<'_>) -> Result<(Insn, Target), Problem> {
    const OPS: [(&str, JmpOp); 11] = [
        ("==", JmpOp::Eq),
        ("!=", JmpOp::Ne),
        ("s>=", JmpOp::Sge),
        ("s<=", JmpOp::Sle),
        ("s>", JmpOp::Sgt),
        ("s<", JmpOp::Slt),
        (">=", JmpOp::Ge),
        ("<=", JmpOp::Le),
        (">", JmpOp::Gt),
        ("<", JmpOp::Lt),
        ("&", JmpOp::Set),
    ];
    let before = *c;
    let (width, dst) = c.any_reg().ok_or_else(|| before.expected("a register"))?;
    let (_, op) = *OPS.iter().find(|(symbol, _)| c.eat(symbol)).ok_or_else(|| c.expected("a comparison"))?;
    let src = operand(c, width)?;
    if !c.eat_word("goto") {
        return Err(c.expected("goto"));
    }
    let target = jump_target(c)?;
    Ok((Insn::Jcond { width, op, dst, src, off: 0 }, target))
}

/// A register of the operation's width, or an immediate.
fn operand(c: &mut Cursor<'_>, width: Width) -> Result<Operand, Problem> {
    let before = *c;
    match c.any_reg() {
        Some((found, reg)) if found == width => Ok(Operand::Reg(reg)),
        Some(_) => Err(before.expected("a register of the same width")),
        None => Ok(Operand::Imm(c.imm32()?)),
    }
}

fn parse_store(c: &mut Cursor<'_>) -> Result<Insn, Problem> {
    c.need("*")?;
    let before = *c;
    let (size, signed) = c.size_cast()?;
    if signed {
        return Err(before.expected("an unsigned size"));
    }
    let (base, off) = c.base()?;
    c.need("=")?;
    let src = operand(c, Width::W64)?;
    Ok(Insn::Store { size, base, off, src })
}

fn parse_lock(c: &mut Cursor<'_>) -> Result<Insn, Problem> {
    c.need("*")?;
    let size = atomic_size(c)?;
    let (base, off) = c.base()?;
    let ops = [("+=", AtomicOp::Add), ("|=", AtomicOp::Or), ("&=", AtomicOp::And), ("^=", AtomicOp::Xor)];
    let (_, op) = ops.into_iter().find(|(symbol, _)| c.eat(symbol)).ok_or_else(|| c.expected("+=, |=, &= or ^="))?;
    let src = c.reg()?;
    Ok(Insn::Atomic { op, fetch: false, size, base, off, src })
}

fn atomic_size(c: &mut Cursor<'_>) -> Result<Size, Problem> {
    let before = *c;
    match c.size_cast()? {
        (size @ (Size::W | Size::Dw), false) => Ok(size),
        _ => Err(before.expected("u32 or u64")),
    }
}

fn parse_store_release(c: &mut Cursor<'_>) -> Result<Insn, Problem> {
    c.need("(")?;
    let (size, _) = c.size_cast()?;
    let (base, off) = c.base()?;
    c.need(",")?;
    let src = c.reg()?;
    c.need(")")?;
    Ok(Insn::StoreRelease { size, base, off, src })
}

type Assigned = (Insn, Option<Target>);

/// What follows the destination register.
fn parse_assign(c: &mut Cursor<'_>, width: Width, dst: Reg, names: &mut dyn Resolve) -> Result<Assigned, Problem> {
    const OPS: [AluOp; 13] = [
        AluOp::Arsh,
        AluOp::Lsh,
        AluOp::Rsh,
        AluOp::Sdiv,
        AluOp::Smod,
        AluOp::Add,
        AluOp::Sub,
        AluOp::Mul,
        AluOp::Div,
        AluOp::Or,
        AluOp::And,
        AluOp::Mod,
        AluOp::Xor,
    ];
    if let Some(op) = OPS.into_iter().find(|op| c.eat(op.symbol())) {
        let src = operand(c, width)?;
        return Ok((Insn::Alu { width, op, dst, src }, None));
    }
    c.need("=")?;
    let mut after = *c;
    if let Some((found, src)) = after.any_reg() {
        if found != width {
            return Err(c.expected("a register of the same width"));
        }
        *c = after;
        return Ok((Insn::Alu { width, op: AluOp::Mov, dst, src: Operand::Reg(src) }, None));
    }
    if after.eat("-")
        && let Some((found, src)) = after.any_reg()
    {
        if found != width || src != dst {
            return Err(c.expected("the destination register"));
        }
        *c = after;
        return Ok((Insn::Neg { width, dst }, None));
    }
    if let Some(insn) = parse_movsx(c, width, dst)? {
        return Ok((insn, None));
    }
    if c.rest().starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '+') {
        return Ok((parse_constant(c, width, dst)?, None));
    }
    if width == Width::W32 {
        return Err(c.expected("a 32-bit operand"));
    }
    if c.rest().starts_with('*') {
        return Ok((parse_load(c, dst)?, None));
    }
    if c.eat("&(void __percpu *)(") {
        let src = c.reg()?;
        c.need(")")?;
        return Ok((Insn::MovPercpu { dst, src }, None));
    }
    parse_function_form(c, dst, names)
}

/// `(s8)r2`.
fn parse_movsx(c: &mut Cursor<'_>, width: Width, dst: Reg) -> Result<Option<Insn>, Problem> {
    for (cast, bits) in [("(s8)", 8u8), ("(s16)", 16), ("(s32)", 32)] {
        if c.eat(cast) {
            let before = *c;
            return match c.any_reg() {
                Some((found, src)) if found == width && !(bits == 32 && width == Width::W32) => {
                    Ok(Some(Insn::MovSx { width, bits, dst, src }))
                }
                _ => Err(before.expected("a register of the same width")),
            };
        }
    }
    Ok(None)
}

fn parse_constant(c: &mut Cursor<'_>, width: Width, dst: Reg) -> Result<Insn, Problem> {
    let (value, hex) = c.number()?;
    if c.eat_word("ll") || (hex && width == Width::W64) {
        return Ok(Insn::LdImm64 { dst, imm: Imm64::Const(to_u64(value)?) });
    }
    // In 64 bits a decimal above i32::MAX would come out negative, so it is an error there.
    let imm = match width {
        Width::W32 => to_i32(value)?,
        Width::W64 => i32::try_from(value).map_err(|_| Problem::Range)?,
    };
    Ok(Insn::Alu { width, op: AluOp::Mov, dst, src: Operand::Imm(imm) })
}

/// `*(u8 *)(r1 +0)`, `*(u16 *)skb[12]`.
fn parse_load(c: &mut Cursor<'_>, dst: Reg) -> Result<Insn, Problem> {
    c.need("*")?;
    let (size, sign_extend) = c.size_cast()?;
    if !c.eat("skb[") {
        let (base, off) = c.base()?;
        return Ok(Insn::Load { size, sign_extend, dst, base, off });
    }
    if dst != Reg::R0 || size == Size::Dw || sign_extend {
        return Err(c.expected("r0 = *(u8|u16|u32 *)skb[…]"));
    }
    let insn = if c.rest().starts_with('r') {
        let src = c.reg()?;
        let imm = if c.rest().starts_with(']') {
            0
        } else {
            c.need("+")?;
            c.imm32()?
        };
        Insn::LdInd { size, src, imm }
    } else {
        Insn::LdAbs { size, imm: c.imm32()? }
    };
    c.need("]")?;
    Ok(insn)
}

/// The forms that start with a word: byte order, atomics, references.
fn parse_function_form(c: &mut Cursor<'_>, dst: Reg, names: &mut dyn Resolve) -> Result<Assigned, Problem> {
    let before = *c;
    let word = c.name();
    let insn = match word {
        "le16" | "le32" | "le64" | "be16" | "be32" | "be64" | "bswap16" | "bswap32" | "bswap64" => {
            let kind = match word.get(..2) {
                Some("le") => EndKind::ToLe,
                Some("be") => EndKind::ToBe,
                _ => EndKind::Bswap,
            };
            let bits = match word.get(word.len() - 2..) {
                Some("16") => 16,
                Some("32") => 32,
                _ => 64,
            };
            if c.reg()? != dst {
                return Err(before.expected("the destination register"));
            }
            Insn::End { kind, bits, dst }
        }
        "addr_space_cast" => {
            c.need("(")?;
            let src = c.reg()?;
            c.need(",")?;
            let to = u16::try_from(c.number()?.0).map_err(|_| Problem::Range)?;
            c.need(",")?;
            let from = u16::try_from(c.number()?.0).map_err(|_| Problem::Range)?;
            c.need(")")?;
            Insn::AddrSpaceCast { dst, src, imm: to_i32(i128::from(to) << 16 | i128::from(from))? }
        }
        "load_acquire" => {
            c.need("(")?;
            let (size, _) = c.size_cast()?;
            let (base, off) = c.base()?;
            c.need(")")?;
            Insn::LoadAcquire { size, dst, base, off }
        }
        "map" | "map_value" | "map_idx" | "map_idx_value" | "btf_id" => {
            c.need("[")?;
            let inside = c.until(']')?;
            Insn::LdImm64 { dst, imm: parse_reference(c, word, inside, names)? }
        }
        "func" => {
            c.need("[")?;
            let inside = c.until(']')?;
            let target = jump_target(&mut Cursor::new(inside))?;
            return Ok((Insn::LdImm64 { dst, imm: Imm64::Func(0) }, Some(target)));
        }
        _ if word.starts_with("atomic") => return Ok((parse_fetch(c, before, word, dst)?, None)),
        _ => return Err(before.expected("an operand")),
    };
    Ok((insn, None))
}

/// What stands in the brackets of `map[…]` and the like, and the offset behind them.
fn parse_reference(c: &mut Cursor<'_>, word: &str, inside: &str, names: &mut dyn Resolve) -> Result<Imm64, Problem> {
    let number = match inside.parse::<i32>() {
        Ok(number) => number,
        Err(_) => names.map(inside).ok_or_else(|| Problem::Map(inside.to_owned()))?,
    };
    let mut offset = || {
        if c.is_end() {
            return Ok(0);
        }
        c.need("+")?;
        u32::try_from(c.number()?.0).map_err(|_| Problem::Range)
    };
    Ok(match word {
        "map" => Imm64::MapFd(number),
        "map_value" => Imm64::MapValue { fd: number, off: offset()? },
        "map_idx" => Imm64::MapIdx(number),
        "map_idx_value" => Imm64::MapIdxValue { idx: number, off: offset()? },
        _ => {
            let obj_fd = if c.eat("@") { c.imm32()? } else { 0 };
            Imm64::BtfId { id: number, obj_fd }
        }
    })
}

/// `atomic64_fetch_add((u64 *)(r1 +0), r2)`, `atomic_xchg(…)`, `atomic_cmpxchg((u32 *)(r1 +0), r0, r2)`.
fn parse_fetch(c: &mut Cursor<'_>, before: Cursor<'_>, word: &str, dst: Reg) -> Result<Insn, Problem> {
    let (wide, kind) = match word.strip_prefix("atomic64_") {
        Some(kind) => (true, kind),
        None => (false, word.strip_prefix("atomic_").unwrap_or(word)),
    };
    let op = match kind {
        "fetch_add" => AtomicOp::Add,
        "fetch_or" => AtomicOp::Or,
        "fetch_and" => AtomicOp::And,
        "fetch_xor" => AtomicOp::Xor,
        "xchg" => AtomicOp::Xchg,
        "cmpxchg" => AtomicOp::Cmpxchg,
        _ => return Err(before.expected("an atomic operation")),
    };
    c.need("(")?;
    let size = atomic_size(c)?;
    if (size == Size::Dw) != wide {
        return Err(before.expected("the size that the name says"));
    }
    let (base, off) = c.base()?;
    c.need(",")?;
    if op == AtomicOp::Cmpxchg {
        if dst != Reg::R0 || c.reg()? != Reg::R0 {
            return Err(before.expected("r0 as result and as old value"));
        }
        c.need(",")?;
    }
    let src = c.reg()?;
    c.need(")")?;
    if op != AtomicOp::Cmpxchg && src != dst {
        return Err(before.expected("the destination register as operand"));
    }
    Ok(Insn::Atomic { op, fetch: true, size, base, off, src })
}
