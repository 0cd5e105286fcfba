//! `FileWheel`: files that turn. Reserves, stores, lends, seals, recycles and recovers.
//!
//! The wheel is one struct with one `impl` block a concern, each in its file:
//!
//! | file | concern |
//! |---|---|
//! | `publish` | what the index names, and how much of a file is live |
//! | `store`, `batch` | blocks that are stored on the caller's thread |
//! | `defer`, `budget` | writes whose closure waits, and how much memory those keep |
//! | `run` | closures: who runs them, and how they end |
//! | `find`, `known` | from a key to bytes that are lent; whether a miss proves anything |
//! | `residency`, `regions` | how blocks come into memory, and how much of them stays |
//! | `verify` | whether stored bytes are those that were written, and what a reader is told if not |
//! | `turn` | what each lane has: files that are filled, handed out, sealed, or die next |
//! | `room`, `deadline` | room for a writer: in the active file, or in the next one, which it waits for; until when |
//! | `keeper`, `recycle` | the background life of files |
//! | `syncer`, `write_back`, `pieces` | the way of what was stored to the device |
//! | `tempo`, `pace` | how early a file makes room, and how far writers run ahead of the device |
//! | `flusher`, `work` | the background life of closures and gather buffers |
//! | `plan`, `open`, `attach` | files of an earlier run, and folders that come late |
//! | `recovery`, `directory`, `progress` | blocks of an earlier run: found, read, and how far that is |
//! | `suspicion`, `suspect` | files that are believed by their hashes only, and the word that the next run is left |
//! | `settle` | flush and close |
//! | `threads` | the background threads, and what becomes of the lane of one that panics |
//! | `failing`, `back_off` | lanes and files that fail, and when that is tried again |
//! | `hook`, `tell`, `health` | what users see of failures: events, broken lanes, the state of all |
//!
//! # Invariants
//!
//! 1. Payload, then entry, then READY or GATHERED, then the index, then `finish`.
//! 2. An address is put into the index only by whoever holds a pin on its file or an unfinished reservation in it.
//! 3. A word that leaves the index lowers its file's live count; a word that enters has raised it before.

mod ahead;
mod attach;
mod back_off;
mod batch;
mod budget;
mod copied;
mod counters;
mod cursor;
mod deadline;
mod defer;
mod directory;
mod event;
mod failing;
mod file;
mod find;
mod flusher;
mod gather;
mod health;
mod high_water;
mod hook;
mod keeper;
mod known;
mod lane;
mod lend;
#[cfg(all(test, loom))]
mod loom_models;
#[cfg(all(test, loom))]
mod loom_wheel;
#[cfg(all(test, not(loom)))]
mod observe;
mod open;
mod pace;
mod pending;
mod pieces;
mod pin;
mod plan;
mod progress;
mod publish;
mod recovery;
mod recycle;
mod regions;
mod remove;
mod reserve;
mod residency;
mod room;
mod run;
mod settle;
mod slots;
mod staging;
mod state;
mod store;
mod stride;
mod suspect;
mod suspicion;
mod syncer;
mod tell;
mod tempo;
mod thread_number;
mod threads;
mod ticket;
mod turn;
mod verify;
mod work;
mod write_back;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::block::{BlockHash, FileId, FileSize, HashKind, KeyHash, Realm};
use crate::error::IoError;
use crate::index::BlockIndex;
use crate::storage::Panics;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, thread};

pub(crate) use self::copied::Copied;
pub(crate) use self::counters::{Counters, Failures};
pub(crate) use self::deadline::Deadline;
pub use self::event::{Event, WaitCause};
pub(crate) use self::failing::Unready;
pub(crate) use self::file::FileTable;
pub(crate) use self::find::Lent;
pub(crate) use self::health::LaneState;
pub(crate) use self::hook::HookOption;
pub(crate) use self::lend::OwnedPin;
pub(crate) use self::pending::Closure;
pub use self::progress::{Recovery, RecoveryReport, Skipped};
pub(crate) use self::publish::BlockView;
#[cfg(all(test, not(loom)))]
pub(crate) use self::regions::REGION;
#[cfg(all(test, not(loom)))]
pub(crate) use self::residency::ALONE;
pub use self::residency::Access;
pub use self::settle::CloseReport;

pub(crate) use self::plan::{LEAST_FILES_A_LANE, derive_file_size};
pub(crate) use self::progress::{RecoveryState, Unrecovered};
pub(crate) use self::settle::Refused;
pub(crate) use self::store::NewBlock;
#[cfg(all(test, not(loom)))]
pub(crate) use self::threads::Role;
#[cfg(all(test, not(loom)))]
pub(crate) use self::verify::PIECE as VERIFIED_PIECE;

use self::budget::PendingBudget;
use self::hook::Events;
use self::lane::Lane;
use self::pieces::PIECE;
use self::pin::Pinner;
use self::recycle::Lap;
use self::residency::Residency;
use self::staging::Staging;
use self::turn::Turn;

/// What happens to a write when every file of its lane is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// The oldest file of the lane makes room, whatever it holds: the store is a cache.
    #[default]
    Recycle,
    /// The oldest file makes room only once it holds no live block (all of them were removed or replaced): until then
    /// writes fail with [`WriteError::Full`](crate::WriteError::Full), while removing goes on to work: one file of the
    /// lane is kept for it, also after the disk has failed in it. Should it have no room left, or any page of its directory be
    /// unreadable, removing from a full lane fails too, until the store is opened with more files or with `Recycle`.
    ///
    /// A file also stays if something of it was not found at the opening: the index had no memory for a block, or a page of its
    /// directory could not be read, whatever that held. Each read that finds nothing is an error then, and files that are
    /// younger wait for this one, until an opening that finds all, or until what was not found is given up:
    /// [`Scratch::forget_unfound`](crate::Scratch::forget_unfound).
    Refuse,
}

/// How often the bytes of a block are compared with their hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verify {
    /// Once for each block of an earlier run, at its first read.
    #[default]
    FirstRead,
    /// At every read, on a copy read through the file: nothing that the page cache does afterwards is seen.
    Always,
    /// Not at all: bytes of an earlier run are lent as they are. Entries are checked nevertheless.
    ///
    /// After a power cut a block that was not flushed may then read as anything that its pages held before, bytes of
    /// another realm among them, and after damage to the disk so may any block: for stores whose realms trust each other.
    /// What nobody has compared counts as not compared: writing the same content, and
    /// [`read_verified`](crate::Scratch::read_verified), find out, and an older version of the block is served in its
    /// place as with the other two.
    Never,
}

/// Everything the wheel is told. `scratch::config` checks it.
#[derive(Clone, Debug)]
pub(crate) struct WheelOptions {
    pub(crate) on_full: OnFull,
    pub(crate) verify: Verify,
    pub(crate) access: Access,
    pub(crate) resident_budget: Option<u64>,
    pub(crate) wait_timeout: Duration,
    pub(crate) max_pending_bytes: u64,
    pub(crate) max_staging_bytes: u64,
    /// Size of a gather buffer's payload part; 0 gathers nothing.
    pub(crate) gather_bytes: u64,
    pub(crate) gather_delay: Duration,
    pub(crate) expected_blocks: Option<u64>,
    pub(crate) lanes_per_folder: Option<u16>,
    /// `None`: as the store was made.
    pub(crate) hash_kind: Option<HashKind>,
    pub(crate) temporary: bool,
    pub(crate) reset: bool,
    /// Pages that are sent to the device at once.
    pub(crate) piece_pages: u32,
    pub(crate) max_index_bytes: Option<u64>,
    /// Buckets of the first table of the index, however many blocks are expected.
    pub(crate) index_buckets: Option<usize>,
    /// Waits longer than this are told and counted.
    pub(crate) report_waits: Duration,
    /// Taken out at open: the thread that runs it owns it.
    pub(crate) hook: HookOption,
}

impl Default for WheelOptions {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            on_full: OnFull::default(),
            verify: Verify::default(),
            access: Access::default(),
            resident_budget: None,
            wait_timeout: Duration::from_secs(30),
            max_pending_bytes: 256 * MIB,
            max_staging_bytes: 256 * MIB,
            gather_bytes: MIB,
            gather_delay: Duration::from_millis(1),
            expected_blocks: None,
            lanes_per_folder: None,
            hash_kind: None,
            temporary: false,
            reset: false,
            piece_pages: PIECE,
            max_index_bytes: None,
            index_buckets: None,
            report_waits: Duration::from_millis(100),
            hook: HookOption::default(),
        }
    }
}

/// Blocks of at most this many bytes are gathered with their neighbours; the `write` benches justify it.
const GATHER_BELOW: u64 = 64 * 1024;

/// The wheel, shared by the handles of a store and its threads.
pub(crate) struct FileWheel {
    pub(crate) table: Arc<FileTable>,
    pub(crate) index: BlockIndex,
    pub(crate) options: WheelOptions,
    pub(crate) counters: Counters,
    pub(crate) failures: Failures,
    pub(crate) events: Events,
    pub(crate) recovery: RecoveryState,
    lanes: Box<[Lane]>,
    secret: u64,
    size: FileSize,
    hash_kind: HashKind,
    turn: Mutex<Turn>,
    /// Told when a lane got a file, or lost the hope of one, or has sent a piece to the device.
    turned: Condvar,
    /// Told when a keeper or syncer may have something to do.
    keep: Condvar,
    /// The lap that each dying file begins next, as its header says already.
    laps: Mutex<Box<[Option<Lap>]>>,
    pub(crate) residency: Residency,
    staging: Staging,
    pending_budget: PendingBudget,
    /// Writers hold a pin here for the length of their call, so that `close` can wait for them.
    calls: Pinner,
    /// How many of these calls run a closure, or wait for one.
    calls_in_closures: AtomicU64,
    closed: AtomicBool,
    /// Of threads of the store and of its source, caught.
    pub(crate) panics: Panics,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    /// For tests: no thread can be spawned, as where a limit is reached.
    #[cfg(all(test, not(loom)))]
    pub(crate) lacks_threads: AtomicBool,
}

impl FileWheel {
    /// The hash that decides lane, buckets and stripe of a key.
    pub(crate) fn key_hash(&self, realm: Realm, key: BlockHash) -> KeyHash {
        KeyHash::of(self.secret, realm, key)
    }

    fn lane_of(&self, key: KeyHash) -> &Lane {
        #[expect(clippy::cast_possible_truncation, reason = "lanes were counted in a u16")]
        let lanes = self.lanes.len() as u16;
        &self.lanes[usize::from(key.lane(lanes))]
    }

    /// The lane of a key, for tests.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn lane_of_key(&self, realm: Realm, key: BlockHash) -> u16 {
        self.lane_of(self.key_hash(realm, key)).id()
    }

    pub(crate) fn lanes(&self) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "lanes were counted in a u16")]
        let lanes = self.lanes.len() as u16;
        lanes
    }

    pub(crate) fn file_size(&self) -> FileSize {
        self.size
    }

    pub(crate) fn hash_kind(&self) -> HashKind {
        self.hash_kind
    }

    /// The hash of a payload, by the kind of this store.
    pub(crate) fn hash_of(&self, bytes: &[u8]) -> BlockHash {
        BlockHash::of_kind(self.hash_kind, bytes)
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: a call that misses it by a moment is a call that came a moment earlier.
        self.closed.load(Ordering::Relaxed)
    }

    /// A deadline for a wait that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::of(self.options.wait_timeout)
    }

    /// Bytes of closures that have not run yet.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_budget.charged()
    }

    /// A failed call on a file of the store, with the file's path.
    fn io_error(&self, what: &'static str, file: FileId, source: std::io::Error) -> IoError {
        let path: Option<PathBuf> = self.table.source().describe(file);
        IoError::new(what, path.as_deref(), source)
    }

    /// Blocks up to this length are gathered.
    fn gather_below(&self) -> u64 {
        GATHER_BELOW.min(self.options.gather_bytes / 4)
    }

    fn is_gathered(&self, len: u32) -> bool {
        self.options.gather_bytes > 0 && u64::from(len) <= self.gather_below()
    }
}

impl fmt::Debug for FileWheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWheel").field("table", &self.table).field("options", &self.options).finish_non_exhaustive()
    }
}
