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
    /// What the stores so far have taken, and the longest that a part of each might take.
    taken: Duration,
    limits: Duration,
}

/// A store has up to ten parts, most take less than the longest may, and memory is touched before each pass of some: so many of
/// the longest a store is taken to need until some were measured.
const PARTS: u32 = 5;

impl Pace {
    /// The first of several rounds has nine tenths of the time: in it each store is measured several times where that takes
    /// little.
    pub(crate) fn start(all: Duration, rounds: usize, limit: Duration) -> Self {
        let first = if rounds > 1 { all * 9 / 10 } else { all };
        Self { begun: Instant::now(), all, first, limit, taken: limit * PARTS, limits: limit }
    }

    /// The longest that each part of the next store may take in the first round, with so many stores to come, the next one
    /// among them.
    pub(crate) fn limit(&self, to_come: usize) -> Duration {
        let left = self.first.saturating_sub(self.begun.elapsed());
        let share = left / u32::try_from(to_come.max(1)).unwrap_or(u32::MAX);
        let parts = self.taken.div_duration_f64(self.limits).max(1.0);
        share.div_f64(parts).clamp(self.limit / 20, self.limit)
    }

    /// What a store has taken in the first round, of which no part might take longer than this.
    pub(crate) fn has_taken(&mut self, took: Duration, limit: Duration) {
        self.taken += took;
        self.limits += limit;
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
        assert!(short[0] > minute * 18 / 100 && short[0] <= minute / 5, "{short:?}");
        assert!(short[1] > minute * 16 / 100 && short[1] <= minute * 9 / 50, "{short:?}");
        let over = Pace::start(Duration::ZERO, 3, minute);
        assert_eq!(over.limit(3), minute / 20);
        assert!(
            over.is_over() && !over.has_time_for(Duration::ZERO) && Pace::start(hour, 3, minute).has_time_for(minute)
        );
    }

    /// The last stores of a run had no time left where those before them took more than their share.
    #[test]
    fn the_more_of_its_longest_parts_a_store_takes_the_shorter_those_of_the_next_may_be() {
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        let mut pace = Pace::start(hour, 1, minute);
        let before = pace.limit(60);
        pace.has_taken(before * 12, before);
        let slower = pace.limit(60);
        assert!(slower < before, "{slower:?} of {before:?}");
        pace.has_taken(Duration::from_secs(1), minute);
        assert!(pace.limit(60) > slower);
    }
}
