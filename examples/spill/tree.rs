//! The input: regular files below a folder, in an order that does not change from run to run.
//!
//! # Invariants
//!
//! 1. Links are not followed, so each file comes once and the walk ends.
//! 2. The files are those of the smallest paths whose sizes together fill the limit; the last one is cut to fit.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{env, fs, io};

#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    pub(crate) files: Vec<InputFile>,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Folders that could not be listed.
    pub(crate) unreadable: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    pub(crate) path: PathBuf,
    /// How many of its bytes to read.
    pub(crate) len: u64,
}

/// The sources of the crates that this example was built from, where cargo keeps them; else `/usr`.
pub(crate) fn default_root() -> PathBuf {
    let home = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cargo = home("CARGO_HOME").or_else(|| home("HOME").map(|home| home.join(".cargo")));
    let sources = cargo.map(|cargo| cargo.join("registry").join("src"));
    let has_some = |folder: &PathBuf| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    sources.filter(has_some).unwrap_or_else(|| PathBuf::from("/usr"))
}

impl Tree {
    /// Lists the files below `root`, but for those below `without`, until `limit` bytes are together.
    pub(crate) fn walk(root: &Path, limit: u64, without: &[PathBuf]) -> io::Result<Self> {
        let without: Vec<PathBuf> = without.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
        let mut tree = Self { root: root.canonicalize()?, files: Vec::new(), bytes: 0, unreadable: 0 };
        // Paths still to visit, the next one last.
        let mut left = sorted_entries(&tree.root)?;
        while let Some(path) = left.pop().filter(|_| tree.bytes < limit) {
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => {
                    let len = found.len().min(limit - tree.bytes);
                    tree.bytes += len;
                    tree.files.push(InputFile { path, len });
                }
                Ok(found) if found.is_dir() && !without.contains(&path) => match sorted_entries(&path) {
                    Ok(entries) => left.extend(entries),
                    Err(_) => tree.unreadable += 1,
                },
                _ => {}
            }
        }
        Ok(tree)
    }
}

/// The last path first.
fn sorted_entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by(|one, other| other.cmp(one));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("b/deep")).unwrap();
        for (name, len) in [("a", 10), ("b/deep/one", 20), ("b/two", 0), ("c", 40)] {
            fs::write(folder.path().join(name), vec![1; len]).unwrap();
        }
        folder
    }

    fn names(tree: &Tree) -> Vec<(String, u64)> {
        let name = |file: &InputFile| file.path.strip_prefix(&tree.root).unwrap().display().to_string();
        tree.files.iter().map(|file| (name(file), file.len)).collect()
    }

    #[test]
    fn files_come_in_the_order_of_their_paths() {
        let folder = tree();
        let found = Tree::walk(folder.path(), 1000, &[]).unwrap();
        let expected = [("a", 10), ("b/deep/one", 20), ("b/two", 0), ("c", 40)];
        assert_eq!(names(&found), expected.map(|(name, len)| (name.to_owned(), len)));
        assert_eq!((found.bytes, found.unreadable), (70, 0));
    }

    #[test]
    fn the_limit_cuts_the_last_file() {
        let folder = tree();
        let found = Tree::walk(folder.path(), 25, &[]).unwrap();
        assert_eq!(names(&found), [("a".to_owned(), 10), ("b/deep/one".to_owned(), 15)]);
        assert_eq!(found.bytes, 25);
    }

    #[test]
    fn folders_of_the_store_are_no_input() {
        let folder = tree();
        let found = Tree::walk(folder.path(), 1000, &[folder.path().join("b")]).unwrap();
        assert_eq!(names(&found), [("a".to_owned(), 10), ("c".to_owned(), 40)]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed() {
        let folder = tree();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("b/loop")).unwrap();
        assert_eq!(Tree::walk(folder.path(), 1000, &[]).unwrap().files.len(), 4);
    }
}
