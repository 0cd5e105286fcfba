//! Plain values: what names a block, where it lies, and how both are written as bytes.
//!
//! Nothing here does input or output, locks or waits. Whatever is read back from a disk is decoded by a total
//! function: any bytes give a checked value or a typed error, never a panic. `docs/format.md` draws the bytes.
//!
//! # Invariants
//!
//! 1. A value of a type of this module is in its range: constructors and decoders are the only way to one.
//! 2. Bytes on disk are little-endian, and do not change within a format version.
#![forbid(unsafe_code)]

mod address;
mod clock;
mod entry;
mod file_id;
mod hash;
mod header;
mod high_water;
mod id;
mod key;
mod kind;
mod layout;
mod realm;
mod slot;

pub use self::address::BlockAddress;
pub use self::file_id::FileId;
pub use self::hash::{BlockHash, BlockHasher, ParseHashError};
pub use self::id::StoreId;
pub use self::kind::{BlockKind, HashKind};
pub use self::layout::{FileSize, MAX_BLOCK, PAGE_SIZE, pages_of};
pub use self::realm::{Realm, RealmError};
pub use self::slot::Slot;

pub(crate) use self::clock::{now, wall};
pub(crate) use self::entry::Entry;
pub(crate) use self::header::{FileHeader, HEADER_LEN, HeaderError};
pub(crate) use self::high_water::HighWaterMark;
pub(crate) use self::id::random_nonce;
pub(crate) use self::key::KeyHash;
pub(crate) use self::layout::{PAGE_LEN, padding};

/// Copies `N` bytes at `at`. The caller's constants prove the range, as those of a fixed layout do.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}
