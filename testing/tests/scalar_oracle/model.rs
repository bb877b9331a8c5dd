//! Walks the path of the kernel's log with our operators.

use std::collections::HashMap;

use skep_abi::{AluOp, Width};
use skep_verifier::state::bounds::Bounds;
use skep_verifier::state::{branch, scalar_alu};

use crate::log::{self, Line};
use crate::program::{Program, Source, Step};

type Registers = [Bounds; 11];

/// Compares each printed state with ours; the number compared, or the first difference.
pub(crate) fn compare(program: &Program, text: &str) -> Result<u64, String> {
    let mut registers: Registers = [Bounds::UNKNOWN; 11];
    // The states with which the kernel comes back to the taken side of a jump, in its stack's order.
    let mut pending: HashMap<usize, Vec<Registers>> = HashMap::new();
    let mut expected = 0;
    let mut compared = 0;
    for line in log::parse(text) {
        let (place, states) = match line {
            Line::Insn { slot, states } => {
                if slot != expected {
                    return Err(format!("we go to {expected}, the kernel to {slot}\n{}", shorten(text)));
                }
                let (step, next) = program.at(slot).ok_or("the log leaves the program")?;
                expected = execute(step, slot, next, &mut registers, &mut pending);
                (format!("{slot}: {step:?}"), states)
            }
            Line::Late { slot, states } => (format!("after {slot}"), states),
            Line::Branch { from, to, states } => {
                let saved = pending.get_mut(&from).and_then(Vec::pop);
                registers = saved.ok_or_else(|| format!("we take no second way at {from}\n{}", shorten(text)))?;
                expected = to;
                (format!("from {from} to {to}"), states)
            }
        };
        for (register, theirs) in states {
            let ours = registers[usize::from(register)];
            compared += 1;
            // A constant is printed as one, whatever its intervals.
            let same = ours == theirs || (theirs.is_const() && ours.var_off == theirs.var_off);
            if !same && register >= 6 {
                return Err(format!(
                    "{place}: r{register}\n  ours   {ours:x?}\n  kernel {theirs:x?}\n{}",
                    shorten(text)
                ));
            }
        }
    }
    Ok(compared)
}

/// Applies one step; the slot that the kernel goes to next.
fn execute(
    step: Step,
    slot: usize,
    next: usize,
    registers: &mut Registers,
    pending: &mut HashMap<usize, Vec<Registers>>,
) -> usize {
    let operand = |registers: &Registers, src: Source, op: AluOp, width: Width| match src {
        Source::Reg(src) => registers[usize::from(src)],
        Source::Imm(imm) => scalar_alu::imm(op, width, imm),
    };
    match step {
        Step::Fresh => registers[0] = Bounds::UNKNOWN,
        Step::Move { dst, src } => registers[usize::from(dst)] = registers[usize::from(src)],
        Step::Constant { dst, value } => registers[usize::from(dst)] = Bounds::constant(value),
        Step::Alu { op, width, dst, src } => {
            let src = operand(registers, src, op, width);
            let index = usize::from(dst);
            // The first case of a fork comes back to this slot with its operand set.
            if let Some((zero, ones)) = scalar_alu::fork(op, &registers[index], &src) {
                let mut other = *registers;
                other[index] = zero;
                pending.entry(slot).or_default().push(other);
                registers[index] = ones;
            }
            registers[index] = scalar_alu::alu(op, width, &registers[index], &src);
        }
        Step::MovSx { width, bits, dst, src } => {
            registers[usize::from(dst)] = registers[usize::from(src)].movsx(width, bits);
        }
        Step::Neg { width, dst } => {
            let dst = &mut registers[usize::from(dst)];
            *dst = scalar_alu::neg(width, dst);
        }
        Step::End { kind, bits, dst } => {
            let dst = &mut registers[usize::from(dst)];
            *dst = scalar_alu::end(kind, bits, dst);
        }
        Step::Jump { op, width, dst, src, skip } => {
            let bounds = operand(registers, src, AluOp::Add, width);
            let target = next + usize::try_from(skip).expect("forward");
            let before = registers[usize::from(dst)];
            match branch::is_branch_taken(op, width, &before, &bounds) {
                Some(true) => return target,
                Some(false) => {}
                None => {
                    let mut other = *registers;
                    for (registers, taken) in [(&mut other, true), (&mut *registers, false)] {
                        let (new_dst, new_src) = branch::refine(op, width, taken, &before, &bounds);
                        registers[usize::from(dst)] = new_dst;
                        if let Source::Reg(src) = src {
                            registers[usize::from(src)] = new_src;
                        }
                    }
                    pending.entry(slot).or_default().push(other);
                }
            }
        }
        Step::Exit => {}
    }
    next
}

/// The log without its precision marks.
fn shorten(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("mark_precise")).collect::<Vec<_>>().join("\n")
}
