//! Rewrites what vectors expect, from the running kernel.

use std::path::Path;

use super::{Engine, Expect, KernelEngine, Outcome, hex, parse};

/// Rewrites the expectations of a file of vectors; the number of cases that changed.
///
/// Cases that the kernel skips keep theirs. A case that only wants to be accepted keeps that, unless it is refused.
///
/// # Errors
/// A file that cannot be read, parsed or written.
pub fn bless(path: &Path, filter: Option<&str>) -> Result<usize, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let kind =
        path.parent().and_then(Path::file_name).map(|kind| kind.to_string_lossy().into_owned()).unwrap_or_default();
    let cases = parse(&stem, &text)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut changed = 0;
    // From the end, so that line numbers before stay valid.
    for (at, case) in cases.iter().enumerate().rev() {
        if filter.is_some_and(|filter| !format!("{kind}/{}", case.name).contains(filter))
            || case.skip_reason("kernel").is_some()
        {
            continue;
        }
        let wanted = match (KernelEngine.run(case), &case.expect) {
            (Outcome::Skipped(_), _) => continue,
            (Outcome::Refused(message), _) => vec![format!("-- refused {message}")],
            (Outcome::Accepted, _) | (Outcome::Ran { .. }, Expect::Accepted) => vec!["-- accepted".to_owned()],
            (Outcome::Ran { r0, out }, expect) => {
                let mut wanted = vec![format!("-- r0 {r0:#x}")];
                if matches!(expect, Expect::Result { out: Some(_), .. }) {
                    wanted.push(format!("-- out hex {}", hex(&out)));
                }
                wanted
            }
        };
        let start = case.line - 1;
        let end = cases.get(at + 1).map_or(lines.len(), |next| next.line - 2);
        let is_expectation = |line: &String| {
            ["-- r0 ", "-- out ", "-- accepted", "-- refused"].iter().any(|word| line.starts_with(word))
        };
        let body: Vec<String> = lines[start..end].iter().filter(|line| !is_expectation(line)).cloned().collect();
        let blank = body.iter().rev().take_while(|line| line.trim().is_empty()).count();
        let (body, tail) = body.split_at(body.len() - blank);
        let new: Vec<String> = body.iter().chain(&wanted).chain(tail).cloned().collect();
        if new != lines[start..end] {
            changed += 1;
            lines.splice(start..end, new);
        }
    }
    if changed > 0 {
        std::fs::write(path, lines.join("\n") + "\n")?;
    }
    Ok(changed)
}
