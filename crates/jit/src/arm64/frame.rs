//! Where BPF registers live on the host, and the stack frame of a subprogram.
//!
//! r1-r5 are x0-x4, so helper arguments are in place; r0 is x7, r6-r9 are x19-x22, `AX` is x23, the vCPU's base is x28. What
//! is odd here: a leaf takes caller-saved registers, of which this CPU has plenty, for all of these; there is no red zone;
//! the frame pointer r10 is `sp` plus a constant. Invariant: `sp` moves only in prologue and epilogue and stays a multiple of
//! 16. x9-x12 are scratch. Kernel counterpart: `bpf2a64`, `build_prologue`, arch/arm64/net/bpf_jit_comp.c, 6.18.

use skep_abi::Reg;

use super::asm::{Asm, HostReg, LR, Mem, SP, x};
use crate::flow::Flow;

const DEFAULT: [HostReg; 12] = [x(7), x(0), x(1), x(2), x(3), x(4), x(19), x(20), x(21), x(22), SP, x(23)];

/// The vCPU's base where calls happen.
const CPU: HostReg = x(28);

/// The arena's base where calls happen.
const ARENA: HostReg = x(24);

/// Caller-saved registers beyond arguments, r0 and scratch.
const SPARE: [HostReg; 6] = [x(8), x(13), x(14), x(15), x(5), x(6)];

/// Registers and stack of one subprogram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    map: [HostReg; 12],
    /// Holds the vCPU's base, where the subprogram needs it.
    pub(super) cpu: HostReg,
    /// Holds the arena's base, where the subprogram accesses the arena.
    pub(super) arena: Option<HostReg>,
    arena_base: u64,
    /// Copied from x1 on entry (the program itself), instead of being inherited.
    takes_cpu: bool,
    saved: [HostReg; 8],
    saved_len: usize,
    /// Bytes below r10.
    depth: i32,
    /// Bytes that the prologue takes from `sp`.
    size: i32,
}

impl Frame {
    /// Plans the frame of subprogram `index`.
    pub(super) fn plan(flow: &Flow, index: usize) -> Option<Self> {
        let sub = flow.subs.get(index)?;
        let mut frame = Self {
            map: DEFAULT,
            cpu: CPU,
            arena: None,
            arena_base: 0,
            takes_cpu: false,
            saved: [LR; 8],
            saved_len: 0,
            depth: 0,
            size: 0,
        };
        let mut spare = SPARE.into_iter();
        let mut take = |frame: &mut Self, saved: HostReg| {
            if sub.has_calls { frame.save(saved) } else { spare.next().unwrap_or_else(|| frame.save(saved)) }
        };
        if index == 0 && !flow.is_extension && (sub.needs_cpu || (sub.has_calls && flow.needs_cpu)) {
            frame.takes_cpu = true;
            frame.cpu = take(&mut frame, CPU);
        }
        for reg in [Reg::R6, Reg::R7, Reg::R8, Reg::R9, Reg::AX] {
            if sub.used.has(reg) {
                let saved = frame.host(reg);
                let host = take(&mut frame, saved);
                if let Some(place) = frame.map.get_mut(reg.index()) {
                    *place = host;
                }
            }
        }
        if let Some(base) = flow.arena.filter(|_| sub.has_arena) {
            frame.arena = Some(take(&mut frame, ARENA));
            frame.arena_base = base;
        }
        if sub.has_calls {
            frame.save(LR);
        }
        if sub.used.has(Reg::R10) {
            frame.depth = i32::try_from(sub.locals()?).ok()?;
        }
        let saved = i32::try_from(frame.saved_len).ok()? * 8;
        frame.size = frame.depth.checked_add(saved + 15)? & !15;
        Some(frame)
    }

    fn save(&mut self, reg: HostReg) -> HostReg {
        if let Some(place) = self.saved.get_mut(self.saved_len) {
            *place = reg;
            self.saved_len += 1;
        }
        reg
    }

    /// The host register of a BPF register; not for r10.
    pub(super) fn host(&self, reg: Reg) -> HostReg {
        self.map.get(reg.index()).copied().unwrap_or(SP)
    }

    /// `[base, #off]`.
    pub(super) fn mem(&self, base: Reg, off: i32) -> Mem {
        let bias = if base == Reg::R10 { self.depth } else { 0 };
        Mem { base: self.host(base), off: off.saturating_add(bias) }
    }

    /// Bytes of stack.
    pub(super) const fn stack(&self) -> u32 {
        self.size.unsigned_abs()
    }

    /// Whether leaving takes so few instructions that every exit may have its own copy.
    pub(super) const fn leaves_quickly(&self) -> bool {
        self.saved_len <= 4
    }

    /// Takes the stack and saves registers.
    pub(super) fn emit_prologue(&self, asm: &mut Asm) {
        self.emit_move_sp(asm, -self.size);
        self.emit_saved(asm, 0);
        if self.takes_cpu {
            asm.mov(true, self.cpu, x(1));
        }
        if let Some(arena) = self.arena {
            asm.mov_imm(arena, self.arena_base);
        }
    }

    /// Undoes the prologue.
    pub(super) fn emit_unwind(&self, asm: &mut Asm) {
        self.emit_saved(asm, 1);
        self.emit_move_sp(asm, self.size);
    }

    fn emit_move_sp(&self, asm: &mut Asm, by: i32) {
        // 512 bytes of locals and 7 registers always fit; deeper stacks move in pages first.
        let (pages, rest) = (by / 4096 * 4096, by % 4096);
        for part in [pages, rest] {
            if part != 0 {
                asm.try_add_imm(true, SP, SP, part);
            }
        }
    }

    /// Stores (`opc` 0) or loads (`opc` 1) the saved registers, two at a time.
    fn emit_saved(&self, asm: &mut Asm, opc: u32) {
        let saved = self.saved.get(..self.saved_len).unwrap_or(&[]);
        let mut off = self.depth;
        for pair in saved.chunks(2) {
            match (pair, u32::try_from(off / 8)) {
                (&[a, b], Ok(field)) if field < 64 => {
                    asm.put(0xa900_0000 | opc << 22 | field << 15 | u32::from(b.0) << 10 | 31 << 5 | u32::from(a.0));
                }
                _ => {
                    for (&reg, at) in pair.iter().zip([off, off + 8]) {
                        asm.try_access(super::asm::Log2(3), opc, reg, Mem { base: SP, off: at });
                    }
                }
            }
            off += 16;
        }
    }
}
