//! Shares out the time: the first round meets every store, the later ones those for which there is time.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What is left of the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    begun: Instant,
    all: Duration,
    /// What the first round may take of it.
    first: Duration,
    /// The longest that a part may take.
    limit: Duration,
}

impl Pace {
    /// The first of several rounds has nine tenths of the time: in it each store is measured several times where that takes
    /// little.
    pub(crate) fn start(all: Duration, rounds: usize, limit: Duration) -> Self {
        let first = if rounds > 1 { all * 9 / 10 } else { all };
        Self { begun: Instant::now(), all, first, limit }
    }

    /// The longest that each part of the next store may take in the first round, with so many stores to come, the next one
    /// among them.
    pub(crate) fn limit(&self, to_come: usize) -> Duration {
        let left = self.first.saturating_sub(self.begun.elapsed());
        let share = left / u32::try_from(to_come.max(1)).unwrap_or(u32::MAX);
        // A store has up to ten parts, and memory is touched before each pass of some. Most take a fraction of this, so a slow store
        // may take several shares as a whole; the shorter time gets, the fewer.
        (share / 4).clamp(self.limit / 20, self.limit)
    }

    /// Whether all of it is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Whether there is time for something that took as long before.
    pub(crate) fn has_time_for(&self, took: Duration) -> bool {
        self.left() > took * 5 / 4
    }

    fn left(&self) -> Duration {
        self.all.saturating_sub(self.begun.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_never_takes_longer_than_its_limit_nor_nothing_at_all() {
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        assert_eq!(Pace::start(hour, 1, minute).limit(1), minute);
        let short = [1, 3].map(|rounds| Pace::start(hour, rounds, minute).limit(60));
        assert!(short[0] > minute * 2 / 10 && short[0] <= minute / 4, "{short:?}");
        assert!(short[1] > minute * 2 / 10 && short[1] <= minute * 9 / 40, "{short:?}");
        let over = Pace::start(Duration::ZERO, 3, minute);
        assert_eq!(over.limit(3), minute / 20);
        assert!(
            over.is_over() && !over.has_time_for(Duration::ZERO) && Pace::start(hour, 3, minute).has_time_for(minute)
        );
    }
}
