//! Where the bytes of a store live: sources of preallocated files, and the memory each of them is.
//!
//! [`DiskFileSource`] keeps them in folders, [`MemoryFileSource`] on the heap. Each source proves what is promised here
//! by running `contract.rs`.
//!
//! # Invariants
//!
//! 1. Bytes reach a file by [`FileMemory::store`] alone, whose failure is an error: nothing is stored through a
//!    mapping.
//! 2. A file has all its space from its creation to its death, so that reading it never needs more. Only one that was
//!    [mended](FileSource::mend) has not: it is read by [`FileMemory::load`] alone.
//! 3. A source touches only what carries its store's id in its name, and only while it owns all of its folders.

mod contained;
mod disk;
mod disk_builder;
mod folders;
mod leftover;
mod lock;
mod memory;
mod names;
mod pointer;
mod region;

#[cfg(test)]
pub(crate) mod contract;
#[cfg(all(test, not(loom)))]
pub(crate) mod dice;
#[cfg(test)]
pub(crate) mod faulty;
#[cfg(all(test, not(loom)))]
pub(crate) mod lossy;
#[cfg(test)]
pub(crate) mod test_folder;

pub use self::disk::DiskFileSource;
pub use self::disk_builder::DiskFileSourceBuilder;
pub use self::memory::{MemoryFileSource, MemoryFileSourceBuilder};

pub(crate) use self::contained::{Contained, Panics};
pub(crate) use self::memory::HeapMemory;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;

use crate::block::{FileId, FileSize, PAGE_SIZE, StoreId};
use crate::error::{ConfigError, OpenError};
use crate::sync::Arc;

/// How many files each folder of a store holds at least: one being filled, one spare, one with data.
const MIN_FILES_PER_FOLDER: u16 = 3;

/// Where the files of a store live. All methods may be called from many threads at once. A panic of one is caught, and
/// counts as an error of the call.
///
/// A source has an owner: while it, or any memory that it handed out, is alive, a second source over the same files is
/// refused, either when it is built or by [`FileSource::scan`].
///
/// # Examples
///
/// ```
/// use scratchspace::{FileId, FileSource, MemoryFileSource};
///
/// let source = MemoryFileSource::builder().file_size(1 << 20).build()?;
/// let file = FileId::new(1).unwrap();
/// let memory = source.create(file, b"header")?;
/// memory.store(4096, &[b"some ", b"bytes"])?;
///
/// let found = source.scan()?;
/// assert_eq!(found[0].file, file);
/// let mut bytes = [0; 10];
/// found[0].memory.load(4096, &mut bytes)?;
/// assert_eq!(&bytes, b"some bytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait FileSource: Debug + Send + Sync + 'static {
    /// The store whose files these are; the same at every opening.
    fn store_id(&self) -> StoreId;

    /// The size of the files that [`FileSource::create`] makes, in bytes. Files that are found may have another.
    fn file_size(&self) -> FileSize;

    /// Over how many folders the files are spread: file `n` lies in folder `(n - 1) % folders`.
    fn folders(&self) -> u16;

    /// How many files a folder may hold. More may be found, if it was more once.
    fn files_per_folder(&self) -> u16;

    /// What tells one boot of the system from any other: as long as it stays the same, whatever was stored in a file is read
    /// back from it, by this process and the next, whether it was synced or not, unless the file is
    /// [suspect](FileMemory::is_suspect). A source in front of another one passes its answer on.
    ///
    /// A store writes it into its files, beside how far it has filled them. An opening that meets the same answer there
    /// reads no further, and else all of a file in which blocks may be. So a number that stays the same where something was lost
    /// loses blocks, and brings others back. This default is `None`, not known: then everything is read. The answer stays
    /// the same for the life of the value.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{DiskFileSource, FileSource};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let builder = DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(1 << 20);
    /// let source = builder.clone().build()?;
    /// let boot = source.boot();
    /// drop(source);
    /// assert_eq!(builder.build()?.boot(), boot);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn boot(&self) -> Option<u64> {
        None
    }

    /// Where a file lies, for messages, by the name that it has now; `None` if it has no name.
    fn describe(&self, file: FileId) -> Option<PathBuf>;

    /// Every file of this store that is there, in the order of their numbers, whatever it contains and however long it
    /// is.
    ///
    /// What a creation left behind that never ended is deleted. Call it before the first `create`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Foreign`] names what lies among the files of this store and cannot be one of them;
    /// [`OpenError::InUse`] if somebody else owns the files. Then nothing has been deleted.
    fn scan(&self) -> Result<Vec<Found>, OpenError>;

    /// As [`scan`](FileSource::scan), for the files of one folder, counted from 0, whatever the others do.
    ///
    /// A store with several folders asks for this when `scan` has failed with [`OpenError::Io`], or the folder took no
    /// change that had to be made in it: at open and again and again later, until the folder is back; not for a folder
    /// whose files it has. This default scans all and keeps
    /// those of `folder`: right for a source whose folders fail together.
    ///
    /// # Errors
    ///
    /// As of `scan`. [`OpenError::Io`] leaves the folder out, and the store goes on without it.
    fn scan_folder(&self, folder: u16) -> Result<Vec<Found>, OpenError> {
        let mut found = self.scan()?;
        found.retain(|found| (found.file.get() - 1) % self.folders() == folder);
        Ok(found)
    }

    /// Makes a file that starts with `header` (at most a page) and is zero behind it, durable in content and name when
    /// this returns.
    ///
    /// # Errors
    ///
    /// If the file is there already, if there is no space for all of it, or if the system refuses. Then nothing is left
    /// behind.
    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>>;

    /// As [`create`](FileSource::create), but the file has no name when this returns: no scan finds it, nothing is left
    /// of it once its memory is dropped, and `file` may be created again.
    ///
    /// Where the system can, it never had a name, so that a process that is killed meanwhile leaves nothing either. This
    /// default creates the file and deletes it.
    ///
    /// # Errors
    ///
    /// As of `create`, or if the name cannot be removed: then the file may be left behind.
    fn create_unnamed(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        let memory = self.create(file, header)?;
        self.delete(file)?;
        Ok(memory)
    }

    /// Removes a file, durably when this returns; a file that is not there is `Ok`. Memory of it that is still held
    /// stays readable, and what is stored there is lost with it.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    fn delete(&self, file: FileId) -> io::Result<()>;

    /// Remembers that a sync of `file` has failed: the next [`scan`](FileSource::scan) finds it as a
    /// [suspect](FileMemory::is_suspect) one. A file that is not there is `Ok`.
    ///
    /// What was not written may still be in the memory of the system, and be lost from there later on. A process that
    /// takes the files over cannot see that otherwise, so the mark must last as long as that memory, and need not
    /// outlast it. This default remembers nothing, which is right where nothing outlives the process.
    ///
    /// # Errors
    ///
    /// If the system refuses. A store tries again until it works, or the file is deleted.
    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        let _ = file;
        Ok(())
    }

    /// Gives a file that was [found](Found) with another length the one of the files that this source creates: zeros
    /// stand in for what it lacks, and what it has beyond is gone. It is [suspect](FileMemory::is_suspect) from now on,
    /// and every later scan finds it as such, also after a power cut: a length that nobody has changed says so itself.
    ///
    /// Space is not set aside for it: nothing is stored to a suspect file, and it is read by
    /// [`load`](FileMemory::load) only. Memory that a scan has handed out of it must not be used any more.
    ///
    /// # Errors
    ///
    /// If the system refuses; it may be tried again. This default refuses with [`io::ErrorKind::Unsupported`], which is
    /// right for a source whose files nobody else can reach.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{DiskFileSource, FileId, FileSource};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let source = DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(64 << 10).build()?;
    /// let file = FileId::new(1).unwrap();
    /// drop(source.create(file, b"header")?);
    /// std::fs::File::options().write(true).open(source.describe(file).unwrap())?.set_len(16 << 10)?;
    /// assert_eq!(source.scan()?[0].len, 16 << 10);
    ///
    /// let memory = source.mend(file)?;
    /// assert_eq!(memory.size(), source.file_size());
    /// assert!(memory.is_suspect());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
        let problem = format!("this source cannot change the length of file {file}");
        Err(io::Error::new(io::ErrorKind::Unsupported, problem))
    }
}

/// A file that was there when its store was opened.
///
/// # Examples
///
/// ```
/// use scratchspace::{FileId, FileSource, Found, MemoryFileSource};
///
/// let source = MemoryFileSource::builder().file_size(1 << 20).build()?;
/// let file = FileId::new(1).unwrap();
/// let found = Found::new(file, source.create(file, b"header")?);
/// assert_eq!(found.len, source.file_size().get());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Found {
    /// Its number.
    pub file: FileId,
    /// Its bytes. Of a file whose length is none that a file can have ([`FileSize::new`]) this is a copy of its first
    /// page, with zeros in place of what it lacks: enough to see whose it was.
    pub memory: Arc<dyn FileMemory>,
    /// How many bytes it has. Another number than [`FileSource::file_size`] means that it was made with another size,
    /// or that somebody else has cut it short or made it longer: its header tells.
    pub len: u64,
}

impl Found {
    /// A file that is as long as its memory.
    #[must_use]
    pub fn new(file: FileId, memory: Arc<dyn FileMemory>) -> Self {
        let len = memory.size().get();
        Self { file, memory, len }
    }
}

/// The memory of one preallocated file: bytes are stored through the file and lent through a mapping.
///
/// All methods may be called from many threads at once, [`store`](FileMemory::store) as well, though where two stores
/// overlap either may win. Whoever makes slices from [`base`](FileMemory::base) sees to it that nobody stores to their
/// bytes meanwhile.
///
/// # Safety
///
/// Whoever implements this guarantees, for as long as the value lives:
///
/// - [`base`](FileMemory::base) is always the same address, on a multiple of 4096, valid for reads of
///   [`size`](FileMemory::size) bytes;
/// - these bytes change only through [`store`](FileMemory::store), and only those it was called for.
pub unsafe trait FileMemory: Debug + Send + Sync {
    /// How many bytes the file has.
    fn size(&self) -> FileSize;

    /// The first byte of the file.
    fn base(&self) -> NonNull<u8>;

    /// Stores all parts, one after the other, at `offset`. Once it returns, they are seen through `base` and by `load`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if the parts do not lie within the file: nothing has changed then. After any
    /// other error each byte is either old or new.
    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Reads `into.len()` bytes at `offset`, where a bad sector is an error and not a signal.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if the range does not lie within the file, or what the system answered.
    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Makes everything durable that was stored before the call.
    ///
    /// # Errors
    ///
    /// If anything stored since the last `sync` may be lost, also because somebody else has cut the file short or
    /// removed it. The system tells it once: a second `Ok` proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Whether the file still is what was created or found: its length, its space, its name. This default believes so.
    ///
    /// # Errors
    ///
    /// What is missing of it.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether bytes seen through [`base`](FileMemory::base) may be other ones than those of the file: an earlier run
    /// has [marked](FileSource::mark_suspect) it, it was [mended](FileSource::mend), or (feature `sigbus-guard`) a page
    /// that could not be read was replaced by zeros. Asked after reading such bytes, and before they are believed. It stays so. Default: never.
    fn is_suspect(&self) -> bool {
        false
    }

    /// Hint: begin to write this range of bytes to the disk, without waiting.
    fn start_write_back(&self, range: Range<u64>);

    /// Waits until the disk has what [`start_write_back`](Self::start_write_back) began to write of this range. Default, and
    /// where the system cannot: nothing is waited for.
    ///
    /// # Errors
    ///
    /// If something that was stored since the last `sync` may be lost. It makes nothing durable and is told less than `sync`,
    /// which tells the same failure: ask that at once, as after the end of this process nobody else is told.
    fn finish_write_back(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    /// Hint: this range of bytes will be read soon.
    fn will_need(&self, range: Range<u64>);

    /// Hint: whether what lies around a byte that is not in memory is to be read with it, when somebody meets it through
    /// `base`. Default: nothing happens.
    fn read_around(&self, _around: bool) {}

    /// Hint: the memory that mapping this range takes is wanted elsewhere. Its bytes stay as readable as they are. Default:
    /// nothing happens.
    fn release(&self, _range: Range<u64>) {}

    /// Whether nothing was ever stored in this range, so that it holds zeros, and reading it is waste. Default: not known,
    /// `false`.
    fn is_untouched(&self, _range: Range<u64>) -> bool {
        false
    }

    /// Hint: all of this range, of which nothing is in memory, will be used soon: stored to, if it
    /// [`is_untouched`](Self::is_untouched), else read. Where the system keeps files in memory in pieces, this range becomes
    /// one; its bytes stay as they are. Blocks until they are read. Whether it has become one, and the memory for it was at
    /// hand: if not for some in a row, the store asks for no more for a while. What cannot be read is no error here: it is one
    /// where it is read.
    /// Default: nothing happens, `false`.
    fn prepare(&self, _range: Range<u64>) -> bool {
        false
    }

    /// How many bytes of this range are in memory; `None`, as by default, where the system does not tell.
    fn resident(&self, _range: Range<u64>) -> Option<u64> {
        None
    }

    /// Brings this range of bytes into memory, so that reading it through `base` need not touch the disk. `Ok` also
    /// where the system cannot do that.
    ///
    /// # Errors
    ///
    /// If the range cannot be read, or with [`io::ErrorKind::InvalidInput`] if it does not lie within the file.
    fn populate(&self, range: Range<u64>) -> io::Result<()>;

    /// Whether [`populate`](Self::populate) is an error for each page that cannot be read, and copies nothing to know
    /// that. Then the store meets entries and blocks of an earlier run through `base` before it lends them, right after
    /// they were populated, or once all that lies around them was; else in copies that [`load`](Self::load) makes. Default:
    /// `false`, which is always right, and slower.
    ///
    /// Memory of a mapped file that says `true` and is wrong ends the process with a signal instead of an error. Memory
    /// in front of another one passes the question on.
    fn populate_tells(&self) -> bool {
        false
    }
}

/// `range` as the positions of bytes in a file of `size`, if it lies within.
fn within(size: FileSize, range: &Range<u64>) -> io::Result<Range<usize>> {
    if range.start > range.end || range.end > size.get() {
        let problem = format!("bytes {}..{} do not lie within a file of {} bytes", range.start, range.end, size.get());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(in_memory(range.start)..in_memory(range.end))
}

/// The bytes that `parts` will take at `offset`, if they lie within a file of `size`.
fn within_parts(size: FileSize, offset: u64, parts: &[&[u8]]) -> io::Result<Range<usize>> {
    let end = parts.iter().fold(offset, |end, part| end.saturating_add(part.len() as u64));
    within(size, &(offset..end))
}

/// A position in a file as one in memory.
#[expect(clippy::cast_possible_truncation, reason = "targets have 64 bits, lib.rs sees to it")]
fn in_memory(at: u64) -> usize {
    at as usize
}

/// A header must leave the first page at its start.
fn check_header(header: &[u8]) -> io::Result<()> {
    if header.len() as u64 > PAGE_SIZE {
        let problem = format!("a header of {} bytes does not fit into a page of {PAGE_SIZE}", header.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(())
}

/// What a source says of itself, before anything is computed from it: it may be anybody's.
pub(crate) fn check_source(source: &dyn FileSource) -> Result<(), ConfigError> {
    let folders = check_folders(usize::from(source.folders()))?;
    check_files_per_folder(source.files_per_folder(), folders).map(drop)
}

/// The number of folders, checked: each holds at least three files of at most 1023.
fn check_folders(folders: usize) -> Result<u16, ConfigError> {
    let most = FileId::MAX / MIN_FILES_PER_FOLDER;
    match u16::try_from(folders) {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => Err(ConfigError::new("folders", folders, format!("1 to {most}"))),
    }
}

/// The number of files a folder may hold, checked against the number of folders.
fn check_files_per_folder(files: u16, folders: u16) -> Result<u16, ConfigError> {
    let most = FileId::MAX / folders;
    if (MIN_FILES_PER_FOLDER..=most).contains(&files) {
        return Ok(files);
    }
    let total = u32::from(files) * u32::from(folders);
    Err(ConfigError::new(
        "files_per_folder",
        format!("{files} with `folders` {folders}, {total} files"),
        format!(
            "{MIN_FILES_PER_FOLDER} to {most} with `folders` {folders}, as a store has at most {} files",
            FileId::MAX
        ),
    ))
}

/// The size of a file, checked.
fn check_file_size(field: &'static str, bytes: u64) -> Result<FileSize, ConfigError> {
    FileSize::new(bytes).ok_or_else(|| {
        let (least, most) = (FileSize::MIN.get(), FileSize::MAX.get());
        ConfigError::new(field, bytes, format!("a multiple of {PAGE_SIZE} from {least} to {most}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_within_a_file_or_is_an_error() {
        let size = FileSize::MIN;
        assert_eq!(within(size, &(0..size.get())).unwrap(), 0..12288);
        assert_eq!(within(size, &(12288..12288)).unwrap(), 12288..12288);
        #[expect(clippy::reversed_empty_ranges, reason = "that it is refused is the point")]
        for range in [0..12289, 12289..12289, 5..4, u64::MAX..u64::MAX, u64::MAX..0] {
            assert_eq!(within(size, &range).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{range:?}");
        }
        within_parts(size, u64::MAX, &[b"ab"]).unwrap_err();
        assert_eq!(within_parts(size, 12286, &[b"a", b"", b"b"]).unwrap(), 12286..12288);
    }

    #[test]
    fn a_source_that_cannot_mend_says_so() {
        let source = MemoryFileSource::builder().build().unwrap();
        let error = source.mend(FileId::new(3).unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().ends_with("the length of file 3"), "{error}");
    }

    #[test]
    fn a_refused_option_names_both_values_of_a_relation() {
        let error = check_files_per_folder(600, 2).unwrap_err();
        assert_eq!(error.field, "files_per_folder");
        assert_eq!(error.value, "600 with `folders` 2, 1200 files");
        assert_eq!(error.range, "3 to 511 with `folders` 2, as a store has at most 1023 files");
        for (files, folders) in [(3, 341), (1023, 1), (511, 2), (3, 1)] {
            assert_eq!(check_files_per_folder(files, folders), Ok(files));
        }
        for (files, folders) in [(2, 1), (0, 1), (1024, 1), (512, 2), (4, 341), (u16::MAX, 341)] {
            check_files_per_folder(files, folders).unwrap_err();
        }
        assert_eq!((check_folders(1), check_folders(341)), (Ok(1), Ok(341)));
        for folders in [0, 342, 70_000] {
            assert_eq!(check_folders(folders).unwrap_err().range, "1 to 341");
        }
        let error = check_file_size("file_size", 5000).unwrap_err();
        assert_eq!((error.field, error.value.as_str()), ("file_size", "5000"));
        assert_eq!(error.range, "a multiple of 4096 from 12288 to 17179869184");
    }
}
