//! `bpf_rb_root`: a search tree that keeps itself in shape.
//!
//! Words of a root: the topmost node; of a node: left, right, parent, owner. Programs see the order alone, so the tree is a
//! treap: a node's rank is a hash of its address, and no node ranks above its parent. Depth is logarithmic in expectation,
//! whatever the program does, since it does not choose addresses.

use super::{claim, get, set};

const TOP: u64 = 0;
const LEFT: u64 = 0;
const RIGHT: u64 = 1;
const PARENT: u64 = 2;
const OWNER: u64 = 3;

/// The rank of a node.
fn rank(node: u64) -> u64 {
    let mixed = (node ^ node >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 32
}

/// Hangs `child` (or nothing) where `old` hung below `parent` (or at the top).
///
/// # Safety
/// All are nodes of the tree, whose lock is held.
unsafe fn replace(root: u64, parent: u64, old: u64, child: u64) {
    let side = match parent {
        0 => TOP,
        // SAFETY: the caller's duty.
        _ if unsafe { get(parent, LEFT) } == old => LEFT,
        _ => RIGHT,
    };
    // SAFETY: the caller's duty.
    unsafe { set(if parent == 0 { root } else { parent }, side, child) };
    if child != 0 {
        // SAFETY: as above.
        unsafe { set(child, PARENT, parent) };
    }
}

/// Lifts `node` above its parent.
///
/// # Safety
/// `node` has a parent in the tree, whose lock is held.
unsafe fn rotate(root: u64, node: u64) {
    // SAFETY: the caller's duty, here and below.
    let parent = unsafe { get(node, PARENT) };
    // SAFETY: as above.
    let grandparent = unsafe { get(parent, PARENT) };
    // SAFETY: as above.
    let is_left = unsafe { get(parent, LEFT) } == node;
    let (side, other) = if is_left { (LEFT, RIGHT) } else { (RIGHT, LEFT) };
    // SAFETY: as above.
    let inner = unsafe { get(node, other) };
    // SAFETY: as above.
    unsafe { set(parent, side, inner) };
    if inner != 0 {
        // SAFETY: as above.
        unsafe { set(inner, PARENT, parent) };
    }
    // SAFETY: as above.
    unsafe { replace(root, grandparent, parent, node) };
    // SAFETY: as above.
    unsafe { set(node, other, parent) };
    // SAFETY: as above.
    unsafe { set(parent, PARENT, node) };
}

/// Puts a node in its place, behind those that are not greater; false if it hangs in a tree already.
///
/// # Safety
/// `root` is a tree whose lock is held; `node` is a node of a live object; `less` touches no tree.
pub(crate) unsafe fn add(root: u64, node: u64, mut less: impl FnMut(u64, u64) -> bool) -> bool {
    // SAFETY: the caller's duty, here and below.
    if !unsafe { claim(node, OWNER) } {
        return false;
    }
    let mut parent = 0;
    // SAFETY: as above.
    let mut at = unsafe { get(root, TOP) };
    let mut side = TOP;
    while at != 0 {
        parent = at;
        side = if less(node, at) { LEFT } else { RIGHT };
        // SAFETY: as above.
        at = unsafe { get(at, side) };
    }
    for (word, value) in [(LEFT, 0), (RIGHT, 0), (PARENT, parent), (OWNER, root)] {
        // SAFETY: as above.
        unsafe { set(node, word, value) };
    }
    // SAFETY: as above.
    unsafe { set(if parent == 0 { root } else { parent }, side, node) };
    loop {
        // SAFETY: as above.
        let above = unsafe { get(node, PARENT) };
        if above == 0 || rank(above) >= rank(node) {
            return true;
        }
        // SAFETY: as above.
        unsafe { rotate(root, node) };
    }
}

/// Takes a node out; false if it does not hang in this tree.
///
/// # Safety
/// `root` is a tree whose lock is held; `node` is a node of a live object.
pub(crate) unsafe fn remove(root: u64, node: u64) -> bool {
    // SAFETY: the caller's duty, here and below.
    if unsafe { get(node, OWNER) } != root {
        return false;
    }
    loop {
        // SAFETY: as above.
        let left = unsafe { get(node, LEFT) };
        // SAFETY: as above.
        let right = unsafe { get(node, RIGHT) };
        if left == 0 || right == 0 {
            // SAFETY: as above.
            let parent = unsafe { get(node, PARENT) };
            // SAFETY: as above.
            unsafe { replace(root, parent, node, left | right) };
            break;
        }
        // SAFETY: as above.
        unsafe { rotate(root, if rank(left) >= rank(right) { left } else { right }) };
    }
    for word in [LEFT, RIGHT, PARENT, OWNER] {
        // SAFETY: as above.
        unsafe { set(node, word, 0) };
    }
    true
}

/// The first node; 0 if the tree is empty.
///
/// # Safety
/// `root` is a tree whose lock is held.
pub(crate) unsafe fn first(root: u64) -> u64 {
    // SAFETY: the caller's duty.
    let mut node = unsafe { get(root, TOP) };
    if node == 0 {
        return 0;
    }
    loop {
        // SAFETY: a node of the tree.
        let left = unsafe { get(node, LEFT) };
        if left == 0 {
            return node;
        }
        node = left;
    }
}

/// The topmost node, or 0.
///
/// # Safety
/// As for [`first`].
pub(crate) unsafe fn top(root: u64) -> u64 {
    // SAFETY: the caller's duty.
    unsafe { get(root, TOP) }
}

/// The node below `node` on one side; 0 if there is none, or `node` does not hang in this tree.
///
/// # Safety
/// As for [`remove`].
pub(crate) unsafe fn below(root: u64, node: u64, right: bool) -> u64 {
    // SAFETY: the caller's duty, here and below.
    if unsafe { get(node, OWNER) } != root {
        return 0;
    }
    // SAFETY: as above.
    unsafe { get(node, if right { RIGHT } else { LEFT }) }
}

/// Empties the tree; `each` gets every node.
///
/// # Safety
/// `root` is a tree that nobody else touches.
pub(crate) unsafe fn drain(root: u64, mut each: impl FnMut(u64)) {
    loop {
        // SAFETY: the caller's duty.
        let node = unsafe { first(root) };
        if node == 0 {
            return;
        }
        // SAFETY: a node of the tree.
        unsafe { remove(root, node) };
        each(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node and its key.
    #[repr(C, align(8))]
    struct Item([u64; 4], u64);

    fn address<T>(of: &T) -> u64 {
        std::ptr::from_ref(of).expose_provenance() as u64
    }

    fn key(node: u64) -> u64 {
        // SAFETY: a node of an `Item`, whose key lies behind it.
        unsafe { get(node, 4) }
    }

    /// Parents, order and ranks below `node`; how deep it is.
    fn check(node: u64, parent: u64) -> usize {
        if node == 0 {
            return 0;
        }
        // SAFETY: a node of the tree.
        let [left, right, above] = [LEFT, RIGHT, PARENT].map(|word| unsafe { get(node, word) });
        assert_eq!(above, parent);
        assert!(parent == 0 || rank(parent) >= rank(node));
        assert!(left == 0 || key(left) <= key(node));
        assert!(right == 0 || key(right) >= key(node));
        1 + check(left, node).max(check(right, node))
    }

    #[test]
    fn keeps_order_and_shape() {
        let items: Vec<Item> = (0..2000).map(|i| Item([0; 4], i * 7919 % 2003)).collect();
        let root = [0u64; 2];
        let root = address(&root);
        for item in &items {
            // SAFETY: the nodes outlive the tree, and nobody else has it.
            assert!(unsafe { add(root, address(item), |a, b| key(a) < key(b)) });
        }
        // SAFETY: as above.
        assert!(!unsafe { add(root, address(&items[0]), |_, _| false) }, "it hangs in a tree");
        // SAFETY: as above.
        let depth = check(unsafe { top(root) }, 0);
        assert!(depth < 64, "{depth}");
        for item in items.iter().step_by(3) {
            // SAFETY: as above.
            assert!(unsafe { remove(root, address(item)) });
            // SAFETY: as above.
            assert!(!unsafe { remove(root, address(item)) }, "it hangs in none");
        }
        // SAFETY: as above.
        check(unsafe { top(root) }, 0);
        let mut keys = Vec::new();
        // SAFETY: as above.
        unsafe { drain(root, |node| keys.push(key(node))) };
        assert_eq!(keys.len(), 2000 - 667);
        assert!(keys.is_sorted());
    }
}
