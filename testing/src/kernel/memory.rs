//! Read-only data of the running kernel, through `bpf_probe_read_kernel` in a test run.
//!
//! What the kernel says of itself in its own tables: helper prototypes, above all. Nothing is written or attached.

use std::collections::HashMap;

use skep_abi::asm::assemble_with;
use skep_abi::{Errno, MapType, ProgType};

use super::{Map, MapCreate, Prog, ProgLoad, TestRun};

/// Bytes that one run copies.
const CHUNK: usize = 16384;

/// A program that copies kernel memory into a map value.
#[derive(Debug)]
pub struct KernelMemory {
    value: Map,
    prog: Prog,
}

impl KernelMemory {
    /// Loads the program.
    ///
    /// # Errors
    /// The errno of the map's creation or of the load.
    pub fn open() -> Result<Self, Errno> {
        let value = MapCreate::new(MapType::Array, 4, u32::try_from(CHUNK).unwrap_or(u32::MAX), 1).create()?;
        let fd = value.raw_fd();
        let text = format!(
            "r6 = r1
             r3 = *(u64 *)(r6 +0)
             r2 = {CHUNK}
             r1 = map_value[value]
             call bpf_probe_read_kernel
             exit"
        );
        let mut names = |name: &str| (name == "value").then_some(fd);
        let insns = assemble_with(&text, &mut names).map_err(|_| Errno::EINVAL)?;
        // Programs of the system call type are sleepable.
        let load =
            ProgLoad { flags: skep_abi::prog_flags::BPF_F_SLEEPABLE, ..ProgLoad::new(ProgType::Syscall, &insns) };
        let prog = load.load().map_err(|failure| failure.errno)?.prog;
        Ok(Self { value, prog })
    }

    /// The bytes at `address`; a page that cannot be read fails.
    ///
    /// # Errors
    /// `EFAULT` for memory that is not there.
    pub fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = address.wrapping_add(bytes.len() as u64);
            let run = self.prog.test_run(&TestRun { ctx: &at.to_ne_bytes(), ..TestRun::default() })?;
            if run.retval != 0 {
                return Err(Errno::EFAULT);
            }
            let value = self.value.lookup(&[0; 4], 0)?;
            bytes.extend_from_slice(&value[..value.len().min(len - bytes.len())]);
        }
        Ok(bytes)
    }
}

/// The kernel's symbols by address (`/proc/kallsyms`), modules excluded.
#[must_use]
pub fn symbols() -> HashMap<u64, String> {
    let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let name = words.nth(1)?.to_owned();
        (address != 0 && words.next().is_none()).then_some((address, name))
    };
    text.lines().filter_map(parse).collect()
}
