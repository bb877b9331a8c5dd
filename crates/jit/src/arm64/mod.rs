//! The arm64 back end.
//!
//! Owns the walk over the program: per subprogram a frame, a prologue, one lowering per op, then the cold parts. What is odd
//! about this CPU: division gives what eBPF wants for 0 and -1, so it needs no checks; far addresses are built in registers,
//! so an image has no relocations; a patch site is one instruction. Invariant: between two ops every live BPF register is in
//! its host register; scratch registers carry nothing across. Kernel counterpart: `build_insn`,
//! arch/arm64/net/bpf_jit_comp.c, 6.18.

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

use skep_abi::{Insn, Reg, Width};
use skep_verifier::Xlated;

use crate::error::JitError;
use crate::flow::decode::slot_number;
use crate::flow::{Flow, Op, RegSet};
use crate::image::{Image, ImageSubprog, PatchSite, SiteKind};
use crate::layout::Layout;
use crate::options::Options;
use asm::{Asm, HostReg, Mem, Op3, x};
use frame::Frame;
use relax::{Label, Labels, Linked, label_offset};

/// Scratch registers of every lowering.
const TMP: HostReg = x(9);
const TMP2: HostReg = x(10);
const TMP3: HostReg = x(11);
const TMP4: HostReg = x(12);

/// Compiles the program.
pub(crate) fn compile(flow: &Flow, xlated: &Xlated, layout: &Layout, options: &Options) -> Result<Image, JitError> {
    for far in [false, true] {
        let mut lower = Lower::new(flow, layout, options, far)?;
        lower.emit_entry();
        for index in 0..flow.subs.len() {
            lower.emit_subprog(index)?;
        }
        lower.emit_thunks();
        lower.emit_stats_stub()?;
        if let Some(image) = lower.finish(xlated)? {
            return Ok(image);
        }
    }
    Err(JitError::TooLarge { bytes: flow.ops.len().saturating_mul(4) })
}

/// A patch site before linking.
struct Site {
    at: u32,
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
    /// Unwinding and last jump of a poked tail call.
    Poke { at: Label, index: u16 },
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
    cold: Vec<Cold>,
    sites: Vec<Site>,
    lines: Vec<(u32, u32)>,
    bounds: Vec<(u32, u32, u32)>,
    tail_entry: u32,
}

impl<'a> Lower<'a> {
    fn new(flow: &'a Flow, layout: &'a Layout, options: &'a Options, far: bool) -> Result<Self, JitError> {
        let mut asm = Asm::new(flow.ops.len(), far);
        let slots = asm.new_labels(flow.ops.len());
        let entries = asm.new_labels(flow.subs.len());
        let frame = Frame::plan(flow, 0).ok_or(JitError::Internal("the program has no frame"))?;
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
            cold: Vec::new(),
            sites: Vec::new(),
            lines: Vec::with_capacity(flow.ops.len()),
            bounds: Vec::with_capacity(flow.subs.len()),
            tail_entry: 0,
        })
    }

    fn emit_subprog(&mut self, index: usize) -> Result<(), JitError> {
        let Some(&sub) = self.flow.subs.get(index) else { return Ok(()) };
        if index > 0 {
            self.asm.align16();
            self.frame =
                Frame::plan(self.flow, index).ok_or(JitError::Internal("a subprogram's frame is too large"))?;
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
            if self.flow.slot(at).leader {
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
        self.bounds.push((start, self.asm.here(), self.frame.stack()));
        Ok(())
    }

    /// Emits the op at `at`, and others with it if they become one; returns the last slot that is done.
    fn lower(&mut self, at: usize, op: Op) -> Result<usize, JitError> {
        if self.options.optimize
            && let Some(last) = self.fuse(at, op)
        {
            return Ok(last);
        }
        match op {
            Op::Nop => {}
            Op::Insn(insn) => return self.lower_insn(at, insn),
            Op::Arena(insn) => self.lower_arena(at, insn)?,
            Op::LoadBe { size, dst, base, off } => self.emit_load_be(size, dst, base, off),
            Op::LoadIndexed { size, sign_extend, dst, base, index, off } => {
                self.emit_load_indexed(size, sign_extend, dst, (base, index, off));
            }
            Op::Rotate { width, dst, src, left } => {
                let wide = width == Width::W64;
                let bits = if wide { 64 } else { 32 };
                let from = self.read(src, TMP);
                self.asm.extr(wide, self.host(dst), from, from, (bits - left) % bits);
            }
            Op::AddImm { dst, base, imm } => {
                let mem = self.frame.mem(base, imm);
                self.emit_address(self.host(dst), mem);
            }
            Op::AddReg { dst, a, b } => {
                let (to, a, b) = (self.host(dst), self.host(a), self.host(b));
                self.asm.op3(true, Op3::Add, to, a, b);
            }
            Op::PercpuAddr { dst, off } => {
                self.emit_address(self.host(dst), Mem { base: self.frame.cpu, off });
            }
            Op::LoadPercpu { size, sign_extend, dst, off } => {
                let mem = Mem { base: self.frame.cpu, off };
                self.emit_access(size, if sign_extend { 2 } else { 1 }, self.host(dst), mem);
            }
            Op::StorePercpu { size, src, off } => {
                let mem = Mem { base: self.frame.cpu, off };
                self.emit_store_to(size, mem, src);
            }
            Op::LookupCall { map } => self.lower_lookup_call(at, map)?,
            Op::Lookup { map, key, .. } => return self.lower_lookup(at, map, key),
            Op::CpuId => {
                let mem = Mem { base: self.frame.cpu, off: self.layout.cpu_id };
                self.emit_access(skep_abi::Size::W, 1, self.host(Reg::R0), mem);
            }
            Op::TailCall { map, poke } => self.lower_tail_call(at, map, poke)?,
        }
        Ok(at)
    }

    fn lower_insn(&mut self, at: usize, insn: Insn) -> Result<usize, JitError> {
        match insn {
            Insn::Alu { width, op, dst, src } => self.lower_alu(at, width, op, dst, src),
            Insn::MovSx { width, bits, dst, src } => self.emit_movsx(width, bits, dst, src),
            Insn::Neg { width, dst } => {
                let to = self.host(dst);
                self.asm.neg(width == Width::W64, to, to);
            }
            Insn::End { kind, bits, dst } => self.emit_end(kind, bits, dst),
            Insn::MovPercpu { dst, src } => {
                let (to, from) = (self.host(dst), self.host(src));
                self.asm.op3(true, Op3::Add, to, from, self.frame.cpu);
            }
            Insn::LdImm64 { dst, imm } => self.lower_imm64(at, dst, imm)?,
            Insn::Load { size, sign_extend, dst, base, off } => {
                let mem = self.mem(base, off);
                self.emit_access(size, if sign_extend { 2 } else { 1 }, self.host(dst), mem);
            }
            Insn::Store { size, base, off, src } => self.emit_store(size, base, off, src),
            Insn::LoadAcquire { size, dst, base, off } => {
                let from = self.plain_address(base, off);
                self.asm.load_acquire(memory::log2(size), self.host(dst), from);
            }
            Insn::StoreRelease { size, base, off, src } => {
                let value = self.read(src, TMP2);
                let to = self.plain_address(base, off);
                self.asm.store_release(memory::log2(size), value, to);
            }
            Insn::Atomic { op, fetch, size, base, off, src } => {
                self.lower_atomic(op, fetch, size, base, off, src);
            }
            Insn::LdAbs { size, imm } => self.emit_ld_abs(at, size, None, imm)?,
            Insn::LdInd { size, src, imm } => self.emit_ld_abs(at, size, Some(src), imm)?,
            Insn::Ja { .. } => self.emit_ja(at, insn),
            Insn::Jcond { width, op, dst, src, .. } => return Ok(self.lower_jcond(at, insn, (width, op, dst, src))),
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
            self.emit_address(tmp, mem);
            tmp
        } else {
            self.host(reg)
        }
    }

    fn live_after(&self, at: usize) -> RegSet {
        if self.options.optimize { self.flow.slot(at).live_out } else { RegSet(0xfff) }
    }

    /// Links and collects the tables; `None` when displacements do not fit.
    fn finish(self, xlated: &Xlated) -> Result<Option<Image>, JitError> {
        let Linked::Done { bytes, labels } = self.asm.link()? else { return Ok(None) };
        let mut sites = Vec::with_capacity(self.sites.len());
        for site in &self.sites {
            let kind = match site.kind {
                PendingSite::Stats { stub } => SiteKind::Stats { stub: label_offset(&labels, stub)? },
                PendingSite::PokeGate { index, stub } => {
                    SiteKind::PokeGate { index, stub: label_offset(&labels, stub)? }
                }
                PendingSite::Function { subprog } => SiteKind::Function { subprog },
                PendingSite::PokeTarget { index } => SiteKind::PokeTarget { index },
            };
            sites.push(PatchSite { offset: site.at, len: 4, kind });
        }
        sites.sort_unstable_by_key(|site| site.offset);
        let bounds = self.bounds.iter().zip(&xlated.subprogs);
        let subprogs = bounds
            .map(|(&(start, end, stack), sub)| ImageSubprog {
                start,
                end,
                slot: sub.start,
                name: sub.name.clone(),
                stack,
            })
            .collect();
        Ok(Some(Image {
            bytes,
            entry: 0,
            tail_entry: self.tail_entry,
            function_entry: if self.flow.is_extension {
                Some(label_offset(&labels, self.entries.at(0))?)
            } else {
                None
            },
            relocations: Vec::new(),
            sites,
            lines: self.lines,
            subprogs,
        }))
    }
}

fn unsupported(at: usize, what: &'static str) -> JitError {
    JitError::Unsupported { slot: slot_number(at), what }
}
