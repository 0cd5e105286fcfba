//! What is measured: which stores, block sizes and threads, how much of it, and for how long.
#![forbid(unsafe_code)]

use std::fmt;

use clap::Args;

use crate::measure::Workload;
use crate::peers;
use crate::store::{Kind, Measured, Peer};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bytes of a block, and threads at work: a column of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Column {
    pub(crate) threads: u64,
    pub(crate) len: usize,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&size(self.len as u64))?;
        if self.threads > 1 { write!(f, ", {} threads", self.threads) } else { Ok(()) }
    }
}

const COLUMNS: [Column; 6] = [
    Column { threads: 1, len: 4 * KIB },
    Column { threads: 1, len: 64 * KIB },
    Column { threads: 1, len: MIB },
    Column { threads: 1, len: 16 * MIB },
    Column { threads: 2, len: 64 * KIB },
    Column { threads: 2, len: MIB },
];

/// The column of the long burst.
const LONG: Column = Column { threads: 1, len: MIB };

/// What is measured in every round.
pub(crate) const COMPARED: [Workload; 5] =
    [Workload::Fill, Workload::Recycled, Workload::Hot, Workload::Cold, Workload::Reopen];

/// A size in the largest unit that divides it.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or(format!("{bytes} B"), |(unit, name)| format!("{} {name}", bytes / unit))
}

fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => KIB,
        "m" => MIB,
        _ => return Err(format!("`{text}` is no size; write one as in 4k, 64KiB or 1M")),
    };
    digits.parse().map(|count: usize| count * unit).map_err(|error| format!("`{text}`: {error}"))
}

fn parse_name(text: &str) -> Result<String, String> {
    let known: Vec<&str> = peers::ALL.iter().map(|peer| peer.name).collect();
    if known.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("there is no `{text}`, but {}", known.join(", ")))
    }
}

/// What to measure.
#[derive(Clone, Debug, Args)]
pub(crate) struct GridArguments {
    /// The whole grid, in less than an hour: writes BENCHMARKS.md, docs/peers.csv and docs/peers-*.svg
    #[arg(long, conflicts_with = "quick")]
    pub(crate) full: bool,
    /// A quarter of the data, once, in less than eight minutes; the default
    #[arg(long)]
    pub(crate) quick: bool,
    /// Minutes for everything: 57 for the whole grid by default, else 7; of the whole grid, a half of it goes to further rounds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) minutes: Option<u64>,
    /// Only these stores
    #[arg(long, value_delimiter = ',', value_parser = parse_name)]
    pub(crate) only: Vec<String>,
    /// Only these workloads
    #[arg(long, value_delimiter = ',')]
    pub(crate) workload: Vec<Workload>,
    /// Only blocks of these sizes
    #[arg(long, value_delimiter = ',', value_parser = parse_size)]
    pub(crate) size: Vec<usize>,
    /// Blocks of a set, whatever their size: a power of two
    #[arg(long, value_parser = parse_blocks)]
    pub(crate) blocks: Option<u64>,
}

fn parse_blocks(text: &str) -> Result<u64, String> {
    let blocks: u64 = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
    if blocks.is_power_of_two() && blocks >= 16 { Ok(blocks) } else { Err("a power of two, 16 or more".to_owned()) }
}

impl GridArguments {
    /// Something was left out, or made smaller: no run for the record.
    pub(crate) fn is_partial(&self) -> bool {
        !self.full
            || !self.only.is_empty()
            || !self.workload.is_empty()
            || !self.size.is_empty()
            || self.blocks.is_some()
    }

    pub(crate) fn stores(&self) -> Vec<Peer> {
        peers::ALL
            .into_iter()
            .filter(|peer| self.only.is_empty() || self.only.iter().any(|name| name == peer.name))
            .collect()
    }

    pub(crate) fn columns(&self) -> Vec<Column> {
        COLUMNS.into_iter().filter(|column| self.size.is_empty() || self.size.contains(&column.len)).collect()
    }

    pub(crate) fn wants(&self, workload: Workload) -> bool {
        self.workload.is_empty() || self.workload.contains(&workload)
    }

    /// Blocks of the set of a column.
    pub(crate) fn blocks(&self, column: Column) -> u64 {
        let bytes = match (self.full, column.len) {
            (true, ..=65_535) => 512 * MIB,
            (true, _) => 2048 * MIB,
            (false, ..=65_535) => 128 * MIB,
            (false, _) => 512 * MIB,
        };
        self.blocks.unwrap_or((bytes / column.len) as u64)
    }

    /// Seconds for everything.
    pub(crate) fn seconds(&self) -> u64 {
        self.minutes.map_or(if self.full { 57 * 60 } else { 450 }, |minutes| minutes * 60)
    }

    /// How often a store is measured, if there is time.
    pub(crate) fn rounds(&self) -> usize {
        if self.full { 9 } else { 1 }
    }

    /// How often a part that takes little is done in a round: where there are several, their passes lie further apart.
    pub(crate) fn passes(&self) -> u64 {
        if self.full { 1 } else { 3 }
    }

    /// Milliseconds of hot reads, at least.
    pub(crate) fn least(&self) -> u64 {
        if self.blocks.is_some() {
            1
        } else if self.full {
            1000
        } else {
            250
        }
    }

    /// Milliseconds that a part takes before it is cut, unless time is short.
    pub(crate) fn limit(&self) -> u64 {
        if self.full { 60_000 } else { 1_500 }
    }

    /// The most bytes that a store may take on the disk at once.
    pub(crate) fn disk(&self) -> u64 {
        let sets = self.columns().into_iter().map(|column| self.blocks(column) * column.len as u64);
        // Stores that copy on write, or collect garbage later, take several times the set; none was seen to take more.
        6 * sets.max().unwrap_or(0) + (1 << 28)
    }
}

/// What is measured of a store in a column.
pub(crate) fn workloads_of(peer: &Peer, column: Column) -> Vec<Workload> {
    use Workload::{Cold, Fill, Hot, Long, Mixed, Recycled, Reopen, Scarce};
    let is_wanted = |workload: &Workload| match peer.measured {
        Measured::All => true,
        Measured::Reads => !matches!(workload, Fill | Recycled | Mixed | Reopen | Long),
        Measured::Fills => !matches!(workload, Hot | Cold | Scarce | Mixed | Reopen),
        Measured::Disk => matches!(workload, Fill | Recycled | Cold),
    };
    let mut all = workloads(peer.kind, column);
    all.retain(is_wanted);
    all
}

/// What is measured of a kind of store in a column.
pub(crate) fn workloads(kind: Kind, column: Column) -> Vec<Workload> {
    use Workload::{Bounded, Cold, Fill, Hot, Long, Mixed, Recycled, Reopen, Scarce};
    let all = [Fill, Recycled, Hot, Cold, Scarce, Mixed, Reopen, Bounded, Long];
    let is_store = matches!(kind, Kind::Own | Kind::Peer);
    let wanted = |workload: &Workload| match workload {
        Fill | Recycled | Hot | Cold => true,
        Scarce | Mixed => column.threads == 1,
        // A limit has no more to do than to open its file.
        Reopen => (is_store || kind == Kind::Limit) && column.threads == 1,
        Bounded => is_store && column.threads == 1,
        // It takes as long as all others together.
        Long => matches!(kind, Kind::Own | Kind::Limit) && column == LONG,
    };
    all.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [("4k", 4096), ("64KiB", 65536), ("1M", MIB), ("16 mib", 16 * MIB), ("512", 512)] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "k", "4x", "4.5k"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(
            (size(4096), size(1 << 31), size(1000)),
            ("4 KiB".to_owned(), "2 GiB".to_owned(), "1000 B".to_owned())
        );
    }

    #[test]
    fn sets_are_a_power_of_two_of_blocks() {
        for full in [true, false] {
            let arguments = GridArguments {
                full,
                quick: !full,
                minutes: None,
                only: vec![],
                workload: vec![],
                size: vec![],
                blocks: None,
            };
            for column in COLUMNS {
                assert!(arguments.blocks(column).is_power_of_two(), "{column}");
            }
            assert!(arguments.disk() <= 40 << 30);
        }
    }
}
