//! How readers of a mapping learn that a page of it was replaced by zeros.
//!
//! The handler of SIGBUS marks the mapping and raises one count of the process. Readers compare that count with the one at
//! which their mapping was last seen unharmed, a load of a word that practically never changes, and look at the mark only if
//! they differ. The handler itself runs under no model; what it tells does (`loom_models`).
//!
//! # Invariants
//!
//! 1. A mapping is marked before the count is raised for it, and the count is raised before its page is replaced.
//! 2. Whoever sees a count sees the mark of every fault that was counted until then.
//! 3. A count is remembered for a mapping only by somebody who saw it before he found the mapping unmarked.
#![forbid(unsafe_code)]

#[cfg(any(all(test, loom), all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
use crate::sync::atomic::{AtomicBool, fence};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Whether a page of one mapping was replaced.
#[cfg(any(all(test, loom), all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
#[derive(Debug, Default)]
pub(super) struct Mark(AtomicBool);

#[cfg(any(all(test, loom), all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
impl Mark {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    pub(super) fn is_set(&self) -> bool {
        // Acquire pairs with the Release in `Faults::raise`.
        self.0.load(Ordering::Acquire)
    }

    /// For a new mapping, of which nobody has asked yet.
    #[cfg(not(loom))]
    pub(super) fn clear(&self) {
        // Relaxed: what publishes the mapping publishes this.
        self.0.store(false, Ordering::Relaxed);
    }
}

/// How many pages were replaced in this process.
#[cfg(any(all(test, loom), all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
#[derive(Debug, Default)]
pub(super) struct Faults(AtomicU64);

#[cfg(any(all(test, loom), all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
impl Faults {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Says that a page of the marked mapping is about to be replaced (invariant 1).
    pub(super) fn raise(&self, mark: &Mark) {
        // Release pairs with the Acquire in `Mark::is_set`.
        mark.0.store(true, Ordering::Release);
        // Release pairs with the Acquire in `count`. As every fault adds, whoever sees one sees all before it.
        self.0.fetch_add(1, Ordering::Release);
    }

    /// As long as that is the same nothing new is marked.
    #[inline]
    pub(super) fn count(&self) -> u64 {
        // Pairs with the order in which the system replaces the page, after `raise`: bytes that were read before this call,
        // and were replaced ones, make it see their fault.
        fence(Ordering::Acquire);
        // Acquire pairs with the Release in `raise` (invariant 2): without it somebody who read no byte could see the
        // count, miss the mark, and remember that count for a mapping that has zeros.
        self.0.load(Ordering::Acquire)
    }
}

/// The count at which one mapping was last seen without a mark.
#[derive(Debug, Default)]
pub(crate) struct Unharmed(AtomicU64);

impl Unharmed {
    /// Whether the mapping is marked, where `faults` is the count of now.
    #[inline]
    pub(crate) fn has_met_a_fault(&self, faults: u64, is_marked: impl FnOnce() -> bool) -> bool {
        // Relaxed: whoever finds another number looks closer, and the same one was remembered by somebody who saw it.
        faults != self.0.load(Ordering::Relaxed) && self.look(faults, is_marked)
    }

    #[cold]
    fn look(&self, faults: u64, is_marked: impl FnOnce() -> bool) -> bool {
        let is_marked = is_marked();
        if !is_marked {
            // Relaxed: as in `has_met_a_fault`; `faults` was seen before the mark (invariant 3).
            self.0.store(faults, Ordering::Relaxed);
        }
        is_marked
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::thread;

    use super::{Faults, Mark, Unharmed};
    use crate::sync::Arc;
    use crate::sync::atomic::{AtomicU8, Ordering};

    /// A mapping of one page, in a process of its own.
    struct Mapping {
        faults: Faults,
        mark: Mark,
        unharmed: Unharmed,
        page: AtomicU8,
    }

    impl Mapping {
        fn new() -> Arc<Self> {
            let (faults, mark, unharmed) = (Faults::default(), Mark::default(), Unharmed::default());
            Arc::new(Self { faults, mark, unharmed, page: AtomicU8::new(1) })
        }

        /// What the handler does.
        fn fault(&self) {
            self.faults.raise(&self.mark);
            // Release: the system has a new mapping seen by nobody who does not see what came before it.
            self.page.store(0, Ordering::Release);
        }

        fn has_met_a_fault(&self) -> bool {
            self.unharmed.has_met_a_fault(self.faults.count(), || self.mark.is_set())
        }
    }

    /// The count was loaded without an order of its own: somebody who only asked could see the fault counted and the
    /// mapping unmarked, and remember that. The reader who had met the fault then took its zeros for bytes.
    #[test]
    fn who_met_a_fault_is_told_so_whoever_else_asks_at_the_same_time() {
        loom::model(|| {
            let mapping = Mapping::new();
            let other = {
                let mapping = Arc::clone(&mapping);
                thread::spawn(move || mapping.has_met_a_fault())
            };
            mapping.fault();
            assert!(mapping.has_met_a_fault());
            other.join().unwrap();
            assert!(mapping.has_met_a_fault());
        });
    }

    #[test]
    fn who_has_read_a_replaced_byte_is_told_so() {
        loom::model(|| {
            let mapping = Mapping::new();
            let [reader, other] = [true, false].map(|reads| {
                let mapping = Arc::clone(&mapping);
                thread::spawn(move || {
                    // Relaxed: bytes are read without any order.
                    let is_replaced = reads && mapping.page.load(Ordering::Relaxed) == 0;
                    assert!(mapping.has_met_a_fault() || !is_replaced);
                })
            });
            mapping.fault();
            reader.join().unwrap();
            other.join().unwrap();
        });
    }
}
