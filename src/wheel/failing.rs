//! What keeps a lane from its next file, or a file from being ready, and when that is tried again.
//!
//! # Invariants
//!
//! 1. A lane is BROKEN from its third failure in a row on, or at once if whoever counts the failure says so: before that
//!    writers wait, from then on they get the error without a wait. `tell` says when it heals.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant, SystemTime};

use crate::block::{FileId, wall};
use crate::error::IoError;
use crate::wheel::back_off::back_off;

/// So many failures in a row make a lane BROKEN.
const BROKEN_AFTER: u32 = 3;

/// Why a lane gets no file, and when that is tried again.
#[derive(Clone, Debug)]
pub(crate) struct Failing {
    /// The newest failure.
    pub(crate) error: IoError,
    /// When the first one of the row was.
    pub(crate) since: SystemTime,
    began: Instant,
    pub(crate) attempts: u32,
    again: Instant,
    is_broken: bool,
}

impl Failing {
    /// As a failure of a lane that was broken already by this one, and has not worked since.
    pub(crate) fn goes_on_from(&mut self, before: &Self) {
        (self.is_broken, self.began, self.since) = (before.is_broken, before.began, before.since);
    }

    /// Nothing has to be tried again to know it.
    pub(crate) fn broken(error: IoError) -> Self {
        let mut failing = Self::first(error);
        failing.is_broken = true;
        failing
    }

    /// To be tried again a moment later.
    pub(crate) fn first(error: IoError) -> Self {
        let now = Instant::now();
        let (since, again) = (wall(), now + back_off(1));
        Self { error, since, began: now, attempts: 1, again, is_broken: false }
    }

    /// One more failure; the lane is BROKEN `at_once`, or if it was often enough.
    pub(crate) fn fails_again(&mut self, error: IoError, at_once: bool) {
        self.error = error;
        self.attempts = self.attempts.saturating_add(1);
        self.again = Instant::now() + back_off(self.attempts);
        self.is_broken |= at_once || self.attempts >= BROKEN_AFTER;
    }

    /// Whether writers get the error now, without a wait (invariant 1).
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// How long ago the first failure of the row was.
    pub(crate) fn lasts(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether the next try is not due yet.
    pub(crate) fn holds_back(&self, now: Instant) -> bool {
        now < self.again
    }
}

/// A file that is dead on disk and could not be made ready again, and when that is tried next.
#[derive(Clone, Debug)]
pub(crate) struct Unready {
    pub(crate) file: FileId,
    pub(crate) failing: Failing,
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::wheel::back_off::LONGEST;

    fn error(number: i32) -> IoError {
        IoError::new("creating a file", None, io::Error::from_raw_os_error(number))
    }

    #[test]
    fn a_lane_breaks_at_its_third_failure_and_is_tried_less_and_less_often() {
        let mut failing = Failing::first(error(5));
        assert!(!failing.is_broken() && failing.holds_back(Instant::now()));
        failing.fails_again(error(5), false);
        assert!(!failing.is_broken());
        failing.fails_again(error(28), false);
        assert!(failing.is_broken());
        for _ in 0..100 {
            failing.fails_again(error(28), false);
            assert!(!failing.holds_back(Instant::now() + LONGEST));
        }
        assert_eq!((failing.error, failing.attempts), (error(28), 103));
    }

    #[test]
    fn a_folder_that_is_not_there_breaks_its_lane_at_once() {
        let mut failing = Failing::broken(error(2));
        assert!(failing.is_broken() && failing.holds_back(Instant::now()));
        failing.fails_again(error(2), false);
        assert!(failing.is_broken());
    }
}
