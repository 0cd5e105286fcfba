//! Files on the heap: the same contract without a disk. miri runs on it, and gather buffers are made of it.
//!
//! # Invariants
//!
//! 1. No reference to the bytes is ever formed here: they are reached by copies from and to raw pointers only.
//! 2. Safe calls that touch the same bytes take turns.
//! 3. The files have one owner: a source that scanned or created, while it or any memory that it handed out lives.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;

use super::{
    FileMemory, FileSource, Found, check_file_size, check_files_per_folder, check_folders, check_header, in_memory,
    within, within_parts,
};
use crate::block::{FileId, FileSize, PAGE_SIZE, StoreId};
use crate::error::{IoError, OpenError};
use crate::sync::{Arc, Mutex, Weak};

/// Zeroed memory that starts on a page.
#[derive(Debug)]
pub(crate) struct HeapMemory {
    size: FileSize,
    /// What was allocated: a page more than `size`, so that the large allocations of the system allocator, which are
    /// zero without being touched, can be used in spite of their alignment.
    allocated: NonNull<u8>,
    /// The first page inside.
    base: NonNull<u8>,
    turns: Mutex<()>,
}

// SAFETY: the memory is owned; raw pointers to it mean the same on every thread.
unsafe impl Send for HeapMemory {}
// SAFETY: safe methods copy under `turns`; what else touches the bytes has its own contract.
unsafe impl Sync for HeapMemory {}

impl HeapMemory {
    /// `size` bytes of zeros.
    pub(crate) fn new(size: FileSize) -> Self {
        let layout = Self::layout(size);
        // SAFETY: the layout is not empty.
        let Some(allocated) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let address = allocated.addr().get();
        // SAFETY: less than a page is skipped, and the allocation is a page longer than `size`.
        let base = unsafe { allocated.add(address.next_multiple_of(in_memory(PAGE_SIZE)) - address) };
        Self { size, allocated, base, turns: Mutex::new(()) }
    }

    fn layout(size: FileSize) -> Layout {
        Layout::from_size_align(in_memory(size.get() + PAGE_SIZE), 1).expect("a file is at most 16 GiB")
    }

    /// Copies all `parts`, one after the other, to `offset`, without taking turns: stores to different bytes run at the
    /// same time.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if the parts do not lie within; nothing has changed then.
    ///
    /// # Safety
    /// - While this runs nobody else reads or stores any of the bytes that the parts take.
    pub(crate) unsafe fn store_unshared(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut to = self.at(within_parts(self.size, offset, parts)?.start);
        for part in parts {
            // SAFETY: all parts together lie within, as was just checked; a slice that somebody lends to us is no part
            // of this memory while it is stored to, by the contract above.
            unsafe { NonNull::from_ref(*part).cast::<u8>().copy_to_nonoverlapping(to, part.len()) };
            // SAFETY: at most one behind the last byte, as was just checked.
            to = unsafe { to.add(part.len()) };
        }
        Ok(())
    }

    /// The byte at a position that was checked: at most one behind the last.
    fn at(&self, position: usize) -> NonNull<u8> {
        debug_assert!(position as u64 <= self.size.get(), "byte {position} of {:?}", self.size);
        // SAFETY: callers have checked the position.
        unsafe { self.base.add(position) }
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and not used again.
        unsafe { dealloc(self.allocated.as_ptr(), Self::layout(self.size)) };
    }
}

// SAFETY: the allocation stays in place until `self` is dropped, holds `size` bytes from `base` on, which lies on a
// page, and only the two stores change it.
unsafe impl FileMemory for HeapMemory {
    fn size(&self) -> FileSize {
        self.size
    }

    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let _turn = self.turns.lock();
        // SAFETY: `load` and `store` take turns, and whoever reads through `base` sees to it that nobody stores.
        unsafe { self.store_unshared(offset, parts) }
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = self.at(within(self.size, &(offset..offset.saturating_add(into.len() as u64)))?.start);
        let _turn = self.turns.lock();
        // SAFETY: within, as was just checked; nobody stores meanwhile, and `into` is exclusive, so no part of this
        // memory.
        unsafe { from.copy_to_nonoverlapping(NonNull::from_mut(&mut *into).cast(), into.len()) };
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn start_write_back(&self, _range: Range<u64>) {}

    fn will_need(&self, _range: Range<u64>) {}

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        within(self.size, &range).map(drop)
    }

    fn populate_tells(&self) -> bool {
        true
    }
}

/// A source that keeps its files on the heap: for tests, and for stores that need not outlive the process.
///
/// Clones share the files, so that a store can be opened again. The first of them that scans or creates owns the files,
/// until it and all memory that it handed out are gone; to the others they are in use meanwhile.
///
/// # Examples
///
/// ```
/// use scratchspace::{FileId, FileSource, MemoryFileSource, OpenError};
///
/// let first = MemoryFileSource::builder().folders(1).files_per_folder(4).file_size(1 << 20).build()?;
/// let second = first.clone();
/// let memory = first.create(FileId::new(1).unwrap(), b"header")?;
/// assert!(matches!(second.scan(), Err(OpenError::InUse { .. })));
///
/// drop((first, memory));
/// assert_eq!(second.scan()?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MemoryFileSource {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Shared {
    store: StoreId,
    size: FileSize,
    folders: u16,
    files_per_folder: u16,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    owner: Weak<Owner>,
    files: BTreeMap<FileId, Kept>,
}

/// A file, and whether it was marked.
#[derive(Clone, Debug)]
struct Kept {
    memory: Arc<HeapMemory>,
    suspect: bool,
}

/// Who may own the files: alive in a source and in the memory that it handed out.
#[derive(Debug)]
struct Owner;

/// A file together with its owner.
#[derive(Debug)]
struct OwnedMemory {
    kept: Kept,
    _owner: Arc<Owner>,
}

impl MemoryFileSource {
    /// Options for a source.
    pub fn builder() -> MemoryFileSourceBuilder {
        MemoryFileSourceBuilder { folders: 1, files_per_folder: 4, file_size: 1 << 20, store: None }
    }

    /// Runs `act` on the files if they are ours or nobody's; they are ours then.
    fn own<T>(&self, act: impl FnOnce(&mut BTreeMap<FileId, Kept>) -> T) -> Option<T> {
        let mut state = self.shared.state.lock();
        match state.owner.upgrade() {
            Some(owner) if !Arc::ptr_eq(&owner, &self.owner) => return None,
            _ => state.owner = Arc::downgrade(&self.owner),
        }
        Some(act(&mut state.files))
    }

    fn lend(&self, kept: &Kept) -> Arc<dyn FileMemory> {
        Arc::new(OwnedMemory { kept: kept.clone(), _owner: self.owner.clone() })
    }
}

impl Clone for MemoryFileSource {
    /// Another source over the same files, which can own them once this one does not.
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), owner: Arc::new(Owner) }
    }
}

fn in_use() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "another source owns these files")
}

impl FileSource for MemoryFileSource {
    fn store_id(&self) -> StoreId {
        self.shared.store
    }

    fn file_size(&self) -> FileSize {
        self.shared.size
    }

    fn folders(&self) -> u16 {
        self.shared.folders
    }

    fn files_per_folder(&self) -> u16 {
        self.shared.files_per_folder
    }

    fn describe(&self, _file: FileId) -> Option<PathBuf> {
        None
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        self.own(|files| files.iter().map(|(&file, kept)| Found::new(file, self.lend(kept))).collect())
            .ok_or_else(|| OpenError::InUse { folder: PathBuf::from(format!("memory of {}", self.shared.store)) })
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        check_header(header)?;
        let created = self.own(|files| {
            if files.contains_key(&file) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("file {file} is there already")));
            }
            let kept = Kept { memory: Arc::new(HeapMemory::new(self.shared.size)), suspect: false };
            kept.memory.store(0, &[header])?;
            let lent = self.lend(&kept);
            files.insert(file, kept);
            Ok(lent)
        });
        created.unwrap_or_else(|| Err(in_use()))
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.own(|files| drop(files.remove(&file))).ok_or_else(in_use)
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        self.own(|files| files.get_mut(&file).into_iter().for_each(|kept| kept.suspect = true)).ok_or_else(in_use)
    }
}

// SAFETY: that of `HeapMemory`, which lives as long as `self`.
#[deny(clippy::missing_trait_methods, reason = "a default would not ask the memory behind")]
unsafe impl FileMemory for OwnedMemory {
    fn size(&self) -> FileSize {
        self.kept.memory.size()
    }

    fn base(&self) -> NonNull<u8> {
        self.kept.memory.base()
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.kept.memory.store(offset, parts)
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.kept.memory.load(offset, into)
    }

    fn sync(&self) -> io::Result<()> {
        self.kept.memory.sync()
    }

    fn check(&self) -> io::Result<()> {
        self.kept.memory.check()
    }

    fn is_suspect(&self) -> bool {
        self.kept.suspect
    }

    fn start_write_back(&self, range: Range<u64>) {
        self.kept.memory.start_write_back(range);
    }

    fn finish_write_back(&self, range: Range<u64>) -> io::Result<()> {
        self.kept.memory.finish_write_back(range)
    }

    fn will_need(&self, range: Range<u64>) {
        self.kept.memory.will_need(range);
    }

    fn read_around(&self, around: bool) {
        self.kept.memory.read_around(around);
    }

    fn release(&self, range: Range<u64>) {
        self.kept.memory.release(range);
    }

    fn is_untouched(&self, range: Range<u64>) -> bool {
        self.kept.memory.is_untouched(range)
    }

    fn prepare(&self, range: Range<u64>) -> bool {
        self.kept.memory.prepare(range)
    }

    fn resident(&self, range: Range<u64>) -> Option<u64> {
        self.kept.memory.resident(range)
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        self.kept.memory.populate(range)
    }

    fn populate_tells(&self) -> bool {
        self.kept.memory.populate_tells()
    }
}

/// Options of a [`MemoryFileSource`], checked all at once by [`build`](MemoryFileSourceBuilder::build).
#[derive(Clone, Debug)]
#[must_use = "it does nothing until `build`"]
pub struct MemoryFileSourceBuilder {
    folders: u16,
    files_per_folder: u16,
    file_size: u64,
    store: Option<StoreId>,
}

impl MemoryFileSourceBuilder {
    /// As how many folders the files are counted, 1 to 341. Default: 1.
    pub fn folders(mut self, folders: u16) -> Self {
        self.folders = folders;
        self
    }

    /// How many files each folder may hold: at least 3, and at most 1023 in all folders. Default: 4.
    pub fn files_per_folder(mut self, files: u16) -> Self {
        self.files_per_folder = files;
        self
    }

    /// Size of one file in bytes: a multiple of 4096 from 12 KiB to 16 GiB. Default: 1 MiB.
    ///
    /// Memory is taken when it is stored to first, where the system allocator works like that.
    pub fn file_size(mut self, bytes: u64) -> Self {
        self.file_size = bytes;
        self
    }

    /// The identity of the store, by which keys have their lanes: the same in every run of a test.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn store_id(mut self, store: StoreId) -> Self {
        self.store = Some(store);
        self
    }

    /// A source without files, of a new store.
    ///
    /// # Errors
    ///
    /// [`OpenError::Config`] if an option is out of range, [`OpenError::Io`] if the system has no random numbers.
    pub fn build(self) -> Result<MemoryFileSource, OpenError> {
        let folders = check_folders(self.folders.into())?;
        let files_per_folder = check_files_per_folder(self.files_per_folder, folders)?;
        let size = check_file_size("file_size", self.file_size)?;
        let store = self.store.map_or_else(StoreId::random, Ok);
        let store = store.map_err(|error| IoError::new("choosing an identity", None, error))?;
        let shared = Shared { store, size, folders, files_per_folder, state: Mutex::new(State::default()) };
        Ok(MemoryFileSource { shared: Arc::new(shared), owner: Arc::new(Owner) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{check_file_source, check_owner};
    use super::*;
    use crate::sync::thread;

    #[test]
    fn files_on_the_heap_keep_the_contract() {
        for folders in [1, 3] {
            let source = MemoryFileSource::builder().folders(folders).file_size(16 << 10).build().unwrap();
            check_file_source(|| Box::new(source.clone()));
        }
    }

    #[test]
    fn files_on_the_heap_have_one_owner() {
        let source = MemoryFileSource::builder().file_size(16 << 10).build().unwrap();
        check_owner(|| {
            let source = source.clone();
            source.scan()?;
            Ok(Box::new(source))
        });
        let (owner, other) = (source.clone(), source);
        owner.scan().unwrap();
        let file = FileId::new(1).unwrap();
        assert_eq!(other.create(file, b"").unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(other.delete(file).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let refused = |builder: MemoryFileSourceBuilder| match builder.build() {
            Err(OpenError::Config(error)) => error.field,
            other => panic!("{other:?}"),
        };
        let builder = MemoryFileSource::builder;
        assert_eq!(refused(builder().folders(0)), "folders");
        assert_eq!(refused(builder().folders(342)), "folders");
        assert_eq!(refused(builder().files_per_folder(2)), "files_per_folder");
        assert_eq!(refused(builder().folders(2).files_per_folder(512)), "files_per_folder");
        assert_eq!(refused(builder().file_size(4096)), "file_size");
        let source = builder().folders(2).files_per_folder(511).file_size(12288).build().unwrap();
        assert_eq!((source.folders(), source.files_per_folder(), source.file_size()), (2, 511, FileSize::MIN));
    }

    #[test]
    fn unshared_stores_to_different_bytes_need_no_turns() {
        let memory = Arc::new(HeapMemory::new(FileSize::MIN));
        let threads: Vec<_> = (0..3_u8)
            .map(|thread| {
                let memory = memory.clone();
                thread::spawn(move || {
                    // SAFETY: every thread has a page of its own, and nobody reads before they are joined.
                    unsafe { memory.store_unshared(u64::from(thread) * 4096, &[&[thread; 4000], &[7; 96]]) }.unwrap();
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        for thread in 0..3_u8 {
            let mut page = [0; 4096];
            memory.load(u64::from(thread) * 4096, &mut page).unwrap();
            assert!(page[..4000].iter().all(|&byte| byte == thread) && page[4000..] == [7; 96]);
        }
        // SAFETY: no other thread is left.
        unsafe { memory.store_unshared(12287, &[b"ab"]) }.unwrap_err();
    }
}
