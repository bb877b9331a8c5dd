//! One argument of a helper.
//!
//! Owns which registers fit which kind of argument. Invariant: memory that a helper is given is whole: in bounds for every
//! value of its pointer and of its size. Kernel counterpart: `check_func_arg`, `check_reg_type`, `check_helper_mem_access`,
//! `check_mem_size_reg`, kernel/bpf/verifier.c, 6.18.

use skep_abi::helper::{ArgKind, ArgType, HelperProto, TypeFlags};
use skep_abi::kfunc::{begins_with, kernel_type};
use skep_abi::{MapType, Reg as R};

use crate::check::Access;
use crate::check::alu::MAX_VAR_OFF;
use crate::check::stack::{StackRange, place};
use crate::env::{Check, Env, reject};
use crate::print::type_name;
use crate::spec::{FieldKind, RecordField};
use crate::state::reg::{Base, Extra, Reg, RegType, flags};
use crate::state::stack::ByteKind;

/// `bpf_sk_release`, which takes every kind of socket.
const SK_RELEASE: i32 = 86;

/// What the arguments of one call have said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallMeta {
    pub(crate) id: i32,
    pub(crate) pkt_access: bool,
    /// The register of the map argument.
    pub(crate) map: Option<Reg>,
    /// The memory argument may be uninitialised: the helper writes all of it.
    pub(crate) raw: bool,
    /// Register and size of memory that the helper initialises.
    pub(crate) written: Option<(u8, i32)>,
    pub(crate) release: Option<u8>,
    pub(crate) ref_obj_id: u32,
    pub(crate) dynptr_id: u32,
    pub(crate) mem_size: u32,
    pub(crate) max_size: u64,
    /// The dynptr that is made is another to the same memory.
    pub(crate) clones: bool,
    /// The field of `bpf_kptr_xchg`.
    pub(crate) kptr: Option<RecordField>,
    pub(crate) callback: u32,
    pub(crate) const_key: Option<u64>,
    /// The constant key is an index of the array, so the lookup cannot fail.
    pub(crate) key_in_range: bool,
}

/// The lowest byte of the upper half of a slot.
const UPPER_HALF: usize = 3;

/// `bpf_seq_printf`, `bpf_seq_write`.
const SEQ_PRINTF: i32 = 126;
const SEQ_WRITE: i32 = 127;

const fn t(base: Base) -> RegType {
    RegType::of(base)
}
const MEM: &[RegType] = &[
    t(Base::Stack),
    t(Base::Packet),
    t(Base::PacketMeta),
    t(Base::MapKey),
    t(Base::MapValue),
    t(Base::Mem),
    t(Base::Mem).with(flags::RINGBUF),
    t(Base::Buf),
    t(Base::BtfId).with(flags::TRUSTED),
];
const SOCK: &[RegType] = &[t(Base::SockCommon), t(Base::Socket), t(Base::TcpSock), t(Base::XdpSock)];
const BTF_SOCK: &[RegType] = &[
    t(Base::SockCommon),
    t(Base::Socket),
    t(Base::TcpSock),
    t(Base::XdpSock),
    t(Base::BtfId),
    t(Base::BtfId).with(flags::TRUSTED),
];
const BTF: &[RegType] = &[t(Base::BtfId), t(Base::BtfId).with(flags::TRUSTED), t(Base::BtfId).with(flags::RCU)];
const SCALAR: &[RegType] = &[RegType::SCALAR];
const CONST_MAP: &[RegType] = &[t(Base::ConstMap)];
const CTX: &[RegType] = &[t(Base::Ctx)];
const SOCKET: &[RegType] = &[t(Base::Socket)];
const LOCKED: &[RegType] = &[t(Base::MapValue), t(Base::BtfId).with(flags::ALLOC)];
const KPTR_DEST: &[RegType] = &[
    t(Base::MapValue),
    t(Base::BtfId).with(flags::ALLOC),
    t(Base::BtfId).with(flags::ALLOC | flags::NON_OWN),
    t(Base::BtfId).with(flags::ALLOC | flags::NON_OWN | flags::RCU),
];
const RECORD: &[RegType] = &[t(Base::Mem).with(flags::RINGBUF)];
const PERCPU: &[RegType] = &[
    t(Base::BtfId).with(flags::PERCPU),
    t(Base::BtfId).with(flags::PERCPU | flags::RCU),
    t(Base::BtfId).with(flags::PERCPU | flags::TRUSTED),
];
const FUNC: &[RegType] = &[t(Base::Func)];
const STACK: &[RegType] = &[t(Base::Stack)];
const MAP_VALUE: &[RegType] = &[t(Base::MapValue)];
const DYNPTR: &[RegType] = &[t(Base::Stack), t(Base::Dynptr)];
const ARENA: &[RegType] = &[t(Base::Arena), RegType::SCALAR];

/// Register types that an argument takes, in the order of the message.
fn compatible(kind: ArgKind) -> &'static [RegType] {
    match kind {
        ArgKind::PtrToMapKey | ArgKind::PtrToMapValue | ArgKind::PtrToMem => MEM,
        ArgKind::ConstSize | ArgKind::ConstSizeOrZero | ArgKind::ConstAllocSizeOrZero => SCALAR,
        ArgKind::ConstMapPtr => CONST_MAP,
        ArgKind::PtrToCtx => CTX,
        ArgKind::PtrToSockCommon => SOCK,
        ArgKind::PtrToBtfIdSockCommon => BTF_SOCK,
        ArgKind::PtrToSocket => SOCKET,
        ArgKind::PtrToBtfId => BTF,
        ArgKind::PtrToSpinLock => LOCKED,
        ArgKind::KptrXchgDest => KPTR_DEST,
        ArgKind::PtrToRingbufMem => RECORD,
        ArgKind::PtrToPercpuBtfId => PERCPU,
        ArgKind::PtrToFunc => FUNC,
        ArgKind::PtrToStack => STACK,
        ArgKind::PtrToConstStr | ArgKind::PtrToTimer => MAP_VALUE,
        ArgKind::PtrToDynptr => DYNPTR,
        ArgKind::PtrToArena => ARENA,
        ArgKind::DontCare | ArgKind::Anything => &[],
    }
}

impl Env<'_> {
    /// Checks argument `i` of a helper.
    pub(crate) fn check_arg(&mut self, i: usize, arg: ArgType, proto: &HelperProto, meta: &mut CallMeta) -> Check {
        let n = u8::try_from(i + 1).unwrap_or(u8::MAX);
        let Some(r) = R::new(n) else { return Err(crate::env::internal!(self, "argument {n}")) };
        self.check_src(r)?;
        let reg = *self.reg(n);
        if arg.kind == ArgKind::Anything {
            if self.leaks(n) {
                return Err(reject!(self, EACCES, "R{n} leaks addr into helper function"));
            }
            return Ok(());
        }
        if reg.ty.is_packet() && !self.may_touch_packet(Access::Read, Some(meta.pkt_access)) {
            return Err(reject!(self, EACCES, "helper access to the packet is not allowed"));
        }
        let kind = self.resolve_value_arg(arg.kind, meta)?;
        if reg.is_null() && arg.may_be_null() {
            self.mark_precise(n)?;
        } else {
            self.check_reg_type(n, kind, arg, meta)?;
            self.check_arg_offset(n, arg)?;
        }
        self.note_reference(n, arg, meta)?;
        let reg = *self.reg(n);
        match kind {
            ArgKind::ConstMapPtr => self.note_map(reg, meta)?,
            ArgKind::PtrToMapKey => {
                let Some(size) = meta.map.and_then(|m| self.map_of(&m)).map(|m| m.key_size) else {
                    return Err(reject!(self, EACCES, "invalid map_ptr to access map->key"));
                };
                self.check_helper_mem(n, size, Access::Read, false, None)?;
                self.note_const_key(&reg, meta)?;
            }
            ArgKind::PtrToMapValue => {
                if arg.may_be_null() && reg.is_null() {
                    return Ok(());
                }
                let Some(size) = meta.map.and_then(|m| self.map_of(&m)).map(|m| m.value_size) else {
                    return Err(reject!(self, EACCES, "invalid map_ptr to access map->value"));
                };
                meta.raw = arg.flags.has(TypeFlags::UNINIT);
                self.check_helper_mem(n, size, direction(arg), false, Some(meta))?;
            }
            ArgKind::PtrToSpinLock => self.check_lock_arg(meta.id, n)?,
            ArgKind::PtrToTimer => {
                self.check_map_field(n, FieldKind::Timer)?;
                meta.map = Some(reg);
            }
            ArgKind::PtrToFunc => self.note_callback(&reg, meta),
            ArgKind::PtrToMem => {
                meta.raw = arg.flags.has(TypeFlags::UNINIT);
                if arg.flags.has(TypeFlags::FIXED_SIZE) {
                    self.check_helper_mem(n, arg.size, direction(arg), false, Some(meta))?;
                    if arg.flags.has(TypeFlags::ALIGNED) {
                        let size = u8::try_from(arg.size).unwrap_or(8);
                        self.check_alignment(&reg, 0, size, true)?;
                    }
                }
            }
            ArgKind::ConstSize | ArgKind::ConstSizeOrZero => {
                let access = proto.args.get(i.wrapping_sub(1)).map_or(Access::Read, |a| direction(*a));
                self.check_size(n, access, kind == ArgKind::ConstSizeOrZero, meta)?;
            }
            ArgKind::PtrToDynptr => self.check_dynptr_arg(n, arg, meta)?,
            ArgKind::ConstAllocSizeOrZero => {
                let Some(size) = reg.bounds.const_value() else {
                    return Err(reject!(self, EACCES, "R{n} is not a known constant'"));
                };
                meta.mem_size = u32::try_from(size).unwrap_or(u32::MAX);
                self.mark_precise(n)?;
            }
            ArgKind::PtrToConstStr => self.check_const_str(n)?,
            ArgKind::KptrXchgDest => self.check_kptr_dest(n, meta)?,
            ArgKind::PtrToPercpuBtfId => {
                return Err(crate::env::unsupported!(self, "{} is not supported", proto.name));
            }
            _ => {}
        }
        Ok(())
    }

    /// Sockets are the values of socket maps; a Bloom filter's value is what is looked for.
    fn resolve_value_arg(&mut self, kind: ArgKind, meta: &CallMeta) -> Check<ArgKind> {
        if kind != ArgKind::PtrToMapValue {
            return Ok(kind);
        }
        let Some(shape) = meta.map.and_then(|m| self.map_of(&m)) else {
            return Err(reject!(self, EACCES, "invalid map_ptr to access map->value"));
        };
        Ok(match shape.map_type {
            MapType::Sockmap | MapType::Sockhash => ArgKind::PtrToBtfIdSockCommon,
            _ => kind,
        })
    }

    fn check_reg_type(&mut self, n: u8, kind: ArgKind, arg: ArgType, meta: &CallMeta) -> Check {
        let reg = *self.reg(n);
        let mut ty = reg.ty;
        if arg.flags.has(TypeFlags::RDONLY) {
            ty = ty.without(flags::RDONLY);
        }
        if arg.may_be_null() {
            ty = ty.without(flags::MAYBE_NULL);
        }
        if kind == ArgKind::PtrToMem {
            ty = ty.without(flags::DYNPTR_PACKET);
        }
        if meta.id == crate::check::helper::KPTR_XCHG && n == 2 && ty.has(flags::ALLOC) {
            ty = ty.without(flags::ALLOC | flags::PERCPU);
        }
        let list = compatible(kind);
        if !list.contains(&ty) {
            let expected: Vec<String> = list.iter().map(|t| type_name(*t)).collect();
            let text = format!("R{n} type={} expected={}", type_name(reg.ty), expected.join(", "));
            return Err(reject!(self, EACCES, "{text}"));
        }
        if reg.base() == Base::BtfId {
            return self.check_object_arg(n, &reg, kind, arg, meta);
        }
        Ok(())
    }

    /// An object: of the program under its lock or into a field, or of the kernel where a helper knows its type.
    fn check_object_arg(&mut self, n: u8, reg: &Reg, kind: ArgKind, arg: ArgType, meta: &CallMeta) -> Check {
        if kind == ArgKind::PtrToSpinLock || kind == ArgKind::KptrXchgDest {
            return Ok(());
        }
        if let Some(field) = meta.kptr.filter(|_| n == 2) {
            if reg.ty.maybe_null() {
                return Err(reject!(self, EACCES, "Possibly NULL pointer passed to helper arg{n}"));
            }
            return self.check_kptr_type(field, n, true);
        }
        if meta.id == SK_RELEASE {
            return Ok(());
        }
        let wanted = if kind == ArgKind::PtrToBtfIdSockCommon { Some("sock_common") } else { arg.btf };
        let Some(wanted) = wanted.filter(|name| kernel_type(name).is_some()) else {
            return Err(crate::env::unsupported!(self, "kernel objects as arguments are not supported"));
        };
        if reg.ty.maybe_null() && !arg.may_be_null() {
            return Err(reject!(self, EACCES, "Possibly NULL pointer passed to helper arg{n}"));
        }
        let have = self.btf_type_name(reg);
        let is_kernels = matches!(reg.extra, Extra::Kernel(_));
        if !is_kernels || !begins_with(&have, wanted) || reg.off != 0 {
            return Err(reject!(self, EACCES, "R{n} is of type {have} but {wanted} is expected"));
        }
        // The output of an iterator is one that this engine has; functions of the program are not helpers.
        let runs = self.is_map_iterator() && matches!(meta.id, SEQ_PRINTF | SEQ_WRITE);
        if !runs && meta.id != 0 {
            self.need("helpers on the kernel's objects");
        }
        Ok(())
    }

    /// A kernel object of this type, for a global function of the program.
    pub(crate) fn check_trusted_arg(&mut self, n: u8, name: &'static str, nullable: bool) -> Check {
        let null = if nullable { TypeFlags::MAYBE_NULL } else { TypeFlags::NONE };
        let arg = ArgType { btf: Some(name), ..ArgType::new(ArgKind::PtrToBtfId, TypeFlags::TRUSTED.with(null)) };
        self.check_reg_type(n, ArgKind::PtrToBtfId, arg, &CallMeta::default())?;
        self.check_arg_offset(n, arg)
    }

    /// Which pointers may have an offset when they are passed.
    fn check_arg_offset(&mut self, n: u8, arg: ArgType) -> Check {
        let reg = *self.reg(n);
        if arg.flags.has(TypeFlags::RELEASE) {
            if arg.kind == ArgKind::PtrToDynptr && reg.base() == Base::Stack {
                return Ok(());
            }
            return self.check_released(&reg, n);
        }
        if reg.base() == Base::BtfId || may_have_offset(reg.base()) { Ok(()) } else { self.check_unmodified(&reg, n) }
    }

    /// What is given back is what was acquired, with nothing added to it.
    pub(crate) fn check_released(&mut self, reg: &Reg, n: u8) -> Check {
        if reg.is_pointer() && reg.off != 0 {
            let text = "must have zero offset when passed to release func or trusted arg to kfunc";
            return Err(reject!(self, EINVAL, "R{n} {text}"));
        }
        self.check_unmodified(reg, n)
    }

    /// The pointer is as it was given: nothing added to it.
    pub(crate) fn check_unmodified(&mut self, reg: &Reg, n: u8) -> Check {
        let name = type_name(reg.ty);
        if !reg.is_pointer() {
            return Ok(());
        }
        if reg.off < 0 {
            return Err(reject!(self, EACCES, "negative offset {name} ptr R{n} off={} disallowed", reg.off));
        }
        if reg.off != 0 {
            let off = reg.off;
            return Err(reject!(self, EACCES, "dereference of modified {name} ptr R{n} off={off} disallowed"));
        }
        if reg.bounds.const_value() != Some(0) {
            let v = reg.bounds.var_off;
            return Err(reject!(self, EACCES, "variable {name} access var_off={v} disallowed"));
        }
        Ok(())
    }

    fn note_reference(&mut self, n: u8, arg: ArgType, meta: &mut CallMeta) -> Check {
        let reg = *self.reg(n);
        if arg.flags.has(TypeFlags::RELEASE) {
            if arg.kind == ArgKind::PtrToDynptr {
                if reg.base() != Base::Stack {
                    return Err(reject!(self, EINVAL, "cannot release unowned const bpf_dynptr"));
                }
                if self.dynptr_of(n).ref_obj_id == 0 {
                    return Err(reject!(self, EINVAL, "arg {n} is an unacquired reference"));
                }
            } else if reg.ref_obj_id == 0 && !reg.is_null() {
                return Err(reject!(self, EINVAL, "R{n} must be referenced when passed to release function"));
            }
            meta.release = Some(n);
        }
        if reg.is_pointer() && reg.ref_obj_id != 0 && arg.kind != ArgKind::KptrXchgDest {
            if meta.ref_obj_id != 0 {
                let (a, b) = (reg.ref_obj_id, meta.ref_obj_id);
                return Err(crate::env::internal!(self, "more than one arg with ref_obj_id R{n} {a} {b}"));
            }
            meta.ref_obj_id = reg.ref_obj_id;
        }
        Ok(())
    }

    fn note_map(&mut self, reg: Reg, meta: &mut CallMeta) -> Check {
        if let Some(seen) = meta.map
            && !Self::same_map(&seen, &reg)
        {
            let uid = |r: &Reg| match r.extra {
                Extra::Map { uid, .. } => uid,
                _ => 0,
            };
            let (a, b) = (uid(&seen), uid(&reg));
            return Err(reject!(
                self,
                EINVAL,
                "timer pointer in R1 map_uid={a} doesn't match map pointer in R2 map_uid={b}"
            ));
        }
        meta.map = Some(reg);
        Ok(())
    }

    fn note_callback(&mut self, reg: &Reg, meta: &mut CallMeta) {
        if let Extra::Func(sub) = reg.extra {
            meta.callback = sub;
            self.facts_mut().callback.join(Some(u64::from(sub)));
        }
    }

    /// A constant key of an array lies in the stack: the lookup then never fails within bounds.
    fn note_const_key(&mut self, key: &Reg, meta: &mut CallMeta) -> Check {
        if meta.id != crate::check::helper::MAP_LOOKUP || key.base() != Base::Stack || !self.caps.bpf {
            return Ok(());
        }
        let Some(shape) = meta.map.and_then(|m| self.map_of(&m)) else { return Ok(()) };
        if !matches!(shape.map_type, MapType::Array | MapType::PercpuArray) {
            return Ok(());
        }
        let Some(var) = key.bounds.const_value() else { return Ok(()) };
        let (frame, off) = (key.frame(), i64::from(key.off).wrapping_add(var.cast_signed()));
        if off % 4 != 0 {
            return Ok(());
        }
        let (slot_index, byte) = place(off);
        let Some(slot) = self.cur.frames[frame].stack.get(slot_index).copied() else { return Ok(()) };
        let kinds: Vec<ByteKind> = (0..4).filter_map(|i| slot.bytes.get(byte.wrapping_sub(i)).copied()).collect();
        if kinds.len() == 4 && kinds.iter().all(|k| *k == ByteKind::Zero) {
            meta.const_key = Some(0);
        } else if slot.is_spilled_scalar()
            && kinds.iter().all(|k| *k == ByteKind::Spill)
            && (byte == UPPER_HALF || slot.bytes[0] != ByteKind::Spill)
            && let Some(v) = slot.reg.bounds.const_value()
        {
            self.mark_slot_precise(frame, slot_index)?;
            // As in the kernel, which takes the number for the key and does not look at what of it was saved: a number within
            // the array has nothing in its upper half.
            meta.const_key = if byte == UPPER_HALF {
                Some(0).filter(|_| v < u64::from(shape.max_entries))
            } else {
                Some(v).filter(|v| *v <= u64::from(u32::MAX))
            };
        }
        meta.key_in_range = meta.const_key.is_some_and(|k| k < u64::from(shape.max_entries));
        Ok(())
    }

    /// Memory of a helper: `size` bytes from the register.
    pub(crate) fn check_helper_mem(
        &mut self,
        n: u8,
        size: u32,
        access: Access,
        zero_ok: bool,
        meta: Option<&mut CallMeta>,
    ) -> Check {
        let reg = *self.reg(n);
        match reg.base() {
            Base::Packet | Base::PacketMeta => self.check_packet_access(n, reg.off, size, zero_ok),
            Base::MapKey => {
                if access == Access::Write {
                    return Err(reject!(self, EACCES, "R{n} cannot write into {}", type_name(reg.ty)));
                }
                let key_size = self.map_of(&reg).map_or(0, |m| m.key_size);
                self.check_mem_region(n, reg.off, size, key_size, false)
            }
            Base::MapValue if !reg.ty.maybe_null() => {
                self.check_map_access_type(&reg, reg.off, size, access)?;
                self.check_map_region(n, reg.off, size, zero_ok, false)
            }
            Base::Mem if !reg.ty.maybe_null() => {
                if access == Access::Write && reg.ty.has(flags::RDONLY) {
                    return Err(reject!(self, EACCES, "R{n} cannot write into {}", type_name(reg.ty)));
                }
                if access == Access::Write {
                    self.check_slice_store(&reg);
                }
                self.check_mem_region(n, reg.off, size, reg.mem_size(), zero_ok)
            }
            Base::Buf if !reg.ty.maybe_null() => self.check_buffer(n, reg.off, size, access),
            Base::Stack => {
                let range = StackRange { off: reg.off, size: size.cast_signed() };
                let raw = meta.filter(|m| m.raw && reg.bounds.is_const());
                match raw {
                    Some(meta) => self.check_raw_stack(n, range, zero_ok, access, meta),
                    None => self.check_stack_initialized(n, range, zero_ok, access),
                }
            }
            Base::Ctx if self.ctx_is_memory() => {
                if size == 0 {
                    if zero_ok {
                        return Ok(());
                    }
                    return Err(reject!(self, EACCES, "R{n} invalid zero-sized read"));
                }
                let Some(r) = R::new(n) else { return Ok(()) };
                let last = size.cast_signed() - 1;
                self.check_mem(r, last, 1, access, None, false)
            }
            _ => {
                if zero_ok && size == 0 && reg.is_null() {
                    return Ok(());
                }
                Err(reject!(self, EACCES, "R{n} type={} expected=fp", type_name(reg.ty)))
            }
        }
    }

    /// Stack memory that the helper initialises.
    fn check_raw_stack(
        &mut self,
        n: u8,
        range: StackRange,
        zero_ok: bool,
        access: Access,
        meta: &mut CallMeta,
    ) -> Check {
        if range.size == 0 && !zero_ok {
            return Err(reject!(self, EACCES, "invalid zero-sized read"));
        }
        self.check_stack_bounds(n, range.off, range.size, access)?;
        let reg = *self.reg(n);
        let start = i64::from(range.off).wrapping_add(reg.bounds.var_off.value.cast_signed());
        for at in start..start + i64::from(range.size) {
            let (slot, byte) = place(at);
            let stack = &self.cur.frames[reg.frame()].stack;
            if stack.get(slot).is_some_and(|s| s.bytes[byte] == ByteKind::Dynptr) {
                return Err(reject!(self, EACCES, "potential write to dynptr at off={at} disallowed"));
            }
        }
        meta.written = Some((n, range.size));
        Ok(())
    }

    /// What the helper initialises becomes data.
    pub(crate) fn write_raw(&mut self, meta: &CallMeta) -> Check {
        let Some((n, size)) = meta.written else { return Ok(()) };
        let Some(r) = R::new(n) else { return Ok(()) };
        for i in 0..size {
            self.check_mem(r, i, 1, Access::Write, None, false)?;
        }
        Ok(())
    }

    /// A size argument, and the memory before it.
    pub(crate) fn check_size(&mut self, n: u8, access: Access, zero_ok: bool, meta: &mut CallMeta) -> Check {
        let reg = *self.reg(n);
        meta.max_size = reg.bounds.u64.max;
        if reg.bounds.s64.min < 0 {
            let text = "min value is negative, either use unsigned or 'var &= const'";
            return Err(reject!(self, EACCES, "R{n} {text}"));
        }
        let b = reg.bounds.u64;
        if b.min == 0 && !zero_ok {
            return Err(reject!(self, EACCES, "R{n} invalid zero-sized read: u64=[{},{}]", b.min, b.max));
        }
        if b.max >= MAX_VAR_OFF.unsigned_abs() {
            let text = "unbounded memory access, use 'var &= const' or 'if (var < const)'";
            return Err(reject!(self, EACCES, "R{n} {text}"));
        }
        let size = u32::try_from(b.max).unwrap_or(u32::MAX);
        let fixed = reg.bounds.is_const();
        let meta = if fixed { Some(meta) } else { None };
        self.check_helper_mem(n - 1, size, access, zero_ok, meta)?;
        self.mark_precise(n)
    }

    /// Register `n` points to the field of this kind in a map value.
    pub(crate) fn check_map_field(&mut self, n: u8, kind: FieldKind) -> Check {
        let reg = *self.reg(n);
        let name = kind.name();
        let Some(var) = reg.bounds.const_value() else {
            let text = format!("doesn't have constant offset. {name} has to be at the constant offset");
            return Err(reject!(self, EINVAL, "R{n} {text}"));
        };
        let Some(shape) = self.map_of(&reg) else { return Err(crate::env::internal!(self, "R{n} without map")) };
        let Some(field) = shape.field(kind) else {
            let map = &shape.name;
            if shape.btf_value_type_id == 0 {
                return Err(reject!(self, EINVAL, "map '{map}' has to have BTF in order to use {name}"));
            }
            return Err(reject!(self, EINVAL, "map '{map}' has no valid {name}"));
        };
        let at = i64::from(reg.off).wrapping_add(var.cast_signed());
        if at != i64::from(field.offset) {
            let want = field.offset;
            return Err(reject!(self, EINVAL, "off {at} doesn't point to 'struct {name}' that is at {want}"));
        }
        Ok(())
    }

    /// A zero-terminated string in a frozen read-only map.
    pub(crate) fn check_const_str(&mut self, n: u8) -> Check {
        let reg = *self.reg(n);
        if reg.base() != Base::MapValue {
            return Err(reject!(self, EINVAL, "R{n} is not a map value"));
        }
        let Some(shape) = self.map_of(&reg) else { return Err(crate::env::internal!(self, "R{n} without map")) };
        if shape.map_type == MapType::PercpuArray {
            let text = "points to percpu_array map which cannot be used as const string";
            return Err(reject!(self, EACCES, "R{n} {text}"));
        }
        let frozen = shape.frozen && shape.flags & skep_abi::flags::map_flags::BPF_F_RDONLY_PROG != 0;
        if !frozen {
            return Err(reject!(self, EACCES, "R{n} does not point to a readonly map'"));
        }
        let Some(var) = reg.bounds.const_value() else {
            return Err(reject!(self, EACCES, "R{n} is not a constant address'"));
        };
        if shape.map_type != MapType::Array {
            return Err(reject!(self, EACCES, "no direct value access support for this map type"));
        }
        let at = i64::from(reg.off).wrapping_add(var.cast_signed());
        let left = i64::from(shape.value_size).saturating_sub(at);
        self.check_map_region(n, reg.off, u32::try_from(left).unwrap_or(0), false, false)?;
        let tail = usize::try_from(at).ok().and_then(|at| shape.contents.as_deref()?.get(at..));
        if tail.is_some_and(|t| t.contains(&0)) {
            return Ok(());
        }
        Err(reject!(self, EINVAL, "string is not zero-terminated"))
    }
}

/// Whether what is passed may have an offset, to helpers and kernel functions alike.
pub(super) fn may_have_offset(base: Base) -> bool {
    matches!(
        base,
        Base::Stack
            | Base::Packet
            | Base::PacketMeta
            | Base::MapKey
            | Base::MapValue
            | Base::Mem
            | Base::Buf
            | Base::Arena
            | Base::Scalar
    )
}

/// Which way a helper uses its memory.
fn direction(arg: ArgType) -> Access {
    if arg.flags.has(TypeFlags::WRITE) { Access::Write } else { Access::Read }
}
