//! A store that may not forget: `OnFull::Refuse`.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use scratchspace::{BlockHash, DiskFileSource, MemoryFileSource, OnFull, Scratch, WriteError};

use crate::store::{HANGS, KIB, PAGE, REALM, Shape, Store, block, test_folder};

fn refusing(shape: Shape) -> Store {
    refusing_within(shape, HANGS)
}

fn refusing_within(shape: Shape, timeout: Duration) -> Store {
    shape.open_with(|builder| builder.on_full(OnFull::Refuse).gather(0, Duration::ZERO).wait_timeout(timeout))
}

/// Puts blocks until one is refused: the hashes of all others, and the error.
fn fill(store: &Store, len: usize) -> (Vec<(u64, BlockHash)>, WriteError) {
    let mut written = Vec::new();
    for number in 0..100_000 {
        match store.scratch.put(REALM, &block(number, len)) {
            Ok(hash) => written.push((number, hash)),
            Err(error) => return (written, error),
        }
    }
    panic!("a store of {} bytes is never full", store.shape.capacity());
}

fn assert_all_there(store: &Store, written: &[(u64, BlockHash)], len: usize) {
    for (number, hash) in written {
        assert_eq!(store.scratch.get(REALM, *hash).unwrap()[..], block(*number, len), "{:?}", store.shape);
    }
}

#[test]
fn a_full_store_refuses_with_its_numbers_and_keeps_every_block() {
    for shape in Shape::all(3, 64 * KIB) {
        let store = refusing(shape);
        let len = 5000;
        let (written, error) = fill(&store, len);
        let stats = store.scratch.stats();
        let WriteError::Full { needed, live } = error else { panic!("{shape:?}: {error}") };
        assert_eq!(needed, 8192, "{shape:?}");
        assert!(live > 0 && live.is_multiple_of(len as u64) && live <= stats.bytes, "{shape:?}: {live}");
        if shape.lanes() == 1 {
            // Two files of 16 pages: header, seven blocks of two pages, a directory. The third takes tombstones.
            assert_eq!((written.len(), live), (14, 14 * len as u64), "{shape:?}");
        }
        assert_eq!((stats.blocks, stats.bytes), (written.len() as u64, (written.len() * len) as u64), "{shape:?}");
        assert_eq!((stats.turns, stats.recycled_blocks, stats.evicted), (0, 0, 0), "{shape:?}");
        assert_all_there(&store, &written, len);
    }
}

#[test]
fn content_that_is_there_needs_no_room() {
    for shape in Shape::all(3, 64 * KIB) {
        let store = refusing(shape);
        let (written, _) = fill(&store, PAGE);
        let before = store.scratch.stats();
        for (number, hash) in &written {
            assert_eq!(store.scratch.put(REALM, &block(*number, PAGE)), Ok(*hash), "{shape:?}");
            store.scratch.write(REALM, *hash, PAGE, |_| panic!("it is there already")).unwrap();
        }
        let contents: Vec<_> = written.iter().map(|(number, _)| block(*number, PAGE)).collect();
        let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let hashes: Vec<_> = written.iter().map(|(_, hash)| *hash).collect();
        assert_eq!(store.scratch.put_many(REALM, &slices), Ok(hashes), "{shape:?}");
        let after = store.scratch.stats();
        assert_eq!(after.duplicates - before.duplicates, 3 * written.len() as u64, "{shape:?}");
        assert_eq!(after.written_blocks, before.written_blocks, "{shape:?}");
    }
}

#[test]
fn once_everything_in_the_oldest_file_is_removed_writes_go_on() {
    for shape in Shape::all(3, 64 * KIB) {
        let store = refusing(shape);
        let (written, _) = fill(&store, PAGE);
        let mut kept = written.clone();
        let mut number = 1_000_000;
        for _ in 0..4 {
            let oldest = store.oldest_blocks();
            let turns = store.scratch.stats().turns;
            for info in &oldest {
                assert_eq!(store.scratch.stats().turns, turns, "{shape:?}: it dies too early");
                assert!(store.scratch.remove(REALM, info.hash).unwrap(), "{shape:?}");
                assert!(!store.scratch.contains(REALM, info.hash).unwrap(), "{shape:?}");
            }
            kept.retain(|(_, hash)| oldest.iter().all(|info| info.hash != *hash));
            // Numbers are tried until the lane of that file, whichever it is, is full again.
            let mut taken = 0;
            for _ in 0..200 {
                match store.scratch.put(REALM, &block(number, PAGE)) {
                    Ok(hash) => {
                        kept.push((number, hash));
                        taken += 1;
                    }
                    Err(WriteError::Full { needed, .. }) => assert_eq!(needed, PAGE as u64),
                    Err(error) => panic!("{shape:?}: {error}"),
                }
                number += 1;
            }
            assert!(taken >= 12, "{shape:?}: {taken} blocks instead of {}", oldest.len());
            assert_all_there(&store, &kept, PAGE);
            assert_eq!(store.scratch.len(), kept.len() as u64, "{shape:?}");
        }
        assert_eq!(store.scratch.stats().recycled_blocks, 0, "{shape:?}");
        for (_, hash) in written.iter().filter(|(_, hash)| kept.iter().all(|(_, kept)| kept != hash)) {
            assert!(!store.scratch.contains(REALM, *hash).unwrap(), "{shape:?}: a removed block is back");
        }
    }
}

#[test]
fn everything_can_be_removed_from_a_full_store() {
    for shape in Shape::all(3, 64 * KIB) {
        let store = refusing(shape);
        let (written, _) = fill(&store, PAGE);
        // The youngest first: its files may not turn before the oldest can.
        for (_, hash) in written.iter().rev() {
            assert_eq!(store.scratch.remove(REALM, *hash), Ok(true), "{shape:?}");
        }
        assert!(store.scratch.is_empty(), "{shape:?}");
        assert_eq!(
            (store.scratch.stats().bytes, store.scratch.stats().removed),
            (0, written.len() as u64),
            "{shape:?}"
        );
        let (again, _) = fill(&store, PAGE);
        // At least a file of a lane: tombstones share the file that was being filled with what is written now.
        assert!(again.len() >= 14, "{shape:?}: {} blocks, then {}", written.len(), again.len());
        assert_all_there(&store, &again, PAGE);
    }
}

/// While the emptied oldest file was still being read, the last free file was handed to writers of data: then nothing
/// could be removed any more.
#[test]
fn removal_works_while_the_emptied_oldest_file_is_held() {
    for shape in Shape::all(3, 64 * KIB).filter(|shape| shape.lanes() == 1) {
        let store = refusing_within(shape, Duration::from_millis(300));
        let (mut written, _) = fill(&store, PAGE);
        let oldest = store.oldest_blocks();
        let held = store.scratch.get(REALM, oldest[0].hash).unwrap();
        let held_bytes = held.to_vec();
        for info in &oldest {
            assert!(store.scratch.remove(REALM, info.hash).unwrap(), "{shape:?}");
        }
        written.retain(|(_, hash)| oldest.iter().all(|info| info.hash != *hash));
        let error = (0..100).find_map(|number| store.scratch.put(REALM, &block(5000 + number, PAGE)).err()).unwrap();
        assert!(matches!(error, WriteError::AllPinned { .. }), "{shape:?}: {error}");
        for (_, hash) in written.drain(..3) {
            assert_eq!(store.scratch.remove(REALM, hash), Ok(true), "{shape:?}");
        }
        assert_eq!(held[..], held_bytes, "{shape:?}");
        assert_all_there(&store, &written, PAGE);
        drop(held);
        store.scratch.put(REALM, &block(9000, PAGE)).unwrap();
        assert_all_there(&store, &written, PAGE);
    }
}

/// After a restart the last free file took data, and nothing could be removed from the full store any more.
#[test]
fn a_full_store_is_as_full_after_a_restart_and_removal_still_works() {
    let folder = test_folder();
    let open = || {
        let source = DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(64 * KIB);
        let scratch = Scratch::builder(source.build().unwrap()).on_full(OnFull::Refuse).open().unwrap();
        scratch.wait_recovered(HANGS).unwrap();
        scratch
    };
    let put = |scratch: &Scratch, number| scratch.put(REALM, &block(number, PAGE));
    let mut scratch = open();
    let mut written: Vec<BlockHash> = (0..1000).map_while(|number| put(&scratch, number).ok()).collect();
    assert_eq!(written.len(), 28);
    for turn in 0..4 {
        let removed = written.pop().unwrap();
        assert_eq!(scratch.remove(REALM, removed), Ok(true), "turn {turn}");
        drop(scratch);
        scratch = open();
        for number in 0..30 {
            let error = put(&scratch, 1000 + number).unwrap_err();
            assert!(matches!(error, WriteError::Full { .. }), "turn {turn}: {error}");
        }
        assert!(!scratch.contains(REALM, removed).unwrap(), "turn {turn}");
        assert!(written.iter().all(|hash| scratch.get(REALM, *hash).unwrap().len() == PAGE), "turn {turn}");
    }
}

#[test]
fn what_many_writers_were_told_is_stored_stays_there() {
    for shape in Shape::all(4, 128 * KIB) {
        let store = refusing(shape);
        let stored: Vec<(u64, usize, BlockHash)> = thread::scope(|scope| {
            let writers: Vec<_> = (0..4_u64)
                .map(|writer| {
                    let store = &store;
                    scope.spawn(move || {
                        let mut stored = Vec::new();
                        for at in 0..200 {
                            let (number, len) =
                                (writer << 32 | at, [60_000, 100, 20_000][usize::try_from(at % 3).unwrap()]);
                            match store.scratch.put(REALM, &block(number, len)) {
                                Ok(hash) => stored.push((number, len, hash)),
                                Err(WriteError::Full { .. }) => {}
                                Err(error) => panic!("{shape:?}: {error}"),
                            }
                        }
                        stored
                    })
                })
                .collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        for (number, len, hash) in &stored {
            assert_eq!(store.scratch.get(REALM, *hash).unwrap()[..], block(*number, *len), "{shape:?}");
        }
        assert_eq!(store.scratch.len(), stored.len() as u64, "{shape:?}");
        assert_eq!(store.scratch.stats().recycled_blocks, 0, "{shape:?}");
    }
}

/// A closure that waits had hidden the version before it. Its file held no live block any more and made room, so that
/// there was nothing to come back when the closure failed: a flushed block was forgotten.
#[test]
fn a_version_that_may_come_back_keeps_its_file() {
    let source = MemoryFileSource::builder().files_per_folder(3).file_size(64 * KIB).build().unwrap();
    let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(0, Duration::ZERO);
    let scratch = builder.wait_timeout(Duration::from_millis(200)).open().unwrap();
    let key = BlockHash::of(b"key");
    scratch.put_named(REALM, key, b"flushed").unwrap();
    scratch.flush().unwrap();
    let (release, released) = channel::<()>();
    let (enter, entered) = channel::<()>();
    let other = BlockHash::of(b"other");
    let fail = move |_: &mut [u8]| {
        enter.send(()).unwrap();
        let _ = released.recv_timeout(HANGS);
        std::panic::resume_unwind(Box::new("this closure fails"));
    };
    scratch.write_named(REALM, key, 7, fail).unwrap();
    entered.recv_timeout(HANGS).unwrap();
    // Every block that fills a file is replaced by the next one: nothing but `key` and one more is ever live.
    let mut refused = 0;
    for number in 0..60 {
        match scratch.put_named(REALM, other, &block(number, 5000)) {
            Ok(()) => {}
            Err(WriteError::Full { .. } | WriteError::Timeout { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "the file of the hidden version has made room");
    release.send(()).unwrap();
    assert_eq!(scratch.flush().unwrap_err().failed, 1);
    assert_eq!(scratch.get(REALM, key).unwrap()[..], b"flushed"[..]);
}
