//! Questions about per-CPU data, asked of the kernel that this runs on or of this engine.
//!
//! `percpu_oracle ours` prints this engine's answers. `percpu_oracle questions FOLDER` lays out what a kernel is asked.
//! `percpu_oracle kernel FOLDER` prints the running kernel's answers; as the first process of a machine (an initramfs) it
//! mounts what it needs and turns the machine off afterwards.
#![expect(clippy::print_stdout, reason = "the answers are the output")]

use std::path::Path;
use std::process::ExitCode;

use skep_testing::init;
use skep_testing::map_vectors::Side;
use skep_testing::percpu_oracle::{answers, questions};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    init::enter();
    let result = match words.as_slice() {
        ["questions", folder] => lay_out(Path::new(folder)),
        ["ours"] => ours(),
        ["kernel", folder] => answers(Side::Kernel, Path::new(folder)),
        _ => Err("percpu_oracle ours | questions FOLDER | kernel FOLDER".to_owned()),
    };
    let code = match result {
        Ok(lines) => {
            for line in &lines {
                println!("skep| {line}");
            }
            println!("skep: {} answers", lines.len());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("skep: {problem}");
            ExitCode::FAILURE
        }
    };
    init::leave();
    code
}

fn lay_out(folder: &Path) -> Result<Vec<String>, String> {
    for (from, to) in questions() {
        let to = folder.join(to);
        let parent = to.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        std::fs::copy(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    Ok(Vec::new())
}

fn ours() -> Result<Vec<String>, String> {
    let folder = std::env::temp_dir().join(format!("skep-questions-{}", std::process::id()));
    let result = lay_out(&folder).and_then(|_| answers(Side::Ours, &folder));
    // What is left of a folder in the temporary files does no harm.
    let _ = std::fs::remove_dir_all(&folder);
    result
}
