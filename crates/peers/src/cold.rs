//! Getting what was written out of memory again, and how much memory there is.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use benchkit::Reserve;
use rustix::fs::{Advice, fadvise};

use crate::store::Failure;

/// Writes everything back and drops it from memory: all caches of the system where this process may, else what it can of the
/// files below a folder. False if it was only those.
///
/// Pages that are mapped stay where they are: whoever maps the files has closed them before.
pub(crate) fn drop_caches(folder: &Path) -> Result<bool, Failure> {
    rustix::fs::sync();
    // 3: pages, and names and places of files.
    if fs::write("/proc/sys/vm/drop_caches", "3").is_ok() {
        // To open each file would bring its name and place back.
        return Ok(true);
    }
    for path in files(folder)? {
        fadvise(File::open(path)?, 0, None, Advice::DontNeed)?;
    }
    Ok(false)
}

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    Ok(tree(folder)?.0)
}

/// Every file below a folder, and every folder with it, those that are deeper behind those that are less.
fn tree(folder: &Path) -> Result<(Vec<PathBuf>, Vec<Vec<PathBuf>>), Failure> {
    let (mut files, mut levels) = (Vec::new(), vec![vec![folder.to_owned()]]);
    loop {
        let mut deeper = Vec::new();
        for folder in levels.last().into_iter().flatten() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() { deeper.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        if deeper.is_empty() {
            return Ok((files, levels));
        }
        levels.push(deeper);
    }
}

/// Threads that delete: a file system that tells its disk of each file that goes makes every one of them wait for it.
const DELETING: usize = 16;

/// Deletes a folder with all that is below it, many files at a time.
pub(crate) fn delete(folder: &Path) -> Result<(), Failure> {
    let (files, levels) = tree(folder)?;
    each(&files, |path| fs::remove_file(path))?;
    levels.iter().rev().try_for_each(|level| each(level, |path| fs::remove_dir(path)))
}

fn each(paths: &[PathBuf], act: impl Fn(&Path) -> io::Result<()> + Sync) -> Result<(), Failure> {
    let act = &act;
    thread::scope(|scope| {
        let share = paths.len().div_ceil(DELETING).max(1);
        let threads: Vec<_> =
            paths.chunks(share).map(|some| scope.spawn(move || some.iter().try_for_each(|path| act(path)))).collect();
        threads.into_iter().try_for_each(|thread| Ok(thread.join().map_err(|_| "a deleting thread has panicked")??))
    })
}

/// Bytes that the files below a folder take on the disk.
pub(crate) fn bytes_on_disk(folder: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    files(folder)?.into_iter().try_fold(0, |bytes, path| Ok(bytes + fs::metadata(path)?.blocks() * 512))
}

/// A number of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Touches the memory that is needed next and a quarter more, or what is free of it: no cached page is pushed out. More would
/// take longer than what is measured: a second a gibibyte on a machine that gives free memory back to its host. Right behind
/// whatever has freed memory it takes little: the host has not got it yet.
pub(crate) fn reserve(need: u64) -> Reserve {
    let free = meminfo("MemFree").unwrap_or(0).saturating_sub(512 << 20);
    Reserve::hold(usize::try_from(free.min(need / 4 * 5)).expect("a 64-bit target"))
}

/// The same for what is measured until the result is dropped.
pub(crate) fn fed_reserve(need: u64) -> Reserve {
    let mut reserve = reserve(need);
    reserve.feed();
    reserve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_folders_of_folders_and_counted_as_they_lie_on_the_disk() {
        let folder = benchkit::folder();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), vec![1; 10_000]).unwrap();
        File::create(folder.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(files(folder.path()).unwrap().len(), 2);
        drop_caches(folder.path()).unwrap();
        let bytes = bytes_on_disk(folder.path()).unwrap();
        assert!((10_000..1 << 20).contains(&bytes), "{bytes}");
        assert_eq!(fs::read(folder.path().join("a/b/c")).unwrap(), vec![1; 10_000]);
        delete(&folder.path().join("a")).unwrap();
        assert_eq!(files(folder.path()).unwrap(), [folder.path().join("sparse")]);
        assert!(!folder.path().join("a").exists() && delete(&folder.path().join("a")).is_err());
        assert!(meminfo("MemTotal").is_some_and(|bytes| bytes > 1 << 20) && meminfo("Mem").is_none());
    }
}
