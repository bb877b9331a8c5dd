//! The x86-64 back end.
//!
//! Owns the walk over the program: per subprogram a frame, a prologue, one lowering per op, then the cold parts. What is odd
//! about this CPU: `mul` and `div` insist on rax and rdx, variable shifts on rcx (unless BMI2), flags are a side effect of
//! arithmetic and can be reused. Invariant: between two ops every live BPF register is in its host register; scratch
//! registers carry nothing across. Kernel counterpart: `do_jit`, arch/x86/net/bpf_jit_comp.c, 6.18.

mod alu;
mod arena;
mod asm;
mod atomic;
mod branch;
mod call;
mod frame;
mod fuse;
mod lookup;
mod memory;
mod muldiv;
mod relax;
mod stats;
mod tail_call;

use skep_abi::{Insn, Reg};
use skep_verifier::Xlated;

use crate::error::JitError;
use crate::flow::decode::slot_number;
use crate::flow::{Flow, Op, RegSet};
use crate::image::{Image, ImageSubprog, PatchSite, Reloc, RelocKind, RelocTarget, SiteKind};
use crate::layout::Layout;
use crate::options::Options;
use asm::{Asm, HostReg, Mem, R10, R11};
use frame::Frame;
use relax::{Label, Labels, Position};

/// Scratch registers of every lowering.
const TMP: HostReg = R11;
const TMP2: HostReg = R10;

/// Compiles the program.
pub(crate) fn compile(flow: &Flow, xlated: &Xlated, layout: &Layout, options: &Options) -> Result<Image, JitError> {
    let mut lower = Lower::new(flow, layout, options)?;
    lower.emit_entry();
    for index in 0..flow.subs.len() {
        lower.emit_subprog(index)?;
    }
    lower.emit_thunks();
    lower.emit_stats_stub()?;
    lower.finish(xlated)
}

/// A patch site before linking.
struct Site {
    at: Position,
    kind: PendingSite,
}

enum PendingSite {
    Stats { stub: Label },
    Function { subprog: u32 },
    PokeGate { index: u16, stub: Label },
    PokeTarget { index: u16 },
}

/// Code to emit after the subprogram.
enum Cold {
    /// `r0 = 0` and on to `to`.
    Null { at: Label, to: Label },
    /// A divisor that `div` must not see.
    Division(muldiv::SpecialDivision),
    /// Unwinding and last jump of a poked tail call.
    Poke { at: Label, index: u16 },
}

/// A register whose last write left in the flags whether it is zero.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flags {
    reg: HostReg,
    /// The write was 64 bits wide; a 32-bit one zero-extends, so it tells for both widths.
    wide: bool,
}

/// A program being compiled.
struct Lower<'a> {
    asm: Asm,
    flow: &'a Flow,
    layout: &'a Layout,
    options: &'a Options,
    frame: Frame,
    slots: Labels,
    entries: Labels,
    thunks: Vec<Option<Label>>,
    stats_stub: Option<Label>,
    exit: Option<Label>,
    exit_bound: bool,
    flags: Option<Flags>,
    cold: Vec<Cold>,
    relocs: Vec<(Position, u64)>,
    sites: Vec<Site>,
    lines: Vec<(Position, u32)>,
    bounds: Vec<(Position, Position, u32)>,
    tail_entry: Position,
}

impl<'a> Lower<'a> {
    fn new(flow: &'a Flow, layout: &'a Layout, options: &'a Options) -> Result<Self, JitError> {
        let mut asm = Asm::with_capacity(flow.ops.len());
        let slots = asm.new_labels(flow.ops.len());
        let entries = asm.new_labels(flow.subs.len());
        let frame =
            Frame::plan(flow, 0, options.features.bmi2).ok_or(JitError::Internal("the program has no frame"))?;
        let tail_entry = asm.here();
        Ok(Self {
            asm,
            flow,
            layout,
            options,
            frame,
            slots,
            entries,
            thunks: vec![None; flow.subs.len()],
            stats_stub: None,
            exit: None,
            exit_bound: false,
            flags: None,
            cold: Vec::new(),
            relocs: Vec::new(),
            sites: Vec::new(),
            lines: Vec::with_capacity(flow.ops.len()),
            bounds: Vec::with_capacity(flow.subs.len()),
            tail_entry,
        })
    }

    fn emit_subprog(&mut self, index: usize) -> Result<(), JitError> {
        let Some(&sub) = self.flow.subs.get(index) else { return Ok(()) };
        if index > 0 {
            self.asm.align(4, 15);
            self.frame = Frame::plan(self.flow, index, self.options.features.bmi2)
                .ok_or(JitError::Internal("a subprogram's frame is too large"))?;
        }
        let start = self.asm.here();
        self.asm.bind(self.entries.at(index));
        self.exit = None;
        self.exit_bound = false;
        if sub.replaceable {
            self.emit_site(PendingSite::Function { subprog: slot_number(index) });
        }
        if index == 0 {
            self.tail_entry = self.asm.here();
        }
        self.frame.emit_prologue(&mut self.asm);
        let mut at = sub.start;
        while at < sub.end {
            let info = self.flow.slot(at);
            if info.leader {
                self.flags = None;
                self.asm.bind(self.slots.at(at));
            }
            let op = self.flow.op(at);
            if op != Op::Nop {
                self.lines.push((self.asm.here(), slot_number(at)));
                at = self.lower(at, op)?;
            }
            at += 1;
        }
        self.emit_cold();
        let end = self.asm.here();
        self.bounds.push((start, end, self.frame.stack()));
        Ok(())
    }

    /// Emits the op at `at`, and others with it if they become one; returns the last slot that is done.
    fn lower(&mut self, at: usize, op: Op) -> Result<usize, JitError> {
        if self.options.optimize
            && let Some(last) = self.fuse(at, op)
        {
            return Ok(last);
        }
        let flags = self.flags.take();
        match op {
            Op::Nop => {}
            Op::Insn(insn) => return self.lower_insn(at, insn, flags),
            Op::Arena(insn) => self.lower_arena(at, insn)?,
            Op::LoadBe { size, dst, base, off } => self.emit_load_be(size, dst, base, off),
            Op::LoadIndexed { size, sign_extend, dst, base, index, off } => {
                let mem = Mem::indexed(self.host(base), self.host(index), 0, i32::from(off));
                self.emit_load(size, sign_extend, dst, mem);
            }
            Op::Rotate { width, dst, src, left } => self.emit_rotate(width, dst, src, left),
            Op::AddImm { dst, base, imm } => self.emit_add_imm(dst, base, imm),
            Op::AddReg { dst, a, b } => {
                let mem = Mem::indexed(self.host(a), self.host(b), 0, 0);
                self.asm.lea(true, self.host(dst), mem);
            }
            Op::PercpuAddr { dst, off } => {
                let mem = Mem::new(self.frame.cpu, off);
                self.asm.lea(true, self.host(dst), mem);
            }
            Op::LoadPercpu { size, sign_extend, dst, off } => {
                self.emit_load(size, sign_extend, dst, Mem::new(self.frame.cpu, off));
            }
            Op::StorePercpu { size, src, off } => self.emit_store_to(size, Mem::new(self.frame.cpu, off), src),
            Op::LookupCall { map } => self.lower_lookup_call(at, map)?,
            Op::Lookup { map, key, .. } => return self.lower_lookup(at, map, key),
            Op::CpuId => {
                let mem = Mem::new(self.frame.cpu, self.layout.cpu_id);
                self.asm.movzx(asm::OpSize::B32, self.host(Reg::R0), mem);
            }
            Op::TailCall { map, poke } => self.lower_tail_call(at, map, poke)?,
        }
        Ok(at)
    }

    fn lower_insn(&mut self, at: usize, insn: Insn, flags: Option<Flags>) -> Result<usize, JitError> {
        match insn {
            Insn::Alu { width, op, dst, src } => self.lower_alu(at, width, op, dst, src, flags),
            Insn::MovSx { width, bits, dst, src } => self.emit_movsx(width, bits, dst, src),
            Insn::Neg { width, dst } => self.emit_neg(width, dst),
            Insn::End { kind, bits, dst } => self.emit_end(kind, bits, dst),
            Insn::MovPercpu { dst, src } => self.emit_percpu(dst, src),
            Insn::LdImm64 { dst, imm } => self.lower_imm64(at, dst, imm)?,
            Insn::Load { size, sign_extend, dst, base, off } => {
                let mem = self.mem(base, off);
                self.emit_load(size, sign_extend, dst, mem);
                self.flags = flags.filter(|flags| flags.reg != self.host(dst));
            }
            Insn::Store { size, base, off, src } => {
                self.emit_store(size, base, off, src);
                self.flags = flags;
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                let mem = self.mem(base, off);
                self.emit_load(size, false, dst, mem);
            }
            Insn::StoreRelease { size, base, off, src } => {
                self.emit_store(size, base, off, skep_abi::Operand::Reg(src));
            }
            Insn::Atomic { op, fetch, size, base, off, src } => {
                let mem = self.mem(base, off);
                self.lower_atomic(at, op, fetch, size, mem, src);
            }
            Insn::LdAbs { size, imm } => self.emit_ld_abs(at, size, None, imm)?,
            Insn::LdInd { size, src, imm } => self.emit_ld_abs(at, size, Some(src), imm)?,
            Insn::Ja { .. } => self.emit_ja(at, insn),
            Insn::Jcond { width, op, dst, src, .. } => {
                return Ok(self.lower_jcond(at, insn, (width, op, dst, src), flags));
            }
            Insn::Call { target } => self.lower_call(at, target)?,
            Insn::Exit => self.emit_exit(),
            Insn::MayGoto { .. } => return Err(unsupported(at, "may_goto (the rewrite expands it)")),
            Insn::AddrSpaceCast { dst, src, .. } => self.emit_cast_user(at, dst, src)?,
            Insn::TailCall { .. } => return Err(JitError::Internal("a tail call was not decoded as one")),
        }
        Ok(at)
    }

    /// The host register of a BPF register; not for r10.
    fn host(&self, reg: Reg) -> HostReg {
        self.frame.host(reg)
    }

    fn mem(&self, base: Reg, off: i16) -> Mem {
        self.frame.mem(base, i32::from(off))
    }

    /// The host register that holds `reg`; the frame pointer is computed into `tmp`.
    fn read(&mut self, reg: Reg, tmp: HostReg) -> HostReg {
        if reg == Reg::R10 {
            let mem = self.frame.mem(reg, 0);
            self.asm.lea(true, tmp, mem);
            tmp
        } else {
            self.host(reg)
        }
    }

    fn live_after(&self, at: usize) -> RegSet {
        if self.options.optimize { self.flow.slot(at).live_out } else { RegSet(0xfff) }
    }

    /// Links and collects the tables.
    fn finish(self, xlated: &Xlated) -> Result<Image, JitError> {
        let linked = self.asm.link()?;
        let relocations = self
            .relocs
            .iter()
            .map(|&(at, addr)| Reloc { at: linked.offset(at), kind: RelocKind::Rel32, target: RelocTarget::Addr(addr) })
            .collect();
        let mut sites = Vec::with_capacity(self.sites.len());
        for site in &self.sites {
            let kind = match site.kind {
                PendingSite::Stats { stub } => SiteKind::Stats { stub: linked.label(stub)? },
                PendingSite::PokeGate { index, stub } => SiteKind::PokeGate { index, stub: linked.label(stub)? },
                PendingSite::Function { subprog } => SiteKind::Function { subprog },
                PendingSite::PokeTarget { index } => SiteKind::PokeTarget { index },
            };
            sites.push(PatchSite { offset: linked.offset(site.at), len: 5, kind });
        }
        sites.sort_unstable_by_key(|site| site.offset);
        let mut lines: Vec<(u32, u32)> = Vec::with_capacity(self.lines.len());
        lines.extend(self.lines.iter().map(|&(at, slot)| (linked.offset(at), slot)));
        let subprogs = self
            .bounds
            .iter()
            .zip(&xlated.subprogs)
            .map(|(&(start, end, stack), sub)| ImageSubprog {
                start: linked.offset(start),
                end: linked.offset(end),
                slot: sub.start,
                name: sub.name.clone(),
                stack,
            })
            .collect();
        let tail_entry = linked.offset(self.tail_entry);
        let function_entry = if self.flow.is_extension { Some(linked.label(self.entries.at(0))?) } else { None };
        Ok(Image { bytes: linked.bytes, entry: 0, tail_entry, function_entry, relocations, sites, lines, subprogs })
    }
}

fn unsupported(at: usize, what: &'static str) -> JitError {
    JitError::Unsupported { slot: slot_number(at), what }
}
