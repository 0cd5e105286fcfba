//! Small numbers for running threads: the least that no other one has.
//!
//! Threads share a pin word if their numbers are equal but for a multiple of the words. So numbers of threads that have ended
//! are given again: where no more threads run that have ever read than there are words, each has one of its own. No lock: a
//! forked child would find one as some thread of its parent held it.
//!
//! # Invariants
//!
//! 1. No two running threads have one number below [`Numbers::COUNT`], but for those that ask while they end: these have 0.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Which are taken: a bit each.
#[cfg(not(loom))]
#[derive(Debug)]
struct Numbers {
    taken: [AtomicU64; 4],
    /// What there was no number for: these are dealt in turn, and not given back.
    further: AtomicUsize,
}

#[cfg(not(loom))]
impl Numbers {
    const COUNT: usize = 256;

    const fn new() -> Self {
        Self { taken: [const { AtomicU64::new(0) }; 4], further: AtomicUsize::new(Self::COUNT) }
    }

    fn take(&self) -> usize {
        for (at, word) in self.taken.iter().enumerate() {
            // Relaxed, here and below: only the numbers have to differ.
            let before = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken != u64::MAX).then(|| taken | (taken + 1))
            });
            if let Ok(before) = before {
                return at * 64 + before.trailing_ones() as usize;
            }
        }
        self.further.fetch_add(1, Ordering::Relaxed)
    }

    fn give_back(&self, number: usize) {
        if number < Self::COUNT {
            self.taken[number / 64].fetch_and(!(1 << (number % 64)), Ordering::Relaxed);
        }
    }
}

#[cfg(not(loom))]
static NUMBERS: Numbers = Numbers::new();

/// The number of a thread, for as long as it runs.
#[cfg(not(loom))]
struct Held {
    number: usize,
    of: &'static Numbers,
}

#[cfg(not(loom))]
impl Held {
    fn of(of: &'static Numbers) -> Self {
        Self { number: of.take(), of }
    }
}

#[cfg(not(loom))]
impl Drop for Held {
    fn drop(&mut self) {
        self.of.give_back(self.number);
    }
}

/// The number of this thread.
#[cfg(not(loom))]
#[inline]
pub(crate) fn thread_number() -> usize {
    thread_local! {
        static HELD: Held = Held::of(&NUMBERS);
    }
    HELD.try_with(|held| held.number).unwrap_or_default()
}

/// Models say which word they mean; the rest of the crate shares one under loom, which is the hardest case.
#[cfg(loom)]
pub(crate) fn thread_number() -> usize {
    0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::thread;

    #[test]
    fn what_is_given_back_is_given_again_the_least_first() {
        let numbers = Numbers::new();
        assert_eq!([(); 4].map(|()| numbers.take()), [0, 1, 2, 3]);
        for number in [2, 0, 1] {
            numbers.give_back(number);
        }
        assert_eq!([(); 4].map(|()| numbers.take()), [0, 1, 2, 4]);
    }

    #[test]
    fn those_for_whom_there_is_none_have_larger_ones_and_take_none_with_them() {
        let numbers = Numbers::new();
        assert!((0..Numbers::COUNT).all(|number| numbers.take() == number));
        assert_eq!([numbers.take(), numbers.take()], [256, 257]);
        numbers.give_back(257);
        numbers.give_back(70);
        assert_eq!([numbers.take(), numbers.take()], [70, 258]);
    }

    #[test]
    fn a_thread_keeps_its_number_and_no_other_running_one_has_it() {
        let own = thread_number();
        let barrier = std::sync::Barrier::new(8);
        let ask = || {
            let number = thread_number();
            barrier.wait();
            assert_eq!(thread_number(), number);
            number
        };
        let mut all: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        all.push(own);
        assert_eq!(thread_number(), own);
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), 9, "{all:?}");
    }

    /// Numbers that only grow would have two readers on one word, by chance.
    #[test]
    fn threads_that_have_ended_leave_their_numbers_to_those_to_come() {
        static OF_THIS_TEST: Numbers = Numbers::new();
        thread_local! {
            static HELD: Held = Held::of(&OF_THIS_TEST);
        }
        let ask = || HELD.with(|held| held.number);
        assert_eq!(ask(), 0);
        for _ in 0..5 {
            assert_eq!(thread::spawn(ask).join().unwrap(), 1);
        }
    }
}
