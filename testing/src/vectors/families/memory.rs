//! Loads and stores: every size, base register and sign extension.

use super::{File, model};

const SIZES: [(u8, &str); 4] = [(8, "8"), (16, "16"), (32, "32"), (64, "64")];
const A: u64 = 0x8877_6655_4433_2211;
const B: u64 = 0x0f1e_2d3c_4b5a_6978;

pub(super) fn generate(files: &mut Vec<(String, String)>) {
    files.push(loads());
    files.push(stores());
}

/// The bytes of A and B as the program sees them, read at `offset`.
fn at(offset: u8, bits: u8) -> u64 {
    let all = u128::from(A) | u128::from(B) << 64;
    let shifted = (all >> (8 * u32::from(offset))).to_le_bytes();
    let mut low = [0u8; 8];
    low.copy_from_slice(&shifted[..8]);
    model::truncate(u64::from_le_bytes(low), bits)
}

fn loads() -> (String, String) {
    let mut file = File::new("load", "loads of every size from memory and stack, with every base register");
    for (bits, name) in SIZES {
        for base in 1..10u8 {
            let dst = (base + 3) % 10;
            let offset = 8 * (base % 2);
            let program = format!("r{base} = r1\nr{dst} = *(u{name} *)(r{base} +{offset})\nr0 = r{dst}\nexit");
            file.case(&format!("u{name}_r{base}"), &[A, B], &program, at(offset, bits));
            if bits < 64 {
                let program = format!("r{base} = r1\nr{dst} = *(s{name} *)(r{base} +{offset})\nr0 = r{dst}\nexit");
                let expected = model::sign_extend(at(offset, bits), bits);
                file.case(&format!("s{name}_r{base}"), &[A, B], &program, expected);
            }
        }
        let program = format!("r0 = *(u64 *)(r1 +0)\n*(u64 *)(r10 -512) = r0\nr0 = *(u{name} *)(r10 -512)\nexit");
        file.case(&format!("u{name}_deep_stack"), &[A, B], &program, at(0, bits));
        let program = format!("r1 = *(u{name} *)(r1 +8)\nr0 = r1\nexit");
        file.case(&format!("u{name}_into_its_base"), &[A, B], &program, at(8, bits));
    }
    file.into_pair()
}

fn stores() -> (String, String) {
    let mut file = File::new("store", "stores of every size, of registers and immediates");
    for (bits, name) in SIZES {
        for src in 0..10u8 {
            if src == 1 {
                continue;
            }
            let base = if src == 9 { 8 } else { 9 };
            let program = format!(
                "r{base} = r1\nr{src} = *(u64 *)(r{base} +8)\n*(u{name} *)(r{base} +0) = r{src}\n\
                 r0 = *(u64 *)(r{base} +0)\nexit"
            );
            let merged = (A & !model::truncate(u64::MAX, bits)) | model::truncate(B, bits);
            file.case(&format!("u{name}_r{src}"), &[A, B], &program, merged);
            file.out(&[merged, B]);
        }
        for imm in [0i32, -1, 0x1234_5678, i32::MIN] {
            let program = format!("*(u{name} *)(r1 +8) = {imm}\nr0 = *(u64 *)(r1 +8)\nexit");
            let merged = (B & !model::truncate(u64::MAX, bits)) | model::truncate(model::imm(imm), bits);
            let sign = if imm < 0 { "m" } else { "" };
            file.case(&format!("u{name}_imm_{sign}{}", imm.unsigned_abs()), &[A, B], &program, merged);
            file.out(&[A, merged]);
        }
        let program = format!(
            "r2 = *(u64 *)(r1 +0)\n*(u64 *)(r10 -16) = 0\n*(u{name} *)(r10 -16) = r2\nr0 = *(u64 *)(r10 -16)\nexit"
        );
        file.case(&format!("u{name}_stack"), &[A, B], &program, model::truncate(A, bits));
    }
    // The address register is the value too: only where a number can be stored through it.
    file.case(
        "through_every_offset",
        &[A, B],
        "r2 = *(u64 *)(r1 +0)\n*(u8 *)(r1 +15) = r2\n*(u16 *)(r1 +12) = r2\nr0 = *(u64 *)(r1 +8)\nexit",
        0x111e_2211_4b5a_6978,
    );
    file.into_pair()
}
