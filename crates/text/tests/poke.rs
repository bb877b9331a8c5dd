//! Installing code and changing it while threads run it.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_sync::{Config, CpuSet, EnterError};
use skep_text::{
    ArenaConfig, CodeAddr, CodeArena, CodeImage, InstalledCode, Refs, RelocKind, Relocation, SiteBytes, SiteSpec,
    Target, TextError,
};

fn arena(n_possible: usize) -> CodeArena {
    let cpus = CpuSet::new(Config { n_possible, region: 1 << 20, ..Config::default() }).unwrap();
    CodeArena::new(&cpus, ArenaConfig { size: 4 << 20, near: None }).unwrap()
}

/// `site; mov eax, old; ret; mov eax, new; ret`, the site at `pad` bytes from the start; the offset of the new part.
fn two_forms(pad: usize, old: u32, new: u32) -> (Vec<u8>, u32) {
    let mut code = vec![0x90; pad];
    code.extend([0x0f, 0x1f, 0x44, 0, 0, 0xb8]);
    code.extend(old.to_le_bytes());
    code.push(0xc3);
    let target = u32::try_from(code.len()).unwrap();
    code.push(0xb8);
    code.extend(new.to_le_bytes());
    code.push(0xc3);
    (code, target)
}

fn call(code: &InstalledCode) -> u32 {
    let run = code.arena().cpus().clone();
    let _run = run.enter().unwrap();
    let entry = std::ptr::with_exposed_provenance::<()>(usize::try_from(code.addr(0).0).unwrap());
    // SAFETY: the tests' images are functions of this type.
    let entry = unsafe { std::mem::transmute::<*const (), extern "sysv64" fn() -> u32>(entry) };
    entry()
}

fn poke(arena: &CodeArena, changes: &[(skep_text::SiteId, SiteBytes)]) -> Result<usize, TextError> {
    // SAFETY: the tests jump to the second part of their own images.
    unsafe { arena.poke(changes) }.map(|report| report.nr_entries)
}

#[test]
fn a_site_changes_and_changes_back() {
    let arena = arena(2);
    let (bytes, target) = two_forms(3, 1, 2);
    let image = CodeImage { bytes: &bytes, relocations: &[], sites: &[SiteSpec { offset: 3 }] };
    let code = arena.install(image).unwrap();
    let site = code.site(0).unwrap();
    let jump = SiteBytes::Jump(code.addr(target));
    assert_eq!(call(&code), 1);
    assert_eq!(poke(&arena, &[(site, jump)]).unwrap(), 1);
    assert_eq!(call(&code), 2);
    assert_eq!(poke(&arena, &[(site, jump)]).unwrap(), 0, "nothing to change");
    assert_eq!(poke(&arena, &[(site, SiteBytes::Nop), (site, jump)]).unwrap(), 0, "the later entry wins");
    assert_eq!(poke(&arena, &[(site, SiteBytes::Nop)]).unwrap(), 1);
    assert_eq!(call(&code), 1);
    assert_eq!(code.bytes(), bytes);
}

#[test]
fn every_offset_and_two_strategies_under_running_threads() {
    for refs in [Refs::Shared, Refs::PerCpu] {
        skep_text::set_refs(refs);
        let arena = arena(2);
        let images: Vec<(InstalledCode, u32)> = (0..64)
            .map(|pad| {
                let (bytes, target) = two_forms(pad, 10, 20);
                let sites = [SiteSpec { offset: u32::try_from(pad).unwrap() }];
                (arena.install(CodeImage { bytes: &bytes, relocations: &[], sites: &sites }).unwrap(), target)
            })
            .collect();
        let (stop, runs) = (AtomicBool::new(false), AtomicU64::new(0));
        let before = skep_text::trap_counts();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        for (code, _) in &images {
                            let got = call(code);
                            assert!(got == 10 || got == 20, "{got}");
                        }
                        runs.fetch_add(64, Ordering::Relaxed);
                    }
                });
            }
            // On a busy machine the poker may have the CPU for itself for a while: go on until somebody met a trap.
            let start = Instant::now();
            let mut flip = 0;
            while flip < 2000
                || (skep_text::trap_counts().traps == before.traps && start.elapsed() < Duration::from_secs(20))
            {
                let changes: Vec<_> = images
                    .iter()
                    .map(|(code, target)| {
                        let jump = SiteBytes::Jump(code.addr(*target));
                        (code.site(0).unwrap(), if flip % 2 == 0 { jump } else { SiteBytes::Nop })
                    })
                    .collect();
                assert_eq!(poke(&arena, &changes).unwrap(), 64);
                let expected = if flip % 2 == 0 { 20 } else { 10 };
                assert_eq!(call(&images[flip % 64].0), expected, "an old form after the flip");
                flip += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
        let after = skep_text::trap_counts();
        assert!(runs.into_inner() > 0);
        assert!(after.traps > before.traps, "no run met a trap: nothing was tested");
    }
}

#[test]
fn memory_is_used_again_and_filled_in_between() {
    let arena = arena(2);
    let (bytes, _) = two_forms(0, 1, 2);
    let sites = [SiteSpec { offset: 0 }];
    let image = CodeImage { bytes: &bytes, relocations: &[], sites: &sites };
    let first = arena.install(image).unwrap();
    let (at, site) = (first.addr(0), first.site(0).unwrap());
    let second = arena.install(image).unwrap();
    assert_eq!(arena.used(), 128);
    drop(first);
    arena.cpus().barrier().unwrap();
    assert_eq!(arena.used(), 64);
    let stale = std::ptr::with_exposed_provenance::<u8>(usize::try_from(at.0).unwrap());
    // SAFETY: the arena is mapped, and nobody writes there now.
    assert_eq!(unsafe { std::slice::from_raw_parts(stale, 64) }, [0xcc; 64]);
    assert!(matches!(poke(&arena, &[(site, SiteBytes::Nop)]), Err(TextError::NoSuchSite { .. })));
    let third = arena.install(image).unwrap();
    assert_eq!(third.addr(0), at);
    assert!(matches!(poke(&arena, &[(site, SiteBytes::Nop)]), Err(TextError::NoSuchSite { .. })));
    assert_eq!(call(&third), 1);
    drop((second, third));
    arena.cpus().barrier().unwrap();
    assert_eq!(arena.used(), 0);
}

#[test]
fn an_image_in_use_is_not_freed() {
    let arena = arena(2);
    let (bytes, _) = two_forms(0, 7, 8);
    let code = arena.install(CodeImage { bytes: &bytes, relocations: &[], sites: &[] }).unwrap();
    let set = arena.cpus().clone();
    let run = set.enter().unwrap();
    drop(code);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(arena.used(), 64, "freed under a run");
    drop(run);
    set.barrier().unwrap();
    assert_eq!(arena.used(), 0);
}

extern "sysv64" fn helper() -> u32 {
    4711
}

#[test]
fn relocations_reach_near_far_and_own_code() {
    let near = helper as extern "sysv64" fn() -> u32 as usize as u64;
    // Tail jumps to the address; the arena lies near this program, or far away, where a veneer leads on.
    for place in [None, Some(0x10_0000_0000)] {
        let cpus = CpuSet::new(Config { n_possible: 1, region: 1 << 20, ..Config::default() }).unwrap();
        let arena = CodeArena::new(&cpus, ArenaConfig { size: 1 << 20, near: place }).unwrap();
        let bytes = [0xe9, 0, 0, 0, 0];
        let relocations = [Relocation { at: 1, kind: RelocKind::Rel32, target: Target::Addr(near) }];
        let code = arena.install(CodeImage { bytes: &bytes, relocations: &relocations, sites: &[] }).unwrap();
        assert_eq!(call(&code), 4711);
        let far = code.addr(0).0.abs_diff(near) > 1 << 31;
        assert_eq!(far, place.is_some(), "{code:?} and {near:#x}");
    }
    // mov rax, imm64; jmp rax, with the address of the last instruction pair.
    let arena = arena(1);
    let mut bytes = vec![0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0];
    bytes.extend([0xb8, 5, 0, 0, 0, 0xc3]);
    let relocations = [Relocation { at: 2, kind: RelocKind::Abs64, target: Target::Image(12) }];
    let code = arena.install(CodeImage { bytes: &bytes, relocations: &relocations, sites: &[] }).unwrap();
    assert_eq!(call(&code), 5);
}

#[test]
fn bad_images_are_refused_and_leave_nothing() {
    let arena = arena(1);
    let bytes = [0x0f, 0x1f, 0x44, 0, 0, 0xc3];
    let image = CodeImage { bytes: &bytes, relocations: &[], sites: &[] };
    let site = |offset| SiteSpec { offset };
    let refused = |image: CodeImage<'_>| arena.install(image).unwrap_err();
    assert!(matches!(refused(CodeImage { bytes: &[], ..image }), TextError::BadImage { size: 0 }));
    assert!(matches!(refused(CodeImage { sites: &[site(1)], ..image }), TextError::NotASite { .. }));
    assert!(matches!(refused(CodeImage { sites: &[site(2)], ..image }), TextError::OutOfImage { offset: 2 }));
    assert!(matches!(refused(CodeImage { sites: &[site(0), site(0)], ..image }), TextError::Overlap { .. }));
    let relocation = |at, kind, target| [Relocation { at, kind, target }];
    let outside = relocation(3, RelocKind::Rel32, Target::Image(0));
    assert!(matches!(refused(CodeImage { relocations: &outside, ..image }), TextError::OutOfImage { offset: 3 }));
    let nowhere = relocation(0, RelocKind::Rel32, Target::Image(6));
    assert!(matches!(refused(CodeImage { relocations: &nowhere, ..image }), TextError::OutOfImage { offset: 6 }));
    let big = vec![0xc3; 5 << 20];
    assert!(matches!(refused(CodeImage { bytes: &big, ..image }), TextError::ArenaFull { .. }));
    assert_eq!(arena.used(), 0);
    let code = arena.install(CodeImage { sites: &[site(0)], ..image }).unwrap();
    let far = SiteBytes::Jump(CodeAddr(1));
    assert!(matches!(poke(&arena, &[(code.site(0).unwrap(), far)]), Err(TextError::TooFar { .. })));
}

#[test]
fn a_thread_that_blocks_sigtrap_is_refused() {
    let arena = arena(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
            // SAFETY: the set is valid.
            unsafe { libc::sigemptyset(set.as_mut_ptr()) };
            // SAFETY: as above.
            unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGTRAP) };
            // SAFETY: changes this thread's mask; the thread ends soon.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
            assert!(matches!(arena.cpus().enter(), Err(EnterError::Refused(_))));
            // SAFETY: as above.
            unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut()) };
            assert!(arena.cpus().enter().is_ok());
        });
    });
}

#[test]
fn no_page_is_writable_and_executable() {
    let arena = arena(1);
    let (bytes, _) = two_forms(0, 1, 2);
    let _code = arena.install(CodeImage { bytes: &bytes, relocations: &[], sites: &[] }).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.lines().any(|line| line.contains("skep-text") && line.contains("r-xs")));
    assert!(maps.lines().all(|line| !line.split(' ').nth(1).unwrap().starts_with("rwx")), "{maps}");
}
