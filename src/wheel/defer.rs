//! Deferred writes: taking one. Its closure waits until somebody runs it (`run`).
//!
//! # Invariants
//!
//! 1. A closure is charged to the budget before its block is reserved, and no longer once it was taken.
//! 2. Who waits for room in a file is charged nothing: a lane that has none does not hold up the writers of the others.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::{BlockHash, BlockKind, Realm, pages_of};
use crate::error::WriteError;
use crate::sync::Arc;
use crate::wheel::FileWheel;
use crate::wheel::budget::Charge;
use crate::wheel::deadline::Deadline;
use crate::wheel::event::WaitCause;
use crate::wheel::lane::Lane;
use crate::wheel::pace::PATIENCE;
use crate::wheel::pending::{Closure, Deferred, Record};
use crate::wheel::publish::Outcome;
use crate::wheel::reserve::{Purpose, Reservation};
use crate::wheel::slots::State;

/// How long a waiter for budget sleeps between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl FileWheel {
    /// Reserves and publishes a block whose bytes `closure` will write.
    pub(crate) fn defer_block(
        &self,
        (realm, key): (Realm, BlockHash),
        kind: BlockKind,
        len: u32,
        closure: Closure,
        deadline: &Deadline,
    ) -> Result<(), WriteError> {
        let hash = self.key_hash(realm, key);
        let lane = self.lane_of(hash);
        let (charge, reservation) = self.charge_and_reserve(lane, len, deadline)?;
        let (file, slot, address) = (reservation.file(), reservation.slot(), reservation.address());
        let pages = reservation.page()..reservation.page() + pages_of(len);
        let deferred = Arc::new(Deferred::new(realm, key, kind, len, closure, reservation.into_ticket()));
        // Whoever takes the closure gives it back.
        charge.keep();
        {
            // PENDING first: a flush may find the record at once, and leave the slot READY.
            let mut pending = file.pending.lock();
            file.slots.set(slot, State::Pending);
            pending.insert(slot, Record::Deferred(Arc::clone(&deferred)));
        }
        let outcome = self.publish(hash, (realm, key), address, kind, len);
        deferred.is_published();
        match outcome {
            Outcome::Published(_) | Outcome::Waiting(_) => {}
            // A write of the key that was reserved later is there already: these bytes are never seen.
            Outcome::Superseded(_) => {
                self.abandon(&deferred);
                return Ok(());
            }
            Outcome::Full => {
                self.abandon(&deferred);
                return Err(WriteError::Full { needed: u64::from(len), live: self.live_bytes() });
            }
        }
        lane.push(Arc::clone(&deferred));
        // A close that did not wait for this call has looked for closures already.
        if self.is_closed() && self.abandon(&deferred) {
            return Err(WriteError::Closed);
        }
        // For the closures before it, which dirty memory as fast as they run.
        self.keep_pace(lane, &pages, PATIENCE, deadline);
        Ok(())
    }

    /// Charges a closure and reserves room for its block, waiting for both if it must (invariants 1 and 2).
    fn charge_and_reserve<'a>(
        &'a self,
        lane: &'a Lane,
        len: u32,
        deadline: &Deadline,
    ) -> Result<(Charge<'a>, Reservation<'a>), WriteError> {
        loop {
            let charge = self.charge(lane, len, deadline)?;
            self.go_on()?;
            match self.reserve_now(lane, pages_of(len), Purpose::Data) {
                Ok(reservation) => return Ok((charge, reservation)),
                Err(full) => {
                    drop(charge);
                    self.turn_from(lane, full, pages_of(len), Purpose::Data, deadline)?;
                }
            }
        }
    }

    /// Charges a closure, once those that wait leave room for it; they are run here meanwhile.
    fn charge(&self, lane: &Lane, len: u32, deadline: &Deadline) -> Result<Charge<'_>, WriteError> {
        if let Some(charge) = self.pending_budget.try_charge(len) {
            return Ok(charge);
        }
        let began = Instant::now();
        let result = self.wait_for_budget(lane, len, deadline);
        self.tell_wait(lane, WaitCause::Budget, began);
        result
    }

    fn wait_for_budget(&self, lane: &Lane, len: u32, deadline: &Deadline) -> Result<Charge<'_>, WriteError> {
        self.counters.waits.add(1);
        let place = self.pending_budget.wait_in_line(len);
        loop {
            if let Some(charge) = place.try_charge() {
                return Ok(charge);
            }
            let ran = place.away(|| {
                self.run_one_queued(lane, deadline)
                    || self.lanes.iter().any(|other| other.id() != lane.id() && self.run_one_queued(other, deadline))
            });
            if ran && let Some(charge) = place.try_charge() {
                return Ok(charge);
            }
            // Also if one was run: others may take what it leaves, again and again.
            if deadline.has_passed() {
                return Err(self.timed_out(deadline));
            }
            if self.is_closed() {
                return Err(WriteError::Closed);
            }
            if !ran {
                self.turned.wait_until(&mut self.turn.lock(), deadline.at().min(Instant::now() + LOOK_AGAIN));
            }
        }
    }

    /// Drops a closure of this caller's own, whose block is not needed; whether nobody had taken it before.
    fn abandon(&self, deferred: &Arc<Deferred>) -> bool {
        let closure = self.give_up(deferred, None);
        let was_mine = closure.is_some();
        if let Some(closure) = closure {
            self.drop_closure(closure);
        }
        was_mine
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::storage::MemoryFileSource;
    use crate::sync::atomic::{AtomicUsize, Ordering};
    use crate::sync::{Condvar, Mutex, thread};
    use crate::wheel::WheelOptions;
    use crate::wheel::turn::Searched;

    /// Bound of everything that a test waits for: only a defect reaches it.
    const HANGS: Duration = Duration::from_mins(1);
    const LEN: u32 = 100_000;

    fn wheel(max_pending_bytes: u64, wait_timeout: Duration) -> Arc<FileWheel> {
        let source = MemoryFileSource::builder().files_per_folder(3).file_size(4 << 20).build().unwrap();
        let options = WheelOptions { wait_timeout, max_pending_bytes, ..WheelOptions::default() };
        FileWheel::open(Arc::new(source), options).unwrap()
    }

    /// From now on writers wait for room, or no longer.
    fn make_wait(wheel: &FileWheel, wait: bool) {
        wheel.turn.lock().lanes[0].searched = if wait { Searched::Nothing } else { Searched::Durable };
        wheel.turned.notify_all();
    }

    fn defer(
        wheel: &FileWheel,
        number: u64,
        closure: impl FnOnce(&mut [u8]) + Send + 'static,
    ) -> Result<(), WriteError> {
        let key = (Realm::DEFAULT, BlockHash::from_u128(number.into()));
        wheel.defer_block(key, BlockKind::Named, LEN, Box::new(closure), &wheel.deadline())
    }

    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Each of many writers found the budget unused, waited for room in a file, and was charged only then: what waited
    /// was as many times the budget as there were writers.
    #[test]
    fn writers_that_come_together_stay_within_the_budget_together() {
        const WRITERS: usize = 16;
        let max = 2 * (u64::from(LEN) + 1000);
        let wheel = wheel(max, HANGS);
        make_wait(&wheel, true);
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        // Writers that are back, or inside of a closure that does not end.
        let settled = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (wheel, gate, settled) = (Arc::clone(&wheel), Arc::clone(&gate), Arc::clone(&settled));
                thread::spawn(move || {
                    let inside = Arc::clone(&settled);
                    let closure = move |_: &mut [u8]| {
                        if !thread::current().name().is_some_and(|name| name.starts_with("scratch-flush")) {
                            inside.fetch_add(1, Ordering::Relaxed);
                        }
                        let mut is_open = gate.0.lock();
                        while !*is_open {
                            assert!(!gate.1.wait_until(&mut is_open, Instant::now() + HANGS).timed_out());
                        }
                    };
                    defer(&wheel, number as u64, closure).unwrap();
                    settled.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        eventually("all wait", || wheel.turn.lock().lanes[0].waiting as usize == WRITERS);
        assert_eq!(wheel.pending_bytes(), 0, "who waits for room holds nothing of the budget");
        make_wait(&wheel, false);
        let highest = AtomicUsize::new(0);
        eventually("each is back, or runs a closure", || {
            highest.fetch_max(usize::try_from(wheel.pending_bytes()).unwrap(), Ordering::Relaxed);
            settled.load(Ordering::Relaxed) == WRITERS
        });
        *gate.0.lock() = true;
        gate.1.notify_all();
        for writer in writers {
            writer.join().unwrap();
        }
        let highest = highest.into_inner() as u64;
        assert!(highest > 0 && highest <= max, "{highest} bytes waited, of {max}");
        wheel.flush().unwrap();
        assert_eq!(wheel.pending_bytes(), 0);
        wheel.close(HANGS);
    }

    /// A write larger than what was free waited while smaller ones, for which there was room, came after it and filled
    /// the budget again.
    #[test]
    fn a_small_write_does_not_pass_a_large_one_that_waits() {
        let wheel = wheel(2 * u64::from(LEN), HANGS);
        // Nothing is queued that anybody could run, and there is room for a small one.
        let held = wheel.pending_budget.try_charge(LEN / 2).unwrap();
        let large = {
            let wheel = Arc::clone(&wheel);
            let key = (Realm::DEFAULT, BlockHash::from_u128(1));
            let write = move || wheel.defer_block(key, BlockKind::Named, 2 * LEN, Box::new(|_| ()), &wheel.deadline());
            thread::spawn(write)
        };
        eventually("the large one waits", || wheel.pending_budget.waiting() == 1);
        let at_once = Deadline::after(Duration::ZERO);
        let key = (Realm::DEFAULT, BlockHash::from_u128(2));
        let small = wheel.defer_block(key, BlockKind::Named, 8, Box::new(|_| ()), &at_once);
        assert!(matches!(small, Err(WriteError::Timeout { .. })), "{small:?}");
        drop(held);
        large.join().unwrap().unwrap();
        wheel.flush().unwrap();
        wheel.defer_block(key, BlockKind::Named, 8, Box::new(|_| ()), &at_once).unwrap();
        wheel.close(HANGS);
    }

    #[test]
    fn a_write_that_comes_to_nothing_gives_its_budget_back() {
        let wheel = wheel(0, Duration::from_millis(20));
        make_wait(&wheel, true);
        for number in 0..3 {
            let error = defer(&wheel, number, |_| ()).unwrap_err();
            assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
            assert_eq!(wheel.pending_bytes(), 0);
        }
        make_wait(&wheel, false);
        defer(&wheel, 3, |_| ()).unwrap();
        wheel.flush().unwrap();
        assert_eq!(wheel.pending_bytes(), 0);
        wheel.close(HANGS);
    }

    /// A writer that waited for budget ran what others had queued, and looked at the clock only when nothing was queued:
    /// while others took what it had freed, it waited as long as they went on.
    #[test]
    fn a_wait_for_budget_ends_though_others_use_what_it_frees() {
        /// Queues one that queues the next one as it runs.
        fn chain(wheel: &Arc<FileWheel>, number: u64, left: u64) {
            let next = Arc::clone(wheel);
            let closure = move |_: &mut [u8]| {
                thread::sleep(Duration::from_millis(10));
                if left > 0 {
                    chain(&next, number + 1, left - 1);
                }
            };
            defer(wheel, number, closure).unwrap();
        }
        let wheel = wheel(0, Duration::from_millis(200));
        // The flusher is held up: only the writer runs what is queued.
        let gate = Arc::new((Mutex::new((false, false)), Condvar::new()));
        let held = Arc::clone(&gate);
        let hang = move |_: &mut [u8]| {
            let mut state = held.0.lock();
            state.0 = true;
            while !state.1 {
                assert!(!held.1.wait_until(&mut state, Instant::now() + HANGS).timed_out());
            }
        };
        defer(&wheel, 0, hang).unwrap();
        eventually("the flusher hangs", || gate.0.lock().0);
        chain(&wheel, 1, 60);
        let error = defer(&wheel, 1000, |_| ()).unwrap_err();
        assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
        gate.0.lock().1 = true;
        gate.1.notify_all();
        wheel.close(HANGS);
    }
}
