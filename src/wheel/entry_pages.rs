//! Which pages of a directory are in memory on account of the store: its entries may be met where they are mapped.
//!
//! # Invariants
//!
//! 1. A page is marked once it was brought without an error, and not since a release of its file. The system may have taken
//!    it again: so may it each page of a block that is lent.
#![forbid(unsafe_code)]

use crate::block::{Entry, FileSize, PAGE_SIZE, Slot};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Entries of a page.
const ENTRIES: u32 = 64;
const _: () = assert!(ENTRIES as u64 * Entry::SIZE as u64 == PAGE_SIZE);
const BITS: u32 = u64::BITS;

/// A bit for each page of the directory of one file, from its end.
#[derive(Debug)]
pub(crate) struct EntryPages(Box<[AtomicU64]>);

impl EntryPages {
    pub(crate) fn new(size: FileSize) -> Self {
        let words = size.slots().div_ceil(ENTRIES).div_ceil(BITS);
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Says that nothing is in memory.
    pub(crate) fn clear(&self) {
        for word in &self.0 {
            // Relaxed, here and below: what a bit says was true before it was set, and is of no one else's concern.
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the page with the entry of this slot was brought.
    #[inline]
    pub(crate) fn are_there(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.0.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Says that the page with the entry of this slot was brought.
    pub(crate) fn mark(&self, slot: Slot) {
        let (word, bit) = place(slot);
        if let Some(word) = self.0.get(word) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }
}

fn place(slot: Slot) -> (usize, u64) {
    let page = slot.get() / ENTRIES;
    ((page / BITS) as usize, 1 << (page % BITS))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slot(number: u32) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn a_page_is_marked_for_all_of_its_entries_and_for_no_other() {
        let size = FileSize::new(8 << 20).unwrap();
        let pages = EntryPages::new(size);
        let there = || (0..size.slots()).filter(|number| pages.are_there(slot(*number))).collect::<Vec<_>>();
        assert_eq!(there(), []);
        pages.mark(slot(64 * 70 + 3));
        assert_eq!(there(), (64 * 70..64 * 71).collect::<Vec<_>>());
        pages.mark(slot(0));
        pages.mark(slot(size.slots() - 1));
        assert!(pages.are_there(slot(63)) && !pages.are_there(slot(64)));
        pages.clear();
        assert_eq!(there(), []);
    }

    #[test]
    fn a_slot_that_no_file_of_this_size_has_is_never_there() {
        let pages = EntryPages::new(FileSize::MIN);
        pages.mark(slot(Slot::COUNT - 1));
        assert!(!pages.are_there(slot(Slot::COUNT - 1)));
    }
}
