//! Lists and trees of objects, under their locks.
//!
//! Owns heads, roots and nodes as arguments, and who owns an object: the path, or the list. Invariant: a list or tree is
//! touched only while the lock beside it is held; what it owns is a non-owning reference until that lock is released. Kernel
//! counterpart: `process_kf_arg_ptr_to_graph_root`, `process_kf_arg_ptr_to_graph_node`, `ref_convert_owning_non_owning`,
//! kernel/bpf/verifier.c, 6.18.

use skep_abi::Errno;

use crate::check::kfunc_arg::KfuncMeta;
use crate::env::{Check, Env, reject};
use crate::spec::{FieldKind, FieldTarget};
use crate::state::frame::{Callback, Frame, RefKind};
use crate::state::reg::{Base, Extra, Reg, RegType, flags};

impl Env<'_> {
    /// Identity of what a lock protects: a map, or the objects of the program, told apart by the register's id.
    pub(crate) fn lock_object(reg: &Reg) -> Extra {
        match reg.extra {
            Extra::Map { .. } => reg.extra,
            _ => Extra::None,
        }
    }

    /// A list head or tree root, whose lock is held.
    pub(crate) fn check_root(&mut self, n: u8, kind: FieldKind, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        let at = n - 1;
        let owned = RegType::of(Base::BtfId).with(flags::ALLOC);
        if reg.ty != RegType::of(Base::MapValue) && reg.ty != owned {
            return Err(reject!(self, EINVAL, "arg#{at} expected pointer to map value or allocated object"));
        }
        if reg.ty == owned && reg.ref_obj_id == 0 {
            return Err(reject!(self, EINVAL, "allocated object must be referenced"));
        }
        let name = kind.name();
        let Some(var) = reg.bounds.const_value() else {
            let text = format!("doesn't have constant offset. {name} has to be at the constant offset");
            return Err(reject!(self, EINVAL, "R{n} {text}"));
        };
        let off = i64::from(reg.off).wrapping_add(var.cast_signed());
        let record = self.record_of(&reg);
        let Some(field) = record.iter().copied().find(|f| f.kind == kind && i64::from(f.offset) == off) else {
            return Err(reject!(self, EINVAL, "{name} not found at offset={off}"));
        };
        if !self.lock_is_held(&reg)? {
            // The kernel does not look where a `bpf_res_spin_lock` is.
            let lock = record.iter().find(|f| f.kind == FieldKind::SpinLock);
            let lock = lock.map_or(-i64::from(Errno::EINVAL.0), |f| i64::from(f.offset));
            return Err(reject!(self, EINVAL, "bpf_spin_lock at off={lock} must be held for {name}"));
        }
        if self.map_of(&reg).is_some_and(|shape| shape.map_type != skep_abi::MapType::Array) {
            self.need("lists and trees in maps other than arrays");
        }
        if let FieldTarget::Nodes { node, .. } = field.target {
            self.facts_mut().object.join(Some(u64::from(node)));
        }
        meta.root = Some(field);
        Ok(())
    }

    /// Whether the lock in the value or object of `reg` is held.
    fn lock_is_held(&mut self, reg: &Reg) -> Check<bool> {
        if self.cur.res.locks == 0 {
            return Ok(false);
        }
        let object = Self::lock_object(reg);
        let same = |kind: RefKind| matches!(kind, RefKind::Lock { object: of } | RefKind::ResLock { object: of, .. } if of == object);
        let held = self.cur.res.refs.iter().any(|r| r.id == reg.id && same(r.kind));
        if !held {
            self.note("held lock and object are not in the same allocation");
        }
        Ok(held)
    }

    /// A list or tree node, of the type that the list or tree holds.
    pub(crate) fn check_node(&mut self, n: u8, kind: FieldKind, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        let at = n - 1;
        let name = kind.name();
        let function = meta.proto.name;
        let inserts = kind == FieldKind::ListNode || function == "bpf_rbtree_add_impl";
        if inserts {
            if reg.ty != RegType::of(Base::BtfId).with(flags::ALLOC) {
                return Err(reject!(self, EINVAL, "arg#{at} expected pointer to allocated object"));
            }
            if reg.ref_obj_id == 0 {
                return Err(reject!(self, EINVAL, "allocated object must be referenced"));
            }
            if kind == FieldKind::RbNode && self.in_tree_callback() {
                // The kernel takes this, and the tree that is being changed is changed under it.
                self.need("an insertion into a tree by what orders one");
            }
        } else {
            if !(reg.ty.is_non_owning() || (reg.ty.is_alloc() && reg.ref_obj_id != 0)) {
                let text = "can only take non-owning or refcounted bpf_rb_node pointer";
                return Err(reject!(self, EINVAL, "{function} {text}"));
            }
            if self.in_tree_callback() {
                return Err(reject!(self, EINVAL, "{function} not allowed in rbtree cb"));
            }
        }
        let Some(var) = reg.bounds.const_value() else {
            let text = format!("doesn't have constant offset. {name} has to be at the constant offset");
            return Err(reject!(self, EINVAL, "R{n} {text}"));
        };
        let off = i64::from(reg.off).wrapping_add(var.cast_signed());
        let record = self.record_of(&reg);
        if !record.iter().any(|f| f.kind == kind && i64::from(f.offset) == off) {
            return Err(reject!(self, EINVAL, "{name} not found at offset={off}"));
        }
        let Some((root, FieldTarget::Nodes { object, node })) = meta.root.map(|root| (root, root.target)) else {
            return Err(crate::env::internal!(self, "node without list or tree"));
        };
        let wanted = self.spec.btf.map_or("", |btf| btf.name(object)).to_owned();
        if reg.extra != Extra::Btf(object.0) {
            let (root, have) = (root.kind.name(), self.btf_type_name(&reg));
            let text = format!("operation on {root} expects arg#1 {name} at offset={node} in struct {wanted}");
            return Err(reject!(self, EINVAL, "{text}, but arg is at offset={off} in struct {have}"));
        }
        if off != i64::from(node) {
            let text = format!("expected {name} at offset={node} in struct {wanted}");
            return Err(reject!(self, EINVAL, "arg#1 offset={off}, but {text}"));
        }
        meta.object = reg.extra;
        meta.inserts = inserts;
        Ok(())
    }

    /// The running function, or one that called it, orders a tree for `bpf_rbtree_add`. The kernel looks at the running
    /// function alone, though the tree is being changed below all that the callback calls.
    pub(crate) fn in_tree_callback(&self) -> bool {
        self.tree_callback().is_some()
    }

    /// The frame of the function that orders a tree, if one runs.
    pub(crate) fn tree_callback(&self) -> Option<&Frame> {
        self.cur.frames.iter().map(AsRef::as_ref).find(|frame| frame.callback == Some(Callback::Rbtree))
    }

    /// The node in r2 goes into a list or tree, which owns it from now on.
    pub(crate) fn insert_node(&mut self) -> Check {
        let reg = *self.reg(2);
        let id = reg.ref_obj_id;
        let rcu = if self.is_refcounted(&reg) { flags::RCU } else { 0 };
        self.cur.for_each_reg(
            |r| r.is_pointer() && r.ref_obj_id == id,
            |r| {
                r.ref_obj_id = 0;
                r.ty = r.ty.with(flags::NON_OWN | rcu);
            },
        );
        if self.release_reference(id) {
            return Ok(());
        }
        Err(reject!(self, EINVAL, "reference of the node has not been acquired before"))
    }

    /// Makes a register a reference that lives as long as the lock is held.
    pub(crate) fn set_non_owning(&mut self, reg: &mut Reg) -> Check {
        if self.cur.res.locks == 0 {
            return Err(crate::env::internal!(self, "non-owning reference without a lock"));
        }
        reg.ty = reg.ty.with(flags::NON_OWN);
        if self.is_refcounted(reg) {
            reg.ty = reg.ty.with(flags::RCU);
        }
        Ok(())
    }

    fn is_refcounted(&mut self, reg: &Reg) -> bool {
        self.record_of(reg).iter().any(|field| field.kind == FieldKind::Refcount)
    }

    /// The lock is released: what the list or tree owns may be gone.
    pub(crate) fn invalidate_non_owning(&mut self) {
        let dead = if self.caps.perfmon { Reg::UNKNOWN } else { Reg::NOT_INIT };
        self.cur.for_each_reg(|r| r.ty.is_non_owning(), |r| *r = dead);
    }

    /// The object that `bpf_obj_drop` frees.
    pub(crate) fn check_dropped(&mut self, n: u8, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        self.check_trusted(n, &reg, meta)?;
        let at = n - 1;
        let owned = RegType::of(Base::BtfId).with(flags::ALLOC);
        let function = meta.proto.name;
        let expected = if reg.ty == owned {
            "bpf_obj_drop_impl"
        } else if reg.ty == owned.with(flags::PERCPU) {
            "bpf_percpu_obj_drop_impl"
        } else {
            return Err(reject!(self, EINVAL, "arg#{at} expected pointer to allocated object"));
        };
        if function != expected {
            return Err(reject!(self, EINVAL, "arg#{at} expected for {expected}()"));
        }
        if reg.ref_obj_id == 0 {
            return Err(reject!(self, EINVAL, "allocated object must be referenced"));
        }
        meta.object = reg.extra;
        Ok(())
    }

    /// The object that `bpf_refcount_acquire` gives another reference to.
    pub(crate) fn check_refcounted(&mut self, n: u8, meta: &mut KfuncMeta) -> Check {
        let reg = *self.reg(n);
        let at = n - 1;
        if !reg.ty.is_alloc() {
            return Err(reject!(self, EINVAL, "arg#{at} is neither owning or non-owning ref"));
        }
        let Some(field) = self.record_of(&reg).iter().copied().find(|f| f.kind == FieldKind::Refcount) else {
            return Err(reject!(self, EINVAL, "arg#{at} doesn't point to a type with bpf_refcount field"));
        };
        if reg.off != 0 {
            // The kernel counts behind the pointer, and takes what comes back for the object's start.
            self.need("another reference to an object through a pointer into it");
        }
        self.facts_mut().object.join(Some(u64::from(field.offset)));
        meta.object = reg.extra;
        meta.owning = !reg.ty.is_non_owning();
        Ok(())
    }

    /// The registers of a tree's order: two nodes of it, which the callback may read.
    pub(crate) fn tree_callback_args(&mut self) -> Check<(Reg, Reg)> {
        let root = *self.reg(1);
        let off = root.bounds.const_value().map(|v| i64::from(root.off).wrapping_add(v.cast_signed()));
        let record = self.record_of(&root);
        let field = record.iter().find(|f| f.kind == FieldKind::RbRoot && Some(i64::from(f.offset)) == off);
        let Some(FieldTarget::Nodes { object, node }) = field.map(|field| field.target) else {
            return Err(crate::env::internal!(self, "order of no tree"));
        };
        let ty = RegType::of(Base::BtfId).with(flags::ALLOC);
        let mut node = Reg { off: node.cast_signed(), ..Reg::pointer(ty, Extra::Btf(object.0)) };
        self.set_non_owning(&mut node)?;
        Ok((node, node))
    }
}
