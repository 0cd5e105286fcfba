//! One file of the wheel: its place in memory for the life of the store. `lend` lends its bytes.
//!
//! # Invariants
//!
//! 1. `base`, `memory`, `generation` and `nonce` change only while the file is not handed to a lane and either
//!    has never been pinned or was seen drained; `Pinner::reopen` and the activation that follows publish them.
//! 2. The bytes of a slot's entry and payload are never stored to again once the slot is READY, UNVERIFIED or
//!    TOMBSTONE, until the file has drained. A slot becomes BAD from these states only.
//! 3. `finished` counts reservations that are over; it is the last thing a reservation does.
//! 4. `unstored` counts slots whose bytes wait in a gather buffer. A slot is counted there before it is finished.
//! 5. Of a block that is being stored when a sync fails, the next sync that finds it stored tells the failure again.
//! 6. The bytes of a suspect file (`suspicion`) are read by `load`, and believed only with their hash: what the mapping shows
//!    may change below it, or be no more than zeros.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

use crate::block::{BlockAddress, Entry, FileId, FileSize, HighWaterMark, PAGE_SIZE, Slot};
use crate::os::{self, Process};
use crate::planted;
use crate::storage::{FileMemory, FileSource};
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex};
use crate::wheel::ahead::Ready;
use crate::wheel::cursor::Cursor;
use crate::wheel::high_water::{Found, HighWater};
use crate::wheel::pending::PendingTable;
use crate::wheel::pieces::Pieces;
use crate::wheel::pin::Pinner;
use crate::wheel::regions::Regions;
use crate::wheel::slots::Slots;
use crate::wheel::stride::Stride;
use crate::wheel::suspicion::Suspicion;

/// The table of files, and the source whose locks live as long as any mapping is lent.
pub(crate) struct FileTable {
    files: Box<[BlockFile]>,
    source: Arc<dyn FileSource>,
    /// Nobody else has the mappings and the threads.
    process: Process,
}

impl FileTable {
    /// Files `1..=count`, of which pieces of so many pages are sent to the device.
    pub(crate) fn new(source: Arc<dyn FileSource>, count: u16, piece_pages: u32) -> Self {
        let (size, boot) = (source.file_size(), source.boot());
        let files = (1..=count).filter_map(FileId::new).map(|id| BlockFile::new(id, size, boot, piece_pages)).collect();
        Self { files, source, process: Process::current() }
    }

    pub(crate) fn source(&self) -> &dyn FileSource {
        &*self.source
    }

    pub(crate) fn process(&self) -> Process {
        self.process
    }

    pub(crate) fn get(&self, id: FileId) -> Option<&BlockFile> {
        self.files.get(id.index())
    }

    /// The file of an id that this table handed out itself.
    pub(crate) fn file(&self, id: FileId) -> &BlockFile {
        &self.files[id.index()]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &BlockFile> {
        self.files.iter()
    }
}

impl fmt::Debug for FileTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTable")
            .field("files", &self.files.len())
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// One file: cursor, pins, slot states, pending table and the memory behind it.
pub(crate) struct BlockFile {
    id: FileId,
    size: FileSize,
    base: AtomicPtr<u8>,
    memory: Mutex<Option<Arc<dyn FileMemory>>>,
    generation: AtomicU64,
    nonce: AtomicU64,
    pub(crate) cursor: Cursor,
    pub(crate) high_water: HighWater,
    pub(crate) pins: Pinner,
    pub(crate) slots: Slots,
    pub(crate) stride: Stride,
    pub(crate) ready: Ready,
    pub(crate) pending: Mutex<PendingTable>,
    /// Told, under `pending`, when a slot leaves VERIFYING.
    pub(crate) verified: Condvar,
    finished: AtomicU32,
    unstored: AtomicU32,
    live_blocks: AtomicU64,
    /// Blocks of an earlier run that the index has no place for, and parts of a directory that could not be read, of a store
    /// that may not forget.
    unfound: AtomicU64,
    live_bytes: AtomicU64,
    pub(crate) suspicion: Suspicion,
    /// Deleted because it died: nobody needs what is stored here still.
    deleted: AtomicBool,
    pub(crate) pieces: Pieces,
    pub(crate) regions: Regions,
    stores: AtomicU64,
    synced: Mutex<Synced>,
}

/// How far a file is synced.
#[derive(Debug, Default)]
struct Synced {
    /// The store up to which all are.
    stores: u64,
    /// The failure of a sync that came while blocks were being stored: their first bytes may be lost, and whoever stores their
    /// last ones is not told yet.
    owed: Option<io::Error>,
}

impl fmt::Debug for BlockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockFile")
            .field("id", &self.id)
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

impl BlockFile {
    fn new(id: FileId, size: FileSize, boot: Option<u64>, piece_pages: u32) -> Self {
        Self {
            id,
            size,
            base: AtomicPtr::new(ptr::null_mut()),
            memory: Mutex::new(None),
            generation: AtomicU64::new(0),
            nonce: AtomicU64::new(0),
            cursor: Cursor::new(size),
            high_water: HighWater::new(size, boot),
            pins: Pinner::new(Pinner::words_for_this_machine()),
            slots: Slots::new(size.slots()),
            stride: Stride::default(),
            ready: Ready::default(),
            pending: Mutex::new(PendingTable::default()),
            verified: Condvar::new(),
            finished: AtomicU32::new(0),
            unstored: AtomicU32::new(0),
            live_blocks: AtomicU64::new(0),
            unfound: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            suspicion: Suspicion::default(),
            deleted: AtomicBool::new(false),
            pieces: Pieces::new(size, piece_pages),
            regions: Regions::new(size),
            stores: AtomicU64::new(0),
            synced: Mutex::new(Synced::default()),
        }
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(crate) fn size(&self) -> FileSize {
        self.size
    }

    pub(crate) fn address(&self, slot: Slot) -> BlockAddress {
        BlockAddress::new(self.id, slot)
    }

    /// The age of this file's present lap among all laps of the store.
    pub(crate) fn generation(&self) -> u64 {
        // Relaxed: callers hold a pin, a reservation or the turn mutex, which order it (invariant 1);
        // the index compares it as an age, and a file that changes its age has no word there.
        self.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn nonce(&self) -> u64 {
        // Relaxed: as `generation`.
        self.nonce.load(Ordering::Relaxed)
    }

    /// Puts the memory of a file in place that was created or found. Only before it is handed out (invariant 1).
    pub(crate) fn install(&self, memory: Arc<dyn FileMemory>) {
        assert!(memory.size() == self.size, "{} has {:?}, not {:?}", self.id, memory.size(), self.size);
        // Before `memory` is locked: a sync takes them in this order.
        self.synced.lock().owed = None;
        let mut held = self.memory.lock();
        // Release pairs with the Acquire in `base`; the pin words and the index carry it as well.
        self.base.store(memory.base().as_ptr(), Ordering::Release);
        let suspect = memory.is_suspect();
        *held = Some(memory);
        self.suspicion.begin(suspect);
        // Relaxed: published as `base` is.
        self.deleted.store(false, Ordering::Relaxed);
    }

    /// Has the file deleted as it dies: a sync of it, that somebody may still ask for, has nothing to do then.
    ///
    /// A sync under way is waited for: what it finds concerns the file that is deleted, not the one that is made anew.
    pub(crate) fn delete_by(&self, delete: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _synced = self.synced.lock();
        delete()?;
        self.suspicion.owes_nothing();
        // Relaxed: `synced` carries it to the next sync.
        self.deleted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `act` while the file, if it is there, is not deleted, nor synced.
    pub(crate) fn while_it_stays<T>(&self, act: impl FnOnce() -> T) -> T {
        let _synced = self.synced.lock();
        act()
    }

    /// Takes the memory away, before the file is created afresh. Only when drained (invariant 1).
    pub(crate) fn uninstall(&self) {
        let mut held = self.memory.lock();
        self.base.store(ptr::null_mut(), Ordering::Release);
        *held = None;
        self.regions.clear();
    }

    /// Where its mapping begins; `None` for a file without memory. Whoever reads there holds a pin (invariant 1).
    pub(crate) fn base(&self) -> Option<NonNull<u8>> {
        // Acquire pairs with the Release in `install`.
        NonNull::new(self.base.load(Ordering::Acquire))
    }

    /// Asks the processor for what a reader of a slot looks at first. Whether the file may be read is not asked: nothing is.
    #[inline]
    pub(crate) fn prefetch(&self, slot: Slot) {
        self.slots.prefetch(slot);
        if slot.get() < self.size.slots() {
            // Relaxed: an address that is not read through.
            let base = self.base.load(Ordering::Relaxed);
            let line =
                |offset: u64| usize::try_from(offset).map_or(ptr::null_mut(), |offset| base.wrapping_add(offset));
            os::prefetch(line(self.size.entry_offset(slot)));
            if let Some(page) = self.stride.page_of(slot) {
                // Two lines: the processor goes on by itself behind them. More of them take longer than they save.
                os::prefetch(line(page * PAGE_SIZE));
                os::prefetch(line(page * PAGE_SIZE + 64));
            }
        }
    }

    /// The memory behind this file; an error for a file that has none (never created, or being created afresh).
    pub(crate) fn memory(&self) -> io::Result<Arc<dyn FileMemory>> {
        self.memory.lock().clone().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the file has no memory"))
    }

    /// Begins a lap: nothing is reserved, nothing is stored. Only when drained or new (invariant 1).
    pub(crate) fn begin_lap(&self, generation: u64, nonce: u64) {
        // The header of a lap that was found empty is not written again, and its mark is known.
        if self.generation.swap(generation, Ordering::Relaxed) != generation {
            self.high_water.begin();
        }
        self.nonce.store(nonce, Ordering::Relaxed);
        self.slots.clear();
        self.stride.clear();
        self.ready.end();
        self.pieces.clear();
        self.regions.clear();
        // A file that was never filled is quiet: as many reservations as are finished.
        self.cursor.clear();
        self.finished.store(0, Ordering::Relaxed);
        self.unstored.store(0, Ordering::Relaxed);
        self.live_blocks.store(0, Ordering::Relaxed);
        self.unfound.store(0, Ordering::Relaxed);
        self.live_bytes.store(0, Ordering::Relaxed);
    }

    /// Goes on with a lap of an earlier run: slots below `next_slot` are over, pages below `next_page` are stored.
    pub(crate) fn resume_lap(&self, next_slot: u32, next_page: u32) {
        self.pieces.add(1..next_page);
        self.finished.store(next_slot, Ordering::Relaxed);
    }

    /// Generation and nonce of an earlier run, before its directory is read.
    ///
    /// That run may have been killed before it synced what is read now: the file counts as stored to.
    pub(crate) fn adopt(&self, generation: u64, nonce: u64, high_water: Found) {
        self.generation.store(generation, Ordering::Relaxed);
        self.nonce.store(nonce, Ordering::Relaxed);
        self.high_water.adopt(high_water);
        self.stores.fetch_add(1, Ordering::Release);
    }

    /// The last act of a reservation.
    pub(crate) fn finish(&self, count: u32) {
        // Release pairs with the Acquire in `is_quiet`: whoever sees the file quiet sees all that its writers did.
        self.finished.fetch_add(count, Ordering::Release);
    }

    /// Whether a sealed file has no reservation and no gathered block left.
    pub(crate) fn is_quiet(&self) -> bool {
        self.cursor.is_sealed() && self.is_settled()
    }

    /// Whether no reservation and no gathered block is left.
    fn is_settled(&self) -> bool {
        // Acquire pairs with the Release in `finish`; `unstored` is read second (invariant 4).
        self.finished.load(Ordering::Acquire) == self.cursor.next_slot() && self.unstored.load(Ordering::Acquire) == 0
    }

    pub(crate) fn gathered(&self, count: u32) {
        self.unstored.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn gathered_are_stored(&self, count: u32) {
        // Release pairs with the Acquire in `is_quiet`.
        self.unstored.fetch_sub(count, Ordering::Release);
    }

    pub(crate) fn add_live(&self, len: u32) {
        // Relaxed: a statistic; `Refuse` reads it under the turn mutex and again when told.
        self.live_blocks.fetch_add(1, Ordering::Relaxed);
        self.live_bytes.fetch_add(u64::from(len), Ordering::Relaxed);
    }

    pub(crate) fn sub_live(&self, len: u32) {
        self.live_blocks.fetch_sub(1, Ordering::Relaxed);
        self.live_bytes.fetch_sub(u64::from(len), Ordering::Relaxed);
    }

    pub(crate) fn live_blocks(&self) -> u64 {
        self.live_blocks.load(Ordering::Relaxed)
    }

    /// Something here may not be forgotten, and nobody finds it.
    pub(crate) fn add_unfound(&self) {
        // Relaxed: as `add_live`; only the user lowers it.
        self.unfound.fetch_add(1, Ordering::Relaxed);
    }

    /// What was not found of it may be forgotten; whether there was such.
    pub(crate) fn forget_unfound(&self) -> bool {
        self.unfound.swap(0, Ordering::Relaxed) > 0
    }

    pub(crate) fn has_unfound(&self) -> bool {
        self.unfound.load(Ordering::Relaxed) > 0
    }

    /// Whether a store that may not forget needs the file: for blocks that are live, or that nobody finds.
    pub(crate) fn is_needed(&self) -> bool {
        self.live_blocks() > 0 || self.has_unfound()
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// Stores `parts` at `offset` through the file.
    pub(crate) fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let result = self.memory()?.store(offset, parts);
        // Release pairs with the Acquire in `sync`, which then covers this store.
        self.stores.fetch_add(1, Ordering::Release);
        if result.is_ok() {
            let pages = whole_pages(offset, parts);
            self.regions.add(u64::from(pages.start) * PAGE_SIZE..u64::from(pages.end) * PAGE_SIZE);
            self.pieces.add(pages);
        }
        result
    }

    /// Has the file say that slots up to this one may hold entries, before one is stored there.
    pub(crate) fn cover(&self, slot: Slot) -> io::Result<()> {
        self.high_water.cover(slot, |mark| {
            let mark = mark.map_or([0; HighWaterMark::LEN], |mark| mark.encode(self.nonce()));
            self.store(HighWaterMark::OFFSET as u64, &[&mark])
        })
    }

    /// Stores the entry of one slot.
    pub(crate) fn store_entry(&self, slot: Slot, entry: &Entry) -> io::Result<()> {
        self.cover(slot)?;
        self.store(self.size.entry_offset(slot), &[&entry.encode(self.nonce(), slot)])
    }

    /// Makes a slot one that nothing was ever stored to.
    pub(crate) fn clear_entry(&self, slot: Slot) -> io::Result<()> {
        self.store(self.size.entry_offset(slot), &[&[0; Entry::SIZE]])
    }

    /// Whether a store has not been covered by a sync yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.stores.load(Ordering::Acquire) > self.synced.lock().stores
    }

    /// Makes every earlier store durable. The only place where a file is synced (failure rule R3), but for one that is suspect
    /// already.
    ///
    /// The kernel reports a lost write to one caller only, so a failure makes the file suspect for good.
    /// `tell` gets it before anybody else may find the file clean, and whether nobody was told of the file before; the
    /// answer is whether there was none.
    pub(crate) fn sync_or(&self, tell: impl FnOnce(io::Error, bool)) -> bool {
        let mut synced = self.synced.lock();
        // First: what has ended by now is covered by this one.
        let was_settled = self.is_settled();
        // Acquire pairs with the Release in `store`.
        let covered = self.stores.load(Ordering::Acquire);
        // Relaxed: see `delete_by`.
        if synced.stores >= covered || self.deleted.load(Ordering::Relaxed) {
            return true;
        }
        // A file without memory is being created afresh: there is nothing in it that could be lost.
        let memory = self.memory.lock().clone();
        let result = memory.map_or(Ok(()), |memory| memory.sync());
        let owed = synced.owed.take();
        synced.stores = covered;
        let (error, is_settled) = match (result, owed) {
            (Ok(()), None) => return true,
            (Ok(()), Some(owed)) => (owed, was_settled),
            // What was stored meanwhile had its first bytes in the file before, perhaps. Asked after the failure, so that no
            // block of which part may be lost has ended unseen.
            (Err(error), _) => (error, self.is_settled() && self.stores.load(Ordering::Acquire) == covered),
        };
        synced.owed = (!is_settled).then(|| again(&error));
        // Before the mutex is left. Hazard 54: who syncs next finds nothing wrong.
        let is_news = planted::is(54) || self.suspicion.sync_failed();
        tell(error, is_news);
        false
    }

    /// Somebody was told of a lost write before any sync. As a failed sync, but the failure is told before anything else is
    /// waited for: no opening that comes later is told it, the next run's least of all.
    pub(crate) fn write_was_lost(&self, error: io::Error, tell: impl FnOnce(io::Error, bool)) {
        let mut synced = self.synced.lock();
        // Relaxed: see `delete_by`.
        if self.deleted.load(Ordering::Relaxed) {
            return;
        }
        let owed = again(&error);
        let is_news = self.suspicion.sync_failed();
        tell(error, is_news);
        // Acquire pairs with the Release in `store`.
        let covered = self.stores.load(Ordering::Acquire);
        // Our own opening is told the same, once: now, and by no flush that comes later.
        let memory = self.memory.lock().clone();
        if let Some(memory) = memory {
            let _ = memory.sync();
            synced.stores = covered;
        }
        // Asked after that, as in `sync_or`: what was stored meanwhile may have been lost with it.
        let is_settled = self.is_settled() && self.stores.load(Ordering::Acquire) == covered;
        synced.owed = (!is_settled).then_some(owed);
    }

    /// As `sync_or`, where the caller deals with the failure itself.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut failure = None;
        self.sync_or(|error, _| failure = Some(error));
        failure.map_or(Ok(()), Err)
    }
}

/// An error that says the same.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// The pages that a store of `parts` fills: payloads begin with a page and fill their last one; entries fill none.
fn whole_pages(offset: u64, parts: &[&[u8]]) -> Range<u32> {
    let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let page = |at: u64| u32::try_from(at / PAGE_SIZE).expect("a file has fewer than 2^22 pages");
    if offset.is_multiple_of(PAGE_SIZE) { page(offset)..page(offset + len) } else { 0..0 }
}
