//! Kernel functions that may be missing.
//!
//! Owns what a weak kernel function becomes once it is known which functions there are: its address is 0 or not, and a
//! call of a missing one cannot be verified, so the program must not reach it. Kernel counterpart:
//! `bpf_object__resolve_ksym_func_btf_id`, `poison_kfunc_call`, tools/lib/bpf/libbpf.c, 6.18.

use crate::spec::{KsymRef, PSEUDO_BTF_ID, PSEUDO_KFUNC_CALL, ProgramSpec};

/// `imm` of a call of a missing kernel function, plus its index: no helper has such a number.
pub const POISON_KFUNC: i32 = 2_002_000_000;

impl ProgramSpec {
    /// Whether there is something for [`ProgramSpec::apply_core`] or [`ProgramSpec::resolve_ksyms`] to do.
    #[must_use]
    pub fn has_open_references(&self) -> bool {
        !(self.core_relos.is_empty() && self.kfuncs.is_empty() && self.ksyms.is_empty())
    }

    /// Settles which kernel functions exist. The address of one that does is 1, all that a program can learn from it is
    /// that it is not 0; what is missing and not weak stays, to be refused by name.
    pub fn resolve_ksyms(&mut self, exists: impl Fn(&str) -> bool) {
        let mut slot = 0;
        while let Some(insn) = self.insns.get_mut(slot) {
            let wide = insn.is_ld_imm64();
            let list = if wide { &self.ksyms } else { &self.kfuncs };
            let found: Option<&KsymRef> = usize::try_from(insn.imm).ok().and_then(|index| list.get(index));
            match (insn.code, insn.src, found) {
                (_, PSEUDO_BTF_ID, Some(ksym)) if wide && ksym.is_func => {
                    let there = exists(&ksym.name);
                    if there || ksym.is_weak {
                        (insn.src, insn.imm) = (0, i32::from(there));
                    }
                }
                (0x85, PSEUDO_KFUNC_CALL, Some(ksym)) if ksym.is_weak && !exists(&ksym.name) => {
                    (insn.src, insn.imm) = (0, POISON_KFUNC.saturating_add(insn.imm));
                }
                _ => {}
            }
            slot = slot.saturating_add(if wide { 2 } else { 1 });
        }
    }
}
