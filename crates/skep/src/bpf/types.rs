//! Types of bpf(2): BPF_BTF_LOAD, and the names that a kernel's own types would have.
//!
//! Invariant: an id of [`id_of`] is the same in every engine of a build. Kernel counterpart: `btf_new_fd`,
//! `bpf_find_btf_id`, kernel/bpf/btf.c, 6.18.

use std::sync::Arc;

use skep_abi::Errno;
use skep_btf::{Btf, Kind, Rules};
use skep_runtime::kfunc;
use skep_runtime::syscall::UserMemory;

use super::attr::Attr;
use super::table::Handle;
use super::{read, write_log};
use crate::engine::Engine;

/// Where the last member ends (`btf_token_fd`).
pub(super) const END: usize = 40;
/// `BTF_MAX_SIZE`.
const MAX: u32 = 16 << 20;

impl Engine {
    pub(super) fn btf_load(&self, memory: &dyn UserMemory, attr: &Attr) -> Result<u32, Errno> {
        let size = attr.u32(16);
        if attr.u32(32) != 0 || attr.u32(36) != 0 {
            return Err(Errno::EINVAL);
        }
        if size > MAX {
            return Err(Errno::E2BIG);
        }
        let bytes = read(memory, attr.u64(0), u64::from(size))?;
        match Btf::parse_with(&bytes, Rules::Kernel) {
            Ok(btf) => self.fds().insert(Handle::Btf(Arc::new(btf))),
            Err(error) => {
                if attr.u32(24) != 0 {
                    write_log(memory, attr.u64(8), attr.u32(20), &format!("{error}\n"))?;
                }
                Err(Errno(error.errno()))
            }
        }
    }
}

/// The function whose id iterators over the elements of a map attach to.
pub(super) const MAP_ELEM: &str = "bpf_iter_bpf_map_elem";

/// The id of a type that programs refer to by name: the functions that this engine has, and what its iterators attach to.
pub(super) fn id_of(name: &str, kind: u32) -> Option<u32> {
    if kind != Kind::Func as u32 {
        return None;
    }
    let functions = kfunc::table();
    let index = match functions.iter().position(|kfunc| kfunc.name == name) {
        None if name == MAP_ELEM => functions.len(),
        index => index?,
    };
    u32::try_from(index).ok()?.checked_add(1)
}

/// The name of the function with this id.
pub(super) fn name_of(id: u32) -> Option<&'static str> {
    let (index, functions) = (usize::try_from(id).ok()?.checked_sub(1)?, kfunc::table());
    if index == functions.len() {
        return Some(MAP_ELEM);
    }
    functions.get(index).map(|kfunc| kfunc.name)
}
