//! When a call has to end that waits.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::time::{Duration, Instant};

/// When a call has to end: so long after its first wait. One that does not wait does not look at the clock, which takes as long
/// as a look into the index.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    timeout: Duration,
    began: OnceCell<Instant>,
}

impl Deadline {
    /// Begins to run when it is first asked.
    pub(crate) fn of(timeout: Duration) -> Self {
        // Its clock counts steps, of which hashing a long block takes a million.
        let timeout = if cfg!(miri) { timeout.saturating_mul(1000) } else { timeout };
        Self { timeout, began: OnceCell::new() }
    }

    /// Begins to run now.
    pub(crate) fn after(timeout: Duration) -> Self {
        let deadline = Self::of(timeout);
        deadline.began();
        deadline
    }

    pub(crate) fn began(&self) -> Instant {
        *self.began.get_or_init(Instant::now)
    }

    pub(crate) fn at(&self) -> Instant {
        // A timeout beyond what the clock can name is a year: nobody waits longer.
        let began = self.began();
        began.checked_add(self.timeout).unwrap_or_else(|| began + Duration::from_hours(365 * 24))
    }

    pub(crate) fn has_passed(&self) -> bool {
        // In this order: one that begins with it has not passed, unless it has no time at all.
        let at = self.at();
        Instant::now() >= at
    }

    pub(crate) fn waited(&self) -> Duration {
        self.began().elapsed()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_the_first_wait_and_ends_so_much_later() {
        let lazy = Deadline::of(Duration::from_hours(1));
        assert!(lazy.began.get().is_none());
        let before = Instant::now();
        assert!(!lazy.has_passed() && lazy.began() >= before && lazy.at() == lazy.began() + lazy.timeout);
        assert!(Deadline::after(Duration::from_hours(1)).began.get().is_some());
        assert!(Deadline::of(Duration::ZERO).has_passed());
        assert!(Deadline::of(Duration::MAX).at() > Instant::now());
    }
}
