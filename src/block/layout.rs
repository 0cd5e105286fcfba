//! How large a file is, and what fits into it: payloads grow up from page 1, the directory grows down from the end.
//!
//! # Invariants
//!
//! 1. A file size is a multiple of a page from 12 KiB to 16 GiB, so pages count in 32 bits and bytes in 64.
//! 2. Page 0 is the header's: no payload and no directory entry reaches into it.
#![forbid(unsafe_code)]

use super::Slot;
use super::entry::Entry;

/// The unit of space in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// The largest payload in bytes, `2^31 - 33`, in a file that has room for it.
pub const MAX_BLOCK: u32 = (1 << 31) - 33;

/// The bytes of a directory entry.
const ENTRY: u64 = Entry::SIZE as u64;

/// [`PAGE_SIZE`] as the length of a buffer.
#[expect(clippy::cast_possible_truncation, reason = "4096")]
pub(crate) const PAGE_LEN: usize = PAGE_SIZE as usize;

/// Whole pages that a payload of `len` bytes takes; none if it is empty.
///
/// # Examples
///
/// ```
/// use scratchspace::pages_of;
///
/// assert_eq!([0, 1, 4096, 4097].map(pages_of), [0, 1, 1, 2]);
/// ```
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a page is 4096 bytes")]
pub const fn pages_of(len: u32) -> u32 {
    len.div_ceil(PAGE_SIZE as u32)
}

/// The size of every file of a store: a multiple of 4096 from 12 KiB to 16 GiB.
///
/// # Examples
///
/// ```
/// use scratchspace::FileSize;
///
/// let size = FileSize::new(64 << 20).unwrap();
/// assert_eq!(size.pages(), 16_384);
/// // The header and the first page of the directory are not for payloads.
/// assert_eq!(size.largest_block(), (16_384 - 2) * 4096);
/// assert_eq!(FileSize::new(10_000), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSize(u64);

impl FileSize {
    /// 12 KiB: the header, a page for a payload, a page of directory.
    pub const MIN: Self = Self(3 * PAGE_SIZE);
    /// 16 GiB.
    pub const MAX: Self = Self(16 << 30);

    /// The size of this many bytes, or `None` if that is no multiple of 4096 or out of range.
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_multiple_of(PAGE_SIZE) && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size in pages, at most `2^22`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^22, by invariant 1")]
    pub const fn pages(self) -> u32 {
        (self.0 / PAGE_SIZE) as u32
    }

    /// Where the directory entry of a slot starts, in bytes from the start of the file.
    ///
    /// # Panics
    ///
    /// If a file of this size never has that slot: see [`FileSize::slots`].
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{FileSize, Slot};
    ///
    /// assert_eq!(FileSize::MIN.entry_offset(Slot::new(0).unwrap()), 12 * 1024 - 64);
    /// ```
    #[must_use]
    pub const fn entry_offset(self, slot: Slot) -> u64 {
        assert!(slot.get() < self.slots(), "a file of this size does not have that slot");
        self.0 - ENTRY * (slot.get() as u64 + 1)
    }

    /// The largest payload in bytes that an empty file takes, at most [`MAX_BLOCK`].
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "it is at most MAX_BLOCK")]
    pub const fn largest_block(self) -> u32 {
        // Page 0 and the page that holds the entry of slot 0 are taken.
        let bytes = self.0 - 2 * PAGE_SIZE;
        if bytes < MAX_BLOCK as u64 { bytes as u32 } else { MAX_BLOCK }
    }

    /// The most slots a file ever has: as if no block had a payload.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "it is at most Slot::COUNT")]
    pub const fn slots(self) -> u32 {
        let entries = (self.0 - PAGE_SIZE) / ENTRY;
        if entries < Slot::COUNT as u64 { entries as u32 } else { Slot::COUNT }
    }

    /// Whether `pages` pages from `next_page` on have room, together with the directory entries up to that of `slot`.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::FileSize;
    ///
    /// assert!(FileSize::MIN.fits(1, 1, 0) && FileSize::MIN.fits(1, 1, 63));
    /// // Entry 64 would reach into the page of the payload.
    /// assert!(!FileSize::MIN.fits(1, 1, 64) && FileSize::MIN.fits(1, 0, 64));
    /// ```
    #[must_use]
    pub const fn fits(self, next_page: u32, pages: u32, slot: u32) -> bool {
        if slot >= self.slots() {
            return false;
        }
        let room = (self.0 - ENTRY * (slot as u64 + 1)) / PAGE_SIZE;
        next_page as u64 + pages as u64 <= room
    }
}

/// A page of zeros, to pad the last page of a payload from.
static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// Zeros from the end of a payload of `len` bytes to the end of its page.
pub(crate) fn padding(len: u64) -> &'static [u8] {
    #[expect(clippy::cast_possible_truncation, reason = "less than a page")]
    let missing = (len.next_multiple_of(PAGE_SIZE) - len) as usize;
    &ZEROS[..missing]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn size(bytes: u64) -> FileSize {
        FileSize::new(bytes).unwrap()
    }

    #[test]
    fn a_file_has_whole_pages_from_12_kib_to_16_gib() {
        assert_eq!([size(12 * KIB), size(16 * GIB)], [FileSize::MIN, FileSize::MAX]);
        for refused in [0, 4 * KIB, 8 * KIB, 12 * KIB - 1, 12 * KIB + 1, 16 * GIB + 4096, u64::MAX - 4095, u64::MAX] {
            assert_eq!(FileSize::new(refused), None, "{refused}");
        }
        assert_eq!([size(12 * KIB).pages(), size(64 * MIB).pages(), size(16 * GIB).pages()], [3, 16_384, 1 << 22]);
    }

    #[test]
    fn an_empty_file_takes_its_largest_block_and_not_a_page_more() {
        for (bytes, largest) in [(12 * KIB, 4096), (64 * MIB, 16_382 * 4096), (16 * GIB, MAX_BLOCK)] {
            let (size, pages) = (size(bytes), pages_of(largest));
            assert_eq!(size.largest_block(), largest);
            assert!(size.fits(1, pages, 0), "{bytes}");
            assert_eq!(size.fits(1, pages + 1, 0), largest == MAX_BLOCK, "{bytes}");
        }
        // The sizes around the one from which on the block is the limit, not the file.
        assert_eq!(size(2 * GIB + 4096).largest_block(), (1 << 31) - 4096);
        assert_eq!(size(2 * GIB + 8192).largest_block(), MAX_BLOCK);
    }

    #[test]
    fn slots_without_payload_end_at_the_header_or_at_22_bits() {
        for (bytes, slots) in [(12 * KIB, 128), (64 * MIB, 1_048_512), (16 * GIB, (1 << 22) - 1)] {
            let size = size(bytes);
            assert_eq!(size.slots(), slots);
            assert!(size.fits(1, 0, slots - 1) && !size.fits(1, 0, slots), "{bytes}");
            assert!(size.entry_offset(Slot::new(slots - 1).unwrap()) >= PAGE_SIZE, "{bytes}");
        }
        assert_eq!(size(12 * KIB).entry_offset(Slot::new(127).unwrap()), PAGE_SIZE);
    }

    #[test]
    fn a_page_is_full_once_a_directory_entry_reaches_into_it() {
        for (bytes, pages) in [(12 * KIB, 3), (64 * MIB, 16_384), (16 * GIB, 1 << 22)] {
            let size = size(bytes);
            // Slots 0..64 share the last page, slot 64 takes the one before.
            for (slot, room) in [(0, pages - 1), (63, pages - 1), (64, pages - 2)] {
                assert!(size.fits(room, 0, slot) && !size.fits(room, 1, slot), "{bytes} {slot}");
                assert!(size.fits(1, room - 1, slot) && !size.fits(1, room, slot), "{bytes} {slot}");
            }
        }
    }

    #[test]
    fn numbers_of_any_size_never_fit_by_overflow() {
        for size in [FileSize::MIN, FileSize::MAX] {
            assert!(!size.fits(u32::MAX, u32::MAX, 0) && !size.fits(1, u32::MAX, 0) && !size.fits(1, 0, u32::MAX));
        }
    }

    #[test]
    #[should_panic(expected = "does not have that slot")]
    fn the_entry_of_a_slot_that_cannot_be_is_refused_loudly() {
        let _ = FileSize::MIN.entry_offset(Slot::new(128).unwrap());
    }

    #[test]
    fn pages_are_rounded_up() {
        assert_eq!([0, 1, 4095, 4096, 4097].map(pages_of), [0, 1, 1, 1, 2]);
        assert_eq!([MAX_BLOCK, u32::MAX].map(pages_of), [1 << 19, 1 << 20]);
    }

    proptest! {
        #[test]
        fn what_fits_keeps_payload_and_directory_apart(
            pages in 3..=1_u64 << 22, next: u32, count: u32, slot: u32, shrink in 0..32_u32,
        ) {
            let size = size(pages * PAGE_SIZE);
            let (next, count, slot) = (next >> shrink, count >> shrink, slot >> shrink);
            if size.fits(next, count, slot) {
                let entry = size.entry_offset(Slot::new(slot).unwrap());
                prop_assert!((u64::from(next) + u64::from(count)) * PAGE_SIZE <= entry);
                prop_assert!(entry >= PAGE_SIZE);
            }
        }
    }
}
