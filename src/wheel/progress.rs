//! How far the search for blocks of an earlier run is, what it has found, and the wait for its end.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::block::FileId;
use crate::error::IoError;
use crate::sync::{Condvar, Mutex};
use crate::wheel::deadline::Deadline;

/// What was found of an earlier run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Files whose directory was searched.
    pub files: u64,
    /// Blocks that are in the store again.
    pub blocks: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Files that were removed because the store was opened with fewer.
    pub files_dropped: u64,
    /// Files that were damaged while the store was closed: of another length, or without a header. Of one that still has a
    /// header the blocks are found that are whole, and it is suspect; of one without, none. Blocks that are lost with them
    /// are missing, or found as older versions, removed ones among them; [`Event`](crate::Event) tells each file.
    pub files_damaged: u64,
    /// What was not taken over, by reason.
    pub skipped: Skipped,
}

impl RecoveryReport {
    /// Adds what a part of the search came to.
    pub(crate) fn add(&mut self, part: &Self) {
        let Self { files, blocks, bytes, files_dropped, files_damaged, skipped } = part;
        let Skipped { invalid, misplaced, unknown, superseded, unreadable, no_room } = skipped;
        self.files += files;
        self.blocks += blocks;
        self.bytes += bytes;
        self.files_dropped += files_dropped;
        self.files_damaged += files_damaged;
        self.skipped.invalid += invalid;
        self.skipped.misplaced += misplaced;
        self.skipped.unknown += unknown;
        self.skipped.superseded += superseded;
        self.skipped.unreadable += unreadable;
        self.skipped.no_room += no_room;
    }
}

/// Entries of an earlier run that were not taken over, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Entries between valid ones that do not check: torn by a crash, or damaged.
    pub invalid: u64,
    /// Entries in a lane that is not their key's.
    pub misplaced: u64,
    /// Entries of a kind that this release does not know.
    pub unknown: u64,
    /// Versions that a newer one hides.
    pub superseded: u64,
    /// Pages of directories, and where many are bad pieces of up to 1 MiB, that the disk could not read: their blocks are
    /// missing (with [`OnFull::Refuse`](crate::OnFull::Refuse) an error), or found as older versions, until an opening that can
    /// read them.
    pub unreadable: u64,
    /// Blocks, removals and older versions that found no room in the index, and are missing (with
    /// [`OnFull::Refuse`](crate::OnFull::Refuse) an error): see [`expected_blocks`](crate::ScratchBuilder::expected_blocks).
    pub no_room: u64,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invalid, misplaced, unknown, superseded, unreadable, no_room } = self;
        write!(
            f,
            "{invalid} invalid, {misplaced} misplaced, {unknown} unknown, {superseded} superseded, {unreadable} \
             unreadable, {no_room} without room"
        )
    }
}

/// How far the search for blocks of an earlier run has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether the directory of every file that is there was searched. From then on a miss is a miss, but for blocks
    /// that only a page could name which the disk did not read ([`Skipped::unreadable`]) or that the index had no room for
    /// ([`Skipped::no_room`]), both errors with [`OnFull::Refuse`](crate::OnFull::Refuse), a part of a file that somebody
    /// else has cut off, or a file that has lost its header ([`RecoveryReport::files_damaged`]).
    ///
    /// A folder that was not there at open does not count: what is not found of its keys is an error and no miss. Once
    /// it is back this is `false` again until it was searched.
    pub complete: bool,
    /// Files whose directory is to be searched; [`RecoveryReport::files`] of them were.
    pub files_total: u64,
    /// What was found so far; final once `complete`, unless a folder comes back.
    pub report: RecoveryReport,
}

/// Why a search has not come to its end.
#[derive(Clone, Debug)]
pub(crate) enum Unrecovered {
    /// It goes on.
    NotYet,
    /// Whoever searched has panicked.
    Failed(IoError),
    /// The store was closed before.
    Closed,
}

/// Progress, and who waits for its end.
#[derive(Debug)]
pub(crate) struct RecoveryState {
    progress: Mutex<Recovery>,
    /// Why it will never be complete; set under `progress`.
    ended: Mutex<Option<Unrecovered>>,
    completed: Condvar,
    /// Files that were told as damaged, and whether they are lost.
    told: Mutex<BTreeSet<(FileId, bool)>>,
}

impl RecoveryState {
    /// Nothing is to be searched yet.
    pub(crate) fn new() -> Self {
        let progress = Recovery { complete: true, ..Recovery::default() };
        Self {
            progress: Mutex::new(progress),
            ended: Mutex::new(None),
            completed: Condvar::new(),
            told: Mutex::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> Recovery {
        self.progress.lock().clone()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.progress.lock().complete
    }

    pub(crate) fn damaged(&self, files: u64) {
        self.progress.lock().report.files_damaged += files;
    }

    /// Whether nobody was told of a file that it is lost, or that it is suspect: each try to take a folder back finds it
    /// again, until one goes well.
    pub(crate) fn is_news(&self, file: FileId, is_lost: bool) -> bool {
        self.told.lock().insert((file, is_lost))
    }

    /// So many more files are to be read, and so many were dropped: at open, and when a folder is back.
    pub(crate) fn more(&self, files: usize, dropped: usize) {
        let mut progress = self.progress.lock();
        progress.files_total += files as u64;
        progress.complete &= files == 0;
        progress.report.files_dropped += dropped as u64;
    }

    /// It will never be complete: whoever searched has panicked.
    pub(crate) fn fail(&self, error: IoError) {
        self.end(Unrecovered::Failed(error));
    }

    /// Nobody searches any more.
    pub(crate) fn close(&self) {
        self.end(Unrecovered::Closed);
    }

    fn end(&self, why: Unrecovered) {
        let progress = self.progress.lock();
        self.ended.lock().get_or_insert(why);
        drop(progress);
        self.completed.notify_all();
    }

    /// Waits for the end of recovery; the error is why there is none.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<RecoveryReport, Unrecovered> {
        let deadline = Deadline::after(timeout);
        let mut progress = self.progress.lock();
        while !progress.complete {
            if let Some(why) = self.ended.lock().clone() {
                return Err(why);
            }
            if deadline.has_passed() {
                return Err(Unrecovered::NotYet);
            }
            self.completed.wait_until(&mut progress, deadline.at());
        }
        Ok(progress.report.clone())
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut RecoveryReport)) {
        change(&mut self.progress.lock().report);
    }

    pub(crate) fn files_are_read(&self, files: u64) {
        let mut progress = self.progress.lock();
        progress.report.files += files;
        progress.complete = progress.report.files == progress.files_total;
        drop(progress);
        self.completed.notify_all();
    }
}
