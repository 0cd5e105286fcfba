//! How blocks come into memory: what is asked of the files, and when it is asked again.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::block::{BlockHash, FileId, Realm};
use crate::scratch::small::{HANGS, MILLISECOND};
use crate::scratch::{Scratch, ScratchBuilder};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Fault, Faults, FaultySource, Hint};
use crate::sync::{Arc, thread};
use crate::wheel::{ALONE, Access, REGION, Verify};

const PAGE: u64 = 4096;

/// A store of an earlier run with one file of eight regions, in which block `n` of a page lies at page `n + 1`; nothing
/// of it is known to be in memory.
fn reopened(options: impl FnOnce(ScratchBuilder) -> ScratchBuilder, blocks: u64) -> (Scratch, Arc<Faults>) {
    let files = MemoryFileSource::builder().files_per_folder(3).file_size(8 * REGION).build().unwrap();
    {
        let scratch = Scratch::open(files.clone()).unwrap();
        for number in 0..blocks {
            scratch.put_named(Realm::DEFAULT, key(number), &number.to_le_bytes()).unwrap();
        }
    }
    let source = FaultySource::new(files);
    let faults = source.faults();
    // What is compared with its hash is asked for by whoever does that.
    let scratch = options(Scratch::builder(source).verify(Verify::Never)).open().unwrap();
    assert_eq!(scratch.wait_recovered(HANGS).unwrap().blocks, blocks);
    (scratch, faults)
}

fn key(number: u64) -> BlockHash {
    BlockHash::from_u128(number.into())
}

/// Reads a block, and tells what was asked for.
fn read(scratch: &Scratch, faults: &Faults, number: u64) -> Vec<Hint> {
    faults.hints.take();
    assert_eq!(scratch.get(Realm::DEFAULT, key(number)).as_deref(), Ok(&number.to_le_bytes()[..]));
    let of_reader = |hint: &Hint| matches!(hint, Hint::Needed(_) | Hint::Populated(_));
    faults.hints.take().into_iter().map(|(_, hint)| hint).filter(of_reader).collect()
}

fn block_at(number: u64) -> Range<u64> {
    let start = (number + 1) * PAGE;
    start..start + 8
}

fn region(number: u64) -> Range<u64> {
    number * REGION..(number + 1) * REGION
}

fn entry_at(number: u64) -> Range<u64> {
    let end = 8 * REGION - number * 64;
    end - 64..end
}

fn asked(range: Range<u64>) -> [Hint; 2] {
    [Hint::Needed(range.clone()), Hint::Populated(range)]
}

/// A region is waited for; those behind it come meanwhile, as far as nobody has asked for them.
fn brought(number: u64, behind: Range<u64>) -> Vec<Hint> {
    let behind = behind.map(|number| Hint::Needed(region(number)));
    [Hint::Needed(region(number))].into_iter().chain(behind).chain([Hint::Populated(region(number))]).collect()
}

/// Each verb that lends blocks; those of this run, what a buffer holds of them, and those of an earlier one.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_block_that_is_in_memory_is_read_without_a_call_to_its_file() {
    for access in [Access::Auto, Access::Exact, Access::ReadAround] {
        let (scratch, faults) = reopened(|builder| builder.access(access), 100);
        for number in 100..200 {
            scratch.put_named(Realm::DEFAULT, key(number), &number.to_le_bytes()).unwrap();
        }
        scratch.flush().unwrap();
        scratch.put_named(Realm::DEFAULT, key(200), &200_u64.to_le_bytes()).unwrap();
        let keys: Vec<_> = (0..=200).map(key).collect();
        let read_all = || {
            for (number, key) in (0_u64..).zip(&keys) {
                let bytes = number.to_le_bytes();
                assert!(scratch.read(Realm::DEFAULT, *key, |block| block == bytes).unwrap());
                assert_eq!(*scratch.get(Realm::DEFAULT, *key).unwrap(), bytes);
            }
            let mut found = 0;
            scratch.get_many(Realm::DEFAULT, &keys, |_, block| found += block.unwrap().len()).unwrap();
            assert_eq!(found, keys.len() * 8);
        };
        read_all();
        let calls = || [Call::Load, Call::Populate].map(|call| faults.count(call));
        let before = calls();
        faults.hints.take();
        read_all();
        assert_eq!(calls(), before, "{access:?}");
        let asked = faults.hints.take();
        assert!(!asked.iter().any(|(_, hint)| matches!(hint, Hint::Needed(_) | Hint::Populated(_))), "{asked:?}");
    }
}

/// The same below the source of a disk.
#[test]
#[cfg_attr(miri, ignore = "no files to map")]
#[cfg(target_os = "linux")]
fn a_block_of_a_disk_that_is_in_memory_is_read_without_a_call_of_the_system() {
    use crate::os::watch::Watch;
    use crate::storage::DiskFileSource;
    use crate::storage::test_folder::test_folder;

    let folder = test_folder();
    let files =
        || DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(8 << 20).build().unwrap();
    let keys: Vec<_> = {
        let scratch = Scratch::open(files()).unwrap();
        (0..60_u8)
            .map(|number| scratch.put(Realm::DEFAULT, &vec![number; 1 + 2000 * usize::from(number)]).unwrap())
            .collect()
    };
    let scratch = Scratch::open(files()).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    let read_all = || {
        for (len, key) in (0..60).map(|number| 1 + 2000 * number).zip(&keys) {
            assert_eq!(scratch.read(Realm::DEFAULT, *key, <[u8]>::len), Ok(len));
            assert_eq!(scratch.get(Realm::DEFAULT, *key).unwrap().len(), len);
        }
        scratch.get_many(Realm::DEFAULT, &keys, |_, block| assert!(block.is_ok())).unwrap();
    };
    read_all();
    let watch = Watch::new(folder.path());
    read_all();
    assert_eq!(watch.take(), []);
}

#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn with_exact_each_block_is_asked_for_alone_and_once() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::Exact), 100);
    for number in 0..100 {
        assert_eq!(read(&scratch, &faults, number), [asked(block_at(number)), asked(entry_at(number))].concat());
        assert_eq!(read(&scratch, &faults, number), []);
    }
    assert_eq!(scratch.stats().resident_bytes, 100 * PAGE);
}

#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn with_read_around_a_block_comes_with_its_region() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::ReadAround), 1000);
    assert_eq!(read(&scratch, &faults, 7), [brought(0, 1..4), brought(7, 8..8)].concat());
    for number in [8, 99, 510] {
        assert_eq!(read(&scratch, &faults, number), [], "block {number}");
    }
    assert_eq!(read(&scratch, &faults, 511), brought(1, 4..5), "it begins with page 512");
    assert_eq!(scratch.stats().resident_bytes, 3 * REGION);
}

/// Which of both is better is not known before more than one block of a region is read.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_set_that_fits_has_a_region_brought_once_some_of_its_blocks_were_asked_for() {
    let (scratch, faults) = reopened(|builder| builder, 3000);
    let is_around = || scratch.wheel().residency.reads_around();
    until("the first look at memory", is_around);
    for number in 0..u64::from(ALONE) {
        assert_eq!(read(&scratch, &faults, number), [asked(block_at(number)), asked(entry_at(number))].concat());
    }
    assert_eq!(read(&scratch, &faults, 400), [brought(0, 1..4), brought(7, 8..8)].concat());
    assert_eq!(read(&scratch, &faults, 300), []);
    assert_eq!(read(&scratch, &faults, 2600), asked(block_at(2600)), "nobody has asked for the sixth");
    assert_eq!(
        read(&scratch, &faults, 600),
        brought(1, 4..5),
        "of the next one it is the first, but that was asked for"
    );
}

/// A disk that had to find each long block first was idle while the one before was used.
#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn behind_a_long_block_regions_are_asked_for_once_some_of_its_file_was_read() {
    const LONG: u64 = 300 << 10;
    let (scratch, faults) = reopened(|builder| builder, 2);
    until("the first look at memory", || scratch.wheel().residency.reads_around());
    let long: Vec<_> = (0..7_u8).map(|number| scratch.put(Realm::DEFAULT, &vec![number; 300 << 10]).unwrap()).collect();
    scratch.flush().unwrap();
    faults.hints.keep_small();
    faults.hints.lose_pages();
    scratch.wheel().residency.look_soon();
    until("the store has noticed", || scratch.stats().resident_bytes == 0);
    let asked = |number: usize| {
        faults.hints.take();
        scratch.get(Realm::DEFAULT, long[number]).unwrap();
        let needed = faults.hints.take().into_iter().filter_map(|(_, hint)| match hint {
            Hint::Needed(range) if range.end - range.start > 64 => Some(range),
            _ => None,
        });
        needed.collect::<Vec<_>>()
    };
    let payload = |number: u64| (3 + 75 * number) * PAGE..(3 + 75 * number) * PAGE + LONG;
    assert_eq!(asked(0), [payload(0)], "of a file of 16 MiB no half a mebibyte was read yet");
    assert_eq!(asked(1), [payload(1)]);
    // It ends in the second one, which is brought. That of its entry is waited for, as it was asked for.
    assert_eq!(asked(6), [vec![region(1), payload(6)], (2..8).map(region).collect(), vec![region(7)]].concat());
    assert_eq!(asked(3), [payload(3)], "once");
}

/// What is asked for behind it comes in small pages, of which the processor has more to do than the disk.
#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn regions_of_which_nothing_is_in_memory_come_as_one_piece_each_with_a_long_block() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::ReadAround), 2);
    let bytes = vec![7; 5 << 20];
    let long = scratch.put(Realm::DEFAULT, &bytes).unwrap();
    scratch.flush().unwrap();
    let get = || {
        faults.hints.lose_pages();
        scratch.wheel().residency.look_soon();
        until("the store has noticed", || scratch.stats().resident_bytes == 0);
        faults.hints.take();
        assert_eq!(scratch.get(Realm::DEFAULT, long).unwrap()[..], bytes);
        faults.hints.take().into_iter().map(|(_, hint)| hint).collect::<Vec<_>>()
    };
    let piece = |number: u64| [Hint::Prepared(region(number)), Hint::Populated(region(number))];
    assert_eq!(get(), [0, 1, 2, 7].map(piece).concat(), "the last one is that of the entry");
    faults.hints.keep_small();
    let hints = get();
    let is_of = |numbers: Range<u64>| {
        move |hint: &&Hint| numbers.clone().any(|number| **hint == Hint::Prepared(region(number)))
    };
    assert_eq!(hints.iter().filter(is_of(0..8)).count(), 3, "that does not become one for three in a row: {hints:?}");
    assert!(hints.contains(&Hint::Needed(region(7))) && !hints.iter().any(|hint| is_of(7..8)(&hint)), "{hints:?}");
}

/// What is asked for before its turn comes in small pages, which said of all memory that it has no pieces; and what somebody else
/// brings may fail later: a block was lent before that was known.
#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn a_long_block_that_was_asked_for_ahead_is_no_piece_and_is_waited_for_whole() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::ReadAround), 2);
    let put = |number: u8| scratch.put(Realm::DEFAULT, &vec![number; 2 << 20]).unwrap();
    let long: Vec<_> = (0..2).map(put).collect();
    scratch.flush().unwrap();
    faults.hints.keep_small();
    faults.hints.lose_pages();
    scratch.wheel().residency.look_soon();
    until("the store has noticed", || scratch.stats().resident_bytes == 0);
    faults.hints.take();
    scratch.get_many(Realm::DEFAULT, &long, |_, block| assert_eq!(block.unwrap().len(), 2 << 20)).unwrap();
    let hints: Vec<_> = faults.hints.take().into_iter().map(|(_, hint)| hint).collect();
    let prepared: Vec<_> =
        hints.iter().filter(|hint| matches!(hint, Hint::Prepared(at) if at.end <= 6 * REGION)).collect();
    assert_eq!(prepared, [&Hint::Prepared(region(0))], "the others were on their way: {hints:?}");
    let is_whole =
        |hint: &&Hint| matches!(hint, Hint::Populated(at) if at.end - at.start >= 2 << 20 && at.start % REGION != 0);
    assert_eq!(hints.iter().filter(is_whole).count(), 2, "both blocks: {hints:?}");
}

#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_set_that_does_not_fit_is_asked_for_block_by_block() {
    let (scratch, faults) = reopened(|builder| builder.resident_budget(REGION), 1000);
    // Its newest file is the active one: it holds what is written in it, more than the budget.
    until("a look at memory", || scratch.wheel().residency.has_looked());
    for number in 0..20 {
        assert_eq!(read(&scratch, &faults, number), [asked(block_at(number)), asked(entry_at(number))].concat());
    }
}

/// A bad sector anywhere in two mebibytes would otherwise cost all blocks of these, and make their file suspect.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn what_lies_around_a_block_costs_it_nothing_where_it_cannot_be_read() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::ReadAround), 1000);
    faults.set(Fault::at(1).only(&[Call::Populate]));
    let needed = read(&scratch, &faults, 7);
    let regions: Vec<_> = (0..4).map(|number| Hint::Needed(region(number))).collect();
    assert_eq!(needed[..6], [&regions[..], &asked(block_at(7))].concat());
    assert_eq!(scratch.health().suspect, []);
}

#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn above_the_budget_files_are_released_and_their_blocks_asked_for_again() {
    let budget = 2 * REGION;
    let (scratch, faults) = reopened(|builder| builder.access(Access::Exact).resident_budget(budget), 3000);
    for number in 0..3000 {
        let block = scratch.get(Realm::DEFAULT, key(number)).unwrap();
        if scratch.stats().resident_bytes > budget {
            until("the file is released", || scratch.stats().resident_bytes <= budget);
        }
        assert_eq!(block[..], number.to_le_bytes(), "what is lent stays");
    }
    let released = |(file, hint): &(FileId, Hint)| file.get() == 1 && *hint == Hint::Released(0..8 * REGION);
    assert!(faults.hints.take().iter().any(released));
    assert!(!read(&scratch, &faults, 0).is_empty(), "it was released since");
}

/// Without this a block that the system had taken from memory was met page by page, for as long as the store was open.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn what_the_system_took_from_memory_is_asked_for_again() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::Exact), 100);
    for number in 0..50 {
        assert!(!read(&scratch, &faults, number).is_empty());
    }
    assert_eq!(read(&scratch, &faults, 3), []);
    faults.hints.lose_pages();
    // Another one is read, so that somebody looks.
    let mut next = 50;
    until("the store has noticed", || {
        let _ = scratch.get(Realm::DEFAULT, key(next));
        next = (next + 1).min(99);
        scratch.wheel().residency.look_soon();
        scratch.stats().resident_bytes < 50 * PAGE
    });
    assert!(!read(&scratch, &faults, 3).is_empty());
}

/// It was noticed only while other blocks were brought: a store all of which had been read once, and which was then without
/// memory for a while, met page by page what was read of it afterwards.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn what_the_system_took_is_noticed_also_where_nothing_else_is_read() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::Exact), 20);
    for number in 0..20 {
        assert!(!read(&scratch, &faults, number).is_empty());
    }
    scratch.wheel().residency.look_soon();
    until("a look that knows of all of them", || scratch.wheel().residency.has_looked());
    faults.hints.lose_pages();
    until("the store has noticed", || {
        scratch.wheel().residency.let_pass(Duration::from_mins(1));
        scratch.stats().resident_bytes == 0
    });
    assert!(!read(&scratch, &faults, 3).is_empty());
}

/// One block was asked for while the one before it was read: a disk that serves many at once had one to do.
#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn a_batch_has_eight_blocks_or_a_mebibyte_asked_for_ahead() {
    let (scratch, faults) = reopened(|builder| builder.access(Access::Exact), 100);
    let long: Vec<_> =
        (0..10_u8).map(|number| scratch.put(Realm::DEFAULT, &vec![number; 600 << 10]).unwrap()).collect();
    scratch.flush().unwrap();
    // What was written is in memory as far as the store knows.
    faults.hints.lose_pages();
    scratch.wheel().residency.look_soon();
    until("the store has noticed", || scratch.stats().resident_bytes == 0);
    let short: Vec<_> = (0..20).map(key).collect();
    for (hashes, most) in [(short, 1 + 8), (long, 1 + 2)] {
        faults.hints.take();
        let mut asked = Vec::new();
        let read = |_, block: Result<&[u8], _>| {
            assert!(block.is_ok());
            let of_block =
                |hint: &(FileId, Hint)| matches!(&hint.1, Hint::Needed(range) if range.end - range.start != 64);
            asked.push(faults.hints.take().iter().filter(|hint| of_block(hint)).count());
        };
        scratch.get_many(Realm::DEFAULT, &hashes, read).unwrap();
        // The block itself is asked for once more, as nobody waits for what was asked for ahead.
        assert_eq!(asked[0], most, "{asked:?}");
        assert_eq!(asked.iter().sum::<usize>(), 2 * hashes.len() - 1, "{asked:?}");
    }
}

fn until(what: &str, is_so: impl FnMut() -> bool) {
    let (mut is_so, began) = (is_so, Instant::now());
    while !is_so() {
        assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
        thread::sleep(MILLISECOND);
    }
}

/// At which page a block of one file is expected before its entry is read, and at which it is.
fn expected_and_found(scratch: &Scratch, hash: BlockHash) -> (Option<u64>, u64) {
    let wheel = scratch.wheel();
    let address = wheel.index.all_candidates(wheel.key_hash(Realm::DEFAULT, hash)).next().unwrap();
    let (file, slot) = (wheel.table.file(address.file()), address.slot());
    let page = file.pin().unwrap().load_entry(slot).unwrap().unwrap().page;
    (file.stride.page_of(slot), page.into())
}

#[test]
fn blocks_of_one_length_are_expected_where_they_are_however_they_were_written_in_each_lap_and_run() {
    let files = MemoryFileSource::builder().files_per_folder(3).file_size(64 << 10).build().unwrap();
    let block = |number: u8, len: usize| vec![number; len];
    // All blocks of two pages, gathered or not, or all of three.
    let write = |scratch: &Scratch, number: u8, pages: usize| {
        let len = 4096 * (pages - 1) + 1;
        let one = scratch.put(Realm::DEFAULT, &block(number, len)).unwrap();
        let others = [number + 1, number + 2].map(|number| block(number, len));
        let others = scratch.put_many(Realm::DEFAULT, &others.each_ref().map(Vec::as_slice)).unwrap();
        let bytes = block(number + 3, len);
        let hash = BlockHash::of(&bytes);
        let fill = move |to: &mut [u8]| to.copy_from_slice(&bytes);
        scratch.write(Realm::DEFAULT, hash, len, fill).unwrap();
        scratch.flush().unwrap();
        let all = [one].into_iter().chain(others).chain([hash]).collect::<Vec<_>>();
        for hash in &all {
            let (expected, found) = expected_and_found(scratch, *hash);
            assert_eq!(expected, Some(found), "block of {pages} pages");
        }
        all
    };
    let scratch = Scratch::open(files.clone()).unwrap();
    let of_two = write(&scratch, 0, 2);
    scratch.wheel().seal_active();
    write(&scratch, 10, 3);
    drop(scratch);
    let scratch = Scratch::open(files).unwrap();
    scratch.wait_recovered(HANGS).unwrap();
    for hash in of_two {
        let (expected, found) = expected_and_found(&scratch, hash);
        assert_eq!(expected, Some(found), "of an earlier run");
    }
    // What had two pages a block is filled anew, as are all three files.
    let before = scratch.stats().turns;
    for number in [20, 30, 40, 50] {
        scratch.wheel().seal_active();
        write(&scratch, number, 3);
    }
    assert!(scratch.stats().turns >= before + 2, "{} turns", scratch.stats().turns);
}
