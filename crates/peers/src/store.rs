//! What is measured: something that keeps blocks under numbers in a folder.
//!
//! A writer and a reader belong to one thread, so that a store with transactions can have one of its own in each.
//!
//! # Invariants
//!
//! 1. A block begins with its own number, little-endian ([`benchkit::stamp`]), and no number is 0: the limits find their
//!    blocks by nothing else.
//! 2. Whatever a reader lends was put under that number, bit for bit.
//! 3. What was put before `publish` is found by every later read, unless the store forgets or drops it.
#![forbid(unsafe_code)]

use std::path::PathBuf;

/// Why something was not measured.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a store is opened for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where it may put its files; there already.
    pub(crate) folder: PathBuf,
    pub(crate) block_len: usize,
    /// Blocks of the set: all of them must be readable at once, or as many as there is room for if it is `bounded`.
    pub(crate) blocks: u64,
    /// Blocks that are written besides, in a store that is not `bounded`.
    pub(crate) spare: u64,
    /// Threads that write or read at once.
    pub(crate) threads: u64,
    /// The store has the space of the set and no more: older blocks make room.
    pub(crate) bounded: bool,
    /// Bytes of memory that the set competes for: the machine's, or those of a memory cgroup.
    pub(crate) memory: u64,
}

impl Plan {
    /// Bytes of the set.
    pub(crate) fn set(&self) -> u64 {
        self.blocks * self.block_len as u64
    }

    /// Bytes of the blocks that must have room.
    pub(crate) fn room(&self) -> u64 {
        (self.blocks + self.spare) * self.block_len as u64
    }

    /// Bytes for the cache of a store that has one of its own: a quarter of the set, and at most a quarter of the memory.
    pub(crate) fn cache(&self) -> usize {
        usize::try_from((self.set() / 4).min(self.memory / 4)).expect("a 64-bit target")
    }
}

/// A store, open.
pub(crate) trait Store: Send + Sync {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure>;

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure>;

    /// Everything that was published is on the device when it returns.
    fn sync(&self) -> Result<(), Failure>;

    /// Waits until the blocks of an earlier opening are found: a store that looks for them in the background may be asked for
    /// any of them before, and may miss it.
    fn settle(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// One thread's way to write.
pub(crate) trait Writer {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure>;

    /// Forgets a block that is there.
    fn remove(&mut self, number: u64) -> Result<(), Failure>;

    /// What this writer has put is readable when it returns, and what it has removed is not.
    fn publish(&mut self) -> Result<(), Failure>;
}

/// One thread's way to read.
pub(crate) trait Reader {
    /// Lends a block to `visit`, once; false if it is not there.
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure>;

    /// Whether a block is there, by the cheapest question that the store answers.
    fn contains(&mut self, number: u64) -> Result<bool, Failure>;
}

/// What a row of the tables stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This library.
    Own,
    /// Somebody else's store.
    Peer,
    /// What the machine can do through the page cache: the ratios are to the best of these.
    Limit,
    /// What the device can do without the page cache.
    Device,
}

/// Which part of the work says something of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measured {
    All,
    /// Where blocks are read: it writes like another row.
    Reads,
    /// Where sets are written: it reads like another row.
    Fills,
    /// Where the disk is met: past the page cache nothing is hot, and nothing lacks memory.
    Disk,
}

/// A store that can be opened.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    /// For the command line and the tables.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The oldest blocks make room by themselves; from others they are removed one by one.
    pub(crate) forgets: bool,
    pub(crate) measured: Measured,
    /// It reads through a map.
    pub(crate) maps: bool,
    /// How it is configured, and why so.
    pub(crate) settings: &'static str,
    /// Whether it can be had here; if not, why.
    pub(crate) probe: fn() -> Result<(), String>,
    /// Opens it; once it has settled it has all the blocks that an earlier one has synced in that folder.
    pub(crate) open: fn(&Plan) -> Result<Box<dyn Store>, Failure>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The probe of whatever is compiled in.
#[expect(clippy::unnecessary_wraps, reason = "a probe, which others fail")]
pub(crate) fn always() -> Result<(), String> {
    Ok(())
}

/// Bytes of transactions: a store that has them commits when a writer has put so many. At least one block.
pub(crate) const BATCH: usize = 16 << 20;

/// Counts bytes up to a limit.
#[derive(Debug, Default)]
pub(crate) struct Filled(usize);

impl Filled {
    /// Whether `bytes` more fill `limit`; if so it is counted from zero again.
    pub(crate) fn by(&mut self, bytes: usize, limit: usize) -> bool {
        self.0 += bytes;
        let is_full = self.0 >= limit;
        if is_full {
            self.0 = 0;
        }
        is_full
    }
}
