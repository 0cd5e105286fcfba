//! What the tests of processes share.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use scratchspace::{DiskFileSource, DiskFileSourceBuilder, Realm, Scratch};
use tempfile::TempDir;

pub(crate) const REALM: Realm = Realm::DEFAULT;
/// Nothing here takes longer unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_mins(1);
/// Set in a process that `of_test` has made, to the folder that it works in.
const ALONE: &str = "SCRATCHSPACE_ALONE_IN";

/// Below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
pub(crate) fn test_folder() -> TempDir {
    match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root).unwrap(),
        None => TempDir::new().unwrap(),
    }
}

/// Four files of 256 KiB.
pub(crate) fn disk(folder: &Path) -> DiskFileSourceBuilder {
    DiskFileSource::builder().folder(folder).files_per_folder(4).file_size(256 << 10)
}

pub(crate) fn open(folder: &Path) -> Scratch {
    let scratch = Scratch::open(disk(folder).build().unwrap()).unwrap();
    scratch.wait_recovered(BOUND).unwrap();
    scratch
}

/// Another block for each number.
pub(crate) fn block(number: usize, len: usize) -> Vec<u8> {
    (number + 1).to_le_bytes().into_iter().cycle().take(len).collect()
}

/// Waits for something that happens without any further call.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < BOUND, "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `act` on a thread of its own; it must not hang and not panic.
pub(crate) fn without_hanging<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = channel();
    let thread = thread::spawn(move || done.send(act()).ok());
    let result = finished.recv_timeout(BOUND).expect("it neither hangs nor panics");
    thread.join().unwrap();
    result
}

/// The folder of a process that runs one test alone. Such a test does nothing among the others.
pub(crate) fn alone_in() -> Option<std::path::PathBuf> {
    std::env::var_os(ALONE).map(Into::into)
}

/// A process that runs one test of this binary alone, and prints what that prints.
pub(crate) fn of_test(name: &str, folder: &Path) -> Command {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", name, "--nocapture"]).env(ALONE, folder);
    process
}
