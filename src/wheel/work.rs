//! What a lane's flusher has to do: closures that wait, gather buffers that are full or due, and what has to be dropped.
//!
//! # Invariants
//!
//! 1. A buffer that was handed over is stored by the flusher, whatever it is told besides: it takes it before it stops, and
//!    before it is no more if it panics (`threads`), unless that was the buffer it panicked with.
//! 2. `queue` is taken after the lane's `gather`, and nothing is taken under it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use crate::sync::Arc;
use crate::wheel::lane::{Lane, Outstanding};
use crate::wheel::pending::{Closure, Deferred};

/// Payload of a block, in bytes, from which on a buffer of such is filled sooner than stored.
const QUICK: u64 = 8 << 10;

/// What waits for the flusher of a lane.
#[derive(Debug, Default)]
pub(super) struct Queue {
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

impl Lane {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::{FileSize, Slot};
    use crate::wheel::deadline::Deadline;
    use crate::wheel::gather::Gather;

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
            |lane: &Lane| lane.hand_over(lane.open_and_take()).map(|back| lane.gather_is_stored(back)).is_none();
        assert!(!hand_over(&lane), "it does something else, or has not begun");
        lane.queue.lock().is_idle = true;
        assert!(hand_over(&lane));
        assert!(!hand_over(&lane), "one waits");
        assert!(is_to_store(&lane));
        let (mut many, size) = (lane.open_and_take(), FileSize::new(1 << 20).unwrap());
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
        assert!(lane.wait_for_outstanding(&Deadline::after(Duration::ZERO)));
    }
}
