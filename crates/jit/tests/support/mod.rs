//! What the tests of compiled code share: executable memory, a model interpreter, random programs.

#![expect(dead_code, reason = "each test crate uses a part")]

pub(crate) mod generate;
pub(crate) mod machine;
pub(crate) mod model;

use skep_abi::{Insn, RawInsn};
use skep_verifier::{Const, InsnFacts, MapArg, Subprog, Xlated};

/// A program of which nothing is known, with its subprograms starting at the given slots.
pub(crate) fn xlated(insns: &[Insn], starts: &[usize], stack_depth: u32) -> Xlated {
    let mut raw: Vec<RawInsn> = Vec::new();
    for insn in insns {
        insn.push_to(&mut raw);
    }
    from_raw(raw, starts, stack_depth)
}

pub(crate) fn from_raw(raw: Vec<RawInsn>, starts: &[usize], stack_depth: u32) -> Xlated {
    let facts = InsnFacts {
        reachable: true,
        src_const: Const::Unknown,
        dst_const: Const::Unknown,
        helper_map: MapArg::Unknown,
        const_key: Const::Unknown,
        callback: Const::Unknown,
        ..InsnFacts::default()
    };
    let end = u32::try_from(raw.len()).expect("small");
    let subprogs = starts
        .iter()
        .enumerate()
        .map(|(i, &start)| Subprog {
            start: u32::try_from(start).expect("small"),
            end: starts.get(i + 1).map_or(end, |&next| u32::try_from(next).expect("small")),
            stack_depth,
            ..Subprog::default()
        })
        .collect();
    Xlated {
        facts: vec![facts; raw.len()],
        source: (0..end).collect(),
        insns: raw,
        subprogs,
        used_maps: Vec::new(),
        pokes: Vec::new(),
        buffers: skep_verifier::Buffers::default(),
    }
}
