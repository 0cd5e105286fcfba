//! How much memory the process takes, as Linux counts it.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;

use crate::size::show;

/// Bytes, each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
    /// Heap, stacks and the index. The others are pages of mapped files, which the kernel takes back whenever it wants.
    pub(crate) own: u64,
}

impl Memory {
    /// `None` where there is no `/proc/self/status`.
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let bytes_of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self { resident: bytes_of("VmRSS")?, peak: bytes_of("VmHWM")?, own: bytes_of("RssAnon")? })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resident, peak, own } = *self;
        write!(f, "{} resident ({} of its own, the others mapped files), ", show(resident), show(own))?;
        write!(f, "at most {} so far", show(peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_status_file_are_read_by_name() {
        let status = "Name:\tVmRSS\nVmHWM:\t    5120 kB\nVmRSS:\t    4096 kB\nRssAnon:\t 1024 kB\nRssFile:\t 3072 kB\n";
        let expected = Memory { resident: 4 << 20, peak: 5 << 20, own: 1 << 20 };
        assert_eq!(Memory::parse(status), Some(expected));
        assert_eq!(Memory::parse("VmRSS:\t 4096 kB\n"), None);
    }
}
