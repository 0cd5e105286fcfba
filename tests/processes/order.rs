//! What belongs to a store may be dropped in any order, on any thread: bytes stay readable, nothing hangs, and the
//! folder is free once the last of it is gone.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use scratchspace::{BlittableWriter, BlockHash, BlockRef, OpenError, ReadError, Scratch, WriteError};

use crate::place::{REALM, block, disk, open, test_folder};
use crate::waiting::{BOUND, until, without_hanging};

const LEN: usize = 70_000;

/// Something that keeps a store, or its folder.
enum Part {
    Handle(Scratch),
    Block(BlockRef),
    Writer(Box<BlittableWriter>),
}

impl Part {
    /// Handle, handle, block, a part of that block, writer.
    fn all_of(folder: &Path) -> Vec<Option<Self>> {
        let scratch = Scratch::open(disk(folder).build().unwrap()).unwrap();
        let lent = scratch.get(REALM, scratch.put(REALM, &block(1, LEN)).unwrap()).unwrap();
        let mut writer = scratch.writer(REALM);
        writer.write(&7_u32);
        let parts =
            [Self::Handle(scratch.clone()), Self::Handle(scratch), Self::Block(lent.slice(..)), Self::Block(lent)];
        parts.into_iter().chain([Self::Writer(Box::new(writer))]).map(Some).collect()
    }

    fn assert_works(&self) {
        match self {
            Self::Handle(scratch) => {
                let hash = scratch.put(REALM, b"more").unwrap();
                assert_eq!(scratch.read(REALM, hash, <[u8]>::len), Ok(4));
            }
            Self::Block(lent) => assert!(**lent == *block(1, LEN)),
            Self::Writer(writer) => assert!(!format!("{writer:?}").is_empty()),
        }
    }
}

/// Every order of `0..count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let longer = |order: &Vec<usize>, at| [&order[..at], &[count - 1], &order[at..]].concat();
    shorter.iter().flat_map(|order| (0..count).map(move |at| longer(order, at))).collect()
}

#[test]
fn handles_blocks_and_writers_may_be_dropped_in_every_order_on_any_thread() {
    let folder = test_folder();
    let orders = orders(5);
    assert_eq!(orders.len(), 120);
    for (number, order) in orders.into_iter().enumerate() {
        let mut parts = Part::all_of(folder.path());
        for at in order {
            let in_use = disk(folder.path()).build();
            assert!(matches!(in_use, Err(OpenError::InUse { .. })), "{in_use:?} before part {at} went");
            let part = parts[at].take();
            if number % 2 == 0 {
                drop(part);
            } else {
                without_hanging(move || drop(part));
            }
            parts.iter().flatten().for_each(Part::assert_works);
        }
        drop(disk(folder.path()).build().unwrap());
    }
    let scratch = open(folder.path());
    assert_eq!(scratch.read(REALM, BlockHash::of(&block(1, LEN)), |bytes| bytes == block(1, LEN)), Ok(true));
}

/// The handle through which the block is read is the caller's; all others go inside of the read.
#[test]
fn every_other_handle_may_be_dropped_in_the_closure_of_a_read() {
    let folder = test_folder();
    let scratch = open(folder.path());
    let hash = scratch.put(REALM, &block(1, LEN)).unwrap();
    let mut others: Vec<_> = (0..3).map(|_| scratch.clone()).collect();
    let result = scratch.read(REALM, hash, |bytes| {
        others.clear();
        bytes == block(1, LEN)
    });
    assert_eq!(result, Ok(true));
    drop(scratch);
    open(folder.path());
}

/// The last handle of a store, and who is told where it was dropped.
struct Last {
    scratch: Option<Scratch>,
    told: Sender<Option<String>>,
}

impl Drop for Last {
    fn drop(&mut self) {
        drop(self.scratch.take());
        self.told.send(thread::current().name().map(str::to_owned)).ok();
    }
}

/// Whether the closure that held the last handle was dropped unrun. A writer that waits for room runs closures itself:
/// with enough of a `pause` between writes none has to.
fn last_handle_goes_with_a_closure_that_is_given_up(pause: Duration) -> bool {
    let folder = test_folder();
    let scratch = open(folder.path());
    // Keeps the only flusher.
    let (enter, entered) = channel();
    let (release, released) = channel::<()>();
    let stall = move |_: &mut [u8]| {
        enter.send(()).unwrap();
        released.recv_timeout(BOUND).ok();
    };
    scratch.write_named(REALM, BlockHash::of(b"keeps the flusher"), 1, stall).unwrap();
    entered.recv_timeout(BOUND).unwrap();
    let (told, dropped) = channel();
    let runs = Arc::new(AtomicBool::new(false));
    let last = Last { scratch: Some(scratch.clone()), told };
    let run = Arc::clone(&runs);
    let closure = move |_: &mut [u8]| {
        run.store(true, Ordering::Relaxed);
        drop(last);
    };
    scratch.write_named(REALM, BlockHash::of(b"owner"), 1, closure).unwrap();
    // The wheel turns past both.
    for number in 0..20 {
        scratch.put(REALM, &block(number, LEN)).unwrap();
        thread::sleep(pause);
    }
    drop(scratch);
    release.send(()).unwrap();
    let thread = dropped.recv_timeout(BOUND).expect("the flusher hangs in its own end");
    until("the end of the store", || disk(folder.path()).build().is_ok());
    open(folder.path());
    let was_given_up = !runs.load(Ordering::Relaxed);
    assert!(!was_given_up || thread.is_some_and(|name| name.starts_with("scratch-flush-")));
    was_given_up
}

/// The flusher drops closures that a turn of the wheel has given up; with one of them goes the last handle, and the
/// flusher would have joined itself.
#[test]
fn the_last_handle_may_go_with_a_closure_that_the_store_drops_unrun_on_its_own_thread() {
    let mut pauses = (0..10).map(|times| Duration::from_millis(5 << times));
    assert!(pauses.any(last_handle_goes_with_a_closure_that_is_given_up));
}

/// Each writes, reads, defers, flushes and removes; the close comes from somewhere in the middle.
#[test]
fn a_close_under_load_of_every_verb_is_followed_by_closed_alone_and_loses_nothing_that_returned() {
    const THREADS: usize = 8;
    for round in 0..6 {
        let folder = test_folder();
        let scratch = Scratch::open(disk(folder.path()).build().unwrap()).unwrap();
        let (together, calls) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(AtomicUsize::new(0)));
        let (ended, ends) = channel();
        for thread in 0..THREADS {
            let (scratch, together, calls, ended) =
                (scratch.clone(), Arc::clone(&together), Arc::clone(&calls), ended.clone());
            thread::spawn(move || {
                together.wait();
                let mut kept = Vec::new();
                let mut is_closed = false;
                // Few enough that no file has to make room; after the close as many as it takes.
                for number in 0..20_000 {
                    let bytes = block(thread * 1000 + number % 8, 5000);
                    let name = BlockHash::of(&bytes);
                    let was_closed = is_closed;
                    let errors = [
                        scratch.put(REALM, &bytes).map(|_| kept.push(bytes.clone())).err(),
                        scratch.write(REALM, name, bytes.len(), move |to| to.copy_from_slice(&bytes)).err(),
                    ];
                    let reads =
                        [scratch.read(REALM, name, <[u8]>::len).err(), scratch.get(REALM, name).map(drop).err()];
                    let flushed = scratch.flush().err();
                    let removed = scratch.remove(REALM, BlockHash::from_u128(5)).err();
                    for error in errors.into_iter().chain([removed]) {
                        assert!(error.is_none() && !was_closed || error == Some(WriteError::Closed), "{error:?}");
                        is_closed |= error.is_some();
                    }
                    for error in reads {
                        // A deferred write of it may have been given up by the close.
                        let lost = matches!(error, Some(ReadError::Failed { .. }));
                        assert!(
                            error.is_none() && !was_closed || lost || error == Some(ReadError::Closed),
                            "{error:?}"
                        );
                        is_closed |= error.is_some();
                    }
                    is_closed |= flushed.is_some_and(|error| error.io.is_some());
                    calls.fetch_add(1, Ordering::Relaxed);
                    if was_closed {
                        break;
                    }
                }
                ended.send((kept, is_closed)).unwrap();
            });
        }
        together.wait();
        until("load", || calls.load(Ordering::Relaxed) > 20 * round);
        let closed = scratch.clone();
        without_hanging(move || closed.close(if round % 2 == 0 { BOUND } else { Duration::ZERO }));
        let mut kept = Vec::new();
        for _ in 0..THREADS {
            let (blocks, is_closed) = ends.recv_timeout(BOUND).expect("no call hangs");
            assert!(is_closed);
            kept.extend(blocks);
        }
        drop(scratch);
        until("the end of the store", || disk(folder.path()).build().is_ok());
        let scratch = open(folder.path());
        for bytes in kept {
            assert_eq!(scratch.read(REALM, BlockHash::of(&bytes), |found| found == bytes), Ok(true), "round {round}");
        }
    }
}
