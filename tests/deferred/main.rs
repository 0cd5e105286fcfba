//! Facts about what waits: closures, gathered blocks, flushes, and the end of a store.
#![forbid(unsafe_code)]

mod close;
mod closures;
mod flush;
mod kill;
mod place;
mod process;
#[path = "../common/skipped.rs"]
mod skipped;
mod threads;
#[path = "../common/waiting.rs"]
mod waiting;
