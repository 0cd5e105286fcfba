//! The few calls of the operating system that std and memmap2 lack.
//!
//! Linux has them all (`linux.rs`); elsewhere `fallback.rs` does with std and rustix what can be done, and nothing
//! where a call was only a hint.
//!
//! # Invariants
//!
//! 1. A call that failed half-way leaves a file no longer than it was.
//! 2. A hint never fails: what it cannot do it leaves undone.
//! 3. What creates, stores, syncs, renames or deletes goes through here, and by `calls.rs`, where tests see it: std's
//!    calls have functions of the same name for that. But for what makes or removes a folder, or empties a lock file.

#[cfg(any(target_os = "linux", test))]
mod available;
pub(crate) mod calls;
#[cfg(any(not(target_os = "linux"), test))]
mod fallback;
mod faults;
#[cfg(target_os = "linux")]
mod linux;
mod prefetch;
mod process;
#[cfg(all(feature = "sigbus-guard", target_os = "linux", not(loom)))]
mod sigbus;
#[cfg(any(all(test, loom), all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
mod span;

#[cfg(all(test, target_os = "linux", not(loom)))]
pub(crate) mod watch;

#[cfg(not(target_os = "linux"))]
use self::fallback as system;
#[cfg(target_os = "linux")]
use self::linux as system;

pub(crate) use self::faults::Unharmed;
pub(crate) use self::prefetch::prefetch;
pub(crate) use self::process::Process;
pub(crate) use self::system::{
    advise, available_memory, boot, finish_write_back, forget_pages, hold_in_one_piece, is_hole, populate_tells,
    request_limit, resident, start_write_back,
};

use std::fs::{DirBuilder, File, OpenOptions, ReadDir};
use std::io;
use std::path::Path;

use memmap2::{MmapOptions, MmapRaw};

use self::calls::SystemCall;

#[cfg(all(feature = "sigbus-guard", target_os = "linux", not(loom)))]
pub(crate) use self::sigbus::{Watched, faults};

/// Without the handler of SIGBUS no page is ever replaced.
#[cfg(not(all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
#[inline]
pub(crate) fn faults() -> u64 {
    0
}

/// A mapping that nobody watches: the handler of SIGBUS is not part of this build.
#[cfg(not(all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
#[derive(Debug)]
pub(crate) struct Watched;

#[cfg(not(all(feature = "sigbus-guard", target_os = "linux", not(loom))))]
#[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the signatures are those of the handler")]
impl Watched {
    /// Registers nothing.
    ///
    /// # Safety
    /// - none; the signature is that of the handler.
    pub(crate) unsafe fn new(_start: std::ptr::NonNull<u8>, _len: usize) -> io::Result<Self> {
        Ok(Self)
    }

    /// Whether a page of the mapping was replaced by zeros: never.
    pub(crate) fn is_poisoned(&self) -> bool {
        false
    }
}

/// What a disk is asked for by one call where the system does not tell how much it takes: Linux's default of what is read ahead.
pub(crate) const LEAST_REQUEST: u64 = 128 << 10;

/// For this user only: read, write, and for folders enter.
#[cfg(unix)]
const FOLDER_MODE: u32 = 0o700;
#[cfg(unix)]
const FILE_MODE: u32 = 0o600;

/// What the kernel may know about a range of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Read it from the disk now, in the background.
    WillNeed,
    /// Map all its pages now; a page that cannot be read is an error instead of a signal later.
    PopulateRead,
    /// A forked child does not get it.
    DontFork,
    /// What lies around a page that is not in memory is worth reading with it.
    Normal,
    /// It is not.
    Random,
    /// Forget where its pages are; whoever touches them maps them again.
    Unmap,
}

/// Reads exactly `into.len()` bytes at `offset`, through interruptions; the end of the file is an error.
pub(crate) fn read_exact_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    calls::meet_file(SystemCall::Load, file)?;
    read_all_at(file, offset, into)
}

#[cfg(unix)]
fn read_all_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(windows)]
fn read_all_at(file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;

    while !into.is_empty() {
        match file.seek_read(into, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                offset += read as u64;
                into = &mut into[read..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Stores all `parts`, one after the other, at `offset`: through partial writes and interruptions. An error may leave
/// some of it stored.
pub(crate) fn write_all_at(file: &File, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    calls::meet_store(SystemCall::Store, file, offset, parts)?;
    system::write_all_at(file, offset, parts)
}

/// Makes `file` at least `len` bytes long, with space for all of them set aside. An error takes nothing.
pub(crate) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    calls::meet_file(SystemCall::Allocate, file)?;
    system::preallocate(file, len)
}

/// Maps the first `len` bytes of `file` for reading.
pub(crate) fn map_read_only(file: &File, len: usize) -> io::Result<MmapRaw> {
    calls::meet_file(SystemCall::Map, file)?;
    MmapOptions::new().len(len).map_raw_read_only(file)
}

/// The length of `file` in bytes.
pub(crate) fn len(file: &File) -> io::Result<u64> {
    calls::meet_file(SystemCall::Stat, file)?;
    Ok(file.metadata()?.len())
}

/// Makes `file` longer, by a hole, or cuts it short.
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    calls::meet_file(SystemCall::Allocate, file)?;
    file.set_len(len)
}

/// Makes the bytes of `file` durable, and of its metadata what is needed to read them back.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    calls::meet_file(SystemCall::Sync, file)?;
    file.sync_data()
}

/// Makes all of `file` durable but its name.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    calls::meet_file(SystemCall::Sync, file)?;
    file.sync_all()
}

/// Gives a file another name, in place of whatever has that name.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    calls::meet(SystemCall::Rename, to)?;
    std::fs::rename(from, to)
}

/// Removes the name of a file.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    calls::meet(SystemCall::Remove, path)?;
    std::fs::remove_file(path)
}

/// Whether there is anything at `path`.
pub(crate) fn try_exists(path: &Path) -> io::Result<bool> {
    calls::meet(SystemCall::Stat, path)?;
    path.try_exists()
}

/// The names in `folder`.
pub(crate) fn read_dir(folder: &Path) -> io::Result<ReadDir> {
    calls::meet(SystemCall::List, folder)?;
    folder.read_dir()
}

/// Makes the names in `folder` durable. Nothing to do on Windows, where folders cannot be opened for that.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    calls::meet(SystemCall::SyncFolder, folder)?;
    #[cfg(test)]
    synced::note(folder);
    File::open(folder)?.sync_all()
}

/// What this thread has synced: a name that is not durable looks like any other until the power is cut.
#[cfg(test)]
pub(crate) mod synced {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    thread_local! {
        static NAMES: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    /// What is in `folder` is durable now.
    pub(super) fn note(folder: &Path) {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        NAMES.with(|all| all.replace(names.collect()));
    }

    /// The names in the folder that was synced last, when it was.
    pub(crate) fn names() -> Vec<PathBuf> {
        NAMES.with(|all| all.borrow().clone())
    }
}

/// Creates `folder` and what is missing above it, for this user only and durably. Returns what it created, topmost
/// first.
pub(crate) fn create_folder(folder: &Path) -> io::Result<Vec<&Path>> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.is_dir()).collect();
    let mut created = Vec::new();
    for at in missing.into_iter().rev() {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, FOLDER_MODE);
        match builder.create(at) {
            Ok(()) => {
                created.push(at);
                #[cfg(unix)]
                set_folder_mode(at);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && at.is_dir() => {}
            Err(error) => return Err(error),
        }
        match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent)?,
            _ => sync_folder(Path::new("."))?,
        }
    }
    Ok(created)
}

/// Options for a file that only this user may read and write.
pub(crate) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
    options
}

/// Opens a file that is there, to read and to write.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    calls::meet(SystemCall::Open, path)?;
    private_file().open(path)
}

/// Creates a file in `folder` that never has a name, for this user only; `None` where the file system cannot.
pub(crate) fn unnamed_file(folder: &Path) -> io::Result<Option<File>> {
    calls::meet(SystemCall::Open, folder)?;
    system::unnamed_file(folder)
}

/// Creates a file at `path`, where there is none, that only this user may read and write, whatever the umask is.
pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
    calls::meet(SystemCall::Open, path)?;
    let file = private_file().create_new(true).open(path)?;
    #[cfg(unix)]
    set_mode(&file, FILE_MODE);
    Ok(file)
}

/// A folder that its umask made unreadable cannot be opened, but its mode can be set by its name.
#[cfg(unix)]
fn set_folder_mode(created: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if created.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o777 != FOLDER_MODE) {
        let _ = std::fs::set_permissions(created, std::fs::Permissions::from_mode(FOLDER_MODE));
    }
}

/// Gives what was just created the mode that its creation asked for: a umask may have taken bits of it. A file system
/// that knows no modes refuses, and has none to protect.
#[cfg(unix)]
fn set_mode(created: &File, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    if created.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o777 != mode) {
        let _ = created.set_permissions(std::fs::Permissions::from_mode(mode));
    }
}

/// Whether the file system has set aside space for every byte of `file`. True where it does not tell.
pub(crate) fn is_allocated(file: &File) -> io::Result<bool> {
    calls::meet_file(SystemCall::Stat, file)?;
    let metadata = file.metadata()?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 >= metadata.len());
    #[cfg(not(unix))]
    return Ok(metadata.is_file());
}

/// Whether `path` is a name of the very file that is open as `file`.
pub(crate) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    calls::meet(SystemCall::Stat, path)?;
    let named = match path.symlink_metadata() {
        Ok(named) => named,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let open = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
    }
    // What is open cannot be removed or replaced there.
    #[cfg(not(unix))]
    return Ok(named.is_file() && open.is_file());
}

/// Whether the space of a file that was allocated once counts as such for ever, unless somebody takes it away.
///
/// Not where a file system may store less than was written to it, compressed, and not where it is not known.
pub(crate) fn keeps_allocation(file: &File) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        const BTRFS: u64 = 0x9123_683e;
        const BCACHEFS: u64 = 0xca45_1a4e;
        const ZFS: u64 = 0x2fc1_2fc1;
        #[expect(clippy::cast_sign_loss, reason = "a number of 32 bits, whatever its type")]
        let kind = rustix::fs::fstatfs(file).map(|system| system.f_type as u64 & 0xffff_ffff);
        Ok(kind.is_ok_and(|kind| ![BTRFS, BCACHEFS, ZFS].contains(&kind)) && is_allocated(file)?)
    }
    #[cfg(not(target_os = "linux"))]
    return file.metadata().map(|_| false);
}

/// How many bytes are free where `folder` lies; `None` where that is not known.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder).ok().map(|system| system.f_bavail.saturating_mul(system.f_frsize));
    #[cfg(not(unix))]
    return folder.metadata().err().map(|_| 0);
}

/// How many files this process may have open; `None` if there is no limit or it is not known.
pub(crate) fn open_file_limit() -> Option<u64> {
    #[cfg(all(unix, not(miri)))]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(any(not(unix), miri))]
    return None;
}

/// How large a file this process may write, in bytes; `None` if there is no limit or it is not known.
///
/// Whoever stores behind it is not told by an error: the system sends SIGXFSZ, which ends the process.
pub(crate) fn file_size_limit() -> Option<u64> {
    #[cfg(all(unix, not(miri)))]
    return rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    #[cfg(any(not(unix), miri))]
    return None;
}

/// Size of a page of memory in bytes: what mappings and advice are rounded to.
pub(crate) fn page_size() -> usize {
    #[cfg(unix)]
    return rustix::param::page_size();
    #[cfg(not(unix))]
    return 4096;
}

/// Allocates by storing zeros from the end of `file` up to `len`: slow, and right everywhere.
#[cfg(any(test, not(any(target_vendor = "apple", windows))))]
fn extend_with_zeros(mut file: &File, len: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};

    const PIECE: usize = 1 << 20;
    let zeros = vec![0; PIECE];
    let mut at = file.seek(SeekFrom::End(0))?;
    while at < len {
        let piece = usize::try_from(len - at).map_or(PIECE, |left| left.min(PIECE));
        file.write_all(&zeros[..piece])?;
        at += piece as u64;
    }
    Ok(())
}

/// Runs `allocate`; if it fails, gives back what it took beyond the length `file` had (invariant 1).
fn or_shrink_back(file: &File, allocate: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let before = file.metadata()?.len();
    allocate().inspect_err(|_| {
        // The first error is the one to report; a file that cannot shrink is deleted by its owner next.
        let _ = file.set_len(before);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    type Preallocate = fn(&File, u64) -> io::Result<()>;
    type WriteAllAt = fn(&File, u64, &[&[u8]]) -> io::Result<()>;

    const PREALLOCATE: [Preallocate; 3] = [system::preallocate, fallback::preallocate, extend_with_zeros];
    const WRITE_ALL_AT: [WriteAllAt; 2] = [system::write_all_at, fallback::write_all_at];

    fn contents(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        read_exact_at(file, 0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn preallocation_extends_with_zeros_and_keeps_what_is_there() {
        for preallocate in PREALLOCATE {
            let file = tempfile::tempfile().unwrap();
            write_all_at(&file, 0, &[b"header"]).unwrap();
            preallocate(&file, (1 << 20) + 4096).unwrap();
            let bytes = contents(&file);
            assert_eq!(bytes.len(), (1 << 20) + 4096);
            assert_eq!(&bytes[..6], b"header");
            assert!(bytes[6..].iter().all(|&byte| byte == 0));
            assert!(is_allocated(&file).unwrap());
            preallocate(&file, 4096).unwrap();
            assert_eq!(contents(&file), bytes, "a shorter length changes nothing");
        }
    }

    #[test]
    fn failed_preallocation_leaves_the_old_length() {
        let file = tempfile::tempfile().unwrap();
        write_all_at(&file, 0, &[b"header"]).unwrap();
        let failed = or_shrink_back(&file, || {
            extend_with_zeros(&file, 1 << 16)?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(contents(&file), b"header");
    }

    #[test]
    fn parts_are_stored_one_after_the_other_however_many_there_are() {
        for write_all_at in WRITE_ALL_AT {
            let file = tempfile::tempfile().unwrap();
            let pieces: Vec<Vec<u8>> =
                (0..2500_usize).map(|at| vec![u8::try_from(at % 251).unwrap(); at % 7]).collect();
            let parts: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            write_all_at(&file, 10, &parts).unwrap();
            let mut expected = vec![0; 10];
            expected.extend(pieces.concat());
            assert_eq!(contents(&file), expected);
        }
    }

    #[test]
    fn storing_nothing_touches_nothing() {
        for write_all_at in WRITE_ALL_AT {
            let file = tempfile::tempfile().unwrap();
            write_all_at(&file, 1 << 20, &[]).unwrap();
            write_all_at(&file, 1 << 20, &[b"", b""]).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 0);
        }
    }

    #[test]
    fn storing_into_a_file_opened_for_reading_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(file.path()).unwrap();
        for write_all_at in WRITE_ALL_AT {
            write_all_at(&read_only, 0, &[b"x"]).unwrap_err();
        }
    }

    #[test]
    fn reading_behind_the_end_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        write_all_at(&file, 0, &[b"abcd"]).unwrap();
        let mut bytes = [0; 4];
        read_exact_at(&file, 0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"abcd");
        assert_eq!(read_exact_at(&file, 1, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn syncing_and_write_back_accept_any_range_of_a_file() {
        let file = tempfile::tempfile().unwrap();
        write_all_at(&file, 0, &[&[7; 8192]]).unwrap();
        sync_data(&file).unwrap();
        for range in [0..0, 0..8192, 4096..1 << 40, u64::MAX - 1..u64::MAX] {
            start_write_back(&file, range.clone());
            fallback::start_write_back(&file, range.clone());
            finish_write_back(&file, range.clone()).unwrap();
            fallback::finish_write_back(&file, range).unwrap();
        }
        assert_eq!(contents(&file), [7; 8192]);
    }

    #[test]
    fn a_folder_is_created_for_its_user_with_what_is_missing_above_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        assert_eq!(create_folder(&folder).unwrap(), [root.path().join("a").as_path(), &folder]);
        assert!(create_folder(&folder).unwrap().is_empty());
        sync_folder(&folder).unwrap();
        sync_folder(&root.path().join("missing")).unwrap_err();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&root.path().join("a")), mode(&folder)), (0o700, 0o700));
            let file = folder.join("file");
            private_file().create_new(true).open(&file).unwrap();
            assert_eq!(mode(&file), 0o600);
        }
    }

    #[test]
    fn a_folder_below_a_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        create_folder(&file.path().join("folder")).unwrap_err();
        create_folder(file.path()).unwrap_err();
    }

    #[test]
    fn an_unnamed_file_is_in_no_folder_and_for_its_user_only() {
        let folder = tempfile::tempdir().unwrap();
        assert!(fallback::unnamed_file(folder.path()).unwrap().is_none());
        if let Some(file) = unnamed_file(folder.path()).unwrap() {
            write_all_at(&file, 0, &[b"bytes"]).unwrap();
            assert_eq!(contents(&file), b"bytes");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            }
            unnamed_file(&folder.path().join("missing")).unwrap_err();
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_sparse_file_is_not_allocated() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(!is_allocated(&file).unwrap());
    }

    #[test]
    fn limits_of_the_machine_are_plausible() {
        assert!(page_size().is_power_of_two() && page_size() >= 4096);
        assert!(open_file_limit().is_none_or(|limit| limit >= 8));
    }

    #[test]
    fn advice_is_accepted_or_refused_with_an_error() {
        let file = tempfile::tempfile().unwrap();
        extend_with_zeros(&file, 1 << 20).unwrap();
        let map = memmap2::MmapOptions::new().map_raw_read_only(&file).unwrap();
        let base = NonNull::new(map.as_mut_ptr()).unwrap();
        let advices =
            [Advice::WillNeed, Advice::PopulateRead, Advice::DontFork, Advice::Random, Advice::Normal, Advice::Unmap];
        for advice in advices {
            // SAFETY: the whole range is mapped.
            unsafe { advise(base, map.len(), advice) }.unwrap();
            // SAFETY: the whole range is mapped.
            unsafe { fallback::advise(base, map.len(), advice) }.unwrap();
        }
        // SAFETY: the whole range is mapped.
        assert!(unsafe { resident(base, map.len()) }.is_none_or(|bytes| bytes == map.len() as u64));
        // SAFETY: the whole range is mapped.
        assert_eq!(unsafe { fallback::resident(base, map.len()) }, None);
        assert_eq!(fallback::available_memory(), None);
        assert!(!fallback::populate_tells());
        assert!(!fallback::is_hole(&file, 0..1));
        assert!(!fallback::hold_in_one_piece(&file, 0..1));
        fallback::forget_pages(&file, 0..1);
        #[cfg(target_os = "linux")]
        {
            file.set_len(0).unwrap();
            // SAFETY: the range is mapped, though no longer backed by the file.
            let populated = unsafe { advise(base, map.len(), Advice::PopulateRead) };
            assert!(populated.is_err() || !populate_tells());
        }
    }
}
