//! How far the writers of a lane run ahead of its disk: bytes that it has not been sent yet take memory, and where the system
//! bounds that it stalls whoever writes next, and every header of a file behind all of them. So a writer that is too far ahead
//! waits for a piece of 8 MiB at a time, and not for a file. What nobody can send yet, as it waits for a closure, is not waited
//! for, nor what is less than a piece: how many full files may wait for their sync the keeper bounds besides. Of the writers of
//! a lane those wait whose blocks end a piece: many of them together are held up less.
//!
//! # Invariants
//!
//! 1. Whoever waits here has stored its block, or left its closure, and holds no lock. It waits for a moment: a disk that takes
//!    nothing is told by the next file, which cannot be made ready then.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::block::PAGE_SIZE;
use crate::sync::MutexGuard;
use crate::wheel::FileWheel;
use crate::wheel::deadline::Deadline;
use crate::wheel::event::WaitCause;
use crate::wheel::lane::Lane;
use crate::wheel::state::FileState;
use crate::wheel::turn::{LaneTurn, Turn};

/// Bytes that the writers of a lane are ahead of its disk at most: 4 GiB, which a flush after them has to wait for.
const MOST: u64 = 4 << 30;
/// And however little memory there is: 32 MiB, in each lane.
const LEAST: u64 = 32 << 20;
/// This part of the memory that is left. Linux writes back by itself, and all at once, from a tenth on.
const PART: u64 = 12;
/// Longest wait of one call: shorter than waits that are told by default.
pub(crate) const PATIENCE: Duration = Duration::from_millis(90);
/// Longest sleep between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether a piece of so many pages ends with one of these: the first piece begins behind the header, which is page 0.
pub(crate) fn ends_a_piece(pages: &Range<u32>, piece: u32) -> bool {
    let before = |page: u32| page.saturating_sub(1) / piece;
    before(pages.start) != before(pages.end)
}

/// How many bytes each of so many lanes may be ahead, with so much memory left.
fn most_of(left: u64, lanes: u64) -> u64 {
    (left / PART / lanes).clamp(LEAST, MOST)
}

impl FileWheel {
    /// Bytes that the writers of a lane run ahead of its disk before they wait for it.
    pub(crate) fn most_ahead(&self) -> u64 {
        most_of(self.residency.left(), u64::from(self.lanes()))
    }

    /// Called with the pages of a block that was stored: waits for the disk, for at most this time, if the lane is too far
    /// ahead of it. Gives what is left of the time.
    pub(crate) fn keep_pace(
        &self,
        lane: &Lane,
        pages: &Range<u32>,
        patience: Duration,
        deadline: &Deadline,
    ) -> Duration {
        if !ends_a_piece(pages, self.options.piece_pages) {
            return patience;
        }
        let mut turn = self.turn.lock();
        // Its syncer was woken when the pages were reserved, and may have found none of them stored.
        self.wake_keepers();
        let began = Instant::now();
        // What the call still has to do needs time, too.
        let end = began + patience.min(deadline.at().saturating_duration_since(began) / 2);
        if end <= began || !self.is_too_far(&turn, lane) {
            return patience;
        }
        // Once a call.
        self.counters.waits.add(u64::from(patience == PATIENCE));
        while Instant::now() < end && self.is_too_far(&turn, lane) {
            self.wait_for_a_piece(&mut turn, end);
        }
        drop(turn);
        self.tell_wait(lane, WaitCause::Disk, began);
        patience.saturating_sub(began.elapsed())
    }

    fn wait_for_a_piece(&self, turn: &mut MutexGuard<'_, Turn>, end: Instant) {
        if self.turned.wait_until(turn, end.min(Instant::now() + LOOK_AGAIN)).timed_out() {
            self.wake_keepers();
        }
    }

    /// Whether more waits to be sent to the disk than should.
    fn is_too_far(&self, turn: &Turn, lane: &Lane) -> bool {
        if turn.stop || self.is_closed() || lane.has_fallen() {
            return false;
        }
        let of_lane = &turn.lanes[lane.index()];
        let full = of_lane.order.iter().filter(|file| turn.state(**file) == FileState::Sealing);
        let waiting = full.chain(&of_lane.active).map(|file| u64::from(self.table.file(*file).pieces.waiting()));
        let piece = u64::from(self.options.piece_pages) * PAGE_SIZE;
        waiting.sum::<u64>() * piece > self.most_ahead().min(self.most_of_lap(of_lane))
    }

    /// In a lane that turns: three quarters of its files. The oldest one, which makes room next, has been sent then, or the
    /// header of its next lap would wait for all of its old blocks.
    fn most_of_lap(&self, of_lane: &LaneTurn) -> u64 {
        let files = if of_lane.absent.is_empty() { of_lane.all().count() as u64 } else { u64::MAX };
        files.saturating_mul(self.size.get() / 4 * 3)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::wheel::pieces::PIECE;

    #[test]
    fn a_block_with_the_last_page_of_a_piece_ends_it() {
        // The first piece is pages 1 to 2048.
        let ends = [1..2, 1..PIECE, 1..PIECE + 1, PIECE..PIECE + 1, PIECE + 1..PIECE + 2, 1..3 * PIECE, 5..5];
        assert_eq!(ends.map(|pages| ends_a_piece(&pages, PIECE)), [false, false, true, true, false, true, false]);
    }

    #[test]
    fn lanes_are_ahead_by_a_twelfth_of_what_is_left_but_between_32_mib_and_4_gib() {
        let mib = |gib: u64, lanes| most_of(gib << 30, lanes) >> 20;
        assert_eq!(
            [mib(12, 1), mib(12, 2), mib(12, 100), mib(64, 1), mib(96, 16), mib(0, 1)],
            [1024, 512, 32, 4096, 512, 32]
        );
        assert_eq!(most_of(u64::MAX, 1), MOST, "where the system does not tell");
    }
}
