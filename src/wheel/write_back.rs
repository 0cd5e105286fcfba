//! Sending what is stored to the device in time, piece by piece, so that the sync of a full file finds little to do and
//! dirty pages do not pile up until the system stalls whoever writes next.
//!
//! # Invariants
//!
//! 1. A piece is handed out once a lap, and only when each of its pages was stored in that lap: pages that are reserved,
//!    but wait for a closure, a gather buffer or a slow writer, would be passed over for good.
//!
//! A piece with a page that is never stored, as a closure failed, and the last part of a file are left to the sync.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::block::{FileSize, PAGE_SIZE};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::wheel::FileWheel;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;

/// Pages of a piece: 8 MiB.
const PIECE: u32 = 2048;
/// Set in the word of a piece that was handed out; a file has fewer pages.
const SENT: u32 = 1 << 31;

/// How many pages of each piece of a file were stored. The first piece begins behind the header.
#[derive(Debug)]
pub(crate) struct Pieces {
    stored: Box<[AtomicU32]>,
}

impl Pieces {
    pub(crate) fn new(size: FileSize) -> Self {
        Self { stored: (0..(size.pages() - 1) / PIECE).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Begins a lap. Only while nothing is stored.
    pub(crate) fn clear(&self) {
        for piece in &self.stored {
            // Relaxed: the turn mutex orders it before the first store and the keeper's next look.
            piece.store(0, Ordering::Relaxed);
        }
    }

    /// Says that these pages were stored.
    pub(crate) fn add(&self, pages: Range<u32>) {
        let mut page = pages.start.max(1);
        while page < pages.end {
            let piece = (page - 1) / PIECE;
            let end = pages.end.min(1 + (piece + 1) * PIECE);
            let Some(stored) = self.stored.get(piece as usize) else { return };
            // Release pairs with the Acquire in `take_whole`: whoever sends a piece comes after its stores.
            stored.fetch_add(end - page, Ordering::Release);
            page = end;
        }
    }

    /// Hands out the pieces that have become whole, as bytes of the file.
    fn take_whole(&self) -> impl Iterator<Item = Range<u64>> {
        let is_whole = |stored: u32| stored & SENT == 0 && stored >= PIECE;
        (0_u64..).zip(&self.stored).filter_map(move |(number, stored)| {
            // Acquire pairs with the Release in `add`.
            if !is_whole(stored.load(Ordering::Acquire)) {
                return None;
            }
            // Relaxed: only the lane's keeper hands out.
            stored.fetch_or(SENT, Ordering::Relaxed);
            let bytes = u64::from(PIECE) * PAGE_SIZE;
            Some(PAGE_SIZE + number * bytes..PAGE_SIZE + (number + 1) * bytes)
        })
    }
}

impl FileWheel {
    /// Sends what was stored in the lane's active file to the device. For the lane's keeper only.
    pub(crate) fn pace_write_back(&self, lane: &Lane) {
        let Some(active) = lane.active() else { return };
        let file = self.table.file(active);
        let Ok(memory) = file.memory() else { return };
        for piece in file.pieces.take_whole() {
            memory.start_write_back(piece);
        }
    }

    /// Wakes the keepers when a reservation crosses three quarters of its file, or a piece: that, or the one before, may
    /// be stored by now.
    pub(crate) fn wake_at_marks(&self, file: &BlockFile, page: u32, pages: u32) {
        let mark = file.size().pages() / 4 * 3;
        let end = page + pages;
        if (page < mark && end >= mark) || page / PIECE != end / PIECE {
            self.wake_keepers();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::block::{BlockHash, BlockKind, FileId, Realm};
    use crate::storage::MemoryFileSource;
    use crate::storage::faulty::{Faults, FaultySource};
    use crate::sync::{Arc, thread};
    use crate::wheel::{NewBlock, WheelOptions};

    const MIB: u64 = 1 << 20;
    const HANGS: Duration = Duration::from_mins(1);

    /// One lane of three files of 20 MiB: two pieces and a rest each.
    fn wheel(gather_bytes: u64) -> (Arc<FileWheel>, Arc<Faults>) {
        let source = MemoryFileSource::builder().files_per_folder(3).file_size(20 * MIB).build().unwrap();
        let source = FaultySource::new(source);
        let faults = source.faults();
        let options = WheelOptions { gather_bytes, ..WheelOptions::default() };
        (FileWheel::open(Arc::new(source), options).unwrap(), faults)
    }

    fn store(wheel: &FileWheel, number: u128, len: u32) {
        let bytes = vec![7; len as usize];
        let parts = [&bytes[..]];
        let (key, hash) = (BlockHash::from_u128(number), BlockHash::of(&bytes));
        let (realm, kind) = (Realm::DEFAULT, BlockKind::Named);
        wheel.store_block(&NewBlock { realm, key, kind, hash, parts: &parts, len }, &wheel.deadline()).unwrap();
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + HANGS;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: not within {HANGS:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn piece(number: u64) -> Range<u64> {
        PAGE_SIZE + number * 8 * MIB..PAGE_SIZE + (number + 1) * 8 * MIB
    }

    /// Nobody would have noticed if it were never done.
    #[test]
    fn each_piece_of_8_mib_of_a_file_that_is_filled_is_sent_to_the_device_once_a_lap() {
        let (wheel, faults) = wheel(0);
        let mut sent: Vec<(FileId, Range<u64>)> = Vec::new();
        let mut numbers = 0..;
        let mut store_some = |count| numbers.by_ref().take(count).for_each(|number| store(&wheel, number, 1 << 20));
        // The fourth file is the first one in its second lap.
        for _ in 0..4 {
            for number in 0..2 {
                store_some(8);
                sent.push((wheel.lanes[0].active().unwrap(), piece(number)));
                until("a piece is sent", || faults.written_back().len() >= sent.len());
                assert_eq!(faults.written_back(), sent);
            }
            store_some(3);
        }
        assert_eq!(sent[0], sent[6], "of another lap");
        wheel.stop_threads();
    }

    /// What was reserved counted as stored: a piece was sent while a writer, or a closure, had not filled it, and then
    /// never again.
    #[test]
    fn a_piece_that_is_reserved_but_not_stored_is_sent_when_it_is() {
        let (wheel, faults) = wheel(0);
        faults.hold_stores(true);
        let writer = thread::spawn({
            let wheel = Arc::clone(&wheel);
            move || store(&wheel, 1, 17 << 20)
        });
        until("the store waits", || faults.held_stores() == 1);
        assert!(wheel.table.file(wheel.lanes[0].active().unwrap()).cursor.next_page() > 2 * PIECE);
        wheel.pace_write_back(&wheel.lanes[0]);
        let too_early = faults.written_back();
        faults.hold_stores(false);
        writer.join().unwrap();
        assert_eq!(too_early, []);
        until("both pieces are sent", || faults.written_back().len() == 2);
        assert_eq!(faults.written_back().into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), [piece(0), piece(1)]);
        wheel.stop_threads();
    }

    #[test]
    fn small_blocks_fill_pieces_once_their_buffers_are_stored() {
        let (wheel, faults) = wheel(1 << 20);
        // A page each, most of it padding.
        (0..=PIECE).for_each(|number| store(&wheel, number.into(), 8));
        until("a piece is sent", || !faults.written_back().is_empty());
        assert_eq!(faults.written_back(), [(FileId::new(1).unwrap(), piece(0))]);
        wheel.stop_threads();
    }

    #[test]
    fn a_piece_is_whole_when_all_its_pages_were_stored_in_any_order_and_is_handed_out_once() {
        let pieces = Pieces::new(FileSize::new(3 * 8 * MIB + 2 * PAGE_SIZE).unwrap());
        let taken = || pieces.take_whole().collect::<Vec<_>>();
        pieces.add(0..1); // the header
        pieces.add(1..2000);
        pieces.add(2001..5000);
        assert_eq!(taken(), [piece(1)]);
        pieces.add(2000..2001);
        assert_eq!(taken(), [piece(0)]);
        // One page more than the last piece has.
        pieces.add(5000..6146);
        assert_eq!(taken(), [piece(2)]);
        pieces.clear();
        pieces.add(1..2049);
        assert_eq!(taken(), [piece(0)]);
        assert_eq!(Pieces::new(FileSize::MIN).stored.len(), 0);
    }
}
