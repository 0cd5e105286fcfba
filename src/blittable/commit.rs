//! The end of a writer: the block is checked, hashed and handed over.
//!
//! # Invariants
//!
//! 1. Nobody gets bytes before each delayed value is set, each region has ended and each checksum is in place.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::BlittableWriter;
use crate::block::{BlockHash, BlockHasher, MAX_BLOCK};
use crate::error::{BlittableError, BlittableErrorKind, CommitError, IoError};

impl BlittableWriter {
    /// Hashes the block and stores it under its hash, which is returned.
    ///
    /// Waits for space at most as long as the store allows.
    ///
    /// # Errors
    ///
    /// [`CommitError::Blittable`] if the block is not complete or too large: see [`to_bytes`](Self::to_bytes), or if
    /// this writer is [detached](Self::detached). [`CommitError::Write`] if the store did not take the block.
    pub fn commit(self) -> Result<BlockHash, CommitError> {
        self.store(None)
    }

    /// Stores the block under `key`, in place of the block that is there.
    ///
    /// Waits for space at most as long as the store allows.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_named(self, key: BlockHash) -> Result<(), CommitError> {
        self.store(Some(key)).map(drop)
    }

    /// The bytes that [`commit`](Self::commit) would store.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::TooLarge`] if the block is longer than any block may be, [`BlittableErrorKind::Unset`] if
    /// a delayed value was not set, [`BlittableErrorKind::ForeignHandle`] if one of another writer was,
    /// [`BlittableErrorKind::BrokenRegion`] if a checksummed region did not end, [`BlittableErrorKind::BadLength`] if
    /// too many zero-sized values were written with their number.
    pub fn to_bytes(&mut self) -> Result<Vec<u8>, BlittableError> {
        self.finish()?;
        Ok(self.parts.to_vec())
    }

    /// Stores the bytes that [`commit`](Self::commit) would store in a file of its own, to be looked at.
    ///
    /// An existing file is replaced; after an error it may be incomplete.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::Io`] if the file could not be written, else as [`to_bytes`](Self::to_bytes).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::BlittableWriter;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("block");
    /// let mut writer = BlittableWriter::detached();
    /// writer.write_slice(&[1_u8, 2, 3]);
    /// writer.dump_to(&path)?;
    /// assert_eq!(std::fs::read(&path)?, [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dump_to(&mut self, path: impl AsRef<Path>) -> Result<(), BlittableError> {
        let path = path.as_ref();
        self.finish()?;
        let failed = |what, error| BlittableError {
            offset: 0,
            kind: BlittableErrorKind::Io(IoError::new(what, Some(path), error)),
        };
        let mut file = File::create(path).map_err(|error| failed("create the dump of a block", error))?;
        for part in self.parts.slices() {
            file.write_all(part).map_err(|error| failed("write the dump of a block", error))?;
        }
        Ok(())
    }

    fn store(mut self, key: Option<BlockHash>) -> Result<BlockHash, CommitError> {
        let len = self.finish().map_err(CommitError::Blittable)?;
        let Some(sink) = &self.sink else {
            return Err(CommitError::Blittable(BlittableError { offset: 0, kind: BlittableErrorKind::Detached }));
        };
        let parts = self.parts.slices();
        let mut hasher = BlockHasher::with_kind(sink.hash_kind());
        for part in &parts {
            hasher.update(part);
        }
        let hash = hasher.finish();
        sink.commit(self.realm, key, hash, &parts, len).map_err(CommitError::Write)?;
        Ok(hash)
    }

    /// Checks that the block is complete, and fills in the checksums. Returns its length.
    fn finish(&mut self) -> Result<u32, BlittableError> {
        let len = match u32::try_from(self.len()) {
            Ok(len) if !self.parts.is_too_large() => len,
            _ => {
                let kind = BlittableErrorKind::TooLarge { len: self.len(), max: u64::from(MAX_BLOCK) };
                return Err(BlittableError { offset: MAX_BLOCK as usize, kind });
            }
        };
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if let Some(start) = self.regions.innermost() {
            return Err(error_at(start, BlittableErrorKind::BrokenRegion));
        }
        if let Some(unset) = self.places.first_unset() {
            return Err(error_at(unset, BlittableErrorKind::Unset));
        }
        self.regions.sum_up(&mut self.parts);
        Ok(len)
    }
}

/// The error of what lies at `offset`.
pub(super) fn error_at(offset: u64, kind: BlittableErrorKind) -> BlittableError {
    BlittableError { offset: usize::try_from(offset).unwrap_or(usize::MAX), kind }
}
