//! `skep-conformance` answers for every instruction class in both modes.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use skep_abi::RawInsn;
use skep_abi::asm::assemble;
use skep_testing::vectors::{self, Case, Expect, hex};

fn conformance(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_skep-conformance"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // A program that refuses its arguments may be gone before it reads.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("ends")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_example_of_the_protocol() {
    for mode in ["--jit", "--interpret"] {
        let output = conformance(&[mode], "b7 00 00 00 2a 00 00 00 95 00 00 00 00 00 00 00");
        assert_eq!(stdout(&output), "2a");
        assert!(output.status.success());
    }
    let output = conformance(&["0102", "--program", "79100000000000009500000000000000"], "");
    assert!(!output.status.success(), "eight bytes are more than the memory");
    let output = conformance(&["0102030405060708", "--program", "79100000000000009500000000000000"], "");
    assert_eq!(stdout(&output), "807060504030201");
}

#[test]
fn some_vectors_of_every_family() {
    let mut ran = 0;
    let mut last = String::new();
    let mut in_file = 0;
    for case in vectors::load("isa").expect("vectors") {
        let (file, _) = case.name.split_once('/').expect("file/name");
        if file != last {
            file.clone_into(&mut last);
            in_file = 0;
        }
        in_file += 1;
        if in_file % 9 != 1 || case.prog_type.is_some() {
            continue;
        }
        ran += usize::from(check(&case));
    }
    assert!(ran > 120, "{ran}");
}

/// Runs a case in both modes; false for one that no unverified run can do.
fn check(case: &Case) -> bool {
    let Ok(insns) = assemble(&case.text) else { return false };
    let program = hex(&RawInsn::program_to_bytes(&insns));
    let memory = hex(&case.input.bytes);
    for mode in ["--jit", "--interpret"] {
        let output = conformance(&[mode, &memory], &program);
        match &case.expect {
            Expect::Result { r0, .. } => {
                let error = String::from_utf8_lossy(&output.stderr);
                assert_eq!(stdout(&output), format!("{r0:x}"), "{} {mode}: {error}", case.name);
            }
            // What the verifier alone refuses runs here.
            Expect::Refused(message) if message.starts_with("unknown opcode") => {
                assert!(!output.status.success(), "{} {mode}", case.name);
                assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{}", case.name);
            }
            _ => return false,
        }
    }
    true
}

#[test]
fn objects_run_their_first_program() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/xdp_firewall.bpf.o");
    let object = std::fs::read(file).expect("an example");
    let output = conformance(&["--elf", "--interpret"], &hex(&object));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("map"), "it refers to maps: {error}");
    let output = conformance(&["--elf", "--jit"], &hex(TEXT_ONLY));
    assert_eq!(stdout(&output), "2a", "{}", String::from_utf8_lossy(&output.stderr));
}

/// `int f(void) { return 42; }` without a section name, as `clang -target bpf -O2 -c` makes it.
const TEXT_ONLY: &[u8] = include_bytes!("data/text_only.o");

#[test]
fn bad_input_is_refused_with_a_message() {
    for (arguments, input, message) in [
        (&[][..], "", "empty"),
        (&[], "b7", "not a sequence of 8-byte instructions"),
        (&[], "b7 0", "odd number"),
        (&[], "zz", "not a hexadecimal digit"),
        (&["xy"], "9500000000000000", "the memory"),
        (&[], "b700000000000000", "last insn is not an exit or jmp"),
        (&[], "05000500000000009500000000000000", "jump out of range"),
        (&["--elf"], "7f454c46", "program"),
        (&[], "79a0000000000000950000000000000", "odd number"),
        (&["--jit"], "79a0f8fd000000009500000000000000", "outside of the run's memory"),
    ] {
        let output = conformance(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} {input}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(message), "{arguments:?} {input}: {error}");
    }
}
