//! A group of processes that may take only so much memory, page cache included: cgroups of version 1 or 2.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A group that was made here. It is deleted when this is dropped.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// Makes a group of `bytes` below this process's own, with a name that begins with `name`.
    ///
    /// # Errors
    ///
    /// Why there is none: cgroups are missing, without memory, or not writable.
    pub fn new(name: &str, bytes: u64) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/mounts").map_err(|error| format!("/proc/mounts: {error}"))?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let mut why = "no cgroup with memory is mounted".to_owned();
        for (mount, is_v2) in mounts.lines().filter_map(memory_mount) {
            for parent in [mount.join(own_path(&own, is_v2)), mount.clone()] {
                let folder = parent.join(format!("{name}-{}", std::process::id()));
                match fs::create_dir(&folder) {
                    Ok(()) => {
                        let group = Self { folder, is_v2 };
                        match group.limit(bytes) {
                            Ok(()) => return Ok(group),
                            Err(error) => why = format!("{}: {error}", group.folder.display()),
                        }
                    }
                    Err(error) => why = format!("{}: {error}", folder.display()),
                }
            }
        }
        Err(why)
    }

    fn limit(&self, bytes: u64) -> io::Result<()> {
        let (limit, swap) = if self.is_v2 {
            ("memory.max", "memory.swap.max")
        } else {
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        };
        fs::write(self.folder.join(limit), bytes.to_string())?;
        // Not there without swap.
        let no_swap = if self.is_v2 { 0 } else { bytes };
        match fs::write(self.folder.join(swap), no_swap.to_string()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where it is: what [`join`] takes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many processes were killed for want of memory.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn killed(&self) -> io::Result<u64> {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|line| line.parse().ok()).ok_or_else(|| io::Error::other(format!("{file} tells no oom_kill")))
    }

    /// The most bytes that were taken at once; `None` where the kernel does not tell.
    #[must_use]
    pub fn most(&self) -> Option<u64> {
        let file = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have ended; if one has not, the group stays, empty of meaning.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Takes this process into a group, which another one has made.
///
/// # Errors
///
/// If the kernel refuses.
pub fn join(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
}

/// Where a line of `/proc/mounts` mounts groups that limit memory, and whether they are of version 2.
fn memory_mount(line: &str) -> Option<(PathBuf, bool)> {
    let mut fields = line.split(' ');
    let (_, place, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let place = PathBuf::from(place);
    match kind {
        "cgroup" if options.split(',').any(|option| option == "memory") => Some((place, false)),
        "cgroup2" => {
            let controllers = fs::read_to_string(place.join("cgroup.subtree_control")).ok()?;
            controllers.split_whitespace().any(|name| name == "memory").then_some((place, true))
        }
        _ => None,
    }
}

/// This process's own group, relative to where groups are mounted.
fn own_path(own: &str, is_v2: bool) -> PathBuf {
    let of_memory = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = if is_v2 { controllers.is_empty() } else { controllers.split(',').any(|name| name == "memory") };
        is_it.then(|| PathBuf::from(path.trim_start_matches('/')))
    };
    own.lines().find_map(of_memory).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_memory_is_found_in_both_versions() {
        let own = "8:pids:/\n4:cpu,memory:/a/b\n0::/c\n";
        assert_eq!((own_path(own, false), own_path(own, true)), (PathBuf::from("a/b"), PathBuf::from("c")));
        assert_eq!(own_path("8:pids:/\n", false), PathBuf::new());
        let mount = memory_mount("cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0");
        assert_eq!(mount, Some((PathBuf::from("/sys/fs/cgroup/memory"), false)));
        assert_eq!(memory_mount("cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0"), None);
        assert_eq!(memory_mount("tmpfs /tmp tmpfs rw 0 0"), None);
    }
}
