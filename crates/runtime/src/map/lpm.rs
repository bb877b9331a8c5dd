//! `BPF_MAP_TYPE_LPM_TRIE`: the longest prefix that matches.
//!
//! A binary trie without one-way branches: a node has a prefix, a value, and a child for each value of the bit after its
//! prefix. Where two prefixes part, an *intermediate* node without a value joins them. Programs walk down without a lock;
//! changes take the trie's lock and publish one pointer. Invariant: below a node with prefix `p`, every prefix begins
//! with `p`, so the structure follows from the set of prefixes and iteration has one order (children first).
//! Nodes that were replaced are used again after a grace period.
//! Kernel counterpart: kernel/bpf/lpm_trie.c (6.18).

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_abi::Errno;
use skep_abi::map_flags::{BPF_F_NO_PREALLOC, BPF_F_NUMA_NODE};
use skep_abi::update_flags::{BPF_EXIST, BPF_NOEXIST};
use skep_sync::CpuSet;

use super::ops::{Access, BatchSupport, MapKind, MapOps, Vcpu};
use super::slab::{Node, Slab};
use super::spec::{ACCESS_FLAGS, KMALLOC_MAX, MapInfo, MapSpec};
use super::value::{ValueLayout, copy, load_tail, load_word, load4};

/// Bytes of a key before its data: the length of the prefix in bits.
const PREFIX_BYTES: u32 = 4;
/// Most bytes of a key's data.
const DATA_MAX: u32 = 256;
/// Bytes of the kernel's node head, for its limit on values.
const KERNEL_NODE: u64 = 40;
/// How many replaced nodes wait before a grace period is asked for.
const RETIRE_BATCH: usize = 64;

// A node: two children, the prefix length, flags, the data padded to 8, the value.
const PREFIX: usize = 16;
const FLAGS: usize = 20;
const DATA: usize = 24;
const INTERMEDIATE: u32 = 1;

/// An LPM trie map.
pub struct LpmTrie {
    root: AtomicPtr<u8>,
    data_size: usize,
    max_prefix: u32,
    value_offset: usize,
    max_entries: u32,
    state: Mutex<State>,
    slab: Arc<Mutex<Slab>>,
    layout: ValueLayout,
    access: Access,
    cpus: CpuSet,
}

struct State {
    entries: u32,
    retired: Vec<Node>,
}

/// A key as the walk compares it.
#[derive(Clone, Copy)]
struct Key {
    prefix: u32,
    data: *const u8,
}

/// The child link of a node.
///
/// # Safety
/// `node` is a node.
#[inline]
unsafe fn child<'a>(node: *mut u8, bit: usize) -> &'a AtomicPtr<u8> {
    // SAFETY: a node is 8-aligned and begins with two links (caller); nodes live as long as the map.
    unsafe { AtomicPtr::from_ptr(node.wrapping_add(bit * 8).cast()) }
}

/// A word of a node's head.
///
/// # Safety
/// `node` is a node.
#[inline]
unsafe fn head<'a>(node: *mut u8, at: usize) -> &'a AtomicU32 {
    // SAFETY: inside the head of a node (caller).
    unsafe { AtomicU32::from_ptr(node.wrapping_add(at).cast()) }
}

/// # Safety
/// `node` is a node.
#[inline]
unsafe fn prefix_of(node: *mut u8) -> u32 {
    // SAFETY: the caller's duty.
    unsafe { head(node, PREFIX) }.load(Ordering::Relaxed)
}

/// # Safety
/// `node` is a node.
#[inline]
unsafe fn is_intermediate(node: *mut u8) -> bool {
    // SAFETY: the caller's duty.
    unsafe { head(node, FLAGS) }.load(Ordering::Relaxed) & INTERMEDIATE != 0
}

/// Bit `at` of data, the highest bit of the first byte being 0.
///
/// # Safety
/// `data` has that bit.
#[inline]
unsafe fn bit(data: *const u8, at: u32) -> usize {
    // SAFETY: the caller's duty.
    let byte = unsafe { load_tail(data.wrapping_add(at as usize / 8), 1) };
    usize::from(byte >> (7 - at % 8) & 1 != 0)
}

impl LpmTrie {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slab(&self) -> MutexGuard<'_, Slab> {
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    /// `key` is readable for the key's size.
    unsafe fn key(&self, key: *const u8) -> Key {
        // SAFETY: a key begins with its prefix length (caller).
        Key { prefix: unsafe { load4(key) }, data: key.wrapping_add(PREFIX_BYTES as usize) }
    }

    /// How many bits the node's prefix and the key have in common.
    ///
    /// # Safety
    /// `node` is a node of this trie; the key is readable.
    #[inline]
    unsafe fn common(&self, node: *mut u8, key: Key) -> u32 {
        // SAFETY: a node (caller).
        let limit = unsafe { prefix_of(node) }.min(key.prefix);
        let mut bits = 0;
        let mut at = 0;
        while bits < limit {
            let left = self.data_size - at;
            // SAFETY: at least that many bytes of the key's data are left (caller).
            let wanted = unsafe { load_word(key.data.wrapping_add(at), left) };
            // SAFETY: a node's data is padded to whole words.
            let have = unsafe { AtomicU64::from_ptr(node.wrapping_add(DATA + at).cast()) }.load(Ordering::Relaxed);
            let equal = (u64::from_be(have) ^ u64::from_be(wanted)).leading_zeros();
            bits += equal;
            if equal < 64 {
                break;
            }
            at += 8;
        }
        bits.min(limit)
    }

    /// Whether the node has the key's prefix, with a value or without.
    ///
    /// # Safety
    /// `node` is a node of this trie; the key is readable.
    unsafe fn is_at(&self, node: *mut u8, key: Key) -> bool {
        // SAFETY: the caller's duty.
        let prefix = unsafe { prefix_of(node) };
        // SAFETY: as above.
        prefix == key.prefix && unsafe { self.common(node, key) } == prefix
    }

    /// The node with the longest prefix of the key.
    ///
    /// # Safety
    /// `key` is readable for the key's size; the caller is in a run or holds the lock.
    #[inline]
    unsafe fn longest(&self, key: *const u8) -> Option<*mut u8> {
        // SAFETY: the caller's duty.
        let key = unsafe { self.key(key) };
        if key.prefix > self.max_prefix {
            return None;
        }
        if self.data_size <= 8 {
            // SAFETY: the caller's duty.
            return unsafe { self.longest_short(key) };
        }
        let mut found = None;
        let mut node = self.root.load(Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: links lead to nodes of this trie.
            let common = unsafe { self.common(node, key) };
            // SAFETY: as above.
            let prefix = unsafe { prefix_of(node) };
            if common < prefix {
                break;
            }
            // SAFETY: as above.
            if !unsafe { is_intermediate(node) } {
                found = Some(node);
            }
            if common == self.max_prefix {
                break;
            }
            // SAFETY: `prefix` is below the number of bits, for no node is longer than `max_prefix`.
            let next = unsafe { bit(key.data, prefix) };
            // SAFETY: as above.
            node = unsafe { child(node, next) }.load(Ordering::Acquire);
        }
        found
    }

    /// [`LpmTrie::longest`] for data that fits a word: the key stays in a register.
    ///
    /// # Safety
    /// The key is readable and its prefix is not too long; the caller is in a run or holds the lock.
    #[inline]
    unsafe fn longest_short(&self, key: Key) -> Option<*mut u8> {
        // SAFETY: the data's size is readable (caller).
        let wanted = u64::from_be(unsafe { load_word(key.data, self.data_size) });
        let mut found = None;
        let mut node = self.root.load(Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: links lead to nodes of this trie, whose data is padded to whole words.
            let have = unsafe { AtomicU64::from_ptr(node.wrapping_add(DATA).cast()) }.load(Ordering::Relaxed);
            // SAFETY: a node of this trie.
            let prefix = unsafe { prefix_of(node) };
            let equal = (u64::from_be(have) ^ wanted).leading_zeros();
            if prefix > key.prefix || equal < prefix {
                break;
            }
            // SAFETY: as above.
            if !unsafe { is_intermediate(node) } {
                found = Some(node);
            }
            if prefix == self.max_prefix {
                break;
            }
            // A prefix below the longest is below 64.
            let next = usize::from(wanted << prefix >> 63 != 0);
            // SAFETY: as above.
            node = unsafe { child(node, next) }.load(Ordering::Acquire);
        }
        found
    }

    /// The path from the root to where the key is or would be. The last node has the key's prefix, or parts from it, or
    /// extends it; empty if the key belongs below no node.
    ///
    /// # Safety
    /// The key is readable; the lock is held.
    unsafe fn path(&self, key: Key) -> Vec<*mut u8> {
        let mut path = Vec::new();
        let mut node = self.root.load(Ordering::Relaxed);
        while !node.is_null() {
            path.push(node);
            // SAFETY: links lead to nodes of this trie.
            let common = unsafe { self.common(node, key) };
            // SAFETY: as above.
            let prefix = unsafe { prefix_of(node) };
            if prefix != common || prefix == key.prefix {
                return path;
            }
            // SAFETY: the key is longer than the node's prefix.
            let next = unsafe { bit(key.data, prefix) };
            // SAFETY: as above.
            node = unsafe { child(node, next) }.load(Ordering::Relaxed);
        }
        path.push(std::ptr::null_mut());
        path
    }

    /// The link that leads to the last node of a path.
    fn link(&self, path: &[*mut u8], key: Key) -> &AtomicPtr<u8> {
        match path.len().checked_sub(2).and_then(|parent| path.get(parent)) {
            Some(&parent) => {
                // SAFETY: a node of this trie.
                let prefix = unsafe { prefix_of(parent) };
                // SAFETY: the path went below the parent, so the key is longer.
                let next = unsafe { bit(key.data, prefix) };
                // SAFETY: a node of this trie.
                unsafe { child(parent, next) }
            }
            None => &self.root,
        }
    }

    /// A node with this prefix and no children.
    ///
    /// # Safety
    /// `data` is readable for the data's size, `value` for the value's or null.
    unsafe fn node(&self, prefix: u32, data: *const u8, value: *const u8) -> Result<*mut u8, Errno> {
        let node = self.slab().alloc()?;
        for at in 0..2 {
            // SAFETY: a fresh node.
            unsafe { child(node, at) }.store(std::ptr::null_mut(), Ordering::Relaxed);
        }
        // SAFETY: as above.
        unsafe { head(node, PREFIX) }.store(prefix, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { head(node, FLAGS) }.store(if value.is_null() { INTERMEDIATE } else { 0 }, Ordering::Relaxed);
        // SAFETY: as above; the padding of a slab's node is zero and stays so.
        unsafe { copy(node.wrapping_add(DATA), data, self.data_size) };
        if !value.is_null() {
            let target = node.wrapping_add(self.value_offset);
            // SAFETY: the node's value.
            unsafe { self.layout.init_special(target) };
            // SAFETY: the node's value, and a readable one (caller).
            unsafe { self.layout.copy_in(target, value) };
        }
        Ok(node)
    }

    /// Nodes that no link leads to any more.
    fn retire(&self, state: &mut State, node: *mut u8) {
        state.retired.push(Node(node));
        if state.retired.len() >= RETIRE_BATCH {
            let batch = std::mem::take(&mut state.retired);
            let slab = self.slab.clone();
            self.cpus.defer(Box::new(move || slab.lock().unwrap_or_else(PoisonError::into_inner).free(batch)));
        }
    }

    /// # Safety
    /// `key` and `value` are readable for their sizes.
    unsafe fn insert(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's duty.
        let key = unsafe { self.key(key) };
        if key.prefix > self.max_prefix {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state();
        // SAFETY: the key is readable, the lock is held.
        let path = unsafe { self.path(key) };
        let link = self.link(&path, key);
        let node = path.last().copied().unwrap_or(std::ptr::null_mut());
        // SAFETY: a node of the path, if it is one.
        let common = if node.is_null() { 0 } else { unsafe { self.common(node, key) } };
        // SAFETY: as above.
        let same = !node.is_null() && unsafe { self.is_at(node, key) };
        // SAFETY: as above.
        let intermediate = same && unsafe { is_intermediate(node) };
        if same && !intermediate {
            if flags == BPF_NOEXIST {
                return Err(Errno::EEXIST);
            }
        } else if flags == BPF_EXIST {
            return Err(Errno::ENOENT);
        } else if state.entries == self.max_entries {
            return Err(Errno::ENOSPC);
        }
        // SAFETY: the caller's duty.
        let new = unsafe { self.node(key.prefix, key.data, value) }?;
        if same {
            for at in 0..2 {
                // SAFETY: both are nodes of this trie.
                let below = unsafe { child(node, at) }.load(Ordering::Relaxed);
                // SAFETY: as above.
                unsafe { child(new, at) }.store(below, Ordering::Relaxed);
            }
            link.store(new, Ordering::Release);
            self.retire(&mut state, node);
            state.entries += u32::from(intermediate);
            return Ok(());
        }
        let top = if node.is_null() {
            new
        } else {
            let old_data = node.wrapping_add(DATA).cast_const();
            // SAFETY: the node parts from the key after `common` bits, so it has one more.
            let old_bit = unsafe { bit(old_data, common) };
            if common == key.prefix {
                // SAFETY: a node of this trie.
                unsafe { child(new, old_bit) }.store(node, Ordering::Relaxed);
                new
            } else {
                // SAFETY: the data of a node.
                let joint = match unsafe { self.node(common, old_data, std::ptr::null()) } {
                    Ok(joint) => joint,
                    Err(errno) => {
                        self.slab().free([Node(new)]);
                        return Err(errno);
                    }
                };
                // SAFETY: a fresh node.
                unsafe { child(joint, old_bit) }.store(node, Ordering::Relaxed);
                // SAFETY: as above.
                unsafe { child(joint, 1 - old_bit) }.store(new, Ordering::Relaxed);
                joint
            }
        };
        state.entries += 1;
        link.store(top, Ordering::Release);
        Ok(())
    }

    /// # Safety
    /// `key` is readable for the key's size.
    unsafe fn remove(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: the caller's duty.
        let key = unsafe { self.key(key) };
        if key.prefix > self.max_prefix {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state();
        // SAFETY: the key is readable, the lock is held.
        let path = unsafe { self.path(key) };
        let node = path.last().copied().filter(|node| !node.is_null()).ok_or(Errno::ENOENT)?;
        // SAFETY: a node of the path.
        let exact = unsafe { self.is_at(node, key) };
        // SAFETY: as above.
        if !exact || unsafe { is_intermediate(node) } {
            return Err(Errno::ENOENT);
        }
        state.entries -= 1;
        // SAFETY: as above.
        let children = [0, 1].map(|at| unsafe { child(node, at) }.load(Ordering::Relaxed));
        match children.map(|child| !child.is_null()) {
            [true, true] => {
                // SAFETY: as above.
                unsafe { head(node, FLAGS) }.store(INTERMEDIATE, Ordering::Relaxed);
                return Ok(());
            }
            [false, false] => {
                let parent = path.len().checked_sub(2).map(|parent| path[parent]);
                // SAFETY: as above.
                if let Some(parent) = parent.filter(|parent| unsafe { is_intermediate(*parent) }) {
                    // The joint joins nothing any more: its other child takes its place.
                    // SAFETY: as above.
                    let sides = [0, 1].map(|at| unsafe { child(parent, at) }.load(Ordering::Relaxed));
                    let other = if sides[0] == node { sides[1] } else { sides[0] };
                    self.link(&path[..path.len() - 1], key).store(other, Ordering::Release);
                    self.retire(&mut state, parent);
                } else {
                    self.link(&path, key).store(std::ptr::null_mut(), Ordering::Release);
                }
            }
            [left, _] => {
                let only = if left { children[0] } else { children[1] };
                self.link(&path, key).store(only, Ordering::Release);
            }
        }
        self.retire(&mut state, node);
        Ok(())
    }

    /// The first node below `node`, itself included, in the order of iteration.
    fn leftmost(mut node: *mut u8) -> Option<*mut u8> {
        let mut found = None;
        while !node.is_null() {
            // SAFETY: a node of this trie; the caller holds the lock.
            if !unsafe { is_intermediate(node) } {
                found = Some(node);
            }
            // SAFETY: as above.
            let sides = [0, 1].map(|at| unsafe { child(node, at) }.load(Ordering::Relaxed));
            node = if sides[0].is_null() { sides[1] } else { sides[0] };
        }
        found
    }

    /// The node after the one with this key, children before parents.
    ///
    /// # Safety
    /// The key is readable; the lock is held.
    unsafe fn after(&self, key: Key) -> Option<*mut u8> {
        let root = self.root.load(Ordering::Relaxed);
        if key.prefix > self.max_prefix {
            return LpmTrie::leftmost(root);
        }
        // SAFETY: the caller's duty.
        let path = unsafe { self.path(key) };
        let mut below = path.last().copied().filter(|node| !node.is_null());
        // SAFETY: a node of the path.
        below = below.filter(|node| unsafe { self.is_at(*node, key) });
        // SAFETY: as above.
        below = below.filter(|node| !unsafe { is_intermediate(*node) });
        let Some(mut below) = below else { return LpmTrie::leftmost(root) };
        for &parent in path.iter().rev().skip(1) {
            // SAFETY: a node of the path.
            let sides = [0, 1].map(|at| unsafe { child(parent, at) }.load(Ordering::Relaxed));
            if sides[0] == below && !sides[1].is_null() {
                return LpmTrie::leftmost(sides[1]);
            }
            // SAFETY: as above.
            if !unsafe { is_intermediate(parent) } {
                return Some(parent);
            }
            below = parent;
        }
        None
    }
}

// SAFETY: nodes live as long as the map.
unsafe impl MapOps for LpmTrie {
    #[inline]
    unsafe fn lookup(&self, key: *const u8, _: Vcpu<'_>) -> *mut u8 {
        // SAFETY: the caller's duty, passed on.
        match unsafe { self.longest(key) } {
            Some(node) => node.wrapping_add(self.value_offset),
            None => std::ptr::null_mut(),
        }
    }

    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64, _: Vcpu<'_>) -> Result<(), Errno> {
        // SAFETY: the caller's duty, passed on.
        unsafe { self.insert(key, value, flags) }
    }

    unsafe fn delete(&self, key: *const u8, _: Vcpu<'_>) -> Result<(), Errno> {
        // SAFETY: the caller's duty, passed on.
        unsafe { self.remove(key) }
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        let _held = self.state();
        // SAFETY: a key of the size (handle); the lock is held.
        let node = unsafe { self.longest(key.as_ptr()) }.ok_or(Errno::ENOENT)?;
        // SAFETY: a value of this map, and a buffer of its size (handle).
        unsafe { self.layout.copy_out(out.as_mut_ptr(), node.wrapping_add(self.value_offset)) };
        Ok(())
    }

    fn user_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: key and value have their sizes (handle).
        unsafe { self.insert(key.as_ptr(), value.as_ptr(), flags) }
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        // SAFETY: the key has its size (handle).
        unsafe { self.remove(key.as_ptr()) }
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        let _held = self.state();
        let next = match key {
            Some(key) => {
                // SAFETY: a key of the size (handle).
                let key = unsafe { self.key(key.as_ptr()) };
                // SAFETY: the lock is held.
                unsafe { self.after(key) }
            }
            None => LpmTrie::leftmost(self.root.load(Ordering::Relaxed)),
        };
        let next = next.ok_or(Errno::ENOENT)?;
        let (prefix, data) = out.split_at_mut(PREFIX_BYTES as usize);
        // SAFETY: a node of this trie.
        prefix.copy_from_slice(&unsafe { prefix_of(next) }.to_ne_bytes());
        // SAFETY: the node's data, and a buffer of its size.
        unsafe { copy(data.as_mut_ptr(), next.wrapping_add(DATA), self.data_size) };
        Ok(())
    }

    fn batch_support(&self) -> BatchSupport {
        BatchSupport { lookup: true, update: true, delete: true, ..BatchSupport::default() }
    }

    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + self.slab().bytes()
    }

    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        let offset = self.slab().offset_in_node(addr, len)?;
        let start = self.value_offset as u64;
        (offset >= start && offset - start + len <= self.layout.size as u64).then_some(self.access)
    }
}

impl MapKind for LpmTrie {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if spec.max_entries == 0 || !spec.has(BPF_F_NO_PREALLOC) {
            return Err(Errno::EINVAL);
        }
        spec.check_flags(BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | ACCESS_FLAGS)?;
        let keys = PREFIX_BYTES + 1..=PREFIX_BYTES + DATA_MAX;
        let value_max = KMALLOC_MAX - u64::from(PREFIX_BYTES + DATA_MAX) - KERNEL_NODE;
        if !keys.contains(&spec.key_size) || spec.value_size == 0 || u64::from(spec.value_size) > value_max {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<LpmTrie, Errno> {
        let data_size = (spec.key_size - PREFIX_BYTES) as usize;
        let layout = ValueLayout::new(spec.value_size, &spec.record);
        let value_offset = DATA + data_size.next_multiple_of(8);
        Ok(LpmTrie {
            root: AtomicPtr::new(std::ptr::null_mut()),
            data_size,
            max_prefix: (spec.key_size - PREFIX_BYTES) * 8,
            value_offset,
            max_entries: spec.max_entries,
            state: Mutex::new(State { entries: 0, retired: Vec::new() }),
            slab: Arc::new(Mutex::new(Slab::new(value_offset + layout.stride))),
            layout,
            access: Access::of(info),
            cpus: cpus.clone(),
        })
    }
}
