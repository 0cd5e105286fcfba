//! What a store tells its `on_event` hook.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::block::{BlockAddress, BlockHash, FileId, Realm};
use crate::error::{FailedClosure, IoError};

/// Something that an operator may want to know, as it happened. `Display` is a sentence with the values.
///
/// Events of one file come in the order in which they happened. See
/// [`on_event`](crate::ScratchBuilder::on_event) for who is called when.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A lane got a file it never had before.
    FileCreated {
        /// The file.
        file: FileId,
        /// Its lane.
        lane: u16,
        /// The age of its first lap.
        generation: u64,
    },
    /// A file takes no more blocks: it is full, or a store in it, a sync or a read of it failed. What is removed may still
    /// be noted there, where nothing may be forgotten and no other file is left for that.
    FileSealed {
        /// The file.
        file: FileId,
        /// Its lane.
        lane: u16,
        /// The age of the lap that ends.
        generation: u64,
    },
    /// The oldest file of a lane has made room and is empty again.
    FileRecycled {
        /// The file.
        file: FileId,
        /// Its lane.
        lane: u16,
        /// The age of the lap that begins.
        generation: u64,
    },
    /// A file could not be created or made ready again. It is tried again, later and later, up to every 5 s; only the
    /// first failure of a row is told.
    FileBroken {
        /// The file.
        file: FileId,
        /// Its lane.
        lane: u16,
        /// What failed.
        error: IoError,
    },
    /// A sync of a file failed, so that what was stored in it since the last one may be lost, or a part of it could not
    /// be read, or it had another length when the store was opened. From now on each read of it is copied and compared,
    /// and it is deleted and made anew when its turn comes. What an earlier run has marked is told at each opening.
    FileSuspect {
        /// The file.
        file: FileId,
        /// What failed.
        error: IoError,
    },
    /// A file whose sync has failed could not be marked as such: the next run would take it for a sound one, and believe
    /// what the system has of it in memory. It is tried again, later and later, up to every 5 s, and when the store is
    /// closed; only the first failure of a file is told.
    FileUnmarked {
        /// The file.
        file: FileId,
        /// What failed.
        error: IoError,
    },
    /// A file had no header when the store was opened: nothing in it can be believed. If its length is the right one and
    /// no earlier run has found it suspect its space is used again, else it is deleted, and made anew when its lane wants
    /// another file. Its blocks are missing, or found as older versions; what was removed or replaced by an entry in it may
    /// be back, as nobody knows what it held.
    ///
    /// No crash leaves such a file where the device writes 512 bytes as a whole. Elsewhere a power cut may tear a header
    /// while its file makes room: then this is told as well, and nothing is lost.
    FileLost {
        /// The file.
        file: FileId,
        /// What has happened to it.
        error: IoError,
    },
    /// A lane gets no file, several tries in a row: until it heals, writes of its keys that need a file fail with
    /// `error`. What it holds is read. If its folder was not there at open, reads of its keys fail as well. If it is a
    /// thread of the lane that has [panicked](IoError::panicked), every write fails until the store is opened again, and
    /// each flush tells.
    LaneBroken {
        /// The lane.
        lane: u16,
        /// Its folder.
        folder: Option<PathBuf>,
        /// What failed.
        error: IoError,
    },
    /// A broken lane works again.
    LaneHealed {
        /// The lane.
        lane: u16,
        /// Its folder.
        folder: Option<PathBuf>,
        /// How long it was broken.
        after: Duration,
    },
    /// A block was promised and is not there: its closure failed, or the gather buffer that it lay in.
    BlockFailed {
        /// The realm of the write.
        realm: Realm,
        /// The key of the write.
        hash: BlockHash,
        /// Why.
        reason: FailedClosure,
    },
    /// The bytes of a block, or its directory entry, do not check any more. It has left the index.
    BlockCorrupted {
        /// Where the block lies.
        address: BlockAddress,
    },
    /// A wait was longer than [`report_waits`](crate::ScratchBuilder::report_waits), however it ended.
    Waited {
        /// The name of the thread that waited, if it has one.
        thread: Option<String>,
        /// The lane of the key.
        lane: u16,
        /// For what.
        cause: WaitCause,
        /// How long.
        waited: Duration,
    },
    /// The hook was too slow: so many events before this one, and after the one before, were dropped.
    Dropped {
        /// How many.
        events: u64,
    },
}

/// What a call waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitCause {
    /// A file with room.
    Space,
    /// Closures that waited already, see [`max_pending_bytes`](crate::ScratchBuilder::max_pending_bytes).
    Budget,
    /// Memory to run a closure in, see [`max_staging_bytes`](crate::ScratchBuilder::max_staging_bytes).
    Staging,
    /// A gather buffer to be stored.
    Gather,
    /// A block that somebody else writes or verifies.
    Block,
    /// The disk, to take some of what was stored before: the writers of the lane are far ahead of it.
    Disk,
}

impl fmt::Display for WaitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Space => "a file with room",
            Self::Budget => "closures that waited already",
            Self::Staging => "memory to run a closure in",
            Self::Gather => "gathered blocks to be stored",
            Self::Block => "a block that somebody else writes or verifies",
            Self::Disk => "a disk that is behind",
        })
    }
}

/// A folder in a sentence, where there is one.
pub(crate) struct In<'a>(pub(crate) Option<&'a PathBuf>);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |folder| write!(f, " in `{}`", folder.display()))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileCreated { file, lane, generation } => {
                write!(f, "file {file} was created for lane {lane} with generation {generation}")
            }
            Self::FileSealed { file, lane, generation } => {
                write!(f, "file {file} of lane {lane}, generation {generation}, takes no more blocks")
            }
            Self::FileRecycled { file, lane, generation } => {
                write!(f, "file {file} of lane {lane} has made room and begins generation {generation}")
            }
            Self::FileBroken { file, lane, error } => {
                write!(f, "file {file} of lane {lane} is not ready and is tried again: {error}")
            }
            Self::FileSuspect { file, error } => {
                write!(f, "file {file} may have lost writes and is read by copies from now on: {error}")
            }
            Self::FileUnmarked { file, error } => {
                write!(f, "file {file} is not marked yet for the next run, which is tried again: {error}")
            }
            Self::FileLost { file, error } => {
                write!(f, "file {file} is made anew; its blocks are lost, and what it had removed may be back: {error}")
            }
            Self::LaneBroken { lane, folder, error } => {
                write!(f, "lane {lane}{} is broken, its keys fail until it heals: {error}", In(folder.as_ref()))
            }
            Self::LaneHealed { lane, folder, after } => {
                write!(f, "lane {lane}{} works again after {after:?}", In(folder.as_ref()))
            }
            Self::BlockFailed { realm, hash, reason } => {
                write!(f, "block {hash} of realm {realm} was never completed: {reason}")
            }
            Self::BlockCorrupted { address } => {
                write!(f, "block {address} (file:slot) does not match its hash or its entry any more; check the disk")
            }
            Self::Waited { thread, lane, cause, waited } => {
                let thread = thread.as_deref().unwrap_or("without a name");
                write!(f, "thread {thread} waited {waited:?} for {cause} in lane {lane}")
            }
            Self::Dropped { events } => write!(f, "{events} events were dropped, as the hook was too slow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::block::Slot;

    #[test]
    fn each_event_is_a_sentence_with_its_values() {
        let (file, lane, generation) = (FileId::new(3).unwrap(), 1, 9);
        let error = IoError::new("creating a file", None, io::ErrorKind::StorageFull.into());
        let folder = Some(PathBuf::from("/data"));
        let address = BlockAddress::new(file, Slot::new(4).unwrap());
        let (thread, cause) = (Some("scratch-keep-1".to_owned()), WaitCause::Budget);
        for (event, values) in [
            (Event::FileCreated { file, lane, generation }, ["file 3", "generation 9"]),
            (Event::FileSealed { file, lane, generation }, ["lane 1", "no more blocks"]),
            (Event::FileRecycled { file, lane, generation }, ["file 3", "generation 9"]),
            (Event::FileBroken { file, lane, error: error.clone() }, ["file 3", "free space"]),
            (Event::FileSuspect { file, error: error.clone() }, ["file 3", "creating a file"]),
            (Event::FileUnmarked { file, error: error.clone() }, ["file 3", "next run"]),
            (Event::FileLost { file, error: error.clone() }, ["file 3 is made anew", "may be back"]),
            (Event::LaneBroken { lane, folder: folder.clone(), error }, ["lane 1 in `/data`", "free space"]),
            (Event::LaneHealed { lane, folder, after: Duration::from_secs(2) }, ["lane 1 in `/data`", "2s"]),
            (
                Event::BlockFailed {
                    realm: Realm::from(7),
                    hash: BlockHash::from_u128(0xab),
                    reason: FailedClosure::Panicked,
                },
                ["realm 7", "panicked"],
            ),
            (Event::BlockCorrupted { address }, ["3:4", "check the disk"]),
            (
                Event::Waited { thread, lane, cause, waited: Duration::from_millis(7) },
                ["scratch-keep-1 waited 7ms", "closures that waited"],
            ),
            (Event::Dropped { events: 12 }, ["12 events", "slow"]),
        ] {
            let text = event.to_string();
            assert!(values.iter().all(|value| text.contains(value)), "{text}");
        }
    }
}
