//! How much memory closures that wait may keep, those of all lanes together.
//!
//! # Invariants
//!
//! 1. What is charged is never more than the limit, unless it is one closure: that may be larger, and then waits alone.
//! 2. A closure is charged before its block is reserved, and its charge is given back once: by dropping the [`Charge`] if
//!    the write comes to nothing, by [`PendingBudget::give_back`] when the closure is taken.
//! 3. First come, first served: whoever waits is passed by nobody, however small, unless it runs a closure meanwhile that
//!    does not end in time. So a large one gets its turn, and a closure that hangs keeps nobody from the budget.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a waiting closure is charged beside the length of its block.
const RECORD_BYTES: u64 = 256;

/// How long a writer that is served next may run a closure before others pass it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The bytes of closures that wait.
///
/// All accesses to the numbers are relaxed: they publish nothing, and that a change depends on what was there is kept by
/// its being one read-modify-write.
#[derive(Debug)]
pub(crate) struct PendingBudget {
    charged: AtomicU64,
    max: u64,
    patience: Duration,
    /// Writers that wait, the first of them first.
    line: Mutex<VecDeque<Waiter>>,
    /// How many these are. Who comes as the first one is put there may pass it.
    waiting: AtomicUsize,
    /// Who came last.
    number: AtomicU64,
}

/// A writer that waits.
#[derive(Debug)]
struct Waiter {
    number: u64,
    /// Since when it runs a closure.
    away: Option<Instant>,
}

/// A place in the line; left by dropping it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    budget: &'a PendingBudget,
    number: u64,
    len: u32,
}

/// What one closure is charged.
#[derive(Debug)]
#[must_use = "dropped, it is given back"]
pub(crate) struct Charge<'a> {
    budget: &'a PendingBudget,
    len: u32,
}

impl PendingBudget {
    pub(crate) fn new(max: u64) -> Self {
        Self::with_patience(max, PATIENCE)
    }

    fn with_patience(max: u64, patience: Duration) -> Self {
        let (charged, waiting, number) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        Self { charged, max, patience, line: Mutex::default(), waiting, number }
    }

    /// Charges a closure for a block of this length; `None` while those that wait leave no room for it, or a writer waits.
    pub(crate) fn try_charge(&self, len: u32) -> Option<Charge<'_>> {
        if self.waiting() == 0 {
            return self.add(len);
        }
        // Kept until it is charged: nobody takes a place meanwhile.
        let line = self.line.lock();
        self.may_pass(line.iter()).then(|| self.add(len)).flatten()
    }

    /// Takes the last place of those that wait, for a closure for a block of this length.
    pub(crate) fn wait_in_line(&self, len: u32) -> Place<'_> {
        let mut line = self.line.lock();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        line.push_back(Waiter { number, away: None });
        self.waiting.store(line.len(), Ordering::Relaxed);
        Place { budget: self, number, len }
    }

    /// How many writers wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn may_pass<'a>(&self, mut before: impl Iterator<Item = &'a Waiter>) -> bool {
        before.all(|waiter| waiter.away.is_some_and(|since| since.elapsed() >= self.patience))
    }

    fn add(&self, len: u32) -> Option<Charge<'_>> {
        let add = |charged: u64| {
            let sum = charged.saturating_add(charge(len));
            (charged == 0 || sum <= self.max).then_some(sum)
        };
        self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Charge { budget: self, len })
    }

    /// The closure of a block of this length, whose charge was kept, waits no longer.
    pub(crate) fn give_back(&self, len: u32) {
        self.charged.fetch_sub(charge(len), Ordering::Relaxed);
    }

    /// What is charged now.
    pub(crate) fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }
}

impl<'a> Place<'a> {
    /// Charges the closure if it is its turn and those that wait leave room for it.
    pub(crate) fn try_charge(&self) -> Option<Charge<'a>> {
        let line = self.budget.line.lock();
        let before = line.iter().take_while(|waiter| waiter.number != self.number);
        self.budget.may_pass(before).then(|| self.budget.add(self.len)).flatten()
    }

    /// Runs what may take its time.
    pub(crate) fn away<T>(&self, run: impl FnOnce() -> T) -> T {
        self.is_away(Some(Instant::now()));
        let result = run();
        self.is_away(None);
        result
    }

    fn is_away(&self, since: Option<Instant>) {
        let mut line = self.budget.line.lock();
        if let Some(waiter) = line.iter_mut().find(|waiter| waiter.number == self.number) {
            waiter.away = since;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = self.budget.line.lock();
        line.retain(|waiter| waiter.number != self.number);
        self.budget.waiting.store(line.len(), Ordering::Relaxed);
    }
}

impl Charge<'_> {
    /// The closure waits from now on: whoever takes it gives the charge back.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.len);
    }
}

fn charge(len: u32) -> u64 {
    u64::from(len) + RECORD_BYTES
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::sync::thread;

    #[test]
    fn a_closure_larger_than_the_budget_waits_alone() {
        for max in [0, 1000] {
            let budget = PendingBudget::new(max);
            let large = budget.try_charge(u32::MAX).unwrap();
            assert_eq!(budget.charged(), u64::from(u32::MAX) + RECORD_BYTES);
            assert!(budget.try_charge(0).is_none());
            drop(large);
            let small = budget.try_charge(0).unwrap();
            assert!(budget.try_charge(u32::MAX).is_none());
            small.keep();
            assert_eq!(budget.charged(), RECORD_BYTES);
            budget.give_back(0);
            assert_eq!(budget.charged(), 0);
        }
    }

    #[test]
    fn the_last_byte_of_the_budget_is_there_to_be_used() {
        let budget = PendingBudget::new(2 * (100 + RECORD_BYTES));
        let (first, second) = (budget.try_charge(100), budget.try_charge(100));
        assert!(first.is_some() && second.is_some() && budget.try_charge(0).is_none());
        drop(first);
        assert!(budget.try_charge(101).is_none() && budget.try_charge(100).is_some());
    }

    /// A large closure waited for room while small ones came and took what was given back, again and again.
    #[test]
    fn nobody_passes_whoever_waits_however_small() {
        let budget = PendingBudget::new(1000 + 2 * RECORD_BYTES);
        let (held, other) = (budget.try_charge(400).unwrap(), budget.try_charge(300).unwrap());
        assert!(budget.try_charge(800).is_none());
        let large = budget.wait_in_line(800);
        assert!(large.try_charge().is_none());
        drop(other);
        // There is room for it, but it was not the first to come.
        assert!(budget.try_charge(100).is_none());
        let small = budget.wait_in_line(100);
        assert!(small.try_charge().is_none() && large.try_charge().is_none());
        drop(held);
        assert!(small.try_charge().is_none());
        let charge = large.try_charge().unwrap();
        drop(large);
        assert_eq!(budget.waiting(), 1);
        assert!(budget.try_charge(0).is_none());
        small.try_charge().unwrap().keep();
        drop((charge, small));
        budget.give_back(100);
        assert_eq!((budget.charged(), budget.waiting()), (0, 0));
    }

    #[test]
    fn whoever_gives_up_waiting_is_in_nobodys_way() {
        let budget = PendingBudget::new(0);
        let held = budget.try_charge(0).unwrap();
        let (first, second) = (budget.wait_in_line(100), budget.wait_in_line(0));
        drop(held);
        assert!(second.try_charge().is_none());
        drop(first);
        drop(second.try_charge().unwrap());
    }

    #[test]
    fn a_writer_that_runs_a_closure_keeps_its_place_unless_that_takes_too_long() {
        for (patience, is_passed) in [(Duration::MAX, false), (Duration::ZERO, true)] {
            let budget = PendingBudget::with_patience(1000, patience);
            let (first, second) = (budget.wait_in_line(100), budget.wait_in_line(100));
            let passed = first.away(|| second.try_charge().is_some());
            assert_eq!(passed, is_passed);
            // It is back.
            assert!(second.try_charge().is_none() && budget.try_charge(0).is_none());
            first.away(|| assert!(budget.try_charge(0).is_none(), "the second is there"));
            first.away(|| assert_eq!(second.away(|| budget.try_charge(0).is_some()), is_passed));
            drop(first.try_charge().unwrap());
        }
    }

    #[test]
    fn threads_that_come_together_stay_within_the_budget_together() {
        const THREADS: usize = 16;
        let budget = PendingBudget::new(3 * (100 + RECORD_BYTES));
        let together = Barrier::new(THREADS);
        let most = thread::scope(|threads| {
            let spawn = |_| {
                threads.spawn(|| {
                    let mut most = 0;
                    for _ in 0..200 {
                        together.wait();
                        let charge = budget.try_charge(100);
                        most = most.max(budget.charged());
                        together.wait();
                        drop(charge);
                    }
                    most
                })
            };
            let threads: Vec<_> = (0..THREADS).map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).max()
        });
        // Nobody gives back before all have charged.
        assert_eq!((most, budget.charged()), (Some(budget.max), 0));
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::{Arc, thread};

    /// Whoever is charged sees no more than the limit, or nobody but itself; in the end nothing is charged.
    #[test]
    fn what_waits_is_within_the_budget_or_alone() {
        loom::model(|| {
            let small = charge(100);
            let budget = Arc::new(PendingBudget::new(2 * small));
            let charge_and_look = |len: u32| {
                let budget = Arc::clone(&budget);
                move || {
                    let Some(charged) = budget.try_charge(len) else { return };
                    let (own, all) = (charge(len), budget.charged());
                    assert!(own <= all && (all <= budget.max || all == own), "{all}");
                    if len == 100 {
                        charged.keep();
                        budget.give_back(len);
                    }
                }
            };
            let others = [charge_and_look(100), charge_and_look(1000)].map(thread::spawn);
            charge_and_look(100)();
            for other in others {
                other.join().unwrap();
            }
            assert_eq!(budget.charged(), 0);
        });
    }
}
