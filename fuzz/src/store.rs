//! Folders as bytes: written to a disk, opened through the public interface, judged by what they may hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scratchspace::{BlockHash, DiskFileSource, OpenError, ReadError, Realm, Scratch};
use tempfile::TempDir;

use super::format;

/// The id of the store that every target opens.
pub const STORE: u128 = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210;
/// What a wait may take, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Setup {
    pub folders: usize,
    pub files_per_folder: u16,
    pub lanes_per_folder: Option<u16>,
    /// Of new files; those that are there say it themselves.
    pub file_size: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { folders: 1, files_per_folder: 4, lanes_per_folder: None, file_size: 5 * format::PAGE }
    }
}

/// What may be read: for each realm and key, values that were written and hashes that were forged under them.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub written: BTreeMap<(u32, u128), Vec<Vec<u8>>>,
    pub forged: BTreeMap<(u32, u128), Vec<u128>>,
    /// What must be read, `None` for what must not be there.
    pub exact: BTreeMap<(u32, u128), Option<Vec<u8>>>,
}

impl Known {
    pub fn wrote(&mut self, realm: u32, key: u128, bytes: &[u8]) {
        self.written.entry((realm, key)).or_default().push(bytes.to_vec());
    }

    pub fn forges(&mut self, realm: u32, key: u128, hash: u128) {
        self.forged.entry((realm, key)).or_default().push(hash);
    }

    fn keys(&self) -> impl Iterator<Item = (u32, u128)> {
        self.written.keys().chain(self.forged.keys()).chain(self.exact.keys()).copied()
    }

    fn judge(&self, realm: u32, key: u128, bytes: &[u8]) {
        let written = self.written.get(&(realm, key)).is_some_and(|values| values.iter().any(|value| value == bytes));
        let hash = BlockHash::of(bytes).to_u128();
        let forged = self.forged.get(&(realm, key)).is_some_and(|hashes| hashes.contains(&hash));
        assert!(
            written || forged,
            "realm {realm}, key {key:032x} reads as {} bytes of hash {hash:032x}, which nobody wrote there",
            bytes.len()
        );
    }
}

/// All files of some folders.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub files: BTreeMap<(usize, String), Vec<u8>>,
    folders: usize,
}

pub const LOCK: &str = "scratchspace.lock";

impl Image {
    /// Folders that know their store, and nothing else.
    pub fn empty(setup: &Setup) -> Self {
        let mut image = Self { files: BTreeMap::new(), folders: setup.folders };
        for at in 0..setup.folders {
            let text = format!("scratchspace 1\nstore {STORE:032x}\nfolder {} of {}\n", at + 1, setup.folders);
            image.files.insert((at, LOCK.to_owned()), text.into_bytes());
        }
        image
    }

    pub fn name(number: usize) -> String {
        format!("{STORE:032x}-{number:04}.scratch")
    }

    /// Puts a file with this number into its place.
    pub fn put(&mut self, number: usize, bytes: Vec<u8>) {
        self.files.insert(((number - 1) % self.folders, Self::name(number)), bytes);
    }

    pub fn paths(root: &Path, folders: usize) -> Vec<PathBuf> {
        (0..folders).map(|at| root.join(format!("{at}"))).collect()
    }

    pub fn write(&self, root: &Path) {
        let paths = Self::paths(root, self.folders);
        for path in &paths {
            fs::create_dir_all(path).expect("a folder of the test");
        }
        for ((folder, name), bytes) in &self.files {
            fs::write(paths[*folder].join(name), bytes).expect("a file of the test");
        }
    }

    pub fn read(root: &Path, folders: usize) -> Self {
        let mut image = Self { files: BTreeMap::new(), folders };
        for (at, path) in Self::paths(root, folders).iter().enumerate() {
            for entry in path.read_dir().expect("a folder of the test") {
                let entry = entry.expect("a name");
                let name = entry.file_name().into_string().expect("ours");
                image.files.insert((at, name), fs::read(entry.path()).expect("a file of the test"));
            }
        }
        image
    }
}

/// Below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
pub fn temporary() -> TempDir {
    match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root),
        None => TempDir::new(),
    }
    .expect("a folder that may be written to")
}

pub fn open(root: &Path, setup: &Setup) -> Result<Scratch, OpenError> {
    let source = DiskFileSource::builder()
        .folders(Image::paths(root, setup.folders))
        .files_per_folder(setup.files_per_folder)
        .file_size_if_new(setup.file_size as u64)
        .build()?;
    let builder = Scratch::builder(source).gather(0, Duration::ZERO).expected_blocks(4096).wait_timeout(PATIENCE);
    let builder = match setup.lanes_per_folder {
        Some(lanes) => builder.lanes_per_folder(lanes),
        None => builder,
    };
    let scratch = builder.open()?;
    scratch.wait_recovered(PATIENCE).expect("recovery ends");
    Ok(scratch)
}

/// Opens the image: what is read was written there, what is written then is read, also by the next who opens it.
pub fn check(image: &Image, setup: &Setup, known: &Known) -> Result<(), OpenError> {
    let root = temporary();
    image.write(root.path());
    let scratch = open(root.path(), setup)?;
    reads_are_right(&scratch, known);
    let late = writes_are_taken(&scratch);
    assert_eq!(scratch.close(PATIENCE).dropped, 0, "all was flushed");
    drop(scratch);
    let scratch = open(root.path(), setup).expect("what was opened and closed opens again");
    for (realm, hash, bytes) in late {
        let read = scratch.read(realm, hash, <[u8]>::to_vec).expect("it was flushed last");
        assert_eq!(read, bytes);
    }
    Ok(())
}

fn realm(number: u32) -> Realm {
    Realm::new(number).expect("24 bits")
}

fn reads_are_right(scratch: &Scratch, known: &Known) {
    for (of, key) in known.keys() {
        for other in [of, 0, 1, 2, 0xff_ffff] {
            let read = scratch.read(realm(other), BlockHash::from_u128(key), <[u8]>::to_vec);
            match &read {
                Ok(bytes) => known.judge(other, key, bytes),
                Err(ReadError::Missing { .. } | ReadError::Corrupted { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
            if let Some(exact) = known.exact.get(&(other, key)) {
                let (found, meant) = (read.as_ref().ok(), exact.as_ref());
                let lengths = (found.map(Vec::len), meant.map(Vec::len));
                assert!(found == meant, "realm {other}, key {key:032x}: {lengths:?} bytes, {:?}", read.as_ref().err());
            }
        }
    }
    for of in known.keys().map(|(of, _)| of).chain(0..4) {
        let mut all = Vec::new();
        scratch.for_each(realm(of), |info| all.push(*info)).expect("open");
        for info in all {
            assert_eq!(info.realm.get(), of);
            if let Ok(block) = scratch.get(info.realm, info.hash) {
                known.judge(of, info.hash.to_u128(), &block);
            }
        }
    }
}

/// More than a lap of every lane, and its newest blocks.
fn writes_are_taken(scratch: &Scratch) -> Vec<(Realm, BlockHash, Vec<u8>)> {
    let realm = realm(3);
    let mut late = Vec::new();
    for number in 0..40_u64 {
        let bytes = number.to_le_bytes().repeat(512 + 8 * (number as usize % 3));
        let bytes = bytes[..bytes.len().min(scratch_largest(scratch))].to_vec();
        let hash = scratch.put(realm, &bytes).unwrap_or_else(|error| panic!("block {number}: {error}"));
        assert_eq!(scratch.read(realm, hash, <[u8]>::to_vec).expect("just written"), bytes);
        late = vec![(realm, hash, bytes)];
    }
    let key = BlockHash::from_u128(99);
    scratch.write_named(realm, key, 5, |block| block.copy_from_slice(b"named")).expect("writable");
    scratch.remove(realm, BlockHash::from_u128(98)).expect("writable");
    scratch.flush().expect("a healthy disk");
    late.push((realm, key, b"named".to_vec()));
    late
}

fn scratch_largest(scratch: &Scratch) -> usize {
    let line = scratch.explain().iter().find(|line| line.0 == "file_size").map(|line| line.1.to_owned());
    let pages = match line.as_deref() {
        Some("12 KiB") => 1,
        _ => 2,
    };
    pages * format::PAGE
}
