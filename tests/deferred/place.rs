//! What the tests of deferred writes share: where their stores live, closures that hang, and bounds on waiting.
#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, Sender, channel};

use scratchspace::{
    BlockHash, DiskFileSource, FileSource, MemoryFileSource, Realm, Scratch, ScratchBuilder, WriteError,
};
use tempfile::TempDir;

use crate::waiting::BOUND;

pub(crate) const REALM: Realm = Realm::DEFAULT;
pub(crate) const FILE_SIZE: u64 = 256 << 10;

/// Where the files of a store are kept between two openings.
pub(crate) enum Place {
    Memory(MemoryFileSource),
    Disk(TempDir),
}

impl Place {
    /// One of each kind, of so many files.
    pub(crate) fn each(test: impl Fn(&Self)) {
        let memory = MemoryFileSource::builder().files_per_folder(4).file_size(FILE_SIZE).build().unwrap();
        test(&Self::Memory(memory));
        let folder = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
            Some(root) => TempDir::new_in(root),
            None => TempDir::new(),
        };
        test(&Self::Disk(folder.unwrap()));
    }

    pub(crate) fn source(&self) -> Box<dyn FileSource> {
        match self {
            Self::Memory(source) => Box::new(source.clone()),
            Self::Disk(folder) => {
                let builder = DiskFileSource::builder().folder(folder.path()).files_per_folder(4);
                Box::new(builder.file_size(FILE_SIZE).build().unwrap())
            }
        }
    }

    pub(crate) fn builder(&self) -> ScratchBuilder {
        Scratch::builder(self.source())
    }

    pub(crate) fn open(&self) -> Scratch {
        let scratch = self.builder().open().unwrap();
        scratch.wait_recovered(BOUND).unwrap();
        scratch
    }
}

/// Bytes that differ from those of any other number.
pub(crate) fn bytes_of(number: usize, len: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// A key for a named block.
pub(crate) fn key(name: &str) -> BlockHash {
    BlockHash::of(name.as_bytes())
}

/// A closure that has begun and does not end before it is told to, on whatever thread it runs.
#[must_use = "a closure that hangs is released"]
pub(crate) struct Hung {
    entered: Receiver<()>,
    release: Sender<()>,
}

impl Hung {
    /// The two ends: call the second inside of a closure.
    pub(crate) fn new() -> (Self, impl FnOnce() + Send + 'static) {
        let (enter, entered) = channel();
        let (release, released) = channel();
        let stall = move || {
            enter.send(()).ok();
            released.recv_timeout(BOUND).ok();
        };
        (Self { entered, release }, stall)
    }

    /// Keeps the only flusher of `scratch` busy, so that every later closure waits for somebody else.
    pub(crate) fn in_flusher(scratch: &Scratch) -> Self {
        let (hung, stall) = Self::new();
        scratch.write_named(REALM, key("keeps the flusher"), 1, |_| stall()).unwrap();
        hung.wait_until_entered();
        hung
    }

    pub(crate) fn wait_until_entered(&self) {
        self.entered.recv_timeout(BOUND).expect("the closure is run");
    }

    pub(crate) fn release(self) {
        self.release.send(()).ok();
    }
}

/// A panic that prints nothing.
pub(crate) fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("a closure that panics"))
}

/// Writes content from memory, later.
pub(crate) fn write_later(scratch: &Scratch, bytes: Vec<u8>) -> Result<BlockHash, WriteError> {
    let hash = BlockHash::of(&bytes);
    scratch.write(REALM, hash, bytes.len(), move |block| block.copy_from_slice(&bytes)).map(|()| hash)
}
