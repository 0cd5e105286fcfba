//! What a store counts.
#![forbid(unsafe_code)]

use crate::wheel::FileWheel;

/// Counters and sizes of a store. Sums run since it was opened.
///
/// The numbers are read one after the other: while others write, two of them need not be of the same instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks in the store now: deferred ones too, and of an earlier run those that were found so far.
    pub blocks: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Files that exist now. They are created as they are needed, or a little ahead, up to the number that was configured.
    pub files: u64,
    /// Files that wait for blocks that are still lent.
    pub draining: u64,
    /// Reads under way, and blocks that are held.
    pub lent: u64,
    /// Bytes of blocks whose closures wait to be run, and 256 bytes for each of them.
    pub pending_bytes: u64,
    /// Whether blocks of an earlier run are still being looked for.
    pub recovering: bool,
    /// Blocks written, deferred ones once their closure has run.
    pub written_blocks: u64,
    /// Payload bytes of those.
    pub written_bytes: u64,
    /// Writes that found their content there already.
    pub duplicates: u64,
    /// Tombstones written.
    pub removed: u64,
    /// Closures that ran and kept their promise.
    pub closures_run: u64,
    /// Closures that failed, and gathered blocks whose store failed: the sum of the four below.
    pub failed: u64,
    /// Closures that panicked.
    pub failed_panicked: u64,
    /// Closures that wrote bytes of another hash than was promised.
    pub failed_wrong_hash: u64,
    /// Deferred or gathered blocks that could not be stored.
    pub failed_io: u64,
    /// Closures that were dropped unrun: their file had to make room, or the store closed.
    pub failed_abandoned: u64,
    /// Stores that the disk refused: one for a block, a run of blocks, or a gather buffer.
    pub store_failures: u64,
    /// Syncs that failed; each makes its file suspect.
    pub sync_failures: u64,
    /// Files of which a part could not be read: a bad sector, or (feature `sigbus-guard`) a page of the mapping that was
    /// replaced by zeros. Each is suspect until it is made anew.
    pub unreadable_files: u64,
    /// Attempts to leave word for the next run that a sync of a file has failed, that failed themselves.
    pub mark_failures: u64,
    /// Attempts to create or recycle a file, or to take a broken folder back, that failed.
    pub file_failures: u64,
    /// Reads that ended with [`ReadError::Io`](crate::ReadError::Io), of bytes or of what is known of a block.
    pub read_errors: u64,
    /// Calls that write, or remove, and ended with [`WriteError::Io`](crate::WriteError::Io).
    pub write_errors: u64,
    /// Those that ended with [`WriteError::Full`](crate::WriteError::Full).
    pub refused: u64,
    /// Reads and writes that were told to try again: at their deadline `Busy`, `Timeout` or `AllPinned`, and `Busy` at
    /// once if more blocks of a file are held than can be counted. A write that waited for a disk which refuses its file
    /// ends as `Io` and does not count.
    pub timeouts: u64,
    /// Files that made room: each time one did.
    pub turns: u64,
    /// Blocks that were live in them.
    pub recycled_blocks: u64,
    /// Blocks whose bytes, or whose entry, did not match any more, each once.
    pub corrupted: u64,
    /// Blocks that left the index because both of their buckets were full, or found no place in it.
    pub evicted: u64,
    /// Calls that waited for space, for budget, or for a disk that is behind.
    pub waits: u64,
    /// Waits of any kind that were longer than [`report_waits`](crate::ScratchBuilder::report_waits).
    pub long_waits: u64,
    /// Events that the hook was not told, as it was too slow.
    pub events_dropped: u64,
    /// Calls of the hook that panicked.
    pub hook_panics: u64,
    /// Panics of the store's threads, and of its file source, that were caught.
    pub panics: u64,
    /// Bytes of blocks that should be in memory, by whole pages: those that were written, or read, and not released since.
    /// What is brought with a block that is read counts too.
    pub resident_bytes: u64,
    /// Bytes of memory that the index may take; it is touched as it fills, and grows with [`OnFull::Refuse`](crate::OnFull::Refuse).
    pub index_bytes: u64,
}

impl Stats {
    pub(crate) fn of(wheel: &FileWheel) -> Self {
        if wheel.is_forked() {
            return Self::default();
        }
        let (files, draining) = wheel.file_counts();
        let counters = &wheel.counters;
        Self {
            blocks: wheel.live_blocks(),
            bytes: wheel.live_bytes(),
            files,
            draining,
            lent: wheel.lent(),
            pending_bytes: wheel.pending_bytes(),
            recovering: !wheel.recovery.is_complete(),
            written_blocks: counters.blocks_written.get(),
            written_bytes: counters.bytes_written.get(),
            duplicates: counters.duplicates.get(),
            removed: counters.removed.get(),
            closures_run: counters.closures_run.get(),
            failed: counters.failed.get(),
            failed_panicked: counters.failed_panicked.get(),
            failed_wrong_hash: counters.failed_wrong_hash.get(),
            failed_io: counters.failed_io.get(),
            failed_abandoned: counters.failed_abandoned.get(),
            store_failures: counters.store_failures.get(),
            sync_failures: counters.sync_failures.get(),
            unreadable_files: counters.unreadable_files.get(),
            mark_failures: counters.mark_failures.get(),
            file_failures: counters.file_failures.get(),
            read_errors: counters.read_errors.get(),
            write_errors: counters.write_errors.get(),
            refused: counters.refused.get(),
            timeouts: counters.timeouts.get(),
            turns: counters.turns.get(),
            recycled_blocks: counters.blocks_recycled.get(),
            corrupted: counters.corrupted.get(),
            evicted: wheel.index.evictions(),
            waits: counters.waits.get(),
            long_waits: counters.long_waits.get(),
            events_dropped: wheel.events.dropped(),
            hook_panics: wheel.events.panics(),
            panics: wheel.panics.get(),
            resident_bytes: wheel.resident_bytes(),
            index_bytes: wheel.index.memory_bytes(),
        }
    }
}
