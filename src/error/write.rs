//! How a write and a flush fail.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::{FailedClosure, IoError};
use crate::block::{BlockHash, FileId};

/// Why a block was not written.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// No file can hold it. Nothing was changed.
    #[error("a block of {len} bytes does not fit, the most is {max}; split it, or open the store with larger files")]
    TooLarge {
        /// The bytes of the block.
        len: u64,
        /// The most bytes of a block in this store.
        max: u64,
    },
    /// No space or budget came free before the deadline: try again, or wait longer.
    #[error("no space came free in {waited:?}; try again, or give the call more time")]
    Timeout {
        /// How long the call waited.
        waited: Duration,
    },
    /// The store may not forget anything, and what it holds leaves too little space in the files: remove blocks, or give it
    /// more files. Where removing makes no room, not all of an earlier run was found
    /// ([`LaneHealth::unfound`](crate::LaneHealth::unfound)), and [`forget_unfound`](crate::Scratch::forget_unfound) lets
    /// files make room again. This block was not stored; of a batch others may be.
    ///
    /// Or the index has no place for the block: with
    /// [`OnFull::Recycle`](crate::OnFull::Recycle) if many more blocks are there than were expected, and this one is older than
    /// what gave way for them, as in a lane that is seldom written to: expect more blocks. With
    /// [`OnFull::Refuse`](crate::OnFull::Refuse) only if the index may take no more memory, or the system has none, for this
    /// block or for a younger one before it: open the store again with more. What was stored of it is taken back, but for its
    /// space.
    #[error(
        "the store is full: {needed} bytes are needed and {live} bytes are live; remove blocks, or open it with more \
         files, for more blocks, or with more memory for its index"
    )]
    Full {
        /// The bytes of space that the write needs.
        needed: u64,
        /// The bytes that live blocks take.
        live: u64,
    },
    /// Every file that could make room is still being read.
    #[error(
        "after {waited:?} every file that could make room is still being read, the oldest is file {oldest}; drop the \
         blocks that are held, or open the store with more files"
    )]
    AllPinned {
        /// The file that would have made room first.
        oldest: FileId,
        /// How long the call waited.
        waited: Duration,
    },
    /// The bytes do not have the hash that was promised. Nothing was stored.
    #[error("the bytes have hash {found} instead of {expected}; give the hash of exactly the bytes that are written")]
    WrongHash {
        /// The hash that the call named.
        expected: BlockHash,
        /// The hash of the bytes.
        found: BlockHash,
    },
    /// The call came from inside a closure of the same store.
    #[error("the store was called from inside one of its own closures; write the other block after the closure ended")]
    Reentrant,
    /// The store was closed.
    #[error("the store is closed; open it again to write to it")]
    Closed,
    /// This process is a forked child of the one that opened the store.
    #[error(
        "the store belongs to the process that this one was forked from; open a store of its own, over other folders, \
         in the child"
    )]
    Forked,
    /// The operating system refused. After a restart the block may be there or not.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl WriteError {
    /// Whether the same call may succeed when it is repeated.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::AllPinned { .. })
    }
}

/// What a flush could not make durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlushError {
    /// How many closures and gathered stores failed since the last flush.
    pub failed: u64,
    /// What the first of them died of.
    pub first: Option<FailedClosure>,
    /// Why a file was not synced.
    pub io: Option<IoError>,
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.first {
            Some(first) => write!(f, "{} blocks were not stored, of the first {first}", self.failed)?,
            None if self.failed > 0 => write!(f, "{} blocks were not stored", self.failed)?,
            None => f.write_str("not every block is durable")?,
        }
        if let Some(io) = &self.io {
            write!(f, "; {io}")?;
        }
        f.write_str("; write again what must survive, and flush again")
    }
}

impl Error for FlushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match (&self.io, &self.first) {
            (Some(io), _) => Some(io),
            (None, Some(first)) => Some(first),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_write_is_worth_repeating_when_only_time_was_short() {
        let (waited, hash) = (Duration::from_secs(30), BlockHash::of(b""));
        let oldest = FileId::new(4).unwrap();
        for (error, retryable, values) in [
            (WriteError::TooLarge { len: 8192, max: 4096 }, false, ["8192", "4096"]),
            (WriteError::Timeout { waited }, true, ["30s", "try again"]),
            (WriteError::Full { needed: 4096, live: 12_288 }, false, ["4096", "12288"]),
            (WriteError::AllPinned { oldest, waited }, true, ["file 4", "30s"]),
            (WriteError::WrongHash { expected: hash, found: BlockHash::of(b"a") }, false, ["99aa06d3", "a96faf70"]),
            (WriteError::Reentrant, false, ["closure", "ended"]),
            (WriteError::Closed, false, ["closed", "open it again"]),
            (WriteError::Forked, false, ["forked", "open a store of its own"]),
            (IoError::new("storing", None, io::ErrorKind::StorageFull.into()).into(), false, ["storing", "free space"]),
        ] {
            assert_eq!(error.is_retryable(), retryable, "{error}");
            assert!(values.iter().all(|value| error.to_string().contains(value)), "{error}");
        }
    }

    #[test]
    fn a_failed_flush_tells_how_many_of_what() {
        let io = IoError::new("syncing", None, io::Error::from_raw_os_error(5));
        let closures = FlushError { failed: 3, first: Some(FailedClosure::Panicked), io: None };
        assert_eq!(
            closures.to_string(),
            "3 blocks were not stored, of the first its closure panicked; look at the panic message of that thread; \
             write again what must survive, and flush again"
        );
        assert!(closures.source().unwrap().is::<FailedClosure>());
        let sync = FlushError { failed: 0, first: None, io: Some(io) };
        assert!(sync.to_string().starts_with("not every block is durable; syncing failed: "), "{sync}");
        assert!(sync.source().unwrap().is::<IoError>());
        assert!(FlushError { failed: 0, first: None, io: None }.source().is_none());
    }
}
