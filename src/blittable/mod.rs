//! Values that are written as the bytes they consist of, and read back only after a check.
//!
//! A [`BlittableWriter`] lines up values in one block and hashes them when it is committed. A [`BlittableReader`] walks
//! over the bytes of a block and gives the values back: borrowed from the block where that is possible, copied
//! otherwise. What may be written is [`NoUninit`](bytemuck::NoUninit), what may be read is
//! [`CheckedBitPattern`](bytemuck::CheckedBitPattern); both are derived through the re-exported
//! `scratchspace::bytemuck`. Nothing in the block says which value lies where: read in the order in which you wrote.
//! The documentation of the writer draws the layout.
//!
//! # Invariants
//!
//! 1. Every length is compared with what is left of the block before it is used: no reader allocates more than the
//!    bytes it was given.
//! 2. A read that fails leaves its reader where it was.
//! 3. Each offset in an error counts from the start of the outermost reader's bytes, in a sub reader too.
//! 4. What may still change until commit (a delayed value, the length and the checksum of a region) lies in bytes the
//!    writer owns, unbroken in one part.
#![forbid(unsafe_code)]

mod checksum;
mod commit;
mod delayed;
mod io;
mod parts;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use self::delayed::Delayed;
pub use self::io::BlittableIo;
pub use self::reader::BlittableReader;
pub use self::writer::BlittableWriter;

use crate::block::{BlockHash, HashKind, Realm};
use crate::error::WriteError;

/// What takes a finished block from a [`BlittableWriter`].
pub(crate) trait BlockSink: Send + Sync {
    /// How the store hashes what it is given.
    fn hash_kind(&self) -> HashKind;

    /// Stores `parts`, one after the other, as one block: under `key` if there is one, else under `hash`.
    ///
    /// `hash` is the content hash of all parts and `len` the sum of their lengths, in bytes.
    fn commit(
        &self,
        realm: Realm,
        key: Option<BlockHash>,
        hash: BlockHash,
        parts: &[&[u8]],
        len: u32,
    ) -> Result<(), WriteError>;
}

/// The most values of a zero-sized type that a slice may hold.
///
/// Such values take no bytes, so their number cannot be compared with what is left of a block (invariant 1).
pub(crate) const MAX_ZERO_SIZED: usize = 1 << 16;
