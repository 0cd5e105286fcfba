//! A panic that was caught: who panicked, and what it said.
#![forbid(unsafe_code)]

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::thread;

/// A panic of a thread of the store, or of its file source, that the store has caught. It is the
/// [`source`](Error::source) of an [`IoError`](super::IoError), which gives it by
/// [`panicked`](super::IoError::panicked).
///
/// # Examples
///
/// ```
/// use scratchspace::IoError;
///
/// fn report(error: &IoError) -> String {
///     match error.panicked() {
///         Some(panicked) => format!("{:?} has panicked, mend it: {}", panicked.thread, panicked.message),
///         None => error.to_string(),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadPanicked {
    /// The name of the thread, if it has one: those of the store begin with `scratch-`.
    pub thread: Option<String>,
    /// The message of the panic; empty if that was no text.
    pub message: String,
}

impl ThreadPanicked {
    /// What the current thread has caught.
    pub(crate) fn caught(payload: Box<dyn Any + Send>) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        // What it panicked with may be anybody's, and panic when it is dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        let panicked = Self { thread: thread::current().name().map(str::to_owned), message };
        #[cfg(test)]
        end_unless_planned(&panicked);
        panicked
    }
}

impl fmt::Display for ThreadPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.thread {
            Some(thread) => write!(f, "thread {thread} panicked: {}", self.message),
            None => write!(f, "a thread panicked: {}", self.message),
        }
    }
}

impl Error for ThreadPanicked {}

/// What a file source has done against its contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokenPromise(pub(crate) String);

impl fmt::Display for BrokenPromise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for BrokenPromise {}

/// What the message of a panic says that a test has planned.
#[cfg(test)]
pub(crate) const PLANNED: &str = "as the test asks";

/// Any other panic is a defect, whatever the test looks at, and ends the tests.
#[cfg(test)]
fn end_unless_planned(panicked: &ThreadPanicked) {
    use std::io::Write;

    if !panicked.message.contains(PLANNED) {
        // Past the capture of the test's output, which an abort would lose.
        let _ = writeln!(std::io::stderr(), "planned by no test: {panicked}");
        std::process::abort();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::panic_any;

    use super::*;

    #[test]
    fn a_caught_panic_tells_thread_and_message() {
        let caught = |act: fn()| {
            let thread = thread::Builder::new().name("scratch-test".to_owned());
            let act = move || ThreadPanicked::caught(catch_unwind(act).unwrap_err());
            thread.spawn(act).unwrap().join().unwrap().to_string()
        };
        assert_eq!(caught(|| panic!("as the test asks")), "thread scratch-test panicked: as the test asks");
        let text = caught(|| panic_any(format!("{} asks", "as the test")));
        assert_eq!(text, "thread scratch-test panicked: as the test asks");
    }
}
