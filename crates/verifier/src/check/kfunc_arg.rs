//! One argument of a kernel function.
//!
//! Owns which registers fit which parameter. Invariant: a null pointer reaches no parameter that does not say that it may;
//! an object is of the type that the prototype names, and referenced, trusted or protected where that is asked for. Kernel
//! counterpart: `check_kfunc_args`, kernel/bpf/verifier.c, 6.18.

use skep_abi::helper::{ArgKind, ArgType, TypeFlags};
use skep_abi::kfunc::{KERNEL_TYPES, KfuncArg, KfuncProto, NewDynptr, begins_with, flags as kf};

use crate::check::Access;
use crate::check::arg::{CallMeta, may_have_offset};
use crate::env::{Check, Env, Reject, reject};
use crate::print::type_name;
use crate::spec::{FieldKind, RecordField};
use crate::state::reg::{Base, DynptrKind, Extra, Reg, RegType, flags};

/// What the arguments of one call have said so far.
#[derive(Clone, Debug)]
pub(crate) struct KfuncMeta {
    pub(crate) proto: &'static KfuncProto,
    /// The constant argument, or the constant size.
    pub(crate) constant: Option<u64>,
    /// Reference of the arguments.
    pub(crate) ref_obj_id: u32,
    /// The register whose reference is given back.
    pub(crate) release: Option<u8>,
    /// The initialised dynptr argument.
    pub(crate) dynptr: Option<Reg>,
    /// Frame of the buffer argument, if that is on the stack.
    pub(crate) buffer_frame: u8,
    /// Where a buffer on the stack begins; `None` if that is not known, 0 if it is elsewhere.
    pub(crate) buffer_at: Option<i16>,
    /// The reference to the record that the buffer is a part of, 0 for none.
    pub(crate) buffer_record: u32,
    /// Type of the object argument.
    pub(crate) object: Extra,
    /// The path owns that object.
    pub(crate) owning: bool,
    /// The list head or tree root.
    pub(crate) root: Option<RecordField>,
    /// The node goes into the list or tree: the program no longer owns it.
    pub(crate) inserts: bool,
    /// Subprogram of the callback.
    pub(crate) callback: u32,
    /// Frame and main slot of the iterator.
    pub(crate) iter: (usize, usize),
    /// The map value with the work queue.
    pub(crate) queue: Option<Reg>,
}

impl KfuncMeta {
    pub(crate) fn new(proto: &'static KfuncProto) -> Self {
        Self {
            proto,
            constant: None,
            ref_obj_id: 0,
            release: None,
            dynptr: None,
            buffer_frame: 0,
            buffer_at: Some(0),
            buffer_record: 0,
            object: Extra::None,
            owning: false,
            root: None,
            inserts: false,
            callback: 0,
            iter: (0, 0),
            queue: None,
        }
    }
}

impl Env<'_> {
    /// Checks all arguments of a kernel function.
    pub(crate) fn check_kfunc_args(&mut self, meta: &mut KfuncMeta) -> Check {
        let args = meta.proto.args;
        for (n, arg) in (1u8..).zip(args) {
            match arg {
                KfuncArg::Ignored | KfuncArg::Size(_) => continue,
                KfuncArg::Scalar | KfuncArg::Constant => {
                    self.check_kfunc_scalar(n, *arg == KfuncArg::Constant, meta)?;
                    continue;
                }
                _ => {}
            }
            self.scratch_reg(n);
            let reg = *self.reg(n);
            // No memory at all may be anywhere.
            let nullable = match arg {
                KfuncArg::DynptrOrNull | KfuncArg::MemSizedOrNull | KfuncArg::Callback => true,
                // What goes into a list or tree is an object that is owned, which says more.
                KfuncArg::ListNode => true,
                KfuncArg::RbNode => meta.proto.name == "bpf_rbtree_add_impl",
                KfuncArg::MemSized => self.reg(n + 1).is_null(),
                _ => false,
            };
            let may_be_null = (reg.is_null() || reg.ty.maybe_null()) && !nullable;
            if may_be_null && meta.proto.has(kf::TRUSTED | kf::RELEASE | kf::RCU) {
                return Err(self.possibly_null(n));
            }
            if reg.is_pointer() && reg.ref_obj_id != 0 {
                meta.ref_obj_id = reg.ref_obj_id;
                if meta.proto.has(kf::RELEASE) {
                    meta.release = Some(n);
                }
            }
            if reg.is_null() && *arg == KfuncArg::DynptrOrNull {
                continue;
            }
            if *arg == KfuncArg::Map {
                self.check_map_argument(n, &reg, meta)?;
            }
            self.check_kfunc_offset(n, &reg, meta)?;
            self.check_kfunc_pointer(n, &reg, *arg, meta)?;
            if may_be_null {
                // The kernel lets memory pass that may be null, and the function finds out.
                return Err(self.possibly_null(n));
            }
        }
        if meta.proto.has(kf::RELEASE) && meta.release.is_none() {
            let name = meta.proto.name;
            let text = format!("release kernel function {name} expects refcounted PTR_TO_BTF_ID");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        Ok(())
    }

    fn possibly_null(&mut self, n: u8) -> Box<Reject> {
        reject!(self, EACCES, "Possibly NULL pointer passed to trusted arg{}", n - 1)
    }

    fn check_kfunc_scalar(&mut self, n: u8, constant: bool, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        if !reg.is_scalar() {
            return Err(reject!(self, EINVAL, "R{n} is not a scalar"));
        }
        if constant {
            let Some(value) = reg.bounds.const_value() else {
                return Err(reject!(self, EINVAL, "R{n} must be a known constant"));
            };
            self.mark_precise(n)?;
            meta.constant = Some(value);
        }
        Ok(())
    }

    /// Which pointers may have an offset when they are passed.
    fn check_kfunc_offset(&mut self, n: u8, reg: &Reg, meta: &KfuncMeta) -> Check {
        if meta.proto.has(kf::RELEASE) && reg.is_pointer() && reg.ref_obj_id != 0 {
            return self.check_released(reg, n);
        }
        match reg.base() {
            Base::BtfId if !reg.ty.maybe_null() => {
                let fixed = Reg { off: reg.off.min(0), ..*reg };
                self.check_unmodified(&fixed, n)
            }
            Base::NotInit => Ok(()),
            base if may_have_offset(base) => Ok(()),
            _ => self.check_unmodified(reg, n),
        }
    }

    fn check_kfunc_pointer(&mut self, n: u8, reg: &Reg, arg: KfuncArg, meta: &mut KfuncMeta) -> Check {
        let at = n - 1;
        match arg {
            KfuncArg::Ctx => {
                if reg.base() != Base::Ctx {
                    let name = type_name(reg.ty);
                    return Err(reject!(self, EINVAL, "arg#{at} expected pointer to ctx, but got {name}"));
                }
            }
            KfuncArg::Dynptr | KfuncArg::DynptrOrNull | KfuncArg::NewDynptr(_) => {
                self.check_kfunc_dynptr(n, arg, meta)?
            }
            KfuncArg::Iter(iter) => meta.iter = self.check_iter_arg(n, iter, meta)?,
            KfuncArg::Map => self.check_map_type(n, reg)?,
            KfuncArg::ListHead => self.check_root(n, FieldKind::ListHead, meta)?,
            KfuncArg::RbRoot => self.check_root(n, FieldKind::RbRoot, meta)?,
            KfuncArg::ListNode => self.check_node(n, FieldKind::ListNode, meta)?,
            KfuncArg::RbNode => self.check_node(n, FieldKind::RbNode, meta)?,
            KfuncArg::Alloc => self.check_dropped(n, meta)?,
            KfuncArg::Refcounted => self.check_refcounted(n, meta)?,
            KfuncArg::Callback => {
                let Extra::Func(sub) = reg.extra else {
                    return Err(reject!(self, EINVAL, "arg{at} expected pointer to func"));
                };
                meta.callback = sub;
                self.facts_mut().callback.join(Some(u64::from(sub)));
            }
            KfuncArg::ResLock => self.check_res_lock(n, meta)?,
            KfuncArg::IrqFlag => self.check_irq_flag(n, meta)?,
            KfuncArg::Workqueue => self.check_workqueue(n, meta)?,
            KfuncArg::Object(name) => self.check_kernel_object(n, name, meta)?,
            KfuncArg::Mem(size, pointee) => {
                self.refuse_object_as_memory(n, reg, meta, pointee)?;
                self.check_memory_arg(n, reg, size, true)?;
            }
            KfuncArg::MemSized | KfuncArg::MemSizedOrNull => self.check_sized_memory(n, reg, arg, meta)?,
            KfuncArg::Scalar | KfuncArg::Constant | KfuncArg::Ignored | KfuncArg::Size(_) => {}
        }
        Ok(())
    }

    /// A work queue in a map value.
    fn check_workqueue(&mut self, n: u8, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        if reg.ty != RegType::of(Base::MapValue) {
            return Err(reject!(self, EINVAL, "arg#{} doesn't point to a map value", n - 1));
        }
        self.check_map_field(n, FieldKind::Workqueue)?;
        meta.queue = Some(reg);
        Ok(())
    }

    /// An object is no plain memory, whatever it is made of.
    fn refuse_object_as_memory(&mut self, n: u8, reg: &Reg, meta: &KfuncMeta, pointee: &str) -> Check {
        if reg.base() != Base::BtfId && !reg.ty.is_sock() {
            return Ok(());
        }
        let name = meta.proto.name;
        Err(reject!(self, EINVAL, "kernel function {name} args#{} pointer type {pointee} is not supported", n - 1))
    }

    fn check_sized_memory(&mut self, n: u8, reg: &Reg, arg: KfuncArg, meta: &mut KfuncMeta) -> Check {
        self.refuse_object_as_memory(n, reg, meta, "UNKNOWN ")?;
        if reg.base() == Base::Stack {
            meta.buffer_frame = u8::try_from(reg.frame()).unwrap_or(u8::MAX);
            let at = reg.bounds.const_value().map(|v| i64::from(reg.off).wrapping_add(v.cast_signed()));
            meta.buffer_at = at.and_then(|at| i16::try_from(at).ok());
        } else if matches!(reg.extra, Extra::Slice { .. }) {
            // It may itself be a copy on the stack.
            meta.buffer_at = None;
        }
        meta.buffer_record = reg.ref_obj_id;
        let at = n - 1;
        let constant = meta.proto.args.get(usize::from(n)) == Some(&KfuncArg::Size(true));
        if !(arg == KfuncArg::MemSizedOrNull && reg.is_null()) {
            let size = *self.reg(n + 1);
            let fits = if size.is_scalar() {
                self.check_sized(n, reg)
            } else {
                Err(reject!(self, EINVAL, "R{} is not a scalar", n + 1))
            };
            if let Err(refused) = fits {
                if refused.kind == crate::verified::RejectionKind::Internal {
                    return Err(refused);
                }
                let text = format!("arg#{at} arg#{n} memory, len pair leads to invalid memory access");
                return Err(self.reject(refused.errno, refused.kind, text));
            }
        }
        if constant {
            let size = *self.reg(n + 1);
            let Some(value) = size.const_scalar() else {
                return Err(reject!(self, EINVAL, "R{} must be a known constant", n + 1));
            };
            self.mark_precise(n + 1)?;
            meta.constant = Some(value);
        }
        Ok(())
    }

    /// Memory that the function reads and writes, and its size in the next register.
    fn check_sized(&mut self, n: u8, reg: &Reg) -> Check {
        let saved = *reg;
        self.reg_mut(n).ty = reg.ty.without(flags::MAYBE_NULL);
        let mut call = CallMeta::default();
        let mut fits = self.check_size(n + 1, Access::Read, true, &mut call);
        if fits.is_ok() {
            fits = self.check_size(n + 1, Access::Write, true, &mut call);
        }
        self.reg_mut(n).ty = saved.ty;
        fits
    }

    fn check_kfunc_dynptr(&mut self, n: u8, arg: KfuncArg, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        if !matches!(reg.base(), Base::Stack | Base::Dynptr) {
            let text = "expected pointer to stack or const struct bpf_dynptr";
            return Err(reject!(self, EINVAL, "arg#{} {text}", n - 1));
        }
        let mut kind = TypeFlags::NONE;
        let mut call = CallMeta::default();
        if let KfuncArg::NewDynptr(new) = arg {
            let parent = meta.dynptr.map(|reg| (reg.extra, reg.ref_obj_id));
            let of = match new {
                NewDynptr::Skb => DynptrKind::Skb,
                NewDynptr::Xdp => DynptrKind::Xdp,
                NewDynptr::Clone => match parent {
                    Some((Extra::Dynptr { kind, .. }, owner)) => {
                        call.ref_obj_id = owner;
                        call.clones = true;
                        kind
                    }
                    _ => return Err(crate::env::internal!(self, "no dynptr type for parent of clone")),
                },
            };
            kind = TypeFlags::UNINIT.with(match of {
                DynptrKind::Local => TypeFlags::DYNPTR_LOCAL,
                DynptrKind::Ringbuf => TypeFlags::DYNPTR_RINGBUF,
                DynptrKind::Skb => TypeFlags::DYNPTR_SKB,
                DynptrKind::Xdp => TypeFlags::DYNPTR_XDP,
            });
        } else if reg.base() == Base::Dynptr {
            kind = TypeFlags::RDONLY;
        }
        self.check_dynptr_arg(n, ArgType::new(ArgKind::PtrToDynptr, kind), &mut call)?;
        if !matches!(arg, KfuncArg::NewDynptr(_)) {
            meta.dynptr = Some(self.dynptr_of(n));
        }
        Ok(())
    }

    /// The object is referenced, or trusted, or protected where that will do.
    pub(crate) fn check_trusted(&mut self, n: u8, reg: &Reg, meta: &KfuncMeta) -> Check {
        let safe = flags::TRUSTED | flags::ALLOC | flags::NON_OWN;
        let trusted = reg.is_pointer() && (reg.ref_obj_id != 0 || (reg.ty.has(safe) && reg.ty.flags & !safe == 0));
        if trusted {
            return Ok(());
        }
        if !meta.proto.has(kf::RCU) {
            return Err(reject!(self, EINVAL, "R{n} must be referenced or trusted"));
        }
        if !reg.ty.has(flags::RCU) {
            return Err(reject!(self, EINVAL, "R{n} must be a rcu pointer"));
        }
        Ok(())
    }

    /// The register may hold a map, that of the work queue if there is one: what the kernel asks before it looks at the offset.
    fn check_map_argument(&mut self, n: u8, reg: &Reg, meta: &KfuncMeta) -> Check {
        // It asks for something where map pointers keep their map, and other types keep other things there.
        let nothing = match reg.extra {
            Extra::None | Extra::Frame(_) => true,
            Extra::Range(value) => value == 0,
            Extra::MemSize(value) | Extra::Slice { size: value, .. } | Extra::Func(value) => value == 0,
            _ => false,
        };
        if nothing {
            return Err(reject!(self, EINVAL, "pointer in R{n} isn't map pointer"));
        }
        if let Some(Reg { extra: Extra::Map { uid, .. }, .. }) = meta.queue.filter(|queue| !Self::same_map(queue, reg))
        {
            let map_uid = match reg.extra {
                Extra::Map { uid, .. } => uid,
                _ => 0,
            };
            let text = format!("map_uid={uid} doesn't match map pointer in R2 map_uid={map_uid}");
            return Err(reject!(self, EINVAL, "workqueue pointer in R1 {text}"));
        }
        let safe = flags::TRUSTED | flags::ALLOC | flags::NON_OWN;
        let trusted = reg.ref_obj_id != 0 || (reg.ty.has(safe) && reg.ty.flags & !safe == 0);
        if meta.proto.has(kf::TRUSTED) && !trusted && reg.base() != Base::ConstMap && !reg.ty.is_sock() {
            return Err(reject!(self, EINVAL, "R{n} must be referenced or trusted"));
        }
        Ok(())
    }

    fn check_map_type(&mut self, n: u8, reg: &Reg) -> Check {
        if reg.ty == RegType::of(Base::ConstMap) {
            return Ok(());
        }
        if reg.base() == Base::BtfId || reg.ty.is_sock() {
            return Err(crate::env::unsupported!(self, "R{n} is no map, and {} is taken for none", type_name(reg.ty)));
        }
        let (have, want) = (type_name(reg.ty), type_name(RegType::of(reg.base())));
        Err(reject!(self, EINVAL, "arg#{} is {have} expected {want} or socket", n - 1))
    }

    /// A kernel object of this type, or a socket.
    fn check_kernel_object(&mut self, n: u8, wanted: &'static str, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        let at = n - 1;
        let socket = match reg.base() {
            Base::Socket => Some("sock"),
            Base::SockCommon => Some("sock_common"),
            Base::TcpSock => Some("tcp_sock"),
            _ => None,
        };
        if reg.base() != Base::BtfId && socket.is_none() {
            let text = format!("arg#{at} pointer type STRUCT {wanted} must point to scalar, or struct with scalar");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        if socket.is_none() {
            self.check_trusted(n, &reg, meta)?;
        }
        if reg.ty.has(flags::UNTRUSTED | flags::USER | flags::PERCPU) {
            let name = type_name(reg.ty);
            return Err(reject!(self, EINVAL, "arg#{at} is {name} expected ptr_ or socket"));
        }
        let strict = meta.proto.has(kf::ACQUIRE) || (meta.proto.has(kf::RELEASE) && reg.ref_obj_id != 0);
        let have = match (socket, reg.extra) {
            (Some(name), _) => name,
            (None, Extra::Kernel(number)) => *KERNEL_TYPES.get(usize::from(number)).unwrap_or(&"?"),
            _ => "",
        };
        let same = if strict { have == wanted } else { begins_with(have, wanted) };
        if !same || reg.off != 0 {
            let name = meta.proto.name;
            let own = || Self::object_type(&reg).map(|ty| self.object_name(ty)).unwrap_or_default();
            let have = socket.map_or_else(own, str::to_owned);
            let text = format!("kernel function {name} args#{at} expected pointer to STRUCT {wanted}");
            return Err(reject!(self, EINVAL, "{text} but R{n} has a pointer to STRUCT {have}"));
        }
        Ok(())
    }
}
