//! The stores that are compared: one adapter a file.

mod cacache;
mod direct;
mod files;
mod fjall;
mod foyer;
mod kept;
mod lmdb;
mod raw;
mod redb;
mod rocksdb;
mod scratch;

use std::fs::File;
use std::path::Path;

use crate::store::{Failure, Peer};

/// All of them, in the order of the tables.
pub(crate) const ALL: [Peer; 14] = [
    scratch::PEER,
    foyer::WAITING,
    foyer::DROPPING,
    lmdb::PEER,
    redb::PEER,
    fjall::PEER,
    rocksdb::PEER,
    cacache::PEER,
    files::PEER,
    raw::PWRITE,
    raw::EXACT,
    raw::MAP,
    kept::PEER,
    direct::PEER,
];

/// The one of that name.
pub(crate) fn by_name(name: &str) -> Option<Peer> {
    ALL.into_iter().find(|peer| peer.name == name)
}

/// Brings everything that was written to the file system of a folder to its device: for stores of many files that sync
/// none of them.
fn sync_file_system(folder: &Path) -> Result<(), Failure> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_for_a_command_line() {
        for (at, peer) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|other| other.name != peer.name), "{peer:?}");
            assert!(peer.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{peer:?}");
        }
    }
}
