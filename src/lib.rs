//! A bounded store of binary blocks on local disks, read zero-copy from a memory mapping.
//!
//! [`Scratch`] keeps blocks of up to 2^31 - 33 bytes, each written once, in a few large preallocated files, finds them
//! by `(realm, hash)`, and lends them as `&[u8]`. When the space is used up, the oldest file of blocks makes room for
//! the newest. What it holds survives restarts and `kill -9`; [`Scratch::flush`] makes it survive a power cut.
//!
//! It is made for data that can be computed or fetched again: caches, spilled intermediate results. It is not a
//! database: there are no transactions, no order of keys, no second process on one store, and by default no promise to
//! keep a block for ever ([`OnFull`] says what happens when the space is used up).
//!
//! ```
//! use scratchspace::{MissingOk, Realm, Scratch};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folders = [folder.path().join("nvme0")];
//! let scratch = Scratch::with_capacity(folders, 64 << 20)?;
//! let hash = scratch.put(Realm::DEFAULT, b"spilled")?;
//! let found = scratch.read(Realm::DEFAULT, hash, |bytes| bytes.to_vec()).missing_ok()?;
//! assert_eq!(found.as_deref(), Some(&b"spilled"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | reading and writing blocks | [`Scratch`] |
//! | options | [`ScratchBuilder`], [`DiskFileSourceBuilder`]; [`Scratch::explain`] prints what was derived |
//! | typed values in a block | [`BlittableWriter`], [`BlittableReader`] |
//! | a store without a disk | [`MemoryFileSource`] |
//! | what can fail, and what to do then | [`ReadError`], [`WriteError`], [`FlushError`], [`OpenError`], [`CommitError`] |
//! | what a store does | [`Stats`], [`Recovery`] |
//! | how a store is | [`Health`], [`Event`] |
//!
//! # Features
//!
//! None is on by default. `sigbus-guard` (Linux): a page of a mapped file that cannot be read is an error of the read
//! that met it instead of the end of the process. The first mapping installs a handler of SIGBUS for the life of the
//! process; signals that do not concern a mapping of this library go to the handler that was there before. Install a
//! handler of your own before the first store is opened, or hand on what it does not know.
//!
//! # Memory
//!
//! The index takes about 11 bytes for each block it is made for (touched as it fills), each slot ever used a byte, each
//! lane up to four gather buffers (1 MiB by default), and closures that wait or run what
//! [`max_pending_bytes`](ScratchBuilder::max_pending_bytes) and
//! [`max_staging_bytes`](ScratchBuilder::max_staging_bytes) allow. Blocks themselves are page cache.
//!
//! `README.md` has the limits, the promises and the platforms; `docs/design.md` tells how it works and `docs/format.md`
//! draws the bytes on disk.

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!(
    "scratchspace supports little-endian 64-bit targets only: typed values are stored as they lie in memory"
);

#[cfg(benching)]
#[doc(hidden)]
pub mod benching;
mod blittable;
mod block;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod os;
mod planted;
mod scratch;
mod storage;
mod sync;
mod wheel;

/// Derives and traits for what a [`BlittableWriter`] may write and a [`BlittableReader`] may read.
pub use bytemuck;

pub use crate::blittable::{BlittableIo, BlittableReader, BlittableWriter, Delayed};
pub use crate::block::{
    BlockAddress, BlockHash, BlockHasher, BlockKind, FileId, FileSize, HashKind, MAX_BLOCK, PAGE_SIZE, ParseHashError,
    Realm, RealmError, Slot, StoreId, pages_of,
};
pub use crate::error::{
    BlittableError, BlittableErrorKind, CommitError, ConfigError, FailedClosure, FlushError, IoError, Layout,
    MissingOk, OpenError, ReadError, ReadWithError, ThreadPanicked, WriteError,
};
pub use crate::scratch::{
    BlockInfo, BlockRef, Broken, BrokenFile, Explanation, FolderHealth, Health, HealthState, LaneHealth, OldestPin,
    Scratch, ScratchBuilder, Stats,
};
pub use crate::storage::{
    DiskFileSource, DiskFileSourceBuilder, FileMemory, FileSource, Found, MemoryFileSource, MemoryFileSourceBuilder,
};
pub use crate::wheel::{Access, CloseReport, Event, OnFull, Recovery, RecoveryReport, Skipped, Verify, WaitCause};

/// The examples of the README, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
