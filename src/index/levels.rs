//! The tables of an index: one of fixed size, and for a store that may not forget as many more as its blocks need.
//!
//! # Invariants
//!
//! 1. A level is there once that before it is, and stays until the index is dropped.
//! 2. The second is an eighth of the first: for the few that find no place there although no more blocks came than were
//!    expected. The third is as large as the first, and each after it twice its predecessor, so that it doubles the index: a
//!    miss looks into few of them, however many more blocks there are.
#![forbid(unsafe_code)]

use std::io;

use super::Place;
use super::bucket::Bucket;
use super::table::Table;

/// Most levels of an index that grows: of 2^14 words, the fewest, they make 2^33, twice as many as there are addresses.
const MOST: usize = if cfg!(loom) { 3 } else { 21 };
/// How many times larger the first level is than the second, as a power of two.
const SMALLER: usize = 3;

/// One table, and those that it was not large enough for.
#[derive(Debug)]
pub(super) struct Levels {
    first: Table,
    /// Empty if the index does not grow.
    more: Box<[Level]>,
}

impl Levels {
    /// As many levels as take at most so many bytes together; the first is there, whatever it takes.
    pub(super) fn new(buckets: usize, most_bytes: u64) -> io::Result<Self> {
        let first = Table::new(buckets)?;
        let sizes = (1..MOST).map(|level| size_of_level(buckets, level));
        let sizes = sizes.scan(first.bytes(), |bytes, size| {
            *bytes = bytes.saturating_add((size as u64).saturating_mul(size_of::<Bucket>() as u64));
            (*bytes <= most_bytes).then_some(size)
        });
        Ok(Self { first, more: sizes.map(Level::new).collect() })
    }

    /// The one that is there from the beginning.
    pub(super) fn first(&self) -> &Table {
        &self.first
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        1 + self.more.iter().take_while(|level| level.get().is_some()).count()
    }

    /// Whether there is more than the first: what every look-up asks that finds nothing there.
    pub(super) fn have_grown(&self) -> bool {
        self.more.first().is_some_and(|second| second.get().is_some())
    }

    /// All tables, the first one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.first).chain(self.more.iter().map_while(Level::get))
    }

    /// The buckets of a key in a level, if that is there.
    pub(super) fn buckets(&self, level: usize, place: Place) -> Option<[&Bucket; 2]> {
        let table = match level.checked_sub(1) {
            None => &self.first,
            Some(deeper) => self.more.get(deeper)?.get()?,
        };
        Some(buckets_at(level, place).map(|bucket| &table[bucket]))
    }

    /// Has this level, after all before it; whether it is there now. It is not if there may be no more, or is no memory.
    pub(super) fn grow_to(&self, level: usize) -> bool {
        self.more.get(..level).is_some_and(|levels| levels.iter().all(Level::make))
    }

    /// Bytes of address space.
    pub(super) fn bytes(&self) -> u64 {
        self.iter().map(Table::bytes).sum()
    }
}

/// Buckets of a level whose first has so many.
fn size_of_level(first: usize, level: usize) -> usize {
    match level {
        0 => first,
        1 => first.div_ceil(1 << SMALLER),
        // Saturated: there is no memory for it.
        _ => first.saturating_mul(1 << (level - 2)),
    }
}

/// The buckets of a key in a level: of a smaller one those that several of the first share, of a larger one one of those that
/// stand for one of the first.
pub(super) fn buckets_at(level: usize, place: Place) -> [usize; 2] {
    match level {
        0 => place.buckets,
        1 => place.buckets.map(|bucket| bucket >> SMALLER),
        _ => {
            let doubled = level - 2;
            place.buckets.map(|bucket| bucket << doubled | place.spread as usize & ((1 << doubled) - 1))
        }
    }
}

/// A table that is made when it is needed.
#[cfg(not(loom))]
#[derive(Debug)]
struct Level {
    table: crate::sync::OnceLock<Table>,
    size: usize,
}

#[cfg(not(loom))]
impl Level {
    fn new(size: usize) -> Self {
        Self { table: crate::sync::OnceLock::new(), size }
    }

    fn get(&self) -> Option<&Table> {
        // Acquire, which pairs with the Release of `set`: whoever was told of a block in this level sees the level.
        self.table.get()
    }

    /// Who comes at the same time with another table loses it, and uses the one that is there.
    fn make(&self) -> bool {
        self.get().is_some()
            || Table::new(self.size).is_ok_and(|table| {
                let _ = self.table.set(table);
                true
            })
    }
}

/// The same, where a model checker follows who sees it: what is made is that it is there.
#[cfg(loom)]
#[derive(Debug)]
struct Level {
    is_there: crate::sync::atomic::AtomicBool,
    table: Table,
}

#[cfg(loom)]
impl Level {
    fn new(size: usize) -> Self {
        Self { is_there: crate::sync::atomic::AtomicBool::new(false), table: Table::new(size).unwrap() }
    }

    fn get(&self) -> Option<&Table> {
        self.is_there.load(crate::sync::atomic::Ordering::Acquire).then_some(&self.table)
    }

    fn make(&self) -> bool {
        self.is_there.store(true, crate::sync::atomic::Ordering::Release);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn levels_come_one_after_the_other_a_small_one_and_then_each_doubles_the_index() {
        let levels = Levels::new(17, u64::MAX).unwrap();
        assert!(!levels.have_grown() && levels.count() == 1);
        assert!(levels.grow_to(4) && levels.grow_to(2) && levels.have_grown());
        assert_eq!(levels.iter().map(|table| table.len()).collect::<Vec<_>>(), [17, 3, 17, 34, 68]);
        assert_eq!((levels.count(), levels.bytes()), (5, 139 * 64));
        // Each bucket of a key is one of its level.
        for spread in [0, 5, u32::MAX] {
            let place = Place { tag: 1, buckets: [0, 16], spread, stripe: 0 };
            assert!((0..5).all(|level| levels.buckets(level, place).is_some()), "{spread}");
            assert!(levels.buckets(5, place).is_none());
        }
        assert!(!levels.grow_to(MOST), "there is no more than so many");
    }

    #[test]
    fn levels_take_no_more_bytes_than_they_may() {
        let largest = |buckets: u64| {
            let levels = Levels::new(17, buckets * 64).unwrap();
            (0..MOST).take_while(|level| levels.grow_to(*level)).count()
        };
        assert_eq!([0, 17, 19, 20, 36, 37, 70, 71].map(largest), [1, 1, 1, 2, 2, 3, 3, 4]);
    }

    #[test]
    fn the_levels_of_the_smallest_index_have_a_word_for_each_address() {
        let buckets = (1 << 14) / super::super::bucket::SLOTS;
        let words: usize = (0..MOST).map(|level| size_of_level(buckets, level) * super::super::bucket::SLOTS).sum();
        assert!(words > 1 << 33, "{words}");
    }
}
