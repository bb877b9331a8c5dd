//! `skep feature`: what this machine allows, and what the engine makes of it.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use skep::Engine;

use crate::args::Output;
use crate::output;

pub(crate) fn run(output: Output) -> Result<()> {
    let engine = Engine::new()?;
    let features = engine.features();
    if output.is_json() {
        let list: Value =
            features.iter().map(|f| json!({ "name": f.name, "value": f.value, "note": f.note })).collect();
        return output.print_json(&list);
    }
    let width = features.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for feature in features {
        // Writing to a string cannot fail.
        let _ = write!(out, "{:width$}  {}", feature.name, feature.value);
        if !feature.note.is_empty() {
            let _ = write!(out, " ({})", feature.note);
        }
        out.push('\n');
    }
    output::print(&out)
}
