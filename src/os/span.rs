//! Where a mapping lies, for the handler of SIGBUS: read without a lock while another thread may be changing it.
//!
//! # Invariants
//!
//! 1. Who reads a range has all of it as it was set once, or none.
#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicUsize, Ordering, fence};

/// A range of addresses under a sequence lock with one writer; empty at first.
#[derive(Debug, Default)]
pub(super) struct Span {
    /// Odd while `start` and `len` are being changed.
    version: AtomicUsize,
    /// 0 if there is no range.
    start: AtomicUsize,
    len: AtomicUsize,
}

impl Span {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self { version: AtomicUsize::new(0), start: AtomicUsize::new(0), len: AtomicUsize::new(0) }
    }

    /// Changes the range; `start` is 0 for none. Nobody else changes it at the same time.
    pub(super) fn set(&self, start: usize, len: usize) {
        // Relaxed: only this thread changes it.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Release pairs with the fence in `holding`: who reads what follows finds the odd version, or a later one.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        // Release pairs with the Acquire in `holding`.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The range, if `address` lies in it. One that changes right now does not hold it.
    pub(super) fn holding(&self, address: usize) -> Option<(usize, usize)> {
        // Acquire pairs with the Release in `set`.
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        // Acquire pairs with the fence in `set`, and keeps the second look behind the range.
        fence(Ordering::Acquire);
        let is_whole = version & 1 == 0 && self.version.load(Ordering::Relaxed) == version;
        (is_whole && start != 0 && address.wrapping_sub(start) < len).then_some((start, len))
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::thread;

    use super::Span;
    use crate::sync::Arc;

    #[test]
    fn a_range_is_never_put_together_from_two() {
        loom::model(|| {
            let span = Arc::new(Span::default());
            span.set(100, 10);
            let handler = {
                let span = Arc::clone(&span);
                // In the first range, and only in one that begins as the first does and is as long as the second.
                thread::spawn(move || [105, 120].map(|address| span.holding(address)))
            };
            span.set(200, 50);
            let [first, torn] = handler.join().unwrap();
            assert!(first.is_none_or(|range| range == (100, 10)), "{first:?}");
            assert_eq!(torn, None);
            assert_eq!((span.holding(105), span.holding(249), span.holding(250)), (None, Some((200, 50)), None));
        });
    }

    #[test]
    fn a_place_that_was_given_back_and_taken_again_holds_only_what_is_registered_now() {
        loom::model(|| {
            let span = Arc::new(Span::default());
            let handler = {
                let span = Arc::clone(&span);
                thread::spawn(move || span.holding(205))
            };
            span.set(200, 10);
            span.set(0, 0);
            let seen = handler.join().unwrap();
            assert!(seen.is_none_or(|range| range == (200, 10)), "{seen:?}");
            assert_eq!(span.holding(205), None);
        });
    }
}
