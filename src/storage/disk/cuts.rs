//! What a power cut may leave of a file that is created, removed or mended, at each moment of that.
//!
//! The calls are those that a [`DiskFileSource`] makes of the system, in their order; what a cut leaves of them is
//! modelled. Until a file is synced, its length and its bytes may be those of any moment since it was synced last, each
//! for itself; until its folder is, so may be its name. A rename is one step. Each such state is made as a real folder
//! and opened.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::DiskFileSource;
use super::tests::{builder, file};
use crate::os::calls::SystemCall;
use crate::os::watch::Watch;
use crate::storage::lock::LOCK_FILE;
use crate::storage::names;
use crate::storage::test_folder::test_folder;
use crate::storage::{FileMemory, FileSource, Found};
use crate::sync::Arc;

const SIZE: usize = 16 << 10;
const HEADER: [u8; 100] = [0xaa; 100];
const PAYLOAD: [u8; 8192] = [0x55; 8192];

/// The names that a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Temporary,
    Whole,
    Suspect,
}

impl Name {
    const ALL: [Self; 3] = [Self::Temporary, Self::Whole, Self::Suspect];

    fn path(self, source: &DiskFileSource) -> std::path::PathBuf {
        let whole = source.folder_of(file(1)).join(names::Name::new(source.store_id(), file(1)).to_string());
        match self {
            Self::Temporary => source.temporary_path_of(file(1)),
            Self::Whole => whole,
            Self::Suspect => names::suspect_path(&whole),
        }
    }
}

/// What is there of the file at one moment, or after a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    name: Option<Name>,
    bytes: Vec<u8>,
}

impl State {
    /// As it is now; a file that has lost its name has the bytes that it had.
    fn of(source: &DiskFileSource, before: Option<&Self>) -> Self {
        let mut there = Name::ALL.into_iter().filter(|name| name.path(source).exists());
        let name = there.next();
        assert!(there.next().is_none(), "a file has one name");
        let bytes = match name {
            Some(name) => fs::read(name.path(source)).unwrap(),
            None => before.map_or_else(Vec::new, |before| before.bytes.clone()),
        };
        Self { name, bytes }
    }

    /// Makes it beside a copy of the store's lock file; what a source over that folder finds, and the source.
    fn open(&self, store: &Path) -> (tempfile::TempDir, DiskFileSource, Option<Found>) {
        let folder = test_folder();
        fs::copy(store.join(LOCK_FILE), folder.path().join(LOCK_FILE)).unwrap();
        let source = builder(&[folder.path()]).build().unwrap();
        if let Some(name) = self.name {
            fs::write(name.path(&source), &self.bytes).unwrap();
        }
        let mut found = source.scan().unwrap();
        assert!(found.len() <= 1 && !Name::Temporary.path(&source).exists(), "{found:?}");
        (folder, source, found.pop())
    }
}

/// What is done to a file, and what must hold of each state that a cut leaves of it.
struct Deed {
    prepare: fn(&DiskFileSource),
    act: fn(&DiskFileSource) -> io::Result<()>,
}

impl Deed {
    /// Every call of it, and the state before the first and after each.
    fn moments(&self) -> (Vec<SystemCall>, Vec<State>, tempfile::TempDir) {
        let mut states = Vec::new();
        for k in 1.. {
            let folder = test_folder();
            let source = builder(&[folder.path()]).build().unwrap();
            (self.prepare)(&source);
            let watch = Watch::new(folder.path());
            // Nothing is done from the k-th call on, not even what would clean up.
            watch.fail(k, libc::EIO, true);
            let done = (self.act)(&source);
            watch.clear();
            states.push(State::of(&source, states.last()));
            if done.is_ok() {
                let calls: Vec<_> = watch.take().into_iter().map(|(call, _)| call).collect();
                assert_eq!(states.len(), calls.len() + 1);
                return (calls, states, folder);
            }
        }
        unreachable!("some run is the whole")
    }

    /// Hands over each state that a cut may leave, and whether the deed was done by then.
    fn cut(&self, mut judge: impl FnMut(&Path, &State, bool)) {
        let (calls, states, folder) = self.moments();
        let after =
            |last: SystemCall, end: usize| calls[..end].iter().rposition(|call| *call == last).map_or(0, |at| at + 1);
        let mut seen = Vec::new();
        for end in 0..states.len() {
            let (of_file, of_folder) =
                (&states[after(SystemCall::Sync, end)..=end], &states[after(SystemCall::SyncFolder, end)..=end]);
            let lengths: Vec<_> = of_file.iter().map(|state| state.bytes.len()).collect();
            // Space comes in pieces.
            let between = lengths.windows(2).map(|pair| usize::midpoint(pair[0], pair[1]));
            let lengths: Vec<_> = between.chain(lengths.iter().copied()).collect();
            for (name, len, bytes) in of_folder.iter().flat_map(|named| {
                let lengths = lengths.iter();
                lengths.flat_map(|len| of_file.iter().map(|state| (named.name, *len, state.bytes.clone())))
            }) {
                let mut bytes = bytes;
                bytes.resize(len, 0);
                let (left, is_done) = (State { name, bytes }, end == calls.len());
                if !seen.contains(&(left.clone(), is_done)) {
                    judge(folder.path(), &left, is_done);
                    seen.push((left, is_done));
                }
            }
        }
        assert!(seen.len() > 2, "{calls:?} and no states");
    }
}

fn bytes_of(memory: &Arc<dyn FileMemory>, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.load(0, &mut bytes).unwrap();
    bytes
}

/// A header, and a payload behind the first page.
fn written(source: &DiskFileSource) {
    let memory = source.create(file(1), &HEADER).unwrap();
    memory.store(4096, &[&PAYLOAD]).unwrap();
    memory.sync().unwrap();
}

fn contents(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    bytes[..HEADER.len()].copy_from_slice(&HEADER);
    bytes[4096..4096 + payload.len()].copy_from_slice(payload);
    bytes
}

#[test]
fn of_a_creation_a_cut_leaves_nothing_or_the_whole_file_and_all_of_it_once_it_was_done() {
    let deed = Deed { prepare: |_| (), act: |source| source.create(file(1), &HEADER).map(drop) };
    let mut was_there = [false; 2];
    deed.cut(|store, left, is_done| {
        let (_folder, source, found) = left.open(store);
        was_there[usize::from(found.is_some())] = true;
        let Some(found) = found else {
            assert!(!is_done, "its name is durable when it is used");
            source.create(file(1), &HEADER).unwrap();
            return;
        };
        assert_eq!((found.len, found.memory.is_suspect()), (SIZE as u64, false), "{:?}", left.name);
        assert!(bytes_of(&found.memory, SIZE) == contents(&[]), "{:?}: other bytes", left.name);
    });
    assert_eq!(was_there, [true; 2]);
}

#[test]
fn of_a_removal_a_cut_leaves_the_whole_file_or_nothing_and_nothing_once_it_was_done() {
    let deed = Deed { prepare: written, act: |source| source.delete(file(1)) };
    deed.cut(|store, left, is_done| {
        let (_folder, source, found) = left.open(store);
        let Some(found) = found else { return drop(source.create(file(1), &HEADER).unwrap()) };
        assert!(!is_done, "it does not come back");
        assert!(bytes_of(&found.memory, SIZE) == contents(&PAYLOAD));
    });
}

/// A file of the right length under its old name would pass for a whole one, whose blocks are zeros or were cut off.
#[test]
fn of_a_mending_a_cut_leaves_a_file_that_says_so_by_its_length_or_its_name() {
    for wrong in [5000, 8192, SIZE + 4096] {
        let prepare = match wrong {
            5000 => |source: &DiskFileSource| cut_to(source, 5000),
            8192 => |source: &DiskFileSource| cut_to(source, 8192),
            _ => |source: &DiskFileSource| cut_to(source, SIZE + 4096),
        };
        let deed = Deed { prepare, act: |source| source.mend(file(1)).map(drop) };
        deed.cut(|store, left, is_done| {
            let (_folder, source, found) = left.open(store);
            let found = found.expect("nobody removes it");
            assert!(found.memory.is_suspect() || found.len != SIZE as u64, "{:?}, {} bytes", left.name, found.len);
            assert!(!is_done || (found.memory.is_suspect() && found.len == SIZE as u64));
            if found.len == SIZE as u64 {
                let kept = wrong.min(SIZE);
                let bytes = bytes_of(&found.memory, SIZE);
                assert!(bytes[..kept] == contents(&PAYLOAD)[..kept], "{kept} of {wrong} bytes were not touched");
                assert!(bytes[kept..].iter().all(|byte| *byte == 0), "what was cut is not back");
                return;
            }
            // Whoever opens it mends it again.
            drop(found);
            let mended = source.mend(file(1)).unwrap();
            assert_eq!((mended.size(), mended.is_suspect()), (source.file_size(), true));
        });
    }
}

fn cut_to(source: &DiskFileSource, len: usize) {
    written(source);
    let opened = File::options().write(true).open(source.path_of(file(1))).unwrap();
    opened.set_len(len as u64).unwrap();
    opened.sync_all().unwrap();
}
