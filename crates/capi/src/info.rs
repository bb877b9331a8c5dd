//! What there is: information about maps and programs, their numbers, and maps made by hand.
//!
//! Invariant: as many bytes are written as the caller has room for, and fields that say
//! something about a kernel are 0. Counterpart: `bpf_obj_get_info_by_fd`, `bpf_map_create`, kernel/bpf/syscall.c, 6.18.

use std::ffi::{c_char, c_int, c_void};
use std::time::UNIX_EPOCH;

use skep_abi::info::{MapInfo, ProgInfo};
use skep_abi::{Errno, MapType};
use skep_runtime::map::{Map, MapSpec};

use crate::boundary::{bytes, call, name, options, put, put_bytes, status};
use crate::engine::engine;
use crate::handle::{self, Handle, Target};

/// At most 15 bytes and a zero.
fn short_name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    let kept = text.len().min(15);
    name[..kept].copy_from_slice(&text.as_bytes()[..kept]);
    name
}

fn map_info(map: &Map) -> MapInfo {
    let info = map.info();
    MapInfo {
        map_type: info.map_type as u32,
        id: info.id,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        map_flags: info.flags | info.user_flags,
        name: short_name(&info.name),
        map_extra: info.map_extra,
        ..MapInfo::default()
    }
}

/// # Safety
/// In `wanted`, each list is NULL or has room for as many as the number beside it says.
unsafe fn prog_info(program: &skep::RawProgram, wanted: &ProgInfo) -> Result<ProgInfo, Errno> {
    let stats = program.stats();
    let maps = program.map_ids();
    let xlated: Vec<u8> = program.xlated().insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    let code = program.attached::<skep::Code>().map(|code| code.bytes()).unwrap_or_default();
    let length = |n: usize| u32::try_from(n).map_err(|_| Errno::E2BIG);
    let mut tag = [0; 8];
    for (at, byte) in tag.iter_mut().enumerate() {
        *byte = u8::from_str_radix(program.tag().get(2 * at..2 * at + 2).unwrap_or("0"), 16).unwrap_or(0);
    }
    let ids: Vec<u8> = maps.iter().flat_map(|id| id.to_ne_bytes()).collect();
    let room = (wanted.nr_map_ids as usize).saturating_mul(4);
    for (list, room, data) in [
        (wanted.map_ids, room, &ids),
        (wanted.xlated_prog_insns, wanted.xlated_prog_len as usize, &xlated),
        (wanted.jited_prog_insns, wanted.jited_prog_len as usize, &code),
    ] {
        if list != 0 && room != 0 {
            let to = std::ptr::with_exposed_provenance_mut(usize::try_from(list).map_err(|_| Errno::EFAULT)?);
            // SAFETY: no more than there is room for (caller).
            unsafe { put_bytes(to, data.get(..room).unwrap_or(data)) }?;
        }
    }
    // Since the machine started, as the kernel counts.
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let age = program.loaded_at().elapsed().unwrap_or_default().as_nanos();
    let now = u128::from(uptime.tv_sec.cast_unsigned()) * 1_000_000_000 + u128::from(uptime.tv_nsec.cast_unsigned());
    debug_assert!(program.loaded_at() >= UNIX_EPOCH, "loaded in this process");
    Ok(ProgInfo {
        prog_type: program.prog_type() as u32,
        id: program.id(),
        tag,
        jited_prog_len: length(code.len())?,
        xlated_prog_len: length(xlated.len())?,
        jited_prog_insns: wanted.jited_prog_insns,
        xlated_prog_insns: wanted.xlated_prog_insns,
        load_time: u64::try_from(now.saturating_sub(age)).unwrap_or(u64::MAX),
        created_by_uid: rustix::process::getuid().as_raw(),
        nr_map_ids: length(maps.len())?,
        map_ids: wanted.map_ids,
        name: short_name(program.name()),
        gpl_compatible: u32::from(program.is_gpl_compatible()),
        run_time_ns: stats.run_time_ns,
        run_cnt: stats.run_cnt,
        verified_insns: program.verified_insns(),
        ..ProgInfo::default()
    })
}

/// # Safety
/// `info` has `*len` bytes, which are such a struct's; its lists are as [`prog_info`] says.
unsafe fn get_info(fd: c_int, info: *mut c_void, len: *mut u32) -> Result<(), Errno> {
    if len.is_null() || info.is_null() {
        return Err(Errno::EINVAL);
    }
    let target = handle::target(fd)?;
    // SAFETY: not NULL, a number (caller).
    let room = unsafe { len.read_unaligned() } as usize;
    // SAFETY: that many bytes (caller).
    let given = unsafe { bytes(info, room) }?;
    let known = match &target {
        Target::Map(_) => size_of::<MapInfo>(),
        Target::Program(_) => size_of::<ProgInfo>(),
        // Nothing is told of links.
        Target::Iterator(..) | Target::Extension => return Err(Errno::EINVAL),
    };
    if given.iter().skip(known).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let mut wanted = ProgInfo::default();
    let kept = room.min(size_of::<ProgInfo>());
    // SAFETY: any bytes are valid; no more are copied than either side has.
    unsafe { (&raw mut wanted).cast::<u8>().copy_from_nonoverlapping(given.as_ptr(), kept) };
    let written = room.min(known);
    match &target {
        Target::Map(map) => {
            let found = map_info(map);
            // SAFETY: no more than the struct has, without padding, and than there is room for (caller).
            unsafe { info.cast::<u8>().copy_from_nonoverlapping((&raw const found).cast(), written) };
        }
        Target::Program(program) => {
            // SAFETY: the caller's duty, passed on.
            let found = unsafe { prog_info(program, &wanted) }?;
            // SAFETY: as above.
            unsafe { info.cast::<u8>().copy_from_nonoverlapping((&raw const found).cast(), written) };
        }
        Target::Iterator(..) | Target::Extension => return Err(Errno::EINVAL),
    }
    // SAFETY: not NULL (checked), a number (caller).
    unsafe { put(len, u32::try_from(written).map_err(|_| Errno::E2BIG)?) };
    Ok(())
}

macro_rules! info_calls {
    ($($(#[$doc:meta])* $function:ident($ty:ty);)+) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// `info` is NULL or has `*len` bytes, all zero but for lists with room for the number beside them.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function(fd: c_int, info: *mut $ty, len: *mut u32) -> c_int {
            // SAFETY: the caller's duty, passed on.
            status(|| unsafe { get_info(fd, info.cast(), len) })
        }
    )+ };
}

info_calls! {
    /// Writes a `struct bpf_map_info` or `struct bpf_prog_info`, and how many bytes that were.
    bpf_obj_get_info_by_fd(c_void);
    /// Writes a `struct bpf_map_info`, and how many bytes that were.
    bpf_map_get_info_by_fd(MapInfo);
    /// Writes a `struct bpf_prog_info`, and how many bytes that were.
    bpf_prog_get_info_by_fd(ProgInfo);
}

/// Writes the smallest id above `start`.
///
/// # Safety
/// `next` is NULL or writable.
unsafe fn next_id(start: u32, id: impl Fn(&Target) -> Option<u32>, next: *mut u32) -> Result<(), Errno> {
    let found = handle::targets().iter().filter_map(id).filter(|&id| id > start).min().ok_or(Errno::ENOENT)?;
    // SAFETY: the caller's duty, passed on.
    unsafe { put(next, found) };
    Ok(())
}

/// A new descriptor of the one with this id.
fn fd_by_id(wanted: u32, id: impl Fn(&Target) -> Option<u32>) -> Result<c_int, Errno> {
    let found = handle::targets().into_iter().find(|target| id(target) == Some(wanted)).ok_or(Errno::ENOENT)?;
    let handle = match &found {
        Target::Map(map) => Handle::of_map(map)?,
        Target::Program(program) => Handle::of_program(program)?,
        // Links have no ids here.
        Target::Iterator(..) | Target::Extension => return Err(Errno::ENOENT),
    };
    Ok(handle.into_number())
}

fn map_id(target: &Target) -> Option<u32> {
    match target {
        Target::Map(map) => Some(map.id()),
        _ => None,
    }
}

fn program_id(target: &Target) -> Option<u32> {
    match target {
        Target::Program(program) => Some(program.id()),
        _ => None,
    }
}

/// The map whose id follows; `-ENOENT` after the last.
///
/// # Safety
/// `next` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_get_next_id(start: u32, next: *mut u32) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { next_id(start, map_id, next) })
}

/// The program whose id follows; `-ENOENT` after the last.
///
/// # Safety
/// `next` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_prog_get_next_id(start: u32, next: *mut u32) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| unsafe { next_id(start, program_id, next) })
}

/// A descriptor of the map with this id, to be closed with `close`; `-ENOENT` without.
#[unsafe(no_mangle)]
pub extern "C" fn bpf_map_get_fd_by_id(id: u32) -> c_int {
    call(|| fd_by_id(id, map_id))
}

/// A descriptor of the program with this id, to be closed with `close`; `-ENOENT` without.
#[unsafe(no_mangle)]
pub extern "C" fn bpf_prog_get_fd_by_id(id: u32) -> c_int {
    call(|| fd_by_id(id, program_id))
}

/// `struct bpf_map_create_opts`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct MapCreateOpts {
    /// Bytes of this struct.
    pub sz: usize,
    /// No BTF is loaded here: 0.
    pub btf_fd: u32,
    /// Not looked at without BTF.
    pub btf_key_type_id: u32,
    /// Not looked at without BTF.
    pub btf_value_type_id: u32,
    /// Not looked at.
    pub btf_vmlinux_value_type_id: u32,
    /// What the maps in a map of maps look like.
    pub inner_map_fd: u32,
    /// `BPF_F_*`.
    pub map_flags: u32,
    /// What else the type wants to know.
    pub map_extra: u64,
    /// The node to allocate from.
    pub numa_node: u32,
    /// No map is made for a device.
    pub map_ifindex: u32,
    /// Not looked at.
    pub value_type_btf_obj_fd: i32,
    /// No tokens are needed here.
    pub token_fd: u32,
    /// Not looked at.
    pub excl_prog_hash: *const c_void,
    /// Not looked at.
    pub excl_prog_hash_size: u32,
}

/// Makes a map. Its descriptor is closed with `close`; the map lives as long as a descriptor or a program has it.
///
/// # Safety
/// `map_name` is NULL or a string; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map_create(
    map_type: u32,
    map_name: *const c_char,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    opts: *const MapCreateOpts,
) -> c_int {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let opts = unsafe { options(opts) }?.unwrap_or_default();
        // SAFETY: the caller's duty, passed on.
        let text = if map_name.is_null() { "" } else { unsafe { name(map_name) }.map_err(|_| Errno::EINVAL)? };
        let inner = match c_int::try_from(opts.inner_map_fd) {
            Ok(0) => None,
            Ok(fd) => Some(handle::map(fd)?),
            Err(_) => return Err(Errno::EBADF),
        };
        let spec = MapSpec {
            name: text.get(..text.len().min(15)).ok_or(Errno::EINVAL)?.to_owned(),
            map_type: MapType::from_u32(map_type),
            key_size,
            value_size,
            max_entries,
            flags: opts.map_flags,
            map_extra: opts.map_extra,
            inner,
            shared: true,
            ..MapSpec::default()
        };
        let map = Map::create(&spec, engine()?.cpus())?;
        Ok(Handle::of_map(&map)?.into_number())
    })
}
