//! What a run keeps in its vCPU's memory, and how helpers find it.
//!
//! Every vCPU has a [`CpuBlock`] at a fixed offset; its first word points to the [`RunFrame`] of the run in progress, which
//! lives on the stack of the thread that runs. Frames nest: each remembers the one before it. Invariant: while a program
//! that may call helpers runs on a vCPU, the block's `frame` is that run's frame. Kernel counterpart: `struct
//! bpf_run_ctx`, include/linux/bpf.h, 6.18.

use std::cell::Cell;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use skep_text::CodeAddr;

use crate::ctx::{CtxParts, PacketRef};
use crate::engine::EngineState;
use crate::interp::Interp;
use crate::map::{Access, MapRef};
use crate::program::ProgInner;

/// Offset of the block in every vCPU's region: the first allocation of a fresh set.
pub(crate) const BLOCK_OFF: u64 = 64;
/// Offset of the tail-call counter (`u32`) from the vCPU's base.
pub(crate) const TAIL_CALLS_OFF: u64 = BLOCK_OFF + offset_of!(CpuBlock, tail_calls) as u64;
/// Offset of the words that an exception travels in, from the vCPU's base; see `skep_verifier::RewriteOptions::thrown`.
#[expect(clippy::cast_possible_truncation, reason = "a small offset")]
pub const EXCEPTION_WORDS: i32 = (BLOCK_OFF + offset_of!(CpuBlock, exception) as u64) as i32;
/// Offset of the word that says where a helper was called from, from the vCPU's base; see [`Run::called_from_code`].
pub(crate) const CALLER_OFF: u64 = BLOCK_OFF + offset_of!(CpuBlock, caller) as u64;
/// Tail calls of one run at most (`MAX_TAIL_CALL_CNT`).
pub(crate) const MAX_TAIL_CALLS: u32 = 33;

/// Locks that a vCPU remembers to hold, to notice deadlocks before they time out.
pub(crate) const HELD_LOCKS: usize = 16;

/// The runtime's words in a vCPU's memory. All zero is its initial state.
#[repr(C, align(64))]
pub(crate) struct CpuBlock {
    /// The run in progress.
    pub(crate) frame: Cell<*const RunFrame>,
    /// Tail calls made by the outermost program of this run.
    pub(crate) tail_calls: Cell<u32>,
    /// How deep runs nest.
    pub(crate) depth: Cell<u32>,
    /// State of the pseudo-random generator; zero until its first use.
    pub(crate) random: Cell<[u64; 2]>,
    /// What a program has thrown, and whether it has; clear but while the frames of a program are left.
    pub(crate) exception: Cell<[u64; 2]>,
    /// Objects that wait to be freed together, and how many.
    pub(crate) garbage: Cell<u64>,
    pub(crate) garbage_len: Cell<u32>,
    /// Where the helper was called that asked for it last.
    pub(crate) caller: Cell<u64>,
    /// The lock that it waits for, which other vCPUs look at; 0 for none.
    pub(crate) waits_for: AtomicU64,
    /// Locks that it holds which may refuse to be taken, as many as there is room for, and how many they are.
    pub(crate) held: [Cell<u64>; HELD_LOCKS],
    pub(crate) held_len: Cell<u32>,
}

/// One run of a program, as helpers see it.
pub(crate) struct RunFrame {
    /// The run that this one interrupted on the same vCPU.
    pub(crate) previous: *const RunFrame,
    pub(crate) engine: NonNull<EngineState>,
    /// The program that was entered; a tail call does not change it.
    pub(crate) program: NonNull<ProgInner>,
    pub(crate) ctx: CtxParts,
    /// The interpreter of this run; null in compiled code.
    pub(crate) interp: Cell<*const Interp<'static>>,
    /// How many runs this one is nested in.
    pub(crate) depth: u32,
}

impl RunFrame {
    /// A frame that is not entered yet.
    pub(crate) fn new(engine: NonNull<EngineState>, program: NonNull<ProgInner>, ctx: CtxParts) -> Self {
        Self { previous: std::ptr::null(), engine, program, ctx, interp: Cell::new(std::ptr::null()), depth: 0 }
    }
}

/// The run that a helper was called from: what `cpu_base` leads to.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    base: NonNull<u8>,
    /// Where the helper in progress will return to, if it has noted that.
    caller: Option<CodeAddr>,
}

impl Run {
    /// The run in progress on the vCPU with this base.
    ///
    /// # Safety
    /// `cpu_base` is the base of a vCPU that this thread holds, in a run that has set its frame, for as long as the value is
    /// used.
    pub(crate) unsafe fn new(cpu_base: *mut u8) -> Self {
        // SAFETY: a vCPU's base is not null (caller).
        Self { base: unsafe { NonNull::new_unchecked(cpu_base) }, caller: None }
    }

    /// As [`Run::new`], for a helper that reads where nobody has proved that it may: it knows what program calls it, which after
    /// a tail call, or in an extension, is not the one that was entered.
    ///
    /// # Safety
    /// As for `new`; and the helper has just stored its return address at [`CALLER_OFF`].
    pub(crate) unsafe fn called_from_code(cpu_base: *mut u8) -> Self {
        // SAFETY: the caller's duty.
        let run = unsafe { Self::new(cpu_base) };
        Self { caller: Some(CodeAddr(run.block().caller.get())), ..run }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn block(&self) -> &CpuBlock {
        // SAFETY: the block lies at this offset of every region of the set (engine creation checks that).
        let block = unsafe { self.base.byte_add(BLOCK_OFF as usize) }.cast::<CpuBlock>();
        // SAFETY: aligned, zero-initialised, and used by the thread that holds the vCPU alone (`new`).
        unsafe { block.as_ref() }
    }

    pub(crate) fn frame(&self) -> &RunFrame {
        // SAFETY: the run has set its frame (`new`), and the frame outlives every call made inside the run.
        unsafe { &*self.block().frame.get() }
    }

    /// The number of the vCPU.
    pub(crate) fn cpu(&self) -> u32 {
        // SAFETY: the first word of a region is the vCPU's number (crate sync).
        unsafe { self.base.cast::<u32>().read() }
    }

    pub(crate) fn engine(&self) -> &EngineState {
        // SAFETY: a program keeps its engine, and a run keeps its program.
        unsafe { self.frame().engine.as_ref() }
    }

    pub(crate) fn program(&self) -> &ProgInner {
        // SAFETY: the run entered this program, whose memory a grace period keeps.
        unsafe { self.frame().program.as_ref() }
    }

    /// The packet of this run.
    pub(crate) fn packet(&self) -> PacketRef<'_> {
        self.frame().ctx.packet()
    }

    /// Calls a callback of the program (`PSEUDO_FUNC`): a token in the interpreter, an address in compiled code.
    ///
    /// # Safety
    /// `callback` is what the running program passed to the helper that calls this.
    pub(crate) unsafe fn call_callback(&self, callback: u64, args: [u64; 5]) -> u64 {
        let [a, b, c, d, e] = args;
        if let Some(interp) = self.interp() {
            interp.callback(callback, args)
        } else {
            // SAFETY: in compiled code a callback is the address of a thunk with a helper's signature.
            let thunk = unsafe { std::mem::transmute::<usize, crate::helper::HelperFn>(callback as usize) };
            // SAFETY: the thunk belongs to the running program; the vCPU is this thread's.
            unsafe { thunk(a, b, c, d, e, self.base.as_ptr()) }
        }
    }
}

impl Run {
    /// Lets an interpreted program access memory that a helper hands out; compiled programs need no leave.
    pub(crate) fn grant(&self, start: u64, len: u64, writable: bool) {
        if let Some(interp) = self.interp() {
            interp.grant(start, len, writable);
        }
    }

    /// Takes back what was granted at `start`.
    pub(crate) fn revoke(&self, start: u64) {
        if let Some(interp) = self.interp() {
            interp.revoke(start);
        }
    }

    pub(crate) fn is_interpreted(&self) -> bool {
        self.interp().is_some()
    }

    fn interp(&self) -> Option<&Interp<'static>> {
        // SAFETY: the interpreter of the run in progress lives until the run ends.
        unsafe { self.frame().interp.get().as_ref() }
    }

    /// The compiled program that called the helper in progress, where the helper knows.
    fn running(&self) -> Option<&ProgInner> {
        // SAFETY: the run entered the code that the helper returns to, and is in it still.
        let version = unsafe { self.engine().arena()?.mark_at(self.caller?) }?;
        // SAFETY: the mark of a program's code is its version, or 0 before there is one; a run keeps what it is in.
        unsafe { std::ptr::with_exposed_provenance::<ProgInner>(version as usize).as_ref() }
    }

    /// The access that programs have to these bytes as part of a value of a map, or of a map inside of one: of the program that
    /// was entered, whose extensions get pointers from it, or of the one that runs.
    fn in_a_value(&self, address: u64, len: u64) -> impl Iterator<Item = Access> {
        let programs = [Some(self.program()), self.running()];
        let maps = programs.into_iter().flatten().flat_map(ProgInner::maps);
        let access = move |map: &MapRef| {
            let ops = map.ops();
            ops.contains(address, len).or_else(|| ops.contains_inside(address, len))
        };
        maps.filter_map(access)
    }

    /// Whether a helper may write these bytes for the run: what its context lends it, and values that it may write itself.
    pub(crate) fn may_write(&self, address: u64, len: u64) -> bool {
        let inside = |(start, end): (u64, u64)| address >= start && address <= end && len <= end - address;
        self.frame().ctx.packet_bounds().is_some_and(inside) || self.in_a_value(address, len).any(|access| access.write)
    }

    /// Whether the run may read these bytes: what a program could have read itself.
    pub(crate) fn may_read(&self, address: u64, len: u64) -> bool {
        if let Some(interp) = self.interp() {
            return interp.may_read(address, len);
        }
        let frame = self.frame();
        let inside = |start: u64, end: u64| address >= start && address <= end && len <= end - address;
        let here = 0_u8;
        // The program's stack lies between this function's and the one of whoever entered the program.
        if inside(std::ptr::from_ref(&here) as u64, std::ptr::from_ref(frame) as u64) {
            return true;
        }
        let ctx = frame.ctx.object() as u64;
        inside(ctx, ctx + u64::from(frame.ctx.readable_len()))
            || frame.ctx.packet_bounds().is_some_and(|(start, end)| inside(start, end))
            || self.in_a_value(address, len).any(|access| access.read)
    }
}

/// Makes `frame` the current one until dropped.
pub(crate) struct Entered<'a> {
    run: Run,
    frame: &'a RunFrame,
    tail_calls: u32,
}

impl<'a> Entered<'a> {
    /// # Safety
    /// This thread holds the vCPU with this base until the value is dropped; `frame` describes the run to come.
    #[inline]
    pub(crate) unsafe fn new(base: NonNull<u8>, frame: &'a mut RunFrame) -> Self {
        // SAFETY: the vCPU is held (caller); `frame` is published below before anything reads it.
        let run = unsafe { Run::new(base.as_ptr()) };
        let block = run.block();
        frame.previous = block.frame.get();
        frame.depth = block.depth.get();
        let tail_calls = block.tail_calls.replace(0);
        block.frame.set(std::ptr::from_ref(frame));
        block.depth.set(frame.depth + 1);
        Self { run, frame, tail_calls }
    }
}

impl Entered<'_> {
    /// Says that the run is interpreted.
    pub(crate) fn interpreting(&self, interp: &Interp<'_>) {
        // The lifetime is only that of the run, which the frame does not outlive.
        self.frame.interp.set(std::ptr::from_ref(interp).cast());
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        let block = self.run.block();
        block.frame.set(self.frame.previous);
        block.depth.set(self.frame.depth);
        block.tail_calls.set(self.tail_calls);
    }
}
