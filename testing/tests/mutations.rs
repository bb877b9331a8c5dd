//! Damaged objects and types: nothing panics, nothing takes long, and what is accepted can be used.
//! `cargo xtask fuzz` sets SKEP_FUZZ_SECONDS and SKEP_FUZZ_SEED to run longer, and elsewhere, than the default second.

use std::time::{Duration, Instant};

use skep_btf::{Btf, BtfExt, CoreTarget, Rules, dump};
use skep_object::spec::NO_MAP;
use skep_testing::mutate::{Rng, committed_objects, mutate};

/// How long to go on and where to start.
struct Plan {
    seed: u64,
    rounds: u64,
    deadline: Option<Instant>,
}

impl Plan {
    /// A fixed number of rounds, so that a failure comes back; or the seconds that the environment says.
    fn new(rounds: u64) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
        let deadline = number("SKEP_FUZZ_SECONDS").and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
        Self { seed: number("SKEP_FUZZ_SEED").unwrap_or(0), rounds, deadline }
    }

    /// One generator for each round; a round damages every input once.
    fn rounds(&self) -> impl Iterator<Item = Rng> {
        let seed = self.seed.wrapping_mul(1 << 32);
        let is_over = |round: u64| match self.deadline {
            Some(deadline) => Instant::now() >= deadline,
            None => round >= self.rounds,
        };
        (0u64..).take_while(move |&round| !is_over(round)).map(move |round| Rng::new(seed.wrapping_add(round)))
    }
}

/// The bytes of a section, found by its name: the objects here are good.
fn section(object: &[u8], name: &str) -> Option<Vec<u8>> {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(object).ok()?;
    Some(file.section_by_name(name)?.data().ok()?.to_vec())
}

/// A committed object.
fn named(name: &str) -> Vec<u8> {
    committed_objects().into_iter().find(|(found, _)| found == name).expect(name).1
}

#[test]
fn damaged_objects_are_refused_or_right() {
    let objects = committed_objects();
    assert!(objects.len() > 10);
    let target = section(&named("core_target.bpf.o"), ".BTF").and_then(|bytes| Btf::parse(&bytes).ok());
    let target = target.expect("a committed object's types");
    let (mut accepted, mut refused, mut slowest) = (0u32, 0u32, Duration::ZERO);
    for mut rng in Plan::new(3000).rounds() {
        for (name, bytes) in &objects {
            let other = &objects[rng.below(objects.len())].1;
            let damaged = mutate(&mut rng, bytes, other);
            let start = Instant::now();
            match skep_object::parse(&damaged, name) {
                Ok(mut spec) => {
                    accepted += 1;
                    if let Some(btf) = spec.btf.clone() {
                        let relos = spec.programs.iter().map(|p| p.core_relos.len()).sum::<usize>();
                        let own = CoreTarget::identity(&btf);
                        let poisoned = spec.programs.clone().iter_mut().map(|p| p.apply_core(&btf, &own).len()).sum();
                        assert!(spec.apply_core(&target).len() <= relos && relos >= poisoned, "{name}");
                    }
                    let maps: usize = spec.maps.iter().map(|m| m.image.len()).sum();
                    assert!(maps <= 2 * damaged.len() + (1 << 20), "{name}: {maps} bytes of images");
                    for insn in spec.programs.iter().flat_map(|p| &p.insns).filter(|i| i.code == 0x18) {
                        let is_map = matches!(insn.src, 1 | 2) && insn.imm != NO_MAP;
                        let there = usize::try_from(insn.imm).is_ok_and(|map| map < spec.maps.len());
                        assert!(!is_map || there, "{name}: map {}", insn.imm);
                    }
                }
                Err(error) => {
                    refused += 1;
                    let text = error.to_string();
                    assert!(!text.contains("internal error"), "{name}: {text}");
                    assert!(text.bytes().all(|b| b >= 0x20), "{name}: {text:?}");
                }
            }
            slowest = slowest.max(start.elapsed());
        }
    }
    println!("objects: {accepted} accepted, {refused} refused, {slowest:?} at most");
    assert!(accepted > 100 && refused > 100, "the damage is too small or too large");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn damaged_types_are_refused_or_right() {
    let (mut accepted, mut refused) = (0u32, 0u32);
    let inputs: Vec<_> = committed_objects()
        .into_iter()
        .filter_map(|(name, bytes)| Some((name, section(&bytes, ".BTF")?, section(&bytes, ".BTF.ext")?)))
        .collect();
    assert!(inputs.len() > 10);
    for mut rng in Plan::new(1500).rounds() {
        for (name, btf_bytes, ext_bytes) in &inputs {
            let other = rng.below(inputs.len());
            let damaged = mutate(&mut rng, btf_bytes, &inputs[other].1);
            for rules in [Rules::Object, Rules::Kernel] {
                match Btf::parse_with(&damaged, rules) {
                    Ok(btf) => {
                        accepted += 1;
                        use_types(name, &btf, &damaged);
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(!error.to_string().contains("internal error"), "{name}: {error}");
                    }
                }
            }
            if rng.below(4) == 0 {
                let good = Btf::parse(btf_bytes).expect("a committed object's types");
                let ext = mutate(&mut rng, ext_bytes, btf_bytes);
                if let Err(error) = BtfExt::parse(&ext, &good) {
                    assert!(!error.to_string().contains("internal error"), "{name}: {error}");
                }
            }
        }
    }
    println!("types: {accepted} accepted, {refused} refused");
    assert!(accepted > 100 && refused > 100, "the damage is too small or too large");
}

/// Asks every question and writes every form.
fn use_types(name: &str, btf: &Btf, bytes: &[u8]) {
    assert_eq!(btf.to_bytes().as_deref(), Ok(bytes), "{name}");
    for (id, _) in btf.types() {
        let size = btf.size_of(id).is_ok();
        assert_eq!(size, btf.align_of(id).is_ok(), "{name} {id}");
        let _ = (btf.find_member(id, "x"), btf.func_proto(id), btf.pointee(id), btf.element_of(id));
        assert!(btf.name(id).is_empty() || btf.find_all(btf.name(id)).any(|found| found == id));
    }
    assert_eq!(dump::raw_dump(btf).lines().filter(|l| l.starts_with('[')).count(), btf.len() - 1);
    if let Err(error) = dump::c_dump(btf) {
        assert!(!error.to_string().contains("internal error"), "{name}: {error}");
    }
}
