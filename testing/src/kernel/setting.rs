//! A setting of the machine that is changed for a while, and put back whatever becomes of this process.
//!
//! Another process waits for the end of this one or of the while, whichever is first, and puts the setting back. Invariant: the
//! file stays locked until that is done, so that two of them do not restore each other's value.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// While it lives, a file has another value.
#[derive(Debug)]
pub(super) struct Setting {
    /// The watcher sees its end, closed by us or with this process.
    alive: Option<OwnedFd>,
    watcher: libc::pid_t,
}

impl Setting {
    /// Writes `value` into the file.
    ///
    /// # Errors
    /// The file cannot be locked, read or written, or no process made that would put it back.
    pub(super) fn hold(path: &Path, value: &str) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).open(path)?;
        file.lock()?;
        let mut before = String::new();
        file.read_to_string(&mut before)?;
        let mut ends = [0; 2];
        // SAFETY: the call fills in two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let gone = unsafe { OwnedFd::from_raw_fd(ends[0]) };
        // SAFETY: as above.
        let alive = unsafe { OwnedFd::from_raw_fd(ends[1]) };
        // SAFETY: the child calls nothing but `watch`, which makes system calls only: whatever other threads of this process
        // were doing, no lock of theirs matters to it.
        let watcher = unsafe { libc::fork() };
        if watcher == 0 {
            watch(file.as_raw_fd(), gone.as_raw_fd(), before.trim().as_bytes());
        }
        if watcher < 0 {
            return Err(io::Error::last_os_error());
        }
        // Only now is there somebody who puts it back.
        let setting = Self { alive: Some(alive), watcher };
        file.rewind()?;
        file.write_all(value.as_bytes())?;
        Ok(setting)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        drop(self.alive.take());
        let mut status = 0;
        // SAFETY: the call writes the status of our own child, which nobody else waits for.
        let ended = unsafe { libc::waitpid(self.watcher, &raw mut status, 0) };
        if ended != self.watcher || status != 0 {
            eprintln!("a setting of the machine was not put back");
        }
    }
}

/// The watcher: waits until the other end of `gone` is closed, writes `before` into `file`, and ends with 0 if that worked.
fn watch(file: i32, gone: i32, before: &[u8]) -> ! {
    // Away from the terminal, whose signals end this process's parent.
    // SAFETY: takes no arguments and changes nothing but this process's session.
    unsafe { libc::setsid() };
    let (low, high) = (file.min(gone).cast_unsigned(), file.max(gone).cast_unsigned());
    // Everything else is not ours to keep open: the other end of this pipe, and pipes of other processes.
    for (first, last) in [(0, low.checked_sub(1)), (low + 1, high.checked_sub(1)), (high + 1, Some(u32::MAX))] {
        let Some(last) = last.filter(|last| first <= *last) else { continue };
        // SAFETY: closes descriptors that this process, which does nothing but what follows, uses no more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
    let mut byte = 0u8;
    loop {
        // SAFETY: reads at most one byte, into `byte`.
        let read = unsafe { libc::read(gone, (&raw mut byte).cast(), 1) };
        if read >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    // SAFETY: writes the bytes of `before`.
    let written = unsafe { libc::pwrite(file, before.as_ptr().cast(), before.len(), 0) };
    let code = i32::from(written != isize::try_from(before.len()).unwrap_or(-1));
    // SAFETY: ends this process without its parent's exit handlers.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    /// Names the file in the process that is killed.
    const FILE: &str = "SKEP_TEST_HELD_SETTING";

    fn file(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("skep-{name}-{}", std::process::id()));
        std::fs::write(&path, "2\n").unwrap();
        path
    }

    fn wait_for(path: &Path, text: &str) {
        let started = Instant::now();
        while std::fs::read_to_string(path).unwrap() != text {
            assert!(started.elapsed() < Duration::from_secs(20), "{:?}", std::fs::read_to_string(path));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn it_is_put_back_at_the_end() {
        let path = file("held");
        for _ in 0..2 {
            let setting = Setting::hold(&path, "0").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "0\n");
            drop(setting);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn it_is_put_back_when_the_process_is_killed() {
        if let Some(path) = std::env::var_os(FILE) {
            let _held = Setting::hold(Path::new(&path), "0").unwrap();
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        let path = file("killed");
        let name = "kernel::setting::tests::it_is_put_back_when_the_process_is_killed";
        let mut holder = Command::new(std::env::current_exe().unwrap());
        let mut holder = holder.args(["--exact", name]).env(FILE, &path).stdout(Stdio::null()).spawn().unwrap();
        wait_for(&path, "0\n");
        holder.kill().unwrap();
        holder.wait().unwrap();
        wait_for(&path, "2\n");
        std::fs::remove_file(path).unwrap();
    }
}
