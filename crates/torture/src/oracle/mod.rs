//! What every key must read as, in a mapped file of its own that outlives whatever is done to the process.
//!
//! A key has one writer at a time, which numbers its versions from 1: a version is a write or a removal. It is *begun*
//! before the store is called and *done* when the call has returned well. The *floor* is the last version that no kill
//! may take: it was READY in its file, or flushed.
//!
//! # What must hold
//!
//! What the crate `verdict` says of versions and floors, each version compared to its last byte. Where a key is missing
//! because the file of its floor has begun another lap, its header on disk says so, and no older file of the lane is alive.
//!
//! # Invariants
//!
//! 1. Each update is one word, or leaves the record true between its words: the process may be killed anywhere.
//! 2. Versions from the floor on keep their words: nobody begins another while that many are open.
#![forbid(unsafe_code)]

mod judge;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::blocks::{Blocks, KeyKind};
use crate::laps::Place;
use crate::words::Words;

pub(crate) use self::judge::{Read, Verdict};

const HEAD: usize = 64;
const STRIDE: usize = 64;
/// Versions of a key that are remembered.
const RING: u64 = 60;
/// Of them left for what settles a key.
const SPARE: u64 = 10;
const BEGUN: usize = 0;
const FLOOR: usize = 1;
const PLACE: usize = 2;
const SETTLED: usize = 3;
const VERSIONS: usize = 4;

/// What a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Stored by the call itself.
    Put,
    /// Stored by a closure, later.
    Deferred,
    /// By a closure that breaks its promise.
    Failing,
    Remove,
    /// Refused, or lost for good: never to be read.
    Void,
    /// Seen to be gone with its file.
    Gone,
}

impl From<Kind> for verdict::Version {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Put | Kind::Deferred => Self::Written,
            Kind::Remove | Kind::Gone => Self::Removed,
            Kind::Failing | Kind::Void => Self::Void,
        }
    }
}

impl Kind {
    const ALL: [Self; 6] = [Self::Put, Self::Deferred, Self::Failing, Self::Remove, Self::Void, Self::Gone];

    /// Whether the key may read as such a version.
    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Deferred)
    }

    /// Whether the key is missing after it.
    pub(crate) fn is_removal(self) -> bool {
        matches!(self, Self::Remove | Self::Gone)
    }
}

/// One version's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) kind: Kind,
    /// The call has returned, and it lay in a gather buffer then: what a kill may take.
    pub(crate) gathered: bool,
    /// Payload bytes.
    pub(crate) len: u32,
}

impl Version {
    fn to_word(self) -> u64 {
        let kind = Kind::ALL.iter().position(|kind| *kind == self.kind).expect("all are listed") as u64 + 1;
        kind | u64::from(self.gathered) << 4 | u64::from(self.len) << 8
    }

    fn from_word(word: u64) -> Self {
        let kind = usize::try_from(word & 15).expect("four bits").checked_sub(1).expect("a version that was begun");
        Self { kind: Kind::ALL[kind], gathered: word & 16 != 0, len: u32::try_from(word >> 8).expect("as written") }
    }
}

/// Sums over all processes of a run.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub(crate) enum Count {
    /// Where the process is: see [`Phase`].
    Phase = 1,
    /// Whether blocks may have been forgotten since the last complete check.
    MayForget,
    /// Bytes that may lie in gather buffers of the run that was killed; nothing is said of it if `Unsettled`.
    GatherLimit,
    /// Whether the run that was killed began without a check.
    Unsettled,
    /// Files a lane of the last opening.
    Files,
    /// Calls that wrote, removed or flushed.
    Calls,
    /// Blocks compared byte by byte.
    Compared,
    /// Keys that every restart compared with what they must be.
    Checked,
    /// Complete checks after an opening.
    Checks,
    /// Openings.
    Opened,
    /// Misses because a file has turned.
    Turned,
    /// Misses because of a removal, or because nothing had to be there.
    Absent,
    /// Blocks that only a gather buffer held when the process was killed.
    LostGathered,
    /// Blocks whose place the store did not know when their call returned.
    NoPlace,
    /// Files that made room.
    Turns,
    /// Calls that the store refused: no room, no time.
    Refused,
    /// Closes that were complete.
    Closed,
    /// Laps of the wheel.
    Laps,
    /// Misses of blocks that may be forgotten, where it is not known which file had them.
    Unproved,
}

/// What a process is doing, for whoever chooses the moment to kill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening = 1,
    Checking,
    Working,
    Closing,
}

/// The expected state of all keys.
#[derive(Debug)]
pub(crate) struct Oracle {
    words: Words,
    keys: u64,
    pub(crate) blocks: Blocks,
}

impl Oracle {
    /// The oracle in the file at `path`, empty if it is new.
    pub(crate) fn open(path: &Path, keys: u64, blocks: Blocks) -> io::Result<Self> {
        let count = HEAD + STRIDE * usize::try_from(keys).expect("keys are few");
        Ok(Self { words: Words::open(path, count)?, keys, blocks })
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// Every fourth key is named by its content.
    pub(crate) fn kind(key: u64, writers: u64) -> KeyKind {
        if (key / writers) % 4 == 3 { KeyKind::Content } else { KeyKind::Named }
    }

    pub(crate) fn count(&self, count: Count) -> u64 {
        self.words.all()[count as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, count: Count, value: u64) {
        // Whoever reads these across a kill reads them after the process has ended.
        self.words.all()[count as usize].store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, count: Count, more: u64) {
        self.words.all()[count as usize].fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.set(Count::Phase, phase as u64);
    }

    pub(crate) fn key(&self, key: u64) -> Key<'_> {
        let first = HEAD + STRIDE * usize::try_from(key).expect("keys are few");
        Key { words: &self.words.all()[first..first + STRIDE] }
    }
}

/// The record of one key. Only its writer changes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    words: &'a [AtomicU64],
}

impl Key<'_> {
    fn load(&self, word: usize) -> u64 {
        // Acquire pairs with the Release in `store`: whoever sees a version begun sees its word. A killed process has
        // ended before its record is read, and its stores are all in the page cache.
        self.words[word].load(Ordering::Acquire)
    }

    fn store(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Release);
    }

    fn at(version: u64) -> usize {
        VERSIONS + usize::try_from(version % RING).expect("below the ring's length")
    }

    pub(crate) fn begun(&self) -> u64 {
        self.load(BEGUN)
    }

    pub(crate) fn floor(&self) -> u64 {
        self.load(FLOOR)
    }

    pub(crate) fn place(&self) -> Option<Place> {
        Place::from_word(self.load(PLACE))
    }

    /// The last version that a complete check has settled.
    pub(crate) fn settled(&self) -> u64 {
        self.load(SETTLED)
    }

    pub(crate) fn settle(&self) {
        self.store(SETTLED, self.begun());
    }

    pub(crate) fn version(&self, version: u64) -> Version {
        Version::from_word(self.load(Self::at(version)))
    }

    /// Whether another version should begin: some room is left for what settles the key (invariant 2).
    pub(crate) fn has_room(&self) -> bool {
        self.room() > SPARE
    }

    /// Versions that may still begin.
    pub(crate) fn room(&self) -> u64 {
        RING - 2 - (self.begun() - self.floor())
    }

    /// The store is about to be called.
    pub(crate) fn begin(&self, kind: Kind, len: usize) -> u64 {
        assert!(self.room() > 0, "too many versions are open");
        let version = self.begun() + 1;
        let len = u32::try_from(len).expect("the length of a block");
        self.store(Self::at(version), Version { kind, gathered: false, len }.to_word());
        self.store(BEGUN, version);
        version
    }

    /// The call has returned well, and a kill may take what it left.
    pub(crate) fn gathered(&self, version: u64) {
        let now = self.version(version);
        self.store(Self::at(version), Version { gathered: true, ..now }.to_word());
    }

    /// Nothing has happened, or it is lost for good.
    pub(crate) fn void(&self, version: u64) {
        let now = self.version(version);
        self.store(Self::at(version), Version { kind: Kind::Void, ..now }.to_word());
    }

    /// No kill may take this version any more. `place` is where it lies; `None` if its file has turned already.
    ///
    /// The place first: between the two the older floor stands beside a place that is as safe, of a newer version.
    pub(crate) fn raise(&self, version: u64, place: Option<Place>) {
        self.store(PLACE, place.map_or(0, Place::to_word));
        self.store(FLOOR, version);
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begun, floor) = (self.begun(), self.floor());
        write!(f, "floor {floor} in {:?}, settled {}", self.place(), self.settled())?;
        for version in floor.max(1)..=begun {
            write!(f, ", {version} {:?}", self.version(version).kind)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_there_again_with_all_its_versions() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Oracle::open(&folder.path().join("oracle"), 10, Blocks::new(1, 5000)).unwrap();
        let place = Place { file: 3, lane: 1, generation: 17 };
        {
            let oracle = open();
            let key = oracle.key(4);
            assert_eq!(
                (key.begin(Kind::Put, 100), key.begin(Kind::Remove, 0), key.begin(Kind::Deferred, 7)),
                (1, 2, 3)
            );
            key.raise(2, Some(place));
            key.gathered(3);
            oracle.add(Count::Calls, 5);
        }
        let oracle = open();
        let key = oracle.key(4);
        assert_eq!((key.begun(), key.floor(), key.place()), (3, 2, Some(place)));
        assert_eq!(key.version(3), Version { kind: Kind::Deferred, gathered: true, len: 7 });
        assert_eq!((oracle.key(5).begun(), oracle.count(Count::Calls)), (0, 5));
    }

    #[test]
    fn no_more_versions_are_open_than_the_record_holds() {
        let folder = tempfile::tempdir().unwrap();
        let oracle = Oracle::open(&folder.path().join("oracle"), 1, Blocks::new(1, 5000)).unwrap();
        let key = oracle.key(0);
        while key.room() > 0 {
            key.begin(Kind::Put, 16);
        }
        let first = key.version(1);
        key.raise(key.begun(), None);
        assert!(key.has_room());
        assert_eq!(first, Version { kind: Kind::Put, gathered: false, len: 16 });
    }
}
