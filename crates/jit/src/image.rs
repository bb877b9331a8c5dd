//! The compiled program: bytes, and all that is needed to place, patch, list and explain them.
//!
//! Owns the output. Invariant: offsets are into [`Image::bytes`]; placed at any 64-byte-aligned address and with its
//! relocations applied, the image runs. Kernel counterpart: `struct bpf_binary_header` and `struct jit_context`.

/// Machine code and its tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The code, to be placed at a multiple of 64.
    pub bytes: Vec<u8>,
    /// Where a run enters: `extern "sysv64" fn(ctx, cpu_base) -> u64`.
    pub entry: u32,
    /// Where a tail call enters: registers and stack as at `entry`, past the sites for statistics and replacement.
    pub tail_entry: u32,
    /// Of an extension: where it is entered in place of a function, with arguments in the registers of r1 to r5 and the
    /// vCPU's base where subprograms have it.
    pub function_entry: Option<u32>,
    /// What to add once addresses are known.
    pub relocations: Vec<Reloc>,
    /// Places that are patched while the code runs, in ascending order.
    pub sites: Vec<PatchSite>,
    /// Start of each instruction's code and its xlated slot, ascending by offset.
    pub lines: Vec<(u32, u32)>,
    /// Subprograms in program order; the first is the program.
    pub subprogs: Vec<ImageSubprog>,
}

/// One relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloc {
    /// Offset of the field.
    pub at: u32,
    /// Its form.
    pub kind: RelocKind,
    /// What it refers to.
    pub target: RelocTarget,
}

/// Form of a relocated field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelocKind {
    /// Signed 32-bit displacement from the end of the field (x86-64).
    Rel32,
    /// 64-bit address.
    Abs64,
    /// 26-bit word displacement of `b` or `bl`, from the instruction (arm64).
    Branch26,
}

/// Target of a relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelocTarget {
    /// An address outside.
    Addr(u64),
    /// An offset in this image.
    Image(u32),
}

/// A patchable instruction: a 5-byte no-op (4 bytes on arm64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchSite {
    /// Offset.
    pub offset: u32,
    /// Length in bytes.
    pub len: u8,
    /// What it is for.
    pub kind: SiteKind,
}

/// Purpose of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Statistics: a jump to `stub` while they are on.
    Stats {
        /// Offset of the counting stub.
        stub: u32,
    },
    /// The start of a replaceable function: a no-op, or a jump to what takes its place. In the program itself that is the
    /// `entry` of an extension, in a subprogram its `function_entry`.
    Function {
        /// Index in [`Image::subprogs`].
        subprog: u32,
    },
    /// A poked tail call. While the slot is empty it is a no-op and the program goes on; otherwise a jump to `stub`, which
    /// counts, unwinds and goes through the [`SiteKind::PokeTarget`] site of the same index.
    PokeGate {
        /// Index in the program's poke table.
        index: u16,
        /// Offset of the unwinding stub.
        stub: u32,
    },
    /// The last jump of a poked tail call: to the target's `tail_entry`. It must hold a jump before its gate is opened, and
    /// keeps it (stale, never entered by new runs) when the gate closes.
    PokeTarget {
        /// Index in the program's poke table.
        index: u16,
    },
}

/// Code range of one subprogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSubprog {
    /// First byte.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// Its first xlated slot.
    pub slot: u32,
    /// Name; empty when unknown.
    pub name: String,
    /// Bytes of stack that it takes, its return address included.
    pub stack: u32,
}
