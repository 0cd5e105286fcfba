//! The hash of a block's bytes, XXH3-128 or the first half of BLAKE3, in one go or as a stream.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use twox_hash::XxHash3_128;

use super::HashKind;

/// 128 bits that name a block: the hash of its bytes, or a key of the caller's choice.
///
/// Its text is 32 lower-case hexadecimal digits, the most significant first: the canonical form of XXH3-128.
///
/// # Examples
///
/// ```
/// use scratchspace::BlockHash;
///
/// let hash = BlockHash::of(b"some bytes");
/// assert_eq!(hash.to_string().parse(), Ok(hash));
/// assert_eq!(BlockHash::from_le_bytes(hash.to_le_bytes()), hash);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(u128);

impl BlockHash {
    /// The XXH3-128 of these bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::BlockHash;
    ///
    /// assert_eq!(BlockHash::of(b"").to_string(), "99aa06d3014798d86001c324468d497f");
    /// ```
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(bytes))
    }

    /// The hash of these bytes by the kind that a store was made with.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{BlockHash, HashKind};
    ///
    /// assert_eq!(BlockHash::of_kind(HashKind::Xxh3, b"bytes"), BlockHash::of(b"bytes"));
    /// ```
    #[must_use]
    pub fn of_kind(kind: HashKind, bytes: &[u8]) -> Self {
        match kind {
            HashKind::Xxh3 => Self::of(bytes),
            #[cfg(feature = "blake3")]
            HashKind::Blake3 => Self::of_blake3(&blake3::hash(bytes)),
        }
    }

    /// The first 16 bytes of the output lie on disk as they are.
    #[cfg(feature = "blake3")]
    fn of_blake3(hash: &blake3::Hash) -> Self {
        Self::from_le_bytes(super::field(hash.as_bytes(), 0))
    }

    /// The hash of this value.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The hash as a number.
    #[must_use]
    pub const fn to_u128(self) -> u128 {
        self.0
    }

    /// The hash as it lies on disk.
    #[must_use]
    pub const fn to_le_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// The hash of these bytes on disk.
    #[must_use]
    pub const fn from_le_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({self})")
    }
}

impl FromStr for BlockHash {
    type Err = ParseHashError;

    /// Reads what `Display` writes and nothing else, so each hash has one text.
    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        parse_hex_128(text).map(Self)
    }
}

/// A text is not the 32 lower-case hexadecimal digits of a [`BlockHash`] or a [`StoreId`](crate::StoreId).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseHashError {
    /// The text has another length.
    #[error("the text is {found} bytes long: give exactly 32 lower-case hexadecimal digits")]
    Length {
        /// The length of the text in bytes.
        found: usize,
    },
    /// A byte of the text is not a digit.
    #[error("byte {at} of the text is not one of 0 to 9 and a to f: give exactly 32 lower-case hexadecimal digits")]
    Digit {
        /// Where the first such byte is, counted from 0.
        at: usize,
    },
}

/// Reads 32 lower-case hexadecimal digits.
pub(super) fn parse_hex_128(text: &str) -> Result<u128, ParseHashError> {
    if text.len() != 32 {
        return Err(ParseHashError::Length { found: text.len() });
    }
    let mut value = 0;
    for (at, byte) in text.bytes().enumerate() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return Err(ParseHashError::Digit { at }),
        };
        value = value << 4 | u128::from(digit);
    }
    Ok(value)
}

/// Hashes a stream of bytes to the [`BlockHash`] of their concatenation.
///
/// Small updates are gathered before they are hashed, so a stream of words costs little more than one slice. The first
/// small update allocates 4 KiB.
///
/// # Examples
///
/// ```
/// use scratchspace::{BlockHash, BlockHasher};
///
/// let mut hasher = BlockHasher::new();
/// hasher.update(b"some ");
/// hasher.update(b"bytes");
/// assert_eq!(hasher.finish(), BlockHash::of(b"some bytes"));
/// ```
#[derive(Clone, Default)]
pub struct BlockHasher {
    /// What came after the bytes in `stream`: at most `GATHER` bytes.
    gathered: Vec<u8>,
    /// Everything before `gathered`; none as long as that is everything.
    stream: Option<Stream>,
    kind: HashKind,
}

/// A hash that has begun.
#[derive(Clone)]
enum Stream {
    Xxh3(Box<XxHash3_128>),
    #[cfg(feature = "blake3")]
    Blake3(Box<blake3::Hasher>),
}

impl Stream {
    fn new(kind: HashKind) -> Self {
        match kind {
            HashKind::Xxh3 => Self::Xxh3(Box::new(XxHash3_128::new())),
            #[cfg(feature = "blake3")]
            HashKind::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh3(stream) => stream.write(bytes),
            #[cfg(feature = "blake3")]
            Self::Blake3(stream) => drop(stream.update(bytes)),
        }
    }

    fn finish(self) -> BlockHash {
        match self {
            Self::Xxh3(stream) => BlockHash(stream.finish_128()),
            #[cfg(feature = "blake3")]
            Self::Blake3(stream) => BlockHash::of_blake3(&stream.finalize()),
        }
    }
}

/// How many bytes are gathered before they are hashed. Hashing 64 bytes at a time is several times slower.
const GATHER: usize = 4096;

impl BlockHasher {
    /// A hasher that has seen no bytes, by XXH3-128.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A hasher that has seen no bytes, by the kind that a store was made with.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{BlockHash, BlockHasher, HashKind};
    ///
    /// let mut hasher = BlockHasher::with_kind(HashKind::Xxh3);
    /// hasher.update(b"bytes");
    /// assert_eq!(hasher.finish(), BlockHash::of(b"bytes"));
    /// ```
    #[must_use]
    pub fn with_kind(kind: HashKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if self.gathered.len() + bytes.len() <= GATHER {
            if self.gathered.capacity() == 0 && !bytes.is_empty() {
                self.gathered.reserve_exact(GATHER);
            }
            self.gathered.extend_from_slice(bytes);
            return;
        }
        let stream = self.stream.get_or_insert_with(|| Stream::new(self.kind));
        if self.gathered.is_empty() {
            stream.write(bytes);
            return;
        }
        let (head, tail) = bytes.split_at((GATHER - self.gathered.len()).min(bytes.len()));
        self.gathered.extend_from_slice(head);
        stream.write(&self.gathered);
        self.gathered.clear();
        if tail.len() >= GATHER {
            stream.write(tail);
        } else {
            self.gathered.extend_from_slice(tail);
        }
    }

    /// The hash of everything that was appended.
    #[must_use]
    pub fn finish(self) -> BlockHash {
        match self.stream {
            None => BlockHash::of_kind(self.kind, &self.gathered),
            Some(mut stream) => {
                stream.write(&self.gathered);
                stream.finish()
            }
        }
    }
}

impl fmt::Debug for BlockHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockHasher").field("gathered", &self.gathered.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counting(len: usize) -> Vec<u8> {
        (0..=250).cycle().take(len).collect()
    }

    fn hash_in_pieces(bytes: &[u8], pieces: impl Iterator<Item = usize>) -> BlockHash {
        hash_by(HashKind::Xxh3, bytes, pieces)
    }

    fn hash_by(kind: HashKind, bytes: &[u8], mut pieces: impl Iterator<Item = usize>) -> BlockHash {
        let (mut hasher, mut rest) = (BlockHasher::with_kind(kind), bytes);
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(pieces.next().unwrap_or(usize::MAX).min(rest.len()));
            hasher.update(piece);
            rest = tail;
        }
        hasher.finish()
    }

    /// Computed with another implementation of XXH3: content is found by these for ever.
    #[test]
    fn hashes_are_those_of_xxh3_128() {
        for (bytes, hash) in [
            (&b""[..], "99aa06d3014798d86001c324468d497f"),
            (b"a", "a96faf705af16834e6c632b61e964e1f"),
            (b"abc", "06b05ab6733a618578af5f94892f3950"),
            (&counting(64), "9c6e140a465545e590c1971ddb04ce74"),
            (&counting(4096), "e12cd72144990fe57135ffa504f1bc71"),
            (&counting(100_000), "54182c58bbb1337c42c23aeead96750d"),
        ] {
            assert_eq!(BlockHash::of(bytes).to_string(), hash, "{} bytes", bytes.len());
            assert_eq!(hash_in_pieces(bytes, std::iter::repeat(7)).to_string(), hash, "{} bytes", bytes.len());
        }
    }

    /// Computed with another implementation of BLAKE3: the first 16 bytes.
    #[test]
    #[cfg(feature = "blake3")]
    fn hashes_are_the_first_half_of_blake3() {
        for (len, bytes) in [
            (0, 0xaf13_49b9_f5f9_a1a6_a040_4dea_36dc_c949_u128),
            (1, 0x2d3a_dedf_f11b_61f1_4c88_6e35_afa0_3673),
            (63, 0xe9bc_37a5_94da_ad83_be94_70df_7f7b_3798),
            (1023, 0x1010_8970_eeda_3eb9_32ba_ac14_28c7_a216),
            (1024, 0x4221_4739_f095_a406_f3fc_83de_b889_744a),
            (1025, 0xd002_78ae_47eb_27b3_4fae_cf67_b4fe_263f),
            (5000, 0xee78_d920_70de_3df1_c57c_3700_2abf_0a6b),
            (100_000, 0xd93c_23ee_daf1_65a7_e0be_908b_a86f_1a7a),
        ] {
            let hash = BlockHash::of_kind(HashKind::Blake3, &counting(len));
            assert_eq!(hash.to_le_bytes(), bytes.to_be_bytes(), "{len} bytes");
            for piece in [7, 64, 1000, 5000] {
                let pieces = std::iter::repeat(piece);
                assert_eq!(hash_by(HashKind::Blake3, &counting(len), pieces), hash, "{len} bytes by {piece}");
            }
        }
    }

    #[test]
    fn the_bytes_on_disk_are_little_endian() {
        let hash = BlockHash::from_u128(1);
        assert_eq!(hash.to_le_bytes()[0], 1);
        assert_eq!(BlockHash::from_le_bytes(hash.to_le_bytes()), hash);
        assert_eq!(hash.to_string(), "00000000000000000000000000000001");
    }

    #[test]
    fn only_the_one_text_of_a_hash_is_read() {
        let text = "99aa06d3014798d86001c324468d497f";
        assert_eq!(text.parse(), Ok(BlockHash::of(b"")));
        for (other, error) in [
            ("", ParseHashError::Length { found: 0 }),
            (&text[1..], ParseHashError::Length { found: 31 }),
            (&format!("{text}0"), ParseHashError::Length { found: 33 }),
            (&text.to_uppercase(), ParseHashError::Digit { at: 2 }),
            (&text.replacen('9', "+", 1), ParseHashError::Digit { at: 0 }),
            (&text.replace("7f", "7g"), ParseHashError::Digit { at: 31 }),
            (&text.replace("d497f", "é97f"), ParseHashError::Digit { at: 27 }),
        ] {
            assert_eq!(other.parse::<BlockHash>(), Err(error), "{other:?}");
        }
    }

    /// The edges of the gathered run: a piece that fills it, one byte less, one more, and a large one behind it.
    #[test]
    fn pieces_around_the_gathered_run_make_no_difference() {
        let bytes = counting(5 * GATHER + 3);
        let whole = BlockHash::of(&bytes);
        for first in [1, GATHER - 1, GATHER, GATHER + 1] {
            for second in [1, GATHER - 1, GATHER, GATHER + 1, 2 * GATHER, 3 * GATHER] {
                for third in [1, GATHER] {
                    let pieces = [first, second, third].into_iter();
                    assert_eq!(hash_in_pieces(&bytes, pieces), whole, "{first}, {second}, {third}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        #[test]
        fn every_split_gives_the_hash_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..20_000),
            pieces in prop::collection::vec(prop_oneof![0..300_usize, 4000..4200_usize, 0..9000_usize], 0..40),
        ) {
            prop_assert_eq!(hash_in_pieces(&bytes, pieces.into_iter()), BlockHash::of(&bytes));
        }

        #[test]
        fn text_and_bytes_give_the_hash_back(value: u128) {
            let hash = BlockHash::from_u128(value);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
            prop_assert_eq!(BlockHash::from_le_bytes(hash.to_le_bytes()).to_u128(), value);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(hash) = text.parse::<BlockHash>() {
                prop_assert_eq!(hash.to_string(), text);
            }
        }
    }
}
