//! Barriers that fail half-way: the trap stays, the meaning stays, the next poke repairs.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Mutex;

use skep_sync::{Config, CpuSet};
use skep_text::{
    ArenaConfig, CodeArena, CodeImage, InstalledCode, Key, SiteBytes, SiteSpec, TextError, inject, trap_counts,
};

/// The faults are the process's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// `site; mov eax, 1; ret; mov eax, 2; ret`.
const TWO: [u8; 17] = [0x0f, 0x1f, 0x44, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3, 0xb8, 2, 0, 0, 0, 0xc3];

fn arena() -> CodeArena {
    let cpus = CpuSet::new(Config { n_possible: 2, region: 1 << 20, ..Config::default() }).unwrap();
    CodeArena::new(&cpus, ArenaConfig { size: 1 << 20, near: None }).unwrap()
}

fn install(arena: &CodeArena) -> InstalledCode {
    arena.install(CodeImage { bytes: &TWO, relocations: &[], sites: &[SiteSpec { offset: 0 }] }).unwrap()
}

fn call(code: &InstalledCode) -> u32 {
    let arena = code.arena();
    let _run = arena.cpus().enter().unwrap();
    let entry = std::ptr::with_exposed_provenance::<()>(usize::try_from(code.addr(0).0).unwrap());
    // SAFETY: the image is a function of this type.
    let entry = unsafe { std::mem::transmute::<*const (), extern "sysv64" fn() -> u32>(entry) };
    entry()
}

fn poke(code: &InstalledCode, form: SiteBytes) -> Result<usize, TextError> {
    // SAFETY: the tests jump to the second half of the image.
    unsafe { code.arena().poke(&[(code.site(0).unwrap(), form)]) }.map(|report| report.nr_entries)
}

#[test]
fn a_barrier_that_fails_leaves_the_old_meaning_and_the_next_poke_repairs() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let arena = arena();
    for step in [2, 3, 4] {
        let (code, other) = (install(&arena), install(&arena));
        let jump = SiteBytes::Jump(code.addr(11));
        inject::set_failing_step(step);
        assert!(matches!(poke(&code, jump), Err(TextError::Barrier { step: failed, .. }) if failed == step));
        inject::set_failing_step(0);
        // The trap byte is there, and the old meaning.
        assert_eq!(code.bytes()[0], 0xcc);
        let before = trap_counts();
        assert_eq!(call(&code), 1);
        let after = trap_counts();
        assert_eq!((after.traps - before.traps, after.late - before.late), (1, 1));
        // A poke of another site repairs this one.
        assert_eq!(poke(&other, SiteBytes::Jump(other.addr(11))).unwrap(), 2);
        assert_eq!(code.bytes(), TWO);
        assert_eq!((call(&code), call(&other)), (1, 2));
        // And the other way round: the failed one is asked for again.
        inject::set_failing_step(step);
        assert!(poke(&code, jump).is_err());
        inject::set_failing_step(0);
        assert_eq!(poke(&code, jump).unwrap(), 1);
        assert_eq!(call(&code), 2);
        let before = trap_counts();
        assert_eq!(call(&code), 2);
        assert_eq!(before, trap_counts(), "no trap is left");
    }
}

#[test]
fn an_image_with_a_stuck_trap_can_go() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let arena = arena();
    let (code, other) = (install(&arena), install(&arena));
    inject::set_failing_step(3);
    assert!(poke(&code, SiteBytes::Jump(code.addr(11))).is_err());
    inject::set_failing_step(0);
    drop(code);
    arena.cpus().barrier().unwrap();
    assert_eq!(poke(&other, SiteBytes::Jump(other.addr(11))).unwrap(), 1, "the stuck site is forgotten");
}

#[test]
fn a_key_that_cannot_flip_stays_as_it_was() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let arena = arena();
    let code = install(&arena);
    let key = Key::new(false);
    // SAFETY: the second half of the image returns 2.
    unsafe { key.attach(&code, 0, SiteBytes::Jump(code.addr(11)), SiteBytes::Nop) }.unwrap();
    inject::set_failing_step(4);
    assert!(key.hold().is_err());
    assert!(!key.is_enabled());
    assert_eq!(call(&code), 1);
    inject::set_failing_step(0);
    let hold = key.hold().unwrap();
    assert_eq!(call(&code), 2);
    drop(hold);
    assert_eq!(call(&code), 1);
}
