//! Facts about the end of a store: what is run, what is dropped, who is told, and that nobody hangs.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use scratchspace::{BlockHash, CloseReport, OpenError, ReadError, Scratch, WriteError};

use crate::place::{FILE_SIZE, Hung, Place, REALM, bytes_of, key, panic_quietly, write_later};
use crate::waiting::{until, without_hanging};

const LONG: Duration = Duration::from_secs(30);

/// A store whose flusher is busy and which has three more closures, each of which holds `captured`.
fn store_with_waiting_closures(place: &Place, captured: &Arc<()>) -> (Scratch, Hung, Vec<BlockHash>) {
    let scratch = place.open();
    let hung = Hung::in_flusher(&scratch);
    let hashes = (0..3).map(|number| {
        let (bytes, captured) = (bytes_of(number, 1000), Arc::clone(captured));
        let hash = BlockHash::of(&bytes);
        let closure = move |block: &mut [u8]| {
            block.copy_from_slice(&bytes);
            drop(captured);
        };
        scratch.write(REALM, hash, 1000, closure).unwrap();
        hash
    });
    let hashes = hashes.collect();
    (scratch, hung, hashes)
}

/// A closure that hung was waited for first, and then there was no time left for those that could have run.
#[test]
fn a_close_runs_the_closures_that_wait_although_one_hangs() {
    Place::each(|place| {
        let captured = Arc::new(());
        let (scratch, hung, hashes) = store_with_waiting_closures(place, &captured);
        let report = scratch.close(Duration::from_millis(200));
        assert_eq!((report.ran, report.dropped), (3, 0), "{report:?}");
        assert_eq!(Arc::strong_count(&captured), 1);
        hung.release();
        drop(scratch);
        let scratch = reopen(place);
        for hash in hashes {
            assert_eq!(scratch.read(REALM, hash, <[u8]>::len), Ok(1000));
        }
    });
}

#[test]
fn a_close_without_time_drops_what_waits_and_counts_it() {
    Place::each(|place| {
        let captured = Arc::new(());
        let (scratch, hung, hashes) = store_with_waiting_closures(place, &captured);
        let report = scratch.close(Duration::ZERO);
        assert_eq!((report.ran, report.dropped), (0, 3), "{report:?}");
        assert_eq!(Arc::strong_count(&captured), 1);
        hung.release();
        drop(scratch);
        let scratch = reopen(place);
        for hash in hashes {
            assert!(scratch.get(REALM, hash).unwrap_err().is_missing());
        }
    });
}

/// Opens the store again as soon as a thread that was left behind has let go of it.
fn reopen(place: &Place) -> Scratch {
    let mut reopened = None;
    until("reopening", || {
        let source = match place {
            Place::Memory(source) => Ok(Box::new(source.clone()) as Box<dyn scratchspace::FileSource>),
            Place::Disk(folder) => {
                let builder = scratchspace::DiskFileSource::builder().folder(folder.path()).files_per_folder(4);
                builder.file_size(FILE_SIZE).build().map(|source| Box::new(source) as _)
            }
        };
        match source.and_then(Scratch::open) {
            Ok(scratch) => reopened = Some(scratch),
            Err(error) => assert!(matches!(error, OpenError::InUse { .. }), "{error}"),
        }
        reopened.is_some()
    });
    let scratch = reopened.unwrap();
    scratch.wait_recovered(LONG).unwrap();
    scratch
}

#[test]
fn after_a_close_every_verb_of_every_handle_says_so() {
    Place::each(|place| {
        let scratch = place.open();
        let clone = scratch.clone();
        let hash = scratch.put(REALM, b"block").unwrap();
        let mut writer = clone.writer(REALM);
        writer.write(&7_u32);
        assert_eq!(scratch.close(LONG), CloseReport::default());
        let refused = [
            clone.put(REALM, b"other").map(drop),
            clone.put_named(REALM, hash, b"other"),
            clone.put_many(REALM, &[b"other"]).map(drop),
            clone.write(REALM, hash, 5, |_| panic_quietly()),
            clone.write_named(REALM, hash, 5, |_| panic_quietly()),
            clone.remove(REALM, hash).map(drop),
        ];
        assert!(refused.iter().all(|result| *result == Err(WriteError::Closed)), "{refused:?}");
        let commit = writer.commit().unwrap_err().to_string();
        assert!(commit.contains("the store is closed"), "{commit}");
        let reads = [
            clone.read(REALM, hash, |_| ()),
            clone.read_verified(REALM, hash, |_| ()),
            clone.get(REALM, hash).map(drop),
            clone.contains(REALM, hash).map(drop),
            clone.info(REALM, hash).map(drop),
            clone.for_each(REALM, |_| ()),
            clone.get_many(REALM, &[hash], |_, _| ()),
        ];
        assert!(reads.iter().all(|result| *result == Err(ReadError::Closed)), "{reads:?}");
        let flush = clone.flush().unwrap_err().to_string();
        assert!(flush.contains("the store is closed; open it again"), "{flush}");
        // The second finds nothing to do, of whatever handle.
        assert_eq!((scratch.close(LONG), clone.close(Duration::ZERO)), Default::default());
    });
}

#[test]
fn a_block_that_is_lent_stays_readable_and_keeps_the_store_until_it_is_dropped() {
    Place::each(|place| {
        let scratch = place.open();
        let bytes = bytes_of(1, 100_000);
        let hash = scratch.put(REALM, &bytes).unwrap();
        let block = scratch.get(REALM, hash).unwrap();
        assert_eq!(scratch.close(LONG).lent, 1);
        assert_eq!(&block[..], bytes);
        drop(scratch);
        assert_eq!(&block[..], bytes);
        let again = match place {
            Place::Memory(source) => Scratch::open(source.clone()),
            Place::Disk(folder) => Scratch::with_capacity([folder.path()], 4 * FILE_SIZE),
        };
        assert!(matches!(again, Err(OpenError::InUse { .. })), "{again:?}");
        drop(block);
        assert_eq!(&place.open().get(REALM, hash).unwrap()[..], bytes);
    });
}

#[test]
fn a_writer_of_typed_values_keeps_the_store_open_until_it_commits() {
    Place::each(|place| {
        let scratch = place.open();
        let mut writer = scratch.writer(REALM);
        drop(scratch);
        writer.write_str("outlives its handle");
        let hash = without_hanging(move || writer.commit()).unwrap();
        let scratch = place.open();
        let text = scratch.read_with(REALM, hash, |block| block.read_str().map(str::to_owned)).unwrap();
        assert_eq!(text, "outlives its handle");
    });
}

#[test]
fn the_last_handle_may_be_dropped_in_a_closure_of_its_own_store() {
    Place::each(|place| {
        let scratch = place.open();
        let (hung, stall) = Hung::new();
        let last = scratch.clone();
        let closure = move |block: &mut [u8]| {
            stall();
            block.fill(1);
            drop(last);
        };
        scratch.write_named(REALM, key("owner"), 3, closure).unwrap();
        hung.wait_until_entered();
        // What waits behind it is run before the threads end.
        let waiting = write_later(&scratch, bytes_of(1, 5000)).unwrap();
        without_hanging(move || drop(scratch));
        hung.release();
        let scratch = reopen(place);
        assert_eq!(scratch.read(REALM, key("owner"), <[u8]>::to_vec), Ok(vec![1; 3]));
        assert_eq!(scratch.read(REALM, waiting, <[u8]>::to_vec), Ok(bytes_of(1, 5000)));
    });
}

#[test]
fn a_store_may_be_closed_by_one_of_its_closures() {
    Place::each(|place| {
        let scratch = place.open();
        let inner = scratch.clone();
        let hash = scratch.put(REALM, b"kept").unwrap();
        scratch.write_named(REALM, key("closes"), 1, move |_| assert_eq!(inner.close(LONG).dropped, 0)).unwrap();
        until("closing", || scratch.put(REALM, b"late") == Err(WriteError::Closed));
        without_hanging(move || drop(scratch));
        assert_eq!(&reopen(place).get(REALM, hash).unwrap()[..], b"kept");
    });
}

#[test]
fn the_last_handle_may_be_dropped_while_another_store_is_read_or_written() {
    Place::each(|place| {
        let other = Scratch::open(scratchspace::MemoryFileSource::builder().build().unwrap()).unwrap();
        let hash = other.put(REALM, b"other").unwrap();
        for round in 0..4 {
            let (scratch, other) = (place.open(), other.clone());
            let kept = scratch.put(REALM, &bytes_of(round, 3000)).unwrap();
            without_hanging(move || match round {
                0 => other.read(REALM, hash, |_| drop(scratch)).unwrap(),
                1 => {
                    other.write_named(REALM, key("k"), 1, move |_| drop(scratch)).unwrap();
                    other.flush().unwrap();
                }
                // Dropped with the closure, which is not run.
                2 => other.write(REALM, hash, 5, move |_| drop(scratch)).unwrap(),
                _ => thread::spawn(move || drop(scratch)).join().unwrap(),
            });
            assert_eq!(place.open().read(REALM, kept, <[u8]>::len), Ok(3000), "round {round}");
        }
    });
}

/// What a thread needs to tell whether it is inside of a closure was gone by then.
#[test]
fn the_last_handle_may_be_dropped_with_the_locals_of_a_thread() {
    thread_local! {
        static LAST: RefCell<Option<Scratch>> = const { RefCell::new(None) };
    }
    Place::each(|place| {
        let scratch = place.open();
        let hash = without_hanging(move || {
            // Registered first, so dropped after what the store registers itself.
            LAST.with_borrow_mut(|last| *last = None);
            LAST.set(Some(scratch.clone()));
            scratch.write_named(REALM, key("k"), 1, |_| ()).unwrap();
            scratch.read(REALM, key("k"), |_| ()).unwrap();
            scratch.put(REALM, b"kept").unwrap()
        });
        assert_eq!(&reopen(place).get(REALM, hash).unwrap()[..], b"kept");
    });
}

#[test]
fn a_store_may_be_closed_while_it_is_read() {
    Place::each(|place| {
        let scratch = place.open();
        let hashes: Vec<_> = (0..3).map(|number| scratch.put(REALM, &bytes_of(number, 70_000)).unwrap()).collect();
        let mut lens = Vec::new();
        scratch
            .get_many(REALM, &hashes, |_, block| {
                assert!(scratch.close(LONG).lent >= 1);
                lens.push(block.map(<[u8]>::len));
            })
            .unwrap();
        assert_eq!(lens, [Ok(70_000), Ok(70_000), Ok(70_000)]);
        assert_eq!(scratch.get(REALM, hashes[0]), Err(ReadError::Closed));
    });
}

#[test]
fn a_writer_that_waits_for_room_is_told_at_once_that_the_store_closes() {
    Place::each(|place| {
        let scratch = place.builder().wait_timeout(Duration::from_mins(10)).open().unwrap();
        // Every file is pinned, so that none can make room.
        let (told, full) = channel();
        let writer = scratch.clone();
        let thread = thread::spawn(move || {
            let mut held = Vec::new();
            for number in 0.. {
                match writer.put(REALM, &bytes_of(number, 100_000)) {
                    Ok(hash) => held.push(writer.get(REALM, hash).unwrap()),
                    Err(error) => return told.send(error).unwrap(),
                }
            }
        });
        until("waiting for room", || scratch.stats().draining >= 3 && scratch.stats().waits > 0);
        without_hanging(move || scratch.close(LONG));
        assert_eq!(full.recv().unwrap(), WriteError::Closed);
        thread.join().unwrap();
    });
}

/// A call that was on its way when the close ran out of time left its block in a buffer, or its closure in a queue,
/// that nobody looked at any more.
#[test]
fn what_returned_ok_before_a_close_under_load_is_there_after_reopening() {
    Place::each(|place| {
        for round in 0..10 {
            let timeout = if round % 2 == 0 { Duration::ZERO } else { LONG };
            let scratch = place.builder().gather(64 << 10, Duration::from_secs(10)).reset().open().unwrap();
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let scratch = scratch.clone();
                    thread::spawn(move || {
                        let mut written = Vec::new();
                        // Few enough that no file has to make room.
                        for number in 0..22 {
                            let bytes = bytes_of(writer << 32 | number, 100);
                            match scratch.put(REALM, &bytes) {
                                Ok(hash) => written.push((hash, bytes)),
                                Err(error) => {
                                    assert_eq!(error, WriteError::Closed);
                                    break;
                                }
                            }
                            // Closures may be dropped by a close; they must not keep the store.
                            let (held, name) = (scratch.clone(), key(&format!("{writer} {number}")));
                            let later = scratch.write_named(REALM, name, 10, move |_| drop(held));
                            assert!(matches!(later, Ok(()) | Err(WriteError::Closed)), "{later:?}");
                        }
                        written
                    })
                })
                .collect();
            until("writing", || scratch.stats().written_blocks > 20);
            let closed = scratch.clone();
            without_hanging(move || closed.close(timeout));
            let written: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
            drop(scratch);
            let scratch = reopen(place);
            for (hash, bytes) in written {
                assert_eq!(scratch.read(REALM, hash, |found| found == bytes), Ok(true), "round {round}");
            }
            drop(scratch);
        }
    });
}
