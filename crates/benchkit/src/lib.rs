//! What measurements share: a folder on the real disk, memory that is there and memory that is not, a file to be compared
//! with, and blocks that are never the same.
#![forbid(unsafe_code)]

pub mod cgroup;
mod mounts;
mod reserve;

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::path::Path;

use memmap2::MmapMut;
use tempfile::TempDir;

pub use self::mounts::file_system;
pub use self::reserve::Reserve;

/// Bytes of a kibibyte.
pub const KIB: usize = 1 << 10;
/// Bytes of a mebibyte.
pub const MIB: usize = 1 << 20;

/// A folder on the real disk, below `SCRATCHSPACE_TEST_DIR`, else the system's for temporary files. It is deleted with what it
/// holds when it is dropped.
///
/// # Panics
///
/// If none can be made.
#[must_use]
pub fn folder() -> TempDir {
    match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }
    .expect("a folder for the benches")
}

/// Says what a test leaves out and why; also in the file that `SCRATCHSPACE_SKIPPED` names, as nobody hears a test that
/// passes.
///
/// # Panics
///
/// If that cannot be written.
pub fn skipped(what: &str) {
    println!("skipped: {what}");
    if let Some(list) = std::env::var_os("SCRATCHSPACE_SKIPPED") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(format!("{what}\n").as_bytes())).expect("a list of what was skipped");
    }
}

/// Touches this much memory and gives it back.
///
/// A virtual machine may have returned free memory to its host: the first touch of it is twenty times as slow, and would
/// be measured with whatever comes first. It returns large pieces: so these are touched, where the system gives them.
///
/// # Panics
///
/// If there is not so much memory.
pub fn warm_memory(bytes: usize) {
    drop(hold_memory(bytes));
}

/// The same, given back when what it returns is dropped: meanwhile the host cannot have it.
///
/// # Panics
///
/// If there is not so much memory.
#[must_use]
pub fn hold_memory(bytes: usize) -> Option<MmapMut> {
    if bytes == 0 {
        return None;
    }
    let mut memory = MmapMut::map_anon(bytes).expect("so much memory");
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    for page in memory.chunks_mut(4 * KIB) {
        page[0] = 1;
    }
    black_box(&memory);
    Some(memory)
}

/// Bytes without a pattern, and the same each time.
#[must_use]
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((state >> 11).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Makes the content of a block one of its own: no two numbers have the same.
///
/// # Panics
///
/// If the block has fewer than eight bytes.
pub fn stamp(block: &mut [u8], number: u64) {
    block[..8].copy_from_slice(&number.to_le_bytes());
}

/// A new file of `len` bytes in a folder, every one of them written: what a store of that size is compared with.
///
/// # Panics
///
/// If the disk refuses.
#[must_use]
pub fn bare_file(folder: &Path, len: usize) -> File {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(folder.join("bare"));
    let file = file.expect("a new file");
    let chunk = noise(MIB);
    for at in (0..len).step_by(MIB) {
        write_all_at(&file, &chunk[..MIB.min(len - at)], at as u64);
    }
    file
}

/// A new file of `len` bytes in a folder, with room for them on the disk where the system can promise it, and none of them
/// written.
///
/// # Panics
///
/// If the disk refuses.
#[must_use]
pub fn fresh_file(folder: &Path, len: usize) -> File {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(folder.join("fresh"));
    let file = file.expect("a new file");
    #[cfg(target_os = "linux")]
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len as u64).expect("room on the disk");
    #[cfg(not(target_os = "linux"))]
    file.set_len(len as u64).expect("room on the disk");
    file
}

/// Stores bytes at an offset of a file, by one call of the system as a rule.
///
/// # Panics
///
/// If the disk refuses.
pub fn write_all_at(file: &File, bytes: &[u8], at: u64) {
    #[cfg(unix)]
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at).expect("a store to a file of this bench");
    #[cfg(windows)]
    let mut done = 0;
    #[cfg(windows)]
    while done < bytes.len() {
        let written = std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], at + done as u64);
        done += written.expect("a store to a file of this bench");
    }
}

/// Makes the files in a folder, but not in those within it, leave the page cache: those that nobody maps.
///
/// # Panics
///
/// If one of them cannot be synced.
pub fn forget(folder: &Path) {
    for entry in folder.read_dir().expect("a folder of this bench").flatten() {
        let Ok(file) = File::open(entry.path()) else { continue };
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        file.sync_data().expect("a disk that works");
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a file that the page cache knows");
    }
}

/// Adds up the words of a block: reads each once, several at a time, as fast as memory gives them.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    let (chunks, rest) = bytes.as_chunks::<64>();
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let rest = rest.iter().fold(0_u64, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    sums.into_iter().fold(rest, u64::wrapping_add)
}

/// One of the numbers below 2^`bits`: each of them comes once for so many consecutive `number`s, in no visible order.
///
/// # Panics
///
/// If `bits` is no less than 64.
///
/// # Examples
///
/// ```
/// let seen: std::collections::HashSet<_> = (100..100 + 1024).map(|number| benchkit::shuffled(number, 10)).collect();
/// assert!(seen.len() == 1024 && seen.iter().all(|number| *number < 1024));
/// ```
#[must_use]
pub fn shuffled(number: u64, bits: u32) -> usize {
    assert!(bits < u64::BITS, "{bits} bits");
    let mask = (1_u64 << bits) - 1;
    let step = |number: u64| {
        let odd = number.wrapping_mul(0x5851_f42d_4c95_7f2d) & mask;
        odd ^ (odd >> (bits / 2 + 1))
    };
    usize::try_from(step(step(number & mask))).expect("a 64-bit target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_noise_and_a_stamp_makes_it_its_own() {
        let mut block = noise(100);
        assert_eq!((block.len(), noise(100) == block), (100, true));
        let different: std::collections::BTreeSet<_> = block.iter().collect();
        assert!(different.len() > 50, "{different:?}");
        stamp(&mut block, 7);
        assert!(block != noise(100) && block[8..] == noise(100)[8..]);
    }

    #[test]
    fn the_sum_of_a_block_is_that_of_its_words_and_of_the_bytes_behind_them() {
        assert_eq!(sum(&[1; 64]), 8_u64.wrapping_mul(0x0101_0101_0101_0101));
        assert_eq!(sum(&[1; 67]), sum(&[1; 64]) + 3);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn a_file_that_was_forgotten_has_its_bytes() {
        let folder = folder();
        drop(bare_file(folder.path(), MIB));
        std::fs::create_dir(folder.path().join("within")).unwrap();
        forget(folder.path());
        assert!(std::fs::read(folder.path().join("bare")).unwrap() == noise(MIB));
    }

    #[test]
    fn a_bare_file_has_all_of_its_bytes_and_a_fresh_one_none() {
        let folder = folder();
        assert_eq!(fresh_file(folder.path(), MIB).metadata().unwrap().len(), MIB as u64);
        let file = bare_file(folder.path(), MIB + 1);
        write_all_at(&file, b"end", MIB as u64 - 2);
        assert!(std::fs::read(folder.path().join("fresh")).unwrap() == vec![0; MIB]);
        let bytes = std::fs::read(folder.path().join("bare")).unwrap();
        assert!(bytes.len() == MIB + 1 && bytes[..1000] == noise(1000) && bytes.ends_with(b"end"));
    }
}
