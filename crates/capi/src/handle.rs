//! Descriptors: the numbers that C knows maps and programs by.
//!
//! Each is a real descriptor of this process, of a file in memory of its own, so that no number means two things, and so
//! that `close` and `dup` do what they do. What a number means is found by the file behind it, not by the number: a
//! descriptor that was closed, and whose number is another file's now, is `EBADF`. For an array with `BPF_F_MMAPABLE` the
//! file holds the values, and `mmap` of the descriptor gives them. Invariant: an object stays in the table until no
//! descriptor of its file is left. Counterpart: `bpf_map_new_fd`, `bpf_prog_new_fd`, kernel/bpf/syscall.c, 6.18.

use std::collections::HashMap;
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::event::{Timespec, epoll};
use rustix::fs::{MemfdFlags, fstat, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;
use skep::{RawMap, RawProgram};
use skep_abi::Errno;
use skep_runtime::map::array::Array;

/// What a descriptor is of.
#[derive(Clone)]
pub(crate) enum Target {
    Map(RawMap),
    Program(RawProgram),
    /// The link of an iterator and the map that it walks.
    Iterator(RawProgram, RawMap),
    /// The link of an extension that is in its place.
    Extension,
}

/// Device and inode of a file.
type FileId = (u64, u64);

struct Entry {
    target: Target,
    /// Whether no [`Handle`] holds the file: then it may be gone without a word.
    loose: bool,
}

#[derive(Default)]
struct Table {
    entries: HashMap<FileId, Entry>,
    /// Loose entries that were left when it was last looked for closed ones.
    seen_loose: usize,
}

static TABLE: RwLock<Option<Table>> = RwLock::new(None);

fn read() -> RwLockReadGuard<'static, Option<Table>> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Option<Table>> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

/// An owned descriptor of a map or a program.
#[derive(Debug)]
pub(crate) struct Handle {
    file: Option<OwnedFd>,
    id: FileId,
}

impl Handle {
    /// A descriptor of a map.
    pub(crate) fn of_map(map: &RawMap) -> Result<Self, Errno> {
        let values = map.downcast::<Array>().and_then(Array::take_file);
        if let (Some(file), true) = (&values, map.object().is_frozen()) {
            seal(file.as_fd());
        }
        Self::new(Target::Map(map.clone()), values, &format!("skep-map:{}", map.name()))
    }

    /// A descriptor of a program.
    pub(crate) fn of_program(program: &RawProgram) -> Result<Self, Errno> {
        Self::new(Target::Program(program.clone()), None, &format!("skep-prog:{}", program.name()))
    }

    /// A descriptor of a link.
    pub(crate) fn of_link(target: Target) -> Result<Self, Errno> {
        Self::new(target, None, "skep-link")
    }

    fn new(target: Target, file: Option<OwnedFd>, name: &str) -> Result<Self, Errno> {
        let file = match file {
            Some(file) => file,
            None => memfd_create(name, MemfdFlags::CLOEXEC).map_err(errno)?,
        };
        let file = above_standard(file)?;
        let id = file_id(file.as_fd())?;
        write().get_or_insert_default().entries.insert(id, Entry { target, loose: false });
        Ok(Self { file: Some(file), id })
    }

    /// Another descriptor of what `fd` is of.
    pub(crate) fn duplicate(fd: c_int) -> Result<Self, Errno> {
        let file = borrowed(fd)?;
        let id = file_id(file)?;
        if !read().as_ref().is_some_and(|table| table.entries.contains_key(&id)) {
            return Err(Errno::EBADF);
        }
        Ok(Self { file: Some(fcntl_dupfd_cloexec(file, 3).map_err(errno)?), id })
    }

    /// Its number.
    pub(crate) fn number(&self) -> c_int {
        self.file.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// The file behind it.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Gives the descriptor to C, which closes it.
    pub(crate) fn into_number(mut self) -> c_int {
        let number = self.file.take().map_or(-1, IntoRawFd::into_raw_fd);
        let mut table = write();
        let table = table.get_or_insert_default();
        if let Some(entry) = table.entries.get_mut(&self.id) {
            entry.loose = true;
        }
        let loose = table.entries.values().filter(|entry| entry.loose).count();
        if loose > 2 * table.seen_loose + 32 {
            table.sweep();
        }
        number
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        drop(file);
        let mut table = write();
        let table = table.get_or_insert_default();
        if let Some(entry) = table.entries.get_mut(&self.id) {
            entry.loose = true;
        }
    }
}

/// Forgets what no descriptor is left of. Objects call it when they close.
pub(crate) fn sweep() {
    write().get_or_insert_default().sweep();
}

impl Table {
    fn sweep(&mut self) {
        // Twice, because a descriptor that moves to a lower number meanwhile is missed the first time.
        let open = [open_files(), open_files()];
        let [Some(first), Some(second)] = open else { return };
        self.entries.retain(|id, entry| !entry.loose || first.contains(id) || second.contains(id));
        self.seen_loose = self.entries.values().filter(|entry| entry.loose).count();
    }
}

/// The files that this process has open; `None` where `/proc` does not say.
fn open_files() -> Option<Vec<FileId>> {
    let listing = std::fs::read_dir("/proc/self/fd").ok()?;
    let numbers = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Some(numbers.filter_map(|number| file_id(borrowed(number).ok()?).ok()).collect())
}

/// What a number means; `EBADF` if nothing of ours.
pub(crate) fn target(fd: c_int) -> Result<Target, Errno> {
    let id = file_id(borrowed(fd)?)?;
    let table = read();
    let entry = table.as_ref().and_then(|table| table.entries.get(&id)).ok_or(Errno::EBADF)?;
    Ok(entry.target.clone())
}

/// The map with this number; `EINVAL` for a program's, as the kernel has it.
pub(crate) fn map(fd: c_int) -> Result<RawMap, Errno> {
    match target(fd)? {
        Target::Map(map) => Ok(map),
        _ => Err(Errno::EINVAL),
    }
}

/// The program with this number; `EINVAL` for a map's.
pub(crate) fn program(fd: c_int) -> Result<RawProgram, Errno> {
    match target(fd)? {
        Target::Program(program) => Ok(program),
        _ => Err(Errno::EINVAL),
    }
}

/// A descriptor of a file in memory that holds these bytes, to be read from their beginning.
pub(crate) fn of_bytes(bytes: &[u8], name: &str) -> Result<c_int, Errno> {
    use rustix::fs::SealFlags;
    use std::io::{Seek as _, Write as _};
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(errno)?;
    let mut file = std::fs::File::from(above_standard(file)?);
    let written = file.write_all(bytes).and_then(|()| file.rewind());
    written.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // A file that cannot be sealed is only less guarded.
    let _ = rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK);
    Ok(file.into_raw_fd())
}

/// Everything that has a descriptor.
pub(crate) fn targets() -> Vec<Target> {
    let table = read();
    table.iter().flat_map(|table| table.entries.values()).map(|entry| entry.target.clone()).collect()
}

/// Freezes a map, whose file nobody maps for writing any more.
pub(crate) fn freeze(fd: c_int) -> Result<(), Errno> {
    map(fd)?.freeze()?;
    seal(borrowed(fd)?);
    Ok(())
}

/// Lets nobody map a constant array's values for writing any more.
fn seal(file: BorrowedFd<'_>) {
    // A file that cannot be sealed is only less guarded.
    let _ = rustix::fs::fcntl_add_seals(file, rustix::fs::SealFlags::FUTURE_WRITE);
}

fn file_id(file: BorrowedFd<'_>) -> Result<FileId, Errno> {
    let stat = fstat(file).map_err(errno)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn borrowed<'a>(fd: c_int) -> Result<BorrowedFd<'a>, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: not -1. A number that is no descriptor, or stops being one, makes the calls that it is borrowed for fail
    // with EBADF; they read what file it is and nothing else.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Not one of the first three, which programs close and use as they are told.
fn above_standard(file: OwnedFd) -> Result<OwnedFd, Errno> {
    if file.as_raw_fd() > 2 { Ok(file) } else { fcntl_dupfd_cloexec(&file, 3).map_err(errno) }
}

/// Waits until one of the descriptors of an epoll has something, at most `timeout_ms` milliseconds, or for ever if that is
/// negative; whether one has.
pub(crate) fn wait(epoll: &OwnedFd, timeout_ms: c_int) -> Result<bool, Errno> {
    let timeout = u32::try_from(timeout_ms)
        .ok()
        .map(|ms| Timespec { tv_sec: i64::from(ms / 1000), tv_nsec: i64::from(ms % 1000) * 1_000_000 });
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    Ok(epoll::wait(epoll, &mut events, timeout.as_ref()).map_err(errno)? != 0)
}

pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}
