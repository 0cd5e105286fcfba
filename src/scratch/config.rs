//! Every option of a store: unit, range, default and cost; and what was derived from what.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::block::HashKind;
use crate::error::{ConfigError, OpenError};
use crate::scratch::Scratch;
use crate::storage::{DiskFileSource, FileSource};
use crate::sync::Arc;
use crate::wheel::{
    Access, Event, FileWheel, HookOption, LEAST_FILES_A_LANE, OnFull, Verify, WheelOptions, derive_file_size,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Ranges that `open` checks.
const GATHER_BYTES: (u64, u64) = (64 * KIB, 16 * MIB);
const LONGEST_GATHER_DELAY: Duration = Duration::from_secs(10);
const LEAST_STAGING: u64 = 4 * KIB;
const MOST_EXPECTED: u64 = 3 << 25;
const LEAST_INDEX: u64 = 128 * KIB;

/// Options of a store, checked all at once by [`open`](Self::open).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use scratchspace::{MemoryFileSource, Scratch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let source = MemoryFileSource::builder().files_per_folder(8).file_size(1 << 20).build()?;
/// let scratch = Scratch::builder(source)
///     .max_pending_bytes(16 << 20)
///     .gather(0, Duration::ZERO)
///     .temporary()
///     .open()?;
/// println!("{}", scratch.explain());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a store is opened by `open`"]
pub struct ScratchBuilder {
    source: Arc<dyn FileSource>,
    options: WheelOptions,
    /// What `with_capacity` was given, for the explanation.
    pub(crate) capacity: Option<u64>,
}

impl ScratchBuilder {
    pub(crate) fn new(source: Arc<dyn FileSource>) -> Self {
        Self { source, options: WheelOptions::default(), capacity: None }
    }

    /// What happens to a write when every file of its lane is full. Default: [`OnFull::Recycle`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, OnFull, Realm, Scratch, WriteError};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let source = MemoryFileSource::builder().files_per_folder(3).file_size(64 << 10).build()?;
    /// let scratch = Scratch::builder(source).on_full(OnFull::Refuse).open()?;
    /// let refused = (0..100_u8).find_map(|n| scratch.put(Realm::DEFAULT, &[n; 10_000]).err());
    /// assert!(matches!(refused, Some(WriteError::Full { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.options.on_full = on_full;
        self
    }

    /// Bound of every wait, reads included. Default: 30 s. Zero never waits: what would have to is refused at once.
    ///
    /// It does not interrupt a closure that runs on the caller's own thread, nor a call that the disk holds up.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.options.wait_timeout = timeout;
        self
    }

    /// Most bytes that closures of deferred writes may promise before they run. Default: 256 MiB.
    ///
    /// A closure counts as the length of its block and 256 bytes. Above the limit the caller of `write` runs closures
    /// itself, and those that wait are served as they came. A larger block waits alone; 0 lets one closure wait.
    pub fn max_pending_bytes(mut self, bytes: u64) -> Self {
        self.options.max_pending_bytes = bytes;
        self
    }

    /// Most bytes of memory that closures are run in at once: at least 4096. Default: 256 MiB.
    ///
    /// A block larger than this is written alone, and takes its own length. Memory that was used is kept for the next
    /// closure, within the same limit.
    pub fn max_staging_bytes(mut self, bytes: u64) -> Self {
        self.options.max_staging_bytes = bytes;
        self
    }

    /// How many bytes of small blocks a lane gathers for one store, and how long at most they wait for it. Default:
    /// 1 MiB and 1 ms.
    ///
    /// `bytes`: 0, or 64 KiB to 16 MiB; `delay`: at most 10 s. Small are blocks of up to 64 KiB, and up to a quarter of
    /// `bytes`; each takes whole pages of a buffer. What is gathered is readable at once, but is lost if the process is
    /// killed meanwhile. `gather(0, Duration::ZERO)` gathers nothing: each block that is put is in its file before its
    /// call returns, which costs two system calls a block. A lane has up to four buffers of this size. The delay is
    /// exceeded when the disk is behind, and by up to 100 ms while a closure runs on the lane's thread.
    pub fn gather(mut self, bytes: u64, delay: Duration) -> Self {
        self.options.gather_bytes = bytes;
        self.options.gather_delay = delay;
        self
    }

    /// How many blocks the index is made for: 1 to 100,663,296. Default: one for each 16 KiB of disk, from 2^14 to
    /// 2^24.
    ///
    /// Costs about 11 bytes of memory a block, touched as the index fills. Far more blocks than expected push each
    /// other out of the index, which [`Stats::evicted`](crate::Stats::evicted) counts. What finds no place after a restart is
    /// not found, until an opening that expects more: `no_room` of the [`RecoveryReport`](crate::RecoveryReport) counts it.
    ///
    /// With [`OnFull::Refuse`] nothing is pushed out, and all is found after a restart, as long as there is memory: the index grows,
    /// by an eighth and then each time to twice its size, to up to 22 bytes for each block or removal that it has held at once.
    /// What has no place in its first table is looked for in one more for each time, and so is each block that is written. What an
    /// opening has no memory for is counted by `no_room`, and keeps its files until an opening that has, also if it is removed;
    /// until then what is not found is no [`Missing`](crate::ReadError::Missing), but an error.
    pub fn expected_blocks(mut self, blocks: u64) -> Self {
        self.options.expected_blocks = Some(blocks);
        self
    }

    /// How many bytes the tables of the index take at most: 128 KiB or more, whatever is expected. Default: no bound.
    ///
    /// With [`OnFull::Recycle`] the index is made for fewer blocks then. With [`OnFull::Refuse`] it grows up to here, and a
    /// write that it has no place for is [`WriteError::Full`](crate::WriteError::Full). Where memory is bounded from outside,
    /// as by a memory cgroup, this is the only bound that ends in an error: a process that takes more is killed. An index that is full
    /// may need more to find all of its blocks again, in another order. Opened with less than that, such a store answers for each key that it does not find that nobody knows
    /// ([`ReadError::Io`](crate::ReadError::Io)).
    pub fn max_index_bytes(mut self, bytes: u64) -> Self {
        self.options.max_index_bytes = Some(bytes);
        self
    }

    /// How many files of each folder are written at once: 1 to a third of the files of a folder. Default: 1, or as an
    /// existing store was made.
    ///
    /// More lanes let more threads write to one disk; each costs three threads, a fourth one until all its files were
    /// filled once, and its gather buffers. A store keeps its lanes: another number is [`OpenError::LayoutChanged`].
    pub fn lanes_per_folder(mut self, lanes: u16) -> Self {
        self.options.lanes_per_folder = Some(lanes);
        self
    }

    /// How the payloads of a new store are hashed, and with it the keys of its content. Default: XXH3-128, or as an
    /// existing store was made.
    ///
    /// [`BlockHash::of_kind`](crate::BlockHash::of_kind) gives the hashes of a store of another kind, whose promises and
    /// keys they are. A store keeps its kind: another one is [`OpenError::LayoutChanged`]. `HashKind::Blake3` (feature
    /// `blake3`) keeps tenants apart that share a realm and may be hostile; it costs several times the time of XXH3.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{BlockHash, HashKind, MemoryFileSource, Realm, Scratch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kind = HashKind::Xxh3;
    /// let scratch = Scratch::builder(MemoryFileSource::builder().build()?).hash_kind(kind).open()?;
    /// let hash = scratch.put(Realm::DEFAULT, b"block")?;
    /// assert_eq!(hash, BlockHash::of_kind(scratch.hash_kind(), b"block"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn hash_kind(mut self, kind: HashKind) -> Self {
        self.options.hash_kind = Some(kind);
        self
    }

    /// When bytes are compared with their hash. Default: [`Verify::FirstRead`].
    ///
    /// [`Verify::Always`] copies and hashes a block at every read; a single read does so with
    /// [`Scratch::read_verified`]. With [`Verify::Never`] a power cut may show one realm what another has written.
    pub fn verify(mut self, verify: Verify) -> Self {
        self.options.verify = verify;
        self
    }

    /// How blocks that are not in memory are brought there. Default: [`Access::Auto`].
    pub fn access(mut self, access: Access) -> Self {
        self.options.access = access;
        self
    }

    /// How many bytes of blocks stay mapped, about: any number, more is released within 100 ms as a rule, later while the
    /// store's own thread waits for a sync. Default: three quarters of the memory that is available, looked at once a second
    /// while blocks are brought.
    ///
    /// It bounds what the process is seen to take (its resident set), not the page cache of the system, which keeps what is
    /// released until it needs the memory. Blocks are counted: the system may map up to 64 KiB around each that is read, if
    /// it has these in its cache, so that scattered blocks of 4 KiB may be seen to take sixteen times as much. A block that
    /// is released is readable as before, by a call of the system at its next read; one that is lent meanwhile stays where
    /// it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{Access, MemoryFileSource, Scratch};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let source = MemoryFileSource::builder().build()?;
    /// let scratch = Scratch::builder(source).access(Access::Exact).resident_budget(64 << 20).open()?;
    /// assert_eq!(scratch.stats().resident_bytes, 0, "nothing is written yet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn resident_budget(mut self, bytes: u64) -> Self {
        self.options.resident_budget = Some(bytes);
        self
    }

    /// A store that leaves no block behind, not even when the process is killed: its files have no names. Default: off.
    ///
    /// Its folders and their lock files stay. Where the system creates no files without a name (`O_TMPFILE` of Linux),
    /// they lose theirs at once, and a process that is killed just then leaves an empty one. Refused over a store that
    /// holds blocks, or may have held some in a file that is damaged, unless [`reset`](Self::reset) is asked for too.
    pub fn temporary(mut self) -> Self {
        self.options.temporary = true;
        self
    }

    /// Has `hook` called with everything that [`Event`] tells. Default: no hook, and events cost nothing.
    ///
    /// It is called on one thread of its own, `scratch-event`, one event after the other, under no lock: it may take
    /// its time, and may call the store. Nobody waits for it: up to 4096 events wait, later ones are dropped, counted
    /// in [`Stats::events_dropped`](crate::Stats::events_dropped) and told by one [`Event::Dropped`]. A panic in it is
    /// caught and counted in [`Stats::hook_panics`](crate::Stats::hook_panics). [`Scratch::close`] tells what happened
    /// until its end and then drops the hook, on that thread; a hook that hangs is left behind at the deadline. A
    /// second call replaces the hook.
    ///
    /// A hook that holds a handle of the store keeps the store open until somebody calls [`Scratch::close`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::mpsc::channel;
    /// # use scratchspace::{Event, MemoryFileSource, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let source = MemoryFileSource::builder().build()?;
    /// let (told, events) = channel();
    /// let scratch = Scratch::builder(source)
    ///     .on_event(move |event| drop(told.send(event.to_string())))
    ///     .open()?;
    /// assert_eq!(events.recv()?, "file 1 was created for lane 0 with generation 1");
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.options.hook = HookOption(Some(Arc::new(hook)));
        self
    }

    /// Waits longer than this are told ([`Event::Waited`]) and counted
    /// ([`Stats::long_waits`](crate::Stats::long_waits)): any time, zero tells each. Default: 100 ms.
    ///
    /// A wait is told when it ends, and however it ends.
    pub fn report_waits(mut self, above: Duration) -> Self {
        self.options.report_waits = above;
        self
    }

    /// Starts afresh: every block of an existing store is deleted, and the files may have another size, the store
    /// another number of lanes. Default: off. The folders stay the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let source = MemoryFileSource::builder().build()?;
    /// let hash = Scratch::open(source.clone())?.put(Realm::DEFAULT, b"forgotten")?;
    /// let scratch = Scratch::builder(source).reset().open()?;
    /// assert!(!scratch.contains(Realm::DEFAULT, hash)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reset(mut self) -> Self {
        self.options.reset = true;
        self
    }

    /// Buckets of the first table of the index: blocks of a test are few.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn index_buckets(mut self, buckets: usize) -> Self {
        self.options.index_buckets = Some(buckets);
        self
    }

    /// Pages that are sent to the device at once: files of a test are smaller than a piece.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn piece_pages(mut self, pages: u32) -> Self {
        self.options.piece_pages = pages;
        self
    }

    /// Checks the options and opens the store. Costs O(files): blocks of an earlier run are found in the background.
    ///
    /// # Errors
    ///
    /// [`OpenError::Config`] names the option that is out of its range; [`OpenError::LayoutChanged`] if an existing
    /// store has other lanes, another file size or another hash, and nothing is touched; [`OpenError::Foreign`],
    /// [`OpenError::Version`] and [`OpenError::HashKind`] for files that this store cannot be made of;
    /// [`OpenError::InUse`]; [`OpenError::Io`] if no folder works, or one does not and the store is new, temporary or
    /// reset. Otherwise an existing store is opened without the folders that do not work: see [`Scratch::health`].
    pub fn open(self) -> Result<Scratch, OpenError> {
        self.check()?;
        let Self { source, options, capacity } = self;
        let wheel = FileWheel::open(source, options.clone())?;
        let explanation = Explanation::new(&options, capacity, &wheel);
        Ok(Scratch::from_wheel(wheel, explanation))
    }

    /// What needs no answer of the source.
    fn check(&self) -> Result<(), ConfigError> {
        let options = &self.options;
        let (least, most) = GATHER_BYTES;
        if options.gather_bytes != 0 && !(least..=most).contains(&options.gather_bytes) {
            return Err(ConfigError::new("gather bytes", options.gather_bytes, format!("0, or {least} to {most}")));
        }
        if options.gather_delay > LONGEST_GATHER_DELAY {
            let value = format!("{:?}", options.gather_delay);
            return Err(ConfigError::new("gather delay", value, format!("at most {LONGEST_GATHER_DELAY:?}")));
        }
        if options.max_staging_bytes < LEAST_STAGING {
            let range = format!("at least {LEAST_STAGING}");
            return Err(ConfigError::new("max_staging_bytes", options.max_staging_bytes, range));
        }
        if let Some(blocks) = options.expected_blocks
            && !(1..=MOST_EXPECTED).contains(&blocks)
        {
            return Err(ConfigError::new("expected_blocks", blocks, format!("1 to {MOST_EXPECTED}")));
        }
        if let Some(bytes) = options.max_index_bytes
            && bytes < LEAST_INDEX
        {
            return Err(ConfigError::new("max_index_bytes", bytes, format!("at least {LEAST_INDEX}")));
        }
        Ok(())
    }
}

/// The source that `with_capacity` derives from two inputs.
pub(crate) fn source_of_capacity(folders: &[PathBuf], bytes: u64) -> Result<DiskFileSource, OpenError> {
    if folders.is_empty() {
        return DiskFileSource::builder().build();
    }
    let count = folders.len() as u64;
    // Too many folders are refused by `build`.
    let size = derive_file_size(bytes / count, u16::try_from(count).unwrap_or(u16::MAX)).ok_or_else(|| {
        let least = count * u64::from(LEAST_FILES_A_LANE) * 12 * KIB;
        let value = format!("{bytes} bytes with `folders` {count}");
        ConfigError::new("capacity", value, format!("at least {least} bytes, {LEAST_FILES_A_LANE} files a folder"))
    })?;
    DiskFileSource::builder().folders(folders).capacity(bytes).file_size_if_new(size.get()).build()
}

/// Each value of a store's configuration and why it is what it is: one line a value when printed.
///
/// [`Scratch::explain`] gives it.
#[derive(Clone, Debug)]
pub struct Explanation {
    lines: Vec<(&'static str, String, String)>,
}

impl Explanation {
    fn new(options: &WheelOptions, capacity: Option<u64>, wheel: &FileWheel) -> Self {
        let source = wheel.table.source();
        let (folders, files, size) = (source.folders(), source.files_per_folder(), source.file_size().get());
        let derived = |given: bool, why: &str| if given { "as asked".to_owned() } else { why.to_owned() };
        let mut lines = Vec::new();
        let mut line = |name, value: String, why: String| lines.push((name, value, why));
        line("folders", folders.to_string(), "as asked; file n lies in folder (n - 1) mod folders".to_owned());
        let why = match capacity {
            Some(bytes) if derive_file_size(bytes / u64::from(folders), folders) == Some(source.file_size()) => {
                format!(
                    "a sixteenth of {} a folder, 1 MiB to 1 GiB or what 3 to 1023 files take",
                    Size(bytes / u64::from(folders))
                )
            }
            Some(_) => "as the store was made".to_owned(),
            None => "as the source says".to_owned(),
        };
        line("file_size", Size(size).to_string(), why);
        let why = match capacity {
            Some(bytes) => format!("as many as fit into {}", Size(bytes)),
            None => "as the source says".to_owned(),
        };
        line("files_per_folder", files.to_string(), why);
        line(
            "disk",
            Size(size * u64::from(files) * u64::from(folders)).to_string(),
            "file_size x files, never more".to_owned(),
        );
        let why = if wheel.lanes() == folders {
            "one a folder, so that all disks write at once"
        } else {
            "as the store was made"
        };
        let why = derived(options.lanes_per_folder.is_some(), why);
        line("lanes", wheel.lanes().to_string(), why);
        let largest = source.file_size().largest_block();
        line("largest block", Size(u64::from(largest)).to_string(), "what an empty file holds".to_owned());
        let why = derived(options.expected_blocks.is_some(), "one block for each 16 KiB of disk, 2^14 to 2^24");
        line("index", format!("{} blocks, {}", wheel.index.capacity(), Size(wheel.index.memory_bytes())), why);
        let bound = options.max_index_bytes.map_or("no bound".to_owned(), |bytes| Size(bytes).to_string());
        line("max_index_bytes", bound, "no bound unless asked otherwise".to_owned());
        let why = derived(options.hash_kind.is_some(), "XXH3, or as the store was made");
        line("hash_kind", wheel.hash_kind().to_string(), why);
        line("on_full", format!("{:?}", options.on_full), "Recycle unless asked otherwise".to_owned());
        line("verify", format!("{:?}", options.verify), "FirstRead unless asked otherwise".to_owned());
        line("access", format!("{:?}", options.access), "Auto unless asked otherwise".to_owned());
        let budget = options.resident_budget.map_or("what memory allows".to_owned(), |bytes| Size(bytes).to_string());
        line(
            "resident_budget",
            budget,
            derived(options.resident_budget.is_some(), "three quarters of what is available, each second"),
        );
        line("wait_timeout", format!("{:?}", options.wait_timeout), "30 s unless asked otherwise".to_owned());
        line(
            "max_pending_bytes",
            Size(options.max_pending_bytes).to_string(),
            "256 MiB unless asked otherwise".to_owned(),
        );
        line(
            "max_staging_bytes",
            Size(options.max_staging_bytes).to_string(),
            "256 MiB unless asked otherwise".to_owned(),
        );
        let gather = format!("{} for {:?}", Size(options.gather_bytes), options.gather_delay);
        line(
            "gather",
            gather,
            "1 MiB for 1 ms unless asked otherwise; lost at most if the process is killed".to_owned(),
        );
        line("report_waits", format!("{:?}", options.report_waits), "100 ms unless asked otherwise".to_owned());
        line("temporary", options.temporary.to_string(), "off unless asked for".to_owned());
        Self { lines }
    }

    /// Name, value and reason of each line, for people: the texts may change.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.lines.iter().map(|(name, value, why)| (*name, value.as_str(), why.as_str()))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value, why)) in self.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{name:<18} {value:<28} {why}")?;
        }
        Ok(())
    }
}

/// Bytes as a person writes them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{} {name}", self.0 / unit);
            }
            if self.0 >= 10 * unit {
                return write!(f, "{}.{} {name}", self.0 / unit, self.0 % unit * 10 / unit);
            }
        }
        write!(f, "{} B", self.0)
    }
}
