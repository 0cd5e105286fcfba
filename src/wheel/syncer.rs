//! The background thread of a lane that brings what was stored to the device: piece by piece while a file is filled, and
//! the rest once it is full. It waits for the disk, so that whoever prepares the next file does not.
//!
//! # Invariants
//!
//! 1. A file is SEALED once all of it is synced, or known to be suspect: a sync counts if the file was full and quiet before
//!    it began, and was filled no further, nor begun anew, until it was over.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::FileId;
use crate::sync::Arc;
use crate::wheel::FileWheel;
use crate::wheel::lane::Lane;
use crate::wheel::state::FileState;
use crate::wheel::turn::Turn;
use crate::wheel::write_back::UnderWay;

/// Longest sleep between two looks when there is nothing to do.
const REST: Duration = Duration::from_millis(100);
/// Sleep between two looks at a file that is full and not quiet yet.
const WATCH: Duration = Duration::from_millis(1);

/// What a syncer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// A piece of a file is whole.
    Send(FileId),
    /// A sealed file has become quiet: sync it.
    Settle(Full),
    Rest(Duration),
    Stop,
}

/// A file that is full: a lap, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Full {
    file: FileId,
    generation: u64,
    next_slot: u32,
}

/// Runs until the wheel stops.
pub(crate) fn run(wheel: &Arc<FileWheel>, lane: u16) {
    let lane = &wheel.lanes[usize::from(lane)];
    let mut under_way = UnderWay::default();
    loop {
        let mut turn = wheel.turn.lock();
        match wheel.next_sync(&turn, lane) {
            Job::Send(file) => {
                drop(turn);
                wheel.send_piece(file, &mut under_way);
            }
            Job::Settle(full) => {
                drop(turn);
                wheel.settle_file(lane, full);
            }
            // Under the lock that was kept since the look, so that no wake-up is lost.
            Job::Rest(time) => {
                wheel.keep.wait_until(&mut turn, Instant::now() + time);
            }
            Job::Stop => return,
        }
    }
}

impl FileWheel {
    /// What the oldest file of a lane needs that is full, or else its active one: its pieces sent, then its sync.
    fn next_sync(&self, turn: &Turn, lane: &Lane) -> Job {
        if turn.stop {
            return Job::Stop;
        }
        let of_lane = &turn.lanes[lane.index()];
        let has_pieces = |file: FileId| self.table.file(file).pieces.waiting() > 0;
        let mut rest = REST;
        for file in of_lane.order.iter().copied().filter(|file| turn.state(*file) == FileState::Sealing) {
            if has_pieces(file) {
                return Job::Send(file);
            }
            match self.full(file) {
                Some(full) => return Job::Settle(full),
                None => rest = WATCH,
            }
        }
        of_lane.active.filter(|file| has_pieces(*file)).map_or(Job::Rest(rest), Job::Send)
    }

    /// `None` if something is still stored to it.
    fn full(&self, id: FileId) -> Option<Full> {
        let file = self.table.file(id);
        let full = Full { file: id, generation: file.generation(), next_slot: file.cursor.next_slot() };
        file.is_quiet().then_some(full)
    }

    /// Syncs a file that is full and quiet.
    fn settle_file(&self, lane: &Lane, full: Full) {
        self.sync_file(self.table.file(full.file));
        let mut turn = self.turn.lock();
        // Invariant 1.
        if turn.state(full.file) == FileState::Sealing && self.full(full.file) == Some(full) {
            turn.set(full.file, FileState::Sealed);
        }
        self.choose_victim(&turn, lane);
        drop(turn);
        // Who prepares the next files waits if too many are not synced.
        self.wake_keepers();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::{BlockHash, BlockKind, Realm};
    use crate::storage::MemoryFileSource;
    use crate::storage::faulty::{Faults, FaultySource};
    use crate::sync::thread;
    use crate::wheel::{NewBlock, WheelOptions};

    const HANGS: Duration = Duration::from_mins(1);

    /// Four files of 64 KiB.
    fn wheel() -> (Arc<FileWheel>, Arc<Faults>) {
        let source =
            FaultySource::new(MemoryFileSource::builder().files_per_folder(4).file_size(64 << 10).build().unwrap());
        let faults = source.faults();
        let options = WheelOptions { gather_bytes: 0, ..WheelOptions::default() };
        (FileWheel::open(Arc::new(source), options).unwrap(), faults)
    }

    fn put(wheel: &FileWheel, number: u128) {
        let bytes = vec![7; 28 << 10];
        let (key, hash, parts) = (BlockHash::from_u128(number), BlockHash::of(&bytes), [&bytes[..]]);
        let (realm, kind, len) = (Realm::DEFAULT, BlockKind::Named, 28 << 10);
        wheel.store_block(&NewBlock { realm, key, kind, hash, parts: &parts, len }, &wheel.deadline()).unwrap();
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn count(wheel: &FileWheel, state: FileState) -> usize {
        wheel.turn.lock().count(state)
    }

    /// A full file was synced by the thread that prepares the next ones: writers who were faster than the disk waited for
    /// it at the end of each file, one put in some hundred for tens of milliseconds.
    #[test]
    fn writers_get_their_next_files_while_a_full_one_is_synced() {
        let (wheel, faults) = wheel();
        faults.hold_syncs(true);
        // Two a file.
        (0..7).for_each(|number| put(&wheel, number));
        until("the first file is about to be synced", || faults.held_syncs() == 1);
        assert_eq!((count(&wheel, FileState::Sealing), count(&wheel, FileState::Active)), (3, 1));
        faults.hold_syncs(false);
        until("the full files are synced", || count(&wheel, FileState::Sealed) == 3);
        wheel.close(HANGS);
    }

    /// The file of which a sync was about turned meanwhile, and was full again: what it held by then was not synced.
    #[test]
    fn a_file_that_has_begun_another_lap_is_not_sealed_by_a_sync_of_the_one_before() {
        let (wheel, _faults) = wheel();
        (0..3).for_each(|number| put(&wheel, number));
        let file = FileId::new(1).unwrap();
        until("the first file is synced", || wheel.turn.lock().state(file) == FileState::Sealed);
        let full = wheel.full(file).unwrap();
        for other in [Full { generation: full.generation - 1, ..full }, Full { next_slot: full.next_slot - 1, ..full }]
        {
            // As after a lap, or after tombstones.
            let mut turn = wheel.turn.lock();
            turn.lanes[0].order.retain(|other| *other != file);
            turn.set(file, FileState::Active);
            turn.set(file, FileState::Sealing);
            drop(turn);
            wheel.settle_file(&wheel.lanes[0], other);
            assert_eq!(wheel.turn.lock().state(file), FileState::Sealing);
            wheel.settle_file(&wheel.lanes[0], full);
            assert_eq!(wheel.turn.lock().state(file), FileState::Sealed);
        }
        wheel.close(HANGS);
    }
}
