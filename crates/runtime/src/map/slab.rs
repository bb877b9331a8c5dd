//! Nodes of one size that come and go: regions that double, and a free list.
//!
//! Invariant: a node's address is inside one region and never moves; regions go back with the slab. Who frees a node
//! that running programs may hold waits for a grace period first. Kernel counterpart: `bpf_mem_alloc` (6.18).

use skep_abi::Errno;

use super::region::{PAGE, Region};

/// A source of nodes.
pub(crate) struct Slab {
    node_size: usize,
    regions: Vec<Region>,
    /// Nodes of the last region that were handed out.
    used: usize,
    free: Vec<Node>,
}

/// The address of a node.
#[derive(Clone, Copy)]
pub(crate) struct Node(pub(crate) *mut u8);
// SAFETY: an address; who follows it answers for it.
unsafe impl Send for Node {}

impl Slab {
    pub(crate) fn new(node_size: usize) -> Slab {
        Slab { node_size: node_size.next_multiple_of(8), regions: Vec::new(), used: 0, free: Vec::new() }
    }

    /// A node; its bytes are zero or those of an earlier one.
    pub(crate) fn alloc(&mut self) -> Result<*mut u8, Errno> {
        if let Some(node) = self.free.pop() {
            return Ok(node.0);
        }
        let room = self.regions.last().map_or(0, |region| region.len() / self.node_size);
        if self.used == room {
            let bytes = match self.regions.last() {
                Some(last) => last.len() as u64 * 2,
                None => (self.node_size * 8).max(PAGE) as u64,
            };
            self.regions.push(Region::committed(bytes)?);
            self.used = 0;
        }
        let last = self.regions.last().ok_or(Errno::ENOMEM)?;
        let node = last.start().wrapping_add(self.used * self.node_size);
        self.used += 1;
        Ok(node)
    }

    /// Takes nodes back.
    pub(crate) fn free(&mut self, nodes: impl IntoIterator<Item = Node>) {
        self.free.extend(nodes);
    }

    /// The offset inside its node of `len` bytes at `addr`, if they are inside one.
    pub(crate) fn offset_in_node(&self, addr: u64, len: u64) -> Option<u64> {
        let size = self.node_size as u64;
        let offset = self.regions.iter().find_map(|region| region.offset_of(addr, len))?;
        (offset % size + len <= size).then_some(offset % size)
    }

    /// Bytes of all regions.
    pub(crate) fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.len() as u64).sum()
    }
}
