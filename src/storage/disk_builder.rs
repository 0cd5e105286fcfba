//! The options of a [`DiskFileSource`].
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::folders::Claim;
use super::{DiskFileSource, MIN_FILES_PER_FOLDER, check_file_size, check_files_per_folder, check_folders};
use crate::block::{FileId, FileSize};
use crate::error::{ConfigError, OpenError};
use crate::os;

/// Options of a [`DiskFileSource`], checked all at once by [`build`](DiskFileSourceBuilder::build).
///
/// # Examples
///
/// At most 64 MiB in a new folder:
///
/// ```
/// use scratchspace::{DiskFileSource, FileSource};
///
/// let temporary = tempfile::tempdir()?;
/// let builder = DiskFileSource::builder().folder(temporary.path().join("cache"));
/// let source = builder.capacity(64 << 20).file_size_if_new(8 << 20).build()?;
/// assert_eq!(source.files_per_folder(), 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until `build`"]
pub struct DiskFileSourceBuilder {
    folders: Vec<PathBuf>,
    size: Size,
    space: Space,
}

/// How large a file is, in bytes.
#[derive(Clone, Copy, Debug)]
enum Size {
    Always(u64),
    IfNew(u64),
}

/// How many files there may be.
#[derive(Clone, Copy, Debug)]
enum Space {
    FilesPerFolder(u16),
    /// Bytes in all folders.
    Capacity(u64),
}

impl DiskFileSourceBuilder {
    pub(super) fn new() -> Self {
        Self { folders: Vec::new(), size: Size::IfNew(1 << 30), space: Space::FilesPerFolder(10) }
    }

    /// Adds a folder, 1 to 341 in all, which is created if it is missing. Default: none, so at least one must be given.
    ///
    /// Files are spread over all folders, so that disks write at the same time: give each disk one. A store keeps its
    /// folders, in whatever order they are given later.
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.folders.push(path.into());
        self
    }

    /// Adds several folders: see [`folder`](DiskFileSourceBuilder::folder).
    pub fn folders(mut self, paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.folders.extend(paths.into_iter().map(Into::into));
        self
    }

    /// How many files each folder may hold: at least 3, and at most 1023 in all folders. Default: 10.
    ///
    /// Each file takes its whole size on the disk, a descriptor and a mapping. Replaces an earlier
    /// [`capacity`](DiskFileSourceBuilder::capacity).
    pub fn files_per_folder(mut self, files: u16) -> Self {
        self.space = Space::FilesPerFolder(files);
        self
    }

    /// How many bytes the files of all folders may take: as many whole files as fit, at least 3 a folder and at most
    /// 1023 in all. Default: not set, see [`files_per_folder`](DiskFileSourceBuilder::files_per_folder), which it
    /// replaces.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.space = Space::Capacity(bytes);
        self
    }

    /// Size of one file in bytes: a multiple of 4096 from 12 KiB to 16 GiB, whatever an existing store has. Default:
    /// see [`file_size_if_new`](DiskFileSourceBuilder::file_size_if_new), which it replaces.
    ///
    /// A store with files of another size is not opened with this one, unless it is reset.
    pub fn file_size(mut self, bytes: u64) -> Self {
        self.size = Size::Always(bytes);
        self
    }

    /// Size of one file in bytes if the store has no file yet: a multiple of 4096 from 12 KiB to 16 GiB. Default:
    /// 1 GiB. A store with files keeps their size.
    ///
    /// Space is reused a file at a time: smaller files forget less at once, but more often.
    pub fn file_size_if_new(mut self, bytes: u64) -> Self {
        self.size = Size::IfNew(bytes);
        self
    }

    /// Takes the folders for one owner: creates what is missing, locks each, and finds out or records whose they are.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, unless the system refused or somebody else took the folders in the same moment.
    ///
    /// - [`OpenError::Config`] if an option is out of range, a folder was given twice, or the store was created with
    ///   another number of folders;
    /// - [`OpenError::Foreign`] if a folder belongs to another store than the others, or holds files of a store without a
    ///   record of it;
    /// - [`OpenError::InUse`] if another store, or memory that it lent, still holds one of the folders;
    /// - [`OpenError::Version`] if another version of the library made the folders;
    /// - [`OpenError::Io`] if the system refuses.
    ///
    /// A store that has files in one of its folders goes on without another one that the system refuses, or that is
    /// missing or empty, as where a disk is not mounted: nothing is created there, the blocks of that folder are errors,
    /// and it is taken back when it is there. See [`Scratch::health`](crate::Scratch::health).
    pub fn build(self) -> Result<DiskFileSource, OpenError> {
        let folders = check_folders(self.folders.len())?;
        let (field, bytes) = match self.size {
            Size::Always(bytes) => ("file_size", bytes),
            Size::IfNew(bytes) => ("file_size_if_new", bytes),
        };
        let wanted = check_file_size(field, bytes)?;
        if let Space::FilesPerFolder(files) = self.space {
            check_files_per_folder(files, folders)?;
        }
        let claim = Claim::new(&self.folders)?;
        let size = match self.size {
            Size::Always(_) => wanted,
            Size::IfNew(_) => claim.file_size().unwrap_or(wanted),
        };
        check_size_limit(field, size)?;
        let files_per_folder = match self.space {
            Space::FilesPerFolder(files) => files,
            Space::Capacity(bytes) => files_in(bytes, folders, size)?,
        };
        Ok(DiskFileSource::new(claim.complete()?, size, files_per_folder))
    }
}

/// A store behind the limit would end the process by a signal.
fn check_size_limit(field: &'static str, size: FileSize) -> Result<(), ConfigError> {
    match os::file_size_limit() {
        Some(limit) if limit < size.get() => {
            let range = format!("at most {limit}, the limit on the size of files (RLIMIT_FSIZE)");
            Err(ConfigError::new(field, size.get(), range))
        }
        _ => Ok(()),
    }
}

/// How many files of `size` each of `folders` may hold within `capacity` bytes.
fn files_in(capacity: u64, folders: u16, size: FileSize) -> Result<u16, ConfigError> {
    let row = size.get() * u64::from(folders);
    let most = FileId::MAX / folders;
    let least_bytes = row * u64::from(MIN_FILES_PER_FOLDER);
    let end_bytes = row * (u64::from(most) + 1);
    match u16::try_from(capacity / row) {
        Ok(files) if (MIN_FILES_PER_FOLDER..=most).contains(&files) => Ok(files),
        _ => Err(ConfigError::new(
            "capacity",
            format!("{capacity} bytes with `folders` {folders} and files of {} bytes", size.get()),
            format!("from {least_bytes} to {} bytes, {MIN_FILES_PER_FOLDER} to {most} files a folder", end_bytes - 1),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_folder::test_folder;
    use super::super::{FileSource, check_folders};
    use super::*;

    fn refused(builder: DiskFileSourceBuilder) -> ConfigError {
        match builder.build() {
            Err(OpenError::Config(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_option_out_of_range_is_refused_before_anything_is_created() {
        let root = test_folder();
        let folder = root.path().join("folder");
        let builder = || DiskFileSource::builder().folder(&folder);
        assert_eq!(refused(DiskFileSource::builder()), check_folders(0).unwrap_err());
        let many = (0..342).map(|at| root.path().join(at.to_string()));
        assert_eq!(refused(DiskFileSource::builder().folders(many)), check_folders(342).unwrap_err());
        for bytes in [0, 8192, 12289, (16 << 30) + 4096, u64::MAX] {
            assert_eq!(refused(builder().file_size(bytes)), check_file_size("file_size", bytes).unwrap_err());
            let error = refused(builder().file_size_if_new(bytes));
            assert_eq!(error, check_file_size("file_size_if_new", bytes).unwrap_err());
        }
        for files in [0, 2, 1024] {
            assert_eq!(refused(builder().files_per_folder(files)), check_files_per_folder(files, 1).unwrap_err());
        }
        let error = refused(builder().file_size(1 << 20).capacity((3 << 20) - 1));
        assert_eq!(error.field, "capacity");
        assert_eq!(error.value, "3145727 bytes with `folders` 1 and files of 1048576 bytes");
        assert_eq!(error.range, "from 3145728 to 1073741823 bytes, 3 to 1023 files a folder");
        refused(builder().file_size(1 << 20).capacity(1 << 30));
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_capacity_is_as_many_whole_files_as_fit() {
        let size = FileSize::new(1 << 20).unwrap();
        assert_eq!(files_in(3 << 20, 1, size), Ok(3));
        assert_eq!(files_in((4 << 20) - 1, 1, size), Ok(3));
        assert_eq!(files_in(1023 << 20, 1, size), Ok(1023));
        assert_eq!(files_in((1024 << 20) - 1, 1, size), Ok(1023));
        assert_eq!(files_in(7 << 20, 2, size), Ok(3));
        files_in((6 << 20) - 1, 2, size).unwrap_err();
        files_in(u64::MAX, 341, FileSize::MAX).unwrap_err();
        assert_eq!(files_in(1023 * FileSize::MAX.get(), 341, FileSize::MAX), Ok(3));
    }

    #[test]
    fn the_later_of_two_options_that_exclude_each_other_counts() {
        let folder = test_folder();
        let builder = || DiskFileSource::builder().folder(folder.path());
        let shape = |builder: DiskFileSourceBuilder| {
            let source = builder.build().unwrap();
            (source.file_size().get(), source.files_per_folder())
        };
        assert_eq!(shape(builder()), (1 << 30, 10));
        assert_eq!(shape(builder().file_size(5).file_size_if_new(16384).capacity(5).files_per_folder(4)), (16384, 4));
        assert_eq!(
            shape(builder().file_size_if_new(5).file_size(16384).files_per_folder(1).capacity(90_000)),
            (16384, 5)
        );
    }

    #[test]
    fn a_store_with_files_keeps_their_size_and_the_capacity_counts_with_it() {
        let folder = test_folder();
        let builder = || DiskFileSource::builder().folder(folder.path());
        let first = builder().file_size(16384).files_per_folder(3).build().unwrap();
        first.create(FileId::new(1).unwrap(), b"header").unwrap();
        drop(first);
        let source = builder().file_size_if_new(32768).capacity(10 * 16384).build().unwrap();
        assert_eq!((source.file_size().get(), source.files_per_folder()), (16384, 10));
        drop(source);
        let error = refused(builder().file_size_if_new(12288).capacity(3 * 12288));
        assert_eq!(error.value, "36864 bytes with `folders` 1 and files of 16384 bytes");
        let source = builder().file_size(32768).capacity(10 * 16384).build().unwrap();
        assert_eq!((source.file_size().get(), source.files_per_folder()), (32768, 5));
    }
}
