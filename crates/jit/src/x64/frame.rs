//! Where BPF registers live on the host, and the stack frame of a subprogram.
//!
//! The mapping is the kernel's (r0 rax, r1-r5 rdi rsi rdx rcx r8, r6-r9 rbx r13-r15) so that helper arguments are in place;
//! r12 holds the vCPU's base. What is odd here: the frame pointer r10 is no host register but `rsp` plus a constant; `AX` is
//! rbp; a subprogram that calls nothing keeps its r6-r9 in unused caller-saved registers and its stack in the red zone, so
//! that it often has no prologue. Invariant: `rsp` moves only in prologue and epilogue. r9-r11 are scratch, except for an r9
//! that a leaf took. Kernel counterpart: `reg2hex`, `emit_prologue`, arch/x86/net/bpf_jit_comp.c, 6.18.

use skep_abi::Reg;

use super::asm::{Arith, Asm, HostReg, Mem, R8, R9, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use crate::flow::{Flow, RegSet};

/// Bytes below `rsp` that signal handlers leave alone.
const RED_ZONE: u32 = 128;

const DEFAULT: [HostReg; 12] = [RAX, RDI, RSI, RDX, RCX, R8, RBX, R13, R14, R15, RSP, RBP];

/// Registers and stack of one subprogram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    map: [HostReg; 12],
    /// Holds the vCPU's base, where the subprogram needs it.
    pub(super) cpu: HostReg,
    /// Holds the arena's base, where the subprogram accesses the arena and a register is free.
    pub(super) arena: Option<HostReg>,
    arena_base: u64,
    /// Copied from `rsi` on entry (the program itself), instead of being inherited.
    takes_cpu: bool,
    saved: [HostReg; 7],
    saved_len: usize,
    /// Bytes that the prologue takes from `rsp`.
    size: i32,
}

impl Frame {
    /// Plans the frame of subprogram `index`.
    pub(super) fn plan(flow: &Flow, index: usize, bmi2: bool) -> Option<Self> {
        let sub = flow.subs.get(index)?;
        let is_main = index == 0 && !flow.is_extension;
        let mut frame = Self {
            map: DEFAULT,
            cpu: R12,
            arena: None,
            arena_base: 0,
            takes_cpu: false,
            saved: [RAX; 7],
            saved_len: 0,
            size: 0,
        };
        let mut pool = Pool::new(sub.used, sub.has_calls, sub.has_division, bmi2);
        // Subprograms inherit r12, so the program sets it if any of them needs it.
        if is_main && (sub.needs_cpu || (sub.has_calls && flow.needs_cpu)) {
            frame.takes_cpu = true;
            frame.cpu = pool.take_if(RSI).or_else(|| pool.take()).unwrap_or_else(|| frame.save(R12));
        }
        for reg in [Reg::R6, Reg::R7, Reg::R8, Reg::R9, Reg::AX] {
            if sub.used.has(reg) {
                let preferred = frame.host(reg);
                let host = pool.take().unwrap_or_else(|| frame.save(preferred));
                if let Some(place) = frame.map.get_mut(reg.index()) {
                    *place = host;
                }
            }
        }
        if let Some(base) = flow.arena.filter(|_| sub.has_arena) {
            frame.arena = pool.take().or_else(|| frame.take_saved());
            frame.arena_base = base;
        }
        let depth = if sub.used.has(Reg::R10) { sub.locals()? } else { 0 };
        if sub.has_calls || depth > RED_ZONE {
            let pushed = 8 + 8 * u32::try_from(frame.saved_len).ok()?;
            let total = if sub.has_calls { (pushed + depth).next_multiple_of(16) } else { pushed + depth };
            frame.size = i32::try_from(total - pushed).ok()?;
        }
        Some(frame)
    }

    /// A callee-saved register that nothing else uses.
    fn take_saved(&mut self) -> Option<HostReg> {
        let free = [RBP, RBX, R13, R14, R15].into_iter().find(|reg| !self.saved().contains(reg))?;
        Some(self.save(free))
    }

    fn save(&mut self, reg: HostReg) -> HostReg {
        if let Some(place) = self.saved.get_mut(self.saved_len) {
            *place = reg;
            self.saved_len += 1;
        }
        reg
    }

    fn saved(&self) -> &[HostReg] {
        self.saved.get(..self.saved_len).unwrap_or(&[])
    }

    /// The host register of a BPF register; not for r10.
    pub(super) fn host(&self, reg: Reg) -> HostReg {
        self.map.get(reg.index()).copied().unwrap_or(RSP)
    }

    /// `[base + off]`.
    pub(super) fn mem(&self, base: Reg, off: i32) -> Mem {
        let bias = if base == Reg::R10 { self.size } else { 0 };
        Mem::new(self.host(base), off.saturating_add(bias))
    }

    /// Bytes of stack, the return address included.
    pub(super) fn stack(&self) -> u32 {
        let saved = u32::try_from(self.saved_len).unwrap_or(0);
        8 + 8 * saved + self.size.unsigned_abs()
    }

    /// Saves registers and takes the stack.
    pub(super) fn emit_prologue(&self, asm: &mut Asm) {
        for &reg in self.saved() {
            asm.push(reg);
        }
        if self.takes_cpu {
            asm.mov(true, self.cpu, RSI);
        }
        if self.size > 0 {
            asm.arith_imm(true, Arith::Sub, RSP, self.size);
        }
        if let Some(arena) = self.arena {
            asm.mov_imm(arena, self.arena_base, false);
        }
    }

    /// Undoes the prologue, up to the return address on top of the stack.
    pub(super) fn emit_unwind(&self, asm: &mut Asm) {
        if self.size > 0 {
            asm.arith_imm(true, Arith::Add, RSP, self.size);
        }
        for &reg in self.saved().iter().rev() {
            asm.pop(reg);
        }
    }

    /// Whether leaving takes so few bytes that every exit may have its own copy.
    pub(super) const fn leaves_quickly(&self) -> bool {
        self.saved_len <= 4
    }
}

/// Caller-saved registers that a leaf does not use otherwise.
struct Pool {
    free: [Option<HostReg>; 6],
}

impl Pool {
    fn new(used: RegSet, has_calls: bool, has_division: bool, bmi2: bool) -> Self {
        let mut free = [None; 6];
        if !has_calls {
            let candidates = [
                (R9, None, !has_division),
                (RDI, Some(Reg::R1), true),
                (R8, Some(Reg::R5), true),
                (RDX, Some(Reg::R3), !has_division),
                (RCX, Some(Reg::R4), bmi2),
                (RSI, Some(Reg::R2), true),
            ];
            for (place, (host, reg, allowed)) in free.iter_mut().zip(candidates) {
                if allowed && reg.is_none_or(|reg| !used.has(reg)) {
                    *place = Some(host);
                }
            }
        }
        Self { free }
    }

    fn take(&mut self) -> Option<HostReg> {
        self.free.iter_mut().find_map(Option::take)
    }

    fn take_if(&mut self, reg: HostReg) -> Option<HostReg> {
        self.free.iter_mut().find(|free| **free == Some(reg)).and_then(Option::take)
    }
}
