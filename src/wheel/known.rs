//! Whether a miss proves anything: what is known of a lane, and what of it was not found and may not be forgotten.
//!
//! # Invariants
//!
//! 1. What a search did not find is said before its end is: whoever sees the end, and asks then, sees that, too.
//! 2. Only a user gives up what was not found, and only where a search has come to its end: none is under way that finds
//!    more of it.
#![forbid(unsafe_code)]

use std::io;

use crate::block::KeyHash;
use crate::error::IoError;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::wheel::FileWheel;
use crate::wheel::lane::Lane;
use crate::wheel::turn::Searched;

/// Whether a miss in a lane proves anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Its folder was there at open.
    Always,
    /// Its folder was not there at open, and has not been searched since: a miss says nothing.
    NotYet,
    /// Its folder came late and was searched: who looked before that looks again.
    Since,
}

const KNOWN: u8 = 0;
const UNKNOWN: u8 = 1;
const KNOWN_SINCE: u8 = 2;

/// What a miss in a lane proves.
#[derive(Debug)]
pub(crate) struct Knowledge {
    known: AtomicU8,
    /// Blocks of an earlier run that may not be forgotten are in no index.
    has_unfound: AtomicBool,
}

impl Knowledge {
    pub(crate) fn new() -> Self {
        Self { known: AtomicU8::new(KNOWN), has_unfound: AtomicBool::new(false) }
    }

    /// Whether what the lane holds can be found.
    ///
    /// Asked before the index, or asked again after it: blocks may be found between the two.
    pub(crate) fn known(&self) -> Known {
        // Acquire pairs with the Release in `set_known`: whoever sees the lane known finds all that was found.
        match self.known.load(Ordering::Acquire) {
            KNOWN => Known::Always,
            UNKNOWN => Known::NotYet,
            _ => Known::Since,
        }
    }

    /// Whether it holds blocks that no look-up finds, and which may not be forgotten: until the next opening, or until
    /// the user gives them up.
    pub(crate) fn has_unfound(&self) -> bool {
        // Relaxed: it is set before the search ends, and asked after `known`, whose Acquire orders it where the folder came
        // late; where it was there, a miss proves nothing before the end of the search, whose lock orders it.
        self.has_unfound.load(Ordering::Relaxed)
    }

    /// Both, in the order in which they prove something: whoever sees the end of a search sees what it did not find.
    pub(crate) fn known_and_unfound(&self) -> (Known, bool) {
        let known = self.known();
        (known, self.has_unfound())
    }

    pub(crate) fn set_unfound(&self) {
        self.has_unfound.store(true, Ordering::Relaxed);
    }

    pub(crate) fn forget_unfound(&self) {
        // Relaxed: from now on nothing is promised of them, and who misses it by a moment has asked a moment earlier.
        self.has_unfound.store(false, Ordering::Relaxed);
    }

    /// The folder of the lane is not there.
    pub(crate) fn set_unknown(&self) {
        self.known.store(UNKNOWN, Ordering::Release);
    }

    /// All that it holds is in the index.
    pub(crate) fn set_known(&self) {
        self.known.store(KNOWN_SINCE, Ordering::Release);
    }
}

impl FileWheel {
    /// Whether a miss in the lane of a key proves anything, if it is asked before the index; the error names the folder
    /// that is not there, or of which not all was found.
    pub(crate) fn known(&self, hash: KeyHash) -> Result<Known, IoError> {
        let lane = self.lane_of(hash);
        match lane.knowledge.known_and_unfound() {
            (Known::NotYet, _) => Err(self.unknown_error(lane)),
            (_, true) => Err(self.unfound_error(lane)),
            (known, false) => Ok(known),
        }
    }

    /// Whether it does.
    pub(crate) fn is_known(&self, hash: KeyHash) -> bool {
        let lane = self.lane_of(hash);
        !matches!(lane.knowledge.known_and_unfound(), (Known::NotYet, _) | (_, true))
    }

    /// The same, where what was not found for want of memory, or could not be read, does no harm.
    pub(crate) fn searched(&self, hash: KeyHash) -> Result<Known, IoError> {
        let lane = self.lane_of(hash);
        match lane.knowledge.known() {
            Known::NotYet => Err(self.unknown_error(lane)),
            known => Ok(known),
        }
    }

    /// Whether the index holds all that every lane does, if it is asked before the index; the error is that of a lane of which
    /// it does not.
    pub(crate) fn all_known(&self) -> Result<(), IoError> {
        if let Some(unknown) = self.lanes.iter().find(|lane| lane.knowledge.known() == Known::NotYet) {
            return Err(self.unknown_error(unknown));
        }
        let unfound = self.lanes.iter().find(|lane| lane.knowledge.has_unfound());
        unfound.map_or(Ok(()), |lane| Err(self.unfound_error(lane)))
    }

    /// Gives up what was not found of lanes whose search has come to its end; how many files held such.
    pub(crate) fn forget_unfound(&self) -> u64 {
        let turn = self.turn.lock();
        let mut forgotten = 0;
        for (lane, of_lane) in self.lanes.iter().zip(&turn.lanes) {
            if of_lane.searched < Searched::All || !lane.knowledge.has_unfound() {
                continue;
            }
            let files = of_lane.all().map(|id| self.table.file(id));
            forgotten += files.filter(|file| file.forget_unfound()).count() as u64;
            lane.knowledge.forget_unfound();
        }
        drop(turn);
        // Some of the files may make room now.
        self.turned.notify_all();
        self.wake_keepers();
        forgotten
    }

    /// Why nobody knows all that a lane holds that may not be forgotten.
    pub(crate) fn unfound_error(&self, lane: &Lane) -> IoError {
        let why = "not all blocks of an earlier run were found: the index had no memory for them, or a directory could not be \
                   read; open the store again with more memory, or on a disk that can read it, or give up what they are \
                   (`forget_unfound`)";
        IoError::new("finding a block", self.folder_of(lane.id()).as_deref(), io::Error::other(why))
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::atomic::AtomicU64;
    use crate::sync::{Arc, thread};

    /// A reader that looked before its block was found, and asked after the search had ended, told a miss of a block
    /// that was there. By now it looks again.
    #[test]
    fn a_miss_in_a_lane_that_came_late_is_one() {
        loom::model(|| {
            let shared = Arc::new((Knowledge::new(), AtomicU64::new(0)));
            shared.0.set_unknown();
            let search = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    // Relaxed: the lane alone carries it, as the words of the index.
                    shared.1.store(1, Ordering::Relaxed);
                    shared.0.set_known();
                })
            };
            let (knowledge, word) = &*shared;
            let is_there = || word.load(Ordering::Relaxed) == 1;
            if !is_there() && knowledge.known() == Known::Since {
                assert!(is_there());
            }
            search.join().unwrap();
        });
    }

    /// The flag was asked before the end of the search: a miss of what that had not found was taken for a proof.
    #[test]
    fn whoever_sees_the_end_of_a_search_sees_what_it_did_not_find() {
        loom::model(|| {
            let knowledge = Arc::new(Knowledge::new());
            knowledge.set_unknown();
            let search = {
                let knowledge = Arc::clone(&knowledge);
                thread::spawn(move || {
                    knowledge.set_unfound();
                    knowledge.set_known();
                })
            };
            assert_ne!(knowledge.known_and_unfound(), (Known::Since, false));
            search.join().unwrap();
        });
    }
}
