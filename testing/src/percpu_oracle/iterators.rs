//! Iterators over the elements of maps, on both sides: what they write, what they leave, and when they are refused.
//!
//! The programs are those of `map_iter.bpf.o`. Invariant: the kernel's side attaches iterators, so it is asked in a
//! throwaway machine alone ([`kernel::may_attach`]). Kernel counterpart: `bpf_iter_attach_map`, kernel/bpf/map_iter.c;
//! `bpf_seq_read`, kernel/bpf/bpf_iter.c, 7.3.

use skep::{Engine, IterError, Loaded, Object, RawMap, RawTp, TestOptions, TestRunAttr};
use skep_abi::Errno;
use skep_abi::update_flags::{BPF_F_ALL_CPUS, BPF_F_CPU};
use skep_runtime::Program;
use skep_sync::CpuId;

use super::{CPUS, Side, TEST_RUN_ON_CPU};
use crate::kernel;
use crate::kernel_light::KernelLight;
use crate::vectors::hex;

/// The object, loaded on one side.
trait Target {
    fn update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno>;
    fn lookup(&self, map: usize, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno>;
    fn iterate(&self, program: usize, map: usize) -> Result<Vec<u8>, Errno>;
    /// Runs a raw tracepoint program.
    fn hit(&self, program: usize, cpu: usize) -> Result<(), Errno>;
}

impl Target for KernelLight {
    fn update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.maps.get(map).and_then(Option::as_ref).ok_or(Errno::ENOENT)?.update(key, value, flags)
    }

    fn lookup(&self, map: usize, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.maps.get(map).and_then(Option::as_ref).ok_or(Errno::ENOENT)?.lookup(key, flags)
    }

    fn iterate(&self, program: usize, map: usize) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get(map).and_then(Option::as_ref).ok_or(Errno::ENOENT)?;
        self.programs.get(program).and_then(Option::as_ref).ok_or(Errno::ENOENT)?.iterate(map)
    }

    fn hit(&self, program: usize, cpu: usize) -> Result<(), Errno> {
        let run = kernel::TestRun { cpu: u32::try_from(cpu).ok(), ..kernel::TestRun::default() };
        self.programs.get(program).and_then(Option::as_ref).ok_or(Errno::ENOENT)?.test_run(&run).map(drop)
    }
}

impl Target for Loaded {
    fn update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.maps().nth(map).ok_or(Errno::ENOENT)?.1.update(key, value, flags)
    }

    fn lookup(&self, map: usize, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.maps().nth(map).ok_or(Errno::ENOENT)?.1.lookup(key, flags)
    }

    fn iterate(&self, program: usize, map: usize) -> Result<Vec<u8>, Errno> {
        let program = self.programs().nth(program).ok_or(Errno::ENOENT)?;
        let map = self.maps().nth(map).ok_or(Errno::ENOENT)?.1;
        program.iter_map(map).map_err(|error: IterError| error.errno())
    }

    fn hit(&self, program: usize, cpu: usize) -> Result<(), Errno> {
        let options = TestOptions { cpu: u32::try_from(cpu).ok().map(CpuId), repeat: 1 };
        let program = self.programs().nth(program).ok_or(Errno::ENOENT)?;
        program.test_run_with(RawTp::args(&[]), &options).map(drop).map_err(|error| error.errno())
    }
}

/// What this engine's own loader run made, in the object's order.
struct Light {
    maps: Vec<RawMap>,
    programs: Vec<Program>,
}

impl Target for Light {
    fn update(&self, map: usize, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.maps.get(map).ok_or(Errno::ENOENT)?.update(key, value, flags)
    }

    fn lookup(&self, map: usize, key: &[u8], flags: u64) -> Result<Vec<u8>, Errno> {
        self.maps.get(map).ok_or(Errno::ENOENT)?.lookup(key, flags)
    }

    fn iterate(&self, program: usize, map: usize) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get(map).ok_or(Errno::ENOENT)?;
        self.programs.get(program).ok_or(Errno::ENOENT)?.iter_map(map).map_err(|error: IterError| error.errno())
    }

    fn hit(&self, program: usize, cpu: usize) -> Result<(), Errno> {
        let options = TestOptions { cpu: u32::try_from(cpu).ok().map(CpuId), repeat: 0 };
        let attr = TestRunAttr { options, flags: TEST_RUN_ON_CPU, ..TestRunAttr::default() };
        let program = self.programs.get(program).ok_or(Errno::ENOENT)?;
        program.test_run_raw(&attr).map(drop).map_err(|error| error.errno())
    }
}

/// Answers every question about iterators. Ours are loaded both ways, which must agree.
pub(super) fn answers(side: Side, name: &str, object: &Object, out: &mut Vec<String>) -> Result<(), String> {
    let failed = |what: &dyn std::fmt::Display| format!("{name}: {what}");
    let engine = || Engine::builder().vcpus(CPUS).build().map_err(|error| failed(&error));
    let asked = match side {
        Side::Kernel if !kernel::may_attach() => {
            return Err(failed(&"iterators attach: only in a throwaway machine, which says so (SKEP_ORACLE_ATTACH=1)"));
        }
        Side::Kernel => ask_all(name, object, &|| {
            let loader = skep_skel::loader(object.spec()).map_err(|error| failed(&error))?;
            let (maps, programs) = (object.maps().len(), object.programs().len());
            let loaded = KernelLight::load(&loader.insns, &loader.data, maps, programs);
            Ok(Box::new(loaded.map_err(|error| failed(&error))?))
        })?,
        Side::Ours => {
            let ordinary = ask_all(name, object, &|| {
                Ok(Box::new(engine()?.load(object.clone()).map_err(|error| failed(&error))?))
            })?;
            let light = ask_all(name, object, &|| {
                let (maps, programs) = super::load_light(&engine()?, name, object)?;
                Ok(Box::new(Light { maps, programs }))
            })?;
            if let Some((one, other)) = ordinary.iter().zip(&light).find(|(one, other)| one != other) {
                return Err(failed(&format!("'{one}', and '{other}' through the loader program")));
            }
            ordinary
        }
    };
    out.extend(asked);
    Ok(())
}

fn ask_all(
    name: &str,
    object: &Object,
    load: &dyn Fn() -> Result<Box<dyn Target>, String>,
) -> Result<Vec<String>, String> {
    let mut asker = Asker { object, name, target: load()?, out: Vec::new() };
    asker.elements()?;
    asker.refusals()?;
    asker.target = load()?;
    asker.buffers()?;
    for fail_at in [2i32, 0] {
        asker.target = load()?;
        asker.set("fail_at", &fail_at.to_ne_bytes())?;
        let when = format!("again from {fail_at}");
        asker.ask(&when, "again", "slots", As::Bytes)?;
        asker.variable(&when, "sum")?;
    }
    Ok(asker.out)
}

/// How what an iterator wrote is shown.
#[derive(Clone, Copy)]
enum As {
    Lines,
    /// Of a hash map, whose order is its own.
    SortedLines,
    Bytes,
    Length,
}

struct Asker<'a> {
    object: &'a Object,
    name: &'a str,
    target: Box<dyn Target>,
    out: Vec<String>,
}

impl Asker<'_> {
    fn map(&self, name: &str) -> Result<usize, String> {
        let found = self.object.maps().iter().position(|map| map.name == name);
        found.ok_or_else(|| format!("{}: no map {name}", self.name))
    }

    fn program(&self, name: &str) -> Result<usize, String> {
        let found = self.object.programs().iter().position(|program| program.name == name);
        found.ok_or_else(|| format!("{}: no program {name}", self.name))
    }

    fn update(&self, map: &str, key: u32, value: &[u8], flags: u64) -> Result<(), String> {
        let done = self.target.update(self.map(map)?, &key.to_ne_bytes(), value, flags);
        done.map_err(|errno| format!("{}: update of {map}: {errno}", self.name))
    }

    fn ask(&mut self, what: &str, program: &str, map: &str, show: As) -> Result<(), String> {
        let answer = match self.target.iterate(self.program(program)?, self.map(map)?) {
            Err(errno) => errno.to_string(),
            Ok(bytes) => shown(&bytes, show),
        };
        self.out.push(format!("{} {what}: {program} over {map} => {answer}", self.name));
        Ok(())
    }

    fn value(&mut self, map: &str, key: u32, flags: u64) -> Result<(), String> {
        let value = self.target.lookup(self.map(map)?, &key.to_ne_bytes(), flags);
        let answer = value.map_or_else(|errno| errno.to_string(), |value| hex(&value));
        self.out.push(format!("{} afterwards {map}[{key}] flags {flags:#x} => {answer}", self.name));
        Ok(())
    }

    fn set(&self, variable: &str, bytes: &[u8]) -> Result<(), String> {
        let (map, at) = self.place(variable)?;
        let mut value = self.target.lookup(map, &[0; 4], 0).map_err(|errno| format!("{variable}: {errno}"))?;
        let place = value.get_mut(at..at + bytes.len()).ok_or("a variable outside its map")?;
        place.copy_from_slice(bytes);
        self.target.update(map, &[0; 4], &value, 0).map_err(|errno| format!("{variable}: {errno}"))
    }

    fn variable(&mut self, when: &str, variable: &str) -> Result<(), String> {
        let (map, at) = self.place(variable)?;
        let value = self.target.lookup(map, &[0; 4], 0).map_err(|errno| format!("{variable}: {errno}"))?;
        let word = value.get(at..at + 8).ok_or("a variable outside its map")?;
        self.out.push(format!("{} {when}: {variable} => {}", self.name, hex(word)));
        Ok(())
    }

    fn place(&self, variable: &str) -> Result<(usize, usize), String> {
        let found = self.object.spec().variable(variable).map(|found| (found.map, found.offset as usize));
        found.ok_or_else(|| format!("{}: no variable {variable}", self.name))
    }

    /// What each kind of map shows, and what an iterator may change.
    fn elements(&mut self) -> Result<(), String> {
        self.ask("empty", "dump", "flows", As::Lines)?;
        for key in 0..4 {
            self.update("slots", key, &u64::from(key * 100).to_ne_bytes(), 0)?;
        }
        self.ask("array", "dump", "slots", As::Lines)?;
        for key in 0..50 {
            self.update("flows", key, &u64::from(key * key).to_ne_bytes(), 0)?;
        }
        self.ask("hash", "dump", "flows", As::SortedLines)?;
        self.variable("hash", "sum")?;
        self.ask("written", "drain", "slots", As::Bytes)?;
        self.ask("written again", "drain", "slots", As::Bytes)?;
        self.value("slots", 3, 0)?;
        for key in 0..3u32 {
            for cpu in 0..CPUS as u64 {
                let mut value = [0xff; 12];
                value[..4].copy_from_slice(&(10 * key + u32::try_from(cpu).unwrap_or(0)).to_ne_bytes());
                self.update("odd", key, &value, BPF_F_CPU | cpu << 32)?;
            }
        }
        self.ask("per-CPU array", "two_cpus", "odd", As::Bytes)?;
        self.update("percpu_flows", 7, &5u32.to_ne_bytes(), BPF_F_ALL_CPUS)?;
        self.ask("per-CPU hash", "two_cpus", "percpu_flows", As::Bytes)?;
        self.ask("per-CPU hash, written", "drain", "percpu_flows", As::Bytes)?;
        self.value("percpu_flows", 7, 0)?;
        let hit = self.program("hit")?;
        for (cpu, runs) in [(0, 2), (1, 1), (CPUS - 1, 3)] {
            for _ in 0..runs {
                self.target.hit(hit, cpu).map_err(|errno| format!("{}: run on CPU {cpu}: {errno}", self.name))?;
            }
        }
        self.ask(".percpu", "percpu_data", ".percpu", As::Lines)?;
        self.value(".percpu", 0, 0)
    }

    /// Maps that do not fit a program, and programs that are no iterators.
    fn refusals(&mut self) -> Result<(), String> {
        for (program, map) in [
            ("two_cpus", "slots"),
            ("two_cpus", "flows"),
            ("dump", "queue"),
            ("hit", "slots"),
            ("percpu_data", "slots"),
        ] {
            self.ask("refused", program, map, As::Bytes)?;
        }
        self.ask("read-only", "drain", ".rodata", As::Bytes)?;
        self.variable("refused", "sum")
    }

    /// What is read in pieces.
    fn buffers(&mut self) -> Result<(), String> {
        self.ask("too much for an element", "flood", "slots", As::Length)?;
        self.variable("too much for an element", "sum")?;
        self.ask("three pages each", "pages", "slots", As::Length)?;
        self.variable("three pages each", "sum")
    }
}

fn shown(bytes: &[u8], show: As) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    match show {
        As::Bytes => hex(bytes),
        As::Length => format!("{} bytes", bytes.len()),
        As::Lines => lines.join(" | "),
        As::SortedLines => {
            lines.sort_unstable();
            lines.join(" | ")
        }
    }
}
