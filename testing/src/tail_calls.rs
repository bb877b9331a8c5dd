//! Vectors of tail calls: several programs and their prog arrays in one text; the format is in testing/README.md.
//!
//! Owns the text form and its translation to an object that our engine and the kernel load alike. Invariant: a vector says
//! what any engine does; which shape of code our compiler chose is said beside it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use skep_abi::asm::{AsmError, assemble_with};
use skep_abi::{CallTarget, Imm64, Insn, RawInsn, decode, decode_xlated};
use skep_btf::{Btf, Builder, Composite, FuncInfo, FuncProto, Int, Linkage, Member, Param, TypeData, TypeId};
use skep_object::{InitialSlot, MapKind, MapSpec, ObjectSpec, ProgramSpec, Sec, SlotTarget, SubprogSpec};
use skep_verifier::Xlated;

/// Bytes of the packet that vectors run on; `.tail` computes its indices from them.
pub const PACKET: usize = 64;

/// A vector, ready to load; the program to run is the first.
#[derive(Clone, Debug)]
pub struct Case {
    /// Programs and maps. Map `out` has one 8-byte value, which programs count in.
    pub object: ObjectSpec,
    /// The last message of the verifier that refuses a program, in which case nothing runs.
    pub refused: Option<String>,
    /// What the first program returns.
    pub r0: u32,
    /// What `out` holds then.
    pub out: u64,
    /// Shapes of the first program's tail calls in compiled code.
    pub shapes: Vec<String>,
    /// Extensions to attach before the run, in order. They use the object's maps.
    pub extensions: Vec<Extension>,
}

/// A program that takes the place of a function (`freplace`).
#[derive(Clone, Debug)]
pub struct Extension {
    /// An object with this program and the case's maps, without initial slots.
    pub object: ObjectSpec,
    /// The program whose function it replaces.
    pub target: String,
    /// The function.
    pub function: String,
}

/// A program's text.
struct Source {
    name: String,
    body: String,
    /// Functions that are global, by number.
    globals: Vec<usize>,
    /// What it extends.
    target: Option<(String, String)>,
}

/// Why a text is no vector.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// A line that is none of the format's.
    #[error("line not understood: {0:?}")]
    Line(String),
    /// A program does not assemble.
    #[error("program {program}")]
    Asm {
        /// Its name.
        program: String,
        /// What is wrong.
        #[source]
        source: AsmError,
    },
    /// The types cannot be built.
    #[error("no types")]
    Types(#[from] skep_btf::Error),
    /// The section is not known.
    #[error("no program type for the section {0}")]
    Section(String),
}

/// Reads a vector.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<Case, ParseError> {
    let mut maps: Vec<MapSpec> = vec![map("out", 2, 8, 1)];
    let mut programs: Vec<Source> = Vec::new();
    let mut slots: Vec<(String, u32, String)> = Vec::new();
    let (mut refused, mut r0, mut out, mut shapes) = (None, 0, 0, Vec::new());
    let mut section = "xdp";
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.parse().map_err(|_| ParseError::Line(line.to_owned()));
        match words[..] {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["type", "raw_tracepoint"] => section = "raw_tp",
            ["array", name, max] => maps.push(map(name, 3, 4, number(max)?)),
            ["slot", name, index, program] => slots.push((name.to_owned(), number(index)?, program.to_owned())),
            ["prog", name] => programs.push(Source::new(name, None)),
            ["ext", name, target, function] => {
                programs.push(Source::new(name, Some((target.to_owned(), function.to_owned()))));
            }
            ["global", index] => {
                let index = number(index)?;
                let last = programs.last_mut().ok_or_else(|| ParseError::Line(line.to_owned()))?;
                last.globals.push(usize::try_from(index).unwrap_or(usize::MAX));
            }
            // What follows is the machine code, for the test of it.
            ["---", ..] => break,
            ["expect", "refused", ref message @ ..] => refused = Some(message.join(" ")),
            ["expect", "r0", value] => r0 = number(value)?,
            ["expect", "out", value] => out = u64::from(number(value)?),
            ["shape", ref list @ ..] => shapes = list.iter().map(|&shape| shape.to_owned()).collect(),
            _ => match programs.last_mut() {
                Some(program) => expand(line.trim(), &mut program.body),
                None => return Err(ParseError::Line(line.to_owned())),
            },
        }
    }
    let (extensions, programs): (Vec<_>, Vec<_>) = programs.into_iter().partition(|program| program.target.is_some());
    let bare = maps.clone();
    for (array, slot, program) in slots {
        let target = programs.iter().position(|source| source.name == program);
        let array = maps.iter_mut().find(|map| map.name == array);
        let (Some(array), Some(target)) = (array, target) else { return Err(ParseError::Line(program)) };
        array.initial_slots.push(InitialSlot { slot, target: SlotTarget::Program(target) });
    }
    let mut types = Types::new()?;
    let build_all = |sources: &[Source], types: &mut Types| {
        sources.iter().map(|source| build(source, section, &maps, types)).collect::<Result<Vec<_>, _>>()
    };
    let built = build_all(&programs, &mut types)?;
    let built_extensions = build_all(&extensions, &mut types)?;
    let btf = Some(Arc::new(types.finish()?));
    let object = |programs, maps| ObjectSpec {
        name: "tailcall".to_owned(),
        license: "GPL".to_owned(),
        kern_version: 0,
        programs,
        maps,
        variables: Vec::new(),
        externs: Vec::new(),
        btf: btf.clone(),
    };
    let extensions = built_extensions.into_iter().zip(extensions).filter_map(|(program, source)| {
        let (target, function) = source.target?;
        Some(Extension { object: object(vec![program], bare.clone()), target, function })
    });
    let extensions = extensions.collect();
    Ok(Case { object: object(built, maps), refused, r0, out, shapes, extensions })
}

impl Source {
    fn new(name: &str, target: Option<(String, String)>) -> Self {
        Self { name: name.to_owned(), body: String::new(), globals: vec![0], target }
    }
}

/// Shapes of the tail calls of a rewritten program, in order: `poked`, `cached` or `dynamic`.
#[must_use]
pub fn shapes(xlated: &Xlated) -> Vec<&'static str> {
    let mut shapes = Vec::new();
    let mut at = 0;
    while let Ok(insn) = decode_xlated(&xlated.insns, at) {
        if let Insn::TailCall { imm } = insn {
            shapes.push(match imm.poke() {
                _ if imm.is_unknown() => "dynamic",
                Some(_) => "poked",
                None => "cached",
            });
        }
        at += insn.slots();
    }
    shapes
}

/// Lines that stand for several instructions. All keep the context in r6 and leave it in r1.
fn expand(line: &str, body: &mut String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    // The packet's length, which no verifier knows.
    let length = "r3 = *(u32 *)(r1 +4)\nr4 = *(u32 *)(r1 +0)\nr3 -= r4\n";
    let _ = match words[..] {
        [".count"] => writeln!(
            body,
            "r6 = r1\nr1 = map_value[out]+0\nr2 = *(u64 *)(r1 +0)\nr2 += 1\n*(u64 *)(r1 +0) = r2\nr1 = r6"
        ),
        [".poked", array, index] => writeln!(body, "r2 = map[{array}]\nr3 = {index}\ncall bpf_tail_call"),
        [".cached", array, index] => {
            writeln!(body, "{length}r4 = {index} ll\nr3 += r4\nr3 += -{PACKET}\nr2 = map[{array}]\ncall bpf_tail_call")
        }
        _ => writeln!(body, "{line}"),
    };
}

/// The object's types: tail calls in subprograms need them. Programs and global functions are `int f(struct xdp_md *ctx)`,
/// static ones `int f(void)`.
struct Types {
    builder: Builder,
    of_ctx: TypeId,
    of_nothing: TypeId,
}

impl Types {
    fn new() -> Result<Self, ParseError> {
        let mut builder = Builder::new();
        let int = Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 };
        let ret = builder.add("int", TypeData::Int(int))?;
        let of_nothing = builder.add("", TypeData::FuncProto(FuncProto { ret, params: Vec::new() }))?;
        let field = Member { name: builder.string("data")?, ty: ret, bit_offset: 0, bitfield_size: 0 };
        let xdp_md = Composite { size: 24, members: vec![field], kind_flag: false };
        let xdp_md = builder.add("xdp_md", TypeData::Struct(xdp_md))?;
        let pointer = builder.add("", TypeData::Ptr(xdp_md))?;
        let ctx = Param { name: builder.string("ctx")?, ty: pointer };
        let of_ctx = builder.add("", TypeData::FuncProto(FuncProto { ret, params: vec![ctx] }))?;
        Ok(Self { builder, of_ctx, of_nothing })
    }

    fn function(&mut self, name: &str, linkage: Linkage) -> Result<TypeId, ParseError> {
        let proto = if linkage == Linkage::Global { self.of_ctx } else { self.of_nothing };
        Ok(self.builder.add(name, TypeData::Func { proto, linkage })?)
    }

    fn finish(self) -> Result<Btf, ParseError> {
        Ok(Btf::parse(&self.builder.to_bytes()?)?)
    }
}

/// First slots of all functions of a program.
fn starts(insns: &[RawInsn]) -> BTreeSet<u32> {
    let mut starts = BTreeSet::from([0]);
    let mut at = 0;
    while let Ok(insn) = decode(insns, at) {
        if let Insn::Call { target: CallTarget::Subprog(distance) } | Insn::LdImm64 { imm: Imm64::Func(distance), .. } =
            insn
        {
            let to = i64::try_from(at).unwrap_or(i64::MAX / 2) + i64::from(distance) + 1;
            starts.extend(u32::try_from(to));
        }
        at += insn.slots();
    }
    starts
}

fn build(source: &Source, section: &str, maps: &[MapSpec], types: &mut Types) -> Result<ProgramSpec, ParseError> {
    let Source { name, body, .. } = source;
    let section =
        source.target.as_ref().map_or_else(|| section.to_owned(), |(_, function)| format!("freplace/{function}"));
    let mut resolve =
        |wanted: &str| maps.iter().position(|map| map.name == wanted).and_then(|at| i32::try_from(at).ok());
    let insns =
        assemble_with(body, &mut resolve).map_err(|source| ParseError::Asm { program: name.clone(), source })?;
    let starts: Vec<u32> = starts(&insns).into_iter().collect();
    let end = u32::try_from(insns.len()).unwrap_or(u32::MAX);
    let (mut subprogs, mut func_info) = (Vec::new(), Vec::new());
    for (number, &start) in starts.iter().enumerate() {
        let own = if start == 0 { name.clone() } else { format!("{name}_sub{number}") };
        let is_global = source.globals.contains(&number);
        let type_id = types.function(&own, if is_global { Linkage::Global } else { Linkage::Static })?;
        func_info.push(FuncInfo { insn_off: start, type_id });
        subprogs.push(SubprogSpec {
            name: own,
            section: section.clone(),
            section_offset: start * 8,
            start,
            len: starts.get(number + 1).copied().unwrap_or(end) - start,
            type_id: Some(type_id),
            is_global,
        });
    }
    Ok(ProgramSpec {
        name: name.clone(),
        sec: Some(Sec::parse(&section).ok_or_else(|| ParseError::Section(section.clone()))?),
        section,
        legacy_tail: None,
        autoload: true,
        insns,
        subprogs,
        func_info,
        line_info: Vec::new(),
        core_relos: Vec::new(),
        kfuncs: Vec::new(),
        ksyms: Vec::new(),
    })
}

/// A map of `BPF_MAP_TYPE_ARRAY` (2) or `BPF_MAP_TYPE_PROG_ARRAY` (3).
fn map(name: &str, map_type: u32, value_size: u32, max_entries: u32) -> MapSpec {
    MapSpec {
        name: name.to_owned(),
        kernel_name: name.to_owned(),
        kind: MapKind::User,
        map_type,
        key_size: 4,
        value_size,
        max_entries,
        map_flags: 0,
        numa_node: 0,
        map_extra: 0,
        pin_by_name: false,
        key_type: None,
        value_type: None,
        inner: None,
        initial_slots: Vec::new(),
        image: Vec::new(),
        autocreate: true,
    }
}
