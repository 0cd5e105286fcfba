//! The boundary to a source that may be anybody's: its panics become errors, and what it hands out is looked at before
//! it is used.
//!
//! # Invariants
//!
//! 1. No panic of a source passes: nothing above is left half done by one. It is an error, that of a failed call.
//! 2. What a source says of itself, and where memory begins, is asked once, here: it is the same for as long as the store
//!    is open.
//! 3. Memory that is handed on has the right size and begins on a page; a list of files names each once.

use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr::NonNull;

use super::{FileMemory, FileSource, Found};
use crate::block::{FileId, FileSize, PAGE_SIZE, StoreId};
use crate::error::{BrokenPromise, IoError, OpenError, ThreadPanicked};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// How many panics were caught.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panics(Arc<AtomicU64>);

impl Panics {
    pub(crate) fn add(&self) {
        // Relaxed: a statistic, as below.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs code of a source; a panic of it is an error that says who has panicked.
    fn contain<T>(&self, act: impl FnOnce() -> T) -> io::Result<T> {
        catch_unwind(AssertUnwindSafe(act)).map_err(|payload| {
            self.add();
            io::Error::other(ThreadPanicked::caught(payload))
        })
    }

    fn contain_io<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.contain(act).and_then(|result| result)
    }
}

/// A source behind the boundary.
#[derive(Debug)]
pub(crate) struct Contained {
    inner: Arc<dyn FileSource>,
    store: StoreId,
    size: FileSize,
    folders: u16,
    files_per_folder: u16,
    boot: Option<u64>,
    panics: Panics,
}

impl Contained {
    /// Asks a source what it is; an error if it panics.
    pub(crate) fn new(inner: Arc<dyn FileSource>, panics: Panics) -> Result<Self, OpenError> {
        let what_it_is =
            || (inner.store_id(), inner.file_size(), inner.folders(), inner.files_per_folder(), inner.boot());
        let (store, size, folders, files_per_folder, boot) = panics
            .contain(what_it_is)
            .map_err(|error| OpenError::Io(IoError::new("asking a file source what it is", None, error)))?;
        Ok(Self { inner, store, size, folders, files_per_folder, boot, panics })
    }

    fn wrap(&self, inner: Arc<dyn FileMemory>) -> io::Result<Arc<dyn FileMemory>> {
        let (size, base) = self.panics.contain(|| (inner.size(), inner.base()))?;
        if !(base.as_ptr().addr() as u64).is_multiple_of(PAGE_SIZE) {
            let problem = format!("the memory of a file begins at {base:?}, and not on a multiple of {PAGE_SIZE}");
            return Err(io::Error::other(BrokenPromise(problem)));
        }
        Ok(Arc::new(ContainedMemory { inner, size, base: AtomicPtr::new(base.as_ptr()), panics: self.panics.clone() }))
    }

    /// A file that was just made: as large as the source says that it makes them.
    fn wrap_new(&self, inner: Arc<dyn FileMemory>) -> io::Result<Arc<dyn FileMemory>> {
        let memory = self.wrap(inner)?;
        if memory.size() == self.size {
            return Ok(memory);
        }
        let (is, must) = (memory.size().get(), self.size.get());
        Err(io::Error::other(BrokenPromise(format!("the file that was made has {is} bytes, and not {must}"))))
    }

    /// A file that was there, however long: its memory is as long where that can be.
    fn wrap_found(&self, found: Found) -> io::Result<Found> {
        let Found { file, memory, len } = found;
        let memory = self.wrap(memory)?;
        let is = memory.size();
        if FileSize::new(len).is_some_and(|size| size != is) {
            let problem = format!("file {file} has {len} bytes, and its memory {}", is.get());
            return Err(io::Error::other(BrokenPromise(problem)));
        }
        Ok(Found { file, memory, len })
    }

    fn list(
        &self,
        folder: Option<u16>,
        list: impl FnOnce() -> Result<Vec<Found>, OpenError>,
    ) -> Result<Vec<Found>, OpenError> {
        let failed = |error| OpenError::Io(IoError::new("listing the files of the store", None, error));
        let mut found = self.panics.contain(list).map_err(failed)??;
        found.sort_by_key(|found| found.file);
        let refused = |file: FileId, reason: &str| {
            let path = self.describe(file).unwrap_or_else(|| PathBuf::from(format!("file {file}")));
            OpenError::Foreign { path, reason: reason.to_owned() }
        };
        if let Some(two) = found.windows(2).find(|two| two[0].file == two[1].file) {
            return Err(refused(two[0].file, "the file source has listed it twice"));
        }
        let is_elsewhere = |file: FileId| folder.is_some_and(|folder| (file.get() - 1) % self.folders != folder);
        if let Some(Found { file, .. }) = found.iter().find(|found| is_elsewhere(found.file)) {
            return Err(refused(*file, "the file source has listed it in another folder"));
        }
        found.into_iter().map(|found| self.wrap_found(found)).collect::<io::Result<_>>().map_err(failed)
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default would not ask the source behind")]
impl FileSource for Contained {
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

    fn boot(&self) -> Option<u64> {
        self.boot
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        self.panics.contain(|| self.inner.describe(file)).ok().flatten()
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        self.list(None, || self.inner.scan())
    }

    fn scan_folder(&self, folder: u16) -> Result<Vec<Found>, OpenError> {
        self.list(Some(folder), || self.inner.scan_folder(folder))
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        let memory = self.panics.contain_io(|| self.inner.create(file, header))?;
        self.wrap_new(memory).inspect_err(|_| {
            // Where it stays, the next try finds it, and removes it.
            let _ = self.delete(file);
        })
    }

    fn create_unnamed(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        let memory = self.panics.contain_io(|| self.inner.create_unnamed(file, header))?;
        self.wrap_new(memory)
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.delete(file))
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.mark_suspect(file))
    }

    fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
        let memory = self.panics.contain_io(|| self.inner.mend(file))?;
        let memory = self.wrap_new(memory)?;
        // Zeros that stand in for what was lost would pass for what was written.
        if memory.is_suspect() {
            return Ok(memory);
        }
        Err(io::Error::other(BrokenPromise(format!("the memory of file {file}, which was mended, is not suspect"))))
    }
}

/// The memory of one of its files.
struct ContainedMemory {
    inner: Arc<dyn FileMemory>,
    size: FileSize,
    /// Never changed.
    base: AtomicPtr<u8>,
    panics: Panics,
}

impl fmt::Debug for ContainedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

// SAFETY: that of the memory behind, which lives as long as `self`, and whose address and size do not change.
#[deny(clippy::missing_trait_methods, reason = "a default would not ask the memory behind")]
unsafe impl FileMemory for ContainedMemory {
    fn size(&self) -> FileSize {
        self.size
    }

    fn base(&self) -> NonNull<u8> {
        // Relaxed: written before anybody else has this memory.
        NonNull::new(self.base.load(Ordering::Relaxed)).expect("it was none when it was asked for")
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.store(offset, parts))
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.load(offset, into))
    }

    fn sync(&self) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.sync())
    }

    fn check(&self) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.check())
    }

    fn is_suspect(&self) -> bool {
        // Who cannot say so is not believed.
        self.panics.contain(|| self.inner.is_suspect()).unwrap_or(true)
    }

    fn start_write_back(&self, range: Range<u64>) {
        let _ = self.panics.contain(|| self.inner.start_write_back(range));
    }

    fn finish_write_back(&self, range: Range<u64>) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.finish_write_back(range))
    }

    fn will_need(&self, range: Range<u64>) {
        let _ = self.panics.contain(|| self.inner.will_need(range));
    }

    fn read_around(&self, around: bool) {
        let _ = self.panics.contain(|| self.inner.read_around(around));
    }

    fn release(&self, range: Range<u64>) {
        let _ = self.panics.contain(|| self.inner.release(range));
    }

    fn is_untouched(&self, range: Range<u64>) -> bool {
        self.panics.contain(|| self.inner.is_untouched(range)).unwrap_or(false)
    }

    fn prepare(&self, range: Range<u64>) -> bool {
        self.panics.contain(|| self.inner.prepare(range)).unwrap_or(false)
    }

    fn resident(&self, range: Range<u64>) -> Option<u64> {
        self.panics.contain(|| self.inner.resident(range)).ok().flatten()
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        self.panics.contain_io(|| self.inner.populate(range))
    }

    fn populate_tells(&self) -> bool {
        self.panics.contain(|| self.inner.populate_tells()).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryFileSource;
    use super::super::contract::check_file_source;
    use super::*;

    #[test]
    fn behind_the_boundary_a_source_keeps_the_contract() {
        let source = MemoryFileSource::builder().folders(2).file_size(16 << 10).build().unwrap();
        check_file_source(|| Box::new(Contained::new(Arc::new(source.clone()), Panics::default()).unwrap()));
    }

    /// One file of a source that does what its test asks.
    #[derive(Debug)]
    struct Odd {
        memory: MemoryFileSource,
        list: fn(Vec<Found>) -> Vec<Found>,
    }

    impl FileSource for Odd {
        fn store_id(&self) -> StoreId {
            self.memory.store_id()
        }

        fn file_size(&self) -> FileSize {
            self.memory.file_size()
        }

        fn folders(&self) -> u16 {
            self.memory.folders()
        }

        fn files_per_folder(&self) -> u16 {
            self.memory.files_per_folder()
        }

        fn describe(&self, _file: FileId) -> Option<PathBuf> {
            panic!("as the test asks")
        }

        fn scan(&self) -> Result<Vec<Found>, OpenError> {
            self.memory.scan().map(self.list)
        }

        fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
            self.memory.create(file, header)
        }

        fn delete(&self, file: FileId) -> io::Result<()> {
            self.memory.delete(file)
        }

        fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
            self.memory.create(file, b"zeros in place of what was lost")
        }
    }

    /// The zeros that stand in for what a file has lost would have been believed.
    #[test]
    fn memory_of_a_mended_file_that_is_not_suspect_is_refused() {
        let memory = MemoryFileSource::builder().file_size(16 << 10).build().unwrap();
        let source = Contained::new(Arc::new(Odd { memory, list: |found| found }), Panics::default()).unwrap();
        let error = source.mend(FileId::new(1).unwrap()).unwrap_err().to_string();
        assert!(error.contains("the memory of file 1, which was mended, is not suspect"), "{error}");
    }

    /// A file that was listed twice was installed twice, the second time while it served.
    #[test]
    fn a_list_that_names_a_file_twice_or_in_another_folder_is_refused_by_name() {
        let open = |list: fn(Vec<Found>) -> Vec<Found>| {
            let memory = MemoryFileSource::builder().folders(2).file_size(16 << 10).build().unwrap();
            memory.create(FileId::new(2).unwrap(), b"").unwrap();
            Contained::new(Arc::new(Odd { memory, list }), Panics::default()).unwrap()
        };
        let refused = |result: Result<Vec<Found>, OpenError>| match result {
            Err(OpenError::Foreign { path, reason }) => format!("{}: {reason}", path.display()),
            other => panic!("{other:?}"),
        };
        let twice = open(|found| found.iter().chain(&found).cloned().collect());
        assert_eq!(refused(twice.scan()), "file 2: the file source has listed it twice");
        let elsewhere = open(|found| {
            let other = |Found { memory, .. }: Found| Found::new(FileId::new(1).unwrap(), memory);
            found.into_iter().map(other).collect()
        });
        // The default of `scan_folder` leaves it out itself: whoever writes an own one may not.
        assert_eq!(elsewhere.scan_folder(1).unwrap().len(), 0);
        let moved = || elsewhere.inner.scan();
        assert_eq!(refused(elsewhere.list(Some(1), moved)), "file 1: the file source has listed it in another folder");
        assert_eq!(elsewhere.panics.get(), 1, "what it panicked in is told without a path");
        let longer = open(|found| found.into_iter().map(|found| Found { len: found.len + 4096, ..found }).collect());
        let Err(OpenError::Io(error)) = longer.scan() else { panic!() };
        assert!(
            error.to_string().ends_with("file 2 has 20480 bytes, and its memory 16384; mend the file source"),
            "{error}"
        );
        let panics = open(|_| panic!("as the test asks"));
        let Err(OpenError::Io(error)) = panics.scan() else { panic!() };
        assert!(error.panicked().is_some_and(|panicked| panicked.message == "as the test asks"), "{error}");
    }
}
