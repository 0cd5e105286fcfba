//! Blocks whose bytes are not in their file yet: closures that wait, and blocks in a gather buffer.
//!
//! # Invariants
//!
//! 1. A record is put into its file's table before the index names the slot, and is removed after the slot has
//!    reached the state that tells its fate. So: a slot in PENDING, RUNNING or GATHERED whose record is gone has
//!    changed its state meanwhile, and looking again shows it. A block that failed keeps its record until its word has
//!    left the index, and no writer can put it there any more.
//! 2. The closure is taken once, under `Deferred::work`; whoever takes it settles the block.
//! 3. No closure runs under a lock.
//! 4. Each version of a key that an unstored block hides is known to that block, or to one that is hidden by it: so
//!    when any of them fail, in whatever order, the newest that has not failed is in the index. A block learns by
//!    `will_hide` what it replaces, before the index names it, and by `hide` of an older version that comes later. One
//!    that fails says `begin_to_fail` before it looks at what it hides: whoever comes later publishes again.
//! 5. What a block hides is older than it: a chain ends.
#![forbid(unsafe_code)]

use std::collections::hash_map;
use std::fmt;
use std::time::Instant;

use rustc_hash::FxHashMap;

use crate::block::{BlockAddress, BlockHash, BlockKind, FileId, Realm, Slot};
use crate::error::FailedClosure;
use crate::sync::{Arc, Condvar, Mutex};
use crate::wheel::BlockView;
use crate::wheel::gather::GatherBuffer;
use crate::wheel::ticket::Ticket;

/// The closure of a deferred write: fills exactly the block's length of zeroed bytes.
pub(crate) type Closure = Box<dyn FnOnce(&mut [u8]) + Send>;

/// The records of one file.
#[derive(Debug, Default)]
pub(crate) struct PendingTable {
    /// Each block that is gathered is put in, found and taken out. Slots are numbered by the store, so nobody can have them
    /// crowd, and their hash needs no secret.
    records: FxHashMap<Slot, Record>,
}

impl PendingTable {
    pub(crate) fn insert(&mut self, slot: Slot, record: Record) {
        self.records.insert(slot, record);
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Record> {
        self.records.remove(&slot)
    }

    /// Takes the record of a slot out, after `settle` has told its fate; `None` if it has none.
    pub(crate) fn take_after(&mut self, slot: Slot, settle: impl FnOnce(Option<&Record>)) -> Option<Record> {
        match self.records.entry(slot) {
            hash_map::Entry::Occupied(entry) => {
                settle(Some(entry.get()));
                Some(entry.remove())
            }
            hash_map::Entry::Vacant(_) => {
                settle(None);
                None
            }
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Record> {
        self.records.get(&slot)
    }

    /// Has whoever stores the buffer of this block take its entry back; `false` if there is no buffer that it waits in.
    pub(crate) fn refuse(&mut self, slot: Slot) -> bool {
        match self.records.get_mut(&slot) {
            Some(Record::Gathered(gathered)) => {
                gathered.refused = true;
                true
            }
            _ => false,
        }
    }

    /// The closure of a slot, if it has not been settled yet.
    pub(crate) fn deferred_at(&self, slot: Slot) -> Option<Arc<Deferred>> {
        match self.records.get(&slot) {
            Some(Record::Deferred(deferred)) => Some(Arc::clone(deferred)),
            _ => None,
        }
    }

    /// Where a slot that may still fail remembers what it hides.
    pub(crate) fn hides_at(&mut self, slot: Slot) -> Option<Arc<Hides>> {
        match self.records.get_mut(&slot)? {
            Record::Deferred(deferred) => Some(Arc::clone(&deferred.hides)),
            Record::Gathered(gathered) => Some(Arc::clone(gathered.hides.get_or_insert_default())),
        }
    }

    /// What the gathered blocks hide.
    pub(crate) fn hidden_by_gathered(&self) -> Vec<Arc<Hides>> {
        let hides = self.records.values().filter_map(|record| match record {
            Record::Deferred(_) => None,
            Record::Gathered(gathered) => gathered.hides.clone(),
        });
        hides.collect()
    }

    /// How many blocks wait for their gather buffer to be stored.
    pub(crate) fn gathered(&self) -> usize {
        self.records.values().filter(|record| matches!(record, Record::Gathered(_))).count()
    }

    /// Every closure that has not been settled yet.
    pub(crate) fn deferred(&self) -> Vec<Arc<Deferred>> {
        let deferred = self.records.values().filter_map(|record| match record {
            Record::Deferred(deferred) => Some(Arc::clone(deferred)),
            Record::Gathered(_) => None,
        });
        deferred.collect()
    }
}

/// Where the bytes of an unstored slot come from.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// A closure will write them.
    Deferred(Arc<Deferred>),
    /// They lie in a gather buffer.
    Gathered(Gathered),
}

impl Record {
    pub(crate) fn is_of(&self, realm: Realm, key: BlockHash) -> bool {
        match self {
            Self::Deferred(deferred) => deferred.key == key && deferred.realm == realm,
            Self::Gathered(gathered) => gathered.key == key && gathered.realm == realm,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        match self {
            Self::Deferred(deferred) => deferred.len,
            Self::Gathered(gathered) => gathered.len,
        }
    }

    pub(crate) fn kind(&self) -> BlockKind {
        match self {
            Self::Deferred(deferred) => deferred.kind,
            Self::Gathered(gathered) => gathered.kind,
        }
    }

    pub(crate) fn realm(&self) -> Realm {
        match self {
            Self::Deferred(deferred) => deferred.realm,
            Self::Gathered(gathered) => gathered.realm,
        }
    }

    pub(crate) fn key(&self) -> BlockHash {
        match self {
            Self::Deferred(deferred) => deferred.key,
            Self::Gathered(gathered) => gathered.key,
        }
    }
}

/// A block that lies in a gather buffer.
#[derive(Clone, Debug)]
pub(crate) struct Gathered {
    pub(crate) realm: Realm,
    pub(crate) key: BlockHash,
    pub(crate) kind: BlockKind,
    pub(crate) len: u32,
    /// Where the block begins in the buffer.
    pub(crate) start: u64,
    pub(crate) buffer: Arc<GatherBuffer>,
    /// What it hides; `None` for as long as that is nothing.
    pub(crate) hides: Option<Arc<Hides>>,
    /// The index had no place for it, and whoever wrote it was told so.
    pub(crate) refused: bool,
}

/// The version of a key that a write hides until its own bytes are stored.
#[derive(Clone, Debug)]
pub(crate) struct Previous {
    pub(crate) address: BlockAddress,
    pub(crate) generation: u64,
    /// What its entry says, of no length if the disk could not read it when it was hidden; `None` counts for nothing.
    pub(crate) block: Option<BlockView>,
    /// What it hides itself, if it had not been stored yet: when both fail, that comes back.
    pub(crate) hides: Option<Arc<Hides>>,
}

impl Previous {
    fn version(&self) -> (u64, Slot) {
        (self.generation, self.address.slot())
    }

    /// Whether this block has failed, or is about to have.
    pub(crate) fn is_failing(&self) -> bool {
        self.hides.as_ref().is_some_and(|hides| hides.0.lock().failing)
    }

    /// What this block hides, as long as it may fail.
    pub(crate) fn hidden(&self) -> Option<Self> {
        self.hides.as_ref().and_then(|hides| hides.previous())
    }
}

/// What a block hides, to be put back if it fails; forgotten once its bytes are stored.
#[derive(Default)]
pub(crate) struct Hides(Mutex<Hiding>);

#[derive(Default)]
struct Hiding {
    previous: Option<Previous>,
    failing: bool,
}

impl Hides {
    /// Before the index names the block: this is what it is about to hide, whatever it was before.
    pub(crate) fn will_hide(&self, previous: Previous) {
        let before = self.0.lock().previous.replace(previous);
        drop(before);
    }

    /// Remembers what the block hides; `false` if it is failing already, and then it remembers nothing: the older
    /// version has to be published again.
    ///
    /// Of several versions the newest counts. If that may fail itself, it hides the older ones in its turn.
    pub(crate) fn hide(&self, previous: Previous) -> bool {
        let mut hiding = self.0.lock();
        if hiding.failing {
            return false;
        }
        let mut below = hiding.add(previous);
        drop(hiding);
        while let Some((hides, older)) = below {
            below = hides.0.lock().add(older);
        }
        true
    }

    /// From now on `hide` says that the block has failed; gives what it hid until now.
    pub(crate) fn begin_to_fail(&self) -> Option<Previous> {
        let mut hiding = self.0.lock();
        hiding.failing = true;
        hiding.previous.clone()
    }

    /// The block is stored: what it hid does not come back. (What a failed one hid may, when a later one fails too.)
    pub(crate) fn forget(&self) {
        let forgotten = self.0.lock().previous.take();
        drop(forgotten);
    }

    fn previous(&self) -> Option<Previous> {
        self.0.lock().previous.clone()
    }

    /// Whether a block of `file` comes back if this one fails.
    pub(crate) fn may_restore_in(&self, file: FileId) -> bool {
        std::iter::successors(self.previous(), Previous::hidden).any(|hidden| hidden.address.file() == file)
    }
}

impl Hiding {
    /// Adds a version; gives the older one of two, and who hides that.
    fn add(&mut self, previous: Previous) -> Option<(Arc<Hides>, Previous)> {
        let (newest, older) = match self.previous.take() {
            Some(known) if known.version() == previous.version() => (known, None),
            Some(known) if known.version() > previous.version() => (known, Some(previous)),
            known => (previous, known),
        };
        let below = newest.hides.clone().zip(older);
        self.previous = Some(newest);
        below
    }
}

impl Drop for Hides {
    /// A chain may be as long as a gather buffer has slots: one link after the other, not one inside the other.
    fn drop(&mut self) {
        let mut previous = self.0.lock().previous.take();
        while let Some(hides) = previous.and_then(|hidden| hidden.hides).and_then(Arc::into_inner) {
            previous = hides.0.lock().previous.take();
        }
    }
}

impl fmt::Debug for Hides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hides")
    }
}

/// A deferred block: what it will be, and its closure until somebody takes it.
pub(crate) struct Deferred {
    pub(crate) realm: Realm,
    pub(crate) key: BlockHash,
    pub(crate) kind: BlockKind,
    pub(crate) len: u32,
    pub(crate) address: BlockAddress,
    /// Shared with its record once it is gathered.
    pub(crate) hides: Arc<Hides>,
    work: Mutex<Stage>,
    changed: Condvar,
}

enum Stage {
    /// Not to be run before its writer knows what it hides.
    New(Closure, Ticket),
    Queued(Closure, Ticket),
    Running,
    Done(Result<(), FailedClosure>),
}

impl Deferred {
    pub(crate) fn new(
        realm: Realm,
        key: BlockHash,
        kind: BlockKind,
        len: u32,
        closure: Closure,
        ticket: Ticket,
    ) -> Self {
        let address = ticket.address();
        let work = Mutex::new(Stage::New(closure, ticket));
        Self { realm, key, kind, len, address, hides: Arc::default(), work, changed: Condvar::new() }
    }

    /// Whether a block of `file` comes back if this write fails; whoever does not know yet what it hides says yes.
    pub(crate) fn may_restore_in(&self, file: FileId) -> bool {
        match &*self.work.lock() {
            Stage::New(..) => return true,
            Stage::Done(Err(_)) => return false,
            Stage::Queued(..) | Stage::Running | Stage::Done(Ok(())) => {}
        }
        self.hides.may_restore_in(file)
    }

    pub(crate) fn is_queued(&self) -> bool {
        matches!(*self.work.lock(), Stage::Queued(..))
    }

    /// From now on the closure may be taken.
    pub(crate) fn is_published(&self) {
        let mut work = self.work.lock();
        *work = match std::mem::replace(&mut *work, Stage::Running) {
            Stage::New(closure, ticket) => Stage::Queued(closure, ticket),
            other => other,
        };
        drop(work);
        self.changed.notify_all();
    }

    /// Takes the closure if it waits (invariant 2).
    pub(crate) fn take(&self) -> Option<(Closure, Ticket)> {
        let mut work = self.work.lock();
        match std::mem::replace(&mut *work, Stage::Running) {
            Stage::Queued(closure, ticket) => Some((closure, ticket)),
            other => {
                *work = other;
                None
            }
        }
    }

    /// How it ended, if it has.
    pub(crate) fn result(&self) -> Option<Result<(), FailedClosure>> {
        match &*self.work.lock() {
            Stage::Done(result) => Some(result.clone()),
            _ => None,
        }
    }

    /// Tells everybody how it ended. The slot has its final state already (invariant 1).
    pub(crate) fn settle(&self, result: Result<(), FailedClosure>) {
        let mut work = self.work.lock();
        *work = Stage::Done(result);
        drop(work);
        self.changed.notify_all();
    }

    /// Waits for whoever publishes the closure or runs it; `false` if that takes longer than until `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        let mut work = self.work.lock();
        while matches!(*work, Stage::New(..) | Stage::Running) {
            if Instant::now() >= deadline {
                return false;
            }
            self.changed.wait_until(&mut work, deadline);
        }
        true
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("realm", &self.realm)
            .field("key", &self.key)
            .field("address", &self.address)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
