//! Values, objects and accesses in words.
//!
//! Owns the phrases that explanations are made of. Invariant: a range that is named here is the verifier's own, and a name
//! comes from the program's types or tables, never from a guess.

use skep_abi::ctx::{CtxAccess, CtxLayout};
use skep_abi::helper::{self, ArgKind};
use skep_abi::{CallTarget, Insn, JmpOp, Operand};

use crate::env::Env;
use crate::state::frame::Frame;
use crate::state::reg::{Base, Reg, flags};

/// Numbers from here on are as good as unbounded to a reader.
const HUGE: u64 = 1 << 32;

/// `1 byte`, `8 bytes`.
pub(super) fn bytes(n: u64) -> String {
    if n == 1 { "1 byte".to_owned() } else { format!("{n} bytes") }
}

/// The values that a scalar may have: `5`, `0..255`, `any number`.
pub(super) fn range(reg: &Reg) -> String {
    let b = &reg.bounds;
    if let Some(v) = b.const_value() {
        return v.cast_signed().to_string();
    }
    if b.s64.min >= 0 {
        return if b.u64.max > HUGE {
            format!("{} or more, without bound", b.u64.min)
        } else {
            format!("{}..{}", b.u64.min, b.u64.max)
        };
    }
    match (b.s64.min == i64::MIN, b.s64.max == i64::MAX) {
        (true, true) if b.u64.min > 0 && b.u64.max == u64::MAX => format!("any number but 0..{}", b.u64.min - 1),
        (true, true) => "any number".to_owned(),
        (true, false) => format!("any number up to {}, negative ones too", b.s64.max),
        (false, true) => format!("any number from {}", b.s64.min),
        (false, false) => format!("{}..{}", b.s64.min, b.s64.max),
    }
}

/// `the number 5`, `a number, 0..255`.
fn scalar(reg: &Reg) -> String {
    match reg.bounds.const_value() {
        Some(v) => format!("the number {}", v.cast_signed()),
        None => match range(reg).strip_prefix("any number") {
            Some("") => "a number of which nothing is known".to_owned(),
            Some(rest) => format!("any number{rest}"),
            None => format!("a number, {}", range(reg)),
        },
    }
}

/// Where a pointer points relative to its base: `at offset 4..67`; empty at the base itself.
pub(super) fn offset(reg: &Reg, extra: i64) -> String {
    let fixed = i64::from(reg.off).saturating_add(extra);
    if let Some(v) = reg.bounds.const_value() {
        return fixed.wrapping_add(v.cast_signed()).to_string();
    }
    let b = &reg.bounds;
    let low = b.s64.min.saturating_add(fixed);
    if b.s64.min == i64::MIN || b.s64.max == i64::MAX || b.u64.max > HUGE {
        return if b.s64.min >= 0 { format!("{low} or more, without bound") } else { "without bound".to_owned() };
    }
    let high = i64::try_from(b.u64.max).unwrap_or(i64::MAX).saturating_add(fixed);
    format!("{low}..{high}")
}

/// The condition as it holds on this path.
pub(super) fn condition(op: JmpOp, taken: bool) -> &'static str {
    match (op, taken) {
        (JmpOp::Eq, true) | (JmpOp::Ne, false) => "==",
        (JmpOp::Ne, true) | (JmpOp::Eq, false) => "!=",
        (JmpOp::Gt, true) | (JmpOp::Le, false) => ">",
        (JmpOp::Ge, true) | (JmpOp::Lt, false) => ">=",
        (JmpOp::Lt, true) | (JmpOp::Ge, false) => "<",
        (JmpOp::Le, true) | (JmpOp::Gt, false) => "<=",
        (JmpOp::Sgt, true) | (JmpOp::Sle, false) => "s>",
        (JmpOp::Sge, true) | (JmpOp::Slt, false) => "s>=",
        (JmpOp::Slt, true) | (JmpOp::Sge, false) => "s<",
        (JmpOp::Sle, true) | (JmpOp::Sgt, false) => "s<=",
        (JmpOp::Set, true) => "has bits of",
        (JmpOp::Set, false) => "has no bits of",
    }
}

impl Env<'_> {
    /// What a register holds: `a number, 0..255`, `a pointer to a value of map 'm' at offset 4`.
    pub(super) fn describe(&self, reg: &Reg) -> String {
        match reg.base() {
            Base::NotInit => "nothing that was written".to_owned(),
            Base::Scalar => scalar(reg),
            Base::Stack => format!("a pointer to the stack at {}", self.place_on_stack(reg)),
            Base::ConstMap | Base::PacketEnd | Base::Func => self.object(reg),
            Base::Packet | Base::PacketMeta if reg.off == 0 && reg.bounds.const_value() == Some(0) => {
                format!("the start of {}", self.object(reg))
            }
            _ => {
                let moved = reg.off != 0 || reg.bounds.const_value() != Some(0);
                let at = if moved { format!(", at offset {}", offset(reg, 0)) } else { String::new() };
                let null = if reg.ty.maybe_null() { ", or NULL" } else { "" };
                format!("a pointer to {}{at}{null}", self.object(reg))
            }
        }
    }

    /// What a pointer points into: `a value of map 'm' (64 bytes)`.
    pub(super) fn object(&self, reg: &Reg) -> String {
        let map = || match self.map_of(reg) {
            Some(shape) if !shape.name.is_empty() => format!("map '{}'", shape.name),
            _ => "a map".to_owned(),
        };
        match reg.base() {
            Base::NotInit | Base::Scalar => self.describe(reg),
            Base::Ctx => format!("the context (struct {})", self.context_layout().map_or("?", |l| &l.btf_name)),
            Base::ConstMap => match self.map_of(reg) {
                Some(shape) => format!("{} ({})", map(), shape.map_type),
                None => map(),
            },
            Base::MapValue => {
                let size = self.map_of(reg).map_or(0, |m| m.value_size);
                format!("a value of {} ({})", map(), bytes(u64::from(size)))
            }
            Base::MapKey => format!("a key of {}", map()),
            Base::Stack => "the stack".to_owned(),
            Base::PacketMeta => "the packet's metadata".to_owned(),
            Base::Packet => "the packet".to_owned(),
            Base::PacketEnd => "the packet's end".to_owned(),
            Base::FlowKeys => "the flow keys".to_owned(),
            Base::Socket | Base::SockCommon | Base::TcpSock | Base::XdpSock => "a socket".to_owned(),
            Base::TpBuffer | Base::Buf => "a buffer of the kernel".to_owned(),
            Base::BtfId => "an object of the kernel".to_owned(),
            Base::Mem if reg.ty.has(flags::RINGBUF) => {
                format!("a ring-buffer record ({})", bytes(u64::from(reg.mem_size())))
            }
            Base::Mem => format!("memory of {}", bytes(u64::from(reg.mem_size()))),
            Base::Arena => "the arena".to_owned(),
            Base::Func => "a function of the program".to_owned(),
            Base::Dynptr => "a dynptr".to_owned(),
        }
    }

    /// `fp-8`, or `fp-64..fp-1`.
    fn place_on_stack(&self, reg: &Reg) -> String {
        let at = |v: i64| if v == 0 { "fp".to_owned() } else { format!("fp{v:+}") };
        let fixed = i64::from(reg.off);
        match reg.bounds.const_value() {
            Some(v) => at(fixed.wrapping_add(v.cast_signed())),
            None => format!(
                "{}..{}",
                at(reg.bounds.s64.min.saturating_add(fixed)),
                at(reg.bounds.s64.max.saturating_add(fixed))
            ),
        }
    }

    /// The context's layout, the program type's own or the embedder's.
    pub(super) fn context_layout(&self) -> Option<&CtxLayout> {
        self.spec.ctx.or_else(|| skep_abi::ctx::ctx_layout_for(self.spec.prog_type, self.spec.attach_type))
    }

    /// The field of the context at an offset: `ctx->data_end`.
    pub(super) fn context_field(&self, off: i32, size: u8) -> Option<String> {
        let layout = self.context_layout()?;
        match layout.find(u32::try_from(off).ok()?, u32::from(size), false)? {
            CtxAccess::Field(field) => Some(format!("ctx->{}", field.name)),
            CtxAccess::Region => None,
        }
    }

    /// The field that contains an offset, whatever the access.
    pub(super) fn field_around(&self, off: i64) -> Option<String> {
        let layout = self.context_layout()?;
        let inside = |f: &&skep_abi::ctx::CtxField| {
            let start = i64::from(f.offset);
            (start..start + i64::from(f.size)).contains(&off)
        };
        layout.fields.iter().find(inside).map(|f| f.name.to_owned())
    }

    /// Name of what a call calls, with brackets: `bpf_map_lookup_elem()`.
    pub(super) fn callee(&self, at: u32, target: CallTarget) -> String {
        match target {
            CallTarget::Helper(id) => match helper::helper_name(id) {
                Some(name) => format!("{name}()"),
                None => format!("helper {id}"),
            },
            CallTarget::Kfunc { id, .. } => format!("{}()", self.kfunc_name(id).unwrap_or("a kernel function")),
            CallTarget::Subprog(off) => {
                let sub = self.subprog_starting(i64::from(Self::relative(at, off)));
                self.function_call(sub.unwrap_or(0))
            }
        }
    }

    /// Name of a subprogram, of the program itself where it has none.
    pub(super) fn function_name(&self, sub: usize) -> String {
        match self.subprogs.get(sub) {
            Some(info) if !info.name.is_empty() => info.name.clone(),
            Some(info) if sub > 0 => format!("the function at instruction {}", info.start),
            _ => self.spec.name.to_owned(),
        }
    }

    /// The same with brackets, where it is a name.
    pub(super) fn function_call(&self, sub: usize) -> String {
        let name = self.function_name(sub);
        if name.contains(' ') { name } else { format!("{name}()") }
    }

    /// Name of a parameter of a subprogram, from its type.
    pub(super) fn parameter_name(&self, sub: usize, number: u8) -> Option<String> {
        let btf = self.spec.btf?;
        let id = self.subprogs.get(sub).map(|s| s.func_id).filter(|&id| id != 0)?;
        let proto = btf.func_proto(skep_btf::TypeId(id))?;
        let param = proto.params.get(usize::from(number.checked_sub(1)?))?;
        let name = btf.str_at(param.name);
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// What the instruction at `at` does with the memory behind register `n`: `reads 4 bytes at offset 0..60 of …`.
    pub(super) fn access(&self, at: u32, n: u8, frame: &Frame) -> Option<String> {
        let reg = frame.regs.get(usize::from(n))?;
        let (verb, size, off) = match self.insn_at(at)? {
            Insn::Load { size, base, off, .. } | Insn::LoadAcquire { size, base, off, .. } if base.number() == n => {
                ("reads", bytes(u64::from(size.bytes())), i64::from(off))
            }
            Insn::Store { size, base, off, .. } | Insn::StoreRelease { size, base, off, .. } if base.number() == n => {
                ("writes", bytes(u64::from(size.bytes())), i64::from(off))
            }
            Insn::Atomic { size, base, off, .. } if base.number() == n => {
                ("changes", bytes(u64::from(size.bytes())), i64::from(off))
            }
            Insn::Call { target } => return self.argument_access(at, target, n, frame),
            _ => return None,
        };
        Some(format!("{verb} {size} at {} of {}", at_offset(reg, off), self.object(reg)))
    }

    /// What a helper does with the memory of its argument.
    fn argument_access(&self, at: u32, target: CallTarget, n: u8, frame: &Frame) -> Option<String> {
        let reg = frame.regs.get(usize::from(n))?;
        let CallTarget::Helper(id) = target else { return None };
        let proto = helper::helper(u32::try_from(id).ok()?)?;
        let index = usize::from(n.checked_sub(1)?);
        let map = frame.regs.get(1).and_then(|r| self.map_of(r));
        let size = match proto.args.get(index)?.kind {
            ArgKind::PtrToMapKey => bytes(u64::from(map?.key_size)),
            ArgKind::PtrToMapValue => bytes(u64::from(map?.value_size)),
            ArgKind::PtrToMem => {
                let size = frame.regs.get(usize::from(n) + 1).filter(|r| r.is_scalar())?;
                match size.bounds.const_value() {
                    Some(v) => bytes(v),
                    None => format!("{} bytes", range(size)),
                }
            }
            _ => return None,
        };
        let callee = self.callee(at, target);
        Some(format!("lets {callee} access {size} at {} of {}", at_offset(reg, 0), self.object(reg)))
    }

    /// An operand by name and range: `r2 (0..255)`, `16`.
    pub(super) fn operand(&self, src: Operand, frame: &Frame) -> String {
        match src {
            Operand::Imm(v) => v.to_string(),
            Operand::Reg(r) => {
                let reg = &frame.regs[r.index()];
                match reg.base() {
                    Base::Scalar => match reg.bounds.const_value() {
                        Some(v) => v.cast_signed().to_string(),
                        None => format!("r{} ({})", r.number(), range(reg)),
                    },
                    _ => format!("r{} ({})", r.number(), self.describe(reg)),
                }
            }
        }
    }
}

fn at_offset(reg: &Reg, off: i64) -> String {
    let text = offset(reg, off);
    if text == "without bound" { "an offset without bound".to_owned() } else { format!("offset {text}") }
}
