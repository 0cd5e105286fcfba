//! New files of a [`DiskFileSource`].
//!
//! # Invariants
//!
//! 1. A file gets its name only when all of it is durable; whatever fails before leaves nothing behind.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::DiskFileSource;
use crate::block::FileId;
use crate::os;
use crate::planted;
use crate::storage::leftover::{Leftover, remove};
use crate::storage::names::{self, Name};
use crate::storage::region::MappedFile;
use crate::storage::{FileMemory, check_header};
use crate::sync::Arc;

impl DiskFileSource {
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
    pub(super) fn check_limit(&self) -> io::Result<()> {
        if let Some(limit) = os::file_size_limit().filter(|limit| *limit < self.size.get()) {
            let problem = format!("files of this process are limited to {limit} bytes (RLIMIT_FSIZE)");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        Ok(())
    }

    pub(super) fn create_named(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
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

    pub(super) fn create_nameless(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
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
    pub(super) fn explain_full(&self, file: FileId, error: io::Error) -> io::Error {
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
    pub(super) fn temporary_path_of(&self, file: FileId) -> PathBuf {
        self.folder_of(file).join(Name::new(self.store, file).temporary().to_string())
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{builder, file, tree};
    use super::*;
    use crate::storage::FileSource;
    use crate::storage::test_folder::{skipped, test_folder};

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
            skipped("files that never have a name: none can be created here");
            return;
        }
        // No file can have the name that a creation begins with.
        fs::create_dir(source.temporary_path_of(file(1))).unwrap();
        source.create(file(1), b"header").unwrap_err();
        let memory = source.create_unnamed(file(1), b"header").unwrap();
        memory.store(12288, &[&[7; 4096]]).unwrap();
    }
}
