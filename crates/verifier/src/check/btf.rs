//! Kernel objects reached by BTF type.
//!
//! Owns their accesses. This engine has no kernel whose objects a program could walk, so they are refused with one sentence.
//! Kernel counterpart: `check_ptr_to_btf_access`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Reg as R;

use crate::check::Access;
use crate::env::{Check, Env, reject, unsupported};
use crate::state::reg::{Base, Extra, Reg};

impl Env<'_> {
    /// Name of a register's kernel type.
    pub(crate) fn btf_type_name(&self, reg: &Reg) -> String {
        match (reg.extra, self.spec.btf) {
            (Extra::Btf(id), Some(btf)) => btf.name(skep_btf::TypeId(id)).to_owned(),
            _ => String::new(),
        }
    }

    /// A load or store through a pointer to a kernel object.
    pub(crate) fn check_btf_access(
        &mut self,
        n: u8,
        _reg: &Reg,
        off: i32,
        size: u8,
        _access: Access,
        _load: Option<R>,
    ) -> Check {
        Err(unsupported!(self, "access to a kernel object through R{n} off={off} size={size} is not supported"))
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
        if access == Access::Write {
            return Err(reject!(self, EACCES, "only read from bpf_array is supported"));
        }
        if off < 0 {
            return Err(reject!(self, EACCES, "R{n} is bpf_array invalid negative access: off={off}"));
        }
        Err(unsupported!(self, "access to struct bpf_map through R{n} off={off} size={size} is not supported"))
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
            off + size <= 116 && size == if wide { 8 } else { 4 }
        }
        Base::XdpSock => off + size <= 4 && size == 4,
        Base::SockCommon if (8..24).contains(&off) => false,
        Base::Socket | Base::SockCommon => match off {
            4 | 8 | 12 | 24..48 | 52..80 => size <= 4 && off % 4 + size <= 4,
            48..50 => size == 4 || off + size <= 50,
            0 | 16 | 20 => size == 4,
            _ => false,
        },
        _ => false,
    }
}
