//! Descriptors: numbers for maps, programs and types, as bpf(2) hands them out.
//!
//! Invariant: a number stands for one thing until it is closed, and for no open file of the process: closing one with
//! close(2) by mistake closes nothing. Kernel counterpart: `bpf_map_new_fd`, `bpf_prog_new_fd`, kernel/bpf/syscall.c, 6.18.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_abi::Errno;
use skep_btf::Btf;
use skep_runtime::Program;
use skep_runtime::extension::Extension;
use skep_runtime::map::Map;
use skep_verifier::RecordField;

/// The first number: far above the files that a process can have open.
const FIRST: u32 = 1 << 24;
/// The most that are open at once.
const MAX: usize = 1 << 20;

/// What a descriptor stands for.
#[derive(Clone)]
pub(crate) enum Handle {
    /// A map, with the special fields of its values.
    Map(Map, Arc<[RecordField]>),
    /// A program.
    Program(Program),
    /// Types.
    Btf(Arc<Btf>),
    /// An extension in the place of a function.
    Link(#[expect(dead_code, reason = "held until the descriptor is closed")] Arc<Extension>),
}

/// The descriptors of an engine.
#[derive(Default)]
pub(crate) struct Table {
    open: Mutex<BTreeMap<u32, Handle>>,
}

impl Table {
    /// A new descriptor, the lowest that is free.
    ///
    /// # Errors
    /// `EMFILE` if there are too many.
    pub(crate) fn insert(&self, handle: Handle) -> Result<u32, Errno> {
        let mut open = self.lock();
        if open.len() >= MAX {
            return Err(Errno::EMFILE);
        }
        let mut fd = FIRST;
        // Numbers are dense from the first on, so the lowest free one is the first that is not where it would be.
        for used in open.keys() {
            if *used != fd {
                break;
            }
            fd += 1;
        }
        open.insert(fd, handle);
        Ok(fd)
    }

    /// What a descriptor stands for.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub(crate) fn get(&self, fd: u32) -> Result<Handle, Errno> {
        self.lock().get(&fd).cloned().ok_or(Errno::EBADF)
    }

    /// A map.
    ///
    /// # Errors
    /// `EBADF` if it is not open, `EINVAL` if it is something else.
    pub(crate) fn map(&self, fd: u32) -> Result<(Map, Arc<[RecordField]>), Errno> {
        match self.get(fd)? {
            Handle::Map(map, record) => Ok((map, record)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// A program.
    ///
    /// # Errors
    /// As for [`Table::map`].
    pub(crate) fn program(&self, fd: u32) -> Result<Program, Errno> {
        match self.get(fd)? {
            Handle::Program(program) => Ok(program),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Types.
    ///
    /// # Errors
    /// As for [`Table::map`].
    pub(crate) fn btf(&self, fd: u32) -> Result<Arc<Btf>, Errno> {
        match self.get(fd)? {
            Handle::Btf(btf) => Ok(btf),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Closes a descriptor; what it stood for.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub(crate) fn close(&self, fd: u32) -> Result<Handle, Errno> {
        self.lock().remove(&fd).ok_or(Errno::EBADF)
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Handle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_lowest_free_and_stand_for_one_thing() {
        let table = Table::default();
        let types = || Handle::Btf(Arc::new(skep_btf::Builder::new().finish(skep_btf::Rules::Object).unwrap()));
        let fds: Vec<u32> = (0..3).map(|_| table.insert(types()).unwrap()).collect();
        assert_eq!(fds, [FIRST, FIRST + 1, FIRST + 2]);
        assert!(table.close(FIRST + 1).is_ok());
        assert!(matches!(table.close(FIRST + 1), Err(Errno::EBADF)));
        assert!(matches!(table.map(FIRST), Err(Errno::EINVAL)));
        assert!(matches!(table.map(3), Err(Errno::EBADF)));
        assert_eq!(table.insert(types()), Ok(FIRST + 1));
        assert_eq!(table.insert(types()), Ok(FIRST + 3));
    }
}
