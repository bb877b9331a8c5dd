//! Software CPUs that are as careless as the manuals allow.
//!
//! A real CPU may fetch an instruction in parts, long before it executes it, and need not notice that the bytes change;
//! what it must do is forget at a serializing instruction. Real ones notice most changes, so that on them a missing
//! barrier is all but invisible. A model CPU here fetches the first byte and the tail of a site in either order, as long
//! apart as it likes, executes what it has got, and forgets only at the barriers of the poke. It runs in the poker's
//! thread, a few steps at every point of a real poke of real code, so that a seed says everything that happens.
//!
//! Two things may not happen: an instruction that is neither the old form, nor the new one, nor the trap; and a trap
//! executed after its flip has returned.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::World;
use super::code::Function;
use super::readers::Random;
use crate::CodeAddr;
use crate::arch::{SiteBytes, x64};
use crate::inject::{self, Point};

/// CPUs of the model.
const CPUS: usize = 12;

struct Model {
    cpus: Vec<Cpu>,
    sites: Vec<(CodeAddr, CodeAddr)>,
    random: Random,
    /// A flip has begun and not returned.
    flipping: bool,
    executed: u64,
    problem: Option<(&'static str, String)>,
}

/// What one CPU has fetched.
#[derive(Clone, Copy)]
struct Cpu {
    site: usize,
    head: Option<u8>,
    tail: Option<[u8; x64::SITE_LEN - 1]>,
    /// How many more steps it takes before it goes on.
    idle: usize,
}

impl Cpu {
    const NEW: Cpu = Cpu { site: 0, head: None, tail: None, idle: 0 };
}

thread_local! {
    static MODEL: RefCell<Option<Model>> = const { RefCell::new(None) };
}

/// Flips the first group while model CPUs execute its sites. How many instructions they executed.
pub(super) fn run(world: &World, time: Duration) -> u64 {
    if time.is_zero() {
        return 0;
    }
    let sites = world.groups[0].functions.iter().flat_map(sites_of).collect();
    let model = Model {
        cpus: vec![Cpu::NEW; CPUS],
        sites,
        random: Random::new(11),
        flipping: false,
        executed: 0,
        problem: None,
    };
    MODEL.set(Some(model));
    inject::set_hooks(Some(|_: Point| with(Model::step)), Some(|| with(Model::forget)));
    let start = Instant::now();
    while start.elapsed() < time && !world.stopped() {
        with(|model| model.flipping = true);
        world.flip(&world.groups[0]);
        with(|model| {
            model.flipping = false;
            model.step();
            model.step();
            if let Some((kind, example)) = model.problem.take() {
                world.problem(kind, example);
            }
        });
    }
    inject::set_hooks(None, None);
    MODEL.take().map_or(0, |model| model.executed)
}

fn sites_of(function: &Function) -> Vec<(CodeAddr, CodeAddr)> {
    function.code.sites().enumerate().map(|(site, id)| (id.addr(), function.target(site))).collect()
}

fn with(action: impl FnOnce(&mut Model)) {
    MODEL.with_borrow_mut(|model| {
        if let Some(model) = model {
            action(model);
        }
    });
}

impl Model {
    /// Every CPU takes a few steps, or none.
    fn step(&mut self) {
        for number in 0..self.cpus.len() {
            for _ in 0..self.random.below(4) {
                let mut cpu = self.cpus[number];
                self.advance(&mut cpu);
                self.cpus[number] = cpu;
            }
        }
    }

    /// A barrier: everything that was fetched is void.
    fn forget(&mut self) {
        self.cpus.fill(Cpu::NEW);
    }

    fn advance(&mut self, cpu: &mut Cpu) {
        if cpu.idle > 0 {
            cpu.idle -= 1;
            return;
        }
        if cpu.head.is_none() && cpu.tail.is_none() {
            cpu.site = self.random.below(self.sites.len());
        }
        let at = self.sites[cpu.site].0;
        match (cpu.head, cpu.tail) {
            (None, None) if self.random.below(2) == 0 => cpu.tail = Some(fetch_tail(at)),
            (None, _) => cpu.head = Some(fetch(at, 0)),
            (_, None) => cpu.tail = Some(fetch_tail(at)),
            (Some(head), Some(tail)) => {
                self.execute(cpu.site, head, tail);
                *cpu = Cpu::NEW;
            }
        }
        // Mostly at once; sometimes much later.
        cpu.idle = if self.random.below(3) == 0 { self.random.below(24) } else { 0 };
    }

    fn execute(&mut self, site: usize, head: u8, [a, b, c, d]: [u8; x64::SITE_LEN - 1]) {
        self.executed += 1;
        let (at, to) = self.sites[site];
        if head == x64::TRAP {
            if !self.flipping {
                self.problem = Some(("a trap was executed after its flip had returned", format!("at {at}")));
            }
            return;
        }
        let bytes = [head, a, b, c, d];
        let form = x64::decode(at, bytes);
        if form != Some(SiteBytes::Nop) && form != Some(SiteBytes::Jump(to)) {
            self.problem = Some(("a torn instruction", format!("{bytes:02x?} at {at}")));
        }
    }
}

/// Reads one byte of a site, as a fetch does.
fn fetch(site: CodeAddr, at: usize) -> u8 {
    let byte = std::ptr::with_exposed_provenance::<u8>(usize::try_from(site.0).unwrap_or(0) + at);
    // SAFETY: a byte of an image that the world keeps.
    unsafe { byte.read_volatile() }
}

fn fetch_tail(site: CodeAddr) -> [u8; x64::SITE_LEN - 1] {
    std::array::from_fn(|at| fetch(site, at + 1))
}
