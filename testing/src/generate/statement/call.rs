//! Calls: of helpers, subprograms and other programs, and what must be given back before or after.

use skep_abi::{AluOp, JmpOp, Operand, ProgType, Reg, Size, Width};

use super::super::value::Kind;
use super::{Callee, Generator, LONG};

impl Generator {
    /// Helpers with memory and size arguments.
    pub(super) fn helper(&mut self) {
        match self.random.below(4) {
            0 => {
                // map_update_elem
                self.b.store(Size::Dw, Reg::R10, -8, Operand::Imm(1));
                self.b.store(Size::Dw, Reg::R10, -64, Operand::Imm(2));
                let map = if self.mistake() { 1 } else { 6 };
                self.b.map(Reg::R1, map);
                self.b.mov(Reg::R2, Reg::R10);
                self.b.add_imm(Reg::R2, -8);
                self.b.mov(Reg::R3, Reg::R10);
                let value = if self.mistake() { -8 } else { -16 };
                self.b.add_imm(Reg::R3, value);
                self.b.set(Reg::R4, 0);
                self.b.call(2);
            }
            1 if self.prog_type != ProgType::Xdp => self.skb_load_bytes(),
            1 => {
                // xdp_adjust_head: packet pointers die.
                if let Some(ctx) = self.find(|kind| kind == Kind::Ctx) {
                    self.b.mov(Reg::R1, ctx);
                    let delta = self.random.range(-16, 16);
                    self.b.set(Reg::R2, delta);
                    self.b.call(44);
                    self.forget_packets();
                }
            }
            2 if self.prog_type != ProgType::SocketFilter || self.mistake() => {
                // csum_diff over the stack.
                self.b.mov(Reg::R1, Reg::R10);
                self.b.add_imm(Reg::R1, -16);
                let size = if self.mistake() { 24 } else { self.random.pick(&[0, 4, 8, 16]) };
                self.b.set(Reg::R2, size);
                self.b.set(Reg::R3, 0);
                self.b.set(Reg::R4, 0);
                self.b.set(Reg::R5, 0);
                self.b.call(28);
            }
            _ => self.unknown(),
        }
    }

    fn skb_load_bytes(&mut self) {
        let Some(ctx) = self.find(|kind| kind == Kind::Ctx) else { return };
        let size = self.find(|kind| matches!(kind, Kind::Scalar(_))).filter(|_| self.random.one_in(2));
        match size {
            Some(size) => {
                self.b.mov(Reg::R4, size);
                self.b.alu(Width::W64, AluOp::And, Reg::R4, Operand::Imm(7));
                if !self.mistake() {
                    self.b.add_imm(Reg::R4, 1);
                }
            }
            None => {
                let size = if self.mistake() { 40 } else { self.random.range(1, 16) };
                self.b.set(Reg::R4, size);
            }
        }
        self.b.mov(Reg::R1, ctx);
        self.b.set(Reg::R2, 0);
        self.b.mov(Reg::R3, Reg::R10);
        self.b.add_imm(Reg::R3, -16);
        self.b.call(26);
    }

    fn forget_packets(&mut self) {
        let keep = self.mistake();
        for kind in &mut self.kinds {
            if matches!(kind, Kind::Packet(_)) && !keep {
                *kind = Kind::Unset;
            }
        }
    }

    pub(super) fn call_subprogram(&mut self) {
        let stack = if self.mistake() { -600 } else { -16 };
        if self.random.one_in(3) {
            let rounds = self.random.range(0, 8);
            self.b.set(Reg::R1, rounds);
            let body = self.b.refer(Some(Reg::R2));
            self.calls.push((body, Callee::LoopBody));
            self.b.mov(Reg::R3, Reg::R10);
            self.b.add_imm(Reg::R3, stack);
            self.b.set(Reg::R4, 0);
            self.b.call(181);
            return;
        }
        let ctx = self.find(|kind| kind == Kind::Ctx).filter(|_| self.random.one_in(2));
        let callee = if ctx.is_some() { Callee::WithCtx } else { Callee::Function };
        match ctx.or_else(|| self.find(|kind| matches!(kind, Kind::Scalar(_)))) {
            Some(argument) => self.b.mov(Reg::R1, argument),
            None => self.b.set(Reg::R1, 5),
        }
        self.b.mov(Reg::R2, Reg::R10);
        self.b.add_imm(Reg::R2, stack);
        let call = self.b.refer(None);
        self.calls.push((call, callee));
        let dst = self.target();
        self.release(dst);
        self.b.mov(dst, Reg::R0);
        *self.kind(dst) = Kind::Scalar(None);
    }

    pub(super) fn tail_call(&mut self) {
        let Some(ctx) = self.find(|kind| kind == Kind::Ctx) else { return };
        if self.kinds.iter().any(|kind| matches!(kind, Kind::Record(_))) && !self.mistake() {
            return;
        }
        match self.find(|kind| matches!(kind, Kind::Scalar(_))).filter(|_| self.random.one_in(2)) {
            Some(index) => self.b.mov(Reg::R3, index),
            None => {
                let index = self.random.range(0, 5);
                self.b.set(Reg::R3, index);
            }
        }
        self.b.mov(Reg::R1, ctx);
        let map = if self.mistake() { 0 } else { 4 };
        self.b.map(Reg::R2, map);
        self.b.call(12);
    }

    /// Submits or discards the record in `reg`, if there is one.
    pub(super) fn release(&mut self, reg: Reg) {
        if !matches!(*self.kind(reg), Kind::Record(_)) || self.mistake() {
            return;
        }
        let null = self.b.branch(Width::W64, JmpOp::Eq, reg, Operand::Imm(0));
        self.b.mov(Reg::R1, reg);
        self.b.set(Reg::R2, 0);
        self.b.call(self.random.pick(&[132, 133]));
        self.b.land(null);
        *self.kind(reg) = Kind::Unset;
    }

    pub(super) fn release_all(&mut self) {
        for reg in LONG {
            self.release(reg);
        }
    }
}
