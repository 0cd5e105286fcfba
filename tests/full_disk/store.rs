//! The store on a device, and blocks that can be written again from their number.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use scratchspace::{BlockHash, DiskFileSource, OpenError, ReadError, Realm, Scratch, ScratchBuilder};

pub(crate) const REALM: Realm = Realm::DEFAULT;
pub(crate) const FILE_SIZE: u64 = 1 << 20;
pub(crate) const BLOCK: usize = 50_000;

pub(crate) fn open(place: &Path, files: u16) -> Result<Scratch, OpenError> {
    open_with(place, files, |builder| builder)
}

pub(crate) fn open_with(
    place: &Path,
    files: u16,
    options: impl FnOnce(ScratchBuilder) -> ScratchBuilder,
) -> Result<Scratch, OpenError> {
    let source =
        DiskFileSource::builder().folder(folder(place)).files_per_folder(files).file_size(FILE_SIZE).build()?;
    let builder = Scratch::builder(source).gather(0, Duration::ZERO).wait_timeout(Duration::from_secs(5));
    let scratch = options(builder).open()?;
    scratch.wait_recovered(Duration::from_secs(30)).unwrap();
    Ok(scratch)
}

pub(crate) fn folder(place: &Path) -> PathBuf {
    place.join("store")
}

/// The bytes of a block by its number.
pub(crate) fn block(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(BLOCK).collect()
}

pub(crate) fn hash(number: u64) -> BlockHash {
    BlockHash::of(&block(number))
}

/// Reads a block: the right bytes, or an error.
pub(crate) fn read(scratch: &Scratch, number: u64) -> Result<(), ReadError> {
    let bytes = block(number);
    scratch.read(REALM, BlockHash::of(&bytes), |read| assert!(read == bytes, "block {number}: wrong bytes"))
}

/// Tries again until it succeeds.
pub(crate) fn until_ok<T, E: std::fmt::Display>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if Instant::now() > end => panic!("{what}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
