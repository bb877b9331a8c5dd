//! What it costs to flip many sites under running threads: `cargo run --release -p skep-text --example flip`.
//!
//! Functions of installed code that return at once, each with one site, flipped in one batch while every CPU calls
//! them; for 2, 164, 1000 and 10000 functions, and for both ways to count references.

use skep_sync::{Config, CpuSet};
use skep_text::measure::{Options, Subject, measure};
use skep_text::{
    ArenaConfig, CodeArena, CodeImage, InstalledCode, Key, PokeReport, Refs, SiteBytes, SiteSpec, TextError, set_refs,
};

/// `site; xor eax, eax; ret`, and for the jump `add qword [rsi + 64], 1; jmp back`.
const CODE: [u8; 18] =
    [0x0f, 0x1f, 0x44, 0, 0, 0x31, 0xc0, 0xc3, 0x48, 0x83, 0x46, 0x40, 0x01, 0xe9, 0xf3, 0xff, 0xff, 0xff];

struct Functions {
    arena: CodeArena,
    codes: Vec<InstalledCode>,
    entries: Vec<extern "sysv64" fn(usize, *mut u8) -> u64>,
    key: Key,
}

impl Functions {
    fn new(count: usize) -> Result<Functions, Box<dyn std::error::Error>> {
        let cpus = CpuSet::new(Config::default())?;
        // The counter that the code adds to.
        let counter = cpus.percpu_alloc(8, 8)?;
        assert_eq!(counter.0, 64);
        let arena = CodeArena::new(&cpus, ArenaConfig::default())?;
        let key = Key::new(false);
        let mut functions = Functions { arena, codes: Vec::new(), entries: Vec::new(), key };
        for _ in 0..count {
            let image = CodeImage { bytes: &CODE, relocations: &[], sites: &[SiteSpec { offset: 0 }] };
            let code = functions.arena.install(image)?;
            // SAFETY: the code at offset 8 returns to the instruction behind the site.
            unsafe { functions.key.attach(&code, 0, SiteBytes::Jump(code.addr(8)), SiteBytes::Nop) }?;
            let entry = std::ptr::with_exposed_provenance::<()>(usize::try_from(code.addr(0).0)?);
            // SAFETY: the image is a function of this type.
            functions
                .entries
                .push(unsafe { std::mem::transmute::<*const (), extern "sysv64" fn(usize, *mut u8) -> u64>(entry) });
            functions.codes.push(code);
        }
        Ok(functions)
    }
}

impl Subject for Functions {
    fn work(&self, thread: usize, count: u32) {
        let mut at = thread * 31;
        for _ in 0..count {
            at = (at + 1) % self.entries.len();
            if let Ok(run) = self.arena.cpus().enter() {
                self.entries[at](0, run.base().as_ptr());
            }
        }
    }

    fn flip(&self, on: bool) -> Result<PokeReport, TextError> {
        if on { self.key.enable() } else { self.key.disable() }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:>6} {:7} {:>27} {:>31} {:>9} {:>23}",
        "sites", "refs", "flip, us", "ns per run", "traps", "stall with/without"
    );
    println!(
        "{:14} {:>6} {:>6} {:>6} {:>6}  {:>7} {:>7} {:>7} {:>7} {:>9} {:>10} {:>12}",
        "", "min", "median", "p99", "max", "before", "during", "on", "after", "late", "median", "p99, us"
    );
    for count in [2, 164, 1000, 10_000] {
        let functions = Functions::new(count)?;
        for refs in [Refs::Shared, Refs::PerCpu] {
            set_refs(refs);
            let report = measure(&functions, &Options::default())?;
            let stall = |share| {
                let (with, without) = report.stall_at(share);
                format!("{:.1}/{:.1}", with.as_secs_f64() * 1e6, without.as_secs_f64() * 1e6)
            };
            let us = |share| report.flip_at(share).as_secs_f64() * 1e6;
            println!(
                "{:>6} {:7} {:>6.1} {:>6.1} {:>6.1} {:>6.1}  {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>6}/{} {:>10} {:>12}",
                report.nr_entries,
                format!("{refs:?}"),
                us(0.0),
                us(0.5),
                us(0.99),
                us(1.0),
                report.before_ns,
                report.during_ns,
                report.on_ns,
                report.after_ns,
                report.traps.traps,
                report.traps.late,
                stall(0.5),
                stall(0.99),
            );
        }
    }
    Ok(())
}
