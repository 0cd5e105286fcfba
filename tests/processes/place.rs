//! What the tests of processes share.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use scratchspace::{DiskFileSource, DiskFileSourceBuilder, Realm, Scratch};
use tempfile::TempDir;

use crate::waiting::BOUND;

pub(crate) const REALM: Realm = Realm::DEFAULT;
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
