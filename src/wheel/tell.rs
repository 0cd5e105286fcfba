//! Failures as users see them: one place for each kind to be counted and told.
//!
//! # Invariants
//!
//! 1. A lane is BROKEN at once if its folder is not there, or its source panics where that stops it (see 2). It heals by
//!    one success, but for a lane of which a thread has panicked (`threads`).
//! 2. A file is tried again by itself: one that is not ready stops its lane only if no other is left to turn.
//! 3. What is told here is put into the queue of events only: no user code runs.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use crate::block::{BlockAddress, BlockHash, FileId, KeyHash, Realm};
use crate::error::{FailedClosure, IoError, WriteError};
use crate::sync::thread;
use crate::wheel::FileWheel;
use crate::wheel::deadline::Deadline;
use crate::wheel::event::{Event, WaitCause};
use crate::wheel::failing::{Failing, Unready};
use crate::wheel::lane::Lane;
use crate::wheel::slots;
use crate::wheel::turn::Turn;

impl FileWheel {
    /// The keeper of a lane has failed, with `file` if it was about one.
    pub(crate) fn lane_fails(&self, turn: &mut Turn, lane: &Lane, file: Option<FileId>, error: IoError) {
        self.counters.file_failures.add(1);
        self.lane_is_stopped(turn, lane, file, error);
    }

    fn lane_is_stopped(&self, turn: &mut Turn, lane: &Lane, file: Option<FileId>, error: IoError) {
        let of_lane = &mut turn.lanes[lane.index()];
        let was_broken = of_lane.is_broken();
        // Nobody panics for a moment, as a disk may be full for one.
        let at_once = error.panicked().is_some();
        if let Some(failing) = &mut of_lane.failing {
            failing.fails_again(error.clone(), at_once);
        } else {
            if let Some(file) = file {
                self.events.emit(|| Event::FileBroken { file, lane: lane.id(), error: error.clone() });
            }
            let failing = if at_once { Failing::broken } else { Failing::first };
            of_lane.failing = Some(failing(error.clone()));
        }
        if !was_broken && of_lane.is_broken() {
            self.tell_broken(lane, error);
        }
        self.turned.notify_all();
    }

    /// A dead file could not be made ready again (invariant 2).
    pub(crate) fn file_fails(&self, turn: &mut Turn, lane: &Lane, file: FileId, error: IoError) {
        let of_lane = &mut turn.lanes[lane.index()];
        if let Some(unready) = of_lane.unready.iter_mut().find(|unready| unready.file == file) {
            self.counters.file_failures.add(1);
            unready.failing.fails_again(error.clone(), false);
        } else {
            self.tell_unready(lane, file, error.clone());
            of_lane.unready.push(Unready { file, failing: Failing::first(error.clone()) });
        }
        if !of_lane.can_turn() {
            self.lane_is_stopped(turn, lane, None, error);
        }
        self.turned.notify_all();
    }

    /// A file is not made ready.
    pub(crate) fn tell_unready(&self, lane: &Lane, file: FileId, error: IoError) {
        self.counters.file_failures.add(1);
        self.events.emit(|| Event::FileBroken { file, lane: lane.id(), error });
    }

    /// The folder of a lane is not there, or cannot be taken back.
    pub(crate) fn folder_fails(&self, turn: &mut Turn, lane: &Lane, error: IoError) {
        self.counters.file_failures.add(1);
        let away = &mut turn.lanes[lane.index()].away;
        match away {
            Some(away) => away.fails_again(error, true),
            None => *away = Some(Failing::broken(error)),
        }
        self.turned.notify_all();
    }

    /// The folder of a lane is back, and all that the lane holds was found. If no file could be made in it meanwhile the
    /// lane is as broken as before, for that reason.
    pub(crate) fn folder_works(&self, turn: &mut Turn, lane: &Lane) {
        let of_lane = &mut turn.lanes[lane.index()];
        let Some(away) = of_lane.away.take() else { return };
        match &mut of_lane.failing {
            Some(failing) => failing.goes_on_from(&away),
            None => self.tell_healed(lane, of_lane.why_no_file(), &away),
        }
    }

    pub(crate) fn tell_broken(&self, lane: &Lane, error: IoError) {
        let folder = self.folder_of(lane.id());
        self.events.emit(|| Event::LaneBroken { lane: lane.id(), folder, error });
    }

    /// What the keeper of a lane tried has worked.
    pub(crate) fn lane_works(&self, turn: &mut Turn, lane: &Lane) {
        let of_lane = &mut turn.lanes[lane.index()];
        if let Some(failing) = of_lane.failing.take().filter(Failing::is_broken) {
            self.tell_healed(lane, of_lane.why_no_file(), &failing);
        }
    }

    /// A lane is not broken any more by what it was, unless something else is left.
    fn tell_healed(&self, lane: &Lane, left: Option<&Failing>, was: &Failing) {
        if left.is_none() {
            let folder = self.folder_of(lane.id());
            self.events.emit(|| Event::LaneHealed { lane: lane.id(), folder, after: was.lasts() });
        }
    }

    /// The result of a call that writes; its failure is counted.
    #[inline]
    pub(crate) fn counted<T>(&self, result: Result<T, WriteError>) -> Result<T, WriteError> {
        match &result {
            Err(WriteError::Io(_)) => self.counters.write_errors.add(1),
            Err(WriteError::Full { .. }) => self.counters.refused.add(1),
            _ => {}
        }
        result
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
    ///
    /// An opening that compares nothing will believe it, and with it that what is older is hidden: from now on that is in
    /// doubt, as after a store that has failed.
    pub(crate) fn tell_corrupted(&self, hash: KeyHash, address: BlockAddress) {
        let (file, slot) = (self.table.file(address.file()), address.slot());
        {
            // Counted before this is left: the other one may take the word out next, and whoever removes the key then
            // asks the counter whether the disk may hold an older version.
            let _pending = file.pending.lock();
            if file.slots.flags(slot) & slots::CONDEMNED != 0 {
                return;
            }
            file.slots.mark(slot, slots::CONDEMNED);
            self.lane_of(hash).doubt(file.generation());
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
