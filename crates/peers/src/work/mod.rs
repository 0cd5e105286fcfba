//! What stores are made to do, each timed by itself.
//!
//! # Invariants
//!
//! 1. Every block that is read is compared with what was written; one wrong byte ends the run of that store.
//! 2. A part that takes longer than its limit is ended between two blocks, and says so.
#![forbid(unsafe_code)]

mod fill;
mod mixed;
mod read;

use std::time::{Duration, Instant};

pub(crate) use fill::{Fill, Written, fill};
pub(crate) use mixed::{mixed, write};
pub(crate) use read::{Order, Reads, contained, first_found, hot, pass};

/// The time that a part may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begun: Instant,
    limit: Duration,
}

impl Clock {
    pub(crate) fn start(limit: Duration) -> Self {
        Self { begun: Instant::now(), limit }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.elapsed() >= self.limit
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Asks the clock once for so many bytes.
const BYTES_A_LOOK: usize = 64 << 10;

/// Bytes in a time, in GiB/s.
#[expect(clippy::cast_precision_loss, reason = "a rate of three digits")]
pub(crate) fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 30) / time.as_secs_f64().max(1e-9)
}
