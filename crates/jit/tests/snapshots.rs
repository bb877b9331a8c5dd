//! The machine code of `testing/vectors/jit/*.txt`, as text: `BLESS=1` rewrites it.
//!
//! A vector is comments, directives (`map`, `fact`, `helper`, `subprogs`, `stack`, `features`, `optimize`, `stats`, `role`, `accesses arena`,
//! `replaceable`), the
//! program under `--- asm`, and the disassembly under `--- x64` and `--- arm64`.

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use iced_x86::Formatter as _;
use skep_abi::RawInsn;
use skep_abi::asm::assemble_with;
use skep_jit::{Arch, CpuFeatures, Image, Layout, MapAccess, MapLayout, Options, RelocTarget, Role, TscScale, compile};
use skep_verifier::{Const, MapArg, MemKind, Poke, Xlated};

/// A vector, taken apart.
struct Vector {
    head: String,
    asm: String,
    listings: Vec<(Arch, String)>,
}

const ARCHES: [(Arch, &str); 2] = [(Arch::X64, "x64"), (Arch::Arm64, "arm64")];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/vectors/jit")
}

fn parse(text: &str) -> Vector {
    let mut vector = Vector { head: String::new(), asm: String::new(), listings: Vec::new() };
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("--- ") {
            section = name;
            if let Some(&(arch, _)) = ARCHES.iter().find(|(_, known)| *known == name) {
                vector.listings.push((arch, String::new()));
            }
            continue;
        }
        let part = match section {
            "" => &mut vector.head,
            "asm" => &mut vector.asm,
            _ => match vector.listings.last_mut() {
                Some((_, listing)) => listing,
                None => continue,
            },
        };
        part.push_str(line);
        part.push('\n');
    }
    vector
}

/// `name=value` of a directive.
fn field(line: &str, name: &str) -> Option<u64> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

fn setup(vector: &Vector) -> (Xlated, Layout, bool, CpuFeatures) {
    let mut layout = Layout { tail_calls: 64, cpu_id: 0, ld_abs: 0x1000_0000, ..Layout::default() };
    let (mut stack, mut starts, mut optimize, mut features) = (64, vec![0], true, CpuFeatures::ALL);
    let mut facts: Vec<&str> = Vec::new();
    let mut replaceable: Vec<usize> = Vec::new();
    let mut arena = false;
    for line in vector.head.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let max_entries = field(line, "max").map_or(1, small);
        let stride = field(line, "stride").map_or(8, small);
        match words[..] {
            ["map", _, kind, ..] => {
                let at = 0x7f00_0000_0000 + 0x10_0000 * layout.maps.len() as u64;
                let access = match kind {
                    "array" => MapAccess::Array { values: at, stride, max_entries },
                    "percpu" => MapAccess::PerCpuArray { off: field(line, "off").expect("off"), stride, max_entries },
                    "prog_array" => MapAccess::ProgArray { targets: at, max_entries },
                    "hash" => MapAccess::Hash { lookup: 0x2000_0000 },
                    "arena" => MapAccess::Arena { base: 0x7e00_0000_0000, start: 0x7e00_0001_0000 },
                    _ => MapAccess::Opaque,
                };
                layout.maps.push(MapLayout { object: at + 0x8000, access });
            }
            ["fact", "*", ..] => facts.push(line),
            ["accesses", "arena"] => arena = true,
            ["helper", id] => {
                layout.helpers.insert(small(number(id)), 0x3000_0000 + 0x100 * number(id));
            }
            ["subprogs", ref list @ ..] => starts = list.iter().map(|slot| small(number(slot)) as usize).collect(),
            ["stack", depth] => stack = small(number(depth)),
            ["features", "none"] => features = CpuFeatures::BASELINE,
            ["optimize", "off"] => optimize = false,
            ["role", "extension"] => layout.role = Role::Extension,
            ["replaceable", ref list @ ..] => {
                layout.role = Role::Replaceable;
                replaceable = list.iter().map(|number| small(number.parse().expect("a number")) as usize).collect();
            }
            ["stats", off] => {
                layout.stats = Some(number(off).cast_signed());
                layout.tsc = Some(TscScale { mult: 1 << 30, shift: 31 });
            }
            _ => unreachable!("unknown directive {line}"),
        }
    }
    let raw = assemble_with(&vector.asm, &mut |name: &str| name.parse::<i32>().ok()).expect("assembles");
    let mut xlated = support::from_raw(raw, &starts, stack);
    for (number, subprog) in xlated.subprogs.iter_mut().enumerate() {
        subprog.replaceable = replaceable.contains(&number);
    }
    if arena {
        // What lies behind r1 to r5.
        let is_access = |insn: &RawInsn| matches!(insn.code & 7, 1..=3) && insn.dst.min(insn.src) < 6 && insn.dst != 10;
        for (fact, insn) in xlated.facts.iter_mut().zip(&xlated.insns) {
            fact.mem = if is_access(insn) { MemKind::Arena } else { MemKind::None };
        }
    }
    xlated.pokes = vec![Poke { insn: 0, map: 0, key: 0 }];
    for line in facts {
        for fact in &mut xlated.facts {
            if let Some(map) = field(line, "map") {
                fact.helper_map = MapArg::Known(small(map));
            }
            if let Some(key) = field(line, "key") {
                fact.const_key = Const::Known(key);
            }
            fact.divisor_nonzero |= line.contains("nonzero");
        }
    }
    (xlated, layout, optimize, features)
}

fn small(n: u64) -> u32 {
    u32::try_from(n).expect("small")
}

/// The listing: offsets, instructions, and what relocations and sites say.
fn disassemble_x64(image: &Image) -> String {
    let mut decoder = iced_x86::Decoder::with_ip(64, &image.bytes, 0, iced_x86::DecoderOptions::NONE);
    let mut formatter = iced_x86::IntelFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_show_branch_size(false);
    let mut out = String::new();
    for insn in &mut decoder {
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        let at = u32::try_from(insn.ip()).expect("small");
        let end = u32::try_from(insn.next_ip()).expect("small");
        for reloc in image.relocations.iter().filter(|reloc| (at..end).contains(&reloc.at)) {
            if let RelocTarget::Addr(addr) = reloc.target {
                text = format!("{} {addr:#x}", text.split(' ').next().unwrap_or(""));
            }
        }
        if let Some(site) = image.sites.iter().find(|site| site.offset == at) {
            let _ = write!(text, "  ; {:?}", site.kind);
        }
        let _ = writeln!(out, "{at:4x}: {text}");
    }
    out
}

fn listing(vector: &Vector, arch: Arch) -> String {
    let (xlated, layout, optimize, features) = setup(vector);
    let options = Options::new(arch).with_features(features).with_optimize(optimize);
    let image = compile(&xlated, &layout, &options).expect("compiles");
    match arch {
        Arch::X64 => disassemble_x64(&image),
        Arch::Arm64 => disassemble_arm64(&image),
    }
}

fn disassemble_arm64(image: &Image) -> String {
    use yaxpeax_arch::{Decoder as _, U8Reader};
    let decoder = yaxpeax_arm::armv8::a64::InstDecoder::default();
    let mut out = String::new();
    for (at, word) in (0_u32..).step_by(4).zip(image.bytes.chunks(4)) {
        let text = match decoder.decode(&mut U8Reader::new(word)) {
            Ok(insn) => insn.to_string(),
            // The large system extensions are not known to the disassembler.
            Err(_) => format!(".inst 0x{:08x}", u32::from_le_bytes(word.try_into().expect("4 bytes"))),
        };
        let _ = write!(out, "{at:4x}: {text}");
        if let Some(site) = image.sites.iter().find(|site| site.offset == at) {
            let _ = write!(out, "  ; {:?}", site.kind);
        }
        out.push('\n');
    }
    out
}

#[test]
fn machine_code_is_as_recorded() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder()).expect("vectors").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    let mut wrong = String::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("readable");
        let vector = parse(&text);
        let mut fresh = format!("{}--- asm\n{}", vector.head, vector.asm);
        for (arch, name) in ARCHES {
            let _ = write!(fresh, "--- {name}\n{}", listing(&vector, arch));
        }
        if fresh == text {
            continue;
        }
        if bless {
            std::fs::write(file, &fresh).expect("writable");
        } else {
            let _ = writeln!(wrong, "{}: now\n{fresh}", file.display());
        }
    }
    assert!(files.len() >= 30, "the vectors are there");
    assert!(wrong.is_empty(), "{wrong}BLESS=1 records the new code");
}
