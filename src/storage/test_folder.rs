//! Where tests keep their files, and what they say if this machine cannot do what they need.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write;

use tempfile::TempDir;

/// A new empty folder, deleted when it is dropped: below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
pub(crate) fn test_folder() -> TempDir {
    let folder = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root),
        None => TempDir::new(),
    };
    folder.expect("tests need a folder that they may write to")
}

/// Says what a test leaves out and why; also in the file that `SCRATCHSPACE_SKIPPED` names, as nobody hears a test that
/// passes.
pub(crate) fn skipped(what: &str) {
    println!("skipped: {what}");
    if let Some(list) = std::env::var_os("SCRATCHSPACE_SKIPPED") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(format!("{what}\n").as_bytes())).expect("a list of what was skipped");
    }
}
