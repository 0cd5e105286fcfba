//! What an opening does to the files that it finds, and in which order: each test opens with the story of its defect.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::block::{BlockHash, FileId, FileSize, StoreId};
use crate::error::{OpenError, PLANNED_PANIC, ReadError, WriteError};
use crate::scratch::Scratch;
use crate::scratch::small::{HANGS, REALM, block, eventually, key_in, send_to, three_files_of, ungathered, until};
use crate::storage::faulty::{Call, Fault, FaultySource};
use crate::storage::test_folder::test_folder;
use crate::storage::{DiskFileSource, FileMemory, FileSource, Found, MemoryFileSource};
use crate::sync::{Arc, Mutex};
use crate::wheel::Event;

const SIZE: u64 = 64 << 10;

fn disk(folder: &Path) -> DiskFileSource {
    DiskFileSource::builder().folder(folder).files_per_folder(3).file_size(SIZE).build().unwrap()
}

/// Two folders, whose files have the odd and the even numbers.
fn two_disks(folder: &Path) -> DiskFileSource {
    let folders = ["one", "two"].map(|name| folder.join(name));
    DiskFileSource::builder().folders(folders).files_per_folder(3).file_size(SIZE).build().unwrap()
}

/// Two of these fill a file.
fn fill(scratch: &Scratch, numbers: Range<u64>) {
    for number in numbers {
        scratch.put(REALM, &block(number, 28_000)).unwrap();
    }
}

/// Leaves a store whose three files hold blocks, the first one the oldest.
fn lay_out(folder: &Path) {
    let scratch = ungathered(disk(folder));
    fill(&scratch, 0..4);
    eventually("the third file", || scratch.stats().files == 3);
}

/// Where the files of a store are, by their numbers.
fn paths(folder: &Path) -> BTreeMap<u16, PathBuf> {
    let all = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let number = |path: &Path| path.file_stem()?.to_str()?.rsplit_once('-')?.1.parse().ok();
    all.filter_map(|path| Some((number(&path)?, path))).collect()
}

fn cut(path: &Path, len: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// A file that had lost its header was deleted for good while what a killed run had stored to the others was in the page
/// cache only: a power cut brought back an older lap of one of them, without the tombstones of the file that was gone.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn no_lost_file_is_deleted_before_all_others_are_durable() {
    for sync in 1..=2 {
        let folder = test_folder();
        lay_out(folder.path());
        cut(&paths(folder.path())[&1], 100);
        let source = FaultySource::new(disk(folder.path()));
        let faults = source.faults();
        faults.set(Fault::at(sync).only(&[Call::Sync]));
        let Err(OpenError::Io(error)) = Scratch::open(source) else { panic!("sync {sync} has failed") };
        assert_eq!(error.what(), "syncing a file of an earlier run");
        assert_eq!((faults.failed(), faults.count(Call::Delete)), (1, 0), "sync {sync}");
        assert!(paths(folder.path()).contains_key(&1));
    }
}

/// The first file that could not be synced ended the opening. The mark that could not be made of it either was not
/// mentioned, the other files were not looked at, and the next opening believed the page cache of all of them.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn each_file_that_cannot_be_synced_is_marked_or_the_opening_says_that_it_could_not_be() {
    // The files that are whole: the second has the newest blocks, the third none.
    for can_mark in [true, false] {
        let folder = test_folder();
        lay_out(folder.path());
        cut(&paths(folder.path())[&1], 100);
        let source = FaultySource::new(disk(folder.path()));
        let faults = source.faults();
        let calls = if can_mark { &[Call::Sync][..] } else { &[Call::Sync, Call::Mark] };
        faults.set(Fault::at(1).sticky().only(calls).kind(io::ErrorKind::ReadOnlyFilesystem));
        let Err(OpenError::Io(error)) = Scratch::open(source) else { panic!("no sync has worked") };
        assert_eq!(
            (error.what(), error.kind()),
            ("syncing a file of an earlier run", io::ErrorKind::ReadOnlyFilesystem)
        );
        assert_eq!((faults.count(Call::Sync), faults.count(Call::Mark), faults.count(Call::Delete)), (2, 2, 0));
        let (text, unmarked) = (error.to_string(), "could not be marked for the next run");
        if can_mark {
            assert!(
                text.ends_with("the file is marked: its bytes are compared when its folder is opened next"),
                "{text}"
            );
        } else {
            assert!(text.contains("Sync was made to fail") && text.contains("Mark was made to fail"), "{text}");
            assert!(
                text.contains(unmarked) && text.ends_with("before the store is opened again, or `reset` it"),
                "{text}"
            );
        }
        let (told, events) = channel();
        let builder = Scratch::builder(disk(folder.path())).gather(0, Duration::ZERO).on_event(send_to(told));
        let scratch = builder.open().unwrap();
        scratch.wait_recovered(HANGS).unwrap();
        drop(scratch);
        // Of what was not marked a process cannot know: that is what the text has said.
        let suspect = events.iter().filter(|event| matches!(event, Event::FileSuspect { .. })).count();
        assert_eq!(suspect, if can_mark { 2 } else { 0 });
    }
}

/// Three blocks in each of two folders, the first of which is lost if the oldest file of its folder is.
fn lay_out_two(folder: &Path) -> [Vec<BlockHash>; 2] {
    let scratch = ungathered(two_disks(folder));
    let keys = [0, 1].map(|lane| (0..3).map(|seed| key_in(&scratch, lane, seed)).collect::<Vec<_>>());
    for (number, key) in keys.iter().flatten().enumerate() {
        scratch.put_named(REALM, *key, &block(number as u64, 28_000)).unwrap();
    }
    scratch.flush().unwrap();
    keys
}

/// One file was damaged in a folder whose disk took no change: the other folders were not opened either, though without
/// that file they had been. And each time that such a folder was tried again the file was told and counted once more.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn a_folder_that_cannot_be_mended_synced_or_cleared_is_left_out_and_taken_back() {
    let all = [Call::Create, Call::Delete, Call::Mark, Call::Sync, Call::Store];
    for (len, calls) in [
        (60 << 10, &[Call::Create][..]),
        (100, &[Call::Delete]),
        (100, &[Call::Sync]),
        (100, &[Call::Sync, Call::Mark]),
        (60 << 10, &all),
        (100, &all),
    ] {
        let folder = test_folder();
        let keys = lay_out_two(folder.path());
        let damaged = paths(&folder.path().join("two"))[&2].clone();
        cut(&damaged, len);
        let (told, events) = channel();
        let source = FaultySource::new(two_disks(folder.path()));
        let faults = source.faults();
        faults.set(Fault::at(1).sticky().only(calls).in_folder(1));
        let builder = Scratch::builder(source).gather(0, Duration::ZERO).on_event(send_to(told));
        let scratch = builder.open().unwrap_or_else(|error| panic!("{calls:?}: {error}"));
        let is_unmarked = len == 100 && calls.contains(&Call::Mark);
        let seen = until(&events, |event| matches!(event, Event::LaneBroken { lane: 1, .. }));
        assert_eq!(seen.iter().any(|event| matches!(event, Event::FileUnmarked { .. })), is_unmarked, "{seen:#?}");
        let report = scratch.wait_recovered(HANGS).unwrap();
        assert_eq!((report.files, report.blocks), (scratch.recovery().files_total, 3), "{calls:?}");
        for (number, key) in keys[0].iter().enumerate() {
            assert_eq!(scratch.get(REALM, *key).unwrap()[..], block(number as u64, 28_000));
            scratch.put_named(REALM, *key, &block(number as u64 + 10, 28_000)).unwrap();
        }
        for key in &keys[1] {
            assert!(matches!(scratch.get(REALM, *key), Err(ReadError::Io(_))), "{calls:?}");
            assert!(matches!(scratch.put_named(REALM, *key, b"new"), Err(WriteError::Io(_))), "{calls:?}");
        }

        let attempts = || scratch.health().broken().next().map_or(0, |(_, _, broken)| broken.attempts);
        eventually("the folder is tried again", || attempts() > 2);
        // Whose sync has failed is taken back as a suspect file, and not before it is marked.
        if is_unmarked {
            let unmarked = || scratch.health().unmarked.len();
            assert!(unmarked() > 0, "{calls:?}");
            faults.set(Fault::at(1).sticky().only(&[Call::Mark]).in_folder(1));
            let failed = faults.failed_of(Call::Mark);
            eventually("it is tried again", || faults.failed_of(Call::Mark) > failed);
            assert!(unmarked() > 0 && matches!(scratch.get(REALM, keys[1][1]), Err(ReadError::Io(_))), "{calls:?}");
        }
        faults.clear();
        eventually("the folder is back", || scratch.health().broken().next().is_none());
        scratch.wait_recovered(HANGS).unwrap();
        assert_eq!(scratch.health().unmarked, []);
        let suspects = usize::from(len == 100 && calls.contains(&Call::Sync));
        assert!(scratch.health().suspect.len() >= suspects, "{calls:?}: {}", scratch.health());
        for (number, key) in keys[1].iter().enumerate() {
            match scratch.get(REALM, *key) {
                Ok(bytes) => assert_eq!(bytes[..], block(number as u64 + 3, 28_000)),
                Err(error) => assert!(error.is_missing() && number < 2, "{calls:?}: {error}"),
            }
            scratch.put_named(REALM, *key, &block(number as u64 + 20, 28_000)).unwrap();
        }
        assert_eq!(scratch.recovery().report.files_damaged, 1, "{calls:?}");
        assert!(scratch.close(HANGS).is_clean(), "{calls:?}");
        drop(scratch);
        // Also where the folder was tried several times.
        let told = seen.into_iter().chain(events).filter(|event| match event {
            Event::FileLost { file, .. } => len == 100 && file.get() == 2,
            Event::FileSuspect { file, .. } => len != 100 && file.get() == 2,
            _ => false,
        });
        assert_eq!(told.count(), 1, "{calls:?}");
    }
}

/// What had been done in a folder before one of its files was refused was forgotten: a file that was mended by then was found
/// marked when the folder was taken back, and told as one of an earlier run, and not counted; nor was one that was dropped.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn what_was_mended_or_dropped_before_a_folder_was_left_out_is_told_and_counted() {
    for (mended, call) in [(true, Call::Create), (false, Call::Delete)] {
        let folder = test_folder();
        let folders = ["one", "two"].map(|name| folder.path().join(name));
        let disks = |files: u16| {
            let builder = DiskFileSource::builder().folders(&folders).files_per_folder(files);
            builder.file_size(SIZE).build().unwrap()
        };
        let scratch = ungathered(disks(5));
        for number in 0..20 {
            scratch.put_named(REALM, key_in(&scratch, 1, number), &block(number, 28_000)).unwrap();
        }
        eventually("all files", || scratch.stats().files >= 6 && scratch.wheel().keepers_rest());
        drop(scratch);
        let files = paths(&folders[1]);
        assert_eq!(files.len(), 5);
        if mended {
            files.values().take(2).for_each(|path| cut(path, 60 << 10));
        }
        let (told, events) = channel();
        let source = FaultySource::new(disks(if mended { 5 } else { 3 }));
        let faults = source.faults();
        faults.set(Fault::at(2).sticky().only(&[call]).in_folder(1));
        let builder = Scratch::builder(source).gather(0, Duration::ZERO).on_event(send_to(told));
        let scratch = builder.open().unwrap();
        faults.clear();
        eventually("the folder is back", || scratch.health().broken().next().is_none());
        let report = scratch.wait_recovered(HANGS).unwrap();
        drop(scratch);
        let suspect = events.iter().filter_map(|event| match event {
            Event::FileSuspect { error, .. } => Some(error.to_string()),
            _ => None,
        });
        let suspect: Vec<_> = suspect.collect();
        assert!(suspect.iter().all(|text| text.contains("cut the file short")), "{suspect:#?}");
        let found = (report.files_damaged, suspect.len(), report.files_dropped);
        assert_eq!(found, if mended { (2, 2, 0) } else { (0, 0, 2) });
    }
}

/// With one folder nothing is left to be opened; the error did not say how to go on.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn without_another_folder_the_error_says_that_removing_the_file_costs_its_own_blocks_only() {
    for (len, call) in [(60 << 10, Call::Create), (100, Call::Delete)] {
        let folder = test_folder();
        lay_out(folder.path());
        cut(&paths(folder.path())[&1], len);
        let source = FaultySource::new(disk(folder.path()));
        source.faults().set(Fault::at(1).sticky().only(&[call]).kind(io::ErrorKind::Other));
        let Err(OpenError::Io(error)) = Scratch::open(source) else { panic!("{call:?} fails") };
        assert!(error.to_string().ends_with("remove that file, which costs its own blocks only"), "{error}");
        std::fs::remove_file(error.path().unwrap()).unwrap();
        let scratch = ungathered(disk(folder.path()));
        assert_eq!(scratch.wait_recovered(HANGS).unwrap().blocks, 2);
    }
}

/// A file that an earlier run had marked, and whose header was damaged besides, was deleted and nobody was told.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn a_suspect_file_without_a_header_is_told_and_counted_before_it_is_deleted() {
    let folder = test_folder();
    lay_out(folder.path());
    let path = paths(folder.path())[&1].clone();
    let suspect = path.with_extension("suspect");
    std::fs::rename(&path, &suspect).unwrap();
    let file = std::fs::File::options().write(true).open(&suspect).unwrap();
    crate::os::write_all_at(&file, 0, &[&[0xa5; 512]]).unwrap();
    // The first opening tells, and cannot delete it.
    let (told, events) = channel();
    let open = |source: FaultySource<DiskFileSource>| {
        Scratch::builder(source).gather(0, Duration::ZERO).on_event(send_to(told.clone())).open()
    };
    let source = FaultySource::new(disk(folder.path()));
    source.faults().set(Fault::at(1).only(&[Call::Delete]));
    let Err(OpenError::Io(error)) = open(source) else { panic!("it cannot be deleted") };
    assert_eq!(error.what(), "removing a file of the store");
    let scratch = open(FaultySource::new(disk(folder.path()))).unwrap();
    let is_lost = |event: &Event| matches!(event, Event::FileLost { file, .. } if file.get() == 1);
    for _ in 0..2 {
        let Some(Event::FileLost { error, .. }) = until(&events, is_lost).pop() else { unreachable!() };
        assert_eq!(error.path(), Some(&*suspect.canonicalize().unwrap_or(suspect.clone())));
        assert!(error.to_string().contains("its header is damaged"), "{error}");
    }
    assert_eq!(scratch.wait_recovered(HANGS).unwrap().files_damaged, 1);
    fill(&scratch, 10..12);
    eventually("it is made anew", || path.exists() && !suspect.exists());
}

/// Only the page cache may know that such a file is empty: an older lap of it may be on the disk, and was back if the power
/// was cut when it had not died before the others (`power::found`). Nor does content of the file that is being filled count
/// as about to die because of it.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn a_suspect_file_without_an_entry_dies_before_any_other() {
    let folder = test_folder();
    let scratch = ungathered(disk(folder.path()));
    // The second file has room left, and the third is its spare.
    let lens = [28_000, 28_000, 28_000, 16_000];
    for (number, len) in lens.into_iter().enumerate() {
        scratch.put(REALM, &block(number as u64, len)).unwrap();
    }
    eventually("a spare", || scratch.stats().files == 3);
    drop(scratch);
    cut(&paths(folder.path())[&3], 8192);
    let (told, events) = channel();
    let builder = Scratch::builder(disk(folder.path())).gather(0, Duration::ZERO).on_event(send_to(told));
    let scratch = builder.open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    eventually("it is made anew", || scratch.health().suspect.is_empty() && scratch.wheel().keepers_rest());
    for (number, len) in lens.into_iter().enumerate().skip(2) {
        scratch.put(REALM, &block(number as u64, len)).unwrap();
    }
    assert_eq!((scratch.stats().duplicates, scratch.stats().turns), (2, 1));
    let mut died = Vec::new();
    for number in 10.. {
        fill(&scratch, number..number + 1);
        let recycled = |event| if let Event::FileRecycled { file, .. } = event { Some(file.get()) } else { None };
        died.extend(events.try_iter().filter_map(recycled));
        if died.len() >= 3 {
            break;
        }
    }
    assert_eq!(died[..3], [3, 1, 2]);
}

/// A source that counts how often it is asked what it is, and panics if it is asked for one thing.
#[derive(Debug)]
struct Asked {
    memory: MemoryFileSource,
    panics_in: Option<usize>,
    counts: Arc<Mutex<[u32; 4]>>,
}

impl Asked {
    fn ask(&self, what: usize) -> &MemoryFileSource {
        assert!(self.panics_in != Some(what), "{PLANNED_PANIC}");
        self.counts.lock()[what] += 1;
        &self.memory
    }
}

impl FileSource for Asked {
    fn store_id(&self) -> StoreId {
        self.ask(0).store_id()
    }

    fn file_size(&self) -> FileSize {
        self.ask(1).file_size()
    }

    fn folders(&self) -> u16 {
        self.ask(2).folders()
    }

    fn files_per_folder(&self) -> u16 {
        self.ask(3).files_per_folder()
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        self.memory.describe(file)
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        self.memory.scan()
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.memory.create(file, header)
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.memory.delete(file)
    }
}

/// A source that panicked when it was asked for its numbers did so on the thread of whoever opened a store over it, and
/// one that changed its answers was explained by another one than the store was made of.
#[test]
fn a_source_is_asked_once_what_it_is_and_a_panic_of_it_is_an_error() {
    for what in 0..4 {
        let asked = Asked { memory: three_files_of(SIZE), panics_in: Some(what), counts: Arc::default() };
        let Err(OpenError::Io(error)) = Scratch::builder(asked).lanes_per_folder(1).open() else { panic!("{what}") };
        assert_eq!(error.what(), "asking a file source what it is");
        assert!(error.panicked().is_some_and(|panicked| panicked.message == PLANNED_PANIC), "{error}");
    }
    let counts = Arc::default();
    let asked = Asked { memory: three_files_of(SIZE), panics_in: None, counts: Arc::clone(&counts) };
    let scratch = Scratch::builder(asked).lanes_per_folder(1).open().unwrap();
    fill(&scratch, 0..20);
    assert!(scratch.explain().to_string().contains("files_per_folder   3"));
    scratch.flush().unwrap();
    assert_eq!(*counts.lock(), [1; 4]);
}

/// What was done, to which file, and whether there was memory of it.
type Seen = (&'static str, u16, bool);

/// A source that knows of which files there is memory still, when they change.
#[derive(Debug)]
struct Watched {
    disk: DiskFileSource,
    lent: Mutex<Vec<(FileId, Weak<dyn FileMemory>)>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Watched {
    fn lend(&self, file: FileId, memory: &Arc<dyn FileMemory>) {
        self.lent.lock().push((file, Arc::downgrade(memory)));
    }

    fn see(&self, what: &'static str, file: FileId) {
        let is_lent = self.lent.lock().iter().any(|(other, memory)| *other == file && memory.strong_count() > 0);
        self.seen.lock().push((what, file.get(), is_lent));
    }
}

impl FileSource for Watched {
    fn store_id(&self) -> StoreId {
        self.disk.store_id()
    }

    fn file_size(&self) -> FileSize {
        self.disk.file_size()
    }

    fn folders(&self) -> u16 {
        self.disk.folders()
    }

    fn files_per_folder(&self) -> u16 {
        self.disk.files_per_folder()
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        self.disk.describe(file)
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        let found = self.disk.scan()?;
        for found in &found {
            self.lend(found.file, &found.memory);
        }
        Ok(found)
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.see("create", file);
        self.disk.create(file, header).inspect(|memory| self.lend(file, memory))
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.disk.delete(file)
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        self.disk.mark_suspect(file)
    }

    fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
        self.see("mend", file);
        self.disk.mend(file).inspect(|memory| self.lend(file, memory))
    }
}

/// A file was cut, and made anew, while its old mapping was there: the space of the one was in use until the other had
/// its own, and on some systems a file that is mapped cannot be cut at all.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn a_file_is_mended_and_made_anew_once_it_is_mapped_no_more() {
    let folder = test_folder();
    lay_out(folder.path());
    cut(&paths(folder.path())[&1], SIZE + 4096);
    let seen = Arc::default();
    let source = Watched { disk: disk(folder.path()), lent: Mutex::default(), seen: Arc::clone(&seen) };
    let scratch = ungathered(source);
    scratch.wait_recovered(HANGS).unwrap();
    assert_eq!(*seen.lock(), [("mend", 1, false)]);
    // The first file is the oldest, and dies by deletion.
    fill(&scratch, 10..14);
    eventually("the first file is made anew", || seen.lock().len() > 1);
    assert_eq!(seen.lock()[1], ("create", 1, false));
}
