//! Helper calls.
//!
//! Owns what a helper's call checks beyond its prototype, and what it leaves. Invariant: a helper that is called is one that the
//! program's type has, and every argument is what its prototype asks for. Kernel counterpart: `check_helper_call`,
//! kernel/bpf/verifier.c, 6.18.

use std::borrow::Cow;

use skep_abi::MapType;
use skep_abi::helper::{self, Allowed, ArgKind, HelperProto, RetKind, TypeFlags};

use crate::check::arg::CallMeta;
use crate::check::lock::LockCall;
use crate::env::{Check, Env, reject};
use crate::state::bounds::Interval;
use crate::state::frame::Callback;
use crate::state::reg::{Base, Extra, Reg, RegType, flags};
use crate::verified::MapArg;

pub(crate) const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
pub(crate) const GET_SMP_PROCESSOR_ID: i32 = 8;
pub(crate) const TAIL_CALL: i32 = 12;
const PROBE_READ_STR: i32 = 45;
const REDIRECT_MAP: i32 = 51;
const GET_STACK: i32 = 67;
const GET_LOCAL_STORAGE: i32 = 81;
const SK_LOOKUP_TCP: i32 = 84;
const SK_LOOKUP_UDP: i32 = 85;
const MAP_PUSH: i32 = 87;
const MAP_POP: i32 = 88;
const MAP_PEEK: i32 = 89;
const SPIN_LOCK: i32 = 93;
pub(crate) const SPIN_UNLOCK: i32 = 94;
const SK_FULLSOCK: i32 = 95;
const TCP_SOCK: i32 = 96;
const SKC_LOOKUP_TCP: i32 = 99;
const PROBE_READ_USER_STR: i32 = 114;
const PROBE_READ_KERNEL_STR: i32 = 115;
const RINGBUF_RESERVE: i32 = 131;
const SKC_TO_TCP6_SOCK: i32 = 136;
const SKC_TO_UDP6_SOCK: i32 = 140;
const GET_TASK_STACK: i32 = 141;
const FOR_EACH_MAP_ELEM: i32 = 164;
const SNPRINTF: i32 = 165;
const TIMER_SET_CALLBACK: i32 = 170;
const FIND_VMA: i32 = 180;
const LOOP: i32 = 181;
pub(crate) const KPTR_XCHG: i32 = 194;
const MAP_LOOKUP_PERCPU: i32 = 195;
pub(crate) const DYNPTR_FROM_MEM: i32 = 197;
const DYNPTR_WRITE: i32 = 202;
const DYNPTR_DATA: i32 = 203;
const USER_RINGBUF_DRAIN: i32 = 209;

/// What the shape of the program needs to know of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallTraits {
    pub(crate) sync_callback: bool,
    pub(crate) async_callback: bool,
    pub(crate) changes_pkt_data: bool,
    pub(crate) might_sleep: bool,
    pub(crate) iter_next: bool,
    /// Ends the program from any depth.
    pub(crate) throws: bool,
}

impl Env<'_> {
    /// The prototype that a call of `id` is checked against, without asking whether it is allowed.
    fn proto_of(&self, id: i32) -> Option<Cow<'static, HelperProto>> {
        let id = u32::try_from(id).ok()?;
        if let Some(own) = self.spec.helpers.and_then(|t| t.get(id)) {
            return Some(Cow::Owned(own.clone()));
        }
        helper::helper_for(self.spec.prog_type, self.spec.attach_type, id).map(Cow::Borrowed)
    }

    /// The prototype of a helper that this program may call.
    pub(crate) fn available_proto(&self, id: i32) -> Option<Cow<'static, HelperProto>> {
        let own = u32::try_from(id).ok().is_some_and(|id| self.spec.helpers.is_some_and(|t| t.get(id).is_some()));
        self.proto_of(id).filter(|proto| own || self.allows(proto.id))
    }

    fn allows(&self, id: u32) -> bool {
        let caps = skep_abi::helper::Caps { bpf: self.caps.bpf, perfmon: self.caps.perfmon };
        helper::helper_allowed(self.spec.prog_type, self.spec.attach_type, id, caps) == Allowed::Yes
    }

    /// Properties of a helper that decide the shape of the walk.
    pub(crate) fn helper_traits(&self, id: i32) -> CallTraits {
        let proto = self.proto_of(id);
        CallTraits {
            sync_callback: matches!(id, FOR_EACH_MAP_ELEM | FIND_VMA | LOOP | USER_RINGBUF_DRAIN),
            async_callback: id == TIMER_SET_CALLBACK,
            changes_pkt_data: proto.as_ref().is_some_and(|p| p.flags.changes_pkt),
            might_sleep: proto.as_ref().is_some_and(|p| p.flags.might_sleep),
            ..CallTraits::default()
        }
    }

    /// Number of arguments of a call, where the prototype says.
    pub(crate) fn call_arg_count(&self, target: skep_abi::CallTarget) -> Option<u32> {
        match target {
            skep_abi::CallTarget::Helper(id) => {
                let proto = self.proto_of(id)?;
                let count = proto.args.iter().take_while(|a| a.kind != ArgKind::DontCare).count();
                u32::try_from(count).ok()
            }
            skep_abi::CallTarget::Kfunc { id, .. } => self.kfunc_arg_count(id),
            skep_abi::CallTarget::Subprog(_) => None,
        }
    }

    /// `name#id` as the messages show it.
    pub(crate) fn helper_label(id: i32) -> String {
        let name = helper::helper_name(id).unwrap_or("unknown");
        format!("{name}#{id}")
    }

    fn allowed_proto(&mut self, id: i32) -> Check<Cow<'static, HelperProto>> {
        let label = Self::helper_label(id);
        if self.proto_of(id).is_none() {
            return Err(reject!(self, EINVAL, "invalid func {label}"));
        }
        self.available_proto(id).ok_or_else(|| reject!(self, EINVAL, "program of this type cannot use helper {label}"))
    }

    /// `call bpf_…`.
    pub(crate) fn check_helper_call(&mut self, id: i32) -> Check {
        let proto = self.allowed_proto(id)?;
        let label = Self::helper_label(id);
        if proto.flags.gpl_only && !self.spec.gpl_compatible {
            let text = "cannot call GPL-restricted function from non-GPL compatible program";
            return Err(reject!(self, EINVAL, "{text}"));
        }
        if proto.flags.might_sleep {
            let section = if !self.cur.sleepable {
                return Err(reject!(self, EINVAL, "helper call might sleep in a non-sleepable prog"));
            } else if self.cur.res.rcu > 0 {
                "rcu_read_lock"
            } else if self.cur.res.preempt > 0 {
                "non-preemptible"
            } else if self.cur.res.irq != 0 {
                "IRQ-disabled"
            } else {
                ""
            };
            if !section.is_empty() {
                return Err(reject!(self, EINVAL, "sleepable helper {label} in {section} region"));
            }
        }
        let mut meta = CallMeta { id, pkt_access: proto.flags.pkt_access, ..CallMeta::default() };
        for (i, &arg) in proto.args.iter().enumerate() {
            if arg.kind == ArgKind::DontCare {
                break;
            }
            self.check_arg(i, arg, &proto, &mut meta)?;
        }
        self.record_map(&meta)?;
        self.record_key(&meta)?;
        self.write_raw(&meta)?;
        self.release_argument(&proto, &meta, &label)?;
        let mut changes_pkt = proto.flags.changes_pkt;
        self.check_special(id, &mut meta, &mut changes_pkt)?;
        self.clear_caller_saved();
        self.set_return(id, &proto, &meta)?;
        self.check_map_helper(&meta)?;
        if id == TAIL_CALL {
            return self.leave_by_tail_call();
        }
        if changes_pkt {
            self.clear_packet_pointers();
        }
        Ok(())
    }

    /// A tail call that succeeds does not come back here: the program that it enters returns to this function's caller,
    /// and may have moved the packet. One that fails goes on, with nothing changed.
    fn leave_by_tail_call(&mut self) -> Check {
        if self.cur.depth() == 0 {
            return Ok(());
        }
        let at = self.insn;
        self.push_branch(at + 1, at, false)?;
        self.clear_packet_pointers();
        *self.reg_mut(0) = Reg::UNKNOWN;
        self.return_to_caller()
    }

    /// Rules of single helpers that no prototype says.
    fn check_special(&mut self, id: i32, meta: &mut CallMeta, changes_pkt: &mut bool) -> Check {
        match id {
            TAIL_CALL => self.check_resource_leak(false, true, "tail_call")?,
            GET_LOCAL_STORAGE => {
                if !self.reg(2).is_null() {
                    let text = "get_local_storage() doesn't support non-zero flags";
                    return Err(reject!(self, EINVAL, "{text}"));
                }
                self.mark_precise(2)?;
            }
            FOR_EACH_MAP_ELEM => self.push_callback(Callback::ForEach, meta.callback)?,
            TIMER_SET_CALLBACK => self.push_callback(Callback::Timer, meta.callback)?,
            FIND_VMA => self.push_callback(Callback::FindVma, meta.callback)?,
            USER_RINGBUF_DRAIN => self.push_callback(Callback::UserRingbuf, meta.callback)?,
            LOOP => self.check_loop(meta.callback)?,
            SNPRINTF => self.check_snprintf()?,
            DYNPTR_DATA => {
                let dynptr = self.dynptr_of(1);
                meta.dynptr_id = dynptr.id;
                meta.ref_obj_id = dynptr.ref_obj_id;
            }
            DYNPTR_WRITE => {
                let packet =
                    matches!(self.dynptr_of(1).extra, Extra::Dynptr { kind: crate::state::reg::DynptrKind::Skb, .. });
                *changes_pkt |= packet;
            }
            DYNPTR_FROM_MEM if self.reg(1).base() != Base::MapValue => {
                let name = crate::print::type_name(self.reg(1).ty);
                return Err(reject!(self, EACCES, "Unsupported reg type {name} for bpf_dynptr_from_mem data"));
            }
            _ => {}
        }
        Ok(())
    }

    fn check_loop(&mut self, callback: u32) -> Check {
        let flags_zero = self.reg(4).is_null();
        let (at, fixed) = (self.insn as usize, self.facts[self.insn as usize].callback);
        let same = fixed == crate::verified::Const::Known(u64::from(callback));
        let first = !self.aux[at].loop_seen;
        self.aux[at].loop_seen = true;
        let inline = same && flags_zero && (first || self.facts[at].loop_inline);
        self.facts[at].loop_inline = inline;
        if flags_zero {
            self.mark_precise(4)?;
        }
        self.mark_precise(1)?;
        let max = self.reg(1).bounds.u64.max;
        if u64::from(self.cur.frame().callback_depth) < max {
            return self.push_callback(Callback::Loop, callback);
        }
        self.cur.frame_mut().callback_depth = 0;
        if self.level2() {
            let depth = self.cur.depth();
            crate::env::log!(self, "frame{depth} bpf_loop iteration limit reached\n");
        }
        Ok(())
    }

    /// The map of a lookup or update must be the same on every path for it to be inlined.
    fn record_map(&mut self, meta: &CallMeta) -> Check {
        let Some(map) = meta.map else { return Ok(()) };
        let inlined = matches!(
            meta.id,
            TAIL_CALL
                | MAP_LOOKUP
                | MAP_UPDATE
                | MAP_DELETE
                | MAP_PUSH
                | MAP_POP
                | MAP_PEEK
                | FOR_EACH_MAP_ELEM
                | REDIRECT_MAP
                | MAP_LOOKUP_PERCPU
        );
        if inlined && let Some(shape) = self.map_of(&map) {
            use skep_abi::flags::map_flags::BPF_F_RDONLY_PROG;
            let writes = matches!(meta.id, MAP_UPDATE | MAP_DELETE | MAP_PUSH | MAP_POP);
            if writes && shape.prog_flags() & BPF_F_RDONLY_PROG != 0 {
                return Err(reject!(self, EACCES, "write into map forbidden"));
            }
        }
        let fact = &mut self.facts_mut().helper_map;
        *fact = match (*fact, map.extra) {
            (MapArg::None, Extra::Map { map, inner: false, .. }) => MapArg::Known(map),
            (MapArg::Known(a), Extra::Map { map, inner: false, .. }) if a == map => MapArg::Known(a),
            _ => MapArg::Unknown,
        };
        Ok(())
    }

    /// The index of a tail call, where it is a constant within the array.
    fn record_key(&mut self, meta: &CallMeta) -> Check {
        if meta.id == MAP_LOOKUP {
            let key = meta.const_key;
            self.facts_mut().const_key.join(key);
            return Ok(());
        }
        if meta.id != TAIL_CALL {
            return Ok(());
        }
        let Some(shape) = meta.map.and_then(|m| self.map_of(&m)) else { return Ok(()) };
        if shape.map_type != MapType::ProgArray {
            return Err(reject!(self, EINVAL, "expected prog array map for tail call"));
        }
        let max = u64::from(shape.max_entries);
        let key = self.reg(3).const_scalar().filter(|&k| k < max);
        if key.is_some() {
            self.mark_precise(3)?;
        }
        self.facts_mut().const_key.join(key);
        Ok(())
    }

    fn release_argument(&mut self, proto: &HelperProto, meta: &CallMeta, label: &str) -> Check {
        let Some(n) = meta.release else { return Ok(()) };
        let arg = proto.args[usize::from(n) - 1];
        let done = if arg.kind == ArgKind::PtrToDynptr {
            self.release_dynptr(n)?
        } else if meta.id == KPTR_XCHG && meta.ref_obj_id != 0 {
            self.give_kptr(meta.ref_obj_id)
        } else if meta.ref_obj_id != 0 {
            self.release_reference(meta.ref_obj_id)
        } else {
            self.reg(n).is_null()
        };
        if done {
            return Ok(());
        }
        Err(reject!(self, EINVAL, "func {label} reference has not been acquired before"))
    }

    fn set_return(&mut self, id: i32, proto: &HelperProto, meta: &CallMeta) -> Check {
        let null = if proto.ret.may_be_null() { flags::MAYBE_NULL } else { 0 };
        let simple = |base: Base| Reg::pointer(RegType::of(base).with(null), Extra::None);
        let mut r0 = match proto.ret.kind {
            RetKind::Integer => self.integer_result(id, meta),
            RetKind::Void => Reg::NOT_INIT,
            RetKind::PtrToMapValue => {
                let Some(map) = meta.map else {
                    return Err(crate::env::internal!(self, "value of no map"));
                };
                let known = meta.key_in_range && self.options.profile.known_keys;
                let null = if known { 0 } else { null };
                let mut reg = Reg::pointer(RegType::of(Base::MapValue).with(null), map.extra);
                if null == 0 && self.map_of(&map).is_some_and(crate::spec::MapShape::has_lock) {
                    reg.id = self.new_id();
                }
                reg
            }
            RetKind::PtrToSocket => simple(Base::Socket),
            RetKind::PtrToSockCommon => simple(Base::SockCommon),
            RetKind::PtrToTcpSock => simple(Base::TcpSock),
            RetKind::PtrToMem => {
                let mut ty = RegType::of(Base::Mem).with(null);
                if proto.ret.flags.has(TypeFlags::RINGBUF) {
                    ty = ty.with(flags::RINGBUF);
                }
                Reg::pointer(ty, Extra::MemSize(meta.mem_size))
            }
            RetKind::PtrToBtfId if id == KPTR_XCHG => self.exchanged_kptr(meta)?,
            RetKind::PtrToBtfId => {
                let number = proto.ret.btf.and_then(skep_abi::kfunc::kernel_type);
                let extra = number.map_or(Extra::None, Extra::Kernel);
                let trusted = if proto.ret.flags.has(TypeFlags::TRUSTED) { flags::TRUSTED } else { 0 };
                Reg::pointer(RegType::of(Base::BtfId).with(null | trusted), extra)
            }
            RetKind::PtrToMemOrBtfId => {
                return Err(crate::env::unsupported!(self, "{} is not supported", proto.name));
            }
        };
        if r0.ty.maybe_null() {
            r0.id = self.new_id();
        }
        let casts = matches!(id, SK_FULLSOCK | TCP_SOCK | SKC_TO_TCP6_SOCK..=SKC_TO_UDP6_SOCK | 178);
        if id == DYNPTR_DATA {
            r0.dynptr_id = meta.dynptr_id;
            r0.ref_obj_id = meta.ref_obj_id;
        } else if casts {
            r0.ref_obj_id = meta.ref_obj_id;
        } else if self.acquires(id, meta) {
            let id = self.acquire_reference();
            r0.id = id;
            r0.ref_obj_id = id;
        }
        self.set_reg(0, r0);
        Ok(())
    }

    fn acquires(&self, id: i32, meta: &CallMeta) -> bool {
        match id {
            SK_LOOKUP_TCP | SK_LOOKUP_UDP | SKC_LOOKUP_TCP | RINGBUF_RESERVE | KPTR_XCHG => true,
            MAP_LOOKUP => meta
                .map
                .and_then(|m| self.map_of(&m))
                .is_some_and(|m| matches!(m.map_type, MapType::Sockmap | MapType::Sockhash)),
            _ => false,
        }
    }

    /// An integer, with what is known of this helper's results.
    fn integer_result(&self, id: i32, meta: &CallMeta) -> Reg {
        const MAX_ERRNO: i64 = 4095;
        let mut reg = self.unknown();
        let b = &mut reg.bounds;
        match id {
            GET_STACK | GET_TASK_STACK | PROBE_READ_STR | PROBE_READ_KERNEL_STR | PROBE_READ_USER_STR => {
                let max = i64::try_from(meta.max_size).unwrap_or(i64::MAX);
                b.s64 = Interval { min: -MAX_ERRNO, max };
                b.s32 = Interval { min: -4095, max: i32::try_from(max).unwrap_or(i32::MAX) };
                b.sync();
            }
            GET_SMP_PROCESSOR_ID if self.options.profile.cpu_range => {
                let max = self.options.profile.nr_cpus.saturating_sub(1);
                b.u64 = Interval { min: 0, max: u64::from(max) };
                b.u32 = Interval { min: 0, max };
                b.s64 = Interval { min: 0, max: i64::from(max) };
                b.s32 = Interval { min: 0, max: i32::try_from(max).unwrap_or(i32::MAX) };
                b.sync();
            }
            _ => {}
        }
        reg
    }

    /// The lock helpers' argument.
    pub(crate) fn check_lock_arg(&mut self, id: i32, n: u8) -> Check {
        match id {
            SPIN_LOCK => self.process_lock(n, LockCall { takes: true, resilient: false, irq: false }),
            SPIN_UNLOCK => self.process_lock(n, LockCall { takes: false, resilient: false, irq: false }),
            _ => Err(crate::env::internal!(self, "lock argument of helper {id}")),
        }
    }
}
