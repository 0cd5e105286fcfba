//! Files that are believed by their hashes only: why, who was told, and the word that the next run is left.
//!
//! # Invariants
//!
//! 1. Whatever has made a file suspect, the hook is told once and the file takes no more writes: by whoever meets it, and by
//!    the keeper if nobody does.
//! 2. A file whose sync has failed owes its mark until the source has made it, or the file is gone: it is tried at once,
//!    then by the keeper, later and later, and when the store is closed.
//! 3. A mark is made under the file's `synced`: the file is not deleted, and made anew, meanwhile.
#![forbid(unsafe_code)]

use std::io;
use std::time::Instant;

use crate::block::FileId;
use crate::error::IoError;
use crate::wheel::FileWheel;
use crate::wheel::event::Event;
use crate::wheel::file::BlockFile;
use crate::wheel::plan::Plan;

impl BlockFile {
    /// Whether the mapping may show other bytes than were stored: a sync of the file has failed, or a part of it could
    /// not be read. Its bytes are then copied and verified at every read.
    ///
    /// Says so to nobody: see [`FileWheel::is_suspect`].
    #[inline]
    pub(crate) fn is_suspect(&self) -> bool {
        // Faults are counted rarely, if ever.
        self.suspicion.is_suspect() || self.is_poisoned()
    }

    /// Whether a page of the mapping was replaced by zeros, so that what was lent from it may be wrong.
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.suspicion.has_met_a_fault(|| self.memory().is_ok_and(|memory| memory.is_suspect()))
    }

    /// Whether a sync of this file has failed, now or in an earlier run.
    pub(crate) fn has_lost_writes(&self) -> bool {
        self.suspicion.has_lost_writes()
    }

    /// Whether the next run would take this file for a sound one.
    pub(crate) fn owes_its_mark(&self) -> bool {
        self.suspicion.owes_its_mark()
    }

    /// Whether there is something to be told or tried about this file now (invariants 1 and 2).
    fn needs_a_word(&self, now: Instant) -> bool {
        self.is_suspect() && (!self.suspicion.is_told() || self.suspicion.is_due(now))
    }
}

impl FileWheel {
    /// Whether the bytes of a file are believed by their hashes only; whoever finds out first tells it.
    #[inline]
    pub(crate) fn is_suspect(&self, file: &BlockFile) -> bool {
        let is_suspect = file.is_suspect();
        if is_suspect && !file.suspicion.is_told() {
            self.tell_replaced(file);
        }
        is_suspect
    }

    /// A page of the mapping was replaced, and nobody has said so yet: all else is told where it makes a file suspect.
    #[cold]
    fn tell_replaced(&self, file: &BlockFile) {
        let problem = "a page of its mapping could not be read, and zeros are in its place";
        self.tell_unreadable(file, &self.io_error("reading a file", file.id(), io::Error::other(problem)));
    }

    /// A part of a file could not be read: it is suspect from now on, and takes no more writes.
    pub(crate) fn tell_unreadable(&self, file: &BlockFile, error: &IoError) {
        use io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
        // What the system lacks at the moment says nothing about the file.
        if matches!(error.kind(), Interrupted | OutOfMemory | WouldBlock) {
            return;
        }
        if file.suspicion.tell() {
            self.counters.unreadable_files.add(1);
            self.events.emit(|| Event::FileSuspect { file: file.id(), error: error.clone() });
        }
        file.suspicion.suspect();
        self.retire(file);
    }

    /// Why a file was not synced: it is suspect from now on. Called under its `synced` (invariant 3).
    pub(crate) fn tell_suspect(&self, file: &BlockFile, error: io::Error, is_news: bool) -> IoError {
        // First, so that the error names the file as it is called now.
        let marked = self.table.source().mark_suspect(file.id());
        let error = self.io_error("syncing a file", file.id(), error);
        self.counters.sync_failures.add(1);
        if is_news {
            self.events.emit(|| Event::FileSuspect { file: file.id(), error: error.clone() });
        }
        // Tried again later.
        let _ = self.settle_mark(file, marked);
        error
    }

    /// An opening could neither sync nor mark these files, and goes on without their folder: it is taken back once they are
    /// marked.
    pub(crate) fn owe_marks(&self, plan: &Plan) {
        for (file, error) in &plan.unmarked {
            self.counters.sync_failures.add(1);
            self.owe_mark(self.table.file(*file), error);
        }
    }

    fn owe_mark(&self, file: &BlockFile, error: &IoError) {
        self.counters.mark_failures.add(1);
        if file.suspicion.owes_its_mark_still() == 1 {
            self.events.emit(|| Event::FileUnmarked { file: file.id(), error: error.clone() });
        }
    }

    /// What came of a mark.
    fn settle_mark(&self, file: &BlockFile, marked: io::Result<()>) -> Result<(), IoError> {
        let Err(error) = marked else {
            file.suspicion.owes_nothing();
            return Ok(());
        };
        let error = self.io_error("marking a file suspect", file.id(), error);
        self.owe_mark(file, &error);
        Err(error)
    }

    /// Tries again to leave word for the next run that a sync of this file has failed, if that is owed.
    pub(crate) fn mark_again(&self, file: &BlockFile) -> Result<(), IoError> {
        file.while_it_stays(|| {
            if file.owes_its_mark() {
                return self.settle_mark(file, self.table.source().mark_suspect(file.id()));
            }
            Ok(())
        })
    }

    /// What the keeper does about a file that has something to be told or tried.
    pub(crate) fn attend_to(&self, file: &BlockFile) {
        if file.needs_a_word(Instant::now()) {
            self.is_suspect(file);
            // Tried again when it is due.
            let _ = self.mark_again(file);
        }
    }

    /// The first of these files that the keeper has to attend to.
    pub(crate) fn in_need_of_a_word(&self, mut files: impl Iterator<Item = FileId>, now: Instant) -> Option<FileId> {
        files.find(|file| self.table.file(*file).needs_a_word(now))
    }

    /// The last try, at close.
    pub(crate) fn mark_all(&self) {
        for file in self.table.iter().filter(|file| file.owes_its_mark()) {
            // What still fails is in the report.
            let _ = self.mark_again(file);
        }
    }

    /// How many files the next run will take for sound ones.
    pub(crate) fn unmarked(&self) -> u64 {
        self.table.iter().filter(|file| file.owes_its_mark()).count() as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use super::*;
    use crate::block::FileId;
    use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource};
    use crate::storage::{FileSource, MemoryFileSource};
    use crate::sync::Arc;
    use crate::wheel::WheelOptions;
    use crate::wheel::deadline::Deadline;
    use crate::wheel::reserve::Purpose;

    const ONE: Option<FileId> = FileId::new(1);

    /// A wheel whose first file is not used yet.
    fn new_wheel() -> (MemoryFileSource, Arc<FileWheel>, Arc<Faults>) {
        let files = MemoryFileSource::builder().file_size(64 << 10).build().unwrap();
        let source = FaultySource::new(files.clone());
        let faults = source.faults();
        let options = WheelOptions { gather_bytes: 0, ..WheelOptions::default() };
        (files, FileWheel::open(Arc::new(source), options).unwrap(), faults)
    }

    /// A wheel whose first file is active: one that is not used yet is made anew at once if it is suspect.
    fn wheel() -> (MemoryFileSource, Arc<FileWheel>, Arc<Faults>) {
        let (files, wheel, faults) = new_wheel();
        drop(wheel.reserve(&wheel.lanes[0], 1, Purpose::Data, &wheel.deadline()).unwrap());
        assert_eq!(wheel.lanes[0].active(), ONE);
        (files, wheel, faults)
    }

    /// What the next run finds suspect.
    fn marked(files: &MemoryFileSource) -> Vec<FileId> {
        let found = files.scan().unwrap().into_iter();
        found.filter(|found| found.memory.is_suspect()).map(|found| found.file).collect()
    }

    /// Without the mark of either of the two only tests on a real device failed.
    #[test]
    fn the_next_run_finds_a_file_suspect_whose_sync_has_failed_for_a_flush_or_a_header() {
        for for_a_header in [false, true] {
            let (files, wheel, faults) = wheel();
            let file = wheel.table.file(ONE.unwrap());
            faults.set(Fault::at(1).only(&[Call::Sync]));
            if for_a_header {
                wheel.write_header(&wheel.lanes[0], file.id()).unwrap_err();
            } else {
                file.store(4096, &[b"lost, perhaps"]).unwrap();
                wheel.sync_file(file);
            }
            assert!(wheel.is_suspect(file) && file.has_lost_writes());
            assert_eq!(wheel.close(Duration::from_secs(20)).unmarked, 0);
            drop(wheel);
            assert_eq!(marked(&files), [ONE.unwrap()], "for a header: {for_a_header}");
        }
    }

    /// A writer had stored its payload when the sync of another thread's flush failed, and the system forgot that it was not
    /// on the device; the writer stored the entry, and its own flush found nothing wrong.
    #[test]
    fn a_flush_is_told_of_a_failed_sync_that_its_block_was_being_stored_in() {
        let (_, wheel, faults) = wheel();
        let file = wheel.table.file(ONE.unwrap());
        let settled = wheel.reserve(&wheel.lanes[0], 1, Purpose::Data, &wheel.deadline()).unwrap();
        let slow = wheel.reserve(&wheel.lanes[0], 1, Purpose::Data, &wheel.deadline()).unwrap();
        for (reservation, bytes) in [(&settled, b"done"), (&slow, b"slow")] {
            file.store(reservation.offset(), &[bytes]).unwrap();
        }
        settled.finish();
        faults.set(Fault::at(1).only(&[Call::Sync]).errno(Errno::NoSpace));
        assert!(wheel.flush().unwrap_err().io.is_some());
        // Also by a flush that comes before the block is whole, and is not the one that its writer asks for.
        file.store(0, &[]).unwrap();
        assert!(wheel.flush().unwrap_err().io.is_some());
        file.store(slow.offset() + 4, &[b"ly"]).unwrap();
        slow.finish();
        let io = wheel.flush().unwrap_err().io.unwrap();
        assert_eq!(io.kind(), ErrorKind::StorageFull);
        // What is stored from now on is as durable as anywhere.
        file.store(0, &[]).unwrap();
        assert!(wheel.flush().is_ok() && file.has_lost_writes());
        wheel.close(Duration::from_secs(20));
    }

    /// The store tried once to mark a file and forgot about it: the next run believed what it found.
    #[test]
    fn a_mark_that_could_not_be_made_is_made_by_the_keeper_or_at_close() {
        for by_the_keeper in [true, false] {
            let (files, wheel, faults) = wheel();
            let file = wheel.table.file(ONE.unwrap());
            file.store(4096, &[b"lost, perhaps"]).unwrap();
            faults.set(Fault::at(1).sticky().only(&[Call::Sync, Call::Mark]));
            wheel.sync_file(file);
            assert!(file.owes_its_mark());
            faults.clear();
            let began = Instant::now();
            while by_the_keeper && file.owes_its_mark() {
                assert!(began.elapsed() < Duration::from_mins(1));
                crate::sync::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(wheel.close(Duration::from_secs(20)).unmarked, 0);
            drop(wheel);
            assert_eq!(marked(&files), [ONE.unwrap()], "by the keeper: {by_the_keeper}");
        }
    }

    #[test]
    fn a_close_tells_how_many_files_the_next_run_takes_for_sound_ones() {
        let (files, wheel, faults) = wheel();
        let file = wheel.table.file(ONE.unwrap());
        file.store(4096, &[b"lost, perhaps"]).unwrap();
        faults.set(Fault::at(1).sticky().only(&[Call::Sync, Call::Mark]));
        wheel.sync_file(file);
        let tried = faults.count(Call::Mark);
        let report = wheel.close(Duration::from_secs(20));
        assert!(report.unmarked == 1 && !report.is_clean(), "{report:?}");
        assert!(faults.count(Call::Mark) > tried, "once more, at close");
        drop(wheel);
        assert_eq!(marked(&files), []);
    }

    /// A mark that is owed to a file must not be made of the one that took its number.
    #[test]
    fn a_file_that_is_made_anew_owes_nothing() {
        let (files, wheel, faults) = new_wheel();
        let file = wheel.table.file(ONE.unwrap());
        file.store(4096, &[b"lost, perhaps"]).unwrap();
        faults.set(Fault::at(1).sticky().only(&[Call::Sync, Call::Mark]));
        wheel.sync_file(file);
        assert!(faults.failed_of(Call::Mark) > 0);
        let began = Instant::now();
        while wheel.is_suspect(file) {
            assert!(began.elapsed() < Duration::from_mins(1));
            crate::sync::thread::sleep(Duration::from_millis(1));
        }
        faults.clear();
        assert!(!file.owes_its_mark());
        wheel.mark_again(file).unwrap();
        assert_eq!(wheel.close(Duration::from_secs(20)).unmarked, 0);
        drop(wheel);
        assert_eq!(marked(&files), []);
    }

    /// A sync failed of a file on its way to be free, and found nothing to retire. The lane then had a free file that it
    /// was never handed, and for the sake of which it was given no other: its writers waited for ever.
    #[test]
    fn a_free_file_that_is_suspect_already_when_it_comes_is_made_anew_and_handed_out() {
        let (_, wheel, _) = new_wheel();
        let file = wheel.table.file(ONE.unwrap());
        let generation = file.generation();
        // As by that sync: whoever asked for it has told.
        assert!(file.suspicion.sync_failed());
        wheel.wake_keepers();
        drop(wheel.reserve(&wheel.lanes[0], 1, Purpose::Data, &Deadline::after(Duration::from_secs(20))).unwrap());
        assert!(wheel.lanes[0].active() == ONE && !file.is_suspect() && file.generation() > generation);
        wheel.close(Duration::from_secs(20));
    }
}
