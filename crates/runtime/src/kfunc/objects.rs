//! Kernel functions on objects, and on lists and trees of them.
//!
//! The rewrite passes on what the verifier learnt: the type that is made, the offset of the node or counter. Invariant: what
//! goes into a list or tree is owned by it, and what comes out by the program. Kernel counterpart: kernel/bpf/helpers.c, 6.18.

use skep_abi::Errno;

use super::int;
use crate::frame::Run;
use crate::graph::{list, tree};
use crate::helper::{entry, low};
use crate::map::HelperFn;
use crate::object;

pub(super) fn table() -> Vec<(&'static str, HelperFn)> {
    vec![
        ("bpf_obj_new_impl", entry!(new)),
        ("bpf_obj_drop_impl", entry!(drop)),
        ("bpf_refcount_acquire_impl", entry!(acquire)),
        ("bpf_list_push_front_impl", entry!(push_front)),
        ("bpf_list_push_back_impl", entry!(push_back)),
        ("bpf_list_pop_front", entry!(pop_front)),
        ("bpf_list_pop_back", entry!(pop_back)),
        ("bpf_list_front", entry!(front)),
        ("bpf_list_back", entry!(back)),
        ("bpf_rbtree_add_impl", entry!(add)),
        ("bpf_rbtree_remove", entry!(remove)),
        ("bpf_rbtree_first", entry!(first)),
        ("bpf_rbtree_root", entry!(top)),
        ("bpf_rbtree_left", entry!(left)),
        ("bpf_rbtree_right", entry!(right)),
    ]
}

unsafe fn new(run: Run, [_, ty, ..]: [u64; 5]) -> u64 {
    // SAFETY: r2 is the address of a type of the running program (rewrite).
    unsafe { object::make(&run, ty) }
}

unsafe fn drop(run: Run, [object, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an object that the program owns (prototype).
    unsafe { object::drop_in_run(&run, object) };
    0
}

unsafe fn acquire(_run: Run, [object, offset, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is an object with a count (prototype) at the offset r2 (rewrite).
    unsafe { object::acquire(object, low(offset)) }
}

/// What an insertion returns: if the object hangs somewhere already, the program's reference is dropped.
unsafe fn inserted(run: &Run, done: bool, node: u64, offset: u64) -> u64 {
    if done {
        return 0;
    }
    // SAFETY: the node lies at that offset in an object that the program owned (prototype, rewrite).
    unsafe { object::drop_in_run(run, node - offset) };
    int(Errno::EINVAL)
}

unsafe fn push_front(run: Run, [head, node, _, offset, _]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a head whose lock is held, r2 the node of an owned object (prototype).
    let done = unsafe { list::push(head, node, false) };
    // SAFETY: as above.
    unsafe { inserted(&run, done, node, offset) }
}

unsafe fn push_back(run: Run, [head, node, _, offset, _]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a head whose lock is held, r2 the node of an owned object (prototype).
    let done = unsafe { list::push(head, node, true) };
    // SAFETY: as above.
    unsafe { inserted(&run, done, node, offset) }
}

unsafe fn pop_front(_run: Run, [head, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a head whose lock is held (prototype).
    unsafe { list::pop(head, false) }
}

unsafe fn pop_back(_run: Run, [head, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a head whose lock is held (prototype).
    unsafe { list::pop(head, true) }
}

unsafe fn front(_run: Run, [head, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a head whose lock is held (prototype).
    unsafe { list::peek(head, false) }
}

unsafe fn back(_run: Run, [head, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a head whose lock is held (prototype).
    unsafe { list::peek(head, true) }
}

unsafe fn add(run: Run, [root, node, less, _, offset]: [u64; 5]) -> u64 {
    let less = |a: u64, b: u64| {
        // SAFETY: r3 is a callback of the running program (prototype).
        unsafe { run.call_callback(less, [a, b, 0, 0, 0]) != 0 }
    };
    // SAFETY: r1 is a root whose lock is held, r2 the node of an owned object (prototype); the verifier lets the callback
    // touch no tree.
    let done = unsafe { tree::add(root, node, less) };
    // SAFETY: as above.
    unsafe { inserted(&run, done, node, offset) }
}

unsafe fn remove(_run: Run, [root, node, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a root whose lock is held, r2 a node of an object that it may own (prototype).
    if unsafe { tree::remove(root, node) } { node } else { 0 }
}

unsafe fn first(_run: Run, [root, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a root whose lock is held (prototype).
    unsafe { tree::first(root) }
}

unsafe fn top(_run: Run, [root, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a root whose lock is held (prototype).
    unsafe { tree::top(root) }
}

unsafe fn left(_run: Run, [root, node, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a root whose lock is held, r2 a node of a live object (prototype).
    unsafe { tree::below(root, node, false) }
}

unsafe fn right(_run: Run, [root, node, ..]: [u64; 5]) -> u64 {
    // SAFETY: r1 is a root whose lock is held, r2 a node of a live object (prototype).
    unsafe { tree::below(root, node, true) }
}
