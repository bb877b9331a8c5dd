//! The running kernel's own types.
//!
//! Invariant: ids are those of `/sys/kernel/btf/vmlinux`, as calls of kernel functions name them.

use std::sync::OnceLock;

use skep_btf::{Btf, Kind, TypeId};

/// The id of a function of the running kernel, as a call of it names it.
#[must_use]
pub fn kernel_function(name: &str) -> Option<TypeId> {
    static KERNEL: OnceLock<Option<Btf>> = OnceLock::new();
    let read = || Btf::parse(&std::fs::read("/sys/kernel/btf/vmlinux").ok()?).ok();
    KERNEL.get_or_init(read).as_ref()?.find(name, Kind::Func)
}
