//! What the store counts, and the failures that nobody was told of yet.
#![forbid(unsafe_code)]

use crate::error::{FailedClosure, IoError};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Sums since the store was opened. Statistics order nothing: all accesses are relaxed.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: Counter),* }
    };
}

counters! {
    /// Blocks stored or gathered.
    blocks_written,
    /// Payload bytes of those.
    bytes_written,
    /// Writes that found their content there and verified.
    duplicates,
    /// Files that were recycled.
    turns,
    /// Blocks that were live in a file when it was recycled.
    blocks_recycled,
    /// Blocks that were proven bad, each once.
    corrupted,
    /// Closures that failed, and gathered blocks whose store failed.
    failed,
    /// Of those: closures that panicked.
    failed_panicked,
    /// Of those: closures that wrote other bytes than they had promised.
    failed_wrong_hash,
    /// Of those: blocks that could not be stored.
    failed_io,
    /// Of those: closures that were dropped unrun.
    failed_abandoned,
    /// Reads that the disk refused, or of keys whose lane is broken.
    read_errors,
    /// Writing calls that ended with an error of the system, or of a lane that is broken.
    write_errors,
    /// Writing calls that found no space, or no place in the index, and may not forget anything.
    refused,
    /// Calls that may succeed when they are repeated.
    timeouts,
    /// Syncs of files that failed.
    sync_failures,
    /// Files of which a part could not be read for the first time.
    unreadable_files,
    /// Attempts to leave word for the next run that a sync of a file has failed, that failed themselves.
    mark_failures,
    /// Attempts to create or recycle a file, or to take a folder back, that failed.
    file_failures,
    /// Stores of blocks, or of buffers of them, that failed.
    store_failures,
    /// Waits that were longer than the limit above which they are told.
    long_waits,
    /// Closures that ran and succeeded.
    closures_run,
    /// Waits for space, for budget, or for a disk that is behind.
    waits,
    /// Tombstones written.
    removed,
    /// Times that a file came to hold, or may have, an entry of a block that failed.
    strays,
}

/// One sum.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Background failures, kept until a flush has told them.
///
/// # Invariants
///
/// 1. A flush that begins after another has reported a failure does not report it again; one that began before does.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Failures ever.
    total: Tally,
    /// As much of `total` as some flush has reported.
    reported: Tally,
    first_closure: Option<FailedClosure>,
    first_sync: Option<IoError>,
    first_refusal: Option<IoError>,
}

/// How many failures of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    blocks: u64,
    syncs: u64,
    /// Syncs, and those of `blocks` that the disk would not store.
    refusals: u64,
}

/// What a flush has to tell.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) failed: u64,
    pub(crate) first: Option<FailedClosure>,
    /// Of a sync.
    pub(crate) io: Option<IoError>,
    /// Of a sync, or of the store of a block.
    pub(crate) refusal: Option<IoError>,
}

impl Seen {
    fn refused(&mut self, error: &IoError) {
        if self.total.refusals == self.reported.refusals {
            self.first_refusal = Some(error.clone());
        }
        self.total.refusals += 1;
    }
}

impl Failures {
    pub(crate) fn block_failed(&self, reason: FailedClosure) {
        let mut seen = self.seen.lock();
        if let FailedClosure::Io(error) = &reason {
            seen.refused(error);
        }
        if seen.total.blocks == seen.reported.blocks {
            seen.first_closure = Some(reason);
        }
        seen.total.blocks += 1;
    }

    pub(crate) fn sync_failed(&self, error: IoError) {
        let mut seen = self.seen.lock();
        seen.refused(&error);
        if seen.total.syncs == seen.reported.syncs {
            seen.first_sync = Some(error);
        }
        seen.total.syncs += 1;
    }

    /// What a flush that begins now need not report any more.
    pub(crate) fn reported(&self) -> Tally {
        self.seen.lock().reported
    }

    /// Everything since `base`; reported from now on.
    pub(crate) fn report(&self, base: Tally) -> Option<Report> {
        let mut seen = self.seen.lock();
        if seen.total == base {
            return None;
        }
        let report = Report {
            failed: seen.total.blocks - base.blocks,
            first: seen.first_closure.clone().filter(|_| seen.total.blocks > base.blocks),
            io: seen.first_sync.clone().filter(|_| seen.total.syncs > base.syncs),
            refusal: seen.first_refusal.clone().filter(|_| seen.total.refusals > base.refusals),
        };
        seen.reported = seen.total;
        Some(report)
    }
}
