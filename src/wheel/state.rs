//! Where a file stands in its life, and which moves are legal.
//!
//! ```text
//! ABSENT -> FREE -> ACTIVE -> SEALING -> SEALED -> CLOSING -> DRAINING -> FREE
//!                                 \-------------------^          \-> BROKEN -> FREE
//!          FREE ---------------------------------------^   (suspect, and empty)
//! FOUND  -> FREE | ACTIVE | SEALED | CLOSING   (suspect, and empty)
//! SEALING | SEALED -> ACTIVE   (for tombstones, where a lane that refuses has no other file for them)
//! ```
//!
//! # Invariants
//!
//! 1. A state changes only under the wheel's turn mutex, and only along an arrow above.
//! 2. Every file has exactly one state, so the counts always add up to the number of files.
#![forbid(unsafe_code)]

/// The life of one file of the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    /// Not created yet, or unlinked by a smaller layout.
    Absent,
    /// Left by an earlier run; its directory is being read.
    Found,
    /// Empty, its header durable: may be handed to its lane.
    Free,
    /// Being filled by its lane.
    Active,
    /// Sealed, with reservations that are not finished yet.
    Sealing,
    /// Full, quiet and synced, or known to be suspect.
    Sealed,
    /// Chosen to make room: its words leave the index.
    Closing,
    /// Dead on disk; waits for pins and reservations of its last lap.
    Draining,
    /// Could not be made ready again: tried once more after a while.
    Broken,
}

impl FileState {
    /// Whether nothing of the file's lap is found any more, though it may still be lent.
    pub(crate) fn is_dying(self) -> bool {
        matches!(self, Self::Closing | Self::Draining | Self::Broken)
    }

    /// Whether `self -> next` is an arrow of the drawing above.
    pub(crate) fn may_become(self, next: Self) -> bool {
        use FileState::{Absent, Active, Broken, Closing, Draining, Found, Free, Sealed, Sealing};
        matches!(
            (self, next),
            (Absent | Broken | Draining | Found, Free)
                | (Free | Found | Sealing | Sealed, Active | Closing)
                | (Active, Sealing)
                | (Sealing | Found, Sealed)
                | (Closing, Draining)
                | (Draining, Broken)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::FileState::{self, *};

    const ALL: [FileState; 9] = [Absent, Found, Free, Active, Sealing, Sealed, Closing, Draining, Broken];

    #[test]
    fn only_an_empty_file_or_one_that_is_filled_further_is_handed_to_a_lane() {
        let into_active: Vec<_> = ALL.into_iter().filter(|from| from.may_become(Active)).collect();
        assert_eq!(into_active, [Found, Free, Sealing, Sealed]);
    }

    #[test]
    fn a_file_that_served_becomes_free_only_by_draining() {
        let into_free: Vec<_> = ALL.into_iter().filter(|from| from.may_become(Free)).collect();
        assert_eq!(into_free, [Absent, Found, Draining, Broken]);
    }
}
