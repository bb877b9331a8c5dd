//! Maps: create, the element commands and the batch commands.
//!
//! Keys and values are byte strings of the map's own sizes; a per-CPU value is the concatenation of all possible CPUs'
//! values, each rounded up to 8 bytes, as the kernel copies it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use skep_abi::{Errno, MapType, info};

use super::{object_name, possible_cpus, sys, until_nul};

/// Flags under which a value of a per-CPU map is that of one CPU.
const ONE_VALUE: u64 = skep_abi::update_flags::BPF_F_CPU | skep_abi::update_flags::BPF_F_ALL_CPUS;

/// What BPF_MAP_CREATE takes. Start from [`MapCreate::new`].
#[derive(Clone, Debug)]
pub struct MapCreate<'a> {
    /// Map type.
    pub map_type: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// See [`skep_abi::map_flags`].
    pub flags: u32,
    /// Object name, at most 15 bytes.
    pub name: &'a str,
    /// Template of the values of a map of maps.
    pub inner_map: Option<RawFd>,
    /// BTF descriptor, type ids of key and value.
    pub btf: Option<(RawFd, u32, u32)>,
    /// NUMA node, with `BPF_F_NUMA_NODE`.
    pub numa_node: u32,
    /// Type-specific extra word.
    pub map_extra: u64,
}

impl MapCreate<'_> {
    /// A map without flags, name and BTF.
    #[must_use]
    pub fn new(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Self {
        Self {
            map_type,
            key_size,
            value_size,
            max_entries,
            flags: 0,
            name: "",
            inner_map: None,
            btf: None,
            numa_node: 0,
            map_extra: 0,
        }
    }

    /// Creates it.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn create(&self) -> Result<Map, Errno> {
        let (btf_fd, btf_key_type_id, btf_value_type_id) = self.btf.unwrap_or_default();
        let mut attr = sys::MapCreateAttr {
            map_type: self.map_type as u32,
            key_size: self.key_size,
            value_size: self.value_size,
            max_entries: self.max_entries,
            map_flags: self.flags,
            inner_map_fd: self.inner_map.map_or(0, i32::cast_unsigned),
            numa_node: self.numa_node,
            map_name: object_name(self.name),
            btf_fd: btf_fd.cast_unsigned(),
            btf_key_type_id,
            btf_value_type_id,
            map_extra: self.map_extra,
            ..Default::default()
        };
        // SAFETY: the attribute holds no address.
        let fd = unsafe { sys::bpf_fd(sys::MAP_CREATE, &mut attr) }?;
        Ok(Map::new(fd, self.map_type, self.key_size, self.value_size))
    }
}

/// A map in the kernel; closing it frees it.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    map_type: MapType,
    key_len: usize,
    value_len: usize,
    value_size: usize,
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Elements of a batch command: `count` keys and values, one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// Keys.
    pub keys: Vec<u8>,
    /// Values.
    pub values: Vec<u8>,
    /// How many elements were done.
    pub count: u32,
    /// Where the next batch continues.
    pub next: Vec<u8>,
    /// `Some(ENOENT)` when this was the last batch.
    pub end: Option<Errno>,
}

/// Part of `struct bpf_map_info`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapInfo {
    /// Id.
    pub id: u32,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Flags.
    pub flags: u32,
    /// Name.
    pub name: String,
}

impl Map {
    fn new(fd: OwnedFd, map_type: MapType, key_size: u32, value_size: u32) -> Self {
        let value_len = if map_type.is_percpu() {
            (value_size as usize).next_multiple_of(8).saturating_mul(possible_cpus())
        } else if map_type.is_map_of_maps() {
            4
        } else {
            value_size as usize
        };
        Self { fd, map_type, key_len: key_size as usize, value_len, value_size: value_size as usize }
    }

    /// A map that something else created.
    ///
    /// # Errors
    /// The errno of asking the kernel for its sizes; `EINVAL` for a type that is not known here.
    pub fn adopt(fd: OwnedFd) -> Result<Self, Errno> {
        let unsized_map = Self::new(fd, MapType::Array, 0, 0);
        let info = unsized_map.info()?;
        let map_type = MapType::from_u32(info.map_type).ok_or(Errno::EINVAL)?;
        Ok(Self::new(unsized_map.fd, map_type, info.key_size, info.value_size))
    }

    /// Its descriptor, for `ld_imm64` map references.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Bytes of a value as the commands copy it: all CPUs' for a per-CPU map.
    #[must_use]
    pub fn value_len(&self) -> usize {
        self.value_len
    }

    /// BPF_MAP_LOOKUP_ELEM.
    ///
    /// # Errors
    /// The errno of the call, `ENOENT` when the key is absent; `EINVAL` for a key of another length.
    pub fn lookup(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.copy_out(sys::MAP_LOOKUP_ELEM, key, flags)
    }

    /// BPF_MAP_LOOKUP_AND_DELETE_ELEM; queues and stacks take an empty key.
    ///
    /// # Errors
    /// As [`Map::lookup`].
    pub fn lookup_and_delete(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.copy_out(sys::MAP_LOOKUP_AND_DELETE_ELEM, key, flags)
    }

    fn copy_out(&self, cmd: i64, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.check_key(key)?;
        let mut value = vec![0u8; self.value_len];
        let mut attr = self.elem(sys::address(key), sys::address_mut(&mut value), flags);
        if self.map_type == MapType::BloomFilter {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the key and the value have the map's lengths and outlive the call.
        unsafe { sys::bpf(cmd, &mut attr) }?;
        if flags & ONE_VALUE != 0 {
            value.truncate(self.value_size);
        }
        Ok(value)
    }

    /// BPF_MAP_LOOKUP_ELEM of a Bloom filter: whether the value may be in it.
    ///
    /// # Errors
    /// The errno of the call, `ENOENT` when the value is not there; `EINVAL` for a value of another length.
    pub fn has(&self, value: &[u8]) -> Result<(), Errno> {
        if value.len() != self.value_len {
            return Err(Errno::EINVAL);
        }
        let mut value = value.to_vec();
        let mut attr = self.elem(0, sys::address_mut(&mut value), 0);
        // SAFETY: the value has the map's length and outlives the call.
        unsafe { sys::bpf(sys::MAP_LOOKUP_ELEM, &mut attr) }.map(drop)
    }

    /// BPF_MAP_UPDATE_ELEM.
    ///
    /// # Errors
    /// The errno of the call; `EINVAL` for a key or value of another length.
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.check_key(key)?;
        if value.len() < self.len_under(flags) {
            return Err(Errno::EINVAL);
        }
        let mut attr = self.elem(sys::address(key), sys::address(value), flags);
        // SAFETY: the key and the value have at least the map's lengths and outlive the call.
        unsafe { sys::bpf(sys::MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Sets element 0 of an array, in a per-CPU map for every CPU.
    ///
    /// # Errors
    /// As for [`Map::update`].
    pub fn fill(&self, value: &[u8]) -> Result<(), Errno> {
        if !self.map_type.is_percpu() {
            return self.update(&[0; 4], value, 0);
        }
        match self.update(&[0; 4], value, skep_abi::update_flags::BPF_F_ALL_CPUS) {
            Err(Errno::EINVAL) => {}
            done => return done,
        }
        // Before Linux 7.0, an update gives every CPU's value.
        let mut one = value.to_vec();
        one.resize(one.len().next_multiple_of(8), 0);
        self.update(&[0; 4], &one.repeat(possible_cpus()), 0)
    }

    /// BPF_MAP_DELETE_ELEM.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.check_key(key)?;
        let mut attr = self.elem(sys::address(key), 0, 0);
        // SAFETY: the key has the map's length and outlives the call.
        unsafe { sys::bpf(sys::MAP_DELETE_ELEM, &mut attr) }.map(drop)
    }

    /// BPF_MAP_GET_NEXT_KEY; `None` asks for the first key.
    ///
    /// # Errors
    /// The errno of the call, `ENOENT` after the last key.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        if let Some(key) = key {
            self.check_key(key)?;
        }
        let mut next = vec![0u8; self.key_len];
        let mut attr = self.elem(key.map_or(0, sys::address), sys::address_mut(&mut next), 0);
        // SAFETY: both keys have the map's length and outlive the call.
        unsafe { sys::bpf(sys::MAP_GET_NEXT_KEY, &mut attr) }?;
        Ok(next)
    }

    /// All keys, in the kernel's order.
    ///
    /// # Errors
    /// The errno of BPF_MAP_GET_NEXT_KEY, except the `ENOENT` that ends the list.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            match self.next_key(keys.last().map(Vec::as_slice)) {
                Ok(key) => keys.push(key),
                Err(Errno::ENOENT) => return Ok(keys),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Maps an arena into this process, at the address that it was made for or anywhere, for as long as it takes to copy what it
    /// begins with: the kernel then takes that for its address.
    ///
    /// # Errors
    /// The errno of mmap(2).
    pub fn fill_arena(&self, pages: u32, at: u64, globals: &[u8]) -> Result<(), Errno> {
        let len = pages as usize * 4096;
        let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
        let wanted = std::ptr::with_exposed_provenance_mut(usize::try_from(at).map_err(|_| Errno::EINVAL)?);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping, where nothing else is.
        let start = unsafe { libc::mmap(wanted, len, access, libc::MAP_SHARED | fixed, self.fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)));
        }
        // SAFETY: the mapping is that long, and nobody else knows it.
        unsafe { std::ptr::copy_nonoverlapping(globals.as_ptr(), start.cast(), globals.len().min(len)) };
        // SAFETY: the mapping that was just made.
        let unmapped = unsafe { libc::munmap(start, len) };
        assert_eq!(unmapped, 0, "a mapping of ours can be unmapped");
        Ok(())
    }

    /// BPF_MAP_FREEZE.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn freeze(&self) -> Result<(), Errno> {
        let mut attr = sys::ElemAttr { map_fd: self.fd.as_raw_fd().cast_unsigned(), ..Default::default() };
        // SAFETY: the attribute holds no address.
        unsafe { sys::bpf(sys::MAP_FREEZE, &mut attr) }.map(drop)
    }

    /// BPF_MAP_LOOKUP_BATCH, with `delete` BPF_MAP_LOOKUP_AND_DELETE_BATCH, of at most `count` elements.
    ///
    /// # Errors
    /// The errno of the call; `ENOENT`, which ends the map, is in [`Batch::end`].
    pub fn lookup_batch(&self, from: Option<&[u8]>, count: u32, delete: bool) -> Result<Batch, Errno> {
        self.lookup_batch_with(from, count, delete, 0)
    }

    /// As [`Map::lookup_batch`], with flags for each element.
    ///
    /// # Errors
    /// As for [`Map::lookup_batch`].
    pub fn lookup_batch_with(&self, from: Option<&[u8]>, count: u32, delete: bool, flags: u64) -> Result<Batch, Errno> {
        let room = count as usize;
        let mut keys = vec![0u8; self.key_len * room];
        let mut values = vec![0u8; self.value_len * room];
        // A hash's cursor is a 4-byte bucket number, whatever the key's length.
        let cursor = self.key_len.max(4);
        let mut next = vec![0u8; cursor];
        if from.is_some_and(|from| from.len() < cursor) {
            return Err(Errno::EINVAL);
        }
        let mut attr = sys::BatchAttr {
            in_batch: from.map_or(0, sys::address),
            out_batch: sys::address_mut(&mut next),
            keys: sys::address_mut(&mut keys),
            values: sys::address_mut(&mut values),
            count,
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            elem_flags: flags,
            ..Default::default()
        };
        let cmd = if delete { sys::MAP_LOOKUP_AND_DELETE_BATCH } else { sys::MAP_LOOKUP_BATCH };
        // SAFETY: keys and values have room for `count` elements, the cursors for a key or a bucket number.
        let end = match unsafe { sys::bpf(cmd, &mut attr) } {
            Ok(_) => None,
            Err(Errno::ENOENT) => Some(Errno::ENOENT),
            Err(errno) => return Err(errno),
        };
        let done = attr.count as usize;
        keys.truncate(done * self.key_len);
        values.truncate(done * self.len_under(flags));
        Ok(Batch { keys, values, count: attr.count, next, end })
    }

    /// BPF_MAP_UPDATE_BATCH.
    ///
    /// # Errors
    /// The errno of the call and how many elements were done before it.
    pub fn update_batch(&self, keys: &[u8], values: &[u8], elem_flags: u64) -> Result<u32, (Errno, u32)> {
        let count = keys.len() / self.key_len.max(1);
        if values.len() < count * self.len_under(elem_flags) {
            return Err((Errno::EINVAL, 0));
        }
        let mut attr = sys::BatchAttr {
            keys: sys::address(keys),
            values: sys::address(values),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            elem_flags,
            ..Default::default()
        };
        // SAFETY: keys and values hold `count` elements and outlive the call.
        let result = unsafe { sys::bpf(sys::MAP_UPDATE_BATCH, &mut attr) };
        result.map(|_| attr.count).map_err(|errno| (errno, attr.count))
    }

    /// BPF_MAP_DELETE_BATCH.
    ///
    /// # Errors
    /// The errno of the call and how many elements were done before it.
    pub fn delete_batch(&self, keys: &[u8]) -> Result<u32, (Errno, u32)> {
        let mut attr = sys::BatchAttr {
            keys: sys::address(keys),
            count: u32::try_from(keys.len() / self.key_len.max(1)).unwrap_or(u32::MAX),
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            ..Default::default()
        };
        // SAFETY: keys holds `count` keys and outlives the call.
        let result = unsafe { sys::bpf(sys::MAP_DELETE_BATCH, &mut attr) };
        result.map(|_| attr.count).map_err(|errno| (errno, attr.count))
    }

    /// What the kernel tells about it.
    ///
    /// # Errors
    /// The errno of BPF_OBJ_GET_INFO_BY_FD.
    pub fn info(&self) -> Result<MapInfo, Errno> {
        let mut raw = info::MapInfo::default();
        let mut attr = sys::InfoAttr {
            bpf_fd: self.fd.as_raw_fd().cast_unsigned(),
            info_len: u32::try_from(size_of::<info::MapInfo>()).unwrap_or(u32::MAX),
            info: std::ptr::from_mut(&mut raw).addr() as u64,
        };
        // SAFETY: `info` is `raw` with its size.
        unsafe { sys::bpf(sys::OBJ_GET_INFO_BY_FD, &mut attr) }?;
        Ok(MapInfo {
            id: raw.id,
            map_type: raw.map_type,
            key_size: raw.key_size,
            value_size: raw.value_size,
            max_entries: raw.max_entries,
            flags: raw.map_flags,
            name: until_nul(&raw.name),
        })
    }

    /// Bytes of a value under these flags.
    fn len_under(&self, flags: u64) -> usize {
        if flags & ONE_VALUE == 0 { self.value_len } else { self.value_size }
    }

    fn elem(&self, key: u64, value: u64, flags: u64) -> sys::ElemAttr {
        sys::ElemAttr { map_fd: self.fd.as_raw_fd().cast_unsigned(), pad: 0, key, value, flags }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Errno> {
        if key.len() == self.key_len { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
