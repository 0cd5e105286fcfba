//! The high-water mark of one file's directory, raised ahead of its entries: an opening in the same boot reads no further, and
//! not what an earlier lap has left below it.
//!
//! # Invariants
//!
//! 1. An entry is stored only once the file has a mark above its slot, or none that anybody may believe.
//! 2. What is known here is never above the mark in the file: a late store of the lap before, whose nonce nobody believes any
//!    more, may have replaced the one that came with the header.
#![forbid(unsafe_code)]

use std::io;

use crate::block::{FileSize, HighWaterMark, Slot};
use crate::planted;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, Ordering};

/// A mark is raised by so many slots, 64 KiB of entries, in a file where that is little: the more, the more is read in vain at
/// an opening; the less, the more often it is stored.
const STRIDE: u32 = 1024;
/// Fewest slots of a stride, in a small file.
const LEAST_STRIDE: u32 = 4;
/// Strides of a small file.
const STRIDES: u32 = 512;

/// What a file of an earlier run says of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was ever written where the mark stands.
    Nothing,
    /// A mark of another boot or lap, or a torn one.
    Doubted,
    /// So many slots may hold entries.
    Slots(u32),
}

/// How far the directory of a file may be written.
#[derive(Debug)]
pub(crate) struct HighWater {
    /// `None`: nobody knows when the system has lost what was not synced, and no mark is written.
    boot: Option<u64>,
    stride: u32,
    /// Slots below it need no other mark than the file has.
    slots: AtomicU32,
    /// Whether a mark was stored since the last header.
    raised: Mutex<bool>,
}

/// Slots by which the mark of such a file is raised.
fn stride(size: FileSize) -> u32 {
    (size.slots() / STRIDES).next_power_of_two().clamp(LEAST_STRIDE, STRIDE)
}

/// The mark with which a lap begins.
pub(crate) fn first_mark(size: FileSize, boot: u64) -> HighWaterMark {
    HighWaterMark { slots: stride(size), boot }
}

impl HighWater {
    pub(crate) fn new(size: FileSize, boot: Option<u64>) -> Self {
        Self { boot, stride: stride(size), slots: AtomicU32::new(0), raised: Mutex::new(false) }
    }

    /// A header is about to be written, with the first mark if there are marks. The lap before may not be over.
    pub(crate) fn header_begins(&self) {
        *self.raised.lock() = false;
    }

    /// A lap has begun with such a header.
    pub(crate) fn begin(&self) {
        let slots = match self.boot {
            Some(_) if *self.raised.lock() => 0, // invariant 2
            Some(_) => self.stride,
            None => u32::MAX,
        };
        // Relaxed here and in `adopt`: whoever stores an entry has reserved its slot, and the cursor's word publishes this.
        self.slots.store(slots, Ordering::Relaxed);
    }

    /// The file has this from an earlier run.
    pub(crate) fn adopt(&self, found: Found) {
        let slots = match (self.boot, found) {
            (Some(_), Found::Slots(slots)) => slots,
            (None, Found::Nothing) => u32::MAX,
            // One that is wrong from the next entry on must go: a later run might believe it.
            _ => 0,
        };
        self.slots.store(slots, Ordering::Relaxed);
    }

    /// How many slots may hold entries, as far as the file says.
    pub(crate) fn known(&self) -> Option<u32> {
        // Relaxed: of a file of an earlier run, before anything is stored in it.
        let slots = self.slots.load(Ordering::Relaxed);
        (self.boot.is_some() && slots > 0).then_some(slots)
    }

    /// Sees to it that the file's mark is above `slot`, or that it has none: `store` puts one there, or zeros.
    ///
    /// # Errors
    ///
    /// What `store` answers: the entry must not be stored then.
    #[inline]
    pub(crate) fn cover(
        &self,
        slot: Slot,
        store: impl FnOnce(Option<HighWaterMark>) -> io::Result<()>,
    ) -> io::Result<()> {
        // Acquire pairs with the Release in `raise`: the mark is in the file before an entry that it covers.
        if slot.get() < self.slots.load(Ordering::Acquire) { Ok(()) } else { self.raise(slot, store) }
    }

    #[cold]
    fn raise(&self, slot: Slot, store: impl FnOnce(Option<HighWaterMark>) -> io::Result<()>) -> io::Result<()> {
        let mut raised = self.raised.lock();
        // Relaxed: only this mutex's holder raises it.
        if slot.get() < self.slots.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A slot is below 2^22.
        let slots = (slot.get() + 1).next_multiple_of(self.stride);
        let mark = self.boot.map(|boot| HighWaterMark { slots, boot });
        *raised = true;
        // Hazard 58: the entry is in the file, and the mark not yet.
        if !planted::is(58) {
            store(mark)?;
        }
        // Release pairs with the Acquire in `cover`.
        self.slots.store(mark.map_or(u32::MAX, |mark| mark.slots), Ordering::Release);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn slot(number: u32) -> Slot {
        Slot::new(number).unwrap()
    }

    /// Covers slots, and gives the marks that were stored for that, 0 for zeros.
    fn marks(high_water: &HighWater, slots: &[u32]) -> Vec<u32> {
        let marks = RefCell::new(Vec::new());
        for number in slots {
            let store = |mark: Option<HighWaterMark>| {
                marks.borrow_mut().push(mark.map_or(0, |mark| mark.slots));
                Ok(())
            };
            high_water.cover(slot(*number), store).unwrap();
        }
        marks.into_inner()
    }

    #[test]
    fn a_mark_is_stored_once_for_a_stride() {
        let size = FileSize::new(64 << 20).unwrap();
        let high_water = HighWater::new(size, Some(3));
        high_water.begin();
        assert_eq!(first_mark(size, 3), HighWaterMark { slots: 1024, boot: 3 });
        assert_eq!(marks(&high_water, &[0, 1023, 1024, 1025, 2047, 2048, 9000, 5000, 9215]), [2048, 3072, 9216]);
        high_water.header_begins();
        high_water.begin();
        assert_eq!(marks(&high_water, &[1023, 1024]), [2048], "the next lap has its own");
    }

    #[test]
    fn a_small_file_has_small_strides() {
        let high_water = HighWater::new(FileSize::MIN, Some(3));
        high_water.begin();
        assert_eq!(marks(&high_water, &[3, 4, 7, 127]), [8, 128]);
    }

    #[test]
    fn a_file_without_a_mark_that_is_believed_gets_one_with_its_next_entry() {
        let high_water = HighWater::new(FileSize::MIN, Some(3));
        high_water.adopt(Found::Doubted);
        assert_eq!(high_water.known(), None);
        assert_eq!(marks(&high_water, &[0, 1]), [4]);
        high_water.adopt(Found::Slots(48));
        assert_eq!(high_water.known(), Some(48));
        assert_eq!(marks(&high_water, &[47, 48]), [52]);
    }

    #[test]
    fn where_boots_cannot_be_told_apart_there_is_no_mark_and_one_that_was_there_goes() {
        let high_water = HighWater::new(FileSize::MIN, None);
        high_water.begin();
        assert!(marks(&high_water, &[0, 100]).is_empty());
        high_water.adopt(Found::Nothing);
        assert!(marks(&high_water, &[0, 100]).is_empty());
        for found in [Found::Doubted, Found::Slots(48)] {
            high_water.adopt(found);
            assert_eq!(high_water.known(), None);
            assert_eq!(marks(&high_water, &[0, 1, 100]), [0]);
        }
    }

    /// A file gets its next header while blocks of the lap before are still being stored.
    #[test]
    fn a_lap_whose_first_mark_a_late_store_has_replaced_stores_its_own() {
        let high_water = HighWater::new(FileSize::MIN, Some(3));
        high_water.header_begins();
        high_water.begin();
        high_water.header_begins();
        assert_eq!(marks(&high_water, &[9]), [12]);
        high_water.begin();
        assert_eq!(high_water.known(), None);
        assert_eq!(marks(&high_water, &[0, 3]), [4]);
        high_water.header_begins();
        high_water.begin();
        assert!(marks(&high_water, &[3]).is_empty());
    }

    #[test]
    fn a_mark_that_could_not_be_stored_covers_nothing() {
        let high_water = HighWater::new(FileSize::MIN, Some(3));
        high_water.begin();
        let refused = high_water.cover(slot(4), |_| Err(io::Error::other("no")));
        assert_eq!(refused.unwrap_err().to_string(), "no");
        assert_eq!(marks(&high_water, &[4]), [8]);
    }
}
