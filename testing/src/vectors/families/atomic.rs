//! Atomics: all operations, both sizes, with and without fetch, over registers; acquire loads and release stores.

use super::{File, model};

const MEM: u64 = 0xf0f0_f0f0_8000_0001;
const SRC: u64 = 0x0123_4567_ffff_ffff;

/// Operation name, symbol without fetch, and its effect.
type Op = (&'static str, &'static str, fn(u64, u64) -> u64);

const OPS: [Op; 4] = [
    ("add", "+=", u64::wrapping_add),
    ("or", "|=", |a, b| a | b),
    ("and", "&=", |a, b| a & b),
    ("xor", "^=", |a, b| a ^ b),
];

pub(super) fn generate(files: &mut Vec<(String, String)>) {
    files.push(read_modify_write());
    files.push(exchange());
    files.push(ordered());
}

/// Memory after writing the low `bits` of `value`.
fn written(bits: u8, value: u64) -> u64 {
    (MEM & !model::truncate(u64::MAX, bits)) | model::truncate(value, bits)
}

/// `r9` holds the memory, `rS` the operand.
fn load(src: u8) -> String {
    let base = base_for(src);
    format!("r{base} = r1\nr{src} = *(u64 *)(r{base} +8)\n")
}

const fn base_for(src: u8) -> u8 {
    if src == 9 { 8 } else { 9 }
}

fn read_modify_write() -> (String, String) {
    let mut file = File::new("atomic", "atomic add, or, and, xor, with and without fetch");
    for (name, symbol, effect) in OPS {
        for (bits, wide) in [(64u8, "64"), (32, "")] {
            let ty = format!("u{bits}");
            for src in [0u8, 2, 3, 4, 5, 6, 7, 8, 9] {
                let base = base_for(src);
                let after = written(bits, effect(MEM, SRC));
                let line = format!("lock *({ty} *)(r{base} +0) {symbol} r{src}");
                let program = format!("{}{line}\nr0 = *(u64 *)(r{base} +0)\nexit", load(src));
                if src % 3 == 0 {
                    file.case(&format!("{name}{bits}_r{src}"), &[MEM, SRC], &program, after);
                    file.out(&[after, SRC]);
                }
                let line = format!("r{src} = atomic{wide}_fetch_{name}(({ty} *)(r{base} +0), r{src})");
                let program = format!("{}{line}\nr0 = r{src}\nexit", load(src));
                if src % 3 != 1 {
                    let old = model::truncate(MEM, bits);
                    file.case(&format!("fetch_{name}{bits}_r{src}"), &[MEM, SRC], &program, old);
                    file.out(&[after, SRC]);
                }
            }
            let line = format!("r2 = atomic{wide}_fetch_{name}(({ty} *)(r10 -8), r2)");
            let program = format!(
                "r2 = *(u64 *)(r1 +0)\n*(u64 *)(r10 -8) = r2\nr2 = *(u64 *)(r1 +8)\n{line}\nr0 = *(u64 *)(r10 -8)\nexit"
            );
            file.case(&format!("fetch_{name}{bits}_stack"), &[MEM, SRC], &program, written(bits, effect(MEM, SRC)));
        }
    }
    file.into_pair()
}

fn exchange() -> (String, String) {
    let mut file = File::new("atomic_exchange", "xchg and cmpxchg, succeeding and failing");
    for (bits, wide) in [(64u8, "64"), (32, "")] {
        let ty = format!("u{bits}");
        for src in [0u8, 2, 3, 5, 6, 8, 9] {
            let base = base_for(src);
            let line = format!("r{src} = atomic{wide}_xchg(({ty} *)(r{base} +0), r{src})");
            let program = format!("{}{line}\nr0 = r{src}\nexit", load(src));
            file.case(&format!("xchg{bits}_r{src}"), &[MEM, SRC], &program, model::truncate(MEM, bits));
            file.out(&[written(bits, SRC), SRC]);
            if src == 0 {
                continue;
            }
            let line = format!("r0 = atomic{wide}_cmpxchg(({ty} *)(r{base} +0), r0, r{src})");
            let program = format!("{}r0 = *(u64 *)(r{base} +0)\n{line}\nexit", load(src));
            file.case(&format!("cmpxchg{bits}_hit_r{src}"), &[MEM, SRC], &program, model::truncate(MEM, bits));
            file.out(&[written(bits, SRC), SRC]);
            let program = format!("{}r0 = 5\n{line}\nexit", load(src));
            file.case(&format!("cmpxchg{bits}_miss_r{src}"), &[MEM, SRC], &program, model::truncate(MEM, bits));
            file.out(&[MEM, SRC]);
        }
        // The old value in r0 decides by its low bits in 32 bits, and r0 is zero-extended either way.
        let line = format!("r0 = atomic{wide}_cmpxchg(({ty} *)(r1 +0), r0, r2)");
        let program = format!("r2 = *(u64 *)(r1 +8)\nr0 = 0xffffffff80000001\n{line}\nexit");
        let after = if bits == 32 { written(32, SRC) } else { MEM };
        file.case(&format!("cmpxchg{bits}_upper_half"), &[MEM, SRC], &program, model::truncate(MEM, bits));
        file.out(&[after, SRC]);
        let line = format!("r0 = atomic{wide}_cmpxchg(({ty} *)(r1 +0), r0, r0)");
        let program = format!("r0 = *(u64 *)(r1 +0)\n{line}\nexit");
        file.case(&format!("cmpxchg{bits}_r0_itself"), &[MEM, SRC], &program, model::truncate(MEM, bits));
        file.out(&[MEM, SRC]);
    }
    file.into_pair()
}

fn ordered() -> (String, String) {
    let mut file = File::new("atomic_ordered", "load_acquire and store_release of every size");
    for bits in [8u8, 16, 32, 64] {
        for reg in [0u8, 2, 5, 7] {
            let program = format!("r{reg} = load_acquire((u{bits} *)(r1 +8))\nr0 = r{reg}\nexit");
            file.case(&format!("load_acquire{bits}_r{reg}"), &[MEM, SRC], &program, model::truncate(SRC, bits));
            let program = format!(
                "r{reg} = *(u64 *)(r1 +8)\nstore_release((u{bits} *)(r1 +0), r{reg})\nr0 = *(u64 *)(r1 +0)\nexit"
            );
            file.case(&format!("store_release{bits}_r{reg}"), &[MEM, SRC], &program, written(bits, SRC));
            file.out(&[written(bits, SRC), SRC]);
        }
    }
    file.into_pair()
}
