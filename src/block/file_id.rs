//! Which file of a store.
#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroU16;

/// The number of a file in its store, 1 to 1023.
///
/// # Examples
///
/// ```
/// use scratchspace::FileId;
///
/// let first = FileId::new(1).unwrap();
/// assert_eq!((first.get(), first.index()), (1, 0));
/// assert_eq!(FileId::new(0), None);
/// assert_eq!(FileId::new(FileId::MAX + 1), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(NonZeroU16);

const _: () = assert!(size_of::<Option<FileId>>() == 2);

impl FileId {
    /// The largest number, and so the most files of a store.
    pub const MAX: u16 = 1023;

    /// The file of this number, or `None` if it is 0 or above [`FileId::MAX`].
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) if number.get() <= Self::MAX => Some(Self(number)),
            _ => None,
        }
    }

    /// The number, 1 to 1023.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The number less one: where this file stands in a table of all files.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.get()) - 1
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_from_1_to_1023() {
        let valid: Vec<u16> = (0..=u16::MAX).filter(|number| FileId::new(*number).is_some()).collect();
        assert_eq!(valid, (1..=1023).collect::<Vec<_>>());
        assert_eq!(FileId::new(1023).unwrap().index(), 1022);
        assert_eq!(FileId::new(1023).unwrap().to_string(), "1023");
    }
}
