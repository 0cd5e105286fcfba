//! What damaged entries, unreadable directories, failed syncs and too many pins must not cost: each test opens with the
//! story of its defect.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::time::Duration;

use crate::block::{BlockHash, FileId};
use crate::error::{OpenError, ReadError};
use crate::index::Published;
use crate::scratch::Scratch;
use crate::scratch::small::{Collision, REALM, block, eventually, memory, three_files_of, ungathered};
use crate::storage::faulty::{Call, Errno, Fault, FaultySource};
use crate::wheel::{OnFull, Verify};

const PATIENCE: Duration = Duration::from_mins(1);
const SIZE: u64 = 1 << 20;

fn key() -> BlockHash {
    BlockHash::of(b"key")
}

/// Damages the entry of a slot of the first file.
fn damage_entry(scratch: &Scratch, slot: u64) {
    let file = scratch.wheel().table.iter().next().unwrap();
    file.memory().unwrap().store(SIZE - slot * 64 - 30, &[&[0xff]]).unwrap();
}

/// How many slots were ever taken in the files as they are.
fn slots(scratch: &Scratch) -> u32 {
    scratch.wheel().table.iter().map(|file| file.cursor.next_slot()).sum()
}

/// The entry of a tombstone was damaged. Its reader counted it as a live block that was gone, and the count of live
/// blocks went below zero.
#[test]
fn a_damaged_tombstone_was_no_live_block() {
    let scratch = ungathered(three_files_of(SIZE));
    scratch.put_named(REALM, key(), b"removed").unwrap();
    scratch.remove(REALM, key()).unwrap();
    damage_entry(&scratch, 1);
    assert!(matches!(scratch.get(REALM, key()), Err(ReadError::Corrupted { .. })));
    assert_eq!((scratch.len(), scratch.stats().bytes), (0, 0));
}

/// A block whose entry was damaged, or could not be read, was replaced, and counted as live for ever: with `Refuse` its
/// file never made room again.
#[test]
fn a_block_that_is_replaced_unseen_is_not_counted_any_more() {
    let source = FaultySource::new(three_files_of(SIZE));
    let faults = source.faults();
    let scratch = ungathered(source);
    scratch.put_named(REALM, key(), b"first").unwrap();
    damage_entry(&scratch, 0);
    scratch.put_named(REALM, key(), b"second").unwrap();
    assert_eq!(scratch.len(), 1);
    faults.set(Fault::at(1).only(&[Call::Load]).kind(ErrorKind::Other));
    scratch.put_named(REALM, key(), b"third").unwrap();
    assert_eq!((faults.failed(), scratch.len()), (1, 1));
    scratch.remove(REALM, key()).unwrap();
    assert_eq!(scratch.len(), 0);
}

/// Of two keys that the index cannot tell apart the entry of one was damaged, or could not be read: whoever asked for the
/// other one got that error.
#[test]
fn an_entry_that_cannot_be_read_is_no_error_of_another_key() {
    let mut met = 0;
    // The other entry has to be the first that is looked at, which hangs on the keys.
    for number in 0..64 {
        if met == 2 {
            break;
        }
        let source = FaultySource::new(three_files_of(SIZE));
        let faults = source.faults();
        let scratch = ungathered(source);
        let (other, key) = (BlockHash::from_u128(1), BlockHash::from_u128(2 + number));
        scratch.put_named(REALM, other, b"other").unwrap();
        let wheel = scratch.wheel();
        let [of_other, of_key] = [other, key].map(|key| wheel.key_hash(REALM, key));
        let address = wheel.index.candidates(of_other).next().unwrap();
        // As if both had the same tag.
        assert_eq!(wheel.index.publish_if_newer(of_key, address, &Collision), Published::Inserted);
        scratch.put_named(REALM, key, b"named").unwrap();
        if wheel.index.candidates(of_key).next() != Some(address) {
            continue;
        }
        met += 1;
        faults.set(Fault::at(1).only(&[Call::Load]).errno(Errno::Io));
        assert_eq!(scratch.read_verified(REALM, key, <[u8]>::to_vec).unwrap(), b"named");
        assert_eq!(faults.failed(), 1);
        damage_entry(&scratch, 0);
        assert_eq!(*scratch.get(REALM, key).unwrap(), *b"named");
        assert_eq!(scratch.stats().corrupted, 1);
    }
    assert_eq!(met, 2);
}

/// Whoever asked whether a block is there, or what it is, was told that it is missing when its entry was damaged; and
/// its removal wrote nothing.
#[test]
fn a_damaged_entry_is_corrupted_for_every_verb_and_removed_by_an_entry() {
    type Ask = fn(&Scratch) -> Result<(), ReadError>;
    let asks: [Ask; 3] = [
        |scratch| scratch.contains(REALM, key()).map(drop),
        |scratch| scratch.info(REALM, key()).map(drop),
        |scratch| scratch.get(REALM, key()).map(drop),
    ];
    for ask in asks {
        let scratch = ungathered(three_files_of(SIZE));
        scratch.put_named(REALM, key(), b"named").unwrap();
        damage_entry(&scratch, 0);
        assert!(matches!(ask(&scratch), Err(ReadError::Corrupted { .. })));
        assert!(scratch.get(REALM, key()).unwrap_err().is_missing(), "it is told once");
        assert_eq!((scratch.stats().corrupted, scratch.len()), (1, 0));
    }
    let scratch = ungathered(three_files_of(SIZE));
    scratch.put_named(REALM, key(), b"named").unwrap();
    damage_entry(&scratch, 0);
    let before = slots(&scratch);
    scratch.remove(REALM, key()).unwrap();
    assert_eq!(slots(&scratch), before + 1);
}

/// A power cut had torn the newest version of a key, which was found to be bad, and what it had replaced was there again.
/// Whoever removed the key then, or put the same content, was told that nothing was to be done, as an older tombstone, or
/// that content, was there. A later opening that compares nothing believed the torn version, which is newer.
#[test]
fn what_is_older_than_a_block_that_is_bad_is_written_again() {
    let content = block(1, 5000);
    let hash = BlockHash::of(&content);
    for removes in [true, false] {
        let files = three_files_of(SIZE);
        let open = |verify| {
            let scratch = Scratch::builder(files.clone()).gather(0, Duration::ZERO).verify(verify).open().unwrap();
            scratch.wait_recovered(PATIENCE).unwrap();
            scratch
        };
        let scratch = open(Verify::FirstRead);
        scratch.put(REALM, &content).unwrap();
        if removes {
            scratch.remove(REALM, hash).unwrap();
        }
        scratch.put_named(REALM, hash, &block(2, 6000)).unwrap();
        // Its first page is the third of the file, or the third but one.
        let file = scratch.wheel().table.iter().next().unwrap();
        let page = u64::from(file.cursor.next_page()) - 2;
        file.memory().unwrap().store(page * 4096, &[b"torn"]).unwrap();
        drop(scratch);

        let scratch = open(Verify::FirstRead);
        let before = slots(&scratch);
        if removes {
            assert!(scratch.get(REALM, hash).is_err());
            scratch.remove(REALM, hash).unwrap();
        } else {
            let _ = scratch.get(REALM, hash);
            scratch.put(REALM, &content).unwrap();
        }
        scratch.flush().unwrap();
        assert_eq!(slots(&scratch), before + 1, "removes: {removes}");
        drop(scratch);

        let scratch = open(Verify::Never);
        match scratch.get(REALM, hash) {
            Ok(bytes) => assert!(!removes && bytes[..] == content[..]),
            Err(error) => assert!(removes && error.is_missing(), "{error}"),
        }
    }
}

/// The removal of a content block lay on a page of the directory that could not be read: the block was found, and whoever put it
/// again was told that it is there. The next opening could read the page, and the block was gone, though it was flushed.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn content_is_written_again_that_may_have_been_removed_on_a_bad_page() {
    for on_full in [OnFull::Recycle, OnFull::Refuse] {
        let files = memory(1, 4, SIZE);
        let open = |source: FaultySource<_>| {
            let scratch = Scratch::builder(source).gather(0, Duration::ZERO).on_full(on_full).open().unwrap();
            scratch.wait_recovered(PATIENCE).unwrap();
            scratch
        };
        let scratch = open(FaultySource::new(files.clone()));
        let content = block(1, 5000);
        let hash = scratch.put(REALM, &content).unwrap();
        // The rest of its file, and the first page of the directory of the next one.
        scratch.put(REALM, &block(2, 900_000)).unwrap();
        let next = scratch.put(REALM, &block(3, 900_000)).unwrap();
        (1..64).for_each(|number| scratch.put_named(REALM, BlockHash::from_u128(number), b"").unwrap());
        scratch.remove(REALM, hash).unwrap();
        let file = scratch.info(REALM, next).unwrap().file;
        drop(scratch);

        let source = FaultySource::new(files.clone());
        source.faults().spoil(file, SIZE - 8192..SIZE - 4096);
        let scratch = open(source);
        assert_eq!(scratch.contains(REALM, hash), Ok(true), "{on_full:?}");
        scratch.put(REALM, &content).unwrap();
        scratch.flush().unwrap();
        drop(scratch);

        let scratch = open(FaultySource::new(files));
        assert_eq!(scratch.get(REALM, hash).map(|bytes| bytes[..] == content[..]), Ok(true), "{on_full:?}");
    }
}

/// With more pins than a counter holds a block was reported as missing: whoever rebuilt it would have written it again,
/// over one that is there.
#[test]
fn a_block_with_too_many_pins_is_busy_and_not_missing() {
    let scratch = ungathered(three_files_of(SIZE));
    let hash = scratch.put(REALM, &block(1, 5000)).unwrap();
    let file = scratch.wheel().table.iter().next().unwrap();
    file.pins.fill(true);
    assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Busy { .. })));
    assert!(matches!(scratch.contains(REALM, hash), Err(ReadError::Busy { .. })));
    assert!(matches!(scratch.info(REALM, hash), Err(ReadError::Busy { .. })));
    file.pins.fill(false);
    assert_eq!(scratch.get(REALM, hash).as_deref(), Ok(&block(1, 5000)[..]));
}

/// Blocks that found no room in the index after a restart were removed by nothing: a later restart, with a larger index,
/// found them again.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_block_without_room_in_the_index_is_removed_by_an_entry() {
    let files = three_files_of(4 << 20);
    let open = |blocks: u64| {
        let builder = Scratch::builder(files.clone()).gather(0, Duration::ZERO);
        let scratch = builder.expected_blocks(blocks).open().unwrap();
        let report = scratch.wait_recovered(PATIENCE).unwrap();
        (scratch, report)
    };
    let keys: Vec<_> = (0..20_000).map(BlockHash::from_u128).collect();
    {
        let (scratch, _) = open(30_000);
        for key in &keys {
            scratch.put_named(REALM, *key, b"").unwrap();
        }
    }
    let (scratch, report) = open(1);
    assert!(report.skipped.no_room > 0, "{report:?}");
    let lost = *keys.iter().find(|key| !scratch.contains(REALM, **key).unwrap()).unwrap();
    let before = slots(&scratch);
    // There may be no room for its tombstone in the index either: the disk has it.
    let _ = scratch.remove(REALM, lost);
    assert_eq!(slots(&scratch), before + 1);
    drop(scratch);
    let (scratch, _) = open(30_000);
    assert!(scratch.get(REALM, lost).unwrap_err().is_missing());
}

/// A piece of a directory could not be read, in the first of two passes or in the second: the second said so to nobody,
/// and what the piece names was removed by nothing, as if it were known not to be there.
#[test]
fn a_key_in_a_directory_that_could_not_be_read_is_removed_by_an_entry() {
    let files = three_files_of(SIZE);
    ungathered(files.clone()).put_named(REALM, key(), b"named").unwrap();
    let source = FaultySource::new(files);
    let faults = source.faults();
    // The first load is that of the header.
    faults.set(Fault::at(2).sticky().only(&[Call::Load]).kind(ErrorKind::Other));
    let scratch = ungathered(source);
    let report = scratch.wait_recovered(PATIENCE).unwrap();
    assert!(report.skipped.unreadable > 0 && report.blocks == 0, "{report:?}");
    faults.clear();
    assert_eq!(scratch.health().suspect, [FileId::new(1).unwrap()]);
    let before = slots(&scratch);
    scratch.remove(REALM, key()).unwrap();
    assert_eq!(slots(&scratch), before + 1);
}

/// What is too large to be kept is read twice.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_key_in_a_directory_that_could_not_be_read_again_is_removed_by_an_entry() {
    let files = three_files_of(4 << 20);
    let open = |source: FaultySource<_>| {
        let builder = Scratch::builder(source).gather(0, Duration::ZERO).expected_blocks(30_000);
        let scratch = builder.open().unwrap();
        let report = scratch.wait_recovered(PATIENCE).unwrap();
        (scratch, report)
    };
    let (scratch, _) = open(FaultySource::new(files.clone()));
    for number in 0..20_000 {
        scratch.put_named(REALM, BlockHash::from_u128(number), b"").unwrap();
    }
    drop(scratch);
    let source = FaultySource::new(files.clone());
    let faults = source.faults();
    let (_, report) = open(source);
    assert_eq!(report.blocks, 20_000);
    let loads = faults.count(Call::Load);

    let source = FaultySource::new(files);
    let faults = source.faults();
    faults.set(Fault::at(loads).sticky().only(&[Call::Load]).kind(ErrorKind::Other));
    let (scratch, report) = open(source);
    assert!(report.skipped.unreadable == 1 && (1..20_000).contains(&report.blocks), "{report:?}");
    faults.clear();
    let before = slots(&scratch);
    scratch.remove(REALM, BlockHash::from_u128(19_999)).unwrap();
    assert_eq!(slots(&scratch), before + 1);
}

/// An empty file of an earlier run was handed to its lane though its header could not be synced: its blocks were
/// flushed, and a power cut would have brought back the header, and the blocks, of the lap before.
#[test]
fn a_spare_whose_header_may_be_lost_is_made_anew_before_it_serves() {
    let files = three_files_of(64 << 10);
    {
        let scratch = ungathered(files.clone());
        for number in 0..11 {
            scratch.put(REALM, &block(number, 4096)).unwrap();
        }
        eventually("a spare", || scratch.stats().files == 2);
    }
    let source = FaultySource::new(files);
    let faults = source.faults();
    // The newest file is the first to be synced.
    faults.set(Fault::at(1).only(&[Call::Sync]));
    let scratch = ungathered(source);
    scratch.wait_recovered(PATIENCE).unwrap();
    assert_eq!(faults.failed(), 1);
    let mut files = Vec::new();
    for number in 100..110 {
        let hash = scratch.put(REALM, &block(number, 4096)).unwrap();
        files.push(scratch.info(REALM, hash).unwrap().file);
        assert!(!scratch.wheel().table.file(*files.last().unwrap()).is_suspect(), "block {number}");
    }
    assert!(files.first() != files.last(), "{files:?}");
    eventually("it is made anew", || faults.count(Call::Delete) > 0 && scratch.health().suspect.is_empty());
}

/// The store of a block with a name failed, and content of the same key was back that it had hidden. That content was
/// put again, not written, and flushed; but the disk might have the failed entry, which a restart would have believed.
#[test]
fn content_is_written_again_after_a_block_of_the_same_name_failed() {
    for (gather, len) in [(64 << 10, 8), (0, 8), (64 << 10, 100_000)] {
        let source = FaultySource::new(three_files_of(SIZE));
        let faults = source.faults();
        let scratch = Scratch::builder(source).gather(gather, Duration::from_secs(10)).open().unwrap();
        let hash = scratch.put(REALM, &block(1, len)).unwrap();
        scratch.flush().unwrap();
        let generation = || scratch.info(REALM, hash).unwrap().generation;
        let before = generation();
        faults.set(Fault::at(2).only(&[Call::Store]));
        assert!(scratch.put_named(REALM, hash, &block(2, len)).is_err() | scratch.flush().is_err());
        assert_eq!(generation(), before, "it is back");
        scratch.put(REALM, &block(1, len)).unwrap();
        assert!(generation() > before, "{len} bytes, {gather}");
    }
}

/// Reads that ended with an error of the disk were counted only if they were to lend bytes.
#[test]
fn every_verb_that_reads_counts_the_errors_of_the_disk() {
    let source = FaultySource::new(three_files_of(SIZE));
    let faults = source.faults();
    let scratch = ungathered(source);
    let hash = scratch.put(REALM, &block(1, 5000)).unwrap();
    faults.set(Fault::at(1).sticky().only(&[Call::Load]).kind(ErrorKind::Other));
    assert!(matches!(scratch.contains(REALM, hash), Err(ReadError::Io(_))));
    assert!(matches!(scratch.info(REALM, hash), Err(ReadError::Io(_))));
    assert!(matches!(scratch.for_each(REALM, |_| ()), Err(ReadError::Io(_))));
    assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Io(_))));
    assert_eq!(scratch.stats().read_errors, 4);
}

/// A header could not be read just now. Whoever took that for a file without one would delete it.
#[test]
fn a_header_that_cannot_be_read_is_an_error_that_names_the_file_and_costs_nothing() {
    let files = three_files_of(64 << 10);
    let hashes: Vec<_> = {
        let scratch = ungathered(files.clone());
        let hashes = (0..20).map(|number| scratch.put(REALM, &block(number, 4096)).unwrap()).collect();
        scratch.flush().unwrap();
        hashes
    };
    for load in 1..=2 {
        let source = FaultySource::new(files.clone()).named();
        let faults = source.faults();
        faults.set(Fault::at(load).sticky().only(&[Call::Load]).errno(Errno::Io));
        match Scratch::open(source) {
            Err(OpenError::Io(error)) => {
                assert_eq!(error.path(), Some(format!("folder-0/file-{load}").as_ref()), "{error}");
                assert!(error.to_string().ends_with("remove that file, which costs its own blocks only"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((faults.count(Call::Delete), faults.count(Call::Create), faults.count(Call::Store)), (0, 0, 0));
    }
    let scratch = ungathered(files);
    scratch.wait_recovered(PATIENCE).unwrap();
    for (number, hash) in (0..).zip(&hashes) {
        assert_eq!(scratch.get(REALM, *hash).as_deref(), Ok(&block(number, 4096)[..]));
    }
}
