//! Getting what was written out of memory again, and how much memory there is.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use crate::store::Failure;

/// Writes everything back and drops it from memory: all caches of the system where this process may, and in any case what it
/// can of the files below a folder. False if it was only those.
///
/// Pages that are mapped stay where they are: whoever maps the files has closed them before.
pub(crate) fn drop_caches(folder: &Path) -> Result<bool, Failure> {
    rustix::fs::sync();
    // 3: pages, and names and places of files.
    let all = fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
    for path in files(folder)? {
        fadvise(File::open(path)?, 0, None, Advice::DontNeed)?;
    }
    if all {
        // To open the files has brought their names back.
        fs::write("/proc/sys/vm/drop_caches", "2")?;
    }
    Ok(all)
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    Ok(found)
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

/// Touches twice the memory that is needed next, or what is free of it: no cached page is pushed out.
pub(crate) fn warm_memory(need: u64) {
    let free = meminfo("MemFree").unwrap_or(0).saturating_sub(512 << 20);
    benchkit::warm_memory(usize::try_from(free.min(2 * need)).expect("a 64-bit target"));
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
        assert!(meminfo("MemTotal").is_some_and(|bytes| bytes > 1 << 20) && meminfo("Mem").is_none());
    }
}
