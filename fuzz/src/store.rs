//! Folders as bytes: in memory or written to a disk, opened through the public interface, judged by what they may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scratchspace::{
    BlockHash, DiskFileSource, FileSource, HashKind, OnFull, OpenError, ReadError, Realm, Scratch, WriteError,
};
use tempfile::TempDir;

use super::format;
use super::memory::Folders;

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
    /// Of a new store; one that is there says it itself.
    pub hash_kind: Option<HashKind>,
    /// It may not forget.
    pub refuses: bool,
}

/// The kind of hash with this number, if this build knows it.
pub fn kind(number: u8) -> Option<HashKind> {
    match number {
        0 => Some(HashKind::Xxh3),
        #[cfg(feature = "blake3")]
        1 => Some(HashKind::Blake3),
        _ => None,
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            folders: 1,
            files_per_folder: 4,
            lanes_per_folder: None,
            file_size: 5 * format::PAGE,
            hash_kind: None,
            refuses: false,
        }
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
        let all: BTreeSet<_> = self.written.keys().chain(self.forged.keys()).chain(self.exact.keys()).collect();
        all.into_iter().copied()
    }

    fn judge(&self, of: HashKind, realm: u32, key: u128, bytes: &[u8]) {
        let written = self.written.get(&(realm, key)).is_some_and(|values| values.iter().any(|value| value == bytes));
        let hash = BlockHash::of_kind(of, bytes).to_u128();
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
    /// Which store the folders are recorded as.
    pub store: u128,
}

pub const LOCK: &str = "scratchspace.lock";

impl Image {
    /// Folders that know their store, and nothing else.
    pub fn empty(setup: &Setup) -> Self {
        Self::of_store(STORE, setup.folders)
    }

    fn of_store(store: u128, folders: usize) -> Self {
        let text = |at| format!("scratchspace 1\nstore {store:032x}\nfolder {at} of {folders}\n").into_bytes();
        let files = (0..folders).map(|at| ((at, LOCK.to_owned()), text(at + 1))).collect();
        Self { files, folders, store }
    }

    pub fn folders(&self) -> usize {
        self.folders
    }

    /// Whether its folders are recorded as those of the store.
    pub fn has_whole_locks(&self) -> bool {
        let whole = Self::of_store(self.store, self.folders);
        whole.files.iter().all(|(name, text)| self.files.get(name) == Some(text))
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
}

/// Below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
pub fn temporary() -> TempDir {
    match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root),
        None => TempDir::new(),
    }
    .expect("a folder that may be written to")
}

pub fn open_on_disk(root: &Path, setup: &Setup) -> Result<Scratch, OpenError> {
    let source = DiskFileSource::builder()
        .folders(Image::paths(root, setup.folders))
        .files_per_folder(setup.files_per_folder)
        .file_size_if_new(setup.file_size as u64)
        .build()?;
    open(source, setup)
}

pub fn open(source: impl FileSource, setup: &Setup) -> Result<Scratch, OpenError> {
    let mut builder = Scratch::builder(source).gather(0, Duration::ZERO).expected_blocks(1024).wait_timeout(PATIENCE);
    if let Some(lanes) = setup.lanes_per_folder {
        builder = builder.lanes_per_folder(lanes);
    }
    if let Some(kind) = setup.hash_kind {
        builder = builder.hash_kind(kind);
    }
    if setup.refuses {
        builder = builder.on_full(OnFull::Refuse);
    }
    let scratch = builder.open()?;
    scratch.wait_recovered(PATIENCE).expect("recovery ends");
    Ok(scratch)
}

/// Lanes that an opening has left out with their folder.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    lanes: BTreeSet<u16>,
    /// How many there are in all.
    of: u16,
    store: u128,
}

impl LeftOut {
    fn of(scratch: &Scratch, store: u128) -> Self {
        let health = scratch.health();
        let lanes: BTreeSet<_> = health.lanes().filter(|lane| !lane.readable).map(|lane| lane.lane).collect();
        let broken: BTreeSet<_> = health.broken().map(|(_, lane, _)| lane.lane).collect();
        assert_eq!(broken, lanes, "{health}");
        let of = health.lanes().count() as u16;
        assert!(lanes.len() < usize::from(of), "{health}");
        Self { lanes, of, store }
    }

    fn has(&self, realm: u32, key: u128) -> bool {
        !self.lanes.is_empty() && self.lanes.contains(&format::lane_of(self.store, realm, key, self.of))
    }
}

/// Opens the image in memory, where no folder is ever left out; see `serves`.
pub fn check(image: &Image, setup: &Setup, known: &Known) -> Result<(), OpenError> {
    let folders = Folders::new(image, setup);
    serves(|| open(folders.clone(), setup), setup, known, image.store, false)
}

/// Opens the image on a disk, where one of two folders is left out if its lock file is torn; see `serves`.
pub fn check_on_disk(image: &Image, setup: &Setup, known: &Known) -> Result<(), OpenError> {
    let root = temporary();
    image.write(root.path());
    let may_leave_out = setup.folders == 2 && !image.has_whole_locks();
    serves(|| open_on_disk(root.path(), setup), setup, known, image.store, may_leave_out)
}

/// What is read was written there, what is written then is read, also by the next who opens it. Keys of a folder that is
/// left out are errors, whatever is done with them.
fn serves(
    open: impl Fn() -> Result<Scratch, OpenError>,
    setup: &Setup,
    known: &Known,
    store: u128,
    may_leave_out: bool,
) -> Result<(), OpenError> {
    let scratch = open()?;
    let left_out = LeftOut::of(&scratch, store);
    assert!(left_out.lanes.is_empty() || may_leave_out, "{}", scratch.health());
    assert!(scratch.health().lanes().all(|lane| !lane.unfound), "all can be read: {}", scratch.health());
    reads_are_right(&scratch, known, &left_out);
    let late = writes_are_taken(&scratch, setup, &left_out);
    let mut known = known.clone();
    for (realm, hash, bytes) in &late {
        known.wrote(realm.get(), hash.to_u128(), bytes);
    }
    if setup.refuses {
        // Nothing was forgotten for them.
        reads_are_right(&scratch, &known, &left_out);
    }
    assert_eq!(scratch.close(PATIENCE).dropped, 0, "all was flushed");
    drop(scratch);
    let scratch = match open() {
        // A forged header may name the last generation that is believed; what was written then has later ones.
        Err(OpenError::Foreign { reason, .. }) if reason.ends_with("which no store reaches") => return Ok(()),
        scratch => scratch.expect("what was opened and closed opens again"),
    };
    assert_eq!(LeftOut::of(&scratch, store), left_out);
    if setup.refuses {
        reads_are_right(&scratch, &known, &left_out);
    }
    for (realm, hash, bytes) in late {
        let read = scratch.read(realm, hash, <[u8]>::to_vec).expect("it was flushed, and nothing made room since");
        assert_eq!(read, bytes);
    }
    Ok(())
}

fn realm(number: u32) -> Realm {
    Realm::new(number).expect("24 bits")
}

fn reads_are_right(scratch: &Scratch, known: &Known, left_out: &LeftOut) {
    let kind = scratch.hash_kind();
    for (of, key) in known.keys() {
        for other in BTreeSet::from([of, 0, 1, 2, 0xff_ffff]) {
            let read = scratch.read(realm(other), BlockHash::from_u128(key), <[u8]>::to_vec);
            if left_out.has(other, key) {
                assert!(matches!(read, Err(ReadError::Io(_))), "realm {other}, key {key:032x}: {read:?}");
                continue;
            }
            match &read {
                Ok(bytes) => known.judge(kind, other, key, bytes),
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
    for of in known.keys().map(|(of, _)| of).chain(0..4).collect::<BTreeSet<_>>() {
        let mut all = Vec::new();
        let listed = scratch.for_each(realm(of), |info| all.push(*info));
        assert_eq!(listed.is_ok(), left_out.lanes.is_empty(), "{listed:?}");
        for info in all {
            assert_eq!(info.realm.get(), of);
            if let Ok(block) = scratch.get(info.realm, info.hash) {
                known.judge(kind, of, info.hash.to_u128(), &block);
            }
        }
    }
}

/// Bytes of a file, as the store tells them.
fn file_size(scratch: &Scratch) -> Option<usize> {
    let explanation = scratch.explain();
    let (_, value, _) = explanation.iter().find(|line| line.0 == "file_size")?;
    value.strip_suffix(" KiB")?.parse::<usize>().ok().map(|size| size << 10)
}

/// What came of a write: a store that may not forget may be full.
fn stored<T: std::fmt::Debug>(setup: &Setup, result: Result<T, WriteError>, what: impl std::fmt::Display) -> Option<T> {
    match result {
        Err(WriteError::Full { .. }) if setup.refuses => None,
        result => Some(result.unwrap_or_else(|error| panic!("{what}: {error}"))),
    }
}

/// More than a lap of every lane, but at most 40 blocks, and its newest; all that were taken of one that may not forget.
fn writes_are_taken(scratch: &Scratch, setup: &Setup, left_out: &LeftOut) -> Vec<(Realm, BlockHash, Vec<u8>)> {
    let realm = realm(3);
    let mut late = Vec::new();
    // Pages for payloads, of a file and of all: most blocks take two.
    let of_file = file_size(scratch).map_or(3, |size| size / format::PAGE - 2);
    let of_all = of_file * usize::from(setup.files_per_folder) * setup.folders;
    let is_left_out = |key: BlockHash| left_out.has(realm.get(), key.to_u128());
    for number in 0..(of_all + 3).min(40) {
        let bytes = number.to_le_bytes().repeat(512 + 8 * (number % 3));
        let bytes = &bytes[..bytes.len().min(of_file * format::PAGE)];
        let put = scratch.put(realm, bytes);
        if is_left_out(BlockHash::of_kind(scratch.hash_kind(), bytes)) {
            assert!(matches!(put, Err(WriteError::Io(_))), "block {number}: {put:?}");
            continue;
        }
        let Some(hash) = stored(setup, put, format_args!("block {number}")) else { continue };
        assert_eq!(scratch.read(realm, hash, <[u8]>::to_vec).expect("just written"), bytes);
        if !setup.refuses {
            late.clear();
        }
        late.push((realm, hash, bytes.to_vec()));
    }
    let mut keys = (98..).map(BlockHash::from_u128).filter(|key| !is_left_out(*key));
    let (removed, key) = (keys.next().expect("endless"), keys.next().expect("endless"));
    let named = scratch.write_named(realm, key, 5, |block| block.copy_from_slice(b"named"));
    if stored(setup, named, "a block with a name").is_some() {
        late.push((realm, key, b"named".to_vec()));
    }
    stored(setup, scratch.remove(realm, removed), "a removal");
    scratch.flush().expect("a healthy disk");
    late
}
