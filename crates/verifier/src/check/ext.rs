//! Extension programs (`freplace`): what may take the place of a function of a verified program.
//!
//! Owns the comparison of the two functions. Invariant: whatever the callers of the old function were verified with also
//! holds for the new one: the arguments, packet pointers that survive the call, whether it may sleep. The new function is
//! then verified like a global function, with the context and the helpers of the program that it extends. Kernel
//! counterpart: `bpf_check_attach_target`, kernel/bpf/verifier.c; `btf_check_func_type_match`, kernel/bpf/btf.c, 6.18.

use skep_abi::{AttachType, ProgType};
use skep_btf::{Btf, FuncProto, Kind, Linkage, Type, TypeData, TypeId};

use crate::env::{Check, Env, reject};
use crate::verified::Subprog;

impl Env<'_> {
    /// Tests that the program may take the place of its target, if it has one.
    pub(crate) fn check_ext_target(&mut self) -> Check {
        let Some(target) = self.spec.target else { return Ok(()) };
        let Some(old) = target.subprogs.iter().find(|sub| sub.type_id == target.func.0 && sub.type_id != 0) else {
            let name = target.btf.name(target.func);
            return Err(reject!(self, EINVAL, "Subprog {name} doesn't exist"));
        };
        self.check_ext_facts(old)?;
        self.check_ext_types(target.btf, target.func)
    }

    fn check_ext_facts(&mut self, old: &Subprog) -> Check {
        if !old.reliable {
            return Err(reject!(self, EINVAL, "Cannot replace static functions"));
        }
        let own = &self.subprogs[0];
        let (changes_pkt_data, might_sleep) = (own.changes_pkt_data, own.might_sleep);
        if changes_pkt_data && !old.changes_pkt_data {
            return Err(reject!(self, EINVAL, "Extension program changes packet data, while original does not"));
        }
        if might_sleep && !old.might_sleep {
            return Err(reject!(self, EINVAL, "Extension program may sleep, while original does not"));
        }
        match (self.spec.prog_type, self.spec.attach_type) {
            (ProgType::Ext, _) => Err(reject!(self, EINVAL, "Cannot recursively attach")),
            (ProgType::Tracing, AttachType::TraceFentry | AttachType::TraceFexit) => {
                Err(reject!(self, EINVAL, "Cannot extend fentry/fexit"))
            }
            _ => Ok(()),
        }
    }

    /// The prototypes of the two functions are alike.
    fn check_ext_types(&mut self, old_btf: &Btf, old: TypeId) -> Check {
        let Some((btf, new)) = self.spec.btf.zip(self.spec.func_info.first().map(|info| info.type_id)) else {
            return Err(reject!(self, EINVAL, "Program extension requires BTF"));
        };
        let (new_name, old_name) = (btf.name(new), old_btf.name(old));
        for (btf, func, name) in [(btf, new, new_name), (old_btf, old, old_name)] {
            let is_global = |ty: &Type| matches!(ty.data, TypeData::Func { linkage: Linkage::Global, .. });
            if !btf.get(func).is_some_and(is_global) {
                return Err(reject!(self, EINVAL, "{name}() is not a global function"));
            }
        }
        let nothing = FuncProto { ret: TypeId::VOID, params: Vec::new() };
        let new_proto = btf.func_proto(new).unwrap_or(&nothing);
        let old_proto = old_btf.func_proto(old).unwrap_or(&nothing);
        let (new_args, old_args) = (new_proto.params.len(), old_proto.params.len());
        if new_args != old_args {
            let text = format!("{new_name}() has {new_args} args while {old_name}() has {old_args} args");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        let (new_ret, old_ret) = (btf.resolve(new_proto.ret), old_btf.resolve(old_proto.ret));
        if !same_shape(btf, new_ret, old_btf, old_ret) {
            let (new_kind, old_kind) = (kind(btf, new_ret), kind(old_btf, old_ret));
            let text = format!("Return type {new_kind} of {new_name}() doesn't match type {old_kind} of {old_name}()");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        for (i, (param, old_param)) in new_proto.params.iter().zip(&old_proto.params).enumerate() {
            let pair = [(btf, btf.resolve(param.ty), new_name), (old_btf, old_btf.resolve(old_param.ty), old_name)];
            self.check_ext_arg(i, pair)?;
        }
        Ok(())
    }

    /// Argument `i`: types and function of the new and of the old.
    fn check_ext_arg(&mut self, i: usize, [new, old]: [(&Btf, TypeId, &str); 2]) -> Check {
        let ((btf, ty, name), (old_btf, old_ty, old_name)) = (new, old);
        let (new_kind, old_kind) = (kind(btf, ty), kind(old_btf, old_ty));
        if !same_shape(btf, ty, old_btf, old_ty) {
            let text = format!("arg{i} in {name}() is {new_kind} while {old_name}() has {old_kind}");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        let has_size = !matches!(btf.kind(ty), Kind::Ptr | Kind::Array | Kind::Void | Kind::FuncProto | Kind::Fwd);
        if has_size
            && let (Ok(size), Ok(old_size)) = (btf.size_of(ty), old_btf.size_of(old_ty))
            && size != old_size
        {
            let text = format!("arg{i} in {name}() has size {size} while {old_name}() has {old_size}");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        if matches!(btf.kind(ty), Kind::Int | Kind::Enum | Kind::Enum64) {
            return Ok(());
        }
        let (Some(to), Some(old_to)) = (btf.pointee(ty), old_btf.pointee(old_ty)) else {
            return Err(reject!(self, EINVAL, "arg{i} in {name}() has unrecognized type"));
        };
        let (to, old_to) = (btf.resolve(to), old_btf.resolve(old_to));
        for (btf, to, name) in [(btf, to, name), (old_btf, old_to, old_name)] {
            if btf.composite(to).is_none() {
                return Err(reject!(self, EINVAL, "arg{i} in {name}() is not a pointer to context"));
            }
        }
        let (to, old_to) = (btf.name(to), old_btf.name(old_to));
        if to != old_to {
            let text = format!("arg{i} {name}(struct {to} *) doesn't match {old_name}(struct {old_to} *)");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        Ok(())
    }

    /// The new function assumes no more of its arguments than the old one's callers were tested for. The kernel compares the
    /// names of structs alone, and takes a program that reads beyond what is passed.
    pub(crate) fn check_ext_signature(&mut self) -> Check {
        let Some(target) = self.spec.target else { return Ok(()) };
        let old = target.subprogs.iter().find(|sub| sub.type_id == target.func.0);
        let Some(passed) = old.and_then(|old| old.signature.as_ref()) else {
            return Err(crate::env::internal!(self, "the target's arguments are not known"));
        };
        let own = self.signature(0)?;
        if let Some(i) = own.first_beyond(passed) {
            let (name, old_name) = (self.subprogs[0].name.clone(), target.btf.name(target.func));
            let text = format!("arg#{i} of {name}() needs more than callers of {old_name}() pass");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        Ok(())
    }
}

/// The kernel's name of a kind.
fn kind(btf: &Btf, id: TypeId) -> &'static str {
    match btf.kind(id) {
        Kind::Void => "UNKNOWN",
        kind => kind.as_str(),
    }
}

/// Whether two types have the same kind, number of parts and kind flag (`btf_type::info`).
fn same_shape(a: &Btf, a_id: TypeId, b: &Btf, b_id: TypeId) -> bool {
    let parts = |btf: &Btf, id| match btf.get(id).map(|ty| &ty.data) {
        Some(TypeData::Struct(composite) | TypeData::Union(composite)) => {
            (composite.members.len(), composite.kind_flag)
        }
        Some(TypeData::Enum(values) | TypeData::Enum64(values)) => (values.values.len(), values.signed),
        Some(TypeData::Fwd { is_union }) => (0, *is_union),
        _ => (0, false),
    };
    a.kind(a_id) == b.kind(b_id) && parts(a, a_id) == parts(b, b_id)
}
