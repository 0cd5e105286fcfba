//! Which laps of which files are alive on disk, read from their headers behind the store's back.
//!
//! A block may be missing only if its file has begun another lap, and files die strictly from the oldest. The store
//! says where a block lies (`Scratch::info`); whether that lap is over is read from the file itself, so that no excuse
//! depends on the store's own memory. `docs/format.md` draws the header.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use scratchspace::FileId;

const MAGIC: &[u8; 8] = b"\x89SCRATCH";
/// Longest time between the moment at which the index forgets a file and its next header.
const PATIENCE: Duration = Duration::from_secs(20);
const GENERATION_BITS: u32 = 42;
const LANE_BITS: u32 = 12;

/// Where a block lies: file, its lane, and which lap. Packs into a word that is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: u16,
    pub(crate) lane: u16,
    pub(crate) generation: u64,
}

impl Place {
    pub(crate) fn to_word(self) -> u64 {
        assert!(self.file != 0 && self.lane < 1 << LANE_BITS && self.generation < 1 << GENERATION_BITS, "{self:?}");
        u64::from(self.file) << (LANE_BITS + GENERATION_BITS)
            | u64::from(self.lane) << GENERATION_BITS
            | self.generation
    }

    pub(crate) fn from_word(word: u64) -> Option<Self> {
        let part = |shift: u32, bits: u32| (word >> shift) & ((1 << bits) - 1);
        (word != 0).then(|| Self {
            file: u16::try_from(part(LANE_BITS + GENERATION_BITS, 10)).expect("ten bits"),
            lane: u16::try_from(part(GENERATION_BITS, LANE_BITS)).expect("twelve bits"),
            generation: part(0, GENERATION_BITS),
        })
    }
}

/// The files of one store.
#[derive(Clone, Debug)]
pub(crate) struct Laps {
    folders: Vec<PathBuf>,
    store: String,
}

impl Laps {
    /// Of a store that has been opened once: its lock file says which it is.
    pub(crate) fn of(folders: &[PathBuf]) -> io::Result<Self> {
        let lock = fs::read_to_string(folders[0].join("scratchspace.lock"))?;
        let store = lock.lines().find_map(|line| line.strip_prefix("store "));
        let store = store.ok_or_else(|| io::Error::other("the lock file names no store"))?.to_owned();
        Ok(Self { folders: folders.to_vec(), store })
    }

    /// The lap that a file is in, or `None` if there is no such file.
    pub(crate) fn of_file(&self, file: u16) -> io::Result<Option<Place>> {
        let folder = &self.folders[usize::from(file - 1) % self.folders.len()];
        let mut header = [0; 64];
        match File::open(folder.join(format!("{}-{file:04}.scratch", self.store))) {
            Ok(mut open) => open.read_exact(&mut header)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let two = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        if &header[..8] != MAGIC || two(40) != file {
            return Err(io::Error::other(format!("file {file} has no header of its own")));
        }
        let generation = u64::from_le_bytes(header[48..56].try_into().expect("eight bytes"));
        Ok(Some(Place { file, lane: two(42), generation }))
    }

    /// Where the store says that a block lies.
    pub(crate) fn place(&self, file: FileId, generation: u64) -> io::Result<Option<Place>> {
        // A file keeps its lane; if it is gone already the block is too.
        Ok(self.of_file(file.get())?.map(|now| Place { generation, ..now }))
    }

    /// Whether the lap of `place` ends: the index forgets a file shortly before its next header is written.
    pub(crate) fn has_turned(&self, place: Place) -> io::Result<bool> {
        let end = Instant::now() + PATIENCE;
        while self.is_alive(place)? {
            if Instant::now() > end {
                return Ok(false);
            }
            thread::sleep(Duration::from_micros(200));
        }
        Ok(true)
    }

    /// Whether the file of `place` is in that lap, on disk.
    pub(crate) fn is_alive(&self, place: Place) -> io::Result<bool> {
        Ok(self.of_file(place.file)?.is_some_and(|now| now.generation == place.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_word() {
        for (file, lane, generation) in [(1, 0, 1), (1023, 341, (1 << 42) - 1), (7, 3, 123_456)] {
            let place = Place { file, lane, generation };
            assert_eq!(Place::from_word(place.to_word()), Some(place));
        }
        assert_eq!(Place::from_word(0), None);
    }
}
