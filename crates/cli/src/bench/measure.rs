//! Rounds, rotation, medians.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

/// Something that runs a number of times and says how long it took.
pub(crate) trait Runner {
    /// `jit`, `interp`, `kernel`, …
    fn engine(&self) -> &'static str;
    /// Time for `runs` runs.
    fn time(&mut self, runs: u32) -> Result<Duration>;
    /// What one run returns, so that engines can be compared before they are measured.
    fn value(&mut self) -> Result<u32>;
}

/// Nanoseconds per run, one value per round.
#[derive(Clone, Default)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The value below which `share` of the samples lie.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below the number of rounds"
        )]
        let index = (share * (sorted.len().saturating_sub(1)) as f64).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The middle sample.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// `self - other`, round by round.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }

    /// Every sample divided by `divisor`.
    pub(crate) fn per(&self, divisor: f64) -> Self {
        Self(self.0.iter().map(|v| v / divisor).collect())
    }

    /// A row as scripts read it.
    pub(crate) fn json(&self, bench: &str, row: &str, engine: &str, unit: &str) -> Value {
        let round = |v: f64| (v * 100.0).round() / 100.0;
        json!({
            "bench": bench, "row": row, "engine": engine, "unit": unit, "median": round(self.median()),
            "p10": round(self.quantile(0.1)), "p90": round(self.quantile(0.9)), "n": self.0.len(),
        })
    }
}

/// Measures all runners, `rounds` times each, in rotated order; the result is parallel to `runners`.
pub(crate) fn rotate(runners: &mut [Box<dyn Runner + '_>], rounds: u32, at_least: Duration) -> Result<Vec<Samples>> {
    let mut counts = Vec::new();
    for runner in runners.iter_mut() {
        counts.push(calibrate(runner.as_mut(), at_least)?);
    }
    let mut samples = vec![Samples::default(); runners.len()];
    for round in 0..usize::try_from(rounds)? {
        for step in 0..runners.len() {
            let index = (round + step) % runners.len();
            let runs = counts[index];
            let time = runners[index].time(runs)?;
            samples[index].0.push(time.as_secs_f64() * 1e9 / f64::from(runs));
        }
    }
    Ok(samples)
}

/// How many runs last at least this long.
fn calibrate(runner: &mut dyn Runner, at_least: Duration) -> Result<u32> {
    let mut runs: u32 = 16;
    loop {
        let time = runner.time(runs)?;
        if time >= at_least || runs >= 1 << 30 {
            return Ok(runs);
        }
        let factor = (at_least.as_secs_f64() / time.as_secs_f64().max(1e-9) * 1.2).clamp(2.0, 64.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 2 and 64")]
        let factor = factor as u32;
        runs = runs.saturating_mul(factor).min(1 << 30);
    }
}

/// What a figure was measured on.
pub(crate) fn machine() -> Value {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(':')))
        .map_or("unknown", |(_, model)| model.trim());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    json!({ "cpu": model, "cpus": cpus, "kernel": release.trim(), "arch": std::env::consts::ARCH })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_samples() {
        let samples = Samples(vec![3.0, 1.0, 2.0]);
        assert_eq!(samples.median().to_bits(), 2.0f64.to_bits());
        assert_eq!(samples.quantile(0.0).to_bits(), 1.0f64.to_bits());
        assert_eq!(samples.quantile(1.0).to_bits(), 3.0f64.to_bits());
        assert!(Samples::default().median().is_nan());
    }
}
