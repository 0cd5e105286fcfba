//! What was written and not flushed when the power was cut, opened with each way to compare bytes with their hash.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::oracle::{Done, Oracle};
use super::{PATIENCE, realm_of};
use crate::block::{BlockHash, FileSize, PAGE_SIZE, Realm};
use crate::scratch::Scratch;
use crate::storage::lossy::{Crash, Image, LossySource};
use crate::wheel::Verify;

const OTHERS: u8 = 0x11;
const OWN: u8 = 0x22;

fn realm(number: u16) -> Realm {
    Realm::from(number)
}

/// A page of one realm's.
fn page(of: u8, number: u64) -> Vec<u8> {
    let mut bytes = vec![of; 4096];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn open(source: LossySource, verify: Verify) -> Scratch {
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).verify(verify).open().unwrap();
    scratch.wait_recovered(PATIENCE).unwrap();
    scratch
}

/// One realm has filled and flushed a wheel, the other has put some blocks where the first one's were.
fn cut(seed: u64) -> (Image, Vec<Vec<u8>>) {
    let source = LossySource::new(1, 3, FileSize::new(10 * PAGE_SIZE).unwrap(), seed);
    let remote = source.remote();
    let scratch = open(source, Verify::FirstRead);
    for number in 0..30 {
        scratch.put(realm(1), &page(OTHERS, number)).unwrap();
    }
    scratch.flush().unwrap();
    let own: Vec<_> = (0..6).map(|number| page(OWN, number)).collect();
    for bytes in &own {
        scratch.put(realm(2), bytes).unwrap();
    }
    (remote.crash(), own)
}

/// A block that a power cut had torn was lent by `Verify::Never`, and from then on counted as compared: whoever put these
/// bytes again was told that they are there, flushed, and found them gone at the next opening.
#[test]
fn what_a_power_cut_has_torn_is_lent_by_never_alone_and_is_written_again_by_whoever_writes_it() {
    let mut of_others = 0;
    for seed in 0..60 {
        let (image, own) = cut(seed);
        for verify in [Verify::FirstRead, Verify::Always] {
            let scratch = open(LossySource::open(&image, seed), verify);
            for bytes in &own {
                let read = scratch.get(realm(2), BlockHash::of(bytes));
                assert!(read.is_err() || read.unwrap()[..] == bytes[..], "seed {seed}, {verify:?}");
            }
        }
        let source = LossySource::open(&image, seed);
        let remote = source.remote();
        let scratch = open(source, Verify::Never);
        let mut again = Vec::new();
        for (number, bytes) in own.iter().enumerate() {
            let key = BlockHash::of(bytes);
            let Ok(read) = scratch.get(realm(2), key) else { continue };
            if read[..] == bytes[..] {
                continue;
            }
            of_others += u32::from(read.contains(&OTHERS));
            drop(read);
            match number % 3 {
                0 => assert!(scratch.read_verified(realm(2), key, <[u8]>::len).is_err()),
                1 => drop(scratch.put(realm(2), bytes).unwrap()),
                _ => {
                    let content = bytes.clone();
                    scratch.write(realm(2), key, content.len(), move |block| block.copy_from_slice(&content)).unwrap();
                }
            }
            if number % 3 == 0 {
                let read = scratch.get(realm(2), key).unwrap_err();
                assert!(read.is_missing(), "seed {seed}, block {number}: {read}");
            } else {
                again.push((key, bytes));
            }
        }
        scratch.flush().unwrap();
        let image = remote.crash();
        drop(scratch);
        let scratch = open(LossySource::open(&image, seed), Verify::FirstRead);
        for (key, bytes) in again {
            let read = scratch.get(realm(2), key).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(read[..], bytes[..], "seed {seed}");
        }
    }
    // What `Verify::Never` says of itself is so; without this nothing above was tried.
    assert!(of_others > 20, "{of_others} blocks with bytes of the other realm");
}

/// Puts eight bytes that no cut is told to keep, and cuts the power.
fn put_and_cut(oracle: &mut Oracle, source: LossySource, key: BlockHash, number: u64) -> Image {
    let (remote, bytes) = (source.remote(), number.to_le_bytes());
    let scratch = open(source, Verify::FirstRead);
    assert!(oracle.check(&scratch, &remote, false));
    oracle.begin(key, Some(bytes.to_vec()), "put_named");
    oracle.settle(&scratch, Done::written(key, scratch.put_named(realm_of(key), key, &bytes)));
    let image = remote.crash();
    oracle.ends(Crash::PowerCut, true, &image);
    image
}

/// The first of two cuts had left the bytes of a block without its entry, the second one the entry of the next block of
/// that key, which was as long and lay in the same place, without its bytes. The judge of the power cuts took what
/// `Verify::Never` lent for the first version, and expected it to last.
#[test]
fn an_older_version_under_the_entry_of_a_newer_one_is_torn() {
    let key = BlockHash::of(b"key");
    for seed in 0..10_000 {
        let mut oracle = Oracle::new(String::new());
        let source = LossySource::new(1, 3, FileSize::new(10 * PAGE_SIZE).unwrap(), seed);
        let image = put_and_cut(&mut oracle, source, key, 1);
        // Another seed: what the two cuts keep must differ.
        let image = put_and_cut(&mut oracle, LossySource::open(&image, seed + 1000), key, 2);
        let source = LossySource::open(&image, seed);
        let remote = source.remote();
        let scratch = open(source, Verify::Never);
        oracle.verify = Verify::Never;
        assert!(oracle.check(&scratch, &remote, false), "seed {seed}");
        let lent = scratch.read(realm_of(key), key, <[u8]>::to_vec).ok();
        let image = remote.crash();
        oracle.ends(Crash::Kill, true, &image);
        drop(scratch);
        let source = LossySource::open(&image, seed);
        let remote = source.remote();
        let scratch = open(source, Verify::FirstRead);
        oracle.verify = Verify::FirstRead;
        assert!(oracle.check(&scratch, &remote, false), "seed {seed}");
        let is_there = scratch.contains(realm_of(key), key).unwrap();
        if lent == Some(1_u64.to_le_bytes().to_vec()) && !is_there {
            return;
        }
    }
    panic!("no cut left an older version under a newer entry");
}
