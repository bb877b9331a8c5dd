//! BPF_PROG_LOAD: a program from an attribute, through the same steps as one of an object.
//!
//! Owns the way from descriptors and ids to what the pipeline takes: maps by place, kernel functions by name. Invariant:
//! a record that the pipeline trusts (functions, lines, relocations) is checked here as an object's is when it is parsed.
//! Kernel counterpart: `bpf_prog_load`, kernel/bpf/syscall.c; `resolve_pseudo_ldimm64`, `check_btf_info`,
//! kernel/bpf/verifier.c, 6.18.

use std::borrow::Cow;
use std::sync::Arc;

use skep_abi::map_flags::BPF_F_RDONLY_PROG;
use skep_abi::{AttachType, Errno, MapType, ProgType, RawInsn, opcode as op};
use skep_btf::{Btf, CoreRelo, CoreReloKind, FuncInfo, Kind, LineInfo, StrOff, TypeId};
use skep_object::spec::{
    PSEUDO_BTF_ID, PSEUDO_KFUNC_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_IDX, PSEUDO_MAP_IDX_VALUE, PSEUDO_MAP_VALUE,
};
use skep_object::{KsymRef, ObjectSpec, ProgramSpec, Sec};
use skep_runtime::map::{Map, MapInfo};
use skep_runtime::syscall::UserMemory;
use skep_verifier::{MapShape, Options, RecordField};

use super::attr::Attr;
use super::table::Handle;
use super::{read, types, write_log};
use crate::engine::Engine;
use crate::error::LoadError;
use crate::extension::{self, Target};
use crate::load;
use crate::object::Object;
use crate::program::source_of;

/// Where the last member ends (`fd_array_cnt`).
pub(super) const END: usize = 152;
/// Instructions of a program at most (`BPF_COMPLEXITY_LIMIT_INSNS`).
const MAX_INSNS: u32 = 1_000_000;
/// Bytes of a licence, with its NUL.
const MAX_LICENSE: usize = 128;
/// Bytes of a record at most that the kernel knows.
const MAX_RECORD: u32 = 252;
/// Levels 1 and 2, statistics, fixed size.
const LOG_LEVELS: u32 = 15;

/// Where the last member of BPF_LINK_CREATE ends (`target_btf_id`).
pub(super) const LINK_END: usize = 20;

/// What a program is loaded for, beyond its type.
enum Place {
    None,
    /// An iterator over the elements of a map.
    MapElem,
    /// An extension in the place of this function.
    Function(Target),
}

/// The maps that a program names, each once.
#[derive(Default)]
struct UsedMaps {
    fds: Vec<u32>,
    maps: Vec<(Map, Arc<[RecordField]>)>,
}

impl Engine {
    pub(super) fn prog_load(&self, memory: &dyn UserMemory, attr: &Attr) -> Result<u32, Errno> {
        let prog_type = ProgType::from_u32(attr.u32(0)).ok_or(Errno::EINVAL)?;
        let attach_type = AttachType::from_u32(attr.u32(68)).ok_or(Errno::EINVAL)?;
        // Devices and tokens are the kernel's alone.
        if attr.u32(64) != 0 || attr.u32(144) != 0 {
            return Err(Errno::EINVAL);
        }
        let place = self.place_of(prog_type, attach_type, attr.u32(108), attr.u32(112))?;
        let count = attr.u32(4);
        if count == 0 || count > MAX_INSNS {
            return Err(Errno::E2BIG);
        }
        let bytes = read(memory, attr.u64(8), u64::from(count) * 8)?;
        let mut insns: Vec<RawInsn> =
            bytes.chunks_exact(8).filter_map(|slot| Some(RawInsn::from_bytes(slot.try_into().ok()?))).collect();
        let btf = match attr.u32(72) {
            0 => None,
            fd => Some(self.fds().btf(fd)?),
        };
        let mut used = UsedMaps::default();
        let (kfuncs, ksyms) = self.resolve(memory, attr.u64(120), &mut insns, &mut used)?;
        let name = attr.name(48)?;
        let target = matches!(place, Place::MapElem).then(|| "bpf_map_elem".to_owned());
        let mut program = ProgramSpec {
            name: name.clone(),
            section: String::new(),
            sec: Some(Sec { prog_type, attach_type, prog_flags: attr.u32(44), target }),
            legacy_tail: None,
            autoload: true,
            insns,
            subprogs: Vec::new(),
            func_info: Vec::new(),
            line_info: Vec::new(),
            core_relos: Vec::new(),
            kfuncs,
            ksyms,
        };
        if let Some(btf) = &btf {
            read_records(memory, attr, btf, &mut program)?;
        } else if attr.u32(88) != 0 || attr.u32(104) != 0 || attr.u32(116) != 0 {
            return Err(Errno::EINVAL);
        }
        let mut object = Object::from_spec(
            "bpf(2)",
            ObjectSpec {
                name: String::new(),
                license: license(memory, attr.u64(16))?,
                kern_version: attr.u32(40),
                programs: vec![program],
                maps: Vec::new(),
                variables: Vec::new(),
                externs: Vec::new(),
                btf,
            },
        );
        if let Place::Function(target) = place {
            object.add_target(&name, target);
        }
        self.build_program(memory, attr, &object, &used)
    }

    /// What `attach_btf_id` and `attach_prog_fd` say.
    ///
    /// # Errors
    /// `EINVAL` where they say nothing for the type, or nothing that there is; `EBADF` for a descriptor that is not open;
    /// `EOPNOTSUPP` for what hangs on a function of a kernel, which there is none of here.
    fn place_of(&self, prog_type: ProgType, attach_type: AttachType, id: u32, fd: u32) -> Result<Place, Errno> {
        match (prog_type, attach_type) {
            (ProgType::Ext, _) => {
                if fd == 0 || id == 0 {
                    return Err(Errno::EINVAL);
                }
                Target::by_id(&self.fds().program(fd)?, id).map(Place::Function).ok_or(Errno::EINVAL)
            }
            (ProgType::Tracing, AttachType::TraceIter) => {
                // The types that the id is in are the engine's, which no descriptor stands for.
                let known = fd == 0 && types::name_of(id) == Some(types::MAP_ELEM);
                if known { Ok(Place::MapElem) } else { Err(Errno::EINVAL) }
            }
            (ProgType::Tracing | ProgType::Lsm | ProgType::StructOps, _) if id != 0 => Err(Errno::ENOTSUP),
            _ if id != 0 || fd != 0 => Err(Errno::EINVAL),
            _ => Ok(Place::None),
        }
    }

    /// BPF_LINK_CREATE, of an extension: it takes the place of the function that it was loaded for until the link is closed.
    pub(super) fn link_create(&self, attr: &Attr) -> Result<u32, Errno> {
        let program = self.fds().program(attr.u32(0))?;
        let (target, function) = (attr.u32(4), attr.u32(16));
        if program.prog_type() != ProgType::Ext || attr.u32(8) != 0 || attr.u32(12) != 0 {
            return Err(Errno::EINVAL);
        }
        // Target and function are both given or neither is; they are those that the program was verified for.
        let is_same = |target: Target| {
            let loaded = source_of(&program).target.clone();
            loaded
                .is_some_and(|loaded| loaded.program.id() == target.program.id() && loaded.function == target.function)
        };
        match (target, function) {
            (0, 0) => {}
            (0, _) | (_, 0) => return Err(Errno::EINVAL),
            (fd, id) => {
                if !Target::by_id(&self.fds().program(fd)?, id).is_some_and(is_same) {
                    return Err(Errno::EINVAL);
                }
            }
        }
        let (link, _) = extension::attach(&program).map_err(|error| error.errno())?;
        self.fds().insert(Handle::Link(Arc::new(link)))
    }

    fn build_program(
        &self,
        memory: &dyn UserMemory,
        attr: &Attr,
        object: &Object,
        used: &UsedMaps,
    ) -> Result<u32, Errno> {
        let views: Vec<MapShape<'_>> = used.maps.iter().map(|(map, record)| shape_of_map(map, record)).collect();
        let maps: Vec<Option<Map>> = used.maps.iter().map(|(map, _)| Some(map.clone())).collect();
        let Some(spec) = object.programs().first() else { return Err(Errno::EINVAL) };
        let (level, size, buffer) = (attr.u32(24), attr.u32(28), attr.u64(32));
        if (buffer != 0) != (size != 0) || (buffer != 0 && level == 0) || level & !LOG_LEVELS != 0 {
            return Err(Errno::EINVAL);
        }
        if buffer != 0 {
            let options = Options { log_level: level, ..self.options().clone() };
            let report = object.verify_on(0, &views, &options, Some(&self.helpers())).map_err(|_| Errno::EINVAL)?;
            write_log(memory, buffer, size, &report.log)?;
        }
        let program = load::build(self, object, 0, spec, &views, &maps).map_err(|error| match error {
            LoadError::Build { .. } => Errno::ENOMEM,
            error => error.errno(),
        })?;
        self.fds().insert(Handle::Program(program))
    }

    /// Puts places in `used` for descriptors, and places in the returned lists for ids of the kernel's types.
    fn resolve(
        &self,
        memory: &dyn UserMemory,
        fd_array: u64,
        insns: &mut [RawInsn],
        used: &mut UsedMaps,
    ) -> Result<(Vec<KsymRef>, Vec<KsymRef>), Errno> {
        let (mut kfuncs, mut ksyms) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Some(insn) = insns.get_mut(at) {
            let wide = insn.is_ld_imm64();
            match (wide, insn.src) {
                (true, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE | PSEUDO_MAP_IDX | PSEUDO_MAP_IDX_VALUE) => {
                    let by_place = insn.src >= PSEUDO_MAP_IDX;
                    let fd = if by_place { nth_fd(memory, fd_array, insn.imm)? } else { insn.imm.cast_unsigned() };
                    insn.imm = self.place(used, fd)?;
                    if by_place {
                        insn.src -= PSEUDO_MAP_IDX - PSEUDO_MAP_FD;
                    }
                }
                (true, PSEUDO_BTF_ID) => insn.imm = symbol(&mut ksyms, insn.imm)?,
                (false, PSEUDO_KFUNC_CALL) if insn.code == op::JMP | op::CALL => {
                    if insn.off != 0 {
                        return Err(Errno::EINVAL);
                    }
                    insn.imm = match insn.imm {
                        // A weak function that is not there: an error only where it is reached.
                        0 => unresolved(&mut kfuncs)?,
                        id => symbol(&mut kfuncs, id)?,
                    };
                }
                _ => {}
            }
            at += if wide { 2 } else { 1 };
        }
        Ok((kfuncs, ksyms))
    }

    fn place(&self, used: &mut UsedMaps, fd: u32) -> Result<i32, Errno> {
        let place = match used.fds.iter().position(|known| *known == fd) {
            Some(place) => place,
            None => {
                used.maps.push(self.fds().map(fd)?);
                used.fds.push(fd);
                used.fds.len() - 1
            }
        };
        i32::try_from(place).map_err(|_| Errno::E2BIG)
    }
}

fn nth_fd(memory: &dyn UserMemory, fd_array: u64, place: i32) -> Result<u32, Errno> {
    let place = u64::try_from(place).map_err(|_| Errno::EINVAL)?;
    if fd_array == 0 {
        return Err(Errno::EPROTO);
    }
    let mut fd = [0; 4];
    memory.read(fd_array.checked_add(place * 4).ok_or(Errno::EFAULT)?, &mut fd)?;
    Ok(u32::from_ne_bytes(fd))
}

/// The place of a function in `list`, by its id.
fn symbol(list: &mut Vec<KsymRef>, id: i32) -> Result<i32, Errno> {
    let name = u32::try_from(id).ok().and_then(types::name_of).ok_or(Errno::EINVAL)?;
    place_of(list, name, false)
}

fn unresolved(list: &mut Vec<KsymRef>) -> Result<i32, Errno> {
    place_of(list, "", true)
}

fn place_of(list: &mut Vec<KsymRef>, name: &str, is_weak: bool) -> Result<i32, Errno> {
    let place = list.iter().position(|known| known.name == name).unwrap_or_else(|| {
        list.push(KsymRef { name: name.to_owned(), type_id: None, is_weak, is_func: true });
        list.len() - 1
    });
    i32::try_from(place).map_err(|_| Errno::E2BIG)
}

fn license(memory: &dyn UserMemory, address: u64) -> Result<String, Errno> {
    let mut text = Vec::new();
    while text.len() + 1 < MAX_LICENSE {
        let mut byte = [0];
        memory.read(address.checked_add(text.len() as u64).ok_or(Errno::EFAULT)?, &mut byte)?;
        if byte[0] == 0 {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        text.push(byte[0]);
    }
    Err(Errno::EINVAL)
}

/// Functions, lines and relocations, checked as those of an object.
fn read_records(memory: &dyn UserMemory, attr: &Attr, btf: &Btf, program: &mut ProgramSpec) -> Result<(), Errno> {
    let slots = u32::try_from(program.insns.len()).map_err(|_| Errno::E2BIG)?;
    for [insn_off, type_id] in records(memory, attr, [80, 76, 88])? {
        follows(insn_off, program.func_info.last().map(|last| last.insn_off), slots)?;
        if btf.kind(TypeId(type_id)) != Kind::Func {
            return Err(Errno::EINVAL);
        }
        program.func_info.push(FuncInfo { insn_off, type_id: TypeId(type_id) });
    }
    let is_string = |off: u32| if btf.strings().contains(StrOff(off)) { Ok(StrOff(off)) } else { Err(Errno::EINVAL) };
    for [insn_off, file, line, place] in records(memory, attr, [96, 92, 104])? {
        follows(insn_off, program.line_info.last().map(|last| last.insn_off), slots)?;
        let (file, line) = (is_string(file)?, is_string(line)?);
        program.line_info.push(LineInfo { insn_off, file, line, line_num: place >> 10, column: place & 0x3ff });
    }
    for [insn_off, type_id, access, kind] in records(memory, attr, [128, 136, 116])? {
        let is_type = btf.get(TypeId(type_id)).is_some();
        if !insn_off.is_multiple_of(8) || insn_off / 8 >= slots || !is_type {
            return Err(Errno::EINVAL);
        }
        let kind = CoreReloKind::from_number(kind);
        let (access, type_id) = (is_string(access)?, TypeId(type_id));
        program.core_relos.push(CoreRelo { insn_off: insn_off / 8, type_id, access, kind });
    }
    Ok(())
}

/// Records come in order and inside the program.
fn follows(insn_off: u32, last: Option<u32>, slots: u32) -> Result<(), Errno> {
    if last.is_none_or(|last| insn_off > last) && insn_off < slots { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Records of `N` words, whose address, size and number are at these places of the attribute. What a longer record has
/// beyond them must be zero.
fn records<const N: usize>(memory: &dyn UserMemory, attr: &Attr, at: [usize; 3]) -> Result<Vec<[u32; N]>, Errno> {
    let (address, size, count) = (attr.u64(at[0]), attr.u32(at[1]), attr.u32(at[2]));
    if count == 0 {
        return Ok(Vec::new());
    }
    let known = u32::try_from(N * 4).map_err(|_| Errno::EINVAL)?;
    if size < known || size > MAX_RECORD || !size.is_multiple_of(4) || count > MAX_INSNS * 2 {
        return Err(Errno::EINVAL);
    }
    let bytes = read(memory, address, u64::from(size) * u64::from(count))?;
    let parse = |record: &[u8]| {
        let word = |at: usize| record.get(at * 4..at * 4 + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let more = record.get(N * 4..).unwrap_or_default();
        if more.iter().any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        Ok(std::array::from_fn(|at| word(at).unwrap_or(0)))
    };
    bytes.chunks_exact(usize::try_from(size).map_err(|_| Errno::EINVAL)?).map(parse).collect()
}

/// The verifier's view of a map that exists.
fn shape_of_map<'a>(map: &'a Map, record: &'a [RecordField]) -> MapShape<'a> {
    let info = map.info();
    let frozen = map.object().is_frozen();
    let constant =
        frozen && info.flags & BPF_F_RDONLY_PROG != 0 && info.map_type == MapType::Array && info.max_entries == 1;
    let contents = if constant { map.lookup(&[0; 4], 0).ok() } else { None };
    MapShape { frozen, contents: contents.map(Cow::Owned), ..shape(info, record) }
}

fn shape<'a>(info: &'a MapInfo, record: &'a [RecordField]) -> MapShape<'a> {
    MapShape {
        name: Cow::Borrowed(&info.name),
        map_type: info.map_type,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.flags,
        user_start: MapShape::user_start_of(info.map_type, info.map_extra),
        frozen: false,
        contents: None,
        record: Cow::Borrowed(record),
        btf_value_type_id: info.btf.as_ref().map_or(0, |types| types.value_type),
        inner: info.inner.as_deref().map(|inner| Box::new(shape(inner, &[]))),
        id: 0,
    }
}
