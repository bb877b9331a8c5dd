//! What ran where, for the line at the end.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Counts runs and skips by kind of vector and engine.
#[derive(Debug, Default)]
pub struct Summary {
    counts: Mutex<BTreeMap<String, Vec<Engine>>>,
}

#[derive(Clone, Debug, Default)]
struct Engine {
    name: String,
    ran: u32,
    skipped: BTreeMap<String, u32>,
}

impl Summary {
    /// Counts a run.
    pub fn ran(&self, kind: &str, engine: &str) {
        self.with(kind, engine, |entry| entry.ran += 1);
    }

    /// Counts a skip with its reason.
    pub fn skipped(&self, kind: &str, engine: &str, reason: &str) {
        self.with(kind, engine, |entry| *entry.skipped.entry(reason.to_owned()).or_default() += 1);
    }

    fn with(&self, kind: &str, engine: &str, change: impl FnOnce(&mut Engine)) {
        let Ok(mut counts) = self.counts.lock() else { return };
        let engines = counts.entry(kind.to_owned()).or_default();
        let at = engines.iter().position(|entry| entry.name == engine).unwrap_or_else(|| {
            engines.push(Engine { name: engine.to_owned(), ..Engine::default() });
            engines.len() - 1
        });
        if let Some(entry) = engines.get_mut(at) {
            change(entry);
        }
    }

    /// `vectors: isa 412 interp, 412 jit, 398 kernel (14 skipped: 14 not loadable)`, one line per kind.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Ok(counts) = self.counts.lock() else { return Vec::new() };
        let line = |(kind, engines): (&String, &Vec<Engine>)| {
            let mut engines = engines.clone();
            engines.sort_by(|a, b| a.name.cmp(&b.name));
            let parts: Vec<String> = engines
                .iter()
                .map(|engine| {
                    let reasons: Vec<String> =
                        engine.skipped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                    let total: u32 = engine.skipped.values().sum();
                    if total == 0 {
                        format!("{} {}", engine.ran, engine.name)
                    } else {
                        format!("{} {} ({total} skipped: {})", engine.ran, engine.name, reasons.join(", "))
                    }
                })
                .collect();
            format!("vectors: {kind} {}", parts.join(", "))
        };
        counts.iter().map(line).collect()
    }
}
