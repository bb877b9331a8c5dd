//! Conditional jumps: which way they go, and what each way tells.
//!
//! Owns branch decisions. Invariant: a way that is not walked is one that no value of the operands can take, and whatever
//! decided that is precise. Kernel counterpart: `check_cond_jmp_op`, kernel/bpf/verifier.c, 6.18.

use std::rc::Rc;

use skep_abi::{AluOp, JmpOp, MapType, Operand, Reg as R, Width};

use crate::check::packet::packet_branch;
use crate::env::{Check, Env, reject};
use crate::mutant::{self, Mutant};
use crate::spec::{FieldKind, MapShape};
use crate::state::bounds::Bounds;
use crate::state::branch;
use crate::state::frame::{Linked, State};
use crate::state::reg::{Base, Extra, Reg, RegType, flags};
use crate::state::scalar_alu;

/// Scalars that may be linked at one jump.
const MAX_LINKED: usize = 6;

impl Env<'_> {
    /// Checks a conditional jump; gives the slot at which this path goes on.
    pub(crate) fn check_jcond(&mut self, width: Width, op: JmpOp, dst: R, src: Operand, off: i16) -> Check<u32> {
        let at = self.insn;
        let (fallthrough, target) = (at + 1, Self::relative(at, i32::from(off)));
        self.check_src(dst)?;
        let d = dst.number();
        let (src_number, src_reg) = match src {
            Operand::Reg(r) => {
                self.check_src(r)?;
                let both_packet = is_any_packet(self.reg(d)) && is_any_packet(self.reg(r.number()));
                if !both_packet && self.leaks(r.number()) {
                    return Err(reject!(self, EACCES, "R{} pointer comparison prohibited", r.number()));
                }
                (Some(r.number()), *self.reg(r.number()))
            }
            Operand::Imm(imm) => (None, Reg::constant(i64::from(imm).cast_unsigned())),
        };
        let dst_reg = *self.reg(d);
        self.push_step_operands(dst_reg.base() == Base::Stack, src_number.is_some() && src_reg.base() == Base::Stack);
        if let Some(taken) = self.predict(op, width, &dst_reg, &src_reg) {
            if dst_reg.is_scalar() {
                self.mark_precise(d)?;
            }
            if let (Some(s), true) = (src_number, src_reg.is_scalar()) {
                self.mark_precise(s)?;
            }
            self.aux[at as usize].branch_seen |= if taken { 1 } else { 2 };
            self.speculate(if taken { fallthrough } else { target }, [Some(d), src_number])?;
            self.log_branch();
            return Ok(if taken { target } else { fallthrough });
        }
        self.aux[at as usize].branch_seen = 3;
        let linked = self.collect_linked(&[src_number.map(|_| src_reg), Some(dst_reg)]);
        if linked.len() > 1 {
            self.push_step(None, Some(Rc::from(linked.as_slice())));
        }
        self.push_branch(target, at, false)?;
        self.split_scalars(op, width, d, src_number, &dst_reg, &src_reg, &linked);
        self.split_pointers(op, width, d, src_number, src)?;
        self.log_branch();
        Ok(fallthrough)
    }

    fn log_branch(&mut self) {
        if self.options.log_level & 3 != 0 {
            self.print_insn_state();
        }
    }

    /// The branch that was pushed last.
    fn other(&mut self) -> Option<&mut State> {
        self.pending.last_mut().map(|p| &mut p.state)
    }

    #[expect(clippy::too_many_arguments, reason = "both operands, before and by number")]
    fn split_scalars(
        &mut self,
        op: JmpOp,
        width: Width,
        d: u8,
        s: Option<u8>,
        dst: &Reg,
        src: &Reg,
        linked: &[Linked],
    ) {
        if dst.is_scalar() && src.is_scalar() {
            for taken in [false, true] {
                if !self.teaches(op, width, taken, [dst, src]) {
                    continue;
                }
                let (new_dst, new_src) = match s == Some(d) {
                    true => branch::refine_same(op, width, taken, &dst.bounds),
                    false => branch::refine(op, width, taken, &dst.bounds, &src.bounds),
                };
                let state = if taken { self.other() } else { Some(&mut self.cur) };
                let Some(state) = state else { continue };
                let regs = &mut state.frame_mut().regs;
                regs[d as usize].bounds = new_dst;
                if let Some(s) = s {
                    regs[s as usize].bounds = new_src;
                }
            }
        }
        for (number, reg) in [(s, src), (Some(d), dst)] {
            // Where there were more than can be noted, the operand has lost its own link.
            let Some(number) = number.filter(|n| reg.is_scalar() && self.reg(*n).id != 0) else { continue };
            sync_linked(&mut self.cur, number, linked);
            if let Some(other) = self.other() {
                sync_linked(other, number, linked);
            }
        }
    }

    /// Whether the profile's kernel learns anything of two numbers where the jump goes this way.
    fn teaches(&self, op: JmpOp, width: Width, taken: bool, both: [&Reg; 2]) -> bool {
        let profile = &self.options.profile;
        let equal = op == if taken { JmpOp::Eq } else { JmpOp::Ne };
        let different = op == if taken { JmpOp::Ne } else { JmpOp::Eq };
        let with_constant = both.into_iter().any(|reg| reg.bounds.const_in(width).is_some());
        (with_constant || profile.compares_ranges || (equal && width == Width::W64))
            && (!different || profile.learns_from_unequal)
    }

    /// The way a jump goes for every value of its operands, if it is one way.
    fn predict(&self, op: JmpOp, width: Width, dst: &Reg, src: &Reg) -> Option<bool> {
        let profile = &self.options.profile;
        let constants = [dst, src].into_iter().filter(|reg| reg.bounds.const_in(width).is_some()).count();
        let numbers = dst.is_scalar() && src.is_scalar();
        let undecided = (constants == 0 && !profile.compares_ranges)
            || (src.bounds.const_in(width).is_none() && !profile.left_constants)
            || (constants < 2 && matches!(op, JmpOp::Eq | JmpOp::Ne) && !profile.equality_by_range);
        let a_map = [dst, src].into_iter().any(|reg| reg.base() == Base::ConstMap);
        if (numbers && undecided) || (a_map && !profile.maps_not_null) {
            return None;
        }
        predict(op, width, dst, src)
    }

    fn split_pointers(&mut self, op: JmpOp, width: Width, d: u8, s: Option<u8>, src: Operand) -> Check {
        let dst_reg = *self.reg(d);
        if width == Width::W64 {
            if let Some(s) = s {
                let src_reg = *self.reg(s);
                let nullness_differs = dst_reg.is_pointer()
                    && src_reg.is_pointer()
                    && dst_reg.ty.maybe_null() != src_reg.ty.maybe_null()
                    && dst_reg.base() != Base::BtfId
                    && src_reg.base() != Base::BtfId;
                let learns = self.options.profile.learns_not_null;
                if learns && nullness_differs && matches!(op, JmpOp::Eq | JmpOp::Ne) {
                    let nullable = if src_reg.ty.maybe_null() { s } else { d };
                    self.lift_null_in(op == JmpOp::Eq, nullable);
                }
            } else if src == Operand::Imm(0) && matches!(op, JmpOp::Eq | JmpOp::Ne) && dst_reg.ty.maybe_null() {
                self.split_null(d, op == JmpOp::Eq);
                return Ok(());
            }
        }
        let matched = match s {
            Some(s) if width == Width::W64 => self.match_packet(op, d, s),
            _ => false,
        };
        if !matched && self.leaks(d) {
            return Err(reject!(self, EACCES, "R{d} pointer comparison prohibited"));
        }
        Ok(())
    }

    /// The register is not null on one side: in the branch that waits, or here.
    fn lift_null_in(&mut self, waiting: bool, reg: u8) {
        let maps = Known { maps: self.spec.maps, locked: &self.locked_types };
        let state = if waiting { self.pending.last_mut().map(|p| &mut p.state) } else { Some(&mut self.cur) };
        if let Some(state) = state {
            lift_null(maps, &mut state.frame_mut().regs[reg as usize]);
        }
    }

    /// Every copy of the register's pointer is null on one side and not on the other.
    fn split_null(&mut self, reg: u8, taken_is_null: bool) {
        let maps = Known { maps: self.spec.maps, locked: &self.locked_types };
        let never_null = mutant::active(Mutant::NeverNull);
        let taken_is_null = taken_is_null && !never_null;
        mark_null(maps, &mut self.cur, reg, !taken_is_null && !never_null);
        if let Some(other) = self.pending.last_mut() {
            mark_null(maps, &mut other.state, reg, taken_is_null);
        }
    }

    /// Registers and slots linked to any of the operands.
    fn collect_linked(&mut self, operands: &[Option<Reg>]) -> Vec<Linked> {
        let mut linked: Vec<Linked> = Vec::new();
        let mut push = |link: Linked| {
            let room = linked.len() < MAX_LINKED;
            if room {
                linked.push(link);
            }
            room
        };
        for reg in operands.iter().flatten() {
            if !reg.is_scalar() || reg.id == 0 {
                continue;
            }
            let is_linked = |r: &Reg| r.is_scalar() && r.id == reg.id;
            for number in (0..self.cur.frames.len()).rev() {
                let live = self.aux.get(self.cur.frame_insn(number) as usize).map_or(u16::MAX, |a| a.live_regs);
                let frame = Rc::clone(&self.cur.frames[number]);
                for i in (0..10u8).filter(|i| live & (1 << i) != 0 && is_linked(&frame.regs[*i as usize])) {
                    if !push(Linked { frame: frame.number, at: i, is_reg: true }) {
                        self.cur.frame_at_mut(number).regs[i as usize].unlink();
                    }
                }
                for (i, _) in frame.stack.iter().enumerate().filter(|(_, s)| s.is_spilled() && is_linked(&s.reg)) {
                    let at = u8::try_from(i).unwrap_or(u8::MAX);
                    if !push(Linked { frame: frame.number, at, is_reg: false }) {
                        self.cur.frame_at_mut(number).stack[i].reg.unlink();
                    }
                }
            }
        }
        linked
    }
}

fn is_any_packet(reg: &Reg) -> bool {
    matches!(reg.base(), Base::Packet | Base::PacketMeta | Base::PacketEnd)
}

/// Whether a pointer is certainly not null.
pub(crate) fn not_null(reg: &Reg) -> bool {
    if reg.ty.maybe_null() {
        return false;
    }
    match reg.base() {
        Base::Socket | Base::TcpSock | Base::MapValue | Base::MapKey | Base::SockCommon | Base::ConstMap => true,
        Base::BtfId => {
            let trusted = flags::TRUSTED | flags::ALLOC | flags::NON_OWN;
            reg.ref_obj_id != 0 || (reg.ty.has(trusted) && reg.ty.flags & !trusted == 0)
        }
        Base::Mem => !reg.ty.has(flags::UNTRUSTED),
        _ => false,
    }
}

/// The way a jump goes for every value of its operands, if it is one way.
fn predict(op: JmpOp, width: Width, dst: &Reg, src: &Reg) -> Option<bool> {
    if is_any_packet(dst) && is_any_packet(src) && width == Width::W64 {
        return packet_branch(op, dst, src);
    }
    if dst.is_scalar() && src.is_scalar() {
        return branch::is_branch_taken(op, width, &dst.bounds, &src.bounds);
    }
    if width == Width::W32 {
        return None;
    }
    let (pointer, scalar) = if src.is_scalar() { (dst, src) } else { (src, dst) };
    if !pointer.is_pointer() || scalar.const_scalar() != Some(0) || !not_null(pointer) {
        return None;
    }
    match op {
        JmpOp::Eq => Some(false),
        JmpOp::Ne => Some(true),
        _ => None,
    }
}

/// Gives every linked scalar what is now known of `known`.
fn sync_linked(state: &mut State, known: u8, linked: &[Linked]) {
    let known_reg = state.frame().regs[known as usize];
    if known_reg.id == 0 {
        // It was one too many; there may be others without an id among those that were linked.
        return;
    }
    let depth = state.depth();
    for l in linked {
        let frame = l.frame as usize;
        if l.is_reg && frame == depth && l.at == known {
            continue;
        }
        let Some(target) = state.frames.get(frame) else { continue };
        let old = if l.is_reg {
            target.regs[l.at as usize]
        } else {
            match target.stack.get(l.at as usize) {
                Some(slot) => slot.reg,
                None => continue,
            }
        };
        if !old.is_scalar() || old.id != known_reg.id {
            continue;
        }
        let mut new = known_reg;
        if (old.add_const || known_reg.add_const) && old.off != known_reg.off && !mutant::active(Mutant::UnmovedLink) {
            if old.add_const && known_reg.add_const && old.add_const32 != known_reg.add_const32 {
                continue;
            }
            let off = |r: &Reg| if r.add_const { i64::from(r.off) } else { 0 };
            let delta = Bounds::constant(off(&old).wrapping_sub(off(&known_reg)).cast_unsigned());
            let bounds = if old.add_const32 || known_reg.add_const32 {
                scalar_alu::alu(AluOp::Add, Width::W32, &known_reg.bounds, &delta)
            } else {
                scalar_alu::alu(AluOp::Add, Width::W64, &known_reg.bounds, &delta)
            };
            let (add_const, add_const32) = (old.add_const, old.add_const32);
            new = Reg { off: old.off, add_const, add_const32, bounds, ..known_reg };
        }
        let frame = state.frame_at_mut(frame);
        if l.is_reg {
            frame.regs[l.at as usize] = new;
        } else {
            frame.stack[l.at as usize].reg = new;
        }
    }
}

/// What is known of the program's values and objects.
#[derive(Clone, Copy)]
struct Known<'k> {
    maps: &'k [MapShape<'k>],
    /// Structs of the program that have a lock.
    locked: &'k [u32],
}

fn shape_of<'m>(maps: &'m [MapShape<'m>], reg: &Reg) -> Option<&'m MapShape<'m>> {
    let Extra::Map { map, inner, .. } = reg.extra else { return None };
    let shape = maps.get(map as usize)?;
    if inner { shape.inner.as_deref() } else { Some(shape) }
}

/// What a pointer becomes once it is known not to be null.
fn lift_null(known: Known<'_>, reg: &mut Reg) {
    if reg.base() != Base::MapValue {
        reg.ty = reg.ty.without(flags::MAYBE_NULL);
        return;
    }
    let Extra::Map { map, .. } = reg.extra else { return };
    match shape_of(known.maps, reg) {
        Some(MapShape { inner: Some(inner), .. }) => {
            let timed = [FieldKind::Timer, FieldKind::Workqueue, FieldKind::TaskWork];
            let timed = timed.into_iter().any(|kind| inner.field(kind).is_some());
            reg.ty = RegType::of(Base::ConstMap);
            reg.extra = Extra::Map { map, inner: true, uid: if timed { reg.id } else { 0 } };
        }
        Some(shape) if shape.map_type == MapType::Xskmap => {
            reg.ty = RegType::of(Base::XdpSock);
            reg.extra = Extra::None;
        }
        Some(shape) if matches!(shape.map_type, MapType::Sockmap | MapType::Sockhash) => {
            reg.ty = RegType::of(Base::Socket);
            reg.extra = Extra::None;
        }
        _ => reg.ty = RegType::of(Base::MapValue),
    }
}

/// Whether its identity must stay after the null check, since a lock lives in it.
fn may_hold_lock(known: Known<'_>, reg: &Reg) -> bool {
    if reg.base() != Base::MapValue {
        return reg.ty.is_alloc() && matches!(reg.extra, Extra::Btf(id) if known.locked.contains(&id));
    }
    shape_of(known.maps, reg).is_some_and(MapShape::has_lock)
}

fn mark_null(known: Known<'_>, state: &mut State, reg: u8, is_null: bool) {
    let checked = state.frame().regs[reg as usize];
    if checked.ref_obj_id != 0 && checked.ref_obj_id == checked.id && is_null {
        // Nothing was acquired after all.
        state.res_mut().refs.retain(|r| r.id != checked.id);
    }
    let id = checked.id;
    state.for_each_reg(
        |r| r.is_pointer() && r.ty.maybe_null() && r.id == id,
        |r| {
            if is_null {
                *r = Reg::constant(0);
            } else {
                lift_null(known, r);
                if !may_hold_lock(known, r) {
                    r.id = 0;
                }
            }
        },
    );
}
