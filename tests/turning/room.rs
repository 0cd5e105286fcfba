//! The oldest file makes room, and nothing else does.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use scratchspace::{BlockHash, MissingOk};

use crate::store::{HANGS, KIB, PAGE, REALM, Shape, block, eventually, some_len};

/// What was written, and where it went: number, hash, file and generation.
type Written = (u64, BlockHash, u16, u64);

#[test]
fn when_all_files_are_full_the_oldest_one_makes_room_and_nothing_else_is_lost() {
    for shape in Shape::all(4, 64 * KIB) {
        let store = shape.open();
        let mut written: Vec<Written> = Vec::new();
        let (mut number, mut bytes) = (0, 0);
        while bytes < 3 * shape.capacity() {
            let content = block(number, some_len(number));
            let hash = store.scratch.put(REALM, &content).unwrap();
            assert_eq!(store.scratch.get(REALM, hash).unwrap()[..], content, "{shape:?}");
            let info = store.scratch.info(REALM, hash).unwrap();
            written.push((number, hash, info.file.get(), info.generation));
            bytes += content.len().next_multiple_of(PAGE) as u64;
            number += 1;
        }
        assert!(store.scratch.stats().turns > u64::from(shape.lanes()), "{shape:?}");
        // A turn may just be under way.
        eventually("the wheel rests", || {
            let turns = store.scratch.stats().turns;
            std::thread::sleep(std::time::Duration::from_millis(20));
            let stats = store.scratch.stats();
            (stats.turns, stats.draining, stats.blocks) == (turns, 0, store.blocks().len() as u64)
        });
        let alive = |(number, hash, ..): &Written| {
            let found = store.scratch.get(REALM, *hash).missing_ok().unwrap();
            if let Some(bytes) = &found {
                assert_eq!(bytes[..], block(*number, some_len(*number)), "{shape:?}");
            }
            found.is_some()
        };
        let mut laps: BTreeMap<(u16, u64), Vec<bool>> = BTreeMap::new();
        for written in written.iter().rev() {
            laps.entry((written.2, written.3)).or_default().push(alive(written));
        }
        let readable: usize = laps.values().flatten().filter(|alive| **alive).count();
        assert_eq!(readable as u64, store.scratch.len(), "{shape:?}");
        for ((file, generation), blocks) in &laps {
            assert!(blocks.iter().all(|alive| *alive == blocks[0]), "{shape:?}: file {file} of {generation} is torn");
        }
        if shape.lanes_per_folder == 1 {
            // The lane of a file is its folder: there what lives is younger than what died.
            for lane in 0..shape.folders {
                let of_lane = laps.iter().filter(|((file, _), _)| (file - 1) % shape.folders == lane);
                let mut by_age: Vec<_> = of_lane.map(|((_, generation), blocks)| (*generation, blocks[0])).collect();
                by_age.sort_unstable();
                assert!(by_age.is_sorted_by_key(|(_, alive)| *alive), "{shape:?}: {by_age:?}");
                let living = by_age.iter().filter(|(_, alive)| *alive).count();
                assert!(living >= usize::from(shape.files_per_lane) - 1, "{shape:?}: {by_age:?}");
            }
        }
    }
}

#[test]
fn readers_of_younger_files_are_never_disturbed_while_the_wheel_turns() {
    for shape in Shape::all(6, 64 * KIB) {
        let store = shape.open();
        let written = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        // As many blocks as half of a file holds, in a lane, cannot be forgotten before four files more were filled.
        let young = 20;
        let len = |number: u64| 1 + usize::try_from(number % 5).unwrap() * 500;
        thread::scope(|scope| {
            for reader in 0..2_u64 {
                let (store, written, stop) = (&store, &written, &stop);
                scope.spawn(move || {
                    let mut at = reader;
                    while !stop.load(Ordering::Relaxed) {
                        let before = written.load(Ordering::Acquire);
                        at += 7;
                        let Some(number) = before.checked_sub(1 + at % young) else { continue };
                        let expected = block(number, len(number));
                        let hash = BlockHash::of(&expected);
                        let same = store.scratch.read(REALM, hash, |bytes| bytes == expected).missing_ok().unwrap();
                        let since = written.load(Ordering::Acquire) - number;
                        assert!(same.unwrap_or(since > 2 * young), "{shape:?}: block {number}, {same:?}, {since}");
                    }
                });
            }
            let blocks = 3 * shape.capacity() / PAGE as u64;
            for number in 0..blocks {
                let hash = store.scratch.put(REALM, &block(number, len(number)));
                if let Err(error) = hash {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{shape:?}: {error}");
                }
                written.store(number + 1, Ordering::Release);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(store.scratch.stats().turns > 0, "{shape:?}");
        assert_eq!(store.scratch.stats().corrupted, 0, "{shape:?}");
    }
}

/// A reader that had found an address was interrupted until the file of it had begun another lap: it met another key's
/// block there, and said that its own, which had been written again elsewhere meanwhile, was missing.
#[test]
fn a_block_that_is_written_again_in_time_is_never_missing() {
    let shape = Shape::one_lane(5, 20 * KIB);
    let store = shape.open_with(|builder| builder.gather(0, std::time::Duration::ZERO));
    let kept = block(0, 1);
    // Named, so that its newest version is always among the youngest blocks, however long a reader is interrupted.
    let hash = BlockHash::of(b"kept");
    store.scratch.put_named(REALM, hash, &kept).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut misses = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        match store.scratch.read(REALM, hash, |bytes| bytes == kept).missing_ok().unwrap() {
                            Some(same) => assert!(same),
                            None => misses += 1,
                        }
                    }
                    misses
                })
            })
            .collect();
        for number in 1..1_200 {
            store.scratch.put(REALM, &block(number, 1)).unwrap();
            store.scratch.put_named(REALM, hash, &kept).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let misses: Vec<u64> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert_eq!(misses, [0, 0, 0]);
    });
    assert!(store.scratch.stats().turns > 300);
}

#[test]
fn content_in_the_file_that_dies_next_is_written_again_and_other_content_is_not() {
    for shape in Shape::all(4, 64 * KIB).filter(|shape| shape.lanes() == 1) {
        let store = shape.open_with(|builder| builder.gather(0, std::time::Duration::ZERO));
        let contents: Vec<_> = (0..200).map(|number| block(number, 100)).collect();
        // Until a file was just begun for which another one had to die: no other dies before this one is filled.
        for content in &contents {
            store.scratch.put(REALM, content).unwrap();
            let newest = store.blocks().iter().map(|block| block.generation).max();
            let in_newest = store.blocks().iter().filter(|block| Some(block.generation) == newest).count();
            if store.scratch.stats().turns > 0 && in_newest == 1 {
                break;
            }
        }
        let before = store.scratch.stats();
        let content_of = |hash: BlockHash| contents.iter().find(|content| BlockHash::of(content) == hash).unwrap();
        let (oldest, blocks) = (store.oldest_blocks(), store.blocks());
        let (refreshed, kept, youngest) = (oldest[0], blocks[oldest.len()], blocks[blocks.len() - 1]);
        for twice in [kept, youngest] {
            store.scratch.put(REALM, content_of(twice.hash)).unwrap();
            assert_eq!(store.scratch.info(REALM, twice.hash).unwrap(), twice, "{shape:?}");
        }
        let after = store.scratch.stats();
        assert_eq!((after.duplicates - before.duplicates, after.written_blocks), (2, before.written_blocks));

        store.scratch.put(REALM, content_of(refreshed.hash)).unwrap();
        let after = store.scratch.stats();
        assert_eq!((after.duplicates - before.duplicates, after.written_blocks), (2, before.written_blocks + 1));
        assert_eq!(store.scratch.info(REALM, refreshed.hash).unwrap().generation, youngest.generation, "{shape:?}");

        let mut number = 1000;
        while store.scratch.stats().turns == before.turns {
            store.scratch.put(REALM, &block(number, 100)).unwrap();
            number += 1;
        }
        let others_are_gone = || oldest[1..].iter().all(|block| !store.scratch.contains(REALM, block.hash).unwrap());
        eventually("the oldest file turns", others_are_gone);
        assert_eq!(store.scratch.get(REALM, refreshed.hash).unwrap()[..], content_of(refreshed.hash)[..]);
    }
}

#[test]
fn many_writers_at_once_lose_nothing_that_is_young() {
    for shape in Shape::all(5, 128 * KIB) {
        let store = shape.open();
        thread::scope(|scope| {
            for writer in 0..4_u64 {
                let store = &store;
                scope.spawn(move || {
                    let mut last: Vec<(u64, BlockHash)> = Vec::new();
                    for at in 0..150 {
                        let number = writer * 1_000_000 + at;
                        let content = block(number, some_len(number));
                        let hash = if at % 3 == 0 {
                            let (hash, len) = (BlockHash::of(&content), content.len());
                            store.scratch.write(REALM, hash, len, move |into| into.copy_from_slice(&content)).unwrap();
                            hash
                        } else {
                            store.scratch.put(REALM, &content).unwrap()
                        };
                        last.push((number, hash));
                        // Of all that the four write, these are less than two files of one lane.
                        for (number, hash) in last.iter().rev().take(3) {
                            let bytes = store.scratch.get(REALM, *hash).missing_ok().unwrap();
                            if let Some(bytes) = bytes {
                                assert_eq!(bytes[..], block(*number, some_len(*number)), "{shape:?}");
                            }
                        }
                    }
                });
            }
        });
        let stats = store.scratch.stats();
        assert_eq!((stats.corrupted, stats.evicted), (0, 0), "{shape:?}");
        eventually("all pins are dropped", || store.scratch.stats().lent == 0);
        store.scratch.close(HANGS);
    }
}

/// Content in a file that made room just then counted as there, and was missing right after its write.
#[test]
fn content_that_was_written_again_is_there_for_a_while() {
    // Not twice as many contents as the store holds, in an order without a pattern: most writes find theirs there.
    let store = Shape::one_lane(8, 128 * KIB).open();
    let (mut random, mut written) = (12_345_u64, VecDeque::new());
    for write in 0..20_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let content = block(random >> 56, 100);
        let hash = BlockHash::of(&content);
        if write % 2 == 0 {
            store.scratch.put(REALM, &content).unwrap();
        } else {
            store.scratch.write(REALM, hash, content.len(), move |bytes| bytes.copy_from_slice(&content)).unwrap();
        }
        // Fewer than fill three quarters of a file: after the next to die nothing dies meanwhile.
        written.push_back(hash);
        if written.len() > 8
            && let Some(hash) = written.pop_front()
        {
            assert_eq!(store.scratch.read(REALM, hash, <[u8]>::len), Ok(100), "write {}", write - 8);
        }
    }
    let stats = store.scratch.stats();
    assert!(stats.turns > 100 && stats.duplicates > 10_000, "{stats:?}");
}
