//! Facts about closures that wait: who runs them, how often, on what, and what is left when they fail.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use scratchspace::{BlockHash, FailedClosure, FlushError, ReadError, Scratch, WriteError};

use crate::place::{Hung, Place, REALM, bytes_of, key, panic_quietly, write_later};
use crate::waiting::{until, without_hanging};

const LONG_DELAY: Duration = Duration::from_secs(10);

#[test]
fn a_deferred_block_is_readable_at_once_and_its_closure_runs_once() {
    Place::each(|place| {
        let scratch = place.open();
        for number in 0..60 {
            let (runs, bytes) = (Arc::new(AtomicUsize::new(0)), bytes_of(number, 100 + number * 100));
            let hash = BlockHash::of(&bytes);
            let start = Barrier::new(3);
            thread::scope(|threads| {
                for _ in 0..2 {
                    threads.spawn(|| {
                        start.wait();
                        let read = scratch.read(REALM, hash, |found| found == bytes);
                        // Nobody promised this reader that the block was written before.
                        assert!(matches!(read, Ok(true) | Err(ReadError::Missing { .. })), "{read:?}");
                    });
                }
                start.wait();
                let (runs, wanted) = (Arc::clone(&runs), bytes.clone());
                let closure = move |block: &mut [u8]| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    block.copy_from_slice(&wanted);
                };
                scratch.write(REALM, hash, bytes.len(), closure).unwrap();
                assert_eq!(&scratch.get(REALM, hash).unwrap()[..], bytes);
            });
            assert_eq!(runs.load(Ordering::Relaxed), 1, "block {number}");
        }
        assert_eq!(scratch.flush(), Ok(()));
        assert_eq!(scratch.stats().closures_run, 60);
    });
}

#[test]
fn the_flusher_runs_what_nobody_reads_and_the_first_reader_what_the_flusher_does_not() {
    Place::each(|place| {
        let scratch = place.open();
        let (told, ran_on) = channel();
        let tell = told.clone();
        scratch.write_named(REALM, key("a"), 1, move |_| tell.send(thread::current().id()).unwrap()).unwrap();
        assert_ne!(ran_on.recv().unwrap(), thread::current().id());

        let hung = Hung::in_flusher(&scratch);
        scratch.write_named(REALM, key("b"), 1, move |_| told.send(thread::current().id()).unwrap()).unwrap();
        assert!(ran_on.try_recv().is_err());
        scratch.read(REALM, key("b"), |_| ()).unwrap();
        assert_eq!(ran_on.recv().unwrap(), thread::current().id());
        hung.release();
        assert_eq!(scratch.flush(), Ok(()));
    });
}

#[test]
fn a_closure_gets_exactly_its_bytes_and_they_are_zero() {
    Place::each(|place| {
        let scratch = place.builder().max_staging_bytes(128 << 10).open().unwrap();
        for len in [100_000, 0, 1, 4095, 4096, 4097, 65_536, 65_537, 100_000] {
            let (told, seen) = channel();
            let closure = move |block: &mut [u8]| {
                told.send((block.len(), block.iter().all(|byte| *byte == 0))).unwrap();
                // Whoever gets this memory next must not see these.
                block.fill(0xff);
            };
            scratch.write_named(REALM, key("block"), len, closure).unwrap();
            assert_eq!(scratch.read(REALM, key("block"), <[u8]>::len), Ok(len));
            assert_eq!(seen.recv().unwrap(), (len, true));
        }
    });
}

/// A flush with `failed` failures.
fn assert_flush_tells(result: Result<(), FlushError>, failed: u64) {
    assert_eq!(result.map_or_else(|error| error.failed, |()| 0), failed);
}

/// Has two readers wait for a closure that ends as `fail` does; gives what they were told.
fn readers_of_a_failing_closure(scratch: &Scratch, hash: BlockHash, fail: fn(&mut [u8])) -> [ReadError; 2] {
    let (hung, stall) = Hung::new();
    let closure = move |block: &mut [u8]| {
        stall();
        fail(block);
    };
    scratch.write(REALM, hash, 5, closure).unwrap();
    hung.wait_until_entered();
    thread::scope(|threads| {
        let readers = [(); 2].map(|()| threads.spawn(|| scratch.read(REALM, hash, |_| ()).unwrap_err()));
        until("waiting of both readers", || scratch.stats().lent == 2);
        hung.release();
        readers.map(|reader| reader.join().unwrap())
    })
}

#[test]
fn a_closure_that_panics_is_told_to_those_who_wait_and_to_one_flush_and_then_the_block_is_missing() {
    Place::each(|place| {
        let scratch = place.open();
        let hash = BlockHash::of(b"bytes");
        let told = readers_of_a_failing_closure(&scratch, hash, |_| panic_quietly());
        let reason = FailedClosure::Panicked;
        assert_eq!(told, [(); 2].map(|()| ReadError::Failed { realm: REALM, hash, reason: reason.clone() }));
        assert!(scratch.get(REALM, hash).unwrap_err().is_missing());
        assert_eq!(scratch.contains(REALM, hash), Ok(false));

        let error = scratch.flush().unwrap_err();
        assert_eq!((error.failed, error.first, error.io), (1, Some(reason), None));
        assert_eq!(scratch.flush(), Ok(()));
        assert_eq!((scratch.stats().failed, scratch.stats().blocks), (1, 0));
        assert_eq!(scratch.put(REALM, b"bytes"), Ok(hash));
        assert_eq!(&scratch.get(REALM, hash).unwrap()[..], b"bytes");
    });
}

#[test]
fn a_closure_that_writes_other_bytes_fails_with_both_hashes() {
    Place::each(|place| {
        let scratch = place.open();
        let hash = BlockHash::of(b"bytes");
        let told = readers_of_a_failing_closure(&scratch, hash, |block| block.copy_from_slice(b"other"));
        let reason = FailedClosure::WrongHash { expected: hash, found: BlockHash::of(b"other") };
        assert_eq!(told, [(); 2].map(|()| ReadError::Failed { realm: REALM, hash, reason: reason.clone() }));
        assert!(scratch.get(REALM, hash).unwrap_err().is_missing());
        assert!(scratch.get(REALM, BlockHash::of(b"other")).unwrap_err().is_missing());
        assert_eq!(scratch.flush().unwrap_err().first, Some(reason));
        assert_eq!(scratch.flush(), Ok(()));
    });
}

#[test]
fn a_panic_whose_payload_panics_when_it_is_dropped_is_a_panic_like_any_other() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic_quietly();
        }
    }
    Place::each(|place| {
        let scratch = place.open();
        scratch.write_named(REALM, key("bomb"), 1, |_| std::panic::resume_unwind(Box::new(Bomb))).unwrap();
        assert_eq!(scratch.flush().unwrap_err().first, Some(FailedClosure::Panicked));
        assert!(scratch.get(REALM, key("bomb")).unwrap_err().is_missing());
        write_later(&scratch, b"after".to_vec()).unwrap();
        assert_eq!(scratch.flush(), Ok(()));
    });
}

#[test]
fn a_failing_write_leaves_the_version_before_however_often_it_fails() {
    type Before = fn(&Scratch);
    let before: [(Before, Option<&[u8]>); 5] = [
        (|_| (), None),
        (|scratch| scratch.put_named(REALM, key("k"), b"gathered").unwrap(), Some(b"gathered")),
        (
            |scratch| {
                scratch.put_named(REALM, key("k"), b"ready").unwrap();
                scratch.flush().unwrap();
            },
            Some(b"ready"),
        ),
        (
            |scratch| {
                scratch.put_named(REALM, key("k"), b"removed").unwrap();
                assert_eq!(scratch.remove(REALM, key("k")), Ok(true));
            },
            None,
        ),
        (|scratch| scratch.write_named(REALM, key("k"), 8, |block| block.fill(b'd')).unwrap(), Some(b"dddddddd")),
    ];
    Place::each(|place| {
        for (number, (prepare, wanted)) in before.into_iter().enumerate() {
            let scratch = place.builder().gather(64 << 10, LONG_DELAY).reset().open().unwrap();
            prepare(&scratch);
            let read = || scratch.get(REALM, key("k")).ok().map(|block| block.to_vec());
            let blocks = scratch.stats().blocks;
            for _ in 0..2 {
                scratch.write_named(REALM, key("k"), 5, |_| panic_quietly()).unwrap();
            }
            assert_flush_tells(scratch.flush(), 2);
            assert_eq!(read().as_deref(), wanted, "version {number}");
            assert_eq!(scratch.stats().blocks, blocks, "version {number}");
            // And it can be written after that, and removed.
            scratch.write_named(REALM, key("k"), 3, |block| block.copy_from_slice(b"new")).unwrap();
            assert_eq!(read().as_deref(), Some(&b"new"[..]));
            assert_eq!(scratch.remove(REALM, key("k")), Ok(true));
            assert_eq!((read(), scratch.stats().blocks), (None, 0));
            drop(scratch);
        }
    });
}

/// A closure was run by a reader, and failed, before its writer had learned what the block hides: the version before
/// was gone then.
#[test]
fn a_write_that_fails_under_the_eyes_of_readers_and_flushes_leaves_the_version_before() {
    Place::each(|place| {
        let scratch = place.open();
        scratch.put_named(REALM, key("k"), b"before").unwrap();
        let writing = AtomicUsize::new(100);
        thread::scope(|threads| {
            threads.spawn(|| {
                while writing.load(Ordering::Relaxed) > 0 {
                    match scratch.read(REALM, key("k"), <[u8]>::to_vec) {
                        Ok(bytes) => assert_eq!(bytes, b"before"),
                        Err(error) => assert!(matches!(error, ReadError::Failed { .. }), "{error}"),
                    }
                }
            });
            threads.spawn(|| {
                while writing.load(Ordering::Relaxed) > 0 {
                    scratch.flush().ok();
                }
            });
            while writing.load(Ordering::Relaxed) > 0 {
                scratch.write_named(REALM, key("k"), 5, |_| panic_quietly()).unwrap();
                writing.fetch_sub(1, Ordering::Relaxed);
            }
        });
        scratch.flush().ok();
        assert_eq!(&scratch.get(REALM, key("k")).unwrap()[..], b"before");
        assert_eq!(scratch.stats().blocks, 1);
    });
}

/// Of several writers of one key each looks for a waiting closure before it publishes: two at once saw none, the
/// later failed after the earlier, and put back a block that was none.
#[test]
fn writers_of_one_key_that_fail_at_the_same_time_leave_the_last_that_did_not() {
    Place::each(|place| {
        let scratch = place.open();
        for round in 0_u8..40 {
            let start = Barrier::new(3);
            thread::scope(|threads| {
                for fails in [true, true, false] {
                    let (scratch, start) = (&scratch, &start);
                    threads.spawn(move || {
                        start.wait();
                        let closure = move |block: &mut [u8]| {
                            if fails {
                                panic_quietly();
                            }
                            block.fill(round);
                        };
                        scratch.write_named(REALM, key("k"), 3, closure).unwrap();
                    });
                }
            });
            // One that was superseded before it could be run has not failed.
            scratch.flush().ok();
            assert_eq!(scratch.read(REALM, key("k"), <[u8]>::to_vec), Ok(vec![round; 3]), "round {round}");
            assert_eq!(scratch.stats().blocks, 1, "round {round}");
        }
    });
}

#[test]
fn a_second_write_of_a_key_whose_closure_waits_runs_that_first() {
    Place::each(|place| {
        let scratch = place.open();
        let hung = Hung::in_flusher(&scratch);
        let order = Arc::new(Mutex::new(Vec::new()));
        for number in 0..3_u8 {
            assert_eq!(*order.lock().unwrap(), (0..number.saturating_sub(1)).collect::<Vec<_>>());
            let order = Arc::clone(&order);
            let closure = move |block: &mut [u8]| {
                order.lock().unwrap().push(number);
                block[0] = number;
            };
            scratch.write_named(REALM, key("k"), 1, closure).unwrap();
        }
        scratch.put_named(REALM, key("k"), b"put").unwrap();
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
        scratch.write_named(REALM, key("k"), 1, |block| block[0] = 9).unwrap();
        assert_eq!(scratch.remove(REALM, key("k")), Ok(true));
        assert!(scratch.get(REALM, key("k")).unwrap_err().is_missing());
        hung.release();
        assert_eq!(scratch.flush(), Ok(()));
        assert!(scratch.get(REALM, key("k")).unwrap_err().is_missing());
    });
}

#[test]
fn content_that_is_there_drops_the_closure_unrun_and_is_counted() {
    Place::each(|place| {
        let scratch = place.open();
        let write = |bytes: &'static [u8]| {
            let captured = Arc::new(());
            let alive = Arc::downgrade(&captured);
            let closure = move |block: &mut [u8]| {
                drop(captured);
                block.copy_from_slice(bytes);
            };
            scratch.write(REALM, BlockHash::of(bytes), bytes.len(), closure).unwrap();
            alive
        };
        let hash = scratch.put(REALM, b"content").unwrap();
        assert!(write(b"content").upgrade().is_none());
        assert_eq!((scratch.stats().duplicates, scratch.stats().written_blocks), (1, 1));
        // A closure of the same content that waits is run, the second one is not.
        let hung = Hung::in_flusher(&scratch);
        let first = write(b"waits");
        assert!(first.upgrade().is_some());
        assert!(write(b"waits").upgrade().is_none());
        assert!(first.upgrade().is_none());
        hung.release();
        assert_eq!(scratch.flush(), Ok(()));
        assert_eq!((scratch.stats().duplicates, scratch.stats().closures_run), (2, 2));
        assert_eq!(&scratch.get(REALM, hash).unwrap()[..], b"content");
    });
}

#[test]
fn every_verb_that_a_closure_calls_on_its_own_store_is_reentrant() {
    Place::each(|place| {
        let scratch = place.open();
        let hash = scratch.put(REALM, b"block").unwrap();
        for flusher in [true, false] {
            let hung = (!flusher).then(|| Hung::in_flusher(&scratch));
            let (told, errors) = channel();
            let inner = scratch.clone();
            let closure = move |_: &mut [u8]| {
                let writes = [
                    inner.put(REALM, b"other").map(drop),
                    inner.put_named(REALM, key("other"), b"other"),
                    inner.put_many(REALM, &[b"other"]).map(drop),
                    inner.write(REALM, key("other"), 1, |_| ()),
                    inner.write_named(REALM, key("other"), 1, |_| ()),
                    inner.remove(REALM, hash).map(drop),
                ];
                let commit = inner.writer(REALM).commit().unwrap_err();
                let reads = [
                    inner.read(REALM, hash, |_| ()),
                    inner.read_verified(REALM, hash, |_| ()),
                    inner.get(REALM, hash).map(drop),
                    inner.contains(REALM, hash).map(drop),
                    inner.info(REALM, hash).map(drop),
                    inner.for_each(REALM, |_| ()),
                    inner.get_many(REALM, &[hash], |_, _| ()),
                ];
                told.send((writes, commit.to_string(), reads, inner.flush().unwrap_err().to_string())).unwrap();
            };
            scratch.write_named(REALM, key("caller"), 1, closure).unwrap();
            scratch.read(REALM, key("caller"), |_| ()).unwrap();
            let (writes, commit, reads, flush) = errors.recv().unwrap();
            assert!(writes.iter().all(|result| *result == Err(WriteError::Reentrant)), "{writes:?}");
            assert!(commit.contains("inside one of its own closures"), "{commit}");
            assert!(reads.iter().all(|result| *result == Err(ReadError::Reentrant)), "{reads:?}");
            assert!(flush.contains("inside one of its own closures"), "{flush}");
            if let Some(hung) = hung {
                hung.release();
            }
            assert_eq!(scratch.flush(), Ok(()));
        }
        assert_eq!(&scratch.get(REALM, hash).unwrap()[..], b"block");
    });
}

#[test]
fn a_closure_may_use_another_store_but_not_come_back_through_it() {
    Place::each(|place| {
        let (scratch, other) = (place.open(), Scratch::open(memory()).unwrap());
        let hash = other.put(REALM, b"of the other store").unwrap();
        let (inner, me) = (other.clone(), scratch.clone());
        let closure = move |block: &mut [u8]| {
            block.copy_from_slice(&inner.get(REALM, hash).unwrap());
            inner.put(REALM, b"written inside").unwrap();
            let hung = Hung::in_flusher(&inner);
            let come_back = move |_: &mut [u8]| assert_eq!(me.put(REALM, b"x"), Err(WriteError::Reentrant));
            inner.write_named(REALM, key("k"), 1, come_back).unwrap();
            inner.read(REALM, key("k"), |_| ()).unwrap();
            hung.release();
        };
        scratch.write_named(REALM, key("outer"), 18, closure).unwrap();
        assert_eq!(&scratch.get(REALM, key("outer")).unwrap()[..], b"of the other store");
        assert_eq!(other.contains(REALM, BlockHash::of(b"written inside")), Ok(true));
        assert_eq!((scratch.flush(), other.flush()), (Ok(()), Ok(())));
    });
}

fn memory() -> scratchspace::MemoryFileSource {
    scratchspace::MemoryFileSource::builder().build().unwrap()
}

#[test]
fn what_a_closure_captured_may_call_the_store_when_it_is_dropped() {
    struct Calls(Scratch, std::sync::mpsc::Sender<Result<BlockHash, WriteError>>);
    impl Drop for Calls {
        fn drop(&mut self) {
            self.1.send(self.0.put(REALM, b"at last")).unwrap();
        }
    }
    Place::each(|place| {
        let scratch = place.open();
        let (told, result) = channel();
        let captured = Calls(scratch.clone(), told.clone());
        scratch.write_named(REALM, key("k"), 1, move |_| drop(captured)).unwrap();
        scratch.flush().unwrap();
        assert_eq!(result.recv().unwrap(), Err(WriteError::Reentrant));
        // Dropped unrun, as the content is there: on the caller's own time.
        let hash = scratch.put(REALM, b"there").unwrap();
        let captured = Calls(scratch.clone(), told);
        scratch.write(REALM, hash, 5, move |_| drop(captured)).unwrap();
        assert_eq!(result.recv().unwrap(), Ok(BlockHash::of(b"at last")));
    });
}

#[test]
fn above_the_budget_the_caller_runs_the_closures_that_wait() {
    Place::each(|place| {
        let scratch = place.builder().max_pending_bytes(10_000).open().unwrap();
        let hung = Hung::in_flusher(&scratch);
        let ran_on = Arc::new(Mutex::new(Vec::new()));
        let mut hashes = Vec::new();
        for number in 0..6 {
            let (bytes, ran_on) = (bytes_of(number, 4096), Arc::clone(&ran_on));
            let hash = BlockHash::of(&bytes);
            let closure = move |block: &mut [u8]| {
                ran_on.lock().unwrap().push((number, thread::current().id()));
                block.copy_from_slice(&bytes);
            };
            scratch.write(REALM, hash, 4096, closure).unwrap();
            assert!(scratch.stats().pending_bytes <= 10_000);
            hashes.push(hash);
        }
        let me = thread::current().id();
        assert_eq!(*ran_on.lock().unwrap(), (0..4).map(|number| (number, me)).collect::<Vec<_>>());
        // A block that is larger than the budget waits alone.
        hashes.push(write_later(&scratch, bytes_of(9, 50_000)).unwrap());
        assert_eq!(ran_on.lock().unwrap().len(), 6);
        for hash in hashes {
            assert_eq!(scratch.contains(REALM, hash), Ok(true));
        }
        hung.release();
        assert_eq!(scratch.flush(), Ok(()));
        assert_eq!(scratch.stats().pending_bytes, 0);
    });
}

/// Bytes were charged until their closure was over: while one hung, a small budget refused every other write.
#[test]
fn a_budget_of_nothing_lets_one_closure_wait_also_while_another_hangs() {
    Place::each(|place| {
        let scratch = place.builder().max_pending_bytes(0).wait_timeout(Duration::from_secs(5)).open().unwrap();
        let hung = Hung::in_flusher(&scratch);
        let hashes: Vec<_> = (0..5).map(|number| write_later(&scratch, bytes_of(number, 5000)).unwrap()).collect();
        for (number, hash) in hashes.into_iter().enumerate() {
            assert_eq!(scratch.read(REALM, hash, <[u8]>::to_vec), Ok(bytes_of(number, 5000)));
        }
        hung.release();
        assert_eq!(scratch.flush(), Ok(()));
    });
}

#[test]
fn a_block_larger_than_the_staging_memory_is_written_alone() {
    Place::each(|place| {
        let scratch = place.builder().max_staging_bytes(4096).open().unwrap();
        thread::scope(|threads| {
            for number in 0..3 {
                let scratch = &scratch;
                threads.spawn(move || {
                    for round in 0..3 {
                        let bytes = bytes_of(number * 3 + round, 20_000);
                        let hash = write_later(scratch, bytes.clone()).unwrap();
                        assert_eq!(&scratch.get(REALM, hash).unwrap()[..], bytes);
                    }
                });
            }
        });
        assert_eq!(scratch.flush(), Ok(()));
        assert_eq!(scratch.stats().closures_run, 9);
    });
}

#[test]
fn a_closure_that_hangs_costs_a_thread_and_a_file_but_not_the_store() {
    Place::each(|place| {
        let timeout = Duration::from_millis(50);
        let scratch = place.builder().wait_timeout(timeout).open().unwrap();
        let (hung, stall) = Hung::new();
        let closure = move |block: &mut [u8]| {
            stall();
            block.fill(7);
        };
        scratch.write_named(REALM, key("hangs"), 5000, closure).unwrap();
        hung.wait_until_entered();

        let busy = scratch.get(REALM, key("hangs")).unwrap_err();
        assert!(matches!(busy, ReadError::Busy { waited } if waited >= timeout) && busy.is_retryable(), "{busy:?}");
        let late = scratch.write_named(REALM, key("hangs"), 1, |_| ()).unwrap_err();
        assert!(matches!(late, WriteError::Timeout { .. }), "{late}");
        assert!(matches!(scratch.remove(REALM, key("hangs")), Err(WriteError::Timeout { .. })));
        // Other keys go on, whoever runs their closures, and flushes store what they can.
        let put = scratch.put(REALM, b"other").unwrap();
        let written = write_later(&scratch, bytes_of(1, 3000)).unwrap();
        let flush = scratch.flush().unwrap_err();
        assert!(matches!((flush.failed, &flush.first), (0, Some(FailedClosure::Busy { .. }))), "{flush}");
        for hash in [put, written] {
            scratch.read(REALM, hash, |_| ()).unwrap();
        }
        hung.release();
        until("the end of the closure", || scratch.flush().is_ok());
        assert_eq!(scratch.read(REALM, key("hangs"), <[u8]>::to_vec), Ok(vec![7; 5000]));
        assert_eq!(scratch.stats().failed, 0);
    });
}

#[test]
fn the_wheel_turns_past_a_file_whose_closure_hangs() {
    Place::each(|place| {
        let scratch = place.open();
        let hung = Hung::in_flusher(&scratch);
        let file = scratch.info(REALM, key("keeps the flusher")).unwrap().file;
        // Four files of 256 KiB: three laps.
        let mut last = None;
        for number in 0..60 {
            let hash = scratch.put(REALM, &bytes_of(number, 50_000)).unwrap();
            let is_reused = scratch.stats().turns > 0 && scratch.info(REALM, hash).unwrap().file == file;
            assert!(!is_reused, "it is used again below its writer");
            last = Some(hash);
            let later = write_later(&scratch, bytes_of(number, 3000)).unwrap();
            scratch.read(REALM, later, |_| ()).unwrap();
        }
        assert!(scratch.stats().turns > 8, "{:?}", scratch.stats());
        assert!(scratch.get(REALM, key("keeps the flusher")).unwrap_err().is_missing());
        hung.release();
        scratch.flush().ok();
        // What it wrote belongs to a lap that is over.
        assert!(scratch.get(REALM, key("keeps the flusher")).unwrap_err().is_missing());
        until("the file comes back", || scratch.stats().draining == 0);
        for number in 60..120 {
            last = Some(scratch.put(REALM, &bytes_of(number, 50_000)).unwrap());
        }
        assert_eq!(scratch.read(REALM, last.unwrap(), <[u8]>::to_vec), Ok(bytes_of(119, 50_000)));
        assert_eq!(scratch.flush(), Ok(()));
    });
}

#[test]
fn a_store_that_never_waits_still_does_what_needs_no_waiting() {
    Place::each(|place| {
        let scratch = place.builder().wait_timeout(Duration::ZERO).open().unwrap();
        let (hung, stall) = Hung::new();
        scratch.write_named(REALM, key("hangs"), 1, |_| stall()).unwrap();
        hung.wait_until_entered();
        assert!(matches!(scratch.get(REALM, key("hangs")), Err(ReadError::Busy { .. })));
        assert!(matches!(scratch.put_named(REALM, key("hangs"), b"x"), Err(WriteError::Timeout { .. })));
        let hash = write_later(&scratch, bytes_of(1, 3000)).unwrap();
        assert_eq!(scratch.read(REALM, hash, <[u8]>::len), Ok(3000));
        let put = scratch.put(REALM, b"put").unwrap();
        assert_eq!(scratch.read(REALM, put, <[u8]>::len), Ok(3));
        assert!(matches!(scratch.flush().unwrap_err().first, Some(FailedClosure::Busy { .. })));
        hung.release();
        until("the end of the closure", || scratch.flush().is_ok());
        assert_eq!(scratch.read(REALM, key("hangs"), <[u8]>::to_vec), Ok(vec![0]));
    });
}

#[test]
fn a_store_that_never_waits_runs_its_closures_when_memory_comes_free() {
    Place::each(|place| {
        let scratch = place.builder().wait_timeout(Duration::ZERO).max_staging_bytes(4096).open().unwrap();
        let hung = Hung::in_flusher(&scratch);
        // All staging memory is lent: nobody can run this one now.
        let hash = write_later(&scratch, bytes_of(1, 3000)).unwrap();
        assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Busy { .. })));
        hung.release();
        until("the closure is run", || scratch.stats().closures_run == 2);
        assert_eq!(scratch.read(REALM, hash, <[u8]>::len), Ok(3000));
    });
}

#[test]
fn a_failing_write_of_a_large_block_is_the_same_as_of_a_small_one() {
    Place::each(|place| {
        let scratch = place.open();
        scratch.put_named(REALM, key("k"), &bytes_of(1, 100_000)).unwrap();
        scratch.write_named(REALM, key("k"), 100_000, |_| panic_quietly()).unwrap();
        assert_flush_tells(scratch.flush(), 1);
        assert_eq!(scratch.read(REALM, key("k"), <[u8]>::to_vec), Ok(bytes_of(1, 100_000)));
        without_hanging(move || drop(scratch));
        // Also after a restart: a write that failed is nowhere.
        assert_eq!(place.open().read(REALM, key("k"), <[u8]>::to_vec), Ok(bytes_of(1, 100_000)));
    });
}
