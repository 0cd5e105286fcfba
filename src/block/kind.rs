//! What an entry stands for, and how payloads are hashed: the two small enums of the format.
#![forbid(unsafe_code)]

use std::fmt;

/// What a directory entry stands for. The numbers are those on disk.
#[non_exhaustive]
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// A block whose key is the hash of its bytes.
    Content = 0,
    /// A block whose key was chosen by the caller: a newer one of the same key replaces it.
    Named = 1,
    /// The block of this key was removed.
    Tombstone = 2,
    /// All older blocks of this realm were removed.
    RealmTombstone = 3,
}

impl BlockKind {
    /// The kind of this number on disk.
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Content),
            1 => Some(Self::Named),
            2 => Some(Self::Tombstone),
            3 => Some(Self::RealmTombstone),
            _ => None,
        }
    }

    /// Whether an entry of this kind says that something was removed: it has no payload.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::BlockKind;
    ///
    /// assert!(BlockKind::RealmTombstone.is_tombstone() && !BlockKind::Named.is_tombstone());
    /// ```
    #[must_use]
    pub const fn is_tombstone(self) -> bool {
        matches!(self, Self::Tombstone | Self::RealmTombstone)
    }
}

/// How the payloads of a store are hashed. The number is that in the header of each file.
///
/// A store keeps its kind: [`ScratchBuilder::hash_kind`](crate::ScratchBuilder::hash_kind) chooses that of a new one.
#[non_exhaustive]
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HashKind {
    /// XXH3-128: fast, and no protection against bytes made to collide.
    #[default]
    Xxh3 = 0,
    /// The first 128 bits of BLAKE3, several times slower: for content of tenants that may be hostile to each other.
    /// Needs the feature `blake3`.
    #[cfg(feature = "blake3")]
    Blake3 = 1,
}

impl HashKind {
    /// The hash kind of this number on disk.
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Xxh3),
            #[cfg(feature = "blake3")]
            1 => Some(Self::Blake3),
            _ => None,
        }
    }
}

impl fmt::Display for HashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xxh3 => "XXH3",
            #[cfg(feature = "blake3")]
            Self::Blake3 => "BLAKE3",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kinds_of_version_1_have_a_number() {
        let kinds: Vec<_> = (0..=u8::MAX).filter_map(BlockKind::from_byte).collect();
        assert_eq!(kinds, [BlockKind::Content, BlockKind::Named, BlockKind::Tombstone, BlockKind::RealmTombstone]);
        assert!(kinds.iter().enumerate().all(|(number, kind)| *kind as usize == number));
        let kinds: Vec<_> = (0..=u8::MAX).filter_map(HashKind::from_byte).collect();
        #[cfg(not(feature = "blake3"))]
        assert_eq!(kinds, [HashKind::Xxh3]);
        #[cfg(feature = "blake3")]
        assert_eq!(kinds, [HashKind::Xxh3, HashKind::Blake3]);
    }
}
