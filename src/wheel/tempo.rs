//! When a lane begins to make its oldest file ready: so early that its writers need not wait for it, and no earlier, as the
//! blocks of that file are gone then.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Pages of a file from which on it pays to be early: 16 MiB. Smaller ones are full by then however early it is begun.
pub(super) const LARGE: u32 = 4096;
/// What took longer waited for readers, or for a disk that was gone: the next ones need not be early for that.
const MOST_REMEMBERED: Duration = Duration::from_millis(100);

/// How long a lane took lately to fill a file, and to make one ready.
#[derive(Debug, Default)]
pub(crate) struct Tempo {
    handed: Option<Instant>,
    filled_in: Option<Duration>,
    ready_in: Option<Duration>,
    /// Of the slowest lately: a disk that is written to takes two or three times as long now and then.
    slowest: Duration,
}

impl Tempo {
    /// The lane has got its next file.
    pub(crate) fn is_handed_a_file(&mut self, now: Instant) {
        self.filled_in = self.handed.map(|before| now.saturating_duration_since(before));
        self.handed = Some(now);
    }

    /// The oldest file was made ready; it was chosen so long ago.
    pub(crate) fn has_made_one_ready(&mut self, took: Duration) {
        self.ready_in = Some(took);
        self.slowest = took.min(MOST_REMEMBERED).max(self.slowest / 8 * 7);
    }

    /// How many of so many pages are filled when the next file is wanted: three quarters, and fewer where twice the time that
    /// the last one took, or the slowest lately, would not be enough then.
    pub(crate) fn mark(&self, pages: u32) -> u32 {
        let latest = pages / 4 * 3;
        let Some((filled, ready)) = self.filled_in.zip(self.ready_in).filter(|_| pages >= LARGE) else { return latest };
        let ready = ready.max(self.slowest);
        let ahead = u128::from(pages) * 2 * ready.as_nanos() / filled.as_nanos().max(1);
        u32::try_from(ahead).map_or(0, |ahead| pages.saturating_sub(ahead)).min(latest)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn mark(filled_in: u64, ready_in: u64, pages: u32) -> u32 {
        let (mut tempo, now) = (Tempo::default(), Instant::now());
        assert_eq!(tempo.mark(pages), pages / 4 * 3, "nothing is known yet");
        tempo.is_handed_a_file(now);
        tempo.is_handed_a_file(now + Duration::from_millis(filled_in));
        tempo.has_made_one_ready(Duration::from_millis(ready_in));
        tempo.mark(pages)
    }

    #[test]
    fn a_file_is_wanted_at_three_quarters_or_twice_its_time_before_it_is_needed() {
        let of = |filled_in, ready_in| mark(filled_in, ready_in, 10_000);
        assert_eq!([of(1000, 1), of(1000, 125), of(1000, 150), of(1000, 400)], [7500, 7500, 7000, 2000]);
        assert_eq!([of(1000, 500), of(1000, 60_000), of(0, 1), of(0, 0)], [0, 0, 0, 7500]);
    }

    #[test]
    fn one_that_was_slow_is_remembered_less_with_each_file() {
        let (mut tempo, now) = (Tempo::default(), Instant::now());
        tempo.is_handed_a_file(now);
        tempo.is_handed_a_file(now + Duration::from_millis(250));
        let mut mark = |ready_in| {
            tempo.has_made_one_ready(Duration::from_millis(ready_in));
            tempo.mark(10_000)
        };
        assert_eq!([mark(40), mark(80), mark(10), mark(10), mark(64)], [6800, 3600, 4400, 5100, 4880]);
        let later: Vec<u32> = (0..6).map(|_| mark(10)).collect();
        assert_eq!(later[4..], [7374, 7500]);
        assert_eq!([mark(60_000), mark(10)], [0, 3000], "of a minute a tenth of a second is remembered");
    }

    #[test]
    fn small_files_are_wanted_at_three_quarters() {
        assert_eq!([mark(10, 10, LARGE - 1), mark(10, 10, LARGE)], [3069, 0]);
    }
}
