//! Scratch: the block store. Writes, reads, removes, flushes and closes.
#![forbid(unsafe_code)]

mod block_ref;
#[cfg(all(test, not(loom)))]
mod boots;
#[cfg(all(test, not(loom)))]
mod broken;
#[cfg(all(test, not(loom)))]
mod closing;
#[cfg(all(test, not(loom)))]
mod comparing;
mod config;
#[cfg(all(test, not(loom)))]
mod damaged;
#[cfg(all(test, not(loom)))]
mod events;
#[cfg(all(test, not(loom)))]
mod faults;
#[cfg(all(test, not(loom)))]
mod foreign;
#[cfg(all(test, not(loom)))]
mod grown;
mod handle;
#[cfg(all(test, not(loom)))]
mod hazards;
mod health;
#[cfg(all(test, not(loom)))]
mod history;
#[cfg(all(test, not(loom)))]
mod lanes;
#[cfg(all(test, not(loom)))]
mod memory;
#[cfg(all(test, not(loom)))]
mod opening;
#[cfg(all(test, not(loom)))]
mod power;
mod read;
#[cfg(all(test, not(loom)))]
mod refusing;
#[cfg(all(test, not(loom)))]
mod searching;
#[cfg(all(test, not(loom)))]
mod sequences;
#[cfg(all(test, not(loom)))]
mod small;
mod stats;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom)))]
mod unfound;
#[cfg(all(test, not(loom)))]
mod waits;
mod write;

pub use self::block_ref::BlockRef;
pub use self::config::{Explanation, ScratchBuilder};
pub use self::handle::Scratch;
pub use self::health::{Broken, BrokenFile, FolderHealth, Health, HealthState, LaneHealth, OldestPin};
pub use self::read::BlockInfo;
pub use self::stats::Stats;
