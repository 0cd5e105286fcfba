//! Which file system a folder is on: what is measured or tortured there is worth as much as that.

use std::fs;
use std::path::Path;

/// The type of the file system that holds `folder`, such as `ext4`; `None` where the system does not tell.
#[must_use]
pub fn file_system(folder: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    deepest(&mounts, &fs::canonicalize(folder).ok()?)
}

/// The same, of the mounts that `/proc/self/mountinfo` lists.
fn deepest(mounts: &str, path: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        // Spaces in names are written in octal.
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        let depth = path.starts_with(&point).then(|| Path::new(&point).components().count())?;
        Some((depth, after.split(' ').next()?.to_owned()))
    });
    // The last one of a place hides those before it.
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, system)| system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_folder_is_that_of_the_deepest_and_last_mount_above_it() {
        let mounts = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 27 0:40 / /tmp rw - xfs /dev/vdb rw\n\
                      31 27 0:41 / /tmp rw,nosuid shared:5 - tmpfs tmpfs rw,size=1k\n\
                      32 31 0:42 / /tmp/with\\040space rw - btrfs /dev/vdc rw\n";
        for (path, system) in [
            ("/home/x", Some("ext4")),
            ("/tmp", Some("tmpfs")),
            ("/tmp/x/y", Some("tmpfs")),
            ("/tmpx", Some("ext4")),
            ("/tmp/with space/z", Some("btrfs")),
        ] {
            assert_eq!(deepest(mounts, Path::new(path)).as_deref(), system, "{path}");
        }
        assert_eq!(deepest("", Path::new("/tmp")), None);
    }
}
