//! Names that go again: what a creation leaves behind if it fails half-way.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use crate::os;
use crate::sync::Mutex;

/// A path that is removed unless somebody says `keep`.
pub(super) struct Leftover<'a> {
    path: Option<&'a Path>,
    /// What could not be removed: the next creation does it, or the next scan.
    left: &'a Mutex<Vec<PathBuf>>,
}

impl<'a> Leftover<'a> {
    pub(super) fn new(path: &'a Path, left: &'a Mutex<Vec<PathBuf>>) -> Self {
        Self { path: Some(path), left }
    }

    pub(super) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        // There is an error on its way already.
        if let Some(path) = self.path
            && remove(path).is_err()
        {
            self.left.lock().push(path.to_path_buf());
        }
    }
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match os::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
