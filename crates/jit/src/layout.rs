//! What compiled code must know of the process it will run in: addresses and offsets, as values.
//!
//! Owns the input beside the program. Invariant: no pointer is followed here, so the same layout gives the same bytes on any
//! host, and tests make layouts up.

use std::collections::BTreeMap;

/// Addresses and offsets that end up in the machine code.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Offset of the tail-call counter (`u32`) from the vCPU's base.
    pub tail_calls: i32,
    /// Offset of the vCPU's number (`u32`) from its base.
    pub cpu_id: i32,
    /// Addresses of helpers by id: `extern "sysv64" fn(r1, r2, r3, r4, r5, cpu_base) -> u64`.
    pub helpers: BTreeMap<u32, u64>,
    /// Addresses of kfuncs by the program's own index, with the helpers' signature.
    pub kfuncs: Vec<u64>,
    /// `extern "sysv64" fn(ctx, offset, size, _, _, cpu_base) -> i64`: a packet load; negative ends the program with 0.
    pub ld_abs: u64,
    /// The used maps, by index.
    pub maps: Vec<MapLayout>,
    /// Offset from the vCPU's base of this program's [`StatsLayout`] words; without it there is no statistics site.
    pub stats: Option<i64>,
    /// What the program is.
    pub role: Role,
    /// How timestamps become nanoseconds; without it statistics call the helper `bpf_ktime_get_ns`.
    pub tsc: Option<TscScale>,
}

/// What a program is in relation to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// Entered by runs and tail calls; its functions stay as they are.
    #[default]
    Program,
    /// The same, and its replaceable functions (the program itself among them) begin with a site each, where another
    /// function can be put in their place.
    Replaceable,
    /// Takes the place of a function of another program: it is entered as a subprogram is.
    Extension,
}

/// Byte offsets of the words at [`Layout::stats`].
#[derive(Clone, Copy, Debug)]
pub struct StatsLayout;

impl StatsLayout {
    /// `u64` number of runs.
    pub const RUN_CNT: i64 = 0;
    /// `u64` nanoseconds.
    pub const RUN_TIME_NS: i64 = 8;
}

/// `ns = cycles * mult >> shift`, in 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscScale {
    /// Multiplier.
    pub mult: u32,
    /// Shift, at most 63.
    pub shift: u8,
}

/// One map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapLayout {
    /// Address that helpers get as the map.
    pub object: u64,
    /// How compiled code reaches it without a helper.
    pub access: MapAccess,
}

/// Direct access to a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapAccess {
    /// Values in one block.
    Array {
        /// Address of the first.
        values: u64,
        /// Bytes from one to the next.
        stride: u32,
        /// Number of entries.
        max_entries: u32,
    },
    /// Values in one block per vCPU.
    PerCpuArray {
        /// Offset of the first from the vCPU's base.
        off: u64,
        /// Bytes from one to the next.
        stride: u32,
        /// Number of entries.
        max_entries: u32,
    },
    /// Tail-call targets.
    ProgArray {
        /// Address of `[AtomicU64; max_entries]`: 0, or the callee's `tail_entry`.
        targets: u64,
        /// Number of entries.
        max_entries: u32,
    },
    /// A hash table with a lookup function of its own, in the helpers' signature.
    Hash {
        /// Its address.
        lookup: u64,
    },
    /// Memory that pointers of 32 bits lead into.
    Arena {
        /// Where a pointer of 0 would lead: a multiple of 4 GiB. The table of pages lies below ([`ArenaTable`]).
        base: u64,
        /// The address of the first page, as user space knows it: base, and a low half.
        start: u64,
    },
    /// Helpers only.
    Opaque,
}

/// Where the table of an arena's pages is, which has a byte for each that is not 0 if the page is there.
#[derive(Clone, Copy, Debug)]
pub struct ArenaTable;

impl ArenaTable {
    /// What is added to the place of a byte, counted from the arena's base, before its page is numbered.
    pub const GUARD: i32 = 1 << 16;
    /// Bytes of the table.
    pub const BYTES: i32 = 0x0010_1000;
    /// The table's first byte, counted from the arena's base.
    pub const OFFSET: i32 = -(Self::BYTES + Self::GUARD);
    /// Bits of a place in a page.
    pub const PAGE_BITS: u8 = 12;
}

/// Byte offsets in a prog array's object (at [`MapLayout::object`]), for tail calls through a map not known at load.
#[derive(Clone, Copy, Debug)]
pub struct ProgArrayObject;

impl ProgArrayObject {
    /// `u64` address of the targets.
    pub const TARGETS: i32 = 0;
    /// `u32` number of entries.
    pub const MAX_ENTRIES: i32 = 8;
}
