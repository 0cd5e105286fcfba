//! Whoever waits for longer than the limit is told with what it has waited for.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::error::{ReadError, WriteError};
use crate::scratch::small::{
    HANGS, MILLISECOND, REALM, block, eventually, key_in, memory, open_told, ungathered, until,
};
use crate::storage::faulty::{Call, Fault};
use crate::sync::thread;
use crate::wheel::{Event, OnFull, WaitCause};

const SECOND: Duration = Duration::from_secs(1);

/// A wait for `cause` of at least the time that calls have, by this thread.
fn assert_told(events: &Receiver<Event>, wanted: WaitCause) {
    let seen = until(events, |event| matches!(event, Event::Waited { cause, .. } if *cause == wanted));
    let Some(Event::Waited { thread: name, lane: 0, waited, .. }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(name.as_deref(), thread::current().name());
    assert!(*waited >= 20 * MILLISECOND, "{waited:?}");
}

#[test]
fn each_cause_of_a_wait_is_told() {
    let (scratch, events, faults) = open_told(memory(1, 3, 1 << 20), |builder| {
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
fn a_write_that_finds_all_gather_buffers_on_their_way_tells_what_it_waits_for() {
    let (scratch, events, faults) = open_told(memory(1, 3, 1 << 20), |builder| {
        builder.gather(64 << 10, 10 * SECOND).wait_timeout(20 * MILLISECOND).report_waits(MILLISECOND)
    });
    faults.hold_stores(true);
    // As many as may be stored at once.
    let flushes: Vec<_> = (1..=3)
        .map(|number| {
            scratch.put(REALM, &block(number, 100)).unwrap();
            let own = scratch.clone();
            let flush = thread::spawn(move || own.flush());
            eventually("a buffer is being stored", || faults.held_stores() == number);
            flush
        })
        .collect();
    let error = scratch.put(REALM, &block(4, 100)).unwrap_err();
    assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
    assert_told(&events, WaitCause::Gather);
    faults.hold_stores(false);
    for flush in flushes {
        // It may have waited for the others for too long.
        let _ = flush.join().unwrap();
    }
    scratch.put(REALM, &block(4, 100)).unwrap();
}

#[test]
fn a_reader_that_waits_for_the_one_who_compares_the_block_tells_so() {
    let files = memory(1, 3, 1 << 20);
    let hash = ungathered(files.clone()).put(REALM, &block(1, 5000)).unwrap();
    let (scratch, events, faults) =
        open_told(files, |builder| builder.wait_timeout(20 * MILLISECOND).report_waits(MILLISECOND));
    scratch.wait_recovered(HANGS).unwrap();
    faults.hold_payloads(true);
    let own = scratch.clone();
    let comparing = thread::spawn(move || own.get(REALM, hash).map(|bytes| bytes[..] == block(1, 5000)));
    eventually("the block is being read", || faults.held_payloads() == 1);
    assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Busy { .. })));
    assert_told(&events, WaitCause::Block);
    faults.hold_payloads(false);
    assert_eq!(comparing.join().unwrap(), Ok(true));
    assert_eq!(scratch.read(REALM, hash, <[u8]>::to_vec), Ok(block(1, 5000)));
}

/// A small store that was all ahead of its disk had its oldest blocks written there before it forgot them, and its writers
/// waited for that.
#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn a_lane_that_turns_is_ahead_of_its_disk_by_three_quarters_of_its_files_at_most() {
    let (scratch, events, faults) = open_told(memory(1, 16, 64 << 10), |builder| {
        builder.gather(0, Duration::ZERO).piece_pages(2).wait_timeout(HANGS).report_waits(MILLISECOND)
    });
    // Two blocks a file, which are all of its pieces. Those of the first are sent, and nothing of the others while that waits.
    faults.hold_syncs(true);
    let fill = |numbers: Range<u64>| {
        numbers.map(|number| scratch.put(REALM, &block(number, 28 << 10)).unwrap()).collect::<Vec<_>>()
    };
    let is_for_the_disk = |event: &Event| matches!(event, Event::Waited { cause: WaitCause::Disk, .. });
    let first = fill(0..26);
    assert!(!events.try_iter().any(|event| is_for_the_disk(&event)), "it does not turn yet");
    let then = fill(26..32);
    until(&events, is_for_the_disk);
    faults.hold_syncs(false);
    scratch.flush().unwrap();
    // The oldest ones make room by now.
    assert!(first[4..].iter().chain(&then).all(|hash| scratch.contains(REALM, *hash).unwrap()));
}

/// A writer that ran ahead of its disk waited for all of a file at once, tens of milliseconds, or the system stalled it.
#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn a_writer_that_is_far_ahead_of_its_disk_waits_for_a_moment_and_goes_on() {
    let (scratch, events, faults) =
        open_told(memory(1, 6, 24 << 20), |builder| builder.wait_timeout(HANGS).report_waits(MILLISECOND));
    let fill = |numbers: Range<u64>| {
        let stored = numbers.map(|number| {
            scratch.wheel().residency.assume_left(0);
            scratch.put(REALM, &block(number, 1 << 20)).unwrap()
        });
        stored.collect::<Vec<_>>()
    };
    // What is sent is not waited for.
    let first = fill(0..14);
    scratch.flush().unwrap();
    let is_for_the_disk = |event: &Event| matches!(event, Event::Waited { cause: WaitCause::Disk, .. });
    assert!(!events.try_iter().any(|event| is_for_the_disk(&event)));
    faults.hold_syncs(true);
    // The first file is full and cannot be synced: nothing of the next ones is sent.
    let then = fill(14..130);
    assert!(until(&events, is_for_the_disk).last().is_some_and(|event| {
        matches!(event, Event::Waited { thread: name, lane: 0, .. } if name.as_deref() == thread::current().name())
    }));
    faults.hold_syncs(false);
    scratch.flush().unwrap();
    assert!(first.iter().chain(&then).all(|hash| scratch.contains(REALM, *hash).unwrap()));
}
