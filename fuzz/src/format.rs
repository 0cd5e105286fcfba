//! Headers and entries by the words of `docs/format.md`, to forge them and to say what they mean.

use twox_hash::{XxHash3_64, XxHash3_128};

pub const PAGE: usize = 4096;
pub const HEADER: usize = 512;
pub const ENTRY: usize = 64;

/// The lane of a key in a store of so many lanes.
pub fn lane_of(store: u128, realm: u32, key: u128, lanes: u16) -> u16 {
    let secret = XxHash3_64::oneshot(&store.to_le_bytes());
    let hashed = [&key.to_le_bytes()[..], &realm.to_le_bytes()].concat();
    let hash = XxHash3_128::oneshot_with_seed(secret, &hashed);
    (((hash >> 96) * u128::from(lanes)) >> 32) as u16
}

/// What a header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Too short, or its magic or checksum is another's.
    Torn,
    /// Of another version.
    Version(u32),
    /// Whole, and says what no version 1 writes.
    Impossible,
    Fine(Fields),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    pub size: u64,
    pub store: u128,
    pub file: u16,
    pub lane: u16,
    pub lanes: u16,
    pub hash_kind: u8,
    pub generation: u64,
    pub nonce: u64,
    pub created_at: u32,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: u128,
    pub realm: u32,
    pub kind: u8,
    pub len: u32,
    pub page: u32,
    pub hash: u128,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as long as asked")
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

pub fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(number(bytes, at))
}

/// Gives a header the checksum of its bytes.
pub fn seal_header(bytes: &mut [u8]) {
    let checksum = XxHash3_64::oneshot(&bytes[..504]);
    bytes[504..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

pub fn header(bytes: &[u8]) -> Header {
    if bytes.len() < HEADER || bytes[..8] != *b"\x89SCRATCH" || u64_at(bytes, 504) != XxHash3_64::oneshot(&bytes[..504])
    {
        return Header::Torn;
    }
    if u32_at(bytes, 8) != 1 {
        return Header::Version(u32_at(bytes, 8));
    }
    let fields = Fields {
        size: u64_at(bytes, 16),
        store: u128_at(bytes, 24),
        file: u16_at(bytes, 40),
        lane: u16_at(bytes, 42),
        lanes: u16_at(bytes, 44),
        hash_kind: bytes[46],
        generation: u64_at(bytes, 48),
        nonce: u64_at(bytes, 56),
        created_at: u32_at(bytes, 64),
    };
    let possible = u32_at(bytes, 12) == 4096
        && fields.size.is_multiple_of(4096)
        && (12_288..=17_179_869_184).contains(&fields.size)
        && (1..=1023).contains(&fields.file)
        && fields.lane < fields.lanes
        && bytes[47] == 0
        && fields.generation < 1 << 42
        && bytes[68..504] == [0; 504 - 68];
    if possible { Header::Fine(fields) } else { Header::Impossible }
}

/// A header of these fields.
pub fn header_bytes(fields: &Fields) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(b"\x89SCRATCH");
    bytes[8] = 1;
    bytes[12..16].copy_from_slice(&4096_u32.to_le_bytes());
    bytes[16..24].copy_from_slice(&fields.size.to_le_bytes());
    bytes[24..40].copy_from_slice(&fields.store.to_le_bytes());
    bytes[40..42].copy_from_slice(&fields.file.to_le_bytes());
    bytes[42..44].copy_from_slice(&fields.lane.to_le_bytes());
    bytes[44..46].copy_from_slice(&fields.lanes.to_le_bytes());
    bytes[46] = fields.hash_kind;
    bytes[48..56].copy_from_slice(&fields.generation.to_le_bytes());
    bytes[56..64].copy_from_slice(&fields.nonce.to_le_bytes());
    bytes[64..68].copy_from_slice(&fields.created_at.to_le_bytes());
    seal_header(&mut bytes);
    bytes
}

fn entry_checksum(bytes: &[u8], nonce: u64, slot: u32) -> u64 {
    let seed = nonce.wrapping_add(u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    XxHash3_64::oneshot_with_seed(seed, &bytes[..56])
}

/// Gives an entry the checksum of its bytes, its file and its slot: what only whoever knows the nonce can do.
pub fn seal_entry(bytes: &mut [u8], nonce: u64, slot: u32) {
    let checksum = entry_checksum(bytes, nonce, slot);
    bytes[56..ENTRY].copy_from_slice(&checksum.to_le_bytes());
}

/// An entry of these fields, for this file and slot.
pub fn entry_bytes(entry: &Entry, nonce: u64, slot: u32) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..16].copy_from_slice(&entry.key.to_le_bytes());
    bytes[16..20].copy_from_slice(&entry.realm.to_le_bytes());
    bytes[19] = entry.kind;
    bytes[20..24].copy_from_slice(&entry.len.to_le_bytes());
    bytes[24..28].copy_from_slice(&entry.page.to_le_bytes());
    bytes[32..48].copy_from_slice(&entry.hash.to_le_bytes());
    seal_entry(&mut bytes, nonce, slot);
    bytes
}

/// What the 64 bytes of a slot say, if they are to be believed in a file of this size.
pub fn entry(bytes: &[u8], nonce: u64, slot: u32, size: u64) -> Option<Entry> {
    let entry = Entry {
        key: u128_at(bytes, 0),
        realm: u32_at(bytes, 16) & 0xff_ffff,
        kind: bytes[19],
        len: u32_at(bytes, 20),
        page: u32_at(bytes, 24),
        hash: u128_at(bytes, 32),
    };
    let possible = u64_at(bytes, 56) == entry_checksum(bytes, nonce, slot)
        && bytes[48..56] == [0; 8]
        && entry.kind <= 3
        && (entry.kind != 0 || entry.key == entry.hash)
        && u64::from(entry.len) <= (1 << 31) - 33
        && (entry.kind < 2 || entry.len == 0)
        && (entry.len == 0 || fits(&entry, slot, size));
    possible.then_some(entry)
}

fn fits(entry: &Entry, slot: u32, size: u64) -> bool {
    let end = u64::from(entry.page) + u64::from(entry.len).div_ceil(4096);
    let directory = 64 * (u64::from(slot) + 1);
    entry.page >= 1 && directory <= size - 4096 && u64::from(slot) < (1 << 22) - 1 && end <= (size - directory) / 4096
}

/// Where the entry of a slot lies in a file, if it may have that slot.
pub fn entry_at(size: usize, slot: usize) -> Option<std::ops::Range<usize>> {
    let end = size.checked_sub(slot.checked_mul(ENTRY)?)?;
    (end >= PAGE + ENTRY).then(|| end - ENTRY..end)
}
