//! One file and its read-only mapping.
//!
//! # Invariants
//!
//! 1. A mapping is never longer than its file was when it was mapped, and stays where it is until it is dropped.
//! 2. Advice is given only about pages of the mapping.
//! 3. The lock of the folders is held for as long as any of their files is mapped.
//! 4. A forked child has no mapping, stores nothing and unmaps nothing: by then something else may lie there.
//! 5. A mapping is watched for as long as it is mapped (`os/sigbus`).

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;

use memmap2::MmapRaw;

use super::lock::Locks;
use super::names;
use super::{FileMemory, in_memory, within, within_parts};
use crate::block::{FileSize, PAGE_SIZE};
use crate::os::{self, Advice, Process, Watched};
use crate::planted;
use crate::sync::Arc;

/// Systems read files in pieces of up to so many bytes.
const LARGEST_PIECE: u64 = 2 << 20;
/// What is read through the file only to be in memory is read in pieces of this size.
const READ_PIECE: usize = 128 << 10;

/// One owned read-only mapping of the first `size` bytes of a file; a forked child does not get it.
#[derive(Debug)]
struct Region {
    /// Taken before the mapping goes (invariant 5).
    watched: Option<Watched>,
    map: ManuallyDrop<MmapRaw>,
    size: FileSize,
    /// What one call asks for at most: the system cuts a longer request short, and what was cut off would be met page by page
    /// where nothing is read around.
    request: u64,
    process: Process,
}

impl Drop for Region {
    fn drop(&mut self) {
        self.watched = None;
        if self.process.is_current() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.map) };
        }
    }
}

impl Region {
    /// Maps the first `size` bytes of `file`; a shorter file is an error, by invariant 1.
    fn map(file: &File, size: FileSize) -> io::Result<Self> {
        let len = os::len(file)?;
        if len < size.get() {
            let problem = format!("a file of {len} bytes cannot be mapped as one of {}", size.get());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
        }
        let map = os::map_read_only(file, in_memory(size.get()))?;
        let start = NonNull::new(map.as_mut_ptr()).expect("nothing is mapped at address zero");
        // SAFETY: a read-only mapping of whole pages, which `watched` does not outlive; whoever reads from it asks
        // `FileMemory::is_suspect`, as that says.
        let watched = unsafe { Watched::new(start, map.len().next_multiple_of(os::page_size())) }?;
        let (map, request) = (ManuallyDrop::new(map), os::request_limit(file));
        let region = Self { watched: Some(watched), map, size, request, process: Process::current() };
        region.advise(&(0..size.get()), Advice::DontFork)?;
        Ok(region)
    }

    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("nothing is mapped at address zero")
    }

    /// Gives advice about all pages that `range` touches; an error if it leaves the mapping.
    fn advise(&self, range: &Range<u64>, advice: Advice) -> io::Result<()> {
        let bytes = within(self.size, range)?;
        self.process.check()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let start = bytes.start - bytes.start % os::page_size();
        // SAFETY: `start` is less than the length of the mapping.
        let first = unsafe { self.base().add(start) };
        // SAFETY: `first` lies on a page, as the mapping does, and the range ends within the mapping, which lives as
        // long as `self`.
        unsafe { os::advise(first, bytes.end - start, advice) }
    }

    /// How many bytes of `range` are in memory, by whole pages.
    fn resident(&self, range: &Range<u64>) -> Option<u64> {
        let bytes = within(self.size, range).ok()?;
        self.process.check().ok()?;
        if bytes.is_empty() {
            return Some(0);
        }
        let start = bytes.start - bytes.start % os::page_size();
        // SAFETY: `start` is less than the length of the mapping.
        let first = unsafe { self.base().add(start) };
        // SAFETY: as for `advise`.
        unsafe { os::resident(first, bytes.end - start) }
    }

    /// Asks for `range` in pieces; what lies outside is left out.
    fn will_need(&self, range: &Range<u64>) {
        let end = range.end.min(self.size.get());
        let mut at = range.start;
        while at < end {
            let next = end.min(at + self.request);
            if self.advise(&(at..next), Advice::WillNeed).is_err() {
                return; // a hint
            }
            at = next;
        }
    }
}

/// A file of a [`DiskFileSource`](super::DiskFileSource): stored through its descriptor, lent from its mapping.
#[derive(Debug)]
pub(super) struct MappedFile {
    region: Region,
    file: File,
    /// Its name, once it has one and unless it never gets one.
    path: Option<PathBuf>,
    /// Whether all of its space was set aside when it was mapped, on a file system where that stays so.
    allocated: bool,
    /// Whether it is marked: a sync of it has failed in an earlier run, or it was mended.
    suspect: bool,
    // Last, so that it is released after the mapping (invariant 3).
    _locks: Arc<Locks>,
}

impl MappedFile {
    pub(super) fn new(file: File, size: FileSize, locks: Arc<Locks>) -> io::Result<Self> {
        // Hazard 52: who maps a file does not hold its folder.
        let locks = if planted::is(52) { Arc::new(Locks::new(Vec::new())) } else { locks };
        let (region, allocated) = (Region::map(&file, size)?, os::keeps_allocation(&file)?);
        Ok(Self { region, file, path: None, allocated, suspect: false, _locks: locks })
    }

    /// The same, and where its name is: from now on it must stay there.
    pub(super) fn named(self, path: PathBuf) -> Self {
        Self { path: Some(path), ..self }
    }

    /// The same, marked as suspect.
    pub(super) fn suspect(self) -> Self {
        Self { suspect: true, ..self }
    }

    /// Brings a range into memory and maps it. Where the system does not tell what cannot be read, or tries that for ever,
    /// it is read through the file first: then mapping it is a hint.
    fn populate_as(&self, range: Range<u64>, tells: bool) -> io::Result<()> {
        if tells {
            let populate = || self.region.advise(&range, Advice::PopulateRead);
            return populate().or_else(|error| {
                if !self.forget_broken_pieces(&range) {
                    return Err(error);
                }
                self.region.will_need(&range);
                populate()
            });
        }
        within(self.region.size, &range)?;
        let mut piece = vec![0; in_memory(range.end - range.start).min(READ_PIECE)];
        let mut at = range.start;
        while at < range.end {
            let len = in_memory(range.end - at).min(piece.len());
            self.load(at, &mut piece[..len])?;
            at += len as u64;
        }
        let _ = self.region.advise(&range, Advice::PopulateRead);
        Ok(())
    }

    /// Drops what the system has read of a range in pieces that cannot be read as a whole: each read of any page of such a piece
    /// fails, whichever is broken. What is in memory stays there: it may not be readable again. Whether there was such a piece, or
    /// nothing at all.
    fn forget_broken_pieces(&self, range: &Range<u64>) -> bool {
        let (size, mut any) = (self.region.size.get(), false);
        let mut start = range.start - range.start % LARGEST_PIECE;
        while start < range.end.min(size) {
            any |= self.forget_broken_piece(start, LARGEST_PIECE);
            start += LARGEST_PIECE;
        }
        any
    }

    /// The same in `len` bytes. Pieces are powers of two of pages, and begin at multiples of their length.
    fn forget_broken_piece(&self, start: u64, len: u64) -> bool {
        let piece = start..self.region.size.get().min(start + len);
        if piece.is_empty() {
            return false;
        }
        match self.region.resident(&piece) {
            Some(0) => {
                os::forget_pages(&self.file, piece);
                true
            }
            Some(some) if some < piece.end - piece.start && len > PAGE_SIZE => {
                let halves = [start, start + len / 2].map(|start| self.forget_broken_piece(start, len / 2));
                halves[0] || halves[1]
            }
            _ => false,
        }
    }

    /// What is stored here outlives the process only in a whole file that has its name.
    fn check_whole(&self) -> io::Result<()> {
        let (len, size) = (os::len(&self.file)?, self.region.size.get());
        if len < size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, CutShort { len, size }));
        }
        // Cut short, and long again by what was stored since.
        if self.allocated && !os::is_allocated(&self.file)? {
            return Err(io::Error::other("somebody else has taken space from the file: it has holes"));
        }
        let Some(path) = &self.path else { return Ok(()) };
        if os::is_named(&self.file, path)? || os::is_named(&self.file, &names::suspect_path(path))? {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "somebody else has removed or replaced the file"))
    }
}

/// A file is shorter than it was made.
#[derive(Debug, thiserror::Error)]
#[error("somebody else has cut the file short, to {len} bytes of {size}")]
struct CutShort {
    len: u64,
    size: u64,
}

// SAFETY: the mapping stays in place until `self` is dropped, starts on a page and has `size` bytes. It is read-only,
// so its bytes change by stores to the file alone, which `store` keeps in bounds; the folder is locked, so nobody else
// has any business with the file.
unsafe impl FileMemory for MappedFile {
    fn size(&self) -> FileSize {
        self.region.size
    }

    fn base(&self) -> NonNull<u8> {
        self.region.base()
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        within_parts(self.region.size, offset, parts)?;
        self.region.process.check()?;
        os::write_all_at(&self.file, offset, parts)
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        within(self.region.size, &(offset..offset.saturating_add(into.len() as u64)))?;
        self.region.process.check()?;
        let range = offset..offset + into.len() as u64;
        let read = os::read_exact_at(&self.file, offset, into);
        let read = read.or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Err(error),
            _ if self.forget_broken_pieces(&range) => os::read_exact_at(&self.file, offset, into),
            _ => Err(error),
        });
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let len = self.file.metadata().map_or(offset, |metadata| metadata.len());
                io::Error::new(io::ErrorKind::UnexpectedEof, CutShort { len, size: self.region.size.get() })
            }
            _ => error,
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.region.process.check()?;
        os::sync_data(&self.file)?;
        self.check_whole()
    }

    fn check(&self) -> io::Result<()> {
        self.check_whole()
    }

    fn is_suspect(&self) -> bool {
        self.suspect || self.region.watched.as_ref().is_some_and(Watched::is_poisoned)
    }

    fn start_write_back(&self, range: Range<u64>) {
        os::start_write_back(&self.file, range);
    }

    fn finish_write_back(&self, range: Range<u64>) -> io::Result<()> {
        os::finish_write_back(&self.file, range)
    }

    fn will_need(&self, range: Range<u64>) {
        self.region.will_need(&range);
    }

    fn read_around(&self, around: bool) {
        let advice = if around { Advice::Normal } else { Advice::Random };
        let _ = self.region.advise(&(0..self.region.size.get()), advice);
    }

    fn release(&self, range: Range<u64>) {
        let _ = self.region.advise(&range, Advice::Unmap);
    }

    fn is_untouched(&self, range: Range<u64>) -> bool {
        within(self.region.size, &range).is_ok() && os::is_hole(&self.file, range)
    }

    fn prepare(&self, range: Range<u64>) -> bool {
        within(self.region.size, &range).is_ok()
            && self.region.process.is_current()
            && os::hold_in_one_piece(&self.file, range)
    }

    fn resident(&self, range: Range<u64>) -> Option<u64> {
        self.region.resident(&range)
    }

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        self.populate_as(range, os::populate_tells())
    }

    fn populate_tells(&self) -> bool {
        os::populate_tells()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::storage::test_folder::{skipped, test_folder};

    fn mapped(bytes: &[u8], size: FileSize) -> io::Result<MappedFile> {
        let file = tempfile::tempfile()?;
        os::write_all_at(&file, 0, &[bytes])?;
        MappedFile::new(file, size, Arc::new(Locks::none()))
    }

    #[test]
    fn a_mapping_longer_than_its_file_is_refused() {
        let error = mapped(&[1; 8192], FileSize::MIN).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        mapped(&[1; 12288], FileSize::MIN).unwrap();
        mapped(&[1; 12289], FileSize::MIN).unwrap();
    }

    #[test]
    fn advice_outside_the_mapping_is_refused() {
        let memory = mapped(&[1; 12288], FileSize::MIN).unwrap();
        for range in [0..12289, 12288..12289, u64::MAX - 1..u64::MAX] {
            let error = memory.region.advise(&range, Advice::WillNeed).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        for range in [0..0, 12288..12288, 1..2, 4097..12288] {
            memory.region.advise(&range, Advice::WillNeed).unwrap();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_released_stays_where_it_is_and_what_is_read_is_in_memory() {
        let memory = mapped(&[7; 12288], FileSize::MIN).unwrap();
        let all = 0..memory.size().get();
        memory.populate(all.clone()).unwrap();
        assert_eq!(memory.resident(all.clone()), Some(all.end));
        for around in [false, true] {
            memory.read_around(around);
            memory.release(all.clone());
            // SAFETY: the file has so many bytes, and nobody stores to them.
            let bytes = unsafe { std::slice::from_raw_parts(memory.base().as_ptr(), 12288) };
            assert_eq!(bytes, [7; 12288]);
        }
        assert_eq!((memory.resident(1..2), memory.resident(5..5)), (Some(4096), Some(0)));
        assert_eq!(memory.resident(0..all.end + 1), None);
    }

    #[test]
    fn what_was_stored_is_touched_and_what_was_set_aside_is_not() {
        let file = tempfile::tempfile().unwrap();
        os::preallocate(&file, 1 << 20).unwrap();
        let memory = MappedFile::new(file, FileSize::new(1 << 20).unwrap(), Arc::new(Locks::none())).unwrap();
        memory.store(300_000, &[b"stored"]).unwrap();
        for synced in [false, true] {
            assert!(!memory.is_untouched(0..1 << 20) && !memory.is_untouched(300_000..300_006), "synced: {synced}");
            assert!(!memory.is_untouched(0..(1 << 20) + 1) && memory.is_untouched(5..5));
            // Where the file system tells.
            if memory.is_untouched(0..4096) {
                assert!(memory.is_untouched(400_000..1 << 20), "synced: {synced}");
            }
            memory.sync().unwrap();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_made_ready_is_in_memory_and_holds_the_zeros_it_held() {
        let file = tempfile::tempfile_in(test_folder().path()).unwrap();
        os::preallocate(&file, 8 << 20).unwrap();
        let memory = MappedFile::new(file, FileSize::new(8 << 20).unwrap(), Arc::new(Locks::none())).unwrap();
        let piece = 2 << 20..4 << 20;
        assert_eq!(memory.resident(piece.clone()), Some(0));
        if !memory.prepare(piece.clone()) {
            return skipped("memory that is made ready: not in one piece here");
        }
        assert_eq!(memory.resident(0..2 << 20), Some(0), "what lies around it");
        assert_eq!((memory.resident(4 << 20..8 << 20), memory.resident(piece.clone())), (Some(0), Some(2 << 20)));
        memory.store(piece.start + 5, &[b"stored"]).unwrap();
        memory.sync().unwrap();
        let mut bytes = vec![1; 2 << 20];
        memory.load(piece.start, &mut bytes).unwrap();
        assert_eq!(&bytes[5..11], b"stored");
        assert!(bytes[..5].iter().chain(&bytes[11..]).all(|byte| *byte == 0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_piece_that_was_stored_before_is_read_as_it_was_and_leaves_memory_when_it_is_forgotten() {
        let file = tempfile::tempfile_in(test_folder().path()).unwrap();
        os::preallocate(&file, 8 << 20).unwrap();
        let memory = MappedFile::new(file, FileSize::new(8 << 20).unwrap(), Arc::new(Locks::none())).unwrap();
        let (piece, stored) = (2 << 20..4 << 20, vec![0x5a; 2 << 20]);
        memory.store(piece.start, &[&stored]).unwrap();
        memory.sync().unwrap();
        os::forget_pages(&memory.file, piece.start..piece.start);
        assert_eq!(memory.resident(piece.clone()), Some(2 << 20), "nothing was to be forgotten");
        os::forget_pages(&memory.file, piece.clone());
        if memory.resident(piece.clone()) != Some(0) {
            return skipped("a piece that is read: this file system keeps all in memory");
        }
        let is_piece = memory.prepare(piece.clone());
        if !is_piece {
            skipped("a piece that is read: not in one piece here");
        }
        memory.populate(piece.clone()).unwrap();
        assert_eq!(memory.resident(piece.clone()), Some(2 << 20));
        let mut bytes = vec![1; 2 << 20];
        memory.load(piece.start, &mut bytes).unwrap();
        assert!(bytes == stored);
    }

    #[test]
    fn a_long_range_is_asked_for_in_pieces() {
        let size = FileSize::new(3 * os::LEAST_REQUEST).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(size.get()).unwrap();
        let memory = MappedFile::new(file, size, Arc::new(Locks::none())).unwrap();
        memory.will_need(1..size.get());
        memory.will_need(5000..u64::MAX);
        memory.will_need(u64::MAX - 1..u64::MAX);
    }

    /// Pages of a file that are in memory and were neither written to the disk nor are on their way; `None` where the system
    /// does not tell (before Linux 6.5).
    #[cfg(target_os = "linux")]
    fn dirty_pages(file: &File) -> Option<u64> {
        const CACHESTAT: libc::c_long = 451;
        let (range, mut answer) = ([0_u64; 2], [0_u64; 5]);
        // SAFETY: the descriptor is open; offset and length are read, and five numbers written, as the call is documented.
        let result = unsafe {
            libc::syscall(CACHESTAT, std::os::fd::AsRawFd::as_raw_fd(file), range.as_ptr(), answer.as_mut_ptr(), 0)
        };
        (result == 0).then_some(answer[1])
    }

    /// `msync` with `MS_ASYNC` starts nothing on Linux: what was written waited for seconds, and then all of it came at once.
    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "calls of the system")]
    fn what_is_to_be_written_back_is_on_its_way_when_the_call_returns() {
        let file = tempfile::tempfile_in(test_folder().path()).unwrap();
        os::write_all_at(&file, 0, &[&vec![7; 4 << 20]]).unwrap();
        let memory = MappedFile::new(file, FileSize::new(4 << 20).unwrap(), Arc::new(Locks::none())).unwrap();
        let file = &memory.file;
        let Some(dirty) = dirty_pages(file) else {
            return skipped("write-back: the system does not tell dirty pages");
        };
        memory.start_write_back(0..2 << 20);
        let left = dirty_pages(file).unwrap();
        file.sync_all().unwrap();
        if dirty == 0 || dirty_pages(file) != Some(0) {
            return skipped("write-back: of the files here the system does not tell what is dirty");
        }
        let half = (2 << 20) / os::page_size() as u64;
        assert!(left <= half, "{left} of {dirty} pages wait still");
    }

    /// A file that another program cut short: an error at `populate` and `load`, not a signal.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_cut_short_from_outside_is_an_error() {
        let memory = mapped(&[1; 12288], FileSize::MIN).unwrap();
        let ways = [os::populate_tells(), false];
        for tells in ways {
            memory.populate_as(0..12288, tells).unwrap();
            memory.populate_as(0..12289, tells).unwrap_err();
        }
        memory.file.set_len(4096).unwrap();
        for tells in ways {
            memory.populate_as(4096..12288, tells).unwrap_err();
            memory.populate_as(0..4096, tells).unwrap();
        }
        let error = memory.load(8192, &mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), "somebody else has cut the file short, to 4096 bytes of 12288");
    }

    /// A flush said that all is durable, of a file that somebody had cut short, or removed.
    #[test]
    #[cfg(unix)]
    fn a_sync_of_a_file_that_is_not_whole_any_more_fails() {
        let folder = super::super::test_folder::test_folder();
        let make = |name: &str| {
            let path = folder.path().join(name);
            let file = os::private_file().create(true).open(&path).unwrap();
            os::preallocate(&file, FileSize::MIN.get()).unwrap();
            (MappedFile::new(file, FileSize::MIN, Arc::new(Locks::none())).unwrap().named(path.clone()), path)
        };
        let kind = |memory: &MappedFile| {
            assert_eq!(memory.check().map_err(|error| error.kind()), memory.sync().map_err(|error| error.kind()));
            memory.sync().map_err(|error| error.kind())
        };
        let (memory, path) = make("0001.scratch");
        assert_eq!(kind(&memory), Ok(()));
        std::fs::rename(&path, names::suspect_path(&path)).unwrap();
        assert_eq!(kind(&memory), Ok(()), "we did that");
        std::fs::remove_file(names::suspect_path(&path)).unwrap();
        assert_eq!(kind(&memory), Err(io::ErrorKind::NotFound));
        std::fs::write(&path, [0; 12288]).unwrap();
        assert_eq!(kind(&memory), Err(io::ErrorKind::NotFound), "another file of that name");
        let (memory, _) = make("0002.scratch");
        memory.file.set_len(4096).unwrap();
        assert_eq!(kind(&memory), Err(io::ErrorKind::UnexpectedEof));
        memory.file.set_len(FileSize::MIN.get()).unwrap();
        assert_eq!(kind(&memory).is_err(), memory.allocated, "it has holes now");
    }
}
