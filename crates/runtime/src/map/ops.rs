//! What every map type does: the program side, the user side, and what others must know of its memory.
//!
//! The program side is called on a vCPU inside a run: it takes pointers, returns addresses of values that stay mapped
//! to the end of the run, and never waits for a grace period. The user side takes slices whose lengths the handle has
//! checked, runs on any thread, and needs no vCPU. Kernel counterpart: `struct bpf_map_ops` (include/linux/bpf.h, 6.18).

use std::any::Any;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use skep_abi::Errno;
use skep_sync::{CpuGuard, CpuSet, PerCpuOff};

use super::perf_event_array::PerfRing;
use super::prog_array::TailCallee;
use super::spec::{MapInfo, MapSpec};
use super::{HelperFn, Map};

/// The vCPU of the run in progress: proof that the caller is inside a run.
#[derive(Debug, Clone, Copy)]
pub struct Vcpu<'a> {
    base: NonNull<u8>,
    _run: PhantomData<&'a CpuGuard<'a>>,
}

impl<'a> Vcpu<'a> {
    /// The vCPU whose region begins at `base`, the last argument of a helper.
    ///
    /// # Safety
    /// `base` is the region of the vCPU that this thread is in a run on, for the whole of `'a`.
    #[inline]
    #[must_use]
    pub unsafe fn from_base(base: *mut u8) -> Vcpu<'a> {
        // SAFETY: regions are never at address 0.
        let base = unsafe { NonNull::new_unchecked(base) };
        Vcpu { base, _run: PhantomData }
    }

    /// The vCPU of a guard.
    #[inline]
    #[must_use]
    pub fn of(guard: &'a CpuGuard<'_>) -> Vcpu<'a> {
        Vcpu { base: guard.base(), _run: PhantomData }
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub fn id(self) -> u32 {
        // SAFETY: the header of a region holds the number, which is never written after the set was made.
        unsafe { self.base.cast::<u32>().read() }
    }

    /// The address of per-CPU memory.
    #[inline]
    #[must_use]
    pub fn at(self, offset: PerCpuOff) -> *mut u8 {
        #[expect(clippy::cast_possible_truncation, reason = "offsets are made from usize")]
        self.base.as_ptr().wrapping_add(offset.0 as usize)
    }
}

/// What a program may do with memory of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// It may load.
    pub read: bool,
    /// It may store.
    pub write: bool,
}

impl Access {
    /// What the map's flags allow programs.
    pub(crate) fn of(info: &MapInfo) -> Access {
        use skep_abi::map_flags::{BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG};
        Access { read: info.flags & BPF_F_WRONLY_PROG == 0, write: info.flags & BPF_F_RDONLY_PROG == 0 }
    }
}

/// How compiled code may reach elements without a call. Plain numbers: crate `skep` hands them to the JIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapAccessInfo {
    /// Element `i` is at `values + i * stride`.
    Array {
        /// Address of element 0.
        values: u64,
        /// Bytes from an element to the next.
        stride: u32,
        /// The number of elements.
        max_entries: u32,
    },
    /// Element `i` of this vCPU is at `cpu_base + off + i * stride`.
    PerCpuArray {
        /// Offset of element 0 in each vCPU's region.
        off: u64,
        /// Bytes from an element to the next.
        stride: u32,
        /// The number of elements.
        max_entries: u32,
    },
    /// Slot `i` is the `AtomicU64` at `targets + 8 * i`: 0 when empty, else where a tail call enters.
    ProgArray {
        /// Address of slot 0.
        targets: u64,
        /// The number of slots.
        max_entries: u32,
    },
    /// A call of `lookup` with the helper's arguments, without the dispatch by type.
    Hash {
        /// `extern "sysv64" fn(map, key, _, _, _, cpu_base) -> u64`.
        lookup: u64,
    },
    /// Memory that pointers of 32 bits lead into: at `base` and the pointer. A byte of a table says of each page whether it
    /// is there ([`arena`](super::arena)).
    Arena {
        /// A multiple of 4 GiB.
        base: u64,
        /// The address of the first page.
        start: u64,
    },
    /// Only through helpers.
    Opaque,
}

/// The functions of one map for code that knows the map when it is compiled: no dispatch by type.
#[derive(Debug, Clone, Copy)]
pub struct MapFns {
    /// `bpf_map_lookup_elem`.
    pub lookup: HelperFn,
    /// `bpf_map_update_elem`.
    pub update: HelperFn,
    /// `bpf_map_delete_elem`.
    pub delete: HelperFn,
}

/// The address of a helper, as compiled code wants it.
pub(crate) trait HelperAddr {
    /// The address.
    fn address(self) -> u64;
}

impl HelperAddr for HelperFn {
    fn address(self) -> u64 {
        (self as *const ()).expose_provenance() as u64
    }
}

/// A value that is not bytes.
#[derive(Clone)]
#[non_exhaustive]
pub enum Slot {
    /// Of a prog array.
    Program(Arc<dyn TailCallee>),
    /// Of a map of maps.
    Map(Map),
    /// Of a perf event array.
    PerfRing(Arc<PerfRing>),
}

/// What `bpf_redirect_map` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedirectTarget {
    /// `BPF_MAP_TYPE_DEVMAP`, `DEVMAP_HASH`: a network device, and the id of the program to run there (0 for none).
    Device {
        /// The device's index.
        ifindex: u32,
        /// The program's id.
        program: u32,
    },
    /// `BPF_MAP_TYPE_CPUMAP`: another CPU, and the id of the program to run there (0 for none).
    Cpu {
        /// The CPU.
        cpu: u32,
        /// The program's id.
        program: u32,
    },
    /// `BPF_MAP_TYPE_XSKMAP`: an AF_XDP socket, by the number that the user gave it.
    Socket {
        /// The socket's number.
        socket: u32,
    },
}

/// A map type. Every method has the kernel's answer for types that do not support it as its default.
///
/// # Safety
/// `data` and the addresses in [`MapOps::access`] stay valid for the life of the map; what `lookup` returns stays
/// mapped to the end of the run that asked.
pub unsafe trait MapOps: Any + Send + Sync {
    /// The address that [`MapObject`](super::MapObject) publishes in its first word.
    fn data(&self) -> u64 {
        0
    }

    /// How compiled code reaches elements.
    fn access(&self) -> MapAccessInfo {
        MapAccessInfo::Opaque
    }

    /// `bpf_map_lookup_elem`: the value's address, or null.
    ///
    /// # Safety
    /// `key` is readable for the key's size; `self` is kept alive by the run of `cpu`.
    unsafe fn lookup(&self, key: *const u8, cpu: Vcpu<'_>) -> *mut u8 {
        let _ = (key, cpu);
        std::ptr::null_mut()
    }

    /// `bpf_map_lookup_percpu_elem`: the address of another CPU's value, or null.
    ///
    /// # Safety
    /// As for [`MapOps::lookup`].
    unsafe fn lookup_percpu(&self, key: *const u8, of: u32, cpu: Vcpu<'_>) -> *mut u8 {
        let _ = (key, of, cpu);
        std::ptr::null_mut()
    }

    /// `bpf_map_update_elem`.
    ///
    /// # Safety
    /// As for [`MapOps::lookup`]; `value` is readable for the value's size.
    unsafe fn update(&self, key: *const u8, value: *const u8, flags: u64, cpu: Vcpu<'_>) -> Result<(), Errno> {
        let _ = (key, value, flags, cpu);
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_delete_elem`.
    ///
    /// # Safety
    /// As for [`MapOps::lookup`].
    unsafe fn delete(&self, key: *const u8, cpu: Vcpu<'_>) -> Result<(), Errno> {
        let _ = (key, cpu);
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_push_elem`.
    ///
    /// # Safety
    /// `value` is readable for the value's size.
    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        let _ = (value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_pop_elem`.
    ///
    /// # Safety
    /// `value` is writable for the value's size.
    unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        let _ = value;
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_peek_elem`; for a Bloom filter, whether `value` may be in the set.
    ///
    /// # Safety
    /// `value` is writable and readable for the value's size.
    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        let _ = value;
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_for_each_map_elem`: calls `visit(key, value)` for each element until it returns `true`; the number of calls.
    ///
    /// # Safety
    /// As for [`MapOps::lookup`]. The pointers are valid for the call.
    unsafe fn for_each(&self, cpu: Vcpu<'_>, visit: &mut dyn FnMut(*mut u8, *mut u8) -> bool) -> Result<u64, Errno> {
        let _ = (cpu, visit);
        Err(Errno::EINVAL)
    }

    /// `bpf_redirect_map`: what the key stands for, if anything.
    fn redirect(&self, key: u64) -> Option<RedirectTarget> {
        let _ = key;
        None
    }

    /// BPF_MAP_LOOKUP_ELEM. `out` has the size that `flags` ask for.
    fn user_lookup(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        let _ = (key, out, flags);
        Err(Errno::ENOTSUPP)
    }

    /// BPF_MAP_UPDATE_ELEM. `value` has the size that `flags` ask for.
    fn user_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let _ = (key, value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// BPF_MAP_UPDATE_ELEM of a map whose values are references. `EBADF` is what a wrong file descriptor gives.
    fn user_update_slot(&self, key: &[u8], value: Slot, flags: u64) -> Result<(), Errno> {
        let _ = (key, value, flags);
        Err(Errno::EBADF)
    }

    /// BPF_MAP_DELETE_ELEM.
    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        let _ = key;
        Err(Errno::ENOTSUPP)
    }

    /// BPF_MAP_GET_NEXT_KEY: the first key for `None`, or for a key that is not there where the type says so.
    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        let _ = (key, out);
        Err(Errno::ENOTSUPP)
    }

    /// BPF_MAP_LOOKUP_AND_DELETE_ELEM.
    fn user_lookup_and_delete(&self, key: &[u8], out: &mut [u8], flags: u64) -> Result<(), Errno> {
        let _ = (key, out, flags);
        Err(Errno::ENOTSUPP)
    }

    /// Which batch operations there are.
    fn batch_support(&self) -> BatchSupport {
        BatchSupport::default()
    }

    /// BPF_MAP_LOOKUP_BATCH and BPF_MAP_LOOKUP_AND_DELETE_BATCH for types that go by bucket.
    fn user_batch(&self, request: &mut BucketBatch<'_>) -> Result<(), Errno> {
        let _ = request;
        Err(Errno::ENOTSUPP)
    }

    /// Bytes of memory (`map_mem_usage`, `memlock` in fdinfo).
    fn memory(&self) -> u64;

    /// What a program may do with `len` bytes at `addr`, if all of them belong to one value.
    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        let _ = (addr, len);
        None
    }

    /// The same for a value of one of the maps that are inside this one, or were when a run began that has not ended. This is not
    /// for the way that every access goes: it may wait for whoever changes what is inside.
    fn contains_inside(&self, addr: u64, len: u64) -> Option<Access> {
        let _ = (addr, len);
        None
    }

    /// The last user handle is gone; programs may still use the map (`map_release_uref`).
    fn release_user(&self) {}
}

/// Which batch operations a type has.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchSupport {
    /// BPF_MAP_LOOKUP_BATCH.
    pub lookup: bool,
    /// BPF_MAP_LOOKUP_AND_DELETE_BATCH.
    pub lookup_and_delete: bool,
    /// BPF_MAP_UPDATE_BATCH.
    pub update: bool,
    /// BPF_MAP_DELETE_BATCH.
    pub delete: bool,
    /// The cursor is a bucket number, and the type does the lookups itself.
    pub by_bucket: bool,
}

/// A batch lookup by bucket.
#[derive(Debug)]
pub struct BucketBatch<'a> {
    /// The bucket to begin with; afterwards the bucket to go on with.
    pub bucket: u32,
    /// The most elements wanted.
    pub max: usize,
    /// Flags of each lookup.
    pub flags: u64,
    /// Delete what was found.
    pub delete: bool,
    /// Keys found, one after the other.
    pub keys: &'a mut Vec<u8>,
    /// Values found, one after the other.
    pub values: &'a mut Vec<u8>,
}

/// How a type is made.
pub(crate) trait MapKind: MapOps + Sized {
    /// The type's checks (`map_alloc_check`), before anything is allocated.
    fn check(spec: &MapSpec) -> Result<(), Errno>;

    /// Makes the map (`map_alloc`); may add flags to `info` or round its entries.
    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<Self, Errno>;
}
