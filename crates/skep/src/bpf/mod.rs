//! bpf(2) of this engine: commands and attributes of the kernel's, on the engine's own maps and programs.
//!
//! Owns the entry that loader programs call, and embedders that have attributes rather than objects. Invariant: an
//! attribute is checked as the kernel checks it, and the addresses in it are only followed through the caller's
//! [`UserMemory`]. Kernel counterpart: `__sys_bpf`, kernel/bpf/syscall.c, 6.18.

mod attr;
mod light;
mod maps;
mod programs;
mod table;
mod types;

pub use light::{Light, LightError, LightSkeleton};
pub(crate) use table::Table;

use skep_abi::Errno;
use skep_runtime::Program;
use skep_runtime::map::Map;
use skep_runtime::syscall::{Syscalls, UserMemory};

use self::attr::Attr;
use self::table::Handle;
use crate::engine::{Engine, Inner};

/// Commands (`enum bpf_cmd`) that this engine answers.
pub mod cmd {
    #![expect(missing_docs, reason = "the names are the kernel's")]
    pub const BPF_MAP_CREATE: u32 = 0;
    pub const BPF_MAP_LOOKUP_ELEM: u32 = 1;
    pub const BPF_MAP_UPDATE_ELEM: u32 = 2;
    pub const BPF_MAP_DELETE_ELEM: u32 = 3;
    pub const BPF_MAP_GET_NEXT_KEY: u32 = 4;
    pub const BPF_PROG_LOAD: u32 = 5;
    pub const BPF_BTF_LOAD: u32 = 18;
    pub const BPF_MAP_FREEZE: u32 = 22;
    pub const BPF_LINK_CREATE: u32 = 28;
}

impl Engine {
    /// `bpf(command, attr, size)`: a new descriptor for the commands that make one, else 0. `attr` is the kernel's
    /// `union bpf_attr`; the addresses in it are those of `memory`.
    ///
    /// `attach_btf_id` of BPF_PROG_LOAD is for an iterator over the elements of a map what `bpf_btf_find_by_name_kind` says
    /// of `bpf_iter_bpf_map_elem`, and [`Program::iter_map`] of [`Engine::program_of_fd`] runs it. For an extension it is the
    /// id of a function in the types of the program `attach_prog_fd`; BPF_LINK_CREATE puts the extension in its place until
    /// the link is closed.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` for a command that is not in [`cmd`]; `EOPNOTSUPP` for a program that hangs on a function of
    /// a kernel (`fentry`, LSM, struct_ops).
    pub fn bpf(&self, memory: &dyn UserMemory, command: u32, attr: &[u8]) -> Result<u32, Errno> {
        match command {
            cmd::BPF_MAP_CREATE => self.map_create(&Attr::new(attr, maps::CREATE_END)?),
            cmd::BPF_MAP_LOOKUP_ELEM => self.map_lookup(memory, &Attr::new(attr, maps::ELEM_END)?),
            cmd::BPF_MAP_UPDATE_ELEM => self.map_update(memory, &Attr::new(attr, maps::ELEM_END)?),
            cmd::BPF_MAP_DELETE_ELEM => self.map_delete(memory, &Attr::new(attr, maps::KEY_END)?),
            cmd::BPF_MAP_GET_NEXT_KEY => self.map_next_key(memory, &Attr::new(attr, maps::NEXT_KEY_END)?),
            cmd::BPF_MAP_FREEZE => self.map_freeze(&Attr::new(attr, maps::FREEZE_END)?),
            cmd::BPF_PROG_LOAD => self.prog_load(memory, &Attr::new(attr, programs::END)?),
            cmd::BPF_BTF_LOAD => self.btf_load(memory, &Attr::new(attr, types::END)?),
            cmd::BPF_LINK_CREATE => self.link_create(&Attr::new(attr, programs::LINK_END)?),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The map that a descriptor stands for.
    ///
    /// # Errors
    /// `EBADF` if it is not open, `EINVAL` if it is something else.
    pub fn map_of_fd(&self, fd: u32) -> Result<Map, Errno> {
        self.fds().map(fd).map(|(map, _)| map)
    }

    /// The program that a descriptor stands for.
    ///
    /// # Errors
    /// As for [`Engine::map_of_fd`].
    pub fn program_of_fd(&self, fd: u32) -> Result<Program, Errno> {
        self.fds().program(fd)
    }

    /// A descriptor for a map.
    ///
    /// # Errors
    /// `EMFILE` if there are too many.
    pub fn fd_of_map(&self, map: &Map) -> Result<u32, Errno> {
        let info = map.info();
        let types = info.btf.as_ref().filter(|types| types.value_type != 0);
        let record = types.map_or_else(
            || Ok(Vec::new()),
            |types| skep_verifier::value_record(&types.btf, skep_btf::TypeId(types.value_type)),
        );
        self.fds().insert(Handle::Map(map.clone(), record.map_err(|_| Errno::EINVAL)?.into()))
    }

    /// A descriptor for a program.
    ///
    /// # Errors
    /// `EMFILE` if there are too many.
    pub fn fd_of_program(&self, program: &Program) -> Result<u32, Errno> {
        self.fds().insert(Handle::Program(program.clone()))
    }

    /// Closes a descriptor. What it stood for goes when nothing else uses it.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn close_fd(&self, fd: u32) -> Result<(), Errno> {
        // Dropped here, outside of the table's lock: the last handle of a program may do much when it goes.
        self.fds().close(fd).map(drop)
    }

    /// How many descriptors are open.
    #[must_use]
    pub fn open_fds(&self) -> usize {
        self.fds().len()
    }
}

/// What a program may ask for: to make and fill maps, to load types and programs.
impl Syscalls for Inner {
    fn bpf(&self, memory: &dyn UserMemory, command: u32, attr: &[u8]) -> Result<u32, Errno> {
        match command {
            cmd::BPF_MAP_CREATE
            | cmd::BPF_MAP_UPDATE_ELEM
            | cmd::BPF_MAP_DELETE_ELEM
            | cmd::BPF_MAP_FREEZE
            | cmd::BPF_PROG_LOAD
            | cmd::BPF_BTF_LOAD => self.handle().ok_or(Errno::ENODEV)?.bpf(memory, command, attr),
            _ => Err(Errno::EINVAL),
        }
    }

    fn close(&self, fd: u32) -> Result<(), Errno> {
        self.fds.close(fd).map(drop)
    }

    fn find_type(&self, name: &str, kind: u32) -> Result<u64, Errno> {
        types::id_of(name, kind).map(u64::from).ok_or(Errno::ENOENT)
    }
}

/// Reads `len` bytes, but no more than a kernel would copy in one piece.
fn read(memory: &dyn UserMemory, address: u64, len: u64) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).ok().filter(|len| *len <= 1 << 29).ok_or(Errno::E2BIG)?;
    let mut bytes = vec![0; len];
    if len > 0 {
        memory.read(address, &mut bytes)?;
    }
    Ok(bytes)
}

/// A verifier's log for the buffer that the attribute names.
fn write_log(memory: &dyn UserMemory, address: u64, size: u32, log: &str) -> Result<(), Errno> {
    let room = usize::try_from(size).unwrap_or(usize::MAX);
    let fits = log.len() < room;
    // A log that does not fit is kept from its end on.
    let kept = if fits { log.as_bytes() } else { &log.as_bytes()[log.len() + 1 - room.max(1)..] };
    let mut text = kept.to_vec();
    text.push(0);
    memory.write(address, &text)?;
    if fits { Ok(()) } else { Err(Errno::ENOSPC) }
}
