//! Which tenant a block belongs to.
#![forbid(unsafe_code)]

use std::fmt;

use thiserror::Error;

/// A tenant's number, 24 bits: a block is never visible from another realm.
///
/// # Examples
///
/// ```
/// use scratchspace::Realm;
///
/// let tenant = Realm::new(70_000)?;
/// assert_eq!(tenant.get(), 70_000);
/// assert_eq!(Realm::from(7), Realm::new(7)?);
/// assert_eq!(Realm::default(), Realm::DEFAULT);
/// # Ok::<(), scratchspace::RealmError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm(u32);

/// The number is above [`Realm::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("realm {found} is out of range: choose a number from 0 to {}, realms have 24 bits", Realm::MAX)]
pub struct RealmError {
    /// The number that was refused.
    pub found: u32,
}

impl Realm {
    /// Realm 0, for stores with one tenant.
    pub const DEFAULT: Self = Self(0);
    /// The largest realm, `2^24 - 1`.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// The realm of this number.
    ///
    /// # Errors
    ///
    /// [`RealmError`] if the number is above [`Realm::MAX`].
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::Realm;
    ///
    /// assert!(Realm::new(1 << 24).is_err());
    /// assert_eq!(Realm::new((1 << 24) - 1), Ok(Realm::MAX));
    /// ```
    pub const fn new(number: u32) -> Result<Self, RealmError> {
        if number <= Self::MAX.0 { Ok(Self(number)) } else { Err(RealmError { found: number }) }
    }

    /// The number, at most `2^24 - 1`.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl From<u16> for Realm {
    fn from(number: u16) -> Self {
        Self(u32::from(number))
    }
}

impl TryFrom<u32> for Realm {
    type Error = RealmError;

    fn try_from(number: u32) -> Result<Self, RealmError> {
        Self::new(number)
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_has_24_bits_and_no_more() {
        assert_eq!(Realm::new(0xFF_FFFF), Ok(Realm::MAX));
        for aliased in [1 << 24, (1 << 24) + 7, u32::MAX] {
            assert_eq!(Realm::new(aliased), Err(RealmError { found: aliased }));
            assert_eq!(Realm::try_from(aliased), Err(RealmError { found: aliased }));
        }
        assert_eq!(Realm::from(u16::MAX).get(), 65_535);
    }

    #[test]
    fn a_refused_realm_names_the_number_and_the_range() {
        let text = Realm::new(16_777_216).unwrap_err().to_string();
        assert!(text.contains("16777216") && text.contains("16777215"), "{text}");
    }
}
