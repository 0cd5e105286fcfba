//! What this process holds of the system, as Linux tells it.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;

/// Memory, descriptors and mappings at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Bytes of memory that are not page cache.
    pub(crate) anonymous: u64,
    pub(crate) descriptors: u64,
    pub(crate) maps: u64,
    /// Of those the ones of files of a store.
    pub(crate) store_maps: u64,
}

impl Held {
    pub(crate) fn now() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let kib = kib.ok_or_else(|| io::Error::other("/proc/self/status does not tell RssAnon"))?;
        let maps = fs::read_to_string("/proc/self/maps")?;
        Ok(Self {
            anonymous: kib << 10,
            // One of them reads the list.
            descriptors: fs::read_dir("/proc/self/fd")?.count() as u64 - 1,
            maps: maps.lines().count() as u64,
            store_maps: maps.lines().filter(|line| line.contains(".scratch")).count() as u64,
        })
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anonymous, descriptors, maps, store_maps } = self;
        write!(f, "{} KiB, {descriptors} descriptors, {maps} maps ({store_maps} of files)", anonymous >> 10)
    }
}
