//! Failures as users see them: what makes a lane BROKEN, and one place for each kind to be counted and told.
//!
//! # Invariants
//!
//! 1. A lane whose keeper fails is BROKEN from its third failure in a row on, or at once if its folder is not there
//!    or its source panics: before that writers wait, from then on they get the error without a wait. It heals by one
//!    success, but for a lane of which a thread has panicked (`threads`).
//! 2. What is told here is put into the queue of events only: no user code runs.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::block::{BlockAddress, BlockHash, FileId, Realm};
use crate::error::{FailedClosure, IoError, WriteError};
use crate::sync::thread;
use crate::wheel::FileWheel;
use crate::wheel::event::{Event, WaitCause};
use crate::wheel::lane::Lane;
use crate::wheel::pending::Deadline;
use crate::wheel::slots;
use crate::wheel::turn::Turn;

/// After a first failure, the same is tried again this much later, then after twice as long each time.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest time between two tries.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// So many failures in a row make a lane BROKEN.
const BROKEN_AFTER: u32 = 3;

/// How long after so many failures in a row, at least one, the same is tried again.
pub(crate) fn back_off(failures: u32) -> Duration {
    (BACK_OFF * (1 << failures.min(10)) / 2).min(LONGEST_BACK_OFF)
}

/// Why a lane gets no file, and when that is tried again.
#[derive(Clone, Debug)]
pub(crate) struct Failing {
    /// The newest failure.
    pub(crate) error: IoError,
    /// When the first one of the row was.
    pub(crate) since: SystemTime,
    began: Instant,
    pub(crate) attempts: u32,
    again: Instant,
    is_broken: bool,
}

impl Failing {
    /// Nothing has to be tried again to know it.
    pub(crate) fn broken(error: IoError) -> Self {
        let mut failing = Self::first(error);
        failing.is_broken = true;
        failing
    }

    fn first(error: IoError) -> Self {
        let now = Instant::now();
        let (since, again) = (SystemTime::now(), now + back_off(1));
        Self { error, since, began: now, attempts: 1, again, is_broken: false }
    }

    /// One more failure; whether the lane has become BROKEN by it.
    fn fails_again(&mut self, error: IoError, at_once: bool) -> bool {
        self.error = error;
        self.attempts = self.attempts.saturating_add(1);
        self.again = Instant::now() + back_off(self.attempts);
        let breaks = !self.is_broken && (at_once || self.attempts >= BROKEN_AFTER);
        self.is_broken |= breaks;
        breaks
    }

    /// Whether writers get the error now, without a wait (invariant 1).
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether the next try is not due yet.
    pub(crate) fn holds_back(&self, now: Instant) -> bool {
        now < self.again
    }
}

impl FileWheel {
    /// The keeper of a lane has failed, with `file` if it was about one.
    pub(crate) fn lane_fails(&self, turn: &mut Turn, lane: &Lane, file: Option<FileId>, error: IoError) {
        self.counters.file_failures.add(1);
        let failing = &mut turn.lanes[lane.index()].failing;
        // Nobody panics for a moment, as a disk may be full for one.
        let at_once = error.panicked().is_some();
        let breaks = if let Some(failing) = failing {
            failing.fails_again(error.clone(), at_once)
        } else {
            if let Some(file) = file {
                self.events.emit(|| Event::FileBroken { file, lane: lane.id(), error: error.clone() });
            }
            *failing = Some(Failing { is_broken: at_once, ..Failing::first(error.clone()) });
            at_once
        };
        if breaks {
            self.tell_broken(lane, error);
        }
        self.turned.notify_all();
    }

    pub(crate) fn tell_broken(&self, lane: &Lane, error: IoError) {
        let folder = self.folder_of(lane.id());
        self.events.emit(|| Event::LaneBroken { lane: lane.id(), folder, error });
    }

    /// What the keeper of a lane tried has worked.
    pub(crate) fn lane_works(&self, turn: &mut Turn, lane: &Lane) {
        let of_lane = &mut turn.lanes[lane.index()];
        if let Some(failing) = of_lane.failing.take().filter(Failing::is_broken)
            && of_lane.fallen.is_none()
        {
            let folder = self.folder_of(lane.id());
            self.events.emit(|| Event::LaneHealed { lane: lane.id(), folder, after: failing.began.elapsed() });
        }
    }

    /// Why nobody knows what a lane holds.
    pub(crate) fn unknown_error(&self, lane: &Lane) -> IoError {
        let failing = self.turn.lock().lanes[lane.index()].why_no_file().map(|failing| failing.error.clone());
        failing.unwrap_or_else(|| {
            let error = io::Error::other("the folder is back, and its blocks are being looked for");
            IoError::new("finding a block", self.folder_of(lane.id()).as_deref(), error)
        })
    }

    /// Where the files of a lane lie.
    pub(crate) fn folder_of(&self, lane: u16) -> Option<PathBuf> {
        let source = self.table.source();
        let file = FileId::new(lane % source.folders() + 1)?;
        Some(source.describe(file)?.parent()?.to_path_buf())
    }

    /// A block was promised and is not there.
    pub(crate) fn tell_failed(&self, realm: Realm, hash: BlockHash, reason: FailedClosure) {
        self.counters.failed.add(1);
        match &reason {
            FailedClosure::Panicked => self.counters.failed_panicked.add(1),
            FailedClosure::WrongHash { .. } => self.counters.failed_wrong_hash.add(1),
            FailedClosure::Io(_) => self.counters.failed_io.add(1),
            FailedClosure::Abandoned => self.counters.failed_abandoned.add(1),
            // Not the fate of a block: only a flush says it.
            FailedClosure::Busy { .. } => {}
        }
        self.failures.block_failed(reason.clone());
        self.events.emit(|| Event::BlockFailed { realm, hash, reason });
    }

    /// A block was proven bad; told once, however many readers prove it at the same time.
    pub(crate) fn tell_corrupted(&self, address: BlockAddress) {
        let (file, slot) = (self.table.file(address.file()), address.slot());
        {
            // Counted before this is left: the other one may take the word out next, and whoever removes the key then
            // asks the counter whether the disk may hold an older version.
            let _pending = file.pending.lock();
            if file.slots.flags(slot) & slots::CONDEMNED != 0 {
                return;
            }
            file.slots.mark(slot, slots::CONDEMNED);
            self.counters.corrupted.add(1);
        }
        self.events.emit(|| Event::BlockCorrupted { address });
    }

    /// A wait for `cause` that began at `since` is over.
    pub(crate) fn tell_wait(&self, lane: &Lane, cause: WaitCause, since: Instant) {
        let waited = since.elapsed();
        if waited > self.options.report_waits {
            self.counters.long_waits.add(1);
            self.events.emit(|| {
                let thread = thread::current().name().map(str::to_owned);
                Event::Waited { thread, lane: lane.id(), cause, waited }
            });
        }
    }

    /// The error of a write whose time is over.
    pub(crate) fn timed_out(&self, deadline: &Deadline) -> WriteError {
        self.counters.timeouts.add(1);
        WriteError::Timeout { waited: deadline.waited() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: i32) -> IoError {
        IoError::new("creating a file", None, io::Error::from_raw_os_error(number))
    }

    #[test]
    fn a_lane_breaks_at_its_third_failure_once_and_is_tried_less_and_less_often() {
        let mut failing = Failing::first(error(5));
        assert!(!failing.is_broken() && failing.holds_back(Instant::now()));
        assert!(!failing.fails_again(error(5), false) && !failing.is_broken());
        assert!(failing.fails_again(error(28), false) && failing.is_broken());
        for _ in 0..100 {
            assert!(!failing.fails_again(error(28), false), "said once");
            assert!(!failing.holds_back(Instant::now() + LONGEST_BACK_OFF));
        }
        assert_eq!((failing.error, failing.attempts), (error(28), 103));
    }

    #[test]
    fn a_folder_that_is_not_there_breaks_its_lane_at_once() {
        let mut failing = Failing::broken(error(2));
        assert!(failing.is_broken() && failing.holds_back(Instant::now()));
        assert!(!failing.fails_again(error(2), false) && failing.is_broken());
    }
}
