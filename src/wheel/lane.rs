//! A lane: the file being filled, the buffer that gathers small blocks, and the closures that wait.
//!
//! # Invariants
//!
//! 1. `active` and `victim` are written under the wheel's turn mutex; readers take them as hints, because a
//!    reservation is valid in whatever file of the lane it succeeds.
//! 2. A gather buffer that was taken out to be stored is *outstanding* until it is stored; at most
//!    [`MAX_OUTSTANDING`] are, so a lane's buffers take bounded memory.
//! 3. A buffer that was handed over is stored by the flusher, whatever it is told besides: it takes it before it stops, and
//!    before it is no more if it panics (`threads`), unless that was the buffer it panicked with.
//! 4. Lock order: `gather`, then a file's `pending` table or `queue`. The turn mutex is never taken under them.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::block::FileId;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};
use crate::wheel::gather::{Gather, GatherBuffer};
use crate::wheel::pending::{Closure, Deadline, Deferred};

/// Most gather buffers of a lane that are being stored at once; one more is being filled.
pub(crate) const MAX_OUTSTANDING: usize = 3;

/// Payload of a block, in bytes, from which on a buffer of such is filled sooner than stored.
const QUICK: u64 = 8 << 10;

/// How long buffers of a lane are waited for of which a thread has panicked.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// One of the store's lanes.
#[derive(Debug)]
pub(crate) struct Lane {
    id: u16,
    active: AtomicU16,
    /// The generation that dies next; those below it are dying or dead. 0 while nothing has to make room.
    victim: AtomicU64,
    /// Generation of the newest file in which the store of a tombstone, or of a block with a name, failed: it may be on
    /// the disk nevertheless.
    doubted: AtomicU64,
    tombstones_only: AtomicBool,
    known: AtomicU8,
    /// Blocks of an earlier run that may not be forgotten are in no index.
    has_unfound: AtomicBool,
    /// A thread of the lane has panicked.
    fallen: AtomicBool,
    gather: Mutex<GatherSlot>,
    stored: Condvar,
    queue: Mutex<Queue>,
    work: Condvar,
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

#[derive(Debug, Default)]
struct Queue {
    closures: VecDeque<Arc<Deferred>>,
    /// Closures that will not run: what they captured is dropped by the flusher, as it is user code.
    discarded: Vec<Discarded>,
    gather_due: Option<Instant>,
    /// A full buffer that the flusher stores next.
    handed: Option<Outstanding>,
    /// The flusher stores one that it was handed before.
    is_storing: bool,
    /// The flusher waits for work, and nobody has given it any since.
    is_idle: bool,
    stop: bool,
}

/// A closure that only has to be dropped.
pub(crate) struct Discarded(pub(crate) Closure);

impl fmt::Debug for Discarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Discarded")
    }
}

/// What the flusher of a lane is woken for.
#[derive(Debug)]
pub(crate) enum Work {
    Store(Outstanding),
    Closure(Arc<Deferred>),
    Discard(Discarded),
    GatherIsDue,
    Stop,
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
            known: AtomicU8::new(KNOWN),
            has_unfound: AtomicBool::new(false),
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

    /// From now on what lies in files up to this generation, in which such a store failed or a block is bad, is in doubt.
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

    /// Whether it holds blocks that no look-up finds, and which may not be forgotten: until the next opening.
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

    /// The folder of the lane is not there.
    pub(crate) fn set_unknown(&self) {
        self.known.store(UNKNOWN, Ordering::Release);
    }

    /// All that it holds is in the index.
    pub(crate) fn set_known(&self) {
        self.known.store(KNOWN_SINCE, Ordering::Release);
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
            self.stored.wait_until(&mut slot, deadline.at);
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
            let end = if self.has_fallen() { deadline.at.min(deadline.began + PATIENCE) } else { deadline.at };
            if Instant::now() >= end {
                return false;
            }
            self.stored.wait_until(&mut slot, end);
        }
        true
    }

    /// Has the flusher store the open buffer at `due`, if nobody has before.
    pub(crate) fn gather_opened(&self, due: Instant) {
        let mut queue = self.queue.lock();
        queue.gather_due = Some(due);
        drop(queue);
        self.work.notify_one();
    }

    /// Has the flusher store a buffer, if it has nothing else to do; else gives it back, to be stored by the caller.
    ///
    /// A buffer of few blocks waits for the one that the flusher stores now, unless closures wait, too: it was filled in less
    /// time than that takes, and whoever stored it would wait for the lock of the same file, with a processor that others need.
    /// One of many blocks took longer, and is in the caller's cache.
    pub(crate) fn hand_over(&self, outstanding: Outstanding) -> Option<Outstanding> {
        let gather = &outstanding.gather;
        let is_quick = gather.payload_bytes() >= QUICK * gather.slots().len() as u64;
        let mut queue = self.queue.lock();
        let takes_one_more = queue.is_storing && is_quick && queue.closures.is_empty() && queue.discarded.is_empty();
        if queue.handed.is_some() || self.has_fallen() || !(queue.is_idle || takes_one_more) {
            return Some(outstanding);
        }
        queue.is_idle = false;
        queue.handed = Some(outstanding);
        drop(queue);
        self.work.notify_one();
        None
    }

    /// A buffer that was handed over to a flusher that is no more.
    pub(crate) fn take_handed(&self) -> Option<Outstanding> {
        self.queue.lock().handed.take()
    }

    /// Hands a buffer over without a word.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn leave(&self, outstanding: Outstanding) {
        self.queue.lock().handed = Some(outstanding);
    }

    /// Queues a closure for the flusher.
    pub(crate) fn push(&self, deferred: Arc<Deferred>) {
        let mut queue = self.queue.lock();
        queue.closures.push_back(deferred);
        // Whoever sleeps is woken, and once: a call of the system for each closure was a fifth of what a small write costs.
        let sleeps = std::mem::take(&mut queue.is_idle);
        drop(queue);
        if sleeps {
            self.work.notify_one();
        }
    }

    /// Has the flusher drop a closure.
    pub(crate) fn discard(&self, closure: Closure) {
        self.queue.lock().discarded.push(Discarded(closure));
        self.work.notify_one();
    }

    /// The oldest closure that waits.
    pub(crate) fn pop(&self) -> Option<Arc<Deferred>> {
        self.queue.lock().closures.pop_front()
    }

    /// Puts a closure back that could not be run now.
    pub(crate) fn push_front(&self, deferred: Arc<Deferred>) {
        self.queue.lock().closures.push_front(deferred);
    }

    /// Ends the flusher, once the closures it still finds are over.
    pub(crate) fn stop(&self) {
        self.queue.lock().stop = true;
        self.work.notify_all();
    }

    /// Waits for something to do.
    pub(crate) fn next_work(&self) -> Work {
        let mut queue = self.queue.lock();
        queue.is_storing = false;
        loop {
            if let Some(outstanding) = queue.handed.take() {
                queue.is_storing = true;
                return Work::Store(outstanding);
            }
            if queue.gather_due.is_some_and(|due| Instant::now() >= due) {
                queue.gather_due = None;
                return Work::GatherIsDue;
            }
            if let Some(deferred) = queue.closures.pop_front() {
                return Work::Closure(deferred);
            }
            if let Some(discarded) = queue.discarded.pop() {
                return Work::Discard(discarded);
            }
            if queue.stop {
                return Work::Stop;
            }
            queue.is_idle = true;
            match queue.gather_due {
                Some(due) => drop(self.work.wait_until(&mut queue, due)),
                None => self.work.wait(&mut queue),
            }
            queue.is_idle = false;
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::thread;

    /// A reader that looked before its block was found, and asked after the search had ended, told a miss of a block
    /// that was there. By now it looks again.
    #[test]
    fn a_miss_in_a_lane_that_came_late_is_one() {
        loom::model(|| {
            let shared = Arc::new((Lane::new(0), AtomicU64::new(0)));
            shared.0.set_unknown();
            let search = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    // Relaxed: the lane alone carries it, as the words of the index.
                    shared.1.store(1, Ordering::Relaxed);
                    shared.0.set_known();
                })
            };
            let (lane, word) = &*shared;
            let is_there = || word.load(Ordering::Relaxed) == 1;
            if !is_there() && lane.known() == Known::Since {
                assert!(is_there());
            }
            search.join().unwrap();
        });
    }

    /// The flag was asked before the end of the search: a miss of what that had not found was taken for a proof.
    #[test]
    fn whoever_sees_the_end_of_a_search_sees_what_it_did_not_find() {
        loom::model(|| {
            let lane = Arc::new(Lane::new(0));
            lane.set_unknown();
            let search = {
                let lane = Arc::clone(&lane);
                thread::spawn(move || {
                    lane.set_unfound();
                    lane.set_known();
                })
            };
            assert_ne!(lane.known_and_unfound(), (Known::Since, false));
            search.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::block::{FileSize, Slot};

    fn open(lane: &Lane) -> Option<Outstanding> {
        let mut slot = lane.gather_now();
        let spare = slot.take_spare();
        slot.open = Some(Gather::open(FileId::new(1)?, FileSize::MIN, spare));
        slot.take()
    }

    /// The flusher's next work is to store a buffer.
    fn is_to_store(lane: &Lane) -> bool {
        match lane.next_work() {
            Work::Store(outstanding) => lane.gather_is_stored(outstanding),
            other => panic!("{other:?}"),
        }
        true
    }

    #[test]
    fn a_flusher_that_stores_a_buffer_is_handed_one_more_unless_that_took_long_to_fill() {
        let lane = Lane::new(0);
        let hand_over =
            |lane: &Lane| lane.hand_over(open(lane).unwrap()).map(|back| lane.gather_is_stored(back)).is_none();
        assert!(!hand_over(&lane), "it does something else, or has not begun");
        lane.queue.lock().is_idle = true;
        assert!(hand_over(&lane));
        assert!(!hand_over(&lane), "one waits");
        assert!(is_to_store(&lane));
        let (mut many, size) = (open(&lane).unwrap(), FileSize::new(1 << 20).unwrap());
        many.gather = Gather::open(many.gather.file(), size, None);
        for number in 0..2 {
            let slot = Slot::new(number).unwrap();
            many.gather
                .add(slot, u64::from(number + 1) * 4096, &[b"small"], size.entry_offset(slot), &[0; 64])
                .unwrap();
        }
        lane.gather_is_stored(lane.hand_over(many).expect("its blocks are in the caller's cache"));
        assert!(hand_over(&lane));
        assert!(!hand_over(&lane), "one waits");
        assert!(is_to_store(&lane));
        lane.discard(Box::new(|_: &mut [u8]| ()));
        assert!(!hand_over(&lane), "what else there is comes first");
        assert!(matches!(lane.next_work(), Work::Discard(_)));
        lane.stop();
        assert!(matches!(lane.next_work(), Work::Stop));
        assert!(!hand_over(&lane), "nobody stores it");
        assert!(lane.wait_for_outstanding(&past()));
    }

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
        let (first, second) = (open(&lane).unwrap(), open(&lane).unwrap());
        std::thread::scope(|threads| {
            let waiter = threads.spawn(|| lane.wait_for_outstanding(&Deadline::after(Duration::from_mins(1))));
            lane.gather_is_stored(second);
            assert!(!lane.wait_for_outstanding(&past()), "the first is on its way still");
            lane.gather_is_stored(first);
            assert!(waiter.join().unwrap());
        });
        let later = open(&lane).unwrap();
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
                            outstanding.extend(open(&lane));
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
