//! How typed values fail to become bytes, or bytes to become values.
#![forbid(unsafe_code)]

use thiserror::Error;

use super::{IoError, WriteError};

/// Where in a block, and why, a typed value was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("at byte {offset} of the block {kind}")]
pub struct BlittableError {
    /// Where in the block, in bytes.
    pub offset: usize,
    /// What was wrong there.
    #[source]
    pub kind: BlittableErrorKind,
}

impl BlittableError {
    /// `kind` happened `offset` bytes into the block.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{BlittableError, BlittableErrorKind};
    ///
    /// let error = BlittableError::new(96, BlittableErrorKind::EndOfBlock { wanted: 8, remaining: 4 });
    /// assert_eq!(
    ///     error.to_string(),
    ///     "at byte 96 of the block 8 bytes were wanted and 4 are left: read what was written, in the same order",
    /// );
    /// ```
    #[must_use]
    pub const fn new(offset: usize, kind: BlittableErrorKind) -> Self {
        Self { offset, kind }
    }
}

/// What was wrong with a typed value. The texts go on after "at byte 96 of the block".
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlittableErrorKind {
    /// The block ends before the value does.
    #[error("{wanted} bytes were wanted and {remaining} are left: read what was written, in the same order")]
    EndOfBlock {
        /// The bytes of the value.
        wanted: usize,
        /// The bytes that were left.
        remaining: usize,
    },
    /// The bytes are no value of the type.
    #[error("the bytes are no `{type_name}`: read the type that was written")]
    BadValue {
        /// The type that was asked for.
        type_name: &'static str,
    },
    /// A slice of the type cannot start there.
    #[error("there is no multiple of {align} bytes: align before writing, or read a copy")]
    Misaligned {
        /// The alignment of the type in bytes.
        align: usize,
    },
    /// A length in the block is larger than it can be.
    #[error("a length of {found} was found where at most {max} is possible: read what was written, in the same order")]
    BadLength {
        /// The length in the block.
        found: u64,
        /// The most that is possible there.
        max: u64,
    },
    /// Bytes that only fill up to an alignment are not zero.
    #[error("there is a byte that should be padding and is not zero: read what was written, in the same order")]
    BadPadding,
    /// The bytes of a string are no UTF-8.
    #[error("the bytes are no UTF-8: read them as bytes, or write them as a string")]
    BadUtf8,
    /// A checked region does not match its checksum.
    #[error("a checked region ends whose bytes do not match their checksum: rebuild the value and write it again")]
    Checksum,
    /// A value was put off and never set.
    #[error("a value was left to be set later and never was: set it before the commit")]
    Unset,
    /// A value was set that another writer had put off.
    #[error("a value was set through a handle of another writer: set it in the writer that made the handle")]
    ForeignHandle,
    /// A checksummed region began or ended in another writer, or did not end.
    #[error("a checksummed region did not begin and end in the same writer: do not replace the writer inside it")]
    BrokenRegion,
    /// The writer was made without a store.
    #[error("a writer without a store was committed: take its bytes, or make it with the store")]
    Detached,
    /// The block would be larger than a block can be.
    #[error("the block would grow to {len} bytes, the most is {max}: split it")]
    TooLarge {
        /// The bytes that the block would have.
        len: u64,
        /// The most it may have.
        max: u64,
    },
    /// A source of bytes failed.
    #[error("a read or write failed: {0}")]
    Io(#[source] IoError),
}

/// Why a typed block was not committed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// The block was not complete.
    #[error(transparent)]
    Blittable(#[from] BlittableError),
    /// The block was complete and not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;

    use super::*;

    #[test]
    fn texts_say_where_and_carry_the_values() {
        let io = IoError::new("reading", None, io::Error::from_raw_os_error(5));
        for (kind, values) in [
            (BlittableErrorKind::EndOfBlock { wanted: 8, remaining: 4 }, ["8 bytes", "4 are left"]),
            (BlittableErrorKind::BadValue { type_name: "bool" }, ["`bool`", "type that was written"]),
            (BlittableErrorKind::Misaligned { align: 16 }, ["16 bytes", "align"]),
            (BlittableErrorKind::BadLength { found: 99, max: 12 }, ["99", "12"]),
            (BlittableErrorKind::BadUtf8, ["UTF-8", "bytes"]),
            (BlittableErrorKind::Checksum, ["checksum", "rebuild"]),
            (BlittableErrorKind::Unset, ["never was", "set it"]),
            (BlittableErrorKind::TooLarge { len: 5, max: 3 }, ["5 bytes", "3"]),
            (BlittableErrorKind::Io(io), ["reading failed", "check the disk"]),
        ] {
            let text = BlittableError::new(40, kind.clone()).to_string();
            assert!(text.starts_with("at byte 40 of the block "), "{text}");
            assert!(values.iter().all(|value| text.contains(value)), "{text}");
            let commit = CommitError::from(BlittableError::new(40, kind.clone()));
            assert_eq!(commit.source().and_then(|source| source.downcast_ref()), Some(&kind));
        }
    }
}
