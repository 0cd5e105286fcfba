//! The numbers of `stats` agree with what is there.

use std::time::Duration;

use scratchspace::{BlockHash, DiskFileSource, OpenError, WriteError};

use crate::store::{KIB, PAGE, REALM, Shape, Store, block, eventually, some_len, test_folder};

fn assert_counts_agree(store: &Store) {
    // A turn under way counts its blocks a moment earlier or later than they vanish.
    eventually("the counts agree", || {
        let (before, blocks, after) = (store.scratch.stats(), store.blocks(), store.scratch.stats());
        let bytes: u64 = blocks.iter().map(|block| u64::from(block.len)).sum();
        before == after && (after.blocks, after.bytes) == (blocks.len() as u64, bytes)
    });
}

#[test]
fn blocks_written_are_there_or_were_recycled() {
    for shape in Shape::all(4, 64 * KIB) {
        let store = shape.open();
        let (mut number, mut bytes) = (0, 0);
        while store.scratch.stats().turns < 3 * u64::from(shape.lanes()) {
            store.scratch.put(REALM, &block(number, 8 + some_len(number))).unwrap();
            bytes += 8 + some_len(number) as u64;
            number += 1;
        }
        assert_counts_agree(&store);
        let stats = store.scratch.stats();
        assert_eq!((stats.written_blocks, stats.written_bytes), (number, bytes), "{shape:?}");
        assert_eq!(stats.blocks + stats.recycled_blocks, number, "{shape:?}: {stats:?}");
        assert_eq!(stats.files, u64::from(shape.lanes() * shape.files_per_lane), "{shape:?}");
        assert_eq!((stats.duplicates, stats.removed, stats.failed, stats.corrupted), (0, 0, 0, 0), "{shape:?}");
        assert_eq!(stats.pending_bytes, 0, "{shape:?}");
        eventually("nothing drains", || (store.scratch.stats().lent, store.scratch.stats().draining) == (0, 0));
    }
}

/// A file that drained was dead, and its blocks were missing, but they were counted until the last pin was gone.
#[test]
fn blocks_of_a_file_that_drains_are_not_counted() {
    for shape in Shape::all(4, 64 * KIB) {
        let store = shape.open_with(|builder| builder.gather(0, Duration::ZERO));
        let mut held = Vec::new();
        let mut number = 0;
        while store.scratch.stats().draining == 0 {
            let hash = store.scratch.put(REALM, &block(number, PAGE)).unwrap();
            if number < 2 {
                held.push(store.scratch.get(REALM, hash).unwrap());
            }
            number += 1;
        }
        assert_counts_agree(&store);
        let stats = store.scratch.stats();
        assert_eq!(stats.lent, 2, "{shape:?}");
        assert_eq!(stats.blocks + stats.recycled_blocks, number, "{shape:?}: {stats:?}");
        drop(held);
        eventually("the file has drained", || store.scratch.stats().draining == 0);
        assert_counts_agree(&store);
    }
}

#[test]
fn removed_and_replaced_blocks_are_counted_once() {
    for shape in Shape::all(4, 64 * KIB) {
        let store = shape.open();
        let keys: Vec<_> = (0..7_u64).map(|key| BlockHash::of(&key.to_le_bytes())).collect();
        let mut removed = 0;
        for number in 0..400_u64 {
            let key = keys[usize::try_from(number * 5 % 7).unwrap()];
            if number % 3 == 0 {
                removed += u64::from(store.scratch.remove(REALM, key).unwrap());
            } else {
                store.scratch.put_named(REALM, key, &block(number, some_len(number))).unwrap();
            }
        }
        assert_counts_agree(&store);
        assert_eq!(store.scratch.stats().removed, removed, "{shape:?}");
    }
}

#[test]
fn a_block_that_no_file_can_hold_is_refused_before_anything_changes() {
    for shape in Shape::all(3, 64 * KIB) {
        let store = shape.open();
        let most = 64 * KIB - 2 * PAGE as u64;
        let largest = block(1, usize::try_from(most).unwrap());
        let larger = block(2, largest.len() + 1);
        let hash = BlockHash::of(&larger);
        let key = BlockHash::of(b"key");
        let before = store.scratch.stats();
        let too_large = || WriteError::TooLarge { len: most + 1, max: most };
        assert_eq!(store.scratch.put(REALM, &larger), Err(too_large()), "{shape:?}");
        assert_eq!(store.scratch.put_named(REALM, key, &larger), Err(too_large()), "{shape:?}");
        assert_eq!(store.scratch.put_many(REALM, &[b"fits", &larger]), Err(too_large()), "{shape:?}");
        assert_eq!(store.scratch.write(REALM, hash, larger.len(), |_| panic!("never run")), Err(too_large()));
        assert_eq!(store.scratch.write_named(REALM, key, larger.len(), |_| panic!("never run")), Err(too_large()));
        let mut writer = store.scratch.writer(REALM);
        writer.write_slice(&larger);
        assert!(writer.commit().is_err(), "{shape:?}");
        assert_eq!(store.scratch.stats(), before, "{shape:?}");
        assert!(!store.scratch.contains(REALM, hash).unwrap() && !store.scratch.contains(REALM, key).unwrap());

        // One more than a lane has files: each takes one.
        for number in 0..=u64::from(shape.files_per_lane * shape.lanes()) {
            let bytes = block(100 + number, largest.len());
            let hash = store.scratch.put(REALM, &bytes).unwrap();
            assert_eq!(store.scratch.get(REALM, hash).unwrap()[..], bytes, "{shape:?}");
        }
    }
}

#[test]
fn a_second_store_on_a_folder_is_refused_by_its_name() {
    let root = test_folder();
    let (first, second, third) = (root.path().join("first"), root.path().join("second"), root.path().join("third"));
    let builder = |folders: [&std::path::PathBuf; 2]| {
        DiskFileSource::builder().folders(folders).files_per_folder(3).file_size(64 * KIB)
    };
    let store = scratchspace::Scratch::open(builder([&first, &second]).build().unwrap()).unwrap();
    let hash = store.put(REALM, b"held").unwrap();
    let in_use = |folder: &std::path::PathBuf| OpenError::InUse { folder: folder.clone() };
    let refused = builder([&third, &second]).build().unwrap_err();
    assert_eq!(refused, in_use(&second));
    assert!(refused.to_string().contains(second.to_str().unwrap()), "{refused}");
    assert_eq!(builder([&first, &second]).build().unwrap_err(), in_use(&first));
    // Blocks that are lent hold the folders on.
    store.flush().unwrap();
    let held = store.get(REALM, hash).unwrap();
    drop(store);
    assert_eq!(builder([&first, &second]).build().unwrap_err(), in_use(&first));
    assert_eq!(&held[..], b"held");
    drop(held);
    builder([&first, &second]).build().unwrap();
}
