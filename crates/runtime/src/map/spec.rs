//! What a map is made from, and the checks that every type shares.
//!
//! Invariant: a [`MapSpec`] that passed its type's check cannot make a later allocation overflow. The order of the
//! checks is the kernel's, so that a spec with several faults gets the kernel's errno.
//! Kernel counterpart: `map_create`, `bpf_map_alloc_check` (kernel/bpf/syscall.c, 6.18).

use std::fmt;
use std::sync::Arc;

use skep_abi::map_flags::{
    BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_RDONLY, BPF_F_RDONLY_PROG, BPF_F_WRONLY, BPF_F_WRONLY_PROG,
};
use skep_abi::{Errno, MapType};
use skep_btf::Btf;

use super::Map;
use crate::object::{OwningField, Owns};

/// Bytes of a map's name, without the terminating NUL.
const NAME_MAX: usize = 15;

/// The largest allocation that the kernel makes in one piece (`KMALLOC_MAX_SIZE` on x86-64 and arm64).
pub(crate) const KMALLOC_MAX: u64 = 4 << 20;

/// The largest per-CPU value (`PCPU_MIN_UNIT_SIZE`).
pub(crate) const PERCPU_VALUE_MAX: u32 = 32 << 10;

/// The flags of a map that say who may read or write it.
pub(crate) const ACCESS_FLAGS: u32 = BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;

/// The flags that say what users may do.
pub(crate) const USER_FLAGS: u32 = BPF_F_RDONLY | BPF_F_WRONLY;

/// What a map is made from (`union bpf_attr` of BPF_MAP_CREATE).
#[derive(Clone, Default)]
pub struct MapSpec {
    /// At most 15 bytes of letters, digits, `_` and `.`.
    pub name: String,
    /// The kind of map; `None` is refused, as the kernel refuses type 0.
    pub map_type: Option<MapType>,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// The most elements that the map can hold; bytes for a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_*` of [`skep_abi::map_flags`].
    pub flags: u32,
    /// The number of hash functions of a Bloom filter; 0 for every other type.
    pub map_extra: u64,
    /// The template of the maps that a map of maps holds.
    pub inner: Option<Map>,
    /// The special fields in values.
    pub record: Record,
    /// The types of keys and values, for dumps.
    pub btf: Option<MapBtf>,
    /// Put the values of an array with `BPF_F_MMAPABLE` into a file in memory
    /// ([`Array::take_file`](super::array::Array::take_file)).
    pub shared: bool,
}

/// The types of a map's keys and values.
#[derive(Clone)]
pub struct MapBtf {
    /// Where the types are.
    pub btf: Arc<Btf>,
    /// The key's type; 0 for none.
    pub key_type: u32,
    /// The value's type; 0 for none.
    pub value_type: u32,
}

impl fmt::Debug for MapBtf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapBtf")
            .field("key_type", &self.key_type)
            .field("value_type", &self.value_type)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MapSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapSpec")
            .field("name", &self.name)
            .field("map_type", &self.map_type)
            .field("key_size", &self.key_size)
            .field("value_size", &self.value_size)
            .field("max_entries", &self.max_entries)
            .field("flags", &format_args!("{:#x}", self.flags))
            .finish_non_exhaustive()
    }
}

impl MapSpec {
    /// A spec without name and flags.
    #[must_use]
    pub fn new(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> MapSpec {
        MapSpec { map_type: Some(map_type), key_size, value_size, max_entries, ..MapSpec::default() }
    }

    /// With this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> MapSpec {
        name.clone_into(&mut self.name);
        self
    }

    /// With these flags.
    #[must_use]
    pub fn flags(mut self, flags: u32) -> MapSpec {
        self.flags = flags;
        self
    }

    /// With this template for its maps.
    #[must_use]
    pub fn inner(mut self, inner: Map) -> MapSpec {
        self.inner = Some(inner);
        self
    }

    /// The checks before the type's own ones; the type.
    pub(crate) fn check_common(&self) -> Result<MapType, Errno> {
        let map_type = self.map_type.ok_or(Errno::EINVAL)?;
        if map_type != MapType::BloomFilter && map_type != MapType::Arena && self.map_extra != 0 {
            return Err(Errno::EINVAL);
        }
        if self.flags & (BPF_F_RDONLY | BPF_F_WRONLY) == BPF_F_RDONLY | BPF_F_WRONLY {
            return Err(Errno::EINVAL);
        }
        if self.inner.is_some() && !map_type.is_map_of_maps() {
            return Err(Errno::EINVAL);
        }
        Ok(map_type)
    }

    /// The check of the name, which the kernel makes after it has made the map.
    pub(crate) fn check_name(&self) -> Result<(), Errno> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        if self.name.len() <= NAME_MAX && self.name.bytes().all(allowed) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Refuses flags that the type does not know, and both program-side access flags at once.
    pub(crate) fn check_flags(&self, known: u32) -> Result<(), Errno> {
        let both = BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;
        if self.flags & !known != 0 || self.flags & both == both { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Whether a flag is set.
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// What everybody may know about a map (`struct bpf_map_info`).
#[derive(Debug, Clone)]
pub struct MapInfo {
    /// Unique in the process.
    pub id: u32,
    /// The name; empty if it has none.
    pub name: String,
    /// The kind of map.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value, of one CPU.
    pub value_size: u32,
    /// The most elements that the map can hold.
    pub max_entries: u32,
    /// The flags, with those that the type adds and without those that say what users may do.
    pub flags: u32,
    /// `BPF_F_RDONLY` or `BPF_F_WRONLY`: what users may do.
    pub user_flags: u32,
    /// The number of hash functions of a Bloom filter.
    pub map_extra: u64,
    /// The special fields in values.
    pub record: Record,
    /// The types of keys and values.
    pub btf: Option<MapBtf>,
    /// How many CPUs a per-CPU value has copies for.
    pub n_cpus: u32,
    /// The template of a map of maps.
    pub inner: Option<Box<MapInfo>>,
}

impl MapInfo {
    pub(crate) fn new(spec: &MapSpec, map_type: MapType, id: u32, n_cpus: u32) -> MapInfo {
        MapInfo {
            id,
            name: spec.name.clone(),
            map_type,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            flags: spec.flags & !USER_FLAGS,
            user_flags: spec.flags & USER_FLAGS,
            map_extra: spec.map_extra,
            record: spec.record.clone(),
            btf: spec.btf.clone(),
            n_cpus,
            inner: None,
        }
    }

    /// Bytes of the value that the user side reads and writes without `BPF_F_CPU`: all CPUs' values of a per-CPU map,
    /// each rounded up to 8, or the value.
    #[must_use]
    pub fn user_value_size(&self) -> usize {
        if self.map_type.is_percpu() {
            self.percpu_stride() * self.n_cpus as usize
        } else if self.holds_references() {
            4
        } else {
            self.value_size as usize
        }
    }

    /// Bytes from one CPU's value to the next in the user's buffer.
    #[must_use]
    pub fn percpu_stride(&self) -> usize {
        (self.value_size as usize).next_multiple_of(8)
    }

    /// Whether values are references to programs, maps or events, shown to the user as numbers.
    #[must_use]
    pub fn holds_references(&self) -> bool {
        matches!(
            self.map_type,
            MapType::ProgArray
                | MapType::PerfEventArray
                | MapType::CgroupArray
                | MapType::ArrayOfMaps
                | MapType::HashOfMaps
        )
    }

    /// Whether a map of this shape may stand where the template does (`bpf_map_meta_equal`).
    pub(crate) fn fits_template(&self, template: &MapInfo) -> bool {
        let same = self.map_type == template.map_type
            && self.key_size == template.key_size
            && self.value_size == template.value_size
            && self.flags == template.flags
            && self.record == template.record;
        // The addresses of array elements are computed from the template by code that was compiled for it.
        let sized = matches!(self.map_type, MapType::Array | MapType::PercpuArray);
        match self.map_type {
            MapType::Array if template.flags & BPF_F_INNER_MAP != 0 => same,
            _ if sized => same && self.max_entries == template.max_entries,
            _ => same,
        }
    }

    /// Whether the user may map the values into memory.
    #[must_use]
    pub fn is_mmapable(&self) -> bool {
        self.flags & BPF_F_MMAPABLE != 0
    }
}

/// What a special field of a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldKind {
    /// `struct bpf_spin_lock`.
    SpinLock,
    /// `struct bpf_res_spin_lock`.
    ResSpinLock,
    /// `struct bpf_timer`.
    Timer,
    /// `struct bpf_wq`.
    Workqueue,
    /// A pointer to a kernel object (`__kptr`, `__kptr_untrusted`).
    Kptr,
    /// `struct bpf_list_head`.
    ListHead {
        /// Offset of the node in the objects that it holds.
        node: u32,
    },
    /// `struct bpf_list_node`.
    ListNode,
    /// `struct bpf_rb_root`.
    RbRoot {
        /// Offset of the node in the objects that it holds.
        node: u32,
    },
    /// `struct bpf_rb_node`.
    RbNode,
    /// `struct bpf_refcount`.
    Refcount,
}

/// A field that programs use through helpers only, so that updates leave it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpecialField {
    /// What it is.
    pub kind: FieldKind,
    /// Bytes from the start of the value.
    pub offset: u32,
    /// Bytes of the field.
    pub size: u32,
}

/// The special fields of a value, by offset (`struct btf_record`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record(Vec<SpecialField>);

impl Record {
    /// A record of these fields for values of `value_size` bytes.
    ///
    /// # Errors
    /// `EINVAL` if a field is unaligned or outside the value, or two overlap.
    pub fn new(mut fields: Vec<SpecialField>, value_size: u32) -> Result<Record, Errno> {
        fields.sort_by_key(|field| field.offset);
        let mut end = 0;
        for field in &fields {
            let align = if field.size >= 8 { 8 } else { 4 };
            if field.size == 0 || !field.offset.is_multiple_of(align) || field.offset < end {
                return Err(Errno::EINVAL);
            }
            end = field.offset.checked_add(field.size).ok_or(Errno::EINVAL)?;
        }
        if end > value_size { Err(Errno::EINVAL) } else { Ok(Record(fields)) }
    }

    /// The fields, by offset.
    #[must_use]
    pub fn fields(&self) -> &[SpecialField] {
        &self.0
    }

    /// What values own.
    pub(crate) fn owning(&self) -> Vec<OwningField> {
        let owns = |field: &SpecialField| match field.kind {
            FieldKind::Kptr => Some(Owns::One),
            FieldKind::ListHead { node } => Some(Owns::List(node)),
            FieldKind::RbRoot { node } => Some(Owns::Tree(node)),
            _ => None,
        };
        let fields = self.0.iter().filter_map(|field| Some(OwningField { offset: field.offset, owns: owns(field)? }));
        fields.collect()
    }

    /// Where the `bpf_spin_lock` is.
    #[must_use]
    pub fn spin_lock(&self) -> Option<u32> {
        self.0.iter().find(|field| field.kind == FieldKind::SpinLock).map(|field| field.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_the_kernel_does() {
        let spec = MapSpec::new(MapType::Array, 4, 4, 1);
        for good in ["", "a", "a.b_C9", "123456789012345"] {
            assert_eq!(spec.clone().name(good).check_name(), Ok(()), "{good}");
        }
        for bad in ["1234567890123456", "a b", "a-b", "é"] {
            assert_eq!(spec.clone().name(bad).check_name(), Err(Errno::EINVAL), "{bad}");
        }
    }

    #[test]
    fn records_are_checked() {
        let field = |kind, offset, size| SpecialField { kind, offset, size };
        let lock = field(FieldKind::SpinLock, 4, 4);
        let timer = field(FieldKind::Timer, 8, 16);
        assert_eq!(Record::new(vec![timer, lock], 24).unwrap().fields(), [lock, timer]);
        assert_eq!(Record::new(vec![timer, lock], 24).unwrap().spin_lock(), Some(4));
        for bad in [
            vec![field(FieldKind::SpinLock, 2, 4)],
            vec![field(FieldKind::Timer, 4, 16)],
            vec![timer, field(FieldKind::SpinLock, 12, 4)],
            vec![field(FieldKind::SpinLock, 24, 4)],
            vec![field(FieldKind::SpinLock, u32::MAX - 3, 4)],
        ] {
            assert_eq!(Record::new(bad.clone(), 24), Err(Errno::EINVAL), "{bad:?}");
        }
    }
}
