//! From a verified program to what runs: the `xlated` form.
//!
//! Owns the transformations between the verifier and the code generators. Passes, in order: the map list ([`maps`]), dead
//! code ([`dead`]), lowering of single instructions ([`lower`]), placing and jump offsets ([`place`]). Invariant: the
//! program that comes out does what the one that went in does on every path that verification took. What the kernel also
//! rewrites and this does not: divisions (the code generators test the divisor unless the facts say it is not zero), helper
//! and kfunc calls (inlined by the code generators), `LD_ABS` and `LD_IND`, speculation barriers (this process has no secret
//! of another user to protect). Kernel counterpart: `convert_ctx_accesses`, `do_misc_fixups`, kernel/bpf/verifier.c, 6.18.

mod dead;
mod dump;
mod exceptions;
mod lower;
mod maps;
mod place;

use skep_abi::{CallTarget, DecodeError, Errno, Imm64, Insn};

pub use dump::{DumpOptions, dump_xlated, tail_call_text};

use crate::spec::ProgramSpec;
use crate::verified::{InsnFacts, InsnIdx, Need, Verified, Xlated};

/// Choices of the rewrite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RewriteOptions<'a> {
    /// Give tail calls with constant map and index a poke descriptor: wanted when the program is compiled.
    pub pokes: bool,
    /// Remove code that no path reaches, and saves that are not needed.
    pub remove_dead: bool,
    /// Offset from the vCPU's base of the two words (16 bytes, zero at first) that an exception travels in; without it, a
    /// program that throws cannot be run.
    pub thrown: Option<i32>,
    /// Where the descriptions of [`crate::Verified::objects`] are, by id: what `bpf_obj_new` gets as its second argument.
    pub objects: &'a [(u32, u64)],
}

impl Default for RewriteOptions<'_> {
    fn default() -> Self {
        Self { pokes: true, remove_dead: true, thrown: None, objects: &[] }
    }
}

/// Why a verified program could not be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It uses more maps than the tail-call encoding and the kernel allow.
    #[error("the program uses {count} maps, and the limit is {limit}", limit = maps::MAX_USED_MAPS)]
    TooManyMaps {
        /// How many it uses.
        count: usize,
    },
    /// It was accepted, and uses something that this engine cannot run.
    #[error(transparent)]
    NotRunnable(#[from] Need),
    /// It has more tail calls with constant map and index than the encoding can number.
    #[error("adding tail call poke descriptor failed: insn {insn} is one more than {limit}", limit = lower::MAX_POKES)]
    TooManyPokes {
        /// The first tail call that has no number, in the original program.
        insn: u32,
    },
    /// A jump became longer than its encoding can say.
    #[error("insn {insn} cannot be patched due to 16-bit range")]
    JumpTooFar {
        /// The jump, in the original program.
        insn: u32,
    },
    /// What verification guarantees does not hold: a bug.
    #[error("internal error at insn {insn}: {what}")]
    Internal {
        /// Original slot.
        insn: u32,
        /// What does not hold.
        what: &'static str,
    },
    /// A slot of the verified program cannot be decoded: a bug.
    #[error("internal error: a verified instruction cannot be decoded")]
    Decode(#[from] DecodeError),
}

impl RewriteError {
    /// The kernel's errno.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::TooManyMaps { .. } => Errno::E2BIG,
            Self::NotRunnable(_) => Errno::ENOTSUPP,
            Self::TooManyPokes { .. } => Errno::ENOSPC,
            Self::JumpTooFar { .. } => Errno::ERANGE,
            Self::Internal { .. } | Self::Decode(_) => Errno::EFAULT,
        }
    }
}

/// Where an instruction transfers control, by original slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// A jump within the subprogram.
    Jump(u32),
    /// The entry of a subprogram, before what the rewrite puts there.
    Entry(u32),
}

/// One instruction on its way.
#[derive(Clone, Debug)]
struct Item {
    /// Original slot.
    at: u32,
    insn: Insn,
    target: Option<Target>,
    facts: InsnFacts,
}

/// Rewrites `verified`, which was made from `spec`.
///
/// # Errors
/// Limits of the encodings, and inconsistencies of the facts.
pub fn rewrite(
    spec: &ProgramSpec<'_>,
    verified: &Verified,
    options: &RewriteOptions<'_>,
) -> Result<Xlated, RewriteError> {
    if let Some(need) = verified.needs().first() {
        return Err(need.clone().into());
    }
    let mut items = items(verified)?;
    let used_maps = maps::number(&mut items)?;
    if options.remove_dead {
        dead::remove(&mut items);
    }
    let subprogs = verified.subprogs();
    let lowered = lower::lower(spec, subprogs, &used_maps, options, items, verified.all_facts())?;
    let placed = place::place(lowered, subprogs, used_maps)?;
    Ok(Xlated { buffers: verified.buffers(), ..placed })
}

/// The program's instructions with the slots that they transfer control to.
fn items(verified: &Verified) -> Result<Vec<Item>, RewriteError> {
    let program = verified.insns();
    let mut items = Vec::with_capacity(program.len());
    let mut slot = 0;
    while slot < program.len() {
        let insn = skep_abi::decode(program, slot)?;
        let at =
            u32::try_from(slot).map_err(|_| RewriteError::Internal { insn: u32::MAX, what: "program too long" })?;
        let next = i64::from(at) + 1;
        let reach = |distance: i32| {
            u32::try_from(next + i64::from(distance))
                .map_err(|_| RewriteError::Internal { insn: at, what: "a jump leaves the program" })
        };
        let target = match insn {
            Insn::Ja { off, .. } => Some(Target::Jump(reach(off)?)),
            Insn::Jcond { off, .. } | Insn::MayGoto { off } => Some(Target::Jump(reach(i32::from(off))?)),
            Insn::Call { target: CallTarget::Subprog(distance) } | Insn::LdImm64 { imm: Imm64::Func(distance), .. } => {
                Some(Target::Entry(reach(distance)?))
            }
            _ => None,
        };
        items.push(Item { at, insn, target, facts: verified.facts(InsnIdx(at)) });
        slot += insn.slots();
    }
    Ok(items)
}

#[cfg(test)]
mod tests;
