//! What a key of a store may read as after a kill, a power cut or a failed call: one rule for every test that ends so,
//! whatever it keeps its record in.
//!
//! A key has versions, each a write or a removal. The *floor* is the last of them that nothing may take: it was stored, or
//! flushed, or whatever else a test has been promised.
//!
//! # What must hold
//!
//! 1. A key reads as its floor or as a later version; never as an earlier one.
//! 2. It may be missing if a version from the floor on is a removal, if it has no floor, or if the file of its floor has
//!    begun another lap.
//! 3. What was refused, or whose closure broke its promise, is never read.
#![forbid(unsafe_code)]

/// What a key was meant to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A block.
    Written,
    /// Nothing.
    Removed,
    /// What it was: the call was refused, or its closure failed.
    Void,
}

/// Why what was read is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    There,
    /// Nothing had to be there.
    Absent,
    /// Right if the file of the floor has begun another lap.
    IfTurned,
}

/// Why what was read is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No version is such a block.
    NeverWritten,
    /// Nothing but removals may be read.
    RemovedIsBack,
    /// A later version had replaced it, or it must never be read.
    OldIsBack,
}

impl Wrong {
    /// What is wrong.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverWritten => "bytes that were never written",
            Self::RemovedIsBack => "a removed block is back",
            Self::OldIsBack => "an old version is back",
        }
    }
}

/// Whether a key may read as it does.
///
/// `open` are its versions from the floor on, or all of them if it has no floor: what each was, and whether the block that
/// was `found` is that version.
///
/// # Errors
///
/// If it may not.
///
/// # Examples
///
/// ```
/// use verdict::{Verdict, Version, Wrong, judge};
///
/// // Written, then removed by a call that may not have happened.
/// let open = |is_first| [(Version::Written, is_first), (Version::Removed, false)];
/// assert_eq!(judge(open(true), true, true), Ok(Verdict::There));
/// assert_eq!(judge(open(false), true, false), Ok(Verdict::Absent));
/// assert_eq!(judge(open(false), true, true), Err(Wrong::OldIsBack));
/// ```
pub fn judge(open: impl IntoIterator<Item = (Version, bool)>, has_floor: bool, found: bool) -> Result<Verdict, Wrong> {
    let (mut is_open, mut may_be_removed, mut may_be_there) = (false, false, false);
    for (version, is_found) in open {
        is_open |= version == Version::Written && is_found;
        may_be_removed |= version == Version::Removed;
        may_be_there |= version == Version::Written;
    }
    match found {
        true if is_open => Ok(Verdict::There),
        true if !has_floor => Err(Wrong::NeverWritten),
        true if !may_be_there => Err(Wrong::RemovedIsBack),
        true => Err(Wrong::OldIsBack),
        false if !has_floor || may_be_removed => Ok(Verdict::Absent),
        false => Ok(Verdict::IfTurned),
    }
}

#[cfg(test)]
mod tests {
    use super::Version::{Removed, Void, Written};
    use super::*;

    /// A key that was written, written, removed, refused and written, with its floor at version `floor`; `read` is the
    /// number of the version that was found.
    fn judged(floor: usize, read: Option<usize>) -> Result<Verdict, Wrong> {
        let all = [Written, Written, Removed, Void, Written];
        let open = (1..).zip(all).filter(|(number, _)| *number >= floor);
        judge(open.map(|(number, version)| (version, read == Some(number))), floor > 0, read.is_some())
    }

    #[test]
    fn only_what_was_written_from_the_floor_on_may_be_read() {
        for (floor, right) in [(0, vec![1, 2, 5]), (1, vec![1, 2, 5]), (2, vec![2, 5]), (3, vec![5]), (5, vec![5])] {
            let read = |version: &usize| judged(floor, Some(*version)) == Ok(Verdict::There);
            assert_eq!((1..8).filter(read).collect::<Vec<_>>(), right, "floor {floor}");
        }
    }

    #[test]
    fn a_miss_is_right_before_the_floor_after_a_removal_and_after_a_turn() {
        let misses = [Verdict::Absent, Verdict::Absent, Verdict::Absent, Verdict::Absent, Verdict::IfTurned];
        for (floor, verdict) in misses.into_iter().enumerate() {
            assert_eq!(judged(floor, None), Ok(verdict), "floor {floor}");
        }
        assert_eq!(judge([], false, false), Ok(Verdict::Absent), "nothing was ever written");
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        assert_eq!(judged(0, Some(9)), Err(Wrong::NeverWritten));
        assert_eq!(judged(2, Some(1)), Err(Wrong::OldIsBack));
        assert_eq!(judged(1, Some(4)), Err(Wrong::OldIsBack), "it was refused");
        assert_eq!(judge([(Removed, false), (Void, false)], true, true), Err(Wrong::RemovedIsBack));
    }
}
