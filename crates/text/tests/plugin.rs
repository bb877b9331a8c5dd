//! A library with static keys, loaded while the program runs: it has its own copy of this crate and its own handler.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use skep_text::{static_branch_unlikely, static_key};

static_key!(static OWN = false);

#[inline(never)]
fn own() -> bool {
    static_branch_unlikely!(OWN)
}

type Branch = extern "C" fn() -> u32;
type Flip = extern "C" fn(bool) -> i32;

/// Loads the example of that name, which `cargo test` has built beside this test.
fn load() -> *mut libc::c_void {
    let here = std::env::current_exe().unwrap();
    let path = here.parent().unwrap().parent().unwrap().join("examples/libplugin.so");
    assert!(path.exists(), "{} is missing: cargo build -p skep-text --example plugin", path.display());
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: loads a library whose constructors register static keys.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    library
}

fn symbol(library: *mut libc::c_void, name: &str) -> *mut libc::c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: the library is loaded.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    assert!(!symbol.is_null());
    symbol
}

#[test]
fn keys_of_a_loaded_library_flip_beside_those_of_the_program() {
    // Our handler is there first, and the library's calls it.
    OWN.enable().unwrap();
    OWN.disable().unwrap();
    let library = load();
    // SAFETY: the plugin's function has this type.
    let branch = unsafe { std::mem::transmute::<*mut libc::c_void, Branch>(symbol(library, "plugin_branch")) };
    // SAFETY: the plugin's function has this type.
    let flip = unsafe { std::mem::transmute::<*mut libc::c_void, Flip>(symbol(library, "plugin_flip")) };
    assert_eq!(branch(), 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // In the middle of a flip the two branches may differ.
                    assert!(branch() <= 3);
                    std::hint::black_box(own());
                }
            });
        }
        scope.spawn(|| {
            for flip in 0..2000 {
                if flip % 2 == 0 { OWN.enable() } else { OWN.disable() }.unwrap();
                assert_eq!(own(), flip % 2 == 0);
            }
        });
        for round in 0..2000 {
            assert_eq!(flip(round % 2 == 0), 2);
            assert_eq!(branch(), if round % 2 == 0 { 3 } else { 0 });
        }
        stop.store(true, Ordering::Relaxed);
    });
    // It stays, whatever its users say: its handler is in force.
    // SAFETY: a handle that was opened above.
    unsafe { libc::dlclose(library) };
    assert_eq!(flip(true), 2);
    assert_eq!(branch(), 3);
    OWN.enable().unwrap();
    assert!(own());
}
