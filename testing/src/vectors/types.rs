//! BTF for programs with callbacks, which the kernel does not load without function information.

use std::collections::BTreeSet;

use skep_abi::{CallTarget, Imm64, Insn, RawInsn, decode};
use skep_btf::{Builder, FuncProto, Int, Linkage, TypeData};

/// Types of a program and the function of each subprogram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgTypes {
    /// The `.BTF` section.
    pub btf: Vec<u8>,
    /// First slot of each function and its type id.
    pub funcs: Vec<(u32, u32)>,
}

impl ProgTypes {
    /// As `bpf_func_info` records.
    #[must_use]
    pub fn func_info(&self) -> Vec<u8> {
        self.funcs.iter().flat_map(|(slot, id)| [slot.to_ne_bytes(), id.to_ne_bytes()]).flatten().collect()
    }
}

/// Types for a program that refers to functions: `int sub0(void)` and static others; `None` where none are needed.
#[must_use]
pub fn types_for(insns: &[RawInsn]) -> Option<ProgTypes> {
    let mut starts = BTreeSet::from([0u32]);
    let (mut needed, mut tail_call) = (false, false);
    let mut at = 0;
    while at < insns.len() {
        let insn = decode(insns, at).ok()?;
        let distance = match insn {
            Insn::LdImm64 { imm: Imm64::Func(distance), .. } => {
                needed = true;
                Some(distance)
            }
            Insn::Call { target: CallTarget::Subprog(distance) } => Some(distance),
            // Tail calls in functions need them too.
            Insn::Call { target: CallTarget::Helper(12) } => {
                tail_call = true;
                None
            }
            _ => None,
        };
        if let Some(distance) = distance {
            let to = i64::try_from(at).ok()?.checked_add(i64::from(distance))?.checked_add(1)?;
            starts.insert(u32::try_from(to).ok()?);
        }
        at += insn.slots();
    }
    if !(needed || tail_call && starts.len() > 1) {
        return None;
    }
    let mut types = Builder::new();
    let int = Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 };
    let int = types.add("int", TypeData::Int(int)).ok()?;
    let proto = types.add("", TypeData::FuncProto(FuncProto { ret: int, params: Vec::new() })).ok()?;
    let mut funcs = Vec::new();
    for (number, start) in starts.into_iter().enumerate() {
        let linkage = if start == 0 { Linkage::Global } else { Linkage::Static };
        let id = types.add(&format!("sub{number}"), TypeData::Func { proto, linkage }).ok()?;
        funcs.push((start, id.0));
    }
    Some(ProgTypes { btf: types.to_bytes().ok()?, funcs })
}
