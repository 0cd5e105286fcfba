//! The disk of [`LossySource`](super::LossySource), and the page cache in front of it.
//!
//! # Invariants
//!
//! 1. A store changes the cache alone. Its sectors reach the disk by `sync`, or one by one whenever chance has it.
//! 2. A sector is on the disk as it was before a store or as it was after one: only the sector of a header may be torn.
//! 3. A creation and a deletion are on the disk when they return. In between the name is in the cache alone: a file gets
//!    it, whole and synced, or loses it, and then the folder is synced, as `disk` does it. Other names are lost or kept one
//!    by one, in any order; a kill leaves them to the next process, whose scan syncs the folders.
//! 4. What a crash leaves is settled when it comes: what the store does afterwards is not in it.
//! 5. A sync that fails leaves sectors that are newer in the cache than on the disk and count as clean. A power cut loses
//!    them, and a kill may: then the next process reads what the disk has. Only the mark on the file tells it so, and a
//!    kill does not come between a sync that failed and its mark: nobody could know.
//! 6. Whoever waits for a piece that is lost is told, as if it were a sync, of that piece alone. The next sync is told, too: it
//!    goes through another opening of the file.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::crash::{Copy, Crash, Left, SECTOR};
use crate::block::{FileId, FileSize};
use crate::storage::dice::Dice;
use crate::storage::{FileMemory, HeapMemory, check_header, in_memory, within_parts};
use crate::sync::{Arc, Condvar, Mutex};

/// One store in this many has the cache write some of its sectors back.
const WRITE_BACK: u64 = 6;
/// Nothing marks a file later than that.
const PATIENCE: Duration = Duration::from_secs(5);

/// When the image is taken, and which calls fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) crash: Crash,
    /// The crash comes in the middle of this call that changes something, the next one being 1.
    pub(crate) at_call: u64,
    /// One sync in this many fails; 0: none.
    pub(crate) failing_syncs: u64,
    /// One store in this many fails half-way; 0: none.
    pub(crate) failing_stores: u64,
}

/// All files of a source.
pub(super) struct Device {
    size: FileSize,
    state: Mutex<State>,
    /// Told when a file was marked or deleted, or directories may be read again.
    changed: Condvar,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Device")
    }
}

struct State {
    files: BTreeMap<FileId, Arc<Cached>>,
    /// As in [`Left`].
    unsynced: BTreeMap<FileId, Option<Arc<Cached>>>,
    dice: Dice,
    plan: Option<Plan>,
    calls: u64,
    /// As in [`Left`].
    boot: u64,
    left: Option<Left>,
    /// Whether loads of anything but a header wait.
    held: bool,
}

/// A file in the cache and on the disk; both change under the lock of the device only.
pub(super) struct Cached {
    cache: HeapMemory,
    on_disk: Mutex<OnDisk>,
}

#[derive(Default)]
struct OnDisk {
    bytes: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Sectors that count as clean and are older here than in the cache (invariant 5).
    lost: BTreeSet<usize>,
    has_failed: bool,
    is_marked: bool,
    /// Whether the next sync fails, because a piece was lost (invariant 6).
    owes_an_error: bool,
}

impl Device {
    /// Files of `size` as a crash has left them.
    pub(super) fn new(left: &Left, size: FileSize, seed: u64) -> Self {
        let cached = |copy: &Copy| Cached::left(copy, size);
        let state = State {
            files: left.files.iter().map(|(file, copy)| (*file, cached(copy))).collect(),
            unsynced: left.unsynced.iter().map(|(file, copy)| (*file, copy.as_ref().map(cached))).collect(),
            dice: Dice::new(seed),
            plan: None,
            calls: 0,
            boot: left.boot,
            left: None,
            held: false,
        };
        Self { size, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// How often the power was cut before.
    pub(super) fn boot(&self) -> u64 {
        self.state.lock().boot
    }

    /// Where the header of a file stands, as its readers see it now.
    pub(super) fn first_sector(&self, file: FileId) -> Option<[u8; SECTOR]> {
        let state = self.state.lock();
        let mut sector = [0; SECTOR];
        state.files.get(&file)?.cache.load(0, &mut sector).ok()?;
        Some(sector)
    }

    /// Files that are marked now.
    pub(super) fn marked(&self) -> BTreeSet<FileId> {
        let state = self.state.lock();
        state.files.iter().filter(|(_, file)| file.is_marked()).map(|(id, _)| *id).collect()
    }

    pub(super) fn hold_directories(&self, held: bool) {
        self.state.lock().held = held;
        self.changed.notify_all();
    }

    pub(super) fn set_plan(&self, plan: Plan) {
        let mut state = self.state.lock();
        state.calls = 0;
        state.plan = Some(plan);
    }

    pub(super) fn heal(&self) {
        if let Some(plan) = &mut self.state.lock().plan {
            (plan.failing_syncs, plan.failing_stores) = (0, 0);
        }
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.state.lock().left.is_some()
    }

    /// The crash comes now if it has not yet; gives what it leaves.
    pub(super) fn crash(&self) -> Left {
        let mut state = self.state.lock();
        let deadline = Instant::now() + PATIENCE;
        while state.left.is_none() && state.must_wait() && Instant::now() < deadline {
            self.changed.wait_until(&mut state, deadline);
        }
        if state.left.is_none() {
            state.crash();
        }
        state.left.clone().expect("just settled")
    }

    /// All files, once their names are on the disk.
    pub(super) fn scan(&self) -> Vec<(FileId, Arc<Cached>)> {
        let mut state = self.state.lock();
        if !state.unsynced.is_empty() {
            state.step(|state| state.sync_folder(|_| true));
        }
        state.files.iter().map(|(&id, file)| (id, Arc::clone(file))).collect()
    }

    /// `is_beside`: whether another file lies in its folder.
    pub(super) fn create(
        &self,
        file: FileId,
        header: &[u8],
        is_beside: impl Fn(FileId) -> bool,
    ) -> io::Result<Arc<Cached>> {
        check_header(header)?;
        let mut state = self.state.lock();
        if state.files.contains_key(&file) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        // What happens to the temporary file before it is whole nobody sees: the next scan deletes it.
        let cached = Cached::new(self.size, header)?;
        state.step(|state| {
            state.files.insert(file, Arc::clone(&cached));
            state.unsynced.entry(file).or_insert(None);
        });
        state.step(|state| state.sync_folder(is_beside));
        Ok(cached)
    }

    /// `is_beside`: as for `create`.
    pub(super) fn delete(&self, file: FileId, is_beside: impl Fn(FileId) -> bool) {
        let mut state = self.state.lock();
        state.step(|state| {
            if let Some(cached) = state.files.remove(&file) {
                state.unsynced.entry(file).or_insert(Some(cached));
            }
        });
        state.step(|state| state.sync_folder(is_beside));
        self.changed.notify_all();
    }

    pub(super) fn mark(&self, file: FileId) {
        if let Some(file) = self.state.lock().files.get(&file) {
            file.on_disk.lock().is_marked = true;
        }
        self.changed.notify_all();
    }

    pub(super) fn store(&self, file: &Cached, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.state.lock();
        let range = within_parts(self.size, offset, parts)?;
        let is_last = state.is_the_last();
        let fails = state.fails(|plan| plan.failing_stores);
        let bytes = parts.concat();
        let mut stored = bytes.len();
        if (is_last || fails) && stored > 0 {
            // A call that is cut short, or fails, has done a part of its work.
            stored = in_memory(state.dice.below(stored as u64 + 1)) / SECTOR * SECTOR;
        }
        file.cache.store(offset, &[&bytes[..stored]])?;
        file.dirty(range.start, stored);
        if is_last {
            state.crash();
        }
        if fails {
            return Err(failed("a store"));
        }
        file.cache.store(offset, &[&bytes])?;
        file.dirty(range.start, bytes.len());
        if state.dice.one_in(WRITE_BACK) {
            let State { files, dice, .. } = &mut *state;
            for file in files.values() {
                file.write_back(|_| dice.one_in(3));
            }
        }
        Ok(())
    }

    pub(super) fn load(&self, file: &Cached, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        while state.held && offset > 0 {
            self.changed.wait(&mut state);
        }
        drop(state);
        file.cache.load(offset, into)
    }

    pub(super) fn sync(&self, file: &Cached) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.is_the_last() {
            state.crash();
        }
        let is_owed = std::mem::take(&mut file.on_disk.lock().owes_an_error);
        if state.fails(|plan| plan.failing_syncs) {
            // Some of it is lost, and nobody will hear of it again.
            file.loses(|_| true, |_| state.dice.one_in(2));
            return Err(failed("a sync"));
        }
        file.write_back(|_| true);
        if is_owed { Err(failed("a piece of what is synced")) } else { Ok(()) }
    }

    /// Some of a piece reaches the disk, the rest is on its way.
    pub(super) fn start_write_back(&self, file: &Cached, range: &Range<u64>) {
        let mut state = self.state.lock();
        let sectors = sectors_of(range);
        file.write_back(|sector| sectors.contains(&sector) && state.dice.one_in(2));
    }

    /// A piece has reached the disk, or is lost.
    pub(super) fn finish_write_back(&self, file: &Cached, range: &Range<u64>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.is_the_last() {
            state.crash();
        }
        let sectors = sectors_of(range);
        if state.fails(|plan| plan.failing_syncs) {
            file.loses(|sector| sectors.contains(&sector), |_| state.dice.one_in(2));
            file.on_disk.lock().owes_an_error = true;
            return Err(failed("writing a piece"));
        }
        file.write_back(|sector| sectors.contains(&sector));
        Ok(())
    }
}

impl State {
    /// Counts a call that changes something; whether the crash comes in the middle of it.
    fn is_the_last(&mut self) -> bool {
        self.calls += 1;
        self.left.is_none() && self.plan.is_some_and(|plan| self.calls >= plan.at_call) && !self.must_wait()
    }

    fn crash_of_plan(&self) -> Crash {
        self.plan.map_or(Crash::PowerCut, |plan| plan.crash)
    }

    /// Whether the crash has to wait for a mark (invariant 5).
    fn must_wait(&self) -> bool {
        self.crash_of_plan() == Crash::Kill && self.files.values().any(|file| file.on_disk.lock().lacks_its_mark())
    }

    fn fails(&mut self, one_in: impl Fn(&Plan) -> u64) -> bool {
        let times = self.plan.as_ref().map_or(0, one_in);
        times > 0 && self.left.is_none() && self.dice.one_in(times)
    }

    /// One step of a call that takes several; the crash may come before it.
    fn step(&mut self, change: impl FnOnce(&mut Self)) {
        if self.is_the_last() {
            self.crash();
        }
        change(self);
    }

    /// The names of a folder are on the disk as they are in the cache.
    fn sync_folder(&mut self, is_in_it: impl Fn(FileId) -> bool) {
        self.unsynced.retain(|file, _| !is_in_it(*file));
    }

    fn crash(&mut self) {
        let crash = self.crash_of_plan();
        let files = self.files.clone();
        let unsynced = self.unsynced.clone();
        // A disk may have written much of what was not synced, or next to nothing.
        let times = 1 + self.dice.below(4);
        let kept = files.iter().map(|(id, file)| (*id, file.copy().crash(crash, times, &mut self.dice))).collect();
        let boot = self.boot + u64::from(crash == Crash::PowerCut);
        let mut left = Left { boot, files: kept, unsynced: BTreeMap::new() };
        for (id, file) in &unsynced {
            let on_disk = file.as_ref().map(|file| file.copy().crash(crash, times, &mut self.dice));
            match (crash, on_disk) {
                (Crash::Kill, on_disk) => drop(left.unsynced.insert(*id, on_disk)),
                (Crash::PowerCut, _) if self.dice.one_in(2) => {}
                (Crash::PowerCut, Some(copy)) => drop(left.files.insert(*id, copy)),
                (Crash::PowerCut, None) => drop(left.files.remove(id)),
            }
        }
        self.left = Some(left);
    }
}

impl OnDisk {
    fn lacks_its_mark(&self) -> bool {
        self.has_failed && !self.is_marked
    }
}

impl Cached {
    /// A new file, whole on the disk.
    fn new(size: FileSize, header: &[u8]) -> io::Result<Arc<Self>> {
        let cache = HeapMemory::new(size);
        cache.store(0, &[header])?;
        let mut bytes = vec![0; in_memory(size.get())];
        bytes[..header.len()].copy_from_slice(header);
        let on_disk = Mutex::new(OnDisk { bytes, ..OnDisk::default() });
        Ok(Arc::new(Self { cache, on_disk }))
    }

    /// A file as a crash has left it.
    fn left(copy: &Copy, size: FileSize) -> Arc<Self> {
        let cache = HeapMemory::new(size);
        cache.store(0, &[&copy.cache]).expect("an image is as long as its file");
        let Copy { disk, dirty, lost, is_marked, .. } = copy.clone();
        let on_disk = OnDisk { bytes: disk, dirty, lost, has_failed: is_marked, is_marked, owes_an_error: false };
        Arc::new(Self { cache, on_disk: Mutex::new(on_disk) })
    }

    /// The bytes that its readers see.
    pub(super) fn memory(&self) -> &HeapMemory {
        &self.cache
    }

    pub(super) fn is_marked(&self) -> bool {
        self.on_disk.lock().is_marked
    }

    fn cached(&self) -> Vec<u8> {
        let mut bytes = vec![0; in_memory(self.cache.size().get())];
        self.cache.load(0, &mut bytes).expect("the whole file");
        bytes
    }

    fn copy(&self) -> Copy {
        let on_disk = self.on_disk.lock();
        let OnDisk { bytes, dirty, lost, is_marked, .. } = &*on_disk;
        let (disk, dirty, lost) = (bytes.clone(), dirty.clone(), lost.clone());
        Copy { cache: self.cached(), disk, dirty, lost, is_marked: *is_marked }
    }

    /// The cache has these bytes from `start` on, and the disk has them not.
    fn dirty(&self, start: usize, len: usize) {
        if len > 0 {
            let sectors = start / SECTOR..=(start + len - 1) / SECTOR;
            let mut on_disk = self.on_disk.lock();
            on_disk.lost.retain(|sector| !sectors.contains(sector));
            on_disk.dirty.extend(sectors);
        }
    }

    /// Of the sectors that are to be written those that are not, by chance (`written`), count as clean from now on.
    fn loses(&self, is_to_be: impl Fn(usize) -> bool, mut written: impl FnMut(usize) -> bool) {
        self.write_back(|sector| is_to_be(sector) && written(sector));
        let mut on_disk = self.on_disk.lock();
        let dirty = std::mem::take(&mut on_disk.dirty);
        let (lost, dirty): (BTreeSet<_>, BTreeSet<_>) = dirty.into_iter().partition(|sector| is_to_be(*sector));
        on_disk.dirty = dirty;
        on_disk.lost.extend(lost);
        on_disk.has_failed = true;
    }

    /// Sectors for which `chosen` is true reach the disk.
    fn write_back(&self, mut chosen: impl FnMut(usize) -> bool) {
        let mut on_disk = self.on_disk.lock();
        let OnDisk { bytes, dirty, .. } = &mut *on_disk;
        dirty.retain(|&sector| {
            let written = chosen(sector);
            if written {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                self.cache.load(range.start as u64, &mut bytes[range]).expect("a sector of the file");
            }
            !written
        });
    }
}

fn sectors_of(range: &Range<u64>) -> Range<usize> {
    in_memory(range.start) / SECTOR..in_memory(range.end) / SECTOR
}

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("{what} was made to fail"))
}
