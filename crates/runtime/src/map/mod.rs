//! Maps: memory that programs share with each other and with user space.
//!
//! Owns: every map type (one file each), the object that a program's map pointer points at, the handle that users hold.
//! Programs look up without locks and without writing lines that others write; updates lock a bucket or less; the user
//! side works from any thread. Invariant: an address that a lookup gave a program stays mapped to the end of its run.
//! Kernel counterpart: kernel/bpf/*map*.c, hashtab.c, lpm_trie.c, ringbuf.c, syscall.c (6.18).

mod batch;
mod object;
mod ops;
mod spec;
mod user;

pub mod arena;
pub mod array;
pub mod bloom;
pub mod hash;
pub mod lpm;
pub mod map_in_map;
pub mod percpu_array;
pub mod perf_event_array;
pub mod prog_array;
pub mod queue_stack;
pub mod redirect;
pub mod ringbuf;

mod lock;
mod percpu;
mod region;
mod slab;
mod value;

pub use batch::Batch;
pub use object::{
    DATA_OFFSET, HelperFn, MAX_ENTRIES_OFFSET, Map, MapObject, MapRef, Object, map_delete_elem, map_lookup_elem,
    map_update_elem,
};
pub use ops::{Access, BatchSupport, BucketBatch, MapAccessInfo, MapFns, MapOps, RedirectTarget, Slot, Vcpu};
pub(crate) use value::copy as copy_bytes;

pub use spec::{FieldKind, MapBtf, MapInfo, MapSpec, Record, SpecialField};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod type_tests;
