//! Global functions: verified once, by their prototype in BTF.
//!
//! Owns what a caller must pass and what the function may assume. Invariant: the two are the same. Kernel counterpart:
//! `btf_prepare_func_args`, kernel/bpf/btf.c, and `btf_check_func_arg_match`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Errno;
use skep_abi::kfunc::{KERNEL_TYPES, kernel_type};
use skep_btf::{Btf, Kind, Linkage, TypeData, TypeId};

use crate::check::Access;
use crate::check::arg::may_have_offset;
use crate::env::{Check, Env, Reject, internal, log, reject};
use crate::print::type_name;
use crate::state::reg::{Base, DynptrKind, Extra, Reg, RegType, flags};
use crate::verified::RejectionKind;

/// Size of `struct bpf_dynptr`.
const DYNPTR_SIZE: u32 = 16;

/// What one argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arg {
    /// Any number.
    Scalar,
    /// The context.
    Ctx,
    /// This many bytes of memory.
    Mem { size: u32, nullable: bool },
    /// A dynptr that is only read.
    Dynptr,
    /// A kernel object of this type, trusted.
    Object { name: &'static str, nullable: bool },
    /// A pointer into the arena, or a number that becomes one.
    Arena,
}

/// What the context is called in a prototype.
#[derive(Clone, Copy)]
struct CtxNames<'a> {
    /// The struct's name.
    own: Option<&'a str>,
    /// The registers of a kprobe.
    is_kprobe: bool,
    /// The function handles exceptions.
    of_handler: bool,
}

/// Arguments of a global function: what its callers pass, and what it may assume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Signature {
    pub(crate) args: Vec<Arg>,
}

impl Signature {
    /// Reads the signature of function `func`, which runs in programs whose context goes by these names; tags of its arguments
    /// and dynptrs among them count where they are `tagged`. Logs nothing.
    fn read(btf: &Btf, func: TypeId, ctx: CtxNames<'_>, tagged: bool) -> Check<Self> {
        let name = btf.name(func);
        let Some(proto) = btf.func_proto(func) else {
            return Err(refusal(RejectionKind::Internal, format!("verifier bug: Invalid type of function {name}()")));
        };
        if proto.params.len() > 5 {
            let n = proto.params.len();
            return Err(unsafe_type(format!("Global function {name}() with {n} > 5 args. Buggy compiler.")));
        }
        let ret = btf.resolve(proto.ret);
        if !matches!(btf.kind(ret), Kind::Int | Kind::Enum | Kind::Enum64) {
            let what = if ctx.of_handler { "doesn't return scalar" } else { "return value not void or scalar" };
            return Err(unsafe_type(format!("Global function {name}() {what}. Only those are supported.")));
        }
        let mut args = Vec::new();
        for (i, param) in proto.params.iter().enumerate() {
            let tags: Vec<&str> = btf
                .decl_tags(func, i32::try_from(i).unwrap_or(-1))
                .filter_map(|tag| tag.strip_prefix("arg:"))
                .filter(|_| tagged)
                .collect();
            let arg = read_arg(btf, i, param.ty, &tags, name, ctx)?;
            args.push(match arg {
                Arg::Dynptr if !tagged => Arg::Mem { size: DYNPTR_SIZE, nullable: true },
                arg => arg,
            });
        }
        Ok(Self { args })
    }

    /// The index of the first argument that a function with this signature assumes more of than callers of `other` ensure.
    pub(crate) fn first_beyond(&self, other: &Self) -> Option<usize> {
        let fits = |(mine, theirs): (&Arg, &Arg)| match (*mine, *theirs) {
            (Arg::Mem { size, nullable }, Arg::Mem { size: passed, nullable: may_be_null }) => {
                size <= passed && (nullable || !may_be_null)
            }
            (mine, theirs) => mine == theirs,
        };
        self.args.iter().zip(&other.args).position(|pair| !fits(pair))
    }
}

fn refusal(kind: RejectionKind, message: String) -> Box<Reject> {
    let errno = match kind {
        RejectionKind::Internal => Errno::EFAULT,
        RejectionKind::Unsupported => Errno::ENOTSUPP,
        _ => Errno::EINVAL,
    };
    Box::new(Reject { errno, kind, message })
}

fn unsafe_type(message: String) -> Box<Reject> {
    refusal(RejectionKind::Safety, message)
}

fn read_arg(btf: &Btf, i: usize, ty: TypeId, tags: &[&str], name: &str, ctx: CtxNames<'_>) -> Check<Arg> {
    if let Some(tag) = tags.iter().find(|tag| !matches!(**tag, "ctx" | "nonnull" | "nullable" | "arena" | "trusted")) {
        return Err(refusal(RejectionKind::Unsupported, format!("arg#{i} tag '{tag}' is not supported")));
    }
    let resolved = btf.resolve(ty);
    if btf.kind(resolved) != Kind::Ptr && !tags.is_empty() {
        return Err(unsafe_type(format!("arg#{i} has pointer tag, but is not a pointer type")));
    }
    let to = match (btf.kind(resolved), btf.pointee(resolved)) {
        (Kind::Int | Kind::Enum | Kind::Enum64, _) => return Ok(Arg::Scalar),
        (Kind::Ptr, Some(to)) => to,
        (kind, _) => return Err(unsafe_type(format!("Arg#{i} type {kind} in {name}() is not supported yet."))),
    };
    // The registers of a kprobe go by a name that each architecture defines for itself.
    let typedef = btf.name(btf.skip_qualifiers(to));
    let to = btf.resolve(to);
    let (to_name, to_kind) = (btf.name(to), btf.kind(to));
    let is_struct = |name: &str| to_kind == Kind::Struct && to_name == name;
    let is_registers = ctx.is_kprobe && (typedef == "bpf_user_pt_regs_t" || is_struct("pt_regs"));
    let is_ctx = is_registers || ctx.own.is_some_and(is_struct);
    let others = unsafe_type(format!("arg#{i} has invalid combination of tags"));
    if tags.contains(&"ctx") || is_ctx {
        return if tags.iter().all(|tag| *tag == "ctx") { Ok(Arg::Ctx) } else { Err(others) };
    }
    if to_name == "bpf_dynptr" && to_kind == Kind::Struct {
        if !tags.is_empty() {
            return Err(others);
        }
        return Ok(Arg::Dynptr);
    }
    if tags.contains(&"trusted") {
        if tags.contains(&"nonnull") {
            return Err(others);
        }
        // Types that differ for CO-RE alone go by what is before three underscores.
        let base = to_name.split("___").next().unwrap_or_default();
        let known = KERNEL_TYPES.iter().find(|known| **known == base && to_kind == Kind::Struct);
        let text = format!("arg#{i} type {to_kind} {to_name} is not supported");
        let name = known.ok_or_else(|| refusal(RejectionKind::Unsupported, text))?;
        return Ok(Arg::Object { name, nullable: tags.contains(&"nullable") });
    }
    if tags.contains(&"arena") {
        if tags.iter().any(|tag| *tag != "arena") {
            return Err(unsafe_type(format!("arg#{i} arena cannot be combined with any other tags")));
        }
        return Ok(Arg::Arena);
    }
    if tags.contains(&"nullable") {
        return Err(others);
    }
    let Ok(size) = btf.size_of(to) else {
        let text = format!("arg#{i} reference type('{to_kind} {to_name}') size cannot be determined");
        return Err(unsafe_type(text));
    };
    Ok(Arg::Mem { size, nullable: !tags.contains(&"nonnull") })
}

impl Env<'_> {
    /// Reads the signature of subprogram `sub`, once.
    pub(crate) fn signature(&mut self, sub: usize) -> Check<Signature> {
        if let Some(args) = &self.subprogs[sub].args {
            return Ok(args.clone());
        }
        let func = self.subprogs[sub].func_id;
        let Some(btf) = self.spec.btf else { return Err(internal!(self, "global function without BTF")) };
        let ctx = CtxNames { of_handler: self.subprogs[sub].is_exception_cb, ..self.ctx_names() };
        let signature = Signature::read(btf, TypeId(func), ctx, self.options.profile.argument_tags)
            .map_err(|refused| self.reject(refused.errno, refused.kind, refused.message))?;
        self.subprogs[sub].args = Some(signature.clone());
        Ok(signature)
    }

    /// Whether the program's own prototype is that of a function of its context, which an extension program may rely on.
    pub(crate) fn judge_main_prototype(&mut self) {
        let (func, ctx) = (self.subprogs[0].func_id, self.ctx_names());
        let Some(btf) = self.spec.btf.filter(|_| func != 0 && self.spec.target.is_none()) else { return };
        let tagged = self.options.profile.argument_tags;
        let signature =
            Signature::read(btf, TypeId(func), ctx, tagged).ok().filter(|signature| signature.args == [Arg::Ctx]);
        self.subprogs[0].unreliable = signature.is_none();
        self.subprogs[0].args = signature;
    }

    fn ctx_names(&self) -> CtxNames<'_> {
        let is_kprobe = self.spec.prog_type == skep_abi::ProgType::Kprobe;
        CtxNames { own: self.ctx_btf_name(), is_kprobe, of_handler: false }
    }

    /// Whether a `FUNC` of the program's BTF can be seen by other objects.
    pub(crate) fn is_global_function(&self, func: u32) -> bool {
        let ty = self.spec.btf.and_then(|btf| btf.get(TypeId(func)));
        ty.is_some_and(|ty| matches!(ty.data, TypeData::Func { linkage: Linkage::Global, .. }))
    }

    /// The registers at the entry of a global function, or of a callback verified on its own.
    pub(crate) fn enter_global(&mut self, sub: usize) -> Check {
        let signature = self.signature(sub)?;
        for (i, arg) in signature.args.iter().enumerate() {
            let reg = match *arg {
                Arg::Scalar | Arg::Arena => self.unknown(),
                Arg::Ctx => Reg::pointer(RegType::of(Base::Ctx), Extra::None),
                Arg::Mem { size, nullable } => {
                    let flag = if nullable { flags::MAYBE_NULL } else { 0 };
                    let mut reg = Reg::pointer(RegType::of(Base::Mem).with(flag), Extra::MemSize(size));
                    reg.id = if nullable { self.new_id() } else { 0 };
                    reg
                }
                Arg::Object { name, nullable } => {
                    let null = if nullable { flags::MAYBE_NULL } else { 0 };
                    let ty = RegType::of(Base::BtfId).with(flags::TRUSTED | null);
                    let number = kernel_type(name).unwrap_or(u16::MAX);
                    Reg { id: self.new_id(), ..Reg::pointer(ty, Extra::Kernel(number)) }
                }
                Arg::Dynptr => {
                    let extra = Extra::Dynptr { kind: DynptrKind::Local, first: true };
                    let id = self.new_id();
                    Reg { id, ..Reg::pointer(RegType::of(Base::Dynptr), extra) }
                }
            };
            self.cur.frame_mut().regs[i + 1] = reg;
        }
        Ok(())
    }

    /// What a caller passes fits the signature.
    pub(crate) fn check_global_args(&mut self, sub: usize) -> Check {
        let signature = self.signature(sub)?;
        for (i, arg) in signature.args.iter().enumerate() {
            let n = u8::try_from(i + 1).unwrap_or(u8::MAX);
            let reg = *self.reg(n);
            match *arg {
                Arg::Scalar => {
                    if !reg.is_scalar() {
                        return Err(reject!(self, EINVAL, "R{n} is not a scalar"));
                    }
                }
                Arg::Arena => {
                    if reg.base() != Base::Arena && !reg.is_scalar() {
                        return Err(reject!(self, EINVAL, "R{n} is not a pointer to arena or scalar."));
                    }
                }
                Arg::Ctx => {
                    if !may_have_offset(reg.base()) {
                        self.check_unmodified(&reg, n)?;
                    }
                    if reg.base() != Base::Ctx {
                        return Err(reject!(self, EINVAL, "arg#{i} expects pointer to ctx"));
                    }
                }
                Arg::Mem { size, nullable } => {
                    if reg.is_null() && nullable {
                        continue;
                    }
                    if self.subprogs[sub].changes_pkt_data && self.may_be_of_a_packet(&reg) {
                        // The kernel takes it for other memory, which stays where it is.
                        self.need("a packet's memory in a function that may move the packet");
                    }
                    self.check_memory_arg(n, &reg, size, nullable).map_err(|refused| match refused.kind {
                        RejectionKind::Safety => Box::new(Reject { errno: Errno::EINVAL, ..*refused }),
                        _ => refused,
                    })?;
                }
                Arg::Object { nullable: true, .. } if reg.is_null() => {}
                Arg::Object { name, nullable } => self.check_trusted_arg(n, name, nullable)?,
                Arg::Dynptr => {
                    if !may_have_offset(reg.base()) {
                        self.check_unmodified(&reg, n)?;
                    }
                    let arg = skep_abi::helper::ArgType::new(
                        skep_abi::helper::ArgKind::PtrToDynptr,
                        skep_abi::helper::TypeFlags::RDONLY,
                    );
                    self.check_dynptr_arg(n, arg, &mut crate::check::arg::CallMeta::default())?;
                }
            }
        }
        Ok(())
    }

    /// `size` bytes that the function may read and write.
    pub(crate) fn check_memory_arg(&mut self, n: u8, reg: &Reg, size: u32, nullable: bool) -> Check {
        if reg.ty.maybe_null() && !nullable {
            return Err(reject!(self, EINVAL, "arg#{} is expected to be non-NULL", n - 1));
        }
        let bare = reg.ty.without(flags::MAYBE_NULL);
        let saved = *reg;
        self.reg_mut(n).ty = bare;
        let read = self.check_helper_mem(n, size, Access::Read, true, None);
        let written = match read {
            Ok(()) => self.check_helper_mem(n, size, Access::Write, true, None),
            Err(e) => Err(e),
        };
        *self.reg_mut(n) = saved;
        if written.is_err() && self.level2() {
            let name = type_name(saved.ty);
            log!(self, "arg#{} of type {name} does not fit\n", n - 1);
        }
        written
    }
}
