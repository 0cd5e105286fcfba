//! Small stores of every shape, and blocks that tell what they are.

use std::time::{Duration, Instant};

use scratchspace::{BlockInfo, DiskFileSource, MemoryFileSource, Realm, Scratch, ScratchBuilder};
use tempfile::TempDir;

pub(crate) const REALM: Realm = Realm::DEFAULT;
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const PAGE: usize = 4096;
/// Bound of everything that a test waits for: only a defect reaches it.
pub(crate) const HANGS: Duration = Duration::from_mins(1);

/// How the files of a store lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) on_disk: bool,
    pub(crate) folders: u16,
    pub(crate) lanes_per_folder: u16,
    pub(crate) files_per_lane: u16,
    pub(crate) file_size: u64,
}

/// An open store in a folder of its own.
pub(crate) struct Store {
    pub(crate) scratch: Scratch,
    pub(crate) shape: Shape,
    _folder: Option<TempDir>,
}

impl Shape {
    /// One lane, on the heap.
    pub(crate) fn one_lane(files: u16, file_size: u64) -> Self {
        Self { on_disk: false, folders: 1, lanes_per_folder: 1, files_per_lane: files, file_size }
    }

    /// On the heap and on the disk, with one lane, with four folders, and with two folders of two lanes each.
    pub(crate) fn all(files_per_lane: u16, file_size: u64) -> impl Iterator<Item = Self> {
        let lanes = [(1, 1), (4, 1), (2, 2)];
        let shapes = lanes.into_iter().flat_map(|lanes| [(false, lanes), (true, lanes)]);
        shapes.map(move |(on_disk, (folders, lanes_per_folder))| Self {
            on_disk,
            folders,
            lanes_per_folder,
            files_per_lane,
            file_size,
        })
    }

    pub(crate) fn lanes(self) -> u16 {
        self.folders * self.lanes_per_folder
    }

    /// Bytes of all files.
    pub(crate) fn capacity(self) -> u64 {
        u64::from(self.lanes() * self.files_per_lane) * self.file_size
    }

    pub(crate) fn open(self) -> Store {
        self.open_with(|builder| builder)
    }

    pub(crate) fn open_with(self, options: impl FnOnce(ScratchBuilder) -> ScratchBuilder) -> Store {
        let files = self.files_per_lane * self.lanes_per_folder;
        let (builder, folder) = if self.on_disk {
            let root = test_folder();
            let folders = (0..self.folders).map(|at| root.path().join(at.to_string()));
            let source = DiskFileSource::builder().folders(folders).files_per_folder(files).file_size(self.file_size);
            (Scratch::builder(source.build().unwrap()), Some(root))
        } else {
            let source =
                MemoryFileSource::builder().folders(self.folders).files_per_folder(files).file_size(self.file_size);
            (Scratch::builder(source.build().unwrap()), None)
        };
        let scratch = options(builder.lanes_per_folder(self.lanes_per_folder)).open().unwrap();
        Store { scratch, shape: self, _folder: folder }
    }
}

impl Store {
    /// Every block of the realm, the oldest file first.
    pub(crate) fn blocks(&self) -> Vec<BlockInfo> {
        let mut blocks = Vec::new();
        self.scratch.for_each(REALM, |block| blocks.push(*block)).unwrap();
        blocks.sort_by_key(|block| (block.generation, block.hash));
        blocks
    }

    /// The blocks of the oldest file that holds any.
    pub(crate) fn oldest_blocks(&self) -> Vec<BlockInfo> {
        let mut blocks = self.blocks();
        let oldest = blocks.first().map(|block| block.generation);
        blocks.retain(|block| Some(block.generation) == oldest);
        blocks
    }
}

/// A new empty folder, deleted when it is dropped.
pub(crate) fn test_folder() -> TempDir {
    let folder = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root),
        None => TempDir::new(),
    };
    folder.expect("tests need a folder that they may write to")
}

/// Bytes of block `number`: no two numbers share them, and a page of one is no page of another.
pub(crate) fn block(number: u64, len: usize) -> Vec<u8> {
    let mut word = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&word.to_le_bytes());
        word = word.rotate_left(5).wrapping_add(number);
    }
    bytes.truncate(len);
    bytes
}

/// A length for block `number`: from a byte to a few pages.
pub(crate) fn some_len(number: u64) -> usize {
    [1, 100, 4096, 4097, 9000, 40, 12_288][usize::try_from(number % 7).unwrap()] + usize::try_from(number % 3).unwrap()
}

/// Waits for something that a background thread does.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
