//! The handle: opening, cloning, flushing and closing a store.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::block::HashKind;
use crate::error::{FlushError, IoError, OpenError, ReadError, WriteError};
use crate::scratch::config::{self, Explanation};
use crate::scratch::{Health, ScratchBuilder, Stats};
use crate::storage::FileSource;
use crate::sync::Arc;
use crate::wheel::{CloseReport, FileWheel, Recovery, RecoveryReport, Unrecovered};

/// Longest time that dropping the last handle takes for closures that still wait.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// A bounded store of independent blocks on local disks.
///
/// Blocks are written once, found again by `(realm, hash)`, and read as `&[u8]` straight from a memory mapping. When
/// the space is used up the oldest file of blocks makes room for the newest.
///
/// A handle is cheap to clone and may be used from many threads. Dropping the last one is a
/// [`close`](Self::close) of five seconds, whose report is lost.
///
/// A store belongs to the process that opened it. In a forked child every verb of an inherited handle fails with
/// `Forked` at once ([`stats`](Self::stats) and [`recovery`](Self::recovery) say nothing, [`close`](Self::close) and
/// dropping do nothing), and the parent goes on unharmed. A closure that forks must end its child itself: a child that
/// returns from a closure of a write, or from a hook, is aborted.
///
/// # Examples
///
/// ```
/// use scratchspace::{MemoryFileSource, MissingOk, Realm, Scratch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
/// let hash = scratch.put(Realm::DEFAULT, b"spilled")?;
/// let len = scratch.read(Realm::DEFAULT, hash, <[u8]>::len)?;
/// assert_eq!(len, 7);
///
/// scratch.remove(Realm::DEFAULT, hash)?;
/// assert!(scratch.get(Realm::DEFAULT, hash).missing_ok()?.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Scratch {
    shared: Arc<Shared>,
}

/// What all handles of a store share; the last one closes it.
pub(crate) struct Shared {
    pub(crate) wheel: Arc<FileWheel>,
    explanation: Explanation,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.wheel.is_forked() {
            // Nothing of it is dropped in a forked child: no closure, no mapping, no lock of the parent's.
            std::mem::forget(Arc::clone(&self.wheel));
            return;
        }
        // A close that was asked for had its time: what hangs still is not waited for again.
        if !self.wheel.is_over() {
            self.wheel.close(DROP_TIMEOUT);
        }
    }
}

impl Scratch {
    /// Opens a store of at most `bytes` bytes over `folders`, one disk each; everything else is derived.
    ///
    /// A store that is there already keeps its file size and its lanes; only the number of its files follows
    /// `bytes`. [`explain`](Self::explain) prints each derived value and why.
    ///
    /// # Errors
    ///
    /// [`OpenError::Config`] if `bytes` makes fewer than three files a lane, or more than 1023 of the size that the
    /// store has; those of [`DiskFileSourceBuilder::build`](crate::DiskFileSourceBuilder::build) and
    /// [`ScratchBuilder::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{Realm, Scratch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let scratch = Scratch::with_capacity([folder.join("nvme0"), folder.join("nvme1")], 96 << 20)?;
    /// println!("{}", scratch.explain());
    /// let hash = scratch.put(Realm::DEFAULT, &[7; 100_000])?;
    /// assert_eq!(scratch.get(Realm::DEFAULT, hash)?.len(), 100_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_capacity<P: Into<PathBuf>>(
        folders: impl IntoIterator<Item = P>,
        bytes: u64,
    ) -> Result<Self, OpenError> {
        Self::builder_with_capacity(folders, bytes)?.open()
    }

    /// As [`with_capacity`](Self::with_capacity), with options to be set before it is opened.
    ///
    /// # Errors
    ///
    /// As [`with_capacity`](Self::with_capacity) for its capacity and folders; the options are checked by
    /// [`ScratchBuilder::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::Scratch;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// // Blocks of a page: more than the one for each 16 KiB that a store is made for.
    /// let builder = Scratch::builder_with_capacity([folder.join("nvme0")], 96 << 20)?;
    /// let scratch = builder.expected_blocks(30_000).open()?;
    /// # assert!(scratch.stats().index_bytes > 30_000 * 8);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder_with_capacity<P: Into<PathBuf>>(
        folders: impl IntoIterator<Item = P>,
        bytes: u64,
    ) -> Result<ScratchBuilder, OpenError> {
        let folders: Vec<PathBuf> = folders.into_iter().map(Into::into).collect();
        let mut builder = Self::builder(config::source_of_capacity(&folders, bytes)?);
        builder.capacity = Some(bytes);
        Ok(builder)
    }

    /// Opens a store over the files of `source` with the default options.
    ///
    /// # Errors
    ///
    /// As [`ScratchBuilder::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{DiskFileSource, Scratch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let source = DiskFileSource::builder()
    ///     .folder(folder.path().join("store"))
    ///     .files_per_folder(4)
    ///     .file_size(8 << 20)
    ///     .build()?;
    /// let scratch = Scratch::open(source)?;
    /// assert!(scratch.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(source: impl FileSource) -> Result<Self, OpenError> {
        Self::builder(source).open()
    }

    /// Full control over a store on the files of `source`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use scratchspace::{MemoryFileSource, OnFull, Scratch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let scratch = Scratch::builder(MemoryFileSource::builder().build()?)
    ///     .on_full(OnFull::Refuse)
    ///     .wait_timeout(Duration::from_secs(2))
    ///     .open()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(source: impl FileSource) -> ScratchBuilder {
        ScratchBuilder::new(Arc::new(source))
    }

    pub(crate) fn from_wheel(wheel: Arc<FileWheel>, explanation: Explanation) -> Self {
        Self { shared: Arc::new(Shared { wheel, explanation }) }
    }

    pub(crate) fn wheel(&self) -> &FileWheel {
        &self.shared.wheel
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Each value of the configuration, and why it is what it is: of an existing store, as it was found.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let (_, value, why) = scratch.explain().iter().find(|(name, ..)| *name == "wait_timeout").unwrap();
    /// assert_eq!((value, why), ("30s", "30 s unless asked otherwise"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn explain(&self) -> &Explanation {
        &self.shared.explanation
    }

    /// Makes every write durable that returned before the call, deferred ones too, but for those whose failure was told.
    ///
    /// Runs the closures that wait, or waits for whoever runs them (up to the wait timeout), stores what was gathered,
    /// and syncs every file that was stored to since its last sync. Blocks for as long as the disks take.
    ///
    /// # Errors
    ///
    /// [`FlushError`] says how many closures and gathered blocks failed since the last flush that said so, why the
    /// first one did, and whether a disk lost writes. Each failure is told by those flushes that began before it was
    /// first told, and by no later one: whoever flushes from several threads collects the errors of all of them. A sync
    /// that fails while other threads are storing blocks is told once more when they have ended, as these may be lost. A
    /// closure that has not ended by the wait timeout is
    /// [`FailedClosure::Busy`](crate::FailedClosure::Busy): its block is not durable, all others are. On a closed
    /// store, and inside a closure of the store, `io` says so.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlockHash, MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// scratch.put(Realm::DEFAULT, b"kept")?;
    /// scratch.flush()?;
    ///
    /// // A closure that breaks its promise is told by the next flush.
    /// scratch.write(Realm::DEFAULT, BlockHash::of(b"promised"), 8, |bytes| bytes.fill(0))?;
    /// assert_eq!(scratch.flush().unwrap_err().failed, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn flush(&self) -> Result<(), FlushError> {
        let _call = self.wheel().begin_call().map_err(|closed| {
            let error = std::io::Error::other(WriteError::from(closed));
            FlushError { failed: 0, first: None, io: Some(IoError::new("flushing the store", None, error)) }
        })?;
        self.wheel().flush()
    }

    /// Closes the store: later calls of this and every other handle fail with `Closed`.
    ///
    /// Closures that wait are run until `timeout` is over, the rest is dropped and counted. Then everything is made
    /// durable and the threads are joined; one that hangs in a closure is left behind at the deadline. Blocks for as
    /// long as that takes: `timeout` bounds the waiting, but neither the closure that this thread runs just then nor
    /// the disks. The report tells what was lost, and what failed since the last [`flush`](Self::flush) that said so;
    /// [`is_clean`](CloseReport::is_clean) asks for all of it. Called inside a closure of the store, or by its hook, it
    /// tells the threads to end and does not wait for them.
    ///
    /// Blocks that are still lent stay readable, and keep the folders locked until the last of them, and the last
    /// handle, is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use scratchspace::{BlockHash, MemoryFileSource, Realm, Scratch, WriteError};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let hash = scratch.put(Realm::DEFAULT, b"lent")?;
    /// let block = scratch.get(Realm::DEFAULT, hash)?;
    /// let report = scratch.close(Duration::from_secs(10));
    /// assert!(report.is_clean(), "{report:?}");
    /// assert_eq!(&block[..], b"lent");
    /// assert_eq!(scratch.put(Realm::DEFAULT, b"late"), Err(WriteError::Closed));
    /// # Ok(())
    /// # }
    /// ```
    #[expect(clippy::must_use_candidate, reason = "whoever has flushed has no use for the report")]
    pub fn close(&self, timeout: Duration) -> CloseReport {
        self.wheel().close(timeout)
    }

    /// How the store hashes payloads, and so what the keys of its content are.
    #[must_use]
    pub fn hash_kind(&self) -> HashKind {
        self.wheel().hash_kind()
    }

    /// How many blocks the store holds now, in all realms, deferred ones included. Touches no disk.
    ///
    /// While blocks of an earlier run are looked for, those that were found so far. None of a folder that is not there, nor
    /// what a store that may not forget did not find ([`for_each`](Self::for_each) fails then, [`health`](Self::health) tells
    /// which lanes). Zero in a forked child.
    #[must_use]
    pub fn len(&self) -> u64 {
        if self.wheel().is_forked() { 0 } else { self.wheel().live_blocks() }
    }

    /// Whether the store holds no block, as far as [`len`](Self::len) counts them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the store counts. Takes a short lock, and touches no disk. All zero in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// scratch.put(Realm::DEFAULT, b"block")?;
    /// scratch.put(Realm::DEFAULT, b"block")?;
    /// let stats = scratch.stats();
    /// assert_eq!((stats.blocks, stats.bytes, stats.duplicates), (1, 5, 1));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(self.wheel())
    }

    /// How the store is: which lanes are broken and why, which files may have lost writes, who holds a file up.
    ///
    /// Lanes and files are of one instant; `unmarked`, `recovering` and `readable` of a moment later. Takes short locks, and
    /// touches no disk. Failed, closed and empty in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{HealthState, MemoryFileSource, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let health = scratch.health();
    /// assert_eq!(health.state, HealthState::Healthy);
    /// assert_eq!(health.to_string(), "The store is healthy: 0 of 1 lanes broken.");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        Health::of(self.wheel())
    }

    /// How far the search for blocks of an earlier run has come.
    ///
    /// Until it is [`complete`](Recovery::complete) a block that was not found yet reads as missing. A folder that is not
    /// there is not waited for: its keys read as `Io` meanwhile, and are searched once it is back. Never waits. Not
    /// complete, and empty, in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let recovery = scratch.recovery();
    /// assert!(recovery.complete && recovery.files_total == 0, "a new store has nothing to look for");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        if self.wheel().is_forked() {
            return Recovery::default();
        }
        self.wheel().recovery.snapshot()
    }

    /// Waits until the search for blocks of an earlier run is [`complete`](Recovery::complete); at once for a new store.
    ///
    /// # Errors
    ///
    /// [`ReadError::Busy`] if that takes longer than `timeout`: it goes on. [`ReadError::Io`] if a thread that searched has
    /// panicked: open the store again. [`ReadError::Closed`] if the store is, or was closed meanwhile, before the search
    /// had ended. [`ReadError::Forked`] in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let source = MemoryFileSource::builder().build()?;
    /// let scratch = Scratch::open(source.clone())?;
    /// scratch.put(Realm::DEFAULT, b"survives")?;
    /// drop(scratch);
    ///
    /// let scratch = Scratch::open(source)?;
    /// let report = scratch.wait_recovered(Duration::from_secs(10))?;
    /// assert_eq!((report.blocks, report.bytes), (1, 8));
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_recovered(&self, timeout: Duration) -> Result<RecoveryReport, ReadError> {
        if self.wheel().is_forked() {
            return Err(ReadError::Forked);
        }
        let found = self.wheel().recovery.wait(timeout);
        found.map_err(|why| match why {
            Unrecovered::NotYet => ReadError::Busy { waited: timeout },
            Unrecovered::Failed(error) => ReadError::Io(error),
            Unrecovered::Closed => ReadError::Closed,
        })
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("wheel", self.wheel()).finish()
    }
}

const _: () = {
    const fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<Scratch>();
};
