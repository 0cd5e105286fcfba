//! What survives `kill -9`: a process of its own writes, says what it has written, and is killed.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use scratchspace::{DiskFileSource, Scratch, ScratchBuilder};

use crate::place::{REALM, bytes_of, key, write_later};
use crate::process;

const HOW: &str = "SCRATCHSPACE_KILL_HOW";
const WHERE: &str = "SCRATCHSPACE_KILL_WHERE";
/// Longer than any of these processes lives.
const NEVER: Duration = Duration::from_secs(10);

fn builder(folder: &Path) -> ScratchBuilder {
    Scratch::builder(DiskFileSource::builder().folder(folder).files_per_folder(16).file_size(1 << 20).build().unwrap())
}

fn block(number: usize) -> Vec<u8> {
    bytes_of(number, number * 397 % 9000)
}

/// The process that is killed: it writes block after block, and tells each number once it may rely on it.
#[test]
fn writes_until_it_is_killed() {
    let (Ok(how), Some(folder)) = (std::env::var(HOW), std::env::var_os(WHERE)) else { return };
    let folder = Path::new(&folder);
    // Past the test harness, which captures what is printed; a line is one write to the pipe.
    let tell = |number: usize| std::io::stdout().lock().write_all(format!("\nwritten {number}\n").as_bytes()).unwrap();
    if how == "at once" {
        let scratch = builder(folder).gather(0, Duration::ZERO).open().unwrap();
        for number in 0..300 {
            scratch.put(REALM, &block(number)).unwrap();
            scratch.put_named(REALM, key("newest"), &number.to_le_bytes()).unwrap();
            tell(number);
        }
    } else {
        let scratch = builder(folder).gather(1 << 20, NEVER).open().unwrap();
        for number in 0..300 {
            if number % 2 == 0 {
                scratch.put(REALM, &block(number)).unwrap();
            } else {
                write_later(&scratch, block(number)).unwrap();
            }
            scratch.write_named(REALM, key("newest"), 8, move |to| to.copy_from_slice(&number.to_le_bytes())).unwrap();
            if number % 10 == 9 {
                scratch.flush().unwrap();
                tell(number);
            }
        }
    }
    std::thread::sleep(Duration::from_mins(1));
}

/// Runs that process until it has told `number`, kills it, and gives the last number it told.
fn kill_after(number: usize, how: &str, folder: &Path) -> usize {
    let mut process = process::of_test("kill::writes_until_it_is_killed")
        .env(HOW, how)
        .env(WHERE, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut told = lines.filter_map(|line| line.strip_prefix("written ")?.parse::<usize>().ok());
    let reached = told.find(|told| *told >= number).expect("it writes that many");
    // SIGKILL on Unix: nothing of the process runs any more.
    process.kill().unwrap();
    process.wait().unwrap();
    // What it told before it was killed, and nobody had read yet.
    told.last().unwrap_or(reached)
}

fn assert_survived(scratch: &Scratch, last: usize) {
    scratch.wait_recovered(Duration::from_mins(1)).unwrap();
    for number in 0..=last {
        let hash = scratchspace::BlockHash::of(&block(number));
        assert_eq!(scratch.read(REALM, hash, <[u8]>::to_vec), Ok(block(number)), "block {number} of {last}");
    }
    let newest = scratch.read(REALM, key("newest"), |bytes| usize::from_le_bytes(bytes.try_into().unwrap()));
    assert!(newest.as_ref().is_ok_and(|newest| *newest >= last), "{newest:?} after {last}");
}

#[test]
fn without_gathering_every_block_whose_put_returned_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    for number in [3, 60, 120] {
        let last = kill_after(number, "at once", folder.path());
        let scratch = builder(folder.path()).open().unwrap();
        assert_survived(&scratch, last);
        assert_eq!(scratch.stats().corrupted, 0);
    }
}

#[test]
fn what_was_flushed_survives_a_kill_deferred_blocks_too() {
    for number in [9, 79] {
        let folder = tempfile::tempdir().unwrap();
        let last = kill_after(number, "flushed", folder.path());
        assert_survived(&builder(folder.path()).open().unwrap(), last);
    }
}
