//! What can go wrong, one type a verb: each variant asks for another reaction of the caller.
//!
//! *Busy*, *missing* and *corrupted* are never merged: the first means "again", the second "rebuild", the third
//! "distrust the disk". Every text is a sentence with the values that says what to do next.
//!
//! # Invariants
//!
//! 1. Every error can be cloned and compared and sent anywhere, so that one failure can be told to many waiters.
#![forbid(unsafe_code)]

mod blittable;
mod io;
mod open;
mod panicked;
mod read;
mod write;

pub use self::blittable::{BlittableError, BlittableErrorKind, CommitError};
pub use self::io::IoError;
pub use self::open::{ConfigError, Layout, OpenError};
pub use self::panicked::ThreadPanicked;
pub use self::read::{FailedClosure, MissingOk, ReadError, ReadWithError};
pub use self::write::{FlushError, WriteError};

pub(crate) use self::panicked::BrokenPromise;
#[cfg(all(test, not(loom)))]
pub(crate) use self::panicked::PLANNED as PLANNED_PANIC;

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_travels<E: std::error::Error + Clone + PartialEq + Send + Sync + 'static>() {}

    #[test]
    fn every_error_can_be_cloned_compared_and_sent() {
        assert_travels::<ReadError>();
        assert_travels::<FailedClosure>();
        assert_travels::<ReadWithError<ConfigError>>();
        assert_travels::<WriteError>();
        assert_travels::<FlushError>();
        assert_travels::<OpenError>();
        assert_travels::<ConfigError>();
        assert_travels::<IoError>();
        assert_travels::<ThreadPanicked>();
        assert_travels::<CommitError>();
        assert_travels::<BlittableError>();
    }
}
