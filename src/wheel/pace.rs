//! How far the writers of a lane run ahead of its disk: bytes that it has not been sent yet take memory, and where the system
//! bounds that it stalls whoever writes next, and every header of a file behind all of them. So a writer that is too far ahead
//! waits for a piece at a time, and none waits for a whole file at once.
//!
//! # Invariants
//!
//! 1. Whoever waits here has stored its block, and holds no lock. It waits for a moment: a disk that takes nothing is told by
//!    the next file, which cannot be made ready then.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::block::{FileId, PAGE_SIZE};
use crate::wheel::FileWheel;
use crate::wheel::event::WaitCause;
use crate::wheel::lane::Lane;
use crate::wheel::pending::Deadline;
use crate::wheel::pieces::PIECE;
use crate::wheel::state::FileState;
use crate::wheel::turn::Turn;

/// Pages that writers are ahead of the disk at most: 1 GiB.
const MOST: u64 = 1 << 18;
/// And however little memory there is: 32 MiB.
const LEAST: u64 = 4 * PIECE as u64;
/// This part of the memory that is meant to be used: about a sixteenth of what is left. Linux writes back by itself, and all
/// at once, from a tenth on.
const PART: u64 = 12;
/// Longest wait of one call.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest sleep between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether the end of these pages lies in another piece than their beginning.
pub(crate) fn crosses(pages: &Range<u32>) -> bool {
    pages.start / PIECE != pages.end / PIECE
}

/// How many pages a lane of so many may be ahead, with so many bytes of memory meant to be used.
fn most_ahead(memory: u64, lanes: u64) -> u64 {
    (memory / PART / lanes / PAGE_SIZE).clamp(LEAST, MOST)
}

impl FileWheel {
    /// Called with the pages of a block that was stored: waits for the disk if the lane is too far ahead of it.
    pub(crate) fn keep_pace(&self, lane: &Lane, pages: &Range<u32>, deadline: &Deadline) {
        if !crosses(pages) {
            return;
        }
        let most = most_ahead(self.residency.limit(), self.lanes.len() as u64);
        let mut turn = self.turn.lock();
        if turn.stop || self.ahead(&turn, lane) <= most {
            return;
        }
        let began = Instant::now();
        let end = deadline.at.min(began + PATIENCE);
        if end <= began {
            return;
        }
        self.counters.waits.add(1);
        while !turn.stop && self.ahead(&turn, lane) > most && Instant::now() < end {
            self.turned.wait_until(&mut turn, end.min(Instant::now() + LOOK_AGAIN));
        }
        drop(turn);
        self.tell_wait(lane, WaitCause::Disk, began);
    }

    /// Pages of a lane that were reserved, and that its disk was not sent.
    fn ahead(&self, turn: &Turn, lane: &Lane) -> u64 {
        let of_lane = &turn.lanes[lane.index()];
        let full = of_lane.order.iter().filter(|file| turn.state(**file) == FileState::Sealing);
        let ahead = |file: &FileId| {
            let file = self.table.file(*file);
            u64::from(file.cursor.next_page()).saturating_sub(file.pieces.sent_pages())
        };
        full.chain(&of_lane.active).map(ahead).sum()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_ends_in_another_piece_looks_whether_it_is_ahead() {
        assert_eq!(
            [0..1, 0..PIECE - 1, 0..PIECE, PIECE - 1..PIECE + 1].map(|pages| crosses(&pages)),
            [false, false, true, true]
        );
        assert!(!crosses(&(PIECE..2 * PIECE - 1)));
    }

    #[test]
    fn lanes_are_ahead_by_a_sixteenth_of_what_is_left_but_between_32_mib_and_1_gib() {
        let mib = |left: u64, lanes| most_ahead((left << 30) / 4 * 3, lanes) >> 8;
        assert_eq!(
            [mib(8, 1), mib(8, 2), mib(8, 100), mib(64, 1), mib(64, 8), mib(0, 1)],
            [512, 256, 32, 1024, 512, 32]
        );
        assert_eq!(most_ahead(u64::MAX, 1), MOST, "where the system does not tell");
    }
}
