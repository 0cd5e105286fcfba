//! Files of a store that somebody else cuts short, overwrites, removes or replaces, while it runs or is closed.
//!
//! Every test runs in a process of its own, so that a signal is a failure with a name.
#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

mod damage;
mod foreign;
mod guard;
mod length;
mod process;
mod store;
mod suspect;
