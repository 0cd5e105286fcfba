//! A cache line of tagged addresses, changed one word at a time.
//!
//! # Invariants
//!
//! 1. A word is 0 (empty) or a tag other than 0 above an address other than 0.
//! 2. A word changes by compare-exchange only, from exactly what its changer has seen. Nothing moves to another place.
#![forbid(unsafe_code)]

use crate::block::BlockAddress;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Words in a bucket: a cache line of them. The loom models explore the same protocol with two.
pub(super) const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// A 32-bit tag above a 32-bit address; 0 is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) fn new(tag: u32, address: BlockAddress) -> Self {
        debug_assert_ne!(tag, 0, "a tag is never 0");
        Self(u64::from(tag) << 32 | u64::from(address.to_bits()))
    }

    pub(super) fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn address_bits(self) -> u32 {
        (self.0 & 0xFFFF_FFFF) as u32
    }

    /// `None` if the word is empty.
    pub(super) fn address(self) -> Option<BlockAddress> {
        BlockAddress::from_bits(self.address_bits())
    }
}

/// Eight words in one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Bucket {
    words: [AtomicU64; SLOTS],
    /// loom remembers one reader of an atomic only. A writer that has read a word itself would hide an earlier reader,
    /// and orders in which the write comes first would not be tried. So each access announces itself by a write of its
    /// own.
    #[cfg(loom)]
    accesses: [AtomicU64; SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    #[cfg(any(loom, miri))]
    pub(super) fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            #[cfg(loom)]
            accesses: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub(super) fn word(&self, slot: usize) -> Word {
        #[cfg(loom)]
        self.announce(slot);
        // Acquire pairs with the Release in `exchange`: whoever sees an address sees what its writer prepared for it,
        // whoever sees that a word gave way sees what was noted down before (`Floors::raise`).
        Word(self.words[slot].load(Ordering::Acquire))
    }

    /// Writes the eight words, one load each, to the front of `into`. Not one instant: see the module's argument.
    pub(super) fn read(&self, into: &mut [Word]) {
        for (slot, word) in into.iter_mut().enumerate().take(SLOTS) {
            *word = self.word(slot);
        }
    }

    /// Changes exactly `from` into `to`. `Err` holds what was there instead.
    pub(super) fn exchange(&self, slot: usize, from: Word, to: Word) -> Result<(), Word> {
        #[cfg(loom)]
        self.announce(slot);
        // Release pairs with the Acquire in `word`. Acquire of what is replaced pairs with the Release of its writer,
        // so that who sees the new word sees the old writer's work as well. The loser looks again before it acts.
        self.words[slot].compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed).map(drop).map_err(Word)
    }

    #[cfg(loom)]
    fn announce(&self, slot: usize) {
        // Relaxed: it must order nothing that the words do not.
        self.accesses[slot].fetch_add(1, Ordering::Relaxed);
    }
}
