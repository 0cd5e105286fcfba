//! An index that has grown: what lies in its further tables is found, replaced, removed, damaged and unreadable like what lies
//! in the first.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::block::BlockHash;
use crate::error::{MissingOk, ReadError};
use crate::scratch::Scratch;
use crate::scratch::small::{HANGS, REALM, block, memory};
use crate::storage::faulty::{Call, Errno, Fault, FaultySource};
use crate::storage::{FileSource, MemoryFileSource};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread;
use crate::wheel::OnFull;

const SIZE: u64 = if cfg!(miri) { 128 << 10 } else { 1 << 20 };
/// More than the first table has words for.
const BLOCKS: u64 = if cfg!(miri) { 24 } else { 60 };

fn open(source: impl FileSource, gather: u64) -> Scratch {
    let builder = Scratch::builder(source).on_full(OnFull::Refuse).index_buckets(2);
    let scratch = builder.gather(gather, Duration::from_millis(1)).wait_timeout(HANGS).open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    scratch
}

fn key(number: u64) -> BlockHash {
    BlockHash::of(&number.to_le_bytes())
}

/// Whether the word of a key lies in a further table.
fn is_deep(scratch: &Scratch, key: BlockHash) -> bool {
    let wheel = scratch.wheel();
    wheel.index.deeper_candidates(wheel.key_hash(REALM, key)).next().is_some()
}

/// A store of named blocks, the number of each in slot and bytes, closed again.
fn filled(files: &MemoryFileSource) {
    let scratch = open(files.clone(), 0);
    for number in 0..BLOCKS {
        scratch.put_named(REALM, key(number), &block(number, 100)).unwrap();
    }
    assert!((0..BLOCKS).any(|number| is_deep(&scratch, key(number))));
    assert!(scratch.close(HANGS).is_clean());
}

#[test]
fn what_cannot_be_read_is_an_error_and_is_read_later_wherever_its_word_lies() {
    let files = memory(1, 3, SIZE);
    filled(&files);
    let source = FaultySource::new(files);
    let faults = source.faults();
    let scratch = open(source, 0);
    let mut deep = 0;
    for number in 0..BLOCKS {
        let of_key = key(number);
        deep += u64::from(is_deep(&scratch, of_key));
        faults.set(Fault::at(1).sticky().only(&[Call::Load]).errno(Errno::Io));
        let (contains, info) = (scratch.contains(REALM, of_key), scratch.info(REALM, of_key));
        let read = scratch.read_verified(REALM, of_key, |_| ());
        faults.clear();
        assert!(matches!(contains, Err(ReadError::Io(_))), "{number}: {contains:?}");
        assert!(matches!(info, Err(ReadError::Io(_))) && matches!(read, Err(ReadError::Io(_))), "{number}: {read:?}");
        assert_eq!(scratch.contains(REALM, of_key), Ok(true));
        assert_eq!(scratch.read(REALM, of_key, <[u8]>::to_vec), Ok(block(number, 100)));
    }
    assert!(deep > BLOCKS / 4, "{deep}");
    // What was never there is not an error of others.
    assert_eq!(scratch.contains(REALM, key(BLOCKS)), Ok(false));
}

#[test]
fn a_damaged_entry_costs_its_own_key_wherever_its_word_lies() {
    let files = memory(1, 3, SIZE);
    filled(&files);
    let scratch = open(files, 0);
    let of_first = scratch.wheel().table.iter().next().unwrap().memory().unwrap();
    for slot in (0..BLOCKS).filter(|slot| slot % 2 == 0) {
        of_first.store(SIZE - slot * 64 - 30, &[&[0xff]]).unwrap();
    }
    for number in 0..BLOCKS {
        let read = scratch.read(REALM, key(number), <[u8]>::to_vec);
        if number % 2 == 0 {
            assert!(matches!(read, Err(ReadError::Corrupted { .. })), "{number}: {read:?}");
            assert!(scratch.read(REALM, key(number), |_| ()).is_err_and(|error| error.is_missing()));
        } else {
            assert_eq!(read, Ok(block(number, 100)));
        }
    }
    assert_eq!((scratch.stats().corrupted, scratch.len()), (BLOCKS / 2, BLOCKS / 2));
}

/// Each of three writers has keys of its own, which all read: no version is older than the last one seen, none is missing that
/// was not removed, and the bytes are those of their version.
#[test]
fn under_many_threads_no_block_is_missing_and_none_is_older_than_it_was() {
    const KEYS: u64 = if cfg!(miri) { 24 } else { 300 };
    const ROUNDS: u64 = if cfg!(miri) { 2 } else { 20 };
    let scratch = open(memory(2, 4, 4 * SIZE), 64 << 10);
    let written: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let version_of = |number: u64| {
        let read = scratch.read(REALM, key(number), |bytes| {
            let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes == block(version, bytes.len()));
            version
        });
        read.missing_ok().unwrap()
    };
    thread::scope(|scope| {
        for writer in 0..3 {
            let (scratch, written, version_of) = (&scratch, &written, &version_of);
            let said = |number: u64| &written[usize::try_from(number).unwrap()];
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    for number in (writer..KEYS).step_by(3) {
                        let version = 2 * round - 1;
                        scratch
                            .put_named(REALM, key(number), &block(version, 8 + usize::try_from(number % 100).unwrap()))
                            .unwrap();
                        // Release pairs with the Acquire of the readers: what they read later is not older.
                        said(number).store(version, Ordering::Release);
                        if (number + round) % 7 == 0 {
                            said(number).store(version + 1, Ordering::Release);
                            assert!(scratch.remove(REALM, key(number)).unwrap());
                        }
                        // Somebody else's.
                        let other = (number * 31 + round) % KEYS;
                        let least = said(other).load(Ordering::Acquire);
                        let found = version_of(other);
                        let now = said(other).load(Ordering::Acquire);
                        // Missing before it is there, and while it is removed or was so in between.
                        let may_miss = least % 2 == 0 || now != least;
                        assert!(
                            found.map_or(may_miss, |found| found + 1 >= least),
                            "{other}: {found:?}, {least} to {now}"
                        );
                    }
                }
            });
        }
    });
    let deep = (0..KEYS).filter(|number| is_deep(&scratch, key(*number))).count();
    assert!(deep as u64 > KEYS / 8, "{deep} of {KEYS}");
    for (number, last) in (0..).zip(&written) {
        let last = last.load(Ordering::Relaxed);
        assert_eq!(version_of(number), (last % 2 == 1).then_some(last), "{number}");
    }
    assert_eq!((scratch.stats().evicted, scratch.stats().timeouts), (0, 0));
}
