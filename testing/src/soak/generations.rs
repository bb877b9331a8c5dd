//! Objects of ten programs that tail-call each other are exchanged while threads run them: a run is of one generation.
//!
//! Every program notes the generation that it is of. Checked are each run's ten notes, that no run goes back to a
//! generation before one that was in place when it began, and memory.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use skep::{Engine, Object, Slot, Version, Xdp, XdpBuff};

use super::program::{self, set_number, text};
use super::{Memory, Outcome, Plan, Shared};
use crate::random::Random;
use crate::tail_calls;

/// Programs of an object.
const PROGRAMS: u32 = 10;

/// Does what `plan` says: `changes` swaps.
///
/// # Errors
/// The soak cannot start.
pub fn generations(plan: &Plan) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
    plan.make_mistake()?;
    let mut all = format!("array g {PROGRAMS}\n");
    for k in 0..PROGRAMS {
        // Constant and variable indices in turn; the variable ones are the constant plus what the packet says, which is 0.
        let next = k + 1;
        let call = if k % 2 == 0 { format!("r3 = {next}") } else { format!("r3 = r9\nr3 += {next}") };
        // Writing to a string cannot fail.
        let _ = write!(
            all,
            "slot g {k} p{k}\n{}",
            text(&format!("p{k}"), &format!("r2 = map[g]\n{call}\ncall bpf_tail_call"))
        );
    }
    let template = tail_calls::parse(&all)?.object;
    let generation = |number: u32| -> Version {
        let mut spec = template.clone();
        set_number(&mut spec, number);
        Object::from_spec("generation", spec).entry("p0")
    };
    let engine = Engine::builder().vcpus(3).build()?;
    let slot: Slot<XdpBuff> = engine.slot(generation(1))?;
    let shared = Shared::default();
    let newest = AtomicU64::new(1);
    let mut memory = Vec::new();
    let mut swaps = 0;
    std::thread::scope(|scope| {
        for runner in 0..plan.runners {
            let (shared, newest, slot) = (&shared, &newest, &slot);
            scope.spawn(move || run(shared, newest, slot, plan.seed + runner as u64));
        }
        for number in 2..u32::try_from(plan.changes).unwrap_or(u32::MAX).saturating_add(2) {
            if shared.stopped() {
                break;
            }
            match slot.swap(generation(number)) {
                Ok(old) => {
                    newest.store(u64::from(number), Ordering::SeqCst);
                    // Every other old generation is waited for; the rest goes in its own time.
                    if number % 2 == 0
                        && let Err(error) = old.drained()
                    {
                        shared.problem(error.to_string());
                    }
                }
                Err(error) => shared.problem(error.to_string()),
            }
            swaps += 1;
            if swaps % (plan.changes / 10).max(1) == 0 {
                memory.push(Memory::settled(&engine));
            }
        }
        shared.stop.store(true, Ordering::SeqCst);
    });
    let mut outcome = shared.outcome(memory);
    outcome.swaps = swaps;
    Ok(outcome)
}

fn run(shared: &Shared, newest: &AtomicU64, slot: &Slot<XdpBuff>, seed: u64) {
    let mut random = Random::new(seed);
    let Ok(mut packet) = Xdp::packet(&[0; program::BYTES]).build() else { return };
    let mut seen = 0;
    while !shared.stopped() {
        packet.set_packet(&[0; program::BYTES]);
        let before = newest.load(Ordering::SeqCst).max(seen);
        let result = slot.run(&mut packet);
        let after = newest.load(Ordering::SeqCst);
        let (notes, _) = program::notes(&packet);
        let generation = notes.first().map_or(0, |&first| u64::from(first));
        let whole = notes.len() == PROGRAMS as usize && notes.iter().all(|&note| u64::from(note) == generation);
        // The newest is noted after its swap has returned.
        if !whole || !(before..=after + 1).contains(&generation) {
            shared.problem(format!("a run of {notes:?} between generations {before} and {after}: {result:?}"));
        }
        seen = generation;
        shared.runs.fetch_add(1, Ordering::Relaxed);
        shared.hops.fetch_add(notes.len().saturating_sub(1) as u64, Ordering::Relaxed);
        if random.one_in(4096) {
            std::thread::yield_now();
        }
    }
}
