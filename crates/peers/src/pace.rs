//! Shares out the time: the first round meets every store, the later ones those for which there is time.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What is left of the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    begun: Instant,
    all: Duration,
    /// The longest that a part may take.
    limit: Duration,
}

impl Pace {
    pub(crate) fn start(all: Duration, limit: Duration) -> Self {
        Self { begun: Instant::now(), all, limit }
    }

    fn left(&self) -> Duration {
        self.all.saturating_sub(self.begun.elapsed())
    }

    /// The longest that each part of the next store may take, with so many stores to come, the next one among them.
    ///
    /// Most stores take a fraction of their share, so a slow one may take several; the shorter time gets, the fewer.
    pub(crate) fn limit(&self, to_come: usize) -> Duration {
        let share = self.left() / u32::try_from(to_come.max(1)).unwrap_or(u32::MAX);
        // A store has up to eight parts, few of them slow, and most stores have none.
        (2 * share).min(self.limit).max(self.limit / 20)
    }

    /// Whether all of it is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Whether there is time for something that took as long before.
    pub(crate) fn has_time_for(&self, took: Duration) -> bool {
        self.left() > took * 5 / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_never_takes_longer_than_its_limit_nor_nothing_at_all() {
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        assert_eq!(Pace::start(hour, minute).limit(1), minute);
        let short = Pace::start(hour, minute).limit(200);
        assert!(short > minute / 2 && short < minute, "{short:?}");
        let over = Pace::start(Duration::ZERO, minute);
        assert_eq!(over.limit(3), minute / 20);
        assert!(over.is_over() && !over.has_time_for(Duration::ZERO) && Pace::start(hour, minute).has_time_for(minute));
    }
}
