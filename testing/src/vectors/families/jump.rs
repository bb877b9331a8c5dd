//! Conditional jumps: every condition and width, taken and not taken at the edges.

use skep_abi::{JmpOp, Width};

use super::{File, load_pair, model};

const OPS: [(JmpOp, &str); 11] = [
    (JmpOp::Eq, "jeq"),
    (JmpOp::Gt, "jgt"),
    (JmpOp::Ge, "jge"),
    (JmpOp::Set, "jset"),
    (JmpOp::Ne, "jne"),
    (JmpOp::Sgt, "jsgt"),
    (JmpOp::Sge, "jsge"),
    (JmpOp::Lt, "jlt"),
    (JmpOp::Le, "jle"),
    (JmpOp::Slt, "jslt"),
    (JmpOp::Sle, "jsle"),
];

const PAIRS: [(u64, u64); 6] = [
    (0, 0),
    (0xffff_ffff_ffff_ffff, 0x7fff_ffff_ffff_ffff),
    (0x1_0000_0005, 5),
    (0xffff_ffff_8000_0000, 0x0000_0000_7fff_ffff),
    (0x8000_0000_0000_0001, 0x7fff_ffff_ffff_ffff),
    (3, 0xffff_ffff_ffff_fffc),
];

const IMMS: [(u64, i32); 4] =
    [(0xffff_ffff_ffff_ffff, -1), (0x0000_0000_ffff_ffff, -1), (0x8000_0000, i32::MIN), (6, 5)];

pub(super) fn generate(files: &mut Vec<(String, String)>) {
    for (width, suffix, r) in [(Width::W64, "", 'r'), (Width::W32, "32", 'w')] {
        let mut file = File::new(&format!("jmp{suffix}"), "conditional jumps, taken (r0 = 2) and not taken (r0 = 1)");
        for (number, (op, name)) in (0u8..).zip(OPS) {
            let symbol = op.symbol();
            for (at, (a, b)) in (0u8..).zip(PAIRS) {
                let dst = (number + at) % 10;
                let src = (dst + 1 + at) % 10;
                let compare = format!("if {r}{dst} {symbol} {r}{src} goto taken");
                let program = format!("{}{compare}\nr0 = 1\nexit\ntaken: r0 = 2\nexit", load_pair(dst, src));
                let r0 = 1 + u64::from(model::jump(op, width, a, b));
                file.case(&format!("{name}{suffix}_{at}_r{dst}_r{src}"), &[a, b], &program, r0);
            }
            for (at, (a, imm)) in (0u8..).zip(IMMS) {
                let dst = (number + 2 * at) % 10;
                let load = format!("r{dst} = *(u64 *)(r1 +0)\n");
                let compare = format!("if {r}{dst} {symbol} {imm} goto taken");
                let program = format!("{load}{compare}\nr0 = 1\nexit\ntaken: r0 = 2\nexit");
                let r0 = 1 + u64::from(model::jump(op, width, a, model::imm(imm)));
                file.case(&format!("{name}{suffix}_imm_{at}_r{dst}"), &[a], &program, r0);
            }
        }
        files.push(file.into_pair());
    }
}
