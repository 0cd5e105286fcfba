//! Words in a file that outlive the process: a shared mapping, which the kernel keeps however the process ends.
//!
//! # Invariants
//!
//! 1. The file has its whole length before it is mapped, and nobody shortens it: it lies in a folder of the torture's
//!    own.
//! 2. Its words are only ever touched as atomics, by this process or another.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// Words that survive `kill -9`.
#[derive(Debug)]
pub(crate) struct Words {
    map: MmapRaw,
    count: usize,
}

impl Words {
    /// Maps `count` words of the file at `path`; those that were not there yet are zero.
    pub(crate) fn open(path: &Path, count: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let len = count as u64 * 8;
        if file.metadata()?.len() != len {
            file.set_len(len)?;
        }
        let map = MmapOptions::new().len(count * 8).map_raw(&file)?;
        Ok(Self { map, count })
    }

    pub(crate) fn all(&self) -> &[AtomicU64] {
        #[expect(clippy::cast_ptr_alignment, reason = "asserted below; a mapping begins on a page")]
        let first = self.map.as_mut_ptr().cast::<AtomicU64>();
        assert!(first.is_aligned() && self.count * 8 <= self.map.len());
        // SAFETY: aligned and in bounds by the assert, mapped for as long as `self` lives, and only ever touched as
        // atomics (invariant 2); the file is not shortened below the mapping (invariant 1).
        unsafe { slice::from_raw_parts(first, self.count) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_there_again_when_the_file_is_mapped_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words");
        Words::open(&path, 1000).unwrap().all()[999].store(77, Ordering::Relaxed);
        let words = Words::open(&path, 1000).unwrap();
        assert_eq!(words.all()[999].load(Ordering::Relaxed), 77);
        assert!(words.all()[..999].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
}
