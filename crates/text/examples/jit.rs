//! Code of one's own, with a branch that follows a key: `cargo run --release -p skep-text --example jit`.

use skep_sync::{Config, CpuSet};
use skep_text::{ArenaConfig, CodeArena, CodeImage, Key, SiteBytes, SiteSpec};

/// ```text
///  0: nopl 0(%rax,%rax)      the site
///  5: lea (%rdi,%rdi), %eax  off: twice the argument
///  8: ret
///  9: imul %edi, %edi, 3     on: three times
/// 12: mov %edi, %eax
/// 14: ret
/// ```
const CODE: [u8; 15] = [0x0f, 0x1f, 0x44, 0, 0, 0x8d, 0x04, 0x3f, 0xc3, 0x6b, 0xff, 0x03, 0x89, 0xf8, 0xc3];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cpus = CpuSet::new(Config::default())?;
    let arena = CodeArena::new(&cpus, ArenaConfig::default())?;
    let code = arena.install(CodeImage { bytes: &CODE, relocations: &[], sites: &[SiteSpec { offset: 0 }] })?;
    let key = Key::new(false);
    // SAFETY: offset 9 is code that may run in place of offset 5.
    unsafe { key.attach(&code, 0, SiteBytes::Jump(code.addr(9)), SiteBytes::Nop) }?;

    let entry = std::ptr::with_exposed_provenance::<()>(usize::try_from(code.addr(0).0)?);
    // SAFETY: the image is a function of this type.
    let scale = unsafe { std::mem::transmute::<*const (), extern "sysv64" fn(u32) -> u32>(entry) };
    let call = |value| {
        // The code stays while a run is in progress, even if the last handle is dropped meanwhile.
        cpus.enter().map(|_run| scale(value))
    };
    println!("off: {}", call(100)?);
    let hold = key.hold()?;
    println!("on:  {}", call(100)?);
    drop(hold);
    println!("off: {}", call(100)?);
    Ok(())
}
