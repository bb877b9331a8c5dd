//! Loads and stores, by what the pointer points to.
//!
//! Owns bounds, alignment and permission of direct accesses. Invariant: an access that passes lies within its object for every
//! value of the pointer's variable part. Kernel counterpart: `check_mem_access`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Reg as R;
use skep_abi::flags::map_flags;

use crate::check::Access;
use crate::check::alu::MAX_VAR_OFF;
use crate::env::{Check, Env, reject};
use crate::mutant::{self, Mutant};
use crate::print::type_name;
use crate::spec::FieldKind;
use crate::state::reg::{Base, Extra, GAVE_AWAY, Reg, flags};
use crate::verified::{MemKind, SockKind};

/// Text after `R1 ` for an index that may be negative.
const NEGATIVE: &str = "min value is negative, either use unsigned index or do a if (index >=0) check.";

impl Env<'_> {
    /// An access of `size` bytes at `base + off`; `value` is the register loaded or stored.
    pub(crate) fn check_mem(
        &mut self,
        base: R,
        off: i32,
        size: u8,
        access: Access,
        value: Option<R>,
        sign_extend: bool,
    ) -> Check {
        self.check_mem_strict(base, off, size, access, value, sign_extend, false)
    }

    /// As [`Self::check_mem`]; `strict` asks for natural alignment.
    #[expect(clippy::too_many_arguments, reason = "the parts of one instruction")]
    pub(crate) fn check_mem_strict(
        &mut self,
        base: R,
        off: i32,
        size: u8,
        access: Access,
        value: Option<R>,
        sign_extend: bool,
        strict: bool,
    ) -> Check {
        let n = base.number();
        let reg = *self.reg(n);
        self.check_alignment(&reg, off, size, strict)?;
        let Some(off) = off.checked_add(reg.off) else {
            return Err(reject!(self, EACCES, "R{n} offset overflow"));
        };
        let bytes = u32::from(size);
        let load = if access == Access::Read { value } else { None };
        self.join_mem_kind(&reg);
        if access == Access::Write {
            self.check_leak(&reg, value)?;
        }
        match reg.base() {
            Base::MapKey => {
                if access == Access::Write {
                    return Err(reject!(self, EACCES, "write to change key R{n} not allowed"));
                }
                let key_size = self.map_of(&reg).map_or(0, |m| m.key_size);
                self.check_mem_region(n, off, bytes, key_size, false)?;
                self.load_unknown(load);
            }
            Base::MapValue if !reg.ty.maybe_null() => {
                self.check_map_access_type(&reg, off, bytes, access)?;
                self.check_map_region(n, off, bytes, false, true)?;
                self.load_map_value(&reg, off, size, access, load, value, sign_extend)?;
            }
            Base::Mem if !reg.ty.maybe_null() => {
                let read_only = reg.ty.has(flags::RDONLY);
                if access == Access::Write && read_only {
                    return Err(reject!(self, EACCES, "R{n} cannot write into {}", type_name(reg.ty)));
                }
                if access == Access::Write {
                    self.check_slice_store(&reg);
                }
                if !(read_only && reg.ty.has(flags::UNTRUSTED)) {
                    self.check_mem_region(n, off, bytes, reg.mem_size(), false)?;
                }
                self.load_unknown(load);
            }
            Base::Ctx => self.check_ctx(n, &reg, off, size, access, load, sign_extend)?,
            Base::Stack => self.check_stack(n, &reg, off, bytes, access, value)?,
            Base::Packet | Base::PacketMeta => {
                if access == Access::Write && !self.may_touch_packet(Access::Write, None) {
                    return Err(reject!(self, EACCES, "cannot write into packet"));
                }
                self.check_packet_access(n, off, bytes, false)?;
                self.load_unknown(load);
            }
            Base::FlowKeys => {
                self.check_flow_keys(off, bytes)?;
                self.load_unknown(load);
            }
            Base::Socket | Base::SockCommon | Base::TcpSock | Base::XdpSock if !reg.ty.maybe_null() => {
                if access == Access::Write {
                    return Err(reject!(self, EACCES, "R{n} cannot write into {}", type_name(reg.ty)));
                }
                self.check_sock_field(n, &reg, off, bytes)?;
                self.load_unknown(load);
            }
            Base::TpBuffer => {
                // Whoever attaches the program compares how far it reaches with what the tracepoint has.
                self.check_buffer_place(n, &reg, "tracepoint", off, bytes)?;
                self.need("the buffers of writable tracepoints");
                self.load_unknown(load);
            }
            Base::Buf if !reg.ty.maybe_null() => {
                self.check_buffer(n, off, bytes, access)?;
                self.load_unknown(load);
            }
            Base::ConstMap => {
                self.check_map_object(n, off, bytes, access)?;
                self.load_unknown(load);
            }
            Base::Arena => self.load_unknown(load),
            Base::BtfId if !reg.ty.maybe_null() => self.check_btf_access(n, &reg, off, size, access, load)?,
            _ => return Err(reject!(self, EACCES, "R{n} invalid mem access '{}'", type_name(reg.ty))),
        }
        if let Some(dst) = load {
            let reg = self.reg_mut(dst.number());
            if reg.is_scalar() && size < 8 {
                if sign_extend {
                    let keeps_its_value = reg.bounds.u64.max >> (size * 8 - 1) == 0;
                    reg.bounds.sign_extend(size * 8);
                    if !keeps_its_value {
                        // Not in the kernel, which takes a part of a spilled scalar for linked to the whole.
                        reg.unlink();
                    }
                } else {
                    reg.bounds.truncate(size);
                }
            }
        }
        Ok(())
    }

    fn load_unknown(&mut self, load: Option<R>) {
        if let Some(dst) = load {
            self.set_unknown(dst.number());
        }
    }

    /// A pointer may not be stored where others can read it, unless its owner may know it.
    fn check_leak(&mut self, reg: &Reg, value: Option<R>) -> Check {
        let Some(value) = value.filter(|v| self.leaks(v.number())) else { return Ok(()) };
        let place = match reg.base() {
            Base::MapValue => "map",
            Base::Mem => "mem",
            Base::Ctx => "ctx",
            Base::Packet | Base::PacketMeta => "packet",
            Base::FlowKeys => "flow keys",
            _ => return Ok(()),
        };
        Err(reject!(self, EACCES, "R{} leaks addr into {place}", value.number()))
    }

    fn join_mem_kind(&mut self, reg: &Reg) {
        let kind = match reg.base() {
            Base::Ctx => MemKind::Ctx,
            Base::Stack => MemKind::Stack,
            Base::MapValue => match reg.extra {
                Extra::Map { map, inner: false, .. } => MemKind::MapValue(map),
                _ => MemKind::Mixed,
            },
            Base::MapKey => MemKind::MapKey,
            Base::Packet | Base::PacketMeta => MemKind::Packet,
            Base::Socket => MemKind::Sock(SockKind::Full),
            Base::SockCommon => MemKind::Sock(SockKind::Common),
            Base::TcpSock => MemKind::Sock(SockKind::Tcp),
            Base::XdpSock => MemKind::Sock(SockKind::Xdp),
            Base::Mem | Base::Buf | Base::TpBuffer => MemKind::Mem,
            Base::ConstMap => match reg.extra {
                Extra::Map { map, inner: false, .. } => MemKind::MapObject(map),
                _ => MemKind::Mixed,
            },
            Base::BtfId if reg.ty.is_alloc() => MemKind::Mem,
            Base::BtfId => MemKind::Btf,
            Base::FlowKeys => MemKind::FlowKeys,
            Base::Arena => MemKind::Arena,
            _ => return,
        };
        let fact = &mut self.facts_mut().mem;
        let before = *fact;
        *fact = match before {
            MemKind::None => kind,
            same if same == kind => kind,
            _ => MemKind::Mixed,
        };
        if *fact == MemKind::Mixed && (before == MemKind::Arena || kind == MemKind::Arena) {
            // Other instructions are of one kind on all paths, or refused.
            self.need("one atomic operation on the arena and on other memory");
        }
    }

    pub(crate) fn check_alignment(&mut self, reg: &Reg, off: i32, size: u8, strict: bool) -> Check {
        let mut strict = strict || self.strict_alignment;
        let what = match reg.base() {
            Base::Packet | Base::PacketMeta => {
                if !strict || size == 1 {
                    return Ok(());
                }
                let sum = i64::from(reg.off) + i64::from(off) + 2;
                let all = reg.bounds.var_off.add(crate::state::tnum::Tnum::constant(sum.cast_unsigned()));
                if all.is_aligned(u64::from(size)) {
                    return Ok(());
                }
                let v = reg.bounds.var_off;
                return Err(reject!(self, EACCES, "misaligned packet access off 2+{v}+{}+{off} size {size}", reg.off));
            }
            Base::FlowKeys => "flow keys ",
            Base::MapKey => "key ",
            Base::MapValue => "value ",
            Base::Ctx => "context ",
            Base::Stack => {
                strict = true;
                "stack "
            }
            Base::Socket => "sock ",
            Base::SockCommon => "sock_common ",
            Base::TcpSock => "tcp_sock ",
            Base::XdpSock => "xdp_sock ",
            Base::Arena => return Ok(()),
            _ => "",
        };
        if !strict || size == 1 {
            return Ok(());
        }
        let sum = i64::from(reg.off) + i64::from(off);
        let v = reg.bounds.var_off;
        if v.add(crate::state::tnum::Tnum::constant(sum.cast_unsigned())).is_aligned(u64::from(size)) {
            return Ok(());
        }
        Err(reject!(self, EACCES, "misaligned {what}access off {v}+{}+{off} size {size}", reg.off))
    }

    /// `size` bytes at `off` lie in a region of `region` bytes; says where they lie otherwise.
    pub(crate) fn check_region(&mut self, n: u8, off: i64, size: u32, region: u32, zero_ok: bool) -> Check {
        let size_ok = size > 0 || zero_ok;
        let end = off.checked_add(i64::from(size));
        let region_end = i64::from(region) + 8 * i64::from(mutant::active(Mutant::BeyondEnd));
        if off >= 0 && size_ok && end.is_some_and(|e| e <= region_end) {
            return Ok(());
        }
        let reg = *self.reg(n);
        let size = size.cast_signed();
        let text = match reg.base() {
            Base::MapKey => format!("invalid access to map key, key_size={region} off={off} size={size}"),
            Base::MapValue => format!("invalid access to map value, value_size={region} off={off} size={size}"),
            Base::Packet | Base::PacketMeta | Base::PacketEnd => {
                let id = reg.id;
                format!("invalid access to packet, off={off} size={size}, R{n}(id={id},off={off},r={region})")
            }
            Base::Ctx => format!("invalid access to context, ctx_size={region} off={off} size={size}"),
            _ => format!("invalid access to memory, mem_size={region} off={off} size={size}"),
        };
        Err(reject!(self, EACCES, "{text}"))
    }

    /// The same for every value of the register's variable part.
    pub(crate) fn check_mem_region(&mut self, n: u8, off: i32, size: u32, region: u32, zero_ok: bool) -> Check {
        if matches!(self.reg(n).extra, Extra::Slice { record: GAVE_AWAY, .. }) {
            self.need("a slice of memory that was given away or moved");
        }
        let b = self.reg(n).bounds;
        let off = i64::from(off);
        let min = b.s64.min;
        if min < 0 {
            let low = min.checked_add(off).filter(|v| i32::try_from(*v).is_ok());
            if min == i64::MIN || low.is_none_or(|v| v < 0) {
                return Err(reject!(self, EACCES, "R{n} {NEGATIVE}"));
            }
        }
        let outside = "value is outside of the allowed memory range";
        if self.check_region(n, min.saturating_add(off), size, region, zero_ok).is_err() {
            return Err(reject!(self, EACCES, "R{n} min {outside}"));
        }
        if b.u64.max >= MAX_VAR_OFF.unsigned_abs() {
            let text = "unbounded memory access, make sure to bounds check any such access";
            return Err(reject!(self, EACCES, "R{n} {text}"));
        }
        let max = i64::try_from(b.u64.max).unwrap_or(i64::MAX).saturating_add(off);
        if self.check_region(n, max, size, region, zero_ok).is_err() {
            return Err(reject!(self, EACCES, "R{n} max {outside}"));
        }
        Ok(())
    }

    /// The same for a map value, and clear of its special fields.
    pub(crate) fn check_map_region(&mut self, n: u8, off: i32, size: u32, zero_ok: bool, direct: bool) -> Check {
        let reg = *self.reg(n);
        let Some(shape) = self.map_of(&reg) else { return Err(crate::env::internal!(self, "R{n} without map")) };
        self.check_mem_region(n, off, size, shape.value_size, zero_ok)?;
        for field in shape.record.iter() {
            let (start, end) = (i64::from(field.offset), i64::from(field.offset) + i64::from(field.size));
            let low = reg.bounds.s64.min.saturating_add(i64::from(off));
            let high = reg.bounds.u64.max.cast_signed().saturating_add(i64::from(off)).saturating_add(i64::from(size));
            if low >= end || start >= high {
                continue;
            }
            let name = field.kind.name();
            let kptr = matches!(
                field.kind,
                FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Uptr
            );
            if !kptr {
                return Err(reject!(self, EACCES, "{name} cannot be accessed directly by load/store"));
            }
            if !direct {
                return Err(reject!(self, EACCES, "{name} cannot be accessed indirectly by helper"));
            }
            let Some(var) = reg.bounds.const_value() else {
                return Err(reject!(self, EACCES, "{name} access cannot have variable offset"));
            };
            let at = i64::from(off).wrapping_add(var.cast_signed());
            if at != start {
                return Err(reject!(self, EACCES, "{name} access misaligned expected={start} off={at}"));
            }
            if size != 8 {
                return Err(reject!(self, EACCES, "{name} access size must be BPF_DW"));
            }
        }
        Ok(())
    }

    /// The map's flags allow the program this direction.
    pub(crate) fn check_map_access_type(&mut self, reg: &Reg, off: i32, size: u32, access: Access) -> Check {
        let Some(shape) = self.map_of(reg) else { return Ok(()) };
        let (forbidden, verb) = match access {
            Access::Write => (map_flags::BPF_F_RDONLY_PROG, "write into"),
            Access::Read => (map_flags::BPF_F_WRONLY_PROG, "read from"),
        };
        if shape.prog_flags() & forbidden != 0 {
            let vs = shape.value_size;
            return Err(reject!(self, EACCES, "{verb} map forbidden, value_size={vs} off={off} size={size}"));
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one instruction")]
    fn load_map_value(
        &mut self,
        reg: &Reg,
        off: i32,
        size: u8,
        access: Access,
        load: Option<R>,
        value: Option<R>,
        sign_extend: bool,
    ) -> Check {
        let at = reg.bounds.const_value().map(|v| i64::from(off).wrapping_add(v.cast_signed()));
        let Some(shape) = self.map_of(reg) else { return Ok(()) };
        if let Some(at) = at {
            let field = shape.record.iter().find(|f| {
                i64::from(f.offset) == at
                    && matches!(
                        f.kind,
                        FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Uptr
                    )
            });
            if let Some(&field) = field {
                return self.check_kptr_access(reg, field, access, load, value);
            }
        }
        let Some(dst) = load else { return Ok(()) };
        let frozen = shape.frozen
            && shape.flags & map_flags::BPF_F_RDONLY_PROG != 0
            && shape.map_type == skep_abi::MapType::Array;
        let known = at.filter(|_| frozen).and_then(|at| {
            let start = usize::try_from(at).ok()?;
            let bytes = shape.contents.as_deref()?.get(start..start.checked_add(usize::from(size))?)?;
            let mut word = [0u8; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            Some(u64::from_le_bytes(word))
        });
        match known {
            Some(v) => {
                let shift = 64 - u32::from(size) * 8;
                let v = if sign_extend { ((v << shift).cast_signed() >> shift).cast_unsigned() } else { v };
                let precise = !self.caps.bpf;
                self.set_reg(dst.number(), Reg { precise, ..Reg::constant(v) });
            }
            None => self.set_unknown(dst.number()),
        }
        Ok(())
    }

    /// An access lies at a constant place of a buffer, not before its start.
    fn check_buffer_place(&mut self, n: u8, reg: &Reg, what: &str, off: i32, size: u32) -> Check {
        if off < 0 {
            return Err(reject!(self, EACCES, "R{n} invalid {what} buffer access: off={off}, size={size}"));
        }
        if reg.bounds.const_value() != Some(0) {
            let v = reg.bounds.var_off;
            return Err(reject!(self, EACCES, "R{n} invalid variable buffer offset: off={off}, var_off={v}"));
        }
        Ok(())
    }

    /// A buffer whose size nobody knows yet: how far the program reaches is compared with it when the program is attached.
    pub(crate) fn check_buffer(&mut self, n: u8, off: i32, size: u32, access: Access) -> Check {
        let reg = *self.reg(n);
        let read_only = reg.ty.has(flags::RDONLY);
        if access == Access::Write && read_only {
            return Err(reject!(self, EACCES, "R{n} cannot write into {}", type_name(reg.ty)));
        }
        self.check_buffer_place(n, &reg, if read_only { "rdonly" } else { "rdwr" }, off, size)?;
        let end = off.unsigned_abs().saturating_add(size);
        let reached = if read_only { &mut self.buffers.rdonly } else { &mut self.buffers.rdwr };
        *reached = end.max(*reached);
        self.buffers.is_written |= access == Access::Write;
        Ok(())
    }

    /// `struct bpf_flow_keys`.
    fn check_flow_keys(&mut self, off: i32, size: u32) -> Check {
        const FLOW_KEYS: u32 = 56;
        let end = u32::try_from(off).ok().and_then(|o| o.checked_add(size));
        if end.is_none_or(|e| e > FLOW_KEYS) {
            return Err(reject!(self, EACCES, "invalid access to flow keys off={off} size={size}"));
        }
        Ok(())
    }
}
