//! Which pieces of a file are stored whole, so that they can be sent to the device.
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

/// Pages of a piece, unless a test wants smaller ones: 8 MiB.
pub(crate) const PIECE: u32 = 2048;
/// Set in the word of a piece that was handed out; a file has fewer pages.
const SENT: u32 = 1 << 31;

/// How many pages of each piece of a file were stored. The first piece begins behind the header.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// Pages of each.
    len: u32,
    stored: Box<[AtomicU32]>,
    /// How many are whole, and how many of those were handed out.
    whole: AtomicU32,
    sent: AtomicU32,
}

impl Pieces {
    /// Of a file of `size`, each of so many pages.
    pub(crate) fn new(size: FileSize, len: u32) -> Self {
        let stored = (0..(size.pages() - 1) / len).map(|_| AtomicU32::new(0)).collect();
        Self { len, stored, whole: AtomicU32::new(0), sent: AtomicU32::new(0) }
    }

    /// Begins a lap. Only while nothing is stored.
    pub(crate) fn clear(&self) {
        for piece in &self.stored {
            // Relaxed: the turn mutex orders it before the first store, and a syncer that is late changes only what it has
            // seen.
            piece.store(0, Ordering::Relaxed);
        }
        self.whole.store(0, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
    }

    /// How many pieces are whole and wait to be handed out.
    pub(crate) fn waiting(&self) -> u32 {
        // Relaxed: a hint. A syncer that is late for a lap may count one of the next as handed out: that is left to the sync.
        self.whole.load(Ordering::Relaxed).saturating_sub(self.sent.load(Ordering::Relaxed))
    }

    /// Says that these pages were stored.
    pub(crate) fn add(&self, pages: Range<u32>) {
        let mut page = pages.start.max(1);
        while page < pages.end {
            let piece = (page - 1) / self.len;
            let end = pages.end.min(1 + (piece + 1) * self.len);
            let Some(stored) = self.stored.get(piece as usize) else { return };
            // Release pairs with the Acquire in `take_whole`: whoever sends a piece comes after its stores.
            let before = stored.fetch_add(end - page, Ordering::Release);
            if (before..before + (end - page)).contains(&(self.len - 1)) {
                // Relaxed: as `waiting`.
                self.whole.fetch_add(1, Ordering::Relaxed);
            }
            page = end;
        }
    }

    /// Hands out the pieces that have become whole, as bytes of the file.
    pub(crate) fn take_whole(&self) -> impl Iterator<Item = Range<u64>> {
        let is_whole = |stored: u32| stored & SENT == 0 && stored >= self.len;
        (0_u64..).zip(&self.stored).filter_map(move |(number, stored)| {
            // Acquire pairs with the Release in `add`.
            let seen = stored.load(Ordering::Acquire);
            // Relaxed: only the lane's syncer hands out. Another lap may have begun since the look.
            if !is_whole(seen)
                || stored.compare_exchange(seen, seen | SENT, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                return None;
            }
            // Relaxed: as `waiting`.
            self.sent.fetch_add(1, Ordering::Relaxed);
            let bytes = u64::from(self.len) * PAGE_SIZE;
            Some(PAGE_SIZE + number * bytes..PAGE_SIZE + (number + 1) * bytes)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn piece(number: u64) -> Range<u64> {
        PAGE_SIZE + number * 8 * MIB..PAGE_SIZE + (number + 1) * 8 * MIB
    }

    #[test]
    fn a_piece_is_whole_when_all_its_pages_were_stored_in_any_order_and_is_handed_out_once() {
        let pieces = Pieces::new(FileSize::new(3 * 8 * MIB + 2 * PAGE_SIZE).unwrap(), PIECE);
        let taken = || pieces.take_whole().collect::<Vec<_>>();
        pieces.add(0..1); // the header
        pieces.add(1..2000);
        pieces.add(2001..5000);
        assert_eq!((pieces.waiting(), taken(), pieces.waiting()), (1, vec![piece(1)], 0));
        pieces.add(2000..2001);
        assert_eq!(taken(), [piece(0)]);
        // One page more than the last piece has.
        pieces.add(5000..6146);
        assert_eq!(taken(), [piece(2)]);
        pieces.clear();
        pieces.add(1..2049);
        assert_eq!(taken(), [piece(0)]);
        assert_eq!(Pieces::new(FileSize::MIN, PIECE).stored.len(), 0);
    }
}
