//! Shares out the time: each column has its part of it, whose first round meets every store, and whose later ones those for
//! which there is time.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What is left of the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    begun: Instant,
    all: Duration,
    /// How long after the beginning the first round of the present column is to end, and all of it.
    first: Duration,
    end: Duration,
    /// The longest that a part may take.
    limit: Duration,
    /// What the stores so far have taken, and the longest that a part of each might take.
    taken: Duration,
    limits: Duration,
}

/// A store has up to ten parts, most take less than the longest may, and memory is touched before each pass of some: so many of
/// the longest a store is taken to need until some were measured.
const PARTS: u32 = 5;

/// No part may take less than this part of the longest.
const LEAST: u32 = 30;

impl Pace {
    pub(crate) fn start(all: Duration, limit: Duration) -> Self {
        Self { begun: Instant::now(), all, first: all, end: all, limit, taken: limit * PARTS, limits: limit }
    }

    /// Begins a column, the first of so many to come. Where it has several rounds the first has a half of its time.
    pub(crate) fn begin_column(&mut self, to_come: usize, rounds: usize) {
        let now = self.begun.elapsed();
        let share = self.all.saturating_sub(now) / u32::try_from(to_come.max(1)).unwrap_or(u32::MAX);
        self.first = now + if rounds > 1 { share / 2 } else { share };
        self.end = now + share;
    }

    /// The longest that each part of the next store may take in the first round, with so many stores of the column to come, the
    /// next one among them.
    pub(crate) fn limit(&self, to_come: usize) -> Duration {
        let left = self.first.saturating_sub(self.begun.elapsed());
        let share = left / u32::try_from(to_come.max(1)).unwrap_or(u32::MAX);
        let parts = self.taken.div_duration_f64(self.limits).max(1.0);
        share.div_f64(parts).clamp(self.limit / LEAST, self.limit)
    }

    /// What a store has taken in the first round, of which no part might take longer than this.
    pub(crate) fn has_taken(&mut self, took: Duration, limit: Duration) {
        self.taken += took;
        self.limits += limit;
    }

    /// Whether all of it is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.all
    }

    /// Whether the column has time for a round that took as long before.
    pub(crate) fn has_time_for(&self, took: Duration) -> bool {
        self.end.saturating_sub(self.begun.elapsed()) > took * 11 / 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_part_never_takes_longer_than_its_limit_nor_nothing_at_all() {
        assert_eq!(Pace::start(HOUR, MINUTE).limit(1), MINUTE);
        let over = Pace::start(Duration::ZERO, MINUTE);
        assert_eq!(over.limit(3), MINUTE / LEAST);
        assert!(over.is_over() && !over.has_time_for(Duration::ZERO));
    }

    #[test]
    fn each_column_has_its_share_and_its_first_round_a_half_of_it() {
        let near = |one: Duration, other: Duration| one <= other && one + Duration::from_secs(5) > other;
        for (columns, rounds, first) in [(1, 1, HOUR), (1, 3, HOUR / 2), (3, 1, HOUR / 3), (3, 3, HOUR / 6)] {
            let mut pace = Pace::start(HOUR, MINUTE);
            pace.begin_column(columns, rounds);
            let parts = 60;
            let limit = pace.limit(parts) * PARTS * u32::try_from(parts).unwrap();
            assert!(near(limit, first.max(MINUTE / LEAST * 300)), "{columns} columns, {rounds} rounds: {limit:?}");
            let share = HOUR / u32::try_from(columns).unwrap();
            assert!(pace.has_time_for(share * 4 / 5) && !pace.has_time_for(share * 19 / 20), "{columns} columns");
        }
    }

    /// The last stores of a run had no time left where those before them took more than their share.
    #[test]
    fn the_more_of_its_longest_parts_a_store_takes_the_shorter_those_of_the_next_may_be() {
        let mut pace = Pace::start(HOUR, MINUTE);
        let before = pace.limit(60);
        pace.has_taken(before * 12, before);
        let slower = pace.limit(60);
        assert!(slower < before, "{slower:?} of {before:?}");
        pace.has_taken(Duration::from_secs(1), MINUTE);
        assert!(pace.limit(60) > slower);
    }
}
