//! Batch commands: many elements in one call.
//!
//! Invariant: what a batch did before it failed stays done, and the caller learns how much that was. Hash maps go by
//! whole buckets, and their cursor is a bucket number in four bytes; other types go by key, and their cursor is the last
//! key. Kernel counterpart: `generic_map_lookup_batch` and its siblings (kernel/bpf/syscall.c, 6.18; CPU flags 7.0).

use skep_abi::Errno;
use skep_abi::update_flags::{BPF_F_ALL_CPUS, BPF_F_CPU, BPF_F_LOCK};

use super::Map;
use super::ops::BucketBatch;

/// Elements that a batch lookup found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Keys, one after the other.
    pub keys: Vec<u8>,
    /// Values, one after the other.
    pub values: Vec<u8>,
    /// How many.
    pub count: u32,
    /// Where the next batch goes on.
    pub next: Vec<u8>,
    /// There is nothing after this batch: the kernel's `ENOENT`.
    pub end: bool,
}

impl Map {
    /// Up to `count` elements, from the start or a cursor (BPF_MAP_LOOKUP_BATCH).
    ///
    /// # Errors
    /// `ENOSPC` if a hash bucket has more than `count` elements; `ENOTSUPP` for types without the operation.
    pub fn lookup_batch(&self, from: Option<&[u8]>, count: u32, elem_flags: u64) -> Result<Batch, Errno> {
        self.readable()?;
        if !self.object().ops().batch_support().lookup {
            return Err(Errno::ENOTSUPP);
        }
        self.batch(from, count, elem_flags, false)
    }

    /// As [`Map::lookup_batch`], and deletes what it found (BPF_MAP_LOOKUP_AND_DELETE_BATCH).
    ///
    /// # Errors
    /// As for [`Map::lookup_batch`]; `EPERM` for a frozen map.
    pub fn lookup_and_delete_batch(&self, from: Option<&[u8]>, count: u32, elem_flags: u64) -> Result<Batch, Errno> {
        self.readable()?;
        let _writing = self.writing()?;
        if !self.object().ops().batch_support().lookup_and_delete {
            return Err(Errno::ENOTSUPP);
        }
        self.batch(from, count, elem_flags, true)
    }

    fn batch(&self, from: Option<&[u8]>, count: u32, elem_flags: u64, delete: bool) -> Result<Batch, Errno> {
        self.check_flags(elem_flags, BPF_F_LOCK | BPF_F_CPU)?;
        if count == 0 {
            return Ok(Batch::default());
        }
        if self.object().ops().batch_support().by_bucket {
            return self.batch_by_bucket(from, count, elem_flags, delete);
        }
        let mut batch = Batch::default();
        let mut last = from.map(<[u8]>::to_vec);
        let mut value = Vec::new();
        while batch.count < count {
            match self.next_key(last.as_deref()) {
                Ok(key) => {
                    match self.lookup_into(&key, &mut value, elem_flags) {
                        Ok(()) => {
                            batch.keys.extend_from_slice(&key);
                            batch.values.extend_from_slice(&value);
                            batch.count += 1;
                        }
                        // Deleted since, or an empty slot: not an element.
                        Err(Errno::ENOENT) => {}
                        Err(errno) => return Err(errno),
                    }
                    last = Some(key);
                }
                Err(Errno::ENOENT) => {
                    batch.end = true;
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        if batch.count > 0 {
            batch.next = last.unwrap_or_default();
        }
        Ok(batch)
    }

    fn batch_by_bucket(&self, from: Option<&[u8]>, count: u32, elem_flags: u64, delete: bool) -> Result<Batch, Errno> {
        let bucket = match from {
            Some(cursor) => u32::from_ne_bytes(*cursor.first_chunk().ok_or(Errno::EINVAL)?),
            None => 0,
        };
        let mut batch = Batch::default();
        let mut request = BucketBatch {
            bucket,
            max: count as usize,
            flags: elem_flags,
            delete,
            keys: &mut batch.keys,
            values: &mut batch.values,
        };
        let end = match self.object().ops().user_batch(&mut request) {
            Ok(()) => false,
            Err(Errno::ENOENT) => true,
            Err(errno) => return Err(errno),
        };
        let next = request.bucket.to_ne_bytes().to_vec();
        let found = batch.keys.len() / (self.info().key_size as usize).max(1);
        batch.count = u32::try_from(found).map_err(|_| Errno::E2BIG)?;
        batch.end = end;
        batch.next = next;
        Ok(batch)
    }

    /// Sets many elements (BPF_MAP_UPDATE_BATCH); how many.
    ///
    /// # Errors
    /// What stopped it, and how many elements were set before.
    pub fn update_batch(&self, keys: &[u8], values: &[u8], elem_flags: u64) -> Result<u32, (Errno, u32)> {
        let before = |errno| (errno, 0);
        let _writing = self.writing().map_err(before)?;
        if !self.object().ops().batch_support().update {
            return Err((Errno::ENOTSUPP, 0));
        }
        self.check_flags(elem_flags, BPF_F_LOCK | BPF_F_CPU | BPF_F_ALL_CPUS).map_err(before)?;
        let value_size = self.value_size(elem_flags).max(1);
        let mut done = 0;
        for (key, value) in self.chunk_keys(keys).zip(values.chunks(value_size)) {
            self.update(key, value, elem_flags).map_err(|errno| (errno, done))?;
            done += 1;
        }
        Ok(done)
    }

    /// Removes many keys (BPF_MAP_DELETE_BATCH); how many.
    ///
    /// # Errors
    /// What stopped it, and how many keys were removed before.
    pub fn delete_batch(&self, keys: &[u8]) -> Result<u32, (Errno, u32)> {
        let _writing = self.writing().map_err(|errno| (errno, 0))?;
        if !self.object().ops().batch_support().delete {
            return Err((Errno::ENOTSUPP, 0));
        }
        let mut done = 0;
        for key in self.chunk_keys(keys) {
            self.delete(key).map_err(|errno| (errno, done))?;
            done += 1;
        }
        Ok(done)
    }

    fn chunk_keys<'k>(&self, keys: &'k [u8]) -> impl Iterator<Item = &'k [u8]> {
        keys.chunks((self.info().key_size as usize).max(1))
    }
}
