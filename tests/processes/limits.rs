//! Limits of a process: how large its files may be, and how many it may have open.
#![expect(unsafe_code, reason = "a signal is ignored")]

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scratchspace::{BlockHash, HealthState, OpenError, Scratch, WriteError};

use crate::place::{REALM, alone_in, block, disk, of_test, open, test_folder};
use crate::waiting::until;

const FILE_SIZE: u64 = 256 << 10;

/// Sets a limit that this process may raise again.
fn limit(what: Resource, current: Option<u64>) {
    let maximum = getrlimit(what).maximum;
    setrlimit(what, Rlimit { current: current.or(maximum), maximum }).unwrap();
}

fn succeeds(mut process: Command) {
    let output = process.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{:?}: {said}", output.status);
}

fn put(scratch: &Scratch, number: usize) -> Result<BlockHash, WriteError> {
    scratch.put(REALM, &block(number, 9000))
}

/// Puts until a file is needed that cannot be had; how many blocks were put, and the error.
fn put_until_refused(scratch: &Scratch) -> (usize, scratchspace::IoError) {
    for number in 1..200 {
        match put(scratch, number) {
            Ok(_) => {}
            Err(WriteError::Io(error)) => return (number, error),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing was refused");
}

fn assert_read(scratch: &Scratch, count: usize) {
    for number in 0..count {
        let bytes = block(number, 9000);
        let read = scratch.get(REALM, BlockHash::of(&bytes));
        assert!(read.is_ok_and(|read| read[..] == bytes[..]), "block {number}");
    }
}

fn assert_heals(scratch: &Scratch, from: usize) {
    until("a write succeeds", || put(scratch, from).is_ok());
    for number in from..from + 20 {
        put(scratch, number).unwrap();
    }
    scratch.flush().unwrap();
    until("the lane is healed", || scratch.health().broken().count() == 0);
}

/// A file larger than the limit was allocated, and SIGXFSZ ended the process without a word.
#[test]
fn files_above_the_limit_of_their_size_are_refused_by_its_name() {
    let Some(folder) = alone_in() else {
        let folder = test_folder();
        let name = "limits::files_above_the_limit_of_their_size_are_refused_by_its_name";
        return succeeds(of_test(name, &folder.path().join("store")));
    };
    limit(Resource::Fsize, Some(FILE_SIZE - 1));
    let Err(OpenError::Config(error)) = disk(&folder).build() else { panic!("it is not refused") };
    assert_eq!((error.field, error.value), ("file_size", FILE_SIZE.to_string()));
    assert_eq!(error.range, "at most 262143, the limit on the size of files (RLIMIT_FSIZE)");
    // At the limit there is room for all of a file.
    limit(Resource::Fsize, Some(FILE_SIZE));
    let source = disk(&folder).build().unwrap();
    limit(Resource::Fsize, Some(FILE_SIZE - 1));
    let Err(OpenError::Io(error)) = Scratch::open(source) else { panic!("it is not refused") };
    assert!(error.kind() == ErrorKind::FileTooLarge && error.to_string().contains("RLIMIT_FSIZE"), "{error}");
    limit(Resource::Fsize, Some(FILE_SIZE));
    let scratch = open(&folder);
    for number in 0..100 {
        put(&scratch, number).unwrap();
    }
    scratch.flush().unwrap();
}

/// A file that somebody else had cut short was given its length back beyond the limit, and SIGXFSZ ended the process.
#[test]
fn a_file_that_was_cut_short_is_not_mended_beyond_the_limit() {
    let Some(folder) = alone_in() else {
        let folder = test_folder();
        let name = "limits::a_file_that_was_cut_short_is_not_mended_beyond_the_limit";
        return succeeds(of_test(name, folder.path()));
    };
    let scratch = open(&folder);
    for number in 0..40 {
        put(&scratch, number).unwrap();
    }
    drop(scratch);
    let is_first = |path: &std::path::PathBuf| path.to_string_lossy().ends_with("-0001.scratch");
    let path = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).find(is_first).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_len(FILE_SIZE / 2).unwrap();
    let source = disk(&folder).build().unwrap();
    limit(Resource::Fsize, Some(FILE_SIZE - 1));
    let Err(OpenError::Io(error)) = Scratch::open(source) else { panic!("it is not refused") };
    assert!(error.kind() == ErrorKind::FileTooLarge && error.to_string().contains("RLIMIT_FSIZE"), "{error}");
    assert_eq!(error.path().unwrap().metadata().unwrap().len(), FILE_SIZE / 2);
    limit(Resource::Fsize, Some(FILE_SIZE));
    let scratch = open(&folder);
    assert_eq!(scratch.wait_recovered(Duration::from_mins(1)).unwrap().files_damaged, 1);
    assert_heals(&scratch, 300);
}

/// Whoever lowers the limit below the files of an open store has to ignore the signal.
#[test]
fn a_limit_that_is_lowered_while_a_store_is_open_fails_its_writes_and_costs_nothing() {
    let Some(folder) = alone_in() else {
        let folder = test_folder();
        let name = "limits::a_limit_that_is_lowered_while_a_store_is_open_fails_its_writes_and_costs_nothing";
        return succeeds(of_test(name, folder.path()));
    };
    // SAFETY: no handler is set, and nothing else in this process looks at the signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let source = disk(&folder).build().unwrap();
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap();
    put(&scratch, 0).unwrap();
    scratch.flush().unwrap();
    limit(Resource::Fsize, Some(4096));
    // The first one meets the file that is there, those that follow a file that is not made.
    for number in 1..5 {
        let error = match put(&scratch, number) {
            Err(WriteError::Io(error)) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{error}");
        assert!(error.path().is_some_and(|path| path.starts_with(&folder)), "{error}");
    }
    assert_read(&scratch, 1);
    limit(Resource::Fsize, None);
    assert_heals(&scratch, 300);
    assert_read(&scratch, 1);
}

#[test]
fn files_that_the_limit_on_open_files_has_no_room_for_are_refused_by_its_name() {
    let Some(folder) = alone_in() else {
        let folder = test_folder();
        let name = "limits::files_that_the_limit_on_open_files_has_no_room_for_are_refused_by_its_name";
        return succeeds(of_test(name, folder.path()));
    };
    limit(Resource::Nofile, Some(67));
    let Err(OpenError::Config(error)) = Scratch::open(disk(&folder).build().unwrap()) else { panic!("not refused") };
    assert_eq!((error.field, error.value.as_str()), ("files_per_folder", "4 in 1 folders"));
    assert!(error.range.contains("limit of 67 open files, 68 are needed (RLIMIT_NOFILE, `ulimit -n`)"), "{error}");
    limit(Resource::Nofile, Some(68));
    put(&open(&folder), 0).unwrap();
}

#[test]
fn a_lane_without_descriptors_for_its_next_file_says_so_and_goes_on_when_there_are_some() {
    let Some(folder) = alone_in() else {
        let folder = test_folder();
        let name = "limits::a_lane_without_descriptors_for_its_next_file_says_so_and_goes_on_when_there_are_some";
        return succeeds(of_test(name, folder.path()));
    };
    let scratch = open(&folder);
    put(&scratch, 0).unwrap();
    // The lowest number that is free is beyond the limit.
    let free = std::os::fd::AsRawFd::as_raw_fd(&std::fs::File::open(&folder).unwrap());
    limit(Resource::Nofile, Some(u64::try_from(free).unwrap()));
    let (count, error) = put_until_refused(&scratch);
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    assert!(error.to_string().contains("RLIMIT_NOFILE") && error.to_string().contains("`ulimit -n`"), "{error}");
    assert!(error.path().is_some_and(|path| path.starts_with(&folder)), "{error}");
    until("the lane is broken", || scratch.health().state == HealthState::Failed);
    // What is there is read and made durable without another one.
    assert_read(&scratch, count);
    scratch.flush().unwrap();
    limit(Resource::Nofile, None);
    assert_heals(&scratch, 300);
    assert_read(&scratch, count.min(5));
}
