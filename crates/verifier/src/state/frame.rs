//! One function's registers and stack, and the whole state of a path.
//!
//! Owns frames, references and locks. Frames are shared between states until written (`Rc::make_mut`), which keeps a waiting
//! branch to a few pointers. Kernel counterpart: `struct bpf_func_state`, `struct bpf_verifier_state`, 6.18.

use std::rc::Rc;

use super::bounds::Interval;
use super::reg::{Extra, GAVE_AWAY, Reg};
use super::stack::{ByteKind, Slot};

/// Registers r0-r10.
pub const REGS: usize = 11;
/// Frames of a call chain (`MAX_CALL_FRAMES`).
pub const MAX_FRAMES: usize = 8;

/// What a callback is run by, which decides its arguments and the value it may return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Callback {
    /// `bpf_for_each_map_elem`.
    ForEach,
    /// `bpf_loop`.
    Loop,
    /// `bpf_timer_set_callback`.
    Timer,
    /// `bpf_find_vma`.
    FindVma,
    /// `bpf_user_ringbuf_drain`.
    UserRingbuf,
    /// `bpf_rbtree_add`.
    Rbtree,
    /// `bpf_wq_set_callback`.
    Workqueue,
    /// Set as the exception callback.
    Exception,
}

/// One function on the call chain.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// r0-r10.
    pub regs: [Reg; REGS],
    /// Slot 0 is at `fp-8`.
    pub stack: Vec<Slot>,
    /// Its number, 0 for the program itself.
    pub number: u8,
    /// Slot of the call instruction in the caller.
    pub callsite: u32,
    /// Index of the subprogram.
    pub subprog: u32,
    /// Number of this entry of an asynchronous callback.
    pub async_entry: u32,
    /// Values that a callback may return.
    pub callback_ret: Interval<i64>,
    /// It runs as a synchronous callback.
    pub callback: Option<Callback>,
    /// Locks that were held when it was entered as one.
    pub locks_before: u32,
    /// It runs as an asynchronous callback.
    pub in_async: bool,
    /// It runs as the exception callback.
    pub in_exception: bool,
    /// Times the callback of the current call was entered on this path.
    pub callback_depth: u32,
}

impl Frame {
    /// A fresh frame with nothing but its frame pointer.
    #[must_use]
    pub fn new(callsite: u32, number: u8, subprog: u32) -> Self {
        let mut regs = [Reg::NOT_INIT; REGS];
        regs[10] = Reg::stack(number);
        Self {
            regs,
            stack: Vec::new(),
            number,
            callsite,
            subprog,
            async_entry: 0,
            callback_ret: Interval { min: 0, max: 0 },
            callback: None,
            locks_before: 0,
            in_async: false,
            in_exception: false,
            callback_depth: 0,
        }
    }

    /// Grows the stack so that slot `index` exists.
    pub fn grow(&mut self, index: usize) {
        if self.stack.len() <= index {
            self.stack.resize(index + 1, Slot::EMPTY);
        }
    }
}

/// What a path must give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefKind {
    /// A pointer.
    Ptr,
    /// A spin lock on the object with this identity (map or BTF object and register id).
    Lock {
        /// Identity of the locked object.
        object: Extra,
    },
    /// A lock that may refuse to be taken, on the object with this identity.
    ResLock {
        /// Identity of the locked object.
        object: Extra,
        /// Taken with interrupts off.
        irq: bool,
    },
    /// Saved interrupt flags.
    Irq,
}

impl RefKind {
    /// Whether it is a lock of any kind.
    #[must_use]
    pub const fn is_lock(self) -> bool {
        matches!(self, Self::Lock { .. } | Self::ResLock { .. })
    }
}

/// An outstanding reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reference {
    /// What it is.
    pub kind: RefKind,
    /// Its id, as in the registers' `ref_obj_id`.
    pub id: u32,
    /// Where it was taken.
    pub insn: u32,
}

/// References and critical sections of a path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resources {
    /// In order of acquisition.
    pub refs: Vec<Reference>,
    /// Locks held.
    pub locks: u32,
    /// `bpf_preempt_disable` depth.
    pub preempt: u32,
    /// The newest saved interrupt flags, 0 for none.
    pub irq: u32,
    /// Inside `bpf_rcu_read_lock`.
    pub rcu: u32,
}

impl Resources {
    /// Whether this reference is outstanding.
    #[must_use]
    pub fn holds(&self, id: u32) -> bool {
        self.refs.iter().any(|r| r.id == id && r.kind == RefKind::Ptr)
    }
}

/// A register or stack slot among linked scalars.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linked {
    /// Frame number.
    pub frame: u8,
    /// Register number, or slot index with `is_reg` false.
    pub at: u8,
    /// Register rather than stack slot.
    pub is_reg: bool,
}

/// One step of the way from the last kept state.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// Slot executed.
    pub insn: u32,
    /// Slot executed before it.
    pub prev: u32,
    /// A spill or fill of this frame and slot.
    pub stack: Option<(u8, u8)>,
    /// The scalars that this conditional jump narrowed together.
    pub linked: Option<Rc<[Linked]>>,
    /// The jump's source is a stack pointer.
    pub src_is_stack: bool,
    /// The jump's destination is a stack pointer.
    pub dst_is_stack: bool,
}

/// A path's state at one instruction.
#[derive(Clone, Debug)]
pub struct State {
    /// The call chain, outermost first; never empty.
    pub frames: Vec<Rc<Frame>>,
    /// References and sections; shared until written.
    pub res: Rc<Resources>,
    /// Executed speculatively only.
    pub speculative: bool,
    /// The program may sleep here.
    pub sleepable: bool,
    /// Times `may_goto` was taken.
    pub may_goto_depth: u32,
    /// Nesting of unrolled callbacks.
    pub callback_unroll_depth: u32,
    /// Slot this state is at.
    pub insn: u32,
    /// First slot since the last kept state.
    pub first_insn: u32,
    /// Slot executed last before the current one.
    pub last_insn: u32,
    /// Steps since the last kept state.
    pub history: Vec<Step>,
    /// The kept state this path came from.
    pub parent: Option<u32>,
    /// Branches of this state that are still to be explored.
    pub branches: u32,
    /// Kept states between the start and here.
    pub dfs_depth: u32,
    /// Dead registers and slots have been forgotten.
    pub cleaned: bool,
    /// Every scalar of it and of the states before it is precise.
    pub all_precise: bool,
    /// Its place in the recording.
    #[cfg(feature = "shadow")]
    pub node: Option<u32>,
}

impl State {
    /// A state whose chain is one fresh frame.
    #[must_use]
    pub fn new(subprog: u32, insn: u32) -> Self {
        Self {
            frames: vec![Rc::new(Frame::new(u32::MAX, 0, subprog))],
            res: Rc::new(Resources::default()),
            speculative: false,
            sleepable: false,
            may_goto_depth: 0,
            callback_unroll_depth: 0,
            insn,
            first_insn: insn,
            last_insn: u32::MAX,
            history: Vec::new(),
            parent: None,
            branches: 1,
            dfs_depth: 0,
            cleaned: false,
            all_precise: false,
            #[cfg(feature = "shadow")]
            node: None,
        }
    }

    /// A placeholder without frames, while the real state is in use elsewhere.
    #[must_use]
    pub fn hollow() -> Self {
        Self { frames: Vec::new(), ..Self::new(0, 0) }
    }

    /// Number of the running frame.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.frames.len().saturating_sub(1)
    }

    /// The running frame.
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.frames[self.frames.len() - 1]
    }

    /// The running frame, to be written.
    pub fn frame_mut(&mut self) -> &mut Frame {
        let last = self.frames.len() - 1;
        Rc::make_mut(&mut self.frames[last])
    }

    /// A frame of the chain, to be written.
    pub fn frame_at_mut(&mut self, frame: usize) -> &mut Frame {
        Rc::make_mut(&mut self.frames[frame])
    }

    /// References and sections, to be written.
    pub fn res_mut(&mut self) -> &mut Resources {
        Rc::make_mut(&mut self.res)
    }

    /// Slot at which `frame` stands: its call instruction, or the current one.
    #[must_use]
    pub fn frame_insn(&self, frame: usize) -> u32 {
        self.frames.get(frame + 1).map_or(self.insn, |inner| inner.callsite)
    }

    /// Slices of this record are of nothing any more.
    pub fn lose_slices_of(&mut self, lost: u32) {
        self.for_each_reg(
            |r| matches!(r.extra, Extra::Slice { record, .. } if record == lost),
            |r| {
                if let Extra::Slice { record, .. } = &mut r.extra {
                    *record = GAVE_AWAY;
                }
            },
        );
    }

    /// Calls `f` for every register and every spilled register of the chain.
    pub fn for_each_reg(&mut self, mut f: impl FnMut(&Reg) -> bool, mut set: impl FnMut(&mut Reg)) {
        for frame in &mut self.frames {
            let hit =
                frame.regs.iter().any(&mut f) || frame.stack.iter().any(|s| s.bytes[7] == ByteKind::Spill && f(&s.reg));
            if !hit {
                continue;
            }
            let frame = Rc::make_mut(frame);
            for reg in &mut frame.regs {
                if f(reg) {
                    set(reg);
                }
            }
            for slot in &mut frame.stack {
                if slot.bytes[7] == ByteKind::Spill && f(&slot.reg) {
                    set(&mut slot.reg);
                }
            }
        }
    }
}
