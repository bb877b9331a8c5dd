//! The user side of a map: the element commands of bpf(2), from any thread.
//!
//! Here is what all types share: the order of the checks, permissions, key and value sizes, the flags that select a
//! CPU. Invariant: a type's `user_*` method gets slices of exactly the sizes that the flags imply.
//! Kernel counterpart: `map_lookup_elem`, `map_update_elem`, … (kernel/bpf/syscall.c, 6.18), `bpf_map_check_op_flags`
//! (include/linux/bpf.h, 7.0).

use skep_abi::map_flags::BPF_F_WRONLY;
use skep_abi::update_flags::{BPF_F_ALL_CPUS, BPF_F_CPU, BPF_F_LOCK};
use skep_abi::{Errno, MapType};

use super::Map;
use super::ops::Slot;

impl Map {
    /// The value of a key (BPF_MAP_LOOKUP_ELEM). A per-CPU map gives the values of all CPUs, each rounded up to 8 bytes,
    /// or with `BPF_F_CPU` and a CPU in the upper 32 bits of `flags` the one value. A reference reads as its id.
    ///
    /// # Errors
    /// `ENOENT` if the key is not there, `EPERM` for a map that users may not read, `EINVAL` for flags that the map does not
    /// know, `ERANGE` for a CPU that does not exist.
    pub fn lookup(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        let mut value = Vec::new();
        self.lookup_into(key, &mut value, flags)?;
        Ok(value)
    }

    /// As [`Map::lookup`], into a buffer that is cleared first. For a Bloom filter the buffer holds the value to look for.
    ///
    /// # Errors
    /// As for [`Map::lookup`].
    pub fn lookup_into(&self, key: &[u8], value: &mut Vec<u8>, flags: u64) -> Result<(), Errno> {
        self.check_flags(flags, BPF_F_LOCK | BPF_F_CPU)?;
        self.readable()?;
        self.check_key(key)?;
        let size = self.value_size(flags);
        if self.info().map_type == MapType::BloomFilter {
            if value.len() != size {
                return Err(Errno::EINVAL);
            }
            // SAFETY: the buffer has the value's size.
            return unsafe { self.object().ops().peek(value.as_mut_ptr()) };
        }
        value.clear();
        value.resize(size, 0);
        self.object().ops().user_lookup(key, value, flags)
    }

    /// Sets the value of a key (BPF_MAP_UPDATE_ELEM). Queues and stacks take no key: the value is pushed.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT` as `BPF_NOEXIST` and `BPF_EXIST` ask; `E2BIG` for a full map or an index out of range; `EPERM`
    /// for a frozen map; `EINVAL` for flags or sizes that do not fit the map; `ERANGE` for a CPU that does not exist.
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let _writing = self.writing()?;
        self.check_flags(flags, !0)?;
        self.check_key(key)?;
        if value.len() != self.value_size(flags) {
            return Err(Errno::EINVAL);
        }
        self.object().ops().user_update(key, value, flags)
    }

    /// Sets a value that is a reference: a program in a prog array, a map in a map of maps.
    ///
    /// # Errors
    /// As for [`Map::update`]; `EINVAL` for what the map may not hold.
    pub fn update_slot(&self, key: &[u8], value: Slot, flags: u64) -> Result<(), Errno> {
        let _writing = self.writing()?;
        self.check_flags(flags, !0)?;
        self.check_key(key)?;
        self.object().ops().user_update_slot(key, value, flags)
    }

    /// Removes a key (BPF_MAP_DELETE_ELEM).
    ///
    /// # Errors
    /// `ENOENT` if it is not there, `EINVAL` for maps whose elements cannot be removed, `EPERM` for a frozen map.
    pub fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        let _writing = self.writing()?;
        self.check_key(key)?;
        self.object().ops().user_delete(key)
    }

    /// The key after `key`, or the first one (BPF_MAP_GET_NEXT_KEY).
    ///
    /// # Errors
    /// `ENOENT` after the last key, `EPERM` for a map that users may not read.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        self.readable()?;
        if let Some(key) = key {
            self.check_key(key)?;
        }
        let mut next = vec![0; self.info().key_size as usize];
        self.object().ops().user_next_key(key, &mut next)?;
        Ok(next)
    }

    /// The keys, in the order of [`Map::next_key`]. A key that is deleted during the walk makes a hash map begin again,
    /// as it does in the kernel; the walk then ends after as many keys as the map can hold.
    pub fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut last: Option<Vec<u8>> = None;
        let mut left = u64::from(self.info().max_entries);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let next = self.next_key(last.as_deref()).ok()?;
            last = Some(next.clone());
            Some(next)
        })
    }

    /// Takes a key out and returns its value (BPF_MAP_LOOKUP_AND_DELETE_ELEM); pops from a queue or stack.
    ///
    /// # Errors
    /// `ENOENT` if it is not there, `ENOTSUPP` for types without the operation.
    pub fn lookup_and_delete(&self, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        let _writing = self.writing()?;
        self.readable()?;
        if flags != 0 && matches!(self.info().map_type, MapType::Queue | MapType::Stack) {
            return Err(Errno::EINVAL);
        }
        self.check_flags(flags, BPF_F_LOCK)?;
        self.check_key(key)?;
        let mut value = vec![0; self.value_size(flags)];
        self.object().ops().user_lookup_and_delete(key, &mut value, flags)?;
        Ok(value)
    }

    /// Bytes of a value that an operation with these flags reads or writes.
    pub(crate) fn value_size(&self, flags: u64) -> usize {
        if flags & (BPF_F_CPU | BPF_F_ALL_CPUS) != 0 {
            self.info().value_size as usize
        } else {
            self.info().user_value_size()
        }
    }

    pub(crate) fn readable(&self) -> Result<(), Errno> {
        if self.info().user_flags & BPF_F_WRONLY == 0 { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Errno> {
        if key.len() == self.info().key_size as usize { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// The checks of flags that all types share.
    pub(crate) fn check_flags(&self, flags: u64, allowed: u64) -> Result<(), Errno> {
        let info = self.info();
        let low = flags & u64::from(u32::MAX);
        if low & !allowed != 0 || (low & BPF_F_LOCK != 0 && info.record.spin_lock().is_none()) {
            return Err(Errno::EINVAL);
        }
        let cpu = low & BPF_F_CPU != 0;
        if !cpu && flags >> 32 != 0 {
            return Err(Errno::EINVAL);
        }
        if low & (BPF_F_CPU | BPF_F_ALL_CPUS) != 0 {
            if !info.map_type.is_percpu() || (cpu && low & BPF_F_ALL_CPUS != 0) {
                return Err(Errno::EINVAL);
            }
            if cpu && flags >> 32 >= u64::from(info.n_cpus) {
                return Err(Errno::ERANGE);
            }
        }
        Ok(())
    }
}
