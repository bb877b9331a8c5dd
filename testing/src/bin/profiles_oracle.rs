//! Questions about verdicts, asked of the kernel that this runs on or of one of our profiles (`skep_testing::profiles_oracle`).
//!
//! `profiles_oracle questions FOLDER SELFTEST.o…` lays out what is asked. `profiles_oracle kernel PROFILE FOLDER [PROGRAM]` prints the
//! answers of the running kernel, which is of that release, as the first process of a machine too; `profiles_oracle compare PROFILE TYPES ANSWERS FOLDER`
//! compares them with ours, and `profiles_oracle show PROFILE TYPES FOLDER PROGRAM` prints our log of one program.
#![expect(clippy::print_stdout, reason = "the answers are the output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use skep_testing::init;
use skep_testing::profiles_oracle::{Questions, Side, check_cpus, compare, lay_out, running_types, types};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    init::enter();
    let result = match words.as_slice() {
        ["questions", folder, objects @ ..] => {
            lay_out(Path::new(folder), &objects.iter().map(PathBuf::from).collect::<Vec<_>>()).map(|()| true)
        }
        ["kernel", profile, folder] => kernel(profile, Path::new(folder), None).map(|()| true),
        ["kernel", profile, folder, program] => kernel(profile, Path::new(folder), Some(program)).map(|()| true),
        ["compare", profile, btf, answers, folder] => {
            compared(profile, Path::new(btf), Path::new(answers), Path::new(folder))
        }
        ["show", profile, btf, folder, program] => {
            show(profile, Path::new(btf), Path::new(folder), program).map(|()| true)
        }
        _ => Err("profiles_oracle questions | kernel | compare | show".to_owned()),
    };
    let code = match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            println!("skep: {problem}");
            ExitCode::FAILURE
        }
    };
    init::leave();
    code
}

fn kernel(profile: &str, folder: &Path, only: Option<&str>) -> Result<(), String> {
    check_cpus()?;
    let target = running_types()?;
    let mut count = 0;
    Questions { folder, target: &target, only, profile }.ask(&Side::kernel()?, &mut |place, answer, log| {
        count += 1;
        println!("skep| {place} => {answer}");
        if only.is_some() {
            log.lines().for_each(|line| println!("log| {line}"));
        }
    })?;
    println!("skep: {count} answers");
    Ok(())
}

fn show(profile: &str, btf: &Path, folder: &Path, only: &str) -> Result<(), String> {
    let side = Side::ours(profile).ok_or_else(|| format!("no profile {profile}"))?;
    Questions { folder, target: &types(btf)?, only: Some(only), profile }.ask(&side, &mut |place, answer, log| {
        println!("{place} => {answer}\n{log}");
    })
}

fn compared(profile: &str, btf: &Path, answers: &Path, folder: &Path) -> Result<bool, String> {
    let side = Side::ours(profile).ok_or_else(|| format!("no profile {profile}"))?;
    let theirs = std::fs::read_to_string(answers).map_err(|error| format!("{}: {error}", answers.display()))?;
    let target = types(btf)?;
    let report = compare(profile, &theirs, &Questions { folder, target: &target, only: None, profile }, &side)?;
    print!("{report}");
    Ok(report.is_fine())
}
