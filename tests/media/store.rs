//! A store over small files, and what was written to it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scratchspace::{
    BlockHash, BlockInfo, DiskFileSource, DiskFileSourceBuilder, MissingOk, ReadError, Realm, Scratch, ScratchBuilder,
};
use tempfile::TempDir;

pub(crate) const REALM: Realm = Realm::DEFAULT;
pub(crate) const FILE_SIZE: u64 = 256 << 10;
pub(crate) const FILES: u16 = 5;

/// Numbers that look random, the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

pub(crate) fn test_folder() -> TempDir {
    let folder = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root),
        None => TempDir::new(),
    };
    folder.expect("tests need a folder that they may write to")
}

pub(crate) fn source(folder: &Path) -> DiskFileSourceBuilder {
    DiskFileSource::builder().folder(folder).files_per_folder(FILES).file_size(FILE_SIZE)
}

pub(crate) fn builder(folder: &Path) -> ScratchBuilder {
    Scratch::builder(source(folder).build().unwrap()).wait_timeout(Duration::from_secs(20))
}

/// What was written, and where it lies.
pub(crate) struct Written {
    pub(crate) scratch: Scratch,
    pub(crate) blocks: HashMap<BlockHash, Vec<u8>>,
}

impl Written {
    pub(crate) fn new(scratch: Scratch) -> Self {
        Self { scratch, blocks: HashMap::new() }
    }

    pub(crate) fn put(&mut self, bytes: Vec<u8>) -> BlockHash {
        let hash = self.scratch.put(REALM, &bytes).unwrap();
        self.blocks.insert(hash, bytes);
        hash
    }

    /// Puts blocks of 1 byte to 20 KiB until `bytes` of them were written.
    pub(crate) fn put_many(&mut self, dice: &mut Dice, mut bytes: u64) {
        while bytes > 0 {
            let len = 1 + dice.below(20 << 10).min(bytes - 1);
            let block = dice.bytes(usize::try_from(len).unwrap());
            self.put(block);
            bytes -= len;
        }
    }

    /// All blocks that are still there, by file number.
    pub(crate) fn infos(&self) -> Vec<BlockInfo> {
        let mut infos: Vec<_> =
            self.blocks.keys().filter_map(|hash| self.scratch.info(REALM, *hash).missing_ok().unwrap()).collect();
        infos.sort_by_key(|info| (info.file, info.hash.to_u128()));
        infos
    }

    /// Reads a block with a copy; an answer must be the bytes that were written.
    pub(crate) fn read_verified(&self, hash: BlockHash) -> Result<(), ReadError> {
        self.scratch.read_verified(REALM, hash, |bytes| assert!(bytes == self.blocks[&hash], "wrong bytes"))
    }

    /// The same with a copy or from the mapping, as the store likes.
    pub(crate) fn read(&self, hash: BlockHash) -> Result<(), ReadError> {
        let is_right = self.scratch.read(REALM, hash, |bytes| bytes == self.blocks[&hash])?;
        assert!(is_right, "wrong bytes");
        Ok(())
    }
}

/// The path of the file with this number.
pub(crate) fn path_of(folder: &Path, number: u16) -> PathBuf {
    files_in(folder).into_iter().find(|path| path.to_str().unwrap().contains(&format!("-{number:04}."))).unwrap()
}

pub(crate) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_file = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "scratch" || kind == "suspect");
    let mut files: Vec<_> = paths.filter(is_file).collect();
    files.sort();
    files
}
