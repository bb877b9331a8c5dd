//! The short form of `cargo xtask soak tailcall` and `cargo xtask soak generations`.

use skep_testing::counting::Counting;
use skep_testing::soak::{Outcome, Plan, again_in_one_heap, generations, tailcall};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn passes(outcome: &Outcome) {
    println!("{outcome}");
    assert_eq!(outcome.problems, Vec::<String>::new(), "{outcome}");
    assert!(outcome.runs > 0 && outcome.hops > 0, "{outcome}");
}

/// One test, so that each measures its own memory.
#[test]
fn tail_calls_hold_what_they_promise_under_load() {
    if let Some(status) = again_in_one_heap().expect("it starts") {
        assert!(status.success(), "{status}");
        return;
    }
    let outcome = tailcall(&Plan { changes: 6_000, runners: 4, seed: 1, mistake: None }).expect("it starts");
    passes(&outcome);
    assert!(outcome.updates > 3000 && outcome.loads > 50 && outcome.unloads > 50, "{outcome}");
    assert!(outcome.sites > 0 || skep_text::live().is_err(), "{outcome}");
    let outcome = generations(&Plan { changes: 300, runners: 3, seed: 1, mistake: None }).expect("it starts");
    passes(&outcome);
    assert_eq!(outcome.swaps, 300);
}
