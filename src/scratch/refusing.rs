//! A store that may not forget, and is full: what was removed makes room again, whatever has failed meanwhile.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::BlockHash;
use crate::error::WriteError;
use crate::scratch::small::{HANGS, MILLISECOND, REALM, block, eventually, shows, three_files_of};
use crate::scratch::{HealthState, Scratch};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource};
use crate::sync::Arc;
use crate::wheel::OnFull;

pub(super) fn open(files: &MemoryFileSource, gather: u64) -> (Scratch, Arc<Faults>) {
    let source = FaultySource::new(files.clone());
    let faults = source.faults();
    // Nothing is stored before a flush asks for it.
    let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(gather, Duration::from_secs(10));
    let scratch = builder.wait_timeout(Duration::from_secs(5)).open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    (scratch, faults)
}

/// Puts blocks until the store is full: the oldest first.
pub(super) fn fill(scratch: &Scratch, from: u64) -> Vec<BlockHash> {
    let mut written = Vec::new();
    for number in from..from + 1000 {
        match scratch.put(REALM, &block(number, 4096)) {
            Ok(hash) => written.push(hash),
            Err(WriteError::Full { .. }) => return written,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it is never full");
}

pub(super) fn assert_there(scratch: &Scratch, blocks: &[BlockHash], are: bool) {
    for hash in blocks {
        assert_eq!(scratch.contains(REALM, *hash), Ok(are));
    }
}

/// A fault sealed the last free file of a full store. Nothing in the others may die while it is live, and nothing could be
/// removed any more: the store stayed as it was for ever.
#[test]
fn a_full_store_is_emptied_after_a_fault_in_the_file_that_is_left_for_that() {
    for (call, gather) in [(Call::Store, 0), (Call::Store, 64 << 10), (Call::Sync, 0), (Call::Sync, 64 << 10)] {
        for reopened in [false, true] {
            let files = three_files_of(64 << 10);
            let (mut scratch, faults) = open(&files, gather);
            let kept = fill(&scratch, 0);
            let removed = kept[..3].to_vec();
            assert!(scratch.remove(REALM, removed[0]).unwrap());
            scratch.flush().unwrap();
            faults.set(Fault::at(1).only(&[call]).errno(Errno::Io));
            let failed = scratch.remove(REALM, removed[1]).is_err() | scratch.flush().is_err();
            assert!(failed && faults.failed() == 1, "{call:?}, {gather}");
            if reopened {
                scratch.close(HANGS);
                drop(scratch);
                scratch = open(&files, gather).0;
            }
            for hash in &removed {
                scratch.remove(REALM, *hash).unwrap_or_else(|error| panic!("{call:?}, {gather}, {reopened}: {error}"));
            }
            scratch.flush().unwrap();
            assert_there(&scratch, &removed, false);
            let kept = &kept[3..];
            assert_there(&scratch, kept, true);
            // What was removed stays so, and what was not is there, until all is removed.
            scratch.close(HANGS);
            drop(scratch);
            let (scratch, _) = open(&files, gather);
            assert_there(&scratch, &removed, false);
            assert_there(&scratch, kept, true);
            for hash in kept {
                assert!(scratch.remove(REALM, *hash).unwrap());
            }
            let again = fill(&scratch, 1000);
            assert!(again.len() >= 14, "{call:?}, {gather}: {}", again.len());
            scratch.flush().unwrap();
            assert_there(&scratch, &again, true);
            assert_eq!(scratch.len(), again.len() as u64);
        }
    }
}

/// As long as the disk refuses, each removal says so, and not that the store is full.
#[test]
fn a_removal_says_what_the_disk_says() {
    let (scratch, faults) = open(&three_files_of(64 << 10), 0);
    let written = fill(&scratch, 0);
    faults.set(Fault::at(1).sticky().only(&[Call::Store]).errno(Errno::Io));
    for hash in &written {
        let error = scratch.remove(REALM, *hash).unwrap_err();
        assert!(matches!(error, WriteError::Io(_)), "{error}");
    }
    faults.clear();
    assert_there(&scratch, &written, true);
    for hash in &written {
        assert!(scratch.remove(REALM, *hash).unwrap());
    }
    assert!(fill(&scratch, 1000).len() >= 14);
}

/// A file that goes on for tombstones though it is suspect takes nothing else, and is retired once there is another one.
#[test]
fn no_block_is_written_to_a_suspect_file_that_goes_on_for_tombstones() {
    let (scratch, faults) = open(&three_files_of(64 << 10), 0);
    let written = fill(&scratch, 0);
    assert!(scratch.remove(REALM, written[0]).unwrap());
    faults.set(Fault::at(1).only(&[Call::Sync]).errno(Errno::Io));
    scratch.flush().unwrap_err();
    let [suspect] = scratch.health().suspect[..] else { panic!("{}", scratch.health()) };
    for hash in &written {
        scratch.remove(REALM, *hash).unwrap();
    }
    for number in 1000..1030 {
        match scratch.put(REALM, &block(number, 4096)) {
            Ok(hash) => {
                let info = scratch.info(REALM, hash).unwrap();
                assert!(info.file != suspect || scratch.health().suspect.is_empty(), "block {number}");
            }
            Err(WriteError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(scratch.len() >= 14 && scratch.health().suspect.is_empty(), "{}", scratch.health());
}

/// Removes what lies in the file of the first of these blocks, so that it may make room.
fn remove_the_oldest(scratch: &Scratch, kept: &[BlockHash]) {
    let oldest = scratch.info(REALM, kept[0]).unwrap().file;
    for hash in kept.iter().filter(|hash| scratch.info(REALM, **hash).unwrap().file == oldest) {
        remove(scratch, *hash);
    }
}

/// Also where calls do not wait.
fn remove(scratch: &Scratch, hash: BlockHash) {
    eventually("it is removed", || scratch.remove(REALM, hash).is_ok());
    assert!(scratch.get(REALM, hash).unwrap_err().is_missing());
}

/// What replaced the blocks of the oldest file was still on its way to a slow disk when the time of one call was over:
/// the file was told to be broken, and its lane to fail, with an error that no disk had given.
#[test]
fn a_disk_that_is_only_slow_breaks_no_file() {
    let source = FaultySource::new(three_files_of(64 << 10));
    let faults = source.faults();
    let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(64 << 10, MILLISECOND);
    let scratch = builder.wait_timeout(Duration::from_millis(100)).open().unwrap();
    let kept = fill(&scratch, 0);
    scratch.flush().unwrap();
    faults.hold_stores(true);
    remove_the_oldest(&scratch, &kept);
    eventually("the tombstones are on their way", || faults.held_stores() > 0);
    for number in 1000..1003 {
        let error = scratch.put(REALM, &block(number, 4096)).unwrap_err();
        assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
    }
    assert_eq!(scratch.stats().file_failures, 0);
    assert!(scratch.health().broken().next().is_none());
    faults.hold_stores(false);
    let began = Instant::now();
    while let Err(error) = scratch.put(REALM, &block(1000, 4096)) {
        assert!(matches!(error, WriteError::Timeout { .. }) && began.elapsed() < HANGS, "{error}");
    }
    scratch.close(HANGS);
}

/// Where calls do not wait, the keeper did not wait for a slow disk either: it asked again and again, without a pause, until
/// the disk had stored what replaced the blocks of the oldest file.
#[test]
fn a_keeper_waits_for_a_slow_disk_also_where_calls_do_not_wait() {
    let files = three_files_of(64 << 10);
    let (scratch, _) = open(&files, 0);
    let kept = fill(&scratch, 0);
    drop(scratch);
    let source = FaultySource::new(files);
    let faults = source.faults();
    let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(64 << 10, MILLISECOND);
    let scratch = builder.wait_timeout(Duration::ZERO).open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    // One tombstone, so that no second buffer is left for this thread to store.
    let oldest = scratch.info(REALM, kept[0]).unwrap().file;
    remove_the_oldest(&scratch, &kept[1..]);
    eventually("it is flushed", || scratch.flush().is_ok());
    assert_eq!(scratch.info(REALM, kept[0]).unwrap().file, oldest);
    faults.hold_stores(true);
    remove(&scratch, kept[0]);
    eventually("the tombstone is on its way", || faults.held_stores() > 0);
    // What the keeper does, again and again.
    let began = Instant::now();
    scratch.wheel().recycle_oldest();
    assert!(began.elapsed() >= 50 * MILLISECOND, "{:?}", began.elapsed());
    faults.hold_stores(false);
    scratch.close(HANGS);
}

/// While a slow disk wrote the header that ends the oldest file, writers were told that somebody reads that file still, and
/// looked for a block that nobody had.
#[test]
fn a_file_that_waits_for_the_disk_is_not_told_to_be_pinned() {
    let source = FaultySource::new(three_files_of(64 << 10));
    let faults = source.faults();
    let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(0, MILLISECOND);
    let scratch = builder.wait_timeout(Duration::from_millis(200)).open().unwrap();
    let kept = fill(&scratch, 0);
    remove_the_oldest(&scratch, &kept);
    scratch.flush().unwrap();
    faults.hold_stores(true);
    let error = scratch.put(REALM, &block(1000, 4096)).unwrap_err();
    assert!(faults.held_stores() == 1, "the header of the oldest file");
    assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
    faults.hold_stores(false);
    let began = Instant::now();
    while let Err(error) = scratch.put(REALM, &block(1000, 4096)) {
        assert!(matches!(error, WriteError::Timeout { .. }) && began.elapsed() < HANGS, "{error}");
    }
    scratch.close(HANGS);
}

/// What was refused had left its entry on the disk: the next opening found it, and in the place of what was not refused.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn an_index_that_may_take_no_more_refuses_writes_and_forgets_nothing() {
    const MOST: u64 = 160 << 10;
    for gather in [0, 64 << 10] {
        let source = MemoryFileSource::builder().files_per_folder(5).file_size(1 << 20).build().unwrap();
        let open = |most_bytes| {
            let builder = Scratch::builder(source.clone()).on_full(OnFull::Refuse).gather(gather, MILLISECOND);
            let builder = builder.expected_blocks(1).max_index_bytes(most_bytes);
            let scratch = builder.wait_timeout(Duration::from_secs(1)).open().unwrap();
            scratch.wait_recovered(HANGS).unwrap();
            scratch
        };
        let scratch = open(MOST);
        let before = scratch.stats().index_bytes;
        let (mut written, mut refused) = (Vec::new(), Vec::new());
        for number in 0..21_000_u128 {
            let (key, bytes) = (BlockHash::from_u128(number), number.to_le_bytes());
            // In one of a hundred there are bytes, as each takes a page.
            let (key, result) = match number % 100 {
                0 => (BlockHash::of(&bytes), scratch.put_many(REALM, &[&bytes]).map(drop)),
                1 => (key, scratch.write_named(REALM, key, 2, |_| ())),
                _ => (key, scratch.put_named(REALM, key, b"")),
            };
            match result {
                Ok(()) => written.push(key),
                Err(WriteError::Full { .. }) => refused.push(key),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(written.len() > 15_000 && refused.len() > 1_000, "{} and {}", written.len(), refused.len());
        let grown = scratch.stats().index_bytes - before;
        assert!(grown > 0 && grown <= MOST - (128 << 10), "{grown}");
        assert_there(&scratch, &written, true);
        assert_there(&scratch, &refused, false);
        assert_eq!(scratch.stats().refused, refused.len() as u64);
        // What has its place is replaced and removed.
        scratch.put_named(REALM, written[2], b"2").unwrap();
        assert!(scratch.remove(REALM, written[3]).unwrap());
        let removed = written.remove(3);
        assert_eq!(scratch.len(), written.len() as u64);
        scratch.flush().unwrap();
        assert_eq!(scratch.stats().store_failures, 0);
        drop(scratch);
        // In another order they need more room.
        let scratch = open(MOST);
        assert!(written.iter().all(|key| scratch.contains(REALM, *key) != Ok(false)));
        if scratch.health().lanes().any(|lane| lane.unfound) {
            assert_eq!(scratch.health().state, HealthState::Degraded);
            assert!(shows(&scratch.health(), "not all blocks of an earlier run were found"));
        }
        drop(scratch);
        let scratch = open(u64::MAX);
        assert_there(&scratch, &written, true);
        assert_there(&scratch, &refused, false);
        assert_there(&scratch, &[removed], false);
        assert_eq!((scratch.len(), scratch.health().state), (written.len() as u64, HealthState::Healthy));
    }
}
