//! Explanations of refused programs: on standard error beside other commands, and as JSON.

use serde_json::{Value, json};
use skep::{Explanation, LoadError, Place};

use crate::args::Output;

/// Prints on standard error what is known of a load that failed: the verifier's log, and what it means.
pub(crate) fn eprint(error: &LoadError, output: Output) {
    eprint!("{}", error.log());
    if let Some(explanation) = error.explanation() {
        eprint!("\n{}\n", explanation.render(output.colored_stderr()));
    }
}

/// The explanation with its spans.
pub(crate) fn json(explanation: &Explanation) -> Value {
    let around: Value = explanation.around.iter().map(|(line, text)| json!({ "line": line, "text": text })).collect();
    let path: Value = explanation
        .path
        .iter()
        .map(|cause| {
            let mut value = place(&cause.place);
            value["role"] = json!(cause.role.name());
            value["what"] = json!(cause.what);
            value["times"] = json!(cause.times);
            value
        })
        .collect();
    json!({
        "category": explanation.category.name(), "title": explanation.title, "reason": explanation.reason,
        "at": explanation.at.as_ref().map(place), "around": around, "path": path, "path_cut": explanation.path_cut,
        "suggestion": explanation.suggestion,
    })
}

fn place(place: &Place) -> Value {
    let source = place.source.as_ref();
    json!({
        "insn": place.insn.0, "instruction": place.instruction, "function": place.function,
        "file": source.map(|s| &s.file), "line": source.map(|s| s.line), "column": source.map(|s| s.column),
        "text": source.map(|s| &s.text),
    })
}
