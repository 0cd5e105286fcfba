//! A source with a page cache that can be lost: what stands on the disk after a power cut, or a kill, at any call.
//!
//! `device` says what a disk and its cache do, and `crash` what is left of that; here they are a [`FileSource`], whose image
//! becomes the next one.

mod crash;
mod device;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;

use self::crash::Left;
use self::device::{Cached, Device};
use super::{FileMemory, FileSource, Found};
use crate::block::{FileHeader, FileId, FileSize, StoreId};
use crate::error::OpenError;
use crate::sync::Arc;

pub(crate) use self::crash::Crash;
pub(crate) use self::device::Plan;

/// What a source says of itself.
#[derive(Clone, Copy, Debug)]
struct Shape {
    store: StoreId,
    size: FileSize,
    folders: u16,
    files_per_folder: u16,
}

impl Shape {
    /// Whether two files lie in one folder.
    fn are_together(self, one: FileId, other: FileId) -> bool {
        one.index() % usize::from(self.folders) == other.index() % usize::from(self.folders)
    }
}

/// All files at the moment of a crash.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    shape: Shape,
    left: Left,
}

impl Image {
    /// The store is opened with so many files next.
    pub(crate) fn set_files_per_folder(&mut self, files: u16) {
        self.shape.files_per_folder = files;
    }

    /// Files of which the cache may have what the disk will never get.
    pub(crate) fn harmed(&self) -> BTreeSet<FileId> {
        self.left.files.iter().filter(|(_, copy)| copy.is_marked).map(|(file, _)| *file).collect()
    }
}

/// A source over files that have a disk and a cache.
#[derive(Debug)]
pub(crate) struct LossySource {
    shape: Shape,
    device: Arc<Device>,
}

impl LossySource {
    /// A source without files, of a new store.
    pub(crate) fn new(folders: u16, files_per_folder: u16, size: FileSize, seed: u64) -> Self {
        let store = StoreId::from_u128(u128::from(seed) << 64 | 7);
        let shape = Shape { store, size, folders, files_per_folder };
        Self::open(&Image { shape, left: Left::default() }, seed)
    }

    /// The files as a crash has left them.
    pub(crate) fn open(image: &Image, seed: u64) -> Self {
        let Image { shape, left } = image;
        Self { shape: *shape, device: Arc::new(Device::new(left, shape.size, seed)) }
    }

    /// What a test holds of a source that a store has taken.
    pub(crate) fn remote(&self) -> Self {
        Self { shape: self.shape, device: Arc::clone(&self.device) }
    }

    /// The generation that the header of a file names; `None` if there is no such file or its header is torn.
    pub(crate) fn generation(&self, file: FileId) -> Option<u64> {
        FileHeader::decode(&self.device.first_sector(file)?).ok().map(|header| header.generation)
    }

    /// How many files have a header that is torn.
    pub(crate) fn torn(&self) -> usize {
        let sectors = (1..=FileId::MAX).filter_map(|file| self.device.first_sector(FileId::new(file)?));
        sectors.filter(|sector| FileHeader::decode(sector).is_err()).count()
    }

    /// As [`Image::harmed`], now.
    pub(crate) fn harmed(&self) -> BTreeSet<FileId> {
        self.device.marked()
    }

    /// From now on directories are not read before this is called with `false`.
    pub(crate) fn hold_directories(&self, held: bool) {
        self.device.hold_directories(held);
    }

    pub(crate) fn set_plan(&self, plan: Plan) {
        self.device.set_plan(plan);
    }

    /// No call fails any more; the crash comes when it is planned.
    pub(crate) fn heal(&self) {
        self.device.heal();
    }

    /// Whether the crash has happened.
    pub(crate) fn has_crashed(&self) -> bool {
        self.device.has_crashed()
    }

    /// The crash happens now if it has not yet; gives what it leaves.
    pub(crate) fn crash(&self) -> Image {
        Image { shape: self.shape, left: self.device.crash() }
    }

    fn lend(&self, file: Arc<Cached>) -> Arc<dyn FileMemory> {
        let is_suspect = file.is_marked();
        Arc::new(LossyMemory { device: Arc::clone(&self.device), file, is_suspect })
    }
}

impl FileSource for LossySource {
    fn store_id(&self) -> StoreId {
        self.shape.store
    }

    fn file_size(&self) -> FileSize {
        self.shape.size
    }

    fn folders(&self) -> u16 {
        self.shape.folders
    }

    fn files_per_folder(&self) -> u16 {
        self.shape.files_per_folder
    }

    fn boot(&self) -> Option<u64> {
        Some(self.device.boot())
    }

    fn describe(&self, _file: FileId) -> Option<PathBuf> {
        None
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        Ok(self.device.scan().into_iter().map(|(id, file)| Found::new(id, self.lend(file))).collect())
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        let created = self.device.create(file, header, |other| self.shape.are_together(file, other))?;
        Ok(self.lend(created))
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.device.delete(file, |other| self.shape.are_together(file, other));
        Ok(())
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        self.device.mark(file);
        Ok(())
    }
}

/// The memory of one of its files.
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

// SAFETY: that of the heap memory inside, which lives as long as `self`; only `store` changes it.
unsafe impl FileMemory for LossyMemory {
    fn size(&self) -> FileSize {
        self.file.memory().size()
    }

    fn base(&self) -> NonNull<u8> {
        self.file.memory().base()
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.device.store(&self.file, offset, parts)
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.device.load(&self.file, offset, into)
    }

    fn sync(&self) -> io::Result<()> {
        self.device.sync(&self.file)
    }

    fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    fn start_write_back(&self, range: Range<u64>) {
        self.device.start_write_back(&self.file, &range);
    }

    fn finish_write_back(&self, range: Range<u64>) -> io::Result<()> {
        self.device.finish_write_back(&self.file, &range)
    }

    fn will_need(&self, _range: Range<u64>) {}

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        self.file.memory().populate(range)
    }

    fn populate_tells(&self) -> bool {
        self.file.memory().populate_tells()
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::check_file_source;
    use super::crash::SECTOR;
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
            let disk = &image.left.files[&file(1)].disk;
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
            lost += u32::from(source.crash().left.files[&file(1)].disk[8192..] != [2; 4096]);
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
            lost += u32::from(source.crash().left.files[&file(1)].disk[8192..] != [2; 4096]);
        }
        assert!(lost > 10, "{lost}");
    }

    #[test]
    fn a_piece_that_was_waited_for_is_on_the_disk_and_one_that_is_lost_is_told_to_its_sync_as_well() {
        let (mut lost, mut of_others) = (0, 0);
        for seed in 0..40 {
            for failing_syncs in [0, 1] {
                let source = source(seed);
                let memory = source.create(file(1), b"header").unwrap();
                memory.store(4096, &[&[1; 4096]]).unwrap();
                memory.store(8192, &[&[2; 4096]]).unwrap();
                source.set_plan(Plan { failing_syncs, ..plan(Crash::PowerCut, u64::MAX) });
                memory.start_write_back(8192..12_288);
                let finished = memory.finish_write_back(8192..12_288);
                assert_eq!(finished.is_err(), failing_syncs == 1);
                source.set_plan(plan(Crash::PowerCut, u64::MAX));
                assert_eq!(memory.sync().is_err(), failing_syncs == 1, "told once more, through its own opening");
                memory.sync().unwrap();
                let disk = &source.crash().left.files[&file(1)].disk;
                // What is no part of the piece is not lost with it.
                of_others += usize::from(disk[4096..8192] != [1; 4096]);
                let is_lost = disk[8192..] != [2; 4096];
                assert!(failing_syncs == 1 || !is_lost);
                lost += u32::from(is_lost);
            }
        }
        assert!(lost > 20 && of_others == 0, "{lost} {of_others}");
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
        assert_eq!(source.crash().left.files.len(), 1);
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
            assert!(image.left.files.contains_key(&file(1)) && image.left.unsynced.is_empty());
            left[0] += u32::from(image.left.files.contains_key(&file(2)));

            let source = self::source(seed);
            source.create(file(1), b"header").unwrap();
            source.set_plan(plan(Crash::Kill, 2));
            source.delete(file(1)).unwrap();
            let image = source.crash();
            assert!(image.left.files.is_empty());
            left[1] += u32::from(LossySource::open(&image, seed).crash().left.files.contains_key(&file(1)));
            let source = LossySource::open(&image, seed);
            assert_eq!(source.scan().unwrap().len(), 0);
            assert!(source.crash().left.files.is_empty(), "the scan has synced the folder");
        }
        assert!(left.iter().all(|times| (5..35).contains(times)), "{left:?}");
    }
}
