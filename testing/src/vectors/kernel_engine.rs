//! Vectors in the running kernel.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use skep_abi::{CallTarget, Imm64, Insn, MapType, ProgType, RawInsn, decode};
use skep_btf::Kind;
use skep_verifier::MapShape;

use super::{Assembled, Case, Engine, Expect, Outcome, program, types_for};
use crate::kernel::{Map, MapCreate, ProgLoad, TestRun, btf_load};
use crate::probe::vmlinux;

/// Loads and runs vectors with bpf(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelEngine;

impl Engine for KernelEngine {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn run(&self, case: &Case) -> Outcome {
        match attempt(case) {
            Ok(outcome) => outcome,
            Err(problem) => Outcome::Refused(problem),
        }
    }
}

fn attempt(case: &Case) -> Result<Outcome, String> {
    let Assembled { mut insns, kfuncs } = program(case).map_err(|error| error.to_string())?;
    let maps = create_maps(case)?;
    put_fds(&mut insns, &maps);
    put_kfuncs(&mut insns, &kfuncs)?;
    let (prog_type, attach_type) = case.prog_type.unwrap_or((ProgType::SocketFilter, skep_abi::AttachType::default()));
    let types = types_for(&insns);
    let btf = types.as_ref().map(|types| btf_load(&types.btf)).transpose().map_err(|failure| failure.to_string())?;
    let func_info = types.map(|types| types.func_info()).unwrap_or_default();
    let load = ProgLoad {
        attach_type,
        log_level: 1,
        btf: btf.as_ref().map(|btf| btf.as_fd().as_raw_fd()),
        func_info: (&func_info, 8),
        ..ProgLoad::new(prog_type, &insns)
    };
    let loaded = match load.load_once() {
        Ok(loaded) => loaded,
        Err(failure) if failure.message().is_empty() => return Err(failure.errno.to_string()),
        Err(failure) => return Ok(Outcome::Refused(failure.message().to_owned())),
    };
    // The kernel runs packet programs on 14 bytes at least.
    let frame = [0u8; 14];
    let wrapped = case.prog_type.is_none();
    let data: &[u8] = if wrapped || case.input.len() < frame.len() { &frame } else { &case.input.bytes };
    let result = loaded.prog.test_run(&TestRun { data, data_out: data.len() + 4096, ..TestRun::default() });
    let result = match result {
        Ok(result) => result,
        Err(_) if case.expect == Expect::Accepted => return Ok(Outcome::Ran { r0: 0, out: Vec::new() }),
        Err(errno) => return Ok(Outcome::Skipped(format!("test_run of this type: {errno}"))),
    };
    if !wrapped {
        return Ok(Outcome::Ran { r0: u64::from(result.retval), out: result.data });
    }
    let value = maps.first().ok_or("no result map")?.lookup(&[0; 4], 0).map_err(|errno| errno.to_string())?;
    let (r0, out) = value.split_first_chunk::<8>().ok_or("the result map is too small")?;
    Ok(Outcome::Ran { r0: u64::from_le_bytes(*r0), out: out[..case.input.len()].to_vec() })
}

/// The result map, where there is one, and the case's own.
fn create_maps(case: &Case) -> Result<Vec<Map>, String> {
    let mut maps = Vec::new();
    if case.prog_type.is_none() {
        let size = u32::try_from(case.input.len() + 8).map_err(|error| error.to_string())?;
        let map = MapCreate::new(MapType::Array, 4, size, 1).create().map_err(|errno| errno.to_string())?;
        let value: Vec<u8> = [0u8; 8].iter().chain(&case.input.bytes).copied().collect();
        map.update(&[0; 4], &value, 0).map_err(|errno| errno.to_string())?;
        maps.push(map);
    }
    for decl in &case.maps {
        let inner = MapCreate::new(MapType::Array, 4, 8, 1).create().map_err(|errno| errno.to_string())?;
        let create = MapCreate {
            flags: decl.flags,
            map_extra: MapShape::user_start_of(decl.map_type, 0),
            inner_map: decl.map_type.is_map_of_maps().then(|| inner.raw_fd()),
            ..MapCreate::new(decl.map_type, decl.key_size, decl.value_size, decl.max_entries)
        };
        let map = create.create().map_err(|errno| format!("map {}: {errno}", decl.name))?;
        if decl.map_type.is_map_of_maps() {
            map.update(&[0; 4], &inner.raw_fd().to_ne_bytes(), 0).map_err(|errno| errno.to_string())?;
        }
        if let Some(contents) = &decl.contents {
            map.update(&[0; 4], contents, 0).map_err(|errno| errno.to_string())?;
            map.freeze().map_err(|errno| errno.to_string())?;
        }
        maps.push(map);
    }
    Ok(maps)
}

/// Replaces map numbers by descriptors.
fn put_fds(insns: &mut [RawInsn], maps: &[Map]) {
    let fd = |number: i32| usize::try_from(number).ok().and_then(|at| maps.get(at)).map_or(-1, Map::raw_fd);
    for at in 0..insns.len() {
        let number: Option<RawFd> = match decode(insns, at) {
            Ok(Insn::LdImm64 { imm: Imm64::MapFd(number) | Imm64::MapValue { fd: number, .. }, .. }) => {
                Some(fd(number))
            }
            _ => None,
        };
        if let Some(fd) = number {
            insns[at].imm = fd;
        }
    }
}

/// Replaces numbers of kernel functions by BTF ids.
fn put_kfuncs(insns: &mut [RawInsn], names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    let find = |name: &String| vmlinux().find(name, Kind::Func).ok_or_else(|| format!("the kernel has no {name}"));
    let ids = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    for at in 0..insns.len() {
        if let Ok(Insn::Call { target: CallTarget::Kfunc { id, .. } }) = decode(insns, at) {
            let id = usize::try_from(id).ok().and_then(|at| ids.get(at)).ok_or("a kernel function without a name")?;
            insns[at].imm = id.0.cast_signed();
        }
    }
    Ok(())
}
