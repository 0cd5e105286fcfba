//! What a close says of blocks that are lost with it.
#![forbid(unsafe_code)]

use std::io;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::block::BlockHash;
use crate::error::{FailedClosure, WriteError};
use crate::scratch::small::{HANGS, REALM, eventually};
use crate::scratch::{Scratch, ScratchBuilder};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource};
use crate::sync::{Arc, Mutex, thread};
use crate::wheel::CloseReport;

fn memory() -> MemoryFileSource {
    MemoryFileSource::builder().files_per_folder(3).file_size(1 << 20).build().unwrap()
}

fn open(files: &MemoryFileSource, options: impl FnOnce(ScratchBuilder) -> ScratchBuilder) -> (Scratch, Arc<Faults>) {
    let source = FaultySource::new(files.clone()).named();
    let faults = source.faults();
    (options(Scratch::builder(source)).open().unwrap(), faults)
}

/// Nothing is stored before somebody asks for it.
fn gathers(builder: ScratchBuilder) -> ScratchBuilder {
    builder.gather(64 << 10, Duration::from_secs(10))
}

fn key(number: u128) -> BlockHash {
    BlockHash::from_u128(number)
}

#[test]
fn a_close_that_loses_nothing_is_clean() {
    let (scratch, _) = open(&memory(), gathers);
    scratch.put_named(REALM, key(1), b"gathered").unwrap();
    scratch.write_named(REALM, key(2), 100, |bytes| bytes.fill(1)).unwrap();
    scratch.remove(REALM, key(1)).unwrap();
    let held = scratch.get(REALM, key(2)).unwrap();
    let report = scratch.close(HANGS);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(scratch.close(HANGS), CloseReport::default());
    drop(held);
}

/// Blocks whose `put` had returned were lost in the close, and the report said that nothing was.
#[test]
fn a_close_over_a_disk_that_stores_nothing_says_how_many_blocks_are_lost() {
    let files = memory();
    let (scratch, faults) = open(&files, gathers);
    for number in 0..3 {
        scratch.put_named(REALM, key(number), b"gathered").unwrap();
    }
    faults.set(Fault::at(1).sticky().only(&[Call::Store]).errno(Errno::Io));
    let report = scratch.close(HANGS);
    assert_eq!((report.failed, report.unstored, report.unfinished, report.dropped), (3, 0, 0, 0), "{report:?}");
    let error = report.io.clone().unwrap();
    assert_eq!((error.kind(), error.path().is_some()), (Errno::Io.error().kind(), true), "{error}");
    assert!(!report.is_clean());
    drop(scratch);
    let (scratch, _) = open(&files, gathers);
    scratch.wait_recovered(HANGS).unwrap();
    assert_eq!(scratch.len(), 0);
}

#[test]
fn a_close_whose_sync_fails_says_so_unless_a_flush_has() {
    for is_flushed in [false, true] {
        let (scratch, faults) = open(&memory(), gathers);
        scratch.put_named(REALM, key(1), b"lost, perhaps").unwrap();
        faults.set(Fault::at(1).only(&[Call::Sync]).kind(io::ErrorKind::Other));
        let told = is_flushed.then(|| scratch.flush().unwrap_err().io.unwrap());
        let report = scratch.close(HANGS);
        assert_eq!((report.failed, report.is_clean()), (0, is_flushed), "{report:?}");
        assert!(told.xor(report.io).unwrap().to_string().contains("Sync was made to fail"));
    }
}

#[test]
fn closures_that_fail_are_dropped_or_hang_are_three_numbers() {
    let (scratch, _) = open(&memory(), gathers);
    // Another thread runs it, whoever comes first, and fails.
    scratch.write(REALM, key(1), 8, |bytes| bytes.fill(0)).unwrap();
    eventually("it has failed", || scratch.stats().failed == 1);
    let (go, wait) = channel::<()>();
    let (begun, running) = channel();
    let hang = move |_: &mut [u8]| {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    scratch.write_named(REALM, key(2), 8, hang).unwrap();
    running.recv_timeout(HANGS).unwrap();
    for number in 3..5 {
        scratch.write_named(REALM, key(number), 8, |_| ()).unwrap();
    }
    let report = scratch.close(Duration::ZERO);
    drop(go);
    assert_eq!((report.ran, report.failed, report.dropped, report.unfinished), (0, 1, 2, 1), "{report:?}");
    assert!(report.io.is_none() && !report.is_clean(), "{report:?}");
}

#[test]
fn a_closure_that_fails_while_the_store_closes_has_not_run_well() {
    let (scratch, _) = open(&memory(), gathers);
    let (go, wait) = channel::<()>();
    let (begun, running) = channel();
    let hang = move |_: &mut [u8]| {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    scratch.write_named(REALM, key(1), 8, hang).unwrap();
    running.recv_timeout(HANGS).unwrap();
    scratch.write(REALM, key(2), 8, |bytes| bytes.fill(0)).unwrap();
    // The last one that is run: it lets the other one go.
    scratch.write_named(REALM, key(3), 8, move |_| drop(go)).unwrap();
    let report = scratch.close(HANGS);
    assert_eq!((report.ran, report.failed, report.dropped, report.unfinished), (1, 1, 0, 0), "{report:?}");
}

#[test]
fn a_flush_that_has_told_of_a_failure_leaves_a_close_clean() {
    let (scratch, _) = open(&memory(), gathers);
    scratch.write(REALM, key(1), 8, |bytes| bytes.fill(0)).unwrap();
    let told = scratch.flush().unwrap_err();
    assert!(matches!(told.first, Some(FailedClosure::WrongHash { .. })), "{told}");
    let report = scratch.close(HANGS);
    assert!(report.is_clean(), "{report:?}");
}

/// The deadline passed, the blocks were neither stored nor failed, and the report said nothing.
#[test]
fn a_close_whose_time_is_over_while_a_store_hangs_says_what_is_not_stored() {
    let files = memory();
    let (scratch, faults) = open(&files, |builder| builder.gather(64 << 10, Duration::from_millis(1)));
    faults.hold_stores(true);
    scratch.put_named(REALM, key(1), b"on its way").unwrap();
    eventually("the flusher stores", || faults.held_stores() == 1);
    let report = scratch.close(Duration::from_millis(50));
    faults.hold_stores(false);
    assert_eq!((report.unstored, report.failed, report.unfinished), (1, 0, 0), "{report:?}");
    assert!(!report.is_clean());
    drop(scratch);
    // What was left behind ends by itself.
    eventually("the folder is free", || {
        Scratch::open(files.clone()).is_ok_and(|scratch| {
            scratch.wait_recovered(HANGS).unwrap();
            scratch.read(REALM, key(1), |bytes| bytes == b"on its way") == Ok(true)
        })
    });
}

#[test]
fn a_close_by_the_store_itself_says_that_it_waited_for_nothing() {
    let (scratch, _) = open(&memory(), gathers);
    let (told, reports) = channel();
    let inner = scratch.clone();
    scratch.put_named(REALM, key(1), b"gathered").unwrap();
    scratch.write_named(REALM, key(2), 8, move |_| told.send(inner.close(HANGS)).unwrap()).unwrap();
    let report = reports.recv_timeout(HANGS).unwrap();
    assert!(report.detached && report.unfinished == 1 && report.unstored == 1 && !report.is_clean(), "{report:?}");
}

/// A `put` stored its block after the last sync of the close, and returned that all was well; so did the close.
#[test]
fn a_close_whose_time_is_over_while_a_put_stores_says_so() {
    let (scratch, faults) = open(&memory(), |builder| builder.gather(0, Duration::ZERO));
    faults.hold_stores(true);
    let writer = {
        let scratch = scratch.clone();
        thread::spawn(move || scratch.put_named(REALM, key(1), b"on its way"))
    };
    eventually("it stores", || faults.held_stores() == 1);
    let report = scratch.close(Duration::from_millis(50));
    faults.hold_stores(false);
    writer.join().unwrap().unwrap();
    assert_eq!((report.unfinished, report.unstored, report.is_clean()), (1, 0, false), "{report:?}");
}

/// A call ran a closure that hung; the close counted that closure, and the call as well, which wrote nothing besides. (One
/// that did write its own block did so after the last sync.)
#[test]
fn a_call_that_is_in_a_hung_closure_is_not_counted_beside_it_and_writes_nothing_afterwards() {
    type Act = fn(&Scratch) -> Result<(), WriteError>;
    let bytes = [7; 8];
    let closed = Err(WriteError::Closed);
    let calls: [(&str, Act, Result<(), WriteError>); 6] = [
        ("a put of the key", |scratch| scratch.put_named(REALM, BlockHash::of(&[7; 8]), b"newer"), closed.clone()),
        ("a removal of it", |scratch| scratch.remove(REALM, BlockHash::of(&[7; 8])).map(drop), closed.clone()),
        ("a put of the content", |scratch| scratch.put(REALM, &[7; 8]).map(drop), Ok(())),
        ("puts, one of the content", |scratch| scratch.put_many(REALM, &[&[7; 8], b"2"]).map(drop), closed.clone()),
        ("a write that waits for budget", |scratch| scratch.write_named(REALM, key(3), 8, |_| ()), closed),
        ("a flush", |scratch| scratch.flush().map_err(|error| panic!("{error}")), Ok(())),
    ];
    for (what, call, expected) in calls {
        let (scratch, _) = open(&memory(), |builder| gathers(builder).max_pending_bytes(0));
        let ((go, wait), (begun, running)) = (channel::<()>(), channel());
        let wait = Arc::new(Mutex::new(wait));
        let hang = || {
            let (wait, begun) = (Arc::clone(&wait), begun.clone());
            move |block: &mut [u8]| {
                block.copy_from_slice(&bytes);
                begun.send(()).unwrap();
                let _ = wait.lock().recv();
            }
        };
        // The flusher hangs in the first, so that the call comes upon the second.
        scratch.write_named(REALM, key(0), bytes.len(), hang()).unwrap();
        running.recv_timeout(HANGS).unwrap();
        scratch.write(REALM, BlockHash::of(&bytes), bytes.len(), hang()).unwrap();
        let caller = {
            let scratch = scratch.clone();
            thread::spawn(move || call(&scratch))
        };
        running.recv_timeout(HANGS).unwrap();
        let report = scratch.close(Duration::ZERO);
        drop(go);
        assert_eq!((report.unfinished, report.dropped, report.is_clean()), (2, 0, false), "{what}: {report:?}");
        assert_eq!(caller.join().unwrap(), expected, "{what}");
    }
}
