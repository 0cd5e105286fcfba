//! One owner per folder: a lock file that also says whose folder it is.
//!
//! `scratchspace.lock` holds three lines, `scratchspace 1`, `store <id>`, `folder <i> of <n>`. It is written once, when
//! its folder becomes part of a store, and made durable before the store's first file.
//!
//! # Invariants
//!
//! 1. A lock file is never deleted or replaced, so that two openers always meet at the same one.
//! 2. A record is believed only if it is, byte for byte, one that is written here.
//! 3. A folder is unlocked by the process that locked it: a forked child shares the lock, and only closes its copy.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use crate::block::StoreId;
use crate::error::{IoError, OpenError};
use crate::os::{self, Process};
use crate::sync::Mutex;

/// The name of the lock file in each folder.
pub(super) const LOCK_FILE: &str = "scratchspace.lock";

/// Longer than any record.
const MOST: u64 = 256;

/// The first word of a record, then comes the version.
const WORD: &str = "scratchspace ";

/// The folders of a store, locked until this is dropped.
#[derive(Debug)]
pub(super) struct Locks {
    locked: Mutex<Vec<LockFile>>,
    process: Process,
}

impl Locks {
    pub(super) fn new(locked: Vec<LockFile>) -> Self {
        Self { locked: Mutex::new(locked), process: Process::current() }
    }

    /// The process that locked the folders: no other may create or delete anything there.
    pub(super) fn process(&self) -> Process {
        self.process
    }

    /// One folder more, which was not there before.
    pub(super) fn add(&self, lock: LockFile) {
        self.locked.lock().push(lock);
    }

    /// Whether `folder` is the one that is locked: another one may have been mounted or moved there since.
    pub(super) fn check_place(&self, folder: &Path) -> io::Result<()> {
        let locked = self.locked.lock();
        let own = locked.iter().find(|lock| lock.path.parent() == Some(folder));
        if own.map(LockFile::is_in_place).transpose()? == Some(true) {
            return Ok(());
        }
        drop(locked);
        // What the system says of it is the better text, if it says anything.
        std::fs::metadata(folder.join(LOCK_FILE))?;
        let problem = format!("`{}` is not the folder that was locked", folder.display());
        Err(io::Error::new(io::ErrorKind::NotFound, problem))
    }

    /// No folder at all.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self::new(Vec::new())
    }
}

/// What a lock file says: its folder is number `folder` of the `folders` of `store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) store: StoreId,
    /// 1 to `folders`.
    pub(super) folder: u16,
    pub(super) folders: u16,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORD}1\nstore {}\nfolder {} of {}\n", self.store, self.folder, self.folders)
    }
}

/// What was found in a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Record(Record),
    /// Empty, or the part of a record that a crash left.
    Torn,
    Version(u32),
    Foreign,
}

fn parse(bytes: &[u8]) -> Content {
    // A power cut may leave zeros where the length was durable and the bytes were not.
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let Ok(text) = std::str::from_utf8(&bytes[..written]) else { return Content::Foreign };
    if let Some(record) = parse_record(text).filter(|record| record.to_string().as_bytes() == bytes) {
        return Content::Record(record);
    }
    match text.strip_prefix(WORD) {
        None if WORD.starts_with(text) => Content::Torn,
        None => Content::Foreign,
        // The version is whole once its line is.
        Some(rest) => match rest.split_once('\n').map(|(version, _)| version.parse()) {
            Some(Ok(version)) if version != 1 => Content::Version(version),
            _ => Content::Torn,
        },
    }
}

fn parse_record(text: &str) -> Option<Record> {
    let mut lines = text.lines().skip(1);
    let store = lines.next()?.strip_prefix("store ")?.parse().ok()?;
    let (folder, folders) = lines.next()?.strip_prefix("folder ")?.split_once(" of ")?;
    let (folder, folders) = (folder.parse().ok()?, folders.parse().ok()?);
    (folder >= 1 && folder <= folders).then_some(Record { store, folder, folders })
}

/// The lock file of one folder, locked until this is dropped.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
    path: PathBuf,
    process: Process,
}

impl Drop for LockFile {
    /// Unlocks by itself: a process that is being started elsewhere in this one holds a copy of every descriptor until
    /// it has begun to run, and a forked child for as long as it lives; the lock would live as long.
    fn drop(&mut self) {
        if self.process.is_current() {
            // Closing the last copy unlocks as well, so a failure only delays it.
            let _ = self.file.unlock();
        }
    }
}

impl LockFile {
    /// Whether the path of the lock file leads to it still.
    fn is_in_place(&self) -> io::Result<bool> {
        os::is_named(&self.file, &self.path)
    }

    /// Locks `folder`, if it has a lock file.
    pub(super) fn lock_existing(folder: &Path) -> Result<Option<Self>, OpenError> {
        match os::open_private(&folder.join(LOCK_FILE)) {
            Ok(file) => Self::lock(folder, file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("opening a lock file", &folder.join(LOCK_FILE))(error)),
        }
    }

    /// Locks `folder`, which gets an empty lock file if it has none.
    pub(super) fn lock_or_create(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(LOCK_FILE);
        let file = match os::create_private_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => os::open_private(&path),
            created => created,
        };
        Self::lock(folder, file.map_err(failed("creating a lock file", &path))?)
    }

    fn lock(folder: &Path, file: File) -> Result<Self, OpenError> {
        let path = folder.join(LOCK_FILE);
        match file.try_lock() {
            Ok(()) => Ok(Self { file, path, process: Process::current() }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { folder: folder.to_path_buf() }),
            Err(TryLockError::Error(error)) => Err(failed("locking a folder", &path)(error)),
        }
    }

    /// What the file says; `None` if it is empty or torn, so that its folder belongs to nobody.
    pub(super) fn read(&mut self) -> Result<Option<Record>, OpenError> {
        let mut bytes = Vec::new();
        self.file
            .rewind()
            .and_then(|()| (&self.file).take(MOST).read_to_end(&mut bytes))
            .map_err(failed("reading a lock file", &self.path))?;
        match parse(&bytes) {
            Content::Record(record) => Ok(Some(record)),
            Content::Torn => Ok(None),
            Content::Version(found) => Err(OpenError::Version { path: self.path.clone(), found }),
            Content::Foreign => {
                let reason = "it is no lock file of this library".to_owned();
                Err(OpenError::Foreign { path: self.path.clone(), reason })
            }
        }
    }

    /// Replaces what the file says. Durable once the folder is synced, too.
    pub(super) fn write(&mut self, record: Record) -> Result<(), OpenError> {
        self.file
            .set_len(0)
            .and_then(|()| os::write_all_at(&self.file, 0, &[record.to_string().as_bytes()]))
            .and_then(|()| os::sync_all(&self.file))
            .map_err(failed("writing a lock file", &self.path))
    }
}

/// Turns what the system answered into the error of an opening.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io(IoError::new(what, Some(path), error))
}

#[cfg(test)]
mod tests {
    use super::super::test_folder::test_folder;
    use super::*;

    const RECORD: Record = Record { store: StoreId::from_u128(0xabc), folder: 2, folders: 12 };

    /// A store was dropped and opened again while another thread started a process: the folder was still in use, by a
    /// copy of the descriptor that the new process had not closed yet.
    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_folder_locked() {
        let folder = test_folder();
        let lock = LockFile::lock_or_create(folder.path()).unwrap();
        let _copy = lock.file.try_clone().unwrap();
        drop(lock);
        LockFile::lock_or_create(folder.path()).unwrap();
    }

    #[test]
    fn a_record_is_read_back_and_each_part_of_it_is_torn() {
        let text = RECORD.to_string();
        assert_eq!(text, "scratchspace 1\nstore 00000000000000000000000000000abc\nfolder 2 of 12\n");
        assert!(text.len() as u64 <= MOST);
        assert_eq!(parse(text.as_bytes()), Content::Record(RECORD));
        for len in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..len]), Content::Torn, "{len} bytes");
            let mut zeros = text.as_bytes()[..len].to_vec();
            zeros.resize(text.len(), 0);
            assert_eq!(parse(&zeros), Content::Torn, "{len} bytes, then zeros");
        }
    }

    #[test]
    fn what_is_not_a_record_is_not_believed() {
        let torn = |text: &str| assert_eq!(parse(text.as_bytes()), Content::Torn, "{text}");
        torn("scratchspace 1\nstore 00000000000000000000000000000abc\nfolder 0 of 12\n");
        torn("scratchspace 1\nstore 00000000000000000000000000000abc\nfolder 13 of 12\n");
        torn("scratchspace 1\nstore 00000000000000000000000000000ABC\nfolder 1 of 12\n");
        torn("scratchspace 1\nstore 00000000000000000000000000000abc\nfolder 01 of 12\n");
        torn("scratchspace 1\nstore 00000000000000000000000000000abc\nfolder 1 of 12\nmore\n");
        for text in ["my notes\n", "scratchspaces", "1234"] {
            assert_eq!(parse(text.as_bytes()), Content::Foreign, "{text}");
        }
        assert_eq!(parse(&[0xff, 0xfe]), Content::Foreign);
        assert_eq!(parse(b"scratchspace 2\nanything"), Content::Version(2));
        assert_eq!(parse(b"scratchspace 12"), Content::Torn);
    }

    #[test]
    fn a_folder_has_one_owner_until_its_lock_is_dropped() {
        let folder = test_folder();
        assert!(LockFile::lock_existing(folder.path()).unwrap().is_none());
        let mut lock = LockFile::lock_or_create(folder.path()).unwrap();
        assert_eq!(lock.read().unwrap(), None);
        lock.write(RECORD).unwrap();
        let in_use = OpenError::InUse { folder: folder.path().to_path_buf() };
        assert_eq!(LockFile::lock_or_create(folder.path()).unwrap_err(), in_use);
        assert_eq!(LockFile::lock_existing(folder.path()).unwrap_err(), in_use);
        drop(lock);
        let mut lock = LockFile::lock_existing(folder.path()).unwrap().unwrap();
        assert_eq!(lock.read().unwrap(), Some(RECORD));
    }

    #[test]
    fn a_longer_text_leaves_nothing_behind_a_shorter_one() {
        let folder = test_folder();
        let mut lock = LockFile::lock_or_create(folder.path()).unwrap();
        lock.write(Record { folder: 300, folders: 341, ..RECORD }).unwrap();
        lock.write(RECORD).unwrap();
        assert_eq!(lock.read().unwrap(), Some(RECORD));
    }

    #[test]
    fn a_lock_file_of_another_program_or_version_is_refused() {
        let folder = test_folder();
        let path = folder.path().join(LOCK_FILE);
        std::fs::write(&path, "pid 17\n").unwrap();
        let mut lock = LockFile::lock_or_create(folder.path()).unwrap();
        assert!(matches!(lock.read(), Err(OpenError::Foreign { path: at, .. }) if at == path));
        std::fs::write(&path, "scratchspace 7\n").unwrap();
        assert_eq!(lock.read(), Err(OpenError::Version { path, found: 7 }));
    }
}
