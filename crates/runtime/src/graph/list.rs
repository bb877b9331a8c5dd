//! `bpf_list_head`: a ring of nodes.
//!
//! Words of a head: next, previous; of a node: next, previous, owner. A head that is all zero is an empty list.

use super::{claim, get, set};

const NEXT: u64 = 0;
const PREVIOUS: u64 = 1;
const OWNER: u64 = 2;

/// # Safety
/// `head` is a list head whose lock is held.
unsafe fn init(head: u64) {
    // SAFETY: the caller's duty, here and below.
    if unsafe { get(head, NEXT) } == 0 {
        // SAFETY: as above.
        unsafe { set(head, NEXT, head) };
        // SAFETY: as above.
        unsafe { set(head, PREVIOUS, head) };
    }
}

/// # Safety
/// Both are nodes of one list, or its head, whose lock is held.
unsafe fn join(before: u64, after: u64) {
    // SAFETY: the caller's duty.
    unsafe { set(before, NEXT, after) };
    // SAFETY: as above.
    unsafe { set(after, PREVIOUS, before) };
}

/// Puts a node at one end; false if it hangs in a list already.
///
/// # Safety
/// `head` is a list head whose lock is held; `node` is a node of a live object.
pub(crate) unsafe fn push(head: u64, node: u64, back: bool) -> bool {
    // SAFETY: the caller's duty, here and below.
    if !unsafe { claim(node, OWNER) } {
        return false;
    }
    // SAFETY: as above.
    unsafe { init(head) };
    // SAFETY: as above.
    let end = unsafe { get(head, if back { PREVIOUS } else { NEXT }) };
    let (before, after) = if back { (end, head) } else { (head, end) };
    // SAFETY: as above.
    unsafe { join(before, node) };
    // SAFETY: as above.
    unsafe { join(node, after) };
    // SAFETY: as above.
    unsafe { set(node, OWNER, head) };
    true
}

/// The node at one end; 0 if the list is empty.
///
/// # Safety
/// `head` is a list head whose lock is held.
pub(crate) unsafe fn peek(head: u64, back: bool) -> u64 {
    // SAFETY: the caller's duty.
    let node = unsafe { get(head, if back { PREVIOUS } else { NEXT }) };
    if node == head { 0 } else { node }
}

/// Takes the node at one end out; 0 if the list is empty.
///
/// # Safety
/// As for [`peek`].
pub(crate) unsafe fn pop(head: u64, back: bool) -> u64 {
    // SAFETY: the caller's duty.
    let node = unsafe { peek(head, back) };
    if node != 0 {
        // SAFETY: a node of the list.
        let before = unsafe { get(node, PREVIOUS) };
        // SAFETY: as above.
        let after = unsafe { get(node, NEXT) };
        // SAFETY: as above.
        unsafe { join(before, after) };
        // SAFETY: as above.
        unsafe { release(node) };
    }
    node
}

/// # Safety
/// `node` is a node that hangs in no list any more.
unsafe fn release(node: u64) {
    for word in [NEXT, PREVIOUS, OWNER] {
        // SAFETY: the caller's duty.
        unsafe { set(node, word, 0) };
    }
}

/// Empties the list; `each` gets every node.
///
/// # Safety
/// `head` is a list head that nobody else touches.
pub(crate) unsafe fn drain(head: u64, mut each: impl FnMut(u64)) {
    loop {
        // SAFETY: the caller's duty.
        let node = unsafe { pop(head, false) };
        if node == 0 {
            return;
        }
        each(node);
    }
}
