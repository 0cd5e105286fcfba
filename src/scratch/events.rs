//! What users see of failures: events in their order, health, and a counter for each kind.
#![forbid(unsafe_code)]

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::block::{BlockHash, FileId, Slot};
use crate::error::{FailedClosure, IoError, OpenError, ReadError, WriteError};
use crate::scratch::small::{HANGS, MILLISECOND, REALM, block, eventually, key_in, memory, open_told, until};
use crate::scratch::{HealthState, Scratch};
use crate::storage::DiskFileSource;
use crate::storage::faulty::{Call, Fault, Faults, FaultySource};
use crate::sync::{Arc, Mutex, thread};
use crate::wheel::{Event, Verify, WaitCause};

#[test]
fn the_life_of_a_file_is_told_in_order() {
    let (scratch, events, _) = open_told(memory(1, 3, 64 << 10), |builder| builder);
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
            // On a machine that is busy elsewhere.
            Event::Waited { .. } => continue,
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

/// The disk refuses the file, and not for long enough that the lane counts as broken: what the write is told is the
/// disk's error, and it was counted as a timeout.
#[test]
fn a_write_that_ends_with_the_error_of_the_disk_is_no_timeout() {
    let (scratch, _events, faults) =
        open_told(memory(1, 3, 64 << 10), |builder| builder.wait_timeout(50 * MILLISECOND));
    faults.set(Fault::at(1).sticky().only(&[Call::Create]));
    let error = (0..40).find_map(|number| scratch.put(REALM, &block(number, 4096)).err());
    assert!(matches!(error, Some(WriteError::Io(_))), "{error:?}");
    assert_eq!(scratch.stats().timeouts, 0);
}

/// Two readers that compared their copies at the same time both counted the block.
#[test]
fn a_block_that_two_readers_prove_bad_is_counted_and_told_once() {
    let (scratch, events, _) = open_told(memory(1, 3, 1 << 20), |builder| builder.verify(Verify::Always));
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

#[test]
fn a_file_whose_sync_failed_is_suspect_until_it_is_made_anew() {
    let (scratch, events, faults) = open_told(memory(1, 3, 64 << 10), |builder| builder);
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
    let (scratch, events, faults) = open_told(files.clone(), |builder| builder);
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
    let (scratch, ..) = open_told(files, |builder| builder);
    assert_eq!(scratch.health().suspect, [file]);
}

/// On a disk the mark is a name. The error of the sync named the one before, which was no longer there.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn a_file_whose_sync_failed_is_called_suspect_on_its_disk_and_in_errors_and_copied_from_by_the_next_run() {
    let folder = crate::storage::test_folder::test_folder();
    let disk =
        || DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(64 << 10).build().unwrap();
    let (scratch, events, faults) = open_told(disk(), |builder| builder);
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

    let (scratch, ..) = open_told(disk(), |builder| builder);
    scratch.wait_recovered(HANGS).unwrap();
    let read = || scratch.get(REALM, hash).unwrap();
    let (one, other) = (read(), read());
    assert!(one[..] == block(1, 5000) && one.as_ptr() != other.as_ptr(), "a copy each time");
    assert_eq!(scratch.health().suspect, [FileId::new(1).unwrap()]);
}

#[test]
fn each_way_in_which_a_block_fails_is_told_and_counted_by_itself() {
    let (scratch, events, faults) = open_told(memory(1, 3, 1 << 20), |builder| builder);
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
    let (scratch, events, faults) = open_told(memory(1, 3, 1 << 20), |builder| {
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
#[cfg_attr(miri, ignore = "too many events to interpret")]
fn events_that_find_no_room_are_counted_and_told_as_many() {
    let (go, wait) = channel::<()>();
    let (wait, told) = (std::sync::Mutex::new(wait), Arc::new(Mutex::new((0_u64, 0_u64))));
    let seen = Arc::clone(&told);
    let hook = move |event: &Event| {
        let _ = wait.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        let mut seen = seen.lock();
        match event {
            Event::BlockFailed { .. } => seen.0 += 1,
            Event::Dropped { events } => seen.1 += events,
            _ => {}
        }
    };
    let scratch = Scratch::builder(memory(1, 3, 8 << 20)).on_event(hook).open().unwrap();
    let mut failed = 0;
    while scratch.stats().events_dropped < 100 {
        for _ in 0..500 {
            scratch.write(REALM, BlockHash::from_u128(failed.into()), 8, |_| ()).unwrap();
            failed += 1;
        }
        assert_eq!(scratch.flush().unwrap_err().failed, 500);
        assert!(failed < 100_000, "nothing is dropped");
    }
    let dropped = scratch.stats().events_dropped;
    drop(go);
    scratch.close(HANGS);
    assert_eq!(scratch.stats().events_dropped, dropped);
    assert_eq!(*told.lock(), (failed - dropped, dropped));
}

#[test]
fn the_file_that_is_held_longest_is_named_with_its_age() {
    let (scratch, _events, _) = open_told(memory(1, 3, 64 << 10), |builder| builder);
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
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
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

/// A smaller layout drops files once all others are synced. When one of these syncs failed the opening said so, but the
/// file kept its name: the next opening believed a page cache of which the disk had lost a part.
#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn a_file_that_could_not_be_synced_before_others_are_dropped_is_suspect_at_the_next_opening() {
    let folder = crate::storage::test_folder::test_folder();
    let faults: Arc<Faults> = Arc::default();
    let open = |files: u16| {
        let source =
            DiskFileSource::builder().folder(folder.path()).files_per_folder(files).file_size(64 << 10).build();
        Scratch::builder(FaultySource::with(source.unwrap(), Arc::clone(&faults))).gather(0, Duration::ZERO).open()
    };
    let scratch = open(5).unwrap();
    for number in 0..16 {
        scratch.put(REALM, &block(number, 16 << 10)).unwrap();
    }
    scratch.close(HANGS);
    drop(scratch);
    faults.set(Fault::at(1).only(&[Call::Sync]));
    let Err(OpenError::Io(error)) = open(3) else { panic!("a sync failed") };
    assert!(error.to_string().contains("suspect"), "{error}");
    let scratch = open(3).unwrap();
    assert_eq!(scratch.health().suspect.len(), 1);
}

/// A file that could not be marked was no longer shown once it made room, though its death could not be made durable
/// either: the store was called healthy, and the next run believed that file.
#[test]
fn a_file_that_cannot_be_marked_and_cannot_die_is_shown() {
    let (scratch, _events, faults) = open_told(memory(1, 3, 64 << 10), |builder| builder);
    let (wheel, file) = (scratch.wheel(), FileId::new(1).unwrap());
    scratch.put(REALM, b"of an old lap").unwrap();
    scratch.flush().unwrap();
    wheel.seal_active();
    eventually("it is sealed", || wheel.keepers_rest());
    assert_eq!(scratch.health().state, HealthState::Healthy);
    // Its next header is stored, and not synced.
    let calls = [Call::Sync, Call::Mark, Call::Delete];
    faults.set(Fault::at(1).sticky().only(&calls).kind(io::ErrorKind::ReadOnlyFilesystem));
    wheel.recycle_oldest();
    let health = scratch.health();
    assert_eq!((&health.suspect[..], &health.unmarked[..]), (&[][..], &[file][..]), "{health}");
    assert_ne!(health.state, HealthState::Healthy);
    faults.clear();
    eventually("it is dead", || scratch.health().unmarked.is_empty());
    assert!(scratch.close(HANGS).is_clean());
}

/// Each sync of a file that failed was told, and so was one of a file that could not be read.
#[test]
fn a_file_is_told_to_be_suspect_once() {
    for is_unreadable in [false, true] {
        let (scratch, events, faults) = open_told(memory(1, 3, 64 << 10), |builder| builder);
        let wheel = scratch.wheel();
        scratch.put(REALM, b"first").unwrap();
        let file = wheel.table.file(FileId::new(1).unwrap());
        if is_unreadable {
            wheel.tell_unreadable(file, &IoError::new("reading", None, io::Error::other("a bad sector")));
        }
        for failures in 1..3 {
            file.store(32 << 10, &[b"later"]).unwrap();
            faults.set(Fault::at(1).only(&[Call::Sync]));
            wheel.sync_file(file);
            // The lane's syncer may be the one who meets it, and counts it a moment after this one was let in.
            eventually("it is counted", || scratch.stats().sync_failures == failures);
        }
        scratch.close(HANGS);
        let told = events.iter().filter(|event| matches!(event, Event::FileSuspect { .. })).count();
        assert_eq!(told, 1, "unreadable before: {is_unreadable}");
    }
}
