//! Random programs over two scalars, r6 and r7.

use skep_abi::{AluOp, EndKind, JmpOp, RawInsn, Width};
use skep_testing::random::Random;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Reg(u8),
    Imm(i32),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Call of `bpf_ktime_get_ns`: r0 is unknown, r1-r5 are gone.
    Fresh,
    Move {
        dst: u8,
        src: u8,
    },
    Constant {
        dst: u8,
        value: u64,
    },
    Alu {
        op: AluOp,
        width: Width,
        dst: u8,
        src: Source,
    },
    MovSx {
        width: Width,
        bits: u8,
        dst: u8,
        src: u8,
    },
    Neg {
        width: Width,
        dst: u8,
    },
    End {
        kind: EndKind,
        bits: u8,
        dst: u8,
    },
    /// Jumps over `skip` slots.
    Jump {
        op: JmpOp,
        width: Width,
        dst: u8,
        src: Source,
        skip: i16,
    },
    Exit,
}

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
}

const ALU: [AluOp; 12] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::Or,
    AluOp::And,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Mod,
    AluOp::Xor,
    AluOp::Arsh,
    AluOp::Sdiv,
];
const JMP: [JmpOp; 11] = [
    JmpOp::Eq,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Set,
    JmpOp::Ne,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Slt,
    JmpOp::Sle,
];

impl Program {
    pub(crate) fn random(random: &mut Random) -> Self {
        let mut steps = vec![
            Step::Fresh,
            Step::Move { dst: 6, src: 0 },
            Step::Fresh,
            Step::Move { dst: 7, src: 0 },
            Step::Constant { dst: 0, value: 0 },
        ];
        for _ in 0..4 + random.below(14) {
            Self::step(random, &mut steps);
        }
        steps.extend([Step::Constant { dst: 0, value: 0 }, Step::Exit]);
        Self { steps }
    }

    fn step(random: &mut Random, steps: &mut Vec<Step>) {
        let dst = random.pick(&[6, 7]);
        let other = 13 - dst;
        let width = random.pick(&[Width::W32, Width::W64]);
        match random.below(12) {
            0 | 1 => steps.push(Self::narrowing(random, dst, width)),
            2..=4 => {
                let op = random.pick(&ALU);
                let mut src = if random.below(2) == 0 { Source::Reg(other) } else { Source::Imm(random.immediate()) };
                if let (AluOp::Lsh | AluOp::Rsh | AluOp::Arsh, Source::Imm(_)) = (op, src) {
                    let bits = if width == Width::W32 { 32 } else { 64 };
                    src = Source::Imm(i32::try_from(random.below(bits)).expect("small"));
                }
                if let (AluOp::Div | AluOp::Mod | AluOp::Sdiv, Source::Imm(0)) = (op, src) {
                    src = Source::Imm(7);
                }
                steps.push(Step::Alu { op, width, dst, src });
            }
            5 => {
                let bits = if width == Width::W32 { random.pick(&[8, 16]) } else { random.pick(&[8, 16, 32]) };
                steps.push(Step::MovSx { width, bits, dst, src: dst });
            }
            6 => steps.push(Step::Neg { width, dst }),
            7 => {
                steps.push(Step::Constant { dst: 8, value: random.constant() });
                let op = random.pick(&ALU);
                steps.push(Step::Alu { op, width, dst, src: Source::Reg(8) });
            }
            8 if random.below(4) == 0 => {
                let kind = random.pick(&[EndKind::ToLe, EndKind::ToBe, EndKind::Bswap]);
                steps.push(Step::End { kind, bits: random.pick(&[16, 32, 64]), dst });
            }
            8 | 9 => {
                steps.push(Step::Constant { dst: 8, value: random.constant() });
                Self::jump(random, steps, width, dst, Source::Reg(8));
            }
            10 => Self::jump(random, steps, width, dst, Source::Reg(other)),
            _ => {
                let imm = random.immediate();
                Self::jump(random, steps, width, dst, Source::Imm(imm));
            }
        }
    }

    /// An operator that gives tight and odd bounds.
    fn narrowing(random: &mut Random, dst: u8, width: Width) -> Step {
        let imm = random.immediate();
        let (op, src) = match random.below(4) {
            0 => (AluOp::And, Source::Imm(imm)),
            1 => (AluOp::Or, Source::Imm(imm)),
            2 => (AluOp::Rsh, Source::Imm(i32::try_from(random.below(32)).expect("small"))),
            _ => (AluOp::And, Source::Imm(imm & 0xfff)),
        };
        Step::Alu { op, width, dst, src }
    }

    /// Skips one harmless instruction or an exit.
    fn jump(random: &mut Random, steps: &mut Vec<Step>, width: Width, dst: u8, src: Source) {
        steps.push(Step::Jump { op: random.pick(&JMP), width, dst, src, skip: 1 });
        steps.push(if random.below(2) == 0 {
            Step::Exit
        } else {
            Step::Alu { op: AluOp::Add, width: Width::W64, dst, src: Source::Imm(0) }
        });
    }

    pub(crate) fn encode(&self) -> Vec<RawInsn> {
        let mut insns = Vec::new();
        for step in &self.steps {
            step.encode(&mut insns);
        }
        insns
    }

    /// The step at an instruction slot.
    pub(crate) fn at(&self, slot: usize) -> Option<(Step, usize)> {
        let mut at = 0;
        for step in &self.steps {
            if at == slot {
                return Some((*step, at + step.slots()));
            }
            at += step.slots();
        }
        None
    }
}

impl Step {
    fn slots(self) -> usize {
        if matches!(self, Self::Constant { .. }) { 2 } else { 1 }
    }

    fn encode(self, insns: &mut Vec<RawInsn>) {
        let (source_bit, src, imm) = match self {
            Self::Alu { src: Source::Reg(src), .. } | Self::Jump { src: Source::Reg(src), .. } => (8, src, 0),
            Self::Alu { src: Source::Imm(imm), .. } | Self::Jump { src: Source::Imm(imm), .. } => (0, 0, imm),
            _ => (0, 0, 0),
        };
        let alu = |width| if width == Width::W32 { 4 } else { 7 };
        let insn = match self {
            Self::Fresh => RawInsn { code: 0x85, imm: 5, ..RawInsn::default() },
            Self::Move { dst, src } => RawInsn { code: 0xbf, dst, src, ..RawInsn::default() },
            Self::Constant { dst, value } => {
                insns.push(RawInsn { code: 0x18, dst, imm: value as u32 as i32, ..RawInsn::default() });
                RawInsn { imm: (value >> 32) as u32 as i32, ..RawInsn::default() }
            }
            Self::Alu { op, width, dst, .. } => {
                let off = i16::from(matches!(op, AluOp::Sdiv | AluOp::Smod));
                RawInsn { code: alu_code(op) | source_bit | alu(width), dst, src, off, imm }
            }
            Self::MovSx { width, bits, dst, src } => {
                RawInsn { code: 0xb8 | alu(width), dst, src, off: i16::from(bits), imm: 0 }
            }
            Self::Neg { width, dst } => RawInsn { code: 0x80 | alu(width), dst, ..RawInsn::default() },
            Self::End { kind, bits, dst } => {
                let code = match kind {
                    EndKind::ToLe => 0xd4,
                    EndKind::ToBe => 0xdc,
                    EndKind::Bswap => 0xd7,
                };
                RawInsn { code, dst, imm: i32::from(bits), ..RawInsn::default() }
            }
            Self::Jump { op, width, dst, skip, .. } => {
                let class = if width == Width::W32 { 6 } else { 5 };
                RawInsn { code: jmp_code(op) | source_bit | class, dst, src, off: skip, imm }
            }
            Self::Exit => RawInsn { code: 0x95, ..RawInsn::default() },
        };
        insns.push(insn);
    }
}

fn alu_code(op: AluOp) -> u8 {
    match op {
        AluOp::Add => 0x00,
        AluOp::Sub => 0x10,
        AluOp::Mul => 0x20,
        AluOp::Div | AluOp::Sdiv => 0x30,
        AluOp::Or => 0x40,
        AluOp::And => 0x50,
        AluOp::Lsh => 0x60,
        AluOp::Rsh => 0x70,
        AluOp::Mod | AluOp::Smod => 0x90,
        AluOp::Xor => 0xa0,
        AluOp::Mov => 0xb0,
        AluOp::Arsh => 0xc0,
    }
}

fn jmp_code(op: JmpOp) -> u8 {
    match op {
        JmpOp::Eq => 0x10,
        JmpOp::Gt => 0x20,
        JmpOp::Ge => 0x30,
        JmpOp::Set => 0x40,
        JmpOp::Ne => 0x50,
        JmpOp::Sgt => 0x60,
        JmpOp::Sge => 0x70,
        JmpOp::Lt => 0xa0,
        JmpOp::Le => 0xb0,
        JmpOp::Slt => 0xc0,
        JmpOp::Sle => 0xd0,
    }
}
