//! The tables of an index: one of fixed size, and for a store that may not forget as many more as its blocks need.
//!
//! # Invariants
//!
//! 1. A level is there once that before it is, and stays until the index is dropped.
//! 2. The second is as large as the first, each after it twice its predecessor: each doubles the index. So a miss looks into
//!    few of them, however many blocks more there are than were expected.
#![forbid(unsafe_code)]

use std::io;

use super::Place;
use super::bucket::Bucket;
use super::table::Table;
use crate::sync::OnceLock;

/// Levels of an index that grows: of 2^14 words, the fewest, they make 2^33, twice as many as there are addresses.
const LEVELS: usize = 20;

/// One table, and those that it was not large enough for.
#[derive(Debug)]
pub(super) struct Levels {
    first: Table,
    /// Empty if the index does not grow.
    more: Box<[OnceLock<Table>]>,
}

impl Levels {
    pub(super) fn new(buckets: usize, grows: bool) -> io::Result<Self> {
        let more = if grows { LEVELS - 1 } else { 0 };
        Ok(Self { first: Table::new(buckets)?, more: (0..more).map(|_| OnceLock::new()).collect() })
    }

    /// The one that is there from the beginning.
    pub(super) fn first(&self) -> &Table {
        &self.first
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        1 + self.more.iter().take_while(|level| level.get().is_some()).count()
    }

    /// Whether there is more than the first: what every look-up asks.
    pub(super) fn is_one(&self) -> bool {
        // Acquire in `get`, which pairs with `set`: whoever was told of a block in the second level sees that.
        self.more.first().is_none_or(|second| second.get().is_none())
    }

    /// All tables, the first one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.first).chain(self.more.iter().map_while(OnceLock::get))
    }

    /// A table that is there.
    pub(super) fn level(&self, level: usize) -> Option<&Table> {
        let Some(deeper) = level.checked_sub(1) else { return Some(&self.first) };
        self.more.get(deeper)?.get()
    }

    /// The buckets of a key in a table that is there.
    pub(super) fn buckets(&self, level: usize, place: Place) -> Option<[&Bucket; 2]> {
        let table = self.level(level)?;
        Some(place.buckets_at(level).map(|bucket| &table[bucket]))
    }

    /// Has this level, and all before it; whether it is there now. It is not if the index does not grow, or has no memory.
    ///
    /// Who comes at the same time with another table loses it, and uses the one that is there.
    pub(super) fn grow_to(&self, level: usize) -> bool {
        let Some(last) = level.checked_sub(1) else { return true };
        if last >= self.more.len() {
            return false;
        }
        self.more[..=last].iter().enumerate().all(|(number, more)| {
            more.get().is_some()
                || Table::new(self.first.len() << number).is_ok_and(|table| {
                    // Somebody else's is as good.
                    let _ = more.set(table);
                    true
                })
        })
    }

    /// Whether it may have more tables than the first.
    pub(super) fn grows(&self) -> bool {
        !self.more.is_empty()
    }

    /// Bytes of address space.
    pub(super) fn bytes(&self) -> u64 {
        self.iter().map(Table::bytes).sum()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn levels_come_one_after_the_other_each_twice_as_large_from_the_second_on() {
        let levels = Levels::new(3, true).unwrap();
        assert!(levels.is_one() && levels.grows() && levels.level(1).is_none());
        assert!(levels.grow_to(3) && levels.grow_to(2));
        assert_eq!(levels.iter().map(|table| table.len()).collect::<Vec<_>>(), [3, 3, 6, 12]);
        assert!(!levels.is_one() && levels.count() == 4 && levels.bytes() == 24 * 64);
        // Each bucket of a key is one of its level.
        for spread in [0, 5, u32::MAX] {
            let place = Place { tag: 1, buckets: [0, 2], spread, stripe: 0 };
            assert!((0..4).all(|level| levels.buckets(level, place).is_some()), "{spread}");
            assert!(levels.buckets(4, place).is_none());
        }
        assert!(!levels.grow_to(LEVELS), "there is no more than so many");
        assert!(!Levels::new(3, false).unwrap().grow_to(1));
    }
}
