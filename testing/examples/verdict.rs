//! Asks our verifier and the running kernel about vectors and objects, and shows where they differ.
//!
//! `verdict [-l LEVEL] [-v] FILE…` with `.txt` vectors and `.bpf.o` objects; `-v` prints both logs.

use std::borrow::Cow;
use std::time::Instant;

use skep_abi::MapType;
use skep_object::{MapSpec, ObjectSpec};
use skep_testing::kernel_object::{KernelError, KernelObject};
use skep_testing::verifier_case::{self, last_line};
use skep_verifier::{KfuncRef, Log, MapShape, Options, ProgFlags, ProgramSpec, value_record};

fn shape<'a>(spec: &'a ObjectSpec, map: &'a MapSpec) -> MapShape<'a> {
    let map_type = MapType::from_u32(map.map_type).unwrap_or(MapType::Array);
    let mut shape = MapShape::new(map_type, map.key_size, map.value_size, map.max_entries);
    shape.name = Cow::Borrowed(&map.kernel_name);
    shape.flags = map.map_flags;
    if map.kind.is_read_only() {
        shape.flags |= 1 << 7;
        shape.frozen = true;
        shape.contents = map.initial_value();
    }
    shape.btf_value_type_id = map.value_type.map_or(0, |t| t.0);
    if let (Some(btf), Some(value)) = (&spec.btf, map.value_type) {
        shape.record = Cow::Owned(value_record(btf, value).unwrap_or_default());
    }
    shape.inner = map.inner.as_ref().map(|inner| {
        let mut inner = shape_inner(inner);
        inner.name = Cow::Borrowed("");
        Box::new(inner)
    });
    shape
}

fn shape_inner(map: &MapSpec) -> MapShape<'_> {
    let map_type = MapType::from_u32(map.map_type).unwrap_or(MapType::Array);
    let mut shape = MapShape::new(map_type, map.key_size, map.value_size, map.max_entries);
    shape.flags = map.map_flags;
    shape
}

fn object(path: &str, level: u32, verbose: bool) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let mut spec = skep_object::parse(&bytes, path).map_err(|e| e.to_string())?;
    for map in &mut spec.maps {
        if map.max_entries == 0 && map.map_type == MapType::PerfEventArray as u32 {
            map.max_entries = 2;
        }
        if map.map_type == MapType::Ringbuf as u32 {
            map.max_entries = map.max_entries.max(4096).next_power_of_two();
        }
    }
    let spec = spec;
    let kernel = KernelObject::create(&spec).map_err(|e| e.to_string());
    let maps: Vec<MapShape<'_>> = spec.maps.iter().map(|m| shape(&spec, m)).collect();
    for (i, program) in spec.programs.iter().enumerate() {
        let Some(sec) = &program.sec else { continue };
        let kfuncs: Vec<KfuncRef<'_>> =
            program.kfuncs.iter().map(|k| KfuncRef { name: Cow::Borrowed(&k.name) }).collect();
        let input = ProgramSpec {
            name: &program.name,
            prog_type: sec.prog_type,
            attach_type: sec.attach_type,
            flags: ProgFlags(sec.prog_flags),
            insns: &program.insns,
            maps: &maps,
            kfuncs: &kfuncs,
            btf: spec.btf.as_deref(),
            func_info: &program.func_info,
            line_info: &program.line_info,
            gpl_compatible: true,
            target: None,
            ctx: None,
            helpers: None,
        };
        let mut options = Options { log_level: level, ..Options::default() };
        options.profile.nr_cpus = u32::try_from(skep_testing::kernel::possible_cpus()).unwrap_or(1);
        let mut log = Log::new();
        let started = Instant::now();
        let ours = skep_verifier::verify(&input, &options, &mut log);
        let our_time = started.elapsed();
        let (our_text, processed) = match &ours {
            Ok(v) => ("accept".to_owned(), v.stats().processed),
            Err(e) => (format!("reject {}: {}", e.errno, e.message), e.stats.processed),
        };
        let started = Instant::now();
        let theirs = kernel.as_ref().map(|k| k.load(i, level));
        let kernel_time = started.elapsed();
        let (kernel_text, kernel_log) = match theirs {
            Ok(Ok(loaded)) => ("accept".to_owned(), loaded.log),
            Ok(Err(KernelError::Rejected { errno, log, .. })) => (format!("reject {errno}: {}", last_line(&log)), log),
            Ok(Err(e)) => (format!("? {e}"), String::new()),
            Err(e) => (format!("? {e}"), String::new()),
        };
        let same = our_text == kernel_text;
        let verdict_same = our_text.starts_with("accept") == kernel_text.starts_with("accept");
        let mark = if same {
            "ok  "
        } else if verdict_same {
            "msg "
        } else {
            "DIFF"
        };
        println!(
            "{mark} {path}:{} insns {} processed {processed} ours {our_time:?} kernel {kernel_time:?}",
            program.name,
            program.insns.len()
        );
        if !same {
            println!("     ours:   {our_text}\n     kernel: {kernel_text}");
        }
        if verbose {
            println!("--- ours\n{}--- kernel\n{kernel_log}", log.text());
        }
    }
    Ok(())
}

fn vector(path: &str, level: u32, verbose: bool) -> Result<(), String> {
    let source = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let case = verifier_case::parse(&source)?;
    let (ours, our_log) = case.ours(level);
    let (kernel, kernel_log) = case.kernel(level)?;
    let same = ours == kernel;
    println!("{} {path}", if same { "ok  " } else { "DIFF" });
    if !same {
        println!("     ours:   {ours}\n     kernel: {kernel}");
    }
    if verbose {
        println!("--- ours\n{our_log}--- kernel\n{kernel_log}");
    }
    Ok(())
}

fn main() {
    let (mut level, mut verbose) = (1, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-l" => level = args.next().and_then(|l| l.parse().ok()).unwrap_or(1),
            "-v" => verbose = true,
            path => {
                let done =
                    if path.ends_with(".txt") { vector(path, level, verbose) } else { object(path, level, verbose) };
                if let Err(e) = done {
                    println!("?    {path}: {e}");
                }
            }
        }
    }
}
