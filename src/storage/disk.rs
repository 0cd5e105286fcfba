//! Files in folders on disks, one owner for all of them. `create` makes files, `scan` finds those that are there.
//!
//! # Invariants
//!
//! 1. What is created or deleted carries the id of this store in its name, in a folder that is locked, and that is still
//!    the one which its path leads to.
#![forbid(unsafe_code)]

mod create;
#[cfg(all(test, target_os = "linux", not(loom)))]
mod cuts;
mod scan;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use twox_hash::XxHash3_64;

use super::folders::{self, Folder, Owned, foreign};
use super::leftover::remove;
use super::lock::Locks;
use super::names::{self, Name};
use super::region::MappedFile;
use super::{DiskFileSourceBuilder, FileMemory, FileSource, Found};
use crate::block::{FileId, FileSize, StoreId};
use crate::error::OpenError;
use crate::os;
use crate::sync::{Arc, Mutex};

/// Files in one or more folders, locked against every other owner.
///
/// A file takes its whole size on the disk from its creation on, so that a full disk is an error there and nowhere
/// else. The folders are readable by this user only, and stay locked until the source and all memory that it handed out
/// are gone.
///
/// # Examples
///
/// ```
/// use scratchspace::{DiskFileSource, FileId, FileSource, OpenError};
///
/// let temporary = tempfile::tempdir()?;
/// let builder = DiskFileSource::builder().folder(temporary.path()).files_per_folder(3).file_size(64 << 10);
/// let source = builder.clone().build()?;
/// let memory = source.create(FileId::new(1).unwrap(), b"header")?;
/// drop(source);
///
/// assert!(matches!(builder.clone().build(), Err(OpenError::InUse { .. })));
/// drop(memory);
/// assert_eq!(builder.build()?.scan()?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DiskFileSource {
    store: StoreId,
    /// In the recorded order.
    folders: Mutex<Vec<Folder>>,
    /// One folder is taken back at a time.
    attaching: Mutex<()>,
    /// Files that are called suspect.
    suspects: Mutex<BTreeSet<FileId>>,
    /// What a creation that failed has left, and could not remove either: in the way of the next one.
    leftovers: Mutex<Vec<PathBuf>>,
    size: FileSize,
    files_per_folder: u16,
    boot: Option<u64>,
    locks: Arc<Locks>,
}

impl DiskFileSource {
    /// Options for a source; at least one folder must be given.
    ///
    /// # Examples
    ///
    /// ```
    /// use scratchspace::{DiskFileSource, FileSource};
    ///
    /// let (fast, large) = (tempfile::tempdir()?, tempfile::tempdir()?);
    /// let builder = DiskFileSource::builder().folder(fast.path()).folder(large.path());
    /// let source = builder.files_per_folder(4).file_size(1 << 20).build()?;
    /// assert_eq!(source.folders(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> DiskFileSourceBuilder {
        DiskFileSourceBuilder::new()
    }

    pub(super) fn new(owned: Owned, size: FileSize, files_per_folder: u16) -> Self {
        let Owned { store, folders, locks } = owned;
        // Of all of them: a folder that is missing may be on a disk with another life when it is back.
        let of_a_folder = |folder: &Folder| folder.missing.is_none().then(|| os::boot(&folder.path)).flatten();
        let boot: Option<Vec<String>> = folders.iter().map(of_a_folder).collect();
        let boot = boot.map(|words| XxHash3_64::oneshot(words.join("\n").as_bytes()));
        let (folders, attaching, suspects) = (Mutex::new(folders), Mutex::new(()), Mutex::new(BTreeSet::new()));
        let (leftovers, locks) = (Mutex::default(), Arc::new(locks));
        Self { store, folders, attaching, suspects, leftovers, size, files_per_folder, boot, locks }
    }

    fn folder_of(&self, file: FileId) -> PathBuf {
        let folders = self.folders.lock();
        folders[file.index() % folders.len()].path.clone()
    }

    /// Where a file is, by the name that it has now.
    fn path_of(&self, file: FileId) -> PathBuf {
        let suspect = self.suspects.lock().contains(&file);
        self.folder_of(file).join(Name { suspect, ..Name::new(self.store, file) }.to_string())
    }

    /// Remembers by which name a file is called.
    fn is_called(&self, file: FileId, suspect: bool) {
        let mut suspects = self.suspects.lock();
        if suspect {
            suspects.insert(file);
        } else {
            suspects.remove(&file);
        }
    }

    /// The folder of a file, if it is ours still: nothing is created or deleted anywhere else.
    fn own_folder_of(&self, file: FileId) -> io::Result<PathBuf> {
        let folders = self.folders.lock();
        let folder = folders[file.index() % folders.len()].clone();
        drop(folders);
        if let Some(error) = folder.missing {
            return Err(io::Error::other(error));
        }
        self.locks.check_place(&folder.path)?;
        Ok(folder.path)
    }

    /// Locks a folder that was not there when the source was built. Its record says which it is: of several that are
    /// missing nobody knows that before.
    fn attach(&self, number: u16) -> Result<PathBuf, OpenError> {
        let _one_at_a_time = self.attaching.lock();
        let at = usize::from(number);
        let folders = self.folders.lock().clone();
        if folders[at].missing.is_none() {
            return Ok(folders[at].path.clone());
        }
        let mut why = None;
        let missing = folders.iter().enumerate().filter(|(_, folder)| folder.missing.is_some());
        for (from, folder) in missing {
            match folders::take_back(&folder.path, self.store, folders.len()) {
                Ok((path, lock, record)) if record.folder == number + 1 => {
                    if folders.iter().any(|other| other.missing.is_none() && other.path == path) {
                        return Err(foreign(&path, "it is another folder of its store as well".to_owned()));
                    }
                    let mut folders = self.folders.lock();
                    folders.swap(from, at);
                    folders[at] = Folder { path: path.clone(), missing: None };
                    self.locks.add(lock);
                    return Ok(path);
                }
                Ok((path, _, record)) if from == at => {
                    let reason = format!("it is folder {} of its store, in place of {}", record.folder, number + 1);
                    why = Some(foreign(&path, reason));
                }
                Err(error) if from == at => why = Some(error),
                Ok(_) | Err(_) => {}
            }
        }
        Err(why.unwrap_or_else(|| foreign(&folders[at].path, "it is not the folder that is missing".to_owned())))
    }
}

impl FileSource for DiskFileSource {
    fn store_id(&self) -> StoreId {
        self.store
    }

    fn file_size(&self) -> FileSize {
        self.size
    }

    fn folders(&self) -> u16 {
        u16::try_from(self.folders.lock().len()).expect("the builder allows at most 341 folders")
    }

    fn files_per_folder(&self) -> u16 {
        self.files_per_folder
    }

    fn boot(&self) -> Option<u64> {
        self.boot
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        Some(self.path_of(file))
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        if !self.locks.process().is_current() {
            return Err(OpenError::Forked);
        }
        self.open_all(self.listed()?)
    }

    fn scan_folder(&self, folder: u16) -> Result<Vec<Found>, OpenError> {
        if !self.locks.process().is_current() {
            return Err(OpenError::Forked);
        }
        let path = self.attach(folder)?;
        self.open_all(self.listed_in(&path)?)
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.create_named(file, header).map_err(|error| self.explain_full(file, error))
    }

    fn create_unnamed(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.create_nameless(file, header).map_err(|error| self.explain_full(file, error))
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.locks.process().check()?;
        let folder = self.own_folder_of(file)?;
        let path = folder.join(Name::new(self.store, file).to_string());
        // In this order: if `mark_suspect` comes in between, the file has the second name, or none any more.
        remove(&path)?;
        remove(&names::suspect_path(&path))?;
        self.is_called(file, false);
        os::sync_folder(&folder)
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        self.locks.process().check()?;
        // Elsewhere it would not be found, which is no proof that it is gone: its disk may come back, cache and all.
        let path = self.own_folder_of(file)?.join(Name::new(self.store, file).to_string());
        let suspect = names::suspect_path(&path);
        // Not synced: the name speaks of what is in the page cache, and is in it itself. A power cut ends both.
        match os::rename(&path, &suspect) {
            Ok(()) => self.is_called(file, true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.is_called(file, os::try_exists(&suspect)?),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
        let folder = self.own_folder_of(file)?;
        self.mark_suspect(file)?;
        // Durable, unlike after a failed sync: a file of the right length and the old name would pass for a whole one.
        os::sync_folder(&folder)?;
        let path = folder.join(Name::new(self.store, file).to_string());
        let opened = os::open_private(&names::suspect_path(&path))?;
        if os::len(&opened)? < self.size.get() {
            self.check_limit()?;
        }
        os::set_len(&opened, self.size.get())?;
        // What was cut must not be back after a power cut: blocks of the same keys may have been written since.
        os::sync_all(&opened)?;
        Ok(Arc::new(MappedFile::new(opened, self.size, self.locks.clone())?.named(path).suspect()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{check_file_source, check_owner};
    use super::super::test_folder::{skipped, test_folder};
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;

    pub(super) fn builder(folders: &[&Path]) -> DiskFileSourceBuilder {
        DiskFileSource::builder().folders(folders).files_per_folder(3).file_size(16 << 10)
    }

    pub(super) fn file(number: u16) -> FileId {
        FileId::new(number).unwrap()
    }

    /// Every name below a folder, with its contents.
    pub(super) fn tree(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_folder = path.is_dir();
            all.push((path.clone(), if is_folder { None } else { Some(fs::read(&path).unwrap()) }));
            if is_folder {
                all.extend(tree(&path));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn files_on_disks_keep_the_contract() {
        let folder = test_folder();
        let (one, two, three) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("3"));
        for folders in [&[one.as_path()][..], &[&three, &two]] {
            check_file_source(|| Box::new(builder(folders).build().unwrap()));
            check_owner(|| Ok(Box::new(builder(folders).build()?)));
        }
    }

    #[test]
    fn a_suspect_file_is_found_as_such_and_deleted_like_any_other() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        for number in [1, 2] {
            drop(source.create(file(number), b"header").unwrap());
        }
        for number in [2, 2, 3] {
            source.mark_suspect(file(number)).unwrap();
        }
        let suspect = |source: &DiskFileSource| -> Vec<_> {
            source.scan().unwrap().iter().map(|found| (found.file.get(), found.memory.is_suspect())).collect()
        };
        assert_eq!(suspect(&source), [(1, false), (2, true)]);
        assert_eq!(source.create(file(2), b"other").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(source);
        let source = builder(&[folder.path()]).build().unwrap();
        assert_eq!(suspect(&source), [(1, false), (2, true)]);
        let (one, its_suspect) = (source.path_of(file(1)), names::suspect_path(&source.path_of(file(1))));
        fs::copy(&one, &its_suspect).unwrap();
        assert!(matches!(source.scan(), Err(OpenError::Foreign { path, .. }) if path == its_suspect));
        source.delete(file(1)).unwrap();
        source.delete(file(2)).unwrap();
        drop(source.create(file(2), b"header").unwrap());
        assert_eq!(suspect(&source), [(2, false)]);
    }

    /// Errors named a suspect file by the name that it had before: nothing was there.
    #[test]
    fn a_file_is_described_by_the_name_that_it_has_now() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        drop(source.create(file(1), b"header").unwrap());
        let kind = |source: &DiskFileSource| {
            let path = source.describe(file(1)).unwrap();
            (path.exists(), path.extension().unwrap().to_str().unwrap().to_owned())
        };
        assert_eq!(kind(&source), (true, "scratch".to_owned()));
        source.mark_suspect(file(1)).unwrap();
        source.mark_suspect(file(1)).unwrap();
        assert_eq!(kind(&source), (true, "suspect".to_owned()));
        drop(source);
        let source = builder(&[folder.path()]).build().unwrap();
        source.scan().unwrap();
        assert_eq!(kind(&source), (true, "suspect".to_owned()));
        source.delete(file(1)).unwrap();
        assert_eq!(kind(&source), (false, "scratch".to_owned()));
        drop(source.create(file(1), b"header").unwrap());
        assert_eq!(kind(&source), (true, "scratch".to_owned()));
    }

    /// Where a disk was no longer at its path, a file of it that was not found there counted as marked.
    #[test]
    fn a_file_whose_folder_is_not_in_its_place_is_not_marked() {
        let folder = test_folder();
        let (here, away) = (folder.path().join("here"), folder.path().join("away"));
        let source = builder(&[&here]).build().unwrap();
        drop(source.create(file(1), b"header").unwrap());
        fs::rename(&here, &away).unwrap();
        fs::create_dir(&here).unwrap();
        source.mark_suspect(file(1)).unwrap_err();
        fs::remove_dir(&here).unwrap();
        source.mark_suspect(file(1)).unwrap_err();
        fs::rename(&away, &here).unwrap();
        source.mark_suspect(file(1)).unwrap();
        assert!(source.describe(file(1)).unwrap().exists());
    }

    /// A file that somebody had cut short, or appended to, kept its whole store from being opened.
    #[test]
    fn a_file_of_any_length_is_found_with_its_header_and_mended_only_when_that_is_asked_for() {
        for len in [0, 5, 600, 8192, 12288, 16383, 16385, 20480] {
            let folder = test_folder();
            let source = builder(&[folder.path()]).build().unwrap();
            let memory = source.create(file(1), b"header").unwrap();
            memory.store(12288, &[&[7; 4096]]).unwrap();
            drop(memory);
            let path = source.path_of(file(1));
            File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
            let before = tree(folder.path());
            for _ in 0..2 {
                let found = source.scan().unwrap();
                assert_eq!((found[0].len, found[0].memory.is_suspect()), (len, false));
                let (mut header, mut expected) = ([1; 4096], *b"header");
                found[0].memory.load(0, &mut header).unwrap();
                expected[usize::try_from(len.min(6)).unwrap()..].fill(0);
                assert_eq!(header[..6], expected);
                assert!(tree(folder.path()) == before);
            }
            let mended = source.mend(file(1)).unwrap();
            let is_mended = |memory: &dyn FileMemory| {
                let mut last = [9; 4096];
                memory.load(12288, &mut last).unwrap();
                let kept = usize::try_from(len.saturating_sub(12288).min(4096)).unwrap();
                assert!(last[..kept].iter().all(|byte| *byte == 7) && last[kept..].iter().all(|byte| *byte == 0));
                assert_eq!((memory.size(), memory.is_suspect()), (source.file_size(), true));
                memory.sync().unwrap();
            };
            is_mended(&*mended);
            let found = source.scan().unwrap();
            assert_eq!((found.len(), found[0].len), (1, 16384));
            is_mended(&*found[0].memory);
            // A process that was killed half-way finds it as it was, and under the name of a suspect one.
            File::options().write(true).open(names::suspect_path(&path)).unwrap().set_len(len).unwrap();
            is_mended(&*source.mend(file(1)).unwrap());
            source.delete(file(1)).unwrap();
            assert!(source.scan().unwrap().is_empty());
        }
    }

    /// A file of the right length under its old name would have passed for a whole one after a power cut.
    #[test]
    fn the_mark_of_a_mended_file_is_durable() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        drop(source.create(file(1), b"header").unwrap());
        let path = source.path_of(file(1));
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        drop(source.mend(file(1)).unwrap());
        let suspect = names::suspect_path(&path);
        let synced = std::fs::canonicalize(folder.path()).unwrap().join(suspect.file_name().unwrap());
        assert!(os::synced::names().contains(&synced));
    }

    #[cfg(target_os = "linux")]
    mod full_disk {
        use super::*;
        use std::process::Command;

        /// A file system of one megabyte, unmounted when it is dropped.
        struct Tiny(tempfile::TempDir);

        impl Tiny {
            fn mount() -> Option<Self> {
                let folder = test_folder();
                let mut mount = Command::new("mount");
                match mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path()).output() {
                    Ok(output) if output.status.success() => Some(Self(folder)),
                    Ok(output) => {
                        let said = String::from_utf8_lossy(&output.stderr);
                        skipped(&format!("full disks of the library: mount says {}", said.trim()));
                        None
                    }
                    Err(error) => {
                        skipped(&format!("full disks of the library: mount cannot be run: {error}"));
                        None
                    }
                }
            }
        }

        impl Drop for Tiny {
            fn drop(&mut self) {
                let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
            }
        }

        fn free_bytes(folder: &Path) -> u64 {
            let stat = rustix::fs::statvfs(folder).unwrap();
            stat.f_bavail * stat.f_frsize
        }

        #[test]
        fn a_full_disk_is_an_error_at_creation_and_leaves_nothing_behind() {
            let Some(tiny) = Tiny::mount() else { return };
            let folder = tiny.0.path();
            let source = builder(&[folder]).file_size(400 << 10).build().unwrap();
            let free = free_bytes(folder);
            let memory = source.create(file(1), b"header").unwrap();
            source.create(file(2), b"header").unwrap();
            let before = (tree(folder), free_bytes(folder));
            for number in [3, 3, 4] {
                let error = source.create(file(number), b"header").unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                let error = source.create_unnamed(file(number), b"header").unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                assert!((tree(folder), free_bytes(folder)) == before);
            }
            // What was created has its space: the disk fills up, and every byte can still be stored and read.
            let _ = fs::write(folder.join("filler"), vec![1; 1 << 20]);
            memory.store(0, &[&vec![7; 400 << 10]]).unwrap();
            memory.populate(0..400 << 10).unwrap();
            fs::remove_file(folder.join("filler")).unwrap();
            drop(memory);
            source.delete(file(1)).unwrap();
            source.delete(file(2)).unwrap();
            assert_eq!(free_bytes(folder), free);
            source.create(file(3), b"header").unwrap();
        }

        #[test]
        fn holes_that_cannot_be_filled_are_an_error_at_opening() {
            let Some(tiny) = Tiny::mount() else { return };
            let source = builder(&[tiny.0.path()]).file_size(400 << 10).build().unwrap();
            for number in 1..=3 {
                let sparse = File::create_new(source.describe(file(number)).unwrap()).unwrap();
                sparse.set_len(400 << 10).unwrap();
            }
            let error = source.scan().unwrap_err();
            assert!(matches!(&error, OpenError::Io(error) if error.kind() == io::ErrorKind::StorageFull), "{error}");
            for number in 1..=3 {
                let len = fs::metadata(source.describe(file(number)).unwrap()).unwrap().len();
                assert_eq!(len, 400 << 10, "no file was cut");
            }
        }
    }
}
