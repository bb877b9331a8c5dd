//! A library with a static key of its own, to be loaded at run time: `tests/plugin.rs` does.

use skep_text::{static_branch_likely, static_branch_unlikely, static_key};

static_key!(static PLUGGED = false);

/// Twice whether the key is on, once by each kind of branch: 0 or 3.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_branch() -> u32 {
    u32::from(static_branch_unlikely!(PLUGGED)) + 2 * u32::from(static_branch_likely!(PLUGGED))
}

/// Flips the key; the number of sites, or -1.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_flip(on: bool) -> i32 {
    let report = if on { PLUGGED.enable() } else { PLUGGED.disable() };
    report.map_or(-1, |report| i32::try_from(report.nr_entries).unwrap_or(-1))
}
