//! The calls about files and folders whose order and whose failures matter, each passed by before it reaches the system.
//!
//! What a source of files does in one call of its trait is several calls here: a test sees which came first, and lets
//! any of them fail (`watch.rs`). Without tests nothing of this is left.
//!
//! # Invariants
//!
//! 1. Nothing that may fail is named here if its failure changes nothing: hints, modes, questions about free space.
#![forbid(unsafe_code)]

#[cfg(all(test, target_os = "linux", not(loom)))]
pub(crate) use super::watch::{meet, meet_file, meet_store};

#[cfg(not(all(test, target_os = "linux", not(loom))))]
pub(crate) use self::unseen::{meet, meet_file, meet_store};

/// What is asked of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SystemCall {
    /// The names in a folder.
    List,
    /// A file is opened or created.
    Open,
    /// Length, space or identity of a file, or whether there is one.
    Stat,
    Allocate,
    Map,
    Load,
    Store,
    Sync,
    SyncFolder,
    Rename,
    Remove,
}

#[cfg(all(test, target_os = "linux", not(loom)))]
impl SystemCall {
    pub(crate) const ALL: [Self; 11] = [
        Self::List,
        Self::Open,
        Self::Stat,
        Self::Allocate,
        Self::Map,
        Self::Load,
        Self::Store,
        Self::Sync,
        Self::SyncFolder,
        Self::Rename,
        Self::Remove,
    ];
}

/// Nobody looks.
#[cfg(not(all(test, target_os = "linux", not(loom))))]
#[expect(clippy::unnecessary_wraps, reason = "the signatures are those of the tests")]
mod unseen {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use super::SystemCall;

    /// About a path.
    #[inline]
    pub(crate) fn meet(_call: SystemCall, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// About an open file.
    #[inline]
    pub(crate) fn meet_file(_call: SystemCall, _file: &File) -> io::Result<()> {
        Ok(())
    }

    /// About an open file that `parts` are to be stored in.
    #[inline]
    pub(crate) fn meet_store(_call: SystemCall, _file: &File, _offset: u64, _parts: &[&[u8]]) -> io::Result<()> {
        Ok(())
    }
}
