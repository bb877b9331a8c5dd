//! `skep prog`: programs of an object, and what they became.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use skep::{Engine, Loaded, Object, Program};
use skep_abi::disasm::{self, Names};
use skep_abi::{Insn, RawInsn, decode_xlated};
use skep_btf::{Btf, LineInfo};

use crate::args::{Dump, DumpArgs, Output, Prog};
use crate::exit::usage;
use crate::{disasm as machine, output};

pub(crate) fn run(command: &Prog, output: Output) -> Result<()> {
    match command {
        Prog::Show { object } => show(object, output),
        Prog::Dump(Dump::Xlated(args)) => dump(args, output, xlated),
        Prog::Dump(Dump::Jited(args)) => dump(args, output, jited),
    }
}

/// The keywords behind the object.
#[derive(Default)]
struct Words {
    name: Option<String>,
    opcodes: bool,
    linum: bool,
}

impl Words {
    fn parse(words: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "opcodes" => parsed.opcodes = true,
                "linum" => parsed.linum = true,
                "name" => match words.next() {
                    Some(name) => parsed.name = Some(name.clone()),
                    None => return usage("`name` needs a program's name"),
                },
                other => return usage(format!("{other:?}: expected `name NAME`, `opcodes` or `linum`")),
            }
        }
        Ok(parsed)
    }
}

/// Loads an object as it is, all programs that load by themselves.
fn load(path: &Path, output: Output) -> Result<(Object, Loaded)> {
    let object = Object::open(path)?;
    let engine = Engine::new()?;
    let loaded = engine.load(object.clone()).map_err(|error| {
        crate::explain::eprint(&error, output);
        anyhow::Error::new(error).context(path.display().to_string())
    })?;
    Ok((object, loaded))
}

fn show(path: &Path, output: Output) -> Result<()> {
    let (_, loaded) = load(path, output)?;
    if output.is_json() {
        let list: Value = loaded.programs().map(|program| show_json(&program)).collect();
        return output.print_json(&list);
    }
    let mut out = String::new();
    for program in loaded.programs() {
        let gpl = if program.is_gpl_compatible() { "  gpl" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "{}: {}  name {}  tag {}{gpl}",
            program.id(),
            program.prog_type(),
            program.name(),
            program.tag()
        );
        let stats = program.stats();
        if stats.run_time_ns > 0 {
            let _ = write!(out, " run_time_ns {} run_cnt {}", stats.run_time_ns, stats.run_cnt);
        }
        let jited = program.listing().map_or(0, |code| code.bytes().len());
        let ids: Vec<String> = program.map_ids().iter().map(u32::to_string).collect();
        let _ = write!(out, "\n\txlated {}B  jited {jited}B", program.xlated().insns.len() * 8);
        if !ids.is_empty() {
            let _ = write!(out, "  map_ids {}", ids.join(","));
        }
        out.push('\n');
    }
    output::print(&out)
}

fn show_json(program: &Program) -> Value {
    let stats = program.stats();
    let mut object = json!({
        "id": program.id(),
        "type": program.prog_type().name(),
        "name": program.name(),
        "tag": program.tag(),
        "gpl_compatible": program.is_gpl_compatible(),
        "bytes_xlated": program.xlated().insns.len() * 8,
        "jited": program.code().is_some(),
        "bytes_jited": program.listing().map_or(0, |code| code.bytes().len()),
        "map_ids": program.map_ids(),
    });
    if stats.run_time_ns > 0 {
        object["run_time_ns"] = json!(stats.run_time_ns);
        object["run_cnt"] = json!(stats.run_cnt);
    }
    object
}

/// What is dumped, with the object it came from.
struct Subject<'a> {
    object: &'a Object,
    loaded: &'a Loaded,
    program: Program,
    words: &'a Words,
}

fn dump(args: &DumpArgs, output: Output, form: fn(&Subject<'_>, Output) -> Result<()>) -> Result<()> {
    let words = Words::parse(&args.words)?;
    let (object, loaded) = load(&args.object, output)?;
    let programs: Vec<Program> = loaded.programs().collect();
    let program = match &words.name {
        Some(name) => loaded.program(name).with_context(|| args.object.display().to_string())?,
        None if programs.len() == 1 => programs[0].clone(),
        None => {
            let names: Vec<&str> = programs.iter().map(|program| program.name()).collect();
            return usage(format!("{} programs, name one: {}", programs.len(), names.join(", ")));
        }
    };
    form(&Subject { object: &object, loaded: &loaded, program, words: &words }, output)
}

/// Source lines by original slot.
struct Lines<'a> {
    btf: Option<&'a Btf>,
    by_slot: BTreeMap<u32, &'a LineInfo>,
}

impl<'a> Lines<'a> {
    fn of(object: &'a Object, program: &str) -> Self {
        let spec = object.programs().iter().find(|p| p.name == program);
        let infos = spec.map_or(&[][..], |p| &p.line_info);
        Self { btf: object.btf(), by_slot: infos.iter().map(|info| (info.insn_off, info)).collect() }
    }

    /// The line that starts at this original slot: `; text`, with its place where `linum` asks for it.
    fn at(&self, slot: u32, linum: bool) -> Option<String> {
        let (info, btf) = (self.by_slot.get(&slot)?, self.btf?);
        let text = btf.str_at(info.line).trim();
        let place = format!(" [file:{} line_num:{} line_col:{}]", btf.str_at(info.file), info.line_num, info.column);
        Some(format!("; {text}{}", if linum { &place } else { "" }))
    }
}

/// Names of the loaded program's maps in a listing.
struct MapNames<'a> {
    loaded: &'a Loaded,
    program: &'a Program,
}

impl Names for MapNames<'_> {
    fn map(&self, index: i32) -> Option<String> {
        let used = usize::try_from(index).ok()?;
        let id = self.program.map_ids().get(used).copied()?;
        let (name, _) = self.loaded.maps().find(|(_, map)| map.id() == id)?;
        Some(format!("id:{id}/{name}"))
    }
}

fn xlated(subject: &Subject<'_>, output: Output) -> Result<()> {
    let xlated = subject.program.xlated();
    let lines = Lines::of(subject.object, subject.program.name());
    let names = MapNames { loaded: subject.loaded, program: &subject.program };
    let mut text = String::new();
    let mut list = Vec::new();
    let mut last_source = None;
    let mut at = 0;
    while let Some(raw) = xlated.insns.get(at) {
        let slot = u32::try_from(at)?;
        if let Some(subprog) = xlated.subprogs.iter().find(|s| s.start == slot) {
            let _ = writeln!(text, "{}:", signature(subject, &subprog.name));
        }
        let source = xlated.source.get(at).copied();
        let line = source.filter(|s| last_source != Some(*s)).and_then(|s| lines.at(s, subject.words.linum));
        last_source = source;
        if let Some(line) = &line {
            let _ = writeln!(text, "{line}");
        }
        let mut shown = disasm::disasm(&xlated.insns, at, &names);
        if let Ok(Insn::TailCall { imm }) = decode_xlated(&xlated.insns, at) {
            let map = names.map(i32::from(imm.map()));
            let _ = write!(shown, "  ; {}", skep_verifier::tail_call_text(imm, &xlated, map.as_deref()));
        }
        let slots = if raw.code == 0x18 { 2 } else { 1 };
        let bytes: Vec<u8> = xlated.insns[at..].iter().take(slots).copied().flat_map(RawInsn::to_bytes).collect();
        let _ = writeln!(text, "{at:4}: ({:02x}) {shown}", raw.code);
        if subject.words.opcodes {
            let _ = writeln!(text, "       {}", machine::hex(&bytes));
        }
        let mut object = Map::new();
        if let Some(line) = line {
            object.insert("src".into(), json!(line.trim_start_matches("; ")));
        }
        object.insert("disasm".into(), json!(format!("({:02x}) {shown}", raw.code)));
        if subject.words.opcodes {
            object.insert("opcodes".into(), bytes.iter().map(|b| json!(format!("0x{b:02x}"))).collect());
        }
        list.push(Value::Object(object));
        at += slots;
    }
    if output.is_json() { output.print_json(&Value::Array(list)) } else { output::print(&text) }
}

fn jited(subject: &Subject<'_>, output: Output) -> Result<()> {
    let Some(code) = subject.program.listing() else {
        anyhow::bail!("{} is interpreted here: there is no machine code (see `skep feature`)", subject.program.name());
    };
    let lines = Lines::of(subject.object, subject.program.name());
    let xlated = subject.program.xlated();
    let helpers = subject.program.engine().layout_base().helpers;
    let name = |target| {
        if let Some((id, _)) = helpers.iter().find(|(_, address)| **address == target) {
            return skep_abi::helper::helper_name(i32::try_from(*id).ok()?).map(str::to_owned);
        }
        // A map's own functions, called without the helper's dispatch by type.
        subject.loaded.maps().find_map(|(name, map)| {
            let fns = map.fns();
            let known = [(fns.lookup, "lookup"), (fns.update, "update"), (fns.delete, "delete")];
            let (_, what) = known.into_iter().find(|(function, _)| *function as usize as u64 == target)?;
            Some(format!("{what}({name})"))
        })
    };
    let instructions = machine::x64(&code.bytes(), code.address(), &name);
    let mut text = String::new();
    let mut list = Vec::new();
    for subprog in code.subprogs() {
        let (start, end) = (usize::try_from(subprog.start)?, usize::try_from(subprog.end)?);
        let _ = writeln!(text, "{}:", signature(subject, &subprog.name));
        let body: Vec<_> = instructions.iter().filter(|line| (start..end).contains(&line.offset)).collect();
        for line in &body {
            let offset = u32::try_from(line.offset)?;
            for (_, slot) in code.lines().iter().filter(|(at, _)| *at == offset) {
                let source = usize::try_from(*slot).ok().and_then(|slot| xlated.source.get(slot));
                if let Some(shown) = source.and_then(|s| lines.at(*s, subject.words.linum)) {
                    let _ = writeln!(text, "{shown}");
                }
            }
            text.push_str(&machine::listing(std::slice::from_ref(*line), subject.words.opcodes));
        }
        list.push(json!({ "name": subprog.name, "insns": machine::json(body.iter().copied(), subject.words.opcodes) }));
    }
    if output.is_json() { output.print_json(&Value::Array(list)) } else { output::print(&text) }
}

/// A function as C declares it, where the object has types, else its name.
fn signature(subject: &Subject<'_>, name: &str) -> String {
    let Some(btf) = subject.object.btf() else { return name.to_owned() };
    let Some(id) = btf.find(name, skep_btf::Kind::Func) else { return name.to_owned() };
    let Some(proto) = btf.func_proto(id) else { return name.to_owned() };
    let parameters: Vec<String> =
        proto.params.iter().map(|p| format!("{} {}", type_name(btf, p.ty), btf.str_at(p.name))).collect();
    format!("{} {name}({})", type_name(btf, proto.ret), parameters.join(", "))
}

/// A type's name, pointers and qualifiers included.
fn type_name(btf: &Btf, id: skep_btf::TypeId) -> String {
    use skep_btf::TypeData::{Array, Const, Enum, Fwd, Ptr, Restrict, Struct, TypeTag, Union, Volatile};
    let mut suffix = String::new();
    let mut id = id;
    // Types nest at most as deep as the parser allows.
    loop {
        let Some(ty) = btf.get(id) else { return format!("?{suffix}") };
        let word = match &ty.data {
            Ptr(to) => {
                suffix.insert_str(0, " *");
                id = *to;
                continue;
            }
            Const(to) => {
                suffix.insert_str(0, " const");
                id = *to;
                continue;
            }
            Volatile(to) | Restrict(to) | TypeTag { ty: to, .. } => {
                id = *to;
                continue;
            }
            Array(array) => {
                suffix.insert_str(0, " *");
                id = array.elem;
                continue;
            }
            Struct(_) => "struct ",
            Union(_) => "union ",
            Enum(_) => "enum ",
            Fwd { is_union } => {
                if *is_union {
                    "union "
                } else {
                    "struct "
                }
            }
            _ if id.is_void() => "void",
            _ => "",
        };
        return format!("{word}{}{suffix}", btf.name(id));
    }
}
