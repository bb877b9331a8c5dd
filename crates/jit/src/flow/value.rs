//! What a register is known to hold, within one block.
//!
//! Owns the symbolic values of [`super::simplify`] and when they stop being true: a value names registers with the epoch
//! in which it was made, and a write to a register starts a new epoch. Invariant: [`Known::value`] never returns a value
//! whose parts have changed since.

use skep_abi::{Reg, Width};

use super::effect::RegSet;

/// A symbolic value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Unknown,
    /// `base + imm`, 64 bits; a copy when `imm` is 0.
    Sum {
        base: Part,
        imm: i32,
    },
    /// `a + b`, 64 bits.
    Sum2 {
        a: Part,
        b: Part,
    },
    /// The low 32 bits of a register.
    Low32 {
        src: Part,
    },
    /// A register shifted by less than its width; 32-bit results are zero-extended.
    Shifted {
        src: Part,
        width: Width,
        left: bool,
        by: u8,
    },
    /// An offset in per-CPU memory, before the vCPU's base is added.
    PercpuOff(i32),
    /// The vCPU's base plus an offset.
    Percpu(i32),
    /// Bytes of memory.
    Bytes(Bytes),
}

/// A register as it was at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) reg: Reg,
    epoch: u32,
}

/// `len` bytes at `base + off`, zero-extended and shifted left by `shift` bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bytes {
    pub(super) base: Part,
    pub(super) memory: u32,
    pub(super) off: i32,
    pub(super) len: u8,
    pub(super) shift: u8,
    /// Most significant byte first; one byte is both.
    pub(super) big: bool,
}

impl Bytes {
    /// The value of both together, if they are neighbours in memory and in the value.
    pub(super) fn join(self, other: Self) -> Option<Self> {
        let (low, high) = if self.shift < other.shift { (self, other) } else { (other, self) };
        let same = low.base == high.base && low.memory == high.memory;
        if !same || u32::from(low.shift) + 8 * u32::from(low.len) != u32::from(high.shift) {
            return None;
        }
        let len = low.len + high.len;
        let little = (low.len == 1 || !low.big) && (high.len == 1 || !high.big);
        let big = (low.len == 1 || low.big) && (high.len == 1 || high.big);
        if little && low.off + i32::from(low.len) == high.off {
            Some(Self { len, big: false, ..low })
        } else if big && high.off + i32::from(high.len) == low.off {
            Some(Self { len, big: true, off: high.off, ..low })
        } else {
            None
        }
    }
}

/// What is known of all registers.
pub(super) struct Known {
    values: [Value; 12],
    epochs: [u32; 12],
    /// Upper bound of the number of significant bits.
    bits: [u8; 12],
    /// Registers with at most 32 significant bits.
    zext: RegSet,
    memory: u32,
}

impl Known {
    pub(super) const fn new() -> Self {
        Self { values: [Value::Unknown; 12], epochs: [0; 12], bits: [64; 12], zext: RegSet::EMPTY, memory: 0 }
    }

    /// Forgets all, at the start of a block.
    pub(super) const fn reset(&mut self) {
        *self = Self::new();
    }

    /// The register as it is now.
    pub(super) fn part(&self, reg: Reg) -> Part {
        Part { reg, epoch: self.epochs.get(reg.index()).copied().unwrap_or(u32::MAX) }
    }

    fn is_current(&self, part: Part) -> bool {
        self.part(part.reg) == part
    }

    /// The value of a register, if its parts still are what they were.
    pub(super) fn value(&self, reg: Reg) -> Value {
        let value = self.values.get(reg.index()).copied().unwrap_or(Value::Unknown);
        let current = match value {
            Value::Unknown | Value::PercpuOff(_) | Value::Percpu(_) => true,
            Value::Sum { base: src, .. } | Value::Low32 { src } | Value::Shifted { src, .. } => self.is_current(src),
            Value::Sum2 { a, b } => self.is_current(a) && self.is_current(b),
            Value::Bytes(bytes) => self.is_current(bytes.base) && bytes.memory == self.memory,
        };
        if current { value } else { Value::Unknown }
    }

    /// `reg` as a register plus a constant: itself plus 0 when nothing better is known.
    pub(super) fn sum(&self, reg: Reg) -> (Part, i32) {
        match self.value(reg) {
            Value::Sum { base, imm } => (base, imm),
            _ => (self.part(reg), 0),
        }
    }

    /// Bytes loaded just now.
    pub(super) fn bytes(&self, base: Reg, off: i32, len: u8, big: bool) -> Value {
        Value::Bytes(Bytes { base: self.part(base), memory: self.memory, off, len, shift: 0, big })
    }

    /// Records a write of `reg`.
    pub(super) fn write(&mut self, reg: Reg, value: Value, bits: u8) {
        let at = reg.index();
        if let (Some(v), Some(e), Some(b)) = (self.values.get_mut(at), self.epochs.get_mut(at), self.bits.get_mut(at)) {
            *v = value;
            *e = e.wrapping_add(1);
            *b = bits;
            let bit = RegSet::of(reg);
            self.zext = if bits <= 32 { self.zext | bit } else { self.zext & !bit };
        }
    }

    /// Significant bits of a register at most.
    pub(super) fn bits(&self, reg: Reg) -> u8 {
        self.bits.get(reg.index()).copied().unwrap_or(64)
    }

    /// Memory may have changed.
    pub(super) const fn clobber_memory(&mut self) {
        self.memory = self.memory.wrapping_add(1);
    }

    /// Registers with at most 32 significant bits.
    pub(super) const fn zext(&self) -> RegSet {
        self.zext
    }
}
