//! How opening a store fails.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::IoError;
use crate::block::HashKind;

/// Why a store was not opened.
///
/// Nothing of an existing store was deleted, unless by [`reset`](crate::ScratchBuilder::reset), or, with
/// [`OpenError::Io`], the oldest files that an opening with fewer of them drops, and those in which nothing can be
/// believed.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// An option is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another store, here or in another process, or blocks lent by an earlier one, hold the folder.
    #[error(
        "folder `{}` is in use by another store or by blocks that are still lent; close that store and drop its \
         blocks, or choose another folder",
        folder.display()
    )]
    InUse {
        /// The folder whose lock is taken.
        folder: PathBuf,
    },
    /// Something lies where a file of this store should be, and is not ours: it is not touched.
    #[error("`{}` does not belong to this store: {reason}; move it away, or choose another folder", path.display())]
    Foreign {
        /// What is there.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// The files that are there were laid out otherwise.
    #[error("the store was made with {was} and is opened with {is}; open it as it was, or reset it to start afresh")]
    LayoutChanged {
        /// How the files are laid out.
        was: Layout,
        /// How they were to be opened.
        is: Layout,
    },
    /// The file was written by another version of the format.
    #[error(
        "`{}` has format version {found}, which this library does not read; use the release that wrote it, or reset \
         the store",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The payloads of the file are hashed in a way that this build does not know.
    #[error("`{}` {}", path.display(), unknown_hash(*found))]
    HashKind {
        /// The file.
        path: PathBuf,
        /// The number of the [`HashKind`] in its header.
        found: u8,
    },
    /// The source was made by the process that this one was forked from, and owns its files there.
    #[error(
        "the files belong to the process that this one was forked from; make a source over other folders in the child"
    )]
    Forked,
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// What cannot change while a store lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many files are filled at the same time.
    pub lanes: u16,
    /// The bytes of each file.
    pub file_size: u64,
    /// How payloads are hashed.
    pub hash_kind: HashKind,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = if self.lanes == 1 { "lane" } else { "lanes" };
        write!(f, "{} {lanes} and files of {} bytes hashed by {}", self.lanes, self.file_size, self.hash_kind)
    }
}

/// The end of a sentence about a file of this hash kind, as no kind of this build has that number.
fn unknown_hash(kind: u8) -> String {
    match kind {
        1 => "is hashed by BLAKE3; build this crate with its feature `blake3`, or reset the store".to_owned(),
        other => format!(
            "has hash kind {other}, which this library does not know; use the release that wrote it, or reset the store"
        ),
    }
}

/// An option was refused.
///
/// # Examples
///
/// ```
/// use scratchspace::ConfigError;
///
/// let error = ConfigError::new("file_size", 5000, "a multiple of 4096 from 12288 to 17179869184");
/// assert_eq!(
///     error.to_string(),
///     "`file_size` is 5000, it must be a multiple of 4096 from 12288 to 17179869184; change it and open again",
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{field}` is {value}, it must be {range}; change it and open again")]
pub struct ConfigError {
    /// The name of the option.
    pub field: &'static str,
    /// The value that was refused, and the option it does not agree with if there is one.
    pub value: String,
    /// What would have been accepted: the words after "it must be".
    pub range: String,
}

impl ConfigError {
    /// `value` was refused for `field`, which must be `range`.
    #[must_use]
    pub fn new(field: &'static str, value: impl fmt::Display, range: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), range: range.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_what_is_in_the_way() {
        let path = PathBuf::from("/data/x");
        let was = Layout { lanes: 1, file_size: 12_288, hash_kind: HashKind::Xxh3 };
        let is = Layout { lanes: 2, file_size: 16_384, hash_kind: HashKind::Xxh3 };
        for (error, values) in [
            (OpenError::InUse { folder: path.clone() }, ["/data/x", "drop"]),
            (OpenError::Foreign { path: path.clone(), reason: "other store".into() }, ["/data/x", "other store"]),
            (
                OpenError::LayoutChanged { was, is },
                ["1 lane and files of 12288", "2 lanes and files of 16384 bytes hashed by XXH3"],
            ),
            (OpenError::HashKind { path: path.clone(), found: 1 }, ["/data/x", "feature `blake3`"]),
            (OpenError::HashKind { path: path.clone(), found: 9 }, ["/data/x", "hash kind 9"]),
            (OpenError::Forked, ["forked", "other folders"]),
            (OpenError::Version { path, found: 9 }, ["/data/x", "version 9"]),
            (ConfigError::new("lanes", 0, "from 1 to 341").into(), ["`lanes` is 0", "from 1 to 341"]),
        ] {
            assert!(values.iter().all(|value| error.to_string().contains(value)), "{error}");
        }
    }
}
