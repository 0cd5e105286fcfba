//! How a read fails, and how a miss becomes an `Option`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::IoError;
use crate::block::{BlockAddress, BlockHash, Realm};

/// Why a block was not read.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Never written, removed, or recycled since: rebuild the value and write it again.
    #[error(
        "block {hash} of realm {realm} is not in the store: it was never written, was removed, or its file was \
         recycled; rebuild the value and write it again"
    )]
    Missing {
        /// The realm that was asked for.
        realm: Realm,
        /// The key that was asked for.
        hash: BlockHash,
    },
    /// A wait ended at its deadline, or more blocks of the file are held than can be counted. Nothing was lost: try
    /// again.
    #[error("the block was still busy after {waited:?}; nothing is lost, try again")]
    Busy {
        /// How long the call waited; zero if it did not, as too many blocks are held.
        waited: Duration,
    },
    /// The bytes no longer match their hash. The block has left the index.
    #[error(
        "the bytes of block {address} (file:slot) do not match their hash any more, so it left the index; rebuild the \
         value, write it again, and check the disk"
    )]
    Corrupted {
        /// Where the bytes lie.
        address: BlockAddress,
    },
    /// The closure that should have written the block failed. Those who waited for it are told; from now on the block
    /// is missing, or the version before it is there again.
    #[error("block {hash} of realm {realm} was never completed: {reason}; rebuild the value and write it again")]
    Failed {
        /// The realm of the write.
        realm: Realm,
        /// The key of the write.
        hash: BlockHash,
        /// What happened to the closure.
        #[source]
        reason: FailedClosure,
    },
    /// The call came from inside a closure of the same store.
    #[error("the store was called from inside one of its own closures; read what the closure needs before the write")]
    Reentrant,
    /// The store was closed.
    #[error("the store is closed; open it again to read from it")]
    Closed,
    /// This process is a forked child of the one that opened the store.
    #[error(
        "the store belongs to the process that this one was forked from; open a store of its own, over other folders, \
         in the child"
    )]
    Forked,
    /// The operating system refused. The block is still in the index; or nobody knows whether there is one, as its folder was
    /// not there when the store was opened, or as the store may not forget, and of an earlier run not all was found: the index had
    /// no memory for it, or a directory could not be read, which is so until the next opening, or until what was not found is
    /// given up ([`forget_unfound`](crate::Scratch::forget_unfound)).
    #[error(transparent)]
    Io(#[from] IoError),
}

impl ReadError {
    /// Whether the block is not there, and nothing else is wrong.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// Whether the same call may succeed when it is repeated.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// Why the closure of a write did not make a block.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FailedClosure {
    /// It panicked.
    #[error("its closure panicked; look at the panic message of that thread")]
    Panicked,
    /// It wrote bytes that do not have the promised hash.
    #[error("its closure wrote bytes of hash {found} instead of {expected}; promise the hash of what it writes")]
    WrongHash {
        /// The hash that the write named.
        expected: BlockHash,
        /// The hash of what the closure wrote.
        found: BlockHash,
    },
    /// What it wrote could not be stored.
    #[error(transparent)]
    Io(IoError),
    /// It was dropped before it ran: its file had to make room, or the store closed.
    #[error("its closure was dropped before it ran, as its file had to make room or the store closed")]
    Abandoned,
    /// It had not run by the end of a wait: it still waits, or still runs. Nothing is lost yet.
    #[error("a closure had not run after {waited:?}; look for one that hangs, or flush again")]
    Busy {
        /// How long was waited.
        waited: Duration,
    },
}

/// Why a read that runs a closure on the bytes gave no result.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadWithError<E> {
    /// The block was not read; the closure did not run.
    Read(ReadError),
    /// The block was read, and the closure said this.
    Closure(E),
}

impl<E> From<ReadError> for ReadWithError<E> {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl<E: fmt::Display> fmt::Display for ReadWithError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Closure(error) => write!(f, "the closure that read the block failed: {error}"),
        }
    }
}

impl<E: Error + 'static> Error for ReadWithError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(error) => error.source(),
            Self::Closure(error) => Some(error),
        }
    }
}

/// Turns "missing" from an error into `None`, and leaves every other error one.
///
/// # Examples
///
/// ```
/// use scratchspace::{BlockHash, MissingOk, ReadError, Realm};
///
/// fn read(hash: BlockHash) -> Result<Vec<u8>, ReadError> {
///     Err(ReadError::Missing { realm: Realm::DEFAULT, hash })
/// }
///
/// let found: Option<Vec<u8>> = read(BlockHash::of(b"absent")).missing_ok()?;
/// assert_eq!(found, None);
/// # Ok::<(), ReadError>(())
/// ```
pub trait MissingOk {
    /// The same result with an `Option` in it.
    type Out;

    /// `Ok(None)` for [`ReadError::Missing`], `Ok(Some(value))` for a value.
    ///
    /// # Errors
    ///
    /// Every other error, unchanged.
    fn missing_ok(self) -> Self::Out;
}

impl<T> MissingOk for Result<T, ReadError> {
    type Out = Result<Option<T>, ReadError>;

    fn missing_ok(self) -> Self::Out {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<T, E> MissingOk for Result<T, ReadWithError<E>> {
    type Out = Result<Option<T>, ReadWithError<E>>;

    fn missing_ok(self) -> Self::Out {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(ReadWithError::Read(error)) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::block::{FileId, Slot};

    fn missing() -> ReadError {
        ReadError::Missing { realm: Realm::from(7), hash: BlockHash::from_u128(0xab) }
    }

    fn others() -> [ReadError; 7] {
        let address = BlockAddress::new(FileId::new(3).unwrap(), Slot::new(9).unwrap());
        let hash = BlockHash::of(b"");
        [
            ReadError::Busy { waited: Duration::from_millis(1500) },
            ReadError::Corrupted { address },
            ReadError::Failed { realm: Realm::DEFAULT, hash, reason: FailedClosure::Panicked },
            ReadError::Reentrant,
            ReadError::Closed,
            ReadError::Forked,
            ReadError::Io(IoError::new("reading", None, io::Error::from_raw_os_error(5))),
        ]
    }

    #[test]
    fn missing_becomes_none_and_nothing_else_does() {
        assert_eq!(Ok::<_, ReadError>(1).missing_ok(), Ok(Some(1)));
        assert_eq!(Err::<u8, _>(missing()).missing_ok(), Ok(None));
        let with = |error| Err::<u8, _>(ReadWithError::<String>::Read(error));
        assert_eq!(with(missing()).missing_ok(), Ok(None));
        assert_eq!(Ok::<_, ReadWithError<String>>(1).missing_ok(), Ok(Some(1)));
        let refused = ReadWithError::Closure("no".to_owned());
        assert_eq!(Err::<u8, _>(refused.clone()).missing_ok(), Err(refused));
        for error in others() {
            assert!(!error.is_missing());
            assert_eq!(Err::<u8, _>(error.clone()).missing_ok(), Err(error.clone()));
            assert_eq!(with(error.clone()).missing_ok(), Err(ReadWithError::Read(error)));
        }
    }

    #[test]
    fn only_a_busy_read_is_worth_repeating() {
        assert!(!missing().is_retryable());
        let retryable: Vec<_> = others().into_iter().filter(ReadError::is_retryable).collect();
        assert_eq!(retryable, [ReadError::Busy { waited: Duration::from_millis(1500) }]);
    }

    #[test]
    fn texts_carry_the_values() {
        let text = missing().to_string();
        assert!(text.contains("realm 7") && text.contains("000000ab") && text.contains("write it again"), "{text}");
        let texts = others().map(|error| error.to_string());
        for (text, value) in
            texts.iter().zip(["1.5s", "3:9", "panicked", "closure", "closed", "forked", "reading failed"])
        {
            assert!(text.contains(value), "{text}");
        }
    }

    #[test]
    fn the_source_of_a_failed_block_is_what_its_closure_died_of() {
        let [_, _, failed, ..] = others();
        let source = failed.source().unwrap().downcast_ref::<FailedClosure>();
        assert_eq!(source, Some(&FailedClosure::Panicked));
    }

    #[test]
    fn an_error_of_a_reading_closure_is_the_source() {
        let error = ReadWithError::Closure(FailedClosure::Abandoned);
        assert!(error.source().unwrap().is::<FailedClosure>());
        assert!(error.to_string().starts_with("the closure that read the block failed: "), "{error}");
        assert_eq!(ReadWithError::<ReadError>::from(missing()).to_string(), missing().to_string());
    }
}
