//! Runs an image: memory that is first written, then executed.
#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers are cut and reinterpreted on purpose"
)]

use std::collections::BTreeMap;
use std::ffi::c_void;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use skep_jit::{Image, RelocKind, RelocTarget};

/// Bytes of the vCPU memory that tests give to programs.
pub(crate) const CPU_SIZE: usize = 8192;

/// An image in executable memory.
pub(crate) struct Machine {
    base: *mut u8,
    len: usize,
    entry: u32,
    pub(crate) tail_entry: u64,
}

impl Machine {
    /// Maps the image and applies its relocations; far calls go through veneers behind the code.
    pub(crate) fn new(image: &Image) -> Self {
        let mut bytes = image.bytes.clone();
        let mut veneers: BTreeMap<u64, usize> = BTreeMap::new();
        for reloc in &image.relocations {
            assert_eq!(reloc.kind, RelocKind::Rel32);
            let RelocTarget::Addr(addr) = reloc.target else { unreachable!("no image refers to itself") };
            let target = *veneers.entry(addr).or_insert_with(|| {
                let at = bytes.len();
                bytes.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
                bytes.extend_from_slice(&addr.to_le_bytes());
                at
            });
            let at = reloc.at as usize;
            let disp = i32::try_from(target as i64 - (at as i64 + 4)).expect("near");
            bytes[at..at + 4].copy_from_slice(&disp.to_le_bytes());
        }
        let len = bytes.len().next_multiple_of(4096);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }
                .expect("mmap")
                .cast::<u8>();
        // SAFETY: the mapping has `len` bytes and nothing else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base, bytes.len()) };
        // SAFETY: the range is the mapping made above.
        unsafe { mprotect(base.cast::<c_void>(), len, MprotectFlags::READ | MprotectFlags::EXEC) }.expect("mprotect");
        flush(base, len);
        Self { base, len, entry: image.entry, tail_entry: base as u64 + u64::from(image.tail_entry) }
    }

    /// Writes bytes into the code, as a patch would.
    pub(crate) fn patch(&self, at: u32, bytes: &[u8]) {
        // SAFETY: the range is this machine's own mapping, which no thread executes now.
        unsafe { mprotect(self.base.cast::<c_void>(), self.len, MprotectFlags::READ | MprotectFlags::WRITE) }
            .expect("mprotect");
        // SAFETY: sites lie within the image.
        let place = unsafe { self.base.add(at as usize) };
        // SAFETY: the mapping is writable now and the site has as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        // SAFETY: as above.
        unsafe { mprotect(self.base.cast::<c_void>(), self.len, MprotectFlags::READ | MprotectFlags::EXEC) }
            .expect("mprotect");
        flush(self.base, self.len);
    }

    /// Writes a jump to an address into a site.
    pub(crate) fn patch_jump(&self, at: u32, to: u64) {
        let from = self.address(at);
        if cfg!(target_arch = "aarch64") {
            let words = (to as i64 - from as i64) / 4;
            assert!((-(1 << 25)..1 << 25).contains(&words), "near");
            self.patch(at, &(0x1400_0000 | (words as u32 & 0x03ff_ffff)).to_le_bytes());
        } else {
            let disp = i32::try_from(to as i64 - (from as i64 + 5)).expect("near");
            let mut bytes = vec![0xe9];
            bytes.extend_from_slice(&disp.to_le_bytes());
            self.patch(at, &bytes);
        }
    }

    /// Address of an offset of the image.
    pub(crate) fn address(&self, offset: u32) -> u64 {
        self.base as u64 + u64::from(offset)
    }

    /// The entry as a function.
    pub(crate) fn function(&self) -> extern "C" fn(*mut u8, *mut u8) -> u64 {
        // SAFETY: the entry lies within the image.
        let entry = unsafe { self.base.add(self.entry as usize) };
        // SAFETY: the address is the entry of code made for this signature.
        unsafe { std::mem::transmute::<*mut u8, extern "C" fn(*mut u8, *mut u8) -> u64>(entry) }
    }

    /// Runs it.
    pub(crate) fn run(&self, ctx: &mut [u8], cpu: &mut [u64]) -> u64 {
        assert!(cpu.len() * 8 >= CPU_SIZE);
        self.function()(ctx.as_mut_ptr(), cpu.as_mut_ptr().cast())
    }
}

/// Makes new code visible to instruction fetch, on a CPU that needs to be told.
fn flush(base: *mut u8, len: usize) {
    #[cfg(target_arch = "aarch64")]
    {
        for at in (base as usize..base as usize + len).step_by(4) {
            // SAFETY: cleaning and invalidating lines of a mapping changes no data.
            unsafe { std::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", in(reg) at) };
        }
        // SAFETY: barriers only.
        unsafe { std::arch::asm!("dsb ish", "isb") };
    }
    #[cfg(not(target_arch = "aarch64"))]
    let _ = (base, len);
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: the mapping is this machine's own.
        let _ = unsafe { munmap(self.base.cast::<c_void>(), self.len) };
    }
}
