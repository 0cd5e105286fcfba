//! Calls that wait until a test lets them go on.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

/// Whether calls of one kind wait, and how many do.
#[derive(Debug, Default)]
pub(super) struct Hold {
    held: Mutex<(bool, u64)>,
    released: Condvar,
}

/// Nobody waits longer for a test that has failed.
const HELD: Duration = Duration::from_mins(if cfg!(miri) { 1000 } else { 1 });

impl Hold {
    /// From now on calls wait, or from now on none does.
    pub(super) fn hold(&self, held: bool) {
        self.held.lock().0 = held;
        self.released.notify_all();
    }

    /// How many calls wait.
    pub(super) fn waiting(&self) -> u64 {
        self.held.lock().1
    }

    /// Waits until nothing is held, or a test must have failed.
    pub(super) fn wait_while_held(&self) {
        let deadline = Instant::now() + HELD;
        let mut held = self.held.lock();
        held.1 += 1;
        while held.0 && Instant::now() < deadline {
            self.released.wait_until(&mut held, deadline);
        }
        held.1 -= 1;
    }
}
