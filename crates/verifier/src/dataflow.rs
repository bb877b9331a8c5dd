//! Facts of the code that need no path: registers that may still be read, and loops.
//!
//! Owns two classic analyses over slots. Invariant: a register that is not live at a slot is read by no execution from there
//! within its function. Kernel counterpart: `compute_live_registers`, `compute_scc`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{CallTarget, Insn, Operand, Reg};

use crate::cfg::{is_ld_imm64, successors};
use crate::env::{Env, log};

const CALLER_SAVED: u16 = 0b11_1111;
const ALL: u16 = u16::MAX;

fn bit(reg: Reg) -> u16 {
    1 << reg.number()
}

fn operand(op: Operand) -> u16 {
    match op {
        Operand::Reg(r) => bit(r),
        Operand::Imm(_) => 0,
    }
}

/// Registers an instruction reads and writes.
fn use_def(insn: Insn, call_args: impl Fn(CallTarget) -> Option<u32>) -> (u16, u16) {
    match insn {
        Insn::Alu { op: skep_abi::AluOp::Mov, dst, src, .. } => (operand(src), bit(dst)),
        Insn::Alu { dst, src, .. } => (operand(src) | bit(dst), bit(dst)),
        Insn::MovSx { dst, src, .. } | Insn::AddrSpaceCast { dst, src, .. } | Insn::MovPercpu { dst, src } => {
            (bit(src), bit(dst))
        }
        Insn::Neg { dst, .. } | Insn::End { dst, .. } => (bit(dst), bit(dst)),
        Insn::LdImm64 { dst, .. } => (0, bit(dst)),
        Insn::Load { dst, base, .. } | Insn::LoadAcquire { dst, base, .. } => (bit(base), bit(dst)),
        Insn::Store { base, src, .. } => (bit(base) | operand(src), 0),
        Insn::StoreRelease { base, src, .. } => (bit(base) | bit(src), 0),
        Insn::Atomic { op, fetch, base, src, .. } => match op {
            skep_abi::AtomicOp::Cmpxchg => (bit(Reg::R0) | bit(base) | bit(src), bit(Reg::R0)),
            _ => (bit(base) | bit(src), if fetch { bit(src) } else { 0 }),
        },
        Insn::LdAbs { .. } | Insn::LdInd { .. } => (ALL, 0),
        Insn::Ja { .. } | Insn::MayGoto { .. } => (0, 0),
        Insn::Jcond { dst, src, .. } => (bit(dst) | operand(src), 0),
        Insn::Exit => (bit(Reg::R0), 0),
        Insn::Call { target } => {
            let args = call_args(target).map_or(CALLER_SAVED & !1, |n| ((1u16 << n.min(5)) - 1) << 1);
            (args, CALLER_SAVED)
        }
        Insn::TailCall { .. } => (ALL, 0),
    }
}

impl Env<'_> {
    /// Fills [`crate::env::InsnAux::live_regs`].
    pub(crate) fn compute_live_regs(&mut self) {
        let insns = self.spec.insns;
        let effects: Vec<(u16, u16)> = self
            .code
            .iter()
            .map(|insn| insn.map_or((ALL, 0), |i| use_def(i, |target| self.call_arg_count(target))))
            .collect();
        let mut changed = true;
        while changed {
            changed = false;
            for at in (0..insns.len()).rev() {
                let slot = u32::try_from(at).unwrap_or(u32::MAX);
                let out = successors(insns, slot)
                    .as_slice()
                    .iter()
                    .fold(0, |live, &to| live | self.aux.get(to as usize).map_or(0, |a| a.live_regs));
                let (uses, defs) = effects[at];
                let live = (out & !defs) | uses;
                changed |= live != self.aux[at].live_regs;
                self.aux[at].live_regs = live;
            }
        }
        if self.level2() {
            self.print_live_regs();
        }
    }

    fn print_live_regs(&mut self) {
        log!(self, "Live regs before insn:\n");
        let mut at = 0;
        while at < self.code.len() {
            let aux = self.aux[at];
            if aux.scc == 0 {
                log!(self, "    ");
            } else {
                log!(self, "{:3} ", aux.scc);
            }
            log!(self, "{at:3}: ");
            for reg in 0..10u8 {
                if aux.live_regs & (1 << reg) == 0 {
                    log!(self, ".");
                } else {
                    log!(self, "{reg}");
                }
            }
            log!(self, " ");
            self.print_insn(u32::try_from(at).unwrap_or(u32::MAX));
            at += if is_ld_imm64(self.spec.insns[at]) { 2 } else { 1 };
        }
    }

    /// Fills [`crate::env::InsnAux::scc`]: slots of one loop share a number, slots in no loop have 0.
    pub(crate) fn compute_scc(&mut self) {
        const UNSEEN: u32 = 0;
        let insns = self.spec.insns;
        let len = insns.len();
        let (mut order, mut low) = (vec![UNSEEN; len], vec![0u32; len]);
        let mut on_stack = vec![false; len];
        let (mut component, mut work): (Vec<u32>, Vec<(u32, usize)>) = (Vec::new(), Vec::new());
        let (mut clock, mut next_scc) = (0u32, 1u32);
        for root in 0..u32::try_from(len).unwrap_or(u32::MAX) {
            if order[root as usize] != UNSEEN || (self.code[root as usize].is_none() && !self.is_start(root)) {
                continue;
            }
            work.push((root, 0));
            while let Some(top) = work.last_mut() {
                let (at, edge) = *top;
                let a = at as usize;
                if edge == 0 {
                    clock += 1;
                    order[a] = clock;
                    low[a] = clock;
                    on_stack[a] = true;
                    component.push(at);
                }
                top.1 += 1;
                let succ = successors(insns, at);
                if let Some(&to) = succ.as_slice().get(edge) {
                    let t = to as usize;
                    if t >= len {
                        continue;
                    }
                    if order[t] == UNSEEN {
                        work.push((to, 0));
                    } else if on_stack[t] {
                        low[a] = low[a].min(order[t]);
                    }
                    continue;
                }
                work.pop();
                if let Some(&(parent, _)) = work.last() {
                    low[parent as usize] = low[parent as usize].min(low[a]);
                }
                if low[a] != order[a] {
                    continue;
                }
                let is_loop =
                    component.last() != Some(&at) || succ.as_slice().contains(&at) || self.aux[a].calls_callback;
                while let Some(member) = component.pop() {
                    on_stack[member as usize] = false;
                    if is_loop {
                        self.aux[member as usize].scc = next_scc;
                    }
                    if member == at {
                        break;
                    }
                }
                next_scc += u32::from(is_loop);
            }
        }
    }

    fn is_start(&self, at: u32) -> bool {
        self.subprogs.iter().any(|s| s.start == at)
    }
}
