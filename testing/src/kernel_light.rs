//! Loader programs in the running kernel: what `bpf_load_and_run` does with a light skeleton.
//!
//! Invariant: every descriptor that a loader leaves in its context is owned by what is returned, and closed with it.

use std::os::fd::{FromRawFd, OwnedFd};

use skep_abi::{Errno, MapType, ProgType, RawInsn};

use crate::kernel::{LoadFailure, Map, MapCreate, Prog, ProgLoad};

const CTX: usize = 24;
const MAP_DESC: usize = 16;
const PROG_DESC: usize = 4;
const SLEEPABLE: u32 = 1 << 4;

/// Why a loader did not load.
#[derive(Debug, thiserror::Error)]
pub enum LightFailure {
    /// The data map, or the run.
    #[error("{what}: {errno}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel's verifier refuses the loader.
    #[error("the loader is refused")]
    Refused(#[source] LoadFailure),
    /// One of the loader's calls failed.
    #[error("the loader failed: {errno}: {log}")]
    Failed {
        /// Of the call.
        errno: Errno,
        /// The log of the last program or type that it loaded.
        log: String,
    },
}

/// What a loader loaded, in the object's order.
#[derive(Debug)]
pub struct KernelLight {
    /// The maps.
    pub maps: Vec<Option<Map>>,
    /// The programs.
    pub programs: Vec<Option<Prog>>,
}

impl KernelLight {
    /// Runs a loader for an object with so many maps and programs.
    ///
    /// # Errors
    /// The kernel refuses the loader, or one of its calls.
    pub fn load(insns: &[RawInsn], data: &[u8], maps: usize, programs: usize) -> Result<Self, LightFailure> {
        let call = |what| move |errno| LightFailure::Call { what, errno };
        let size = u32::try_from(data.len()).map_err(|_| call("data")(Errno::E2BIG))?;
        let map = MapCreate::new(MapType::Array, 4, size, 1).create().map_err(call("create the data map"))?;
        map.update(&[0; 4], data, 0).map_err(call("fill the data map"))?;
        let fds = [map.raw_fd()];
        let load = ProgLoad {
            license: "Dual BSD/GPL",
            name: "__loader.prog",
            flags: SLEEPABLE,
            fd_array: &fds,
            ..ProgLoad::new(ProgType::Syscall, insns)
        };
        let loader = load.load_briefly().map_err(LightFailure::Refused)?.prog;
        let mut log = vec![0u8; 1 << 20];
        let mut ctx = vec![0u8; CTX + maps * MAP_DESC + programs * PROG_DESC];
        let words = [u32::try_from(ctx.len()).unwrap_or(0), 0, 1, 1 << 20];
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        let head = words.chain((log.as_mut_ptr().expose_provenance() as u64).to_ne_bytes());
        for (to, from) in ctx.iter_mut().zip(head) {
            *to = from;
        }
        let result = loader.run_syscall(&mut ctx).map_err(call("run the loader"))?.cast_signed();
        if result != 0 {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(0);
            let log = String::from_utf8_lossy(&log[..end]).into_owned();
            return Err(LightFailure::Failed { errno: Errno(result.wrapping_neg()), log });
        }
        let fd = |at: usize| {
            let fd = ctx.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes).filter(|fd| *fd > 0)?;
            // SAFETY: the loader has just opened this descriptor for its caller, and nobody else knows it.
            Some(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        let programs = (0..programs).map(|index| fd(CTX + maps * MAP_DESC + index * PROG_DESC).map(Prog::from));
        let programs = programs.collect();
        let maps = (0..maps).map(|index| fd(CTX + index * MAP_DESC).map(Map::adopt).transpose());
        let maps = maps.collect::<Result<_, _>>().map_err(call("ask for a map"))?;
        Ok(Self { maps, programs })
    }
}
