//! A source whose calls fail when a test says so, and are counted.
//!
//! # Invariants
//!
//! 1. A call that fails here has not reached the source behind.

#[cfg(not(loom))]
mod hints;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
#[cfg(not(loom))]
use std::time::{Duration, Instant};

#[cfg(not(loom))]
pub(crate) use self::hints::{Hint, Hints};
use super::{FileMemory, FileSource, Found};
#[cfg(not(loom))]
use crate::block::Entry;
use crate::block::{FileId, FileSize, StoreId};
use crate::error::{IoError, OpenError};
#[cfg(not(loom))]
use crate::sync::Condvar;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Scan,
    Create,
    Delete,
    Store,
    Load,
    Sync,
    Populate,
    Mark,
}

impl Call {
    pub(crate) const ALL: [Self; 8] =
        [Self::Scan, Self::Create, Self::Delete, Self::Store, Self::Load, Self::Sync, Self::Populate, Self::Mark];
}

/// What a disk answers that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(loom, expect(dead_code, reason = "models fail as a full disk does"))]
pub(crate) enum Errno {
    /// ENOSPC
    NoSpace,
    /// EIO
    Io,
    /// EMFILE
    TooManyFiles,
    /// ENOMEM
    NoMemory,
}

impl Errno {
    #[cfg(not(loom))]
    pub(crate) const ALL: [Self; 4] = [Self::NoSpace, Self::Io, Self::TooManyFiles, Self::NoMemory];

    /// The error as the system gives it: its number, and nothing else.
    #[cfg(unix)]
    pub(crate) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::NoSpace => libc::ENOSPC,
            Self::Io => libc::EIO,
            Self::TooManyFiles => libc::EMFILE,
            Self::NoMemory => libc::ENOMEM,
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn error(self) -> io::Error {
        io::Error::from(match self {
            Self::NoSpace => io::ErrorKind::StorageFull,
            Self::Io | Self::TooManyFiles => io::ErrorKind::Other,
            Self::NoMemory => io::ErrorKind::OutOfMemory,
        })
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Errno(Errno),
    Kind(io::ErrorKind),
    #[cfg(not(loom))]
    Panic,
}

/// When calls fail, and how.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    countdown: u64,
    sticky: bool,
    answer: Answer,
    calls: Vec<Call>,
    folder: Option<u16>,
}

impl Fault {
    /// Fails the `k`-th call from now on (the next one is the first), once, as a full disk does.
    pub(crate) fn at(k: u64) -> Self {
        let answer = Answer::Errno(Errno::NoSpace);
        Self { countdown: k, sticky: false, answer, calls: Call::ALL.to_vec(), folder: None }
    }

    /// Every call after that fails as well.
    pub(crate) fn sticky(self) -> Self {
        Self { sticky: true, ..self }
    }

    /// Fails with this error of the system.
    #[cfg(not(loom))]
    pub(crate) fn errno(self, errno: Errno) -> Self {
        Self { answer: Answer::Errno(errno), ..self }
    }

    /// Fails with this kind of error, whatever number it has.
    pub(crate) fn kind(self, kind: io::ErrorKind) -> Self {
        Self { answer: Answer::Kind(kind), ..self }
    }

    /// Panics instead.
    #[cfg(not(loom))]
    pub(crate) fn panicking(self) -> Self {
        Self { answer: Answer::Panic, ..self }
    }

    /// Only these calls count and fail.
    pub(crate) fn only(self, calls: &[Call]) -> Self {
        Self { calls: calls.to_vec(), ..self }
    }

    /// Only calls that touch this folder, counted from 0, count and fail: a `scan` touches all.
    #[cfg(not(loom))]
    pub(crate) fn in_folder(self, folder: u16) -> Self {
        Self { folder: Some(folder), ..self }
    }

    fn concerns(&self, call: Call, folder: Option<u16>) -> bool {
        self.calls.contains(&call) && (self.folder.is_none() || folder.is_none() || self.folder == folder)
    }
}

/// What a test holds of a [`FaultySource`]: sets faults and reads counters.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    fault: Mutex<Option<Fault>>,
    counts: [AtomicU64; Call::ALL.len()],
    failed: [AtomicU64; Call::ALL.len()],
    #[cfg(not(loom))]
    pub(crate) hints: Hints,
    #[cfg(not(loom))]
    syncs: Hold,
    #[cfg(not(loom))]
    stores: Hold,
    #[cfg(not(loom))]
    payloads: Hold,
    #[cfg(not(loom))]
    payloads_of: Mutex<Option<FileId>>,
}

/// Whether calls of one kind wait, and how many do.
#[cfg(not(loom))]
#[derive(Debug, Default)]
struct Hold {
    held: Mutex<(bool, u64)>,
    released: Condvar,
}

/// Nobody waits longer for a test that has failed.
#[cfg(not(loom))]
const HELD: Duration = Duration::from_mins(if cfg!(miri) { 1000 } else { 1 });

impl Faults {
    /// From now on calls fail as `fault` says, in place of what was set before.
    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock() = Some(fault);
    }

    /// From now on no call fails.
    pub(crate) fn clear(&self) {
        *self.fault.lock() = None;
    }

    /// How many of these calls there were, failed ones as well.
    pub(crate) fn count(&self, call: Call) -> u64 {
        // Relaxed: a test reads it when the threads that count are quiet.
        self.counts[call as usize].load(Ordering::Relaxed)
    }

    /// How many calls there were.
    pub(crate) fn total(&self) -> u64 {
        Call::ALL.iter().map(|&call| self.count(call)).sum()
    }

    /// How many calls were made to fail.
    pub(crate) fn failed(&self) -> u64 {
        Call::ALL.iter().map(|&call| self.failed_of(call)).sum()
    }

    /// How many of these calls were made to fail.
    pub(crate) fn failed_of(&self, call: Call) -> u64 {
        // Relaxed: as in `count`.
        self.failed[call as usize].load(Ordering::Relaxed)
    }

    /// From now on syncs wait before they begin, until this is called with `false`.
    #[cfg(not(loom))]
    pub(crate) fn hold_syncs(&self, held: bool) {
        self.syncs.hold(held);
    }

    /// How many syncs wait.
    #[cfg(not(loom))]
    pub(crate) fn held_syncs(&self) -> u64 {
        self.syncs.waiting()
    }

    /// From now on stores wait before they begin, until this is called with `false`.
    #[cfg(not(loom))]
    pub(crate) fn hold_stores(&self, held: bool) {
        self.stores.hold(held);
    }

    /// How many stores wait.
    #[cfg(not(loom))]
    pub(crate) fn held_stores(&self) -> u64 {
        self.stores.waiting()
    }

    /// From now on loads of more than an entry wait before they begin, until this is called with `false`: those of payloads
    /// and directories, and none of a header.
    #[cfg(not(loom))]
    pub(crate) fn hold_payloads(&self, held: bool) {
        *self.payloads_of.lock() = None;
        self.payloads.hold(held);
    }

    /// The same for one file.
    #[cfg(not(loom))]
    pub(crate) fn hold_payloads_of(&self, file: FileId) {
        *self.payloads_of.lock() = Some(file);
        self.payloads.hold(true);
    }

    /// How many of those loads wait.
    #[cfg(not(loom))]
    pub(crate) fn held_payloads(&self) -> u64 {
        self.payloads.waiting()
    }

    /// Counts a call in a folder, or in all; an error if it is one that fails.
    fn meet(&self, call: Call, folder: Option<u16>) -> io::Result<()> {
        // Relaxed: these are counters, nothing is published by them.
        self.counts[call as usize].fetch_add(1, Ordering::Relaxed);
        let mut slot = self.fault.lock();
        let Some(fault) = slot.as_mut().filter(|fault| fault.concerns(call, folder)) else { return Ok(()) };
        fault.countdown = fault.countdown.saturating_sub(1);
        if fault.countdown > 0 {
            return Ok(());
        }
        // Relaxed: as above.
        self.failed[call as usize].fetch_add(1, Ordering::Relaxed);
        let answer = fault.answer;
        if !fault.sticky {
            *slot = None;
        }
        drop(slot);
        Err(match answer {
            Answer::Errno(errno) => errno.error(),
            Answer::Kind(kind) => io::Error::new(kind, Injected(call)),
            #[cfg(not(loom))]
            Answer::Panic => panic!("{call:?}, {}", crate::error::PLANNED_PANIC),
        })
    }
}

#[cfg(not(loom))]
impl Hold {
    fn hold(&self, held: bool) {
        self.held.lock().0 = held;
        self.released.notify_all();
    }

    fn waiting(&self) -> u64 {
        self.held.lock().1
    }

    fn wait_while_held(&self) {
        let deadline = Instant::now() + HELD;
        let mut held = self.held.lock();
        held.1 += 1;
        while held.0 && Instant::now() < deadline {
            self.released.wait_until(&mut held, deadline);
        }
        held.1 -= 1;
    }
}

/// The text of an error that was made here.
#[derive(Debug)]
struct Injected(Call);

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was made to fail", self.0)
    }
}

impl std::error::Error for Injected {}

/// A source in front of another one.
#[derive(Debug)]
pub(crate) struct FaultySource<S> {
    inner: S,
    faults: Arc<Faults>,
    is_named: bool,
}

impl<S: FileSource> FaultySource<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self::with(inner, Arc::new(Faults::default()))
    }

    /// With the faults of another source: one countdown for a store that is opened several times.
    pub(crate) fn with(inner: S, faults: Arc<Faults>) -> Self {
        Self { inner, faults, is_named: false }
    }

    /// Its files have paths for messages, whatever the source behind says.
    #[cfg(not(loom))]
    pub(crate) fn named(self) -> Self {
        Self { is_named: true, ..self }
    }

    pub(crate) fn faults(&self) -> Arc<Faults> {
        self.faults.clone()
    }

    fn wrap(&self, file: FileId, inner: Arc<dyn FileMemory>) -> Arc<dyn FileMemory> {
        Arc::new(FaultyMemory { inner, faults: self.faults.clone(), file, folder: Some(self.folder_of(file)) })
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
}

// SAFETY: that of the memory behind, which lives as long as `self`; what fails here changes nothing.
#[deny(clippy::missing_trait_methods, reason = "a default would not ask the memory behind")]
unsafe impl FileMemory for FaultyMemory {
    fn size(&self) -> FileSize {
        self.inner.size()
    }

    fn base(&self) -> NonNull<u8> {
        self.inner.base()
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        #[cfg(not(loom))]
        self.faults.stores.wait_while_held();
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
        if into.len() > Entry::SIZE && offset > 0 && self.faults.payloads_of.lock().is_none_or(|file| file == self.file)
        {
            self.faults.payloads.wait_while_held();
        }
        self.faults.meet(Call::Load, self.folder)?;
        self.inner.load(offset, into)
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(not(loom))]
        self.faults.syncs.wait_while_held();
        self.faults.meet(Call::Sync, self.folder)?;
        self.inner.sync()
    }

    fn start_write_back(&self, range: Range<u64>) {
        #[cfg(not(loom))]
        self.faults.hints.note(self.file, Hint::WrittenBack(range.clone()));
        self.inner.start_write_back(range);
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
        self.inner.is_untouched(range)
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
}

mod tests {
    use super::super::MemoryFileSource;
    use super::super::contract::check_file_source;
    use super::*;

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
        assert_eq!(counts, [0, 1, 0, 3, 1, 1, 0, 0]);
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
