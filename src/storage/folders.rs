//! The folders of a store: whose they are, and taking all of them or none.
//!
//! A claim is made in two steps. [`Claim::new`] locks what is there and finds out whose it is, without changing
//! anything; [`Claim::complete`] creates and records what a new store lacks.
//!
//! # Invariants
//!
//! 1. Folders are locked in the order of their real paths, so that of two openers of the same ones one wins.
//! 2. What [`Claim::new`] refuses has changed nothing: no folder, no lock file, no record.
//! 3. A store that has no file yet needs all of its folders: if one has no record, a crash cut its creation short. A
//!    store with files goes on without a folder that is not there, or has neither record nor file, as where a disk is
//!    not mounted: nothing is created there.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::lock::{LOCK_FILE, LockFile, Locks, Record, failed};
use super::names::{self, Listed};
use crate::block::{FileHeader, FileSize, HEADER_LEN, StoreId};
use crate::error::{ConfigError, IoError, OpenError};
use crate::os;

/// A folder on its way to being owned.
#[derive(Debug)]
struct Place {
    /// As the caller named it; its real path once it is known to exist.
    path: PathBuf,
    lock: Option<LockFile>,
    record: Option<Record>,
    files: Vec<Listed>,
    /// Why nothing can be done there now.
    broken: Option<IoError>,
}

impl Place {
    fn look_into(&mut self, lock: impl Fn(&Path) -> Result<Option<LockFile>, OpenError>) -> Result<(), OpenError> {
        if self.lock.is_none() {
            self.lock = lock(&self.path)?;
        }
        self.record = self.lock.as_mut().map(LockFile::read).transpose()?.flatten();
        self.files = names::list(&self.path).map_err(failed("listing a folder", &self.path))?;
        Ok(())
    }

    fn into_folder(self) -> (Folder, Option<LockFile>) {
        (Folder { path: self.path, missing: self.broken }, self.lock)
    }
}

/// Locked folders of one store, or of none yet.
#[derive(Debug)]
pub(super) struct Claim {
    places: Vec<Place>,
    store: Option<StoreId>,
}

/// All folders of one store, locked, in the order in which they were recorded.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) store: StoreId,
    pub(super) folders: Vec<Folder>,
    pub(super) locks: Locks,
}

/// One folder of a source.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// The real path, once it was there.
    pub(super) path: PathBuf,
    /// Why it is not there, and not locked.
    pub(super) missing: Option<IoError>,
}

impl Claim {
    /// Locks those of `folders` that exist and finds out whose they are.
    pub(super) fn new(folders: &[PathBuf]) -> Result<Self, OpenError> {
        let mut places = Vec::with_capacity(folders.len());
        for folder in folders {
            let found = folder
                .canonicalize()
                .and_then(|path| if path.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) });
            let (path, broken) = match found {
                Ok(path) => (path, None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => (folder.clone(), None),
                Err(error) => (folder.clone(), Some(IoError::new("opening a folder", Some(folder), error))),
            };
            places.push(Place { path, lock: None, record: None, files: Vec::new(), broken });
        }
        refuse_doubles(&places)?;
        let mut claim = Self { places, store: None };
        claim.lock(LockFile::lock_existing, true)?;
        claim.store = claim.judge()?;
        claim.leave_out()?;
        Ok(claim)
    }

    /// The size of the files of the store, if it is there and has any: the one that most headers name, as the lengths
    /// of files may have been changed; without a header the length of most of them.
    pub(super) fn file_size(&self) -> Option<FileSize> {
        let files = self.places.iter().flat_map(|place| &place.files);
        let ours = files.filter(|listed| Some(listed.name.store) == self.store && !listed.name.temporary);
        let ours: Vec<&Listed> = ours.filter(|listed| listed.len.is_some()).collect();
        let named = ours.iter().filter_map(|listed| named_size(&listed.path, self.store?));
        most(named.collect()).or_else(|| most(ours.iter().filter_map(|listed| FileSize::new(listed.len?)).collect()))
    }

    /// Creates the folders that are missing and records whose they are.
    pub(super) fn complete(mut self) -> Result<Owned, OpenError> {
        if self.places.iter().any(|place| place.broken.is_some()) {
            return Ok(self.own_what_is_there());
        }
        self.create_missing()?;
        self.lock(|folder| LockFile::lock_or_create(folder).map(Some), false)?;
        // Somebody may have come first while a lock file was still missing.
        if self.judge()? != self.store {
            return Err(OpenError::InUse { folder: self.places.swap_remove(0).path });
        }
        let store = match self.store {
            Some(store) => store,
            None => StoreId::random().map_err(|error| IoError::new("choosing an identity", None, error))?,
        };
        self.record(store)?;
        self.places.sort_by_key(|place| place.record.map(|record| record.folder));
        let (folders, locks) = self.places.into_iter().map(Place::into_folder).unzip::<_, _, _, Vec<_>>();
        Ok(Owned { store, folders, locks: Locks::new(locks.into_iter().flatten().collect()) })
    }

    /// Takes a store without the folders that are broken; each of them gets a number that no other has, its place among
    /// the folders as they were given, if that is free.
    fn own_what_is_there(self) -> Owned {
        let store = self.store.expect("a store that is not known needs all of its folders");
        let count = self.places.len();
        let mut places: Vec<Option<Place>> = (0..count).map(|_| None).collect();
        let mut broken = Vec::new();
        for (given, place) in self.places.into_iter().enumerate() {
            match place.record {
                Some(record) => places[usize::from(record.folder) - 1] = Some(place),
                None => broken.push((given, place)),
            }
        }
        // First those whose own place is free, so that nobody else takes it.
        broken.sort_by_key(|(given, _)| places[*given].is_some());
        for (given, place) in broken {
            let free = if places[given].is_none() { Some(given) } else { places.iter().position(Option::is_none) };
            places[free.expect("there are as many numbers as folders")] = Some(place);
        }
        let (folders, locks) = places.into_iter().flatten().map(Place::into_folder).unzip::<_, _, _, Vec<_>>();
        Owned { store, folders, locks: Locks::new(locks.into_iter().flatten().collect()) }
    }

    /// Marks as broken what a store with files is opened without; an error if it needs all of its folders.
    fn leave_out(&mut self) -> Result<(), OpenError> {
        let has_files = self.places.iter().any(|place| !place.files.is_empty());
        if self.store.is_none() || !has_files {
            let broken = self.places.iter().find_map(|place| place.broken.clone());
            return broken.map_or(Ok(()), |error| Err(error.into()));
        }
        for place in self.places.iter_mut().filter(|place| place.record.is_none() && place.broken.is_none()) {
            let error = io::Error::new(
                io::ErrorKind::NotFound,
                "it is no folder of the store; perhaps its disk is not mounted",
            );
            place.broken = Some(IoError::new("opening a folder", Some(&place.path), error));
            place.lock = None;
        }
        Ok(())
    }

    /// Locks each folder that is not locked yet, in the order of real paths, and looks into it.
    ///
    /// With `leniently`, one that the system refuses is marked as broken.
    fn lock(
        &mut self,
        lock: impl Fn(&Path) -> Result<Option<LockFile>, OpenError>,
        leniently: bool,
    ) -> Result<(), OpenError> {
        let is_there = |place: &&mut Place| place.broken.is_none() && place.path.is_dir();
        let mut order: Vec<&mut Place> = self.places.iter_mut().filter(is_there).collect();
        order.sort_by(|one, other| one.path.cmp(&other.path));
        for place in order {
            match place.look_into(&lock) {
                Err(OpenError::Io(error)) if leniently => {
                    (place.lock, place.record, place.broken) = (None, None, Some(error));
                }
                looked => looked?,
            }
        }
        Ok(())
    }

    /// Whose the folders are: of one store, of none, or an error.
    fn judge(&self) -> Result<Option<StoreId>, OpenError> {
        let mut known: Vec<(&Path, Record)> = Vec::new();
        for place in &self.places {
            let Some(record) = place.record else { continue };
            if let Some((other, first)) = known.first().filter(|(_, first)| first.store != record.store) {
                let reason = format!("it is of store {}, and `{}` of {}", record.store, other.display(), first.store);
                return Err(foreign(&place.path, reason));
            }
            if usize::from(record.folders) != self.places.len() {
                let range = format!("{}, as store {} was created with", record.folders, record.store);
                return Err(ConfigError::new("folders", self.places.len(), range).into());
            }
            if let Some((other, _)) = known.iter().find(|(_, one)| one.folder == record.folder) {
                let reason = format!("it is a copy of `{}`, folder {} of its store", other.display(), record.folder);
                return Err(foreign(&place.path, reason));
            }
            known.push((&place.path, record));
        }
        // A folder without a record has no file of any store either.
        let unrecorded = self.places.iter().filter(|place| place.record.is_none());
        if let Some(file) = unrecorded.flat_map(|place| &place.files).next() {
            let reason = format!("it is of store {}, whose `{LOCK_FILE}` is not there or not whole", file.name.store);
            return Err(foreign(&file.path, reason));
        }
        Ok(known.first().map(|(_, record)| record.store))
    }

    /// Creates what is missing of the folders; all of it goes again if two of them turn out to be one.
    fn create_missing(&mut self) -> Result<(), OpenError> {
        let mut created = Created(Vec::new());
        for place in &mut self.places {
            let new = os::create_folder(&place.path).map_err(failed("creating a folder", &place.path))?;
            created.0.extend(new.into_iter().map(Path::to_path_buf));
            place.path = real_path(&place.path)?;
        }
        refuse_doubles(&self.places)?;
        created.0.clear();
        Ok(())
    }

    /// Writes the lock files that do not say yet whose their folder is: the free numbers, in the order of the caller.
    fn record(&mut self, store: StoreId) -> Result<(), OpenError> {
        let taken: Vec<u16> = self.places.iter().filter_map(|place| place.record).map(|record| record.folder).collect();
        let folders = u16::try_from(self.places.len()).expect("the builder allows at most 341 folders");
        let mut free = (1..=folders).filter(|number| !taken.contains(number));
        for place in self.places.iter_mut().filter(|place| place.record.is_none()) {
            let folder = free.next().expect("there are as many numbers as folders");
            let record = Record { store, folder, folders };
            let lock = place.lock.as_mut().expect("all folders are locked before they are recorded");
            lock.write(record)?;
            os::sync_folder(&place.path).map_err(failed("syncing a folder", &place.path))?;
            place.record = Some(record);
        }
        Ok(())
    }
}

/// The size that the header of a file names; what cannot be read says nothing.
fn named_size(path: &Path, store: StoreId) -> Option<FileSize> {
    let mut header = [0; HEADER_LEN];
    os::read_exact_at(&os::open_private(path).ok()?, 0, &mut header).ok()?;
    FileHeader::decode(&header).ok().filter(|header| header.store == store).map(|header| header.file_size)
}

/// The size that is there most often, the larger one of two.
fn most(mut sizes: Vec<FileSize>) -> Option<FileSize> {
    sizes.sort_unstable();
    sizes.chunk_by(|one, other| one == other).max_by_key(|equal| equal.len()).map(|equal| equal[0])
}

/// Folders that go again unless this is emptied; those that somebody else put something into stay.
struct Created(Vec<PathBuf>);

impl Drop for Created {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Locks a folder that was missing, if it is one of the `folders` of `store` now; its record says which.
pub(super) fn take_back(
    folder: &Path,
    store: StoreId,
    folders: usize,
) -> Result<(PathBuf, LockFile, Record), OpenError> {
    let path = real_path(folder)?;
    let not_there = || {
        let error =
            io::Error::new(io::ErrorKind::NotFound, "it is no folder of the store; perhaps its disk is not mounted");
        OpenError::Io(IoError::new("opening a folder", Some(&path), error))
    };
    let mut lock = LockFile::lock_existing(&path)?.ok_or_else(not_there)?;
    let record = lock.read()?.ok_or_else(not_there)?;
    if record.store != store || usize::from(record.folders) != folders {
        return Err(foreign(&path, format!("it is one of the {} folders of store {}", record.folders, record.store)));
    }
    Ok((path, lock, record))
}

fn real_path(folder: &Path) -> Result<PathBuf, OpenError> {
    folder.canonicalize().map_err(failed("finding the real path of a folder", folder))
}

fn refuse_doubles(places: &[Place]) -> Result<(), ConfigError> {
    let mut paths: Vec<&Path> = places.iter().map(|place| place.path.as_path()).collect();
    paths.sort_unstable();
    match paths.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(ConfigError::new("folders", format!("`{}` twice", two[0].display()), "different folders")),
        None => Ok(()),
    }
}

pub(super) fn foreign(path: &Path, reason: String) -> OpenError {
    OpenError::Foreign { path: path.to_path_buf(), reason }
}

#[cfg(test)]
mod tests {
    use super::super::names::Name;
    use super::super::test_folder::test_folder;
    use super::*;
    use crate::block::{FileId, HashKind};

    fn own(folders: &[PathBuf]) -> Result<Owned, OpenError> {
        Claim::new(folders)?.complete()
    }

    fn paths(owned: &Owned) -> Vec<PathBuf> {
        owned.folders.iter().map(|folder| folder.path.clone()).collect()
    }

    fn record(folder: &Path) -> String {
        fs::read_to_string(folder.join(LOCK_FILE)).unwrap()
    }

    /// A file of a store, as far as its name goes.
    fn put_file(folder: &Path, store: StoreId, number: u16, len: usize) -> PathBuf {
        let path = folder.join(Name::new(store, FileId::new(number).unwrap()).to_string());
        fs::write(&path, vec![1; len]).unwrap();
        path
    }

    /// Every name below a folder, with its contents.
    fn tree(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            all.push((path.clone(), fs::read(&path).ok()));
            if path.is_dir() {
                all.extend(tree(&path));
            }
        }
        all.sort();
        all
    }

    /// The error of owning `folders`, which has changed nothing below `root`.
    fn refused(root: &Path, folders: &[PathBuf]) -> OpenError {
        let before = tree(root);
        let error = own(folders).unwrap_err();
        assert!(tree(root) == before, "{error}");
        error
    }

    fn assert_foreign(error: &OpenError, at: &Path, why: &str) {
        match error {
            OpenError::Foreign { path, reason } => {
                assert_eq!(path, at);
                assert!(reason.starts_with(why), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_store_keeps_the_order_of_its_folders_whatever_order_they_are_given_in() {
        let root = test_folder();
        let folders = ["c", "a", "b"].map(|name| root.path().join("deep").join(name));
        let owned = own(&folders).unwrap();
        assert_eq!(paths(&owned), folders);
        let store = owned.store;
        assert_eq!(record(&folders[1]), format!("scratchspace 1\nstore {store}\nfolder 2 of 3\n"));
        drop(owned);
        for order in [[1, 2, 0], [2, 1, 0], [0, 1, 2]] {
            let owned = own(&order.map(|at| folders[at].clone())).unwrap();
            assert_eq!((owned.store, &paths(&owned)[..]), (store, &folders[..]));
        }
    }

    #[test]
    fn folders_in_use_are_refused_by_name() {
        let root = test_folder();
        let [one, two, three] = ["1", "2", "3"].map(|name| root.path().join(name));
        let owned = own(&[one.clone(), two.clone()]).unwrap();
        assert_eq!(refused(root.path(), &[two.clone(), one.clone()]), OpenError::InUse { folder: one.clone() });
        assert_eq!(refused(root.path(), &[three.clone(), two.clone()]), OpenError::InUse { folder: two.clone() });
        assert!(!three.exists());
        drop(owned);
        own(&[two, one]).unwrap();
    }

    #[test]
    fn another_number_of_folders_is_refused_and_nothing_is_touched() {
        let root = test_folder();
        let [one, two, three] = ["1", "2", "3"].map(|name| root.path().join(name));
        let store = own(&[one.clone(), two.clone()]).unwrap().store;
        for folders in [vec![one.clone()], vec![two.clone()], vec![one.clone(), two.clone(), three.clone()]] {
            match refused(root.path(), &folders) {
                OpenError::Config(error) => {
                    assert_eq!((error.field, error.value), ("folders", folders.len().to_string()));
                    assert_eq!(error.range, format!("2, as store {store} was created with"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(!three.exists());
    }

    #[test]
    fn folders_of_two_stores_or_two_copies_of_one_are_refused() {
        let root = test_folder();
        let [one, two, three] = ["1", "2", "3"].map(|name| root.path().join(name));
        let store = own(&[one.clone(), two.clone()]).unwrap().store;
        own(&[three.clone(), root.path().join("4")]).unwrap();
        assert_foreign(&refused(root.path(), &[one.clone(), three.clone()]), &three, "it is of store ");
        fs::write(three.join(LOCK_FILE), format!("scratchspace 1\nstore {store}\nfolder 1 of 2\n")).unwrap();
        assert_foreign(&refused(root.path(), &[one.clone(), three.clone()]), &three, "it is a copy of ");
        own(&[two, three]).unwrap();
    }

    #[test]
    fn a_folder_given_twice_is_refused() {
        let root = test_folder();
        let there = root.path().join("there");
        fs::create_dir(&there).unwrap();
        let missing = root.path().join("missing");
        let mut pairs = vec![
            [there.clone(), there.clone()],
            [there.clone(), root.path().join("./there/../there")],
            [missing.clone(), missing.clone()],
            [missing.clone(), root.path().join("missing/../missing")],
        ];
        if cfg!(unix) {
            #[cfg(unix)]
            std::os::unix::fs::symlink(&there, root.path().join("link")).unwrap();
            pairs.push([there.clone(), root.path().join("link")]);
        }
        for pair in pairs {
            match refused(root.path(), &pair) {
                OpenError::Config(error) => {
                    assert_eq!((error.field, &error.range[..]), ("folders", "different folders"));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_creation_that_a_crash_cut_short_is_completed() {
        let root = test_folder();
        let folders = ["1", "2", "3"].map(|name| root.path().join(name));
        let store = own(&folders).unwrap().store;
        // No record yet in one, a torn one in another.
        fs::remove_dir_all(&folders[0]).unwrap();
        fs::write(folders[2].join(LOCK_FILE), "scratchspace 1\nstore 0123").unwrap();
        let [one, two, three] = folders.clone();
        let owned = own(&[three.clone(), two.clone(), one.clone()]).unwrap();
        assert_eq!((owned.store, &paths(&owned)[..]), (store, &[three, two, one][..]));
        drop(owned);
        assert_eq!(record(&folders[2]), format!("scratchspace 1\nstore {store}\nfolder 1 of 3\n"));
    }

    #[test]
    fn an_empty_or_torn_lock_file_without_files_is_a_new_store() {
        let root = test_folder();
        let folder = [root.path().join("folder")];
        fs::create_dir(&folder[0]).unwrap();
        for text in ["", "scratch", "scratchspace 1\nstore 00", "\0\0\0\0"] {
            fs::write(folder[0].join(LOCK_FILE), text).unwrap();
            let owned = own(&folder).unwrap();
            let store = owned.store;
            drop(owned);
            assert_eq!(record(&folder[0]), format!("scratchspace 1\nstore {store}\nfolder 1 of 1\n"));
        }
    }

    #[test]
    fn files_whose_folder_has_no_record_are_refused() {
        let root = test_folder();
        let folder = [root.path().join("folder")];
        let store = own(&folder).unwrap().store;
        let file = put_file(&folder[0], store, 1, 16384);
        own(&folder).unwrap();
        for text in [None, Some(""), Some("scratchspace 1\nstore 00")] {
            match text {
                Some(text) => fs::write(folder[0].join(LOCK_FILE), text).unwrap(),
                None => fs::remove_file(folder[0].join(LOCK_FILE)).unwrap(),
            }
            assert_foreign(&refused(root.path(), &folder), &file, "it is of store ");
        }
    }

    /// The folder of a disk that is not mounted is empty or missing: taking it for ours would hide half of the store.
    #[test]
    fn a_folder_that_is_not_mounted_is_left_out_and_not_touched() {
        let root = test_folder();
        let [one, two, other] = ["1", "2", "other"].map(|name| root.path().join(name));
        let store = own(&[one.clone(), two.clone()]).unwrap().store;
        put_file(&one, store, 1, 16384);
        for is_mount_point in [false, true] {
            if is_mount_point {
                fs::create_dir(&other).unwrap();
            }
            for folders in [[one.clone(), other.clone()], [other.clone(), one.clone()]] {
                let before = tree(root.path());
                let owned = own(&folders).unwrap();
                assert!(tree(root.path()) == before);
                assert_eq!((owned.store, paths(&owned)), (store, vec![one.clone(), other.clone()]));
                let missing = owned.folders[1].missing.as_ref().unwrap();
                assert_eq!((missing.kind(), missing.path()), (io::ErrorKind::NotFound, Some(&*other)));
                assert!(owned.folders[0].missing.is_none());
            }
        }
        // Somebody's files in its place are not ours.
        let file = put_file(&other, StoreId::from_u128(7), 1, 16384);
        assert_foreign(&refused(root.path(), &[one.clone(), other]), &file, "it is of store ");
        // A file in place of the folder is what a dead disk may look like, too.
        fs::remove_dir_all(&two).unwrap();
        fs::write(&two, "not a folder").unwrap();
        let owned = own(&[one, two]).unwrap();
        assert_eq!(owned.folders[1].missing.as_ref().unwrap().kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_folder_is_taken_back_only_as_the_one_that_it_was() {
        let root = test_folder();
        let [one, two, other] = ["1", "2", "other"].map(|name| root.path().join(name));
        let store = own(&[one.clone(), two.clone()]).unwrap().store;
        let (path, lock, record) = take_back(&two, store, 2).unwrap();
        assert_eq!((path, record), (two.clone(), Record { store, folder: 2, folders: 2 }));
        assert_eq!(take_back(&two, store, 2).unwrap_err(), OpenError::InUse { folder: two.clone() });
        drop(lock);
        assert!(matches!(take_back(&two, StoreId::from_u128(7), 2), Err(OpenError::Foreign { .. })));
        assert!(matches!(take_back(&two, store, 3), Err(OpenError::Foreign { .. })));
        assert!(matches!(take_back(&other, store, 2), Err(OpenError::Io(_))));
        fs::create_dir(&other).unwrap();
        assert!(matches!(take_back(&other, store, 2), Err(OpenError::Io(_))));
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    }

    #[test]
    fn another_version_or_a_file_in_place_of_a_folder_is_refused() {
        let root = test_folder();
        let folder = [root.path().join("folder")];
        own(&folder).unwrap();
        let path = folder[0].join(LOCK_FILE);
        fs::write(&path, "scratchspace 2\n").unwrap();
        assert_eq!(refused(root.path(), &folder), OpenError::Version { path: path.clone(), found: 2 });
        for folder in [path.clone(), path.join("below")] {
            assert!(matches!(refused(root.path(), &[folder]), OpenError::Io(_)));
        }
    }

    #[test]
    fn the_size_of_files_is_that_of_most_of_them() {
        let root = test_folder();
        let folders = [root.path().join("1"), root.path().join("2")];
        let store = own(&folders).unwrap().store;
        assert_eq!(Claim::new(&folders).unwrap().file_size(), None);
        put_file(&folders[0], store, 1, 12288);
        put_file(&folders[0], store, 3, 20480);
        put_file(&folders[0], store, 5, 100);
        put_file(&folders[1], store, 2, 20480);
        assert_eq!(Claim::new(&folders).unwrap().file_size(), FileSize::new(20480));
    }

    /// Two files of three were cut to one length: the store was taken for one of files of that length.
    #[test]
    fn the_size_of_files_is_what_headers_name_whatever_their_lengths_are() {
        let root = test_folder();
        let folder = [root.path().join("folder")];
        let store = own(&folder).unwrap().store;
        let header = |number, of| FileHeader {
            file_size: FileSize::new(32768).unwrap(),
            store: of,
            file: FileId::new(number).unwrap(),
            lane: 0,
            lanes: 1,
            generation: number.into(),
            hash_kind: HashKind::Xxh3,
            nonce: 7,
            created_at: 0,
        };
        for (number, len) in [(1, 12288), (2, 12288), (3, 12288), (4, 0), (5, 100)] {
            put_file(&folder[0], store, number, len);
        }
        assert_eq!(Claim::new(&folder).unwrap().file_size(), FileSize::new(12288));
        let path = put_file(&folder[0], store, 3, 12288);
        fs::write(&path, header(3, StoreId::from_u128(7)).encode()).unwrap();
        assert_eq!(Claim::new(&folder).unwrap().file_size(), FileSize::new(12288), "the header of another store");
        fs::write(&path, header(3, store).encode()).unwrap();
        assert_eq!(Claim::new(&folder).unwrap().file_size(), FileSize::new(32768));
    }

    /// Two openers of a new folder: the one that comes second must not take the first one's store for its own.
    #[test]
    fn a_claim_that_somebody_else_completed_first_is_in_use() {
        let root = test_folder();
        let folder = [root.path().join("folder")];
        let slow = Claim::new(&folder).unwrap();
        own(&folder).unwrap();
        let before = record(&folder[0]);
        assert_eq!(slow.complete().unwrap_err(), OpenError::InUse { folder: folder[0].clone() });
        assert_eq!(record(&folder[0]), before);
    }
}
