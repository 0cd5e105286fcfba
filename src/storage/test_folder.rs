//! Where tests keep their files.
#![forbid(unsafe_code)]

use tempfile::TempDir;

/// A new empty folder, deleted when it is dropped: below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
pub(crate) fn test_folder() -> TempDir {
    let folder = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root),
        None => TempDir::new(),
    };
    folder.expect("tests need a folder that they may write to")
}
