//! The `skep` command.
//!
//! Owns the command line: its grammar, what it prints and its exit statuses. Everything else is in crate `skep`.
//! Invariant: results go to standard output, everything else to standard error.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod btf;
mod btf_json;
mod capture;
mod disasm;
mod exit;
mod explain;
mod feature;
mod gen_command;
mod input;
mod map;
mod map_elem;
mod maps;
mod output;
mod prog;
mod run;
mod value;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use exit::Exit;

fn main() -> ExitCode {
    // clap prints its own message and exits with 2 on a bad command line, 0 for help.
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            let exit = exit::of(&error);
            if exit != Exit::Rejected {
                eprintln!("skep: {}", input::escaped(&format!("{error:#}")));
            }
            exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    let output = cli.output;
    match cli.command {
        Command::Run(args) => run::run(&args, output),
        Command::Verify(args) => verify::run(&args, output),
        Command::Btf(command) => btf::run(&command, output),
        Command::Bench(command) => bench::run(&command, output),
        Command::Prog(command) => prog::run(&command, output),
        Command::Map(command) => map::run(&command, output),
        Command::Gen(command) => gen_command::run(&command),
        Command::Feature => feature::run(output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "skep", &mut script);
            output::print(&String::from_utf8_lossy(&script))
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            output::print(&String::from_utf8_lossy(&page))
        }
    }
}
