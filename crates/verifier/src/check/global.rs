//! Global functions: verified once, by their prototype in BTF.
//!
//! Owns what a caller must pass and what the function may assume. Invariant: the two are the same. Kernel counterpart:
//! `btf_prepare_func_args`, kernel/bpf/btf.c, and `btf_check_func_arg_match`, kernel/bpf/verifier.c, 6.18.

use skep_btf::{Btf, Kind, TypeData, TypeId};

use crate::check::Access;
use crate::env::{Check, Env, internal, log, reject};
use crate::print::type_name;
use crate::state::reg::{Base, DynptrKind, Extra, Reg, RegType, flags};

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
}

/// Arguments of a global function.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Signature {
    pub(crate) args: Vec<Arg>,
}

impl Env<'_> {
    /// Reads the signature of subprogram `sub`, once.
    pub(crate) fn signature(&mut self, sub: usize) -> Check<Signature> {
        if let Some(args) = &self.subprogs[sub].args {
            return Ok(args.clone());
        }
        let func = self.subprogs[sub].func_id;
        let Some(btf) = self.spec.btf else { return Err(internal!(self, "global function without BTF")) };
        let name = btf.name(TypeId(func)).to_owned();
        let Some(proto) = btf.func_proto(TypeId(func)).cloned() else {
            return Err(internal!(self, "Invalid type of function {name}()"));
        };
        if proto.params.len() > 5 {
            let n = proto.params.len();
            return Err(reject!(self, EINVAL, "Global function {name}() with {n} > 5 args. Buggy compiler."));
        }
        let ret = btf.resolve(proto.ret);
        if !matches!(btf.kind(ret), Kind::Int | Kind::Enum | Kind::Enum64) {
            return Err(reject!(
                self,
                EINVAL,
                "Global function {name}() return value not void or scalar. Only those are supported."
            ));
        }
        let mut args = Vec::new();
        for (i, param) in proto.params.iter().enumerate() {
            let tags: Vec<String> = btf
                .decl_tags(TypeId(func), i32::try_from(i).unwrap_or(-1))
                .filter_map(|t| t.strip_prefix("arg:").map(str::to_owned))
                .collect();
            args.push(self.read_arg(btf, i, param.ty, &tags, &name)?);
        }
        let signature = Signature { args };
        self.subprogs[sub].args = Some(signature.clone());
        Ok(signature)
    }

    fn read_arg(&mut self, btf: &Btf, i: usize, ty: TypeId, tags: &[String], name: &str) -> Check<Arg> {
        let has = |tag: &str| tags.iter().any(|t| t == tag);
        for tag in tags {
            if !matches!(tag.as_str(), "ctx" | "nonnull" | "nullable") {
                return Err(crate::env::unsupported!(self, "arg#{i} tag '{tag}' is not supported"));
            }
        }
        let resolved = btf.resolve(ty);
        match btf.kind(resolved) {
            Kind::Int | Kind::Enum | Kind::Enum64 => return Ok(Arg::Scalar),
            Kind::Ptr => {}
            _ => {
                let kind = btf.kind(resolved).as_str();
                return Err(reject!(self, EINVAL, "Arg#{i} type {kind} in {name}() is not supported yet."));
            }
        }
        let Some(TypeData::Ptr(to)) = btf.get(resolved).map(|t| t.data.clone()) else {
            return Err(internal!(self, "Arg#{i} of {name}()"));
        };
        // The registers of a kprobe go by a name that each architecture defines for itself.
        let typedef = btf.name(btf.skip_qualifiers(to));
        let to = btf.resolve(to);
        let to_name = btf.name(to);
        let kprobe = self.spec.prog_type == skep_abi::ProgType::Kprobe;
        if kprobe && (typedef == "bpf_user_pt_regs_t" || (to_name == "pt_regs" && btf.kind(to) == Kind::Struct)) {
            return Ok(Arg::Ctx);
        }
        if has("ctx") || self.is_ctx_type(to_name, btf.kind(to)) {
            return Ok(Arg::Ctx);
        }
        if to_name == "bpf_dynptr" && btf.kind(to) == Kind::Struct {
            return Ok(Arg::Dynptr);
        }
        let Ok(size) = btf.size_of(to) else {
            let text = format!("arg#{i} reference type('{} {to_name}') size cannot be determined", btf.kind(to));
            return Err(reject!(self, EINVAL, "{text}"));
        };
        Ok(Arg::Mem { size, nullable: !has("nonnull") })
    }

    fn is_ctx_type(&self, name: &str, kind: Kind) -> bool {
        kind == Kind::Struct && self.ctx_btf_name().is_some_and(|own| own == name)
    }

    /// The registers at the entry of a global function, or of a callback verified on its own.
    pub(crate) fn enter_global(&mut self, sub: usize) -> Check {
        let signature = self.signature(sub)?;
        for (i, arg) in signature.args.iter().enumerate() {
            let reg = match *arg {
                Arg::Scalar => self.unknown(),
                Arg::Ctx => Reg::pointer(RegType::of(Base::Ctx), Extra::None),
                Arg::Mem { size, nullable } => {
                    let flag = if nullable { flags::MAYBE_NULL } else { 0 };
                    let mut reg = Reg::pointer(RegType::of(Base::Mem).with(flag), Extra::MemSize(size));
                    reg.id = if nullable { self.new_id() } else { 0 };
                    reg
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
                Arg::Ctx => {
                    self.check_unmodified(&reg, n)?;
                    if reg.base() != Base::Ctx {
                        return Err(reject!(self, EINVAL, "arg#{i} expects pointer to ctx"));
                    }
                }
                Arg::Mem { size, nullable } => {
                    if reg.is_null() && nullable {
                        continue;
                    }
                    self.check_memory_arg(n, &reg, size, nullable)?;
                }
                Arg::Dynptr => {
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
