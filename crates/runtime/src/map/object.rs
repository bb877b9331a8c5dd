//! The map object that programs point at, and the handle that users hold.
//!
//! R1 of a map helper is the address of a [`MapObject`]: a head of fixed layout, then the type's own data. Invariant: the
//! object never moves and outlives every program that was compiled against it, since the program keeps it.
//! A handle ([`Map`]) is a *user reference*: when the last one goes, a prog array lets go of its programs, so that
//! arrays and programs that refer to each other do not keep each other alive (`bpf_map_put_uref`).
//! Kernel counterpart: `struct bpf_map` (include/linux/bpf.h), kernel/bpf/syscall.c (6.18).

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use skep_abi::{Errno, MapType};
use skep_sync::CpuSet;

use super::arena::Arena;
use super::array::Array;
use super::bloom::BloomFilter;
use super::hash::{self, HashMap, Key4, Key8, Key16, KeyAny, KeyChoice};
use super::lpm::LpmTrie;
use super::map_in_map::{ArrayOfMaps, HashOfMaps};
use super::ops::{Access, MapAccessInfo, MapFns, MapKind, MapOps, Vcpu};
use super::percpu_array::PerCpuArray;
use super::perf_event_array::PerfEventArray;
use super::prog_array::ProgArray;
use super::queue_stack::QueueStack;
use super::redirect::{CPU, DEVICE, DevmapHash, SOCKET, Targets};
use super::ringbuf::RingBuf;
use super::spec::{MapInfo, MapSpec};

/// A helper as programs call it.
pub type HelperFn = unsafe extern "sysv64" fn(u64, u64, u64, u64, u64, *mut u8) -> u64;

/// What a program's map pointer points at: the part of fixed layout.
#[repr(C)]
pub(super) struct Head {
    /// Array: element 0. Prog array: slot 0. Per-CPU array: the offset of element 0.
    data: u64,
    max_entries: u32,
    map_type: u32,
    fns: MapFns,
    this: OnceLock<This>,
    info: MapInfo,
    cpus: CpuSet,
    frozen: AtomicBool,
    /// User-side changes in progress, which a freeze must not overtake.
    writers: AtomicU32,
    users: AtomicUsize,
}

/// Where compiled code finds the hot pointer in a map object, and the number of entries.
pub const DATA_OFFSET: usize = std::mem::offset_of!(Head, data);
/// As [`DATA_OFFSET`].
pub const MAX_ENTRIES_OFFSET: usize = std::mem::offset_of!(Head, max_entries);
const _: () = assert!(DATA_OFFSET == 0 && MAX_ENTRIES_OFFSET == 8, "compiled code knows these");

/// A map object: `Head`, then the type.
#[repr(C)]
pub struct Object<T: ?Sized> {
    head: Head,
    ops: T,
}

/// A map object of any type.
pub type MapObject = Object<dyn MapOps>;

#[derive(Clone, Copy)]
struct This(*const MapObject);
// SAFETY: the pointer is only followed while the object, which is `Sync`, is alive.
unsafe impl Send for This {}
// SAFETY: as for `Send`.
unsafe impl Sync for This {}

impl MapObject {
    /// The object that a program's map pointer points at.
    ///
    /// # Safety
    /// `addr` is the address of a map object that is alive for `'a`: what [`Map::object_addr`] gave.
    #[inline]
    #[must_use]
    pub unsafe fn from_addr<'a>(addr: u64) -> &'a MapObject {
        #[expect(clippy::cast_possible_truncation, reason = "an address of this process")]
        let head = std::ptr::with_exposed_provenance::<Head>(addr as usize);
        // SAFETY: an object begins with its head (caller).
        let head = unsafe { &*head };
        let this =
            head.this.get().map_or_else(|| unreachable!("an object is published with its pointer"), |this| this.0);
        // SAFETY: the object is alive (caller).
        unsafe { &*this }
    }

    /// The map as its own type, for what only this type can do.
    #[must_use]
    pub fn downcast<T: MapOps>(&self) -> Option<&T> {
        let ops: &dyn Any = &self.ops;
        ops.downcast_ref()
    }
}

impl<T: MapOps + ?Sized> Object<T> {
    /// What everybody may know about the map.
    #[inline]
    #[must_use]
    pub fn info(&self) -> &MapInfo {
        &self.head.info
    }

    /// The type's operations.
    #[inline]
    #[must_use]
    pub fn ops(&self) -> &T {
        &self.ops
    }

    /// The vCPUs that the map was made for.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        &self.head.cpus
    }

    /// Whether the user side may not change the map any more.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.head.frozen.load(Ordering::Acquire)
    }

    /// The address that programs know the map by.
    #[must_use]
    pub fn addr(&self) -> u64 {
        (&raw const self.head).expose_provenance() as u64
    }

    /// Its functions, for code that knows the map when it is compiled.
    #[must_use]
    pub fn fns(&self) -> MapFns {
        self.head.fns
    }
}

/// `bpf_map_lookup_elem` of one type.
pub(super) unsafe extern "sysv64" fn lookup<T: MapOps>(
    map: u64,
    key: u64,
    _: u64,
    _: u64,
    _: u64,
    base: *mut u8,
) -> u64 {
    // SAFETY: the program's map pointer is of this type: the function was taken from this object's head.
    let object = unsafe { object_of::<T>(map) };
    // SAFETY: the caller is a program on the vCPU of `base`.
    let cpu = unsafe { Vcpu::from_base(base) };
    // SAFETY: the verifier proved the key readable.
    unsafe { object.ops.lookup(pointer(key), cpu) }.expose_provenance() as u64
}

/// `bpf_map_update_elem` of one type.
unsafe extern "sysv64" fn update<T: MapOps>(map: u64, key: u64, value: u64, flags: u64, _: u64, base: *mut u8) -> u64 {
    // SAFETY: as in `lookup`.
    let object = unsafe { object_of::<T>(map) };
    // SAFETY: as in `lookup`.
    let cpu = unsafe { Vcpu::from_base(base) };
    // SAFETY: the verifier proved key and value readable.
    as_return(unsafe { object.ops.update(pointer(key), pointer(value), flags, cpu) })
}

/// `bpf_map_delete_elem` of one type.
unsafe extern "sysv64" fn delete<T: MapOps>(map: u64, key: u64, _: u64, _: u64, _: u64, base: *mut u8) -> u64 {
    // SAFETY: as in `lookup`.
    let object = unsafe { object_of::<T>(map) };
    // SAFETY: as in `lookup`.
    let cpu = unsafe { Vcpu::from_base(base) };
    // SAFETY: the verifier proved the key readable.
    as_return(unsafe { object.ops.delete(pointer(key), cpu) })
}

/// The object at `map`.
///
/// # Safety
/// `map` is the address of a live `Object<T>`.
#[inline]
unsafe fn object_of<'a, T: MapOps>(map: u64) -> &'a Object<T> {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this process")]
    let object = std::ptr::with_exposed_provenance::<Object<T>>(map as usize);
    // SAFETY: the caller's duty, passed on.
    unsafe { &*object }
}

#[inline]
fn pointer(addr: u64) -> *const u8 {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this process")]
    std::ptr::with_exposed_provenance(addr as usize)
}

/// A result as a helper returns it.
#[inline]
pub(crate) fn as_return(result: Result<(), Errno>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.as_return(),
    }
}

/// `bpf_map_lookup_elem` for a map that is only known when the program runs.
///
/// # Safety
/// As for a helper call: `map` a live map object, `key` readable, `base` this run's vCPU.
pub unsafe extern "sysv64" fn map_lookup_elem(map: u64, key: u64, c: u64, d: u64, e: u64, base: *mut u8) -> u64 {
    // SAFETY: the caller's duty.
    let head = unsafe { head_of(map) };
    // SAFETY: the function is this object's own; the caller's duty passed on.
    unsafe { (head.fns.lookup)(map, key, c, d, e, base) }
}

/// `bpf_map_update_elem` for a map that is only known when the program runs.
///
/// # Safety
/// As for [`map_lookup_elem`]; `value` is readable.
pub unsafe extern "sysv64" fn map_update_elem(
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
    e: u64,
    base: *mut u8,
) -> u64 {
    // SAFETY: the caller's duty.
    let head = unsafe { head_of(map) };
    // SAFETY: the function is this object's own; the caller's duty passed on.
    unsafe { (head.fns.update)(map, key, value, flags, e, base) }
}

/// `bpf_map_delete_elem` for a map that is only known when the program runs.
///
/// # Safety
/// As for [`map_lookup_elem`].
pub unsafe extern "sysv64" fn map_delete_elem(map: u64, key: u64, c: u64, d: u64, e: u64, base: *mut u8) -> u64 {
    // SAFETY: the caller's duty.
    let head = unsafe { head_of(map) };
    // SAFETY: the function is this object's own; the caller's duty passed on.
    unsafe { (head.fns.delete)(map, key, c, d, e, base) }
}

/// # Safety
/// `map` is the address of a live map object.
#[inline]
unsafe fn head_of<'a>(map: u64) -> &'a Head {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this process")]
    let head = std::ptr::with_exposed_provenance::<Head>(map as usize);
    // SAFETY: the caller's duty, passed on.
    unsafe { &*head }
}

/// A reference to a map that is not a user's: what programs and maps of maps keep.
#[derive(Clone)]
pub struct MapRef(Arc<MapObject>);

impl Deref for MapRef {
    type Target = MapObject;

    fn deref(&self) -> &MapObject {
        &self.0
    }
}

impl MapRef {
    /// A user's handle of the map (`BPF_MAP_GET_FD_BY_ID`).
    #[must_use]
    pub fn to_user(&self) -> Map {
        self.0.head.users.fetch_add(1, Ordering::Relaxed);
        Map(self.clone())
    }
}

/// A user's handle of a map. Clones are handles of the same map.
pub struct Map(MapRef);

impl Map {
    /// Makes a map for programs that run on `cpus` (BPF_MAP_CREATE).
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for what makes no sense, `E2BIG` and `ENOMEM` for what is too large, before any memory is
    /// allocated.
    pub fn create(spec: &MapSpec, cpus: &CpuSet) -> Result<Map, Errno> {
        let map_type = spec.check_common()?;
        match map_type {
            MapType::Arena => build::<Arena>(spec, map_type, cpus),
            MapType::Array => build::<Array>(spec, map_type, cpus),
            MapType::PercpuArray => build::<PerCpuArray>(spec, map_type, cpus),
            MapType::ProgArray => build::<ProgArray>(spec, map_type, cpus),
            MapType::LpmTrie => build::<LpmTrie>(spec, map_type, cpus),
            MapType::Ringbuf => build::<RingBuf>(spec, map_type, cpus),
            MapType::PerfEventArray => build::<PerfEventArray>(spec, map_type, cpus),
            MapType::Queue => build::<QueueStack<false>>(spec, map_type, cpus),
            MapType::Stack => build::<QueueStack<true>>(spec, map_type, cpus),
            MapType::BloomFilter => build::<BloomFilter>(spec, map_type, cpus),
            MapType::Devmap => build::<Targets<DEVICE>>(spec, map_type, cpus),
            MapType::DevmapHash => build::<DevmapHash>(spec, map_type, cpus),
            MapType::Cpumap => build::<Targets<CPU>>(spec, map_type, cpus),
            MapType::Xskmap => build::<Targets<SOCKET>>(spec, map_type, cpus),
            MapType::ArrayOfMaps => build::<ArrayOfMaps>(spec, map_type, cpus),
            MapType::HashOfMaps => match KeyChoice::of(spec) {
                KeyChoice::Four => build::<HashOfMaps<Key4>>(spec, map_type, cpus),
                KeyChoice::Eight => build::<HashOfMaps<Key8>>(spec, map_type, cpus),
                KeyChoice::Sixteen => build::<HashOfMaps<Key16>>(spec, map_type, cpus),
                KeyChoice::Any => build::<HashOfMaps<KeyAny>>(spec, map_type, cpus),
            },
            _ => match hash::variant(map_type) {
                Some((false, false)) => build_hash::<false, false>(spec, map_type, cpus),
                Some((true, false)) => build_hash::<true, false>(spec, map_type, cpus),
                Some((false, true)) => build_hash::<false, true>(spec, map_type, cpus),
                Some((true, true)) => build_hash::<true, true>(spec, map_type, cpus),
                None => Err(Errno::EINVAL),
            },
        }
    }

    /// A reference that does not count as a user's.
    #[must_use]
    pub fn keep(&self) -> MapRef {
        self.0.clone()
    }

    /// The address that programs know the map by.
    #[must_use]
    pub fn object_addr(&self) -> u64 {
        self.0.addr()
    }

    /// The map object.
    #[must_use]
    pub fn object(&self) -> &MapObject {
        &self.0
    }

    /// What everybody may know about the map.
    #[must_use]
    pub fn info(&self) -> &MapInfo {
        self.0.info()
    }

    /// Unique in the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.info().id
    }

    /// The name; empty if it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info().name
    }

    /// How compiled code reaches elements without a call.
    #[must_use]
    pub fn layout(&self) -> MapAccessInfo {
        self.0.ops().access()
    }

    /// Its functions, for code that knows the map when it is compiled.
    #[must_use]
    pub fn fns(&self) -> MapFns {
        self.0.fns()
    }

    /// Bytes of memory, with what values refer to where they are the map's own.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.0.ops().memory()
    }

    /// What a program may do with `len` bytes at `addr`, if all of them belong to one value of this map.
    #[must_use]
    pub fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        self.0.ops().contains(addr, len)
    }

    /// The map as its own type, for what only this type can do.
    #[must_use]
    pub fn downcast<T: MapOps>(&self) -> Option<&T> {
        self.0.downcast()
    }

    /// No change from the user side any more; programs may go on writing (BPF_MAP_FREEZE).
    ///
    /// # Errors
    /// `EBUSY` if a change is in progress, `ENOTSUPP` for values with special fields, `EPERM` for a map that is read-only
    /// for users or frozen already.
    pub fn freeze(&self) -> Result<(), Errno> {
        let head = &self.0.0.head;
        if !head.info.record.fields().is_empty() {
            return Err(Errno::ENOTSUPP);
        }
        if head.info.user_flags & skep_abi::map_flags::BPF_F_RDONLY != 0 {
            return Err(Errno::EPERM);
        }
        // A writer counts itself, then looks at the flag; here the other way round: one of the two sees the other.
        if head.frozen.swap(true, Ordering::SeqCst) {
            return Err(Errno::EPERM);
        }
        if head.writers.load(Ordering::SeqCst) != 0 {
            head.frozen.store(false, Ordering::SeqCst);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// Counts the caller as a writer until the result drops.
    pub(crate) fn writing(&self) -> Result<Writing<'_>, Errno> {
        let head = &self.0.0.head;
        head.writers.fetch_add(1, Ordering::SeqCst);
        let writing = Writing(head);
        if head.frozen.load(Ordering::SeqCst) || head.info.user_flags & skep_abi::map_flags::BPF_F_RDONLY != 0 {
            return Err(Errno::EPERM);
        }
        Ok(writing)
    }
}

/// A user-side change in progress.
pub(crate) struct Writing<'a>(&'a Head);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writers.fetch_sub(1, Ordering::Release);
    }
}

impl Clone for Map {
    fn clone(&self) -> Map {
        self.0.to_user()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.0.0.head.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ops().release_user();
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.info();
        f.debug_struct("Map")
            .field("id", &info.id)
            .field("name", &info.name)
            .field("type", &info.map_type)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MapRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapRef").field("id", &self.info().id).finish_non_exhaustive()
    }
}

/// A hash map of one of the four types, with the lookup for its size of keys.
fn build_hash<const PERCPU: bool, const LRU: bool>(
    spec: &MapSpec,
    map_type: MapType,
    cpus: &CpuSet,
) -> Result<Map, Errno> {
    match KeyChoice::of(spec) {
        KeyChoice::Four => build::<HashMap<Key4, PERCPU, LRU>>(spec, map_type, cpus),
        KeyChoice::Eight => build::<HashMap<Key8, PERCPU, LRU>>(spec, map_type, cpus),
        KeyChoice::Sixteen => build::<HashMap<Key16, PERCPU, LRU>>(spec, map_type, cpus),
        KeyChoice::Any => build::<HashMap<KeyAny, PERCPU, LRU>>(spec, map_type, cpus),
    }
}

/// Checks the spec, makes the type and wraps it.
fn build<T: MapKind>(spec: &MapSpec, map_type: MapType, cpus: &CpuSet) -> Result<Map, Errno> {
    static NEXT_ID: AtomicU32 = AtomicU32::new(1);
    T::check(spec)?;
    spec.check_name()?;
    let n_cpus = u32::try_from(cpus.n_possible()).map_err(|_| Errno::ENOMEM)?;
    let mut info = MapInfo::new(spec, map_type, 0, n_cpus);
    let ops = T::create(spec, &mut info, cpus)?;
    info.id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let head = Head {
        data: ops.data(),
        max_entries: info.max_entries,
        map_type: map_type as u32,
        fns: MapFns { lookup: lookup::<T>, update: update::<T>, delete: delete::<T> },
        this: OnceLock::new(),
        info,
        cpus: cpus.clone(),
        frozen: AtomicBool::new(false),
        writers: AtomicU32::new(0),
        users: AtomicUsize::new(1),
    };
    let object: Arc<MapObject> = Arc::new(Object { head, ops });
    let this = This(Arc::as_ptr(&object));
    let first = object.head.this.set(this).is_ok();
    debug_assert!(first, "set once, before anybody knows the object");
    Ok(Map(MapRef(object)))
}
