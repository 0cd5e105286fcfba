//! Room for a writer: in the active file of its lane, or in the next one, which it waits for.
//!
//! # Invariants
//!
//! 1. No wait ends later than its deadline, and it ends with the cause.
//! 2. A writer seals a file only if that has no room for it now: what was full may have begun another lap since.
//! 3. A writer that waits holds no lock, and runs closures that are queued: what makes room may wait for these.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::{FileId, PAGE_SIZE, pages_of};
use crate::error::{IoError, WriteError};
use crate::planted;
use crate::sync::MutexGuard;
use crate::wheel::cursor::NoRoom;
use crate::wheel::deadline::Deadline;
use crate::wheel::event::WaitCause;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::reserve::{Purpose, Reservation};
use crate::wheel::state::FileState;
use crate::wheel::turn::{Searched, Turn};
use crate::wheel::{FileWheel, OnFull};

/// Longest sleep of a writer that waits, between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a writer of a full lane may hope for.
enum Outlook {
    /// A file will be there, after a while.
    Wait,
    /// Nothing may give way.
    Refused { live: u64 },
    /// Every file that could make room is still being read.
    AllPinned { oldest: FileId },
    /// The keeper failed, and tries again; `now` if it has failed too often to be waited for.
    Failing { error: IoError, now: bool },
}

impl FileWheel {
    /// Reserves room in the lane, waiting for its next file if it must.
    pub(crate) fn reserve<'a>(
        &'a self,
        lane: &'a Lane,
        pages: u32,
        purpose: Purpose,
        deadline: &Deadline,
    ) -> Result<Reservation<'a>, WriteError> {
        loop {
            match self.reserve_now(lane, pages, purpose) {
                Ok(reservation) => return Ok(reservation),
                Err(full) => self.turn_from(lane, full, pages, purpose, deadline)?,
            }
        }
    }

    /// As `try_reserve`, for a block that is not gathered.
    pub(crate) fn reserve_now<'a>(
        &'a self,
        lane: &Lane,
        pages: u32,
        purpose: Purpose,
    ) -> Result<Reservation<'a>, Option<FileId>> {
        // Under the lane's lock runs of neighbours in its gather buffer are broken least.
        let _neighbours = lane.gather_now();
        self.try_reserve(lane, pages, purpose)
    }

    /// Reserves room in the active file; the file that has none is the error.
    pub(crate) fn try_reserve<'a>(
        &'a self,
        lane: &Lane,
        pages: u32,
        purpose: Purpose,
    ) -> Result<Reservation<'a>, Option<FileId>> {
        let file = self.writable_file(lane, purpose)?;
        match file.cursor.reserve(pages) {
            Ok((page, slot)) => {
                self.wake_at_marks(file, page, pages);
                Ok(Reservation::new(file, slot, page, pages))
            }
            Err(NoRoom::Sealed | NoRoom::Full) => Err(Some(file.id())),
        }
    }

    /// The file that a writer may reserve in now.
    pub(crate) fn writable_file(&self, lane: &Lane, purpose: Purpose) -> Result<&BlockFile, Option<FileId>> {
        let active = lane.active().filter(|_| !lane.has_fallen()).ok_or(None)?;
        if purpose == Purpose::Data && lane.takes_tombstones_only() {
            return Err(None);
        }
        Ok(self.table.file(active))
    }

    /// Waits until the lane has another file than the one that was `full`.
    pub(crate) fn turn_from(
        &self,
        lane: &Lane,
        full: Option<FileId>,
        pages: u32,
        purpose: Purpose,
        deadline: &Deadline,
    ) -> Result<(), WriteError> {
        // Only if it is full still (invariant 2).
        if full.is_some_and(|full| self.table.file(full).cursor.seal_if_full(pages).is_none()) {
            return Ok(());
        }
        // Hazard 25: that no file holds as much is noticed once a file was sealed for it.
        if planted::is(25) && pages > pages_of(self.size.largest_block()) {
            return Err(self.too_large(u64::from(pages) * PAGE_SIZE));
        }
        let began = Instant::now();
        let mut turn = self.turn.lock();
        turn.lanes[lane.index()].waiting += 1;
        let (mut turn, result) = self.wait_for_a_file(turn, lane, full, pages, purpose, deadline);
        // Under the lock under which the file was handed out: nobody sees a writer that waits for one more.
        turn.lanes[lane.index()].waiting -= 1;
        drop(turn);
        self.tell_wait(lane, WaitCause::Space, began);
        result
    }

    fn wait_for_a_file<'a>(
        &'a self,
        mut turn: MutexGuard<'a, Turn>,
        lane: &Lane,
        full: Option<FileId>,
        pages: u32,
        purpose: Purpose,
        deadline: &Deadline,
    ) -> (MutexGuard<'a, Turn>, Result<(), WriteError>) {
        let mut counted = false;
        if let Some(full) = full {
            self.demote(&mut turn, lane, full);
        }
        loop {
            if self.is_closed() || turn.stop {
                return (turn, Err(WriteError::Closed));
            }
            let fallen = turn.lanes[lane.index()].fallen.as_ref().map(|fallen| fallen.error.clone());
            if let Some(error) = fallen {
                return (turn, Err(WriteError::Io(error)));
            }
            if self.hand_out(&mut turn, lane, purpose) {
                return (turn, Ok(()));
            }
            let outlook = self.outlook(&turn, lane);
            if let Outlook::Refused { live } = outlook {
                return (turn, Err(WriteError::Full { needed: u64::from(pages) * PAGE_SIZE, live }));
            }
            if let Outlook::Failing { error, now: true } = outlook {
                return (turn, Err(WriteError::Io(error)));
            }
            if deadline.has_passed() {
                let error = match outlook {
                    Outlook::AllPinned { oldest } => {
                        self.counters.timeouts.add(1);
                        WriteError::AllPinned { oldest, waited: deadline.waited() }
                    }
                    Outlook::Failing { error, .. } => WriteError::Io(error),
                    Outlook::Wait | Outlook::Refused { .. } => self.timed_out(deadline),
                };
                return (turn, Err(error));
            }
            if !counted {
                self.counters.waits.add(1);
                counted = true;
            }
            self.wake_keepers();
            drop(turn);
            let ran = self.run_one_queued(lane, deadline);
            turn = self.turn.lock();
            if !ran && !self.hand_out(&mut turn, lane, purpose) {
                self.turned.wait_until(&mut turn, deadline.at().min(Instant::now() + LOOK_AGAIN));
            }
        }
    }

    fn outlook(&self, turn: &Turn, lane: &Lane) -> Outlook {
        let of_lane = &turn.lanes[lane.index()];
        if let Some(failing) = of_lane.why_no_file() {
            return Outlook::Failing { error: failing.error.clone(), now: failing.is_broken() };
        }
        if of_lane.searched < Searched::Newest || !of_lane.absent.is_empty() {
            return Outlook::Wait;
        }
        // What is not dead on the disk yet waits for that, and for nobody who reads it.
        if of_lane.draining.iter().any(|(file, _)| turn.state(*file) == FileState::Closing) {
            return Outlook::Wait;
        }
        let oldest_held = of_lane.draining.iter().min_by_key(|(_, since)| *since).map(|(file, _)| *file);
        let oldest = of_lane.order.front().map(|oldest| self.table.file(*oldest));
        let refuses = self.options.on_full == OnFull::Refuse
            && of_lane.searched >= Searched::All
            && oldest.is_some_and(|oldest| !self.is_spent(of_lane, oldest));
        match oldest_held {
            Some(oldest) if refuses || !of_lane.has_another_to_give() => Outlook::AllPinned { oldest },
            // Writers of it that are not over yet may still fail, and leave nothing in the file.
            None if refuses && oldest.is_some_and(BlockFile::is_needed) => {
                // The lane is not full: it lacks a file, which is tried again.
                if let Some(unready) = of_lane.unready.iter().min_by_key(|unready| unready.failing.is_broken()) {
                    let failing = &unready.failing;
                    return Outlook::Failing { error: failing.error.clone(), now: failing.is_broken() };
                }
                let live = of_lane.order.iter().map(|file| self.table.file(*file).live_bytes()).sum();
                Outlook::Refused { live }
            }
            _ => Outlook::Wait,
        }
    }
}
