//! From an object's program to the verifier's input, and the verdict with its log.
//!
//! Owns the translation of what the object says into what is verified: map shapes, frozen contents, types. Invariant: the
//! input depends on the object alone, so a verdict without loading is the verdict of loading. Kernel counterpart:
//! `bpf_object_load_prog`, tools/lib/bpf/libbpf.c, 6.18.

use std::borrow::Cow;

use skep_abi::ctx::{BPF_MAP_ELEM, CtxLayout};
use skep_abi::{AttachType, MapType, ProgType};
use skep_verifier::{
    Category, Explanation, ExtTarget, HelperTable, KfuncRef, Log, MapShape, Options, ProgFlags, ProgramSpec,
    RecordField, Refusal, Rejection, Stats, Verified,
};

use skep_btf::{CoreTarget, TypeId};
use skep_object::Poisoned;

use crate::kernel_types;
use crate::object::Object;

/// `BPF_F_RDONLY_PROG`.
const RDONLY_PROG: u32 = 1 << 7;

/// Why a program cannot even be handed to the verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The section's name says no program type.
    #[error("program '{program}': section '{section}' names no program type")]
    UnknownSection {
        /// The program.
        program: String,
        /// Its section.
        section: String,
    },
    /// A map has a type that this engine does not know.
    #[error("map '{map}': type {number} is unknown")]
    UnknownMapType {
        /// The map.
        map: String,
        /// Its type's number.
        number: u32,
    },
    /// A map's value has special fields that no kernel takes.
    #[error("map '{map}'")]
    Record {
        /// The map.
        map: String,
        /// What is wrong with its fields.
        source: skep_verifier::RecordError,
    },
}

/// A verdict with everything that is known about it.
#[derive(Debug)]
pub struct VerifyReport {
    /// The program's name.
    pub program: String,
    /// Its section.
    pub section: String,
    /// Accepted, or why not.
    pub verdict: Result<Verified, Rejection>,
    /// Why it was refused, for people; nothing where it was accepted.
    pub explanation: Option<Explanation>,
    /// How often each slot of the program was processed.
    pub processed: Vec<u32>,
    /// The verifier's log at the level asked for; of a refused program at least the failing path.
    pub log: String,
}

/// A source line, and how much of the verifier's work went into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotLine {
    /// The file as the compiler was given it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// The line's text.
    pub text: String,
    /// Instructions of it that were processed, over all paths.
    pub insns: u64,
}

impl VerifyReport {
    /// The verifier's work, accepted or not.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match &self.verdict {
            Ok(verified) => verified.stats(),
            Err(rejection) => rejection.stats,
        }
    }
}

/// Whether the section asks for an iterator over the elements of a map, the one kind of iterator that there is here.
pub(crate) fn is_map_iterator(sec: &skep_object::Sec) -> bool {
    sec.attach_type == AttachType::TraceIter && sec.target.as_deref() == Some("bpf_map_elem")
}

/// A refusal at an instruction that CO-RE poisoned, with the reason for that instead of the helper's number.
pub(crate) fn explained(refusal: Refusal, poisoned: &[Poisoned]) -> (Rejection, Explanation) {
    let Refusal { mut rejection, mut explanation, .. } = refusal;
    let at = rejection.insn.map(|insn| insn.0);
    if let Some(found) = poisoned.iter().find(|p| Some(p.slot) == at) {
        rejection.message = format!("{} ({})", found.reason, rejection.message);
        explanation.category = Category::Encoding;
        "a type or field that the target does not have".clone_into(&mut explanation.title);
        explanation.reason = format!("{}, and the program reaches the instruction that needs it.", found.reason);
        "Ask with bpf_core_field_exists() or bpf_core_type_exists() before it is used, or give the types of the right target."
            .clone_into(&mut explanation.suggestion);
        explanation.path.clear();
    }
    (rejection, explanation)
}

/// What the verifier needs of an object's maps; made once for all programs of the object.
#[derive(Debug)]
pub struct Shapes {
    records: Vec<Vec<RecordField>>,
    types: Vec<MapType>,
}

impl Shapes {
    /// The special fields of each map's values, parallel to [`Object::maps`].
    pub(crate) fn records(&self) -> &[Vec<RecordField>] {
        &self.records
    }
}

impl Object {
    /// The shapes of the object's maps.
    ///
    /// # Errors
    /// A map's type or its value's fields are unknown.
    pub fn shapes(&self) -> Result<Shapes, SpecError> {
        let mut records = Vec::new();
        let mut types = Vec::new();
        for map in self.maps() {
            let number = map.map_type;
            let unknown = || SpecError::UnknownMapType { map: map.name.clone(), number };
            types.push(MapType::from_u32(number).ok_or_else(unknown)?);
            let record = match (self.btf(), map.value_type) {
                (Some(btf), Some(id)) => skep_verifier::value_record(btf, id)
                    .map_err(|source| SpecError::Record { map: map.name.clone(), source })?,
                _ => Vec::new(),
            };
            records.push(record);
        }
        Ok(Shapes { records, types })
    }

    /// Verifies one program, by its place in [`Object::programs`], without loading anything.
    ///
    /// # Errors
    /// The program cannot be handed to the verifier. A rejection is no error but a verdict.
    pub fn verify(&self, program: usize, shapes: &Shapes, options: &Options) -> Result<VerifyReport, SpecError> {
        self.verify_on(program, &self.map_shapes(shapes), options, None)
    }

    /// As [`Object::verify`], on maps of this shape and with an embedder's helpers.
    pub(crate) fn verify_on(
        &self,
        program: usize,
        maps: &[MapShape<'_>],
        options: &Options,
        helpers: Option<&HelperTable>,
    ) -> Result<VerifyReport, SpecError> {
        self.with_program_spec(program, maps, None, |spec, poisoned| {
            let spec = &ProgramSpec { helpers, ..spec.clone() };
            let mut log = Log::new();
            let (verdict, explanation, processed) = match skep_verifier::verify_explained(spec, options, &mut log) {
                Ok(verified) => {
                    let processed = verified.processed().to_vec();
                    (Ok(verified), None, processed)
                }
                Err(mut refusal) => {
                    let processed = std::mem::take(&mut refusal.processed);
                    let (rejection, explanation) = explained(*refusal, poisoned);
                    (Err(rejection), Some(explanation), processed)
                }
            };
            VerifyReport {
                program: spec.name.to_owned(),
                section: self.programs().get(program).map(|p| p.section.clone()).unwrap_or_default(),
                verdict,
                explanation,
                processed,
                log: log.into_text(),
            }
        })
    }

    /// The source lines of a program that the verifier processed most, most first; without line information there are none.
    #[must_use]
    pub fn hot_lines(&self, program: usize, report: &VerifyReport, count: usize) -> Vec<HotLine> {
        let (Some(program), Some(btf)) = (self.programs().get(program), self.btf()) else { return Vec::new() };
        let lines = &program.line_info;
        let mut by_line = std::collections::BTreeMap::new();
        for (at, &processed) in (0u32..).zip(&report.processed).filter(|(_, processed)| **processed > 0) {
            let Some(index) = lines.partition_point(|l| l.insn_off <= at).checked_sub(1) else { continue };
            let line = &lines[index];
            let hot = by_line.entry((btf.str_at(line.file), line.line_num)).or_insert_with(|| HotLine {
                file: btf.str_at(line.file).to_owned(),
                line: line.line_num,
                text: btf.str_at(line.line).to_owned(),
                insns: 0,
            });
            hot.insns += u64::from(processed);
        }
        let mut hot: Vec<HotLine> = by_line.into_values().collect();
        hot.sort_by_key(|line| std::cmp::Reverse(line.insns));
        hot.truncate(count);
        hot
    }

    /// The verifier's view of all maps, parallel to [`Object::maps`].
    pub(crate) fn map_shapes<'a>(&'a self, shapes: &'a Shapes) -> Vec<MapShape<'a>> {
        let shape = |map: &'a skep_object::MapSpec, map_type, record: &'a [RecordField]| {
            let read_only = map.kind.is_read_only();
            MapShape {
                name: Cow::Borrowed(map.kernel_name.as_str()),
                map_type,
                key_size: map.key_size,
                value_size: map.value_size,
                max_entries: map.max_entries,
                flags: map.map_flags | if read_only { RDONLY_PROG } else { 0 },
                user_start: MapShape::user_start_of(map_type, map.map_extra),
                frozen: read_only,
                contents: if read_only { map.initial_value() } else { None },
                record: Cow::Borrowed(record),
                btf_value_type_id: map.value_type.map_or(0, |id| id.0),
                inner: None,
                id: 0,
            }
        };
        self.maps()
            .iter()
            .zip(shapes.types.iter().zip(&shapes.records))
            .map(|(map, (map_type, record))| MapShape {
                inner: map.inner.as_deref().and_then(|inner| {
                    let map_type = MapType::from_u32(inner.map_type)?;
                    Some(Box::new(shape(inner, map_type, &[])))
                }),
                ..shape(map, *map_type, record)
            })
            .collect()
    }

    /// Calls `f` with the verifier's view of a program.
    pub(crate) fn with_program_spec<R>(
        &self,
        program: usize,
        maps: &[MapShape<'_>],
        context: Option<&CtxLayout>,
        f: impl FnOnce(&ProgramSpec<'_>, &[Poisoned]) -> R,
    ) -> Result<R, SpecError> {
        let relocated;
        let mut poisoned = Vec::new();
        let poisons_maps = self.maps().iter().any(|map| !map.autocreate);
        let program = match (&self.programs()[program], self.btf()) {
            (program, None) if poisons_maps => {
                let mut copy = program.clone();
                poisoned = self.spec().poison_maps(&mut copy);
                relocated = copy;
                &relocated
            }
            (program, Some(btf)) if poisons_maps || program.has_open_references() => {
                let mut copy = program.clone();
                let target = self.target_btf();
                let target = target.map_or_else(|| CoreTarget::identity(btf), CoreTarget::new);
                // What has no answer is poisoned: an error only where the program reaches it.
                if let Some(own) = kernel_types::kernel_types() {
                    let own = CoreTarget::new(own);
                    poisoned = copy.apply_core_where(btf, &own, kernel_types::is_kernel_type);
                }
                poisoned.extend(copy.apply_core(btf, &target));
                copy.resolve_ksyms(skep_verifier::has_kfunc);
                poisoned.extend(self.spec().poison_maps(&mut copy));
                relocated = copy;
                &relocated
            }
            (program, _) => program,
        };
        let replaces = self.replaces(&program.name);
        let behind = replaces.map(|target| (target.program.xlated(), target.source()));
        let replaced = replaces.zip(behind.as_ref()).and_then(|(target, (xlated, source))| {
            let func = xlated.subprogs.get(target.function).map(|sub| TypeId(sub.type_id))?;
            Some(ExtTarget { btf: source.btf.as_deref()?, func, subprogs: &xlated.subprogs })
        });
        // An embedder's programs have the helpers of programs without a context of the kernel's.
        let (prog_type, attach_type, flags) = match (&program.sec, context) {
            (Some(sec), _) if replaces.is_some() => {
                let target = replaces.map(|target| &target.program);
                let prog_type = target.map_or(sec.prog_type, |target| target.prog_type());
                (prog_type, target.map_or(sec.attach_type, |target| target.attach_type()), sec.prog_flags)
            }
            (Some(sec), _) => (sec.prog_type, sec.attach_type, sec.prog_flags),
            (None, Some(_)) => (ProgType::RawTracepoint, AttachType::default(), 0),
            (None, None) => {
                let (program, section) = (program.name.clone(), program.section.clone());
                return Err(SpecError::UnknownSection { program, section });
            }
        };
        let iterates = program.sec.as_ref().is_some_and(is_map_iterator);
        let context = context.or(if iterates { Some(&BPF_MAP_ELEM) } else { None });
        let kfuncs: Vec<KfuncRef<'_>> =
            program.kfuncs.iter().map(|k| KfuncRef { name: Cow::Borrowed(k.name.as_str()) }).collect();
        let spec = ProgramSpec {
            name: &program.name,
            prog_type,
            attach_type,
            flags: ProgFlags(flags),
            insns: &program.insns,
            maps,
            kfuncs: &kfuncs,
            btf: self.btf(),
            func_info: &program.func_info,
            line_info: &program.line_info,
            gpl_compatible: self.is_gpl_compatible(),
            target: replaced,
            ctx: context,
            helpers: None,
        };
        Ok(f(&spec, &poisoned))
    }
}
