//! A source whose calls fail when a test says so, and are counted.
//!
//! `fault.rs` has what can fail and how, `faults.rs` what a test sets and reads, `hold.rs` calls that wait for a test,
//! `hints.rs` what the source was told without an answer, and `source.rs` the source itself.

mod fault;
mod faults;
#[cfg(not(loom))]
mod hints;
#[cfg(not(loom))]
mod hold;
mod source;

pub(crate) use self::fault::{Call, Errno, Fault};
pub(crate) use self::faults::Faults;
#[cfg(not(loom))]
pub(crate) use self::hints::Hint;
pub(crate) use self::source::FaultySource;
