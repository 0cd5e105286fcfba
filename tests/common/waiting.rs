//! Bounds on waiting, for every test executable that includes this file.
#![forbid(unsafe_code)]

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes longer unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_mins(1);

/// Waits for something that happens without any further call.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < BOUND, "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `act` on a thread of its own; it must not hang and not panic.
pub(crate) fn without_hanging<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = channel();
    let thread = thread::spawn(move || done.send(act()).ok());
    let result = finished.recv_timeout(BOUND).expect("it neither hangs nor panics");
    thread.join().unwrap();
    result
}
