//! How large a store this input deserves: smaller than the input, so that files must turn.
//!
//! # Invariants
//!
//! 1. Without `--store` the store takes at most half of the input.
//! 2. A file of the store holds four blocks of the longest kind, so that it never wastes much of its end.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::arguments::Arguments;
use crate::cut;
use crate::size::show;
use crate::tree::Tree;

const PAGE: u64 = 4096;
/// Below this a file is mostly header and directory.
const SMALLEST_FILE: u64 = 16 * PAGE;
/// The most that a store allows.
const LARGEST_FILE: u64 = 16 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) files_per_folder: u16,
    /// Bytes, a multiple of the page.
    pub(crate) file_size: u64,
    /// Bytes of the longest block.
    pub(crate) block: u64,
    /// Most blocks that the store can hold at once.
    pub(crate) blocks: u64,
}

impl Plan {
    /// Plans a store in `folders`, or says in a sentence why the sizes do not go together.
    pub(crate) fn new(arguments: &Arguments, folders: Vec<PathBuf>, tree: &Tree) -> Result<Self, String> {
        let store = arguments.store.unwrap_or(tree.bytes / 2);
        let files = folders.len() as u64 * u64::from(arguments.files_per_folder);
        if files > 1023 {
            return Err(format!("a store has at most 1023 files, not {files}: give fewer folders or fewer --files"));
        }
        let file_size = store / files / PAGE * PAGE;
        if file_size < SMALLEST_FILE {
            let least = files * SMALLEST_FILE;
            return Err(match arguments.store {
                Some(store) => {
                    format!(
                        "{} are too little for a store of {files} files: give at least --store {least}",
                        show(store)
                    )
                }
                None => format!(
                    "{} to read below {} are too little to spill: half of it must be {} or more",
                    show(tree.bytes),
                    tree.root.display(),
                    show(least)
                ),
            });
        }
        if file_size > LARGEST_FILE {
            let most = files * LARGEST_FILE;
            return Err(format!(
                "{} are too much for a store of {files} files: give at most --store {most}",
                show(store)
            ));
        }
        let block = arguments.block.min(file_size / 4);
        let cut_in_all: u64 = tree.files.iter().map(|file| cut::count(file.len, block)).sum();
        // The smallest block takes a page, or, if it is empty, no more than its 64 bytes in the directory.
        let empty = tree.files.iter().filter(|file| file.len == 0).count() as u64;
        let blocks = cut_in_all.min(files * (file_size / PAGE) + empty);
        Ok(Self { folders, files_per_folder: arguments.files_per_folder, file_size, block, blocks })
    }

    pub(crate) fn files(&self) -> u64 {
        self.folders.len() as u64 * u64::from(self.files_per_folder)
    }

    /// One for each folder, unless a store is told otherwise.
    pub(crate) fn lanes(&self) -> u16 {
        u16::try_from(self.folders.len()).expect("`new` refuses so many files")
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files() * self.file_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::InputFile;

    const MIB: u64 = 1 << 20;

    fn tree(len: u64) -> Tree {
        let files = vec![InputFile { path: "x".into(), len }, InputFile { path: "y".into(), len: 0 }];
        Tree { root: "/tree".into(), files, bytes: len, unreadable: 0 }
    }

    fn plan(store: Option<u64>, input: u64) -> Result<Plan, String> {
        let arguments =
            Arguments { tree: None, folders: Vec::new(), store, files_per_folder: 8, block: MIB, limit: u64::MAX };
        Plan::new(&arguments, vec!["a".into(), "b".into()], &tree(input))
    }

    #[test]
    fn the_store_takes_at_most_half_of_the_input() {
        for input in [2 * MIB, 46 * MIB + 7, 1024 * MIB] {
            let plan = plan(None, input).unwrap();
            assert!(plan.bytes() <= input / 2, "{plan:?}");
            assert!(plan.bytes() > input / 2 - plan.files() * PAGE, "{plan:?}");
        }
    }

    #[test]
    fn a_file_holds_four_blocks() {
        assert_eq!(plan(Some(320 * MIB), MIB).unwrap().block, MIB);
        let small = plan(Some(16 * MIB), MIB).unwrap();
        assert_eq!((small.file_size, small.block), (MIB, MIB / 4));
    }

    #[test]
    fn the_index_is_asked_for_no_more_than_there_are_blocks_or_room() {
        assert_eq!(plan(Some(320 * MIB), 10 * MIB).unwrap().blocks, 11, "ten full ones and an empty one");
        assert_eq!(plan(Some(16 * MIB), 1 << 40).unwrap().blocks, 16 * MIB / PAGE + 1);
    }

    #[test]
    fn too_little_to_spill_is_refused_with_both_sizes() {
        let error = plan(None, 100_000).unwrap_err();
        assert!(error.contains("97.6 KiB") && error.contains("1.00 MiB"), "{error}");
        let error = plan(Some(100_000), MIB).unwrap_err();
        assert!(error.contains("--store 1048576"), "{error}");
    }

    #[test]
    fn files_larger_than_a_store_allows_are_refused_with_the_most() {
        let most = 16 * LARGEST_FILE;
        assert_eq!(plan(Some(most), MIB).unwrap().file_size, LARGEST_FILE);
        let error = plan(Some(most + 16 * PAGE), MIB).unwrap_err();
        assert!(error.contains(&format!("--store {most}")), "{error}");
    }
}
