//! A directory entry: 64 bytes that say whose a payload is and where it lies, or what was removed.
//!
//! # Invariants
//!
//! 1. An entry decodes only in the slot, and under the nonce, for which it was encoded, and only if no bit changed:
//!    zeroed, torn, moved, stale and forged entries do not exist.
//! 2. The range of a payload lies within its file, behind the header and in front of its own directory entry.
#![forbid(unsafe_code)]

use std::ops::Range;

use thiserror::Error;
use twox_hash::XxHash3_64;

use super::{BlockHash, BlockKind, FileSize, MAX_BLOCK, PAGE_SIZE, Realm, Slot, field, pages_of};
use crate::planted;

// A directory entry, little-endian; docs/format.md draws it.
const KEY: usize = 0;
const REALM: usize = 16;
const KIND: usize = 19;
const LEN: usize = 20;
const PAGE: usize = 24;
const WRITTEN_AT: usize = 28;
const HASH: usize = 32;
const RESERVED: Range<usize> = 48..56;
const CHECKSUM: usize = 56;

/// What the directory says of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name of the block; equals `hash` for [`BlockKind::Content`].
    pub(crate) key: BlockHash,
    pub(crate) realm: Realm,
    pub(crate) kind: BlockKind,
    /// The payload in bytes; 0 for tombstones.
    pub(crate) len: u32,
    /// Where the payload starts; without meaning if `len` is 0.
    pub(crate) page: u32,
    /// Seconds since 2020-01-01, as [`now`](super::now) gives them.
    pub(crate) written_at: u32,
    /// The hash of the payload.
    pub(crate) hash: BlockHash,
}

/// Why 64 bytes are not an entry of this slot. All but `Empty` can mean damage; none is ever an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum EntryError {
    /// All bytes are zero: nothing was ever stored there.
    #[error("the slot was never written")]
    Empty,
    /// Torn, moved, damaged, or left by an earlier generation of the file.
    #[error("the checksum of the entry does not belong to its bytes, its file and its slot")]
    Checksum,
    /// A kind that this version does not know, or a content block whose key is not its hash.
    #[error("the entry has a kind that it cannot have")]
    Kind,
    /// Reserved bytes are not zero.
    #[error("the entry uses bytes that are reserved in format version 1")]
    Reserved,
    /// Larger than a block can be, or a tombstone with a payload.
    #[error("the entry has a length that it cannot have")]
    Length,
}

impl Entry {
    /// The bytes of an entry: a cache line.
    pub(crate) const SIZE: usize = 64;

    /// The entry as it is stored in `slot` of the file with this nonce.
    pub(crate) fn encode(&self, nonce: u64, slot: Slot) -> [u8; Self::SIZE] {
        debug_assert_eq!(self.check(), Ok(()), "{self:?} could not be read back");
        let mut bytes = [0; Self::SIZE];
        bytes[KEY..REALM].copy_from_slice(&self.key.to_le_bytes());
        bytes[REALM..KIND].copy_from_slice(&self.realm.get().to_le_bytes()[..3]);
        bytes[KIND] = self.kind as u8;
        bytes[LEN..PAGE].copy_from_slice(&self.len.to_le_bytes());
        bytes[PAGE..WRITTEN_AT].copy_from_slice(&self.page.to_le_bytes());
        bytes[WRITTEN_AT..HASH].copy_from_slice(&self.written_at.to_le_bytes());
        bytes[HASH..RESERVED.start].copy_from_slice(&self.hash.to_le_bytes());
        let checksum = checksum(&bytes, nonce, slot);
        bytes[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The entry that these bytes are in `slot` of the file with this nonce.
    ///
    /// # Errors
    ///
    /// [`EntryError`] if they are none: the slot holds nothing that can be believed.
    pub(crate) fn decode(bytes: &[u8; Self::SIZE], nonce: u64, slot: Slot) -> Result<Self, EntryError> {
        // Hazard 1: zeros are an empty block.
        let is_believed = planted::is(1) && *bytes == [0; Self::SIZE];
        if u64::from_le_bytes(field(bytes, CHECKSUM)) != checksum(bytes, nonce, slot) && !is_believed {
            return Err(if *bytes == [0; Self::SIZE] { EntryError::Empty } else { EntryError::Checksum });
        }
        if bytes[RESERVED] != [0; RESERVED.end - RESERVED.start] {
            return Err(EntryError::Reserved);
        }
        let [low, middle, high] = field(bytes, REALM);
        let entry = Self {
            key: BlockHash::from_le_bytes(field(bytes, KEY)),
            realm: Realm::new(u32::from_le_bytes([low, middle, high, 0])).expect("three bytes are 24 bits"),
            kind: BlockKind::from_byte(bytes[KIND]).ok_or(EntryError::Kind)?,
            len: u32::from_le_bytes(field(bytes, LEN)),
            page: u32::from_le_bytes(field(bytes, PAGE)),
            written_at: u32::from_le_bytes(field(bytes, WRITTEN_AT)),
            hash: BlockHash::from_le_bytes(field(bytes, HASH)),
        };
        entry.check().map(|()| entry)
    }

    /// What every entry keeps, whatever file it is in.
    fn check(&self) -> Result<(), EntryError> {
        if self.kind == BlockKind::Content && self.key != self.hash {
            return Err(EntryError::Kind);
        }
        if self.len > MAX_BLOCK || (self.kind.is_tombstone() && self.len != 0) {
            return Err(EntryError::Length);
        }
        Ok(())
    }

    /// Where the payload lies in the file, in bytes; `0..0` if it is empty.
    ///
    /// None if no file of this size can hold it there beside the directory entry of `slot`.
    pub(crate) fn payload(&self, size: FileSize, slot: Slot) -> Option<Range<u64>> {
        if self.len == 0 {
            return Some(0..0);
        }
        // Hazard 4: the length has to fit, wherever the payload begins.
        let page = if planted::is(4) { 1 } else { self.page };
        if page < 1 || self.len > MAX_BLOCK || !size.fits(page, self.pages(), slot.get()) {
            return None;
        }
        let start = u64::from(self.page) * PAGE_SIZE;
        Some(start..start + u64::from(self.len))
    }

    /// Whole pages of the payload.
    pub(crate) fn pages(&self) -> u32 {
        pages_of(self.len)
    }
}

/// XXH3-64 of all bytes in front of the checksum. An odd factor makes the seeds of a file's slots differ.
fn checksum(bytes: &[u8; Entry::SIZE], nonce: u64, slot: Slot) -> u64 {
    // Hazard 3: without the secret of the file, a payload can hold entries.
    let nonce = if planted::is(3) { 0 } else { nonce };
    let seed = nonce.wrapping_add(u64::from(slot.get()).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    XxHash3_64::oneshot_with_seed(seed, &bytes[..CHECKSUM])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: u64 = 0x1122_3344_5566_7788;

    fn slot(number: u32) -> Slot {
        Slot::new(number).unwrap()
    }

    fn content(len: u32, page: u32) -> Entry {
        let hash = BlockHash::of(b"some bytes");
        let realm = Realm::new(0x12_3456).unwrap();
        Entry { key: hash, realm, kind: BlockKind::Content, len, page, written_at: 200_000_000, hash }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Bytes with one of them changed and the checksum made to fit: what only a forger who knows the nonce can do.
    fn forged(entry: &Entry, at: usize, value: u8) -> [u8; Entry::SIZE] {
        let mut bytes = entry.encode(NONCE, slot(0));
        bytes[at] = value;
        let sum = checksum(&bytes, NONCE, slot(0));
        bytes[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Computed from `docs/format.md` by another implementation. Format version 1: never change these.
    #[test]
    fn entries_of_version_1_have_these_bytes_for_ever() {
        let named = Entry {
            key: BlockHash::from_u128(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
            realm: Realm::MAX,
            kind: BlockKind::Named,
            len: MAX_BLOCK,
            page: 0x1_2345,
            written_at: u32::MAX,
            ..content(0, 0)
        };
        let removed = Entry {
            realm: Realm::from(7),
            kind: BlockKind::Tombstone,
            len: 0,
            page: 0,
            written_at: 1,
            hash: BlockHash::of(b""),
            ..named
        };
        for (entry, nonce, slot, bytes) in [
            (
                content(10, 1),
                NONCE,
                slot(0),
                "84e971e37f19ecd3bba141b477657399563412000a0000000100000000c2eb0b\
                 84e971e37f19ecd3bba141b4776573990000000000000000150423f7573fbca7",
            ),
            (
                named,
                u64::MAX,
                slot(Slot::COUNT - 1),
                "000102030405060708090a0b0c0d0e0fffffff01dfffff7f45230100ffffffff\
                 84e971e37f19ecd3bba141b4776573990000000000000000f3f51b6dc934e3a6",
            ),
            (
                removed,
                5,
                slot(6),
                "000102030405060708090a0b0c0d0e0f07000002000000000000000001000000\
                 7f498d4624c30160d8984701d306aa990000000000000000facd041a551aa272",
            ),
        ] {
            assert_eq!(hex(&entry.encode(nonce, slot)), bytes);
            assert_eq!(Entry::decode(&entry.encode(nonce, slot), nonce, slot), Ok(entry));
        }
    }

    #[test]
    fn a_zeroed_slot_is_empty_and_no_entry() {
        for nonce in [0, 1, NONCE] {
            assert_eq!(Entry::decode(&[0; Entry::SIZE], nonce, slot(0)), Err(EntryError::Empty));
        }
    }

    #[test]
    fn even_under_a_fitting_checksum_only_version_1_is_read() {
        let entry = content(10, 1);
        let decode = |at, value| Entry::decode(&forged(&entry, at, value), NONCE, slot(0));
        assert_eq!(decode(LEN, 9), Ok(content(9, 1)));
        for at in RESERVED {
            assert_eq!(decode(at, 1), Err(EntryError::Reserved), "{at}");
        }
        assert_eq!(decode(KIND, 4), Err(EntryError::Kind));
        assert_eq!(decode(KIND, 0xFF), Err(EntryError::Kind));
        assert_eq!(decode(LEN + 3, 0x80), Err(EntryError::Length));
        assert_eq!(decode(KIND, BlockKind::Tombstone as u8), Err(EntryError::Length));
        assert_eq!(decode(KIND, BlockKind::RealmTombstone as u8), Err(EntryError::Length));
        // A content block under a key that is not its hash would serve bytes that nobody stored there.
        assert_eq!(decode(KEY, 0), Err(EntryError::Kind));
        assert!(Entry::decode(&forged(&Entry { kind: BlockKind::Named, ..entry }, KEY, 0), NONCE, slot(0)).is_ok());
    }

    #[test]
    fn a_payload_lies_between_header_and_its_entry() {
        let min = FileSize::MIN;
        assert_eq!(content(4096, 1).payload(min, slot(0)), Some(4096..8192));
        assert_eq!(content(1, 1).payload(min, slot(63)), Some(4096..4097));
        assert_eq!(content(1, 1).payload(min, slot(64)), None, "entry 64 lies in that page");
        assert_eq!(content(1, 0).payload(min, slot(0)), None, "the header lies in that page");
        assert_eq!(content(1, 2).payload(min, slot(0)), None, "entry 0 lies in that page");
        assert_eq!(content(4097, 1).payload(min, slot(0)), None);
        assert_eq!(content(1, 1).payload(min, slot(128)), None, "no such slot");
        assert_eq!(content(1, u32::MAX).payload(FileSize::MAX, slot(0)), None);
        assert_eq!(content(0, u32::MAX).payload(min, slot(0)), Some(0..0));
        let last = (16 << 30) - PAGE_SIZE;
        let page = FileSize::MAX.pages() - 1 - pages_of(MAX_BLOCK);
        let range = content(MAX_BLOCK, page).payload(FileSize::MAX, slot(63)).unwrap();
        assert_eq!((range.start, range.end), (last - (1 << 31), last - 33));
        assert_eq!(content(MAX_BLOCK, page + 1).payload(FileSize::MAX, slot(63)), None);
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let kinds = prop_oneof![
            Just(BlockKind::Content),
            Just(BlockKind::Named),
            Just(BlockKind::Tombstone),
            Just(BlockKind::RealmTombstone),
        ];
        let numbers = (0..=Realm::MAX.get(), 0..=MAX_BLOCK, any::<u32>(), any::<u32>());
        (any::<u128>(), any::<u128>(), kinds, numbers).prop_map(|(key, hash, kind, (realm, len, page, written_at))| {
            Entry {
                key: BlockHash::from_u128(if kind == BlockKind::Content { hash } else { key }),
                realm: Realm::new(realm).unwrap(),
                kind,
                len: if kind.is_tombstone() { 0 } else { len },
                page,
                written_at,
                hash: BlockHash::from_u128(hash),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        #[test]
        fn an_entry_is_read_back_in_its_place_only(
            entry in entries(), nonce: u64, other: u64, at in 0..Slot::COUNT, elsewhere in 0..Slot::COUNT,
        ) {
            let bytes = entry.encode(nonce, slot(at));
            prop_assert_eq!(Entry::decode(&bytes, nonce, slot(at)), Ok(entry));
            prop_assume!(nonce != other && at != elsewhere);
            prop_assert_eq!(Entry::decode(&bytes, other, slot(at)), Err(EntryError::Checksum));
            prop_assert_eq!(Entry::decode(&bytes, nonce, slot(elsewhere)), Err(EntryError::Checksum));
            if let Some(neighbour) = Slot::new(at ^ 1) {
                prop_assert_eq!(Entry::decode(&bytes, nonce, neighbour), Err(EntryError::Checksum));
            }
        }

        #[test]
        fn an_entry_with_any_bit_flipped_is_none(entry in entries(), nonce: u64, at in 0..Slot::COUNT) {
            let bytes = entry.encode(nonce, slot(at));
            for bit in 0..Entry::SIZE * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(Entry::decode(&flipped, nonce, slot(at)), Err(EntryError::Checksum), "bit {}", bit);
            }
        }

        #[test]
        fn an_entry_torn_between_an_old_and_a_new_one_is_one_of_them_or_none(
            old in entries(), new in entries(), nonce: u64, at in 0..Slot::COUNT, cut in 0..=Entry::SIZE,
        ) {
            let (before, after) = (old.encode(nonce, slot(at)), new.encode(nonce, slot(at)));
            let mut torn = before;
            torn[..cut].copy_from_slice(&after[..cut]);
            match Entry::decode(&torn, nonce, slot(at)) {
                Ok(entry) => prop_assert!(entry == old && torn == before || entry == new && torn == after),
                Err(error) => prop_assert_eq!(error, EntryError::Checksum),
            }
        }

        #[test]
        fn random_bytes_are_no_entry(bytes: [u8; 32], more: [u8; 32], nonce: u64, at in 0..Slot::COUNT) {
            let mut both = [0; Entry::SIZE];
            both[..32].copy_from_slice(&bytes);
            both[32..].copy_from_slice(&more);
            prop_assert_eq!(Entry::decode(&both, nonce, slot(at)), Err(EntryError::Checksum));
        }

        /// Random fields under a fitting checksum: decoding never panics, and a payload stays in bounds.
        #[test]
        fn forged_entries_never_reach_outside_of_their_file(
            mut bytes: [u8; 32], at in 0..Slot::COUNT, pages in 3..=1_u64 << 22, shrink in 0..32_u32,
        ) {
            let page = u32::from_le_bytes(field(&bytes, PAGE)) >> shrink;
            bytes[PAGE..WRITTEN_AT].copy_from_slice(&page.to_le_bytes());
            bytes[KIND] %= 6;
            let mut entry = [0; Entry::SIZE];
            entry[..32].copy_from_slice(&bytes);
            let sum = checksum(&entry, NONCE, slot(at));
            entry[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
            let size = FileSize::new(pages * PAGE_SIZE).unwrap();
            if let Ok(entry) = Entry::decode(&entry, NONCE, slot(at))
                && let Some(range) = entry.payload(size, slot(at))
                && entry.len > 0
            {
                prop_assert!(range.start >= PAGE_SIZE && range.start < range.end);
                prop_assert!(range.end <= size.entry_offset(slot(at)));
            }
        }
    }
}
