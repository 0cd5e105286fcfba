//! Lanes that store at the same time; of which a thread panics, whose source breaks its promises, or one of whose files is
//! broken.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::block::{BlockHash, FileHeader, FileId, FileSize, StoreId};
use crate::error::{IoError, OpenError, ReadError, WriteError};
use crate::scratch::small::{self, HANGS, REALM, block, eventually, key_in, send_to, shows, until};
use crate::scratch::{HealthState, Scratch, ScratchBuilder};
use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource};
use crate::storage::{FileMemory, FileSource, Found, MemoryFileSource};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::wheel::{Event, OnFull, Role};

/// Bound of a call that does not wait: less than `wait_timeout` by default, 30 s.
const AT_ONCE: Duration = Duration::from_secs(15);
const PLANNED: &str = crate::error::PLANNED_PANIC;

fn memory(folders: u16, files: u16) -> MemoryFileSource {
    small::memory(folders, files, 64 << 10)
}

/// A store, and what it tells.
fn open(source: impl FileSource, options: impl FnOnce(ScratchBuilder) -> ScratchBuilder) -> (Scratch, Receiver<Event>) {
    let (told, events) = channel();
    let builder = Scratch::builder(source).on_event(send_to(told));
    (options(builder).open().unwrap(), events)
}

fn at_once(builder: ScratchBuilder) -> ScratchBuilder {
    builder.gather(0, Duration::ZERO)
}

/// A call of a source that does what it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Odd {
    None,
    CreatePanics,
    CreateIsTooSmall,
}

/// What the next calls do.
#[derive(Clone, Debug, Default)]
struct Switch(Arc<AtomicU8>);

impl Switch {
    fn set(&self, odd: Odd) {
        // Relaxed, as below: the calls that follow are ordered by the locks that they take.
        self.0.store(odd as u8, Ordering::Relaxed);
    }

    fn is(&self, odd: Odd) -> bool {
        self.0.load(Ordering::Relaxed) == odd as u8
    }

    fn may_panic(&self, odd: Odd) {
        assert!(!self.is(odd), "{odd:?}, {PLANNED}");
    }
}

/// A source of somebody else.
#[derive(Debug)]
struct OddSource<S> {
    inner: S,
    small: MemoryFileSource,
    switch: Switch,
}

impl<S: FileSource> OddSource<S> {
    fn new(inner: S) -> (Self, Switch) {
        let switch = Switch::default();
        let small = MemoryFileSource::builder().file_size(12 << 10).build().unwrap();
        (Self { inner, small, switch: switch.clone() }, switch)
    }
}

impl<S: FileSource> FileSource for OddSource<S> {
    fn store_id(&self) -> StoreId {
        self.inner.store_id()
    }

    fn file_size(&self) -> FileSize {
        self.inner.file_size()
    }

    fn folders(&self) -> u16 {
        self.inner.folders()
    }

    fn files_per_folder(&self) -> u16 {
        self.inner.files_per_folder()
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        self.inner.describe(file)
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        self.inner.scan()
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.switch.may_panic(Odd::CreatePanics);
        if self.switch.is(Odd::CreateIsTooSmall) {
            self.small.delete(file)?;
            return self.small.create(file, header);
        }
        self.inner.create(file, header)
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.inner.delete(file)
    }
}

/// Faults that panic where they should fail.
fn panicking(calls: &[Call]) -> Fault {
    Fault::at(1).sticky().only(calls).panicking()
}

/// Fills the lane until it needs a file that it does not get.
fn first_error(scratch: &Scratch) -> WriteError {
    let began = Instant::now();
    let error = (0..10_000).find_map(|number| scratch.put(REALM, &block(number, 9000)).err()).unwrap();
    assert!(began.elapsed() < AT_ONCE, "it waited: {error}");
    error
}

fn io_of(error: WriteError) -> IoError {
    match error {
        WriteError::Io(error) => error,
        other => panic!("{other}"),
    }
}

/// Each folder is a disk, and no disk waits for another.
#[test]
fn blocks_of_all_folders_are_stored_at_the_same_time() {
    const FOLDERS: u16 = 3;
    let source = FaultySource::new(memory(FOLDERS, 3));
    let faults = source.faults();
    let (scratch, _events) = open(source, at_once);
    faults.hold_stores(true);
    std::thread::scope(|scope| {
        for lane in 0..FOLDERS {
            let key = key_in(&scratch, lane, 1);
            let scratch = &scratch;
            scope.spawn(move || scratch.put_named(REALM, key, &block(lane.into(), 9000)).unwrap());
        }
        eventually("a store of each", || faults.held_stores() == FOLDERS.into());
        faults.hold_stores(false);
    });
    for lane in 0..FOLDERS {
        let key = key_in(&scratch, lane, 1);
        assert_eq!(*scratch.get(REALM, key).unwrap(), block(lane.into(), 9000));
    }
    scratch.close(HANGS);
}

/// A source that panicked took the keeper of the lane with it: its writers waited 30 s each, for ever, and the store was
/// called healthy. One whose file had another size did the same by an assertion.
#[test]
fn a_source_that_panics_or_makes_a_file_of_another_size_breaks_its_lane_with_its_words_until_it_does_not() {
    for (odd, words) in [(Odd::CreatePanics, "CreatePanics, as the test asks"), (Odd::CreateIsTooSmall, "12288 bytes")]
    {
        let (source, switch) = OddSource::new(memory(1, 4));
        let (scratch, events) = open(source, at_once);
        let kept = scratch.put(REALM, b"kept").unwrap();
        switch.set(odd);
        let error = io_of(first_error(&scratch));
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.panicked().is_some(), odd == Odd::CreatePanics);
        if let Some(panicked) = error.panicked() {
            assert_eq!(panicked.thread.as_deref(), Some("scratch-keep-0"));
        }
        let seen = until(&events, |event| matches!(event, Event::LaneBroken { .. }));
        assert!(matches!(seen.last(), Some(Event::LaneBroken { lane: 0, error: told, .. }) if *told == error));
        assert_eq!(scratch.health().state, HealthState::Failed, "its only lane takes no new block");
        assert_eq!(scratch.stats().panics > 0, odd == Odd::CreatePanics);
        assert_eq!(scratch.get(REALM, kept).as_deref(), Ok(&b"kept"[..]));
        scratch.flush().unwrap();
        switch.set(Odd::None);
        until(&events, |event| matches!(event, Event::LaneHealed { .. }));
        scratch.put(REALM, &block(1 << 20, 9000)).unwrap();
        assert_eq!(scratch.health().state, HealthState::Healthy);
        scratch.close(HANGS);
    }
}

/// A panic in a sync, a store or a load of the source left behind what nobody ever ended: a buffer that was on its way,
/// a block that was being verified, a file that counted as clean.
#[test]
fn a_source_that_panics_leaves_nothing_half_done() {
    let source = FaultySource::new(memory(1, 4));
    let faults = source.faults();
    let (scratch, events) = open(source, |builder| builder);
    let began = Instant::now();
    let first = scratch.put(REALM, b"first").unwrap();
    faults.set(panicking(&[Call::Sync]));
    let error = scratch.flush().unwrap_err().io.unwrap();
    assert!(error.panicked().is_some(), "{error}");
    until(&events, |event| matches!(event, Event::FileSuspect { .. }));
    faults.set(panicking(&[Call::Store]));
    // By the flusher, at once or later, or by this flush: told in either case.
    let lost = scratch.put(REALM, b"lost");
    assert!(lost.is_ok() || matches!(&lost, Err(WriteError::Io(error)) if error.panicked().is_some()), "{lost:?}");
    scratch.flush().unwrap_err();
    assert!(scratch.get(REALM, BlockHash::of(b"lost")).unwrap_err().is_missing());
    faults.set(panicking(&[Call::Load]));
    assert!(matches!(scratch.get(REALM, first), Err(ReadError::Io(error)) if error.panicked().is_some()));
    faults.clear();
    assert_eq!(scratch.get(REALM, first).as_deref(), Ok(&b"first"[..]));
    let second = scratch.put(REALM, b"second").unwrap();
    scratch.flush().unwrap();
    assert_eq!(scratch.get(REALM, second).as_deref(), Ok(&b"second"[..]));
    assert_eq!(scratch.health().broken().count(), 0);
    let report = scratch.close(HANGS);
    assert!(report.panics >= 3, "{report:?}");
    assert!(began.elapsed() < AT_ONCE);
}

/// Nobody heard of a thread that had panicked: the lane just stood still.
#[test]
fn a_lane_of_which_a_thread_panics_takes_no_write_is_read_and_tells_everybody() {
    for role in [Role::Keeper, Role::Syncer, Role::Flusher] {
        let (scratch, events) = open(memory(2, 4), at_once);
        let (here, other) = (key_in(&scratch, 1, 1), key_in(&scratch, 0, 1));
        scratch.put_named(REALM, here, b"here").unwrap();
        let (go, wait) = channel::<()>();
        let (enter, entered) = channel();
        let hang = move |_: &mut [u8]| {
            enter.send(()).unwrap();
            let _ = wait.recv();
        };
        // The flusher is held up, so that these closures wait still when the lane falls.
        scratch.write_named(REALM, key_in(&scratch, 1, 2), 8, hang).unwrap();
        entered.recv_timeout(HANGS).unwrap();
        let waiting = [key_in(&scratch, 1, 3), key_in(&scratch, 1, 4)];
        for key in waiting {
            scratch.write_named(REALM, key, 6, |bytes| bytes.copy_from_slice(b"closed")).unwrap();
        }
        let began = Instant::now();
        scratch.shared().wheel.spawn(role, 1, |_| panic!("{PLANNED}")).unwrap();
        let seen = until(&events, |event| matches!(event, Event::LaneBroken { .. }));
        let Some(Event::LaneBroken { lane: 1, error, .. }) = seen.last() else { panic!("{seen:?}") };
        let name = format!("scratch-{role}-1");
        assert_eq!(error.panicked().unwrap().thread.as_deref(), Some(&name[..]));
        assert!(error.to_string().contains(&format!("thread {name} panicked: {PLANNED}")), "{error}");

        // Each write says so at once, though the active file has room.
        assert_eq!(io_of(scratch.put_named(REALM, here, b"new").unwrap_err()), *error);
        assert_eq!(io_of(scratch.remove(REALM, here).unwrap_err()), *error);
        assert_eq!(io_of(scratch.write_named(REALM, here, 8, |_| ()).unwrap_err()), *error);
        assert_eq!(scratch.get(REALM, here).as_deref(), Ok(&b"here"[..]));
        assert_eq!(scratch.get(REALM, waiting[0]).as_deref(), Ok(&b"closed"[..]), "its reader runs the closure");
        assert!(scratch.get(REALM, key_in(&scratch, 1, 5)).unwrap_err().is_missing());
        scratch.put_named(REALM, other, b"other").unwrap();

        let health = scratch.health();
        assert_eq!(health.state, HealthState::Degraded);
        let (_, lane, broken) = health.broken().next().unwrap();
        assert!(lane.lane == 1 && lane.readable && broken.error == *error, "{health}");
        assert_eq!(scratch.stats().panics, 1);
        drop(go);
        assert_eq!(scratch.flush().unwrap_err().io.as_ref(), Some(error));
        assert_eq!(scratch.stats().pending_bytes, 0, "the flush has run what waited");
        let report = scratch.close(HANGS);
        assert_eq!((report.panics, report.dropped, report.io.as_ref()), (1, 0, Some(error)));
        assert!(began.elapsed() < AT_ONCE);
    }
}

/// Blocks of an earlier run were missing for good when the thread that looked for them had panicked.
#[test]
fn a_lane_that_was_not_searched_to_the_end_does_not_say_missing() {
    let files = memory(2, 4);
    let (scratch, _) = open(files.clone(), at_once);
    let [here, other] = [1, 0].map(|lane| key_in(&scratch, lane, 1));
    // The block is in the second file of its lane.
    scratch.put_named(REALM, key_in(&scratch, 1, 3), &vec![1; 57_000]).unwrap();
    for key in [here, other] {
        scratch.put_named(REALM, key, b"of an earlier run").unwrap();
    }
    let never = [1, 0].map(|lane| key_in(&scratch, lane, 2));
    drop(scratch);
    let source = FaultySource::new(files);
    let faults = source.faults();
    faults.hold_payloads_of(FileId::new(2).unwrap());
    let (scratch, _) = open(source, at_once);
    eventually("the search is at the first file", || faults.held_payloads() >= 1);
    scratch.shared().wheel.spawn(Role::Search, 1, |_| panic!("{PLANNED}")).unwrap();
    eventually("it is told", || scratch.health().broken().count() == 1);
    let began = Instant::now();
    assert!(matches!(scratch.wait_recovered(HANGS), Err(ReadError::Io(error)) if error.panicked().is_some()));
    assert!(began.elapsed() < AT_ONCE);
    let told =
        |error: ReadError| assert!(matches!(&error, ReadError::Io(error) if error.panicked().is_some()), "{error}");
    told(scratch.get(REALM, never[0]).unwrap_err());
    told(scratch.contains(REALM, never[0]).unwrap_err());
    told(scratch.info(REALM, never[0]).unwrap_err());
    assert!(scratch.get(REALM, never[1]).unwrap_err().is_missing());
    assert!(!scratch.health().lanes().find(|lane| lane.lane == 1).unwrap().readable);
    // What was found is read.
    assert_eq!(scratch.get(REALM, here).as_deref(), Ok(&b"of an earlier run"[..]));
    faults.hold_payloads(false);
    scratch.close(HANGS);
}

/// A store of one lane whose files all exist, one of them suspect.
fn open_with_a_suspect_file(on_full: OnFull) -> (Scratch, Receiver<Event>, Arc<Faults>, FileId) {
    let source = FaultySource::new(memory(1, 4));
    let faults = source.faults();
    let (scratch, events) = open(source, |builder| at_once(builder).on_full(on_full));
    let key = key_in(&scratch, 0, 0);
    let mut number = 0;
    while scratch.stats().turns < 4 {
        scratch.put_named(REALM, key, &block(number, 9000)).unwrap();
        number += 1;
    }
    // The keeper may be the first to sync, a header: that file is made anew at once.
    eventually("a flush fails", || {
        scratch.put_named(REALM, key, &block(number, 9000)).unwrap();
        number += 1;
        faults.set(Fault::at(1).only(&[Call::Sync]).errno(Errno::Io));
        scratch.flush().is_err()
    });
    eventually("one file is suspect", || scratch.health().suspect.len() == 1);
    let file = scratch.health().suspect[0];
    (scratch, events, faults, file)
}

/// A suspect file is deleted when its turn comes. If somebody else takes its space meanwhile, it cannot be made anew:
/// every write of its lane failed then, though the other files had all their space.
#[test]
fn a_file_that_cannot_be_made_anew_costs_that_file_and_its_lane_turns_without_it() {
    for on_full in [OnFull::Recycle, OnFull::Refuse] {
        let (scratch, events, faults, file) = open_with_a_suspect_file(on_full);
        faults.set(Fault::at(1).sticky().only(&[Call::Create]));
        // Each is written in turn, that of before as well: with `Refuse` a live block keeps its file.
        let keys = [0, 1, 2].map(|seed| key_in(&scratch, 0, seed));
        let (mut number, mut written) = (0, [0; 3]);
        let mut write = |scratch: &Scratch| {
            let at = usize::try_from(number % 3).unwrap();
            scratch.put_named(REALM, keys[at], &block(number, 9000)).unwrap();
            written[at] = number;
            number += 1;
            written
        };
        eventually("the file is broken", || {
            write(&scratch);
            !scratch.health().broken_files.is_empty()
        });
        let seen = until(&events, |event| matches!(event, Event::FileBroken { .. }));
        assert!(matches!(seen.last(), Some(Event::FileBroken { file: broken, lane: 0, .. }) if *broken == file));
        let turns = scratch.stats().turns;
        let mut last = [0; 3];
        eventually("three laps of three files", || {
            last = write(&scratch);
            scratch.stats().turns >= turns + 9
        });
        eventually("it is tried again", || scratch.health().broken_files[0].attempts >= 4);
        last = write(&scratch).max(last);
        for (key, number) in keys.iter().zip(last) {
            assert_eq!(scratch.get(REALM, *key).unwrap()[..], block(number, 9000));
        }
        let health = scratch.health();
        assert_eq!((health.state, health.broken().count()), (HealthState::Degraded, 0), "{health}");
        let broken = &health.broken_files[0];
        assert_eq!((broken.file, broken.lane, broken.error.kind()), (file, 0, io::ErrorKind::StorageFull));
        assert!(shows(&health, &format!("File {file} of lane 0 is broken for")));
        assert_eq!(scratch.stats().timeouts, 0);

        faults.clear();
        eventually("it is taken back", || scratch.health().state == HealthState::Healthy);
        let is_it = |event: &Event| matches!(event, Event::FileRecycled { file: other, .. } if *other == file);
        let seen = until(&events, is_it);
        assert!(
            !seen.iter().any(|event| matches!(event, Event::LaneBroken { .. } | Event::FileBroken { .. })),
            "{seen:#?}"
        );
        eventually("it serves again", || {
            let written = write(&scratch);
            let newest = (0..3).max_by_key(|at| written[*at]).unwrap();
            scratch.info(REALM, keys[newest]).unwrap().file == file
        });
        scratch.close(HANGS);
    }
}

/// With every other file in the same state there is nothing left to turn: then the lane is broken, and says so.
#[test]
fn a_lane_whose_files_are_all_broken_but_one_is_broken_and_heals() {
    let (scratch, events, faults, _) = open_with_a_suspect_file(OnFull::Recycle);
    // Written before, too: perhaps the first write fails already.
    let kept = key_in(&scratch, 0, 0);
    // Each file that is filled from now on is suspect, and none is made anew.
    faults.set(Fault::at(1).sticky().only(&[Call::Sync, Call::Create]));
    let began = Instant::now();
    let failed = (0..10_000).find_map(|number| scratch.put_named(REALM, kept, &block(number, 9000)).err());
    assert_eq!(io_of(failed.unwrap()).kind(), io::ErrorKind::StorageFull);
    until(&events, |event| matches!(event, Event::LaneBroken { .. }));
    let health = scratch.health();
    assert_eq!((health.broken().count(), health.broken_files.len()), (1, 3), "{health}");
    assert_eq!(scratch.get(REALM, kept).unwrap().len(), 9000, "one file is left to be read");
    faults.clear();
    until(&events, |event| matches!(event, Event::LaneHealed { .. }));
    eventually("all files are back", || scratch.health().broken_files.is_empty());
    scratch.put_named(REALM, kept, b"again").unwrap();
    assert!(began.elapsed() < HANGS);
}

/// The folder was back and its disk full: the lane was called healed although no file could be made in it.
#[test]
fn a_folder_that_is_back_without_room_leaves_its_lane_broken_by_that() {
    let files = memory(2, 4);
    drop(open(files.clone(), at_once));
    {
        // What comes back holds no file.
        let files = files.clone();
        for found in files.scan().unwrap().iter().filter(|found| found.file.get() % 2 == 0) {
            files.delete(found.file).unwrap();
        }
    }
    let source = FaultySource::new(files);
    let faults = source.faults();
    faults.set(Fault::at(1).sticky().errno(Errno::Io).in_folder(1));
    let (scratch, events) = open(source, at_once);
    let broken = || scratch.health().broken().next().map(|(_, _, broken)| broken.error.kind());
    let away = broken().unwrap();
    assert_ne!(away, io::ErrorKind::StorageFull);
    faults.set(Fault::at(1).sticky().only(&[Call::Create]).in_folder(1));
    eventually("it is broken by its disk", || broken() == Some(io::ErrorKind::StorageFull));
    eventually("the folder is back", || scratch.health().lanes().all(|lane| lane.readable));
    assert_eq!(broken(), Some(io::ErrorKind::StorageFull));
    let key = key_in(&scratch, 1, 1);
    assert_eq!(io_of(scratch.put_named(REALM, key, b"no room").unwrap_err()).kind(), io::ErrorKind::StorageFull);
    assert!(scratch.get(REALM, key).unwrap_err().is_missing());
    faults.clear();
    eventually("a file is made", || scratch.health().state == HealthState::Healthy);
    scratch.put_named(REALM, key, b"room").unwrap();
    scratch.close(HANGS);
    let told: Vec<_> = events.into_iter().filter(|event| event.to_string().starts_with("lane 1")).collect();
    assert!(matches!(told[..], [Event::LaneBroken { .. }, Event::LaneHealed { .. }]), "{told:#?}");
}

/// An empty file that is older than the resumed one takes a new header before it is used. That could not be stored, and
/// nobody was told.
#[test]
fn an_empty_file_of_an_earlier_run_that_gets_no_header_is_told_and_made_anew_in_its_turn() {
    let files = memory(1, 3);
    let (scratch, _) = open(files.clone(), at_once);
    let key = key_in(&scratch, 0, 1);
    for number in 0..20 {
        scratch.put_named(REALM, key, &block(number, 9000)).unwrap();
    }
    drop(scratch);
    let empty = {
        let files = files.clone();
        let headers = files.scan().unwrap().into_iter().map(|Found { file, memory, .. }| {
            let mut page = vec![0; 4096];
            memory.load(0, &mut page).unwrap();
            (FileHeader::decode(&page).unwrap().generation, file, page)
        });
        let (_, oldest, header) = headers.min().unwrap();
        files.delete(oldest).unwrap();
        files.create(oldest, &header).unwrap();
        oldest
    };
    let source = FaultySource::new(files);
    let faults = source.faults();
    faults.set(Fault::at(1).only(&[Call::Store]));
    let (scratch, events) = open(source, at_once);
    scratch.wait_recovered(HANGS).unwrap();
    let seen = until(&events, |event| matches!(event, Event::FileBroken { .. }));
    let Some(Event::FileBroken { file, lane: 0, error }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!((*file, error.kind()), (empty, io::ErrorKind::StorageFull));
    assert_eq!(scratch.stats().file_failures, 1);
    assert_eq!(scratch.get(REALM, key).unwrap()[..], block(19, 9000));
    for number in 20..40 {
        scratch.put_named(REALM, key, &block(number, 9000)).unwrap();
    }
    until(&events, |event| matches!(event, Event::FileRecycled { file, .. } if *file == empty));
    assert_eq!(scratch.health().state, HealthState::Healthy);
}

/// The lane lacked a file that its disk had no room for, and writers were told that the store is full: nothing of that
/// goes away by itself, whereas the file was there again within seconds.
#[test]
fn a_lane_that_refuses_says_what_keeps_a_file_from_it_before_it_says_full() {
    let (scratch, _events, faults, file) = open_with_a_suspect_file(OnFull::Refuse);
    faults.set(Fault::at(1).sticky().only(&[Call::Create]));
    let mut number = 1000;
    let mut write = |seed: u64| {
        number += 1;
        scratch.put_named(REALM, key_in(&scratch, 0, seed), &block(number, 9000))
    };
    eventually("the file is broken", || {
        write(0).unwrap();
        scratch.health().broken_files.iter().any(|broken| broken.file == file)
    });
    // Blocks that live.
    let failed = (1..100).find_map(|seed| Some((seed, write(seed).err()?)));
    let (seed, error) = failed.unwrap();
    assert_eq!(io_of(error).kind(), io::ErrorKind::StorageFull);
    faults.clear();
    eventually("the file is back", || scratch.health().broken_files.is_empty());
    write(seed).unwrap();
    let full = (seed + 1..seed + 100).find_map(|seed| write(seed).err()).unwrap();
    assert!(matches!(full, WriteError::Full { .. }), "{full}");
    scratch.close(HANGS);
}
