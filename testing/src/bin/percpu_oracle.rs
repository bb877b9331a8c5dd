//! Questions about per-CPU data, asked of the kernel that this runs on or of this engine.
//!
//! `percpu_oracle ours` prints this engine's answers. `percpu_oracle questions FOLDER` lays out what a kernel is asked.
//! `percpu_oracle kernel FOLDER` prints the running kernel's answers; as the first process of a machine (an initramfs) it
//! mounts what it needs and turns the machine off afterwards.
#![expect(clippy::print_stdout, reason = "the answers are the output")]

use std::path::Path;
use std::process::ExitCode;

use skep_testing::map_vectors::Side;
use skep_testing::percpu_oracle::{answers, questions};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let is_init = std::process::id() == 1;
    if is_init {
        mount("sysfs", c"/sys", c"sysfs");
    }
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
    if is_init {
        power_off();
    }
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

fn mount(source: &str, target: &std::ffi::CStr, kind: &std::ffi::CStr) {
    // SAFETY: the strings end with a NUL, and there are no options.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        println!("skep: cannot mount {source}: {}", std::io::Error::last_os_error());
    }
}

fn power_off() {
    // The console takes its time; the kernel's last words would come in the middle of a line.
    // SAFETY: waits for the terminal that descriptor 1 is, and fails for anything else.
    unsafe { libc::tcdrain(1) };
    // SAFETY: this is the first process of a machine of its own; nothing else runs there.
    unsafe { libc::sync() };
    // SAFETY: as above.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}
