//! Kernel functions, by table.
//!
//! Owns what a call does to the state, beyond its arguments. Invariant: a function that is not in the table
//! ([`skep_abi::kfunc`]), or not for this program type, is refused; one that this engine does not have is noted as a need.
//! Kernel counterpart: `check_kfunc_call`, kernel/bpf/verifier.c, 6.18.

use skep_abi::kfunc::{self, KfuncArg, KfuncProto, KfuncRet, flags as kf};

use crate::check::global::Arg;
use crate::check::helper::CallTraits;
use crate::check::kfunc_arg::KfuncMeta;
use crate::env::{Check, Env, reject};
use crate::explore::Flow;
use crate::spec::{FieldKind, FieldTarget, ObjectType};
use crate::state::frame::Callback;
use crate::state::reg::{Base, DynptrKind, Extra, OF_A_CALLER, Reg, RegType, flags};

const WQ_SET_CALLBACK: &str = "bpf_wq_set_callback_impl";

/// Functions that this engine runs.
pub(crate) const RUNNABLE: &[&str] = &[
    "bpf_arena_alloc_pages",
    "bpf_arena_free_pages",
    "bpf_arena_reserve_pages",
    "bpf_iter_num_new",
    "bpf_iter_num_next",
    "bpf_iter_num_destroy",
    "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock",
    "bpf_preempt_disable",
    "bpf_preempt_enable",
    "bpf_iter_bits_new",
    "bpf_iter_bits_next",
    "bpf_iter_bits_destroy",
    "bpf_dynptr_from_skb",
    "bpf_dynptr_from_xdp",
    "bpf_dynptr_slice",
    "bpf_dynptr_slice_rdwr",
    "bpf_dynptr_adjust",
    "bpf_dynptr_is_null",
    "bpf_dynptr_is_rdonly",
    "bpf_dynptr_size",
    "bpf_dynptr_clone",
    "bpf_dynptr_copy",
    "bpf_dynptr_memset",
    "bpf_throw",
    "bpf_res_spin_lock",
    "bpf_res_spin_lock_irqsave",
    "bpf_res_spin_unlock",
    "bpf_res_spin_unlock_irqrestore",
    "bpf_local_irq_save",
    "bpf_local_irq_restore",
    "bpf_obj_new_impl",
    "bpf_obj_drop_impl",
    "bpf_refcount_acquire_impl",
    "bpf_list_push_front_impl",
    "bpf_list_push_back_impl",
    "bpf_list_pop_front",
    "bpf_list_pop_back",
    "bpf_list_front",
    "bpf_list_back",
    "bpf_rbtree_add_impl",
    "bpf_rbtree_remove",
    "bpf_rbtree_first",
    "bpf_rbtree_root",
    "bpf_rbtree_left",
    "bpf_rbtree_right",
];

/// Whether programs can call a kernel function of this name here.
#[must_use]
pub fn has_kfunc(name: &str) -> bool {
    RUNNABLE.contains(&name)
}

/// Name of an iterator kind in the log.
pub(crate) fn iter_name(kind: u8) -> &'static str {
    let iter = |arg: &KfuncArg| match arg {
        KfuncArg::Iter(iter) if iter.kind == kind => Some(iter.name),
        _ => None,
    };
    kfunc::KFUNCS.iter().find_map(|proto| proto.args.iter().find_map(iter)).unwrap_or("?")
}

impl Env<'_> {
    /// The prototype of a kernel function by its index in the program's list.
    pub(crate) fn kfunc(&self, id: i32) -> Option<&'static KfuncProto> {
        self.kfuncs.get(usize::try_from(id).ok()?).copied().flatten()
    }

    /// The same, if this program may call it.
    fn allowed_kfunc(&self, id: i32) -> Option<&'static KfuncProto> {
        self.kfunc(id).filter(|proto| proto.allowed(self.spec.prog_type, self.spec.attach_type))
    }

    /// Name of a kernel function by its index in the program's list.
    pub(crate) fn kfunc_name(&self, id: i32) -> Option<&str> {
        self.spec.kfuncs.get(usize::try_from(id).ok()?).map(|k| k.name.as_ref())
    }

    /// Properties of a kernel function that decide the shape of the walk.
    pub(crate) fn kfunc_traits(&self, id: i32) -> CallTraits {
        let Some(proto) = self.allowed_kfunc(id) else { return CallTraits::default() };
        CallTraits {
            iter_next: proto.has(kf::ITER_NEXT),
            sync_callback: proto.args.contains(&KfuncArg::Callback) && proto.name != WQ_SET_CALLBACK,
            async_callback: proto.name == WQ_SET_CALLBACK,
            might_sleep: proto.has(kf::SLEEPABLE),
            throws: proto.name == "bpf_throw",
            ..CallTraits::default()
        }
    }

    /// Number of its arguments.
    pub(crate) fn kfunc_arg_count(&self, id: i32) -> Option<u32> {
        self.allowed_kfunc(id).and_then(|proto| u32::try_from(proto.args.len()).ok())
    }

    /// Whether it may be called while a lock is held.
    pub(crate) fn kfunc_allowed_under_lock(&self, id: i32) -> bool {
        self.kfunc(id).is_some_and(|proto| proto.has(kf::GRAPH | kf::NUM | kf::LOCK))
    }

    /// Whether the function at this slot is `bpf_throw`.
    pub(crate) fn is_throw(&self, at: u32) -> bool {
        use skep_abi::{CallTarget, Insn};
        match self.insn_at(at) {
            Some(Insn::Call { target: CallTarget::Kfunc { id, .. } }) => self.kfunc_traits(id).throws,
            _ => false,
        }
    }

    /// `call kernel-function`.
    pub(crate) fn check_kfunc_call(&mut self, id: i32) -> Check<Flow> {
        let Some(proto) = self.allowed_kfunc(id) else {
            let name = self.kfunc_name(id).unwrap_or("?").to_owned();
            return Err(reject!(self, EACCES, "calling kernel function {name} is not allowed"));
        };
        let name = proto.name;
        self.push_lock_failure(name)?;
        if proto.has(kf::SLEEPABLE) && !self.cur.sleepable {
            let text = "program must be sleepable to call sleepable kfunc";
            return Err(reject!(self, EACCES, "{text} {name}"));
        }
        if !has_kfunc(name) {
            self.need(&format!("kernel function {name}"));
        }
        let mut meta = KfuncMeta::new(proto);
        self.check_kfunc_args(&mut meta)?;
        match name {
            "bpf_rbtree_add_impl" => self.push_callback(Callback::Rbtree, meta.callback)?,
            WQ_SET_CALLBACK => self.push_callback(Callback::Workqueue, meta.callback)?,
            _ => {}
        }
        self.check_sections(proto)?;
        self.release_kfunc_argument(&meta)?;
        if meta.inserts {
            self.insert_node()?;
        }
        if name == "bpf_throw" {
            return self.check_throw();
        }
        if proto.has(kf::ITER_NEXT) {
            self.iter_next(&meta)?;
            return Ok(Flow::Continue);
        }
        self.clear_caller_saved();
        self.set_kfunc_result(&meta)?;
        Ok(Flow::Continue)
    }

    /// RCU, preemption and interrupt sections: what opens and closes them, and what may not be called in them.
    fn check_sections(&mut self, proto: &KfuncProto) -> Check {
        let name = proto.name;
        let sleeps = proto.has(kf::SLEEPABLE);
        match name {
            "bpf_rcu_read_lock" => self.cur.res_mut().rcu += 1,
            "bpf_rcu_read_unlock" => {
                if self.cur.res.rcu == 0 {
                    return Err(reject!(self, EINVAL, "unmatched rcu read unlock (kernel function {name})"));
                }
                self.cur.res_mut().rcu -= 1;
                if self.cur.res.rcu == 0 {
                    self.cur.for_each_reg(
                        |r| r.is_pointer() && r.ty.has(flags::RCU),
                        |r| r.ty = r.ty.without(flags::RCU | flags::MAYBE_NULL).with(flags::UNTRUSTED),
                    );
                }
            }
            _ if sleeps && self.cur.res.rcu > 0 => {
                return Err(reject!(self, EACCES, "kernel func {name} is sleepable within rcu_read_lock region"));
            }
            _ => {}
        }
        match name {
            "bpf_preempt_disable" => self.cur.res_mut().preempt += 1,
            "bpf_preempt_enable" => {
                if self.cur.res.preempt == 0 {
                    let text = "unmatched attempt to enable preemption";
                    return Err(reject!(self, EINVAL, "{text} (kernel function {name})"));
                }
                self.cur.res_mut().preempt -= 1;
            }
            _ if sleeps && self.cur.res.preempt > 0 => {
                return Err(reject!(self, EACCES, "kernel func {name} is sleepable within non-preemptible region"));
            }
            _ => {}
        }
        if sleeps && self.cur.res.irq != 0 {
            return Err(reject!(self, EACCES, "kernel func {name} is sleepable within IRQ-disabled region"));
        }
        Ok(())
    }

    fn release_kfunc_argument(&mut self, meta: &KfuncMeta) -> Check {
        let Some(n) = meta.release else { return Ok(()) };
        let id = self.reg(n).ref_obj_id;
        if self.release_reference(id) {
            return Ok(());
        }
        let name = meta.proto.name;
        Err(reject!(self, EINVAL, "kfunc {name} reference has not been acquired before"))
    }

    fn set_kfunc_result(&mut self, meta: &KfuncMeta) -> Check {
        let proto = meta.proto;
        let mut r0 = match proto.ret {
            KfuncRet::Void => return Ok(()),
            KfuncRet::Scalar => {
                match self.lock_result(proto.name) {
                    Some(done) => self.set_reg(0, done),
                    None => self.set_unknown(0),
                }
                return Ok(());
            }
            KfuncRet::Mem(size) => {
                let ty = RegType::of(Base::Mem).with(if proto.has(kf::SESSION) { 0 } else { flags::RDONLY });
                Reg { ref_obj_id: meta.ref_obj_id, ..Reg::pointer(ty, Extra::MemSize(size)) }
            }
            KfuncRet::Object(name) => {
                let number = kfunc::kernel_type(name).unwrap_or(u16::MAX);
                Reg::pointer(RegType::of(Base::BtfId), Extra::Kernel(number))
            }
            KfuncRet::NewObject => self.new_object(meta)?,
            KfuncRet::NewPercpuObject => self.new_percpu_object(meta)?,
            KfuncRet::SameObject => Reg::pointer(RegType::of(Base::BtfId).with(flags::ALLOC), meta.object),
            KfuncRet::ListNode | KfuncRet::RbNode => {
                let Some(FieldTarget::Nodes { object, node }) = meta.root.map(|root| root.target) else {
                    return Err(crate::env::internal!(self, "a node of no list or tree"));
                };
                let ty = RegType::of(Base::BtfId).with(flags::ALLOC);
                // Whether it has a lock decides whether its identity stays.
                self.struct_record(object.0);
                Reg { off: node.cast_signed(), ..Reg::pointer(ty, Extra::Btf(object.0)) }
            }
            KfuncRet::Slice(writable) => self.dynptr_slice(meta, writable)?,
            KfuncRet::KernelCtx => {
                let Some(number) = self.kernel_ctx() else {
                    return Err(reject!(self, EINVAL, "the context of this program type has no kernel type here"));
                };
                Reg::pointer(RegType::of(Base::BtfId).with(flags::TRUSTED), Extra::Kernel(number))
            }
            KfuncRet::ReadOnlyCast if meta.constant == Some(0) => {
                let ty = RegType::of(Base::Mem).with(flags::RDONLY | flags::UNTRUSTED);
                Reg::pointer(ty, Extra::MemSize(0))
            }
            KfuncRet::ReadOnlyCast => {
                let text = "bpf_rdonly_cast to a type of the kernel's BTF is not supported";
                return Err(crate::env::unsupported!(self, "{text}"));
            }
        };
        // Who owns an object cannot see its count reach zero.
        let nullable = proto.has(kf::RET_NULL) && !(proto.ret == KfuncRet::SameObject && meta.owning);
        if nullable {
            r0.ty = r0.ty.with(flags::MAYBE_NULL);
            r0.id = self.new_id();
        }
        if proto.has(kf::ACQUIRE) {
            let id = self.acquire_reference();
            if nullable {
                r0.id = id;
            }
            r0.ref_obj_id = id;
        } else if matches!(proto.ret, KfuncRet::ListNode | KfuncRet::RbNode) {
            self.set_non_owning(&mut r0)?;
        }
        if r0.id == 0 && self.may_point_to_lock(&r0) {
            r0.id = self.new_id();
        }
        self.set_reg(0, r0);
        Ok(())
    }

    /// Whether the object behind a register has a lock: its identity then stays after a null check.
    fn may_point_to_lock(&mut self, reg: &Reg) -> bool {
        let Extra::Btf(id) = reg.extra else { return false };
        self.struct_record(id);
        self.locked_types.contains(&id)
    }

    /// What `bpf_dynptr_slice` returns: packet bytes, or the copy in the buffer that came with the call.
    fn dynptr_slice(&mut self, meta: &KfuncMeta, writable: bool) -> Check<Reg> {
        let (Some(dynptr), Some(size)) = (meta.dynptr, meta.constant) else {
            return Err(crate::env::internal!(self, "slice without dynptr or size"));
        };
        let mut ty = RegType::of(Base::Mem);
        if let Extra::Dynptr { kind: DynptrKind::Skb | DynptrKind::Xdp, .. } = dynptr.extra {
            ty = ty.with(flags::DYNPTR_PACKET);
        }
        if !writable {
            ty = ty.with(flags::RDONLY);
        } else if !self.may_touch_packet(crate::check::Access::Write, None) {
            return Err(reject!(self, EINVAL, "the prog does not allow writes to packet data"));
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        // What lies in several pieces is copied to the buffer: packets of XDP.
        let of_a_caller =
            self.is_given_dynptrs() && matches!(dynptr.extra, Extra::Dynptr { kind: DynptrKind::Local, .. });
        let of_xdp = matches!(dynptr.extra, Extra::Dynptr { kind: DynptrKind::Xdp, .. });
        let copied = writable && (of_xdp || of_a_caller);
        if copied && (meta.buffer_at.is_none() || (of_a_caller && meta.buffer_record != 0)) {
            self.need("a slice with a buffer that may be anywhere");
        }
        let at = meta.buffer_at.filter(|_| copied).unwrap_or(0);
        let record = match copied {
            _ if of_a_caller => OF_A_CALLER,
            true => meta.buffer_record,
            false => dynptr.ref_obj_id,
        };
        let slice = Extra::Slice { size, frame: meta.buffer_frame, at, record };
        Ok(Reg { dynptr_id: dynptr.id, ..Reg::pointer(ty, slice) })
    }

    /// Whether the function that is walked gets dynptrs, of which the kernel says that they are none of a packet.
    fn is_given_dynptrs(&self) -> bool {
        let sub = self.cur.frames[0].subprog as usize;
        let args = self.subprogs.get(sub).and_then(|sub| sub.args.as_ref());
        args.is_some_and(|signature| signature.args.iter().any(|arg| matches!(arg, Arg::Dynptr)))
    }

    fn kernel_ctx(&self) -> Option<u16> {
        use skep_abi::ProgType as P;
        let name = match self.spec.prog_type {
            P::Xdp => "xdp_buff",
            P::Kprobe => "pt_regs",
            P::SchedCls | P::SchedAct | P::SocketFilter | P::CgroupSkb | P::SkSkb => "sk_buff",
            P::LwtIn | P::LwtOut | P::LwtXmit | P::LwtSeg6local => "sk_buff",
            _ => return None,
        };
        kfunc::kernel_type(name)
    }

    /// A new object of the struct that the constant argument numbers.
    fn new_object(&mut self, meta: &KfuncMeta) -> Check<Reg> {
        let (id, _) = self.new_struct(meta)?;
        let record = self.struct_record(id);
        for field in record.iter() {
            let runs = match field.kind {
                FieldKind::KptrRef => matches!(field.target, FieldTarget::Object(ObjectType::Local(_))),
                kind => matches!(
                    kind,
                    FieldKind::SpinLock
                        | FieldKind::ResSpinLock
                        | FieldKind::ListHead
                        | FieldKind::ListNode
                        | FieldKind::RbRoot
                        | FieldKind::RbNode
                        | FieldKind::Refcount
                ),
            };
            if !runs {
                self.need(&format!("objects with a field of type {}", field.kind.name()));
            }
        }
        if !self.made.contains(&id) {
            self.made.push(id);
        }
        self.facts_mut().object.join(Some(u64::from(id)));
        Ok(Reg::pointer(RegType::of(Base::BtfId).with(flags::ALLOC), Extra::Btf(id)))
    }

    fn new_percpu_object(&mut self, meta: &KfuncMeta) -> Check<Reg> {
        const MAX_SIZE: u32 = 512;
        let (id, size) = self.new_struct(meta)?;
        if size > MAX_SIZE {
            let text = format!("bpf_percpu_obj_new type size ({size}) is greater than {MAX_SIZE}");
            return Err(reject!(self, EINVAL, "{text}"));
        }
        if !self.is_scalar_struct(id, 0) {
            let text = "bpf_percpu_obj_new type ID argument must be of a struct of scalars";
            return Err(reject!(self, EINVAL, "{text}"));
        }
        if !self.struct_record(id).is_empty() {
            let text = "bpf_percpu_obj_new type ID argument must not contain special fields";
            return Err(reject!(self, EINVAL, "{text}"));
        }
        Ok(Reg::pointer(RegType::of(Base::BtfId).with(flags::ALLOC | flags::PERCPU), Extra::Btf(id)))
    }

    /// Id and size of the struct that the constant argument numbers.
    fn new_struct(&mut self, meta: &KfuncMeta) -> Check<(u32, u32)> {
        let Some(id) = meta.constant.and_then(|id| u32::try_from(id).ok()) else {
            return Err(reject!(self, EINVAL, "local type ID argument must be in range [0, U32_MAX]"));
        };
        let Some(btf) = self.spec.btf else {
            return Err(reject!(self, EINVAL, "bpf_obj_new/bpf_percpu_obj_new requires prog BTF"));
        };
        let size = btf.get(skep_btf::TypeId(id)).and_then(|ty| match &ty.data {
            skep_btf::TypeData::Struct(composite) => Some(composite.size),
            _ => None,
        });
        match size {
            Some(size) => Ok((id, size)),
            None => {
                let text = "bpf_obj_new/bpf_percpu_obj_new type ID argument must be of a struct";
                Err(reject!(self, EINVAL, "{text}"))
            }
        }
    }

    /// The type behind a pointer to an object.
    pub(crate) fn object_type(reg: &Reg) -> Option<ObjectType> {
        match reg.extra {
            Extra::Btf(id) => Some(ObjectType::Local(skep_btf::TypeId(id))),
            Extra::Kernel(number) => Some(ObjectType::Kernel(number)),
            _ => None,
        }
    }

    /// Name of a type of objects.
    pub(crate) fn object_name(&self, ty: ObjectType) -> String {
        match ty {
            ObjectType::Local(id) => self.spec.btf.map_or("", |btf| btf.name(id)).to_owned(),
            ObjectType::Kernel(number) => (*kfunc::KERNEL_TYPES.get(usize::from(number)).unwrap_or(&"?")).to_owned(),
        }
    }
}
