//! `docs/parity/helpers.md` says what the tables say; `BLESS=1` rewrites it.

use std::fmt::Write as _;

use skep_abi::helper::{Allowed, Caps, helper, helper_allowed};
use skep_abi::{AttachType, ProgType};
use skep_runtime::kfunc::{kfunc, table};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/parity/helpers.md");
const LAST: u32 = 211;

/// The program types that may call a helper, whatever their attach type.
fn types(id: u32) -> Vec<&'static str> {
    let may = |prog: &&ProgType| {
        let allowed = |attach: &AttachType| helper_allowed(**prog, *attach, id, Caps::ALL) == Allowed::Yes;
        AttachType::ALL.iter().any(allowed)
    };
    ProgType::ALL.iter().filter(may).map(|prog| prog.name()).collect()
}

fn row(id: u32, runs: bool) -> String {
    let proto = helper(id).expect("every id has a prototype");
    let types = types(id);
    let types = if types.len() + 4 >= ProgType::ALL.len() { "all".to_owned() } else { types.join(" ") };
    format!("| {id} | `{}` | {} | {types} |", proto.name, if runs { "yes" } else { "" })
}

fn runs(id: u32) -> bool {
    // The tail call has no function: the interpreter and the code generator do it.
    id == 12 || skep_runtime::helper::helper(id).is_some()
}

fn render() -> String {
    let mut text = format!(
        "# Helpers and kernel functions against Linux 6.18\n\n\
         Prototypes and the lists of program types are compared with the running kernel's own tables\n\
         (`testing/tests/helper_oracle.rs`); results with its results (`testing/vectors/helpers`,\n\
         `crates/runtime/tests`). All {LAST} helpers have their prototype; \"runs\" says which the runtime has.\n\
         This file is rewritten by `BLESS=1 cargo test -p skep-testing --test parity`.\n\n\
         | id | helper | runs | program types |\n|---|---|---|---|\n"
    );
    for id in 1..=LAST {
        writeln!(text, "{}", row(id, runs(id))).expect("string");
    }
    text += "\n## Kernel functions that run\n\n";
    for known in skep_abi::kfunc::KFUNCS.iter().filter(|known| skep_verifier::has_kfunc(known.name)) {
        writeln!(text, "* `{}`", known.name).expect("string");
    }
    text += "\n## Kernel functions whose calls are verified, and that do not run\n\n\
             A program that calls one gets the kernel's verdict; loading it is refused with one sentence.\n\n";
    for known in skep_abi::kfunc::KFUNCS.iter().filter(|known| !skep_verifier::has_kfunc(known.name)) {
        writeln!(text, "- `{}`", known.name).expect("string");
    }
    text
}

#[test]
fn the_helper_list_claims_nothing_that_is_not_there() {
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(DOCUMENT, render()).expect("the document can be written");
    }
    let committed = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    for id in 1..=LAST {
        // A helper that came since may still be unmarked.
        let current = committed.contains(&row(id, runs(id))) || committed.contains(&row(id, false));
        assert!(current, "helper {id}: {} is not in docs/parity/helpers.md: BLESS=1 rewrites it", row(id, runs(id)));
    }
    for line in committed.lines().filter_map(|line| line.strip_prefix("* `")) {
        let name = line.trim_end_matches('`');
        assert!(skep_verifier::has_kfunc(name), "{name} does not run");
    }
}

/// What the verifier lets through as runnable is there; throwing is written out by the rewrite and has no function.
#[test]
fn the_verifier_knows_which_kernel_functions_run() {
    for known in skep_abi::kfunc::KFUNCS {
        let runs = kfunc(known.name).is_some() || known.name == "bpf_throw";
        assert_eq!(skep_verifier::has_kfunc(known.name), runs, "{}", known.name);
    }
    for kfunc in table() {
        assert!(skep_abi::kfunc::kfunc(kfunc.name).is_some(), "{} has no prototype", kfunc.name);
    }
}
