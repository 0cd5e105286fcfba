//! What the keys of a world were written as, what the store has said of them, and whether an opening keeps its word.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{PATIENCE, realm_of};
use crate::block::{BlockHash, FileId, Realm};
use crate::error::{FailedClosure, FlushError, ReadError, WriteError};
use crate::scratch::Scratch;
use crate::scratch::history::{History, Short, Version, number_of};
use crate::storage::lossy::{Crash, Image, LossySource};
use crate::sync::thread;
use crate::wheel::Verify;

/// How a call ended.
pub(super) enum Done {
    Nothing,
    Written { key: BlockHash, stored: bool, result: Result<(), WriteError> },
    Flushed(Result<(), FlushError>),
}

impl Done {
    pub(super) fn written(key: BlockHash, result: Result<(), WriteError>) -> Self {
        Self::Written { key, stored: true, result }
    }
}

/// Whether the file of a version has begun another lap, before the crash or right after it was opened.
fn has_turned(version: &Version, opened: &LossySource, patience: Duration) -> bool {
    let Some((file, generation)) = version.place else { return true };
    let deadline = Instant::now() + patience;
    // What the index has forgotten is dead on disk a little later.
    while opened.generation(file) == Some(generation) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    opened.generation(file) != Some(generation)
}

/// Whether a version lies in none of these files. Of what is in no block, as a removal, nobody knows the file.
fn is_sound(harmed: &BTreeSet<FileId>, place: Option<(FileId, u64)>) -> bool {
    place.map_or(harmed.is_empty(), |(file, _)| !harmed.contains(&file))
}

/// The histories of all keys over the runs of a world.
pub(super) struct Oracle {
    keys: BTreeMap<BlockHash, History>,
    /// How many failures the store has told of, each of which may have undone what came before it.
    era: u64,
    /// What came before this run.
    before: Option<Crash>,
    /// Files of which a run before this one, since the last power cut, has lost writes.
    harmed: BTreeSet<FileId>,
    /// Lengths of versions that were not durable when writes were lost, for as long as no later one is.
    doubtful: BTreeMap<BlockHash, BTreeSet<usize>>,
    /// Keys of which a version was written since the last flush.
    fresh: BTreeSet<BlockHash>,
    /// What keys read as in this run that a power cut has torn.
    torn: BTreeMap<BlockHash, Vec<u8>>,
    /// How the bytes of earlier runs are compared in this one.
    pub(super) verify: Verify,
    /// Whether calls fail in this run.
    pub(super) faults: bool,
    /// What is printed of a world that fails.
    pub(super) log: String,
}

impl Oracle {
    pub(super) fn new(log: String) -> Self {
        let (keys, doubtful, torn) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (harmed, fresh) = (BTreeSet::new(), BTreeSet::new());
        let verify = Verify::default();
        Self { keys, era: 0, before: None, harmed, doubtful, fresh, torn, verify, faults: false, log }
    }

    /// Whether these bytes were written to a key, or may have been, or are what is left of them.
    pub(super) fn knows(&self, key: BlockHash, bytes: &[u8]) -> bool {
        let versions = self.keys.get(&key).map_or(&[][..], |history| &history.versions);
        versions.iter().any(|version| version.bytes.as_deref() == Some(bytes))
            || self.torn.get(&key).is_some_and(|torn| torn == bytes)
    }

    /// Whether nobody compares what a power cut may have torn of this key, and a block of this length is among that.
    fn may_be_torn(&self, key: BlockHash, bytes: &[u8]) -> bool {
        self.verify == Verify::Never && self.doubtful.get(&key).is_some_and(|lens| lens.contains(&bytes.len()))
    }

    /// A run is over; `is_checked`: what it had opened was.
    pub(super) fn ends(&mut self, crash: Crash, is_checked: bool, image: &Image) {
        // What nobody has looked at is judged as after both crashes.
        if is_checked || self.before != Some(Crash::PowerCut) {
            self.before = Some(crash);
        }
        self.harmed = if crash == Crash::Kill { image.harmed() } else { BTreeSet::new() };
        for (key, history) in self.keys.iter_mut().filter(|_| crash == Crash::PowerCut || !self.harmed.is_empty()) {
            // What nobody has promised to keep may be torn from now on, and what lay in a harmed file is, for all that is
            // known, wherever that file is later.
            let later = history.durable.map_or(0, |durable| durable + 1);
            let lens = history.versions[later..].iter().filter_map(|version| version.bytes.as_ref().map(Vec::len));
            self.doubtful.entry(*key).or_default().extend(lens);
            for version in &mut history.versions {
                version.stored &= is_sound(&self.harmed, version.place);
            }
        }
    }

    /// A call begins that writes a key, or removes it: it may or may not have happened.
    pub(super) fn begin(&mut self, key: BlockHash, bytes: Option<Vec<u8>>, what: &str) {
        writeln!(self.log, "{what} {key} {:?}", bytes.as_deref().map(|bytes| (bytes.len(), number_of(bytes)))).unwrap();
        let version = Version { bytes, place: None, done: false, stored: false, era: self.era };
        self.keys.entry(key).or_default().versions.push(version);
    }

    /// The call is over, and the crash has not come yet. Whether the call was refused.
    pub(super) fn settle(&mut self, scratch: &Scratch, done: Done) -> bool {
        match done {
            Done::Nothing => {}
            Done::Written { key, stored, result } => {
                let history = self.keys.get_mut(&key).expect("begun");
                let version = history.versions.last_mut().expect("begun");
                match result {
                    Ok(()) => {
                        version.done = true;
                        self.fresh.insert(key);
                        version.stored = stored;
                        version.place = scratch.info(realm_of(key), key).ok().map(|info| (info.file, info.generation));
                        writeln!(self.log, "  done {:?}", version.place).unwrap();
                    }
                    // Nothing has happened.
                    Err(WriteError::Timeout { .. } | WriteError::AllPinned { .. } | WriteError::Full { .. }) => {
                        history.versions.pop();
                        writeln!(self.log, "  refused").unwrap();
                        return true;
                    }
                    Err(error) => {
                        assert!(self.faults, "{error}");
                        writeln!(self.log, "  failed: {error}").unwrap();
                    }
                }
            }
            Done::Flushed(Ok(())) => {
                writeln!(self.log, "flushed").unwrap();
                for history in self.keys.values_mut() {
                    let era = self.era;
                    // What comes after a failed call is newer than whatever the call left behind.
                    let durable = history.versions.iter().rposition(|version| version.done && version.era == era);
                    history.durable = history.durable.max(durable);
                }
                for key in std::mem::take(&mut self.fresh) {
                    self.doubtful.remove(&key);
                }
            }
            Done::Flushed(Err(error)) => {
                // On a busy machine a lane turns once around before its flusher has run a closure, or a flush is late.
                let slow = Some(FailedClosure::Abandoned) == error.first
                    || matches!(error.first, Some(FailedClosure::Busy { .. }));
                assert!(self.faults || (slow && error.io.is_none()), "{error}");
                writeln!(self.log, "flush failed: {error}").unwrap();
                self.era += 1;
                self.fresh.clear();
            }
        }
        false
    }

    /// Reads every key of a store that was just opened; whether that was over before the next crash.
    ///
    /// `gathers`: whether its blocks wait in a buffer, where a kill loses them.
    pub(super) fn check(&mut self, scratch: &Scratch, opened: &LossySource, gathers: bool) -> bool {
        let Some(crash) = self.before else { return !opened.has_crashed() };
        writeln!(self.log, "{crash:?}; {:?}; {:?}; {:?}", self.verify, scratch.recovery(), scratch.stats()).unwrap();
        self.torn.clear();
        self.fresh.clear();
        let lossless = !gathers && crash == Crash::Kill;
        let mut harmed = std::mem::take(&mut self.harmed);
        if crash == Crash::Kill {
            // A sync may have failed in the opening itself, before a file was removed: its folder was left out and taken back.
            harmed.extend(opened.harmed());
        }
        // What comes before is not covered by the flushes of this process, but for what it finds in sound files.
        self.era += u64::from(!harmed.is_empty());
        let mut keys = self.keys.clone();
        for (key, history) in &mut keys {
            let realm = realm_of(*key);
            let other = Realm::from(u16::from(realm == Realm::DEFAULT));
            assert!(scratch.get(other, *key).is_err(), "{key} is found in another realm");
            writeln!(self.log, "{key}: {:?}", scratch.info(realm, *key)).unwrap();
            let read = match scratch.get(realm, *key) {
                Ok(block) => Some(block.to_vec()),
                Err(ReadError::Corrupted { address }) => {
                    writeln!(self.log, "{key}: corrupted at {address:?}").unwrap();
                    let again = scratch.get(realm, *key);
                    assert!(matches!(again, Err(ReadError::Missing { .. })), "{again:?} after Corrupted");
                    None
                }
                Err(ReadError::Missing { .. }) => None,
                Err(error) => panic!("key {key}: {error}"),
            };
            let place = scratch.info(realm, *key).ok().map(|info| (info.file, info.generation));
            let judge = |history: &History, read: Option<&[u8]>, patience| {
                let is_kept = |_: &Version| lossless;
                history.judge(read, is_kept, |version| has_turned(version, opened, patience))
            };
            let judged = judge(history, read.as_deref(), PATIENCE / 10);
            // Whoever compares it finds none; an older one that must be there is a reason to compare (6). What is left of the
            // lap before may be an older version of this very key, and so may what an earlier run left in the same place:
            // the entry is that of the newest version of this length that may be there.
            let is_here = |version: &&Version| {
                let is_placed = version.place.is_none_or(|known| place.is_none_or(|place| known == place));
                is_placed && version.bytes.as_ref().map(Vec::len) == read.as_ref().map(Vec::len)
            };
            let named = history.versions.iter().rfind(is_here);
            let patience = if judged.is_ok() { Duration::ZERO } else { PATIENCE / 10 };
            if (judged.is_err() || named.is_none_or(|version| version.bytes != read))
                && let Some(torn) = read.as_ref().filter(|read| self.may_be_torn(*key, read))
                && judge(history, None, patience).is_ok()
            {
                writeln!(self.log, "{key}: torn").unwrap();
                self.torn.insert(*key, torn.clone());
                let later = history.durable.map_or(0, |durable| durable + 1);
                for version in &mut history.versions[later..] {
                    (version.done, version.stored) = (false, false);
                }
                continue;
            }
            if let Err(problem) = judged {
                let what = read.as_deref().map(|bytes| (bytes.len(), number_of(bytes)));
                let versions: Vec<_> = history.versions.iter().map(Short).collect();
                panic!("{problem}: key {key} reads as {what:?}, durable {:?} of {versions:?}", history.durable);
            }
            let stored = is_sound(&harmed, place);
            let era = if stored { self.era } else { self.era - 1 };
            let seen = Version { bytes: read, place, done: true, stored, era };
            match crash {
                Crash::PowerCut if seen.bytes.is_some() => {
                    history.versions = vec![seen];
                    history.durable = Some(0);
                }
                // Its file may be making room just now: until that death is durable the next cut brings it back.
                Crash::PowerCut => {
                    history.versions.drain(..history.durable.unwrap_or(0));
                    history.durable = history.durable.map(|_| 0);
                    history.versions.push(seen);
                }
                Crash::Kill => history.versions.push(seen),
            }
        }
        self.harmed = harmed;
        // What was seen after the crash may not be in what it has left.
        let is_in_time = !opened.has_crashed();
        if is_in_time {
            self.keys = keys;
        }
        is_in_time
    }
}
