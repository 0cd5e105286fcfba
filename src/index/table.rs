//! The memory of the index: zero pages that cost nothing until they are touched. The only `unsafe` of the index.
//!
//! # Invariants
//!
//! 1. The memory holds `count` buckets, is zero (all words empty) at first, and stays where it is while the table
//!    lives.
//! 2. It is reached through `&Bucket` only, that is through atomics.
#![cfg_attr(not(any(loom, miri)), expect(unsafe_code, reason = "a mapping seen as atomics"))]

use std::io;
use std::ops::Deref;

use super::bucket::Bucket;
use crate::os;

/// Above this many bytes the table asks for huge pages: they save a miss of the page tables at each access. Up to here its
/// pages can be had at once.
#[cfg(all(target_os = "linux", not(any(loom, miri))))]
const HUGE_ABOVE: usize = 4 << 20;

/// A fixed array of buckets, all empty at first.
#[cfg(not(any(loom, miri)))]
#[derive(Debug)]
pub(super) struct Table {
    memory: memmap2::MmapRaw,
    count: usize,
}

/// The same on the heap, where a model checker or interpreter can follow each access.
#[cfg(any(loom, miri))]
#[derive(Debug)]
pub(super) struct Table {
    memory: Box<[Bucket]>,
}

#[cfg(not(any(loom, miri)))]
impl Table {
    /// `count` empty buckets, at least one.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let bytes = count.checked_mul(size_of::<Bucket>()).filter(|&bytes| bytes > 0);
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let memory = memmap2::MmapRaw::from(memmap2::MmapMut::map_anon(bytes)?);
        #[cfg(target_os = "linux")]
        if bytes > HUGE_ABOVE {
            // A hint. Where huge pages are switched off, small ones do.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        let table = Self { memory, count };
        assert!(table.memory.len() >= bytes && table.first().is_aligned(), "{table:?} for {bytes} bytes");
        Ok(table)
    }

    /// Has the memory of a small table at hand, where much of it is about to be touched; a large one has few pages.
    #[cfg_attr(not(target_os = "linux"), expect(clippy::unused_self, reason = "only Linux can"))]
    pub(super) fn populate(&self) {
        #[cfg(target_os = "linux")]
        if self.memory.len() <= HUGE_ABOVE {
            // A hint, which Linux knows since 5.14.
            let _ = self.memory.advise(memmap2::Advice::PopulateWrite);
        }
    }

    /// Aligned, because a mapping begins with a page: asserted in `new`.
    fn first(&self) -> *const Bucket {
        self.memory.as_ptr().cast()
    }
}

#[cfg(any(loom, miri))]
impl Table {
    pub(super) fn new(count: usize) -> io::Result<Self> {
        Ok(Self { memory: (0..count).map(|_| Bucket::new()).collect() })
    }

    /// It is at hand.
    #[expect(clippy::unused_self, reason = "as the other one")]
    pub(super) fn populate(&self) {}
}

impl Table {
    pub(super) fn bytes(&self) -> u64 {
        size_of_val::<[Bucket]>(self) as u64
    }

    /// Asks the processor for the cache line of a bucket.
    pub(super) fn prefetch(&self, bucket: usize) {
        os::prefetch(&raw const self[bucket]);
    }
}

#[cfg(not(any(loom, miri)))]
impl Deref for Table {
    type Target = [Bucket];

    fn deref(&self) -> &[Bucket] {
        // SAFETY: the private mapping holds `count` aligned buckets (asserted in `new`), zeroed by the kernel, which is
        // a valid `Bucket` (atomics of 0); it lives as long as `self`, and by invariant 2 nobody writes to it but
        // through the atomics.
        unsafe { std::slice::from_raw_parts(self.first(), self.count) }
    }
}

#[cfg(any(loom, miri))]
impl Deref for Table {
    type Target = [Bucket];

    fn deref(&self) -> &[Bucket] {
        &self.memory
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::super::bucket::{SLOTS, Word};
    use super::*;

    #[test]
    fn a_new_table_is_empty_everywhere() {
        let table = Table::new(1000).unwrap();
        assert_eq!(table.len(), 1000);
        assert_eq!(table.bytes(), 64_000);
        assert!(table.iter().all(|bucket| (0..SLOTS).all(|slot| bucket.word(slot) == Word::EMPTY)));
        table.prefetch(999);
    }
}
