//! A whole object in the running kernel: its maps created and filled, its programs loaded with their types.
//!
//! What libbpf does between open and load, as far as an oracle needs it: nothing is attached, nothing pinned. Invariant:
//! the instructions are the object's own, with map indices replaced by file descriptors and nothing else.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use skep_abi::{Errno, MapType, RawInsn};
use skep_btf::TypeId;
use skep_object::spec::{PSEUDO_MAP_FD, PSEUDO_MAP_VALUE};
use skep_object::{MapSpec, ObjectSpec, ProgramSpec, SlotTarget};

use crate::kernel::{self, BtfFd, LoadFailure, Loaded, Map, MapCreate, Prog, ProgLoad, possible_cpus};
use crate::kernel_btf;

const LD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const PSEUDO_KFUNC_CALL: u8 = 2;
const RDONLY_PROG: u32 = 1 << 7;

/// Why an object cannot be had in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A map cannot be created or filled.
    #[error("map '{map}': {what}: {errno}")]
    Map {
        /// The map.
        map: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The object has something that no load by hand can give the kernel.
    #[error("{0}")]
    Unsupported(String),
    /// The program was refused.
    #[error("program '{program}': {errno}: {message}")]
    Rejected {
        /// The program.
        program: String,
        /// The kernel's errno.
        errno: Errno,
        /// The log's last line.
        message: String,
        /// The whole log.
        log: String,
    },
}

/// An object's maps and types in the kernel.
pub struct KernelObject<'a> {
    spec: &'a ObjectSpec,
    maps: Vec<Map>,
    btf: Option<BtfFd>,
    /// Names of maps that the kernel makes only without the types of their values.
    untyped: Vec<String>,
}

impl<'a> KernelObject<'a> {
    /// Creates and fills all maps and loads the types.
    ///
    /// # Errors
    /// The kernel refuses a map. Types that it refuses are left out, as libbpf does.
    pub fn create(spec: &'a ObjectSpec) -> Result<Self, KernelError> {
        let bytes = spec.btf.as_ref().and_then(|btf| btf.to_kernel_bytes().ok());
        let btf = bytes.and_then(|bytes| kernel::btf_load(&bytes).ok());
        let (mut maps, mut untyped) = (Vec::new(), Vec::new());
        for map in &spec.maps {
            let (created, typed) = create_map(map, btf.as_ref())?;
            maps.push(created);
            if !typed {
                untyped.push(map.name.clone());
            }
        }
        let object = Self { spec, maps, btf, untyped };
        for (map, created) in spec.maps.iter().zip(&object.maps) {
            for slot in &map.initial_slots {
                if let SlotTarget::Map(inner) = slot.target {
                    let fd = object.maps[inner].raw_fd().to_ne_bytes();
                    created
                        .update(&slot.slot.to_ne_bytes(), &fd, 0)
                        .map_err(|errno| failed(map, "inner map", errno))?;
                }
            }
        }
        Ok(object)
    }

    /// Whether the kernel has taken the object's types.
    #[must_use]
    pub fn has_types(&self) -> bool {
        self.btf.is_some()
    }

    /// The maps that the kernel makes only without the types of their values.
    #[must_use]
    pub fn untyped_maps(&self) -> &[String] {
        &self.untyped
    }

    /// The map with this name.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&Map> {
        let index = self.spec.maps.iter().position(|map| map.name == name)?;
        self.maps.get(index)
    }

    /// Loads a program, by its place in the object, with its functions and source lines.
    ///
    /// # Errors
    /// The kernel refuses the program, or it needs more than an oracle gives.
    pub fn load(&self, program: usize, log_level: u32) -> Result<Loaded, KernelError> {
        self.load_spec(&self.spec.programs[program], log_level, None)
    }

    /// Loads an extension program in the place of a function (its `FUNC` in the target's types) of a loaded program. The
    /// program refers to this object's maps, and to these types by the same ids.
    ///
    /// # Errors
    /// As for [`KernelObject::load`].
    pub fn load_extension(
        &self,
        program: &ProgramSpec,
        log_level: u32,
        (target, function): (&Prog, TypeId),
    ) -> Result<Loaded, KernelError> {
        self.load_spec(program, log_level, Some((target, function)))
    }

    fn load_spec(
        &self,
        program: &ProgramSpec,
        log_level: u32,
        target: Option<(&Prog, TypeId)>,
    ) -> Result<Loaded, KernelError> {
        let unsupported = |why: &str| KernelError::Unsupported(format!("program '{}': {why}", program.name));
        let sec = program.sec.as_ref().ok_or_else(|| unsupported("its section names no program type"))?;
        if !program.ksyms.is_empty() {
            return Err(unsupported("refers to kernel variables"));
        }
        let mut insns = self.with_fds(&program.insns);
        for insn in insns.iter_mut().filter(|insn| insn.code == CALL && insn.src == PSEUDO_KFUNC_CALL) {
            let kfunc = usize::try_from(insn.imm).ok().and_then(|index| program.kfuncs.get(index));
            let id = kfunc.and_then(|kfunc| kernel_btf::kernel_function(&kfunc.name));
            let id = id.and_then(|id| i32::try_from(id.0).ok());
            insn.imm = id.ok_or_else(|| unsupported("calls a function that the kernel does not have"))?;
        }
        let mut func_info = Vec::new();
        for info in &program.func_info {
            func_info.extend([info.insn_off, info.type_id.0].iter().flat_map(|word| word.to_ne_bytes()));
        }
        let mut line_info = Vec::new();
        for info in &program.line_info {
            let place = info.line_num << 10 | info.column & 0x3ff;
            let words = [info.insn_off, info.file.0, info.line.0, place];
            line_info.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }
        let has_btf = self.btf.is_some();
        let load = ProgLoad {
            attach_type: sec.attach_type,
            license: &self.spec.license,
            name: &program.name,
            log_level,
            flags: sec.prog_flags,
            btf: self.btf.as_ref().map(|btf| btf.as_fd().as_raw_fd()),
            func_info: (if has_btf { &func_info } else { &[] }, 8),
            line_info: (if has_btf { &line_info } else { &[] }, 16),
            attach_prog: target.map(|(prog, _)| prog.as_fd().as_raw_fd()),
            attach_btf_id: target.map_or(0, |(_, function)| function.0),
            ..ProgLoad::new(sec.prog_type, &insns)
        };
        let result = if log_level == 0 { load.load_briefly() } else { load.load() };
        result.map_err(|failure: LoadFailure| KernelError::Rejected {
            program: program.name.clone(),
            errno: failure.errno,
            message: failure.message().to_owned(),
            log: failure.log,
        })
    }

    /// Puts loaded programs, parallel to the object's, into the prog arrays that the object fills.
    ///
    /// # Errors
    /// The kernel refuses a program for an array.
    pub fn fill_prog_arrays(&self, programs: &[Option<Prog>]) -> Result<(), KernelError> {
        for (map, created) in self.spec.maps.iter().zip(&self.maps) {
            for slot in &map.initial_slots {
                let SlotTarget::Program(index) = slot.target else { continue };
                let Some(Some(program)) = programs.get(index) else { continue };
                let fd = program.as_fd().as_raw_fd().to_ne_bytes();
                created.update(&slot.slot.to_ne_bytes(), &fd, 0).map_err(|errno| failed(map, "program", errno))?;
            }
        }
        Ok(())
    }

    /// The program with file descriptors in place of map indices.
    fn with_fds(&self, insns: &[RawInsn]) -> Vec<RawInsn> {
        let mut out = insns.to_vec();
        let mut at = 0;
        while let Some(insn) = out.get_mut(at) {
            if insn.code != LD_IMM64 {
                at += 1;
                continue;
            }
            let index = usize::try_from(insn.imm).ok();
            if (insn.src == PSEUDO_MAP_FD || insn.src == PSEUDO_MAP_VALUE)
                && let Some(map) = index.and_then(|index| self.maps.get(index))
            {
                insn.imm = map.raw_fd();
            }
            at += 2;
        }
        out
    }
}

fn failed(map: &MapSpec, what: &'static str, errno: Errno) -> KernelError {
    KernelError::Map { map: map.name.clone(), what, errno }
}

/// The map, and whether it has all the types that it was to have.
fn create_map(map: &MapSpec, btf: Option<&BtfFd>) -> Result<(Map, bool), KernelError> {
    let map_type = |number| {
        MapType::from_u32(number).ok_or_else(|| KernelError::Unsupported(format!("map '{}': unknown type", map.name)))
    };
    let inner = match &map.inner {
        Some(inner) => Some(create_map(inner, None)?.0),
        None => None,
    };
    let read_only = map.kind.is_read_only();
    let entries = u32::try_from(possible_cpus()).ok().and_then(|cpus| entries(map, cpus));
    let entries = entries.ok_or_else(|| failed(map, "create", Errno::E2BIG))?;
    let mut create = MapCreate {
        flags: map.map_flags | if read_only { RDONLY_PROG } else { 0 },
        name: &map.kernel_name,
        inner_map: inner.as_ref().map(Map::raw_fd),
        btf: types(map, btf),
        numa_node: 0,
        map_extra: map.map_extra,
        ..MapCreate::new(map_type(map.map_type)?, map.key_size, map.value_size, entries)
    };
    let created = create.create().or_else(|_| {
        // Some map types take no types, and some values have types that the kernel does not take.
        create.btf = None;
        create.create()
    });
    let typed = create.btf.is_some() || types(map, btf).is_none();
    let created = created.map_err(|errno| failed(map, "create", errno))?;
    if map.map_type == MapType::Arena as u32 && (map.map_extra == 0 || !map.arena_globals().is_empty()) {
        let mapped = created.fill_arena(map.max_entries, map.map_extra, map.arena_globals());
        mapped.map_err(|errno| failed(map, "mmap", errno))?;
    }
    if let Some(image) = map.initial_value() {
        created.fill(&image).map_err(|errno| failed(map, "initial value", errno))?;
        if read_only {
            created.freeze().map_err(|errno| failed(map, "freeze", errno))?;
        }
    }
    Ok((created, typed))
}

/// The entries to create it with. A size that the application is to set does not matter to a verdict: veristat makes it 1, too.
fn entries(map: &MapSpec, cpus: u32) -> Option<u32> {
    use MapType as M;
    match MapType::from_u32(map.map_type) {
        // As many as there are owners, and created with none.
        Some(
            M::SkStorage
            | M::InodeStorage
            | M::TaskStorage
            | M::CgrpStorage
            | M::CgroupStorage
            | M::PercpuCgroupStorage
            | M::StructOps,
        ) => Some(map.max_entries),
        _ => match map.entries(cpus)? {
            0 => MapSpec { max_entries: 1, ..map.clone() }.entries(cpus),
            entries => Some(entries),
        },
    }
}

fn types(map: &MapSpec, btf: Option<&BtfFd>) -> Option<(RawFd, u32, u32)> {
    let value = map.value_type?;
    Some((btf?.as_fd().as_raw_fd(), map.key_type.map_or(0, |id| id.0), value.0))
}
