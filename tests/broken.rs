//! Folders on real disks that go and come back: moved away, replaced, unmounted, read-only.
#![forbid(unsafe_code)]

#[path = "common/skipped.rs"]
mod skipped;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use scratchspace::{BlockHash, DiskFileSource, HealthState, OpenError, ReadError, Realm, Scratch, WriteError};
use tempfile::TempDir;

use crate::skipped::skipped;

const REALM: Realm = Realm::DEFAULT;
/// Bound of everything that a test waits for: only a defect reaches it.
const HANGS: Duration = Duration::from_mins(1);

fn test_folder() -> TempDir {
    let folder = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root),
        None => TempDir::new(),
    };
    folder.expect("tests need a folder that they may write to")
}

fn open(folders: &[PathBuf]) -> Result<Scratch, OpenError> {
    let source = DiskFileSource::builder().folders(folders).files_per_folder(4).file_size(64 << 10).build()?;
    Scratch::builder(source).gather(0, Duration::ZERO).open()
}

fn block(number: u64) -> Vec<u8> {
    let mut bytes = vec![7; 3000];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A store that has forty blocks in two folders; each folder has some.
fn fill(folders: &[PathBuf; 2]) -> Vec<BlockHash> {
    let scratch = open(folders).unwrap();
    let hashes = (0..40).map(|number| scratch.put(REALM, &block(number)).unwrap()).collect();
    scratch.flush().unwrap();
    hashes
}

fn assert_all_there(scratch: &Scratch, hashes: &[BlockHash]) {
    for (number, hash) in (0..).zip(hashes) {
        assert_eq!(scratch.get(REALM, *hash).unwrap()[..], block(number), "block {number}");
    }
}

/// What a store does without its second folder, whose path its errors name; some of `hashes` lie there.
fn assert_works_without(scratch: &Scratch, gone: &Path, hashes: &[BlockHash]) {
    scratch.wait_recovered(HANGS).unwrap();
    assert_eq!(scratch.health().state, HealthState::Degraded, "{}", scratch.health());
    let (mut read, mut refused) = (0, 0);
    for (number, hash) in (0..).zip(hashes) {
        match scratch.get(REALM, *hash) {
            Ok(bytes) => {
                assert_eq!(bytes[..], block(number));
                read += 1;
            }
            Err(ReadError::Io(error)) => {
                assert!(error.path().is_some_and(|path| path.starts_with(gone)), "{error}");
                let written = scratch.put(REALM, &block(number));
                assert!(matches!(written, Err(WriteError::Io(_))), "{written:?}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
    // A list of all that is there says whose folder is missing in it.
    let mut listed = 0;
    match scratch.for_each(REALM, |_| listed += 1) {
        Err(ReadError::Io(error)) => assert!(error.path().is_some_and(|path| path.starts_with(gone)), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(listed, read);
    let health = scratch.health();
    assert!(health.folders.iter().any(|folder| folder.path.as_deref() == Some(gone)), "{health}");
}

fn names_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// Missing, replaced by a file, or an empty mount point: opened without it, and taken back when it is there again.
#[test]
fn a_folder_that_is_away_at_open_is_taken_back_without_opening_again() {
    for way in ["missing", "file", "empty"] {
        let root = test_folder();
        let home = root.path().canonicalize().unwrap();
        let folders = [home.join("one"), home.join("two")];
        let hashes = fill(&folders);
        let away = home.join("away");
        fs::rename(&folders[1], &away).unwrap();
        match way {
            "file" => fs::write(&folders[1], "no folder").unwrap(),
            "empty" => fs::create_dir(&folders[1]).unwrap(),
            _ => {}
        }
        let scratch = open(&folders).unwrap();
        assert_works_without(&scratch, &folders[1], &hashes);
        match way {
            "file" => fs::remove_file(&folders[1]).unwrap(),
            "empty" => {
                assert_eq!(names_in(&folders[1]), 0, "nothing is created where a disk may be mounted");
                fs::remove_dir(&folders[1]).unwrap();
            }
            _ => assert!(!folders[1].exists()),
        }
        fs::rename(&away, &folders[1]).unwrap();
        eventually("the folder is back", || scratch.health().state == HealthState::Healthy);
        assert_all_there(&scratch, &hashes);
        // It is locked again.
        assert!(matches!(open(&folders), Err(OpenError::InUse { .. })), "{way}");
        for number in 100..140 {
            scratch.put(REALM, &block(number)).unwrap();
        }
        drop(scratch);
        let scratch = open(&folders).unwrap();
        scratch.wait_recovered(HANGS).unwrap();
        assert_eq!(scratch.health().state, HealthState::Healthy);
    }
}

/// What is damaged in a folder that comes back is judged as at open, also if no file there has a header: those of the
/// other folders tell the layout.
#[test]
fn files_of_another_length_in_a_folder_that_comes_back_cost_themselves_only() {
    for (len, how_many) in [(0, 9), (0, 1), (8192, 9), (8192, 1), (70_000, 9)] {
        let root = test_folder();
        let home = root.path().canonicalize().unwrap();
        let folders = [home.join("one"), home.join("two")];
        let hashes = fill(&folders);
        let away = home.join("away");
        fs::rename(&folders[1], &away).unwrap();
        let names = fs::read_dir(&away).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = names.filter(|path| path.extension().is_some_and(|kind| kind == "scratch")).collect();
        files.sort();
        files.truncate(how_many);
        for file in &files {
            fs::File::options().write(true).open(file).unwrap().set_len(len).unwrap();
        }
        let scratch = open(&folders).unwrap();
        assert_works_without(&scratch, &folders[1], &hashes);
        fs::rename(&away, &folders[1]).unwrap();
        eventually("the folder is back", || {
            scratch.health().lanes().all(|lane| lane.readable && lane.broken.is_none())
        });
        scratch.wait_recovered(HANGS).unwrap();
        assert_eq!(scratch.recovery().report.files_damaged, files.len() as u64, "{len} bytes");
        let mut missing = 0;
        for (number, hash) in (0..).zip(&hashes) {
            match scratch.get(REALM, *hash) {
                Ok(bytes) => assert_eq!(bytes[..], block(number)),
                Err(error) => {
                    assert!(error.is_missing(), "{error}");
                    missing += 1;
                }
            }
        }
        assert_eq!(missing > 0, len < 65_536, "{len} bytes: {missing} of 40 missing");
        for number in 100..300 {
            let hash = scratch.put(REALM, &block(number)).unwrap();
            assert_eq!(scratch.get(REALM, hash).unwrap()[..], block(number));
        }
        scratch.flush().unwrap();
        assert_eq!(scratch.health().state, HealthState::Healthy, "{}", scratch.health());
    }
}

/// Of two folders that are away nobody knows which is which, until they are back.
#[test]
fn folders_that_come_back_are_told_apart_by_their_records() {
    let root = test_folder();
    let home = root.path().canonicalize().unwrap();
    let folders = ["one", "two", "three"].map(|name| home.join(name));
    let scratch = open(&folders).unwrap();
    let hashes: Vec<_> = (0..30).map(|number| scratch.put(REALM, &block(number)).unwrap()).collect();
    drop(scratch);
    for name in ["two", "three"] {
        fs::rename(home.join(name), home.join(format!("away-{name}"))).unwrap();
    }
    let other_order = [folders[2].clone(), folders[0].clone(), folders[1].clone()];
    let scratch = open(&other_order).unwrap();
    assert_eq!(scratch.health().broken().count(), 2);
    for (left, name) in [(1, "three"), (0, "two")] {
        fs::rename(home.join(format!("away-{name}")), home.join(name)).unwrap();
        eventually("one folder is back", || scratch.health().broken().count() == left);
    }
    eventually("all is found", || scratch.health().state == HealthState::Healthy);
    assert_all_there(&scratch, &hashes);
    let paths: Vec<_> = scratch.health().folders.into_iter().filter_map(|folder| folder.path).collect();
    assert_eq!(paths, folders);
}

#[test]
fn a_folder_of_somebody_else_is_not_taken_back() {
    let root = test_folder();
    let home = root.path().canonicalize().unwrap();
    let folders = [home.join("one"), home.join("two")];
    let hashes = fill(&folders);
    let away = home.join("away");
    fs::rename(&folders[1], &away).unwrap();
    let scratch = open(&folders).unwrap();
    // Another store is made in its place.
    let other = open(&[home.join("three"), folders[1].clone()]).unwrap();
    let before = names_in(&folders[1]);
    drop(other);
    let says_so =
        || scratch.health().broken().any(|(_, _, broken)| broken.error.to_string().contains("does not belong"));
    eventually("it is looked at", says_so);
    assert_eq!((scratch.health().state, names_in(&folders[1])), (HealthState::Degraded, before));
    fs::remove_dir_all(&folders[1]).unwrap();
    fs::rename(&away, &folders[1]).unwrap();
    eventually("the right one is back", || scratch.health().state == HealthState::Healthy);
    assert_all_there(&scratch, &hashes);
}

/// A folder that goes while the store runs: what is mapped is read, new files are an error and are created nowhere else.
#[test]
fn a_folder_that_goes_while_the_store_runs_is_read_and_heals() {
    for is_replaced in [false, true] {
        let root = test_folder();
        let home = root.path().canonicalize().unwrap();
        let folders = [home.join("one"), home.join("two")];
        let scratch = open(&folders).unwrap();
        let hashes: Vec<_> = (0..10).map(|number| scratch.put(REALM, &block(number)).unwrap()).collect();
        let away = home.join("away");
        fs::rename(&folders[1], &away).unwrap();
        if is_replaced {
            fs::create_dir(&folders[1]).unwrap();
        }
        assert_all_there(&scratch, &hashes);
        let mut number = 1000;
        let error = loop {
            match scratch.put(REALM, &block(number)) {
                Err(WriteError::Io(error)) => break error,
                result => drop(result.unwrap()),
            }
            number += 1;
            assert!(number < 3000, "{}", scratch.health());
        };
        assert!(error.path().is_some_and(|path| path.starts_with(&folders[1])), "{error}");
        assert_eq!(scratch.health().broken().count(), 1, "{}", scratch.health());
        if is_replaced {
            assert_eq!(names_in(&folders[1]), 0, "nothing is created in a folder that is not ours");
            fs::remove_dir(&folders[1]).unwrap();
        }
        fs::rename(&away, &folders[1]).unwrap();
        // A file that was not under its name may stay suspect until its turn comes: that is no broken lane.
        eventually("the folder is back", || scratch.health().broken().next().is_none());
        for number in 5000..5040 {
            scratch.put(REALM, &block(number)).unwrap();
        }
    }
}

/// Runs a program; `false` if it is not there or fails.
fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// A small disk, unmounted when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path) -> Option<Self> {
        let path = at.to_str().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", path];
        run("mount", &options).then(|| Self(at.to_path_buf()))
    }

    fn remount(&self, how: &str) {
        assert!(run("mount", &["-o", &format!("remount,{how}"), self.0.to_str().unwrap()]), "remount,{how}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_disk_that_is_read_only_at_open_is_taken_back_once_it_is_not() {
    let root = test_folder();
    let home = root.path().canonicalize().unwrap();
    let folders = [home.join("one"), home.join("disk/two")];
    fs::create_dir(home.join("disk")).unwrap();
    let Some(disk) = Mounted::new(&home.join("disk")) else {
        skipped("a disk that is read-only at open: mounting a tmpfs needs root");
        return;
    };
    let hashes = fill(&folders);
    disk.remount("ro");
    let scratch = open(&folders).unwrap();
    assert_works_without(&scratch, &folders[1], &hashes);
    assert!(scratch.health().to_string().contains("let this process write there"), "{}", scratch.health());
    disk.remount("rw");
    eventually("the disk is back", || scratch.health().state == HealthState::Healthy);
    assert_all_there(&scratch, &hashes);
    drop(scratch);
}
