//! A source with a page cache that can be lost: what stands on the disk after a power cut, or a kill, at any call.
//!
//! # Invariants
//!
//! 1. A store changes the cache alone. Its sectors reach the disk by `sync`, or one by one whenever chance has it.
//! 2. A sector is on the disk as it was before a store or as it was after one: only the sector of a header may be torn.
//! 3. A creation and a deletion are on the disk when they return. In between the name is in the cache alone: a file gets
//!    it, whole and synced, or loses it, and then the folder is synced, as `disk` does it. Other names are lost or kept one
//!    by one, in any order; a kill leaves them to the next process, whose scan syncs the folders.
//! 4. What an image holds is settled when it is taken: what the store does afterwards is not in it.
//! 5. A sync that fails leaves sectors that are newer in the cache than on the disk and count as clean. A power cut loses
//!    them, and a kill may: then the next process reads what the disk has. Only the mark on the file tells it so, and a
//!    kill does not come between a sync that failed and its mark: nobody could know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::{FileMemory, FileSource, Found, HeapMemory, check_header, in_memory, within_parts};
use crate::block::{FileHeader, FileId, FileSize, StoreId};
use crate::error::OpenError;
use crate::sync::{Arc, Condvar, Mutex};

/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// One store in this many has the cache write some of its sectors back.
const WRITE_BACK: u64 = 6;

/// Nothing marks a file later than that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// From 0 to `end - 1`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed: the page cache goes on.
    Kill,
    /// The power is cut: only the disk goes on.
    PowerCut,
}

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

/// One file, as the cache has it and as the disk has it.
#[derive(Clone, Debug)]
struct Copy {
    cache: Vec<u8>,
    disk: Vec<u8>,
    dirty: BTreeSet<usize>,
    lost: BTreeSet<usize>,
    is_marked: bool,
}

/// All files at the moment of a crash.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    store: StoreId,
    size: FileSize,
    folders: u16,
    files_per_folder: u16,
    files: BTreeMap<FileId, Copy>,
    /// Names that the disk does not have as the cache has them: what it has there.
    unsynced: BTreeMap<FileId, Option<Copy>>,
}

impl Image {
    /// The store is opened with so many files next.
    pub(crate) fn set_files_per_folder(&mut self, files: u16) {
        self.files_per_folder = files;
    }

    /// Files of which the cache may have what the disk will never get.
    pub(crate) fn harmed(&self) -> BTreeSet<FileId> {
        self.files.iter().filter(|(_, copy)| copy.is_marked).map(|(file, _)| *file).collect()
    }
}

/// A source over files that have a disk and a cache.
#[derive(Debug)]
pub(crate) struct LossySource {
    store: StoreId,
    size: FileSize,
    folders: u16,
    files_per_folder: u16,
    device: Arc<Device>,
}

struct Device(Mutex<State>, Condvar);

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Device")
    }
}

struct State {
    files: BTreeMap<FileId, Arc<Cached>>,
    /// As in an [`Image`].
    unsynced: BTreeMap<FileId, Option<Arc<Cached>>>,
    dice: Dice,
    plan: Option<Plan>,
    calls: u64,
    image: Option<Left>,
    /// Whether loads of anything but a header wait.
    held: bool,
}

/// Files and unsynced names of an [`Image`].
type Left = (BTreeMap<FileId, Copy>, BTreeMap<FileId, Option<Copy>>);

/// A file in the cache and on the disk; both change under the lock of the device only.
struct Cached {
    cache: HeapMemory,
    on_disk: Mutex<OnDisk>,
}

struct LossyMemory {
    device: Arc<Device>,
    file: Arc<Cached>,
    /// Whether it was marked when it was found.
    is_suspect: bool,
}

impl fmt::Debug for LossyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LossyMemory")
    }
}

#[derive(Default)]
struct OnDisk {
    bytes: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Sectors that count as clean and are older here than in the cache (invariant 5).
    lost: BTreeSet<usize>,
    has_failed: bool,
    is_marked: bool,
}

impl LossySource {
    /// A source without files, of a new store.
    pub(crate) fn new(folders: u16, files_per_folder: u16, size: FileSize, seed: u64) -> Self {
        let store = StoreId::from_u128(u128::from(seed) << 64 | 7);
        let (files, unsynced) = (BTreeMap::new(), BTreeMap::new());
        Self::open(&Image { store, size, folders, files_per_folder, files, unsynced }, seed)
    }

    /// The files as a crash has left them.
    pub(crate) fn open(image: &Image, seed: u64) -> Self {
        let cached = |copy: &Copy| {
            let cache = HeapMemory::new(image.size);
            cache.store(0, &[&copy.cache]).expect("an image is as long as its file");
            let Copy { disk, dirty, lost, is_marked, .. } = copy.clone();
            let on_disk = OnDisk { bytes: disk, dirty, lost, has_failed: is_marked, is_marked };
            Arc::new(Cached { cache, on_disk: Mutex::new(on_disk) })
        };
        let state = State {
            files: image.files.iter().map(|(file, copy)| (*file, cached(copy))).collect(),
            unsynced: image.unsynced.iter().map(|(file, copy)| (*file, copy.as_ref().map(cached))).collect(),
            dice: Dice::new(seed),
            plan: None,
            calls: 0,
            image: None,
            held: false,
        };
        let device = Arc::new(Device(Mutex::new(state), Condvar::new()));
        let Image { store, size, folders, files_per_folder, .. } = *image;
        Self { store, size, folders, files_per_folder, device }
    }

    /// What a test holds of a source that a store has taken.
    pub(crate) fn remote(&self) -> Self {
        Self { device: self.device.clone(), ..*self }
    }

    /// The generation that the header of a file names; `None` if there is no such file or its header is torn.
    pub(crate) fn generation(&self, file: FileId) -> Option<u64> {
        let state = self.device.0.lock();
        let mut header = [0; SECTOR];
        state.files.get(&file)?.cache.load(0, &mut header).ok()?;
        FileHeader::decode(&header).ok().map(|header| header.generation)
    }

    /// From now on directories are not read before this is called with `false`.
    pub(crate) fn hold_directories(&self, held: bool) {
        self.device.0.lock().held = held;
        self.device.1.notify_all();
    }

    pub(crate) fn set_plan(&self, plan: Plan) {
        let mut state = self.device.0.lock();
        state.calls = 0;
        state.plan = Some(plan);
    }

    /// Whether the crash has happened.
    pub(crate) fn has_crashed(&self) -> bool {
        self.device.0.lock().image.is_some()
    }

    /// The crash happens now if it has not yet; gives what it leaves.
    pub(crate) fn crash(&self) -> Image {
        let mut state = self.device.0.lock();
        let deadline = Instant::now() + PATIENCE;
        while state.image.is_none() && state.must_wait() && Instant::now() < deadline {
            self.device.1.wait_until(&mut state, deadline);
        }
        if state.image.is_none() {
            state.take_image();
        }
        let (files, unsynced) = state.image.clone().expect("just taken");
        Image {
            store: self.store,
            size: self.size,
            folders: self.folders,
            files_per_folder: self.files_per_folder,
            files,
            unsynced,
        }
    }

    /// Whether two files lie in one folder.
    fn are_together(&self, one: FileId, other: FileId) -> bool {
        one.index() % usize::from(self.folders) == other.index() % usize::from(self.folders)
    }

    fn lend(&self, file: &Arc<Cached>) -> Arc<dyn FileMemory> {
        let is_suspect = file.on_disk.lock().is_marked;
        Arc::new(LossyMemory { device: self.device.clone(), file: file.clone(), is_suspect })
    }
}

impl State {
    /// Counts a call that changes something; whether the crash comes in the middle of it.
    fn is_the_last(&mut self) -> bool {
        self.calls += 1;
        self.image.is_none() && self.plan.is_some_and(|plan| self.calls >= plan.at_call) && !self.must_wait()
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
        times > 0 && self.image.is_none() && self.dice.one_in(times)
    }

    /// One step of a call that takes several; the crash may come before it.
    fn step(&mut self, change: impl FnOnce(&mut Self)) {
        if self.is_the_last() {
            self.take_image();
        }
        change(self);
    }

    /// The names of a folder are on the disk as they are in the cache.
    fn sync_folder(&mut self, is_in_it: impl Fn(FileId) -> bool) {
        self.unsynced.retain(|file, _| !is_in_it(*file));
    }

    fn take_image(&mut self) {
        let crash = self.crash_of_plan();
        let files = self.files.clone();
        let unsynced = self.unsynced.clone();
        // A disk may have written much of what was not synced, or next to nothing.
        let times = 1 + self.dice.below(4);
        let kept = files.iter().map(|(id, file)| (*id, self.leave(file, crash, times))).collect();
        let mut left: Left = (kept, BTreeMap::new());
        for (id, file) in &unsynced {
            let on_disk = file.as_ref().map(|file| self.leave(file, crash, times));
            match (crash, on_disk) {
                (Crash::Kill, on_disk) => drop(left.1.insert(*id, on_disk)),
                (Crash::PowerCut, _) if self.dice.one_in(2) => {}
                (Crash::PowerCut, Some(copy)) => drop(left.0.insert(*id, copy)),
                (Crash::PowerCut, None) => drop(left.0.remove(id)),
            }
        }
        self.image = Some(left);
    }

    /// What a crash leaves of a file.
    fn leave(&mut self, file: &Cached, crash: Crash, times: u64) -> Copy {
        let mut copy = file.copy();
        if crash == Crash::PowerCut {
            for sector in std::mem::take(&mut copy.dirty) {
                let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                if sector == 0 && self.dice.one_in(4) {
                    let end = in_memory(self.dice.below(SECTOR as u64));
                    copy.disk[..end].copy_from_slice(&copy.cache[..end]);
                } else if self.dice.one_in(times) {
                    copy.disk[bytes.clone()].copy_from_slice(&copy.cache[bytes]);
                }
            }
            copy.cache.clone_from(&copy.disk);
            copy.lost.clear();
            // The mark is a name that was not synced.
            copy.is_marked &= self.dice.one_in(2);
        } else {
            self.evict(&mut copy);
        }
        copy
    }

    /// The cache drops pages that it takes for clean, some of them, or all, or none.
    fn evict(&mut self, copy: &mut Copy) {
        const SECTORS: usize = 4096 / SECTOR;
        let times = 1 + self.dice.below(4);
        let pages: BTreeSet<usize> = copy.lost.iter().map(|sector| sector / SECTORS).collect();
        for page in pages {
            let sectors = page * SECTORS..(page + 1) * SECTORS;
            if copy.dirty.range(sectors.clone()).next().is_none() && self.dice.one_in(times) {
                let bytes = sectors.start * SECTOR..sectors.end * SECTOR;
                copy.cache[bytes.clone()].copy_from_slice(&copy.disk[bytes]);
                copy.lost.retain(|sector| !sectors.contains(sector));
            }
        }
    }
}

impl OnDisk {
    fn lacks_its_mark(&self) -> bool {
        self.has_failed && !self.is_marked
    }
}

impl Cached {
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

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("{what} was made to fail"))
}

impl FileSource for LossySource {
    fn store_id(&self) -> StoreId {
        self.store
    }

    fn file_size(&self) -> FileSize {
        self.size
    }

    fn folders(&self) -> u16 {
        self.folders
    }

    fn files_per_folder(&self) -> u16 {
        self.files_per_folder
    }

    fn describe(&self, _file: FileId) -> Option<PathBuf> {
        None
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        let mut state = self.device.0.lock();
        if !state.unsynced.is_empty() {
            state.step(|state| state.sync_folder(|_| true));
        }
        Ok(state.files.iter().map(|(&id, file)| Found::new(id, self.lend(file))).collect())
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        check_header(header)?;
        let mut state = self.device.0.lock();
        if state.files.contains_key(&file) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        // What happens to the temporary file before it is whole nobody sees: the next scan deletes it.
        let cache = HeapMemory::new(self.size);
        cache.store(0, &[header])?;
        let mut bytes = vec![0; in_memory(self.size.get())];
        bytes[..header.len()].copy_from_slice(header);
        let on_disk = Mutex::new(OnDisk { bytes, ..OnDisk::default() });
        let cached = Arc::new(Cached { cache, on_disk });
        let memory = self.lend(&cached);
        state.step(|state| {
            state.files.insert(file, cached);
            state.unsynced.entry(file).or_insert(None);
        });
        state.step(|state| state.sync_folder(|other| self.are_together(file, other)));
        Ok(memory)
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        let mut state = self.device.0.lock();
        state.step(|state| {
            if let Some(cached) = state.files.remove(&file) {
                state.unsynced.entry(file).or_insert(Some(cached));
            }
        });
        state.step(|state| state.sync_folder(|other| self.are_together(file, other)));
        self.device.1.notify_all();
        Ok(())
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        if let Some(file) = self.device.0.lock().files.get(&file) {
            file.on_disk.lock().is_marked = true;
        }
        self.device.1.notify_all();
        Ok(())
    }
}

// SAFETY: that of the heap memory inside, which lives as long as `self`; only `store` changes it.
unsafe impl FileMemory for LossyMemory {
    fn size(&self) -> FileSize {
        self.file.cache.size()
    }

    fn base(&self) -> NonNull<u8> {
        self.file.cache.base()
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.device.0.lock();
        let range = within_parts(self.file.cache.size(), offset, parts)?;
        let is_last = state.is_the_last();
        let fails = state.fails(|plan| plan.failing_stores);
        let bytes = parts.concat();
        let mut stored = bytes.len();
        if (is_last || fails) && stored > 0 {
            // A call that is cut short, or fails, has done a part of its work.
            stored = in_memory(state.dice.below(stored as u64 + 1)) / SECTOR * SECTOR;
        }
        let mark = |end: usize| {
            if end > 0 {
                let sectors = range.start / SECTOR..=(range.start + end - 1) / SECTOR;
                let mut on_disk = self.file.on_disk.lock();
                on_disk.lost.retain(|sector| !sectors.contains(sector));
                on_disk.dirty.extend(sectors);
            }
        };
        self.file.cache.store(offset, &[&bytes[..stored]])?;
        mark(stored);
        if is_last {
            state.take_image();
        }
        if fails {
            return Err(failed("a store"));
        }
        self.file.cache.store(offset, &[&bytes])?;
        mark(bytes.len());
        if state.dice.one_in(WRITE_BACK) {
            let State { files, dice, .. } = &mut *state;
            for file in files.values() {
                file.write_back(|_| dice.one_in(3));
            }
        }
        Ok(())
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut state = self.device.0.lock();
        while state.held && offset > 0 {
            self.device.1.wait(&mut state);
        }
        drop(state);
        self.file.cache.load(offset, into)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.device.0.lock();
        if state.is_the_last() {
            state.take_image();
        }
        if state.fails(|plan| plan.failing_syncs) {
            // Some of it is lost, and nobody will hear of it again.
            self.file.write_back(|_| state.dice.one_in(2));
            let mut on_disk = self.file.on_disk.lock();
            let lost = std::mem::take(&mut on_disk.dirty);
            on_disk.lost.extend(lost);
            on_disk.has_failed = true;
            return Err(failed("a sync"));
        }
        self.file.write_back(|_| true);
        Ok(())
    }

    fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    fn start_write_back(&self, _range: Range<u64>) {}

    fn will_need(&self, _range: Range<u64>) {}

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        self.file.cache.populate(range)
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::check_file_source;
    use super::*;

    const SIZE: FileSize = FileSize::MIN;

    fn source(seed: u64) -> LossySource {
        LossySource::new(1, 3, SIZE, seed)
    }

    fn file(number: u16) -> FileId {
        FileId::new(number).unwrap()
    }

    fn plan(crash: Crash, at_call: u64) -> Plan {
        Plan { crash, at_call, failing_syncs: 0, failing_stores: 0 }
    }

    #[test]
    fn files_that_can_be_lost_keep_the_contract() {
        let source = source(1);
        check_file_source(|| Box::new(source.remote()));
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_survives_by_sectors() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..20 {
            let source = source(seed);
            let memory = source.create(file(1), b"header").unwrap();
            memory.store(4096, &[&[1; 4096]]).unwrap();
            memory.sync().unwrap();
            memory.store(8192, &[&[2; 4096]]).unwrap();
            let image = source.crash();
            let disk = &image.files[&file(1)].disk;
            assert_eq!(disk[4096..8192], [1; 4096]);
            for sector in disk[8192..].chunks(SECTOR) {
                let written = sector[0] == 2;
                assert!(sector.iter().all(|byte| *byte == sector[0]) && (written || sector[0] == 0));
                if written { kept += 1 } else { lost += 1 }
            }
        }
        assert!(lost > 20 && kept > 20, "{lost} lost, {kept} kept");
    }

    #[test]
    fn a_kill_keeps_the_cache_and_a_later_power_cut_loses_it() {
        let mut lost = 0;
        for seed in 0..20 {
            let source = source(seed);
            let memory = source.create(file(1), b"header").unwrap();
            source.set_plan(plan(Crash::Kill, u64::MAX));
            memory.store(8192, &[&[2; 4096]]).unwrap();
            let source = LossySource::open(&source.crash(), seed + 100);
            let found = source.scan().unwrap();
            let mut bytes = [0; 4096];
            found[0].memory.load(8192, &mut bytes).unwrap();
            assert_eq!(bytes, [2; 4096]);
            lost += u32::from(source.crash().files[&file(1)].disk[8192..] != [2; 4096]);
        }
        assert!(lost > 5, "{lost}");
    }

    #[test]
    fn a_failed_sync_loses_some_of_it_for_good() {
        let mut lost = 0;
        for seed in 0..20 {
            let source = source(seed);
            let memory = source.create(file(1), b"header").unwrap();
            source.set_plan(Plan { failing_syncs: 1, ..plan(Crash::PowerCut, u64::MAX) });
            memory.store(8192, &[&[2; 4096]]).unwrap();
            memory.sync().unwrap_err();
            source.set_plan(plan(Crash::PowerCut, u64::MAX));
            memory.sync().unwrap();
            lost += u32::from(source.crash().files[&file(1)].disk[8192..] != [2; 4096]);
        }
        assert!(lost > 10, "{lost}");
    }

    #[test]
    fn what_a_failed_sync_has_lost_may_outlive_a_kill_and_its_mark_does() {
        let (mut evicted, mut kept, mut lost, mut unmarked) = (0, 0, 0, 0);
        for seed in 0..40 {
            let source = source(seed);
            let memory = source.create(file(1), b"header").unwrap();
            source.set_plan(Plan { failing_syncs: 1, ..plan(Crash::Kill, 3) });
            memory.store(8192, &[&[2; 4096]]).unwrap();
            memory.sync().unwrap_err();
            memory.store(4096, &[b"x"]).unwrap();
            assert!(!source.has_crashed(), "not before the mark");
            source.mark_suspect(file(1)).unwrap();
            memory.store(4096, &[b"x"]).unwrap();
            let image = source.crash();
            assert_eq!(image.harmed(), BTreeSet::from([file(1)]));
            let source = LossySource::open(&image, seed + 100);
            let found = source.scan().unwrap().remove(0).memory;
            assert!(found.is_suspect());
            let mut bytes = [0; 4096];
            found.load(8192, &mut bytes).unwrap();
            // Half of it was written before the sync failed.
            *(if bytes == [2; 4096] { &mut kept } else { &mut evicted }) += 1;
            found.sync().unwrap();
            let source = LossySource::open(&source.crash(), seed);
            let found = source.scan().unwrap().remove(0).memory;
            unmarked += u32::from(!found.is_suspect());
            found.load(8192, &mut bytes).unwrap();
            // A second sync that succeeds proves nothing.
            lost += u32::from(bytes.contains(&0));
        }
        assert!(evicted > 5 && kept > 5 && lost > 35, "{evicted} {kept} {lost}");
        assert!((5..35).contains(&unmarked), "{unmarked}");
    }

    #[test]
    fn the_crash_comes_in_the_middle_of_its_call() {
        let source = source(3);
        // A creation takes two calls that change something.
        source.set_plan(plan(Crash::PowerCut, 4));
        let memory = source.create(file(1), b"header").unwrap();
        memory.store(4096, &[b"x"]).unwrap();
        assert!(!source.has_crashed());
        memory.sync().unwrap();
        assert!(source.has_crashed());
        source.delete(file(1)).unwrap();
        assert_eq!(source.crash().files.len(), 1);
    }

    #[test]
    fn a_name_is_lost_or_kept_before_its_folder_is_synced_and_kept_after_that() {
        let mut left = [0, 0];
        for seed in 0..40 {
            let source = source(seed);
            source.create(file(1), b"header").unwrap();
            // Between a name and the sync of its folder.
            source.set_plan(plan(Crash::PowerCut, 2));
            source.create(file(2), b"header").unwrap();
            let image = source.crash();
            assert!(image.files.contains_key(&file(1)) && image.unsynced.is_empty());
            left[0] += u32::from(image.files.contains_key(&file(2)));

            let source = self::source(seed);
            source.create(file(1), b"header").unwrap();
            source.set_plan(plan(Crash::Kill, 2));
            source.delete(file(1)).unwrap();
            let image = source.crash();
            assert!(image.files.is_empty());
            left[1] += u32::from(LossySource::open(&image, seed).crash().files.contains_key(&file(1)));
            let source = LossySource::open(&image, seed);
            assert_eq!(source.scan().unwrap().len(), 0);
            assert!(source.crash().files.is_empty(), "the scan has synced the folder");
        }
        assert!(left.iter().all(|times| (5..35).contains(times)), "{left:?}");
    }
}
