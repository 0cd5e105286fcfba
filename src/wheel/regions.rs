//! How much of each part of a file is in memory on account of the store.
//!
//! # Invariants
//!
//! 1. All of this is a guess: what is in memory only the system knows. A wrong one costs time, and never a byte.
//! 2. A region is whole only once each of its pages was brought without an error. What was found out about one block says
//!    nothing about the next one otherwise.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::block::{FileSize, PAGE_SIZE};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of a region: what one page table of the processor maps, and what a disk reads in about the time in which it finds
/// ten scattered blocks.
pub(crate) const REGION: u64 = 2 << 20;

/// Low bits of a word: how many pages were brought. Each is counted once, but by readers of one block that meet.
const PAGES: u32 = 0xffff;
/// One more block was asked for alone. All bits: all of the region was asked for, or so many were.
const ASKED: u32 = 1 << 16;
const ASKED_BITS: u32 = 0xff << 16;
/// All pages of the region were brought at once.
const WHOLE: u32 = 1 << 31;

/// The regions of one file.
#[derive(Debug)]
pub(crate) struct Regions {
    words: Box<[AtomicU32]>,
    /// Sum of the pages of all words.
    pages: AtomicU64,
}

impl Regions {
    pub(crate) fn new(size: FileSize) -> Self {
        let count = size.get().div_ceil(REGION);
        Self { words: (0..count).map(|_| AtomicU32::new(0)).collect(), pages: AtomicU64::new(0) }
    }

    /// Says that nothing is in memory.
    pub(crate) fn clear(&self) {
        // Relaxed, here and below: guesses (invariant 1).
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
        self.pages.store(0, Ordering::Relaxed);
    }

    /// Says that these bytes were brought, or stored; how many bytes of the file were so before and are so now.
    pub(crate) fn add(&self, bytes: Range<u64>) -> Range<u64> {
        let mut added = 0;
        let mut at = bytes.start;
        while at < bytes.end {
            let end = bytes.end.min(end_of_region(at));
            let Some(word) = self.word(at) else { break };
            // Whoever brings a region has counted all of it.
            if word.load(Ordering::Relaxed) & WHOLE == 0 {
                let pages = pages_of(at..end);
                word.fetch_add(pages, Ordering::Relaxed);
                added += u64::from(pages);
            }
            at = end;
        }
        self.count(added)
    }

    /// Counts so many pages more; how many bytes there were before, and are now.
    fn count(&self, added: u64) -> Range<u64> {
        let before = if added == 0 {
            self.pages.load(Ordering::Relaxed)
        } else {
            self.pages.fetch_add(added, Ordering::Relaxed)
        };
        before * PAGE_SIZE..(before + added) * PAGE_SIZE
    }

    /// Says that one block of a region was asked for alone; how many were before, or 255 if all of it was asked for.
    pub(crate) fn ask(&self, at: u64) -> u32 {
        let Some(word) = self.word(at) else { return 0 };
        // It must not carry into what stands above.
        let more = |word: u32| (word & ASKED_BITS != ASKED_BITS).then(|| word + ASKED);
        let (Ok(before) | Err(before)) = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        (before & ASKED_BITS) / ASKED
    }

    /// Says that all of a region was asked for, though nobody has waited for it; whether it was not yet.
    pub(crate) fn request(&self, at: u64) -> bool {
        let request = |word: u32| (word & WHOLE == 0 && word & ASKED_BITS != ASKED_BITS).then_some(word | ASKED_BITS);
        self.word(at).is_some_and(|word| word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, request).is_ok())
    }

    /// Whether nothing of a region was brought, stored or asked for.
    pub(crate) fn is_untouched(&self, at: u64) -> bool {
        self.word(at).is_some_and(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// Says that a region was brought; the answer is that of `add`.
    pub(crate) fn set_whole(&self, at: u64, pages: u32) -> Range<u64> {
        let added = self.word(at).map_or(0, |word| {
            let before = word.swap(WHOLE | pages, Ordering::Relaxed);
            pages.saturating_sub(before & PAGES)
        });
        self.count(added.into())
    }

    /// Whether each region that these bytes touch was brought.
    pub(crate) fn are_whole(&self, bytes: &Range<u64>) -> bool {
        let (first, last) = (bytes.start / REGION, bytes.end.saturating_sub(1) / REGION);
        let is_whole = |word: &AtomicU32| word.load(Ordering::Relaxed) & WHOLE != 0;
        let words = in_memory(first).zip(in_memory(last)).and_then(|(first, last)| self.words.get(first..=last));
        words.is_some_and(|words| words.iter().all(is_whole))
    }

    /// Bytes of the file that were brought or stored.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * PAGE_SIZE
    }

    /// Regions of which something should be in memory, every `step`th of them from the `first` on: where they begin, and
    /// how many bytes that is.
    pub(crate) fn brought(&self, first: usize, step: usize) -> impl Iterator<Item = (u64, u64)> {
        let of_word = |(number, word): (u64, &AtomicU32)| {
            let pages = word.load(Ordering::Relaxed) & PAGES;
            (pages > 0).then(|| (number * REGION, u64::from(pages) * PAGE_SIZE))
        };
        (0_u64..).zip(&self.words).filter_map(of_word).skip(first).step_by(step.max(1))
    }

    fn word(&self, at: u64) -> Option<&AtomicU32> {
        self.words.get(in_memory(at / REGION)?)
    }
}

fn in_memory(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}

/// Where the region of a byte ends.
pub(crate) fn end_of_region(at: u64) -> u64 {
    (at / REGION + 1) * REGION
}

/// How many pages these bytes of one region touch.
pub(crate) fn pages_of(bytes: Range<u64>) -> u32 {
    let pages = bytes.end.div_ceil(PAGE_SIZE).saturating_sub(bytes.start / PAGE_SIZE);
    u32::try_from(pages).unwrap_or(PAGES)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn regions() -> Regions {
        Regions::new(FileSize::new(4 * REGION + 3 * PAGE_SIZE).unwrap())
    }

    #[test]
    fn pages_are_counted_where_they_lie() {
        let regions = regions();
        assert_eq!(regions.add(PAGE_SIZE..3 * PAGE_SIZE), 0..2 * PAGE_SIZE);
        assert_eq!(regions.add(REGION - 1..REGION + 1), 2 * PAGE_SIZE..4 * PAGE_SIZE, "a page on either side");
        assert_eq!(regions.add(0..0), 4 * PAGE_SIZE..4 * PAGE_SIZE);
        assert_eq!(regions.brought(0, 1).collect::<Vec<_>>(), [(0, 3 * PAGE_SIZE), (REGION, PAGE_SIZE)]);
        assert_eq!(regions.brought(1, 7).collect::<Vec<_>>(), [(REGION, PAGE_SIZE)]);
        regions.clear();
        assert_eq!((regions.bytes(), regions.brought(0, 1).count()), (0, 0));
    }

    #[test]
    fn a_whole_region_counts_all_of_its_pages_once() {
        let regions = regions();
        regions.add(REGION..REGION + 8192);
        assert_eq!(regions.set_whole(REGION + 5, 512), 8192..REGION, "the step that it makes may be one too many");
        assert_eq!(regions.add(REGION..REGION + 4096), REGION..REGION);
        assert_eq!(regions.bytes(), REGION);
        assert_eq!(regions.set_whole(REGION, 512), REGION..REGION);
        assert_eq!(regions.bytes(), REGION);
        assert!(regions.are_whole(&(REGION..2 * REGION)));
        assert!(!regions.are_whole(&(REGION..2 * REGION + 1)) && !regions.are_whole(&(REGION - 1..REGION + 1)));
        regions.set_whole(0, 512);
        assert!(regions.are_whole(&(REGION - 1..REGION + 1)));
    }

    #[test]
    fn whoever_asks_is_told_how_many_did_before() {
        let regions = regions();
        assert_eq!([5, 6, REGION - 1, REGION].map(|at| regions.ask(at)), [0, 1, 2, 0]);
        let last = (0..1000).map(|_| regions.ask(0)).max();
        assert_eq!(last, Some(255));
        assert_eq!(regions.bytes(), 0);
        regions.clear();
        assert_eq!(regions.ask(0), 0);
    }

    #[test]
    fn a_region_is_requested_once_and_then_brought_at_the_next_ask() {
        let regions = regions();
        regions.ask(5);
        assert!(regions.request(5));
        assert!(!regions.request(REGION - 1));
        assert_eq!((regions.ask(0), regions.bytes()), (255, 0));
        regions.set_whole(REGION, 512);
        assert!(!regions.request(REGION), "it is there");
        assert_eq!(regions.ask(REGION), 0, "and was left as it is");
        assert!(!regions.request(5 * REGION), "there is none");
        regions.clear();
        assert!(regions.request(REGION));
    }

    #[test]
    fn the_last_region_may_be_short_and_nothing_lies_behind_it() {
        let regions = regions();
        let end = 4 * REGION + 3 * PAGE_SIZE;
        assert_eq!(regions.add(end - 1..end), 0..PAGE_SIZE);
        assert_eq!(regions.add(end + REGION..end + REGION + 1), PAGE_SIZE..PAGE_SIZE);
        assert_eq!(regions.ask(u64::MAX), 0);
        assert_eq!(regions.set_whole(u64::MAX, 1), PAGE_SIZE..PAGE_SIZE);
        assert!(!regions.are_whole(&(u64::MAX - 1..u64::MAX)));
    }
}
