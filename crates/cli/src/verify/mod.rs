//! `skep verify`: verdicts without running.
//!
//! One object prints a verdict per program; several print veristat's table. Rows come in the order of the command line,
//! programs in the object's, unless an order is asked for.

mod compare;
mod filter;
mod kernel;
mod row;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use skep::Object;
use skep_verifier::{Options, Profile};

use crate::args::{Output, VerifyArgs, VerifyOutput};
use crate::exit::{Rejected, usage};
use crate::output;
use filter::{Filters, Order};
use kernel::Oracle;
use row::{Row, Verdict};

/// A command line, understood.
struct Job<'a> {
    args: &'a VerifyArgs,
    output: Output,
    filters: Filters,
    options: Options,
    /// Rows are printed together, not one by one with their logs.
    table: bool,
}

pub(crate) fn run(args: &VerifyArgs, output: Output) -> Result<()> {
    let filters = Filters::parse(&args.filters)?;
    let order = Order::parse(args.sort.as_deref().unwrap_or_default())?;
    if args.compare {
        return compare::run(args, &filters, output);
    }
    let form = if output.is_json() { VerifyOutput::Json } else { args.output };
    let table = args.objects.len() > 1 || form != VerifyOutput::Table;
    let options = Options {
        // Without a level asked for, the log is written for what is rejected alone: it takes most of the time.
        log_level: args.log_level.unwrap_or(0) | if args.stats { Options::LOG_STATS } else { 0 },
        profile: profile(args)?,
        unprivileged: args.unpriv,
        ..Options::default()
    };
    let job = Job { args, output, filters, options, table };
    let mut rows = Vec::new();
    for path in &args.objects {
        match job.verify_object(path, &mut rows) {
            Ok(()) => {}
            Err(error) if error.is::<crate::exit::UsageError>() => return Err(error),
            Err(error) => {
                eprintln!("skep: {}", crate::input::escaped(&format!("{error:#}")));
                rows.push(Row::unreadable(path, format!("{error:#}")));
            }
        }
    }
    // What is left out of the result still counts for the exit status.
    let unreadable = rows.iter().any(|row| matches!(row.verdict, Verdict::Unreadable { .. }));
    let rejected = rows.iter().any(|row| matches!(row.verdict, Verdict::Failure { .. }));
    rows.retain(|row| job.filters.shows(row) || matches!(row.verdict, Verdict::Unreadable { .. }));
    order.sort(&mut rows);
    match form {
        VerifyOutput::Json => output.print_json(&rows.iter().map(Row::json).collect())?,
        VerifyOutput::Csv => output::print(&row::csv(&rows, args.kernel))?,
        VerifyOutput::Table if table => output::print(&row::table(&rows, args.kernel))?,
        VerifyOutput::Table => output::print(&rows.iter().map(|row| row.text.as_str()).collect::<String>())?,
    }
    if unreadable {
        return Err(anyhow!("not every file could be read"));
    }
    if rejected {
        return Err(Rejected.into());
    }
    Ok(())
}

fn profile(args: &VerifyArgs) -> Result<Profile> {
    let Some(name) = &args.profile else { return Ok(Profile::default()) };
    match Profile::named(name) {
        Some(profile) => Ok(profile),
        None => usage(format!("no profile {name:?}; there are {}", Profile::NAMES.join(", "))),
    }
}

impl Job<'_> {
    fn verify_object(&self, path: &Path, rows: &mut Vec<Row>) -> Result<()> {
        let args = self.args;
        let object = Object::open(path)?;
        let shapes = object.shapes().with_context(|| path.display().to_string())?;
        if object.programs().is_empty() {
            return Err(anyhow!("{}: has no programs", path.display()));
        }
        if let Some(wanted) = &args.prog
            && object.programs().iter().all(|program| program.name != *wanted)
        {
            let names: Vec<&str> = object.programs().iter().map(|p| p.name.as_str()).collect();
            return usage(format!("{}: no program {wanted:?}; there are {}", path.display(), names.join(", ")));
        }
        let file = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let oracle = args.kernel.then(|| Oracle::new(object.spec()));
        for (index, program) in object.programs().iter().enumerate() {
            let wanted = args.prog.as_ref().is_none_or(|wanted| *wanted == program.name);
            if !wanted || !self.filters.wants(&file, &program.name) {
                continue;
            }
            let report = object.verify(index, &shapes, &self.options).with_context(|| path.display().to_string())?;
            let mut row = Row::new(path, &report, program.insns.len());
            row.kernel = oracle.as_ref().map(|oracle| oracle.ask(index));
            if let Some(count) = args.top_lines {
                row.hot = object.hot_lines(index, &report, count);
            }
            if !self.table {
                row.text = row.describe(&report, args, self.output);
            }
            rows.push(row);
        }
        Ok(())
    }
}
