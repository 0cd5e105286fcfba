//! The time that entries and headers carry: seconds since the start of 2020, in 32 bits.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2020-01-01T00:00:00Z since 1970: 50 years, 12 of them leap years.
const START: Duration = Duration::from_hours(24 * (50 * 365 + 12));

/// Seconds since 2020-01-01T00:00:00Z: 0 if the clock is before, `u32::MAX` from 2156 on.
pub(crate) fn now() -> u32 {
    seconds_since_start(wall())
}

/// What the clock on the wall shows. An interpreter whose runs repeat has none: there it is always the same day.
pub(crate) fn wall() -> SystemTime {
    if cfg!(miri) { UNIX_EPOCH + START + Duration::from_hours(24 * 3650) } else { SystemTime::now() }
}

fn seconds_since_start(time: SystemTime) -> u32 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since_1970.saturating_sub(START).as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_count_from_2020_and_saturate_at_both_ends() {
        let at = |unix| seconds_since_start(UNIX_EPOCH + Duration::from_secs(unix));
        assert_eq!([at(0), at(1_577_836_799), at(1_577_836_800), at(1_577_836_801)], [0, 0, 0, 1]);
        assert_eq!(at(1_577_836_800 + u64::from(u32::MAX) - 1), u32::MAX - 1);
        assert_eq!(at(1_577_836_800 + u64::from(u32::MAX) + 1), u32::MAX);
        assert_eq!(seconds_since_start(UNIX_EPOCH - Duration::from_secs(1)), 0);
    }

    #[test]
    fn now_is_later_than_the_writing_of_this_test() {
        assert!(now() > 5 * 365 * 24 * 3600);
    }
}
