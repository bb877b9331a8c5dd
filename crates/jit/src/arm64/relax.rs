//! Labels and displacements.
//!
//! Conditional jumps reach 1 MiB. Code that is larger is compiled again with [`Asm::far`], where each is a jump over an
//! unconditional one. Invariant: what is written reaches, or the result is [`Linked::TooFar`]. Kernel counterpart:
//! `build_body`'s passes, arch/arm64/net/bpf_jit_comp.c, 6.18, where such programs are refused.

use super::asm::Asm;
use crate::error::JitError;

/// A place in the code that jumps can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(usize);

/// Consecutive labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels {
    first: usize,
}

impl Labels {
    /// The n-th of them.
    pub(crate) const fn at(self, n: usize) -> Label {
        Label(self.first + n)
    }
}

/// A displacement to fill in: word number and form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fix {
    pub(super) at: usize,
    pub(super) kind: FixKind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum FixKind {
    /// `b`, `bl`: 128 MiB.
    Branch26(Label),
    /// `b.cond`, `cbz`: 1 MiB.
    Branch19(Label),
    /// `adr`: 1 MiB, in bytes.
    Adr(Label),
}

/// What became of the code.
pub(crate) enum Linked {
    Done {
        bytes: Vec<u8>,
        labels: Vec<u32>,
    },
    /// A displacement does not fit its field.
    TooFar,
}

const UNBOUND: u32 = u32::MAX;

impl Asm {
    /// A label to bind later.
    pub(crate) fn new_label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() - 1)
    }

    /// `count` labels with consecutive numbers.
    pub(crate) fn new_labels(&mut self, count: usize) -> Labels {
        let first = self.labels.len();
        self.labels.resize(first + count, UNBOUND);
        Labels { first }
    }

    /// Binds `label` to the next instruction.
    pub(crate) fn bind(&mut self, label: Label) {
        let here = self.here();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = here;
        }
    }

    /// Fills in displacements and writes the bytes.
    pub(crate) fn link(mut self) -> Result<Linked, JitError> {
        let bytes = self.code.len() * 4;
        if bytes > 64 << 20 {
            return Err(JitError::TooLarge { bytes });
        }
        for fix in &self.fixes {
            let (FixKind::Branch26(label) | FixKind::Branch19(label) | FixKind::Adr(label)) = fix.kind;
            let target = label_offset(&self.labels, label)?;
            let at = i64::try_from(fix.at * 4).unwrap_or(i64::MAX);
            let distance = i64::from(target) - at;
            let field = match fix.kind {
                FixKind::Branch26(_) => field(distance / 4, 26),
                FixKind::Branch19(_) => field(distance / 4, 19).map(|field| field << 5),
                FixKind::Adr(_) => field(distance, 21).map(|field| (field & 3) << 29 | (field >> 2) << 5),
            };
            match (self.code.get_mut(fix.at), field) {
                (Some(word), Some(field)) => *word |= field,
                _ => return Ok(Linked::TooFar),
            }
        }
        let bytes = self.code.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(Linked::Done { bytes, labels: self.labels })
    }
}

/// Final offset of a bound label.
pub(crate) fn label_offset(labels: &[u32], label: Label) -> Result<u32, JitError> {
    match labels.get(label.0) {
        Some(&at) if at != UNBOUND => Ok(at),
        _ => Err(JitError::Internal("jump to a label that was never bound")),
    }
}

/// A signed field of `bits` bits, if the value fits.
fn field(value: i64, bits: u32) -> Option<u32> {
    let limit = 1_i64 << (bits - 1);
    if !(-limit..limit).contains(&value) {
        return None;
    }
    u32::try_from(value & ((1 << bits) - 1)).ok()
}
