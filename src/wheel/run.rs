//! Closures of deferred writes: who runs one, and how it ends.
//!
//! # Invariants
//!
//! 1. A closure runs at most once, outside every lock, on exactly the block's length of zeroed bytes.
//! 2. Whoever takes a closure settles its block: stored or gathered, or FAILED and restored.
//! 3. A closure that calls back into its own store gets `Reentrant`; so does whoever it calls.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::block::{BlockHash, BlockKind};
use crate::error::{FailedClosure, WriteError};
use crate::planted;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wheel::FileWheel;
use crate::wheel::deadline::Deadline;
use crate::wheel::event::WaitCause;
use crate::wheel::lane::Lane;
use crate::wheel::pending::{Closure, Deferred};
use crate::wheel::reserve::Reservation;
use crate::wheel::slots::State;
use crate::wheel::staging::StagingBuffer;
use crate::wheel::store::NewBlock;
use crate::wheel::ticket::Ticket;

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

    /// Runs the oldest queued closure of a lane here, for a call that waits; whether there was one.
    pub(crate) fn run_one_queued(&self, lane: &Lane, deadline: &Deadline) -> bool {
        while let Some(deferred) = lane.pop() {
            if !deferred.is_queued() {
                continue;
            }
            return match self.complete_in_call(&deferred, deadline) {
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

    /// As `complete`, in a call that a close waits for. A close that did not wait longer has counted the closure and not the
    /// call: that asks `is_closed` before it stores anything of its own.
    pub(crate) fn complete_in_call(&self, deferred: &Arc<Deferred>, deadline: &Deadline) -> Completion {
        let _inside = InClosure::enter(&self.calls_in_closures);
        self.complete(deferred, deadline)
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
        let awake = deferred.wait(deadline.at());
        self.tell_wait(self.lane_of(self.key_hash(deferred.realm, deferred.key)), WaitCause::Block, began);
        awake
    }

    fn staging_for(&self, deferred: &Deferred, deadline: &Deadline) -> Option<StagingBuffer<'_>> {
        let began = Instant::now();
        let staging = self.staging.acquire(deferred.len as usize, deadline.at());
        self.tell_wait(self.lane_of(self.key_hash(deferred.realm, deferred.key)), WaitCause::Staging, began);
        staging
    }

    fn run(&self, deferred: &Arc<Deferred>, closure: Closure, ticket: &Ticket, bytes: &mut [u8]) -> Completion {
        let file = self.table.file(deferred.address.file());
        let reservation = Reservation::resume(file, ticket);
        // A panic leaves this before the reservation: until that is finished the slot means this block.
        let unsettled = Unsettled { wheel: self, deferred };
        // From here its memory is bounded by staging: a closure that hangs keeps nobody from the budget.
        self.pending_budget.give_back(deferred.len);
        file.slots.set(deferred.address.slot(), State::Running);
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
                // Counted before a flush may find the file without unfinished reservations, and return.
                self.counters.closures_run.add(1);
                self.counters.blocks_written.add(1);
                self.counters.bytes_written.add(u64::from(deferred.len));
                reservation.finish();
                unsettled.settle(Ok(()));
                Completion::Done
            }
            Err(reason) => {
                self.fail_deferred(deferred, reason.clone());
                unsettled.forget();
                drop(reservation);
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
                self.store_full(lane, full);
            }
            return Ok(());
        }
        self.store_payload_and_entry(lane, reservation, &block).map_err(io)?;
        reservation.file().pending.lock().remove(reservation.slot());
        deferred.hides.forget();
        Ok(())
    }

    /// Things are as they were before the write, but for the report. The caller holds the block's reservation.
    fn fail_deferred(&self, deferred: &Deferred, reason: FailedClosure) {
        self.tell_failed(deferred.realm, deferred.key, reason.clone());
        self.forget_deferred(deferred, reason);
    }

    fn forget_deferred(&self, deferred: &Deferred, reason: FailedClosure) {
        self.undo_deferred(deferred);
        deferred.settle(Err(reason));
    }

    /// Puts back what a block hid, and takes its record away.
    fn undo_deferred(&self, deferred: &Deferred) {
        let (file, slot) = (self.table.file(deferred.address.file()), deferred.address.slot());
        let hash = self.key_hash(deferred.realm, deferred.key);
        // Index first, FAILED after it: until then the record tells whose word it is, so that a write of the
        // same key replaces the word instead of adding another.
        self.restore(hash, deferred.address, Some(deferred.len), deferred.hides.begin_to_fail());
        file.slots.set(slot, State::Failed);
        file.pending.lock().remove(slot);
    }

    /// Gives a block up whose closure nobody has taken; reported as a failure if there is a `reason`.
    ///
    /// What the closure captured is user code when it is dropped: the caller decides who does that.
    pub(crate) fn give_up(&self, deferred: &Arc<Deferred>, reason: Option<FailedClosure>) -> Option<Closure> {
        let (closure, ticket) = deferred.take()?;
        self.pending_budget.give_back(deferred.len);
        let reservation = Reservation::resume(self.table.file(deferred.address.file()), &ticket);
        match reason {
            Some(reason) => self.fail_deferred(deferred, reason),
            None => self.forget_deferred(deferred, FailedClosure::Abandoned),
        }
        drop(reservation);
        Some(closure)
    }

    /// Drops a closure unrun, as carefully as it would be run.
    pub(crate) fn drop_closure(&self, closure: Closure) {
        // A panic there is the user's, and told by the panic hook; nothing of the store depends on it.
        let _ = self.run_closure(Box::new(move |_| drop(closure)), &mut []);
    }
}

/// Counts a call while it is in a closure, or waits for one.
struct InClosure<'a>(&'a AtomicU64);

impl<'a> InClosure<'a> {
    fn enter(calls: &'a AtomicU64) -> Self {
        // Relaxed: whoever is counted too late is counted as a call.
        calls.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for InClosure<'_> {
    fn drop(&mut self) {
        // Acquire pairs with the Release in `unfinished_calls`.
        self.0.fetch_sub(1, Ordering::Acquire);
    }
}

/// A closure that was taken and whose fate nobody knows yet. If it is dropped so, who ran it has panicked: the block has
/// failed then like one whose closure has, so that nobody waits for what will never be over.
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
        let Self { wheel, deferred } = self;
        wheel.tell_failed(deferred.realm, deferred.key, FailedClosure::Panicked);
        // What has panicked may do so again, and a second panic would end the process: then the block that this one hid
        // stays hidden until the store is opened again.
        let _ = catch_unwind(AssertUnwindSafe(|| wheel.undo_deferred(deferred)));
        deferred.settle(Err(FailedClosure::Panicked));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::Realm;
    use crate::storage::MemoryFileSource;
    use crate::wheel::WheelOptions;
    use crate::wheel::pending::Record;
    use crate::wheel::reserve::Purpose;

    /// Bound of everything that the test waits for: only a defect reaches it.
    const HANGS: Duration = Duration::from_mins(1);

    /// A second version whose closure nobody but the caller runs; the first one is flushed.
    fn second_version(wheel: &FileWheel, key: BlockHash) -> Arc<Deferred> {
        let (realm, kind, first) = (Realm::DEFAULT, BlockKind::Named, [1; 8]);
        let (hash, parts) = (BlockHash::of(&first), [&first[..]]);
        let block = NewBlock { realm, key, kind, hash, parts: &parts, len: 8 };
        wheel.store_block(&block, &wheel.deadline()).unwrap();
        wheel.flush().unwrap();
        // As `defer_block` does it, but for the queue.
        let reservation = wheel.reserve(&wheel.lanes[0], 1, Purpose::Data, &wheel.deadline()).unwrap();
        let (file, slot, address) = (reservation.file(), reservation.slot(), reservation.address());
        let deferred = Arc::new(Deferred::new(realm, key, kind, 8, Box::new(|_| ()), reservation.into_ticket()));
        wheel.pending_budget.try_charge(8).unwrap().keep();
        file.slots.set(slot, State::Pending);
        file.pending.lock().insert(slot, Record::Deferred(Arc::clone(&deferred)));
        wheel.publish(wheel.key_hash(realm, key), (realm, key), address, kind, 8);
        deferred.is_published();
        deferred
    }

    /// Whoever ran a closure panicked outside of it: the block was being run for ever, and each flush waited for it until
    /// its deadline. Once it was over, its record still was not: each close counted it, and what it hid stayed hidden.
    #[test]
    fn a_closure_whose_runner_panics_is_over_and_what_it_hid_is_back() {
        let source = MemoryFileSource::builder().files_per_folder(3).file_size(4 << 20).build().unwrap();
        let options = WheelOptions { wait_timeout: HANGS, ..WheelOptions::default() };
        let wheel = FileWheel::open(Arc::new(source), options).unwrap();
        let key = BlockHash::from_u128(1);
        let deferred = second_version(&wheel, key);
        let (closure, ticket) = deferred.take().unwrap();
        // A defect of the library, and noticed: the list of the wheels whose closures this thread runs is in use.
        let ran = INSIDE.with(|inside| {
            let _in_use = inside.borrow_mut();
            catch_unwind(AssertUnwindSafe(|| wheel.run(&deferred, closure, &ticket, &mut [0; 8])))
        });
        assert!(ran.is_err());
        assert_eq!(deferred.result(), Some(Err(FailedClosure::Panicked)));
        assert_eq!(wheel.counters.failed.get(), 1);
        assert_eq!(wheel.waiting_closures().len(), 0);
        assert_eq!(&wheel.find(Realm::DEFAULT, key).unwrap()[..], [1; 8]);
        assert!(wheel.flush().is_err());
        let report = wheel.close(HANGS);
        assert!(report.is_clean(), "{report:?}");
    }
}
