//! Which store: a random number in every header and every file name.
#![forbid(unsafe_code)]

use std::str::FromStr;
use std::{fmt, io};

use twox_hash::XxHash3_64;

use super::hash::{ParseHashError, parse_hex_128};

/// A store's identity, 128 random bits chosen when it is created.
///
/// It is written in the header and the name of every file, so that no store takes another's files for its own. Its text
/// is 32 lower-case hexadecimal digits.
///
/// # Examples
///
/// ```
/// use scratchspace::StoreId;
///
/// let id = StoreId::random()?;
/// assert_eq!(id.to_string().parse(), Ok(id));
/// assert_ne!(id, StoreId::random()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(u128);

impl StoreId {
    /// A new identity from the operating system's random numbers.
    ///
    /// # Errors
    ///
    /// If the operating system has no random numbers to give.
    pub fn random() -> io::Result<Self> {
        random_bytes().map(u128::from_le_bytes).map(Self)
    }

    /// The identity of this value.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The identity as a number.
    #[must_use]
    pub const fn to_u128(self) -> u128 {
        self.0
    }

    /// What keys are mixed with (see [`KeyHash`](super::KeyHash)): the same for the life of the store.
    pub(crate) fn secret(self) -> u64 {
        XxHash3_64::oneshot(&self.0.to_le_bytes())
    }
}

/// A random nonce for a new generation of a file.
pub(crate) fn random_nonce() -> io::Result<u64> {
    random_bytes().map(u64::from_le_bytes)
}

fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(error.raw_os_error().map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)),
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

impl FromStr for StoreId {
    type Err = ParseHashError;

    /// Reads what `Display` writes and nothing else, so each store has one name.
    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        parse_hex_128(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text() {
        let id = StoreId::from_u128(0x00ab_cdef);
        assert_eq!(id.to_string(), "00000000000000000000000000abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("00".parse::<StoreId>(), Err(ParseHashError::Length { found: 2 }));
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(StoreId::random().unwrap(), StoreId::random().unwrap());
        assert_ne!(random_nonce().unwrap(), random_nonce().unwrap());
    }

    /// The lane of every block of every store hangs on this number: it must never change.
    #[test]
    fn the_secret_of_an_id_is_the_same_for_ever() {
        assert_eq!(StoreId::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210).secret(), 0x271f_86d1_006a_ada7);
    }
}
