//! What `skep run` prints.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use skep::{Loaded, Program};
use skep_abi::ProgType;

use super::work::Outcome;
use crate::args::Output;
use crate::maps;
use crate::output::{Align, Table};

/// Everything that a report shows.
pub(crate) struct Report<'a> {
    pub(crate) program: &'a Program,
    pub(crate) loaded: &'a Loaded,
    pub(crate) mode: skep::Mode,
    pub(crate) threads: u32,
    pub(crate) outcome: &'a Outcome,
    pub(crate) elapsed: Duration,
    pub(crate) with_stats: bool,
    pub(crate) with_maps: bool,
}

impl Report<'_> {
    fn ns_per_packet(&self) -> f64 {
        if self.outcome.runs == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let runs = self.outcome.runs as f64;
        self.outcome.time.as_secs_f64() * 1e9 / runs
    }

    fn mode_name(&self) -> &'static str {
        match self.mode {
            skep::Mode::Jit => "jit",
            skep::Mode::Interp => "interp",
        }
    }

    /// The shape that scripts rely on.
    pub(crate) fn json(&self) -> Result<Value> {
        let prog_type = self.program.prog_type();
        let actions: Vec<Value> = self
            .outcome
            .actions
            .iter()
            .map(|(value, count)| {
                json!({
                    "name": action(prog_type, *value), "value": value, "packets": count.packets, "bytes": count.bytes,
                })
            })
            .collect();
        let packets: u64 = self.outcome.actions.values().map(|count| count.packets).sum();
        let mut out = json!({
            "program": self.program.name(),
            "mode": self.mode_name(),
            "threads": self.threads,
            "packets": packets,
            "actions": actions,
            "ns_per_packet": (self.ns_per_packet() * 10.0).round() / 10.0,
        });
        if self.with_stats {
            let stats = self.program.stats();
            out["stats"] = json!({ "run_cnt": stats.run_cnt, "run_time_ns": stats.run_time_ns });
        }
        if self.with_maps {
            let list: Result<Vec<Value>> = self.loaded.maps().map(maps::json).collect();
            out["maps"] = Value::Array(list?);
        }
        Ok(out)
    }

    /// A table of actions, then statistics and maps where they were asked for.
    pub(crate) fn text(&self, output: Output) -> Result<String> {
        let prog_type = self.program.prog_type();
        let mut out = String::new();
        let packets: u64 = self.outcome.actions.values().map(|count| count.packets).sum();
        let bytes: u64 = self.outcome.actions.values().map(|count| count.bytes).sum();
        let plural = |n: u64, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{} ({prog_type}, {}, {}): {} in {:.1} ms",
            self.program.name(),
            self.mode_name(),
            plural(u64::from(self.threads), "thread"),
            plural(self.outcome.runs, "run"),
            self.elapsed.as_secs_f64() * 1e3
        );
        let mut table = Table::new(&[
            ("action", Align::Left),
            ("value", Align::Right),
            ("packets", Align::Right),
            ("bytes", Align::Right),
            ("ns/packet", Align::Right),
        ]);
        for (value, count) in &self.outcome.actions {
            table.row(vec![
                action(prog_type, *value),
                value.to_string(),
                count.packets.to_string(),
                count.bytes.to_string(),
                String::new(),
            ]);
        }
        let per_packet = format!("{:.1}", self.ns_per_packet());
        table.row(vec!["all".into(), String::new(), packets.to_string(), bytes.to_string(), per_packet]);
        out.push_str(&table.render());
        if self.with_stats {
            let stats = self.program.stats();
            let _ = writeln!(out, "run_time_ns {} run_cnt {}", stats.run_time_ns, stats.run_cnt);
        }
        if self.with_maps {
            for map in self.loaded.maps() {
                out.push('\n');
                out.push_str(&maps::text(map, output)?);
            }
        }
        Ok(out)
    }
}

/// What a return value means to the program's type.
fn action(prog_type: ProgType, value: u32) -> String {
    let names: &[&str] = match prog_type {
        ProgType::Xdp => &["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"],
        ProgType::SchedCls | ProgType::SchedAct => &[
            "TC_ACT_OK",
            "TC_ACT_RECLASSIFY",
            "TC_ACT_SHOT",
            "TC_ACT_PIPE",
            "TC_ACT_STOLEN",
            "TC_ACT_QUEUED",
            "TC_ACT_REPEAT",
            "TC_ACT_REDIRECT",
            "TC_ACT_TRAP",
        ],
        ProgType::CgroupSkb => &["DROP", "PASS"],
        ProgType::SocketFilter => {
            return match value {
                0 => "drop".to_owned(),
                0xffff_ffff => "keep all".to_owned(),
                n => format!("keep {n} bytes"),
            };
        }
        _ => &[],
    };
    let known = usize::try_from(value).ok().and_then(|index| names.get(index));
    match (known, prog_type) {
        (Some(name), _) => (*name).to_owned(),
        (None, ProgType::SchedCls | ProgType::SchedAct) if value == u32::MAX => "TC_ACT_UNSPEC".to_owned(),
        (None, _) if names.is_empty() => "return".to_owned(),
        (None, _) => "(unknown)".to_owned(),
    }
}
