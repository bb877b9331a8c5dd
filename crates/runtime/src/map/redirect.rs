//! Redirect targets: `BPF_MAP_TYPE_DEVMAP`, `DEVMAP_HASH`, `CPUMAP`, `XSKMAP`.
//!
//! There are no devices here: a target is recorded, and the run's result says where the packet would have gone. An
//! entry is one word, so a reader never sees half of one: the low half is what the kernel's value begins with (interface
//! index, queue size, socket), the high half the id of the program to run there. Users name programs and sockets by
//! numbers of their own. Invariant: an entry of zero is empty.
//! Kernel counterpart: kernel/bpf/devmap.c, cpumap.c, net/xdp/xskmap.c (6.18).

use std::sync::atomic::{AtomicU64, Ordering};

use skep_abi::Errno;
use skep_abi::map_flags::{BPF_F_NUMA_NODE, BPF_F_RDONLY, BPF_F_RDONLY_PROG, BPF_F_WRONLY};
use skep_abi::update_flags::{BPF_EXIST, BPF_NOEXIST};
use skep_sync::CpuSet;

use super::array::{index_at, index_of, next_index};
use super::hash::{HashMap, Key4};
use super::ops::{Access, MapKind, MapOps, RedirectTarget, Vcpu};
use super::region::Region;
use super::spec::{MapInfo, MapSpec};

/// What an array of targets holds.
pub(crate) const DEVICE: u8 = 0;
/// CPUs.
pub(crate) const CPU: u8 = 1;
/// Sockets.
pub(crate) const SOCKET: u8 = 2;

/// The longest queue of a CPU.
const QUEUE_MAX: u32 = 16384;
/// The most CPUs that a kernel is built for.
const NR_CPUS: u32 = 8192;
/// Marks a socket's entry, whose number may be 0.
const PRESENT: u64 = 1 << 32;

/// Targets by index.
pub struct Targets<const KIND: u8> {
    entries: Region,
    max_entries: u32,
    value_size: usize,
    n_cpus: u32,
}

/// `BPF_MAP_TYPE_DEVMAP_HASH`: devices by a key of the user's.
pub struct DevmapHash {
    entries: HashMap<Key4, false, false>,
    value_size: usize,
}

/// A user's value of 4 or 8 bytes as an entry: first word, program.
fn parse(value: &[u8]) -> (u32, u32) {
    let word = |at: usize| value.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    // Minus one is how programs say "no program", as with any descriptor.
    let program = word(4);
    (word(0), if program.cast_signed() < 0 { 0 } else { program })
}

fn entry((first, program): (u32, u32)) -> u64 {
    u64::from(first) | u64::from(program) << 32
}

fn halves(entry: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    (entry as u32, (entry >> 32) as u32)
}

impl<const KIND: u8> Targets<KIND> {
    fn slot(&self, index: u32) -> Option<&AtomicU64> {
        let slot = self.entries.start().cast::<u64>().wrapping_add(index as usize);
        // SAFETY: the region has a word for each entry, and is accessed with atomics and by programs' loads only.
        (index < self.max_entries).then(|| unsafe { AtomicU64::from_ptr(slot) })
    }

    /// The entry that a user's value stands for; 0 empties the slot.
    fn parse(&self, index: u32, value: &[u8]) -> Result<u64, Errno> {
        let (first, program) = parse(value);
        match KIND {
            DEVICE if first == 0 && program != 0 => Err(Errno::EINVAL),
            CPU if first > QUEUE_MAX => Err(Errno::EOVERFLOW),
            CPU if index >= self.n_cpus => Err(Errno::ENODEV),
            CPU if first == 0 => Ok(0),
            SOCKET => Ok(PRESENT | u64::from(first)),
            _ => Ok(entry((first, program))),
        }
    }
}

// SAFETY: the region lives as long as the map.
unsafe impl<const KIND: u8> MapOps for Targets<KIND> {
    unsafe fn lookup(&self, key: *const u8, _: Vcpu<'_>) -> *mut u8 {
        // SAFETY: a key of four bytes (caller).
        let slot = self.slot(unsafe { index_at(key) });
        match slot.filter(|slot| slot.load(Ordering::Acquire) != 0) {
            Some(slot) => slot.as_ptr().cast(),
            None => std::ptr::null_mut(),
        }
    }

    fn redirect(&self, key: u64) -> Option<RedirectTarget> {
        let index = u32::try_from(key).ok()?;
        let entry = self.slot(index)?.load(Ordering::Acquire);
        let (first, program) = halves(entry);
        (entry != 0).then_some(match KIND {
            CPU => RedirectTarget::Cpu { cpu: index, program },
            SOCKET => RedirectTarget::Socket { socket: first },
            _ => RedirectTarget::Device { ifindex: first, program },
        })
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        if KIND == SOCKET {
            return Err(Errno::ENOTSUP);
        }
        let entry = self.slot(index_of(key)).map_or(0, |slot| slot.load(Ordering::Acquire));
        if entry == 0 {
            return Err(Errno::ENOENT);
        }
        out.copy_from_slice(&entry.to_ne_bytes()[..self.value_size]);
        Ok(())
    }

    fn user_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let index = index_of(key);
        let slot = self.slot(index).ok_or(Errno::E2BIG)?;
        if KIND == SOCKET {
            let there = slot.load(Ordering::Acquire) != 0;
            match flags {
                BPF_NOEXIST if there => return Err(Errno::EEXIST),
                BPF_EXIST if !there => return Err(Errno::ENOENT),
                _ => {}
            }
        } else if flags == BPF_NOEXIST {
            return Err(Errno::EEXIST);
        }
        slot.store(self.parse(index, value)?, Ordering::Release);
        Ok(())
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.slot(index_of(key)).ok_or(Errno::EINVAL)?.store(0, Ordering::Release);
        Ok(())
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        next_index(key, out, self.max_entries)
    }

    fn memory(&self) -> u64 {
        size_of::<Self>() as u64 + u64::from(self.max_entries) * 8
    }

    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        let offset = self.entries.offset_of(addr, len)?;
        let inside = offset / 8 < u64::from(self.max_entries) && offset % 8 + len <= self.value_size as u64;
        inside.then_some(Access { read: true, write: false })
    }
}

impl<const KIND: u8> MapKind for Targets<KIND> {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        let sizes: &[u32] = if KIND == SOCKET { &[4] } else { &[4, 8] };
        if spec.max_entries == 0 || spec.key_size != 4 || !sizes.contains(&spec.value_size) {
            return Err(Errno::EINVAL);
        }
        let access = if KIND == CPU { 0 } else { BPF_F_RDONLY | BPF_F_WRONLY };
        spec.check_flags(BPF_F_NUMA_NODE | access)?;
        if KIND == CPU && spec.max_entries > NR_CPUS { Err(Errno::E2BIG) } else { Ok(()) }
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, _: &CpuSet) -> Result<Self, Errno> {
        if KIND == DEVICE {
            info.flags |= BPF_F_RDONLY_PROG;
        }
        let entries = Region::committed(u64::from(spec.max_entries) * 8)?;
        let value_size = spec.value_size as usize;
        Ok(Targets { entries, max_entries: spec.max_entries, value_size, n_cpus: info.n_cpus })
    }
}

// SAFETY: as for the hash map.
unsafe impl MapOps for DevmapHash {
    unsafe fn lookup(&self, key: *const u8, cpu: Vcpu<'_>) -> *mut u8 {
        // SAFETY: the caller's duty, passed on.
        unsafe { self.entries.lookup(key, cpu) }
    }

    fn redirect(&self, key: u64) -> Option<RedirectTarget> {
        let mut value = [0; 8];
        self.entries.user_lookup(&u32::try_from(key).ok()?.to_ne_bytes(), &mut value, 0).ok()?;
        let (ifindex, program) = parse(&value);
        Some(RedirectTarget::Device { ifindex, program })
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        let mut value = [0; 8];
        self.entries.user_lookup(key, &mut value, 0)?;
        out.copy_from_slice(&value[..self.value_size]);
        Ok(())
    }

    fn user_update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let target = parse(value);
        if target.0 == 0 || flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        // The kernel does not ask whether the key is there.
        self.entries.user_update(key, &entry(target).to_ne_bytes(), flags & BPF_NOEXIST)
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.entries.user_delete(key)
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        self.entries.user_next_key(key, out)
    }

    fn memory(&self) -> u64 {
        self.entries.memory()
    }

    fn contains(&self, addr: u64, len: u64) -> Option<Access> {
        self.entries.contains(addr, len)
    }
}

impl MapKind for DevmapHash {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if spec.max_entries > 1 << 31 { Err(Errno::EINVAL) } else { Targets::<DEVICE>::check(spec) }
    }

    fn create(spec: &MapSpec, info: &mut MapInfo, cpus: &CpuSet) -> Result<DevmapHash, Errno> {
        info.flags |= BPF_F_RDONLY_PROG;
        let entries = MapSpec { value_size: 8, ..spec.clone() };
        let entries = HashMap::by_identity(&entries, info, cpus)?;
        Ok(DevmapHash { entries, value_size: spec.value_size as usize })
    }
}
