//! How much memory may still be taken: of the machine, and of the control groups that this process is in.
//!
//! What the page cache holds counts as free, as the system gives it up.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

/// Where control groups are looked for.
const GROUPS: &str = "/sys/fs/cgroup";

/// The names of one kind of control group.
struct Kind {
    /// The first above which the group is held up, then the one that it never exceeds.
    limits: &'static [&'static str],
    used: &'static str,
    /// What of `memory.stat` is page cache.
    cache: [&'static str; 2],
}

const UNIFIED: Kind =
    Kind { limits: &["memory.high", "memory.max"], used: "memory.current", cache: ["active_file", "inactive_file"] };
const SEPARATE: Kind = Kind {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    cache: ["total_active_file", "total_inactive_file"],
};

/// Bytes of memory that this process may still take, the page cache included; `None` where the system does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    // There are no files where this is interpreted.
    if cfg!(miri) {
        return None;
    }
    available(&|path| std::fs::read_to_string(path))
}

/// The same, of the files that `read` gives.
fn available(read: &dyn Fn(&Path) -> io::Result<String>) -> Option<u64> {
    let machine = value_of(&read(Path::new("/proc/meminfo")).ok()?, "MemAvailable:")?.saturating_mul(1024);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let of_groups = groups.lines().flat_map(|line| left_of_groups(line, read)).min();
    Some(of_groups.map_or(machine, |left| left.min(machine)))
}

/// What is left of each group with a limit, from the one in this line of `/proc/self/cgroup` upwards.
fn left_of_groups(line: &str, read: &dyn Fn(&Path) -> io::Result<String>) -> Vec<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (roots, kind): (&[&str], _) = match controllers {
        "" => (&["", "unified"], UNIFIED),
        names if names.split(',').any(|name| name == "memory") => (&["memory"], SEPARATE),
        _ => return Vec::new(),
    };
    let inside = Path::new(path.trim_start_matches('/'));
    // In a namespace of its own a group is found at the root, whatever it is called outside.
    let groups = roots.iter().flat_map(|root| {
        let root = Path::new(GROUPS).join(root);
        inside.ancestors().map(move |group| root.join(group)).collect::<Vec<PathBuf>>()
    });
    groups.filter_map(|group| left(&group, &kind, read)).collect()
}

/// What is left of one group; `None` without a limit.
fn left(group: &Path, kind: &Kind, read: &dyn Fn(&Path) -> io::Result<String>) -> Option<u64> {
    let number = |name: &str| read(&group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = kind.limits.iter().filter_map(|name| number(name)).min()?;
    let used = number(kind.used)?;
    let stat = read(&group.join("memory.stat")).ok()?;
    let cache: u64 = kind.cache.iter().filter_map(|name| value_of(&stat, name)).sum();
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// The number behind a name at the beginning of a line.
fn value_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    /// What is available on a machine with these files.
    fn on(files: &[(&str, &str)]) -> Option<u64> {
        available(&|path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    const MACHINE: (&str, &str) = ("/proc/meminfo", "MemTotal: 4000 kB\nMemFree: 10 kB\nMemAvailable:    3000 kB\n");

    #[test]
    fn without_groups_it_is_what_the_machine_has() {
        assert_eq!(on(&[MACHINE]), Some(3000 * KIB));
        assert_eq!(on(&[("/proc/meminfo", "MemTotal: 4000 kB\n")]), None);
        assert_eq!(on(&[]), None);
    }

    #[test]
    fn a_group_leaves_its_limit_less_what_is_not_page_cache() {
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "1000000\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "900000\n"),
            ("/sys/fs/cgroup/a/b/memory.stat", "anon 5\nfile 300000\nactive_file 200000\ninactive_file 50000\n"),
        ];
        assert_eq!(on(&files), Some(350_000));
    }

    #[test]
    fn the_narrowest_group_above_decides() {
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "900000\n"),
            ("/sys/fs/cgroup/a/b/memory.stat", "active_file 0\ninactive_file 0\n"),
            ("/sys/fs/cgroup/a/memory.max", "950000\n"),
            ("/sys/fs/cgroup/a/memory.current", "900000\n"),
            ("/sys/fs/cgroup/a/memory.stat", "active_file 0\ninactive_file 20000\n"),
        ];
        assert_eq!(on(&files), Some(70_000));
    }

    /// A group is made to give back what it takes above `memory.high`, long before `memory.max`: a set that fitted below the
    /// latter only was read with what lies around it, over and over.
    #[test]
    fn the_lower_limit_of_a_group_is_the_one_that_counts() {
        let with_limits = |high, max| {
            on(&[
                MACHINE,
                ("/proc/self/cgroup", "0::/a\n"),
                ("/sys/fs/cgroup/a/memory.high", high),
                ("/sys/fs/cgroup/a/memory.max", max),
                ("/sys/fs/cgroup/a/memory.current", "300000\n"),
                ("/sys/fs/cgroup/a/memory.stat", "active_file 0\ninactive_file 50000\n"),
            ])
        };
        assert_eq!(with_limits("400000\n", "max\n"), Some(150_000));
        assert_eq!(with_limits("400000\n", "1000000\n"), Some(150_000));
        assert_eq!(with_limits("max\n", "1000000\n"), Some(750_000));
        assert_eq!(with_limits("max\n", "max\n"), Some(3000 * KIB));
    }

    #[test]
    fn groups_of_the_first_kind_are_understood_also_where_their_path_is_another_namespaces() {
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "9:pids:/\n4:cpu,memory:/docker/17\n0::/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "500000\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "450000\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "active_file 1\ntotal_active_file 100000\ntotal_inactive_file 0\n"),
        ];
        assert_eq!(on(&files), Some(150_000));
    }

    #[test]
    fn a_group_that_is_over_its_limit_leaves_nothing_and_a_wide_one_changes_nothing() {
        let with_limit = |limit| {
            on(&[
                MACHINE,
                ("/proc/self/cgroup", "0::/\n"),
                ("/sys/fs/cgroup/memory.max", limit),
                ("/sys/fs/cgroup/memory.current", "900000\n"),
                ("/sys/fs/cgroup/memory.stat", "active_file 0\n"),
            ])
        };
        assert_eq!(with_limit("800000"), Some(0));
        assert_eq!(with_limit("9223372036854771712"), Some(3000 * KIB));
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
    fn this_machine_says_how_much_it_has() {
        let available = available_memory().unwrap();
        assert!((1 << 20..1 << 50).contains(&available), "{available}");
    }
}
