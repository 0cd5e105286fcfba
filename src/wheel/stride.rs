//! Where the payload of a slot begins, in a file whose blocks are all of one length: known before its entry is read.
//!
//! A reader of a block that the processor has not at hand waits for memory three times: for the index, for the entry that the
//! index names, and for the payload that the entry names. Where blocks follow each other in equal steps the third is asked for
//! with the second.
//!
//! # Invariants
//!
//! 1. All of this is a guess, and what is asked for by it is not read through it: a wrong one costs a cache line.
//! 2. A word that holds is not written again: blocks in step leave it as it is, and the first one that is not cuts it short
//!    once. So readers share its cache line.
#![forbid(unsafe_code)]

use crate::block::Slot;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The low half of a word: the first slot that is out of step. All ones: none is known to be.
const END: u64 = 0xffff_ffff;

/// The step of one file, for its present lap.
///
/// The high half of the word is the pages of each block, 0 if none is known.
#[derive(Debug)]
pub(crate) struct Stride(AtomicU64);

impl Default for Stride {
    fn default() -> Self {
        Self(AtomicU64::new(END))
    }
}

impl Stride {
    /// Another lap: nothing is known.
    pub(crate) fn clear(&self) {
        // Relaxed, here and below: guesses (invariant 1).
        self.0.store(END, Ordering::Relaxed);
    }

    /// A block of so many pages begins at this page. In whatever order.
    #[inline]
    pub(crate) fn note(&self, slot: Slot, page: u32, pages: u32) {
        let is_in_step = u64::from(page) == page_in_step(slot, pages.into());
        if !is_in_step || self.0.load(Ordering::Relaxed) != u64::from(pages) << 32 | END {
            self.change(slot, pages.into(), is_in_step);
        }
    }

    fn change(&self, slot: Slot, pages: u64, is_in_step: bool) {
        let slot = u64::from(slot.get());
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| match (word >> 32, word & END) {
            (_, end) if slot >= end => None,
            (0, end) if is_in_step && pages > 0 => Some(pages << 32 | end),
            (step, _) if !is_in_step || step != pages => Some(step << 32 | slot),
            _ => None,
        });
    }

    /// At which page the payload of a slot begins, if it is where those before it let expect.
    #[inline]
    pub(crate) fn page_of(&self, slot: Slot) -> Option<u64> {
        let word = self.0.load(Ordering::Relaxed);
        (word >> 32 > 0 && u64::from(slot.get()) < word & END).then(|| page_in_step(slot, word >> 32))
    }
}

/// Page 0 is the header's.
fn page_in_step(slot: Slot, pages: u64) -> u64 {
    1 + u64::from(slot.get()) * pages
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slot(number: u32) -> Slot {
        Slot::new(number).unwrap()
    }

    fn pages(stride: &Stride) -> Vec<Option<u64>> {
        (0..5).map(|number| stride.page_of(slot(number))).collect()
    }

    #[test]
    fn blocks_of_one_length_are_expected_where_they_are_in_whatever_order_they_were_met() {
        let stride = Stride::default();
        assert_eq!(pages(&stride), [None; 5]);
        for met in [[0, 1, 2], [2, 0, 1]] {
            stride.clear();
            for number in met {
                stride.note(slot(number), 1 + 3 * number, 3);
            }
            assert_eq!(pages(&stride), [1, 4, 7, 10, 13].map(Some));
        }
        assert_eq!(stride.page_of(slot(Slot::COUNT - 1)), Some(1 + 3 * u64::from(Slot::COUNT - 1)));
    }

    #[test]
    fn nothing_is_expected_from_the_first_block_of_another_length_on() {
        let (longer, shorter, removed) = ((7, 4), (7, 1), (7, 0));
        for (page, other) in [longer, shorter, removed] {
            let stride = Stride::default();
            stride.note(slot(0), 1, 3);
            stride.note(slot(1), 4, 3);
            stride.note(slot(2), page, other);
            stride.note(slot(3), page + other, 3);
            assert_eq!(pages(&stride), [Some(1), Some(4), None, None, None], "{other} pages");
            // Met late: it was there before those.
            stride.note(slot(1), 4, 2);
            assert_eq!(pages(&stride), [Some(1), None, None, None, None]);
        }
    }

    /// A restart meets the newest block first: what it forgot of those let it expect them in step with the oldest.
    #[test]
    fn blocks_out_of_step_that_are_met_first_are_never_expected() {
        let stride = Stride::default();
        // Of two pages each from the third on, all met from the last one down to the first.
        for (number, page, pages) in [(4, 7, 2), (3, 5, 2), (2, 3, 2), (1, 2, 1), (0, 1, 1)] {
            stride.note(slot(number), page, pages);
        }
        assert_eq!(pages(&stride), [Some(1), Some(2), None, None, None]);
        stride.clear();
        stride.note(slot(0), 1, 1);
        assert_eq!(stride.page_of(slot(4)), Some(5), "the next lap");
    }

    #[test]
    fn a_file_that_begins_with_removals_or_blocks_without_bytes_expects_nothing() {
        let stride = Stride::default();
        stride.note(slot(0), 1, 0);
        stride.note(slot(1), 1, 3);
        stride.note(slot(2), 4, 3);
        assert_eq!(pages(&stride), [None; 5]);
    }
}
