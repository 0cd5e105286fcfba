//! What each key may read as, and what a call may fail for, learnt from what the store says of its calls.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use crate::block::FileId;
use crate::error::{FailedClosure, FlushError, IoError, WriteError};
use crate::wheel::OnFull;

use super::calls::Key;

/// What became of a key once.
struct Version {
    /// `None`: it was removed, or was never there.
    bytes: Option<Vec<u8>>,
    /// Its file and that file's generation; `None` if that is not known, which excuses a miss.
    place: Option<(FileId, u64)>,
    /// Whether the call said that it was done, and after how many failures that may have undone it.
    done: Option<u64>,
}

/// Versions of a key, the oldest first.
struct History {
    versions: Vec<Version>,
    /// The last one that is known to be stored.
    floor: usize,
}

pub(super) struct Model {
    on_full: OnFull,
    keys: BTreeMap<Key, History>,
    /// Keys whose closure may fail by itself, and how many such closures there were since the last flush.
    failing: BTreeSet<Key>,
    closures: u64,
    /// The kinds of faults since the lanes were whole the last time.
    kinds: Vec<ErrorKind>,
    /// How many calls had failed at the last flush.
    failed_before: u64,
    /// Failures that may have undone what was done before.
    era: u64,
}

impl Model {
    pub(super) fn new(on_full: OnFull) -> Self {
        let history = || History { versions: vec![Version { bytes: None, place: None, done: Some(0) }], floor: 0 };
        Self {
            on_full,
            keys: Key::all().map(|key| (key, history())).collect(),
            failing: BTreeSet::new(),
            closures: 0,
            kinds: Vec::new(),
            failed_before: 0,
            era: 0,
        }
    }

    /// From now on calls of the disk may fail with this kind of error.
    pub(super) fn gives(&mut self, kind: ErrorKind) {
        self.kinds.push(kind);
    }

    /// The lanes are whole: from now on nothing fails.
    pub(super) fn lanes_are_whole(&mut self) {
        self.kinds.clear();
    }

    /// Whether a call may fail for what the disk was given.
    pub(super) fn has_faults(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// An error of the disk is one that was given to it.
    pub(super) fn is_told(&self, error: &IoError) {
        // What such a fault leads to may be an error of this crate's own.
        let follows = ["the folder is back", "a sync failed", "the gather buffer of the block could not be stored"]
            .iter()
            .any(|text| error.to_string().contains(text));
        let is_given = !self.kinds.is_empty() && (follows || self.kinds.contains(&error.kind()));
        assert!(is_given, "of {:?}: {error}", self.kinds);
    }

    /// Judges what a key was found to be.
    ///
    /// `has_turned`: whether a file has begun another lap than this one, or is about to.
    pub(super) fn judge(&self, key: Key, found: Option<&[u8]>, has_turned: impl FnOnce((FileId, u64)) -> bool) {
        let History { versions, floor } = &self.keys[&key];
        let later = &versions[*floor..];
        let known = || {
            let short = |version: &Version| (version.bytes.as_ref().map(|bytes| (bytes.len(), bytes[0])), version.done);
            versions.iter().map(short).collect::<Vec<_>>()
        };
        match found {
            Some(bytes) => assert!(
                later.iter().any(|version| version.bytes.as_deref() == Some(bytes)),
                "{key:?} reads as {} bytes of {}, stored is {floor} of {:?}",
                bytes.len(),
                bytes[0],
                known()
            ),
            None => assert!(
                later.iter().any(|version| version.bytes.is_none()) || later[0].place.is_none_or(has_turned),
                "{key:?} is missing, stored is {floor} of {:?} in {:?}",
                known(),
                later[0].place
            ),
        }
    }

    /// A closure has failed, for this reason.
    pub(super) fn may_fail(&mut self, key: Key, reason: &FailedClosure) {
        match reason {
            FailedClosure::Panicked | FailedClosure::WrongHash { .. } => {
                assert!(self.failing.remove(&key), "{key:?}: {reason}");
            }
            FailedClosure::Io(error) => self.is_told(error),
            FailedClosure::Abandoned => assert_eq!(self.on_full, OnFull::Recycle, "{key:?}: {reason}"),
            other => panic!("{key:?}: {other}"),
        }
    }

    /// A call begins that writes this key, or removes it.
    pub(super) fn begin(&mut self, key: Key, bytes: Option<Vec<u8>>) {
        self.keys.get_mut(&key).expect("all keys").versions.push(Version { bytes, place: None, done: None });
    }

    /// A call is over that began a version of this key, which is now at `place`. Whether nothing has happened.
    pub(super) fn end(
        &mut self,
        key: Key,
        is_stored: bool,
        place: Option<(FileId, u64)>,
        result: Result<(), WriteError>,
    ) -> bool {
        let era = self.era;
        let history = self.keys.get_mut(&key).expect("all keys");
        let last = history.versions.last_mut().expect("begun");
        match result {
            Ok(()) => {
                (last.done, last.place) = (Some(era), place);
                if is_stored {
                    history.floor = history.versions.len() - 1;
                }
                // Whatever waited for this key was awaited before.
                false
            }
            Err(WriteError::Timeout { .. } | WriteError::AllPinned { .. }) => {
                history.versions.pop();
                true
            }
            Err(WriteError::Full { .. }) => {
                assert_eq!(self.on_full, OnFull::Refuse);
                history.versions.pop();
                true
            }
            Err(WriteError::Io(error)) => {
                self.is_told(&error);
                false
            }
            Err(error) => panic!("{key:?}: {error}"),
        }
    }

    /// A closure waits that will fail by itself.
    pub(super) fn will_fail(&mut self, key: Key) {
        self.failing.insert(key);
        self.closures += 1;
    }

    /// A write was not taken, or only a part of it, of which nobody knows.
    pub(super) fn refused(&self, error: &WriteError) {
        match error {
            WriteError::Io(error) => self.is_told(error),
            WriteError::Full { .. } => assert_eq!(self.on_full, OnFull::Refuse),
            error => assert!(error.is_retryable(), "{error}"),
        }
    }

    /// Everything that was done since the last failure is stored.
    fn all_is_stored(&mut self) {
        for history in self.keys.values_mut() {
            let last = history.versions.iter().rposition(|version| version.done == Some(self.era));
            history.floor = history.floor.max(last.unwrap_or(0));
        }
    }

    /// A flush is over, and so many calls of the disk had failed by then.
    pub(super) fn flushed(&mut self, result: &Result<(), FlushError>, failed: u64) {
        let is_whole = failed == self.failed_before;
        if let Err(FlushError { failed, first, io }) = result {
            if let Some(error) = io {
                self.is_told(error);
            }
            let by_themselves = matches!(first, Some(FailedClosure::Panicked | FailedClosure::WrongHash { .. }))
                && *failed <= self.closures;
            match first {
                // The closures and stores all succeeded: only the power may take what they did.
                None => assert_eq!(*failed, 0),
                Some(FailedClosure::Io(error)) => self.is_told(error),
                Some(FailedClosure::Abandoned) => assert_eq!(self.on_full, OnFull::Recycle),
                Some(FailedClosure::Busy { .. }) => {}
                Some(other) => assert!(self.closures > 0, "{other}"),
            }
            assert!(*failed <= self.closures || !is_whole || !self.kinds.is_empty() || self.on_full == OnFull::Recycle);
            if !(first.is_none() || is_whole && by_themselves) {
                self.era += 1;
            }
        }
        if !matches!(result, Err(FlushError { first: Some(FailedClosure::Busy { .. }), .. })) {
            self.failed_before = failed;
        }
        // Another error stands before the one of closures that were not over: those fail later.
        if matches!(result, Ok(()) | Err(FlushError { first: None, .. })) {
            self.closures = 0;
            self.failing.clear();
        }
        self.all_is_stored();
    }

    /// The store is closed, and so many calls of the disk have failed.
    pub(super) fn closed(&mut self, failed: u64) {
        if failed == self.failed_before {
            self.all_is_stored();
        } else {
            self.era += 1;
        }
    }

    /// The store is open again, and so many calls of the disk have failed.
    pub(super) fn reopened(&mut self, on_full: OnFull, failed: u64) {
        (self.on_full, self.closures, self.failed_before) = (on_full, 0, failed);
        self.failing.clear();
    }
}
