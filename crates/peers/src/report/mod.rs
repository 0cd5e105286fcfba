//! What was measured, for people and for programs: tables in Markdown, a CSV file, charts.
//!
//! # Invariants
//!
//! 1. Every number comes from the run, and there is no date: the same run gives the same text.
#![forbid(unsafe_code)]

mod chart;
pub(crate) mod markers;
mod table;

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::cells::{Cell, Cells, Row};
use crate::grid::{Column, GridArguments, size};
use crate::machine;
use crate::measure::{Metric, Workload};
use crate::peers;
use crate::run::Outcome;
use crate::store::{Failure, Kind, Peer};
use table::Table;
pub(crate) use table::number;

const TABLES: [Table; 11] = [
    Table {
        title: "Fill",
        intro: "A set is written into an empty store. GiB/s, burst / sustained: until every block is readable / until all of \
                them are synced as well.",
        workload: Workload::Fill,
        metrics: &[Metric::Burst, Metric::Sustained],
    },
    Table {
        title: "Fill a full store",
        intro: "The same set again into a store of exactly its size, which has been filled once. GiB/s, burst / sustained. A \
                store that does not forget by itself has its oldest block removed before each put.",
        workload: Workload::Recycled,
        metrics: &[Metric::Burst, Metric::Sustained],
    },
    Table {
        title: "Hot random reads",
        intro: "Every byte of the set is read, in no order, after a pass that has brought in what was not in memory. GiB/s.",
        workload: Workload::Hot,
        metrics: &[Metric::Rate],
    },
    Table {
        title: "Cold random reads of a set that fits",
        intro: "The store is opened again with all caches dropped, and each block read once, in no order, with memory for all \
                of them. GiB/s.",
        workload: Workload::Cold,
        metrics: &[Metric::Rate],
    },
    Table {
        title: "Random reads of a set four times the memory",
        intro: "The same in a memory cgroup of a quarter of the set (at least 64 MiB), page cache included, for a few seconds. \
                GiB/s.",
        workload: Workload::Scarce,
        metrics: &[Metric::Rate],
    },
    Table {
        title: "One writer and one reader",
        intro: "While a quarter of the set is written on top of it, as fast as it goes, another thread reads the set, in no \
                order. GiB/s, written / read.",
        workload: Workload::Mixed,
        metrics: &[Metric::WriteRate, Metric::ReadRate],
    },
    Table {
        title: "One writer and one reader: time of a read",
        intro: "Of the same, all bytes of the block summed. Microseconds: median / 99 % / 99.9 %.",
        workload: Workload::Mixed,
        metrics: &[Metric::ReadP50, Metric::ReadP99, Metric::ReadP999],
    },
    Table {
        title: "One writer and one reader: time of a put",
        intro: "Of the same. Microseconds: median / 99 % / 99.9 %. A put that commits a transaction takes as long as that.",
        workload: Workload::Mixed,
        metrics: &[Metric::WriteP50, Metric::WriteP99, Metric::WriteP999],
    },
    Table {
        title: "Opening again",
        intro: "Caches dropped. Milliseconds from the call that opens to the first block found and read, of those asked for in \
                no order / to every block found, each by the cheapest question that the store answers. A limit opens its file, knows \
                where a block is, and has no others to find.",
        workload: Workload::Reopen,
        metrics: &[Metric::First, Metric::All],
    },
    Table {
        title: "Staying within bounds",
        intro: "Three times the set through a store of the size of one: the most space that its files took, as a part of that \
                size, looked at after each set; and how much of the last set is readable.",
        workload: Workload::Bounded,
        metrics: &[Metric::Disk],
    },
    Table {
        title: "A long burst",
        intro: "Six times the set through a full store of the size of one, as fast as it goes. GiB/s / microseconds of a put: \
                median / 99 % / 99.9 % / the longest. Of this library 99.9 % are to take 10 ms at most.",
        workload: Workload::Long,
        metrics: &[Metric::Rate, Metric::WriteP50, Metric::WriteP99, Metric::WriteP999, Metric::WriteMax],
    },
];

/// A run, ready to be written.
#[derive(Debug)]
pub(crate) struct Report {
    cells: Cells,
    head: String,
    notes: Vec<String>,
    settings: Vec<(&'static str, &'static str)>,
    /// Which passes the numbers are of.
    passes: &'static str,
    /// The longest that a part may take, in seconds.
    limit: f64,
}

const IN_ROUNDS: &str = "Column after column: every store once, then this library, the limits, and whoever was the best peer of a row \
                         until then or within a fifth of it, again and again in turn, in the rows of filling, hot and cold reads \
                         and opening; medians of all their passes. ";
const IN_ONE: &str =
    "Median of up to three passes where one takes little, of a full store its laps one after the other. ";

impl Report {
    pub(crate) fn new(arguments: &GridArguments, outcome: &Outcome) -> Self {
        let order = peers::ALL.map(Row::from);
        let cells = Cells::of(&outcome.slots, &order);
        let sets = cells.columns.iter().map(|column| {
            let bytes = arguments.blocks(*column) * column.len as u64;
            format!("{} at {column}", size(bytes))
        });
        let command = if arguments.full { "--full" } else { "--quick" };
        let head = format!(
            "`cargo run --release -p peers -- {command}`{}, {} min, on {}.\n\nSets: {}.",
            if arguments.is_partial() && arguments.full { " with filters" } else { "" },
            outcome.took.as_secs() / 60 + 1,
            machine::describe(benchkit::folder().path()),
            sets.collect::<Vec<_>>().join("; "),
        );
        let is_row = |peer: &&Peer| cells.rows.iter().any(|row| row.name == peer.name);
        let settings = peers::ALL.iter().filter(is_row).map(|peer| (peer.name, peer.settings)).collect();
        Self {
            cells,
            head,
            notes: outcome.notes.clone(),
            settings,
            passes: if arguments.full { IN_ROUNDS } else { IN_ONE },
            limit: Duration::from_millis(arguments.limit()).as_secs_f64(),
        }
    }

    /// Everything, as a part of a document.
    pub(crate) fn markdown(&self) -> String {
        let mut parts = vec!["## Beside other stores".to_owned(), self.head.clone(), self.legend()];
        parts.extend(TABLES.iter().filter_map(|table| table.markdown(&self.cells)));
        let settings = self.settings.iter().map(|(name, settings)| format!("- **{name}**: {settings}."));
        parts.push(format!("### Settings\n\n{}", settings.collect::<Vec<_>>().join("\n")));
        let notes: Vec<String> =
            self.notes.iter().cloned().chain(self.failures()).map(|note| format!("- {note}")).collect();
        if !notes.is_empty() {
            parts.push(format!("### Notes\n\n{}", notes.join("\n")));
        }
        let parts: Vec<&str> = parts.iter().map(|part| part.trim()).collect();
        parts.join("\n\n") + "\n"
    }

    fn legend(&self) -> String {
        let limits = self.cells.rows.iter().any(|row| row.kind == Kind::Limit);
        let ratio = "In parentheses: the ratio to the best of the `limit` rows, which do the same without an index, without \
                     forgetting anything by name, and all but `limit-kept` without hashing; `device` is beside them, past the \
                     page cache. ";
        format!(
            "Every block is content of its own and is compared with what was written when it is read; all bytes of it are \
             touched, in place where the store lends it. Each store has processes and folders of its own, one at a time. {}\
             Bold: the best peer that drops nothing. `n % readable`: as many blocks of those written were there. `cut`: ended \
             after its time, the rate is that of the part that was done; a part takes at most the share of what is left that \
             the stores to come can have, as those before it needed, at least a thirtieth of {} s, and at most that. {}¹: one pass only. Before each part \
             memory is touched, in large pieces where the system has them, and given back as the part takes it, so that nobody \
             measures what the host of a virtual machine has taken back.",
            if limits { ratio } else { "" },
            self.limit,
            self.passes,
        )
    }

    fn failures(&self) -> impl Iterator<Item = String> {
        let each = self.cells.failures.iter();
        each.flat_map(|((column, name), failures)| failures.iter().map(move |what| format!("{name}, {column}: {what}")))
    }

    /// What no report may hide: that this library failed, or that any store lent wrong bytes.
    pub(crate) fn failure(&self) -> Option<String> {
        let own = self.cells.rows.iter().find(|row| row.kind == Kind::Own).map(|row| row.name);
        let mut failures = self.cells.failures.iter().filter(|((_, name), _)| Some(*name) == own);
        let own = failures.find_map(|(_, failures)| failures.first());
        own.map(|what| format!("this library has failed: {what}"))
            .or_else(|| self.failures().find(|failure| failure.contains("WRONG BYTES")))
    }

    /// Every cell, a line each.
    pub(crate) fn csv(&self) -> String {
        let head = "workload,metric,unit,store,block_bytes,threads,value,runs,cut,readable\n".to_owned();
        let lines = self.cells.values.iter().map(|(((workload, metric), column, name), cell)| {
            let Cell { value, runs, cut, readable } = cell;
            let (unit, Column { len, threads }) = (metric.unit(), column);
            format!("{workload},{metric},{unit},{name},{len},{threads},{value},{runs},{cut},{readable}\n")
        });
        head + &lines.collect::<String>()
    }

    /// Writes BENCHMARKS.md, docs/peers.csv and the charts below `root`.
    pub(crate) fn write(&self, root: &Path) -> Result<(), Failure> {
        let docs = root.join("docs");
        fs::create_dir_all(&docs)?;
        let mut charts = Vec::new();
        for (name, title, what) in chart::CHARTS {
            if let Some(svg) = chart::svg(&self.cells, title, what)? {
                fs::write(docs.join(format!("peers-{name}.svg")), svg)?;
                charts.push(format!("![{title}](docs/peers-{name}.svg)"));
            }
        }
        let part = format!("{}\n### Charts\n\n{}", self.markdown(), charts.join("\n"));
        markers::write(&root.join("BENCHMARKS.md"), markers::PEERS, &part)?;
        Ok(fs::write(docs.join("peers.csv"), self.csv())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let column = Column { threads: 1, len: 4096 };
        let rows =
            [("scratchspace", Kind::Own), ("good", Kind::Peer)].map(|(name, kind)| Row { name, kind, maps: false });
        let mut cells = Cells { rows: rows.to_vec(), columns: vec![column], ..Cells::default() };
        let hot = (Workload::Hot, Metric::Rate);
        for (name, value, cut) in [("scratchspace", 2.5, false), ("good", 1.0, true)] {
            cells.values.insert((hot, column, name), Cell { value, runs: 3, cut, readable: 1.0 });
        }
        cells.failures.insert((column, "good"), vec!["signal 9: it said nothing".to_owned()]);
        let settings = vec![("scratchspace", "the default"), ("good", "as recommended")];
        Report {
            cells,
            head: "On a machine.".to_owned(),
            notes: vec!["rocksdb was skipped: no".to_owned()],
            settings,
            passes: IN_ONE,
            limit: 1.5,
        }
    }

    #[test]
    fn the_csv_has_a_line_for_each_cell() {
        let expected = "workload,metric,unit,store,block_bytes,threads,value,runs,cut,readable\n\
            hot,rate,GiB/s,good,4096,1,1,3,true,1\n\
            hot,rate,GiB/s,scratchspace,4096,1,2.5,3,false,1\n";
        assert_eq!(report().csv(), expected);
    }

    #[test]
    fn the_document_has_the_machine_the_tables_the_settings_and_what_went_wrong() {
        let text = report().markdown();
        let (head, rest) = text.split_once("### Hot random reads").unwrap();
        assert!(head.starts_with("## Beside other stores\n\nOn a machine.\n\n") && !head.contains("`limit`"), "{head}");
        let expected = "| scratchspace | 2.50 |\n| good | **1.00**, cut |\n| *times the best peer* | 2.50 |\n\n\
            scratchspace is ahead of every peer that drops nothing in every column.\n\n\
            ### Settings\n\n- **scratchspace**: the default.\n- **good**: as recommended.\n\n\
            ### Notes\n\n- rocksdb was skipped: no\n- good, 4 KiB: signal 9: it said nothing\n";
        assert!(rest.ends_with(expected), "{rest}");
    }

    #[test]
    fn a_failure_of_this_library_and_wrong_bytes_of_any_store_fail_the_run() {
        let mut report = report();
        assert_eq!(report.failure(), None);
        let fail = |report: &mut Report, name: &'static str, what: &str| {
            report.cells.failures.insert((report.cells.columns[0], name), vec![what.to_owned()]);
        };
        fail(&mut report, "good", "WRONG BYTES: block 3 is not what was written");
        assert!(report.failure().unwrap().contains("block 3"));
        fail(&mut report, "scratchspace", "signal 9");
        assert!(report.failure().unwrap().contains("signal 9"));
    }

    #[test]
    fn a_chart_has_a_line_for_each_store_that_was_measured_and_none_without() {
        let report = report();
        let svg = chart::svg(&report.cells, "Hot", (Workload::Hot, Metric::Rate)).unwrap().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("good") && svg.contains("4 KiB"), "{svg}");
        assert_eq!(chart::svg(&report.cells, "Cold", (Workload::Cold, Metric::Rate)).unwrap(), None);
    }
}
