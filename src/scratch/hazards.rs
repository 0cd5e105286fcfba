//! What a review of the protocols has found: each test opens with the story of its defect.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::{BlockHash, Realm};
use crate::error::{ReadError, WriteError};
use crate::scratch::{BlockRef, Scratch};
use crate::storage::faulty::{Call, Fault, FaultySource};
use crate::storage::{FileSource, MemoryFileSource};
use crate::sync::thread;
use crate::wheel::OnFull;

const REALM: Realm = Realm::DEFAULT;
const PATIENCE: Duration = Duration::from_secs(20);

fn three_files_of(bytes: u64) -> MemoryFileSource {
    MemoryFileSource::builder().files_per_folder(3).file_size(bytes).build().unwrap()
}

/// A store in which each block reaches its file before its call returns.
fn ungathered(source: impl FileSource) -> Scratch {
    Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap()
}

fn block(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Where a block and its entry lie in the memory of their file.
fn damage(scratch: &Scratch, at: u64) {
    let file = scratch.wheel().table.iter().next().unwrap();
    file.memory().unwrap().store(at, &[&[0xff]]).unwrap();
}

/// A reader that found a block bad took it away from those who held it: the next look at their bytes panicked.
#[test]
fn bytes_that_are_lent_stay_lent_when_their_block_is_found_bad() {
    let scratch = ungathered(three_files_of(1 << 20));
    let hash = scratch.put(REALM, &block(1, 5000)).unwrap();
    let held: BlockRef = scratch.get(REALM, hash).unwrap();
    damage(&scratch, 4096 + 4999);
    assert!(matches!(scratch.read_verified(REALM, hash, |_| ()), Err(ReadError::Corrupted { .. })));
    assert_eq!((held.len(), held[0]), (5000, 1));
    assert!(scratch.get(REALM, hash).unwrap_err().is_missing());
}

/// A block whose entry was damaged left the index, but was counted as live for ever: with `Refuse` its file, and so the
/// lane, never turned again.
#[test]
fn a_block_whose_entry_is_damaged_is_not_counted_any_more() {
    let scratch = ungathered(three_files_of(1 << 20));
    let hash = scratch.put(REALM, &block(1, 100)).unwrap();
    assert_eq!(scratch.len(), 1);
    damage(&scratch, (1 << 20) - 30);
    assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Corrupted { .. })));
    assert_eq!(scratch.len(), 0);
}

/// The gather buffer of a newer version was lost. The index then named no version of the key, so that its removal wrote
/// nothing, and the restart found the older version. (By now that one comes back at once.)
#[test]
fn a_key_removed_after_its_newer_version_was_lost_stays_removed() {
    let files = three_files_of(1 << 20);
    let source = FaultySource::new(files.clone());
    let faults = source.faults();
    let scratch = Scratch::builder(source).gather(64 << 10, Duration::from_secs(10)).open().unwrap();
    let key = BlockHash::of(b"key");
    scratch.put_named(REALM, key, b"first").unwrap();
    scratch.flush().unwrap();
    scratch.put_named(REALM, key, b"second").unwrap();
    faults.set(Fault::at(1).only(&[Call::Store]));
    assert_eq!(scratch.flush().unwrap_err().failed, 1);
    assert_eq!(scratch.get(REALM, key).as_deref(), Ok(&b"first"[..]));
    assert_eq!(scratch.remove(REALM, key), Ok(true));
    drop(scratch);

    let scratch = ungathered(files);
    scratch.wait_recovered(PATIENCE).unwrap();
    assert!(scratch.get(REALM, key).unwrap_err().is_missing());
}

/// As above, for a block that a call could not store: part of it may be on the disk.
#[test]
fn a_key_removed_after_its_store_failed_stays_removed() {
    let files = three_files_of(1 << 20);
    let source = FaultySource::new(files.clone());
    let faults = source.faults();
    let scratch = ungathered(source);
    // The payload is stored, the entry is not: a disk might have stored it nevertheless.
    faults.set(Fault::at(2).only(&[Call::Store]));
    scratch.put_named(REALM, BlockHash::of(b"key"), &[1; 5000]).unwrap_err();
    let slots = || scratch.wheel().table.iter().map(|file| file.cursor.next_slot()).sum::<u32>();
    let before = slots();
    scratch.remove(REALM, BlockHash::of(b"key")).unwrap();
    assert_eq!(slots(), before + 1, "the removal is an entry");
}

/// A removed key was written again, and the store failed, so that its tombstone counted again. Its removal wrote nothing
/// then, although the disk might have the failed entry, which is newer than that tombstone.
#[test]
fn a_key_removed_again_after_its_store_failed_stays_removed() {
    for (len, gather) in [(5, 64 << 10), (5, 0), (100_000, 64 << 10)] {
        let source = FaultySource::new(three_files_of(1 << 20));
        let faults = source.faults();
        let scratch = Scratch::builder(source).gather(gather, Duration::from_secs(10)).open().unwrap();
        let key = BlockHash::of(b"key");
        scratch.put_named(REALM, key, b"first").unwrap();
        assert_eq!(scratch.remove(REALM, key), Ok(true));
        scratch.flush().unwrap();
        let slots = || scratch.wheel().table.iter().map(|file| file.cursor.next_slot()).sum::<u32>();
        let before = slots();
        assert_eq!((scratch.remove(REALM, key), slots()), (Ok(false), before));
        faults.set(Fault::at(2).only(&[Call::Store]));
        let failed = scratch.put_named(REALM, key, &block(1, 8.max(len))).is_err() | scratch.flush().is_err();
        assert!(failed && scratch.get(REALM, key).unwrap_err().is_missing());
        assert_eq!((scratch.remove(REALM, key), slots()), (Ok(false), before + 2), "{len} bytes, {gather}");
    }
}

/// The store of a tombstone failed, and what it hid was back; the same content was not written again then, although the
/// disk might have the tombstone: after a power cut content was gone that had been put and flushed since.
#[test]
fn content_is_written_again_after_the_store_of_its_removal_failed() {
    for (gather, larger) in [(64 << 10, false), (0, false), (64 << 10, true)] {
        let source = FaultySource::new(three_files_of(1 << 20));
        let faults = source.faults();
        let scratch = Scratch::builder(source).gather(gather, Duration::from_secs(10)).open().unwrap();
        let content = block(1, if larger { 100_000 } else { 8 });
        let hash = scratch.put(REALM, &content).unwrap();
        scratch.flush().unwrap();
        let place = |scratch: &Scratch| scratch.info(REALM, hash).map(|info| (info.file, info.generation)).unwrap();
        let before = place(&scratch);
        faults.set(Fault::at(1).only(&[Call::Store]));
        assert!(scratch.remove(REALM, hash).is_err() | scratch.flush().is_err());
        assert_eq!(place(&scratch), before, "it is back");
        scratch.put(REALM, &content).unwrap();
        let after = place(&scratch);
        assert!(after.1 > before.1, "{after:?} is newer than the tombstone");
        scratch.put(REALM, &content).unwrap();
        assert_eq!(place(&scratch), after, "once is enough");
    }
}

fn put_until_full(scratch: &Scratch, from: u64) -> Vec<BlockHash> {
    let mut hashes = Vec::new();
    for number in from.. {
        match scratch.put(REALM, &block(number, 4096)) {
            Ok(hash) => hashes.push(hash),
            Err(WriteError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    hashes
}

/// With `Refuse` the last free file of a lane is for tombstones only. A restart forgot that: blocks filled it, and then
/// nothing could be removed any more.
#[test]
fn the_last_free_file_is_kept_for_tombstones_over_restarts() {
    let files = three_files_of(64 << 10);
    let open = || {
        let builder = Scratch::builder(files.clone()).on_full(OnFull::Refuse).gather(0, Duration::ZERO);
        builder.wait_timeout(PATIENCE).open().unwrap()
    };
    let mut scratch = open();
    let hashes = put_until_full(&scratch, 0);
    for (number, hash) in hashes.iter().enumerate() {
        // Each removal goes to the last free file; none of them may be followed by a block.
        assert!(scratch.remove(REALM, *hash).unwrap(), "block {number} of {}", hashes.len());
        if number < 3 {
            drop(scratch);
            scratch = open();
            put_until_full(&scratch, 1_000_000 * (number as u64 + 1));
        }
    }
}

/// A block lay in a gather buffer, for as long as the delay says, when its file was full: until then the file could not
/// be settled, nor make room.
#[test]
fn a_file_that_is_full_does_not_wait_for_its_gather_buffer() {
    let scratch = Scratch::builder(three_files_of(256 << 10)).gather(64 << 10, Duration::from_secs(10)).open().unwrap();
    let wheel = scratch.wheel();
    let first = wheel.table.iter().next().unwrap();
    // Gathered, and then larger ones that are not.
    scratch.put(REALM, &block(1000, 100)).unwrap();
    for number in 0..8 {
        scratch.put(REALM, &block(number, 60_000)).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while !first.is_quiet() {
        assert!(Instant::now() < deadline, "the full file still waits for its buffer");
        thread::sleep(Duration::from_millis(1));
    }
}
