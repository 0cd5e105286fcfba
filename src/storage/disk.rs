//! Files in folders on disks, one owner for all of them.
//!
//! # Invariants
//!
//! 1. A file gets its name only when all of it is durable; whatever fails before leaves nothing behind.
//! 2. What is created or deleted carries the id of this store in its name, in a folder that is locked, and that is still
//!    the one which its path leads to.
//! 3. A scan that refuses something has changed nothing.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::folders::{self, Folder, Owned, foreign};
use super::leftover::{Leftover, remove};
use super::lock::{Locks, failed};
use super::names::{self, Listed, Name};
use super::region::MappedFile;
use super::{DiskFileSourceBuilder, FileMemory, FileSource, Found, HeapMemory, check_header};
use crate::block::{FileId, FileSize, PAGE_LEN, StoreId};
use crate::error::{IoError, OpenError};
use crate::os;
use crate::planted;
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
        let (folders, attaching, suspects) = (Mutex::new(folders), Mutex::new(()), Mutex::new(BTreeSet::new()));
        let (leftovers, locks) = (Mutex::default(), Arc::new(locks));
        Self { store, folders, attaching, suspects, leftovers, size, files_per_folder, locks }
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

    /// The number of a listed file of this store, or why it cannot be one.
    fn check(&self, listed: &Listed, folder: &Path) -> Result<FileId, OpenError> {
        let Listed { path, name, len } = listed;
        if name.store != self.store {
            return Err(foreign(path, format!("it is of store {}, its folder of store {}", name.store, self.store)));
        }
        let Some(file) = FileId::new(name.number) else {
            return Err(foreign(path, format!("files are numbered from 1 to {}", FileId::MAX)));
        };
        let right = self.folder_of(file);
        if right != folder {
            return Err(foreign(path, format!("file {file} of its store lies in `{}`", right.display())));
        }
        match len {
            None => Err(foreign(path, "it is no ordinary file".to_owned())),
            Some(_) => Ok(file),
        }
    }

    /// Everything of this store that is there, files and leftovers; an error if there is something that cannot be.
    fn listed(&self) -> Result<Vec<(FileId, Listed)>, OpenError> {
        let mut all = Vec::new();
        let folders = self.folders.lock().clone();
        for Folder { path: folder, missing } in &folders {
            if let Some(error) = missing {
                return Err(OpenError::Io(error.clone()));
            }
            all.extend(self.listed_in(folder)?);
        }
        all.sort_by_key(|(file, _)| *file);
        Ok(all)
    }

    /// As `listed`, in one folder: all that has the number of one file lies in the same one.
    fn listed_in(&self, folder: &Path) -> Result<Vec<(FileId, Listed)>, OpenError> {
        let listed = names::list(folder).map_err(failed("listing a folder", folder))?;
        // A process that was killed may have made or removed a name and not synced it: what is built on that now must
        // not stand without it after a power cut.
        os::sync_folder(folder).map_err(failed("syncing a folder", folder))?;
        let all = listed.into_iter().map(|listed| Ok((self.check(&listed, folder)?, listed)));
        let mut all = all.collect::<Result<Vec<_>, OpenError>>()?;
        all.sort_by_key(|(file, _)| *file);
        let serves = |(file, listed): &(FileId, Listed)| (!listed.name.temporary).then_some(*file);
        let twice = all.iter().filter(|one| serves(one).is_some()).collect::<Vec<_>>();
        if let Some(pair) = twice.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let other = pair[0].1.path.display();
            return Err(foreign(&pair[1].1.path, format!("`{other}` is the same file of the store")));
        }
        Ok(all)
    }

    /// Opens what was listed, and deletes what a creation left.
    fn open_all(&self, listed: Vec<(FileId, Listed)>) -> Result<Vec<Found>, OpenError> {
        let (leftovers, files): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(_, listed)| listed.name.temporary);
        let mut found = Vec::with_capacity(files.len());
        for (file, listed) in files {
            self.is_called(file, listed.name.suspect);
            found.push(self.open(file, &listed)?);
            self.leftovers.lock().retain(|leftover| *leftover != listed.path);
        }
        for (_, leftover) in leftovers {
            remove(&leftover.path).map_err(failed("deleting what a creation left", &leftover.path))?;
        }
        Ok(found)
    }

    /// Opens and maps a file that is there, with the size that it has.
    fn open(&self, file: FileId, listed: &Listed) -> Result<Found, OpenError> {
        let path = &listed.path;
        let opened = os::open_private(path).map_err(failed("opening a file", path))?;
        let len = os::len(&opened).map_err(failed("reading the size of a file", path))?;
        let Some(size) = FileSize::new(len) else {
            let memory = beginning(&opened, len).map_err(|error| IoError::header_unreadable(Some(path), error))?;
            return Ok(Found { file, memory: Arc::new(memory), len });
        };
        // What is suspect is not read through its mapping and takes no more writes; what has another length than ours
        // is not lent at all. Neither needs its space.
        if size == self.size && !listed.name.suspect {
            allocate_holes(&opened, len).map_err(failed("allocating a file that has holes", path))?;
        }
        let memory = MappedFile::new(opened, size, self.locks.clone()).map_err(failed("mapping a file", path))?;
        let memory = memory.named(path.clone());
        Ok(Found::new(file, Arc::new(if listed.name.suspect { memory.suspect() } else { memory })))
    }

    /// All of "create" up to the name: a mapped file at `path`, durable in content.
    fn create_at(&self, path: &Path, header: &[u8]) -> io::Result<MappedFile> {
        let file = os::create_private_file(path)?;
        let leftover = Leftover::new(path, &self.leftovers);
        let memory = self.fill(file, header)?;
        leftover.keep();
        Ok(memory)
    }

    /// Gives an empty file its header and its space, durably, and maps it.
    fn fill(&self, file: File, header: &[u8]) -> io::Result<MappedFile> {
        self.check_limit()?;
        os::write_all_at(&file, 0, &[header])?;
        os::preallocate(&file, self.size.get())?;
        os::sync_all(&file)?;
        MappedFile::new(file, self.size, self.locks.clone())
    }

    /// Whether files may grow to their size: the system would not say so, but end the process.
    fn check_limit(&self) -> io::Result<()> {
        if let Some(limit) = os::file_size_limit().filter(|limit| *limit < self.size.get()) {
            let problem = format!("files of this process are limited to {limit} bytes (RLIMIT_FSIZE)");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        Ok(())
    }

    fn create_named(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        let path = self.new_path(file, header)?;
        let temporary = self.temporary_path_of(file);
        let memory = self.create_at(&temporary, header)?;
        let leftover = Leftover::new(&temporary, &self.leftovers);
        os::rename(&temporary, &path)?;
        leftover.keep();
        let leftover = Leftover::new(&path, &self.leftovers);
        // Hazard 53: the file is durable, its name is not.
        if !planted::is(53) {
            os::sync_folder(&self.folder_of(file))?;
        }
        leftover.keep();
        self.is_called(file, false);
        Ok(Arc::new(memory.named(path)))
    }

    fn create_nameless(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.new_path(file, header)?;
        if let Some(unnamed) = os::unnamed_file(&self.folder_of(file))? {
            return Ok(Arc::new(self.fill(unnamed, header)?));
        }
        self.create_and_unname(file, header)
    }

    /// A file without a name where the system creates each with one.
    fn create_and_unname(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        let temporary = self.temporary_path_of(file);
        let memory = self.create_at(&temporary, header)?;
        let leftover = Leftover::new(&temporary, &self.leftovers);
        remove(&temporary)?;
        leftover.keep();
        Ok(Arc::new(memory))
    }

    /// Says how much is missing where a file does not fit.
    fn explain_full(&self, file: FileId, error: io::Error) -> io::Error {
        match (error.kind(), os::free_bytes(&self.folder_of(file))) {
            (io::ErrorKind::StorageFull, Some(free)) => {
                io::Error::new(io::ErrorKind::StorageFull, NoSpace { needed: self.size.get(), free, error })
            }
            _ => error,
        }
    }

    /// Where a new file goes, unless it is there already; nothing creates it meanwhile, as the folder is ours.
    fn new_path(&self, file: FileId, header: &[u8]) -> io::Result<PathBuf> {
        check_header(header)?;
        self.locks.process().check()?;
        let path = self.own_folder_of(file)?.join(Name::new(self.store, file).to_string());
        self.remove_leftovers(&[&path, &self.temporary_path_of(file)])?;
        if os::try_exists(&path)? || os::try_exists(&names::suspect_path(&path))? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("`{}` is there already", path.display())));
        }
        Ok(path)
    }

    /// Removes those of `paths` that a creation has left.
    fn remove_leftovers(&self, paths: &[&PathBuf]) -> io::Result<()> {
        let mut leftovers = self.leftovers.lock();
        for path in paths {
            if leftovers.contains(path) {
                remove(path)?;
                leftovers.retain(|leftover| leftover != *path);
            }
        }
        Ok(())
    }

    /// Where a file grows until it gets its name; what is left there the next scan deletes.
    fn temporary_path_of(&self, file: FileId) -> PathBuf {
        self.folder_of(file).join(Name::new(self.store, file).temporary().to_string())
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

/// A file does not fit on its disk.
#[derive(Debug, thiserror::Error)]
#[error("a file of {needed} bytes does not fit, {free} bytes are free ({error})")]
struct NoSpace {
    needed: u64,
    free: u64,
    #[source]
    error: io::Error,
}

/// The first page of a file that is too short to be mapped, or does not end with a page, on the heap.
fn beginning(file: &File, len: u64) -> io::Result<HeapMemory> {
    let mut page = vec![0; usize::try_from(len).map_or(PAGE_LEN, |len| len.min(PAGE_LEN))];
    os::read_exact_at(file, 0, &mut page)?;
    let memory = HeapMemory::new(FileSize::MIN);
    memory.store(0, &[&page])?;
    Ok(memory)
}

/// A file that was copied may have holes, which reading through a mapping may fill: on a full disk that is a signal.
fn allocate_holes(file: &File, len: u64) -> io::Result<()> {
    if os::is_allocated(file)? { Ok(()) } else { os::preallocate(file, len) }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{check_file_source, check_owner};
    use super::super::test_folder::test_folder;
    use super::*;
    use std::fs;

    fn builder(folders: &[&Path]) -> DiskFileSourceBuilder {
        DiskFileSource::builder().folders(folders).files_per_folder(3).file_size(16 << 10)
    }

    fn file(number: u16) -> FileId {
        FileId::new(number).unwrap()
    }

    /// Every name below a folder, with its contents.
    fn tree(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
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
    fn a_file_takes_all_its_space_and_is_for_its_user_only() {
        let folder = test_folder();
        let home = folder.path().join("home");
        let source = builder(&[&home]).build().unwrap();
        source.create(file(1), b"header").unwrap();
        let path = source.describe(file(1)).unwrap();
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("{}-0001.scratch", source.store_id()));
        assert!(os::is_allocated(&File::open(&path).unwrap()).unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&home), mode(&path), mode(&home.join("scratchspace.lock"))), (0o700, 0o600, 0o600));
        }
    }

    /// A name that is durable before its bytes are leads to a file of zeros, or of the wrong length, after a power cut:
    /// nobody saw it when the sync between the two was gone.
    #[test]
    #[cfg(all(target_os = "linux", not(loom)))]
    fn a_file_is_durable_before_it_gets_its_name_and_is_used_when_its_name_is_durable() {
        use crate::os::calls::SystemCall::{Allocate, List, Map, Open, Remove, Rename, Stat, Store, Sync, SyncFolder};
        use crate::os::watch::Watch;

        let folder = test_folder();
        let home = std::fs::canonicalize(folder.path()).unwrap();
        let source = builder(&[&home]).build().unwrap();
        let watch = Watch::new(&home);
        // Without questions, of which none changes anything.
        let asked = |watch: &Watch| -> Vec<_> {
            watch.take().into_iter().filter(|(call, _)| !matches!(call, Stat | List)).collect()
        };
        let text = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let (name, growing) = (text(&source.path_of(file(1))), text(&source.temporary_path_of(file(1))));
        let home_name = text(&home);
        let memory = source.create(file(1), b"header").unwrap();
        let calls = [(Open, &growing), (Store, &growing), (Allocate, &growing), (Sync, &growing), (Map, &growing)];
        let calls = calls.into_iter().chain([(Rename, &name), (SyncFolder, &home_name)]);
        assert_eq!(asked(&watch), calls.map(|(call, name)| (call, name.clone())).collect::<Vec<_>>());
        memory.store(4096, &[b"block"]).unwrap();
        assert_eq!(asked(&watch), [(Store, name.clone())]);
        memory.sync().unwrap();
        assert_eq!(asked(&watch), [(Sync, name.clone())]);
        source.delete(file(1)).unwrap();
        let gone = asked(&watch);
        assert_eq!((gone[0].clone(), gone.last().unwrap().clone()), ((Remove, name), (SyncFolder, home_name)));
    }

    /// Errors between the calls of a creation: whichever fails, nothing is left behind, and the next one succeeds. A
    /// disk that could not say whether the folder is still the one that was locked was told as another folder.
    #[test]
    #[cfg(all(target_os = "linux", not(loom)))]
    fn whichever_call_of_a_creation_or_deletion_fails_nothing_is_left_and_it_succeeds_the_next_time() {
        use crate::os::calls::SystemCall;
        use crate::os::watch::Watch;

        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        let before = tree(folder.path());
        let watch = Watch::new(folder.path());
        let mut failed = Vec::new();
        for k in 1.. {
            watch.fail(k, libc::EIO, false);
            let created = source.create(file(1), b"header");
            let Err(error) = created else { break };
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "call {k}");
            assert!(tree(folder.path()) == before, "call {k}, {:?}, leaves something", watch.failed().last());
            failed.push(*watch.failed().last().unwrap());
        }
        for call in [SystemCall::Open, SystemCall::Store, SystemCall::Sync, SystemCall::Rename, SystemCall::SyncFolder]
        {
            assert!(failed.contains(&call), "{call:?} has failed in none of {failed:?}");
        }
        for k in 1.. {
            watch.fail(k, libc::EIO, false);
            if source.delete(file(1)).is_ok() {
                break;
            }
        }
        watch.clear();
        assert!(tree(folder.path()) == before);
        assert!(source.scan().unwrap().is_empty());
    }

    /// A creation failed, and what it left could not be removed either: the file could not be created any more before
    /// the next opening, and whoever asked was told to move away what was in its place.
    #[test]
    #[cfg(all(target_os = "linux", not(loom)))]
    fn what_a_failed_creation_could_not_remove_is_not_in_the_way_of_the_next_one() {
        use crate::os::watch::Watch;

        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        let watch = Watch::new(folder.path());
        for k in 1.. {
            watch.fail(k, libc::EIO, true);
            let Err(error) = source.create(file(1), b"header") else { break };
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "call {k}");
            let created = source.create(file(1), b"header");
            assert_eq!(created.unwrap_err().raw_os_error(), Some(libc::EIO), "call {k}, and all after it");
            watch.clear();
            let error = source.create(file(1), b"header").err();
            assert!(error.is_none(), "call {k}: {error:?}");
            assert_eq!(source.create(file(1), b"").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(source.scan().unwrap().len(), 1);
            source.delete(file(1)).unwrap();
        }
    }

    /// A file whose name could not be taken away was in the way of every later one of that number.
    #[test]
    #[cfg(all(target_os = "linux", not(loom)))]
    fn a_name_that_could_not_be_taken_away_is_not_in_the_way_of_the_next_file() {
        use crate::os::calls::SystemCall;
        use crate::os::watch::Watch;

        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        let before = tree(folder.path());
        let watch = Watch::new(folder.path());
        let mut failed = Vec::new();
        for (k, sticky) in (1..).flat_map(|k| [(k, false), (k, true)]) {
            watch.fail(k, libc::EIO, sticky);
            let Err(error) = source.create_and_unname(file(1), b"header") else { break };
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "call {k}");
            watch.clear();
            failed.extend(watch.failed().first().copied());
            let created = source.create_unnamed(file(1), b"header");
            assert!(created.is_ok(), "call {k}: {:?}", created.err());
            assert!(tree(folder.path()) == before, "call {k}, sticky: {sticky}");
        }
        watch.clear();
        assert!(watch.failed().contains(&SystemCall::Remove) && !failed.is_empty());
        assert!(tree(folder.path()) == before);
    }

    /// A file was used before its folder was synced: after a power cut its name was missing, and its blocks with it.
    #[test]
    fn a_file_is_used_only_when_its_name_is_durable_and_another_only_when_that_is_gone() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        let path = std::fs::canonicalize(folder.path()).unwrap().join(source.path_of(file(1)).file_name().unwrap());
        for _ in 0..2 {
            source.create(file(1), b"header").unwrap();
            assert!(os::synced::names().contains(&path));
            source.delete(file(1)).unwrap();
            assert!(!os::synced::names().contains(&path) && !os::synced::names().is_empty());
        }
    }

    /// A process was killed between a name and the sync of its folder; the next one flushed to the file, and a power cut
    /// took the name.
    #[test]
    fn a_scan_makes_the_names_durable_that_it_finds() {
        let (folder, other) = (test_folder(), test_folder());
        let source = builder(&[folder.path()]).build().unwrap();
        source.create(file(1), b"header").unwrap();
        let path = std::fs::canonicalize(folder.path()).unwrap().join(source.path_of(file(1)).file_name().unwrap());
        os::sync_folder(other.path()).unwrap();
        assert!(!os::synced::names().contains(&path));
        assert_eq!(source.scan().unwrap().len(), 1);
        assert!(os::synced::names().contains(&path));
    }

    #[test]
    fn a_scan_deletes_what_a_creation_left_and_nothing_of_others() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        drop(source.create(file(1), b"header").unwrap());
        let leftover = folder.path().join(Name::new(source.store_id(), file(2)).temporary().to_string());
        fs::write(&leftover, "half").unwrap();
        let notes = folder.path().join("notes.tmp");
        fs::write(&notes, "mine").unwrap();
        assert_eq!(source.scan().unwrap().len(), 1);
        assert!(!leftover.exists() && notes.exists());
        source.create(file(2), b"header").unwrap();
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

    #[test]
    fn a_scan_refuses_by_name_what_cannot_be_ours_and_changes_nothing() {
        let folder = test_folder();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        let source = builder(&[&one, &two]).build().unwrap();
        let ours = |number| Name { store: source.store_id(), number, temporary: false, suspect: false };
        fs::write(one.join(ours(3).temporary().to_string()), "a leftover, to be deleted by a scan that succeeds")
            .unwrap();
        let other = Name { store: StoreId::from_u128(7), ..ours(1) };
        let cases: [(PathBuf, usize, &str); 6] = [
            (one.join(other.to_string()), 16384, "it is of store 00000000000000000000000000000007"),
            (one.join(other.temporary().to_string()), 16384, "it is of store 00000000000000000000000000000007"),
            (two.join(ours(1).to_string()), 16384, "file 1 of its store lies in"),
            (one.join(ours(2).to_string()), 16384, "file 2 of its store lies in"),
            (one.join(ours(0).to_string()), 16384, "files are numbered from 1 to 1023"),
            (two.join(ours(1024).to_string()), 16384, "files are numbered from 1 to 1023"),
        ];
        for (path, len, why) in cases {
            fs::write(&path, vec![1; len]).unwrap();
            let before = tree(folder.path());
            match source.scan() {
                Err(OpenError::Foreign { path: named, reason }) => {
                    assert_eq!(named, path);
                    assert!(reason.starts_with(why), "{reason}");
                }
                other => panic!("{}: {other:?}", path.display()),
            }
            assert!(tree(folder.path()) == before);
            fs::remove_file(&path).unwrap();
        }
        fs::create_dir(one.join(ours(1).to_string())).unwrap();
        assert!(matches!(source.scan(), Err(OpenError::Foreign { .. })), "a folder in place of a file");
        fs::remove_dir(one.join(ours(1).to_string())).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/dev/zero", one.join(ours(1).to_string())).unwrap();
            assert!(matches!(source.scan(), Err(OpenError::Foreign { .. })), "a link in place of a file");
            fs::remove_file(one.join(ours(1).to_string())).unwrap();
        }
        assert!(source.scan().unwrap().is_empty());
    }

    #[test]
    fn a_file_of_another_size_is_mapped_with_its_own() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        source.create(file(1), b"small").unwrap();
        drop(source);
        let source = builder(&[folder.path()]).file_size(32 << 10).build().unwrap();
        source.create(file(2), b"large").unwrap();
        let sizes: Vec<u64> = source.scan().unwrap().iter().map(|found| found.memory.size().get()).collect();
        assert_eq!((sizes, source.file_size().get()), (vec![16 << 10, 32 << 10], 32 << 10));
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

    /// Copied without its zeros, a file would need space again when it is read, and a full disk would be a signal.
    #[test]
    #[cfg(unix)]
    fn a_file_with_holes_gets_its_space_back() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        let path = source.describe(file(1)).unwrap();
        let sparse = os::private_file().create_new(true).open(&path).unwrap();
        os::write_all_at(&sparse, 0, &[b"header"]).unwrap();
        sparse.set_len(16 << 10).unwrap();
        assert!(!os::is_allocated(&sparse).unwrap());
        let found = source.scan().unwrap();
        assert!(os::is_allocated(&sparse).unwrap());
        let mut header = [0; 7];
        found[0].memory.load(0, &mut header).unwrap();
        assert_eq!(&header, b"header\0");
    }

    #[test]
    fn a_failed_creation_leaves_nothing_behind() {
        let folder = test_folder();
        let home = folder.path().join("home");
        let source = builder(&[&home]).build().unwrap();
        // Something in the way of the temporary, and of the name itself.
        let temporary = home.join(Name::new(source.store_id(), file(1)).temporary().to_string());
        fs::create_dir(&temporary).unwrap();
        assert_eq!(source.create(file(1), b"").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir(&temporary).unwrap();
        let before = tree(&home);
        let missing = folder.path().join("missing");
        fs::rename(&home, &missing).unwrap();
        source.create(file(1), b"").unwrap_err();
        source.delete(file(1)).unwrap_err();
        fs::rename(&missing, &home).unwrap();
        assert!(tree(&home) == before);
        source.create(file(1), b"").unwrap();
    }

    /// It was created under a name that was then deleted: a process killed between the two left the file behind.
    #[test]
    fn where_the_system_can_an_unnamed_file_never_has_a_name() {
        let folder = test_folder();
        let source = builder(&[folder.path()]).build().unwrap();
        if os::unnamed_file(folder.path()).unwrap().is_none() {
            println!("skipped: no file without a name can be created here");
            return;
        }
        // No file can have the name that a creation begins with.
        fs::create_dir(source.temporary_path_of(file(1))).unwrap();
        source.create(file(1), b"header").unwrap_err();
        let memory = source.create_unnamed(file(1), b"header").unwrap();
        memory.store(12288, &[&[7; 4096]]).unwrap();
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
                        println!("skipped: mount says {}", String::from_utf8_lossy(&output.stderr).trim());
                        None
                    }
                    Err(error) => {
                        println!("skipped: mount cannot be run: {error}");
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
