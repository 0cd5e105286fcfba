//! Searches for blocks of an earlier run that do not come to their end: whoever waits for one is told why.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::error::{PLANNED_PANIC, ReadError};
use crate::scratch::Scratch;
use crate::scratch::small::{HANGS, REALM, eventually, key_in, memory};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, thread};
use crate::wheel::Role;

/// Bound of a call that does not wait out its own timeout, which is `HANGS`.
const AT_ONCE: Duration = Duration::from_secs(20);

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
    faults.hold_syncs(true);
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap();
    eventually("the searches are at their last step", || faults.held_syncs() >= 2);
    let began = Instant::now();
    let on_a_thread = |act: fn(&Scratch) -> Result<(), ReadError>| {
        let scratch = scratch.clone();
        thread::spawn(move || act(&scratch))
    };
    let waits = on_a_thread(|scratch| scratch.wait_recovered(HANGS).map(drop));
    // It syncs, and is held up by that.
    let closes = on_a_thread(|scratch| {
        scratch.close(HANGS);
        Ok(())
    });
    assert_eq!(waits.join().unwrap(), Err(ReadError::Closed));
    assert!(began.elapsed() < AT_ONCE);
    faults.hold_syncs(false);
    closes.join().unwrap().unwrap();
}
