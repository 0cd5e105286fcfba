//! What the fuzz targets do with their bytes. `tests/corpus.rs` of the library does the same with the seeds, on any
//! toolchain.
//!
//! # Invariants
//!
//! 1. Equal bytes do the same: base stores have fixed ids and nonces, and nothing here is drawn at random.
//! 2. A target knows the format from `docs/format.md` alone (`format.rs`), not from the code that it tests.

pub mod blittable_reader;
mod bounded;
pub mod directory;
pub mod folder;
mod format;
pub mod header;
pub mod seeds;
mod store;
