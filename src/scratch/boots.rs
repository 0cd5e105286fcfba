//! What an opening reads of its files, and finds in them, in the boot of the run before and in another one.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::block::{BlockHash, FileHeader, FileId, FileSize, HighWaterMark, PAGE_SIZE};
use crate::scratch::Scratch;
use crate::scratch::small::{HANGS, REALM, block, three_files_of};
use crate::storage::faulty::{Call, Fault, Faults, FaultySource};
use crate::storage::lossy::{Crash, Image, LossySource, Plan};
use crate::storage::{FileSource, MemoryFileSource};
use crate::sync::Arc;

const FIRST: Option<u64> = Some(1);
const SECOND: Option<u64> = Some(2);

/// A store over files that stay, opened in this boot of a system; `is_gathered` tells whether its blocks are.
fn open(files: &Arc<MemoryFileSource>, boot: Option<u64>, is_gathered: bool) -> (Scratch, Arc<Faults>) {
    let source = FaultySource::new(Arc::clone(files)).in_boot(boot);
    let faults = source.faults();
    let bytes = if is_gathered { 64 << 10 } else { 0 };
    let scratch = Scratch::builder(source).gather(bytes, Duration::from_millis(1)).open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    (scratch, faults)
}

fn key(number: u64) -> BlockHash {
    BlockHash::of(&number.to_le_bytes())
}

/// How many blocks of so many are found, and how often the files were read for an opening.
fn reopened(files: &Arc<MemoryFileSource>, boot: Option<u64>, blocks: u64) -> (usize, u64) {
    let (scratch, faults) = open(files, boot, false);
    let loads = faults.count(Call::Load);
    let is_there = |number: &u64| scratch.contains(REALM, BlockHash::of(&block(*number, 100_000))).unwrap();
    ((0..blocks).filter(is_there).count(), loads)
}

/// A file that was filled anew was read to its end, as blocks may lie wherever there is room for them: a store that turns had
/// gigabytes read before its older blocks were found.
#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn of_files_that_turn_an_opening_in_the_same_boot_reads_what_they_hold() {
    // Forty of these fill a file.
    const BLOCKS: u64 = 300;
    let files = Arc::new(three_files_of(4 << 20));
    let (scratch, _) = open(&files, FIRST, false);
    for number in 0..BLOCKS {
        scratch.put(REALM, &block(number, 100_000)).unwrap();
    }
    drop(scratch);
    let (found, loads) = reopened(&files, FIRST, BLOCKS);
    assert!(found > 40, "{found}");
    // Of each its header, and one piece of its directory.
    assert_eq!(loads, 6);
    let (found_again, loads) = reopened(&files, SECOND, BLOCKS);
    assert_eq!(found_again, found);
    assert!(loads > 8, "another boot may have lost marks: {loads}");
}

/// Stores these keys without payloads, one by one or many at a time.
fn store(scratch: &Scratch, numbers: std::ops::Range<u64>, at_once: bool) {
    if at_once {
        let blocks: Vec<_> = numbers.map(|number| block(number, 8)).collect();
        let blocks: Vec<_> = blocks.iter().map(Vec::as_slice).collect();
        scratch.put_many(REALM, &blocks).unwrap();
    } else {
        numbers.for_each(|number| scratch.put_named(REALM, key(number), b"").unwrap());
    }
}

/// Among them a run that does not know its boot: it left the mark of the run before as it was, and the next one did not see what
/// was stored meanwhile, though it was flushed, and filled the file from below it.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn what_is_stored_beyond_the_first_mark_is_found_in_the_same_boot_and_in_another() {
    // In the boot of the run before, in another one, in that again, without one, and in that again.
    const BOOTS: [Option<u64>; 8] = [FIRST, FIRST, SECOND, SECOND, None, SECOND, None, None];
    for (is_gathered, at_once) in [(false, false), (true, false), (false, true)] {
        // A mark covers 32 entries there, and none of the blocks is forgotten.
        let files = Arc::new(three_files_of(2 << 20));
        for (run, boot) in (0..).zip(BOOTS) {
            let (scratch, _) = open(&files, boot, is_gathered);
            let is_there = |number: &u64| {
                let key = if at_once { BlockHash::of(&block(*number, 8)) } else { key(*number) };
                scratch.contains(REALM, key).unwrap()
            };
            assert_eq!((0..run * 70).filter(is_there).count() as u64, run * 70, "run {run}");
            store(&scratch, run * 70..(run + 1) * 70, at_once);
        }
    }
}

/// Stores a mark in each file, or in one.
fn forge(source: &LossySource, only: Option<FileId>, slots: u32) {
    for found in source.scan().unwrap() {
        if only.is_none_or(|file| file == found.file) {
            let mut page = vec![0; 4096];
            found.memory.load(0, &mut page).unwrap();
            let nonce = FileHeader::decode(&page).unwrap().nonce;
            let mark = HighWaterMark { slots, boot: source.boot().unwrap() };
            found.memory.store(512, &[&mark.encode(nonce)]).unwrap();
        }
    }
}

fn kill(remote: &LossySource) -> Image {
    remote.set_plan(Plan { crash: Crash::Kill, at_call: u64::MAX, failing_syncs: 0, failing_stores: 0 });
    remote.crash()
}

/// Once a sync of it has failed: the mark may be older than the entries then.
#[test]
fn the_mark_of_a_file_that_has_lost_something_is_not_believed() {
    for is_marked in [false, true] {
        let source = LossySource::new(1, 3, FileSize::new(24 * PAGE_SIZE).unwrap(), 1);
        let remote = source.remote();
        let scratch = reopen(source);
        // The first mark covers four: more than a page of them, which is read as a whole.
        (0..70).for_each(|number| scratch.put_named(REALM, key(number), b"").unwrap());
        let file = scratch.info(REALM, key(69)).unwrap().file;
        if is_marked {
            remote.mark_suspect(file).unwrap();
        }
        let image = kill(&remote);
        drop(scratch);
        let source = LossySource::open(&image, 1);
        forge(&source, Some(file), 4);
        let scratch = reopen(source);
        let found = (0..70).filter(|number| scratch.contains(REALM, key(*number)).unwrap()).count();
        assert_eq!(found, if is_marked { 70 } else { 64 });
    }
}

/// Whoever can write to the files can make it any number.
#[test]
fn a_mark_above_all_slots_of_a_file_is_as_good_as_none() {
    for slots in [u32::MAX, u32::MAX - 1, 1 << 22, 5000] {
        let source = LossySource::new(1, 3, FileSize::new(24 * PAGE_SIZE).unwrap(), 1);
        let remote = source.remote();
        let scratch = reopen(source);
        (0..6).for_each(|number| scratch.put_named(REALM, key(number), b"there").unwrap());
        let image = kill(&remote);
        drop(scratch);
        let source = LossySource::open(&image, 1);
        forge(&source, None, slots);
        let scratch = reopen(source);
        (6..9).for_each(|number| scratch.put_named(REALM, key(number), b"there").unwrap());
        assert!((0..9).all(|number| scratch.get(REALM, key(number)).is_ok()), "{slots}");
    }
}

/// The mark is not on the disk, the entry above it is: nobody was promised it, and the next opening would have filled the file
/// from below it, until a mark above showed it again, as the newest of its key.
#[test]
#[cfg_attr(miri, ignore = "too many stores to interpret")]
fn what_a_power_cut_has_left_above_a_mark_does_not_come_back_in_place_of_what_was_flushed_since() {
    let mut left = 0;
    for seed in 0..400 {
        let source = LossySource::new(1, 3, FileSize::new(24 * PAGE_SIZE).unwrap(), seed);
        let remote = source.remote();
        let scratch = reopen(source);
        // The first mark covers four.
        (0..4).for_each(|number| scratch.put_named(REALM, key(number), b"first").unwrap());
        scratch.flush().unwrap();
        // Eight entries lie in one sector: what replaces the last one lies in the second.
        (4..9).for_each(|number| scratch.put_named(REALM, key(number), b"perhaps").unwrap());
        scratch.put_named(REALM, key(11), b"old").unwrap();
        let image = remote.crash();
        drop(scratch);
        let source = LossySource::open(&image, seed);
        let remote = source.remote();
        let scratch = reopen(source);
        left += u32::from(!scratch.contains(REALM, key(4)).unwrap() && scratch.contains(REALM, key(11)).unwrap());
        scratch.put_named(REALM, key(11), b"new").unwrap();
        (20..24).for_each(|number| scratch.put_named(REALM, key(number), b"more").unwrap());
        scratch.flush().unwrap();
        let image = remote.crash();
        drop(scratch);
        let scratch = reopen(LossySource::open(&image, seed));
        assert_eq!(scratch.get(REALM, key(11)).as_deref(), Ok(&b"new"[..]), "seed {seed}");
        assert!((0..4).all(|number| scratch.get(REALM, key(number)).is_ok()), "seed {seed}");
    }
    assert!(left > 5, "{left} of 400 had lost the one and kept the other");
}

fn reopen(source: impl FileSource) -> Scratch {
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    scratch
}

/// The blocks whose mark cannot be stored are not stored, and their writer is told; what was and what comes next is found.
#[test]
fn a_mark_that_cannot_be_stored_costs_the_blocks_that_need_it() {
    for (is_gathered, at_once) in [(false, false), (true, false), (false, true)] {
        // The first mark covers 32.
        let files = Arc::new(three_files_of(1 << 20));
        let (scratch, faults) = open(&files, FIRST, is_gathered);
        store(&scratch, 0..30, at_once);
        scratch.flush().unwrap();
        // Payloads come before it.
        let k = if at_once { 2 } else { 1 };
        faults.set(Fault::at(k).only(&[Call::Store]));
        let told = if at_once {
            let blocks: Vec<_> = (30..40).map(|number| block(number, 8)).collect();
            let blocks: Vec<_> = blocks.iter().map(Vec::as_slice).collect();
            scratch.put_many(REALM, &blocks).is_err()
        } else {
            let put = |number| scratch.put_named(REALM, key(number), b"").is_err();
            let refused = (30..40).filter(|number| put(*number)).count();
            refused + usize::from(scratch.flush().is_err()) > 0
        };
        assert!(told && faults.failed() == 1, "gathered {is_gathered}, at once {at_once}");
        store(&scratch, 40..60, at_once);
        drop(scratch);
        let (scratch, _) = open(&files, FIRST, false);
        let is_there = |number: &u64| {
            let key = if at_once { BlockHash::of(&block(*number, 8)) } else { key(*number) };
            scratch.contains(REALM, key).unwrap()
        };
        assert!((0..30).chain(40..60).all(|number| is_there(&number)), "gathered {is_gathered}, at once {at_once}");
        assert!(!(30..40).all(|number| is_there(&number)));
    }
}
