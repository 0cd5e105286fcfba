//! Deferred writes: a closure waits until the flusher, or the first reader, runs it.
//!
//! # Invariants
//!
//! 1. A closure runs at most once, outside every lock, on exactly the block's length of zeroed bytes.
//! 2. Whoever takes a closure settles its block: stored or gathered, or FAILED and restored.
//! 3. A closure that calls back into its own store gets `Reentrant`; so does whoever it calls.
//! 4. A closure is charged to the budget before its block is reserved, and no longer once it was taken. Who waits for
//!    room in a file is charged nothing: a lane that has none does not hold up the writers of the others.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::block::{BlockHash, BlockKind, Realm, pages_of};
use crate::error::{FailedClosure, WriteError};
use crate::planted;
use crate::sync::Arc;
use crate::wheel::FileWheel;
use crate::wheel::budget::Charge;
use crate::wheel::event::WaitCause;
use crate::wheel::lane::Lane;
use crate::wheel::pending::{Closure, Deadline, Deferred, Record};
use crate::wheel::publish::Outcome;
use crate::wheel::reserve::{Purpose, Reservation};
use crate::wheel::slots::State;
use crate::wheel::staging::StagingBuffer;
use crate::wheel::store::NewBlock;
use crate::wheel::ticket::Ticket;

/// How long a waiter for budget sleeps between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

thread_local! {
    /// The wheels whose closures this thread is running now, the innermost last.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// How `complete` ended.
#[derive(Clone, Debug)]
pub(crate) enum Completion {
    /// The block is stored or gathered.
    Done,
    /// Its closure failed.
    Failed(FailedClosure),
    /// It was not over by the deadline.
    Busy,
}

impl FileWheel {
    /// Whether this thread is inside a closure of this store.
    pub(crate) fn is_reentrant(&self) -> bool {
        let me = std::ptr::from_ref(self).addr();
        // A thread that is ending, and drops a handle with its other locals, runs no closure any more.
        INSIDE.try_with(|inside| inside.borrow().contains(&me)).unwrap_or(false)
    }

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
        Ok(())
    }

    /// Charges a closure and reserves room for its block, waiting for both if it must (invariant 4).
    fn charge_and_reserve<'a>(
        &'a self,
        lane: &'a Lane,
        len: u32,
        deadline: &Deadline,
    ) -> Result<(Charge<'a>, Reservation<'a>), WriteError> {
        loop {
            let charge = self.charge(lane, len, deadline)?;
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
        let mut counted = false;
        loop {
            if let Some(charge) = self.pending_budget.try_charge(len) {
                return Ok(charge);
            }
            if !counted {
                self.counters.waits.add(1);
                counted = true;
            }
            let ran = self.run_one_queued(lane, deadline)
                || self.lanes.iter().any(|other| other.id() != lane.id() && self.run_one_queued(other, deadline));
            if ran && let Some(charge) = self.pending_budget.try_charge(len) {
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
                self.turned.wait_until(&mut self.turn.lock(), deadline.at.min(Instant::now() + LOOK_AGAIN));
            }
        }
    }

    /// Runs the oldest queued closure of a lane here; whether there was one.
    pub(crate) fn run_one_queued(&self, lane: &Lane, deadline: &Deadline) -> bool {
        while let Some(deferred) = lane.pop() {
            if !deferred.is_queued() {
                continue;
            }
            return match self.complete(&deferred, deadline) {
                Completion::Done | Completion::Failed(_) => true,
                Completion::Busy => {
                    if deferred.is_queued() {
                        lane.push_front(deferred);
                    }
                    false
                }
            };
        }
        false
    }

    /// Runs the closure, or waits for whoever runs it.
    pub(crate) fn complete(&self, deferred: &Arc<Deferred>, deadline: &Deadline) -> Completion {
        // Awake, it is queued, or over.
        while self.wait_for_block(deferred, deadline) {
            if let Some(result) = deferred.result() {
                return result.map_or_else(Completion::Failed, |()| Completion::Done);
            }
            // Memory first: a closure that was taken must be run.
            let Some(mut staging) = self.staging_for(deferred, deadline) else { break };
            if let Some((closure, ticket)) = deferred.take() {
                return self.run(deferred, closure, &ticket, &mut staging);
            }
        }
        Completion::Busy
    }

    fn wait_for_block(&self, deferred: &Deferred, deadline: &Deadline) -> bool {
        if deferred.is_queued() {
            return true;
        }
        let began = Instant::now();
        let awake = deferred.wait(deadline.at);
        self.tell_wait(self.lane_of(self.key_hash(deferred.realm, deferred.key)), WaitCause::Block, began);
        awake
    }

    fn staging_for(&self, deferred: &Deferred, deadline: &Deadline) -> Option<StagingBuffer<'_>> {
        let began = Instant::now();
        let staging = self.staging.acquire(deferred.len as usize, deadline.at);
        self.tell_wait(self.lane_of(self.key_hash(deferred.realm, deferred.key)), WaitCause::Staging, began);
        staging
    }

    fn run(&self, deferred: &Arc<Deferred>, closure: Closure, ticket: &Ticket, bytes: &mut [u8]) -> Completion {
        // Left by a panic after the reservation: the slot has failed by then.
        let unsettled = Unsettled { wheel: self, deferred };
        // From here its memory is bounded by staging: a closure that hangs keeps nobody from the budget.
        self.pending_budget.give_back(deferred.len);
        let file = self.table.file(deferred.address.file());
        file.slots.set(deferred.address.slot(), State::Running);
        let reservation = Reservation::resume(file, ticket);
        let result = self.run_closure(closure, bytes).and_then(|()| {
            // Hazard 22: whatever the closure has written is what was promised.
            let is_trusted = planted::is(22) && deferred.kind == BlockKind::Content;
            let found = if is_trusted { deferred.key } else { self.hash_of(bytes) };
            if deferred.kind == BlockKind::Content && found != deferred.key {
                return Err(FailedClosure::WrongHash { expected: deferred.key, found });
            }
            self.store_deferred(deferred, &reservation, found, bytes)
        });
        match result {
            Ok(()) => {
                reservation.finish();
                self.counters.closures_run.add(1);
                self.counters.blocks_written.add(1);
                self.counters.bytes_written.add(u64::from(deferred.len));
                unsettled.settle(Ok(()));
                Completion::Done
            }
            Err(reason) => {
                self.fail_deferred(deferred, reservation, reason.clone());
                unsettled.forget();
                Completion::Failed(reason)
            }
        }
    }

    fn run_closure(&self, closure: Closure, bytes: &mut [u8]) -> Result<(), FailedClosure> {
        let me = std::ptr::from_ref(self).addr();
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(me));
        let result = catch_unwind(AssertUnwindSafe(|| closure(bytes)));
        let result = result.map_err(|payload| {
            // What it panicked with is the user's too, and may panic when it is dropped.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
            FailedClosure::Panicked
        });
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());
        // The closure may have forked, and this be the child.
        self.table.process().end_if_forked();
        result
    }

    fn store_deferred(
        &self,
        deferred: &Deferred,
        reservation: &Reservation<'_>,
        hash: BlockHash,
        bytes: &[u8],
    ) -> Result<(), FailedClosure> {
        let lane = self.lane_of(self.key_hash(deferred.realm, deferred.key));
        let block = NewBlock {
            realm: deferred.realm,
            key: deferred.key,
            kind: deferred.kind,
            hash,
            parts: &[bytes],
            len: deferred.len,
        };
        let io = |error| match error {
            WriteError::Io(error) => FailedClosure::Io(error),
            other => FailedClosure::Io(self.io_error(
                "storing a deferred block",
                deferred.address.file(),
                std::io::Error::other(other),
            )),
        };
        // A gather buffer comes free as soon as its store returns; a store of a full disk returns an error.
        if self.is_gathered(deferred.len)
            && let Some(mut slot) = self.gather_of(lane, &self.deadline())
        {
            let hides = Some(Arc::clone(&deferred.hides));
            let full = self.gather_reserved(lane, &mut slot, reservation, &block, hides).map_err(io)?;
            drop(slot);
            if let Some(full) = full {
                self.store_outstanding(lane, full);
            }
            return Ok(());
        }
        self.store_payload_and_entry(lane, reservation, &block).map_err(io)?;
        reservation.file().pending.lock().remove(reservation.slot());
        deferred.hides.forget();
        Ok(())
    }

    /// Things are as they were before the write, but for the report.
    fn fail_deferred(&self, deferred: &Arc<Deferred>, reservation: Reservation<'_>, reason: FailedClosure) {
        self.tell_failed(deferred.realm, deferred.key, reason.clone());
        self.forget_deferred(deferred, reservation, reason);
    }

    fn forget_deferred(&self, deferred: &Arc<Deferred>, reservation: Reservation<'_>, reason: FailedClosure) {
        let file = reservation.file();
        let hash = self.key_hash(deferred.realm, deferred.key);
        // Index first, FAILED after it: until then the record tells whose word it is, so that a write of the
        // same key replaces the word instead of adding another.
        self.restore(hash, deferred.address, Some(deferred.len), deferred.hides.begin_to_fail());
        file.slots.set(reservation.slot(), State::Failed);
        file.pending.lock().remove(reservation.slot());
        deferred.settle(Err(reason));
        drop(reservation);
    }

    /// Gives a block up whose closure nobody has taken; reported as a failure if there is a `reason`.
    ///
    /// What the closure captured is user code when it is dropped: the caller decides who does that.
    pub(crate) fn give_up(&self, deferred: &Arc<Deferred>, reason: Option<FailedClosure>) -> Option<Closure> {
        let (closure, ticket) = deferred.take()?;
        self.pending_budget.give_back(deferred.len);
        let reservation = Reservation::resume(self.table.file(deferred.address.file()), &ticket);
        match reason {
            Some(reason) => self.fail_deferred(deferred, reservation, reason),
            None => self.forget_deferred(deferred, reservation, FailedClosure::Abandoned),
        }
        Some(closure)
    }

    /// Drops a closure unrun, as carefully as it would be run.
    pub(crate) fn drop_closure(&self, closure: Closure) {
        // A panic there is the user's, and told by the panic hook; nothing of the store depends on it.
        let _ = self.run_closure(Box::new(move |_| drop(closure)), &mut []);
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

/// A closure that was taken and whose fate nobody knows yet. If it is dropped so, who ran it has panicked: nobody waits
/// for it then, as it will never be over.
struct Unsettled<'a> {
    wheel: &'a FileWheel,
    deferred: &'a Deferred,
}

impl Unsettled<'_> {
    fn settle(self, result: Result<(), FailedClosure>) {
        self.deferred.settle(result);
        self.forget();
    }

    /// Its fate is known.
    fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        self.wheel.tell_failed(self.deferred.realm, self.deferred.key, FailedClosure::Panicked);
        self.deferred.settle(Err(FailedClosure::Panicked));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    #[cfg(debug_assertions)]
    use crate::block::FileId;
    use crate::storage::MemoryFileSource;
    use crate::sync::atomic::{AtomicUsize, Ordering};
    use crate::sync::{Condvar, Mutex, thread};
    use crate::wheel::WheelOptions;

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
        wheel.turn.lock().lanes[0].writable = !wait;
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

    /// Whoever ran a closure panicked outside of it: the block was being run for ever, and each flush waited for it until
    /// its deadline.
    #[cfg(debug_assertions)]
    #[test]
    fn a_closure_whose_runner_panics_is_over() {
        let wheel = wheel(1 << 20, HANGS);
        make_wait(&wheel, false);
        let reservation = wheel.reserve(&wheel.lanes[0], 1, Purpose::Data, &wheel.deadline()).unwrap();
        let (key, kind) = (BlockHash::from_u128(1), BlockKind::Named);
        let deferred =
            Arc::new(Deferred::new(Realm::DEFAULT, key, kind, 8, Box::new(|_| ()), reservation.into_ticket()));
        wheel.pending_budget.try_charge(8).unwrap().keep();
        deferred.is_published();
        let (closure, ticket) = deferred.take().unwrap();
        // The file of another one: a defect, and noticed.
        let other = FileId::new(ticket.address().file().get() + 1).unwrap();
        let wrong = Ticket::new(wheel.table.file(other).address(ticket.address().slot()), ticket.page());
        let ran = catch_unwind(AssertUnwindSafe(|| wheel.run(&deferred, closure, &wrong, &mut [0; 8])));
        assert!(ran.is_err());
        assert_eq!(deferred.result(), Some(Err(FailedClosure::Panicked)));
        assert_eq!(wheel.counters.failed.get(), 1);
        drop(Reservation::resume(wheel.table.file(ticket.address().file()), &ticket));
        assert!(wheel.flush().is_err());
        wheel.close(HANGS);
    }
}
