//! A lane: the file being filled, and the buffer that gathers small blocks.
//!
//! # Invariants
//!
//! 1. `active` and `victim` are written under the wheel's turn mutex; readers take them as hints, because a
//!    reservation is valid in whatever file of the lane it succeeds.
//! 2. A gather buffer that was taken out to be stored is *outstanding* until it is stored; at most
//!    [`MAX_OUTSTANDING`] are, so a lane's buffers take bounded memory.
//! 3. Lock order: `gather`, then a file's `pending` table or `queue`. The turn mutex is never taken under them.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::block::FileId;
use crate::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};
use crate::wheel::deadline::Deadline;
use crate::wheel::gather::{Gather, GatherBuffer};
use crate::wheel::known::Knowledge;
use crate::wheel::work::Queue;

/// Most gather buffers of a lane that are being stored at once; one more is being filled.
pub(crate) const MAX_OUTSTANDING: usize = 3;

/// How long buffers of a lane are waited for of which a thread has panicked.
const PATIENCE: Duration = Duration::from_secs(1);

/// One of the store's lanes.
#[derive(Debug)]
pub(crate) struct Lane {
    id: u16,
    active: AtomicU16,
    /// The generation that dies next; those below it are dying or dead. 0 while nothing has to make room.
    victim: AtomicU64,
    /// Generation of the newest file that may hold an entry which nobody knows of (`doubt`).
    doubted: AtomicU64,
    tombstones_only: AtomicBool,
    /// What a miss in it proves.
    pub(crate) knowledge: Knowledge,
    /// A thread of the lane has panicked.
    fallen: AtomicBool,
    gather: Mutex<GatherSlot>,
    stored: Condvar,
    /// What waits for its flusher, and the flusher for it (`work`).
    pub(super) queue: Mutex<Queue>,
    pub(super) work: Condvar,
}

/// The gather buffer being filled, and those on their way.
#[derive(Debug, Default)]
pub(crate) struct GatherSlot {
    pub(crate) open: Option<Gather>,
    spares: Vec<Arc<GatherBuffer>>,
    next_ticket: u64,
    outstanding: BTreeSet<u64>,
}

/// A full or due buffer, to be stored by whoever holds it.
#[derive(Debug)]
#[must_use = "its blocks are stored by whoever holds it"]
pub(crate) struct Outstanding {
    pub(crate) gather: Gather,
    ticket: u64,
}

impl GatherSlot {
    /// Takes the open buffer out, to be stored.
    pub(crate) fn take(&mut self) -> Option<Outstanding> {
        let gather = self.open.take()?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.outstanding.insert(ticket);
        Some(Outstanding { gather, ticket })
    }

    /// A buffer to fill again, if one came back.
    pub(crate) fn take_spare(&mut self) -> Option<Arc<GatherBuffer>> {
        self.spares.pop()
    }
}

impl Lane {
    pub(crate) fn new(id: u16) -> Self {
        Self {
            id,
            active: AtomicU16::new(0),
            victim: AtomicU64::new(0),
            doubted: AtomicU64::new(0),
            tombstones_only: AtomicBool::new(false),
            knowledge: Knowledge::new(),
            fallen: AtomicBool::new(false),
            gather: Mutex::new(GatherSlot::default()),
            stored: Condvar::new(),
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
        }
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn index(&self) -> usize {
        usize::from(self.id)
    }

    /// The file being filled, as far as known.
    pub(crate) fn active(&self) -> Option<FileId> {
        // Acquire pairs with the Release in `set_active`: whoever sees the file sees its lap begun.
        FileId::new(self.active.load(Ordering::Acquire))
    }

    pub(crate) fn set_active(&self, file: Option<FileId>) {
        self.active.store(file.map_or(0, FileId::get), Ordering::Release);
    }

    /// Whether the file of this generation makes room now, or is the next to do so.
    ///
    /// One that is on its way out is no longer the next, but still found until it is swept from the index.
    pub(crate) fn is_soon_dead(&self, generation: u64) -> bool {
        // Relaxed: a hint; a block refreshed for nothing, or not refreshed, is right either way.
        generation <= self.victim.load(Ordering::Relaxed)
    }

    /// Names the generation that dies next; they only grow, as files of a lane die in the order of their age.
    pub(crate) fn set_victim(&self, generation: u64) {
        self.victim.store(generation, Ordering::Relaxed);
    }

    /// Whether an entry that nobody knows of may hide content of this generation after a restart.
    pub(crate) fn is_doubted(&self, generation: u64) -> bool {
        // Acquire pairs with the Release in `doubt`, and is as good as the index: a block that comes back because what
        // hid it failed is named again after that.
        generation <= self.doubted.load(Ordering::Acquire)
    }

    /// From now on what lies in files up to this generation is in doubt: in that one the store of a tombstone, or of a block
    /// with a name, has failed, and may be on the disk nevertheless; or a block is bad, or a page of the directory cannot be read.
    pub(crate) fn doubt(&self, generation: u64) {
        self.doubted.fetch_max(generation, Ordering::Release);
    }

    /// Whether the active file is the lane's last free one, kept for tombstones.
    pub(crate) fn takes_tombstones_only(&self) -> bool {
        // Relaxed: whoever sees it looks again under the turn mutex.
        self.tombstones_only.load(Ordering::Relaxed)
    }

    pub(crate) fn set_tombstones_only(&self, only: bool) {
        self.tombstones_only.store(only, Ordering::Relaxed);
    }

    /// Whether a thread of the lane has panicked, so that it takes no write any more.
    #[inline]
    pub(crate) fn has_fallen(&self) -> bool {
        // Relaxed: a write that misses it by a moment is one that came a moment earlier.
        self.fallen.load(Ordering::Relaxed)
    }

    /// A thread of the lane has panicked: the buffers that it had may never come back.
    pub(crate) fn set_fallen(&self) {
        let slot = self.gather.lock();
        self.fallen.store(true, Ordering::Relaxed);
        drop(slot);
        self.stored.notify_all();
    }

    /// The gather buffer, once fewer than [`MAX_OUTSTANDING`] are being stored; `None` at the deadline, or
    /// if a thread of the lane has panicked.
    pub(crate) fn gather(&self, deadline: &Deadline) -> Option<MutexGuard<'_, GatherSlot>> {
        let mut slot = self.gather.lock();
        while slot.outstanding.len() >= MAX_OUTSTANDING {
            if deadline.has_passed() || self.has_fallen() {
                return None;
            }
            self.stored.wait_until(&mut slot, deadline.at());
        }
        Some(slot)
    }

    /// The gather buffer, unless too many are being stored now.
    pub(crate) fn gather_if_free(&self) -> Option<MutexGuard<'_, GatherSlot>> {
        let slot = self.gather.lock();
        if slot.outstanding.len() < MAX_OUTSTANDING { Some(slot) } else { None }
    }

    /// The gather buffer, however many are being stored.
    pub(crate) fn gather_now(&self) -> MutexGuard<'_, GatherSlot> {
        self.gather.lock()
    }

    /// An empty buffer that is on its way.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn open_and_take(&self) -> Outstanding {
        let mut slot = self.gather_now();
        let spare = slot.take_spare();
        slot.open = FileId::new(1).map(|file| Gather::open(file, crate::block::FileSize::MIN, spare));
        slot.take().expect("it was opened")
    }

    /// Says that an outstanding buffer has met its fate; its memory may be used again.
    pub(crate) fn gather_is_stored(&self, outstanding: Outstanding) {
        let mut slot = self.gather.lock();
        slot.outstanding.remove(&outstanding.ticket);
        // Of a lane's buffers one is filled, and the others are stored or spare.
        if slot.spares.len() + slot.outstanding.len() < MAX_OUTSTANDING {
            slot.spares.push(outstanding.gather.into_buffer());
        }
        drop(slot);
        self.stored.notify_all();
    }

    /// Waits until every buffer that is outstanding now has been stored; whether that was so by the deadline.
    pub(crate) fn wait_for_outstanding(&self, deadline: &Deadline) -> bool {
        let mut slot = self.gather.lock();
        let until = slot.next_ticket;
        while slot.outstanding.first().is_some_and(|first| *first < until) {
            // The buffers of others come back soon, those of a thread that has panicked never.
            let end = if self.has_fallen() { deadline.at().min(deadline.began() + PATIENCE) } else { deadline.at() };
            if Instant::now() >= end {
                return false;
            }
            self.stored.wait_until(&mut slot, end);
        }
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn past() -> Deadline {
        Deadline::after(Duration::ZERO)
    }

    /// A file that was on its way out was taken for one that stays, as another was the next by then: content that lay
    /// in it was not written again and was gone.
    #[test]
    fn files_that_make_room_now_are_no_safer_than_the_next_one() {
        let lane = Lane::new(0);
        assert!(!lane.is_soon_dead(1), "nothing has to make room yet");
        lane.set_victim(5);
        lane.set_victim(6);
        assert_eq!([4, 5, 6, 7].map(|generation| lane.is_soon_dead(generation)), [true, true, true, false]);
    }

    #[test]
    fn a_waiter_waits_for_the_buffers_before_it_and_for_no_later_one() {
        let lane = Lane::new(0);
        let (first, second) = (lane.open_and_take(), lane.open_and_take());
        std::thread::scope(|threads| {
            let waiter = threads.spawn(|| lane.wait_for_outstanding(&Deadline::after(Duration::from_mins(1))));
            lane.gather_is_stored(second);
            assert!(!lane.wait_for_outstanding(&past()), "the first is on its way still");
            lane.gather_is_stored(first);
            assert!(waiter.join().unwrap());
        });
        let later = lane.open_and_take();
        assert!(!lane.wait_for_outstanding(&past()));
        lane.gather_is_stored(later);
        assert!(lane.wait_for_outstanding(&past()));
    }

    proptest! {
        #[test]
        fn at_most_three_buffers_are_on_their_way_whatever_order_they_arrive_in(
            steps in vec(any::<Option<prop::sample::Index>>(), 0..60),
        ) {
            let lane = Lane::new(0);
            let mut outstanding = Vec::new();
            for step in steps {
                match step {
                    // A writer that finds no turn stores nothing more.
                    None => {
                        let has_turn = lane.gather(&past()).is_some();
                        prop_assert_eq!(has_turn, outstanding.len() < MAX_OUTSTANDING);
                        if has_turn {
                            outstanding.push(lane.open_and_take());
                        }
                    }
                    Some(which) if !outstanding.is_empty() => {
                        lane.gather_is_stored(outstanding.swap_remove(which.index(outstanding.len())));
                    }
                    Some(_) => {}
                }
                prop_assert_eq!(lane.wait_for_outstanding(&past()), outstanding.is_empty());
            }
        }
    }
}
