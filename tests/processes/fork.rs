//! Forked children, and the mapping of a page at a fixed address: the only unsafe code of these tests.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant};

use crate::waiting::BOUND;

/// What a child that panicked ends with.
const PANICKED: i32 = 101;

/// A forked child of this process; killed if nobody waited for it.
#[derive(Debug)]
pub(crate) struct Child {
    number: libc::pid_t,
    is_over: bool,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Signal(i32),
}

/// It did what it was to do.
pub(crate) const WELL: End = End::Exited(0);
/// It called `abort`.
pub(crate) const ABORTED: End = End::Signal(libc::SIGABRT);

/// Forks this process; the child runs `act` and ends. It has one thread, so `act` must not wait for another.
pub(crate) fn fork(act: impl FnOnce()) -> Child {
    match fork_here() {
        Some(child) => child,
        None => end_here(act),
    }
}

/// Forks this process and returns twice: the child gets `None`.
pub(crate) fn fork_here() -> Option<Child> {
    // SAFETY: the child goes on with its one thread; its callers end it without going back to the test runner.
    match unsafe { libc::fork() } {
        0 => None,
        number if number > 0 => Some(Child { number, is_over: false }),
        _ => panic!("{}", io::Error::last_os_error()),
    }
}

/// Runs `act` in a child and ends it, without what the test runner does at an end.
pub(crate) fn end_here(act: impl FnOnce()) -> ! {
    let status = if catch_unwind(AssertUnwindSafe(act)).is_ok() { 0 } else { PANICKED };
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(status) }
}

impl Child {
    /// How it ended; it must do so in time.
    pub(crate) fn wait(mut self) -> End {
        let began = Instant::now();
        loop {
            if let Some(end) = self.look() {
                return end;
            }
            assert!(began.elapsed() < BOUND, "{self:?} hangs");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How it ended, if it has.
    pub(crate) fn look(&mut self) -> Option<End> {
        let mut status = 0;
        // SAFETY: asks about a child of this process that nobody has asked about, and stores to a local.
        let answer = unsafe { libc::waitpid(self.number, &raw mut status, libc::WNOHANG) };
        assert!(answer >= 0, "{}", io::Error::last_os_error());
        if answer == 0 {
            return None;
        }
        self.is_over = true;
        Some(if libc::WIFEXITED(status) {
            End::Exited(libc::WEXITSTATUS(status))
        } else {
            End::Signal(libc::WTERMSIG(status))
        })
    }

    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    fn kill_now(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        // SAFETY: a child of this process that nobody has waited for: its number is still its own.
        unsafe { libc::kill(self.number, libc::SIGKILL) };
        // SAFETY: the same; it is on its way out.
        unsafe { libc::waitpid(self.number, std::ptr::null_mut(), 0) };
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_now();
    }
}

/// Sets the umask of this process, which all of its threads share.
pub(crate) fn set_umask(mask: libc::mode_t) {
    // SAFETY: takes a number, and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Maps a page of this process's own exactly at `at`, where nothing may be mapped, and fills it with `byte`.
#[cfg(target_os = "linux")]
pub(crate) fn map_at(at: NonNull<u8>, byte: u8) -> io::Result<()> {
    let (kind, fixed) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::MAP_FIXED_NOREPLACE);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping that replaces none.
    let got = unsafe { libc::mmap(at.as_ptr().cast(), 4096, access, kind | fixed, -1, 0) };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    assert_eq!(got.cast(), at.as_ptr(), "the kernel knows MAP_FIXED_NOREPLACE");
    // SAFETY: the page was just mapped for writing.
    unsafe { at.as_ptr().write_bytes(byte, 4096) };
    Ok(())
}

/// Reads a byte of a page that `map_at` has mapped.
#[cfg(target_os = "linux")]
pub(crate) fn byte_at(at: NonNull<u8>) -> u8 {
    // SAFETY: mapped by `map_at`; if that is not so any more, the signal is what the test is there to find.
    unsafe { at.as_ptr().read_volatile() }
}
