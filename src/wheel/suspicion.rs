//! What is known of a file that is believed by its hashes only. `suspect` says what follows from it.
//!
//! # Invariants
//!
//! 1. A suspect file stays suspect until other memory is installed.
//! 2. Of all who find a file suspect one is answered that nobody has told it.
//! 3. A file whose sync has failed owes its mark from the first try that failed until one has worked, or it is gone.
#![forbid(unsafe_code)]

use std::time::Instant;

use crate::os::{self, Unharmed};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wheel::back_off::back_off;

/// Why a file is not believed, and who knows.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    suspect: AtomicBool,
    sync_failed: AtomicBool,
    /// What tells that a page of the mapping was replaced by zeros.
    unharmed: Unharmed,
    /// Whether the hook was told, or an earlier run's was.
    told: AtomicBool,
    owed: Mutex<Option<Owed>>,
}

/// A mark that could not be made.
#[derive(Debug)]
struct Owed {
    attempts: u32,
    again: Instant,
}

impl Suspicion {
    /// For other memory; `marked`: an earlier run says that a sync has failed. Only before the file is handed out.
    pub(crate) fn begin(&self, marked: bool) {
        // Relaxed: published as the memory is.
        self.told.store(marked, Ordering::Relaxed);
        self.sync_failed.store(marked, Ordering::Relaxed);
        self.suspect.store(marked, Ordering::Relaxed);
        self.owes_nothing();
    }

    /// Its bytes are believed by their hashes only from now on.
    pub(crate) fn suspect(&self) {
        // Release pairs with the Acquire in `is_suspect`.
        self.suspect.store(true, Ordering::Release);
    }

    /// Whether `suspect` was called. A page that was replaced may not be known yet: see `has_met_a_fault`.
    #[inline]
    pub(crate) fn is_suspect(&self) -> bool {
        // Acquire pairs with the Release in `suspect`.
        self.suspect.load(Ordering::Acquire)
    }

    /// Whether a page of the mapping was replaced by zeros. `look` asks the memory; it is called only if a page of any file
    /// was since it last said no.
    #[inline]
    pub(crate) fn has_met_a_fault(&self, look: impl FnOnce() -> bool) -> bool {
        self.unharmed.has_met_a_fault(os::faults(), || {
            let is_poisoned = look();
            if is_poisoned {
                self.suspect();
            }
            is_poisoned
        })
    }

    /// A sync has failed; whether nobody was told of the file before, which whoever has asked for the sync does then.
    pub(crate) fn sync_failed(&self) -> bool {
        let is_news = self.tell();
        // Release pairs with the Acquire in `has_lost_writes`.
        self.sync_failed.store(true, Ordering::Release);
        self.suspect();
        is_news
    }

    /// Whether a sync has failed, now or in an earlier run.
    pub(crate) fn has_lost_writes(&self) -> bool {
        // Acquire pairs with the Release in `sync_failed`.
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Whether nobody was told of the file before; the caller does it then, and calls `suspect`.
    pub(crate) fn tell(&self) -> bool {
        // Relaxed: the Release of `suspect` carries it to whoever finds the file suspect.
        !self.told.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_told(&self) -> bool {
        // Relaxed: whoever finds it unset looks again by a swap.
        self.told.load(Ordering::Relaxed)
    }

    /// A mark could not be made, and is owed; how often that was so.
    pub(crate) fn owes_its_mark_still(&self) -> u32 {
        let mut owed = self.owed.lock();
        let attempts = owed.as_ref().map_or(1, |owed| owed.attempts.saturating_add(1));
        *owed = Some(Owed { attempts, again: Instant::now() + back_off(attempts) });
        attempts
    }

    /// The mark was made, or nobody will find the file any more.
    pub(crate) fn owes_nothing(&self) {
        *self.owed.lock() = None;
    }

    pub(crate) fn owes_its_mark(&self) -> bool {
        self.owed.lock().is_some()
    }

    /// Whether a mark is owed, and it is time to try again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.owed.lock().as_ref().is_some_and(|owed| owed.again <= now)
    }
}
