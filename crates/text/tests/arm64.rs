//! The arm64 patcher, on an arm64 machine or under an emulator of one:
//! `CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
//! CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
//! cargo test --target aarch64-unknown-linux-gnu -p skep-text --test arm64`.
#![cfg(target_arch = "aarch64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use skep_sync::{Config, CpuSet};
use skep_text::{
    ArenaConfig, CodeArena, CodeImage, InstalledCode, Key, RelocKind, Relocation, SiteBytes, SiteSpec, Target,
    TextError, static_branch_likely, static_branch_unlikely, static_key,
};

fn arena() -> CodeArena {
    let cpus = CpuSet::new(Config { n_possible: 2, region: 1 << 20, ..Config::default() }).unwrap();
    CodeArena::new(&cpus, ArenaConfig { size: 1 << 20, near: None }).unwrap()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `site; mov w0, 1; ret; mov w0, 2; ret`.
fn two_forms() -> Vec<u8> {
    words(&[0xd503_201f, 0x5280_0020, 0xd65f_03c0, 0x5280_0040, 0xd65f_03c0])
}

fn call(code: &InstalledCode) -> u32 {
    let arena = code.arena();
    let _run = arena.cpus().enter().unwrap();
    let entry = std::ptr::with_exposed_provenance::<()>(usize::try_from(code.addr(0).0).unwrap());
    // SAFETY: the tests' images are functions of this type.
    let entry = unsafe { std::mem::transmute::<*const (), extern "C" fn() -> u32>(entry) };
    entry()
}

#[test]
fn both_forms_run_and_the_bytes_follow_the_key() {
    let arena = arena();
    let bytes = two_forms();
    let image = CodeImage { bytes: &bytes, relocations: &[], sites: &[SiteSpec { offset: 0 }] };
    let (off, on) = (arena.install(image).unwrap(), arena.install(image).unwrap());
    let key = Key::new(false);
    let attach = |code: &InstalledCode| {
        // SAFETY: offset 12 returns 2.
        unsafe { key.attach(code, 0, SiteBytes::Jump(code.addr(12)), SiteBytes::Nop) }.unwrap();
    };
    attach(&off);
    assert_eq!(call(&off), 1);
    let hold = match key.hold() {
        // An emulator or a sandbox without the barrier: then off is what it must say.
        Err(TextError::Off(_)) => return,
        hold => hold.unwrap(),
    };
    // b +12
    assert_eq!(off.bytes()[..4], 0x1400_0003_u32.to_le_bytes());
    attach(&on);
    assert_eq!(call(&on), 2);
    drop(hold);
    assert_eq!((off.bytes(), on.bytes()), (bytes.clone(), bytes.clone()));
}

extern "C" fn helper() -> u32 {
    4711
}

#[test]
fn a_branch_reaches_near_and_far() {
    let target = Target::Addr(helper as extern "C" fn() -> u32 as usize as u64);
    for near in [None, Some(0x10_0000_0000)] {
        let cpus = CpuSet::new(Config { n_possible: 1, region: 1 << 20, ..Config::default() }).unwrap();
        let arena = CodeArena::new(&cpus, ArenaConfig { size: 1 << 20, near }).unwrap();
        let bytes = words(&[0x1400_0000]);
        let relocations = [Relocation { at: 0, kind: RelocKind::Branch26, target }];
        let code = arena.install(CodeImage { bytes: &bytes, relocations: &relocations, sites: &[] }).unwrap();
        assert_eq!(call(&code), 4711);
    }
}

#[test]
fn freed_memory_traps() {
    let arena = arena();
    let bytes = two_forms();
    let code = arena.install(CodeImage { bytes: &bytes, relocations: &[], sites: &[] }).unwrap();
    let at = std::ptr::with_exposed_provenance::<u32>(usize::try_from(code.addr(0).0).unwrap());
    drop(code);
    arena.cpus().barrier().unwrap();
    // SAFETY: the arena is mapped, and nobody writes there now.
    assert_eq!(unsafe { at.read() }, 0xd420_1e00);
}

static_key!(static INITIALLY_OFF = false);
static_key!(static INITIALLY_ON = true);

#[test]
fn branches_start_as_declared() {
    assert!(!static_branch_unlikely!(INITIALLY_OFF) && !static_branch_likely!(INITIALLY_OFF));
    assert!(static_branch_unlikely!(INITIALLY_ON) && static_branch_likely!(INITIALLY_ON));
}
