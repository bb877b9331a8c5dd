//! Jump relaxation: labels, the places whose size depends on where things land, and the final bytes.
//!
//! Code is assembled without its jumps and padding; each is a [`Fix`] at a place in the raw bytes. Sizes only grow: every
//! jump starts short and becomes long when its target is out of reach, until nothing changes. Invariant: in the last round
//! every short jump reaches, because that round computed the layout that is written. Kernel counterpart: the passes of
//! `bpf_int_jit_compile`, arch/x86/net/bpf_jit_comp.c, 6.18, which re-emit everything until the length is stable.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "code size is capped far below 2^31 before these run"
)]

use super::asm::{Asm, Cond};
use crate::error::JitError;

/// Most bytes one image may have; relative displacements then always fit.
pub(crate) const MAX_IMAGE: usize = 64 << 20;

/// A place in the code that jumps can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(u32);

/// Consecutive labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels {
    first: usize,
}

impl Labels {
    /// The n-th of them.
    pub(crate) const fn at(self, n: usize) -> Label {
        Label((self.first + n) as u32)
    }
}

/// A place in unfinished code: raw bytes and fixes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub(super) raw: u32,
    pub(super) fixes: u32,
}

impl Position {
    const UNBOUND: Self = Self { raw: u32::MAX, fixes: u32::MAX };
}

/// Something whose size or content is known only at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fix {
    pub(super) at: u32,
    pub(super) kind: FixKind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum FixKind {
    /// `jmp`, 2 or 5 bytes.
    Jmp(Label),
    /// `jcc`, 2 or 6 bytes.
    Jcc(Cond, Label),
    /// The next four raw bytes are a displacement to the label; no bytes of its own.
    Rel32(Label),
    /// Padding up to a multiple of `1 << log2`, if at most `max` bytes.
    Align { log2: u8, max: u8 },
    /// Padding after which 5 bytes lie in one aligned 8-byte word.
    Site,
}

/// Finished code.
pub(crate) struct Linked {
    pub(crate) bytes: Vec<u8>,
    /// Bytes that the fixes before the n-th take together.
    before: Vec<u32>,
    labels: Vec<Position>,
}

impl Linked {
    /// Final offset of a place.
    pub(crate) fn offset(&self, at: Position) -> u32 {
        at.raw.saturating_add(self.before.get(at.fixes as usize).copied().unwrap_or(0))
    }

    /// Final offset of a bound label.
    pub(crate) fn label(&self, label: Label) -> Result<u32, JitError> {
        match self.labels.get(label.0 as usize) {
            Some(&at) if at != Position::UNBOUND => Ok(self.offset(at)),
            _ => Err(JitError::Internal("jump to a label that was never bound")),
        }
    }
}

impl Asm {
    /// A label to bind later.
    pub(crate) fn new_label(&mut self) -> Label {
        self.labels.push(Position::UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }

    /// `count` labels with consecutive numbers.
    pub(crate) fn new_labels(&mut self, count: usize) -> Labels {
        let first = self.labels.len();
        self.labels.resize(first + count, Position::UNBOUND);
        Labels { first }
    }

    /// Binds `label` to the next instruction.
    pub(crate) fn bind(&mut self, label: Label) {
        let here = self.here();
        if let Some(slot) = self.labels.get_mut(label.0 as usize) {
            *slot = here;
        }
    }

    /// Chooses sizes and writes the final bytes.
    pub(crate) fn link(self) -> Result<Linked, JitError> {
        if self.code.len() > MAX_IMAGE {
            return Err(JitError::TooLarge { bytes: self.code.len() });
        }
        for fix in &self.fixes {
            if let FixKind::Jmp(l) | FixKind::Jcc(_, l) | FixKind::Rel32(l) = fix.kind
                && self.labels.get(l.0 as usize).is_none_or(|&at| at == Position::UNBOUND)
            {
                return Err(JitError::Internal("jump to a label that was never bound"));
            }
        }
        let (before, sizes) = self.relax();
        let mut linked = Linked { bytes: Vec::new(), before, labels: Vec::new() };
        let Self { code, fixes, labels } = self;
        linked.labels = labels;
        linked.bytes = write(&code, &fixes, &sizes, &linked)?;
        Ok(linked)
    }

    /// Sizes of all fixes and their running sums.
    fn relax(&self) -> (Vec<u32>, Vec<u8>) {
        let mut sizes: Vec<u8> = self
            .fixes
            .iter()
            .map(|fix| match fix.kind {
                FixKind::Jmp(_) | FixKind::Jcc(..) => 2,
                _ => 0,
            })
            .collect();
        let mut before = vec![0_u32; self.fixes.len() + 1];
        loop {
            let mut sum = 0_u32;
            for ((fix, size), slot) in self.fixes.iter().zip(&mut sizes).zip(&mut before) {
                *slot = sum;
                match fix.kind {
                    FixKind::Align { log2, max } => *size = padding(fix.at + sum, log2, max),
                    FixKind::Site => *size = site_padding(fix.at + sum),
                    _ => {}
                }
                sum += u32::from(*size);
            }
            if let Some(last) = before.last_mut() {
                *last = sum;
            }
            let mut grew = false;
            for (i, fix) in self.fixes.iter().enumerate() {
                let (FixKind::Jmp(label) | FixKind::Jcc(_, label)) = fix.kind else { continue };
                let Some(size) = sizes.get_mut(i) else { continue };
                if *size != 2 {
                    continue;
                }
                let end = i64::from(fix.at) + i64::from(before.get(i).copied().unwrap_or(0)) + 2;
                if i8::try_from(self.place(label, &before) - end).is_err() {
                    *size = if matches!(fix.kind, FixKind::Jmp(_)) { 5 } else { 6 };
                    grew = true;
                }
            }
            if !grew {
                return (before, sizes);
            }
        }
    }

    fn place(&self, label: Label, before: &[u32]) -> i64 {
        let at = self.labels.get(label.0 as usize).copied().unwrap_or(Position { raw: 0, fixes: 0 });
        i64::from(at.raw) + i64::from(before.get(at.fixes as usize).copied().unwrap_or(0))
    }
}

/// Writes raw code and fixes in order.
fn write(code: &[u8], fixes: &[Fix], sizes: &[u8], linked: &Linked) -> Result<Vec<u8>, JitError> {
    const SHORT: JitError = JitError::Internal("a fix lies outside of the code");
    let total = linked.before.last().copied().unwrap_or(0) as usize + code.len();
    let mut out = Vec::with_capacity(total);
    let mut from = 0_usize;
    let mut displacements = Vec::new();
    for (fix, &size) in fixes.iter().zip(sizes) {
        let at = fix.at as usize;
        out.extend_from_slice(code.get(from..at).ok_or(SHORT)?);
        from = at;
        let start = out.len();
        let to = |label, end: usize| -> Result<i32, JitError> {
            let target = i64::from(linked.label(label)?);
            i32::try_from(target - end as i64).map_err(|_| JitError::TooLarge { bytes: total })
        };
        match fix.kind {
            FixKind::Jmp(label) if size == 2 => {
                out.extend_from_slice(&[0xeb, to(label, start + 2)?.to_le_bytes()[0]]);
            }
            FixKind::Jmp(label) => {
                out.push(0xe9);
                out.extend_from_slice(&to(label, start + 5)?.to_le_bytes());
            }
            FixKind::Jcc(cond, label) if size == 2 => {
                out.extend_from_slice(&[0x70 | cond.0, to(label, start + 2)?.to_le_bytes()[0]]);
            }
            FixKind::Jcc(cond, label) => {
                out.extend_from_slice(&[0x0f, 0x80 | cond.0]);
                out.extend_from_slice(&to(label, start + 6)?.to_le_bytes());
            }
            FixKind::Rel32(label) => displacements.push((start, to(label, start + 4)?)),
            FixKind::Align { .. } | FixKind::Site => nops(&mut out, size),
        }
    }
    out.extend_from_slice(code.get(from..).ok_or(SHORT)?);
    for (at, value) in displacements {
        out.get_mut(at..at + 4).ok_or(SHORT)?.copy_from_slice(&value.to_le_bytes());
    }
    Ok(out)
}

fn padding(at: u32, log2: u8, max: u8) -> u8 {
    let size = 1_u32 << log2;
    let pad = (size - (at & (size - 1))) & (size - 1);
    if pad <= u32::from(max) { pad as u8 } else { 0 }
}

fn site_padding(at: u32) -> u8 {
    let low = at & 7;
    if low <= 3 { 0 } else { 8 - low as u8 }
}

/// The recommended long no-ops.
const NOPS: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// The 5-byte no-op of a patch site.
pub(crate) const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

fn nops(out: &mut Vec<u8>, mut count: u8) {
    while count > 0 {
        let n = count.min(9);
        if let Some(bytes) = NOPS.get(usize::from(n) - 1) {
            out.extend_from_slice(bytes);
        }
        count -= n;
    }
}
