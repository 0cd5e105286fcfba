//! Searches for blocks of an earlier run that do not come to their end: whoever waits for one is told why.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::BlockHash;
use crate::error::{PLANNED_PANIC, ReadError, WriteError};
use crate::scratch::Scratch;
use crate::scratch::small::{HANGS, REALM, block, eventually, key_in, memory, ungathered};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, thread};
use crate::wheel::{OnFull, Role};

/// Bound of a call that does not wait out its own timeout, which is `HANGS`.
const AT_ONCE: Duration = Duration::from_secs(20);
const KEY: BlockHash = BlockHash::from_u128(1);

/// Opens a store of two folders, and its faults; the second folder is not there, if it is `away`.
fn open(files: &MemoryFileSource, away: bool) -> (Scratch, Arc<Faults>) {
    let source = FaultySource::new(files.clone());
    let faults = source.faults();
    if away {
        faults.set(Fault::at(1).sticky().only(&[Call::Scan]).errno(Errno::Io).in_folder(1));
    }
    (Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap(), faults)
}

/// Files with one block in each of two lanes.
fn with_a_block_a_lane() -> MemoryFileSource {
    let files = memory(2, 4, 64 << 10);
    let (scratch, _) = open(&files, false);
    for lane in 0..2 {
        scratch.put_named(REALM, key_in(&scratch, lane, 1), b"of an earlier run").unwrap();
    }
    files
}

fn assert_told_of_the_panic(scratch: &Scratch) {
    let began = Instant::now();
    let Err(ReadError::Io(error)) = scratch.wait_recovered(HANGS) else { panic!("it is never complete") };
    assert!(error.panicked().is_some_and(|panicked| panicked.message == PLANNED_PANIC), "{error}");
    assert!(began.elapsed() < AT_ONCE);
}

/// A keeper panicked while it looked for a folder, or searched it: whoever waited for the end did so until its own timeout,
/// and was told to try again.
#[test]
fn nobody_waits_for_a_search_whose_keeper_has_panicked() {
    // The keeper has found the folder, and counted what is to be searched.
    let (scratch, _) = open(&with_a_block_a_lane(), true);
    let wheel = &scratch.shared().wheel;
    wheel.recovery.more(1, 0);
    wheel.spawn(Role::Keeper, 1, |_| panic!("{PLANNED_PANIC}")).unwrap();
    assert_told_of_the_panic(&scratch);
    scratch.close(HANGS);

    // It searches, as no thread could be had for that.
    let (scratch, faults) = open(&with_a_block_a_lane(), true);
    scratch.shared().wheel.recovery.more(1, 0);
    scratch.shared().wheel.contain(Role::Search, 1, |_| panic!("{PLANNED_PANIC}"));
    assert_told_of_the_panic(&scratch);
    faults.clear();
    scratch.close(HANGS);
}

#[test]
fn a_keeper_searches_its_folder_if_no_thread_can_be_had_for_that() {
    let (scratch, faults) = open(&with_a_block_a_lane(), true);
    scratch.shared().wheel.lacks_threads.store(true, Ordering::Relaxed);
    faults.clear();
    let key = key_in(&scratch, 1, 1);
    eventually("the folder is back", || scratch.get(REALM, key).is_ok());
    assert_eq!(scratch.wait_recovered(HANGS).unwrap().blocks, 2);
    let other = key_in(&scratch, 1, 2);
    eventually("it is known", || scratch.get(REALM, other).is_err_and(|error| error.is_missing()));
    scratch.put_named(REALM, other, b"new").unwrap();
    scratch.close(HANGS);
}

/// Who waited for the end of a search went on with that when the store was closed, until the timeout.
#[test]
fn whoever_waits_for_a_search_is_told_that_the_store_was_closed() {
    let files = with_a_block_a_lane();
    let source = FaultySource::new(files);
    let faults = source.faults();
    faults.hold_payloads(true);
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap();
    eventually("the searches read", || faults.held_payloads() >= 2);
    let began = Instant::now();
    let on_a_thread = |act: fn(&Scratch) -> Result<(), ReadError>| {
        let scratch = scratch.clone();
        thread::spawn(move || act(&scratch))
    };
    let waits = on_a_thread(|scratch| scratch.wait_recovered(HANGS).map(drop));
    // It waits for the searches.
    let closes = on_a_thread(|scratch| {
        scratch.close(HANGS);
        Ok(())
    });
    assert_eq!(waits.join().unwrap(), Err(ReadError::Closed));
    assert!(began.elapsed() < AT_ONCE);
    faults.hold_payloads(false);
    closes.join().unwrap().unwrap();
}

/// A block of 45,000 bytes under `KEY` in the first file, which has room left, and a free second one.
fn with_a_free_file() -> MemoryFileSource {
    let files = memory(1, 4, 64 << 10);
    let scratch = ungathered(files.clone());
    scratch.put_named(REALM, KEY, &vec![1; 45_000]).unwrap();
    eventually("a spare", || scratch.stats().files == 2);
    files
}

/// Free files took a sync each before the first block of the store was found.
#[test]
fn blocks_are_found_before_free_files_are_synced() {
    for on_full in [OnFull::Recycle, OnFull::Refuse] {
        let source = FaultySource::new(with_a_free_file());
        let faults = source.faults();
        faults.hold_syncs(true);
        let scratch = Scratch::builder(source).gather(0, Duration::ZERO).on_full(on_full).open().unwrap();
        eventually("it is found", || scratch.get(REALM, KEY).is_ok());
        eventually("the free file waits", || faults.held_syncs() == 1);
        assert!(!scratch.recovery().complete);
        // Into the file that has room still; after that, with `Refuse`, into one that is created, which is newer than the
        // free one.
        let blocks = if on_full == OnFull::Refuse { 3 } else { 1 };
        for number in 0..blocks {
            scratch.put(REALM, &block(number, 8000)).unwrap();
        }
        faults.hold_syncs(false);
        assert_eq!(scratch.wait_recovered(HANGS).unwrap().files, 2);
        // All files have their turn, in the order of their age.
        let mut all: Vec<_> = (0..blocks).map(|number| block(number, 8000)).collect();
        for number in 100..(if on_full == OnFull::Refuse { 110 } else { 150 }) {
            all.push(block(number, 8000));
            scratch.put(REALM, all.last().unwrap()).unwrap();
        }
        let newest = &all[all.len() - 10..];
        assert!(newest.iter().all(|block| scratch.get(REALM, BlockHash::of(block)).is_ok()));
        assert_eq!((scratch.stats().turns > 3, scratch.stats().evicted), (on_full == OnFull::Recycle, 0));
        scratch.close(HANGS);
    }
}

/// Whoever waited for the end of the search waited for syncs of all that was found: seconds, after a run that was killed.
#[test]
fn a_search_is_over_before_what_it_found_is_synced_and_no_file_dies_before_that() {
    let files = memory(1, 3, 64 << 10);
    ungathered(files.clone()).put(REALM, &block(0, 8000)).unwrap();
    let source = FaultySource::new(files);
    let faults = source.faults();
    faults.hold_syncs(true);
    let builder = Scratch::builder(source).gather(0, Duration::ZERO).wait_timeout(Duration::from_millis(100));
    let scratch = builder.open().unwrap();
    assert_eq!(scratch.wait_recovered(AT_ONCE).unwrap().blocks, 1);
    eventually("it syncs", || faults.held_syncs() >= 1);
    for number in 1..3 {
        eventually("a file is created", || scratch.put(REALM, &block(number, 57_000)).is_ok());
    }
    let new = block(3, 57_000);
    assert!(matches!(scratch.put(REALM, &new), Err(WriteError::Timeout { .. })), "it needs a file that made room");
    assert_eq!(scratch.stats().turns, 0);
    faults.hold_syncs(false);
    eventually("a file makes room", || scratch.put(REALM, &new).is_ok());
    scratch.close(HANGS);
}

/// A free file that is synced still may turn out to be none: the file that is filled took data for its sake, and nothing was
/// left for tombstones.
#[test]
fn a_full_store_keeps_its_last_file_for_tombstones_until_another_one_is_free() {
    let files = memory(1, 3, 64 << 10);
    let open = |source: FaultySource<MemoryFileSource>| {
        let builder = Scratch::builder(source).gather(0, Duration::ZERO).on_full(OnFull::Refuse);
        builder.wait_timeout(Duration::from_millis(100)).open().unwrap()
    };
    let scratch = open(FaultySource::new(files.clone()));
    let (full, old) = (block(0, 57_000), block(1, 44_000));
    for bytes in [&full, &old] {
        eventually("there is room", || scratch.put(REALM, bytes).is_ok());
    }
    eventually("all files are there", || scratch.stats().files == 3);
    drop(scratch);
    let source = FaultySource::new(files);
    let faults = source.faults();
    faults.hold_syncs(true);
    let scratch = open(source);
    let old = BlockHash::of(&old);
    eventually("it is found", || scratch.get(REALM, old).is_ok());
    eventually("the free file waits", || faults.held_syncs() == 1);
    let new = block(9, 8000);
    assert!(matches!(scratch.put(REALM, &new), Err(WriteError::Timeout { .. })));
    assert_eq!(scratch.remove(REALM, old), Ok(true));
    faults.hold_syncs(false);
    eventually("the file is free", || scratch.put(REALM, &new).is_ok());
    scratch.close(HANGS);
}
