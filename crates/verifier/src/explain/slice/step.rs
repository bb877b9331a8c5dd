//! What one instruction of the path did to a value that is looked for.
//!
//! Invariant: a place that the instruction wrote is looked for no more; what it was made of is, from here back.

use skep_abi::{AluOp, AtomicOp, CallTarget, Insn, JmpOp, Operand, Reg as R};

use super::super::branches::decision;
use super::super::describe::{bytes, condition, range};
use super::super::trace::{At, Loc};
use super::{Here, Lost, Role, Slicer, same};
use crate::env::Env;
use crate::state::reg::{Base, Reg};
use crate::state::stack::{SLOT, Slot};

impl Slicer<'_, '_> {
    /// One step and one place: who made it what it is after the step?
    pub(super) fn look_at(&mut self, here: Here, loc: Loc, after: &Slot) {
        let Some(insn) = self.env.insn_at(here.insn) else { return };
        let changed = !same(&self.value(loc), after);
        match insn {
            Insn::Call { target } => return self.call(here, target, loc, after, changed),
            Insn::Exit => return self.exit(here, loc, after),
            Insn::Jcond { op, dst, src, off, .. } => {
                if changed {
                    let target = Env::relative(here.insn, i32::from(off));
                    self.branch(here, op, dst, src, here.next == Some(target), loc, after);
                }
                return;
            }
            _ => {}
        }
        match loc.at {
            At::Reg(n) if loc.frame == here.frame && writes(insn).is_some_and(|r| r.number() == n) => {
                self.definition(here, insn, loc, after);
            }
            At::Slot(slot) => self.store(here, insn, loc, slot, after, changed),
            At::Reg(n) if changed => {
                let what = format!("from one turn of the loop to the next r{n} is {}", self.env.describe(&after.reg));
                self.push(here.insn, Role::Loss, what);
            }
            At::Reg(_) => {}
        }
    }

    fn definition(&mut self, here: Here, insn: Insn, loc: Loc, after: &Slot) {
        self.wanted.remove(&loc);
        let At::Reg(n) = loc.at else { return };
        let (frame, value) = (here.frame, self.env.describe(&after.reg));
        let what = match insn {
            Insn::Alu { op: AluOp::Mov, src: Operand::Reg(src), .. } => {
                let before = self.reg(frame, src).copied().unwrap_or(Reg::NOT_INIT);
                self.want(frame, src);
                if before.bounds == after.reg.bounds || !before.is_scalar() {
                    return;
                }
                format!("r{n} is the low 32 bits of r{}: {}", src.number(), range(&after.reg))
            }
            Insn::Alu { op: AluOp::Mov, .. } => {
                self.push(here.insn, Role::Value, format!("r{n} is set to {}", range(&after.reg)));
                return self.why_here(here.index);
            }
            Insn::MovSx { bits, src, .. } => {
                self.want(frame, src);
                format!("r{n} is the signed low {bits} bits of r{}: {}", src.number(), range(&after.reg))
            }
            Insn::Alu { op, dst, src, .. } => self.arithmetic(here, op, dst, src, &after.reg),
            Insn::Neg { dst, .. } | Insn::End { dst, .. } => {
                self.want(frame, dst);
                let verb = if matches!(insn, Insn::Neg { .. }) { "negated" } else { "put into another byte order" };
                format!("r{n} is {verb}: {}", range(&after.reg))
            }
            Insn::LdImm64 { .. } => format!("r{n} is {value}"),
            Insn::Load { size, base, off, .. } | Insn::LoadAcquire { size, base, off, .. } => {
                match self.load(here, n, size.bytes(), base, i32::from(off), &after.reg) {
                    Some(what) => what,
                    None => return,
                }
            }
            Insn::LdAbs { .. } | Insn::LdInd { .. } => format!("r{n} is read from the packet: {}", range(&after.reg)),
            Insn::Atomic { base, .. } => {
                let object = self.reg(frame, base).map_or(String::new(), |r| self.env.object(r));
                format!("r{n} is what {object} held before: {}", range(&after.reg))
            }
            _ => format!("r{n} is {value}"),
        };
        self.push(here.insn, Role::Value, what);
    }

    /// A constant is what it is because the path came to it: the branch right before says why.
    fn why_here(&mut self, index: usize) {
        let steps = self.trace.steps();
        let Some(before) = index.checked_sub(1).and_then(|i| steps.get(i)) else { return };
        if let Some(what) = decision(self.env, before.insn, steps[index].insn) {
            self.push(before.insn, Role::Branch, what);
        }
    }

    fn arithmetic(&mut self, here: Here, op: AluOp, dst: R, src: Operand, after: &Reg) -> String {
        let Some(frame) = self.view.get(usize::from(here.frame)) else { return String::new() };
        let old = frame.regs[dst.index()];
        let operand = self.env.operand(src, frame);
        let (n, value) = (dst.number(), self.env.describe(after));
        let what = match op {
            AluOp::Add if after.is_pointer() => format!("{operand} is added to the pointer: r{n} is {value}"),
            AluOp::Sub if after.is_pointer() => format!("{operand} is taken from the pointer: r{n} is {value}"),
            AluOp::Add => format!("{operand} is added: r{n} is {}", range(after)),
            AluOp::Sub => format!("{operand} is taken away: r{n} is {}", range(after)),
            AluOp::Mul => format!("multiplied by {operand}: r{n} is {}", range(after)),
            AluOp::Div | AluOp::Sdiv => format!("divided by {operand}: r{n} is {}", range(after)),
            AluOp::Mod | AluOp::Smod => format!("the rest of division by {operand}: r{n} is {}", range(after)),
            AluOp::And => format!("masked with {operand}: r{n} is {}", range(after)),
            AluOp::Or => format!("or-ed with {operand}: r{n} is {}", range(after)),
            AluOp::Xor => format!("xor-ed with {operand}: r{n} is {}", range(after)),
            AluOp::Lsh => format!("shifted left by {operand}: r{n} is {}", range(after)),
            AluOp::Rsh | AluOp::Arsh => format!("shifted right by {operand}: r{n} is {}", range(after)),
            AluOp::Mov => String::new(),
        };
        if old.base() != Base::Stack {
            self.want(here.frame, dst);
        }
        self.want_operand(here.frame, src);
        what
    }

    /// A load; nothing where the value is followed into the stack instead.
    fn load(&mut self, here: Here, n: u8, size: u8, base: R, off: i32, after: &Reg) -> Option<String> {
        let from = *self.reg(here.frame, base)?;
        let amount = bytes(u64::from(size));
        Some(match from.base() {
            Base::Stack => {
                self.want_slots(&from, i64::from(off), u64::from(size));
                return None;
            }
            Base::Ctx => {
                let field = self.env.context_field(from.off.saturating_add(off), size);
                let field = field.unwrap_or_else(|| "the context".to_owned());
                format!("r{n} is {field}: {}", self.env.describe(after))
            }
            _ => format!("r{n} is read from {} ({amount}): {}", self.env.object(&from), self.env.describe(after)),
        })
    }

    /// Who wrote a stack slot.
    fn store(&mut self, here: Here, insn: Insn, loc: Loc, slot: u8, after: &Slot, changed: bool) {
        let (base, off, src) = match insn {
            Insn::Store { base, off, src, .. } => (base, off, Some(src)),
            Insn::StoreRelease { base, off, src, .. } => (base, off, Some(Operand::Reg(src))),
            Insn::Atomic { base, off, .. } => (base, off, None),
            _ => return,
        };
        let Some(pointer) = self.reg(here.frame, base).copied().filter(|r| r.base() == Base::Stack) else { return };
        if u8::try_from(pointer.frame()).ok() != Some(loc.frame) {
            return;
        }
        let Some(var) = pointer.bounds.const_value() else {
            if changed {
                let what = "a store at a variable offset may have overwritten it".to_owned();
                self.push(here.insn, Role::Loss, what);
            }
            return;
        };
        let at = i64::from(off).wrapping_add(i64::from(pointer.off)).wrapping_add(var.cast_signed());
        if usize::try_from(-at - 1).map(|v| v / SLOT).ok() != Some(usize::from(slot)) {
            return;
        }
        match src {
            Some(Operand::Reg(src)) if after.is_spilled() => {
                self.wanted.remove(&loc);
                self.want(here.frame, src);
            }
            Some(Operand::Imm(imm)) if after.is_spilled() => {
                self.wanted.remove(&loc);
                self.push(here.insn, Role::Value, format!("{imm} is stored on the stack at fp{at}"));
            }
            _ => {
                let amount = match insn {
                    Insn::Store { size, .. } | Insn::StoreRelease { size, .. } | Insn::Atomic { size, .. } => {
                        size.bytes()
                    }
                    _ => 8,
                };
                let amount = bytes(u64::from(amount));
                let are = if amount == "1 byte" { "is" } else { "are" };
                self.push(here.insn, Role::Value, format!("{amount} at fp{at} {are} written"));
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one jump")]
    fn branch(&mut self, here: Here, op: JmpOp, dst: R, src: Operand, taken: bool, loc: Loc, after: &Slot) {
        let Some(frame) = self.view.get(usize::from(here.frame)) else { return };
        let (left, right) = (frame.regs[dst.index()], self.env.operand(src, frame));
        let name = match loc.at {
            At::Reg(n) => format!("r{n}"),
            At::Slot(slot) => format!("the value at fp-{}", (u32::from(slot) + 1) * 8),
        };
        let before = self.value(loc).reg;
        let (d, relation) = (dst.number(), condition(op, taken));
        let what = if before.ty.maybe_null() && after.reg.is_null() {
            format!("{name} is NULL on this path")
        } else if before.ty.maybe_null() {
            format!("{name} is not NULL on this path")
        } else if before.ty.is_packet() {
            match after.reg.range() {
                proven @ 0.. => {
                    format!(
                        "the comparison with the end proves {} of the packet",
                        bytes(u64::from(proven.unsigned_abs()))
                    )
                }
                _ => format!("{name} lies at the packet's end or beyond on this path"),
            }
        } else if left.is_scalar() {
            let fact = if before.is_scalar() { format!(": {name} is {}", range(&after.reg)) } else { String::new() };
            format!("r{d} {relation} {right} on this path{fact}")
        } else {
            format!("{name} is {} on this path", self.env.describe(&after.reg))
        };
        self.push(here.insn, Role::Branch, what);
    }

    fn call(&mut self, here: Here, target: CallTarget, loc: Loc, after: &Slot, changed: bool) {
        let callee = self.env.callee(here.insn, target);
        if loc.frame > here.frame {
            return self.entered_function(here, &callee, loc, after);
        }
        let own = loc.frame == here.frame;
        let value = self.env.describe(&after.reg);
        match loc.at {
            At::Reg(0) if own && here.next == Some(here.insn + 1) => {
                self.wanted.remove(&loc);
                self.push(here.insn, Role::Value, format!("{callee} returns {value}"));
            }
            At::Reg(n @ 0..=5) if own => {
                self.wanted.remove(&loc);
                let what = format!("the call of {callee} ends what r{n} held, as it does for r0 to r5");
                self.push(here.insn, Role::Loss, what);
            }
            At::Reg(n) if changed => {
                let before = self.value(loc).reg;
                if before.ty.is_packet() || before.base() == Base::PacketEnd {
                    let what = format!("{callee} may move the packet, and r{n} pointed into it before");
                    return self.push_lost(here.insn, Lost::Packet, what);
                }
                if before.ref_obj_id != 0 && after.reg.ref_obj_id == 0 {
                    let what = format!("{callee} gives back {}, and r{n} pointed to it", self.env.object(&before));
                    return self.push_lost(here.insn, Lost::Released, what);
                }
                let what = if before.is_scalar() && after.reg.is_scalar() {
                    format!("from one turn of the loop to the next r{n} is {}", range(&after.reg))
                } else {
                    format!("{callee} makes r{n} {value}")
                };
                self.push(here.insn, Role::Loss, what);
            }
            At::Slot(slot) if changed => {
                let before = self.value(loc).reg;
                let at = (u32::from(slot) + 1) * 8;
                if before.ty.is_packet() || before.base() == Base::PacketEnd {
                    let what =
                        format!("{callee} may move the packet, and the pointer kept at fp-{at} pointed into it before");
                    return self.push_lost(here.insn, Lost::Packet, what);
                }
                if before.ref_obj_id != 0 && after.reg.ref_obj_id == 0 {
                    let what = format!(
                        "{callee} gives back {}, to which the pointer at fp-{at} pointed",
                        self.env.object(&before)
                    );
                    return self.push_lost(here.insn, Lost::Released, what);
                }
                self.push(here.insn, Role::Loss, format!("{callee} changes the stack at fp-{at}"));
            }
            _ => {}
        }
    }

    /// The place belongs to a function that this call entered.
    fn entered_function(&mut self, here: Here, callee: &str, loc: Loc, after: &Slot) {
        let At::Reg(n) = loc.at else { return };
        self.wanted.remove(&loc);
        let sub = here.next.map_or(0, |next| self.env.subprog_at(next));
        if !(1..=5).contains(&n) || after.reg.base() == Base::NotInit {
            let name = self.env.function_call(sub);
            return self.push(here.insn, Role::Entry, format!("r{n} holds nothing when {name} starts"));
        }
        let is_call = matches!(self.env.insn_at(here.insn), Some(Insn::Call { target: CallTarget::Subprog(_) }));
        let argument = self.argument(sub, n);
        if is_call {
            if let Some(reg) = R::new(n) {
                self.want(here.frame, reg);
            }
            self.push(here.insn, Role::Entry, format!("passed on as {argument} of {callee}"));
        } else {
            let name = self.env.function_call(sub);
            let what = format!("{callee} calls {name} with {argument}: {}", self.env.describe(&after.reg));
            self.push(here.insn, Role::Entry, what);
        }
    }

    /// A return: r0 of the caller is r0 of the function.
    fn exit(&mut self, here: Here, loc: Loc, after: &Slot) {
        let Some(caller) = here.frame.checked_sub(1) else { return };
        if loc != (Loc { frame: caller, at: At::Reg(0) }) {
            return;
        }
        self.wanted.remove(&loc);
        self.want(here.frame, R::R0);
        let name = self.env.function_call(self.env.subprog_at(here.insn));
        self.push(here.insn, Role::Value, format!("{name} returns {}", self.env.describe(&after.reg)));
    }
}

/// The register that an instruction other than a call writes.
fn writes(insn: Insn) -> Option<R> {
    match insn {
        Insn::Alu { dst, .. }
        | Insn::MovSx { dst, .. }
        | Insn::Neg { dst, .. }
        | Insn::End { dst, .. }
        | Insn::AddrSpaceCast { dst, .. }
        | Insn::MovPercpu { dst, .. }
        | Insn::LdImm64 { dst, .. }
        | Insn::Load { dst, .. }
        | Insn::LoadAcquire { dst, .. } => Some(dst),
        Insn::LdAbs { .. } | Insn::LdInd { .. } => Some(R::R0),
        Insn::Atomic { op: AtomicOp::Cmpxchg, .. } => Some(R::R0),
        Insn::Atomic { fetch: true, src, .. } | Insn::Atomic { op: AtomicOp::Xchg, src, .. } => Some(src),
        _ => None,
    }
}
