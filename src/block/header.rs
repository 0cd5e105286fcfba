//! The header of a file: which store, file, lane and generation, in the first 512 bytes.
//!
//! It is one sector, so that a device writes all of it or nothing.
//!
//! # Invariants
//!
//! 1. A header decodes only if no bit of its 512 bytes changed since it was encoded.
//! 2. A decoded header has `lane < lanes`, and a generation below `2^42`.
//! 3. Every version of the format keeps magic, version and checksum where they are, so that "another version" is told
//!    apart from "torn".
#![forbid(unsafe_code)]

use thiserror::Error;
use twox_hash::XxHash3_64;

use super::{FileId, FileSize, HashKind, PAGE_SIZE, StoreId, field};

/// The version of the format that this library writes, and the only one it reads.
const FORMAT_VERSION: u32 = 1;

/// The bytes of an encoded header: one sector.
pub(crate) const HEADER_LEN: usize = 512;

/// The largest generation that is read: so "the next one" never overflows, whatever a file claims. No store comes near.
const MAX_GENERATION: u64 = (1 << 42) - 1;

const MAGIC_BYTES: [u8; 8] = *b"\x89SCRATCH";

// The header, little-endian; docs/format.md draws it.
const MAGIC: usize = 0;
const VERSION: usize = 8;
const PAGE: usize = 12;
const FILE_SIZE: usize = 16;
const STORE: usize = 24;
const FILE: usize = 40;
const LANE: usize = 42;
const LANES: usize = 44;
const HASH_KIND: usize = 46;
const RESERVED_BYTE: usize = 47;
const GENERATION: usize = 48;
const NONCE: usize = 56;
const CREATED_AT: usize = 64;
const RESERVED: usize = 68;
const CHECKSUM: usize = 504;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) file_size: FileSize,
    pub(crate) store: StoreId,
    pub(crate) file: FileId,
    /// The lane that the file belongs to, below `lanes`.
    pub(crate) lane: u16,
    /// How many lanes the store has.
    pub(crate) lanes: u16,
    /// Larger than that of any file recycled before; below `2^42`.
    pub(crate) generation: u64,
    pub(crate) hash_kind: HashKind,
    /// Random in each generation: entries of earlier ones do not check any more.
    pub(crate) nonce: u64,
    /// Seconds since 2020-01-01, as [`now`](super::now) gives them.
    pub(crate) created_at: u32,
}

/// Why bytes are not a header. `Version`, `HashKind` and `Field` come only under a valid checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum HeaderError {
    /// Fewer bytes than a header has.
    #[error("{found} bytes are no header, which has {HEADER_LEN}")]
    TooShort {
        /// How many there were.
        found: usize,
    },
    /// Not a file of this library, or one that was never written.
    #[error("the first 8 bytes are not those of a scratchspace file")]
    Magic,
    /// A whole header, of another version of the format.
    #[error("the file has format version {found}, this library reads version {FORMAT_VERSION}")]
    Version {
        /// The version of the file.
        found: u32,
    },
    /// Torn or damaged.
    #[error("the checksum of the header does not match")]
    Checksum,
    /// The payloads are hashed in a way that this build does not know.
    #[error("the file has hash kind {found}, which this build does not know")]
    HashKind {
        /// The number of the kind.
        found: u8,
    },
    /// A field has a value that this version does not know.
    #[error("the field `{name}` of the header has a value that it cannot have")]
    Field {
        /// The field's name in `docs/format.md`.
        name: &'static str,
    },
}

impl FileHeader {
    /// The header as it is stored at the start of its file.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        debug_assert!(self.lane < self.lanes, "lane {} of {}", self.lane, self.lanes);
        let mut bytes = [0; HEADER_LEN];
        bytes[MAGIC..VERSION].copy_from_slice(&MAGIC_BYTES);
        bytes[VERSION..PAGE].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[PAGE..FILE_SIZE].copy_from_slice(&PAGE_SIZE.to_le_bytes()[..4]);
        bytes[FILE_SIZE..STORE].copy_from_slice(&self.file_size.get().to_le_bytes());
        bytes[STORE..FILE].copy_from_slice(&self.store.to_u128().to_le_bytes());
        bytes[FILE..LANE].copy_from_slice(&self.file.get().to_le_bytes());
        bytes[LANE..LANES].copy_from_slice(&self.lane.to_le_bytes());
        bytes[LANES..HASH_KIND].copy_from_slice(&self.lanes.to_le_bytes());
        bytes[HASH_KIND] = self.hash_kind as u8;
        bytes[GENERATION..NONCE].copy_from_slice(&self.generation.to_le_bytes());
        bytes[NONCE..CREATED_AT].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[CREATED_AT..RESERVED].copy_from_slice(&self.created_at.to_le_bytes());
        let checksum = XxHash3_64::oneshot(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the start of these bytes; what follows it is not looked at.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] if there is none that can be believed.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::TooShort { found: bytes.len() });
        };
        if field(bytes, MAGIC) != MAGIC_BYTES {
            return Err(HeaderError::Magic);
        }
        if u64::from_le_bytes(field(bytes, CHECKSUM)) != XxHash3_64::oneshot(&bytes[..CHECKSUM]) {
            return Err(HeaderError::Checksum);
        }
        let version = u32::from_le_bytes(field(bytes, VERSION));
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version { found: version });
        }
        let wrong = |name| HeaderError::Field { name };
        if u64::from(u32::from_le_bytes(field(bytes, PAGE))) != PAGE_SIZE {
            return Err(wrong("page size"));
        }
        if bytes[RESERVED_BYTE] != 0 || bytes[RESERVED..CHECKSUM].iter().any(|byte| *byte != 0) {
            return Err(wrong("reserved"));
        }
        let header = Self {
            file_size: FileSize::new(u64::from_le_bytes(field(bytes, FILE_SIZE))).ok_or(wrong("file size"))?,
            store: StoreId::from_u128(u128::from_le_bytes(field(bytes, STORE))),
            file: FileId::new(u16::from_le_bytes(field(bytes, FILE))).ok_or(wrong("file"))?,
            lane: u16::from_le_bytes(field(bytes, LANE)),
            lanes: u16::from_le_bytes(field(bytes, LANES)),
            generation: u64::from_le_bytes(field(bytes, GENERATION)),
            hash_kind: HashKind::from_byte(bytes[HASH_KIND])
                .ok_or(HeaderError::HashKind { found: bytes[HASH_KIND] })?,
            nonce: u64::from_le_bytes(field(bytes, NONCE)),
            created_at: u32::from_le_bytes(field(bytes, CREATED_AT)),
        };
        header.check().map(|()| header)
    }

    /// What the types of the fields leave open (invariant 2).
    fn check(&self) -> Result<(), HeaderError> {
        if self.lane >= self.lanes {
            return Err(HeaderError::Field { name: "lane" });
        }
        if self.generation > MAX_GENERATION {
            return Err(HeaderError::Field { name: "generation" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> FileHeader {
        FileHeader {
            file_size: FileSize::new(64 << 20).unwrap(),
            store: StoreId::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210),
            file: FileId::new(1023).unwrap(),
            lane: 2,
            lanes: 3,
            generation: 0x0102_0304_0506,
            hash_kind: HashKind::Xxh3,
            nonce: 0x1122_3344_5566_7788,
            created_at: 200_000_000,
        }
    }

    /// The bytes of `header()` with some of them replaced and the checksum made to fit.
    fn forged(at: usize, with: &[u8]) -> [u8; HEADER_LEN] {
        let mut bytes = header().encode();
        bytes[at..at + with.len()].copy_from_slice(with);
        let checksum = XxHash3_64::oneshot(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Computed from `docs/format.md` by another implementation. Format version 1: never change these.
    #[test]
    fn a_header_of_version_1_has_these_bytes_for_ever() {
        let bytes = header().encode();
        assert_eq!(
            hex(&bytes[..RESERVED]),
            "8953435241544348010000000010000000000004000000001032547698badcfeefcdab8967452301\
             ff030200030000000605040302010000887766554433221100c2eb0b"
        );
        assert_eq!(bytes[RESERVED..CHECKSUM], [0; CHECKSUM - RESERVED]);
        assert_eq!(hex(&bytes[CHECKSUM..]), "e450539bde0c700e");
        assert_eq!(FileHeader::decode(&bytes), Ok(header()));
    }

    #[test]
    fn a_header_is_read_from_the_front_of_its_page() {
        let mut page = header().encode().to_vec();
        page.resize(4096, 0xEE);
        assert_eq!(FileHeader::decode(&page), Ok(header()));
    }

    #[test]
    fn a_header_with_any_bit_flipped_is_none() {
        let bytes = header().encode();
        for bit in (0..HEADER_LEN * 8).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 64 { HeaderError::Magic } else { HeaderError::Checksum };
            assert_eq!(FileHeader::decode(&flipped), Err(expected), "bit {bit}");
        }
    }

    #[test]
    fn a_page_of_zeros_is_no_header() {
        assert_eq!(FileHeader::decode(&[0; 4096]), Err(HeaderError::Magic));
        assert_eq!(FileHeader::decode(&[]), Err(HeaderError::TooShort { found: 0 }));
        assert_eq!(FileHeader::decode(&header().encode()[..511]), Err(HeaderError::TooShort { found: 511 }));
    }

    #[test]
    fn another_version_is_named_only_when_the_header_is_whole() {
        assert_eq!(FileHeader::decode(&forged(VERSION, &[2])), Err(HeaderError::Version { found: 2 }));
        let mut torn = header().encode();
        torn[VERSION] = 2;
        assert_eq!(FileHeader::decode(&torn), Err(HeaderError::Checksum));
    }

    #[test]
    fn fields_that_cannot_be_are_refused_by_name() {
        for (at, with, name) in [
            (PAGE, &8192_u32.to_le_bytes()[..], "page size"),
            (FILE_SIZE, &[1], "file size"),
            (FILE_SIZE, &u64::MAX.to_le_bytes(), "file size"),
            (FILE, &[0, 0], "file"),
            (FILE, &1024_u16.to_le_bytes(), "file"),
            (LANE, &[3], "lane"),
            (LANES, &[0], "lane"),
            (RESERVED_BYTE, &[1], "reserved"),
            (GENERATION, &(MAX_GENERATION + 1).to_le_bytes(), "generation"),
            (RESERVED, &[1], "reserved"),
            (CHECKSUM - 1, &[1], "reserved"),
        ] {
            assert_eq!(FileHeader::decode(&forged(at, with)), Err(HeaderError::Field { name }), "{at}: {with:?}");
        }
        assert!(FileHeader::decode(&forged(GENERATION, &MAX_GENERATION.to_le_bytes())).is_ok());
    }

    /// Computed from `docs/format.md` by another implementation. Format version 1: never change these.
    #[test]
    #[cfg(feature = "blake3")]
    fn a_header_of_blake3_has_these_bytes_for_ever() {
        let header = FileHeader { hash_kind: HashKind::Blake3, ..header() };
        let bytes = header.encode();
        assert_eq!(
            hex(&bytes[..RESERVED]),
            "8953435241544348010000000010000000000004000000001032547698badcfeefcdab8967452301\
             ff030200030001000605040302010000887766554433221100c2eb0b"
        );
        assert_eq!(bytes[RESERVED..CHECKSUM], [0; CHECKSUM - RESERVED]);
        assert_eq!(hex(&bytes[CHECKSUM..]), "b5c489b76bde2fd5");
        assert_eq!(FileHeader::decode(&bytes), Ok(header));
    }

    /// A whole header of a kind that is not known is not a torn one: its file holds blocks.
    #[test]
    fn a_hash_kind_that_is_not_known_is_named() {
        #[cfg(not(feature = "blake3"))]
        assert_eq!(FileHeader::decode(&forged(HASH_KIND, &[1])), Err(HeaderError::HashKind { found: 1 }));
        for found in [2, 0x80, 0xff] {
            assert_eq!(FileHeader::decode(&forged(HASH_KIND, &[found])), Err(HeaderError::HashKind { found }));
        }
    }

    fn headers() -> impl Strategy<Value = FileHeader> {
        let place = (3..=1_u64 << 22, 1..=FileId::MAX, any::<u16>(), 1..=u16::MAX);
        let numbers = (any::<u128>(), 0..=MAX_GENERATION, any::<u64>(), any::<u32>());
        (place, numbers).prop_map(|((pages, file, lane, lanes), (store, generation, nonce, created_at))| FileHeader {
            file_size: FileSize::new(pages * PAGE_SIZE).unwrap(),
            store: StoreId::from_u128(store),
            file: FileId::new(file).unwrap(),
            lane: lane % lanes,
            lanes,
            generation,
            hash_kind: HashKind::Xxh3,
            nonce,
            created_at,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        #[test]
        fn every_header_is_read_back(header in headers()) {
            prop_assert_eq!(FileHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn random_bytes_are_no_header(bytes in prop::collection::vec(any::<u8>(), 0..1024), magic: bool) {
            let mut bytes = bytes;
            if magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&MAGIC_BYTES);
            }
            prop_assert!(FileHeader::decode(&bytes).is_err());
        }

        #[test]
        fn random_fields_under_a_fitting_checksum_never_panic(fields: [u8; 32], more: [u8; 28], narrow: bool) {
            let mut with = [&fields[..], &more[..]].concat();
            if narrow {
                // A valid version, page and file size let the other fields be looked at.
                with[..16].copy_from_slice(&header().encode()[VERSION..STORE]);
                with[RESERVED_BYTE - VERSION] = 0;
                with[HASH_KIND - VERSION] = 0;
                with[FILE - VERSION + 1] &= 3;
            }
            if let Ok(header) = FileHeader::decode(&forged(VERSION, &with)) {
                prop_assert!(header.lane < header.lanes && header.generation.checked_add(1).is_some());
            }
        }

        #[test]
        fn a_header_torn_between_two_is_one_of_them_or_none(old in headers(), new in headers(), cut in 0..=HEADER_LEN) {
            let (before, after) = (old.encode(), new.encode());
            let mut torn = before;
            torn[..cut].copy_from_slice(&after[..cut]);
            match FileHeader::decode(&torn) {
                Ok(header) => prop_assert!(header == old && torn == before || header == new && torn == after),
                Err(error) => prop_assert_eq!(error, HeaderError::Checksum),
            }
        }
    }
}
