//! Systems other than Linux: std and rustix where they have a call, nothing where it was a hint.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;

use super::{Advice, or_shrink_back};

/// Makes `file` at least `len` bytes long, with space for all of them set aside. An error takes nothing.
pub(crate) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    or_shrink_back(file, || {
        if file.metadata()?.len() >= len {
            return Ok(());
        }
        #[cfg(target_vendor = "apple")]
        return rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len).map_err(io::Error::from);
        // NTFS sets space aside for every byte of a file that is not marked sparse.
        #[cfg(windows)]
        return file.set_len(len);
        #[cfg(not(any(target_vendor = "apple", windows)))]
        return super::extend_with_zeros(file, len);
    })
}

/// Would create a file without a name; no call for that is known here.
#[expect(clippy::unnecessary_wraps, reason = "the signature is that of Linux")]
pub(crate) fn unnamed_file(_folder: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Stores all `parts`, one after the other, at `offset`: through partial writes and interruptions.
pub(crate) fn write_all_at(file: &File, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        write_part_at(file, offset, part)?;
        offset += part.len() as u64;
    }
    Ok(())
}

#[cfg(unix)]
fn write_part_at(file: &File, offset: u64, part: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, part, offset)
}

#[cfg(windows)]
fn write_part_at(file: &File, mut offset: u64, mut part: &[u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;

    while !part.is_empty() {
        match file.seek_write(part, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(stored) => {
                offset += stored as u64;
                part = &part[stored..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Would start write-back of `range`; the system does so when it likes.
pub(crate) fn start_write_back(_file: &File, _range: Range<u64>) {}

/// Would wait for what is being written of `range`; nobody can tell.
#[expect(clippy::unnecessary_wraps, reason = "as on a system that can tell")]
pub(crate) fn finish_write_back(_file: &File, _range: Range<u64>) -> io::Result<()> {
    Ok(())
}

/// Whether `Advice::PopulateRead` is an error, at once, for each page that cannot be read: here it does nothing.
pub(crate) fn populate_tells() -> bool {
    false
}

/// Gives `advice` about `len` bytes of a mapping. Systems that do not know it say `Ok`.
///
/// # Safety
/// - `start` lies on a page of memory, and all of `start .. start + len` is one mapping that lives for the whole call.
#[cfg(unix)]
pub(crate) unsafe fn advise(start: NonNull<u8>, len: usize, advice: Advice) -> io::Result<()> {
    let advice = match advice {
        Advice::WillNeed => rustix::mm::Advice::WillNeed,
        Advice::Normal => rustix::mm::Advice::Normal,
        Advice::Random => rustix::mm::Advice::Random,
        Advice::PopulateRead | Advice::DontFork | Advice::Unmap => return Ok(()),
    };
    // SAFETY: the range is mapped by the contract above; none of these advices changes what it holds.
    unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, advice) }.map_err(io::Error::from)
}

/// What tells this boot of the system, and this life of a disk, from any other: it does not say.
pub(crate) fn boot(_folder: &Path) -> Option<String> {
    None
}

/// How many bytes of a file one call may ask its disk for; the system does not tell.
pub(crate) fn request_limit(_file: &File) -> u64 {
    super::LEAST_REQUEST
}

/// Would have a part of a file in memory as one piece; the system decides by itself how it keeps files.
pub(crate) fn hold_in_one_piece(_file: &File, _range: Range<u64>) -> bool {
    false
}

/// Would drop a part of a file from memory; the system decides by itself what it keeps.
pub(crate) fn forget_pages(_file: &File, _range: Range<u64>) {}

/// Would say whether nothing was ever stored in a part of a file; systems say that in ways of their own.
pub(crate) fn is_hole(_file: &File, _range: Range<u64>) -> bool {
    false
}

/// Would say how much of a mapping is in memory; the system does not tell.
///
/// # Safety
/// - none; the signature is that of the systems that tell.
pub(crate) unsafe fn resident(_start: NonNull<u8>, _len: usize) -> Option<u64> {
    None
}

/// Would say how much memory may still be taken.
pub(crate) fn available_memory() -> Option<u64> {
    None
}

/// Gives no advice: the system takes none.
///
/// # Safety
/// - none; the signature is that of the systems that take advice.
#[cfg(not(unix))]
pub(crate) unsafe fn advise(_start: NonNull<u8>, _len: usize, _advice: Advice) -> io::Result<()> {
    Ok(())
}
