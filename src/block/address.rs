//! Where a block is: a file and a slot, in 32 bits.
//!
//! # Invariants
//!
//! 1. The upper 10 bits are a file's number, never 0; the lower 22 bits are a slot, never all ones.
#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroU32;

use super::{FileId, Slot};

/// Which block: file 1..=1023 and slot in that file's directory, packed in 32 bits.
///
/// Zero is no address, so an `Option<BlockAddress>` still takes four bytes. Addresses are reused when files are:
/// they name a place, not a value.
///
/// # Examples
///
/// ```
/// use scratchspace::{BlockAddress, FileId, Slot};
///
/// let address = BlockAddress::new(FileId::new(3).unwrap(), Slot::new(9).unwrap());
/// assert_eq!((address.file().get(), address.slot().get()), (3, 9));
/// assert_eq!(BlockAddress::from_bits(address.to_bits()), Some(address));
/// assert_eq!(address.to_string(), "3:9");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockAddress(NonZeroU32);

const _: () = assert!(size_of::<Option<BlockAddress>>() == 4);

const SLOT_BITS: u32 = 22;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

impl BlockAddress {
    /// The address of a slot of a file.
    #[must_use]
    pub const fn new(file: FileId, slot: Slot) -> Self {
        match NonZeroU32::new((file.get() as u32) << SLOT_BITS | slot.get()) {
            Some(bits) => Self(bits),
            None => unreachable!(), // the number of a file is not 0
        }
    }

    /// The file.
    #[must_use]
    pub const fn file(self) -> FileId {
        // The cast keeps all of the 10 bits that are left.
        match FileId::new((self.0.get() >> SLOT_BITS) as u16) {
            Some(file) => file,
            None => unreachable!(), // by invariant 1
        }
    }

    /// The slot.
    #[must_use]
    pub const fn slot(self) -> Slot {
        match Slot::new(self.0.get() & SLOT_MASK) {
            Some(slot) => slot,
            None => unreachable!(), // by invariant 1
        }
    }

    /// File and slot in 32 bits, never 0.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0.get()
    }

    /// The address of these bits, or `None` if they name file 0 or a slot of all ones.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match NonZeroU32::new(bits) {
            Some(word) if bits >> SLOT_BITS != 0 && bits & SLOT_MASK != SLOT_MASK => Some(Self(word)),
            _ => None,
        }
    }
}

impl fmt::Display for BlockAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file(), self.slot())
    }
}

impl fmt::Debug for BlockAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_and_the_last_address_have_known_bits() {
        let at = |file, slot| BlockAddress::new(FileId::new(file).unwrap(), Slot::new(slot).unwrap());
        assert_eq!(at(1, 0).to_bits(), 0x0040_0000);
        assert_eq!(at(1023, Slot::COUNT - 1).to_bits(), 0xFFFF_FFFE);
    }

    #[test]
    fn file_0_and_the_slot_of_all_ones_are_no_address() {
        for bits in [0, 1, 0x003F_FFFF, 0x007F_FFFF, u32::MAX] {
            assert_eq!(BlockAddress::from_bits(bits), None, "{bits:#x}");
        }
    }

    proptest! {
        #[test]
        fn file_and_slot_come_back_from_the_bits(file in 1..=FileId::MAX, slot in 0..Slot::COUNT) {
            let (file, slot) = (FileId::new(file).unwrap(), Slot::new(slot).unwrap());
            let address = BlockAddress::new(file, slot);
            prop_assert_eq!((address.file(), address.slot()), (file, slot));
            prop_assert_eq!(BlockAddress::from_bits(address.to_bits()), Some(address));
        }

        #[test]
        fn bits_that_are_an_address_give_the_same_bits_back(bits: u32) {
            if let Some(address) = BlockAddress::from_bits(bits) {
                prop_assert_eq!(BlockAddress::new(address.file(), address.slot()).to_bits(), bits);
            }
        }
    }
}
