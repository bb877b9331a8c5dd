//! Random programs from a grammar, mostly valid, with the mistakes that people make.
//!
//! A program is a list of statements over four long-lived registers whose kinds the generator tracks: scalars, packet and
//! map-value pointers, spills, branches, loops, subprograms, helper calls. Now and then it makes a mistake: an offset too
//! far, a missing check, a register of the wrong kind. Invariant: one seed gives one program. Both verifiers judge each
//! program, so a mistake need not be one: the tracking is only there to reach deep states.

mod build;
mod statement;
mod types;
mod value;

use skep_abi::{MapType, ProgType, RawInsn};
use skep_btf::{Btf, FuncInfo};

use crate::random::Random;
use build::Builder;
use statement::Generator;

/// A map of the fixed set that generated programs use; `MapFd` numbers index [`MAPS`].
#[derive(Clone, Copy, Debug)]
pub struct MapDef {
    /// Type.
    pub map_type: MapType,
    /// Key bytes.
    pub key_size: u32,
    /// Value bytes.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// The maps.
pub const MAPS: [MapDef; 8] = [
    MapDef { map_type: MapType::Array, key_size: 4, value_size: 64, max_entries: 4, flags: 0 },
    MapDef { map_type: MapType::Hash, key_size: 8, value_size: 48, max_entries: 16, flags: 0 },
    MapDef { map_type: MapType::PercpuArray, key_size: 4, value_size: 32, max_entries: 2, flags: 0 },
    MapDef { map_type: MapType::Ringbuf, key_size: 0, value_size: 0, max_entries: 4096, flags: 0 },
    MapDef { map_type: MapType::ProgArray, key_size: 4, value_size: 4, max_entries: 4, flags: 0 },
    // BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG.
    MapDef { map_type: MapType::Array, key_size: 4, value_size: 16, max_entries: 1, flags: 1 << 7 },
    MapDef { map_type: MapType::Array, key_size: 4, value_size: 16, max_entries: 1, flags: 1 << 8 },
    // Read by its address.
    MapDef { map_type: MapType::Array, key_size: 4, value_size: 256, max_entries: 1, flags: 0 },
];

/// The map that programs read by its address.
pub(crate) const DIRECT: usize = 7;
const _: () = assert!(MAPS[DIRECT].max_entries == 1);

/// A generated program.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it was made from.
    pub seed: u64,
    /// Its type.
    pub prog_type: ProgType,
    /// Its instructions; map references index [`MAPS`].
    pub insns: Vec<RawInsn>,
    /// First slots of its subprograms, the main program's 0 first.
    pub starts: Vec<u32>,
}

impl Program {
    /// Its types and the function of each subprogram, for a load that needs them (callbacks do).
    ///
    /// # Panics
    /// Never for a generated program, whose types are few.
    #[must_use]
    pub fn types(&self) -> (Btf, Vec<FuncInfo>) {
        types::describe(&self.starts).expect("a few functions")
    }
}

/// The program of this seed.
#[must_use]
pub fn program(seed: u64) -> Program {
    let mut random = Random::new(seed);
    let prog_type =
        random.pick(&[ProgType::Xdp, ProgType::SchedCls, ProgType::SchedCls, ProgType::SocketFilter, ProgType::Xdp]);
    // One program in four makes no mistake on purpose; the others make one per so many choices.
    let mistakes = random.pick(&[u64::MAX, 400, 150, 60]);
    let mut generator = Generator::new(random, prog_type, mistakes);
    generator.program();
    let (insns, starts) = generator.finish();
    Program { seed, prog_type, insns, starts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_decodable_program_of_bounded_size() {
        let mut lengths = 0;
        for seed in 0..2000 {
            let program = program(seed);
            assert!(program.insns.len() < 4000, "seed {seed}: {} slots", program.insns.len());
            lengths += program.insns.len();
            let mut at = 0;
            while at < program.insns.len() {
                let insn = skep_abi::decode(&program.insns, at).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                at += insn.slots();
            }
            assert_eq!(program.insns, super::program(seed).insns);
        }
        assert!(lengths > 2000 * 20, "programs are too short: {lengths} slots in all");
    }
}
