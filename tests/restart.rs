//! What a store is after it was closed, killed, damaged, or opened otherwise.
#![forbid(unsafe_code)]

#[path = "common/skipped.rs"]
mod skipped;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use scratchspace::{
    BlockHash, ConfigError, DiskFileSource, DiskFileSourceBuilder, Event, FileId, FileMemory, FileSize, FileSource,
    Found, HashKind, Layout, MemoryFileSource, MissingOk, OpenError, ReadError, Realm, RecoveryReport, Scratch, Stats,
    StoreId, Verify,
};
use tempfile::TempDir;

use crate::skipped::skipped;

const REALM: Realm = Realm::DEFAULT;
const PATIENCE: Duration = Duration::from_mins(1);
const KIB: u64 = 1 << 10;

/// Below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
fn test_folder() -> TempDir {
    match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root).unwrap(),
        None => TempDir::new().unwrap(),
    }
}

/// Another block for each number, of at least eight bytes.
fn block(number: u64, len: usize) -> Vec<u8> {
    (number + 1).to_le_bytes().iter().copied().cycle().take(len.max(8)).collect()
}

fn name(number: u64) -> BlockHash {
    BlockHash::from_u128(u128::from(number) << 64 | 0xABCD)
}

/// Files of 64 KiB in memory and on disks, with one lane and with four; `open` opens the same store again.
fn on_each_source(files_per_lane: u16, test: impl Fn(&dyn Fn() -> Scratch)) {
    for (folders, lanes_per_folder) in [(1, 1), (2, 2)] {
        let files = files_per_lane * lanes_per_folder;
        let open =
            |source: Box<dyn FileSource>| Scratch::builder(source).lanes_per_folder(lanes_per_folder).open().unwrap();
        let memory = MemoryFileSource::builder().folders(folders).files_per_folder(files).file_size(64 * KIB);
        let memory = memory.build().unwrap();
        test(&|| open(Box::new(memory.clone())));
        let root = test_folder();
        let folders: Vec<_> = (0..folders).map(|folder| root.path().join(folder.to_string())).collect();
        let disk = DiskFileSource::builder().folders(&folders).files_per_folder(files).file_size(64 * KIB);
        test(&|| open(Box::new(disk.clone().build().unwrap())));
    }
}

fn disk(folder: &Path, files: u16) -> DiskFileSourceBuilder {
    DiskFileSource::builder().folder(folder).files_per_folder(files).file_size(64 * KIB)
}

fn open(builder: &DiskFileSourceBuilder) -> Scratch {
    Scratch::open(builder.clone().build().unwrap()).unwrap()
}

fn recovered(scratch: &Scratch) -> RecoveryReport {
    let report = scratch.wait_recovered(PATIENCE).unwrap();
    assert!(scratch.recovery().complete && !scratch.stats().recovering);
    assert_eq!(scratch.recovery().report, report);
    report
}

fn get(scratch: &Scratch, hash: BlockHash) -> Option<Vec<u8>> {
    scratch.get(REALM, hash).missing_ok().unwrap().map(|block| block.to_vec())
}

/// The files of a store below a folder.
fn store_files(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == "scratch")).collect();
    files.sort();
    files
}

/// Every file below a folder, with its bytes and the time of its last change.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.insert(path.clone(), (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap()));
        }
    }
    all
}

/// Where `bytes` stand in the files of a folder.
fn find(folder: &Path, bytes: &[u8]) -> Vec<(PathBuf, usize)> {
    let places = store_files(folder).into_iter().flat_map(|path| {
        let file = fs::read(&path).unwrap();
        let found = (0..file.len() - bytes.len()).filter(|at| file[*at..].starts_with(bytes)).collect::<Vec<_>>();
        found.into_iter().map(move |at| (path.clone(), at))
    });
    places.collect()
}

fn flip(path: &Path, at: usize) {
    let mut file = fs::read(path).unwrap();
    file[at] ^= 0x10;
    fs::write(path, file).unwrap();
}

#[test]
fn what_was_put_is_there_after_a_restart_and_the_report_is_exact() {
    on_each_source(3, |open| {
        let scratch = open();
        assert_eq!(recovered(&scratch), RecoveryReport::default(), "a new store has nothing to recover");
        let hashes: Vec<_> = (0..10).map(|at| scratch.put(REALM, &block(at, 1000)).unwrap()).collect();
        let other = Realm::new(7).unwrap();
        scratch.put(other, b"of another realm").unwrap();
        for version in 0..3 {
            scratch.put_named(REALM, name(1), &block(100 + version, 50)).unwrap();
        }
        scratch.put_named(REALM, name(2), b"").unwrap();
        assert!(scratch.remove(REALM, hashes[4]).unwrap());
        let files = scratch.stats().files;
        drop(scratch);

        let scratch = open();
        // The keeper may have made a spare ready between the two.
        assert!(scratch.recovery().files_total >= files);
        let files = scratch.recovery().files_total;
        let report = recovered(&scratch);
        assert_eq!((report.files, report.blocks, report.bytes), (files, 12, 9 * 1000 + 16 + 50));
        assert_eq!((report.files_dropped, report.skipped.superseded), (0, 3), "two old versions and a removed block");
        assert_eq!((report.skipped.invalid, report.skipped.no_room, report.skipped.misplaced), (0, 0, 0));
        let Stats { blocks, bytes, corrupted, .. } = scratch.stats();
        assert_eq!((blocks, bytes, corrupted), (report.blocks, report.bytes, 0));
        for (number, hash) in (0..).zip(&hashes) {
            assert_eq!(get(&scratch, *hash), (number != 4).then(|| block(number, 1000)));
        }
        assert_eq!(get(&scratch, name(1)), Some(block(102, 50)));
        assert_eq!(get(&scratch, name(2)), Some(Vec::new()));
        assert_eq!(&scratch.get(other, BlockHash::of(b"of another realm")).unwrap()[..], b"of another realm");
    });
}

#[test]
fn a_store_serves_at_once_after_it_was_opened() {
    on_each_source(3, |open| {
        let hash = open().put(REALM, b"of the first run").unwrap();
        let scratch = open();
        let new = scratch.put(REALM, b"of the second run").unwrap();
        assert_eq!(get(&scratch, new).unwrap(), b"of the second run");
        scratch.put_named(REALM, name(1), b"named").unwrap();
        assert!(scratch.remove(REALM, name(1)).unwrap());
        recovered(&scratch);
        assert_eq!(get(&scratch, hash).unwrap(), b"of the first run");
        assert_eq!(get(&scratch, name(1)), None);
    });
}

#[test]
fn a_thousand_reopenings_with_one_small_block_each_keep_every_block() {
    for lanes in [1, 2] {
        let source = MemoryFileSource::builder().files_per_folder(80).file_size(64 * KIB).build().unwrap();
        let open = || Scratch::builder(source.clone()).lanes_per_folder(lanes).open().unwrap();
        for number in 0..1000 {
            open().put(REALM, &block(number, 100)).unwrap();
        }
        let scratch = open();
        assert_eq!(recovered(&scratch).blocks, 1000);
        // A file holds fourteen of these; each lane may have a file that is not full, and one more that is ready.
        let files = scratch.stats().files;
        assert!(files <= 1000 / 14 + 1 + 2 * u64::from(lanes), "{files} files");
        for number in 0..1000 {
            assert_eq!(get(&scratch, BlockHash::of(&block(number, 100))), Some(block(number, 100)));
        }
    }
    let root = test_folder();
    let builder = disk(root.path(), 4);
    for number in 0..30 {
        open(&builder).put(REALM, &block(number, 100)).unwrap();
    }
    let scratch = open(&builder);
    assert_eq!(recovered(&scratch).blocks, 30);
}

#[test]
fn the_oldest_blocks_die_first_however_often_the_store_is_reopened() {
    let root = test_folder();
    let builder = disk(root.path(), 4);
    let hash = |number| BlockHash::of(&block(number, 5000));
    let mut written = 0;
    for run in 0..25 {
        let scratch = open(&builder);
        recovered(&scratch);
        let those_there = || -> Vec<u64> {
            let is_there =
                |number: &u64| get(&scratch, hash(*number)).is_some_and(|bytes| bytes == block(*number, 5000));
            (0..written).filter(is_there).collect()
        };
        // The oldest file may make room meanwhile, once what was found is durable.
        let mut there = those_there();
        for again in std::iter::repeat_with(those_there) {
            if std::mem::replace(&mut there, again.clone()) == again {
                break;
            }
        }
        let first = there.first().copied().unwrap_or(written);
        assert_eq!(there, (first..written).collect::<Vec<_>>(), "run {run}");
        // Three files at least stay full: a file holds seven of these.
        assert!(written - first >= written.min(14), "run {run}: {first} to {written} are left");
        for _ in 0..3 + run % 4 {
            scratch.put(REALM, &block(written, 5000)).unwrap();
            written += 1;
        }
    }
    assert_eq!(store_files(root.path()).len(), 4);
}

#[test]
fn a_damaged_payload_is_corrupted_once_and_then_missing() {
    let root = test_folder();
    let builder = disk(root.path(), 3);
    let scratch = open(&builder);
    let hashes: Vec<_> = (0..6).map(|at| scratch.put(REALM, &block(at, 3000)).unwrap()).collect();
    drop(scratch);
    let [(path, at)] = &find(root.path(), &block(2, 3000))[..] else { panic!("one copy") };
    flip(path, at + 1234);

    let scratch = open(&builder);
    assert_eq!(recovered(&scratch).blocks, 6, "payloads are not read before somebody asks for them");
    assert!(matches!(scratch.get(REALM, hashes[2]), Err(ReadError::Corrupted { .. })));
    for _ in 0..2 {
        assert!(matches!(scratch.get(REALM, hashes[2]), Err(ReadError::Missing { .. })));
    }
    assert_eq!((scratch.stats().corrupted, scratch.len()), (1, 5));
    for number in [0, 1, 3, 4, 5] {
        assert_eq!(get(&scratch, hashes[usize::try_from(number).unwrap()]), Some(block(number, 3000)));
    }
    scratch.put(REALM, &block(2, 3000)).unwrap();
    drop(scratch);
    let scratch = open(&builder);
    recovered(&scratch);
    assert_eq!(get(&scratch, hashes[2]), Some(block(2, 3000)), "written again, it is there again");
}

/// In place, as the file is mapped by a store that runs.
#[cfg(target_os = "linux")]
fn flip_in_place(path: &Path, at: usize) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn bytes_are_compared_with_their_hash_as_often_as_the_store_is_told() {
    for (verify, at_first, later) in
        [(Verify::Never, true, true), (Verify::FirstRead, false, true), (Verify::Always, false, false)]
    {
        let root = test_folder();
        let builder = disk(root.path(), 3);
        let scratch = open(&builder);
        let hashes: Vec<_> = (0..2).map(|at| scratch.put(REALM, &block(at, 3000)).unwrap()).collect();
        drop(scratch);
        let place = |number| find(root.path(), &block(number, 3000)).remove(0);
        let damage = |(path, at): (PathBuf, usize)| flip_in_place(&path, at + 1234);
        let later_place = place(1);
        damage(place(0));
        let scratch = Scratch::builder(builder.build().unwrap()).verify(verify).open().unwrap();
        recovered(&scratch);
        assert_eq!(scratch.get(REALM, hashes[0]).is_ok(), at_first, "{verify:?}");

        assert_eq!(get(&scratch, hashes[1]), Some(block(1, 3000)));
        damage(later_place);
        assert_eq!(scratch.get(REALM, hashes[1]).is_ok(), later, "{verify:?}");
        assert_eq!(scratch.stats().corrupted, u64::from(!at_first) + u64::from(!later));
    }
}

#[test]
fn a_damaged_entry_costs_its_block_and_is_counted() {
    let root = test_folder();
    let builder = disk(root.path(), 3);
    let scratch = open(&builder);
    let hashes: Vec<_> = (0..6).map(|at| scratch.put(REALM, &block(at, 3000)).unwrap()).collect();
    drop(scratch);
    let entry = find(root.path(), &hashes[2].to_u128().to_le_bytes()).pop().unwrap();
    flip(&entry.0, entry.1 + 21);

    let scratch = open(&builder);
    let report = recovered(&scratch);
    assert_eq!((report.blocks, report.skipped.invalid), (5, 1));
    for (number, hash) in (0..).zip(&hashes) {
        assert_eq!(get(&scratch, *hash), (number != 2).then(|| block(number, 3000)));
    }
}

/// A flushed value must not be lost to a newer one that was not: here the newer one was torn by a power cut.
#[test]
fn of_two_versions_the_older_is_served_if_the_newer_is_damaged() {
    let root = test_folder();
    let builder = disk(root.path(), 3);
    let scratch = open(&builder);
    for version in 0..3 {
        scratch.put_named(REALM, name(1), &block(version, 3000)).unwrap();
    }
    drop(scratch);
    for (left, damaged) in [(Some(1), 2), (Some(0), 1), (None, 0)] {
        let [(path, at)] = &find(root.path(), &block(damaged, 3000))[..] else { panic!("one copy") };
        flip(path, at + 99);
        let scratch = open(&builder);
        recovered(&scratch);
        match left {
            Some(version) => assert_eq!(get(&scratch, name(1)), Some(block(version, 3000))),
            None => assert!(matches!(scratch.get(REALM, name(1)), Err(ReadError::Corrupted { .. }))),
        }
    }
}

#[test]
fn of_two_copies_of_a_content_the_older_is_served_if_the_newer_is_damaged() {
    let root = test_folder();
    let builder = disk(root.path(), 4);
    let scratch = open(&builder);
    let content = block(1 << 40, 3000);
    let hash = scratch.put(REALM, &content).unwrap();
    let first = scratch.info(REALM, hash).unwrap();
    // It is written again once its file is the next to die, and only then.
    for number in 0.. {
        scratch.put(REALM, &content).unwrap();
        if scratch.info(REALM, hash).unwrap() != first {
            break;
        }
        scratch.put(REALM, &block(number, 3000)).unwrap();
    }
    drop(scratch);
    let copies = find(root.path(), &content);
    assert_eq!(copies.len(), 2, "the file of the first copy has not died yet: {copies:?}");
    let newer = copies.iter().find(|(path, _)| !path.to_str().unwrap().contains(&format!("-{:04}.", first.file.get())));
    let (path, at) = newer.unwrap();
    flip(path, at + 5);
    let scratch = open(&builder);
    recovered(&scratch);
    assert_eq!(get(&scratch, hash), Some(content));
}

#[test]
fn removed_and_replaced_blocks_stay_so_over_turns_reopenings_and_pinned_files() {
    on_each_source(4, |open| {
        let hash = |number| BlockHash::of(&block(number, 2000));
        let mut removed = Vec::new();
        let mut named = BTreeMap::new();
        let mut next = 0;
        for run in 0..6 {
            let scratch = open();
            if run % 2 == 0 {
                recovered(&scratch);
            }
            let mut held = Vec::new();
            for step in 0..40 {
                let value = block(next, 2000);
                scratch.put(REALM, &value).unwrap();
                if step % 3 == 0 {
                    // Held for a while: its file drains when its turn comes.
                    held.extend(scratch.get(REALM, hash(next)).missing_ok().unwrap().map(|held| (held, value)));
                    scratch.remove(REALM, hash(next)).unwrap();
                    removed.push(next);
                }
                let key = next % 5;
                scratch.put_named(REALM, name(key), &block(1_000_000 + next, 700)).unwrap();
                named.insert(key, 1_000_000 + next);
                next += 1;
                if held.len() > 2 {
                    let (block, value) = held.remove(0);
                    assert_eq!(block[..], value[..]);
                }
            }
            drop(held);
            recovered(&scratch);
            for number in &removed {
                assert_eq!(get(&scratch, hash(*number)), None, "run {run}: {number} was removed");
            }
            for (key, number) in &named {
                let read = get(&scratch, name(*key));
                assert!(read.is_none() || read == Some(block(*number, 700)), "run {run}: {key} was replaced");
            }
        }
    });
}

#[test]
fn fewer_files_drop_the_oldest_blocks_and_more_files_may_come_back() {
    let root = test_folder();
    let hash = |number| BlockHash::of(&block(number, 8000));
    let survivors = |scratch: &Scratch, end: u64| -> Vec<u64> {
        (0..end)
            .filter(|number| {
                get(scratch, hash(*number)).inspect(|read| assert_eq!(*read, block(*number, 8000))).is_some()
            })
            .collect()
    };
    let scratch = open(&disk(root.path(), 6));
    // Seven of these fill a file; the last file has room left, so nothing has died.
    for number in 0..38 {
        scratch.put(REALM, &block(number, 8000)).unwrap();
    }
    assert_eq!(scratch.stats().turns, 0);
    drop(scratch);
    assert_eq!(store_files(root.path()).len(), 6);

    let scratch = open(&disk(root.path(), 4));
    let report = recovered(&scratch);
    assert_eq!((report.files, report.files_dropped, report.blocks), (4, 2, 38 - 14));
    assert_eq!(survivors(&scratch, 38), (14..38).collect::<Vec<_>>());
    assert_eq!(store_files(root.path()).len(), 4);
    drop(scratch);

    let scratch = open(&disk(root.path(), 7));
    assert_eq!(recovered(&scratch).files_dropped, 0);
    for number in 38..60 {
        scratch.put(REALM, &block(number, 8000)).unwrap();
    }
    assert_eq!(survivors(&scratch, 60), (14..60).collect::<Vec<_>>(), "three more files, and nothing dies");
    drop(scratch);
    assert_eq!(store_files(root.path()).len(), 7);

    // Numbers above those that a small store creates, and gaps between them.
    let scratch = open(&disk(root.path(), 3));
    assert_eq!(recovered(&scratch).files_dropped, 4);
    assert_eq!(survivors(&scratch, 60), (42..60).collect::<Vec<_>>());
    for number in 60..100 {
        scratch.put(REALM, &block(number, 8000)).unwrap();
    }
    let left = survivors(&scratch, 100);
    assert!(left.len() >= 7 && left == (left[0]..100).collect::<Vec<_>>(), "{left:?}");
    drop(scratch);
    assert_eq!(store_files(root.path()).len(), 3);
}

#[test]
fn another_layout_is_refused_by_both_its_values_and_nothing_is_touched() {
    let root = test_folder();
    let builder = disk(root.path(), 12);
    let hash = {
        let scratch = Scratch::builder(builder.clone().build().unwrap()).lanes_per_folder(2).open().unwrap();
        scratch.put(REALM, b"kept").unwrap()
    };
    let before = tree(root.path());
    let was = Layout { lanes: 2, file_size: 64 * KIB, hash_kind: HashKind::Xxh3 };
    let refused = |source: DiskFileSourceBuilder, lanes: Option<u16>| {
        let mut builder = Scratch::builder(source.build().unwrap());
        if let Some(lanes) = lanes {
            builder = builder.lanes_per_folder(lanes);
        }
        let error = builder.open().unwrap_err();
        assert_eq!(tree(root.path()), before, "{error}");
        match error {
            OpenError::LayoutChanged { was: found, is } if found == was => is,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(builder.clone().file_size(128 * KIB), None).file_size, 128 * KIB);
    assert_eq!(refused(builder.clone(), Some(1)), Layout { lanes: 1, ..was });
    assert_eq!(refused(builder.clone(), Some(3)), Layout { lanes: 3, ..was });
    let scratch = open(&builder);
    recovered(&scratch);
    assert_eq!(get(&scratch, hash).unwrap(), b"kept", "without a wish the store keeps its lanes");
    drop(scratch);

    let reset = Scratch::builder(builder.file_size(128 * KIB).build().unwrap()).lanes_per_folder(3).reset();
    let scratch = reset.open().unwrap();
    assert_eq!((recovered(&scratch).files, scratch.len(), get(&scratch, hash)), (0, 0, None));
    let new = scratch.put(REALM, b"new").unwrap();
    assert_eq!(get(&scratch, new).unwrap(), b"new");
    drop(scratch);
    assert!(store_files(root.path()).iter().all(|path| fs::metadata(path).unwrap().len() == 128 * KIB));
}

#[test]
fn a_reset_leaves_nothing_of_the_store_before() {
    on_each_source(3, |open| {
        open().put(REALM, b"gone").unwrap();
    });
    let memory = MemoryFileSource::builder().file_size(64 * KIB).build().unwrap();
    let hash = Scratch::open(memory.clone()).unwrap().put(REALM, b"gone").unwrap();
    let scratch = Scratch::builder(memory.clone()).reset().open().unwrap();
    assert_eq!((recovered(&scratch), get(&scratch, hash)), (RecoveryReport::default(), None));
    drop(scratch);
    let scratch = Scratch::open(memory).unwrap();
    recovered(&scratch);
    assert_eq!(get(&scratch, hash), None);
}

#[test]
fn with_capacity_an_existing_store_keeps_its_file_size_and_its_lanes() {
    let root = test_folder();
    let folders = [root.path().join("a"), root.path().join("b")];
    let builder = DiskFileSource::builder().folders(&folders).files_per_folder(8).file_size(256 * KIB);
    let hash = {
        let scratch = Scratch::builder(builder.build().unwrap()).lanes_per_folder(2).open().unwrap();
        scratch.put(REALM, b"kept").unwrap()
    };
    let value = |scratch: &Scratch, name: &str| {
        let line = scratch.explain().iter().find(|line| line.0 == name).map(|line| line.1.to_owned());
        line.unwrap_or_else(|| panic!("no line `{name}` in\n{}", scratch.explain()))
    };
    for (bytes, files) in [(2 * 8 * 256 * KIB, "8"), (2 * 6 * 256 * KIB + 5, "6"), (64 << 20, "128")] {
        let scratch = Scratch::with_capacity(&folders, bytes).unwrap();
        recovered(&scratch);
        assert_eq!(get(&scratch, hash).unwrap(), b"kept");
        assert_eq!(value(&scratch, "file_size"), "256 KiB");
        assert_eq!((value(&scratch, "files_per_folder").as_str(), value(&scratch, "lanes").as_str()), (files, "4"));
        let made = scratch.explain().iter().filter(|line| line.2 == "as the store was made").map(|line| line.0);
        assert_eq!(made.collect::<Vec<_>>(), ["file_size", "lanes"]);
        let printed = scratch.explain().to_string();
        assert!(scratch.explain().iter().all(|(name, value, why)| {
            !why.is_empty() && printed.lines().any(|line| line.contains(name) && line.contains(value))
        }));
    }
    // Two lanes a folder need six files: five are too few, and both numbers are named.
    let before = tree(root.path());
    let error = Scratch::with_capacity(&folders, 2 * 5 * 256 * KIB).unwrap_err();
    let OpenError::Config(ConfigError { value, range, .. }) = &error else { panic!("{error}") };
    assert!(value.contains('5') && value.contains("2 lanes") && range.contains('3'), "{error}");
    let error = Scratch::with_capacity(&folders, 2 * 2 * 256 * KIB).unwrap_err();
    let OpenError::Config(ConfigError { value, range, .. }) = &error else { panic!("{error}") };
    assert!(value.contains(&(4 * 256 * KIB).to_string()) && range.contains("3 "), "{error}");
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_temporary_store_leaves_nothing_and_takes_over_nothing() {
    let root = test_folder();
    let builder = disk(root.path(), 3);
    let temporary = || Scratch::builder(builder.clone().build().unwrap()).temporary();
    let scratch = temporary().open().unwrap();
    for number in 0..60 {
        scratch.put(REALM, &block(number, 5000)).unwrap();
    }
    assert_eq!(store_files(root.path()), [] as [PathBuf; 0], "files without names");
    assert_eq!(get(&scratch, BlockHash::of(&block(59, 5000))), Some(block(59, 5000)));
    assert!(scratch.stats().turns > 0);
    drop(scratch);
    assert_eq!(temporary().open().unwrap().len(), 0);

    let hash = open(&builder).put(REALM, b"of a store that stays").unwrap();
    let before = tree(root.path());
    match temporary().open().unwrap_err() {
        OpenError::Config(error) => assert_eq!(error.field, "temporary"),
        other => panic!("{other}"),
    }
    assert_eq!(tree(root.path()), before);
    let scratch = open(&builder);
    recovered(&scratch);
    assert_eq!(get(&scratch, hash).unwrap(), b"of a store that stays");
    drop(scratch);
    temporary().reset().open().unwrap().put(REALM, b"short-lived").unwrap();
    assert_eq!(store_files(root.path()), [] as [PathBuf; 0]);
}

/// A temporary store looked for blocks in the last page of a file only, which is the directory of its first 64 slots. If
/// the writes of all of those had failed, it deleted what was flushed after them; and any file without a header.
#[test]
fn a_temporary_store_is_refused_over_a_block_in_any_slot_and_over_a_file_without_a_header() {
    for failed in [64, 0, 63, 700] {
        for has_header in [true, false] {
            let root = test_folder();
            let builder = disk(root.path(), 3);
            let scratch = open(&builder);
            for number in 0..failed {
                // It is no block of that hash, so that its slot stays empty.
                scratch.write(REALM, name(number), 0, |_| ()).unwrap();
            }
            assert_eq!(scratch.flush().is_err(), failed > 0);
            scratch.put_named(REALM, name(1), b"").unwrap();
            scratch.flush().unwrap();
            drop(scratch);
            let [path] = &store_files(root.path())[..] else { panic!("it has one file") };
            if !has_header {
                flip(path, 60);
            }
            let before = tree(root.path());
            match Scratch::builder(builder.clone().build().unwrap()).temporary().open() {
                Err(OpenError::Config(error)) => assert_eq!(error.field, "temporary"),
                other => panic!("after {failed} failed writes, with a header: {has_header}: {other:?}"),
            }
            assert_eq!(tree(root.path()), before);
            if has_header {
                let scratch = open(&builder);
                recovered(&scratch);
                assert_eq!(get(&scratch, name(1)).as_deref(), Some(&b""[..]));
            }
        }
    }
}

/// What a killed temporary store has left holds nothing, whether its files have headers or not.
#[test]
fn a_temporary_store_takes_over_files_that_were_never_written() {
    for has_header in [true, false] {
        let root = test_folder();
        let builder = disk(root.path(), 3);
        drop(open(&builder));
        let [path] = &store_files(root.path())[..] else { panic!("it has one file") };
        if !has_header {
            flip(path, 60);
        }
        let scratch = Scratch::builder(builder.clone().build().unwrap()).temporary().open().unwrap();
        assert!(scratch.is_empty() && !path.exists());
    }
}

const CHILD: &str = "SCRATCHSPACE_RESTART_CHILD";
/// Room for all that two children write: nothing has to make room for the second one, whatever it finds in time.
const FILES_OF_A_CHILD: u16 = 8;

/// Not a test of its own: what the children of the tests below do.
#[test]
fn child() {
    let Some(task) = std::env::var_os(CHILD) else { return };
    let task = task.into_string().unwrap();
    let (kind, folder) = task.split_once(':').unwrap();
    let builder =
        Scratch::builder(disk(Path::new(folder), FILES_OF_A_CHILD).build().unwrap()).gather(0, Duration::ZERO);
    let builder = if kind == "lasting" { builder } else { builder.temporary() };
    let scratch = builder.open().unwrap();
    for number in 0..20 {
        scratch.put(REALM, &block(number, 5000)).unwrap();
    }
    if kind == "creating" {
        drop(scratch);
        println!("\nready");
        create_until_killed(Path::new(folder));
    }
    scratch.put_named(REALM, name(1), b"old").unwrap();
    scratch.put_named(REALM, name(1), b"new").unwrap();
    scratch.remove(REALM, BlockHash::of(&block(3, 5000))).unwrap();
    // Where each file has a name at first, a kill must not come while one is created: the last that is needed is there.
    while scratch.stats().files < 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("\nready");
    std::thread::sleep(PATIENCE);
}

/// One temporary store after the other, each of which does little but create its files.
fn create_until_killed(folder: &Path) -> ! {
    loop {
        let builder = Scratch::builder(disk(folder, 32).build().unwrap()).gather(0, Duration::ZERO);
        let scratch = builder.temporary().open().unwrap();
        for number in 0..32 {
            scratch.put(REALM, &block(number, 50_000)).unwrap();
        }
    }
}

/// Runs the child on a folder until it is ready, and kills it.
fn kill_a_child(kind: &str, folder: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, format!("{kind}:{}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "the child ended early");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nothing_of_a_temporary_store_survives_the_kill_of_its_process() {
    let root = test_folder();
    kill_a_child("temporary", root.path());
    assert_eq!(store_files(root.path()), [] as [PathBuf; 0]);
    let left: u64 = tree(root.path()).values().map(|(bytes, _)| bytes.len() as u64).sum();
    assert!(left < 4 * KIB, "{left} bytes are left");
    assert_eq!(recovered(&open(&disk(root.path(), FILES_OF_A_CHILD))), RecoveryReport::default());
}

/// A temporary store created its files under a name and deleted it: a kill between the two left a file of full size.
#[test]
#[cfg(target_os = "linux")]
fn a_temporary_store_that_is_killed_while_it_creates_files_leaves_none() {
    use std::os::unix::fs::OpenOptionsExt;

    let root = test_folder();
    let unnamed = fs::OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(root.path());
    if let Err(error) = unnamed {
        skipped(&format!("kills of a temporary store: this file system has no O_TMPFILE ({error})"));
        return;
    }
    for kill in 0..6 {
        kill_a_child("creating", root.path());
        let left: Vec<_> = tree(root.path()).into_keys().collect();
        assert_eq!(left, [root.path().join("scratchspace.lock")], "kill {kill}");
    }
}

#[test]
fn without_gathering_every_block_survives_the_kill_of_its_process() {
    let root = test_folder();
    for _ in 0..2 {
        kill_a_child("lasting", root.path());
    }
    let scratch = open(&disk(root.path(), FILES_OF_A_CHILD));
    recovered(&scratch);
    for number in 0..20 {
        assert_eq!(get(&scratch, BlockHash::of(&block(number, 5000))), (number != 3).then(|| block(number, 5000)));
    }
    assert_eq!(get(&scratch, name(1)).unwrap(), b"new");
}

/// A bit of a header had flipped. The file counted as torn while it made room, and as empty: its blocks were gone, what
/// it had removed was back, and the store was healthy.
#[test]
fn a_file_whose_header_is_damaged_costs_its_own_blocks_and_removals_and_is_told() {
    // Fourteen blocks fill a file; the third one holds the removal of a block in the first.
    let (blocks, removed) = (36, 3);
    for damaged in 1..=3 {
        let root = test_folder();
        let builder = disk(root.path(), 4);
        let scratch = open(&builder);
        let put = |at| scratch.put_named(REALM, name(at), &block(at, 4000)).unwrap();
        (0..blocks).for_each(put);
        scratch.remove(REALM, name(removed)).unwrap();
        scratch.flush().unwrap();
        let place = |at| scratch.info(REALM, name(at)).missing_ok().unwrap().map(|info| info.file.get());
        let places: Vec<_> = (0..blocks).map(place).collect();
        assert_eq!((places[0], places[15], places[35]), (Some(1), Some(2), Some(3)));
        drop(scratch);

        let path = store_files(root.path()).remove(damaged - 1);
        flip(&path, 60);
        let (tell, events) = channel();
        let source = builder.clone().build().unwrap();
        let scratch = Scratch::builder(source).on_event(move |event| drop(tell.send(event.clone()))).open().unwrap();
        assert_eq!(recovered(&scratch).files_damaged, 1);
        for (at, place) in (0..).zip(&places) {
            let is_back = at == removed && damaged == 3;
            let is_there = is_back || place.is_some_and(|file| usize::from(file) != damaged);
            assert_eq!(get(&scratch, name(at)), is_there.then(|| block(at, 4000)), "file {damaged}, block {at}");
        }
        for number in 100..160 {
            scratch.put(REALM, &block(number, 8000)).unwrap();
            assert_eq!(get(&scratch, BlockHash::of(&block(number, 8000))), Some(block(number, 8000)));
        }
        drop(scratch);
        let told: Vec<_> = events.into_iter().filter(|event| matches!(event, Event::FileLost { .. })).collect();
        let [Event::FileLost { file, error }] = &told[..] else { panic!("{told:?}") };
        assert_eq!(usize::from(file.get()), damaged);
        assert_eq!(error.path().unwrap().file_name(), path.file_name());
        assert!(error.to_string().contains("its header does not check"), "{error}");
        // It has a header again, and is told no more.
        assert_eq!(recovered(&open(&builder)).files_damaged, 0);
    }
}

/// A smaller layout drops files without a header first: what was in such a one was gone, and nobody was told.
#[test]
fn a_file_without_a_header_is_told_also_if_a_smaller_layout_drops_it() {
    let root = test_folder();
    let scratch = open(&disk(root.path(), 5));
    for at in 0..70 {
        scratch.put(REALM, &block(at, 4000)).unwrap();
    }
    scratch.flush().unwrap();
    drop(scratch);
    flip(&store_files(root.path())[1], 507);
    let (tell, events) = channel();
    let source = disk(root.path(), 4).build().unwrap();
    let scratch = Scratch::builder(source).on_event(move |event| drop(tell.send(event.clone()))).open().unwrap();
    let report = recovered(&scratch);
    assert_eq!((report.files_dropped, report.files_damaged), (1, 1));
    drop(scratch);
    let mut told = events.into_iter().filter(|event| matches!(event, Event::FileLost { file, .. } if file.get() == 2));
    assert!(told.next().is_some() && told.next().is_none());
}

#[test]
fn files_of_others_are_refused_by_name_or_left_alone() {
    let root = test_folder();
    let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs"));
    let hash = open(&disk(&ours, 4)).put(REALM, b"ours").unwrap();
    open(&disk(&theirs, 4)).put(REALM, b"theirs").unwrap();

    // What has nothing to do with a store is left alone, also by a reset.
    for (name, bytes) in [("notes.txt", "mine"), ("0001.scratch", "no store id"), ("x.tmp", "half")] {
        fs::write(ours.join(name), bytes).unwrap();
    }
    fs::create_dir(ours.join("folder")).unwrap();
    fs::write(ours.join("folder/file"), "deep").unwrap();
    let foreign = |folder: &Path| {
        ["notes.txt", "0001.scratch", "x.tmp", "folder/file"].map(|name| fs::read_to_string(folder.join(name)).unwrap())
    };
    let scratch = open(&disk(&ours, 4));
    recovered(&scratch);
    assert_eq!(get(&scratch, hash).unwrap(), b"ours");
    drop(scratch);
    assert_eq!(foreign(&ours), ["mine", "no store id", "half", "deep"]);

    // A file of another store, under its own name and under one of ours.
    let theirs_file = store_files(&theirs).remove(0);
    let ours_file = store_files(&ours).into_iter().find(|path| path.file_name().unwrap().len() > 20).unwrap();
    let second = PathBuf::from(ours_file.to_str().unwrap().replace("-0001.", "-0002."));
    for (copy, why) in [(ours.join(theirs_file.file_name().unwrap()), "store"), (second.clone(), "store")] {
        let kept = fs::read(&copy).ok();
        fs::copy(&theirs_file, &copy).unwrap();
        let before = tree(&ours);
        let error = disk(&ours, 4).build().and_then(Scratch::open).unwrap_err();
        match &error {
            OpenError::Foreign { path, reason } => {
                assert_eq!(path.file_name(), copy.file_name());
                assert!(reason.contains(why), "{reason}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(tree(&ours), before);
        match kept {
            Some(bytes) => fs::write(&copy, bytes).unwrap(),
            None => fs::remove_file(&copy).unwrap(),
        }
    }
    // A file of ours under another number of ours.
    fs::copy(&ours_file, &second).unwrap();
    let before = tree(&ours);
    match disk(&ours, 4).build().and_then(Scratch::open).unwrap_err() {
        OpenError::Foreign { path, .. } => assert_eq!(path.file_name(), second.file_name()),
        other => panic!("{other}"),
    }
    assert_eq!(tree(&ours), before);
    fs::remove_file(&second).unwrap();

    Scratch::builder(disk(&ours, 4).build().unwrap()).reset().open().unwrap();
    assert_eq!(foreign(&ours), ["mine", "no store id", "half", "deep"]);
}

#[test]
fn every_refused_option_is_named_with_its_value_and_its_range() {
    let source = || MemoryFileSource::builder().files_per_folder(7).file_size(64 * KIB).build().unwrap();
    let builder = || Scratch::builder(source());
    let seconds = Duration::from_secs;
    let none = Duration::ZERO;
    for (builder, field, value, range) in [
        (builder().gather(1, none), "gather bytes", "1", "65536 to 16777216"),
        (builder().gather((16 << 20) + 1, none), "gather bytes", "16777217", "65536 to 16777216"),
        (builder().gather(64 << 10, seconds(11)), "gather delay", "11s", "at most 10s"),
        (builder().max_staging_bytes(4095), "max_staging_bytes", "4095", "at least 4096"),
        (builder().max_index_bytes(131_071), "max_index_bytes", "131071", "at least 131072"),
        (builder().expected_blocks(0), "expected_blocks", "0", "1 to 100663296"),
        (builder().expected_blocks(u64::MAX), "expected_blocks", "18446744073709551615", "1 to 100663296"),
        (builder().lanes_per_folder(0), "lanes_per_folder", "0 with `files_per_folder` 7", "1 to 2"),
        (builder().lanes_per_folder(3), "lanes_per_folder", "3 with `files_per_folder` 7", "1 to 2"),
    ] {
        match builder.open().unwrap_err() {
            OpenError::Config(error) => {
                assert_eq!((error.field, error.value.as_str()), (field, value));
                assert!(error.range.contains(range), "{error}");
                let text = error.to_string();
                assert!([field, value, range].iter().all(|part| text.contains(part)), "{text}");
            }
            other => panic!("{other}"),
        }
    }
    builder().gather(0, none).max_staging_bytes(4096).expected_blocks(1).lanes_per_folder(2).open().unwrap();
    let root = test_folder();
    let folder = root.path().join("new");
    let refused = |folders: &[&Path], bytes| match Scratch::with_capacity(folders, bytes).unwrap_err() {
        OpenError::Config(error) => error,
        other => panic!("{other}"),
    };
    for (bytes, least) in [(0, "36864"), (36863, "36864"), (u64::MAX, "51539607552")] {
        let error = refused(&[&folder], bytes);
        assert_eq!(error.field, "capacity");
        assert!(error.value.starts_with(&format!("{bytes} bytes with `folders` 1")), "{error}");
        assert!(error.range.contains(least) && error.range.contains("3 "), "{error}");
    }
    for bytes in [0, 1 << 30] {
        assert_eq!(refused(&[], bytes), ConfigError::new("folders", 0, "1 to 341"));
    }
    assert!(!folder.exists());
}

/// A source that says of itself what no source of this crate says.
#[derive(Debug)]
struct Odd {
    source: MemoryFileSource,
    folders: u16,
    files: u16,
}

impl FileSource for Odd {
    fn store_id(&self) -> StoreId {
        self.source.store_id()
    }

    fn file_size(&self) -> FileSize {
        self.source.file_size()
    }

    fn folders(&self) -> u16 {
        self.folders
    }

    fn files_per_folder(&self) -> u16 {
        self.files
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        self.source.describe(file)
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        self.source.scan()
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        self.source.create(file, header)
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.source.delete(file)
    }
}

/// A source of somebody else's with no folder divided by zero, one with too many files overflowed.
#[test]
fn a_source_with_impossible_numbers_is_refused_by_the_name_of_each() {
    for (folders, files, field) in
        [(0, 4, "folders"), (u16::MAX, 4, "folders"), (1, 2, "files_per_folder"), (300, 300, "files_per_folder")]
    {
        let source = MemoryFileSource::builder().build().unwrap();
        match Scratch::open(Odd { source, folders, files }) {
            Err(OpenError::Config(error)) => assert_eq!(error.field, field, "{error}"),
            other => panic!("{folders} folders of {files} files: {other:?}"),
        }
    }
}
