//! Blocks that were replaced or removed stay so, however often the wheel turns.

use std::collections::HashMap;

use scratchspace::{BlockHash, MissingOk};

use crate::store::{KIB, PAGE, REALM, Shape, block, some_len};

#[test]
fn a_second_write_of_a_name_replaces_the_first_and_readers_keep_what_they_hold() {
    for shape in Shape::all(4, 64 * KIB) {
        let store = shape.open();
        let key = BlockHash::of(b"name");
        let mut held = Vec::new();
        for version in 0..20_u64 {
            let bytes = block(version, some_len(version));
            if version % 2 == 0 {
                store.scratch.put_named(REALM, key, &bytes).unwrap();
            } else {
                let (len, copy) = (bytes.len(), bytes.clone());
                store.scratch.write_named(REALM, key, len, move |into| into.copy_from_slice(&copy)).unwrap();
            }
            let read = store.scratch.get(REALM, key).unwrap();
            assert_eq!(read[..], bytes, "{shape:?}: version {version}");
            assert_eq!((store.scratch.len(), store.scratch.stats().bytes), (1, bytes.len() as u64), "{shape:?}");
            held.push((version, read));
            // Held blocks of more than two files of a lane would be too many.
            if held.len() > 3 {
                held.remove(0);
            }
            for (version, read) in &held {
                assert_eq!(read[..], block(*version, some_len(*version)), "{shape:?}");
            }
        }
    }
}

#[test]
fn a_removed_or_replaced_block_never_comes_back_over_many_laps() {
    for shape in Shape::all(4, 64 * KIB) {
        let store = shape.open();
        // For each key its newest version, or none once it was removed.
        let mut newest: HashMap<BlockHash, Option<u64>> = HashMap::new();
        let keys: Vec<_> = (0..40_u64).map(|key| BlockHash::of(&key.to_le_bytes())).collect();
        let mut random = 0x1234_5678_u64;
        let mut step = 0_u64;
        while store.scratch.stats().turns < 8 * u64::from(shape.lanes() * shape.files_per_lane) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = keys[usize::try_from(random >> 33).unwrap() % keys.len()];
            match random >> 60 {
                0..5 => {
                    let removed = store.scratch.remove(REALM, key).unwrap();
                    assert!(!removed || newest.get(&key).is_some_and(Option::is_some), "{shape:?}");
                    newest.insert(key, None);
                }
                5..12 => {
                    store.scratch.put_named(REALM, key, &block(step, some_len(step))).unwrap();
                    newest.insert(key, Some(step));
                }
                _ => drop(store.scratch.put(REALM, &block(1_000_000 + step, some_len(step))).unwrap()),
            }
            if step.is_multiple_of(5) {
                for key in &keys {
                    let found = store.scratch.get(REALM, *key).missing_ok().unwrap();
                    let version = newest.get(key).copied().flatten();
                    match (found, version) {
                        (Some(bytes), Some(version)) => {
                            assert_eq!(bytes[..], block(version, some_len(version)), "{shape:?}: step {step}");
                        }
                        (Some(_), None) => panic!("{shape:?}: step {step}: a removed block is back"),
                        (None, _) => {}
                    }
                }
            }
            step += 1;
        }
    }
}

#[test]
fn removing_and_writing_the_same_content_again_makes_it_readable_again() {
    for shape in Shape::all(3, 64 * KIB) {
        let store = shape.open();
        let bytes = block(7, 3 * PAGE);
        for turn in 0..40 {
            let hash = store.scratch.put(REALM, &bytes).unwrap();
            assert_eq!(store.scratch.get(REALM, hash).unwrap()[..], bytes, "{shape:?}: turn {turn}");
            assert!(store.scratch.remove(REALM, hash).unwrap(), "{shape:?}: turn {turn}");
            assert!(!store.scratch.remove(REALM, hash).unwrap(), "{shape:?}: turn {turn}");
            assert!(store.scratch.get(REALM, hash).unwrap_err().is_missing(), "{shape:?}: turn {turn}");
            assert!(store.scratch.is_empty(), "{shape:?}: turn {turn}");
        }
    }
}
