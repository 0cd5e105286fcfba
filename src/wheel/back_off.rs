//! How long to wait before what has failed is tried again.
#![forbid(unsafe_code)]

use std::time::Duration;

/// After a first failure, the same is tried again this much later, then after twice as long each time.
const FIRST: Duration = Duration::from_millis(200);
/// The longest time between two tries.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);

/// How long after so many failures in a row, at least one, the same is tried again.
pub(crate) fn back_off(failures: u32) -> Duration {
    (FIRST * (1 << failures.min(10)) / 2).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_time_until_the_next_try_up_to_the_longest() {
        let times = [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|failures| back_off(failures).as_millis());
        assert_eq!(times, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }
}
