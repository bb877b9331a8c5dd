//! Light skeletons: objects as loader programs, run on this engine.
//!
//! Owns what a caller of a loader does around it: the map for its data, the context, the descriptors that come back.
//! Invariant: after a load, or one that failed, no descriptor of it is open; the handles keep what was loaded. Kernel
//! counterpart: `bpf_load_and_run`, tools/lib/bpf/skel_internal.h, 6.18.

use skep_abi::{Errno, MapType, ProgType};
use skep_runtime::ctx::Syscall;
use skep_runtime::map::Map;
use skep_runtime::syscall::UserMemory;
use skep_runtime::{Program, RunError};

use super::cmd;
use crate::engine::Engine;
use crate::loaded::NotFound;

/// `sizeof(struct bpf_loader_ctx)`.
const CTX: usize = 24;
/// `sizeof(struct bpf_map_desc)` and `sizeof(struct bpf_prog_desc)`.
const MAP_DESC: usize = 16;
const PROG_DESC: usize = 4;
/// `BPF_F_SLEEPABLE`.
const SLEEPABLE: u32 = 1 << 4;
/// Room for the verifier's log of the loader itself.
const LOG: usize = 1 << 16;

/// A loader program and what it loads, as `skep gen skeleton -L` writes it.
#[derive(Debug, Clone, Copy)]
pub struct LightSkeleton<'a> {
    /// The loader's instructions, 8 bytes each.
    pub insns: &'a [u8],
    /// Its data.
    pub data: &'a [u8],
    /// The object's maps, in its order: the name, and the bytes of its initial value for a data section, else 0.
    pub maps: &'a [(&'a str, usize)],
    /// The object's programs, in its order.
    pub programs: &'a [&'a str],
}

/// Why a light skeleton cannot be loaded. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LightError {
    /// The skeleton has no map of this name.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// A value has another size than the map's.
    #[error("map '{map}' holds {wanted} bytes from the start, {actual} are given")]
    Size {
        /// The map.
        map: String,
        /// Bytes of its value, 0 where no caller may set it.
        wanted: usize,
        /// Bytes given.
        actual: usize,
    },
    /// The loader itself was refused.
    #[error("the loader is refused: {errno}")]
    Refused {
        /// Why.
        errno: Errno,
        /// The verifier's log.
        log: String,
    },
    /// The loader ran, and one of its calls failed.
    #[error("the loader failed: {errno}")]
    Failed {
        /// The call's errno.
        errno: Errno,
        /// The log of the program that it could not load.
        log: String,
    },
    /// The loader did not run.
    #[error("the loader did not run")]
    Run(#[source] RunError),
}

/// What a loader program loaded.
#[derive(Debug, Clone)]
pub struct Light {
    maps: Vec<(String, Option<Map>)>,
    programs: Vec<(String, Option<Program>)>,
}

impl Light {
    /// The map with this name.
    ///
    /// # Errors
    /// There is none, or it was not created.
    pub fn map(&self, name: &str) -> Result<Map, NotFound> {
        find("map", &self.maps, name)
    }

    /// The program with this name.
    ///
    /// # Errors
    /// There is none, or it was not loaded.
    pub fn program(&self, name: &str) -> Result<Program, NotFound> {
        find("program", &self.programs, name)
    }
}

fn find<T: Clone>(what: &'static str, all: &[(String, Option<T>)], name: &str) -> Result<T, NotFound> {
    let known = || all.iter().filter(|(_, thing)| thing.is_some()).map(|(name, _)| name.clone()).collect();
    let found = all.iter().find(|(known, _)| known == name).and_then(|(_, thing)| thing.clone());
    found.ok_or_else(|| NotFound { what, name: name.to_owned(), known: known() })
}

impl Engine {
    /// Runs a loader program: it creates the object's maps, fills them and loads its programs. `values` are contents of data
    /// sections (`.rodata`) by the map's name, instead of those in the object.
    ///
    /// # Errors
    /// The loader is refused, or what it loads is; then nothing is left of it.
    pub fn load_light(&self, light: &LightSkeleton<'_>, values: &[(&str, &[u8])]) -> Result<Light, LightError> {
        let (mut ctx, log_at) = context(light, values, false)?;
        let run = |ctx: &mut Syscall| self.run_loader(light.insns, light.data, ctx);
        match run(&mut ctx) {
            Ok(()) => {}
            Err(LightError::Failed { errno, .. }) => {
                // Once more, for the reason.
                let (mut ctx, _) = context(light, values, true)?;
                if run(&mut ctx).is_ok() {
                    self.close_all(light, &ctx.to_bytes());
                }
                let log = ctx.user_memory().get(log_at..).unwrap_or_default();
                return Err(LightError::Failed { errno, log: until_nul(log) });
            }
            Err(error) => return Err(error),
        }
        let bytes = ctx.to_bytes();
        let take = |at: usize| self.fds().close(fd_at(&bytes, at)).ok();
        let maps = light.maps.iter().enumerate().map(|(index, (name, _))| {
            let handle = take(CTX + index * MAP_DESC);
            let map = handle.and_then(|handle| if let super::Handle::Map(map, _) = handle { Some(map) } else { None });
            ((*name).to_owned(), map)
        });
        let maps = maps.collect();
        let programs = light.programs.iter().enumerate().map(|(index, name)| {
            let handle = take(CTX + light.maps.len() * MAP_DESC + index * PROG_DESC);
            let program = handle.and_then(|handle| if let super::Handle::Program(p) = handle { Some(p) } else { None });
            ((*name).to_owned(), program)
        });
        Ok(Light { maps, programs: programs.collect() })
    }

    /// Runs a loader program (`insns`, `data`) once over a context that its caller made: `struct bpf_loader_ctx`, then what
    /// the loader's object has, with the addresses in it those of the memory that the context lends. What the loader made
    /// is in the context, as descriptors that the caller closes ([`Engine::close_fd`]); logs are in the lent memory.
    ///
    /// # Errors
    /// The loader is refused, or one of its calls failed, and then everything it made is gone. The log of
    /// [`LightError::Failed`] is empty.
    pub fn run_loader(&self, insns: &[u8], data: &[u8], ctx: &mut Syscall) -> Result<(), LightError> {
        let r0 = self.loader_program(insns, data)?.run(ctx).map_err(LightError::Run)?;
        match u32::try_from(r0 & 0xffff_ffff).unwrap_or(0).cast_signed() {
            0 => Ok(()),
            failed => Err(LightError::Failed { errno: Errno(failed.wrapping_neg()), log: String::new() }),
        }
    }

    /// Closes what a run left in its context.
    fn close_all(&self, light: &LightSkeleton<'_>, ctx: &[u8]) {
        let maps = (0..light.maps.len()).map(|map| CTX + map * MAP_DESC);
        let programs = (0..light.programs.len()).map(|program| CTX + light.maps.len() * MAP_DESC + program * PROG_DESC);
        for at in maps.chain(programs) {
            // What was not loaded has no descriptor.
            let _ = self.close_fd(fd_at(ctx, at));
        }
    }

    /// Loads the loader, as a user of bpf(2) would.
    fn loader_program(&self, insns: &[u8], data: &[u8]) -> Result<Program, LightError> {
        let failed = |errno| LightError::Refused { errno, log: String::new() };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let data_len = u32::try_from(data.len()).map_err(|_| failed(Errno::E2BIG))?;
        let create = words(&[MapType::Array as u32, 4, data_len, 1]);
        let none = Lent { parts: &[], log: std::cell::RefCell::default() };
        let map_fd = self.bpf(&none, cmd::BPF_MAP_CREATE, &create).map_err(failed)?;
        let close_map = Closing { engine: self, fd: map_fd };
        let map = self.map_of_fd(map_fd).map_err(failed)?;
        map.update(&[0; 4], data, 0).map_err(failed)?;

        let (license, fds) = (b"Dual BSD/GPL\0".as_slice(), map_fd.to_ne_bytes());
        let count = u32::try_from(insns.len() / 8).map_err(|_| failed(Errno::E2BIG))?;
        let mut log_level = 0;
        loop {
            let memory = Lent { parts: &[insns, license, &fds], log: std::cell::RefCell::default() };
            let mut attr = vec![0u8; 128];
            put(&mut attr, 0, &(ProgType::Syscall as u32).to_ne_bytes());
            put(&mut attr, 4, &count.to_ne_bytes());
            put(&mut attr, 8, &address(insns).to_ne_bytes());
            put(&mut attr, 16, &address(license).to_ne_bytes());
            if log_level != 0 {
                put(&mut attr, 24, &u32::to_ne_bytes(log_level));
                put(&mut attr, 28, &u32::try_from(LOG).unwrap_or(0).to_ne_bytes());
                put(&mut attr, 32, &LOG_ADDRESS.to_ne_bytes());
            }
            put(&mut attr, 44, &SLEEPABLE.to_ne_bytes());
            put(&mut attr, 48, b"__loader.prog");
            put(&mut attr, 120, &address(&fds).to_ne_bytes());
            match self.bpf(&memory, cmd::BPF_PROG_LOAD, &attr) {
                Ok(fd) => {
                    let _close = Closing { engine: self, fd };
                    drop(close_map);
                    return self.program_of_fd(fd).map_err(failed);
                }
                Err(_) if log_level == 0 => log_level = 1,
                Err(errno) => return Err(LightError::Refused { errno, log: until_nul(&memory.log.into_inner()) }),
            }
        }
    }
}

/// The context, with the memory that it points into; the second is where a log begins in that memory.
fn context(
    light: &LightSkeleton<'_>,
    values: &[(&str, &[u8])],
    with_log: bool,
) -> Result<(Syscall, usize), LightError> {
    let len = CTX + light.maps.len() * MAP_DESC + light.programs.len() * PROG_DESC;
    let mut memory = Vec::new();
    let mut places = Vec::new();
    for (name, value) in values {
        let unknown = || NotFound {
            what: "map",
            name: (*name).to_owned(),
            known: light.maps.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };
        let map = light.maps.iter().position(|(known, _)| known == name).ok_or_else(unknown)?;
        let wanted = light.maps.get(map).map_or(0, |(_, size)| *size);
        if wanted == 0 || wanted != value.len() {
            return Err(LightError::Size { map: (*name).to_owned(), wanted, actual: value.len() });
        }
        places.push((CTX + map * MAP_DESC + 8, memory.len()));
        memory.extend_from_slice(value);
    }
    let log_at = memory.len();
    memory.resize(log_at + LOG, 0);
    let mut bytes = vec![0; len];
    put(&mut bytes, 0, &u32::try_from(len).unwrap_or(0).to_ne_bytes());
    let mut ctx = Syscall::bytes(&bytes).with_user_memory(memory);
    let start = ctx.user_address();
    if with_log {
        // `log_level` 1 and `log_size`, then `log_buf`.
        ctx.set_u64(8, 1 | (LOG as u64) << 32);
        ctx.set_u64(16, start + log_at as u64);
    }
    for (at, place) in places {
        ctx.set_u64(at, start + place as u64);
    }
    Ok((ctx, log_at))
}

/// The descriptor at an offset of the context; 0 for none.
fn fd_at(ctx: &[u8], at: usize) -> u32 {
    ctx.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().addr() as u64
}

fn until_nul(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A descriptor that is closed again.
struct Closing<'a> {
    engine: &'a Engine,
    fd: u32,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        // It is this value's own, so it is open.
        let _ = self.engine.close_fd(self.fd);
    }
}

/// Where a log goes: no address of this process.
const LOG_ADDRESS: u64 = 8;

/// Slices by their addresses, and a log.
struct Lent<'a> {
    parts: &'a [&'a [u8]],
    log: std::cell::RefCell<Vec<u8>>,
}

impl UserMemory for Lent<'_> {
    fn read(&self, from: u64, to: &mut [u8]) -> Result<(), Errno> {
        for part in self.parts {
            let start = usize::try_from(from.wrapping_sub(address(part))).unwrap_or(usize::MAX);
            if let Some(bytes) = start.checked_add(to.len()).and_then(|end| part.get(start..end)) {
                to.copy_from_slice(bytes);
                return Ok(());
            }
        }
        Err(Errno::EFAULT)
    }

    fn write(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        if to != LOG_ADDRESS {
            return Err(Errno::EFAULT);
        }
        from.clone_into(&mut self.log.borrow_mut());
        Ok(())
    }
}
