//! What an opening did not find, in a store that may not forget: nobody says that it is missing, its file stays, and only the
//! user gives it up.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::block::{BlockHash, Entry, FileId, PAGE_SIZE};
use crate::error::{ReadError, WriteError};
use crate::scratch::refusing::{assert_there, fill, open};
use crate::scratch::small::{HANGS, MILLISECOND, REALM, block, three_files_of};
use crate::scratch::{HealthState, Scratch};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Errno, Fault, FaultySource};
use crate::wheel::{OnFull, RecoveryReport};

/// What an opening had no memory to index did not count as live: once the others of its file were removed, the file made room,
/// and what had been neither removed nor replaced was gone.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_file_whose_blocks_have_no_place_in_the_index_waits_for_an_opening_that_has_one() {
    let source = MemoryFileSource::builder().files_per_folder(3).file_size(1 << 20).build().unwrap();
    let open = |most_bytes| {
        let builder = Scratch::builder(source.clone()).on_full(OnFull::Refuse).gather(0, Duration::ZERO);
        let scratch =
            builder.expected_blocks(1).max_index_bytes(most_bytes).wait_timeout(Duration::from_secs(1)).open().unwrap();
        let report = scratch.wait_recovered(Duration::from_mins(1)).unwrap();
        (scratch, report)
    };
    // More than a file has entries for, and than a table has words.
    let keys: Vec<_> = (0..20_000).map(BlockHash::from_u128).collect();
    let (scratch, _) = open(u64::MAX);
    for key in &keys {
        scratch.put_named(REALM, *key, b"").unwrap();
    }
    drop(scratch);
    let (scratch, report) = open(128 << 10);
    // Nobody says of a block that is there that it is missing.
    let is_told =
        |error: &ReadError| matches!(error, ReadError::Io(error) if error.to_string().contains("not all blocks"));
    let (found, lost): (Vec<BlockHash>, Vec<BlockHash>) =
        keys.iter().copied().partition(|key| match scratch.contains(REALM, *key) {
            Ok(is_there) => is_there,
            Err(error) => !is_told(&error),
        });
    assert_eq!((report.skipped.no_room, report.blocks), (lost.len() as u64, found.len() as u64));
    assert!(lost.len() > 3_000 && scratch.len() == found.len() as u64, "{}", lost.len());
    assert!(is_told(&scratch.read(REALM, lost[0], |_| ()).unwrap_err()));
    assert!(is_told(&scratch.get(REALM, lost[0]).unwrap_err()));
    assert!(is_told(&scratch.info(REALM, lost[0]).unwrap_err()));
    let mut visited = 0;
    assert!(is_told(&scratch.for_each(REALM, |_| visited += 1).unwrap_err()));
    assert_eq!(visited, found.len());
    assert!(scratch.stats().read_errors >= lost.len() as u64);
    // One that is not found is removed without knowing it.
    let removed = lost.iter().take(50).find(|key| scratch.remove(REALM, **key) == Ok(false)).copied();
    for key in found {
        assert!(scratch.remove(REALM, key).unwrap());
    }
    // Each of these is refused, for want of a place or of a file, once the store is full.
    let stored = (0..2_000_u32).filter(|number| {
        let key = BlockHash::of(&number.to_le_bytes());
        scratch.put_named(REALM, key, &[0; 4096]).is_ok()
    });
    assert!(stored.count() < 400);
    drop(scratch);
    let (scratch, report) = open(u64::MAX);
    assert_eq!((report.skipped.no_room, scratch.len()), (0, report.blocks));
    assert!(lost.iter().all(|key| scratch.contains(REALM, *key) == Ok(Some(*key) != removed)));
}

/// A directory could not be read, and what it names was said to be missing; its file, in which nothing was live then, made room.
#[test]
fn what_a_directory_names_that_could_not_be_read_is_not_missing_and_its_file_waits() {
    let files = three_files_of(64 << 10);
    let key = BlockHash::of(b"key");
    let (scratch, _) = open(&files, 0);
    scratch.put_named(REALM, key, b"named").unwrap();
    drop(scratch);
    // The first loads are those of the headers, of one file or of two.
    let (scratch, faults) = (2..5)
        .find_map(|load| {
            let source = FaultySource::new(files.clone());
            let faults = source.faults();
            faults.set(Fault::at(load).sticky().only(&[Call::Load]).errno(Errno::Io));
            let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(0, MILLISECOND);
            Some((builder.wait_timeout(Duration::from_secs(1)).open().ok()?, faults))
        })
        .unwrap();
    assert!(scratch.wait_recovered(HANGS).unwrap().skipped.unreadable > 0);
    faults.clear();
    assert!(matches!(scratch.contains(REALM, key), Err(ReadError::Io(_))));
    assert!(matches!(scratch.read(REALM, key, |_| ()), Err(ReadError::Io(_))));
    assert!(scratch.health().lanes().all(|lane| lane.unfound && lane.readable));
    // What other files take, one of which is kept for removals.
    let written = fill(&scratch, 0);
    assert_eq!(scratch.stats().turns, 0, "{}", written.len());
    assert_there(&scratch, &written, true);
    scratch.close(HANGS);
    drop(scratch);
    let (scratch, _) = open(&files, 0);
    assert_eq!(scratch.read(REALM, key, <[u8]>::to_vec).as_deref(), Ok(&b"named"[..]));
    assert_there(&scratch, &written, true);
    assert_eq!(scratch.contains(REALM, BlockHash::of(b"another")), Ok(false));
}

/// Opens a store with files of `size` bytes in one of which the `page`th page of the directory is bad.
fn open_with_a_bad_page(files: &MemoryFileSource, size: u64, file: u16, page: u64) -> (Scratch, RecoveryReport) {
    let source = FaultySource::new(files.clone());
    let end = size - page * PAGE_SIZE;
    source.faults().spoil(FileId::new(file).unwrap(), end - PAGE_SIZE..end);
    let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(0, MILLISECOND);
    let scratch = builder.wait_timeout(Duration::from_secs(1)).open().unwrap();
    let report = scratch.wait_recovered(HANGS).unwrap();
    (scratch, report)
}

fn is_unfound<T>(result: &Result<T, ReadError>) -> bool {
    matches!(result, Err(ReadError::Io(error)) if error.to_string().contains("not all blocks"))
}

/// One bad sector hid all that was read with it: up to a mebibyte of entries, 16,384 blocks.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_bad_page_of_a_directory_hides_what_it_names_and_nothing_else() {
    const OF_A_PAGE: u64 = PAGE_SIZE / Entry::SIZE as u64;
    let files = three_files_of(1 << 20);
    let keys: Vec<_> = (0..2000).map(BlockHash::from_u128).collect();
    let (scratch, _) = open(&files, 0);
    for key in &keys {
        scratch.put_named(REALM, *key, b"").unwrap();
    }
    drop(scratch);
    for page in [0, 7, 20, 31] {
        let (scratch, report) = open_with_a_bad_page(&files, 1 << 20, 1, page);
        let of_page = page * OF_A_PAGE..((page + 1) * OF_A_PAGE).min(2000);
        assert_eq!((report.skipped.unreadable, report.blocks), (1, 2000 - (of_page.end - of_page.start)), "{page}");
        for (number, key) in (0..).zip(&keys) {
            let found = scratch.contains(REALM, *key);
            let is_right = if of_page.contains(&number) { is_unfound(&found) } else { found == Ok(true) };
            assert!(is_right, "{page}, {number}: {found:?}");
        }
        assert_eq!(scratch.health().state, HealthState::Degraded);
    }
    let (scratch, _) = open(&files, 0);
    assert_there(&scratch, &keys, true);
}

/// A sector of a directory that stays bad kept its file for ever, which nothing behind it in its lane could pass: what was
/// removed made no room any more, and in the end removals were refused.
#[test]
fn what_was_not_found_is_given_up_by_the_user_and_then_its_file_makes_room() {
    const SIZE: u64 = 64 << 10;
    let files = three_files_of(SIZE);
    let (scratch, _) = open(&files, 0);
    assert_eq!(scratch.forget_unfound(), Ok(0), "there is nothing");
    let written = fill(&scratch, 0);
    drop(scratch);
    let (scratch, report) = open_with_a_bad_page(&files, SIZE, 1, 0);
    assert_eq!(report.skipped.unreadable, 1);
    let (mut found, mut unfound) = (Vec::new(), Vec::new());
    for hash in &written {
        let is_there = scratch.contains(REALM, *hash);
        assert!(is_there == Ok(true) || is_unfound(&is_there), "{is_there:?}");
        if is_there.is_ok() { found.push(*hash) } else { unfound.push(*hash) }
    }
    assert!(found.len() > 10 && unfound.len() > 10, "{} and {}", found.len(), unfound.len());
    for hash in &found {
        assert!(scratch.remove(REALM, *hash).unwrap());
    }
    assert!(matches!(scratch.put(REALM, &block(1000, 4096)), Err(WriteError::Full { .. })));
    assert_eq!(scratch.stats().turns, 0);

    assert_eq!(scratch.forget_unfound(), Ok(1));
    assert!(scratch.health().lanes().all(|lane| !lane.unfound));
    assert_there(&scratch, &unfound, false);
    let again = fill(&scratch, 1000);
    assert!(again.len() >= found.len() && scratch.stats().turns >= 2, "{} blocks", again.len());
    assert_eq!(scratch.forget_unfound(), Ok(0));
    scratch.flush().unwrap();
    drop(scratch);
    // What the bad page named is gone with its file, and nothing that was removed comes back.
    let (scratch, _) = open(&files, 0);
    assert_there(&scratch, &again, true);
    assert_there(&scratch, &written, false);
}

/// Removals, and blocks without bytes, name no page: behind a bad page of its directory nobody knows where the payloads of a
/// file end, so the one that is left for removals takes none, and nothing that it holds is written over.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_file_with_a_bad_page_is_not_gone_on_with() {
    const SIZE: u64 = 256 << 10;
    for errno in [Errno::Io, Errno::NoMemory] {
        let files = three_files_of(SIZE);
        // Filled as far as that by a store that forgets: the last file has blocks, and tombstones behind them.
        let recycling = Scratch::builder(files.clone()).gather(0, MILLISECOND).open().unwrap();
        let written: Vec<_> = (0..160).map(|number| recycling.put(REALM, &block(number, 4096)).unwrap()).collect();
        let file = recycling.info(REALM, written[159]).unwrap().file;
        for key in (0..200).map(BlockHash::from_u128) {
            recycling.put_named(REALM, key, b"").unwrap();
        }
        assert_eq!(
            (recycling.stats().turns, recycling.info(REALM, BlockHash::from_u128(199)).unwrap().file),
            (0, file)
        );
        drop(recycling);
        let source = FaultySource::new(files.clone());
        let faults = source.faults();
        faults.spoil_with(file, SIZE - PAGE_SIZE..SIZE, errno);
        let builder = Scratch::builder(source).on_full(OnFull::Refuse).gather(0, MILLISECOND);
        let scratch = builder.wait_timeout(Duration::from_millis(200)).open().unwrap();
        assert_eq!(scratch.wait_recovered(HANGS).unwrap().skipped.unreadable, 1);
        for number in 1000..1010 {
            let refused = scratch.put(REALM, &block(number, 4096)).unwrap_err();
            assert!(matches!(refused, WriteError::Full { .. }), "{errno:?}: {refused}");
            let refused = scratch.remove(REALM, written[0]).unwrap_err();
            assert!(matches!(refused, WriteError::Full { .. }), "{errno:?}: {refused}");
        }
        drop(scratch);
        let (scratch, _) = open(&files, 0);
        for (number, hash) in (0..).zip(&written) {
            let is_right = scratch.read_verified(REALM, *hash, |bytes| bytes == block(number, 4096));
            assert_eq!(is_right, Ok(true), "{errno:?}, block {number}");
        }
    }
}
