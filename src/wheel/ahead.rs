//! The background thread of a lane that has memory ready for what its files will be filled with for the first time.
//!
//! The system keeps files in memory in pieces, each as large as the store that made it, at most. A processor maps 2 MiB at
//! once, and only if they are one piece: then it finds blocks sooner that are in memory, and stores to them take less, in each
//! lap for as long as the file is in memory. So each region of a new file is made one piece before a writer comes to it. That
//! reads nothing from the disk, and stores nothing.
//!
//! # Invariants
//!
//! 1. Nothing depends on this: no memory is ready where the system cannot, where this thread was overtaken or never began.
//! 2. Only what was never stored to is asked for, in the first lap of a file: later it would be read from the disk.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::{Entry, FileId, PAGE_SIZE};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::regions::{REGION, end_of_region};
use crate::wheel::tempo::LARGE;
use crate::wheel::turn::Turn;
use crate::wheel::{Access, FileWheel, WheelOptions};

/// How far ahead of the writers of a lane memory is ready at most, in bytes: they wake the thread at the end of each piece of 8
/// MiB.
const AHEAD: u64 = 24 << 20;
/// And no more than this part of the memory that is left, for all lanes together.
const PART: u64 = 16;
/// After so many regions in a row that did not become one piece, or only when memory had been found for it, the system has none
/// to give, or writers are quicker: a file is given up at each further one. A single one may have met a writer, or a lack of
/// descriptors.
const REFUSALS: u32 = 3;
/// Longest sleep between two looks.
const REST: Duration = Duration::from_secs(1);

/// Up to where memory of a file is ready, in bytes. All ones: none is asked for, as it is not new, or it is of no use there.
#[derive(Debug)]
pub(crate) struct Ready(AtomicU64);

impl Default for Ready {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Ready {
    /// The file was created: it begins its first lap.
    pub(crate) fn begin(&self) {
        self.set(0);
    }

    fn get(&self) -> u64 {
        // Relaxed, here and below: one thread of the lane reads this, and what it asks for by it is a hint (invariant 1).
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, end: u64) {
        self.0.store(end, Ordering::Relaxed);
    }

    /// A region is ready, unless the next lap has begun meanwhile.
    fn advance(&self, end: u64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now != u64::MAX).then_some(end));
    }

    /// No more is asked for: another lap begins, or it is of no use.
    pub(crate) fn end(&self) {
        self.set(u64::MAX);
    }

    fn is_over(&self) -> bool {
        self.get() == u64::MAX
    }
}

/// What the thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// A region of the active file, by its first byte.
    Prepare(FileId, u64),
    Rest,
    Stop,
}

/// Whether it pays in such a store. Files are large enough for some regions; and what is stored is: small stores to a large
/// piece take longer than to a small one, as file systems go through all pages of it.
pub(crate) fn is_worth_it(pages: u32, options: &WheelOptions) -> bool {
    pages >= LARGE && options.gather_bytes > 0 && options.access != Access::Exact
}

/// Runs until the wheel stops, or all files of the lane have begun to be filled for the second time.
pub(crate) fn run(wheel: &Arc<FileWheel>, lane: u16) {
    let (lane, mut refusals) = (&wheel.lanes[usize::from(lane)], 0);
    loop {
        let mut turn = wheel.turn.lock();
        match wheel.next_region(&turn, lane) {
            Job::Prepare(file, start) => {
                drop(turn);
                prepare(wheel.table.file(file), start, &mut refusals);
            }
            Job::Rest => {
                wheel.keep.wait_until(&mut turn, Instant::now() + REST);
            }
            Job::Stop => return,
        }
    }
}

impl FileWheel {
    fn next_region(&self, turn: &Turn, lane: &Lane) -> Job {
        let of_lane = &turn.lanes[lane.index()];
        let active = of_lane.active.map(|file| self.table.file(file));
        let is_new = |file: &FileId| !self.table.file(*file).ready.is_over();
        let has_new_files = !of_lane.absent.is_empty() || of_lane.active.iter().chain(&of_lane.spares).any(is_new);
        if turn.stop || !has_new_files {
            return Job::Stop;
        }
        // A piece that is wanted stays in memory as a whole.
        let region = active.filter(|_| self.residency.reads_around());
        let most = AHEAD.min(self.residency.left() / PART / u64::from(self.lanes()));
        let region = region.and_then(|file| Some(Job::Prepare(file.id(), region_ahead(file, most)?)));
        region.unwrap_or(Job::Rest)
    }
}

/// The next region of a file that is to be ready: all of it lies ahead of the writers, and below the directory.
fn region_ahead(file: &BlockFile, most: u64) -> Option<u64> {
    if file.cursor.is_sealed() || file.ready.is_over() {
        return None;
    }
    let written = written(file);
    let start = file.ready.get().max(end_of_region(written - 1));
    // With the next entry, which comes with the next block.
    let directory = file.size().get() - (u64::from(file.cursor.next_slot()) + 1) * Entry::SIZE as u64;
    (start + REGION <= directory.min(written + most)).then_some(start)
}

/// Where the writers of a file are, in bytes: never 0, where the header is.
fn written(file: &BlockFile) -> u64 {
    u64::from(file.cursor.next_page()).max(1) * PAGE_SIZE
}

/// `refusals`: how many in a row have not become one piece.
fn prepare(file: &BlockFile, start: u64, refusals: &mut u32) {
    let region = start..start + REGION;
    let Ok(memory) = file.memory() else { return file.ready.end() };
    // Touched by a writer that has come that far meanwhile, or brought by somebody: that one is left as it is (invariant 2).
    let is_untouched = memory.is_untouched(region.clone());
    let is_piece = is_untouched && memory.prepare(region.clone());
    let is_refused = is_untouched && !is_piece;
    *refusals = if is_piece { 0 } else { *refusals + u32::from(is_refused) };
    if is_refused && *refusals >= REFUSALS { file.ready.end() } else { file.ready.advance(region.end) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::block::{BlockHash, BlockKind, Realm};
    use crate::storage::MemoryFileSource;
    use crate::storage::faulty::{Faults, FaultySource};
    use crate::sync::thread;
    use crate::wheel::NewBlock;

    const MIB: u64 = 1 << 20;
    const HANGS: Duration = Duration::from_mins(1);

    /// One lane of three files, which say of themselves that they were never stored to.
    fn wheel(file_size: u64, options: WheelOptions) -> (Arc<FileWheel>, Arc<Faults>) {
        let source = MemoryFileSource::builder().files_per_folder(3).file_size(file_size).build().unwrap();
        let source = FaultySource::new(source);
        let faults = source.faults();
        faults.hints.show_untouched(true);
        (FileWheel::open(Arc::new(source), options).unwrap(), faults)
    }

    fn around() -> WheelOptions {
        WheelOptions { access: Access::ReadAround, ..WheelOptions::default() }
    }

    fn store_mib(wheel: &FileWheel, numbers: Range<u128>) {
        let bytes = vec![7; 1 << 20];
        let parts = [&bytes[..]];
        for number in numbers {
            let (key, hash) = (BlockHash::from_u128(number), BlockHash::of(&bytes));
            let (realm, kind, len) = (Realm::DEFAULT, BlockKind::Named, 1 << 20);
            wheel.store_block(&NewBlock { realm, key, kind, hash, parts: &parts, len }, &wheel.deadline()).unwrap();
        }
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn regions(file: u16, numbers: Range<u64>) -> Vec<(FileId, Range<u64>)> {
        let file = FileId::new(file).unwrap();
        numbers.map(|number| (file, number * REGION..(number + 1) * REGION)).collect()
    }

    fn has_ended(wheel: &FileWheel) -> bool {
        let threads = wheel.threads.lock();
        threads
            .iter()
            .filter(|thread| thread.thread().name() == Some("scratch-ready-0"))
            .all(thread::JoinHandle::is_finished)
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn memory_is_ready_ahead_of_writers_in_whole_regions_each_once_and_never_where_they_are_or_the_directory_is() {
        let (wheel, faults) = wheel(40 * MIB, around());
        store_mib(&wheel, 0..1);
        // Behind the region in which the block lies, up to 24 MiB behind its end.
        until("the first regions are ready", || faults.hints.prepared() == regions(1, 1..12));
        // The second piece of 8 MiB begins.
        store_mib(&wheel, 1..9);
        until("the next ones are", || faults.hints.prepared() == regions(1, 1..16));
        store_mib(&wheel, 9..17);
        // The last one has the directory.
        until("all are but the last one", || faults.hints.prepared() == regions(1, 1..19));
        assert!(!has_ended(&wheel), "there are new files to come");
        wheel.stop_threads();
        assert_eq!(wheel.turn.lock().running, 0);
    }

    /// It would have been read from the disk.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn what_is_filled_for_the_second_time_is_left_as_it_is_and_the_thread_ends() {
        let (wheel, faults) = wheel(20 * MIB, around());
        let of_file = |file: u16| faults.hints.prepared().iter().filter(|(of, _)| of.get() == file).count();
        for file in 1..=3 {
            let first = u128::from(file) * 100;
            store_mib(&wheel, first..first + 1);
            until("a new file is made ready", || of_file(file) == 8);
            wheel.seal_active();
        }
        store_mib(&wheel, 400..401);
        until("the thread has ended", || has_ended(&wheel));
        assert_eq!(faults.hints.prepared().len(), 3 * 8);
        wheel.stop_threads();
    }

    /// The thread came back from the last lap, and went on with the next one.
    #[test]
    fn a_region_that_is_ready_late_begins_nothing_anew() {
        let ready = Ready::default();
        ready.begin();
        ready.advance(2 * REGION);
        assert_eq!(ready.get(), 2 * REGION);
        ready.end();
        ready.advance(3 * REGION);
        assert!(ready.is_over());
    }

    /// Where the file system has no such pieces the same memory would be written twice for nothing.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn a_file_whose_memory_does_not_become_one_piece_is_given_up_and_a_touched_region_is_passed_over() {
        let (wheel, faults) = wheel(20 * MIB, around());
        faults.hints.keep_small();
        store_mib(&wheel, 0..1);
        let active = wheel.table.file(wheel.lanes[0].active().unwrap());
        until("it is given up", || active.ready.is_over());
        assert_eq!(faults.hints.prepared().len(), 3);
        wheel.seal_active();
        store_mib(&wheel, 9..10);
        let active = wheel.table.file(wheel.lanes[0].active().unwrap());
        until("so is the next one, at once", || active.ready.is_over());
        assert_eq!(faults.hints.prepared().len(), 4);
        wheel.seal_active();
        faults.hints.show_untouched(false);
        store_mib(&wheel, 10..11);
        let active = wheel.table.file(wheel.lanes[0].active().unwrap());
        until("all regions were looked at", || active.ready.get() == 9 * REGION);
        assert_eq!(faults.hints.prepared().len(), 4);
        wheel.stop_threads();
    }

    /// A writer may have come into the midst of it: the file was given up, and the rest of it had small pieces only.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn a_file_is_not_given_up_for_a_few_regions_that_are_no_piece_but_for_one_more_after_these() {
        let (wheel, faults) = wheel(20 * MIB, around());
        store_mib(&wheel, 0..1);
        let active = wheel.table.file(wheel.lanes[0].active().unwrap());
        until("all regions are ready", || active.ready.get() == 9 * REGION);
        wheel.stop_threads();
        active.ready.begin();
        let mut refusals = REFUSALS - 1;
        prepare(active, REGION, &mut refusals);
        assert_eq!((active.ready.get(), refusals), (2 * REGION, 0));
        faults.hints.keep_small();
        for number in 2..4 {
            prepare(active, number * REGION, &mut refusals);
            assert_eq!(active.ready.get(), (number + 1) * REGION);
        }
        faults.hints.show_untouched(false);
        prepare(active, 4 * REGION, &mut refusals);
        assert_eq!((active.ready.get(), refusals), (5 * REGION, 2), "it was not asked for");
        faults.hints.show_untouched(true);
        prepare(active, 5 * REGION, &mut refusals);
        assert!(active.ready.is_over());
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn nothing_is_made_ready_where_it_does_not_pay() {
        let exact = WheelOptions { access: Access::Exact, ..WheelOptions::default() };
        let ungathered = WheelOptions { gather_bytes: 0, ..around() };
        for (file_size, options) in [(20 * MIB, exact), (20 * MIB, ungathered), (14 * MIB, around())] {
            let (wheel, faults) = wheel(file_size, options);
            assert!(has_ended(&wheel));
            store_mib(&wheel, 0..9);
            wheel.stop_threads();
            assert_eq!(faults.hints.prepared(), []);
        }
    }

    /// A set that does not fit is read in small pieces: a large one would push out more than it brings.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn nothing_is_made_ready_while_blocks_are_asked_for_alone() {
        for access in [Access::ReadAround, Access::Exact] {
            let (wheel, _faults) = wheel(20 * MIB, WheelOptions { access, ..WheelOptions::default() });
            store_mib(&wheel, 0..1);
            let is_around = access == Access::ReadAround;
            let active = wheel.lanes[0].active().unwrap();
            let ready = &wheel.table.file(active).ready;
            until("its thread rests, if it has one", || ready.get() == if is_around { 9 * REGION } else { 0 });
            let turn = wheel.turn.lock();
            ready.begin();
            let job = wheel.next_region(&turn, &wheel.lanes[0]);
            assert_eq!(job, if is_around { Job::Prepare(active, REGION) } else { Job::Rest });
            drop(turn);
            wheel.stop_threads();
        }
    }
}
