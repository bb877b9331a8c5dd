//! Arithmetic: each operation over edge values, and the awkward ones over all register pairs.

use skep_abi::{AluOp, EndKind, Width};

use super::{File, load_pair, model};

const OPS: [(AluOp, &str); 14] = [
    (AluOp::Add, "add"),
    (AluOp::Sub, "sub"),
    (AluOp::Mul, "mul"),
    (AluOp::Div, "div"),
    (AluOp::Sdiv, "sdiv"),
    (AluOp::Or, "or"),
    (AluOp::And, "and"),
    (AluOp::Lsh, "lsh"),
    (AluOp::Rsh, "rsh"),
    (AluOp::Mod, "mod"),
    (AluOp::Smod, "smod"),
    (AluOp::Xor, "xor"),
    (AluOp::Mov, "mov"),
    (AluOp::Arsh, "arsh"),
];

/// Operand pairs that sit on the edges of 32 and 64 bits.
const PAIRS: [(u64, u64); 6] = [
    (0xffff_ffff_ffff_ffff, 1),
    (0x8000_0000_0000_0000, 0xffff_ffff_ffff_ffff),
    (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210),
    (0x0000_0001_8000_0000, 0x0000_0002_ffff_ffff),
    (0x7fff_ffff_7fff_ffff, 0x0000_0000_8000_0000),
    (0xffff_ffff_0000_0007, 0xffff_ffff_ffff_fffd),
];

const DIVISORS: [(u64, u64); 4] = [
    (0x1234_5678_9abc_def0, 0),
    (0xffff_ffff_8000_0000, 0x1_0000_0000),
    (0x0000_0000_8000_0000, 0xffff_ffff_ffff_ffff),
    (0xffff_ffff_ffff_ff9c, 7),
];

const SHIFTS: [(u64, u64); 6] = [
    (0x8123_4567_89ab_cdef, 0),
    (0x8123_4567_89ab_cdef, 1),
    (0x8123_4567_89ab_cdef, 31),
    (0x8123_4567_89ab_cdef, 32),
    (0x8123_4567_89ab_cdef, 63),
    (0x8123_4567_89ab_cdef, 0x1_0000_0043),
];

pub(super) fn generate(files: &mut Vec<(String, String)>) {
    for width in [Width::W64, Width::W32] {
        let bits = if width == Width::W64 { 64 } else { 32 };
        for (number, (op, name)) in (0u8..).zip(OPS) {
            let mut file = File::new(&format!("alu{bits}_{name}"), &format!("{bits}-bit {name}: edge values"));
            edge_values(&mut file, op, name, width, number);
            immediates(&mut file, op, name, width);
            files.push(file.into_pair());
        }
        files.push(register_pairs(width, bits));
    }
    files.push(unary());
    files.push(wide_immediates());
}

const fn is_division(op: AluOp) -> bool {
    matches!(op, AluOp::Div | AluOp::Sdiv | AluOp::Mod | AluOp::Smod)
}

const fn is_shift(op: AluOp) -> bool {
    matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh)
}

fn letter(width: Width) -> char {
    if width == Width::W64 { 'r' } else { 'w' }
}

fn edge_values(file: &mut File, op: AluOp, name: &str, width: Width, number: u8) {
    let more: &[(u64, u64)] = match op {
        _ if is_division(op) => &DIVISORS,
        _ if is_shift(op) => &SHIFTS,
        _ => &[],
    };
    let pairs: Vec<(u64, u64)> =
        if is_shift(op) { SHIFTS.to_vec() } else { PAIRS.iter().chain(more).copied().collect() };
    let r = letter(width);
    for (at, (a, b)) in (0u8..).zip(pairs) {
        let dst = (number + at) % 10;
        let src = (number + 3 * at + 1) % 10;
        let (b_used, words) = if dst == src { (a, vec![a]) } else { (b, vec![a, b]) };
        let program = format!("{}{r}{dst} {} {r}{src}\nr0 = r{dst}\nexit", load_pair(dst, src), op.symbol());
        let expected = model::alu(op, width, a, b_used);
        file.case(&format!("{name}_{at}_r{dst}_r{src}"), &words, &program, expected);
    }
}

fn immediates(file: &mut File, op: AluOp, name: &str, width: Width) {
    let values: &[i32] = match op {
        _ if is_shift(op) && width == Width::W64 => &[0, 1, 32, 63],
        _ if is_shift(op) => &[0, 1, 16, 31],
        _ if is_division(op) => &[1, -1, 3, i32::MIN, 16],
        _ => &[0, 1, -1, i32::MIN, i32::MAX],
    };
    let r = letter(width);
    for (at, value) in (0u8..).zip(values) {
        for input in [0x8000_0000_8000_0000u64, 0x0fed_cba9_f654_3211] {
            let dst = (at * 3 + 2) % 10;
            let load = format!("r{dst} = *(u64 *)(r1 +0)\n");
            let program = format!("{load}{r}{dst} {} {value}\nr0 = r{dst}\nexit", op.symbol());
            let expected = model::alu(op, width, input, model::imm(*value));
            let sign = if *value < 0 { "m" } else { "" };
            let half = if input >> 63 == 1 { "a" } else { "b" };
            file.case(&format!("{name}_imm_{sign}{}_{half}", value.unsigned_abs()), &[input], &program, expected);
        }
    }
}

/// For each destination one program over all ten sources, whose results are mixed into r0.
fn register_pairs(width: Width, bits: u8) -> (String, String) {
    const AWKWARD: [(AluOp, &str); 9] = [
        (AluOp::Mul, "mul"),
        (AluOp::Div, "div"),
        (AluOp::Sdiv, "sdiv"),
        (AluOp::Mod, "mod"),
        (AluOp::Smod, "smod"),
        (AluOp::Lsh, "lsh"),
        (AluOp::Rsh, "rsh"),
        (AluOp::Arsh, "arsh"),
        (AluOp::Sub, "sub"),
    ];
    let mut file = File::new(&format!("alu{bits}_pairs"), "operations that use fixed host registers, over all pairs");
    let (a, b) = (0xf123_4567_c9ab_cdefu64, 0x0000_0000_0000_000bu64);
    let r = letter(width);
    for (op, name) in AWKWARD {
        for dst in 0..10u8 {
            let mut program = "*(u64 *)(r10 -8) = r1\n".to_owned();
            let mut expected = 0u64;
            for src in 0..10u8 {
                let slot = -16 - 8 * i32::from(src);
                program += &format!("r{dst} = *(u64 *)(r10 -8)\nr{dst} = *(u64 *)(r{dst} +0)\n");
                if src != dst {
                    program += &format!("r{src} = *(u64 *)(r10 -8)\nr{src} = *(u64 *)(r{src} +8)\n");
                }
                program += &format!("{r}{dst} {} {r}{src}\n*(u64 *)(r10 {slot}) = r{dst}\n", op.symbol());
                let result = model::alu(op, width, a, if src == dst { a } else { b });
                expected = expected.wrapping_mul(31) ^ result;
            }
            program += "r0 = 0\n";
            for src in 0..10 {
                program += &format!("r1 = *(u64 *)(r10 {})\nr0 *= 31\nr0 ^= r1\n", -16 - 8 * src);
            }
            program += "exit";
            file.case(&format!("{name}_r{dst}"), &[a, b], &program, expected);
        }
    }
    file.into_pair()
}

/// Negation, byte order, sign-extending moves.
fn unary() -> (String, String) {
    const VALUES: [u64; 4] =
        [0x0102_0304_0506_0708, 0xffff_ffff_ffff_ff80, 0x8000_0000_8000_8000, 0x7fff_ffff_0000_7f7f];
    let mut file = File::new("unary", "negation, byte order and sign-extending moves");
    for (at, value) in (0u8..).zip(VALUES) {
        let reg = (at * 3) % 10;
        let load = format!("r{reg} = *(u64 *)(r1 +0)\n");
        let mut case = |name: &str, line: &str, expected: u64| {
            file.case(&format!("{name}_{at}"), &[value], &format!("{load}{line}\nr0 = r{reg}\nexit"), expected);
        };
        case("neg64", &format!("r{reg} = -r{reg}"), value.wrapping_neg());
        case("neg32", &format!("w{reg} = -w{reg}"), u64::from(model::low(value).wrapping_neg()));
        for bits in [16u8, 32, 64] {
            for (kind, word) in [(EndKind::ToLe, "le"), (EndKind::ToBe, "be"), (EndKind::Bswap, "bswap")] {
                let line = format!("r{reg} = {word}{bits} r{reg}");
                case(&format!("{word}{bits}"), &line, model::end(kind, bits, value));
            }
        }
        for bits in [8u8, 16, 32] {
            let line = format!("r{reg} = (s{bits})r{reg}");
            case(&format!("movs{bits}_64"), &line, model::sign_extend(value, bits));
        }
        for bits in [8u8, 16] {
            let line = format!("w{reg} = (s{bits})w{reg}");
            let expected = u64::from(model::low(model::sign_extend(value, bits)));
            case(&format!("movs{bits}_32"), &line, expected);
        }
    }
    // Between different registers, all destinations.
    for dst in 0..10u8 {
        let src = (dst + 4) % 10;
        let load = format!("r{src} = *(u64 *)(r1 +0)\n");
        let program = format!("{load}r{dst} = (s32)r{src}\nr0 = r{dst}\nexit");
        file.case(&format!("movs32_64_r{dst}_r{src}"), &[0x1_8000_0001], &program, 0xffff_ffff_8000_0001);
        let program = format!("{load}w{dst} = w{src}\nr0 = r{dst}\nexit");
        file.case(&format!("mov32_zero_extends_r{dst}_r{src}"), &[0xffff_ffff_8000_0001], &program, 0x8000_0001);
    }
    file.into_pair()
}

fn wide_immediates() -> (String, String) {
    let mut file = File::new("lddw", "64-bit immediates in every register");
    let values = [0u64, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, 0x8000_0000_0000_0000, u64::MAX];
    for (at, value) in (0u8..).zip(values) {
        let dst = (at + 2) % 10;
        file.case(&format!("r{dst}_{value:x}"), &[], &format!("r{dst} = {value:#x}\nr0 = r{dst}\nexit"), value);
    }
    file.into_pair()
}
