//! Slots change and programs come and go while threads run chains through them.
//!
//! Checked are: each run, that at some moment of it each of its hops was what the arrays said, in order, and each call that
//! fell through found its slot empty, its index out of range, or 33 calls made; after each change, the patch sites that it
//! concerns; in every part of the soak, once nobody changes anything, all patch sites; at its end, memory.
//! Invariant: who changes a slot holds its lock, so that the model and the array agree on what is there.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use skep::{Engine, LoadOptions, Loaded, Program, RawMap, Xdp};
use skep_jit::SiteKind;
use skep_runtime::map::Slot as Value;
use skep_text::arch::host;
use skep_text::{CodeAddr, SiteBytes};

use super::history::{Clock, History};
use super::program::{self, LOST, MOST, SLOTS, Templates};
use super::{Memory, Outcome, Plan, Shared};
use crate::random::Random;

/// Parts of a soak; memory is compared after each.
const PARTS: u64 = 10;
/// Threads that change things.
const CHANGERS: u64 = 2;
/// Programs that a changer keeps at a time.
const KEPT: usize = 16;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What is in a slot.
#[derive(Clone, Copy, Default)]
struct Held {
    program: u32,
    /// Where a tail call enters it.
    entry: u64,
}

struct Slot {
    held: Mutex<Held>,
    history: History,
}

struct World {
    shared: Shared,
    clock: Clock,
    engine: Engine,
    arrays: [RawMap; 2],
    slots: [Vec<Slot>; 2],
    templates: Templates,
    /// Programs that all runs may begin with, and those that the changers keep.
    first: Vec<(u32, Program)>,
    kept: Mutex<Vec<(u32, Program)>>,
    serial: AtomicU32,
    /// For each runner, a moment that its run in progress began after; the end of time between runs.
    since: Vec<AtomicU64>,
    _base: Vec<Loaded>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what `plan` says.
///
/// # Errors
/// The soak cannot start.
pub fn tailcall(plan: &Plan) -> Result<Outcome, Error> {
    plan.make_mistake()?;
    let world = World::new(plan)?;
    let mut memory = Vec::new();
    for part in 0..PARTS {
        std::thread::scope(|scope| {
            let runners: Vec<_> = (0..plan.runners)
                .map(|runner| {
                    let world = &world;
                    let seed = plan.seed + part * 1000 + runner as u64;
                    scope.spawn(move || world.run(runner, seed))
                })
                .collect();
            let changers: Vec<_> = (0..CHANGERS)
                .map(|changer| {
                    let world = &world;
                    let seed = plan.seed + part * 1000 + 500 + changer;
                    scope.spawn(move || world.change(plan.changes / PARTS / CHANGERS, seed))
                })
                .collect();
            // Both may have stopped early, for a problem.
            let live: Vec<Live> = changers.into_iter().flat_map(|changer| changer.join().unwrap_or_default()).collect();
            world.compare_all(&live);
            let stopped = world.shared.stop.swap(true, Ordering::SeqCst);
            drop(runners.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>());
            world.shared.stop.store(stopped, Ordering::SeqCst);
        });
        world.empty();
        memory.push(Memory::settled(&world.engine));
        if world.shared.stopped() {
            break;
        }
    }
    Ok(world.shared.outcome(memory))
}

/// A program that a changer keeps.
struct Live {
    number: u32,
    program: Program,
}

impl World {
    fn new(plan: &Plan) -> Result<Self, Error> {
        let engine = Engine::builder().vcpus(3).build()?;
        let templates = Templates::new()?;
        let mut random = Random::new(plan.seed);
        let mut base: Vec<Loaded> = Vec::new();
        let mut first = Vec::new();
        for serial in 1..=4 {
            let number = program::number(serial, &mut random);
            let options = match base.first() {
                Some(base) => sharing(&[base.raw_map("t")?, base.raw_map("u")?]),
                None => LoadOptions::default(),
            };
            let loaded = engine.load_with(templates.object(number), &options)?;
            first.push((number, loaded.program("p")?));
            base.push(loaded);
        }
        let arrays = [base[0].raw_map("t")?, base[0].raw_map("u")?];
        let slots = || (0..SLOTS).map(|_| Slot { held: Mutex::default(), history: History::new() }).collect();
        Ok(Self {
            shared: Shared::default(),
            clock: Clock::default(),
            engine,
            arrays,
            slots: [slots(), slots()],
            templates,
            first,
            kept: Mutex::default(),
            serial: AtomicU32::new(5),
            since: (0..plan.runners).map(|_| AtomicU64::new(u64::MAX)).collect(),
            _base: base,
        })
    }

    /// Runs chains until the soak stops.
    fn run(&self, runner: usize, seed: u64) {
        let mut random = Random::new(seed);
        let Ok(mut packet) = Xdp::packet(&[0; program::BYTES]).build() else { return };
        while !self.shared.stopped() {
            let chosen = {
                let kept = lock(&self.kept);
                let from = if kept.is_empty() || random.one_in(2) { &self.first } else { &*kept };
                let at = usize::try_from(random.below(from.len() as u64)).unwrap_or(0);
                from[at].clone()
            };
            packet.set_packet(&program::fresh(&mut random));
            self.since[runner].store(self.clock.now(), Ordering::SeqCst);
            let from = self.clock.tick();
            let result = chosen.1.run(&mut packet);
            let until = self.clock.tick();
            let (notes, script) = program::notes(&packet);
            let judged = match result {
                Ok(r0) => self.judge(chosen.0, &notes, script, r0 & 0xffff_ffff, from, until),
                Err(error) => Err(format!("a run failed: {error}")),
            };
            self.since[runner].store(u64::MAX, Ordering::SeqCst);
            if let Err(problem) = judged {
                self.shared.problem(format!("{problem}; notes {notes:?}, from {from} until {until}"));
            }
            self.shared.runs.fetch_add(1, Ordering::Relaxed);
            self.shared.hops.fetch_add(notes.len().saturating_sub(1) as u64, Ordering::Relaxed);
        }
    }

    /// Whether a run was possible.
    fn judge(&self, first: u32, notes: &[u32], script: &[u8], r0: u64, from: u64, until: u64) -> Result<(), String> {
        if r0 == LOST || notes.len() > MOST {
            return Err(format!("a run of {} programs", notes.len()));
        }
        if notes.first() != Some(&first) || notes.last().map(|&last| u64::from(last)) != Some(r0) {
            return Err(format!("a run of program {first} that returned {r0}"));
        }
        let mut moment = from;
        for (hop, (&number, &script)) in notes.iter().zip(script).enumerate() {
            let aim = program::aim(number, script);
            let next = notes.get(hop + 1).copied();
            if next.is_none() && (notes.len() == MOST || aim.is_none()) {
                return Ok(());
            }
            let (array, slot) = aim.ok_or_else(|| format!("hop {hop} from {number} went through no slot"))?;
            let history = &self.slots[array][slot as usize].history;
            let wanted = next.unwrap_or(0);
            moment = history
                .seen(wanted, moment, until)
                .ok_or_else(|| format!("hop {hop} from {number} found {wanted} in slot {slot} of array {array}"))?;
        }
        Ok(())
    }

    /// Makes random changes. The programs that it still keeps.
    fn change(&self, count: u64, seed: u64) -> Vec<Live> {
        let mut random = Random::new(seed);
        let mut live: Vec<Live> = Vec::new();
        for _ in 0..count {
            if self.shared.stopped() {
                break;
            }
            let done = match random.below(100) {
                _ if live.is_empty() => self.load(&mut live, &mut random),
                0..4 if live.len() < KEPT => self.load(&mut live, &mut random),
                4..8 => self.unload(&mut live, &mut random),
                8..25 => self.set(&live, &mut random, true),
                _ => self.set(&live, &mut random, false),
            };
            if let Err(error) = done {
                self.shared.problem(format!("a change failed: {error}"));
            }
        }
        live
    }

    fn load(&self, live: &mut Vec<Live>, random: &mut Random) -> Result<(), Error> {
        let number = program::number(self.serial.fetch_add(1, Ordering::Relaxed), random);
        let loaded = self.engine.load_with(self.templates.object(number), &sharing(&self.arrays))?;
        let program = loaded.program("p")?;
        lock(&self.kept).push((number, program.clone()));
        live.push(Live { number, program });
        self.shared.loads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Lets go of a program, in half of the cases after it has left all slots.
    fn unload(&self, live: &mut Vec<Live>, random: &mut Random) -> Result<(), Error> {
        let gone = live.swap_remove(usize::try_from(random.below(live.len() as u64)).unwrap_or(0));
        lock(&self.kept).retain(|(number, _)| *number != gone.number);
        if random.one_in(2) {
            for (array, slots) in self.slots.iter().enumerate() {
                for (slot, state) in (0..).zip(slots) {
                    let held = lock(&state.held);
                    if held.program == gone.number {
                        drop(self.put(array, slot, held, None)?);
                    }
                }
            }
        }
        self.shared.unloads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sets a slot to a program of this changer, or empties it.
    fn set(&self, live: &[Live], random: &mut Random, empty: bool) -> Result<(), Error> {
        let array = usize::try_from(random.below(2)).unwrap_or(0);
        let slot = u32::try_from(random.below(u64::from(SLOTS))).unwrap_or(0);
        let live_one = &live[usize::try_from(random.below(live.len() as u64)).unwrap_or(0)];
        let held = lock(&self.slots[array][slot as usize].held);
        let held = self.put(array, slot, held, (!empty).then_some(live_one))?;
        // The programs of the other changer may be on their way in or out.
        let sites: u64 = live.iter().map(|live| self.compare(live, Some((array, slot, *held)))).sum();
        self.shared.sites.fetch_add(sites, Ordering::Relaxed);
        Ok(())
    }

    /// Changes a slot whose lock the caller has.
    fn put<'a>(
        &self,
        array: usize,
        slot: u32,
        mut held: MutexGuard<'a, Held>,
        what: Option<&Live>,
    ) -> Result<MutexGuard<'a, Held>, Error> {
        let history = &self.slots[array][slot as usize].history;
        let key = slot.to_ne_bytes();
        let next = what.map_or(Held::default(), |live| Held {
            program: live.number,
            entry: live.program.to_callee().tail_entry(),
        });
        history.begin(next.program, &self.clock);
        let changed = match what {
            Some(live) => self.arrays[array].update_slot(&key, Value::Program(live.program.to_callee()), 0),
            None => self.arrays[array].delete(&key),
        };
        let oldest = self.since.iter().map(|since| since.load(Ordering::SeqCst)).min();
        history.end(&self.clock, oldest.unwrap_or(u64::MAX));
        let count = if what.is_some() { &self.shared.updates } else { &self.shared.deletions };
        count.fetch_add(1, Ordering::Relaxed);
        let was_empty = held.program == 0;
        *held = next;
        match changed {
            Ok(()) => Ok(held),
            // An empty slot has nothing to delete.
            Err(skep_abi::Errno::ENOENT) if what.is_none() && was_empty => Ok(held),
            Err(errno) => Err(format!("slot {slot} of array {array}: {errno}").into()),
        }
    }

    /// Compares the patch sites of a program with what its slots hold; or only those of one slot. How many there were.
    fn compare(&self, live: &Live, only: Option<(usize, u32, Held)>) -> u64 {
        let (Some(code), xlated, maps) = (live.program.listing(), live.program.xlated(), live.program.map_ids()) else {
            return 0;
        };
        let bytes = code.bytes();
        let mut compared = 0;
        for site in code.sites() {
            let (SiteKind::PokeGate { index, .. } | SiteKind::PokeTarget { index }) = site.kind else { continue };
            let Some(poke) = xlated.pokes.get(usize::from(index)) else { continue };
            let map = maps.get(poke.map as usize);
            let Some(array) = self.arrays.iter().position(|array| Some(&array.id()) == map) else { continue };
            let held = match only {
                Some((at, slot, held)) if (at, slot) == (array, poke.key) => held,
                Some(_) => continue,
                None => *lock(&self.slots[array][poke.key as usize].held),
            };
            let form = match site.kind {
                SiteKind::PokeGate { .. } if held.program == 0 => SiteBytes::Nop,
                SiteKind::PokeGate { stub, .. } => SiteBytes::Jump(CodeAddr(code.address() + u64::from(stub))),
                // What it held last, for runs that are past the gate.
                _ if held.program == 0 => continue,
                _ => SiteBytes::Jump(CodeAddr(held.entry)),
            };
            let at = CodeAddr(code.address() + u64::from(site.offset));
            let start = site.offset as usize;
            let found = bytes.get(start..start + host::SITE_LEN);
            if found != host::encode(at, form).as_ref().map(<[u8; host::SITE_LEN]>::as_slice) {
                let (slot, program) = (poke.key, held.program);
                self.shared.problem(format!(
                    "{:?} of program {} is {found:02x?}, but slot {slot} holds {program}",
                    site.kind, live.number
                ));
            }
            compared += 1;
        }
        compared
    }

    /// Compares all patch sites, with nobody changing slots.
    fn compare_all(&self, live: &[Live]) {
        let first = self.first.iter().map(|(number, program)| Live { number: *number, program: program.clone() });
        let sites: u64 = first.map(|first| self.compare(&first, None)).sum();
        let more: u64 = live.iter().map(|live| self.compare(live, None)).sum();
        self.shared.sites.fetch_add(sites + more, Ordering::Relaxed);
    }

    /// Back to the beginning: no slot holds anything, and only the first programs are left.
    fn empty(&self) {
        *lock(&self.kept) = Vec::new();
        for (array, slots) in self.slots.iter().enumerate() {
            for (slot, state) in (0..).zip(slots) {
                if let Err(error) = self.put(array, slot, lock(&state.held), None).map(drop) {
                    self.shared.problem(error.to_string());
                }
            }
        }
        // What the histories still remember is no memory of ours.
        for state in self.slots.iter().flatten() {
            state.history.forget();
        }
    }
}

/// Uses these arrays.
fn sharing(arrays: &[RawMap; 2]) -> LoadOptions {
    LoadOptions::default().reuse_map("t", &arrays[0]).reuse_map("u", &arrays[1])
}
