//! Our C skeletons beside bpftool's: for every example, the structs of variables have the same fields, sizes and offsets,
//! and light skeletons have the same layout as a whole.
//!
//! `skeleton_oracle LIBSKEP -- BPFTOOL…` takes the folder of `libskep_capi.so` and the words that start bpftool. Both headers
//! are compiled into a program that prints what the compiler makes of them; nothing is read out of their text. Both light
//! skeletons are also loaded on libskep, and load the same.
#![expect(clippy::print_stdout, reason = "the comparison is the output")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use skep_object::ObjectSpec;
use skep_skel::{COptions, c_light_skeleton, c_skeleton, object_ident};
use skep_testing::examples::examples;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--").collect();
    let Some((libskep, bpftool)) = words.split_first() else { return ExitCode::FAILURE };
    match compare(Path::new(libskep), bpftool) {
        Ok((objects, Alike { numbers, lights })) => {
            println!("skeletons: {objects} objects, {numbers} numbers of sizes and offsets, all alike");
            println!("skeletons: {lights} light skeletons of bpftool's load on libskep what ours do");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("skeletons: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The example objects, and the test object with variables in every section.
fn objects() -> Result<Vec<PathBuf>, String> {
    let folder = examples();
    let mut all: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "o"))
        .collect();
    all.sort();
    all.push(folder.join("../crates/object/tests/c/data.bpf.o"));
    Ok(all)
}

/// What was found to be alike.
#[derive(Default)]
struct Alike {
    /// Sizes and offsets.
    numbers: usize,
    /// Light skeletons that load the same.
    lights: usize,
}

fn compare(libskep: &Path, bpftool: &[String]) -> Result<(usize, Alike), String> {
    let folder = std::env::temp_dir().join(format!("skep-skeletons-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // As an installation has it.
    for name in ["libskep.so", "libskep.so.0"] {
        std::os::unix::fs::symlink(libskep.join("libskep_capi.so"), folder.join(name))
            .map_err(|error| error.to_string())?;
    }
    let mut all = Alike::default();
    let objects = objects()?;
    for path in &objects {
        let alike = one(bpftool, path, &folder);
        let alike = alike.map_err(|problem| format!("{}: {problem}", path.display()))?;
        all.numbers += alike.numbers;
        all.lights += alike.lights;
    }
    // What is left of a folder in the temporary files does no harm.
    let _ = std::fs::remove_dir_all(&folder);
    Ok((objects.len(), all))
}

fn one(bpftool: &[String], path: &Path, folder: &Path) -> Result<Alike, String> {
    let elf = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let object = skep_object::parse(&elf, &file).map_err(|error| error.to_string())?;
    let name = object_ident(&file);
    let shown = path.to_string_lossy();
    let types = run(bpftool, &["btf", "dump", "file", &shown, "format", "c"])?;
    let theirs = run(bpftool, &["gen", "skeleton", &shown])?;
    let ours = c_skeleton(&object, &elf, &name, &COptions::default()).map_err(|error| error.to_string())?;
    let questions = fields(&object, &name);
    let ask = |header: &str, questions: &str| layout(folder, &types, header, questions);
    let (their_answer, our_answer) = (ask(&theirs, &questions)?, ask(&ours, &questions)?);
    if their_answer != our_answer {
        return Err(format!("bpftool's struct:\n{their_answer}ours:\n{our_answer}"));
    }
    let mut alike = Alike { numbers: our_answer.lines().count(), lights: 0 };
    // Sections of an embedder's own are in no light skeleton, and libbpf makes none of an object with filled prog arrays.
    let light = c_light_skeleton(&object, &name, &COptions::default()).map_err(|error| error.to_string());
    let theirs = run(bpftool, &["gen", "skeleton", "-L", &shown]);
    if let (Err(why), _) | (_, Err(why)) = (&light, &theirs) {
        println!("{name}: light skeletons are not compared: {}", why.trim_end().replace('\n', "; "));
    }
    if let (Ok(ours), Ok(theirs)) = (light, theirs) {
        let questions = format!("{questions}{}", whole(&object, &name));
        let (their_answer, our_answer) = (ask(&theirs, &questions)?, ask(&ours, &questions)?);
        if their_answer != our_answer {
            return Err(format!("bpftool's light struct:\n{their_answer}ours:\n{our_answer}"));
        }
        alike.numbers += our_answer.lines().count();
        let load = |header: &str| load(folder, &name, &types, header);
        let (their_answer, our_answer) = (load(&theirs)?, load(&ours)?);
        if their_answer != our_answer || !our_answer.contains("program ") {
            return Err(format!("bpftool's light skeleton loads\n{their_answer}ours\n{our_answer}"));
        }
        alike.lights += 1;
    }
    println!("{name}: {}", alike.numbers);
    Ok(alike)
}

/// What a light skeleton loads on libskep, as `light_example.c` says.
fn load(folder: &Path, name: &str, types: &str, header: &str) -> Result<String, String> {
    let capi = examples().join("../crates/capi");
    let (file, program) = (folder.join("light.h"), folder.join("light"));
    let types = without_kernel_types(types);
    let text = format!("#include <linux/types.h>\n#include <linux/bpf.h>\n{types}\n{header}");
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-Wall", "-Wextra", "-Werror", "-DBPF_NO_PRESERVE_ACCESS_INDEX"]);
    command.arg(format!("-DSKELETON=\"{}\"", file.display())).arg(format!("-DPREFIX={name}"));
    command.arg("-I").arg(capi.join("include")).arg(capi.join("tests/c/light_example.c")).arg("-o").arg(&program);
    command.arg("-L").arg(folder).arg(format!("-Wl,-rpath,{}", folder.display())).arg("-lskep");
    let out = command.output().map_err(|error| format!("{compiler}: {error}"))?;
    if !out.status.success() {
        return Err(format!("{compiler}: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let out = Command::new(&program).output().map_err(|error| error.to_string())?;
    if !out.status.success() {
        return Err(format!("the light skeleton on libskep: {}", String::from_utf8_lossy(&out.stderr)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Prints size and offset of each variable in its section's struct.
fn fields(object: &ObjectSpec, name: &str) -> String {
    let mut out = String::new();
    for variable in object.variables.iter().filter(|v| v.linkage != skep_btf::Linkage::Static) {
        let Some(map) = object.maps.get(variable.map) else { continue };
        // Sections that user space does not see have no struct.
        if map.kind != skep_object::MapKind::PerCpu && map.map_flags & skep_abi::map_flags::BPF_F_MMAPABLE == 0 {
            continue;
        }
        let section = map.name.trim_start_matches('.').replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let field = &variable.name;
        let _ = writeln!(
            out,
            "\tprintf(\"{section}.{field} %zu %zu\\n\", offsetof(struct {name}__{section}, {field}), sizeof(((struct \
             {name}__{section} *)0)->{field}));"
        );
    }
    out
}

/// Prints size and offsets of a light skeleton's own struct.
fn whole(object: &ObjectSpec, name: &str) -> String {
    let mut out = format!("\tprintf(\"sizeof %zu\\n\", sizeof(struct {name}));\n");
    let mut parts = vec!["ctx"];
    if !object.maps.is_empty() {
        parts.push("maps");
    }
    if !object.programs.is_empty() {
        parts.extend(["progs", "links"]);
    }
    for part in parts {
        let _ = writeln!(out, "\tprintf(\"{part} %zu\\n\", offsetof(struct {name}, {part}));");
    }
    let _ = writeln!(
        out,
        "\t{{\n\t\tstruct {name} *s = {name}__open();\n\t\tprintf(\"ctx.sz %u\\n\", s ? s->ctx.sz : 0);\n\t}}"
    );
    out
}

/// What a C compiler makes of a header.
fn layout(folder: &Path, types: &str, header: &str, questions: &str) -> Result<String, String> {
    // Kernel types as the object has them; libbpf's header must not bring its own. What libbpf 1.1 lacks is declared.
    let source = format!(
        "#include <errno.h>\n#include <stdbool.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <string.h>\n\
         #include <linux/types.h>\n#include <bpf/libbpf.h>\n#include <bpf/skel_internal.h>\n\
         static inline int skel_protect_map_data(void *p, __u64 *v, size_t n) {{ (void)p; (void)v; (void)n; return 0; }}\n\
         {}\n{header}\nint main(void)\n{{\n{questions}\treturn 0;\n}}\n",
        without_kernel_types(types)
    );
    let (file, program) = (folder.join("layout.c"), folder.join("layout"));
    std::fs::write(&file, source).map_err(|error| error.to_string())?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    // Functions of libbpf that the header names are not called.
    let mut command = Command::new(&compiler);
    command.args(["-w", "-O1", "-Wl,--unresolved-symbols=ignore-all", "-o"]).arg(&program).arg(&file);
    let out = command.output().map_err(|error| format!("{compiler}: {error}"))?;
    if !out.status.success() {
        return Err(format!("{compiler}: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let out = Command::new(&program).output().map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The object's types, without those that the included headers define (an enum or typedef twice is an error in C).
fn without_kernel_types(types: &str) -> String {
    let known =
        ["__u8", "__u16", "__u32", "__u64", "__s8", "__s16", "__s32", "__s64", "__be16", "__be32", "__wsum", "__sum16"];
    let mut out = String::new();
    let mut skipping = false;
    for line in types.lines() {
        let is_known_typedef = line.starts_with("typedef ") && known.iter().any(|k| line.ends_with(&format!(" {k};")));
        let kernel = ["enum xdp_action", "struct xdp_md", "struct __sk_buff", "enum bpf_", "struct bpf_"];
        if kernel.iter().any(|start| line.starts_with(start)) && line.ends_with('{') {
            skipping = true;
        }
        if !skipping && !is_known_typedef {
            out.push_str(line);
            out.push('\n');
        }
        if skipping && line.starts_with('}') {
            skipping = false;
        }
    }
    out
}

fn run(program: &[String], arguments: &[&str]) -> Result<String, String> {
    let [start, rest @ ..] = program else { return Err("no bpftool".to_owned()) };
    let out = Command::new(start).args(rest).args(arguments).output().map_err(|error| format!("{start}: {error}"))?;
    if !out.status.success() {
        return Err(format!("bpftool {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
