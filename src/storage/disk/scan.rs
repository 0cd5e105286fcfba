//! What is there of the files of a [`DiskFileSource`].
//!
//! # Invariants
//!
//! 1. A scan that refuses something has changed nothing.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use super::DiskFileSource;
use crate::block::{FileId, FileSize, PAGE_LEN};
use crate::error::{IoError, OpenError};
use crate::os;
use crate::storage::folders::{Folder, foreign};
use crate::storage::leftover::remove;
use crate::storage::lock::failed;
use crate::storage::names::{self, Listed};
use crate::storage::region::MappedFile;
use crate::storage::{FileMemory, Found, HeapMemory};
use crate::sync::Arc;

impl DiskFileSource {
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
    pub(super) fn listed(&self) -> Result<Vec<(FileId, Listed)>, OpenError> {
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
    pub(super) fn listed_in(&self, folder: &Path) -> Result<Vec<(FileId, Listed)>, OpenError> {
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
    pub(super) fn open_all(&self, listed: Vec<(FileId, Listed)>) -> Result<Vec<Found>, OpenError> {
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
    use std::fs;
    use std::path::PathBuf;

    use super::super::tests::{builder, file, tree};
    use super::*;
    use crate::block::StoreId;
    use crate::storage::FileSource;
    use crate::storage::names::Name;
    use crate::storage::test_folder::test_folder;

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
}
