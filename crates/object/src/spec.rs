//! What an object holds, before anything is loaded.
//!
//! Owns [`ObjectSpec`] and its parts: plain data without handles, so it can be changed, cloned and compared. Invariant:
//! indices in it (maps, variables, kfuncs) are in range, and instructions are linked: every program carries all
//! functions it reaches. Kernel counterpart: `struct bpf_object`, tools/lib/bpf/libbpf.c, 6.18.

use std::sync::Arc;

use skep_abi::{MapType, RawInsn};
use skep_btf::{Btf, CoreRelo, FuncInfo, LineInfo, Linkage, TypeId};

use crate::sec::Sec;

/// `src` of an `ld_imm64` whose `imm` is an index into [`ObjectSpec::maps`].
pub const PSEUDO_MAP_FD: u8 = 1;
/// The page size that ring buffers are rounded to, whatever the machine's is.
const PAGE: u32 = 4096;
/// `imm` of a [`PSEUDO_MAP_FD`] that no relocation gave a map: no index is negative.
pub const NO_MAP: i32 = -1;
/// `src` of an `ld_imm64` whose `imm` is an index into [`ObjectSpec::maps`] and whose second `imm` is an offset into the
/// value.
pub const PSEUDO_MAP_VALUE: u8 = 2;
/// `src` of an `ld_imm64` whose `imm` is an index into [`ProgramSpec::ksyms`].
pub const PSEUDO_BTF_ID: u8 = 3;
/// `src` of an `ld_imm64` whose `imm` is the distance to a function, in slots from the next slot.
pub const PSEUDO_FUNC: u8 = 4;
/// `src` of an `ld_imm64` whose `imm` is an index into the `fd_array` of its load. Objects have none.
pub const PSEUDO_MAP_IDX: u8 = 5;
/// The same, whose second `imm` is an offset into the value.
pub const PSEUDO_MAP_IDX_VALUE: u8 = 6;
/// `src` of a call whose `imm` is the distance to a function, in slots from the next slot.
pub const PSEUDO_CALL: u8 = 1;
/// `src` of a call whose `imm` is an index into [`ProgramSpec::kfuncs`].
pub const PSEUDO_KFUNC_CALL: u8 = 2;

/// An object file, parsed and linked.
#[derive(Debug, Clone)]
pub struct ObjectSpec {
    /// The object's name: the file's, up to its first dot.
    pub name: String,
    /// The text of the `license` section; empty if there is none.
    pub license: String,
    /// The number in the `version` section; 0 if there is none.
    pub kern_version: u32,
    /// The programs, in order of section, then offset.
    pub programs: Vec<ProgramSpec>,
    /// The maps: those of `.maps` in order of offset, then those of data sections in order of section.
    pub maps: Vec<MapSpec>,
    /// The variables of the data sections, in order of map, then offset.
    pub variables: Vec<VariableSpec>,
    /// The `.kconfig` and `.ksyms` externs.
    pub externs: Vec<ExternSpec>,
    /// The object's types, with sizes and offsets of data sections filled in.
    pub btf: Option<Arc<Btf>>,
}

/// A program with all functions it reaches.
#[derive(Debug, Clone)]
pub struct ProgramSpec {
    /// Name of its function.
    pub name: String,
    /// Its section, without a leading `?`.
    pub section: String,
    /// What the section's name says; `None` for a name that libbpf does not know.
    pub sec: Option<Sec>,
    /// Slot M of the prog array with id N, for a section `N/M` as iproute2 writes it.
    pub legacy_tail: Option<(u32, u32)>,
    /// Whether to load it with the object: false for a section that starts with `?`.
    pub autoload: bool,
    /// Its instructions: the function itself at 0, then each function that it reaches, once.
    pub insns: Vec<RawInsn>,
    /// Where each function lies in `insns`; the first is the program itself.
    pub subprogs: Vec<SubprogSpec>,
    /// Functions by instruction: `insn_off` counts slots of `insns`. Empty without `.BTF.ext`.
    pub func_info: Vec<FuncInfo>,
    /// Source lines by instruction: `insn_off` counts slots of `insns`.
    pub line_info: Vec<LineInfo>,
    /// CO-RE relocations, not applied: `insn_off` counts slots of `insns`.
    pub core_relos: Vec<CoreRelo>,
    /// Kernel functions that it calls.
    pub kfuncs: Vec<KsymRef>,
    /// Kernel variables that it takes the address of.
    pub ksyms: Vec<KsymRef>,
}

/// A function in a linked program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubprogSpec {
    /// Its name.
    pub name: String,
    /// The section it came from.
    pub section: String,
    /// Its offset in that section, in bytes.
    pub section_offset: u32,
    /// Its first slot in the program.
    pub start: u32,
    /// Its slots.
    pub len: u32,
    /// Its `FUNC`; `None` without `.BTF.ext`.
    pub type_id: Option<TypeId>,
    /// Whether other objects can see it: the verifier checks a global function by itself.
    pub is_global: bool,
}

/// A symbol of the kernel that a program refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KsymRef {
    /// Its name, without a `___flavour`.
    pub name: String,
    /// The local `FUNC` or `VAR`; `None` for one declared `void`.
    pub type_id: Option<TypeId>,
    /// Whether it may be missing.
    pub is_weak: bool,
    /// Whether it is a function rather than a variable.
    pub is_func: bool,
}

/// Where a map comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MapKind {
    /// Defined in `.maps`.
    User,
    /// `.data`, `.data.*`.
    Data,
    /// `.rodata`, `.rodata.*`.
    Rodata,
    /// `.bss`, `.bss.*`.
    Bss,
    /// `.percpu`, `.percpu.*`.
    PerCpu,
    /// The values of `.kconfig` externs.
    Kconfig,
}

impl MapKind {
    /// Whether the map holds variables.
    #[must_use]
    pub fn is_internal(self) -> bool {
        self != Self::User
    }

    /// Whether programs may only read it, and it is frozen when loaded.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        matches!(self, Self::Rodata | Self::Kconfig)
    }
}

/// A map to create.
#[derive(Debug, Clone, PartialEq)]
pub struct MapSpec {
    /// Its name: the variable's or, for an internal map, the section's.
    pub name: String,
    /// The name that the kernel shows: at most 15 bytes, for `.data`, `.rodata` and `.bss` with the object's name before.
    pub kernel_name: String,
    /// Where it comes from.
    pub kind: MapKind,
    /// Number of its type (`enum bpf_map_type`), as the object has it.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Number of entries.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub map_flags: u32,
    /// NUMA node to allocate from, 0 if none is wanted.
    pub numa_node: u32,
    /// Meaning depends on the type.
    pub map_extra: u64,
    /// Whether it is pinned under its name.
    pub pin_by_name: bool,
    /// Type of a key.
    pub key_type: Option<TypeId>,
    /// Type of a value; for an internal map the data section.
    pub value_type: Option<TypeId>,
    /// What the maps in a map of maps look like.
    pub inner: Option<Box<MapSpec>>,
    /// What a map of maps or a prog array holds from the start, in order of slot.
    pub initial_slots: Vec<InitialSlot>,
    /// Initial value of an internal map, `value_size` bytes, and empty for one that is all zero; the global variables of an
    /// arena; empty for other maps of `.maps`.
    pub image: Vec<u8>,
    /// Whether to create it with the object.
    pub autocreate: bool,
}

impl MapSpec {
    /// The entries that it is created with where there are `cpus` CPUs, adjusted as libbpf does: a ring buffer has a power of
    /// two of whole pages, a perf event array that names no size one entry per CPU. `None` for a ring buffer too large for that.
    #[must_use]
    pub fn entries(&self, cpus: u32) -> Option<u32> {
        match MapType::from_u32(self.map_type) {
            Some(MapType::Ringbuf | MapType::UserRingbuf) if self.max_entries > 0 => {
                self.max_entries.max(PAGE).checked_next_power_of_two()
            }
            Some(MapType::PerfEventArray) if self.max_entries == 0 => Some(cpus),
            _ => Some(self.max_entries),
        }
    }

    /// Bytes of the initial value; 0 for a map of `.maps`.
    #[must_use]
    pub fn image_len(&self) -> usize {
        if self.kind.is_internal() { self.value_size as usize } else { 0 }
    }

    /// The global variables that an arena begins with; empty for other maps.
    #[must_use]
    pub fn arena_globals(&self) -> &[u8] {
        if self.kind.is_internal() { &[] } else { &self.image }
    }

    /// The initial value of an internal map, of `value_size` bytes; `None` for a map of `.maps`.
    #[must_use]
    pub fn initial_value(&self) -> Option<std::borrow::Cow<'_, [u8]>> {
        if !self.kind.is_internal() {
            return None;
        }
        let size = self.value_size as usize;
        Some(if self.image.len() == size { (&self.image).into() } else { vec![0; size].into() })
    }
}

/// A slot of a map of maps or of a prog array that the object fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialSlot {
    /// The key.
    pub slot: u32,
    /// What goes there.
    pub target: SlotTarget,
}

/// What an initial slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotTarget {
    /// A map, by its index in [`ObjectSpec::maps`].
    Map(usize),
    /// A program, by its index in [`ObjectSpec::programs`].
    Program(usize),
}

/// A variable in a data section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableSpec {
    /// Its name.
    pub name: String,
    /// Index in [`ObjectSpec::maps`] of the map that holds it.
    pub map: usize,
    /// Where it starts in the map's value, in bytes.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
    /// Its type (not the `VAR`); `None` without BTF.
    pub type_id: Option<TypeId>,
    /// Who can see it; static variables of two files may share a name.
    pub linkage: Linkage,
}

/// A symbol that the object expects from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternSpec {
    /// Its name.
    pub name: String,
    /// Whether it may be missing.
    pub is_weak: bool,
    /// What it is.
    pub kind: ExternKind,
}

/// What an extern is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternKind {
    /// A value of the kernel's configuration, stored in the `.kconfig` map.
    Kconfig {
        /// Index in [`ObjectSpec::maps`].
        map: usize,
        /// Where it lies in the map's value.
        offset: u32,
        /// Its size.
        size: u32,
        /// Its type.
        type_id: TypeId,
        /// Whether it has a value; an unset weak one is 0.
        is_set: bool,
    },
    /// A kernel function.
    Func,
    /// A kernel variable.
    Var,
}
