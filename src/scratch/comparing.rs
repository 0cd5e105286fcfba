//! How blocks of an earlier run are compared with their hash before they are lent for the first time.
#![forbid(unsafe_code)]

use crate::block::BlockHash;
use crate::error::ReadError;
use crate::scratch::Scratch;
use crate::scratch::small::{HANGS, REALM, block, eventually, three_files_of, ungathered};
use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource, Hint};
use crate::storage::{FileSource, MemoryFileSource};
use crate::sync::{Arc, thread};
use crate::wheel::{Access, VERIFIED_PIECE as PIECE, Verify};

/// Three pieces, the last of them short.
const LEN: usize = 2 * PIECE + PIECE / 3 + 7;
/// Bytes of a file that has room for it.
const FILE: u64 = if cfg!(miri) { 64 << 10 } else { 1 << 20 };

fn key() -> BlockHash {
    BlockHash::of(b"key")
}

/// Files with one long block of an earlier run.
fn written() -> (MemoryFileSource, Vec<u8>) {
    let (files, bytes) = (three_files_of(FILE), block(1, LEN));
    ungathered(files.clone()).put_named(REALM, key(), &bytes).unwrap();
    (files, bytes)
}

fn reopened(source: FaultySource<impl FileSource>) -> (Scratch, Arc<Faults>) {
    let faults = source.faults();
    let scratch = ungathered(source);
    scratch.wait_recovered(HANGS).unwrap();
    (scratch, faults)
}

/// It was copied first, piece by piece.
#[test]
fn a_long_block_is_compared_where_it_is_mapped_each_piece_once_it_can_be_read() {
    let (files, bytes) = written();
    let (scratch, faults) = reopened(FaultySource::new(files));
    let loads = faults.count(Call::Load);
    faults.hints.take();
    assert_eq!(scratch.get(REALM, key()).as_deref(), Ok(&bytes[..]));
    let brought = faults.hints.take().into_iter().filter_map(|(_, hint)| match hint {
        Hint::Populated(range) => Some(range),
        _ => None,
    });
    let pieces =
        [0..PIECE, PIECE..2 * PIECE, 2 * PIECE..LEN].map(|piece| piece.start as u64 + 4096..piece.end as u64 + 4096);
    assert!(brought.collect::<Vec<_>>().ends_with(&pieces));
    assert_eq!(faults.count(Call::Load) - loads, 1, "its entry");
    scratch.get(REALM, key()).unwrap();
    assert_eq!(faults.count(Call::Load) - loads, 1, "once");
    let of_reader = |hint: &Hint| matches!(hint, Hint::Needed(_) | Hint::Populated(_));
    assert!(!faults.hints.take().iter().any(|(_, hint)| of_reader(hint)), "once");
}

#[test]
fn short_blocks_are_compared_in_a_copy_as_that_is_one_call_too() {
    const SHORT: usize = (16 << 10) - 1;
    for (len, loads) in [(SHORT, 1 + SHORT.div_ceil(PIECE) as u64), (16 << 10, 1)] {
        let files = three_files_of(FILE);
        ungathered(files.clone()).put_named(REALM, key(), &block(1, len)).unwrap();
        let (scratch, faults) = reopened(FaultySource::new(files));
        let before = faults.count(Call::Load);
        scratch.get(REALM, key()).unwrap();
        assert_eq!(faults.count(Call::Load) - before, loads, "{len} bytes");
    }
}

/// Two calls a block were most of what cold reads of small blocks cost.
#[test]
fn of_a_region_that_was_brought_nothing_is_read_through_the_file() {
    let (files, bytes) = (three_files_of(FILE), |number| block(number, 100));
    let hashes: Vec<_> = {
        let scratch = ungathered(files.clone());
        (0..4).map(|number| scratch.put(REALM, &bytes(number)).unwrap()).collect()
    };
    let source = FaultySource::new(files);
    let faults = source.faults();
    let scratch = Scratch::builder(source).access(Access::ReadAround).open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    let before = faults.count(Call::Load);
    for ((hash, number), loads) in hashes[..2].iter().zip(0..).zip([1, 1]) {
        assert_eq!(scratch.get(REALM, *hash).as_deref(), Ok(&bytes(number)[..]));
        assert_eq!(faults.count(Call::Load) - before, loads, "the entry of the first block, before all came");
    }
    let file = scratch.wheel().table.iter().next().unwrap();
    file.memory().unwrap().store(3 * 4096, &[b"damaged"]).unwrap();
    assert!(matches!(scratch.get(REALM, hashes[2]), Err(ReadError::Corrupted { .. })));
    assert_eq!(faults.count(Call::Load) - before, 2, "what does not match is asked of the file");
    let entry = file.size().entry_offset(crate::block::Slot::new(3).unwrap());
    file.memory().unwrap().store(entry, &[&[0xff; 64]]).unwrap();
    assert!(matches!(scratch.get(REALM, hashes[3]), Err(ReadError::Corrupted { .. })));
    assert_eq!(faults.count(Call::Load) - before, 3, "so is an entry that does not check");
}

/// Whoever had asked before lent what was just found to be bad, from its mapping.
#[test]
fn a_file_that_becomes_suspect_while_an_entry_is_read_lends_a_copy() {
    let (files, bytes) = written();
    let source = FaultySource::new(files);
    let faults = source.faults();
    let scratch = Scratch::builder(source).verify(Verify::Never).open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    let before = faults.count(Call::Load);
    faults.hold_entries(true);
    let reader = {
        let scratch = scratch.clone();
        thread::spawn(move || scratch.get(REALM, key()).map(|block| block.to_vec()))
    };
    eventually("the reader waits for the entry", || faults.held_entries() == 1);
    let wheel = scratch.wheel();
    wheel.read_failed(wheel.table.iter().next().unwrap(), Errno::Io.error());
    faults.hold_entries(false);
    assert_eq!(reader.join().unwrap().as_ref(), Ok(&bytes));
    assert_eq!(faults.count(Call::Load) - before, 2, "the entry, and a copy of the payload");
}

/// Where the handler of SIGBUS has put zeros in place of a page, nothing is known of the block: the file is asked.
#[test]
fn what_does_not_match_where_it_is_mapped_is_not_damaged_if_it_does_in_the_file() {
    let (files, bytes) = written();
    let (scratch, faults) = reopened(FaultySource::new(files).blank());
    let loads = faults.count(Call::Load);
    // The handler would have said that the file is not to be believed; here nobody has.
    assert_eq!(scratch.get(REALM, key()).as_deref(), Ok(&vec![0; LEN][..]));
    assert_eq!(faults.count(Call::Load) - loads, 2 + 3, "its entry, twice as that is zeros too, and three pieces");
    assert_eq!((scratch.stats().corrupted, scratch.len()), (0, 1));
    assert_eq!(scratch.read_verified(REALM, key(), <[u8]>::to_vec), Ok(bytes));
}

#[test]
fn where_the_system_cannot_say_what_can_be_read_a_copy_is_compared() {
    let (files, bytes) = written();
    let (scratch, faults) = reopened(FaultySource::new(files).unpopulated());
    let loads = faults.count(Call::Load);
    assert_eq!(scratch.get(REALM, key()).as_deref(), Ok(&bytes[..]));
    assert_eq!(faults.count(Call::Load) - loads, 1 + 3, "its entry, and three pieces");
}

#[test]
fn a_byte_that_has_changed_in_any_piece_is_found() {
    for at in [0, PIECE - 1, PIECE, LEN - 1] {
        let (files, bytes) = written();
        let (scratch, _) = reopened(FaultySource::new(files));
        let file = scratch.wheel().table.iter().next().unwrap();
        let changed = !bytes[at];
        file.memory().unwrap().store(4096 + at as u64, &[&[changed]]).unwrap();
        assert!(matches!(scratch.get(REALM, key()), Err(ReadError::Corrupted { .. })), "byte {at}");
        assert!(scratch.get(REALM, key()).unwrap_err().is_missing());
        assert_eq!((scratch.stats().corrupted, scratch.len()), (1, 0));
    }
}

/// The mapping says that a page cannot be read, and no more; the file says why, or can read it after all.
#[test]
fn what_cannot_be_mapped_is_read_through_the_file() {
    let (files, bytes) = written();
    for k in 1..=5 {
        let (scratch, faults) = reopened(FaultySource::new(files.clone()));
        let loads = faults.count(Call::Load);
        faults.set(Fault::at(k).only(&[Call::Populate]).errno(Errno::Io));
        assert_eq!(scratch.get(REALM, key()).as_deref(), Ok(&bytes[..]), "call {k}");
        assert_eq!((faults.failed(), scratch.health().suspect), (1, vec![]));
        assert!(faults.count(Call::Load) - loads >= 4, "call {k}");
    }
}

#[test]
fn what_cannot_be_read_at_all_is_the_error_of_the_disk_and_the_block_stays() {
    // The entry is read before; payload and entry are mapped; then the first piece is.
    for k in [2, 4] {
        let (files, bytes) = written();
        let (scratch, faults) = reopened(FaultySource::new(files));
        faults.set(Fault::at(k).sticky().only(&[Call::Populate, Call::Load]).errno(Errno::Io));
        let Err(ReadError::Io(error)) = scratch.get(REALM, key()) else { panic!("it cannot be read") };
        assert_eq!(error.raw_os_error(), Errno::Io.error().raw_os_error());
        assert_eq!((scratch.health().suspect.len(), scratch.len()), (1, 1));
        faults.clear();
        assert_eq!(scratch.get(REALM, key()).as_deref(), Ok(&bytes[..]), "as a copy");
    }
}
