//! Programs that no verifier would pass: the code generator answers with code or an error, never with a panic.

mod support;

use skep_abi::RawInsn;
use skep_jit::{Arch, CpuFeatures, JitError, Layout, MapAccess, MapLayout, Options, compile};
use skep_verifier::{Const, MapArg, Subprog};
use support::generate::{Rng, program};

/// Values that sit at the edges of what fields hold.
fn odd(rng: &mut Rng) -> u64 {
    let n = rng.number();
    rng.pick(&[0, 1, 3, 7, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX, n])
}

fn small(n: u64) -> u32 {
    u32::try_from(n & 0xffff_ffff).expect("masked")
}

fn layout(rng: &mut Rng) -> Layout {
    let mut layout = Layout {
        tail_calls: small(odd(rng)).cast_signed(),
        cpu_id: small(odd(rng)).cast_signed(),
        ld_abs: odd(rng),
        stats: rng.one_in(2).then(|| odd(rng).cast_signed()),
        ..Layout::default()
    };
    for _ in 0..rng.below(4) {
        let (max_entries, stride) = (small(odd(rng)), small(odd(rng)));
        let access = match rng.below(5) {
            0 => MapAccess::Array { values: odd(rng), stride, max_entries },
            1 => MapAccess::PerCpuArray { off: odd(rng), stride, max_entries },
            2 => MapAccess::ProgArray { targets: odd(rng), max_entries },
            3 => MapAccess::Hash { lookup: odd(rng) },
            _ => MapAccess::Opaque,
        };
        layout.maps.push(MapLayout { object: odd(rng), access });
    }
    for id in 0..rng.below(250) {
        layout.helpers.insert(small(id), odd(rng));
    }
    layout
}

/// A program with some fields replaced by anything.
fn damaged(rng: &mut Rng) -> skep_verifier::Xlated {
    let size = 1 + rng.below(12);
    let program = program(rng, size);
    let mut xlated = support::xlated(&program.insns, &program.starts, small(rng.pick(&[0, 8, 64, 512, 4096])));
    for _ in 0..rng.below(4) {
        let at = rng.below(xlated.insns.len() as u64);
        let Some(insn) = usize::try_from(at).ok().and_then(|at| xlated.insns.get_mut(at)) else { continue };
        let bytes = rng.next().to_le_bytes();
        match rng.below(6) {
            0 => *insn = RawInsn::from_bytes(bytes),
            1 => insn.code = bytes[0],
            2 => insn.off = i16::from_le_bytes([bytes[0], bytes[1]]),
            3 => insn.imm = small(odd(rng)).cast_signed(),
            4 => insn.src = bytes[0] & 15,
            _ => insn.dst = bytes[0] & 15,
        }
    }
    for facts in &mut xlated.facts {
        if rng.one_in(4) {
            facts.helper_map = MapArg::Known(small(rng.below(5)));
        }
        if rng.one_in(4) {
            facts.const_key = Const::Known(odd(rng));
        }
    }
    match rng.below(20) {
        0 => drop(xlated.facts.pop()),
        1 => xlated.subprogs.clear(),
        2 => xlated.subprogs.push(Subprog { start: small(odd(rng)), end: small(odd(rng)), ..Subprog::default() }),
        3 => xlated.insns.clear(),
        4 => {
            for sub in &mut xlated.subprogs {
                sub.stack_depth = small(odd(rng));
            }
        }
        _ => {}
    }
    xlated
}

#[test]
fn damaged_programs_are_compiled_or_refused() {
    let (mut compiled, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let xlated = damaged(&mut rng);
        let layout = layout(&mut rng);
        for arch in [Arch::X64, Arch::Arm64] {
            let features = rng.pick(&[CpuFeatures::BASELINE, CpuFeatures::ALL]);
            let options = Options::new(arch).with_features(features).with_optimize(rng.one_in(2));
            match compile(&xlated, &layout, &options) {
                Ok(image) => {
                    compiled += 1;
                    assert!(image.lines.is_sorted(), "seed {seed}: lines are in order");
                    assert!(image.lines.iter().all(|&(at, _)| at as usize <= image.bytes.len()));
                    assert!(image.sites.iter().all(|site| site.offset as usize + 4 < image.bytes.len()));
                }
                Err(error) => {
                    refused += 1;
                    // What a jump needs was checked before: a label without a place would be our own mistake.
                    assert_ne!(error, JitError::Internal("jump to a label that was never bound"), "seed {seed}");
                }
            }
        }
    }
    assert!(compiled > 1000 && refused > 1000, "{compiled} compiled, {refused} refused");
}

#[test]
fn a_jump_out_of_the_program_is_refused() {
    for text in ["goto +1\nexit", "goto -2\nexit", "if r1 == 0 goto +7\nexit", "r0 = 0", "call +9\nexit"] {
        let raw = skep_abi::asm::assemble(text).expect("assembles");
        let xlated = support::from_raw(raw, &[0], 0);
        for arch in [Arch::X64, Arch::Arm64] {
            let error = compile(&xlated, &Layout::default(), &Options::new(arch)).expect_err(text);
            assert!(matches!(error, JitError::Jump { .. }), "{text}: {error}");
        }
    }
}

#[test]
fn large_programs_need_far_jumps() {
    // 300,000 instructions: farther than a conditional jump of either architecture reaches in its short form.
    let mut text = String::from("r0 = 0\nif r1 == 0 goto pc+1\nexit\n");
    let body = "r0 += r1\nr0 ^= 77\nr0 s>>= 1\n";
    text.push_str(&body.repeat(100_000));
    text.push_str("exit\n");
    let mut raw = skep_abi::asm::assemble(&text).expect("assembles");
    // A conditional jump from the start over 32,000 slots, and a long one back from the end.
    let last = raw.len() - 1;
    raw[1].off = 32_000;
    raw[last - 1] = RawInsn { code: 0x06, dst: 0, src: 0, off: 0, imm: 2 - i32::try_from(last).expect("small") };
    let xlated = support::from_raw(raw, &[0], 0);
    for arch in [Arch::X64, Arch::Arm64] {
        for optimize in [true, false] {
            let image = compile(&xlated, &Layout::default(), &Options::new(arch).with_optimize(optimize));
            let image = image.expect("compiles");
            assert!(image.bytes.len() > 600_000, "{arch:?}: {} bytes", image.bytes.len());
        }
    }
}
