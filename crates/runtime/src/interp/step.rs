//! The interpreter's loop: one instruction after the other.
//!
//! Invariant: `pc` is tested against the program before each fetch. Kernel counterpart: `___bpf_prog_run`,
//! kernel/bpf/core.c, 6.18.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "register values are reinterpreted as the instruction demands"
)]

use skep_abi::{AtomicOp, CallTarget, Insn, Operand, Reg, Size, Width};

use super::alu;
use super::program::Op;
use super::{FaultKind, Interp, InterpProgram, Stopped};

/// What a caller gets back when its callee exits.
struct Caller<'a> {
    program: &'a InterpProgram,
    pc: usize,
    saved: [u64; 5],
    stack_low: u64,
    /// The callee is an extension.
    extended: bool,
}

/// Where execution goes on.
enum Flow {
    Next,
    /// Slots from the next instruction.
    Jump(i64),
    Call(usize),
    Tail,
    Exit,
}

impl<'a> Interp<'a> {
    /// Runs from slot `start` of the current program in a frame of its own, until that frame exits.
    pub(super) fn execute(&self, start: usize, mut regs: [u64; 12]) -> Result<u64, Stopped> {
        let entry_low = self.stack_low.get();
        let mut callers: Vec<Caller<'a>> = Vec::new();
        let mut pc = start;
        self.enter_frame(pc, &mut regs)?;
        loop {
            let op = self.fetch(pc)?;
            #[cfg(feature = "shadow")]
            self.observe(pc, &regs)?;
            match self.step(pc, &op, &mut regs)? {
                Flow::Next => pc += op.insn.slots(),
                Flow::Jump(distance) => pc = self.target(pc + op.insn.slots(), distance)?,
                Flow::Call(target) => {
                    let saved = [regs[6], regs[7], regs[8], regs[9], regs[10]];
                    let stack_low = self.stack_low.get();
                    let program = self.program.get();
                    let replacement = program.replacement(target);
                    let extended = replacement.is_some();
                    callers.push(Caller { program, pc: pc + 1, saved, stack_low, extended });
                    pc = target;
                    if let Some(replacement) = replacement {
                        self.callers.borrow_mut().push(program);
                        self.program.set(replacement);
                        pc = 0;
                    }
                    self.enter_frame(pc, &mut regs)?;
                }
                Flow::Tail => {
                    // The frame of the program that made the call is gone; its callers' frames stay.
                    self.leave_frame();
                    self.stack_low.set(callers.last().map_or(entry_low, |caller| caller.stack_low));
                    pc = 0;
                    self.enter_frame(pc, &mut regs)?;
                }
                Flow::Exit => match callers.pop() {
                    None => {
                        self.stack_low.set(entry_low);
                        self.leave_frame();
                        return Ok(regs[0]);
                    }
                    Some(caller) => {
                        self.leave_frame();
                        self.program.set(caller.program);
                        if caller.extended {
                            self.callers.borrow_mut().pop();
                        }
                        self.stack_low.set(caller.stack_low);
                        regs[6..11].copy_from_slice(&caller.saved);
                        pc = caller.pc;
                    }
                },
            }
        }
    }

    /// Makes a zeroed stack frame for the subprogram at `slot`.
    fn enter_frame(&self, slot: usize, regs: &mut [u64; 12]) -> Result<(), Stopped> {
        let depth = self.program.get().stack_depth(slot);
        let top = self.stack_low.get();
        if top - self.stack.0 < depth {
            self.stop(slot, FaultKind::StackOverflow)?;
        }
        let low = top - depth;
        // SAFETY: the bytes lie in the run's stack buffer (tested above), below every frame in use.
        unsafe { std::ptr::write_bytes(low as usize as *mut u8, self.stack_fill(), depth as usize) };
        self.stack_low.set(low);
        regs[10] = top;
        #[cfg(feature = "shadow")]
        self.depth.set(self.depth.get() + 1);
        Ok(())
    }

    #[cfg(not(feature = "shadow"))]
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "a witness chooses it")]
    fn stack_fill(&self) -> u8 {
        0
    }

    /// A frame is gone.
    #[inline(always)]
    #[cfg_attr(not(feature = "shadow"), expect(clippy::unused_self, reason = "only a witness counts frames"))]
    fn leave_frame(&self) {
        #[cfg(feature = "shadow")]
        self.depth.set(self.depth.get() - 1);
    }

    fn fetch(&self, pc: usize) -> Result<Op, Stopped> {
        let left = self.budget.get();
        if left == 0 {
            self.stop(pc, FaultKind::Budget)?;
        }
        self.budget.set(left - 1);
        match self.program.get().ops.get(pc) {
            Some(op) if !op.filler => Ok(*op),
            _ => self.stop(pc, FaultKind::Jump(pc as i64)).map(|never| match never {}),
        }
    }

    fn target(&self, next: usize, distance: i64) -> Result<usize, Stopped> {
        let to = next as i64 + distance;
        match usize::try_from(to) {
            Ok(to) => Ok(to),
            Err(_) => self.stop(next, FaultKind::Jump(to)).map(|never| match never {}),
        }
    }

    fn step(&self, pc: usize, op: &Op, regs: &mut [u64; 12]) -> Result<Flow, Stopped> {
        match op.insn {
            Insn::Alu { width, op, dst, src } => {
                regs[dst.index()] = alu::alu(op, width, regs[dst.index()], operand(regs, src));
            }
            Insn::MovSx { width, bits, dst, src } => {
                let value = alu::sign_extend(regs[src.index()], bits);
                regs[dst.index()] = if width == Width::W32 { u64::from(value as u32) } else { value };
            }
            Insn::Neg { width: Width::W64, dst } => regs[dst.index()] = regs[dst.index()].wrapping_neg(),
            Insn::Neg { width: Width::W32, dst } => {
                regs[dst.index()] = u64::from((regs[dst.index()] as u32).wrapping_neg());
            }
            Insn::End { kind, bits, dst } => regs[dst.index()] = alu::end(kind, bits, regs[dst.index()]),
            Insn::LdImm64 { dst, .. } => regs[dst.index()] = op.value,
            Insn::MovPercpu { dst, src } => {
                regs[dst.index()] = regs[src.index()].wrapping_add(self.cpu_base.as_ptr() as u64);
            }
            _ if op.arena => self.arena_insn(pc, &op.insn, regs)?,
            Insn::Load { .. }
            | Insn::Store { .. }
            | Insn::Atomic { .. }
            | Insn::LoadAcquire { .. }
            | Insn::StoreRelease { .. } => self.memory_insn(pc, &op.insn, regs)?,
            Insn::LdAbs { size, imm } => return self.load_packet(regs, i64::from(imm), size),
            Insn::LdInd { size, src, imm } => {
                // 32-bit arithmetic, as the kernel's `(u32)src + imm`.
                let offset = (regs[src.index()] as u32).wrapping_add(imm as u32) as i32;
                return self.load_packet(regs, i64::from(offset), size);
            }
            Insn::Ja { off, .. } => return Ok(Flow::Jump(i64::from(off))),
            Insn::Jcond { width, op, dst, src, off } => {
                if alu::condition(op, width, regs[dst.index()], operand(regs, src)) {
                    return Ok(Flow::Jump(i64::from(off)));
                }
            }
            Insn::Call { target: CallTarget::Subprog(_) } => {
                return Ok(Flow::Call(op.value as usize));
            }
            Insn::Call { target } => self.call(pc, target, op.value, regs)?,
            Insn::TailCall { .. } => {
                if self.tail_call(pc, regs)? {
                    return Ok(Flow::Tail);
                }
            }
            Insn::Exit => return Ok(Flow::Exit),
            Insn::AddrSpaceCast { dst, src, .. } => {
                let low = u64::from(regs[src.index()] as u32);
                regs[dst.index()] = if low == 0 { 0 } else { op.value + low };
            }
            Insn::MayGoto { .. } => {
                self.stop(pc, FaultKind::NotExecutable)?;
            }
        }
        Ok(Flow::Next)
    }

    fn memory_insn(&self, pc: usize, insn: &Insn, regs: &mut [u64; 12]) -> Result<(), Stopped> {
        let address = |regs: &[u64; 12], base: Reg, off: i16| regs[base.index()].wrapping_add(i64::from(off) as u64);
        match *insn {
            Insn::Load { size, sign_extend, dst, base, off } => {
                let value = self.load(pc, address(regs, base, off), size)?;
                regs[dst.index()] = if sign_extend { alu::sign_extend(value, size.bytes() * 8) } else { value };
            }
            Insn::Store { size, base, off, src } => {
                self.store(pc, address(regs, base, off), size, operand(regs, src))?;
            }
            Insn::Atomic { op, fetch, size, base, off, src } => {
                let at = (address(regs, base, off), size);
                let old = self.atomic(pc, op, at, regs[src.index()], regs[0])?;
                match op {
                    skep_abi::AtomicOp::Cmpxchg => regs[0] = old,
                    _ if fetch => regs[src.index()] = old,
                    _ => {}
                }
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                regs[dst.index()] = self.load_acquire(pc, address(regs, base, off), size)?;
            }
            Insn::StoreRelease { size, base, off, src } => {
                self.store_release(pc, address(regs, base, off), size, regs[src.index()])?;
            }
            _ => {
                self.stop(pc, FaultKind::NotExecutable)?;
            }
        }
        Ok(())
    }

    /// An access to the arena, whose pointers are 32 bits wide: it never fails, and does nothing where there is no page.
    fn arena_insn(&self, pc: usize, insn: &Insn, regs: &mut [u64; 12]) -> Result<(), Stopped> {
        let place = |regs: &[u64; 12], base: Reg, off: i16| match u32::try_from(regs[base.index()]) {
            Ok(pointer) => Ok(i64::from(pointer) + i64::from(off)),
            Err(_) => {
                let fault = FaultKind::Read { address: regs[base.index()], len: 1 };
                self.stop(pc, fault).map(|never| match never {})
            }
        };
        let Some(arena) = self.program.get().arena() else {
            return self.stop(pc, FaultKind::NotExecutable).map(|never| match never {});
        };
        match *insn {
            Insn::Load { size, sign_extend, dst, base, off } => {
                let value = arena.load(place(regs, base, off)?, size);
                regs[dst.index()] = if sign_extend { alu::sign_extend(value, size.bytes() * 8) } else { value };
            }
            Insn::LoadAcquire { size, dst, base, off } => {
                regs[dst.index()] = arena.load(place(regs, base, off)?, size);
                std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
            }
            Insn::Store { size, base, off, src } => {
                arena.store(place(regs, base, off)?, size, operand(regs, src));
            }
            Insn::StoreRelease { size, base, off, src } => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
                arena.store(place(regs, base, off)?, size, regs[src.index()]);
            }
            Insn::Atomic { op, fetch, size, base, off, src } => {
                let old = arena.atomic(place(regs, base, off)?, size, op, regs[src.index()], regs[0]);
                let result = match op {
                    AtomicOp::Cmpxchg => Some(Reg::R0),
                    AtomicOp::Xchg => Some(src),
                    _ => fetch.then_some(src),
                };
                if let Some(result) = result {
                    let kept = regs[result.index()];
                    // Of 32 bits the upper half is zero, which the verifier counts on, whether there is a page or not.
                    let kept = if size == Size::W { u64::from(kept as u32) } else { kept };
                    regs[result.index()] = old.unwrap_or(kept);
                }
            }
            _ => self.stop(pc, FaultKind::NotExecutable).map(|never| match never {})?,
        }
        Ok(())
    }

    /// `LD_ABS`, `LD_IND`: a load beyond the packet ends the program with 0.
    fn load_packet(&self, regs: &mut [u64; 12], offset: i64, size: Size) -> Result<Flow, Stopped> {
        let value = self.ctx.load_packet(offset, size);
        if value < 0 {
            regs[0] = 0;
            return Ok(Flow::Exit);
        }
        regs[0] = value as u64;
        Ok(Flow::Next)
    }
}

fn operand(regs: &[u64; 12], src: Operand) -> u64 {
    match src {
        Operand::Reg(reg) => regs[reg.index()],
        Operand::Imm(imm) => i64::from(imm) as u64,
    }
}
