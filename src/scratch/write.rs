//! The writing verbs.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::blittable::{BlittableWriter, BlockSink};
use crate::block::{BlockHash, BlockKind, HashKind, Realm};
use crate::error::{ReadError, WriteError};
use crate::planted;
use crate::scratch::Scratch;
use crate::scratch::handle::Shared;
use crate::sync::Arc;
use crate::wheel::{Closure, FileWheel, NewBlock, Refused};

impl From<Refused> for WriteError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Closed => Self::Closed,
            Refused::Reentrant => Self::Reentrant,
            Refused::Forked => Self::Forked,
        }
    }
}

impl Scratch {
    /// Writes a content block later: returns once its place is reserved, and the block is readable at once.
    ///
    /// `write` gets exactly `len` zeroed bytes and must fill them with the bytes of `hash`, which is checked. It runs
    /// at most once, on a thread of the store or of whoever reads, writes, flushes or closes; a call of it back into
    /// the store gets `Reentrant`. If it panics or writes other bytes, the block is missing again: the reader that
    /// waits for it gets [`ReadError::Failed`], the next [`flush`](Self::flush) says so, and
    /// [`stats`](Self::stats) counts it. Content that is there and was verified is not written again: the closure is
    /// dropped unrun.
    ///
    /// Blocks while the lane has no file, or while more than `max_pending_bytes` wait: then this thread runs closures.
    /// If the same content waits already, its closure is run or awaited first.
    ///
    /// # Errors
    ///
    /// [`WriteError::TooLarge`] before anything changes; [`WriteError::Timeout`], [`WriteError::AllPinned`] or
    /// [`WriteError::Io`] if there was no room by the deadline, [`WriteError::Full`] at once if there will be none;
    /// [`WriteError::Closed`]; [`WriteError::Reentrant`] inside a closure of the same store; [`WriteError::Forked`] in a
    /// forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlockHash, MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let realm = Realm::DEFAULT;
    /// let rows = vec![1_u8; 4096];
    /// let hash = BlockHash::of(&rows);
    /// scratch.write(realm, hash, rows.len(), move |block| block.copy_from_slice(&rows))?;
    /// assert_eq!(scratch.get(realm, hash)?[0], 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(
        &self,
        realm: Realm,
        hash: BlockHash,
        len: usize,
        write: impl FnOnce(&mut [u8]) + Send + 'static,
    ) -> Result<(), WriteError> {
        self.defer(realm, hash, BlockKind::Content, len, Box::new(write))
    }

    /// As [`write`](Self::write), for a block that the caller names: a second write of `key` replaces the first.
    ///
    /// Whatever the closure writes is the block. If it fails, the version before stays, unless its file has made room
    /// meanwhile. A version that still waits is completed before this one takes its place.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlockHash, MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let key = BlockHash::of(b"path/to/object, part 3");
    /// scratch.write_named(Realm::DEFAULT, key, 4, |block| block.copy_from_slice(b"part"))?;
    /// assert_eq!(&scratch.get(Realm::DEFAULT, key)?[..], b"part");
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_named(
        &self,
        realm: Realm,
        key: BlockHash,
        len: usize,
        write: impl FnOnce(&mut [u8]) + Send + 'static,
    ) -> Result<(), WriteError> {
        self.defer(realm, key, BlockKind::Named, len, Box::new(write))
    }

    fn defer(
        &self,
        realm: Realm,
        key: BlockHash,
        kind: BlockKind,
        len: usize,
        closure: Closure,
    ) -> Result<(), WriteError> {
        let wheel = self.wheel();
        let _call = wheel.begin_call()?;
        let len = checked_len(wheel, len)?;
        let deadline = wheel.deadline();
        let hash = wheel.key_hash(realm, key);
        if kind == BlockKind::Content && wheel.has_content(hash, realm, key, false, &deadline) {
            wheel.counters.duplicates.add(1);
            return Ok(());
        }
        if !wheel.complete_pending(hash, realm, key, &deadline) {
            return Err(wheel.timed_out(&deadline));
        }
        wheel.counted(wheel.defer_block((realm, key), kind, len, closure, &deadline))
    }

    /// Stores a content block now: readable when this returns. Gives its hash.
    ///
    /// A block above 64 KiB is stored from `bytes` without a copy; smaller ones are gathered with their neighbours
    /// and reach their file within the gather delay (1 ms by default) or with the next [`flush`](Self::flush), which
    /// also tells if that failed. Content that is there is not stored again: it is compared with its hash first, if it
    /// is of an earlier run. Blocks while the lane has no file, and while three of its gather buffers are being stored.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); [`WriteError::Io`] also if the store itself failed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlockHash, MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let hash = scratch.put(Realm::DEFAULT, b"bytes")?;
    /// assert_eq!(hash, BlockHash::of(b"bytes"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(&self, realm: Realm, bytes: &[u8]) -> Result<BlockHash, WriteError> {
        let wheel = self.wheel();
        let _call = wheel.begin_call()?;
        let len = checked_len(wheel, bytes.len())?;
        let hash = wheel.hash_of(bytes);
        store_content(wheel, realm, hash, &[bytes], len)?;
        Ok(hash)
    }

    /// Stores a block under a key of the caller's choice: a second write of `key` replaces the first.
    ///
    /// Readers that hold the earlier version keep it. Readable when this returns.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlockHash, MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let key = BlockHash::of(b"the newest state");
    /// scratch.put_named(Realm::DEFAULT, key, b"old")?;
    /// scratch.put_named(Realm::DEFAULT, key, b"new")?;
    /// assert_eq!(&scratch.get(Realm::DEFAULT, key)?[..], b"new");
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_named(&self, realm: Realm, key: BlockHash, bytes: &[u8]) -> Result<(), WriteError> {
        let wheel = self.wheel();
        let _call = wheel.begin_call()?;
        let len = checked_len(wheel, bytes.len())?;
        // Memory is asked while the bytes are hashed.
        wheel.index.prefetch(wheel.key_hash(realm, key));
        store_named(wheel, realm, key, wheel.hash_of(bytes), &[bytes], len)
    }

    /// Stores many content blocks: neighbours on disk, one store for many. Gives their hashes in the same order.
    ///
    /// They are in their files when this returns, not gathered. The lengths of all blocks are checked before the first
    /// is stored. Blocks as [`put`](Self::put) does.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), the first failure of several. What was stored stays; blocks of a lane that works are
    /// stored though another one fails.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let hashes = scratch.put_many(Realm::DEFAULT, &[b"one", b"two"])?;
    /// assert_eq!(&scratch.get(Realm::DEFAULT, hashes[1])?[..], b"two");
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_many(&self, realm: Realm, blocks: &[&[u8]]) -> Result<Vec<BlockHash>, WriteError> {
        let wheel = self.wheel();
        let _call = wheel.begin_call()?;
        for bytes in blocks {
            checked_len(wheel, bytes.len())?;
        }
        wheel.counted(wheel.store_many(realm, blocks, &wheel.deadline()))
    }

    /// Removes a block; whether there was one. Readers that hold it keep it.
    ///
    /// The removal takes a directory entry, outlives restarts once it is flushed, and blocks, like a write; a closure
    /// of the block that still waits is run first. While recovery runs, a block that was not found yet is removed too,
    /// though the answer is `false`, and so is one that a store with [`OnFull::Refuse`](crate::OnFull::Refuse) has not found
    /// ([`LaneHealth::unfound`](crate::LaneHealth::unfound)). The bytes stay on the disk until their file is used again.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let hash = scratch.put(Realm::DEFAULT, b"secret")?;
    /// assert!(scratch.remove(Realm::DEFAULT, hash)?);
    /// assert!(!scratch.contains(Realm::DEFAULT, hash)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&self, realm: Realm, hash: BlockHash) -> Result<bool, WriteError> {
        let wheel = self.wheel();
        let _call = wheel.begin_call()?;
        wheel.counted(wheel.remove_key(realm, hash, &wheel.deadline()))
    }

    /// Gives up the blocks of an earlier run that were not found; how many files hold such.
    ///
    /// Only a store with [`OnFull::Refuse`](crate::OnFull::Refuse) has any ([`LaneHealth::unfound`](crate::LaneHealth::unfound)):
    /// its index had no memory for them, or a page of a directory could not be read. It keeps their files, each read that finds
    /// nothing is an error, and in the end no file makes room. From this call on such a read is a miss, and the files make
    /// room in their turn. What is found is kept, and what is removed stays removed; the next opening looks for all that is
    /// left, and may find what was given up, or have to give it up again. To lose nothing, open the store again instead: with
    /// more memory for its index, or on a copy of the file whose sector is bad.
    ///
    /// Takes a short lock, and touches no disk.
    ///
    /// # Errors
    ///
    /// [`ReadError::Busy`] while blocks are still looked for: wait for that
    /// ([`wait_recovered`](Self::wait_recovered)). [`ReadError::Io`] if a thread that searched has panicked: open the store
    /// again. [`ReadError::Closed`], [`ReadError::Reentrant`] in a closure of the store, [`ReadError::Forked`] in a forked
    /// child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use scratchspace::{MemoryFileSource, OnFull, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let scratch = Scratch::builder(MemoryFileSource::builder().build()?).on_full(OnFull::Refuse).open()?;
    /// scratch.wait_recovered(Duration::from_secs(60))?;
    /// if scratch.health().lanes().any(|lane| lane.unfound) {
    ///     // Nobody can read that sector any more, and nobody needs what it named.
    ///     scratch.forget_unfound()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn forget_unfound(&self) -> Result<u64, ReadError> {
        let _call = self.wheel().begin_call()?;
        self.wait_recovered(Duration::ZERO)?;
        Ok(self.wheel().forget_unfound())
    }

    /// A writer of typed values that becomes a block of `realm` at its commit.
    ///
    /// It keeps the store open until it is committed or dropped. What was written is in memory until then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let mut writer = scratch.writer(Realm::DEFAULT);
    /// writer.write(&7_u32);
    /// let hash = writer.commit()?;
    /// assert_eq!(&scratch.get(Realm::DEFAULT, hash)?[..], [7, 0, 0, 0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn writer(&self, realm: Realm) -> BlittableWriter {
        let sink: Arc<dyn BlockSink> = Arc::<Shared>::clone(self.shared());
        BlittableWriter::new(sink, realm)
    }
}

impl BlockSink for Shared {
    fn hash_kind(&self) -> HashKind {
        self.wheel.hash_kind()
    }

    fn commit(
        &self,
        realm: Realm,
        key: Option<BlockHash>,
        hash: BlockHash,
        parts: &[&[u8]],
        len: u32,
    ) -> Result<(), WriteError> {
        let wheel = &self.wheel;
        let _call = wheel.begin_call()?;
        let len = checked_len(wheel, len as usize)?;
        match key {
            Some(key) => store_named(wheel, realm, key, hash, parts, len),
            None => store_content(wheel, realm, hash, parts, len),
        }
    }
}

fn store_content(
    wheel: &FileWheel,
    realm: Realm,
    hash: BlockHash,
    parts: &[&[u8]],
    len: u32,
) -> Result<(), WriteError> {
    let deadline = wheel.deadline();
    if wheel.has_content(wheel.key_hash(realm, hash), realm, hash, true, &deadline) {
        wheel.counters.duplicates.add(1);
        return Ok(());
    }
    let block = NewBlock { realm, key: hash, kind: BlockKind::Content, hash, parts, len };
    wheel.counted(wheel.store_block(&block, &deadline)).map(drop)
}

fn store_named(
    wheel: &FileWheel,
    realm: Realm,
    key: BlockHash,
    hash: BlockHash,
    parts: &[&[u8]],
    len: u32,
) -> Result<(), WriteError> {
    let deadline = wheel.deadline();
    if !wheel.complete_pending(wheel.key_hash(realm, key), realm, key, &deadline) {
        return Err(wheel.timed_out(&deadline));
    }
    let block = NewBlock { realm, key, kind: BlockKind::Named, hash, parts, len };
    wheel.counted(wheel.store_block(&block, &deadline)).map(drop)
}

/// The length of a block, if an empty file holds that much.
fn checked_len(wheel: &FileWheel, len: usize) -> Result<u32, WriteError> {
    // Hazard 25: not asked here, but only when there is no room.
    u32::try_from(len)
        .ok()
        .filter(|len| *len <= wheel.file_size().largest_block() || planted::is(25))
        .ok_or_else(|| wheel.too_large(len as u64))
}
