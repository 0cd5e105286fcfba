//! What users see of failures: events, health, counters, and lanes that break and heal.
#![forbid(unsafe_code)]

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::block::{BlockHash, FileId, Realm, Slot};
use crate::error::{FailedClosure, OpenError, ReadError, WriteError};
use crate::scratch::{HealthState, Scratch, ScratchBuilder};
use crate::storage::faulty::{Call, Fault, Faults, FaultySource};
use crate::storage::{DiskFileSource, FileSource, MemoryFileSource};
use crate::sync::{Arc, Mutex, thread};
use crate::wheel::{Event, OnFull, Verify, WaitCause};

const REALM: Realm = Realm::DEFAULT;
/// Bound of everything that a test waits for: only a defect reaches it.
const HANGS: Duration = Duration::from_mins(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn memory(folders: u16, files: u16, bytes: u64) -> MemoryFileSource {
    MemoryFileSource::builder().folders(folders).files_per_folder(files).file_size(bytes).build().unwrap()
}

/// A store that stores each block before its call returns, its events, and its faults.
fn open(
    source: impl FileSource,
    options: impl FnOnce(ScratchBuilder) -> ScratchBuilder,
) -> (Scratch, Receiver<Event>, Arc<Faults>) {
    let source = FaultySource::new(source);
    let faults = source.faults();
    let (told, events) = channel();
    let builder = Scratch::builder(source).gather(0, Duration::ZERO).on_event(send_to(told));
    (options(builder).open().unwrap(), events, faults)
}

fn send_to(told: Sender<Event>) -> impl Fn(&Event) + Send + Sync {
    move |event| drop(told.send(event.clone()))
}

/// Bytes of which no two numbers share a hash.
fn block(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![7; len.max(8)];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Waits for the first event that `is_it`; the ones before it are given, too.
fn until(events: &Receiver<Event>, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        seen.push(events.recv_timeout(HANGS).unwrap_or_else(|_| panic!("after {seen:#?}")));
        if seen.last().is_some_and(&is_it) {
            return seen;
        }
    }
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
        thread::sleep(MILLISECOND);
    }
}

/// A key whose blocks lie in this lane.
fn key_in(scratch: &Scratch, lane: u16, seed: u64) -> BlockHash {
    let keys = (seed * 1000..).map(|number| BlockHash::of(&number.to_le_bytes()));
    let mut of_lane = keys.filter(|key| scratch.wheel().lane_of_key(REALM, *key) == lane);
    of_lane.next().unwrap()
}

#[test]
fn the_life_of_a_file_is_told_in_order() {
    let (scratch, events, _) = open(memory(1, 3, 64 << 10), |builder| builder);
    for number in 0..60 {
        scratch.put(REALM, &block(number, 4096)).unwrap();
    }
    eventually("turns", || scratch.stats().turns >= 2);
    scratch.close(HANGS);
    let mut lives = std::collections::BTreeMap::<FileId, Vec<(char, u64)>>::new();
    for event in events {
        let (file, what, generation) = match event {
            Event::FileCreated { file, lane: 0, generation } => (file, 'c', generation),
            Event::FileSealed { file, lane: 0, generation } => (file, 's', generation),
            Event::FileRecycled { file, lane: 0, generation } => (file, 'r', generation),
            other => panic!("{other}"),
        };
        lives.entry(file).or_default().push((what, generation));
    }
    assert_eq!(lives.len(), 3);
    for (file, life) in lives {
        assert_eq!(life[0].0, 'c', "{file}: {life:?}");
        for two in life.windows(2) {
            // Sealed in the lap that began before; recycled into a later one.
            let (before, after) = (two[0], two[1]);
            let is_next = match after.0 {
                's' => before.0 != 's' && after.1 == before.1,
                _ => before.0 == 's' && after.1 > before.1,
            };
            assert!(is_next, "{file}: {life:?}");
        }
    }
}

/// The folder of lane 1 takes no new file: writers of its keys waited 30 s each.
#[test]
fn a_lane_that_gets_no_file_fails_its_writes_at_once_reads_on_and_heals() {
    let (scratch, events, faults) = open(memory(2, 4, 64 << 10), |builder| builder);
    let kept = key_in(&scratch, 1, 5000);
    scratch.put_named(REALM, kept, b"kept").unwrap();
    assert_eq!(scratch.health().state, HealthState::Healthy);
    let calls = [Call::Create, Call::Store, Call::Sync, Call::Delete];
    faults.set(Fault::at(1).sticky().only(&calls[..1]).in_folder(1));
    let error = (0..200).find_map(|seed| scratch.put_named(REALM, key_in(&scratch, 1, seed), &[1; 9000]).err());
    let Some(WriteError::Io(error)) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let seen = until(&events, |event| matches!(event, Event::LaneBroken { .. }));
    assert!(seen.iter().any(|event| matches!(event, Event::FileBroken { lane: 1, .. })), "{seen:#?}");
    assert!(matches!(seen.last(), Some(Event::LaneBroken { lane: 1, error: other, .. }) if *other == error));
    assert_eq!(scratch.stats().timeouts, 0, "nobody waits for a lane that has failed three times");

    let health = scratch.health();
    assert_eq!(health.state, HealthState::Degraded);
    let (_, lane, broken) = health.broken().next().unwrap();
    assert!(lane.lane == 1 && broken.attempts >= 3 && broken.error == error, "{health}");
    assert!(
        health.to_string().starts_with("The store is degraded: 1 of 2 lanes broken.\nLane 1 is broken"),
        "{health}"
    );
    // What is there is read, what is not is missing, and the other lane takes everything.
    assert!(scratch.get(REALM, kept).as_deref() == Ok(&b"kept"[..]));
    assert!(scratch.get(REALM, key_in(&scratch, 1, 999)).unwrap_err().is_missing());
    for seed in 0..100 {
        scratch.put_named(REALM, key_in(&scratch, 0, seed), &[1; 9000]).unwrap();
    }

    faults.clear();
    until(&events, |event| matches!(event, Event::LaneHealed { lane: 1, .. }));
    assert_eq!(scratch.health().state, HealthState::Healthy);
    for seed in 0..100 {
        scratch.put_named(REALM, key_in(&scratch, 1, seed), &[1; 9000]).unwrap();
    }
    assert!(scratch.stats().file_failures >= 3);
}

/// The disk refuses the file, and not for long enough that the lane counts as broken: what the write is told is the
/// disk's error, and it was counted as a timeout.
#[test]
fn a_write_that_ends_with_the_error_of_the_disk_is_no_timeout() {
    let (scratch, _events, faults) = open(memory(1, 3, 64 << 10), |builder| builder.wait_timeout(50 * MILLISECOND));
    faults.set(Fault::at(1).sticky().only(&[Call::Create]));
    let error = (0..40).find_map(|number| scratch.put(REALM, &block(number, 4096)).err());
    assert!(matches!(error, Some(WriteError::Io(_))), "{error:?}");
    assert_eq!(scratch.stats().timeouts, 0);
}

/// Two readers that compared their copies at the same time both counted the block.
#[test]
fn a_block_that_two_readers_prove_bad_is_counted_and_told_once() {
    let (scratch, events, _) = open(memory(1, 3, 1 << 20), |builder| builder.verify(Verify::Always));
    let hash = scratch.put(REALM, &block(1, 5000)).unwrap();
    let wheel = scratch.wheel();
    let file = wheel.table.iter().next().unwrap();
    file.memory().unwrap().store(4096 + 4999, &[&[0xff]]).unwrap();
    {
        let (pin, slot, key) = (file.pin().unwrap(), Slot::new(0).unwrap(), wheel.key_hash(REALM, hash));
        let entry = pin.load_entry(slot).unwrap().unwrap();
        for _ in 0..2 {
            let read = wheel.copy_and_verify(key, &pin, slot, &entry).map(|copy| copy.len());
            assert_eq!(read, Err(ReadError::Corrupted { address: file.address(slot) }));
        }
        // The entry as well.
        let _ = wheel.entry_is_bad(key, file.address(slot));
    }
    assert_eq!((scratch.stats().corrupted, scratch.len()), (1, 0));
    scratch.close(HANGS);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::BlockCorrupted { .. })).count(), 1);
}

/// One failure is no broken lane: what waits goes on once the keeper has tried again.
#[test]
fn a_creation_that_fails_once_costs_its_writers_a_moment() {
    let (scratch, events, faults) = open(memory(1, 4, 64 << 10), |builder| builder);
    faults.set(Fault::at(1).only(&[Call::Create]));
    for number in 0..40 {
        scratch.put(REALM, &block(number, 4096)).unwrap();
    }
    assert_eq!((scratch.stats().file_failures, scratch.health().state), (1, HealthState::Healthy));
    scratch.close(HANGS);
    let events: Vec<_> = events.into_iter().collect();
    assert!(events.iter().any(|event| matches!(event, Event::FileBroken { .. })));
    assert!(!events.iter().any(|event| matches!(event, Event::LaneBroken { .. } | Event::LaneHealed { .. })));
}

#[test]
fn a_file_whose_sync_failed_is_suspect_until_it_is_made_anew() {
    let (scratch, events, faults) = open(memory(1, 3, 64 << 10), |builder| builder);
    scratch.put(REALM, b"lost, perhaps").unwrap();
    faults.set(Fault::at(1).only(&[Call::Sync]).kind(io::ErrorKind::Other));
    let told = scratch.flush().unwrap_err().io.unwrap();
    let file = FileId::new(1).unwrap();
    let seen = until(&events, |event| matches!(event, Event::FileSuspect { .. }));
    assert_eq!(seen.last(), Some(&Event::FileSuspect { file, error: told }));
    let health = scratch.health();
    assert_eq!((health.state, &health.suspect[..]), (HealthState::Degraded, &[file][..]));
    assert!(health.to_string().contains("File 1 may have lost writes"), "{health}");
    assert_eq!(scratch.stats().sync_failures, 1);
    for number in 0..40 {
        scratch.put(REALM, &block(number, 4096)).unwrap();
    }
    until(&events, |event| matches!(event, Event::FileRecycled { file: other, .. } if *other == file));
    assert_eq!((scratch.health().state, scratch.health().suspect.len()), (HealthState::Healthy, 0));
}

/// Word for the next run could not be left, as the disk had become read-only. Nobody heard of it, nor tried again when it
/// was writable: the next run believed what the system had in memory in place of what was on the disk.
#[test]
fn a_suspect_file_that_cannot_be_marked_is_told_counted_shown_and_tried_until_it_is() {
    let files = memory(1, 3, 64 << 10);
    let (scratch, events, faults) = open(files.clone(), |builder| builder);
    let file = FileId::new(1).unwrap();
    scratch.put(REALM, b"lost, perhaps").unwrap();
    let kind = io::ErrorKind::ReadOnlyFilesystem;
    faults.set(Fault::at(1).sticky().only(&[Call::Sync, Call::Mark]).kind(kind));
    scratch.flush().unwrap_err();
    faults.set(Fault::at(1).sticky().only(&[Call::Mark]).kind(kind));
    eventually("it is tried again", || scratch.stats().mark_failures >= 3);
    let health = scratch.health();
    assert_eq!((&health.suspect[..], &health.unmarked[..]), (&[file][..], &[file][..]));
    assert!(health.to_string().contains("File 1 cannot be marked for the next run"), "{health}");
    faults.clear();
    eventually("it is marked", || scratch.health().unmarked.is_empty());
    assert_eq!(scratch.health().suspect, [file]);
    assert_eq!(scratch.close(HANGS).unmarked, 0);
    let told: Vec<_> = events.iter().filter(|event| matches!(event, Event::FileUnmarked { .. })).collect();
    assert!(matches!(&told[..], [Event::FileUnmarked { error, .. }] if error.kind() == kind), "{told:#?}");
    drop(scratch);
    let (scratch, ..) = open(files, |builder| builder);
    assert_eq!(scratch.health().suspect, [file]);
}

/// On a disk the mark is a name. The error of the sync named the one before, which was no longer there.
#[test]
fn a_file_whose_sync_failed_is_called_suspect_on_its_disk_and_in_errors_and_copied_from_by_the_next_run() {
    let folder = crate::storage::test_folder::test_folder();
    let disk =
        || DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(64 << 10).build().unwrap();
    let (scratch, events, faults) = open(disk(), |builder| builder);
    let hash = scratch.put(REALM, &block(1, 5000)).unwrap();
    faults.set(Fault::at(1).only(&[Call::Sync]));
    let error = scratch.flush().unwrap_err().io.unwrap();
    let path = error.path().unwrap().to_owned();
    assert!(path.exists() && path.extension().unwrap() == "suspect", "{error}");
    until(&events, |event| matches!(event, Event::FileSuspect { error: told, .. } if *told == error));
    faults.set(Fault::at(1).only(&[Call::Load]).kind(io::ErrorKind::Other));
    let Err(ReadError::Io(error)) = scratch.get(REALM, hash) else { panic!("it is copied, which fails") };
    assert_eq!(error.path(), Some(&*path));
    drop((scratch, events));

    let (scratch, ..) = open(disk(), |builder| builder);
    scratch.wait_recovered(HANGS).unwrap();
    let read = || scratch.get(REALM, hash).unwrap();
    let (one, other) = (read(), read());
    assert!(one[..] == block(1, 5000) && one.as_ptr() != other.as_ptr(), "a copy each time");
    assert_eq!(scratch.health().suspect, [FileId::new(1).unwrap()]);
}

#[test]
fn each_way_in_which_a_block_fails_is_told_and_counted_by_itself() {
    let (scratch, events, faults) = open(memory(1, 3, 1 << 20), |builder| builder);
    let failed = |what: &str| {
        let seen = until(&events, |event| matches!(event, Event::BlockFailed { .. }));
        match seen.last() {
            Some(Event::BlockFailed { realm: REALM, hash, reason }) => (*hash, reason.clone()),
            other => panic!("{what}: {other:?}"),
        }
    };
    let hash = BlockHash::of(&block(1, 100));
    scratch.write(REALM, hash, 100, |_| panic!("as the test asks")).unwrap();
    scratch.flush().unwrap_err();
    assert_eq!(failed("panicked"), (hash, FailedClosure::Panicked));

    scratch.write(REALM, hash, 100, |bytes| bytes.fill(0)).unwrap();
    scratch.flush().unwrap_err();
    let (expected, found) = (hash, BlockHash::of(&[0; 100]));
    assert_eq!(failed("wrong hash"), (hash, FailedClosure::WrongHash { expected, found }));

    faults.set(Fault::at(1).only(&[Call::Store]));
    scratch.write(REALM, hash, 100, |bytes| bytes.copy_from_slice(&block(1, 100))).unwrap();
    scratch.flush().unwrap_err();
    let (key, reason) = failed("not stored");
    assert!(key == hash && matches!(reason, FailedClosure::Io(_)), "{reason}");

    // The first one hangs, so that the second waits still when the store closes.
    let (go, wait) = channel::<()>();
    let (begun, running) = channel();
    let hang = move |_: &mut [u8]| {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    scratch.write_named(REALM, key_in(&scratch, 0, 1), 8, hang).unwrap();
    running.recv_timeout(HANGS).unwrap();
    scratch.write(REALM, hash, 100, |_| ()).unwrap();
    let stats = || {
        let stats = scratch.stats();
        [stats.failed, stats.failed_panicked, stats.failed_wrong_hash, stats.failed_io, stats.failed_abandoned]
    };
    assert_eq!(stats(), [3, 1, 1, 1, 0]);
    assert_eq!(scratch.stats().store_failures, 1);
    scratch.close(Duration::ZERO);
    drop(go);
    assert_eq!(stats()[4], 1);
}

#[test]
fn a_bad_block_an_unreadable_one_and_a_late_one_are_three_counters() {
    let (scratch, events, faults) = open(memory(1, 3, 1 << 20), |builder| {
        builder.verify(Verify::Always).wait_timeout(20 * MILLISECOND).report_waits(MILLISECOND)
    });
    let hash = scratch.put(REALM, &block(1, 5000)).unwrap();
    faults.set(Fault::at(1).only(&[Call::Load]).kind(io::ErrorKind::Other));
    assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Io(_))));
    let file = scratch.wheel().table.iter().next().unwrap();
    file.memory().unwrap().store(4096 + 4999, &[&[0xff]]).unwrap();
    let Err(ReadError::Corrupted { address }) = scratch.get(REALM, hash) else { panic!() };
    let seen = until(&events, |event| matches!(event, Event::BlockCorrupted { .. }));
    assert_eq!(seen.last(), Some(&Event::BlockCorrupted { address }));

    let (go, wait) = channel::<()>();
    let (begun, running) = channel();
    let key = key_in(&scratch, 0, 1);
    let hang = move |_: &mut [u8]| {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    scratch.write_named(REALM, key, 8, hang).unwrap();
    running.recv_timeout(HANGS).unwrap();
    assert!(matches!(scratch.get(REALM, key), Err(ReadError::Busy { .. })));
    let stats = scratch.stats();
    assert_eq!((stats.corrupted, stats.read_errors, stats.timeouts), (1, 1, 1));
    // On a slow machine other calls wait for more than a millisecond too.
    assert!(stats.long_waits >= 1);
    let seen = until(&events, |event| matches!(event, Event::Waited { cause: WaitCause::Block, .. }));
    let Some(Event::Waited { thread: name, lane: 0, waited, .. }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(name.as_deref(), thread::current().name());
    assert!(*waited >= 20 * MILLISECOND);
    drop(go);
}

#[test]
fn each_cause_of_a_wait_is_told() {
    let (scratch, events, faults) = open(memory(1, 3, 1 << 20), |builder| {
        builder
            .on_full(OnFull::Refuse)
            .max_pending_bytes(0)
            .max_staging_bytes(4096)
            .wait_timeout(20 * MILLISECOND)
            .report_waits(MILLISECOND)
    });
    let causes =
        |wanted| drop(until(&events, |event| matches!(event, Event::Waited { cause, .. } if *cause == wanted)));
    let (go, wait) = channel::<()>();
    let (begun, running) = channel();
    let hang = move |_: &mut [u8]| {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    scratch.write_named(REALM, key_in(&scratch, 0, 1), 4096, hang).unwrap();
    running.recv_timeout(HANGS).unwrap();
    // The one that runs has all the staging memory; the next one waits for it, and one more for the budget.
    let next = key_in(&scratch, 0, 2);
    scratch.write_named(REALM, next, 8, |_| ()).unwrap();
    assert!(matches!(scratch.get(REALM, next), Err(ReadError::Busy { .. })));
    causes(WaitCause::Staging);
    let error = scratch.write_named(REALM, key_in(&scratch, 0, 3), 8, |_| ()).unwrap_err();
    assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
    causes(WaitCause::Budget);
    drop(go);
    scratch.flush().unwrap();
    // A lane whose creation fails once lets its writers wait for the next try.
    faults.set(Fault::at(1).sticky().only(&[Call::Create]));
    let error = (0..1000).find_map(|number| scratch.put(REALM, &block(number, 100_000)).err()).unwrap();
    assert!(matches!(error, WriteError::Io(_)), "{error}");
    causes(WaitCause::Space);
}

#[test]
fn the_file_that_is_held_longest_is_named_with_its_age() {
    let (scratch, _events, _) = open(memory(1, 3, 64 << 10), |builder| builder);
    let held = scratch.get(REALM, scratch.put(REALM, &block(0, 4096)).unwrap()).unwrap();
    assert_eq!(scratch.health().oldest_pin, None);
    for number in 1..40 {
        scratch.put(REALM, &block(number, 4096)).unwrap();
    }
    let pin = || scratch.health().oldest_pin;
    eventually("the file drains", || pin().is_some());
    let (file, age) = (pin().unwrap().file, pin().unwrap().age);
    eventually("time goes on", || pin().is_some_and(|pin| pin.age > age));
    assert_eq!(file, FileId::new(1).unwrap());
    assert!(scratch.health().to_string().contains("File 1 waits for its readers for"), "{}", scratch.health());
    drop(held);
    eventually("the file is free", || pin().is_none());
}

#[test]
fn a_hook_may_call_the_store() {
    let handle: Arc<Mutex<Option<Scratch>>> = Arc::default();
    let (told, seen) = channel();
    let own = Arc::clone(&handle);
    let hook = move |event: &Event| {
        let Some(scratch) = own.lock().clone() else { return };
        if matches!(event, Event::FileSealed { .. }) {
            let hash = scratch.put(REALM, b"from the hook").unwrap();
            assert_eq!(scratch.get(REALM, hash).as_deref(), Ok(&b"from the hook"[..]));
            scratch.flush().unwrap();
            told.send(scratch.health().state).unwrap();
        }
    };
    let scratch = Scratch::builder(memory(1, 3, 64 << 10)).on_event(hook).open().unwrap();
    *handle.lock() = Some(scratch.clone());
    for number in 0..40 {
        scratch.put(REALM, &block(number, 4096)).unwrap();
    }
    assert_eq!(seen.recv_timeout(HANGS).unwrap(), HealthState::Healthy);
    assert_eq!(scratch.stats().hook_panics, 0);
    // A close from the hook's own thread is checked below; this one ends it, with its handle in it.
    scratch.close(HANGS);
}

/// The hook drops the last handle on its own thread: that thread would have joined itself.
#[test]
fn a_hook_that_drops_the_last_handle_neither_hangs_nor_keeps_the_folder() {
    let folder = crate::storage::test_folder::test_folder();
    let source = || {
        let builder = DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(64 << 10);
        builder.build()
    };
    let handle: Arc<Mutex<Option<Scratch>>> = Arc::default();
    let own = Arc::clone(&handle);
    let (told, seen) = channel();
    let hook = move |event: &Event| {
        if matches!(event, Event::FileSealed { .. }) {
            let scratch = own.lock().take();
            drop(scratch);
            let _ = told.send(());
        }
    };
    let scratch = Scratch::builder(source().unwrap()).gather(0, Duration::ZERO).on_event(hook).open().unwrap();
    let mut put = 0;
    while scratch.put(REALM, &block(put, 4096)).is_ok()
        && scratch.wheel().table.iter().next().unwrap().cursor.next_page() < 15
    {
        put += 1;
    }
    *handle.lock() = Some(scratch.clone());
    let last = scratch.clone();
    drop(scratch);
    // Fills the first file, whatever the keeper has done by now; the hook hears of it and drops what was put into `handle`,
    // once we have dropped ours.
    while !last.wheel().table.iter().next().unwrap().cursor.is_sealed() && put < 100 {
        last.put(REALM, &block(put, 4096)).unwrap();
        put += 1;
    }
    drop(last);
    seen.recv_timeout(HANGS).unwrap();
    eventually("the folder is free again", || source().is_ok());
}

#[test]
fn what_a_hook_holds_is_dropped_by_the_close() {
    struct Held(Sender<Option<String>>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.send(thread::current().name().map(str::to_owned)).unwrap();
        }
    }
    let (dropped, seen) = channel();
    let held = Held(dropped);
    let hook = move |_: &Event| {
        let _ = &held;
    };
    let scratch = Scratch::builder(memory(1, 3, 64 << 10)).on_event(hook).open().unwrap();
    let report = scratch.close(HANGS);
    assert_eq!(report.dropped, 0);
    assert_eq!(seen.try_recv().unwrap().as_deref(), Some("scratch-event"), "the close has waited for it");
    assert_eq!(scratch.health().state, HealthState::Failed);
    assert!(scratch.health().closed && scratch.health().to_string().contains("It was closed."));
}

#[test]
fn a_hook_that_hangs_or_panics_does_not_hold_the_store_up() {
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let hook = move |_: &Event| {
        wait.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv().ok();
        panic!("as the test asks");
    };
    let scratch = Scratch::builder(memory(1, 3, 64 << 10)).on_event(hook).open().unwrap();
    for number in 0..100 {
        scratch.put(REALM, &block(number, 4096)).unwrap();
    }
    scratch.flush().unwrap();
    assert_eq!(scratch.close(10 * MILLISECOND).lent, 0);
    assert_eq!(scratch.stats().hook_panics, 0);
    drop(go);
    eventually("all events are told", || scratch.stats().hook_panics > 3);
}

/// A store of two folders, which forgets nothing of them when it is closed.
fn open_over(files: &MemoryFileSource, faults: &Arc<Faults>) -> Result<(Scratch, Receiver<Event>), OpenError> {
    let (told, events) = channel();
    let source = FaultySource::with(files.clone(), Arc::clone(faults));
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).on_event(send_to(told)).open()?;
    Ok((scratch, events))
}

/// The disk of one folder does not answer, whatever is asked of it.
fn dead_folder() -> Fault {
    Fault::at(1).sticky().kind(io::ErrorKind::Other).in_folder(1)
}

#[test]
fn a_folder_that_is_not_there_at_open_fails_its_keys_and_is_taken_back() {
    for calls in [&[Call::Scan][..], &[Call::Load], &Call::ALL] {
        let files = memory(2, 4, 64 << 10);
        let faults = Arc::<Faults>::default();
        let (scratch, _events) = open_over(&files, &faults).unwrap();
        let [here, gone] = [0, 1].map(|lane| (0..5).map(|seed| key_in(&scratch, lane, seed)).collect::<Vec<_>>());
        for (number, key) in here.iter().chain(&gone).enumerate() {
            scratch.put_named(REALM, *key, &block(number as u64, 3000)).unwrap();
        }
        let removed = gone[4];
        scratch.remove(REALM, removed).unwrap();
        drop(scratch);

        faults.set(dead_folder().only(calls));
        let (scratch, events) = open_over(&files, &faults).unwrap();
        scratch.wait_recovered(HANGS).unwrap();
        assert!(matches!(events.recv_timeout(HANGS), Ok(Event::LaneBroken { lane: 1, .. })));
        // A miss would be a lie: each verb says why it does not know.
        for key in &gone {
            assert!(matches!(scratch.get(REALM, *key), Err(ReadError::Io(_))), "{calls:?}");
            assert!(matches!(scratch.read_verified(REALM, *key, |_| ()), Err(ReadError::Io(_))));
            assert!(matches!(scratch.contains(REALM, *key), Err(ReadError::Io(_))));
            assert!(matches!(scratch.info(REALM, *key), Err(ReadError::Io(_))));
            assert!(matches!(scratch.remove(REALM, *key), Err(WriteError::Io(_))));
            assert!(matches!(scratch.put_named(REALM, *key, b"new"), Err(WriteError::Io(_))));
            assert!(matches!(scratch.write_named(REALM, *key, 8, |_| ()), Err(WriteError::Io(_))));
        }
        let mut found = Vec::new();
        let keys = [&here[..], &gone].concat();
        scratch.get_many(REALM, &keys, |at, block| found.push((at, block.map(<[u8]>::len)))).unwrap();
        assert!(found.len() == 10 && found[..5].iter().all(|(_, len)| *len == Ok(3000)), "{found:?}");
        assert!(found[5..].iter().all(|(_, error)| matches!(error, Err(ReadError::Io(_)))), "{found:?}");
        // A list of what is there would be one too, without that.
        let mut visited = Vec::new();
        let listed = scratch.for_each(REALM, |block| visited.push(block.hash));
        visited.sort();
        let mut there = here.clone();
        there.sort();
        assert_eq!((visited, scratch.len()), (there, 5));
        let Err(ReadError::Io(error)) = listed else { panic!("{listed:?}") };
        assert_eq!(error, scratch.health().broken().next().unwrap().2.error);
        // What is there was searched: nobody waits for the rest.
        assert!(scratch.recovery().complete && scratch.recovery().files_total == scratch.recovery().report.files);
        // Of many blocks those of the other lane are stored.
        let many: Vec<Vec<u8>> = (100..110).map(|number| block(number, 100)).collect();
        let slices: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        assert!(matches!(scratch.put_many(REALM, &slices), Err(WriteError::Io(_))));
        for bytes in &many {
            let hash = BlockHash::of(bytes);
            let is_here = scratch.wheel().lane_of_key(REALM, hash) == 0;
            assert_eq!(scratch.contains(REALM, hash), if is_here { Ok(true) } else { scratch.contains(REALM, hash) });
        }
        for (number, key) in here.iter().enumerate() {
            assert_eq!(scratch.get(REALM, *key).unwrap()[..], block(number as u64, 3000));
            scratch.put_named(REALM, *key, &block(number as u64 + 50, 3000)).unwrap();
        }
        scratch.flush().unwrap();
        let health = scratch.health();
        assert_eq!(health.state, HealthState::Degraded);
        let lane = &health.folders[1].lanes[0];
        assert!(!lane.readable && lane.broken.is_some(), "{health}");
        assert!(health.to_string().contains("it cannot be read"), "{health}");

        // Back, and not searched yet: the search ends with syncs, which wait.
        faults.hold_syncs(true);
        faults.clear();
        eventually("the folder is searched", || !scratch.recovery().complete);
        assert!(matches!(scratch.wait_recovered(Duration::ZERO), Err(ReadError::Busy { .. })));
        assert!(matches!(scratch.for_each(REALM, |_| ()), Err(ReadError::Io(_))));
        assert!(matches!(scratch.contains(REALM, key_in(&scratch, 1, 77)), Err(ReadError::Io(_))));
        faults.hold_syncs(false);
        eventually("the folder is back", || scratch.health().state == HealthState::Healthy);
        until(&events, |event| matches!(event, Event::LaneHealed { lane: 1, .. }));
        scratch.wait_recovered(HANGS).unwrap();
        for (number, key) in gone.iter().enumerate().take(4) {
            assert_eq!(scratch.get(REALM, *key).unwrap()[..], block(number as u64 + 5, 3000));
        }
        assert!(scratch.get(REALM, removed).unwrap_err().is_missing());
        assert_eq!(scratch.recovery().files_total, scratch.recovery().report.files);
        let mut visited = 0;
        scratch.for_each(REALM, |_| visited += 1).unwrap();
        assert!(visited >= 9 && visited == scratch.len(), "{visited}");
    }
}

/// While the folder was away the other lanes have taken generations beyond those of its files: what is written to it
/// afterwards must still be younger than what it holds, also for the next run.
#[test]
fn a_folder_that_comes_back_keeps_the_order_of_its_versions() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    let key = key_in(&scratch, 1, 1);
    let fill = |scratch: &Scratch, lane, from, blocks| {
        for seed in from..from + blocks {
            scratch.put_named(REALM, key_in(scratch, lane, seed), &[1; 9000]).unwrap();
        }
    };
    // The folder that goes has the higher generations first, and the lower ones later.
    fill(&scratch, 1, 100, 100);
    scratch.put_named(REALM, key, b"first").unwrap();
    drop(scratch);
    faults.set(dead_folder());
    let (scratch, _) = open_over(&files, &faults).unwrap();
    fill(&scratch, 0, 300, 150);
    assert!(scratch.stats().turns > 10);
    faults.clear();
    eventually("the folder is back", || scratch.health().state == HealthState::Healthy);
    assert_eq!(scratch.get(REALM, key).as_deref(), Ok(&b"first"[..]));
    scratch.put_named(REALM, key, b"second").unwrap();
    // Its files turn, and the newest version goes on to be the one.
    for lap in 0..8 {
        fill(&scratch, 1, 500 + 100 * lap, 8);
        scratch.put_named(REALM, key, &block(lap, 100)).unwrap();
    }
    assert_eq!(scratch.get(REALM, key).unwrap()[..], block(7, 100));
    drop(scratch);
    let (scratch, _) = open_over(&files, &faults).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    assert_eq!(scratch.get(REALM, key).unwrap()[..], block(7, 100));
}

#[test]
fn a_store_that_needs_all_of_its_folders_is_refused_without_one() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    let is_io = |result: Result<_, OpenError>| match result {
        Err(OpenError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::Other),
        other => panic!("{:?}", other.map(|(scratch, _): (Scratch, Receiver<Event>)| scratch)),
    };
    // A new one: nobody knows its lanes.
    faults.set(dead_folder());
    is_io(open_over(&files, &faults));
    assert_eq!(files.clone().scan().unwrap().len(), 0);
    faults.clear();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    let key = key_in(&scratch, 1, 1);
    scratch.put_named(REALM, key, b"kept").unwrap();
    drop(scratch);
    // All gone; and one gone whose blocks would be back after a reset.
    faults.set(Fault::at(1).sticky().kind(io::ErrorKind::Other));
    is_io(open_over(&files, &faults));
    faults.set(dead_folder());
    for temporary in [false, true] {
        let builder = Scratch::builder(FaultySource::with(files.clone(), Arc::clone(&faults)));
        let builder = if temporary { builder.temporary() } else { builder.reset() };
        assert!(matches!(builder.open(), Err(OpenError::Io(_))));
    }
    faults.clear();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    assert_eq!(scratch.get(REALM, key).as_deref(), Ok(&b"kept"[..]), "nothing was touched");
}

#[test]
fn a_store_whose_folder_never_comes_back_closes_like_any_other() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    drop(open_over(&files, &faults).unwrap());
    faults.set(dead_folder());
    let (scratch, events) = open_over(&files, &faults).unwrap();
    let attempts = || scratch.health().broken().next().map_or(0, |(_, _, broken)| broken.attempts);
    eventually("it is tried again", || attempts() >= 3);
    assert!(scratch.stats().file_failures >= 2);
    let began = Instant::now();
    scratch.close(HANGS);
    assert!(began.elapsed() < HANGS / 2);
    drop(scratch);
    let told = events.into_iter().filter(|event| matches!(event, Event::LaneBroken { .. })).count();
    assert_eq!(told, 1);
}

/// Generations that a lane has taken while the folder of another was away were taken by that one, too, and the next
/// opening refused them: no two files had the same, until then.
#[test]
fn lanes_may_share_a_generation_once_a_folder_was_away() {
    let files = memory(2, 3, 64 << 10);
    let faults = Arc::<Faults>::default();
    let (scratch, _) = open_over(&files, &faults).unwrap();
    let put = |scratch: &Scratch, lane, seed| {
        let key = key_in(scratch, lane, seed);
        scratch.put_named(REALM, key, &[1; 9000]).unwrap();
        scratch.info(REALM, key).unwrap().generation
    };
    let newest = (0..100).map(|seed| put(&scratch, 1, seed)).max().unwrap();
    drop(scratch);
    faults.set(dead_folder());
    let (scratch, _) = open_over(&files, &faults).unwrap();
    assert!((200..600).any(|seed| put(&scratch, 0, seed) >= newest));
    faults.clear();
    eventually("the folder is back", || scratch.health().state == HealthState::Healthy);
    drop(scratch);
    let (scratch, _) = open_over(&files, &faults).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    put(&scratch, 1, 99);
}
