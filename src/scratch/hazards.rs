//! What a review of the protocols has found: each test opens with the story of its defect.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::{BlockHash, BlockKind, Entry, Realm, Slot};
use crate::error::{ReadError, WriteError};
use crate::index::Published;
use crate::scratch::small::{Collision, REALM, block, three_files_of, ungathered};
use crate::scratch::{BlockRef, Scratch};
use crate::storage::faulty::{Call, Fault, FaultySource};
use crate::sync::{Arc, Condvar, Mutex, thread};
use crate::wheel::{OnFull, Verify};

const PATIENCE: Duration = Duration::from_mins(1);

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

/// A payload held entries of another realm, made for the slots in whose place it lay: when its file had turned, and the
/// next opening read the directory past its end, they were blocks.
#[test]
fn a_payload_of_entries_is_not_believed_when_its_file_has_turned() {
    const SIZE: u64 = 64 << 10;
    let files = three_files_of(SIZE);
    let scratch = ungathered(files.clone());
    let mut forged = Vec::new();
    for at in (4096..SIZE - 4096).step_by(Entry::SIZE) {
        let slot = Slot::new(u32::try_from((SIZE - at) / 64 - 1).unwrap()).unwrap();
        let (key, realm) = (BlockHash::from_u128(at.into()), Realm::from(2));
        let entry =
            Entry { key, realm, kind: BlockKind::Named, len: 0, page: 0, written_at: 0, hash: BlockHash::of(b"") };
        // Nobody knows the nonce: it is in no block and no error.
        forged.extend(entry.encode(1, slot));
    }
    let hash = scratch.put(REALM, &forged).unwrap();
    let first = scratch.info(REALM, hash).unwrap().file;
    scratch.put(REALM, &block(1, forged.len())).unwrap();
    scratch.put(REALM, &block(2, forged.len())).unwrap();
    let small = scratch.put(REALM, &block(3, 100)).unwrap();
    assert_eq!(scratch.info(REALM, small).unwrap().file, first, "its directory begins anew in front of the entries");
    drop(scratch);

    let scratch = ungathered(files);
    let report = scratch.wait_recovered(PATIENCE).unwrap();
    assert_eq!((report.blocks, scratch.get(REALM, small).unwrap().len()), (3, 100), "{report:?}");
    let mut of_realm = 0;
    scratch.for_each(Realm::from(2), |_| of_realm += 1).unwrap();
    assert_eq!(of_realm, 0);
}

/// An error of the disk was taken for a proof that the block is bad: it left the index, and was gone for good although
/// the disk went on to answer.
#[test]
fn a_block_that_could_not_be_read_is_read_when_the_disk_answers_again() {
    for (call, verify) in [(Call::Populate, Verify::FirstRead), (Call::Load, Verify::Always)] {
        let files = three_files_of(1 << 20);
        let hash = ungathered(files.clone()).put(REALM, &block(1, 5000)).unwrap();
        let source = FaultySource::new(files);
        let faults = source.faults();
        let scratch = Scratch::builder(source).verify(verify).open().unwrap();
        scratch.wait_recovered(PATIENCE).unwrap();
        faults.set(Fault::at(1).only(&[call]).sticky());
        assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Io(_))), "{call:?}");
        faults.clear();
        assert_eq!(scratch.get(REALM, hash).as_deref(), Ok(&block(1, 5000)[..]), "{call:?}");
    }
}

/// A file could not be created, and the error went nowhere: writers waited, and were told that time was short.
#[test]
fn a_file_that_cannot_be_created_is_named_to_the_writers_and_tried_again() {
    let source = FaultySource::new(three_files_of(64 << 10));
    let faults = source.faults();
    let builder = Scratch::builder(source).gather(0, Duration::ZERO).wait_timeout(Duration::from_millis(500));
    let scratch = builder.open().unwrap();
    faults.set(Fault::at(1).only(&[Call::Create]).sticky());
    let put = |number| scratch.put(REALM, &block(number, 20_000));
    let error = (0..100).find_map(|number| put(number).err()).expect("three files are not created");
    assert!(matches!(&error, WriteError::Io(error) if error.to_string().contains("creating a file")), "{error}");
    faults.clear();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = put(1000) {
        assert!(Instant::now() < deadline, "{error}");
    }
}

/// A file that was held was passed over, and the next one made room before it: the tombstone died first, and after a
/// restart what it had removed was there.
#[test]
fn a_removed_block_stays_removed_when_its_file_is_held_while_the_next_ones_turn() {
    let files = three_files_of(32 << 10);
    let scratch = ungathered(files.clone());
    let key = BlockHash::of(b"key");
    scratch.put_named(REALM, key, b"removed").unwrap();
    let hash = scratch.put(REALM, &block(0, 100)).unwrap();
    let held = scratch.get(REALM, hash).unwrap();
    let first = scratch.info(REALM, hash).unwrap().file;
    let mut number = 1;
    let mut put = || {
        number += 1;
        scratch.info(REALM, scratch.put(REALM, &block(number, 4096)).unwrap()).unwrap().file
    };
    while put() == first {}
    assert!(scratch.remove(REALM, key).unwrap());
    let tombstone = put();
    while put() == tombstone {}
    // The file of the tombstone begins its next lap; that of the block would have been first.
    while put() != tombstone {}
    assert_eq!(held[..], block(0, 100));
    drop(held);
    drop(scratch);
    let scratch = ungathered(files);
    scratch.wait_recovered(PATIENCE).unwrap();
    assert!(scratch.get(REALM, key).unwrap_err().is_missing());
}

/// A slot whose closure waits has no entry that could be asked whose it is. A key with the same tag ran the closure, and
/// was told of its failures.
#[test]
fn a_key_with_the_tag_of_another_does_not_run_its_closure() {
    let scratch = ungathered(three_files_of(1 << 20));
    let (wheel, [own, other]) = (scratch.wheel(), [1, 2].map(BlockHash::from_u128));
    // The only flusher hangs, so that nobody but a reader runs the other closure.
    let gate = Arc::new((Mutex::new(0), Condvar::new()));
    let pass = |step: u32, next: u32| {
        let mut at = gate.0.lock();
        while *at != step {
            gate.1.wait_until(&mut at, Instant::now() + PATIENCE);
        }
        *at = next;
        gate.1.notify_all();
    };
    let inside = Arc::clone(&gate);
    let hang = move |_: &mut [u8]| {
        let mut at = inside.0.lock();
        *at = 1;
        inside.1.notify_all();
        while *at == 1 {
            inside.1.wait_until(&mut at, Instant::now() + PATIENCE);
        }
    };
    scratch.write_named(REALM, BlockHash::from_u128(3), 1, hang).unwrap();
    pass(1, 1);
    scratch.write_named(REALM, other, 1, |block| block.fill(1)).unwrap();
    let (address, _) = wheel.locate(wheel.key_hash(REALM, other), REALM, other).unwrap().unwrap();
    assert_eq!(wheel.index.publish_if_newer(wheel.key_hash(REALM, own), address, &Collision), Published::Inserted);
    let read = scratch.get(REALM, own);
    let has_run = scratch.stats().closures_run > 0;
    pass(1, 2);
    assert!(read.as_ref().is_err_and(ReadError::is_missing) && !has_run, "{read:?}");
}

/// Hazard 32: the last reader out made the file anew on its own thread, and got the errors of that.
#[test]
fn files_are_made_and_removed_by_keepers_and_by_no_reader_or_writer() {
    let source = FaultySource::new(three_files_of(64 << 10));
    let faults = source.faults();
    let scratch = ungathered(source);
    let first = scratch.put(REALM, &block(0, 4096)).unwrap();
    let held = scratch.get(REALM, first).unwrap();
    let mut number = 0;
    let mut turn = || {
        for _ in 0..60 {
            number += 1;
            scratch.put(REALM, &block(number, 4096)).unwrap();
        }
    };
    faults.take_makers();
    // The file of that block is in the way: the others go on.
    turn();
    assert!(scratch.get(REALM, first).unwrap_err().is_missing());
    assert_eq!(scratch.stats().draining, 1);
    thread::spawn(move || drop(held)).join().unwrap();
    let began = Instant::now();
    while scratch.stats().draining > 0 {
        turn();
        assert!(began.elapsed() < PATIENCE, "nobody holds it any more");
    }
    turn();
    let made = faults.count(Call::Create) + faults.count(Call::Delete);
    let makers = faults.take_makers();
    assert!(makers.iter().all(|thread| thread == "scratch-keep-0") && !makers.is_empty(), "{makers:?} of {made}");
}
