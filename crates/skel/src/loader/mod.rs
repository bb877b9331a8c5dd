//! Loader programs: an object as one program of type syscall that creates its maps and loads its programs.
//!
//! Owns the order of the calls, which is libbpf's: types, maps with their contents, programs, the slots of prog arrays.
//! Invariant: the loader needs nothing but its data (a map of one value, the first of its descriptors) and its context, and
//! the same object gives the same bytes. CO-RE relocations, kernel functions and attach targets are passed along, so that
//! they are answered where the loader runs. Kernel counterpart: tools/lib/bpf/gen_loader.c, 6.18.

mod attr;
mod code;
mod programs;

use skep_abi::{RawInsn, update_flags};
use skep_btf::{Btf, Rules};
use skep_object::{MapKind, MapSpec, ObjectSpec, SlotTarget};

use self::attr::{Attr, btf, ctx, elem, map};
use self::code::Code;
use crate::error::{Error, Result};

/// `BPF_F_RDONLY_PROG`.
const RDONLY_PROG: u32 = 1 << 7;
/// Entries of a perf event array that names none: as many CPUs as Linux can have on x86-64. A loader cannot ask how many
/// there are.
const PERF_ENTRIES: u32 = 8192;

/// A loader program, with what a caller must know to run it.
///
/// It is a program of type syscall, sleepable, licensed "Dual BSD/GPL", whose first descriptor is an array of one value:
/// [`data`](Self::data). Its context is `struct bpf_loader_ctx` (24 bytes), then 16 bytes for each map of the object
/// (`map_fd`, `max_entries`, `initial_value`) and 4 for each program (`prog_fd`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoaderProgram {
    /// Its instructions; `BPF_PSEUDO_MAP_IDX_VALUE` 0 is the data.
    pub insns: Vec<RawInsn>,
    /// What the data map holds before a run. A run changes it, so each run needs a map of its own.
    pub data: Vec<u8>,
    /// Bytes of the context.
    pub ctx_size: u32,
}

impl LoaderProgram {
    /// Where the context has the descriptor of a map, by its place in the object. `max_entries` is 4 bytes further, the
    /// address of an initial value 8.
    fn map_fd_at(map: usize) -> usize {
        (ctx::LEN as usize).saturating_add(map.saturating_mul(ctx::MAP_LEN as usize))
    }

    /// Where the context of an object with so many maps has the descriptor of a program, by its place in the object.
    fn prog_fd_at(maps: usize, program: usize) -> usize {
        Self::map_fd_at(maps).saturating_add(program.saturating_mul(ctx::PROG_LEN as usize))
    }
}

/// The loader program of an object.
///
/// # Errors
/// The object has something that only libbpf at load time can supply: a program whose section names no type, a `freplace`
/// program (its target is a descriptor), a kernel variable without a type, or a configuration value that nobody set.
pub fn loader(object: &ObjectSpec) -> Result<LoaderProgram> {
    if let Some(map) = object.maps.iter().find(|map| !map.arena_globals().is_empty()) {
        return Err(Error::LoaderArena { map: map.name.clone() });
    }
    let slots = Slots::of(object)?;
    let mut loader =
        Loader { object, types: kernel_types(object)?, has_types: false, code: Code::new(slots.count)?, slots };
    loader.types()?;
    for index in 0..object.maps.len() {
        loader.create_map(index)?;
    }
    for map in &object.maps {
        loader.inner_maps(map)?;
    }
    for index in 0..object.programs.len() {
        loader.program(index)?;
    }
    for map in &object.maps {
        loader.prog_slots(map)?;
    }
    object.check_loadable().map_err(Error::Unloadable)?;
    loader.finish()
}

/// The object's types, unless the kernel does not take them: then maps and programs go without, as with libbpf.
fn kernel_types(object: &ObjectSpec) -> Result<Option<Vec<u8>>> {
    let Some(types) = &object.btf else { return Ok(None) };
    let bytes = types.to_kernel_bytes().map_err(Error::Btf)?;
    Ok(Btf::parse_with(&bytes, Rules::Kernel).is_ok().then_some(bytes))
}

/// Which descriptor is kept where.
struct Slots {
    /// Of each map's template, where it has one.
    inner: Vec<Option<u32>>,
    /// First of the programs'.
    programs: u32,
    /// First of those for the types of modules, of each program.
    modules: Vec<u32>,
    count: u32,
}

impl Slots {
    const BTF: u32 = 0;

    fn of(object: &ObjectSpec) -> Result<Self> {
        let mut next = Self::map(object.maps.len())?;
        let mut take = |n: usize| {
            let first = next;
            next = u32::try_from(n).ok().and_then(|n| next.checked_add(n)).ok_or(Error::LoaderTooLarge)?;
            Ok::<u32, Error>(first)
        };
        let mut inner = Vec::new();
        for map in &object.maps {
            inner.push(if map.inner.is_some() { Some(take(1)?) } else { None });
        }
        let programs = take(object.programs.len())?;
        let modules = object
            .programs
            .iter()
            .map(|p| take(p.kfuncs.len().saturating_add(p.ksyms.len())))
            .collect::<Result<_>>()?;
        Ok(Self { inner, programs, modules, count: next })
    }

    /// Of a map, by its place in the object.
    fn map(index: usize) -> Result<u32> {
        u32::try_from(index).ok().and_then(|index| index.checked_add(1)).ok_or(Error::LoaderTooLarge)
    }

    fn program(&self, index: usize) -> Result<u32> {
        u32::try_from(index).ok().and_then(|index| index.checked_add(self.programs)).ok_or(Error::LoaderTooLarge)
    }
}

struct Loader<'a> {
    object: &'a ObjectSpec,
    /// The bytes of the object's types, until they are part of the data.
    types: Option<Vec<u8>>,
    has_types: bool,
    code: Code,
    slots: Slots,
}

impl Loader<'_> {
    fn types(&mut self) -> Result<()> {
        let Some(bytes) = self.types.take() else { return Ok(()) };
        self.has_types = true;
        let len = u32::try_from(bytes.len()).map_err(|_| Error::LoaderTooLarge)?;
        let at = self.code.put(&bytes)?;
        let attr = self.code.put(&Attr::new(btf::LEN).word(btf::SIZE, len).0)?;
        self.code.store_address(attr + btf::BTF, at);
        self.code.copy_word(attr + btf::LOG_LEVEL, ctx::LOG_LEVEL);
        self.code.copy_word(attr + btf::LOG_SIZE, ctx::LOG_SIZE);
        self.code.copy_long(attr + btf::LOG_BUF, ctx::LOG_BUF);
        self.code.bpf(attr::BTF_LOAD, attr, btf::LEN);
        self.code.keep_fd(Slots::BTF);
        Ok(())
    }

    fn create_map(&mut self, index: usize) -> Result<()> {
        let object = self.object;
        let Some(spec) = object.maps.get(index).filter(|spec| spec.autocreate) else { return Ok(()) };
        let slot = Slots::map(index)?;
        let desc = self.map_desc(index)?;
        let inner = self.slots.inner.get(index).copied().flatten();
        if let Some((inner_slot, inner)) = inner.zip(spec.inner.as_deref()) {
            let attr = self.code.put(&map_attr(inner).0)?;
            self.code.bpf(attr::MAP_CREATE, attr, map::LEN);
            self.code.keep_fd(inner_slot);
        }
        let types = spec.value_type.filter(|_| self.has_types);
        let mut attr = map_attr(spec);
        if let Some(value) = types {
            let key = spec.key_type.map_or(0, |id| id.0);
            attr = attr.word(map::BTF_KEY_TYPE, key).word(map::BTF_VALUE_TYPE, value.0);
        }
        let attr = self.code.put(&attr.0)?;
        if types.is_some() {
            self.code.store_fd(attr + map::BTF_FD, Slots::BTF);
        }
        if let Some(inner_slot) = inner {
            self.code.store_fd(attr + map::INNER_MAP_FD, inner_slot);
        }
        if spec.kind == MapKind::User {
            self.code.copy_word_if_set(attr + map::MAX_ENTRIES, field(desc, ctx::MAX_ENTRIES)?)?;
        }
        self.code.bpf_unchecked(attr::MAP_CREATE, attr, map::LEN);
        if types.is_some() {
            // Some map types take no types, and some values have types that a kernel does not take.
            let created = self.code.if_succeeded();
            for member in [map::BTF_FD, map::BTF_KEY_TYPE, map::BTF_VALUE_TYPE] {
                self.code.store_constant(attr + member, 0);
            }
            self.code.bpf_unchecked(attr::MAP_CREATE, attr, map::LEN);
            self.code.land(created)?;
        }
        self.code.failing_returns();
        self.code.keep_fd(slot);
        self.fill_map(spec, slot, desc)
    }

    /// The image of a data section, as the caller may have changed it.
    fn fill_map(&mut self, spec: &MapSpec, slot: u32, desc: u32) -> Result<()> {
        let Some(image) = spec.initial_value() else { return Ok(()) };
        let value = self.code.put(&image)?;
        self.code.copy_memory(value, spec.value_size, field(desc, ctx::INITIAL_VALUE)?, ctx::FLAGS, ctx::KERNEL)?;
        let flags = if spec.kind == MapKind::PerCpu { update_flags::BPF_F_ALL_CPUS } else { update_flags::BPF_ANY };
        let key = self.code.reserve(4)?;
        self.update(slot, key, value, flags)?;
        if spec.kind.is_read_only() {
            let attr = self.code.put(&Attr::new(elem::LEN).0)?;
            self.code.store_fd(attr + elem::MAP_FD, slot);
            self.code.bpf(attr::MAP_FREEZE, attr, elem::FREEZE_LEN);
        }
        Ok(())
    }

    fn update(&mut self, slot: u32, key: u32, value: u32, flags: u64) -> Result<()> {
        let attr = self.code.put(&Attr::new(elem::LEN).long(elem::FLAGS, flags).0)?;
        self.code.store_fd(attr + elem::MAP_FD, slot);
        self.code.store_address(attr + elem::KEY, key);
        self.code.store_address(attr + elem::VALUE, value);
        self.code.bpf(attr::MAP_UPDATE_ELEM, attr, elem::LEN);
        Ok(())
    }

    fn inner_maps(&mut self, spec: &MapSpec) -> Result<()> {
        for slot in &spec.initial_slots {
            if let SlotTarget::Map(inner) = slot.target {
                self.fill_slot(spec, slot.slot, Slots::map(inner)?)?;
            }
        }
        Ok(())
    }

    fn prog_slots(&mut self, spec: &MapSpec) -> Result<()> {
        for slot in &spec.initial_slots {
            let SlotTarget::Program(index) = slot.target else { continue };
            if self.object.programs.get(index).is_some_and(|program| program.autoload) {
                let program = self.slots.program(index)?;
                self.fill_slot(spec, slot.slot, program)?;
            }
        }
        Ok(())
    }

    /// Puts the descriptor in `target` into slot `key` of a map.
    fn fill_slot(&mut self, spec: &MapSpec, key: u32, target: u32) -> Result<()> {
        let index = self.object.maps.iter().position(|map| std::ptr::eq(map, spec)).unwrap_or(0);
        let key = self.code.put(&key.to_le_bytes())?;
        let value = self.code.fd_at(target);
        self.update(Slots::map(index)?, key, value, update_flags::BPF_ANY)
    }

    /// Hands the descriptors over and closes what was only needed for loading.
    fn finish(mut self) -> Result<LoaderProgram> {
        for index in 0..self.object.maps.len() {
            let desc = self.map_desc(index)?;
            self.code.give_fd(field(desc, 0)?, Slots::map(index)?);
        }
        for index in 0..self.object.programs.len() {
            let at = LoaderProgram::prog_fd_at(self.object.maps.len(), index);
            let at = i16::try_from(at).map_err(|_| Error::LoaderTooLarge)?;
            let slot = self.slots.program(index)?;
            self.code.give_fd(at, slot);
        }
        self.code.close(Slots::BTF);
        for slot in self.slots.inner.iter().flatten() {
            self.code.close(*slot);
        }
        let modules = self.slots.modules.first().copied().unwrap_or(self.slots.count);
        for slot in modules..self.slots.count {
            self.code.close(slot);
        }
        self.code.succeed();
        let ctx_size = LoaderProgram::prog_fd_at(self.object.maps.len(), self.object.programs.len());
        let ctx_size = u32::try_from(ctx_size).map_err(|_| Error::LoaderTooLarge)?;
        Ok(LoaderProgram { insns: self.code.insns, data: self.code.data, ctx_size })
    }

    fn map_desc(&self, index: usize) -> Result<u32> {
        u32::try_from(LoaderProgram::map_fd_at(index)).map_err(|_| Error::LoaderTooLarge)
    }
}

/// An offset in the context, as an instruction holds it.
fn field(desc: u32, member: u32) -> Result<i16> {
    i16::try_from(desc.saturating_add(member)).map_err(|_| Error::LoaderTooLarge)
}

fn map_attr(spec: &MapSpec) -> Attr {
    let entries = spec.entries(PERF_ENTRIES).unwrap_or(spec.max_entries);
    let read_only = if spec.kind.is_read_only() { RDONLY_PROG } else { 0 };
    let mut attr = Attr::new(map::LEN);
    for (at, word) in [
        (0, spec.map_type),
        (4, spec.key_size),
        (8, spec.value_size),
        (map::MAX_ENTRIES, entries),
        (16, spec.map_flags | read_only),
        (24, spec.numa_node),
    ] {
        attr = attr.word(at, word);
    }
    attr.name(map::NAME, &spec.kernel_name).long(map::MAP_EXTRA, spec.map_extra)
}
