//! Blocks that are held, and the wheel that goes on.

use std::time::Duration;

use scratchspace::{MissingOk, WriteError};

use crate::store::{KIB, PAGE, REALM, Shape, Store, block, eventually};

/// Stores whole pages at once, so that a file holds `file_size / 4096 - 2` blocks.
fn ungathered(shape: Shape, timeout: Duration) -> Store {
    shape.open_with(|builder| builder.gather(0, Duration::ZERO).wait_timeout(timeout))
}

/// Writes blocks from `numbers` on until `enough`; the numbers that were used up.
fn write_until(store: &Store, numbers: &mut u64, enough: impl Fn() -> bool) {
    let first = *numbers;
    while !enough() {
        store.scratch.put(REALM, &block(*numbers, PAGE)).unwrap();
        *numbers += 1;
        assert!(*numbers - first < 100_000, "it never is enough");
    }
}

#[test]
fn a_file_that_is_held_drains_while_the_wheel_goes_on_and_serves_again_when_it_is_dropped() {
    for shape in Shape::all(4, 64 * KIB) {
        let store = ungathered(shape, crate::store::HANGS);
        let held_bytes = block(0, 5000);
        let hash = store.scratch.put(REALM, &held_bytes).unwrap();
        let held = store.scratch.get(REALM, hash).unwrap();
        let file = store.scratch.info(REALM, hash).unwrap().file;
        let part = held.slice(4000..);
        let mut number = 1;
        let stats = || store.scratch.stats();
        write_until(&store, &mut number, || store.scratch.get(REALM, hash).missing_ok().unwrap().is_none());
        let turns = stats().turns;
        write_until(&store, &mut number, || stats().turns > turns + 6 * u64::from(shape.lanes()));
        // Four other files of the lane, and of the others, were used again since; this one was not.
        assert!(store.blocks().iter().all(|block| block.file != file), "{shape:?}");
        assert_eq!(held[..], held_bytes, "{shape:?}");
        drop(held);
        assert_eq!(part[..], held_bytes[4000..], "{shape:?}");
        eventually("nothing else drains", || (stats().draining, stats().lent) == (1, 1));
        drop(part);
        eventually("the file has drained", || stats().draining == 0 && stats().lent == 0);
        write_until(&store, &mut number, || store.blocks().iter().any(|block| block.file == file));
    }
}

#[test]
fn three_files_survive_one_block_that_is_never_given_back() {
    for shape in Shape::all(3, 32 * KIB).filter(|shape| shape.lanes() == 1) {
        let store = ungathered(shape, crate::store::HANGS);
        let leaked_bytes = block(0, 100);
        let hash = store.scratch.put(REALM, &leaked_bytes).unwrap();
        let leaked = store.scratch.get(REALM, hash).unwrap();
        std::mem::forget(leaked.clone());
        let mut number = 1;
        for lap in 1..=12 {
            write_until(&store, &mut number, || store.scratch.stats().turns >= 2 * lap);
            assert_eq!(leaked[..], leaked_bytes, "{shape:?}");
        }
        // The newest blocks are there, as many as a file holds.
        for young in number - 3..number {
            assert_eq!(store.scratch.get(REALM, scratchspace::BlockHash::of(&block(young, PAGE))).unwrap().len(), PAGE);
        }
        assert_eq!(store.scratch.stats().draining, 1, "{shape:?}");
        drop(leaked);
        assert_eq!(store.scratch.stats().lent, 1, "{shape:?}");
    }
}

/// The last file that did not drain made room as well, so that of a lane whose files are held nothing stayed readable.
#[test]
fn when_all_files_of_a_lane_but_one_are_held_writers_are_told_which_is_the_oldest() {
    for shape in Shape::all(4, 32 * KIB).filter(|shape| shape.lanes() == 1) {
        let store = ungathered(shape, Duration::from_millis(300));
        let mut held = Vec::new();
        let mut number = 0;
        let error = loop {
            assert!(number < 1000, "{shape:?}: it goes on though everything is held: {:?}", store.scratch.stats());
            match store.scratch.put(REALM, &block(number, PAGE)) {
                Ok(hash) => {
                    let block = store.scratch.get(REALM, hash).unwrap();
                    let file = store.scratch.info(REALM, hash).unwrap().file;
                    held.push((file, number, block));
                    number += 1;
                }
                Err(error) => break error,
            }
        };
        let WriteError::AllPinned { oldest, waited } = error else { panic!("{shape:?}: {error}") };
        assert_eq!(oldest, held[0].0, "{shape:?}");
        assert!(waited >= Duration::from_millis(300), "{waited:?}");
        assert_eq!(store.scratch.stats().draining, u64::from(shape.files_per_lane) - 1, "{shape:?}");
        for (_, number, held) in &held {
            assert_eq!(held[..], block(*number, PAGE), "{shape:?}");
        }
        // The one file that is left keeps its blocks.
        assert!(!store.blocks().is_empty(), "{shape:?}");
        assert!(store.blocks().iter().all(|left| store.scratch.contains(REALM, left.hash).unwrap()));

        held.retain(|(file, ..)| *file != oldest);
        for next in number..number + 3 {
            store.scratch.put(REALM, &block(next, PAGE)).unwrap();
        }
        for (_, number, held) in &held {
            assert_eq!(held[..], block(*number, PAGE), "{shape:?}");
        }
    }
}

#[test]
fn a_reader_that_writes_until_its_own_file_has_turned_goes_on() {
    for shape in Shape::all(3, 32 * KIB) {
        let store = ungathered(shape, crate::store::HANGS);
        let bytes = block(0, 5000);
        let hash = store.scratch.put(REALM, &bytes).unwrap();
        let written = store.scratch.read(REALM, hash, |read| {
            let mut number = 1;
            write_until(&store, &mut number, || store.scratch.stats().turns > 5 * u64::from(shape.lanes()));
            assert_eq!(read, bytes, "{shape:?}");
            number
        });
        assert!(written.unwrap() > 5, "{shape:?}");
        eventually("its file has drained", || store.scratch.stats().draining == 0);
    }
}

#[test]
fn readers_inside_readers_that_hold_every_file_are_told_so_instead_of_waiting_for_themselves() {
    fn nest(store: &Store, number: u64, depth: u64) -> WriteError {
        match store.scratch.put(REALM, &block(number, 2 * PAGE)) {
            Ok(_) if depth == 0 => panic!("three files hold more than they can"),
            Ok(hash) => store.scratch.read(REALM, hash, |_| nest(store, number + 1, depth - 1)).unwrap(),
            Err(error) => error,
        }
    }
    let store = ungathered(Shape::one_lane(3, 20 * KIB), Duration::from_millis(100));
    let error = nest(&store, 0, 50);
    assert!(matches!(error, WriteError::AllPinned { .. }), "{error}");
    store.scratch.put(REALM, &block(100, PAGE)).unwrap();
}
