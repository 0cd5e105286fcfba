//! Flush and close: nothing that was accepted is forgotten, and nothing waits for ever.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::error::{FailedClosure, FlushError, IoError, WriteError};
use crate::planted;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, has_ended};
use crate::wheel::deadline::Deadline;
use crate::wheel::file::BlockFile;
use crate::wheel::lend::FilePin;
use crate::wheel::pending::Deferred;
use crate::wheel::pin::PinWord;
use crate::wheel::run::Completion;
use crate::wheel::state::FileState;
use crate::wheel::{FileWheel, OwnedPin};

/// Sleep between two looks at what `close` waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How a close ended: what is lost, and what it does not know to be stored.
///
/// A second close has nothing left to do, and says only what is so still: `lent`, `panics`, `unmarked`, what is unfinished,
/// and as `io` the panic of a thread. One in a forked child says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Closures that waited and were run by the close, and whose blocks it stored.
    pub ran: u64,
    /// Closures that waited and were dropped, as the time was over: their blocks are lost.
    pub dropped: u64,
    /// Closures that failed and gathered blocks that the disk refused, other than `dropped`, since the last flush that
    /// said so: their blocks are lost. [`on_event`](crate::ScratchBuilder::on_event) tells which and why.
    pub failed: u64,
    /// Closures that somebody ran still when the time was over, a hung one for instance, and calls of other threads that
    /// were not over, but for those that ran such a closure: what they write is lost, or stored later and not synced.
    pub unfinished: u64,
    /// Gathered blocks, and removals, whose store had not ended when the time was over: they are lost, or stored later
    /// and not synced.
    pub unstored: u64,
    /// The first error of a disk since the last flush that said so: of a sync, so that what was written since the last
    /// one is not durable, or of the store of a block that is among `failed`; or the panic of a thread of the store.
    pub io: Option<IoError>,
    /// The close was called inside a closure of the store, or by its hook. It told the threads of the store to end and
    /// waited for nothing: `unfinished` and `unstored` are what is left to them, and nothing was synced.
    pub detached: bool,
    /// Blocks that are still lent or being read. They stay readable; the folders stay locked until the last of them is
    /// dropped.
    pub lent: u64,
    /// Panics of the store's threads, and of its file source, that were caught since it was opened. What they cost is told
    /// by the fields above.
    pub panics: u64,
    /// Suspect files that could not be marked: the next run takes them for sound ones, and lends what the system holds of
    /// them in memory, which may be lost from there. Restart the system, or [`reset`](crate::ScratchBuilder::reset).
    pub unmarked: u64,
}

impl CloseReport {
    /// Whether the close has made all durable that was written, but for what an earlier flush has told to be lost, and has
    /// left word for the next run of each file of which something may be lost.
    ///
    /// Blocks that are still [`lent`](Self::lent) do no harm.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let lost = self.dropped + self.failed + self.unfinished + self.unstored;
        lost == 0 && self.unmarked == 0 && self.io.is_none() && !self.detached
    }
}

/// Why a call was refused before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Closed,
    Reentrant,
    Forked,
}

/// Admits one writing call; `close` waits until all of them are over.
pub(crate) struct Call<'a> {
    wheel: &'a FileWheel,
    word: PinWord,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.wheel.calls.unpin(self.word);
    }
}

impl FileWheel {
    /// Whether this is a child forked from the process that opened the store: it has no thread and no mapping of the
    /// store, and whatever was locked at the fork stays so for ever.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        !self.table.process().is_current()
    }

    /// Admits a writing call.
    pub(crate) fn begin_call(&self) -> Result<Call<'_>, Refused> {
        if self.is_forked() {
            return Err(Refused::Forked);
        }
        if self.is_reentrant() {
            return Err(Refused::Reentrant);
        }
        let word = self.calls.pin().map_err(|_| Refused::Closed)?;
        Ok(Call { wheel: self, word })
    }

    /// Refuses a call that was admitted and has stored nothing yet, if the store was closed meanwhile: the close may have
    /// gone on without it.
    pub(crate) fn go_on(&self) -> Result<(), WriteError> {
        if self.is_closed() { Err(WriteError::Closed) } else { Ok(()) }
    }

    /// Admits a reading call.
    pub(crate) fn check_open(&self) -> Result<(), Refused> {
        if self.is_forked() {
            return Err(Refused::Forked);
        }
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        if self.is_reentrant() {
            return Err(Refused::Reentrant);
        }
        Ok(())
    }

    /// Makes every write durable that returned before the call.
    pub(crate) fn flush(&self) -> Result<(), FlushError> {
        let told = self.failures.reported();
        let deadline = self.deadline();
        let mut late = self.store_gathers(&deadline);
        for deferred in self.waiting_closures() {
            // A failure is counted where it happens and told below.
            late |= matches!(self.complete_in_call(&deferred, &deadline), Completion::Busy);
        }
        late |= self.store_gathers(&deadline);
        self.sync_dirty_files();
        let report = self.failures.report(told);
        let fallen = self.lanes.iter().find_map(|lane| self.fallen(lane));
        if !late && report.is_none() && fallen.is_none() {
            return Ok(());
        }
        let report = report.unwrap_or_default();
        let busy = late.then(|| FailedClosure::Busy { waited: deadline.waited() });
        Err(FlushError { failed: report.failed, first: report.first.or(busy), io: report.io.or(fallen) })
    }

    /// Stores every gather buffer; `true` if some were not stored by the deadline.
    fn store_gathers(&self, deadline: &Deadline) -> bool {
        let mut late = false;
        for lane in &self.lanes {
            self.store_open_gather(lane, |_| true);
        }
        for lane in &self.lanes {
            late |= !lane.wait_for_outstanding(deadline);
        }
        late
    }

    /// Every closure that is not over, those that somebody runs last: one of them may hang.
    pub(crate) fn waiting_closures(&self) -> Vec<Arc<Deferred>> {
        // Hazard 21: what is sealed counts as done.
        let files = self.table.iter().filter(|file| !planted::is(21) || !file.cursor.is_sealed());
        let mut waiting: Vec<_> = files.flat_map(|file| file.pending.lock().deferred()).collect();
        waiting.sort_by_cached_key(|deferred| !deferred.is_queued());
        waiting
    }

    /// Blocks in gather buffers that are not stored.
    fn unstored(&self) -> u64 {
        self.table.iter().map(|file| file.pending.lock().gathered() as u64).sum()
    }

    /// Calls of other threads that may still store something: that is not synced, though the call may say that all is well.
    ///
    /// Not those that are in a closure: that is counted by itself, and the call is refused when it comes back.
    fn unfinished_calls(&self) -> u64 {
        if self.calls.is_drained() {
            return 0;
        }
        let calls = self.calls.held().max(1);
        // Release pairs with the Acquire in the drop of `InClosure`: whoever is counted here sees the store closed when it
        // comes back.
        calls.saturating_sub(self.calls_in_closures.fetch_add(0, Ordering::Release))
    }

    fn sync_dirty_files(&self) {
        for file in self.table.iter().filter(|file| file.is_dirty()) {
            self.sync_file(file);
        }
    }

    /// Syncs a file; whether all that was stored there since the last sync is durable. A failure is told by every flush
    /// that it concerns, and the file takes no more blocks.
    pub(crate) fn sync_file(&self, file: &BlockFile) -> bool {
        let synced_all = file.sync_or(|error, is_news| {
            self.failures.sync_failed(self.tell_suspect(file, error, is_news));
        });
        if self.is_suspect(file) {
            self.retire(file);
        }
        synced_all
    }

    /// The disk has lost a write to the file, and has said so before any sync.
    pub(crate) fn write_was_lost(&self, file: &BlockFile, error: std::io::Error) {
        file.write_was_lost(error, |error, is_news| {
            self.failures.sync_failed(self.tell_suspect(file, error, is_news));
        });
        if self.is_suspect(file) {
            self.retire(file);
        }
    }

    /// Refuses new calls, settles what waits, and ends the threads. The second close finds nothing to do.
    pub(crate) fn close(&self, timeout: Duration) -> CloseReport {
        let deadline = Deadline::after(timeout);
        let mut report = CloseReport::default();
        if self.is_forked() {
            return report;
        }
        let told = self.failures.reported();
        self.calls.close();
        // Reads end at once; writers that wait for room are told so, the others finish what they began.
        self.closed.store(true, Ordering::Relaxed);
        self.turned.notify_all();
        self.recovery.close();
        if self.is_own_thread() {
            // A closure owned the last handle: the threads are told to end, and run what still waits.
            self.signal_threads();
            self.events.stop();
            report.unfinished = self.waiting_closures().len() as u64;
            report.unstored = self.unstored();
            report.unmarked = self.unmarked();
            report.lent = self.lent();
            report.detached = true;
            return report;
        }
        while !self.calls.is_drained() && !deadline.has_passed() {
            self.sleep(LOOK_AGAIN);
        }
        for deferred in self.waiting_closures() {
            let was_waiting = deferred.is_queued();
            if !deadline.has_passed() && matches!(self.complete(&deferred, &deadline), Completion::Done) {
                report.ran += u64::from(was_waiting);
            }
            if let Some(closure) = self.give_up(&deferred, Some(FailedClosure::Abandoned)) {
                self.drop_closure(closure);
                report.dropped += 1;
            }
        }
        // Counted before the syncs: what ends after them is in a file, and no more than that. Calls first: a closure that
        // ends in between is stored by then, and its call stores nothing.
        report.unfinished = self.unfinished_calls();
        report.unfinished += self.waiting_closures().len() as u64;
        self.store_gathers(&deadline);
        report.unstored = self.unstored();
        self.sync_dirty_files();
        self.stop_threads_until(&deadline);
        if let Some(failures) = self.failures.report(told) {
            // What was dropped has failed as well, and is counted by itself.
            report.failed = failures.failed.saturating_sub(report.dropped);
            report.io = failures.refusal;
        }
        // Of a thread that has panicked nobody knows what it left undone.
        report.io = report.io.or_else(|| self.lanes.iter().find_map(|lane| self.fallen(lane)));
        report.panics = self.panics.get();
        self.mark_all();
        report.unmarked = self.unmarked();
        report.lent = self.lent();
        // Hazard 34: nothing is mapped any more, whoever still reads.
        if planted::is(34) {
            self.table.iter().for_each(BlockFile::uninstall);
        }
        report
    }

    /// Whether a close has come to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_closed() && self.threads.lock().is_empty()
    }

    /// Ends the threads of a store that failed to open.
    pub(crate) fn stop_threads(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.stop_threads_until(&Deadline::after(self.options.wait_timeout));
    }

    /// Signals all threads and joins those that end by the deadline; a thread never joins itself.
    fn stop_threads_until(&self, deadline: &Deadline) {
        self.signal_threads();
        let threads = std::mem::take(&mut *self.threads.lock());
        // Another close has taken them, and waits itself.
        let all_ended = threads.is_empty() || planted::is(50) || self.wait_for_threads(deadline);
        for thread in threads {
            // A hung closure keeps its flusher: it is left behind, and holds what it uses by itself.
            if all_ended || has_ended(&thread) {
                // One that panicked has caught it, and told.
                let _ = thread.join();
            }
        }
        // The hook hears of all that they did.
        self.events.stop();
        self.events.join_until(deadline, || self.sleep(LOOK_AGAIN));
    }

    /// Waits until every thread has done all that it does with the wheel; whether that was so by the deadline.
    fn wait_for_threads(&self, deadline: &Deadline) -> bool {
        let mut turn = self.turn.lock();
        while turn.running > 0 && !deadline.has_passed() {
            self.turned.wait_until(&mut turn, deadline.at());
        }
        turn.running == 0
    }

    fn signal_threads(&self) {
        self.turn.lock().stop = true;
        self.keep.notify_all();
        self.turned.notify_all();
        for lane in &self.lanes {
            lane.stop();
        }
    }

    /// Whether this thread belongs to the store, or runs one of its closures.
    fn is_own_thread(&self) -> bool {
        // Hazard 50: it joins itself.
        if planted::is(50) {
            return false;
        }
        self.is_reentrant() || self.events.is_own_thread() || {
            let me = crate::sync::thread::current().id();
            self.threads.lock().iter().any(|thread| thread.thread().id() == me)
        }
    }

    pub(crate) fn sleep(&self, time: Duration) {
        self.turned.wait_until(&mut self.turn.lock(), Instant::now() + time);
    }

    /// Blocks of the store that somebody holds now.
    pub(crate) fn lent(&self) -> u64 {
        self.table.iter().map(|file| file.pins.held()).sum()
    }

    /// How many files exist, and how many of them drain.
    pub(crate) fn file_counts(&self) -> (u64, u64) {
        let turn = self.turn.lock();
        let absent = turn.count(FileState::Absent);
        ((self.table.iter().count() - absent) as u64, turn.count(FileState::Draining) as u64)
    }

    /// A pin that keeps a found block readable beyond the call.
    pub(crate) fn own(&self, pin: FilePin<'_>) -> OwnedPin {
        pin.into_owned(Arc::clone(&self.table))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::{BlockHash, BlockKind, Realm};
    use crate::storage::MemoryFileSource;
    use crate::storage::faulty::{Call, FaultySource};
    use crate::wheel::{NewBlock, WheelOptions, slots};

    /// Each flush walked over every block of the file.
    #[test]
    fn a_flush_looks_at_what_waits_and_at_no_block_that_is_stored() {
        let of_a_flush = |blocks: u32| {
            let source = MemoryFileSource::builder().files_per_folder(3).file_size(1 << 20).build().unwrap();
            let source = FaultySource::new(source);
            let faults = source.faults();
            let options = WheelOptions { gather_bytes: 0, ..WheelOptions::default() };
            let wheel = FileWheel::open(Arc::new(source), options).unwrap();
            for number in 0..blocks {
                let (key, hash) = (BlockHash::from_u128(number.into()), BlockHash::of(b""));
                let (realm, kind) = (Realm::DEFAULT, BlockKind::Named);
                wheel.store_block(&NewBlock { realm, key, kind, hash, parts: &[], len: 0 }, &wheel.deadline()).unwrap();
            }
            wheel.flush().unwrap();
            let key = BlockHash::from_u128(u128::MAX);
            let closure = Box::new(|_: &mut [u8]| ());
            wheel.defer_block((Realm::DEFAULT, key), BlockKind::Named, 8, closure, &wheel.deadline()).unwrap();
            let before = slots::looks();
            wheel.flush().unwrap();
            let looks = slots::looks() - before;
            let synced = faults.count(Call::Sync);
            wheel.flush().unwrap();
            assert_eq!(faults.count(Call::Sync), synced, "nothing was written since");
            wheel.close(Duration::from_mins(1));
            looks
        };
        // As many as it takes to run the closure, or to wait for it.
        let looks = [2, if cfg!(miri) { 100 } else { 1000 }].map(of_a_flush);
        assert!(looks[0].max(looks[1]) < 40, "{looks:?}");
    }
}
