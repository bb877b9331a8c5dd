//! Objects reached by BTF type: the program's own, and the kernel's.
//!
//! Owns their accesses. Invariant: an access to an object of the program lies within one member of its struct, and touches no
//! field that only helpers may. This engine has no kernel whose objects a program could walk, so loads from them are refused
//! with one sentence. Kernel counterpart: `check_ptr_to_btf_access`, kernel/bpf/verifier.c; `btf_struct_access`,
//! kernel/bpf/btf.c, 6.18.

use skep_abi::Reg as R;
use skep_abi::ctx::{KernelFieldKind, KernelStruct, kernel_struct};
use skep_abi::kfunc::{KERNEL_TYPES, kernel_type};
use skep_btf::{Btf, Kind, TypeData, TypeId};

use crate::check::Access;
use crate::env::{Check, Env, reject, unsupported};
use crate::state::reg::{Base, Extra, Reg, RegType, flags};

/// Structs within structs that a struct of scalars may have.
const MAX_NESTING: u32 = 3;

impl Env<'_> {
    /// Name of a register's object type.
    pub(crate) fn btf_type_name(&self, reg: &Reg) -> String {
        Self::object_type(reg).map(|ty| self.object_name(ty)).unwrap_or_default()
    }

    /// A load or store through a pointer to an object.
    pub(crate) fn check_btf_access(
        &mut self,
        n: u8,
        reg: &Reg,
        off: i32,
        size: u8,
        access: Access,
        load: Option<R>,
    ) -> Check {
        let name = self.btf_type_name(reg);
        if matches!(reg.extra, Extra::Kernel(_)) && !self.spec.gpl_compatible {
            let text = format!("Cannot access kernel 'struct {name}' from non-GPL compatible program");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        let Ok(at) = u32::try_from(off) else {
            return Err(reject!(self, EACCES, "R{n} is ptr_{name} invalid negative access: off={off}"));
        };
        if reg.bounds.const_value() != Some(0) {
            let v = reg.bounds.var_off;
            let text = format!("R{n} is ptr_{name} invalid variable offset: off={off}, var_off={v}");
            return Err(reject!(self, EACCES, "{text}"));
        }
        if reg.ty.has(flags::PERCPU) {
            return Err(reject!(self, EACCES, "R{n} is ptr_{name} access percpu memory: off={off}"));
        }
        if access == Access::Write && !reg.ty.is_alloc() {
            return Err(reject!(self, EACCES, "only read is supported"));
        }
        if let Extra::Kernel(number) = reg.extra
            && let Some((_, known)) = KERNEL_TYPES.get(usize::from(number)).and_then(|name| kernel_struct(name))
        {
            return self.check_kernel_struct(known, at, u32::from(size), load);
        }
        let Extra::Btf(id) = reg.extra else {
            let text = format!("access to a kernel object through R{n} off={off} size={size} is not supported");
            return Err(unsupported!(self, "{text}"));
        };
        if !reg.ty.is_alloc() {
            let text = format!("access to an untrusted object through R{n} off={off} size={size} is not supported");
            return Err(unsupported!(self, "{text}"));
        }
        if !reg.ty.has(flags::NON_OWN | flags::RCU) && reg.ref_obj_id == 0 {
            return Err(crate::env::internal!(self, "ref_obj_id for allocated object must be non-zero"));
        }
        self.check_object_access(id, at, u32::from(size))?;
        if let Some(dst) = load {
            self.set_unknown(dst.number());
        }
        Ok(())
    }

    /// A load from one of the few structs of the kernel that this engine has: those that iterators are given.
    fn check_kernel_struct(&mut self, known: &KernelStruct, at: u32, size: u32, load: Option<R>) -> Check {
        let (name, off, end) = (known.name, at, at.saturating_add(size));
        if end > known.size {
            return Err(reject!(self, EACCES, "access beyond struct {name} at off {off} size {size}"));
        }
        let Some(field) = known.fields.iter().find(|f| at >= f.offset && at < f.offset + f.size) else {
            return Err(unsupported!(self, "access to struct {name} off={off} size={size} is not supported"));
        };
        let (member, field_end) = (field.name, field.offset + field.size);
        if end > field_end {
            let text = format!(
                "access beyond the end of member {member} (mend:{field_end}) in struct {name} with off {off} size {size}"
            );
            return Err(reject!(self, EACCES, "{text}"));
        }
        let Some(dst) = load else { return Ok(()) };
        match field.kind {
            KernelFieldKind::Unsigned | KernelFieldKind::Enum(_) | KernelFieldKind::Text => {
                self.set_unknown(dst.number());
            }
            KernelFieldKind::Pointer(to) => {
                if at != field.offset || size != 8 {
                    let text = format!(
                        "cannot access ptr member {member} with moff {off} in struct {name} with off {off} size {size}"
                    );
                    return Err(reject!(self, EACCES, "{text}"));
                }
                let extra = kernel_type(to).map_or(Extra::None, Extra::Kernel);
                let ty = RegType::of(Base::BtfId).with(flags::TRUSTED);
                self.set_reg(dst.number(), Reg::pointer(ty, extra));
            }
        }
        Ok(())
    }

    /// `size` bytes at `at` of an object of the program.
    fn check_object_access(&mut self, id: u32, at: u32, size: u32) -> Check {
        let end = at.saturating_add(size);
        for field in self.struct_record(id).iter() {
            if at < field.offset.saturating_add(field.size) && field.offset < end {
                let name = field.kind.name();
                return Err(reject!(self, EACCES, "direct access to {name} is disallowed"));
            }
        }
        let Some(btf) = self.spec.btf else { return Err(crate::env::internal!(self, "object without BTF")) };
        match member_at(btf, TypeId(id), at, size) {
            Ok(()) => Ok(()),
            Err(text) => Err(reject!(self, EACCES, "{text}")),
        }
    }

    /// Whether a struct has nothing but numbers in it.
    pub(crate) fn is_scalar_struct(&self, id: u32, nesting: u32) -> bool {
        let Some(btf) = self.spec.btf else { return false };
        btf.members(TypeId(id)).all(|(_, member)| {
            let mut ty = btf.resolve(member.ty);
            if btf.kind(ty) == Kind::Struct {
                return nesting < MAX_NESTING && self.is_scalar_struct(ty.0, nesting + 1);
            }
            if let Some(TypeData::Array(array)) = btf.get(ty).map(|ty| &ty.data) {
                ty = btf.resolve(array.elem);
            }
            matches!(btf.kind(ty), Kind::Int | Kind::Enum | Kind::Enum64)
        })
    }

    /// Fields of `struct bpf_sock` and its kin.
    pub(crate) fn check_sock_field(&mut self, n: u8, reg: &Reg, off: i32, size: u32) -> Check {
        if reg.bounds.s64.min < 0 {
            let text = "min value is negative, either use unsigned index or do a if (index >=0) check.";
            return Err(reject!(self, EACCES, "R{n} {text}"));
        }
        let ok = reg.bounds.const_value() == Some(0) && sock_field_ok(reg.base(), off, size);
        if ok {
            return Ok(());
        }
        let name = crate::print::type_name(reg.ty);
        Err(reject!(self, EACCES, "R{n} invalid {name} access off={off} size={size}"))
    }

    /// `struct bpf_map` behind a map pointer: read-only, and none of it in this engine's programs.
    pub(crate) fn check_map_object(&mut self, n: u8, off: i32, size: u32, access: Access) -> Check {
        if !self.caps.perfmon {
            let text = "access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN";
            return Err(reject!(self, EPERM, "'struct bpf_array' {text}"));
        }
        if access == Access::Write {
            return Err(reject!(self, EACCES, "only read from bpf_array is supported"));
        }
        if off < 0 {
            return Err(reject!(self, EACCES, "R{n} is bpf_array invalid negative access: off={off}"));
        }
        Err(unsupported!(self, "access to struct bpf_map through R{n} off={off} size={size} is not supported"))
    }
}

/// The access lies in one member; or what is wrong with it.
fn member_at(btf: &Btf, mut id: TypeId, mut at: u32, size: u32) -> Result<(), String> {
    'walk: loop {
        let (name, bytes) = (btf.name(id), btf.size_of(id).unwrap_or(0));
        if at.saturating_add(size) > bytes {
            return Err(format!("access beyond struct {name} at off {at} size {size}"));
        }
        for (member_name, member) in btf.members(id) {
            let start = member.bit_offset / 8;
            if at.saturating_add(size) <= start {
                break;
            }
            if member.bitfield_size != 0 {
                let end = (member.bit_offset + u32::from(member.bitfield_size)).div_ceil(8);
                if at <= start && end <= at + size {
                    return Ok(());
                }
                continue;
            }
            if at < start {
                break;
            }
            let mut ty = btf.resolve(member.ty);
            let end = start.saturating_add(btf.size_of(ty).unwrap_or(0));
            if at >= end {
                continue;
            }
            let mut start = start;
            while let Some(TypeData::Array(array)) = btf.get(ty).map(|ty| &ty.data) {
                ty = btf.resolve(array.elem);
            }
            let element = btf.size_of(ty).unwrap_or(0).max(1);
            start += (at - start) / element * element;
            match btf.kind(ty) {
                Kind::Struct | Kind::Union => {
                    (id, at) = (ty, at - start);
                    continue 'walk;
                }
                Kind::Ptr if at != start || size != element => {
                    let text = format!("cannot access ptr member {member_name} with moff {start} in struct {name}");
                    return Err(format!("{text} with off {at} size {size}"));
                }
                _ => {}
            }
            if at + size > end {
                let text = format!("access beyond the end of member {member_name} (mend:{end}) in struct {name}");
                return Err(format!("{text} with off {at} size {size}"));
            }
            return Ok(());
        }
        return Err(format!("struct {name} doesn't have field at offset {at}"));
    }
}

/// Fields of `bpf_sock` (by offset and size), `bpf_tcp_sock`, `bpf_xdp_sock`.
fn sock_field_ok(base: Base, off: i32, size: u32) -> bool {
    let Ok(off) = u32::try_from(off) else { return false };
    if size == 0 || off % size != 0 {
        return false;
    }
    match base {
        Base::TcpSock => {
            // bytes_received and bytes_acked are 8 bytes, all others 4.
            let wide = (80..96).contains(&off);
            off + size <= 112 && size == if wide { 8 } else { 4 }
        }
        Base::XdpSock => off + size <= 4 && size == 4,
        Base::SockCommon if (8..24).contains(&off) => false,
        Base::Socket | Base::SockCommon => match off {
            // Parts of the addresses at any place, parts of the others at their start.
            24..44 | 52..72 => size <= 4 && off % 4 + size <= 4,
            4 | 8 | 12 | 44 | 72 | 76 => size <= 4,
            48..50 => size == 4 || off + size <= 50,
            0 | 16 | 20 => size == 4,
            _ => false,
        },
        _ => false,
    }
}
