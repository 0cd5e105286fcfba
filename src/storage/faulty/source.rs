//! The source in front of another one, and its memory.
//!
//! # Invariants
//!
//! 1. A call that fails here has not reached the source behind.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

#[cfg(not(loom))]
use super::Hint;
use super::{Call, Faults};
use crate::block::{FileId, FileSize, StoreId};
use crate::error::{IoError, OpenError};
use crate::storage::{FileMemory, FileSource, Found, HeapMemory};
use crate::sync::Arc;

/// A source in front of another one.
#[derive(Debug)]
pub(crate) struct FaultySource<S> {
    inner: S,
    faults: Arc<Faults>,
    is_named: bool,
    shown: Shown,
    boot: Option<u64>,
}

/// What is seen where its memory is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Its bytes, and what of them cannot be read.
    Bytes,
    /// Its bytes, as on a system that does not say what of them can be read.
    Untold,
    /// Zeros, as the handler of SIGBUS puts them in place of what cannot be read.
    Zeros,
}

impl<S: FileSource> FaultySource<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self::with(inner, Arc::new(Faults::default()))
    }

    /// With the faults of another source: one countdown for a store that is opened several times.
    pub(crate) fn with(inner: S, faults: Arc<Faults>) -> Self {
        let boot = inner.boot();
        Self { inner, faults, is_named: false, shown: Shown::Bytes, boot }
    }

    /// Its files have paths for messages, whatever the source behind says.
    #[cfg(not(loom))]
    pub(crate) fn named(self) -> Self {
        Self { is_named: true, ..self }
    }

    /// It says that this is the boot of its system, whatever the source behind says.
    #[cfg(not(loom))]
    pub(crate) fn in_boot(self, boot: Option<u64>) -> Self {
        Self { boot, ..self }
    }

    /// Its memory does not say what of it can be read, as that of an old system.
    #[cfg(not(loom))]
    pub(crate) fn unpopulated(self) -> Self {
        Self { shown: Shown::Untold, ..self }
    }

    /// Its memory has zeros where it is mapped: its bytes can be loaded only.
    #[cfg(not(loom))]
    pub(crate) fn blank(self) -> Self {
        Self { shown: Shown::Zeros, ..self }
    }

    pub(crate) fn faults(&self) -> Arc<Faults> {
        self.faults.clone()
    }

    fn wrap(&self, file: FileId, inner: Arc<dyn FileMemory>) -> Arc<dyn FileMemory> {
        let (faults, folder, shown) = (self.faults.clone(), Some(self.folder_of(file)), self.shown);
        let zeros = (shown == Shown::Zeros).then(|| HeapMemory::new(inner.size()));
        Arc::new(FaultyMemory { inner, faults, file, folder, shown, zeros })
    }

    fn folder_of(&self, file: FileId) -> u16 {
        (file.get() - 1) % self.inner.folders()
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default would not ask the source behind")]
impl<S: FileSource> FileSource for FaultySource<S> {
    fn store_id(&self) -> StoreId {
        self.inner.store_id()
    }

    fn file_size(&self) -> FileSize {
        self.inner.file_size()
    }

    fn folders(&self) -> u16 {
        self.inner.folders()
    }

    fn files_per_folder(&self) -> u16 {
        self.inner.files_per_folder()
    }

    fn boot(&self) -> Option<u64> {
        self.boot
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        if self.is_named {
            return Some(PathBuf::from(format!("folder-{}/file-{file}", self.folder_of(file))));
        }
        self.inner.describe(file)
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        let folder = self.is_named.then(|| Path::new("folder-0"));
        self.faults.meet(Call::Scan, None).map_err(|error| IoError::new("listing a folder", folder, error))?;
        let found = self.inner.scan()?;
        Ok(found
            .into_iter()
            .map(|Found { file, memory, len }| Found { file, memory: self.wrap(file, memory), len })
            .collect())
    }

    fn scan_folder(&self, folder: u16) -> Result<Vec<Found>, OpenError> {
        self.faults.meet(Call::Scan, Some(folder)).map_err(|error| IoError::new("listing a folder", None, error))?;
        let found = self.inner.scan_folder(folder)?;
        Ok(found
            .into_iter()
            .map(|Found { file, memory, len }| Found { file, memory: self.wrap(file, memory), len })
            .collect())
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.faults.meet(Call::Create, Some(self.folder_of(file)))?;
        self.inner.create(file, header).map(|memory| self.wrap(file, memory))
    }

    fn create_unnamed(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.faults.meet(Call::Create, Some(self.folder_of(file)))?;
        self.inner.create_unnamed(file, header).map(|memory| self.wrap(file, memory))
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.faults.meet(Call::Delete, Some(self.folder_of(file)))?;
        self.inner.delete(file)
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        self.faults.meet(Call::Mark, Some(self.folder_of(file)))?;
        self.inner.mark_suspect(file)
    }

    fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
        self.faults.meet(Call::Create, Some(self.folder_of(file)))?;
        self.inner.mend(file).map(|memory| self.wrap(file, memory))
    }
}

#[derive(Debug)]
struct FaultyMemory {
    inner: Arc<dyn FileMemory>,
    faults: Arc<Faults>,
    #[cfg_attr(loom, expect(dead_code, reason = "models do not look at what is sent to the device"))]
    file: FileId,
    folder: Option<u16>,
    shown: Shown,
    zeros: Option<HeapMemory>,
}

// SAFETY: that of the memory behind, or of the zeros in its place, which both live as long as `self`; what fails here
// changes nothing.
#[deny(clippy::missing_trait_methods, reason = "a default would not ask the memory behind")]
unsafe impl FileMemory for FaultyMemory {
    fn size(&self) -> FileSize {
        self.inner.size()
    }

    fn base(&self) -> NonNull<u8> {
        self.zeros.as_ref().map_or_else(|| self.inner.base(), HeapMemory::base)
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        #[cfg(not(loom))]
        self.faults.wait_to_store();
        self.faults.meet(Call::Store, self.folder)?;
        self.inner.store(offset, parts)
    }

    fn check(&self) -> io::Result<()> {
        self.inner.check()
    }

    fn is_suspect(&self) -> bool {
        self.inner.is_suspect()
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        #[cfg(not(loom))]
        self.faults.wait_to_load(self.file, offset, into.len());
        self.faults.meet(Call::Load, self.folder)?;
        #[cfg(not(loom))]
        self.faults.meet_bad(self.file, offset, into.len())?;
        self.inner.load(offset, into)
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(not(loom))]
        self.faults.wait_to_sync();
        self.faults.meet(Call::Sync, self.folder)?;
        self.inner.sync()
    }

    fn start_write_back(&self, range: Range<u64>) {
        #[cfg(not(loom))]
        self.faults.hints.note(self.file, Hint::WrittenBack(range.clone()));
        self.inner.start_write_back(range);
    }

    fn finish_write_back(&self, range: Range<u64>) -> io::Result<()> {
        #[cfg(not(loom))]
        self.faults.hints.note(self.file, Hint::Awaited(range.clone()));
        self.faults.meet(Call::Finish, self.folder)?;
        self.inner.finish_write_back(range)
    }

    fn will_need(&self, range: Range<u64>) {
        #[cfg(not(loom))]
        self.faults.hints.note(self.file, Hint::Needed(range.clone()));
        self.inner.will_need(range);
    }

    #[cfg(not(loom))]
    fn read_around(&self, around: bool) {
        self.faults.hints.note(self.file, Hint::ReadAround(around));
        self.inner.read_around(around);
    }

    #[cfg(not(loom))]
    fn release(&self, range: Range<u64>) {
        self.faults.hints.note(self.file, Hint::Released(range.clone()));
        self.inner.release(range);
    }

    fn is_untouched(&self, range: Range<u64>) -> bool {
        #[cfg(not(loom))]
        if self.faults.hints.are_untouched() {
            return true;
        }
        self.inner.is_untouched(range)
    }

    #[cfg(not(loom))]
    fn prepare(&self, range: Range<u64>) -> bool {
        self.faults.hints.note(self.file, Hint::Prepared(range.clone()));
        self.inner.prepare(range) || self.faults.hints.are_in_pieces()
    }

    #[cfg(not(loom))]
    fn resident(&self, range: Range<u64>) -> Option<u64> {
        Some(self.faults.hints.resident(&range))
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        self.faults.meet(Call::Populate, self.folder)?;
        #[cfg(not(loom))]
        self.faults.hints.note(self.file, Hint::Populated(range.clone()));
        self.inner.populate(range)
    }

    fn populate_tells(&self) -> bool {
        self.shown != Shown::Untold && self.inner.populate_tells()
    }
}

mod tests {
    use super::super::{Errno, Fault};
    use super::*;
    use crate::storage::MemoryFileSource;
    use crate::storage::contract::check_file_source;

    fn source() -> FaultySource<MemoryFileSource> {
        FaultySource::new(MemoryFileSource::builder().file_size(16 << 10).build().unwrap())
    }

    #[test]
    fn without_a_fault_it_is_a_source_like_any_other() {
        let memory = MemoryFileSource::builder().file_size(16 << 10).build().unwrap();
        check_file_source(|| Box::new(FaultySource::new(memory.clone())));
    }

    #[test]
    fn the_kth_call_fails_once_and_is_not_passed_on() {
        let source = source();
        let faults = source.faults();
        let memory = source.create(FileId::new(1).unwrap(), b"header").unwrap();
        faults.set(Fault::at(3));
        memory.store(4096, &[b"a"]).unwrap();
        memory.sync().unwrap();
        let error = memory.store(4097, &[b"b"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(error.raw_os_error(), Errno::NoSpace.error().raw_os_error());
        memory.store(4098, &[b"c"]).unwrap();
        let mut bytes = [1; 3];
        memory.load(4096, &mut bytes).unwrap();
        assert_eq!(&bytes, b"a\0c");
        let counts = Call::ALL.map(|call| faults.count(call));
        assert_eq!(counts, [0, 1, 0, 3, 1, 1, 0, 0, 0]);
        assert_eq!((faults.total(), faults.failed()), (6, 1));
    }

    #[test]
    fn a_sticky_fault_fails_its_own_calls_until_it_is_cleared() {
        let source = source();
        let faults = source.faults();
        let memory = source.create(FileId::new(1).unwrap(), b"header").unwrap();
        let only = [Call::Sync, Call::Scan];
        faults.set(Fault::at(2).sticky().kind(io::ErrorKind::ReadOnlyFilesystem).only(&only));
        memory.sync().unwrap();
        for _ in 0..3 {
            memory.store(0, &[b"x"]).unwrap();
            let error = memory.sync().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
            assert_eq!(error.to_string(), "Sync was made to fail");
            let error = source.scan().unwrap_err();
            assert!(matches!(&error, OpenError::Io(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem));
        }
        faults.clear();
        memory.sync().unwrap();
        assert_eq!((source.scan().unwrap().len(), faults.failed()), (1, 6));
    }

    #[test]
    fn every_call_that_can_fail_fails() {
        let source = source();
        let memory = source.create(FileId::new(1).unwrap(), b"header").unwrap();
        source.faults().set(Fault::at(1).sticky());
        source.create(FileId::new(2).unwrap(), b"header").unwrap_err();
        source.create_unnamed(FileId::new(2).unwrap(), b"header").unwrap_err();
        source.delete(FileId::new(1).unwrap()).unwrap_err();
        source.mark_suspect(FileId::new(1).unwrap()).unwrap_err();
        source.scan().unwrap_err();
        memory.store(0, &[b"x"]).unwrap_err();
        memory.load(0, &mut [0]).unwrap_err();
        memory.sync().unwrap_err();
        memory.populate(0..1).unwrap_err();
        let again = FaultySource::with(source.inner.clone(), source.faults());
        again.scan().unwrap_err();
        assert_eq!(source.faults().failed(), 10);
    }
}
