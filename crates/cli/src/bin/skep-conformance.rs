//! The plugin for the public `bpf_conformance` runner: one program in, r0 out.
//!
//! `skep-conformance [MEMORY] [--program HEX] [--jit|--interpret] [--elf] [--debug]`: memory and program are hexadecimal
//! bytes, the program comes from standard input unless given. r1 points to the memory, r2 is its size; r0 is printed in
//! hexadecimal. The programs are not verified, since conformance tests do what the verifier refuses; compiled code runs
//! only after the interpreter found no fault in the same run.
#![forbid(unsafe_code)]

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use object::{Object, ObjectSection};
use skep_abi::RawInsn;
use skep_abi::disasm::{NoNames, listing};
use skep_testing::vectors::run_assumed;

/// Runs one eBPF program and prints what it returns.
#[derive(Parser, Debug)]
#[command(
    name = "skep-conformance",
    version,
    about,
    after_help = "Example:\n  \
    echo 'b7 00 00 00 2a 00 00 00 95 00 00 00 00 00 00 00' | skep-conformance --jit"
)]
struct Arguments {
    /// Memory that r1 points to, as hexadecimal bytes; r2 is its size
    memory: Option<String>,
    /// The program as hexadecimal bytes, instead of standard input
    #[arg(long, value_name = "HEX")]
    program: Option<String>,
    /// Compile the program (the default)
    #[arg(long, conflicts_with = "interpret")]
    jit: bool,
    /// Interpret the program
    #[arg(long)]
    interpret: bool,
    /// The program is an ELF object; its first program is run, or its `.text`
    #[arg(long)]
    elf: bool,
    /// Print the program to standard error
    #[arg(long)]
    debug: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(r0) => {
            println!("{r0:x}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("skep-conformance: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(arguments: &Arguments) -> Result<u64> {
    let memory = parse_hex(arguments.memory.as_deref().unwrap_or("")).context("the memory")?;
    let text = match &arguments.program {
        Some(program) => program.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().lock().take(1 << 26).read_to_string(&mut text).context("cannot read standard input")?;
            text
        }
    };
    let bytes = parse_hex(&text).context("the program")?;
    let insns = if arguments.elf { from_elf(&bytes)? } else { RawInsn::program_from_bytes(&bytes)? };
    if insns.is_empty() {
        bail!("the program is empty");
    }
    if arguments.debug {
        eprint!("{}", listing(&insns, &NoNames));
    }
    run_assumed(&insns, &memory, !arguments.interpret).map_err(anyhow::Error::msg)
}

/// The first program of an object with the functions it calls, or the code of one that only has `.text`.
fn from_elf(bytes: &[u8]) -> Result<Vec<RawInsn>> {
    let parsed = skep::Object::from_bytes("program", bytes)?;
    if let Some(program) = parsed.programs().first() {
        return Ok(program.insns.clone());
    }
    let file = object::File::parse(bytes)?;
    let mut code = file.sections().filter(|section| section.kind() == object::SectionKind::Text && section.size() != 0);
    let section = code.next().context("the object holds no program")?;
    Ok(RawInsn::program_from_bytes(section.data()?)?)
}

/// Hexadecimal bytes, with or without blanks between them.
fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let mut digits = Vec::new();
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        match c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()) {
            Some(digit) => digits.push(digit),
            None => bail!("{} is not a hexadecimal digit", c.escape_default()),
        }
    }
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        bail!("an odd number of hexadecimal digits");
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
