//! The machine code of a vector's tail calls, for both architectures: `--- x64` and `--- arm64` in its file.
//!
//! Compiled for addresses that are made up, so that it is the same on every machine. `BLESS=1` rewrites it.

use std::fmt::Write as _;
use std::path::Path;

use iced_x86::Formatter as _;
use skep::{Engine, LivePatching, Mode, Object};
use skep_abi::{Insn, decode_xlated};
use skep_jit::{Arch, CpuFeatures, Image, Layout, MapAccess, MapLayout, Options, SiteKind};
use skep_testing::tail_calls::Case;
use skep_verifier::Xlated;

/// Compares with what the file says, or writes it there.
pub(crate) fn compare(wrong: &mut String, file: &Path, text: &str, case: &Case) {
    let listing = match listing(case) {
        Ok(listing) => listing,
        Err(problem) => {
            let _ = writeln!(wrong, "{}: {problem}", file.display());
            return;
        }
    };
    let head = text.split("\n--- ").next().unwrap_or_default().trim_end();
    let fresh = format!("{head}\n{listing}");
    if std::env::var_os("BLESS").is_some() {
        if fresh != text {
            std::fs::write(file, fresh).expect("writable");
        }
    } else if fresh != text {
        let _ = writeln!(wrong, "{}: the code is now\n{listing}(BLESS=1 records it)", file.display());
    }
}

/// Where the tail calls of the first program, and of extensions, are.
fn listing(case: &Case) -> Result<String, String> {
    let engine = Engine::builder().mode(Mode::Jit).live_patching(LivePatching::On).build();
    let engine = engine.map_err(|error| error.to_string())?;
    let loaded = engine.load(Object::from_spec("code", case.object.clone())).map_err(|error| error.to_string())?;
    let program = loaded.programs().next().ok_or("no program")?;
    let mut programs = vec![(program.name().to_owned(), program.xlated().clone(), skep_jit::Role::Replaceable)];
    for extension in &case.extensions {
        let maps: Vec<&str> = case.object.maps.iter().map(|map| map.name.as_str()).collect();
        let version = Object::from_spec("extension", extension.object.clone()).adopt_maps(&maps);
        let version = version.map_err(|error| error.to_string())?;
        let link = loaded.replace_function(&extension.target, &extension.function, version);
        let link = link.map_err(|error| error.to_string())?;
        let program = link.program();
        programs.push((program.name().to_owned(), program.xlated().clone(), skep_jit::Role::Extension));
    }
    let mut text = String::new();
    for (arch, name) in [(Arch::X64, "x64"), (Arch::Arm64, "arm64")] {
        let _ = writeln!(text, "--- {name}");
        for (program, xlated, role) in &programs {
            let image = compile(arch, xlated, *role, case)?;
            sequences(&mut text, arch, program, xlated, &image);
        }
    }
    Ok(text)
}

fn compile(arch: Arch, xlated: &Xlated, role: skep_jit::Role, case: &Case) -> Result<Image, String> {
    let map = |&index: &u32| {
        let spec = &case.object.maps[index as usize];
        let at = 0x7f00_0000_0000 + 0x10_0000 * u64::from(index);
        let access = match spec.map_type {
            3 => MapAccess::ProgArray { targets: at, max_entries: spec.max_entries },
            _ => MapAccess::Array { values: at, stride: 8, max_entries: spec.max_entries },
        };
        MapLayout { object: at + 0x8000, access }
    };
    let layout = Layout {
        tail_calls: 64,
        cpu_id: 0,
        ld_abs: 0x1000_0000,
        helpers: (0..256).map(|id| (id, 0x3000_0000 + 0x100 * u64::from(id))).collect(),
        maps: xlated.used_maps.iter().map(map).collect(),
        role,
        ..Layout::default()
    };
    let options = Options::new(arch).with_features(CpuFeatures::ALL);
    skep_jit::compile(xlated, &layout, &options).map_err(|error| error.to_string())
}

/// Each tail call from its first byte to the next instruction's, and the stub of a poked one.
fn sequences(text: &mut String, arch: Arch, program: &str, xlated: &Xlated, image: &Image) {
    let mut ranges = Vec::new();
    let mut slot = 0;
    while let Ok(insn) = decode_xlated(&xlated.insns, slot) {
        let at = u32::try_from(slot).expect("small");
        if matches!(insn, Insn::TailCall { .. })
            && let Some(line) = image.lines.iter().position(|&(_, of)| of == at)
        {
            let start = image.lines[line].0;
            let subprog_end = image.subprogs.iter().map(|sub| sub.end).find(|&end| end > start);
            let next = image.lines.get(line + 1).map(|next| next.0);
            ranges.push((format!("slot {at}"), start, next.or(subprog_end).unwrap_or(start)));
        }
        slot += insn.slots();
    }
    for site in &image.sites {
        if let SiteKind::PokeGate { index, stub } = site.kind {
            let target =
                image.sites.iter().find(|site| site.kind == SiteKind::PokeTarget { index } && site.offset > stub);
            let end = target.map_or(stub, |target| target.offset + u32::from(target.len));
            ranges.push((format!("stub of poke {index}"), stub, end));
        }
    }
    for (what, start, end) in ranges {
        let _ = writeln!(text, "{program}, {what}:");
        let bytes = image.bytes.get(start as usize..end as usize).unwrap_or_default();
        match arch {
            Arch::X64 => x64(text, bytes, start, image),
            Arch::Arm64 => arm64(text, bytes, start, image),
        }
    }
}

fn x64(text: &mut String, bytes: &[u8], start: u32, image: &Image) {
    let mut decoder = iced_x86::Decoder::with_ip(64, bytes, u64::from(start), iced_x86::DecoderOptions::NONE);
    let mut formatter = iced_x86::IntelFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_show_branch_size(false);
    for insn in &mut decoder {
        let mut line = String::new();
        formatter.format(&insn, &mut line);
        mark(text, u32::try_from(insn.ip()).expect("small"), &line, image);
    }
}

fn arm64(text: &mut String, bytes: &[u8], start: u32, image: &Image) {
    use yaxpeax_arch::{Decoder as _, U8Reader};
    let decoder = yaxpeax_arm::armv8::a64::InstDecoder::default();
    for (at, word) in (start..).step_by(4).zip(bytes.chunks(4)) {
        let line = decoder.decode(&mut U8Reader::new(word)).map_or_else(|_| "?".to_owned(), |insn| insn.to_string());
        mark(text, at, &line, image);
    }
}

fn mark(text: &mut String, at: u32, line: &str, image: &Image) {
    let _ = write!(text, "{at:4x}: {line}");
    if let Some(site) = image.sites.iter().find(|site| site.offset == at) {
        let _ = write!(text, "  ; {:?}", site.kind);
    }
    text.push('\n');
}
