//! What lies at an edge: lengths, slots, pages, realms, batches, the smallest store, and what `Refuse` may not forget.
#![forbid(unsafe_code)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use scratchspace::{
    BlittableError, BlittableErrorKind, BlockHash, CommitError, MemoryFileSource, MissingOk, OnFull, ReadError,
    ReadWithError, Realm, RealmError, Scratch, WriteError,
};

const PAGE: usize = 4096;
/// The smallest file: a header, one page of payload, one page of directory.
const SMALLEST: u64 = 12 << 10;
const LONG: Duration = Duration::from_mins(1);
const R: Realm = Realm::DEFAULT;

fn source(folders: u16, files: u16, size: u64) -> MemoryFileSource {
    MemoryFileSource::builder().folders(folders).files_per_folder(files).file_size(size).build().unwrap()
}

/// Opens a store twice over: what is gathered, and what is not, has the same edges.
fn each_way(folders: u16, files: u16, size: u64, test: impl Fn(&Scratch)) {
    for bytes in [0, 1 << 20] {
        let source = source(folders, files, size);
        test(&Scratch::builder(source).gather(bytes, Duration::from_millis(1)).open().unwrap());
    }
}

#[expect(clippy::cast_possible_truncation, reason = "any bytes will do")]
fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251 + at / 4096 * 3 + seed * 17) as u8).collect()
}

fn read(scratch: &Scratch, key: BlockHash) -> Option<Vec<u8>> {
    scratch.read(R, key, <[u8]>::to_vec).missing_ok().unwrap()
}

#[test]
fn what_a_waiting_closure_hides_is_not_forgotten_by_a_store_that_refuses() {
    // A named block was replaced by a deferred write. Its file held no live block then and was recycled, the closure
    // failed, and neither version was left, although the store may forget nothing.
    let wait = Duration::from_millis(50);
    let scratch = Scratch::builder(source(1, 3, SMALLEST)).on_full(OnFull::Refuse).wait_timeout(wait).open().unwrap();
    let (key, first) = (BlockHash::from_u128(1), bytes(PAGE, 1));
    scratch.put_named(R, key, &first).unwrap();
    let (fail, failing) = mpsc::channel::<()>();
    let (enter, entered) = mpsc::channel::<()>();
    scratch
        .write_named(R, key, PAGE, move |_| {
            enter.send(()).unwrap();
            let _ = failing.recv_timeout(LONG);
            std::panic::resume_unwind(Box::new("as asked"));
        })
        .unwrap();
    // The flusher has it: the writer below would run it while it waits.
    entered.recv_timeout(LONG).unwrap();
    // The file may come free yet, if the closure keeps its promise.
    assert!(scratch.put(R, &bytes(PAGE, 2)).is_err_and(|error| error.is_retryable()));
    fail.send(()).unwrap();
    while scratch.stats().failed == 0 {
        // Late at times, as nobody waits long here.
        let _ = scratch.flush();
    }
    // Whoever comes between the count and the end of the closure is told like those who waited for it.
    let began = Instant::now();
    while matches!(scratch.read(R, key, |_| ()), Err(ReadError::Failed { .. })) {
        assert!(began.elapsed() < LONG);
    }
    assert_eq!(read(&scratch, key), Some(first));
}

#[test]
fn blocks_of_every_length_around_an_edge_come_back_by_every_verb() {
    const KIB64: usize = 64 << 10;
    let lengths = [0, 1, PAGE - 1, PAGE, PAGE + 1, KIB64 - 1, KIB64, KIB64 + 1, (1 << 20) - 2 * PAGE];
    each_way(1, 40, 1 << 20, |scratch| {
        let mut all = Vec::new();
        for (number, len) in lengths.into_iter().enumerate() {
            let name = |verb: usize| BlockHash::from_u128((number * 10 + verb) as u128 + 1);
            let content = |verb: usize| bytes(len, number * 10 + verb);
            all.push((scratch.put(R, &content(0)).unwrap(), content(0)));

            let (hash, block) = (BlockHash::of(&content(1)), content(1));
            scratch.write(R, hash, len, move |to| to.copy_from_slice(&block)).unwrap();
            all.push((hash, content(1)));

            scratch.put_named(R, name(2), &content(2)).unwrap();
            all.push((name(2), content(2)));

            let block = content(3);
            scratch.write_named(R, name(3), len, move |to| to.copy_from_slice(&block)).unwrap();
            all.push((name(3), content(3)));

            let hashes = scratch.put_many(R, &[&content(4)]).unwrap();
            all.push((hashes[0], content(4)));

            let mut writer = scratch.writer(R);
            writer.write_slice(&content(5));
            all.push((writer.commit().unwrap(), content(5)));
        }
        for flushed in [false, true] {
            for (key, block) in &all {
                assert!(read(scratch, *key).as_ref() == Some(block), "{} bytes, flushed: {flushed}", block.len());
            }
            scratch.flush().unwrap();
        }
        assert_eq!(scratch.stats().turns, 0);
    });
}

#[test]
fn one_byte_more_than_an_empty_file_holds_is_refused_by_every_verb_and_changes_nothing() {
    for size in [SMALLEST, 64 << 10] {
        each_way(1, 3, size, |scratch| {
            let max = usize::try_from(size).unwrap() - 2 * PAGE;
            let (fits, large) = (bytes(max, 1), bytes(max + 1, 2));
            let key = BlockHash::from_u128(7);
            let refused = WriteError::TooLarge { len: max as u64 + 1, max: max as u64 };
            scratch.put_named(R, key, &fits).unwrap();
            let before = scratch.stats();

            assert_eq!(scratch.put(R, &large), Err(refused.clone()));
            assert_eq!(scratch.put_named(R, key, &large), Err(refused.clone()));
            assert_eq!(scratch.put_many(R, &[b"small", &large]), Err(refused.clone()));
            let never = |_: &mut [u8]| unreachable!("a refused closure ran");
            assert_eq!(scratch.write(R, BlockHash::of(&large), max + 1, never), Err(refused.clone()));
            assert_eq!(scratch.write_named(R, key, max + 1, never), Err(refused.clone()));
            let endless = WriteError::TooLarge { len: usize::MAX as u64, max: max as u64 };
            assert_eq!(scratch.write_named(R, key, usize::MAX, never), Err(endless));
            let writer = || {
                let mut writer = scratch.writer(R);
                writer.write_slice(&large);
                writer
            };
            assert_eq!(writer().commit(), Err(CommitError::Write(refused.clone())));
            assert_eq!(writer().commit_named(key), Err(CommitError::Write(refused.clone())));

            let after = scratch.stats();
            assert_eq!((before.written_blocks, before.turns), (after.written_blocks, after.turns));
            assert_eq!((scratch.len(), read(scratch, key)), (1, Some(fits)));
            assert_eq!(read(scratch, BlockHash::of(b"small")), None);
        });
    }
}

#[test]
fn files_are_filled_to_their_last_page_and_their_last_entry() {
    // 64 pages: the header, 62 of payload, one of directory with 64 entries; two are left for blocks without bytes.
    let file = |scratch: &Scratch, key: u128| scratch.info(R, BlockHash::from_u128(key)).unwrap().file;
    each_way(1, 4, 256 << 10, |scratch| {
        let lengths = [PAGE, PAGE - 1, 1, 2 * PAGE, PAGE + 1, 3 * PAGE - 5];
        let (mut pages, mut keys) = (0, 0);
        while pages < 62 {
            let len = lengths[keys as usize % lengths.len()];
            let len = if pages + len.div_ceil(PAGE) > 62 { PAGE } else { len };
            pages += len.div_ceil(PAGE);
            keys += 1;
            scratch.put_named(R, BlockHash::from_u128(keys), &bytes(len, keys as usize)).unwrap();
        }
        let first = file(scratch, 1);
        let full = keys;
        while keys < 64 {
            keys += 1;
            scratch.put_named(R, BlockHash::from_u128(keys), b"").unwrap();
        }
        // Neither a byte nor an entry is left.
        for (key, len) in [(65, 0), (66, 1)] {
            scratch.put_named(R, BlockHash::from_u128(key), &bytes(len, 0)).unwrap();
        }
        assert_eq!((1..=64).filter(|key| file(scratch, *key) == first).count(), 64);
        assert!(file(scratch, 65) != first && file(scratch, 66) == file(scratch, 65));
        for key in 1..=full {
            let block = read(scratch, BlockHash::from_u128(key)).unwrap();
            assert!(block == bytes(block.len(), key as usize), "block {key}");
        }
    });
}

#[test]
fn a_file_is_full_when_its_directory_is() {
    each_way(1, 3, SMALLEST, |scratch| {
        let name = |number: u128| BlockHash::from_u128(number + 1);
        for number in 0..129 {
            scratch.put_named(R, name(number), b"").unwrap();
        }
        let file = |number| scratch.info(R, name(number)).unwrap().file;
        assert!((0..128).all(|number| file(number) == file(0)), "128 entries are two pages");
        assert_ne!(file(128), file(0));
        // Slots end as pages do: with a payload there is one page for 64 entries.
        scratch.put_named(R, name(200), b"payload").unwrap();
        for number in 0..128 {
            scratch.put_named(R, name(300 + number), b"").unwrap();
        }
        assert_eq!(scratch.read(R, name(300 + 127), <[u8]>::len), Ok(0));
        assert_eq!(read(scratch, name(200)), Some(b"payload".to_vec()), "in the second youngest file");
    });
}

#[test]
fn the_smallest_store_turns_and_is_found_again() {
    for gather in [0, 1 << 20] {
        let source = source(1, 3, SMALLEST);
        let open = || Scratch::builder(source.clone()).gather(gather, Duration::ZERO).open().unwrap();
        let scratch = open();
        let blocks: Vec<_> = (0..20).map(|seed| bytes(PAGE, seed)).collect();
        let hashes: Vec<_> = blocks.iter().map(|block| scratch.put(R, block).unwrap()).collect();
        assert!((1..=3).contains(&scratch.len()));
        assert_eq!(read(&scratch, hashes[19]).as_ref(), Some(&blocks[19]));
        drop(scratch);
        let scratch = open();
        assert!((1..=3).contains(&scratch.wait_recovered(LONG).unwrap().blocks));
        assert_eq!(read(&scratch, hashes[19]).as_ref(), Some(&blocks[19]));
        assert_eq!(read(&scratch, hashes[0]), None);
    }
}

#[test]
fn realms_are_worlds_of_their_own() {
    assert_eq!(Realm::new(1 << 24), Err(RealmError { found: 1 << 24 }));
    let realms = [Realm::new(0).unwrap(), Realm::from(1), Realm::new((1 << 24) - 2).unwrap(), Realm::MAX];
    each_way(2, 3, 1 << 20, |scratch| {
        let key = BlockHash::from_u128(u128::MAX);
        let content = b"the same in each";
        let hash = scratch.put(realms[0], content).unwrap();
        for realm in &realms[1..] {
            let missing = ReadError::Missing { realm: *realm, hash };
            assert_eq!(scratch.get(*realm, hash), Err(missing.clone()));
            assert_eq!(scratch.info(*realm, hash), Err(missing));
            assert_eq!(scratch.contains(*realm, hash), Ok(false));
            assert_eq!(scratch.remove(*realm, hash), Ok(false));
        }
        for realm in realms {
            assert_eq!(scratch.put(realm, content), Ok(hash));
            scratch.put_named(realm, key, &realm.get().to_le_bytes()).unwrap();
        }
        assert_eq!((scratch.len(), scratch.stats().duplicates), (8, 1));
        assert_eq!(scratch.remove(realms[1], hash), Ok(true));
        assert_eq!(scratch.remove(realms[2], key), Ok(true));
        for (number, realm) in realms.into_iter().enumerate() {
            let mut visited = 0;
            scratch.for_each(realm, |block| visited += u32::from(block.realm == realm)).unwrap();
            assert_eq!(visited, if number == 0 || number == 3 { 2 } else { 1 });
            assert_eq!(scratch.contains(realm, hash), Ok(number != 1));
            let named = scratch.read(realm, key, |bytes| *bytes == realm.get().to_le_bytes()).missing_ok().unwrap();
            assert_eq!(named, (number != 2).then_some(true));
        }
    });
}

#[test]
fn batches_may_be_empty_repeat_themselves_and_outgrow_a_file() {
    each_way(4, 8, 64 << 10, |scratch| {
        assert_eq!(scratch.put_many(R, &[]), Ok(Vec::new()));
        scratch.get_many(R, &[], |_, _| unreachable!("nothing was asked for")).unwrap();

        let one = bytes(5000, 1);
        let hashes = scratch.put_many(R, &[&one, b"", &one, b"", &one]).unwrap();
        assert_eq!(hashes, [&one[..], b"", &one, b"", &one].map(BlockHash::of));
        let stats = scratch.stats();
        assert_eq!((scratch.len(), stats.written_blocks, stats.duplicates), (2, 2, 3));

        // Three files' worth over four lanes, in one call; no lane gets more than it holds.
        let blocks: Vec<_> = (0..48).map(|seed| bytes(PAGE - 1, seed)).collect();
        let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let hashes = scratch.put_many(R, &slices).unwrap();
        let mut asked = hashes.clone();
        for at in (0..48).step_by(7) {
            asked.insert(at, BlockHash::of(b"never written"));
        }
        asked.push(hashes[3]);
        let mut next = 0;
        scratch
            .get_many(R, &asked, |at, block| {
                assert_eq!(at, next);
                next += 1;
                match hashes.iter().position(|hash| *hash == asked[at]) {
                    Some(number) => assert!(block.unwrap() == blocks[number]),
                    None => assert_eq!(block, Err(ReadError::Missing { realm: R, hash: asked[at] })),
                }
            })
            .unwrap();
        assert_eq!(next, asked.len());
    });
}

#[test]
fn a_batch_larger_than_the_store_leaves_its_end() {
    each_way(1, 3, 64 << 10, |scratch| {
        let blocks: Vec<_> = (0..100).map(|seed| bytes(3 * PAGE, seed)).collect();
        let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let hashes = scratch.put_many(R, &slices).unwrap();
        let left = hashes.iter().zip(&blocks).filter(|(hash, block)| match read(scratch, **hash) {
            Some(found) => {
                assert!(found == **block);
                true
            }
            None => false,
        });
        let left = left.count();
        assert!((4..=12).contains(&left), "{left} of 100 blocks, four a file");
        assert!(scratch.stats().turns > 0);
    });
}

#[test]
fn a_batch_larger_than_a_store_that_refuses_is_full() {
    let scratch = Scratch::builder(source(1, 3, 64 << 10)).on_full(OnFull::Refuse).open().unwrap();
    let blocks: Vec<_> = (0..100).map(|seed| bytes(3 * PAGE, seed)).collect();
    let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    let full = scratch.put_many(R, &slices).unwrap_err();
    assert!(matches!(full, WriteError::Full { needed: 12_288, .. }), "{full}");
    let left = blocks.iter().filter(|block| read(&scratch, BlockHash::of(block)).is_some()).count();
    assert_eq!((left, scratch.len()), (8, 8), "two files of four; the third is for tombstones");
}

#[test]
fn a_store_that_refuses_and_waits_for_a_held_block_says_so() {
    // The writer was told that time was short, although what it waited for was a block that somebody held.
    let wait = Duration::from_millis(50);
    let scratch = Scratch::builder(source(1, 3, SMALLEST)).on_full(OnFull::Refuse).wait_timeout(wait).open().unwrap();
    let [first, second] = [1, 2].map(|seed| scratch.put(R, &bytes(PAGE, seed)).unwrap());
    scratch.flush().unwrap();
    let held = scratch.get(R, first).unwrap();
    assert_eq!(scratch.remove(R, first), Ok(true));
    let pinned = scratch.put(R, &bytes(PAGE, 3)).unwrap_err();
    let oldest = scratch.info(R, second).unwrap().file;
    assert!(matches!(pinned, WriteError::AllPinned { oldest: file, .. } if file != oldest), "{pinned}");
    assert!(*held == *bytes(PAGE, 1));
    drop(held);
    while scratch.put(R, &bytes(PAGE, 3)).is_err_and(|error| error.is_retryable()) {}
    assert_eq!(read(&scratch, BlockHash::of(&bytes(PAGE, 3))), Some(bytes(PAGE, 3)));
}

#[test]
fn with_many_more_blocks_than_expected_some_are_missing_and_each_of_them_is_counted() {
    let source = MemoryFileSource::builder().files_per_folder(4).file_size(8 << 20).build().unwrap();
    let scratch = Scratch::builder(source).expected_blocks(1).open().unwrap();
    // The smallest index has room for 2^14.
    let blocks = 24_000_u64;
    let key = |number: u64| BlockHash::of(&number.to_le_bytes());
    for number in 0..blocks {
        scratch.put_named(Realm::DEFAULT, key(number), b"").unwrap();
    }
    let there = |number: &u64| scratch.read(Realm::DEFAULT, key(*number), <[u8]>::len).missing_ok().unwrap().is_some();
    let found = (0..blocks).filter(there).count() as u64;
    let stats = scratch.stats();
    assert_eq!((stats.evicted, stats.blocks, stats.turns), (blocks - found, found, 0));
    assert!((10_000..=1 << 14).contains(&found) && there(&(blocks - 1)), "{found} are found");
}

/// It refused what its index had no place for, once that was stored, and an opening that expected no more blocks did not find
/// all that had been.
#[test]
fn a_store_that_refuses_finds_all_its_blocks_however_few_were_expected() {
    let files = MemoryFileSource::builder().files_per_folder(4).file_size(64 << 20).build().unwrap();
    let open = || {
        let scratch = Scratch::builder(files.clone()).expected_blocks(1).on_full(OnFull::Refuse).open().unwrap();
        let report = scratch.wait_recovered(LONG).unwrap();
        (scratch, report)
    };
    let key = |number: u64| BlockHash::of(&number.to_le_bytes());
    let there = |scratch: &Scratch, number: u64| match scratch.read(R, key(number), <[u8]>::to_vec) {
        Ok(found) => found == if number % 3 == 2 { number.to_le_bytes().to_vec() } else { Vec::new() },
        Err(error) => panic!("{number}: {error}"),
    };
    let (scratch, _) = open();
    let few = scratch.stats().index_bytes;
    // The smallest index has room for 2^14.
    let blocks = 30_000_u64;
    for number in 0..blocks {
        match number % 3 {
            0 => scratch.put_named(R, key(number), b"").unwrap(),
            1 => scratch.write_named(R, key(number), 0, |_| ()).unwrap(),
            _ => drop(scratch.put_many(R, &[&number.to_le_bytes()]).unwrap()),
        }
    }
    assert!((0..blocks).all(|number| there(&scratch, number)));
    assert!(scratch.stats().index_bytes > few + blocks * 4, "{:?}", scratch.stats());
    assert!(scratch.close(LONG).is_clean());
    drop(scratch);
    let (scratch, report) = open();
    assert_eq!((report.blocks, report.skipped.no_room, scratch.len()), (blocks, 0, blocks));
    assert!((0..blocks).all(|number| there(&scratch, number)));
    // Tombstones take as many places as blocks, and make none less.
    for number in 0..blocks {
        assert_eq!(scratch.remove(R, key(number)), Ok(true));
    }
    assert!(scratch.is_empty());
    for number in blocks..blocks + 10_000 {
        let content = if number % 3 == 2 { number.to_le_bytes().to_vec() } else { Vec::new() };
        scratch.put_named(R, key(number), &content).unwrap();
    }
    assert!((blocks..blocks + 10_000).all(|number| there(&scratch, number)));
    let missing = |number: u64| scratch.read(R, key(number), |_| ()).is_err_and(|error| error.is_missing());
    assert!((0..blocks).all(missing));
    assert_eq!(scratch.stats().evicted, 0);
}

#[test]
fn what_has_no_place_in_an_index_of_a_fixed_size_is_found_or_stays_removed_in_one_that_grows() {
    let files = MemoryFileSource::builder().files_per_folder(4).file_size(16 << 20).build().unwrap();
    let open = |on_full| {
        let scratch = Scratch::builder(files.clone()).expected_blocks(1).on_full(on_full).open().unwrap();
        let report = scratch.wait_recovered(LONG).unwrap();
        (scratch, report.skipped.no_room)
    };
    let key = |number: u64| BlockHash::of(&number.to_le_bytes());
    let blocks = 40_000_u64;
    let (scratch, _) = open(OnFull::Refuse);
    for number in 0..blocks {
        scratch.put_named(R, key(number), b"").unwrap();
    }
    drop(scratch);
    let (scratch, no_room) = open(OnFull::Recycle);
    assert!(no_room > 20_000, "{no_room}");
    // Found or not.
    for number in (0..blocks).filter(|number| number % 5 == 0) {
        scratch.remove(R, key(number)).unwrap();
    }
    drop(scratch);
    let (scratch, no_room) = open(OnFull::Refuse);
    assert_eq!(no_room, 0);
    for number in 0..blocks {
        assert_eq!(scratch.contains(R, key(number)).unwrap(), number % 5 != 0, "{number}");
    }
}

#[test]
fn what_a_reading_closure_returns_is_told_from_what_the_store_says() {
    let scratch = Scratch::open(MemoryFileSource::builder().build().unwrap()).unwrap();
    let hash = scratch.put(Realm::DEFAULT, b"ab").unwrap();
    let too_short = scratch.read_with(Realm::DEFAULT, hash, |reader| reader.read_vec::<u32>(1));
    let kind = BlittableErrorKind::EndOfBlock { wanted: 4, remaining: 2 };
    assert_eq!(too_short, Err(ReadWithError::Closure(BlittableError::new(0, kind))));
    assert_eq!(scratch.read_with(Realm::DEFAULT, hash, |reader| reader.read_vec::<u8>(2)), Ok(b"ab".to_vec()));
    let absent = BlockHash::of(b"absent");
    let read = || scratch.read_with(Realm::DEFAULT, absent, |reader| reader.read_vec::<u8>(1));
    assert_eq!(read(), Err(ReadWithError::Read(ReadError::Missing { realm: Realm::DEFAULT, hash: absent })));
    assert_eq!(read().missing_ok(), Ok(None));
}
