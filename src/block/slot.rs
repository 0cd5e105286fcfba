//! Which block of a file.
#![forbid(unsafe_code)]

use std::fmt;

/// A block's number in the directory of its file, below [`Slot::COUNT`].
///
/// # Examples
///
/// ```
/// use scratchspace::Slot;
///
/// assert_eq!(Slot::new(5).unwrap().get(), 5);
/// assert_eq!(Slot::new(Slot::COUNT), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

impl Slot {
    /// How many slots a file can have at most, `2^22 - 1`: the number of all ones is not a slot.
    pub const COUNT: u32 = (1 << 22) - 1;

    /// The slot of this number, or `None` from [`Slot::COUNT`] on.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// The number, below [`Slot::COUNT`].
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as a position in a table of slots.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_end_one_before_the_number_of_all_ones() {
        assert_eq!(Slot::new(0x3F_FFFE).map(Slot::get), Some(0x3F_FFFE));
        assert_eq!(Slot::new(0x3F_FFFF), None);
        assert_eq!(Slot::new(u32::MAX), None);
    }
}
