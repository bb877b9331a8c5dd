//! Pointers that are kept in map values and in objects.
//!
//! Owns loads and stores of such fields, and `bpf_kptr_xchg`. Invariant: what is put into a field is of the field's type and
//! owned by the path; what is loaded from one is protected by an RCU section, or not to be trusted. Kernel counterpart:
//! `check_map_kptr_access`, `process_kptr_func`, `map_kptr_match_type`, kernel/bpf/verifier.c, 6.18.

use skep_abi::kfunc::KERNEL_TYPES;
use skep_abi::{Insn, Operand, Reg as R};

use crate::check::Access;
use crate::check::arg::CallMeta;
use crate::env::{Check, Env, reject};
use crate::print::type_name;
use crate::spec::{FieldKind, FieldTarget, ObjectType, RecordField};
use crate::state::reg::{Base, Extra, Reg, RegType, flags};

/// Kernel types that a grace period protects.
const RCU_PROTECTED: &[&str] = &["task_struct", "cgroup", "bpf_cpumask", "bpf_crypto_ctx", "prog_test_ref_kfunc"];

impl Env<'_> {
    /// A load from a pointer field, or a store to it.
    pub(crate) fn check_kptr_access(
        &mut self,
        holder: &Reg,
        field: RecordField,
        access: Access,
        load: Option<R>,
        value: Option<R>,
    ) -> Check {
        let plain = matches!(self.insn_at(self.insn), Some(Insn::Load { sign_extend: false, .. } | Insn::Store { .. }));
        if !plain {
            let text = "kptr in map can only be accessed using BPF_MEM instruction mode";
            return Err(reject!(self, EACCES, "{text}"));
        }
        if access == Access::Read {
            let Some(dst) = load else { return Ok(()) };
            if field.kind == FieldKind::Uptr {
                return Err(crate::env::unsupported!(self, "uptr loads are not supported"));
            }
            let loaded = self.loaded_kptr(field, holder);
            self.set_reg(dst.number(), loaded);
            return Ok(());
        }
        match field.kind {
            FieldKind::KptrRef | FieldKind::KptrPercpu => {
                return Err(reject!(self, EACCES, "store to referenced kptr disallowed"));
            }
            FieldKind::Uptr => return Err(reject!(self, EACCES, "store to uptr disallowed")),
            _ => {}
        }
        if let Some(value) = value {
            if !self.reg(value.number()).is_null() {
                self.check_kptr_type(field, value.number(), false)?;
                self.need("stores to unreferenced kptrs");
            }
        } else if let Some(Insn::Store { src: Operand::Imm(imm), .. }) = self.insn_at(self.insn)
            && imm != 0
        {
            let off = field.offset;
            return Err(reject!(self, EACCES, "BPF_ST imm must be 0 when storing to kptr at off={off}"));
        }
        Ok(())
    }

    /// What a load from the field gives.
    fn loaded_kptr(&mut self, field: RecordField, holder: &Reg) -> Reg {
        let mut ty = RegType::of(Base::BtfId).with(flags::MAYBE_NULL);
        let FieldTarget::Object(object) = field.target else { return self.unknown() };
        let protected = match object {
            ObjectType::Local(_) => true,
            ObjectType::Kernel(number) => {
                KERNEL_TYPES.get(usize::from(number)).is_some_and(|name| RCU_PROTECTED.contains(name))
            }
        };
        let safe = field.kind == FieldKind::KptrPercpu || (field.kind == FieldKind::KptrRef && protected);
        if safe && self.in_rcu_section() {
            ty = ty.with(flags::RCU);
            if field.kind == FieldKind::KptrPercpu {
                ty = ty.with(flags::PERCPU);
            } else if let ObjectType::Local(id) = object {
                ty = ty.with(flags::ALLOC);
                let is_node = |f: &RecordField| matches!(f.kind, FieldKind::ListNode | FieldKind::RbNode);
                if self.struct_record(id.0).iter().any(is_node) {
                    ty = ty.with(flags::NON_OWN);
                }
            }
        } else {
            ty = ty.with(flags::UNTRUSTED);
        }
        self.need_kptr(field, holder);
        Reg { id: self.new_id(), ..Reg::pointer(ty, extra_of(object)) }
    }

    /// Notes fields that hold what is not to be had here: objects of the kernel, one object for each CPU, pointers that nobody
    /// owns; and maps whose values cannot give back what they own.
    fn need_kptr(&mut self, field: RecordField, holder: &Reg) {
        use skep_abi::MapType as M;
        if matches!(field.target, FieldTarget::Object(ObjectType::Kernel(_))) {
            self.need("kptrs of the kernel's objects");
        } else if field.kind != FieldKind::KptrRef {
            self.need("kptrs that are per-CPU or not owned");
        }
        if self.map_of(holder).is_some_and(|shape| !matches!(shape.map_type, M::Array | M::Hash)) {
            self.need("kptrs in maps other than arrays and hashes");
        }
    }

    /// A grace period cannot end here.
    pub(crate) fn in_rcu_section(&self) -> bool {
        self.cur.res.rcu > 0 || self.cur.res.locks > 0 || !self.cur.sleepable
    }

    /// The field that `bpf_kptr_xchg` exchanges.
    pub(crate) fn check_kptr_dest(&mut self, n: u8, meta: &mut CallMeta) -> Check {
        let reg = *self.reg(n);
        if let Some(shape) = self.map_of(&reg)
            && shape.btf_value_type_id == 0
        {
            let map = &shape.name;
            return Err(reject!(self, EINVAL, "map '{map}' has to have BTF in order to use bpf_kptr_xchg"));
        }
        let Some(var) = reg.bounds.const_value() else {
            let text = "doesn't have constant offset. kptr has to be at the constant offset";
            return Err(reject!(self, EINVAL, "R{n} {text}"));
        };
        let record = self.record_of(&reg);
        let is_kptr =
            |f: &RecordField| matches!(f.kind, FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu);
        if !record.iter().any(is_kptr) {
            return Err(reject!(self, EINVAL, "R{n} has no valid kptr"));
        }
        let off = i64::from(reg.off).wrapping_add(var.cast_signed());
        let Some(field) = record.iter().copied().find(|f| is_kptr(f) && i64::from(f.offset) == off) else {
            return Err(reject!(self, EACCES, "off={off} doesn't point to kptr"));
        };
        if field.kind == FieldKind::KptrUnref {
            return Err(reject!(self, EACCES, "off={off} kptr isn't referenced kptr"));
        }
        self.need_kptr(field, &reg);
        meta.kptr = Some(field);
        Ok(())
    }

    /// Register `n` may be put into the field.
    pub(crate) fn check_kptr_type(&mut self, field: RecordField, n: u8, released: bool) -> Check {
        let reg = *self.reg(n);
        let FieldTarget::Object(object) = field.target else {
            return Err(crate::env::internal!(self, "a kptr to nothing"));
        };
        let mut allowed = flags::MAYBE_NULL;
        match reg.extra {
            Extra::Kernel(_) => {
                allowed |= flags::TRUSTED | flags::RCU;
                if field.kind == FieldKind::KptrUnref {
                    allowed |= flags::UNTRUSTED;
                }
            }
            _ => {
                allowed |= flags::ALLOC;
                if field.kind == FieldKind::KptrPercpu {
                    allowed |= flags::PERCPU;
                }
            }
        }
        let fits = reg.base() == Base::BtfId && reg.ty.flags & !allowed == 0;
        if fits && !released {
            let fixed = Reg { off: reg.off.min(0), ..reg };
            self.check_unmodified(&fixed, n)?;
        }
        let same = Self::object_type(&reg) == Some(object) && reg.off == 0;
        if fits && same {
            return Ok(());
        }
        let (name, wanted) = (type_name(reg.ty), self.object_name(object));
        let have = if reg.base() == Base::BtfId { self.btf_type_name(&reg) } else { String::new() };
        let mut text = format!("invalid kptr access, R{n} type={name}{have} expected=ptr_{wanted}");
        if field.kind == FieldKind::KptrUnref {
            text += &format!(" or untrusted_ptr_{wanted}");
        }
        Err(reject!(self, EACCES, "{text}"))
    }

    /// What `bpf_kptr_xchg` returns.
    pub(crate) fn exchanged_kptr(&mut self, meta: &CallMeta) -> Check<Reg> {
        let Some((field, FieldTarget::Object(object))) = meta.kptr.map(|field| (field, field.target)) else {
            return Err(crate::env::internal!(self, "exchange with no kptr"));
        };
        let mut ty = RegType::of(Base::BtfId).with(flags::MAYBE_NULL);
        if matches!(object, ObjectType::Local(_)) {
            ty = ty.with(flags::ALLOC);
            if field.kind == FieldKind::KptrPercpu {
                ty = ty.with(flags::PERCPU);
            }
        }
        if let ObjectType::Local(id) = object {
            self.struct_record(id.0);
        }
        Ok(Reg::pointer(ty, extra_of(object)))
    }

    /// The reference in r2 goes into the field. A per-CPU object stays readable under RCU.
    pub(crate) fn give_kptr(&mut self, id: u32) -> bool {
        if self.in_rcu_section() {
            self.cur.for_each_reg(
                |r| r.is_pointer() && r.ref_obj_id == id && r.ty.is_alloc() && r.ty.has(flags::PERCPU),
                |r| {
                    r.ref_obj_id = 0;
                    r.ty = r.ty.without(flags::ALLOC).with(flags::RCU);
                },
            );
        }
        self.release_reference(id)
    }
}

fn extra_of(object: ObjectType) -> Extra {
    match object {
        ObjectType::Local(id) => Extra::Btf(id.0),
        ObjectType::Kernel(number) => Extra::Kernel(number),
    }
}
