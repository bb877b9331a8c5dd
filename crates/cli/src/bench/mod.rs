//! `skep bench`: measurements, ours beside others' in one process.
//!
//! Every engine of a row is measured once per round, the order rotated from round to round, so that a slow moment of the
//! machine hits all alike. Figures are medians over the rounds with the 10th and 90th percentile beside them.

mod latency_svg;
mod measure;
mod percpu;
mod poke;
mod rows;
mod tailcall;

use anyhow::Result;

use crate::args::{Bench, Output};

pub(crate) fn run(command: &Bench, output: Output) -> Result<()> {
    match command {
        Bench::Run(args) => rows::run(args, output),
        Bench::Poke(args) => poke::run(args, output),
        Bench::Percpu(args) => percpu::run(args, output),
        Bench::Tailcall(args) => tailcall::run(args, output),
    }
}
