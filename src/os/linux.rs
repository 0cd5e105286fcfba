//! Linux: every call there is.

use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

use memmap2::MmapOptions;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::mm;

pub(crate) use super::available::available_memory;
use super::{Advice, FILE_MODE, LEAST_REQUEST, extend_with_zeros, or_shrink_back, private_file, set_mode};
use crate::sync::OnceLock;

/// How many parts go into one call: a stack array of 1 KiB, well below the kernel's limit of 1024.
const PARTS: usize = 64;

/// Makes `file` at least `len` bytes long, with space for all of them set aside. An error takes nothing.
pub(crate) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    or_shrink_back(file, || {
        match retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)) {
            // A file system without the call.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => extend_with_zeros(file, len),
            done => done.map_err(io::Error::from),
        }
    })
}

/// Creates a file in `folder` that never has a name, for this user only; `None` where the file system cannot.
pub(crate) fn unnamed_file(folder: &Path) -> io::Result<Option<File>> {
    // With O_EXCL it cannot get one later either.
    match private_file().custom_flags(libc::O_TMPFILE | libc::O_EXCL).open(folder) {
        Ok(file) => {
            set_mode(&file, FILE_MODE);
            Ok(Some(file))
        }
        // EISDIR is what kernels say that do not know the flag.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stores all `parts`, one after the other, at `offset`: through partial writes and interruptions.
pub(crate) fn write_all_at(file: &File, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    for group in parts.chunks(PARTS) {
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(group) {
            *slice = IoSlice::new(part);
        }
        let mut left = &mut slices[..group.len()];
        // Skips empty parts, so that what is left is never zero bytes long.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match rustix::io::pwritev(file, left, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(stored) => {
                    offset += stored as u64;
                    IoSlice::advance_slices(&mut left, stored);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Asks for `range` of `file` to be written to the disk now, without waiting for it. Reports nothing.
pub(crate) fn start_write_back(file: &File, range: Range<u64>) {
    let _ = sync_file_range(file, range, libc::SYNC_FILE_RANGE_WRITE);
}

/// Waits for what is being written of `range`.
///
/// Whoever waits is told a lost write, and no sync through the same opening is told it again. So this waits through another
/// one, and where there can be none, not at all. Who opens the file after that, as the next process does, is not told either.
pub(crate) fn finish_write_back(file: &File, range: Range<u64>) -> io::Result<()> {
    // Not blocked if it should be another file by now, as in a process whose threads share no descriptors.
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    match options.open(format!("/proc/thread-self/fd/{}", file.as_raw_fd())) {
        Ok(other) => sync_file_range(&other, range, libc::SYNC_FILE_RANGE_WAIT_BEFORE),
        Err(_) => Ok(()),
    }
}

fn sync_file_range(file: &File, range: Range<u64>, how: libc::c_uint) -> io::Result<()> {
    let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return Ok(());
    };
    if len == 0 {
        return Ok(()); // zero would mean "up to the end"
    }
    // SAFETY: the descriptor is open while `file` is borrowed; the call takes no pointers.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, how) };
    match io::Error::last_os_error() {
        // A call that the system, or a sandbox, does not have says nothing of the file.
        error
            if done != 0
                && !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::ESPIPE)) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Whether `Advice::PopulateRead` is an error, at once, for each page that cannot be read.
///
/// It came with Linux 5.14, but until 6.9 it tried for ever what the disk gave an error for (mended upstream by commit
/// 631426ba1d45). And an emulator may take any advice and do nothing.
pub(crate) fn populate_tells() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    let ask = || {
        let name = rustix::system::uname();
        is_from(&name.release().to_string_lossy(), (6, 9))
            && populates(mm::ProtFlags::READ)
            && !populates(mm::ProtFlags::empty())
    };
    *ANSWER.get_or_init(ask)
}

/// Whether a release of the kernel, as in `6.12.3-generic`, is this version or a later one.
fn is_from(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

/// Whether a page of memory with this protection counts as populated.
fn populates(protection: mm::ProtFlags) -> bool {
    let (len, anywhere) = (super::page_size(), std::ptr::null_mut());
    // SAFETY: a mapping of its own, where there was none.
    let Ok(page) = (unsafe { mm::mmap_anonymous(anywhere, len, protection, mm::MapFlags::PRIVATE) }) else {
        return false;
    };
    // SAFETY: just mapped, and nobody else knows of it.
    let answer = unsafe { mm::madvise(page, len, mm::Advice::LinuxPopulateRead) };
    // SAFETY: as above; it is not used afterwards.
    let _ = unsafe { mm::munmap(page, len) };
    answer.is_ok()
}

/// Gives `advice` about `len` bytes of a mapping. Kernels that do not know it say `Ok`; `PopulateRead` may never end
/// where [`populate_tells`] says no and the disk has an error.
///
/// # Safety
/// - `start` lies on a page of memory, and all of `start .. start + len` is one mapping that lives for the whole call.
pub(crate) unsafe fn advise(start: NonNull<u8>, len: usize, advice: Advice) -> io::Result<()> {
    let is_answered = advice == Advice::PopulateRead && populate_tells();
    let advice = match advice {
        Advice::WillNeed => mm::Advice::WillNeed,
        Advice::PopulateRead => mm::Advice::LinuxPopulateRead,
        Advice::DontFork => mm::Advice::LinuxDontFork,
        Advice::Normal => mm::Advice::Normal,
        Advice::Random => mm::Advice::Random,
        Advice::Unmap => mm::Advice::LinuxDontNeed,
    };
    // SAFETY: the range is mapped by the contract above; none of these advices changes what it holds.
    match retry_on_intr(|| unsafe { mm::madvise(start.as_ptr().cast(), len, advice) }) {
        // POPULATE_READ came with Linux 5.14.
        Err(Errno::INVAL) if !is_answered => Ok(()),
        done => done.map_err(io::Error::from),
    }
}

/// How many bytes of a mapping of a file are in memory, by whole pages; `None` where the system does not tell.
///
/// # Safety
/// - `start` lies on a page of memory, and all of `start .. start + len` is one mapping that lives for the whole call.
pub(crate) unsafe fn resident(start: NonNull<u8>, len: usize) -> Option<u64> {
    let page = super::page_size();
    let mut pages = vec![0_u8; len.div_ceil(page)];
    // SAFETY: the range is mapped by the contract above, and `pages` has a byte for each page of it.
    let result = unsafe { libc::mincore(start.as_ptr().cast(), len, pages.as_mut_ptr()) };
    // The lowest bit tells; the others are reserved.
    let there = pages.iter().filter(|page| **page & 1 != 0).count();
    (result == 0).then_some((there * page) as u64)
}

/// How many bytes of a file one call may ask its disk for: the system cuts a longer request short at what the disk reads ahead
/// or takes at once, whichever is more.
pub(crate) fn request_limit(file: &File) -> u64 {
    /// The disk that was asked about first, and its answer: a store has many files on one.
    static FIRST: OnceLock<(u64, u64)> = OnceLock::new();

    let Ok(disk) = rustix::fs::fstat(file).map(|stat| stat.st_dev) else { return LEAST_REQUEST };
    let ask = || {
        let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
        let queue = format!("/sys/dev/block/{major}:{minor}");
        // That of a partition is its disk's.
        let read = |name: &str| {
            let of = |above: &str| std::fs::read_to_string(format!("{queue}/{above}queue/{name}"));
            of("").or_else(|_| of("../")).ok()?.trim().parse::<u64>().ok()
        };
        let answers = ["read_ahead_kb", "max_sectors_kb"].map(|name| read(name).map(|kib| kib << 10));
        // In whole pages, as the system counts.
        let page = super::page_size() as u64;
        let most = answers.into_iter().flatten().max().map(|bytes| bytes / page * page);
        most.map_or(LEAST_REQUEST, |most| most.clamp(page, MOST_REQUEST))
    };
    let (first, limit) = *FIRST.get_or_init(|| (disk, ask()));
    if first == disk { limit } else { ask() }
}

/// What tells this boot of the system, and this mounting of the file system of a folder, from any other. `None` if the system
/// does not say: for file systems other than ext4, XFS and F2FS.
pub(crate) fn boot(folder: &Path) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let disk = rustix::fs::stat(folder).ok()?.st_dev;
    let device = format!("/sys/dev/block/{}:{}", rustix::fs::major(disk), rustix::fs::minor(disk));
    // An image that is attached in the place of a disk has another number. That of a partition is its disk's.
    let of = |above: &str| std::fs::read_to_string(format!("{device}/{above}diskseq"));
    let attached = of("").or_else(|_| of("../")).ok()?;
    // What a file system shows of itself while it is mounted, by the name of its device, has an inode that is not used again.
    let name = std::fs::read_link(&device).ok()?;
    let shown = |kind: &str| rustix::fs::stat(Path::new("/sys/fs").join(kind).join(name.file_name()?)).ok();
    let mounted = ["ext4", "xfs", "f2fs"].into_iter().find_map(shown)?.st_ino;
    Some(format!("{} {disk} {} {mounted}", boot.trim(), attached.trim()))
}

/// Enough that calls cost nothing.
const MOST_REQUEST: u64 = 4 << 20;

/// The longest that a piece of memory takes of a processor if it is at hand, several times what its zeros do. A virtual machine
/// may have to get it from its host: a piece of 2 MiB took 6 ms there.
const AT_HAND: Duration = Duration::from_millis(2);

/// Has the pages of `range` of `file` in memory as one piece, read from the disk where something was stored and none of them is
/// in memory; whether it has, and the memory was at hand. What cannot be read leaves nothing in memory that was not there.
pub(crate) fn hold_in_one_piece(file: &File, range: Range<u64>) -> bool {
    let Ok(len) = usize::try_from(range.end.saturating_sub(range.start)) else { return false };
    // What is asked for may be rounded up to a whole piece. And without the second it may never end, should there be something
    // to read after all.
    if len == 0 || piece_len() != Some(len as u64) || !populate_tells() || !tells_pieces() {
        return false;
    }
    // A mapping of its own: where the file is read, what lies around a page is not to be read in such pieces.
    let Ok(map) = MmapOptions::new().offset(range.start).len(len).map_raw_read_only(file) else { return false };
    let advices = [memmap2::Advice::DontFork, memmap2::Advice::HugePage, memmap2::Advice::Random];
    if !advices.into_iter().all(|advice| map.advise(advice).is_ok()) {
        return false;
    }
    let begun = thread_time();
    if map.advise(memmap2::Advice::PopulateRead).is_err() {
        // A piece that was not read as a whole stays in memory, and each read of any page of it fails.
        drop(map);
        forget_pages(file, range);
        return false;
    }
    thread_time().saturating_sub(begun) <= AT_HAND
        && NonNull::new(map.as_mut_ptr()).is_some_and(|start| is_one_piece(start, len) == Some(true))
}

/// Drops from memory what nobody maps of `range` of `file`, as far as it is written back.
pub(crate) fn forget_pages(file: &File, range: Range<u64>) {
    let len = NonZeroU64::new(range.end.saturating_sub(range.start));
    // A hint. Without a length all of the file would be meant.
    if len.is_some() {
        let _ = rustix::fs::fadvise(file, range.start, len, rustix::fs::Advice::DontNeed);
    }
}

/// Whether the system tells what is mapped in pieces (since Linux 6.7). Systems much older than that would read a piece page by
/// page.
fn tells_pieces() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    if let Some(answer) = ANSWER.get() {
        return *answer;
    }
    // For want of a descriptor or of memory nothing is known, and it is asked again.
    let (Ok(map), true) = (memmap2::MmapMut::map_anon(1), File::open(PAGEMAP).is_ok()) else { return false };
    *ANSWER.get_or_init(|| is_one_piece(NonNull::from_ref(&map[0]), crate::os::page_size()).is_some())
}

/// How long this thread has had a processor: without what it waited for others to have it.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time`, which outlives it.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let parts = (result == 0).then_some((u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)));
    parts.map_or(Duration::ZERO, |(secs, nanos)| Duration::new(secs.unwrap_or(0), nanos.unwrap_or(0)))
}

/// Bytes that a processor maps at once, above a page; `None` where the system has no such pieces.
fn piece_len() -> Option<u64> {
    static ANSWER: OnceLock<Option<u64>> = OnceLock::new();
    let ask =
        || std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok()?.trim().parse().ok();
    *ANSWER.get_or_init(ask)
}

/// Tells how this process's memory is mapped.
const PAGEMAP: &str = "/proc/self/pagemap";

/// Whether all of a mapping is mapped in pieces above a page; `None` where the system does not tell (before Linux 6.7).
fn is_one_piece(start: NonNull<u8>, len: usize) -> Option<bool> {
    /// `_IOWR('f', 16, struct pm_scan_arg)`
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
    const PAGE_IS_HUGE: u64 = 1 << 6;
    /// `struct pm_scan_arg` of `linux/fs.h`.
    #[repr(C)]
    #[derive(Default)]
    struct Scan {
        size: u64,
        flags: u64,
        start: u64,
        end: u64,
        walk_end: u64,
        vec: u64,
        vec_len: u64,
        max_pages: u64,
        category_inverted: u64,
        category_mask: u64,
        category_anyof_mask: u64,
        return_mask: u64,
    }
    let pagemap = File::open(PAGEMAP).ok()?;
    let (start, mut found) = (start.addr().get() as u64, [0_u64; 3]);
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start,
        end: start + len as u64,
        vec: found.as_mut_ptr().expose_provenance() as u64,
        vec_len: 1,
        category_mask: PAGE_IS_HUGE,
        return_mask: PAGE_IS_HUGE,
        ..Scan::default()
    };
    // SAFETY: the descriptor is open; the call reads and writes `scan`, which is laid out as it expects, and writes one region
    // of three numbers to `found`. Both outlive it.
    let regions = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut scan) };
    (regions >= 0).then_some(regions == 1 && found[..2] == [start, start + len as u64])
}

/// Whether nothing was ever stored in `range` of `file`. `false` where the file system does not tell.
pub(crate) fn is_hole(file: &File, range: Range<u64>) -> bool {
    // The position that this moves is used by nobody.
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(range.start)) {
        Ok(data) => data >= range.end,
        // No data behind it.
        Err(Errno::NXIO) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_asked_for_whole_pages_and_for_no_more_than_helps() {
        let file = tempfile::tempfile().unwrap();
        let first = request_limit(&file);
        let page = crate::os::page_size() as u64;
        assert!((page..=MOST_REQUEST).contains(&first) && first.is_multiple_of(page), "{first}");
        assert_eq!(request_limit(&file), first);
        assert_eq!(crate::os::fallback::request_limit(&file), LEAST_REQUEST);
        // No disk is behind it.
        assert_eq!(request_limit(&File::open("/proc/self/status").unwrap()), LEAST_REQUEST);
        assert_eq!(request_limit(&file), first);
    }

    #[test]
    #[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
    fn a_folder_on_a_disk_has_one_boot_and_one_on_none_has_no_boot() {
        let parent =
            std::env::var_os("SCRATCHSPACE_TEST_DIR").map_or_else(std::env::temp_dir, std::path::PathBuf::from);
        let folder = tempfile::tempdir_in(parent).unwrap();
        let boot = boot(folder.path());
        let is_ext4 = rustix::fs::statfs(folder.path()).unwrap().f_type == 0xef53;
        let shows_all = ["/proc/sys/kernel/random/boot_id", "/sys/fs/ext4", "/sys/dev/block"];
        if is_ext4 && shows_all.iter().all(|path| Path::new(path).exists()) {
            assert!(boot.is_some());
        }
        assert!(boot.as_ref().is_none_or(|boot| boot.split(' ').count() == 4), "{boot:?}");
        assert_eq!(super::boot(folder.path()), boot);
        assert_eq!(crate::os::fallback::boot(folder.path()), None);
        assert_eq!(super::boot(Path::new("/proc/self")), None);
        assert_eq!(super::boot(Path::new("/there is no such folder")), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "no clock of threads")]
    fn the_time_of_a_thread_is_what_it_has_worked_and_not_what_it_has_slept() {
        let begun = thread_time();
        std::thread::sleep(Duration::from_millis(300));
        let worked = || thread_time().saturating_sub(begun);
        assert!(worked() < Duration::from_millis(100), "{:?}", worked());
        while worked() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn releases_of_the_kernel_are_told_apart() {
        for release in ["6.9.0", "6.9", "6.10.2-generic", "6.18.44-fc-v657", "7.0.0-rc1", "10.0"] {
            assert!(is_from(release, (6, 9)), "{release}");
        }
        for release in ["6.8.0-41-generic", "5.14.0-427.el9.x86_64", "5.15.0", "4.19.300", "", "unknown", "6"] {
            assert!(!is_from(release, (6, 9)), "{release}");
        }
    }
}
