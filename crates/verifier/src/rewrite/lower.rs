//! Instructions that become others.
//!
//! Owns one function per rewritten instruction. Invariant: an expansion reads and writes what its instruction did, and
//! besides only `AX` and the stack slot added for it. Kernel counterpart: `convert_ctx_accesses`, `do_misc_fixups`,
//! kernel/bpf/verifier.c, 6.18.

use skep_abi::ctx::{CtxAccess, CtxLayout, ctx_layout_for};
use skep_abi::map_flags::BPF_F_NO_USER_CONV;
use skep_abi::{AluOp, CallTarget, Imm64, Insn, JmpOp, MapType, Operand, Reg, Size, TailCallImm, Width};

use super::exceptions::Exceptions;
use super::{Item, RewriteError, RewriteOptions, Target};
use crate::spec::{MapShape, ProgramSpec};
use crate::verified::{InsnFacts, InsnIdx, MapArg, MemKind, Need, Poke, Subprog};

/// `imm` of a cast of user space's address into a pointer to the arena.
const TO_KERNEL: i32 = 1;
/// `BPF_FUNC_tail_call`.
const TAIL_CALL: i32 = 12;
/// `BPF_MAX_LOOPS`: how often one `may_goto` counter lets a call go round.
const MAX_LOOPS: i32 = 8 << 20;
/// The poke descriptors of a program: index plus 1 is at most this (`poke_tab_max`, kernel/bpf/core.c).
pub(super) const MAX_POKES: usize = 1023;

/// One instruction of the result.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub(super) insn: Insn,
    pub(super) target: Option<Target>,
    pub(super) facts: InsnFacts,
}

/// What one original instruction became.
#[derive(Clone, Debug)]
pub(super) struct Expansion {
    /// Original slot.
    pub(super) at: u32,
    /// Instructions at the entry of the subprogram that begins here; jumps to `at` go past them.
    pub(super) prologue: Vec<Out>,
    pub(super) body: Vec<Out>,
}

/// The lowered program.
pub(super) struct Lowered {
    pub(super) code: Vec<Expansion>,
    /// Stack bytes that each subprogram needs now.
    pub(super) stack: Vec<u32>,
    /// The poke descriptors; `insn` is an original slot.
    pub(super) pokes: Vec<Poke>,
}

pub(super) fn lower(
    spec: &ProgramSpec<'_>,
    subprogs: &[Subprog],
    used_maps: &[u32],
    options: &RewriteOptions<'_>,
    items: Vec<Item>,
    facts: &[InsnFacts],
) -> Result<Lowered, RewriteError> {
    let exceptions = Exceptions::find(spec, subprogs, &items, options.thrown, facts)?;
    let layout = spec.ctx.or_else(|| ctx_layout_for(spec.prog_type, spec.attach_type));
    let mut lowering = Lowering { spec, layout, used_maps, options, pokes: Vec::new() };
    let removed = |subprog: &Subprog| if options.remove_dead { subprog.save_depth } else { 0 };
    let mut stack: Vec<u32> = subprogs.iter().map(|subprog| subprog.stack_depth - removed(subprog)).collect();
    let mut code = Vec::with_capacity(items.len());
    let mut items = items.into_iter().peekable();
    for (sub, (subprog, depth)) in subprogs.iter().zip(&mut stack).enumerate() {
        let first = code.len();
        let mut counter = None;
        while let Some(item) = items.next_if(|item| item.at < subprog.end) {
            let at = item.at;
            let body = if matches!(item.insn, Insn::MayGoto { .. }) {
                let slot = match counter {
                    Some(slot) => slot,
                    None => *counter.insert(counter_slot(depth, at)?),
                };
                may_goto(&item, slot)
            } else if let Some(body) = exceptions.as_ref().and_then(|found| found.throw(spec, sub, item.insn)) {
                body
            } else {
                let after = exceptions.as_ref().map(|found| found.after_call(subprogs, sub, &item));
                let mut body = lowering.single(item)?;
                body.extend(after.unwrap_or_default());
                body
            };
            code.push(Expansion { at, prologue: Vec::new(), body });
        }
        if let (Some(slot), Some(entry)) = (counter, code.get_mut(first)) {
            entry.prologue = vec![set_counter(slot)];
        }
    }
    if let Some(item) = items.next() {
        return Err(RewriteError::Internal { insn: item.at, what: "an instruction is in no subprogram" });
    }
    Ok(Lowered { code, stack, pokes: lowering.pokes })
}

struct Lowering<'a> {
    spec: &'a ProgramSpec<'a>,
    layout: Option<&'a CtxLayout>,
    used_maps: &'a [u32],
    options: &'a RewriteOptions<'a>,
    pokes: Vec<Poke>,
}

impl Lowering<'_> {
    fn single(&mut self, item: Item) -> Result<Vec<Out>, RewriteError> {
        let Item { at, insn, target, facts } = item;
        let main = |insn| Out { insn, target, facts };
        Ok(match insn {
            Insn::Load { size, sign_extend: false, dst, base, off } if facts.mem == MemKind::Ctx => {
                let (size, off) = self.context_word(size, off).unwrap_or((size, off));
                vec![main(Insn::Load { size, sign_extend: false, dst, base, off })]
            }
            Insn::LdImm64 { dst, imm: Imm64::MapValue { fd, .. } } if self.is_percpu(fd) => {
                vec![main(insn), plain(Insn::MovPercpu { dst, src: dst })]
            }
            Insn::AddrSpaceCast { dst, src, imm } if imm == TO_KERNEL || self.keeps_low_half() => {
                let src = Operand::Reg(src);
                vec![main(Insn::Alu { width: Width::W32, op: AluOp::Mov, dst, src })]
            }
            Insn::Alu { width: Width::W64, op, dst, src } if facts.alu32 => {
                let facts = InsnFacts { divisor_nonzero: false, divisor_not_minus_one: false, ..facts };
                let insn = Insn::Alu { width: Width::W32, op, dst, src: narrow_count(op, src) };
                vec![Out { insn, target, facts }]
            }
            Insn::Call { target: CallTarget::Kfunc { id, .. } } => match self.object_argument(at, id, &facts)? {
                Some(argument) => vec![plain(argument), main(insn)],
                None => vec![main(insn)],
            },
            Insn::Call { target: CallTarget::Helper(TAIL_CALL) } => {
                vec![main(Insn::TailCall { imm: self.tail_call(at, &facts)? })]
            }
            _ => vec![main(insn)],
        })
    }

    /// What the verifier learnt of the objects of a call, as an argument that the program does not pass itself.
    fn object_argument(&self, at: u32, id: i32, facts: &InsnFacts) -> Result<Option<Insn>, RewriteError> {
        let kfunc = usize::try_from(id).ok().and_then(|id| self.spec.kfuncs.get(id));
        let dst = match kfunc.map(|kfunc| kfunc.name.as_ref()) {
            Some("bpf_obj_new_impl" | "bpf_refcount_acquire_impl") => Reg::R2,
            Some("bpf_list_push_front_impl" | "bpf_list_push_back_impl") => Reg::R4,
            Some("bpf_rbtree_add_impl") => Reg::R5,
            _ => return Ok(None),
        };
        if !facts.reachable {
            return Ok(None);
        }
        let what = || "one call on objects of several types".to_owned();
        let Some(known) = facts.object.get() else { return Err(Need { insn: InsnIdx(at), what: what() }.into()) };
        let value = if kfunc.is_some_and(|kfunc| kfunc.name == "bpf_obj_new_impl") {
            let found = self.options.objects.iter().find(|(id, _)| u64::from(*id) == known);
            let missing = RewriteError::Internal { insn: at, what: "an object's type has no description" };
            found.map(|(_, address)| *address).ok_or(missing)?
        } else {
            known
        };
        Ok(Some(Insn::LdImm64 { dst, imm: Imm64::Const(value) }))
    }

    /// Where the run-time object keeps what a load of the context reads, if not at the same place: the pointers that the
    /// program sees as 32-bit fields.
    fn context_word(&self, size: Size, off: i16) -> Option<(Size, i16)> {
        let at = u32::try_from(off).ok()?;
        let CtxAccess::Field(field) = self.layout?.find(at, u32::from(size.bytes()), false)? else { return None };
        let (word, bytes) = field.rt.filter(|_| at == u32::from(field.offset) && size.bytes() == field.size)?;
        let size = match bytes {
            8 => Size::Dw,
            4 => Size::W,
            _ => return None,
        };
        Some((size, i16::try_from(word).ok()?))
    }

    fn map(&self, number: u32) -> Option<&MapShape<'_>> {
        let index = *self.used_maps.get(usize::try_from(number).ok()?)?;
        self.spec.maps.get(usize::try_from(index).ok()?)
    }

    /// Whether the arena's pointers are the same in user space (`BPF_F_NO_USER_CONV`).
    fn keeps_low_half(&self) -> bool {
        let used = self.used_maps.iter().filter_map(|&map| self.spec.maps.get(usize::try_from(map).ok()?));
        let mut arenas = used.filter(|map| map.map_type == MapType::Arena);
        arenas.next().is_some_and(|map| map.flags & BPF_F_NO_USER_CONV != 0)
    }

    fn is_percpu(&self, number: i32) -> bool {
        let map = u32::try_from(number).ok().and_then(|number| self.map(number));
        map.is_some_and(|map| map.map_type == MapType::PercpuArray)
    }

    /// What the code generator may know of a tail call: the map if always the same, and a patchable site if the index
    /// is as well and lies in it.
    fn tail_call(&mut self, at: u32, facts: &InsnFacts) -> Result<TailCallImm, RewriteError> {
        let MapArg::Known(number) = facts.helper_map else { return Ok(TailCallImm::new(0, true, None)) };
        let missing = RewriteError::Internal { insn: at, what: "a tail call names a map that is not used" };
        let entries = self.map(number).ok_or_else(|| missing.clone())?.max_entries;
        let map = u8::try_from(number).map_err(|_| missing)?;
        let key = facts.const_key.get().and_then(|key| u32::try_from(key).ok()).filter(|key| *key < entries);
        let Some(key) = key.filter(|_| self.options.pokes) else { return Ok(TailCallImm::new(map, false, None)) };
        let poke = u16::try_from(self.pokes.len()).ok().filter(|&poke| usize::from(poke) < MAX_POKES);
        let poke = poke.ok_or(RewriteError::TooManyPokes { insn: at })?;
        self.pokes.push(Poke { insn: at, map: number, key });
        Ok(TailCallImm::new(map, false, Some(poke)))
    }
}

/// Of a shift by a constant in 32 bits, its low five bits count.
fn narrow_count(op: AluOp, src: Operand) -> Operand {
    match (op, src) {
        (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Operand::Imm(count)) => Operand::Imm(count & 31),
        _ => src,
    }
}

/// An instruction that the rewrite adds.
pub(super) fn plain(insn: Insn) -> Out {
    Out { insn, target: None, facts: InsnFacts { reachable: true, ..InsnFacts::default() } }
}

fn on_stack(insn: Insn) -> Out {
    let mut out = plain(insn);
    out.facts.mem = MemKind::Stack;
    out
}

/// Adds eight bytes to a stack; their offset from the frame pointer.
fn counter_slot(depth: &mut u32, at: u32) -> Result<i16, RewriteError> {
    let below = depth.checked_next_multiple_of(8).and_then(|aligned| aligned.checked_add(8));
    let offset = below.and_then(|below| i16::try_from(below).ok());
    let (Some(below), Some(offset)) = (below, offset) else {
        return Err(RewriteError::Internal { insn: at, what: "the stack is deeper than the limit" });
    };
    *depth = below;
    Ok(-offset)
}

fn set_counter(slot: i16) -> Out {
    on_stack(Insn::Store { size: Size::Dw, base: Reg::R10, off: slot, src: Operand::Imm(MAX_LOOPS) })
}

/// `may_goto` counts down a stack slot that the subprogram's entry has set, and jumps at zero.
fn may_goto(item: &Item, slot: i16) -> Vec<Out> {
    let load = Insn::Load { size: Size::Dw, sign_extend: false, dst: Reg::AX, base: Reg::R10, off: slot };
    let test = Insn::Jcond { width: Width::W64, op: JmpOp::Eq, dst: Reg::AX, src: Operand::Imm(0), off: 0 };
    let count = Insn::Alu { width: Width::W64, op: AluOp::Sub, dst: Reg::AX, src: Operand::Imm(1) };
    let store = Insn::Store { size: Size::Dw, base: Reg::R10, off: slot, src: Operand::Reg(Reg::AX) };
    vec![on_stack(load), Out { insn: test, target: item.target, facts: item.facts }, plain(count), on_stack(store)]
}
