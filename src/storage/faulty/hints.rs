//! The hints that a file was given: they cannot fail, and are no calls that count.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::block::FileId;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// One hint of a `FileMemory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    WrittenBack(Range<u64>),
    Awaited(Range<u64>),
    Needed(Range<u64>),
    Populated(Range<u64>),
    Released(Range<u64>),
    Prepared(Range<u64>),
    ReadAround(bool),
}

/// All hints in order, and what the files say of memory.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    given: Mutex<Vec<(FileId, Hint)>>,
    lost: AtomicBool,
    untouched: AtomicBool,
    small: AtomicBool,
}

impl Hints {
    pub(super) fn note(&self, file: FileId, hint: Hint) {
        self.given.lock().push((file, hint));
    }

    /// Since the last time they were taken.
    pub(crate) fn take(&self) -> Vec<(FileId, Hint)> {
        std::mem::take(&mut *self.given.lock())
    }

    /// What was sent to the device before its sync, in order.
    pub(crate) fn written_back(&self) -> Vec<(FileId, Range<u64>)> {
        let of_hint = |(file, hint): &(FileId, Hint)| match hint {
            Hint::WrittenBack(range) => Some((*file, range.clone())),
            _ => None,
        };
        self.given.lock().iter().filter_map(of_hint).collect()
    }

    /// What was asked to be ready, in order.
    pub(crate) fn prepared(&self) -> Vec<(FileId, Range<u64>)> {
        let of_hint = |(file, hint): &(FileId, Hint)| match hint {
            Hint::Prepared(range) => Some((*file, range.clone())),
            _ => None,
        };
        self.given.lock().iter().filter_map(of_hint).collect()
    }

    /// Whether from now on files say that nothing was ever stored to them, whatever was.
    pub(crate) fn show_untouched(&self, are: bool) {
        self.untouched.store(are, Ordering::Relaxed);
    }

    pub(super) fn are_untouched(&self) -> bool {
        self.untouched.load(Ordering::Relaxed)
    }

    /// From now on what is asked to be ready does not become one piece; it does before.
    pub(crate) fn keep_small(&self) {
        self.small.store(true, Ordering::Relaxed);
    }

    pub(super) fn are_in_pieces(&self) -> bool {
        !self.small.load(Ordering::Relaxed)
    }

    /// From now on nothing of any file is in memory; all of it is before.
    pub(crate) fn lose_pages(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(super) fn resident(&self, range: &Range<u64>) -> u64 {
        if self.lost.load(Ordering::Relaxed) { 0 } else { range.end - range.start }
    }
}
