//! Which process this is. A forked child has the memory of its parent, but neither its threads nor its mappings: it must
//! know what it is before it touches what it inherited.
//!
//! # Invariants
//!
//! 1. A [`Process`] is current in the process that asked for it and in none that was forked from that one.
//! 2. Telling takes no lock: a thread that is not there any more may have held it when the child was forked.

#[cfg(all(target_os = "linux", not(any(loom, miri))))]
use self::mark as way;
#[cfg(not(all(target_os = "linux", not(any(loom, miri)))))]
use self::number as way;

/// The process that asked for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(way::Id);

impl Process {
    /// The process that asks.
    pub(crate) fn current() -> Self {
        Self(way::current())
    }

    /// Whether this process is the one that asked for `self`, and no child forked from it.
    ///
    /// On Linux a load and a comparison; elsewhere, and where the kernel wipes no page at a fork, a system call.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        way::is_current(self.0)
    }

    /// As an error of the system, for what cannot say it otherwise.
    pub(crate) fn check(self) -> std::io::Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let problem = "this is a forked child of the process that opened the store: open a store of its own here";
        Err(std::io::Error::other(problem))
    }

    /// Ends a forked child that returned from a closure into a store of its parent: there is nothing to return to, as
    /// the store has no threads here and may be locked for ever.
    pub(crate) fn end_if_forked(self) {
        if !self.is_current() {
            eprintln!(
                "scratchspace: a closure of a store was left in a forked child; end the child inside the closure"
            );
            std::process::abort();
        }
    }
}

/// A number that the kernel wipes from a child's memory.
#[cfg(all(target_os = "linux", not(any(loom, miri))))]
mod mark {
    use std::ptr;

    use memmap2::{MmapMut, MmapRaw};

    use super::number;
    use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    /// Each process finds its own number in the mark, or puts one there; the process number where there is no mark.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Id {
        mark: Option<&'static AtomicU64>,
        number: u64,
    }

    /// The first word of the page that is zero in a forked child; null until somebody asks.
    static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
    /// The last number that was taken. A child goes on from there, so that none it inherited is its own.
    static LAST: AtomicU64 = AtomicU64::new(0);

    pub(super) fn current() -> Id {
        let Some(mark) = mark() else { return Id { mark: None, number: number::current().into() } };
        // Relaxed here and below: the number is all there is to see.
        let found = mark.load(Ordering::Relaxed);
        if found != 0 {
            return Id { mark: Some(mark), number: found };
        }
        let mine = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let taken = mark.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed);
        Id { mark: Some(mark), number: taken.map_or_else(|other| other, |_| mine) }
    }

    #[inline]
    pub(super) fn is_current(id: Id) -> bool {
        match id.mark {
            Some(mark) => mark.load(Ordering::Relaxed) == id.number,
            None => u64::from(number::current()) == id.number,
        }
    }

    /// The page of this process; `None` if the kernel knows no such pages (before Linux 4.14) or has no memory.
    fn mark() -> Option<&'static AtomicU64> {
        // Acquire pairs with the Release below: whoever sees the page sees it advised.
        let mut mark = MARK.load(Ordering::Acquire);
        if mark.is_null() {
            let page = wiped_at_fork()?;
            let mine: *mut AtomicU64 = page.as_mut_ptr().cast();
            match MARK.compare_exchange(ptr::null_mut(), mine, Ordering::Release, Ordering::Acquire) {
                Ok(_) => {
                    std::mem::forget(page);
                    mark = mine;
                }
                Err(others) => mark = others,
            }
        }
        // SAFETY: a page of zeros that is never unmapped, begins on a page and is reached through atomics only.
        Some(unsafe { &*mark })
    }

    fn wiped_at_fork() -> Option<MmapRaw> {
        let page = MmapRaw::from(MmapMut::map_anon(super::super::page_size()).ok()?);
        let advice = rustix::mm::Advice::LinuxWipeOnFork;
        // SAFETY: the range is all of a mapping that is alive and holds nothing yet.
        unsafe { rustix::mm::madvise(page.as_mut_ptr().cast(), page.len(), advice) }.ok()?;
        Some(page)
    }
}

/// The process number of the system. A child may get the number of an ancestor only after that one has ended.
mod number {
    #[cfg(not(all(target_os = "linux", not(any(loom, miri)))))]
    pub(super) type Id = u32;

    pub(super) fn current() -> u32 {
        std::process::id()
    }

    #[cfg(not(all(target_os = "linux", not(any(loom, miri)))))]
    pub(super) fn is_current(id: Id) -> bool {
        current() == id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stays_current_in_all_of_its_threads() {
        let process = Process::current();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || process.is_current())).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        assert!(Process::current().is_current() && process.is_current());
        process.check().unwrap();
        process.end_if_forked();
    }

    #[test]
    #[cfg(all(target_os = "linux", not(any(loom, miri))))]
    fn a_forked_child_is_another_process_and_so_is_its_child() {
        let process = Process::current();
        let children = forked(|| {
            let inherited = process.is_current();
            let mine = Process::current();
            let of_grandchild =
                forked(|| process.is_current() || mine.is_current() || !Process::current().is_current());
            inherited || !mine.is_current() || of_grandchild || !mine.is_current()
        });
        assert!(!children);
        assert!(process.is_current());
    }

    /// What `tell` answers in a forked child.
    #[cfg(all(target_os = "linux", not(any(loom, miri))))]
    fn forked(tell: impl FnOnce() -> bool) -> bool {
        // SAFETY: `tell` takes no lock and allocates nothing, so that it needs no other thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = tell();
            // SAFETY: ends the child at once, without what the test runner does at an end.
            unsafe { libc::_exit(i32::from(told)) };
        }
        assert!(child > 0, "{}", std::io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: waits for the child of this process, and stores to a local.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status != 0
    }
}
