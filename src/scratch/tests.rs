//! What a failing disk leaves: every error reaches somebody, and no read is wrong.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::block::{BlockHash, Realm};
use crate::error::{FailedClosure, WriteError};
use crate::scratch::Scratch;
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Fault, Faults, FaultySource};
use crate::sync::{Arc, thread};
use crate::wheel::OnFull;

const REALM: Realm = Realm::DEFAULT;
const LARGE: usize = 100_000;

/// A store of four files of 256 KiB whose small blocks stay in their buffer until a flush.
fn faulty_store() -> (Scratch, Arc<Faults>) {
    let memory = MemoryFileSource::builder().files_per_folder(4).file_size(256 << 10).build().unwrap();
    let source = FaultySource::new(memory);
    let faults = source.faults();
    (Scratch::builder(source).gather(64 << 10, Duration::from_secs(10)).open().unwrap(), faults)
}

fn bytes_of(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().repeat(len.div_ceil(8));
    bytes.truncate(len);
    bytes
}

fn key() -> BlockHash {
    BlockHash::of(b"key")
}

fn read(scratch: &Scratch, hash: BlockHash) -> Option<Vec<u8>> {
    scratch.read(REALM, hash, <[u8]>::to_vec).ok()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_mins(1), "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// After a failed sync the file went on to be filled: what came later lay in a file of which nobody knows what it
/// has lost.
#[test]
fn a_file_whose_sync_failed_takes_no_more_writes_is_read_with_care_and_is_made_anew() {
    let (scratch, faults) = faulty_store();
    let before = scratch.put(REALM, &bytes_of(1, LARGE)).unwrap();
    let suspect = scratch.info(REALM, before).unwrap().file;
    faults.set(Fault::at(1).only(&[Call::Sync]).kind(ErrorKind::Other));
    let error = scratch.flush().unwrap_err();
    assert_eq!((error.failed, &error.first), (0, &None));
    assert_eq!(error.io.unwrap().kind(), ErrorKind::Other);

    assert_eq!(read(&scratch, before), Some(bytes_of(1, LARGE)));
    assert!(faults.count(Call::Load) > 0, "the bytes are copied through the file and verified");
    let after = scratch.put(REALM, &bytes_of(2, LARGE)).unwrap();
    assert_ne!(scratch.info(REALM, after).unwrap().file, suspect);
    assert_eq!(scratch.flush(), Ok(()));
    // The same content again goes where it is safe.
    assert_eq!(scratch.put(REALM, &bytes_of(1, LARGE)), Ok(before));
    assert_ne!(scratch.info(REALM, before).unwrap().file, suspect);
    assert_eq!(scratch.stats().duplicates, 0);

    let (created, deleted) = (faults.count(Call::Create), faults.count(Call::Delete));
    let mut number = 3;
    until("the next lap of the suspect file", || {
        number += 1;
        let hash = scratch.put(REALM, &bytes_of(number, LARGE)).unwrap();
        scratch.info(REALM, hash).unwrap().file == suspect
    });
    assert!(faults.count(Call::Delete) > deleted && faults.count(Call::Create) > created);
    let loads = faults.count(Call::Load);
    assert_eq!(read(&scratch, BlockHash::of(&bytes_of(number, LARGE))), Some(bytes_of(number, LARGE)));
    assert_eq!(faults.count(Call::Load), loads, "it is trusted again");
    assert_eq!(scratch.flush(), Ok(()));
}

#[test]
fn a_sync_that_fails_in_the_background_is_told_by_the_next_flush() {
    let (scratch, faults) = faulty_store();
    faults.set(Fault::at(1).only(&[Call::Sync]));
    // The third does not fit beside two others: the first file is full, and is synced.
    let hashes: Vec<_> = (0..3).map(|number| scratch.put(REALM, &bytes_of(number, LARGE)).unwrap()).collect();
    until("the sync of the full file", || faults.failed() == 1);
    assert!(scratch.flush().unwrap_err().io.is_some());
    assert_eq!(scratch.flush(), Ok(()));
    for (number, hash) in hashes.into_iter().enumerate() {
        assert_eq!(read(&scratch, hash), Some(bytes_of(number, LARGE)));
    }
}

#[test]
fn a_put_whose_store_fails_is_an_error_and_leaves_the_version_before() {
    type Put = fn(&Scratch, &[u8]) -> Result<(), WriteError>;
    let puts: [Put; 3] = [
        |scratch, bytes| scratch.put(REALM, bytes).map(drop),
        |scratch, bytes| scratch.put_many(REALM, &[bytes]).map(drop),
        |scratch, bytes| scratch.put_named(REALM, key(), bytes),
    ];
    for put in puts {
        let (scratch, faults) = faulty_store();
        scratch.put_named(REALM, key(), &bytes_of(1, LARGE)).unwrap();
        let content = bytes_of(2, LARGE);
        // The payload, then the entry.
        for k in 1..=2 {
            faults.set(Fault::at(k).only(&[Call::Store]));
            let error = put(&scratch, &content).unwrap_err();
            assert!(matches!(&error, WriteError::Io(error) if error.kind() == ErrorKind::StorageFull), "{error}");
            assert_eq!(read(&scratch, BlockHash::of(&content)), None);
            assert_eq!(read(&scratch, key()), Some(bytes_of(1, LARGE)));
            assert_eq!(scratch.stats().blocks, 1);
        }
        assert_eq!(scratch.flush(), Ok(()), "who called was told");
        put(&scratch, &content).unwrap();
        assert!([key(), BlockHash::of(&content)].map(|hash| read(&scratch, hash)).contains(&Some(content)));
    }
}

#[test]
fn a_gather_buffer_that_is_not_stored_is_told_by_one_flush_and_its_blocks_are_missing() {
    for k in 1..=2 {
        let (scratch, faults) = faulty_store();
        let kept = scratch.put(REALM, &bytes_of(9, LARGE)).unwrap();
        let hashes: Vec<_> = (0..3).map(|number| scratch.put(REALM, &bytes_of(number, 100)).unwrap()).collect();
        faults.set(Fault::at(k).only(&[Call::Store]));
        let error = scratch.flush().unwrap_err();
        assert_eq!((error.failed, &error.io), (3, &None));
        assert!(matches!(error.first, Some(FailedClosure::Io(_))), "{error}");
        assert_eq!(scratch.flush(), Ok(()));
        assert_eq!((scratch.stats().failed, scratch.stats().blocks), (3, 1));
        assert_eq!(read(&scratch, kept), Some(bytes_of(9, LARGE)));
        for (number, hash) in hashes.into_iter().enumerate() {
            assert!(scratch.get(REALM, hash).unwrap_err().is_missing());
            assert_eq!(scratch.put(REALM, &bytes_of(number, 100)), Ok(hash));
            assert_eq!(read(&scratch, hash), Some(bytes_of(number, 100)));
        }
        assert_eq!(scratch.flush(), Ok(()));
    }
}

#[test]
fn a_closure_whose_bytes_are_not_stored_has_failed_and_leaves_the_version_before() {
    for k in 1..=2 {
        let (scratch, faults) = faulty_store();
        scratch.put_named(REALM, key(), b"before").unwrap();
        scratch.flush().unwrap();
        faults.set(Fault::at(k).only(&[Call::Store]));
        scratch.write_named(REALM, key(), LARGE, |block| block.fill(1)).unwrap();
        let error = scratch.flush().unwrap_err();
        assert_eq!(error.failed, 1);
        assert!(matches!(error.first, Some(FailedClosure::Io(_))), "{error}");
        assert_eq!(read(&scratch, key()).as_deref(), Some(&b"before"[..]));
        assert_eq!(scratch.flush(), Ok(()));
    }
}

/// A named key that was written anew was missing until a restart once its gather buffer could not be stored.
#[test]
fn a_gather_buffer_that_is_not_stored_leaves_the_versions_before() {
    type Write = fn(&Scratch);
    let writes: [&[Write]; 7] = [
        &[|scratch| scratch.put_named(REALM, key(), b"new").unwrap()],
        &[|scratch| assert!(scratch.remove(REALM, key()).unwrap())],
        // A closure that was run, and gathered.
        &[
            |scratch| scratch.write_named(REALM, key(), 3, |block| block.fill(1)).unwrap(),
            |scratch| assert_eq!(read(scratch, key()), Some(vec![1; 3])),
        ],
        // Versions that hide each other in one buffer.
        &[
            |scratch| scratch.put_named(REALM, key(), b"new").unwrap(),
            |scratch| assert!(scratch.remove(REALM, key()).unwrap()),
            |scratch| scratch.put_named(REALM, key(), b"newer").unwrap(),
        ],
        // In two buffers.
        &[|scratch| (0..20).for_each(|number| scratch.put_named(REALM, key(), &bytes_of(number, 3000)).unwrap())],
        // A closure that hides a gathered version, and fails after it.
        &[
            |scratch| scratch.put_named(REALM, key(), b"new").unwrap(),
            |scratch| scratch.write_named(REALM, key(), 3, |_| panic!("it fails as well")).unwrap(),
        ],
        // A gathered version that was gathered by a closure that hid a gathered one.
        &[
            |scratch| scratch.put_named(REALM, key(), b"new").unwrap(),
            |scratch| scratch.write_named(REALM, key(), 3, |block| block.fill(1)).unwrap(),
            |scratch| scratch.put_named(REALM, key(), b"newer").unwrap(),
        ],
    ];
    for (case, writes) in writes.into_iter().enumerate() {
        let (scratch, faults) = faulty_store();
        let kept = scratch.put(REALM, &bytes_of(9, 100)).unwrap();
        scratch.put_named(REALM, key(), b"before").unwrap();
        scratch.flush().unwrap();
        let before = scratch.stats();
        faults.set(Fault::at(1).sticky().only(&[Call::Store]));
        for write in writes {
            write(&scratch);
        }
        assert!(scratch.flush().unwrap_err().failed > 0, "case {case}");
        assert_eq!(read(&scratch, key()).as_deref(), Some(&b"before"[..]), "case {case}");
        let after = scratch.stats();
        assert_eq!((after.blocks, after.bytes), (before.blocks, before.bytes), "case {case}");
        faults.clear();
        assert_eq!(scratch.flush(), Ok(()));
        assert_eq!(read(&scratch, kept), Some(bytes_of(9, 100)));
        scratch.put_named(REALM, key(), b"after").unwrap();
        scratch.flush().unwrap();
        assert_eq!(read(&scratch, key()).as_deref(), Some(&b"after"[..]), "case {case}");
    }
}

/// The second of two buffers failed while the first was stored: its version came back as well, not the one before both.
#[test]
fn what_a_stored_buffer_hid_does_not_come_back_when_the_next_one_fails() {
    let (scratch, faults) = faulty_store();
    for version in [&b"before"[..], b"stored"] {
        scratch.put_named(REALM, key(), version).unwrap();
        scratch.flush().unwrap();
    }
    faults.set(Fault::at(1).only(&[Call::Store]));
    scratch.put_named(REALM, key(), b"failed").unwrap();
    scratch.flush().unwrap_err();
    assert_eq!(read(&scratch, key()).as_deref(), Some(&b"stored"[..]));
}

/// A store that refuses took a block for dead that a gathered one had replaced, and recycled its file although the
/// buffer could not be stored.
#[test]
fn a_store_that_refuses_keeps_what_comes_back_when_a_buffer_is_not_stored() {
    let memory = MemoryFileSource::builder().files_per_folder(3).file_size(256 << 10).build().unwrap();
    let source = FaultySource::new(memory);
    let faults = source.faults();
    let scratch = Scratch::builder(source)
        .on_full(OnFull::Refuse)
        .gather(64 << 10, Duration::from_secs(10))
        .wait_timeout(Duration::from_secs(5))
        .open()
        .unwrap();
    let name = |number: usize| BlockHash::of(&number.to_le_bytes());
    // Two in each of the first two files; the last one takes tombstones only.
    for number in 0..4 {
        scratch.put_named(REALM, name(number), &bytes_of(number, LARGE)).unwrap();
    }
    scratch.flush().unwrap();
    let file = |number| scratch.info(REALM, name(number)).unwrap().file;
    assert!(file(0) == file(1) && file(1) != file(2) && file(2) == file(3));
    let turns = scratch.stats().turns;
    // With the second of these nothing of the oldest file is live: the keeper stores them, and may let it die then.
    faults.set(Fault::at(1).only(&[Call::Store]));
    scratch.put_named(REALM, name(0), b"gathered").unwrap();
    // The keeper may be so quick that this call is told of the failure itself.
    let second = scratch.put_named(REALM, name(1), b"gathered");
    assert!(matches!(second, Ok(()) | Err(WriteError::Io(_))), "{second:?}");
    let refused = scratch.put_named(REALM, name(4), &bytes_of(4, LARGE));
    assert!(matches!(refused, Err(WriteError::Full { .. })), "{refused:?}");
    assert_eq!((faults.failed(), scratch.flush().unwrap_err().failed), (1, 2));
    for number in 0..4 {
        assert!(read(&scratch, name(number)) == Some(bytes_of(number, LARGE)), "block {number}");
    }
    assert_eq!(scratch.stats().turns, turns);
}

/// Buffers fail while their blocks hide each other and are hidden by closures, of which some fail too.
#[test]
fn a_key_that_many_write_while_buffers_fail_has_one_version_that_was_written() {
    let memory = MemoryFileSource::builder().files_per_folder(60).file_size(256 << 10).build().unwrap();
    for round in 0..8 {
        let source = FaultySource::new(memory.clone());
        let faults = source.faults();
        let builder = Scratch::builder(source).reset().gather(64 << 10, Duration::from_micros(50));
        let scratch = builder.open().unwrap();
        scratch.put_named(REALM, key(), &bytes_of(round, 100)).unwrap();
        scratch.flush().unwrap();
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for writer in 0..3 {
                let scratch = &scratch;
                threads.push(scope.spawn(move || {
                    for number in 0..60 {
                        let bytes = bytes_of(1000 + number, 100);
                        // What fails is told here or by a flush.
                        let _ = if (number + writer) % 5 == 0 {
                            let fails = number % 2 == 0;
                            scratch.write_named(REALM, key(), 100, move |block| {
                                if fails {
                                    // As a panic, but nothing is printed.
                                    std::panic::resume_unwind(Box::new("it fails"));
                                }
                                block.copy_from_slice(&bytes);
                            })
                        } else {
                            scratch.put_named(REALM, key(), &bytes)
                        };
                    }
                }));
            }
            for k in 1..=6 {
                faults.set(Fault::at(k).only(&[Call::Store]));
                thread::sleep(Duration::from_micros(300));
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
        faults.clear();
        let _ = scratch.flush();
        let bytes = read(&scratch, key()).expect("the first version at least");
        assert!(bytes == bytes_of(round, 100) || (1000..1060).any(|number| bytes == bytes_of(number, 100)));
        assert_eq!((scratch.stats().blocks, scratch.stats().bytes), (1, 100), "round {round}");
        assert_eq!(scratch.wheel().index.len(), 1, "round {round}");
    }
}
