//! The high-water mark of a directory: in the second sector of a file, how far its entries may reach.
//!
//! It stands apart from the header, so that one that is torn takes nothing with it: it is no mark, and a directory without one is
//! read as far as it can reach.
//!
//! # Invariants
//!
//! 1. A mark is believed only in the lap that it was written in, and only in the same boot of the system: an entry may be
//!    on the disk, after a power cut, and the mark that came before it not.
#![forbid(unsafe_code)]

use twox_hash::XxHash3_64;

use super::{HEADER_LEN, field};

// The mark, little-endian; docs/format.md draws it.
const SLOTS: usize = 0;
const RESERVED: usize = 4;
const BOOT: usize = 8;
const CHECKSUM: usize = 16;

/// How far the entries of a directory may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HighWaterMark {
    /// Slots from this one on hold nothing of this lap.
    pub(crate) slots: u32,
    /// In which boot of the system it was written; see `FileSource::boot`.
    pub(crate) boot: u64,
}

impl HighWaterMark {
    /// Where it stands in its file: the sector behind the header's.
    pub(crate) const OFFSET: usize = HEADER_LEN;

    pub(crate) const LEN: usize = 24;

    /// The mark as it is stored, in the lap of this nonce.
    pub(crate) fn encode(self, nonce: u64) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[SLOTS..RESERVED].copy_from_slice(&self.slots.to_le_bytes());
        bytes[BOOT..CHECKSUM].copy_from_slice(&self.boot.to_le_bytes());
        let checksum = XxHash3_64::oneshot_with_seed(nonce, &bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The mark in the first page of a file, if there is one that was written in the lap of this nonce.
    pub(crate) fn decode(page: &[u8], nonce: u64) -> Option<Self> {
        let bytes = page.get(Self::OFFSET..)?.first_chunk::<{ Self::LEN }>()?;
        let checksum = XxHash3_64::oneshot_with_seed(nonce, &bytes[..CHECKSUM]);
        let is_whole = u64::from_le_bytes(field(bytes, CHECKSUM)) == checksum && bytes[RESERVED..BOOT] == [0; 4];
        let mark =
            Self { slots: u32::from_le_bytes(field(bytes, SLOTS)), boot: u64::from_le_bytes(field(bytes, BOOT)) };
        is_whole.then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = HighWaterMark::LEN;

    /// The first page of a file with this mark.
    fn page(mark: HighWaterMark, nonce: u64) -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[512..512 + LEN].copy_from_slice(&mark.encode(nonce));
        page
    }

    #[test]
    fn the_bytes_of_a_mark_are_those_of_the_format() {
        let bytes = HighWaterMark { slots: 0x0102_0304, boot: 0x1122_3344_5566_7788 }.encode(7);
        assert_eq!(bytes[..16], [4, 3, 2, 1, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(bytes[16..], [115, 10, 124, 204, 108, 131, 99, 162]);
    }

    #[test]
    fn nothing_is_no_mark() {
        for nonce in [0, 1, u64::MAX] {
            assert_eq!(HighWaterMark::decode(&[0; 4096], nonce), None);
            assert_eq!(HighWaterMark::decode(&[], nonce), None);
            assert_eq!(HighWaterMark::decode(&[0; 512 + LEN - 1], nonce), None);
        }
    }

    #[test]
    fn a_mark_whose_reserved_bytes_say_something_is_none() {
        let mut page = page(HighWaterMark { slots: 9, boot: 1 }, 5);
        page[517] = 1;
        let checksum = XxHash3_64::oneshot_with_seed(5, &page[512..528]);
        page[528..536].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(HighWaterMark::decode(&page, 5), None);
    }

    proptest! {
        #[test]
        fn a_mark_is_read_back_in_its_lap_only(slots: u32, boot: u64, nonce: u64, other: u64) {
            let mark = HighWaterMark { slots, boot };
            let page = page(mark, nonce);
            prop_assert_eq!(HighWaterMark::decode(&page, nonce), Some(mark));
            if other != nonce {
                prop_assert_eq!(HighWaterMark::decode(&page, other), None);
            }
        }

        #[test]
        fn a_mark_with_a_flipped_bit_is_none(slots: u32, boot: u64, nonce: u64, bit in 0..LEN * 8) {
            let mut page = page(HighWaterMark { slots, boot }, nonce);
            page[512 + bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(HighWaterMark::decode(&page, nonce), None);
        }
    }
}
