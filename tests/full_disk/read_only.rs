//! A file system that turns read-only below a store: by an error of its own, or by whoever mounts it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use scratchspace::{HealthState, IoError, Scratch, WriteError};

use crate::device::{Kind, here, on_each, run};
use crate::skipped::skipped;
use crate::store::{REALM, block, folder, hash, open, read, until_ok};

/// Blocks that are there before: two files, and a part of the third.
const NUMBERS: u64 = 45;
/// Bound of a call; only a defect reaches it.
const HANGS: Duration = Duration::from_secs(30);

fn names_the_folder(error: &IoError, place: &Path) {
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{error}");
    assert!(error.path().is_some_and(|path| path.starts_with(folder(place))), "{error}");
}

fn filled(place: &Path) -> Scratch {
    let scratch = open(place, 6).unwrap();
    for number in 0..NUMBERS {
        scratch.put(REALM, &block(number)).unwrap();
    }
    scratch.flush().unwrap();
    scratch
}

/// Writes until the lane is broken; each call ends, with an error that says why. How many were stored.
fn write_until_broken(scratch: &Scratch, place: &Path) -> u64 {
    let mut stored = 0;
    let mut refused = 0;
    let began = Instant::now();
    while refused < 5 || scratch.health().broken().next().is_none() {
        assert!(began.elapsed() < 2 * HANGS, "{}", scratch.health());
        let before = Instant::now();
        match scratch.put(REALM, &block(1000 + stored)) {
            Ok(_) => stored += 1,
            Err(WriteError::Io(error)) => {
                names_the_folder(&error, place);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(before.elapsed() < HANGS);
    }
    let health = scratch.health();
    assert_eq!(health.state, HealthState::Failed, "the only lane: {health}");
    names_the_folder(&health.broken().next().unwrap().2.error, place);
    stored
}

fn assert_all_read(scratch: &Scratch, stored: u64) {
    for number in (0..NUMBERS).chain(1000..1000 + stored) {
        read(scratch, number).unwrap_or_else(|error| panic!("block {number}: {error}"));
        assert!(scratch.get(REALM, hash(number)).is_ok());
    }
}

/// What ext4 does by itself with `errors=remount-ro`. Newer kernels leave that state by a new mount only, which a store
/// that holds its files open prevents: it is taken back by the next opening.
#[test]
fn a_file_system_that_gives_up_writing_fails_writes_and_loses_nothing() {
    const NAME: &str = "read_only::a_file_system_that_gives_up_writing_fails_writes_and_loses_nothing";
    if let Some((place, _, step)) = here() {
        if step == "found" {
            let scratch = open(&place, 6).unwrap();
            assert_all_read(&scratch, 0);
            for number in 2000..2150 {
                scratch.put(REALM, &block(number)).unwrap();
            }
            return scratch.flush().unwrap();
        }
        return gives_up(&place, Path::new(&step));
    }
    on_each(NAME, &[Kind::Ext4], |mut device, test| {
        let place = device.place();
        let place = place.to_str().unwrap();
        run(&["mount", "-o", "remount,errors=remount-ro", place]).unwrap();
        let source = run(&["findmnt", "-no", "SOURCE", place]).unwrap();
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", source.trim_start_matches("/dev/"));
        if !Path::new(&trigger).exists() {
            return skipped(&format!("{NAME}: there is no {trigger}"));
        }
        device.child(test, &trigger);
        device.unmount();
        // It says 1 if it has mended something.
        let _ = run(&["e2fsck", "-fy", device.image().to_str().unwrap()]);
        device.mount().unwrap();
        device.child(test, "found");
    });
}

fn gives_up(place: &Path, trigger: &Path) {
    let scratch = filled(place);
    fs::write(trigger, "as the test asks").unwrap();
    assert_eq!(fs::write(place.join("probe"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    let stored = write_until_broken(&scratch, place);
    assert_eq!(stored, 0);
    let error = scratch.remove(REALM, hash(0)).unwrap_err();
    let WriteError::Io(error) = error else { panic!("{error}") };
    names_the_folder(&error, place);
    // What failed to be stored makes its file dirty, and the sync fails: said once.
    if let Err(error) = scratch.flush() {
        names_the_folder(&error.io.expect("an error of the disk"), place);
    }
    scratch.flush().unwrap();
    assert_all_read(&scratch, 0);
    let began = Instant::now();
    scratch.close(HANGS);
    assert!(began.elapsed() < HANGS, "it closes like any other");
}

/// The folder is mounted read-only over itself: files that are open take stores, and no file is made or removed.
#[test]
fn a_folder_that_is_mounted_read_only_is_taken_back_when_it_is_not() {
    const NAME: &str = "read_only::a_folder_that_is_mounted_read_only_is_taken_back_when_it_is_not";
    let Some((place, ..)) = here() else {
        return on_each(NAME, &[Kind::Tmpfs, Kind::Ext4], |device, test| device.child(test, "all"));
    };
    let scratch = filled(&place);
    let store = folder(&place);
    let store = store.to_str().unwrap();
    // Nobody makes a file system read-only to which a store writes.
    run(&["mount", "-o", "remount,ro", place.to_str().unwrap()]).unwrap_err();
    run(&["mount", "--bind", store, store]).unwrap();
    run(&["mount", "-o", "remount,bind,ro", store]).unwrap();
    let stored = write_until_broken(&scratch, &place);
    assert_all_read(&scratch, stored);
    scratch.flush().unwrap();
    run(&["umount", store]).unwrap();
    for number in 2000..2150 {
        until_ok("the folder is back", || scratch.put(REALM, &block(number)));
        read(&scratch, number).unwrap();
    }
    scratch.flush().unwrap();
    assert_eq!(scratch.health().state, HealthState::Healthy, "{}", scratch.health());
}
