//! How much memory closures that wait may keep, those of all lanes together.
//!
//! # Invariants
//!
//! 1. What is charged is never more than the limit, unless it is one closure: that may be larger, and then waits alone.
//! 2. A closure is charged before its block is reserved, and its charge is given back once: by dropping the [`Charge`] if
//!    the write comes to nothing, by [`PendingBudget::give_back`] when the closure is taken.
#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicU64, Ordering};

/// What a waiting closure is charged beside the length of its block.
const RECORD_BYTES: u64 = 256;

/// The bytes of closures that wait.
///
/// All accesses are relaxed: the sum publishes nothing, and that a change depends on what was there is kept by its
/// being one read-modify-write.
#[derive(Debug)]
pub(crate) struct PendingBudget {
    charged: AtomicU64,
    max: u64,
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
        Self { charged: AtomicU64::new(0), max }
    }

    /// Charges a closure for a block of this length; `None` while those that wait leave no room for it.
    pub(crate) fn try_charge(&self, len: u32) -> Option<Charge<'_>> {
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
