//! `BPF_MAP_TYPE_PROG_ARRAY`: the targets of tail calls.
//!
//! Running code reads one word per slot: the address that a tail call enters, or 0. The program that the address belongs
//! to is kept beside it, under a lock, for listing and for the interpreter; the two need not change together, because
//! running code never reads the second. Invariant: a published address stays valid until a grace period after it
//! was replaced, for the array drops its reference to the program no earlier.
//! The first program fixes the *owner* (type, attach type, compiled or not, context): another kind is `EINVAL`, and so is an
//! extension program; a program of which a function is replaced is `EBUSY`.
//! Kernel counterpart: `prog_array_map_ops`, `bpf_prog_map_compatible` (kernel/bpf/arraymap.c, core.c, 6.18).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use skep_abi::map_flags::{BPF_F_NUMA_NODE, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG};
use skep_abi::update_flags::BPF_ANY;
use skep_abi::{AttachType, Errno, ProgType};
use skep_sync::CpuSet;

use super::array::{check_array, index_of, next_index};
use super::ops::{MapAccessInfo, MapKind, MapOps, Slot};
use super::region::Region;
use super::spec::{ACCESS_FLAGS, MapInfo, MapSpec};
use crate::inject::{Mistake, made};

/// What makes two programs compatible in one prog array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The program type.
    pub prog_type: ProgType,
    /// The attach type that the program was checked for.
    pub attach_type: AttachType,
    /// Whether programs enter as machine code.
    pub jited: bool,
    /// Whether they take packets in fragments (`BPF_F_XDP_HAS_FRAGS`).
    pub xdp_has_frags: bool,
    /// Which context layout R1 points at; equal numbers mean the same layout.
    pub context: u64,
}

/// A program as a prog array knows it.
pub trait TailCallee: Send + Sync {
    /// The program's id.
    fn id(&self) -> u32;
    /// What it is compatible with.
    fn owner(&self) -> Owner;
    /// The word that running code reads: where a tail call enters, never 0.
    fn tail_entry(&self) -> u64;
    /// The program as its own type, for the interpreter.
    fn as_any(&self) -> &dyn std::any::Any;
    /// Whether it replaces a function of another program, so that it can be no tail callee.
    fn is_extension(&self) -> bool {
        false
    }
    /// It goes into a slot.
    ///
    /// # Errors
    /// `EBUSY` while one of its functions is replaced.
    fn join_array(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// It left a slot.
    fn leave_array(&self) {}
}

/// Code whose sites depend on the slots of an array (a poked tail call).
pub trait SlotWatcher: Send + Sync {
    /// Slot `key` now has this target (0: empty). Called with the array's lock held, so that the calls of one array are
    /// in the order of its changes.
    fn slot_changed(&self, key: u32, target: u64);
}

/// A prog array map.
pub struct ProgArray {
    targets: Region,
    max_entries: u32,
    state: Mutex<State>,
    cpus: CpuSet,
}

struct State {
    programs: Vec<Option<Arc<dyn TailCallee>>>,
    owner: Option<Owner>,
    watchers: Vec<Weak<dyn SlotWatcher>>,
}

impl ProgArray {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, index: u32) -> Option<&AtomicU64> {
        let slot = self.targets.start().cast::<u64>().wrapping_add(index as usize);
        // SAFETY: the region has a word for each slot, and nobody accesses it but with atomics and compiled loads.
        (index < self.max_entries).then(|| unsafe { AtomicU64::from_ptr(slot) })
    }

    /// The program in a slot: what the interpreter enters.
    #[must_use]
    pub fn program(&self, index: u32) -> Option<Arc<dyn TailCallee>> {
        self.state().programs.get(index as usize)?.clone()
    }

    /// The word that running code reads in a slot: 0 when it is empty or out of range.
    #[must_use]
    pub fn target(&self, index: u32) -> u64 {
        self.slot(index).map_or(0, |slot| slot.load(Ordering::Acquire))
    }

    /// What kind of program the array takes, once it has one or a program was loaded that uses it.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.state().owner.clone()
    }

    /// Fixes the owner, or compares: done when a program that tail-calls through the array is loaded.
    ///
    /// # Errors
    /// `EINVAL` for a program that is not compatible.
    pub fn check_owner(&self, owner: &Owner) -> Result<(), Errno> {
        self.state().check_owner(owner)
    }

    /// Tells `watcher` of every change from now on, and of all filled slots before any later change.
    pub fn watch(&self, watcher: &Arc<dyn SlotWatcher>) {
        let mut state = self.state();
        state.watchers.retain(|known| known.strong_count() > 0);
        state.watchers.push(Arc::downgrade(watcher));
        if made(Mistake::BlindWatcher) {
            return;
        }
        for index in 0..self.max_entries {
            let target = self.target(index);
            if target != 0 {
                watcher.slot_changed(index, target);
            }
        }
    }

    /// Replaces several slots under one lock: none of the watchers sees another change in between.
    ///
    /// # Errors
    /// `E2BIG` for a slot out of range, `EINVAL` for a program that is not compatible, `EBUSY` for one of which a function is
    /// replaced; then nothing has changed.
    pub fn set_many(&self, changes: Vec<(u32, Option<Arc<dyn TailCallee>>)>) -> Result<(), Errno> {
        let mut state = self.state();
        for (index, program) in &changes {
            if *index >= self.max_entries {
                return Err(Errno::E2BIG);
            }
            if let Some(program) = program {
                state.check_callee(&**program)?;
            }
        }
        let joining = || changes.iter().filter_map(|(_, program)| program.as_ref());
        for (done, program) in joining().enumerate() {
            if let Err(errno) = program.join_array() {
                joining().take(done).for_each(|joined| joined.leave_array());
                return Err(errno);
            }
        }
        for (index, program) in changes {
            self.set(&mut state, index, program);
        }
        Ok(())
    }

    /// Puts `new`, a program of the same kind, into every slot that holds the program with the number `old`.
    pub fn replace(&self, old: u32, new: &Arc<dyn TailCallee>) {
        let mut state = self.state();
        for index in 0..self.max_entries {
            let held = state.programs.get(index as usize).and_then(Option::as_ref);
            if held.is_some_and(|held| held.id() == old) && new.join_array().is_ok() {
                self.set(&mut state, index, Some(Arc::clone(new)));
            }
        }
    }

    /// Sets a slot that exists to a program that joined; the old program goes after a grace period. Whether there was one.
    fn set(&self, state: &mut State, index: u32, program: Option<Arc<dyn TailCallee>>) -> bool {
        let target = program.as_ref().map_or(0, |program| program.tail_entry());
        let Some(kept) = state.programs.get_mut(index as usize) else { return false };
        let old = std::mem::replace(kept, program);
        let keeps_word = target == 0 && made(Mistake::StaleWord);
        if let Some(slot) = self.slot(index).filter(|_| !keeps_word) {
            slot.store(target, Ordering::Release);
        }
        state.watchers.retain(|watcher| {
            let watcher = watcher.upgrade();
            if target == 0 && made(Mistake::UntoldWatcher) {
                return watcher.is_some();
            }
            watcher.inspect(|watcher| watcher.slot_changed(index, target)).is_some()
        });
        let was_there = old.is_some();
        if let Some(old) = old {
            old.leave_array();
            if made(Mistake::NoGrace) {
                return true;
            }
            // A run that loaded the word may still enter the old program.
            self.cpus.defer(Box::new(move || drop(old)));
        }
        was_there
    }

    fn clear(&self) {
        let mut state = self.state();
        for index in 0..self.max_entries {
            if state.programs.get(index as usize).is_some_and(Option::is_some) {
                self.set(&mut state, index, None);
            }
        }
    }
}

impl State {
    fn check_callee(&mut self, program: &dyn TailCallee) -> Result<(), Errno> {
        if program.is_extension() {
            return Err(Errno::EINVAL);
        }
        self.check_owner(&program.owner())
    }

    fn check_owner(&mut self, owner: &Owner) -> Result<(), Errno> {
        match &self.owner {
            Some(known) if known != owner => Err(Errno::EINVAL),
            Some(_) => Ok(()),
            None => {
                self.owner = Some(owner.clone());
                Ok(())
            }
        }
    }
}

// SAFETY: the targets live as long as the map.
unsafe impl MapOps for ProgArray {
    fn data(&self) -> u64 {
        self.targets.start().expose_provenance() as u64
    }

    fn access(&self) -> MapAccessInfo {
        MapAccessInfo::ProgArray { targets: self.data(), max_entries: self.max_entries }
    }

    fn user_lookup(&self, key: &[u8], out: &mut [u8], _: u64) -> Result<(), Errno> {
        let id = self.program(index_of(key)).ok_or(Errno::ENOENT)?.id();
        out.copy_from_slice(&id.to_ne_bytes());
        Ok(())
    }

    fn user_update(&self, key: &[u8], _: &[u8], flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        // A number names no program here: the caller resolves file descriptors and ids to a slot value.
        if index_of(key) >= self.max_entries { Err(Errno::E2BIG) } else { Err(Errno::EBADF) }
    }

    fn user_update_slot(&self, key: &[u8], value: Slot, flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        let index = index_of(key);
        if index >= self.max_entries {
            return Err(Errno::E2BIG);
        }
        let Slot::Program(program) = value else { return Err(Errno::EINVAL) };
        let mut state = self.state();
        state.check_callee(&*program)?;
        program.join_array()?;
        self.set(&mut state, index, Some(program));
        Ok(())
    }

    fn user_delete(&self, key: &[u8]) -> Result<(), Errno> {
        let index = index_of(key);
        if index >= self.max_entries {
            return Err(Errno::E2BIG);
        }
        if self.set(&mut self.state(), index, None) { Ok(()) } else { Err(Errno::ENOENT) }
    }

    fn user_next_key(&self, key: Option<&[u8]>, out: &mut [u8]) -> Result<(), Errno> {
        next_index(key, out, self.max_entries)
    }

    fn memory(&self) -> u64 {
        // A published word and a reference for each slot.
        let slot = 8 + size_of::<Option<Arc<dyn TailCallee>>>() as u64;
        size_of::<Self>() as u64 + u64::from(self.max_entries) * slot
    }

    fn release_user(&self) {
        self.clear();
    }
}

impl MapKind for ProgArray {
    fn check(spec: &MapSpec) -> Result<(), Errno> {
        if spec.value_size != 4 || spec.has(BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG) {
            return Err(Errno::EINVAL);
        }
        check_array(spec, ACCESS_FLAGS | BPF_F_NUMA_NODE)
    }

    fn create(spec: &MapSpec, _: &mut MapInfo, cpus: &CpuSet) -> Result<ProgArray, Errno> {
        let targets = Region::committed(u64::from(spec.max_entries) * 8)?;
        let mut programs = Vec::new();
        programs.try_reserve_exact(spec.max_entries as usize).map_err(|_| Errno::ENOMEM)?;
        programs.resize_with(spec.max_entries as usize, || None);
        let state = Mutex::new(State { programs, owner: None, watchers: Vec::new() });
        Ok(ProgArray { targets, max_entries: spec.max_entries, state, cpus: cpus.clone() })
    }
}
