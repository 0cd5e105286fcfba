//! A table in Markdown, and the sentence below it that names every column in which this library falls short.
#![forbid(unsafe_code)]

use crate::cells::{Cell, Cells, Row};
use crate::grid::{Column, workloads};
use crate::measure::{Metric, Workload};
use crate::store::Kind;

/// Where the page cache itself ends: a store this near to it is level with whoever else is.
const LEVEL: f64 = 0.95;

/// One table: all metrics of a cell stand in it, with slashes between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) intro: &'static str,
    pub(super) workload: Workload,
    pub(super) metrics: &'static [Metric],
}

impl Table {
    /// `None` if nothing of it was measured.
    pub(super) fn markdown(&self, cells: &Cells) -> Option<String> {
        let is_measured = |column: &Column| cells.rows.iter().any(|row| !self.cells(cells, *column, *row).is_empty());
        let columns: Vec<Column> = cells.columns.iter().copied().filter(is_measured).collect();
        if columns.is_empty() {
            return None;
        }
        let head: Vec<String> = columns.iter().map(ToString::to_string).collect();
        let mut lines = vec![format!("### {}\n\n{}\n", self.title, self.intro)];
        lines.push(format!("| | {} |\n|---|{}", head.join(" | "), "---|".repeat(columns.len())));
        for row in &cells.rows {
            let line: Vec<String> = columns.iter().map(|column| self.cell(cells, *column, *row)).collect();
            if line.iter().any(|cell| !cell.is_empty()) {
                lines.push(format!("| {} | {} |", row.name, line.join(" | ")));
            }
        }
        let beside: Vec<String> = columns.iter().map(|column| self.beside_the_best(cells, *column)).collect();
        if beside.iter().any(|cell| !cell.is_empty()) {
            lines.push(format!("| *times the best peer* | {} |", beside.join(" | ")));
        }
        lines.extend(self.verdict(cells, &columns).map(|verdict| format!("\n{verdict}")));
        Some(lines.join("\n") + "\n")
    }

    /// How many times as good this library is as the best peer that drops nothing.
    fn beside_the_best(&self, cells: &Cells, column: Column) -> String {
        let ratios = self.metrics.iter().filter_map(|metric| Some(self.ahead(cells, column, *metric)?.ratio));
        ratios.map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" / ")
    }

    fn ahead(&self, cells: &Cells, column: Column, metric: Metric) -> Option<Ahead> {
        if metric == Metric::Disk {
            return None;
        }
        let (own, what) = (cells.rows.iter().find(|row| row.kind == Kind::Own)?, (self.workload, metric));
        let (mine, (peer, best)) = (cells.get(what, column, *own)?, cells.best(what, column, Kind::Peer)?);
        let ratio = if metric.more_is_better() { mine.value / best } else { best / mine.value };
        Some(Ahead { mine, peer, best, ratio })
    }

    /// Whether a row of that kind has cells in this table.
    fn is_done_by(&self, kind: Kind, column: Column) -> bool {
        workloads(kind, column).contains(&self.workload)
    }

    fn cells(&self, cells: &Cells, column: Column, row: Row) -> Vec<(Metric, Cell)> {
        let metrics = self.metrics.iter();
        metrics.filter_map(|metric| Some((*metric, cells.get((self.workload, *metric), column, row)?))).collect()
    }

    /// The ratios to the limit stand where a limit does the same.
    fn cell(&self, cells: &Cells, column: Column, row: Row) -> String {
        let measured = self.cells(cells, column, row);
        if measured.is_empty() {
            let why = cells.failures.get(&(column, row.name)).filter(|_| self.is_done_by(row.kind, column));
            let says = |why: &[String], what| why.iter().any(|one| one.contains(what));
            let word = |why: &Vec<String>| match why {
                why if says(why, "killed") => "killed",
                why if says(why, NOT_MEASURED) => NOT_MEASURED,
                _ => "failed",
            };
            return why.map_or("", word).to_owned();
        }
        let values = measured.iter().map(|(metric, cell)| {
            let best = cells.best((self.workload, *metric), column, Kind::Peer);
            let is_best = best.is_some_and(|(best, _)| best == row) && *metric != Metric::Disk;
            if is_best { format!("**{}**", number(cell.value)) } else { number(cell.value) }
        });
        let mut parts = vec![values.collect::<Vec<_>>().join(" / ")];
        let ratios = measured.iter();
        let ratios = ratios.filter_map(|(metric, cell)| cells.ratio((self.workload, *metric), column, cell.value));
        let ratios: Vec<String> = ratios.map(|ratio| format!("{ratio:.2}")).collect();
        if !ratios.is_empty() {
            parts.push(format!(" ({})", ratios.join(" / ")));
        }
        let readable = measured.iter().map(|(_, cell)| cell.readable).fold(1.0, f64::min);
        if readable < 1.0 || self.workload == Workload::Bounded {
            parts.push(format!(", {} % readable", percent(readable)));
        }
        if measured.iter().any(|(_, cell)| cell.cut) {
            parts.push(", cut".to_owned());
        }
        if measured.iter().any(|(_, cell)| cell.runs == 1) {
            parts.push(" ¹".to_owned());
        }
        parts.concat()
    }

    /// In which columns this library is behind a store that drops nothing, and by how much.
    fn verdict(&self, cells: &Cells, columns: &[Column]) -> Option<String> {
        let own = *cells.rows.iter().find(|row| row.kind == Kind::Own)?;
        let (mut compared, mut short) = (0, Vec::new());
        for column in columns {
            for metric in self.metrics.iter().copied() {
                let Some(Ahead { mine, peer, best, ratio }) = self.ahead(cells, *column, metric) else { continue };
                compared += 1;
                if ratio >= 1.0 && mine.readable >= 1.0 {
                    continue;
                }
                let limit = cells.ratio((self.workload, metric), *column, mine.value);
                let level = limit.filter(|ratio| *ratio >= LEVEL && mine.readable >= 1.0);
                let limit = level.map_or(String::new(), |ratio| format!(", level: {ratio:.2} of the limit"));
                let (mine, best) = (number(mine.value), number(best));
                short.push(format!("{column} {metric} ({mine}, {} {best}: {ratio:.2}{limit})", peer.name));
            }
        }
        let verdict = match (compared, short.is_empty()) {
            (0, _) => return None,
            (_, true) => format!("{} is ahead of every peer that drops nothing in every column.", own.name),
            (_, false) => format!("{} is not ahead in: {}.", own.name, short.join("; ")),
        };
        Some(verdict + &self.unmeasured(cells, columns) + &self.below_figures(cells, columns))
    }

    /// Peers that nothing is said of.
    fn unmeasured(&self, cells: &Cells, columns: &[Column]) -> String {
        let peers = cells.rows.iter().filter(|row| row.kind == Kind::Peer);
        let without =
            peers.flat_map(|row| columns.iter().map(move |column| (*row, *column))).filter(|(row, column)| {
                let has_failed =
                    cells.failures.contains_key(&(*column, row.name)) && self.is_done_by(row.kind, *column);
                has_failed && self.cells(cells, *column, *row).is_empty()
            });
        let without: Vec<String> = without.map(|(row, column)| format!("{}, {column}", row.name)).collect();
        if without.is_empty() { String::new() } else { format!(" Without a figure: {}.", without.join("; ")) }
    }

    /// Where more than being ahead is wanted, and not reached.
    fn below_figures(&self, cells: &Cells, columns: &[Column]) -> String {
        let mut below = Vec::new();
        for column in columns {
            for metric in self.metrics.iter().copied() {
                let Some(Ahead { mine, peer, ratio, .. }) = self.ahead(cells, *column, metric) else { continue };
                let wanted = wanted(self.workload, metric, *column).filter(|wanted| ratio < *wanted);
                below.extend(
                    wanted.map(|wanted| format!("{column} {metric}, {ratio:.2} of {wanted} times {}", peer.name)),
                );
                let limit = cells.ratio((self.workload, metric), *column, mine.value);
                // What is printed as 1.00 is reached.
                let limit = limit.filter(|ratio| wants_the_limit(self.workload) && *ratio < 0.995);
                below.extend(limit.map(|ratio| format!("{column} {metric}, {ratio:.2} of the best raw policy")));
                for row in cells.rows.iter().filter(|row| row.kind == Kind::Peer && row.maps) {
                    let Some(mapped) = cells.get((self.workload, metric), *column, *row) else { continue };
                    let (wanted, ratio) = (beside_maps(self.workload, *column), mine.value / mapped.value);
                    let wanted = wanted.filter(|wanted| ratio < *wanted);
                    below.extend(wanted.map(|wanted| {
                        format!("{column} {metric}, {ratio:.2} of {wanted} times {}, which maps", row.name)
                    }));
                }
            }
        }
        if below.is_empty() { String::new() } else { format!(" Below the figures to reach: {}.", below.join("; ")) }
    }
}

/// How many times as good as the best peer this library is meant to be, where that is more than once.
fn wanted(workload: Workload, metric: Metric, column: Column) -> Option<f64> {
    const MIB: usize = 1 << 20;
    match (workload, metric, column) {
        (Workload::Fill | Workload::Recycled, Metric::Burst, Column { threads: 1, len: MIB }) => Some(1.5),
        (Workload::Fill | Workload::Recycled, Metric::Sustained, Column { threads: 1, len: MIB }) => Some(1.2),
        (Workload::Fill | Workload::Recycled, Metric::Burst, Column { threads: 1, len: 4096 }) => Some(3.0),
        _ => None,
    }
}

/// How many times as good as a peer that reads through a map this library is meant to be.
fn beside_maps(workload: Workload, column: Column) -> Option<f64> {
    (workload == Workload::Cold && matches!(column, Column { threads: 1, len: 65_536 | 1_048_576 })).then_some(3.0)
}

/// Of what is read from the disk each set is meant to reach the better of both raw policies.
fn wants_the_limit(workload: Workload) -> bool {
    matches!(workload, Workload::Cold | Workload::Scarce)
}

/// What a cell says that nobody had time for.
const NOT_MEASURED: &str = "not measured";

/// This library beside the best peer that drops nothing.
struct Ahead {
    mine: Cell,
    peer: Row,
    best: f64,
    /// Below 1 it is behind.
    ratio: f64,
}

/// Three digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.1.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// Never 100 unless it is all.
fn percent(part: f64) -> String {
    if part >= 1.0 { "100".to_owned() } else { format!("{:.1}", (part * 100.0).min(99.9)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Column = Column { threads: 1, len: 4096 };
    const LARGE: Column = Column { threads: 2, len: 1 << 20 };
    const BURST: (Workload, Metric) = (Workload::Fill, Metric::Burst);
    const TABLE: Table = Table {
        title: "Fill",
        intro: "GiB/s, burst / sustained.",
        workload: Workload::Fill,
        metrics: &[Metric::Burst, Metric::Sustained],
    };

    fn row(name: &'static str, kind: Kind) -> Row {
        Row { name, kind, maps: name == "good" }
    }

    fn canned() -> Cells {
        let mut cells = Cells {
            rows: vec![
                row("scratchspace", Kind::Own),
                row("good", Kind::Peer),
                row("dropping", Kind::Peer),
                row("broken", Kind::Peer),
                row("limit", Kind::Limit),
                row("device", Kind::Device),
            ],
            columns: vec![SMALL, LARGE],
            ..Cells::default()
        };
        let mut set = |column, name, values: [f64; 2], readable, cut, runs| {
            for (metric, value) in [Metric::Burst, Metric::Sustained].into_iter().zip(values) {
                cells.values.insert(((Workload::Fill, metric), column, name), Cell { value, runs, cut, readable });
            }
        };
        set(SMALL, "scratchspace", [2.0, 0.5], 1.0, false, 3);
        set(SMALL, "good", [1.0, 0.25], 1.0, true, 1);
        set(SMALL, "dropping", [9.0, 9.0], 0.512_34, false, 3);
        set(SMALL, "limit", [4.0, 0.5], 1.0, false, 3);
        set(SMALL, "device", [8.0, 8.0], 1.0, false, 3);
        set(LARGE, "scratchspace", [9.6, 1.5], 1.0, false, 3);
        set(LARGE, "good", [9.8, 2.0], 1.0, false, 3);
        set(LARGE, "limit", [10.0, 2.0], 1.0, false, 3);
        cells.failures.insert((SMALL, "broken"), vec!["signal 9".to_owned()]);
        cells
    }

    #[test]
    fn a_table_shows_ratios_the_best_peer_drops_cuts_runs_failures_and_where_it_falls_short() {
        let text = TABLE.markdown(&canned()).unwrap();
        let expected = "### Fill\n\nGiB/s, burst / sustained.\n\n\
            | | 4 KiB | 1 MiB, 2 threads |\n|---|---|---|\n\
            | scratchspace | 2.00 / 0.500 (0.50 / 1.00) | 9.60 / 1.50 (0.96 / 0.75) |\n\
            | good | **1.00** / **0.250** (0.25 / 0.50), cut ¹ | **9.80** / **2.00** (0.98 / 1.00) |\n\
            | dropping | 9.00 / 9.00 (2.25 / 18.00), 51.2 % readable |  |\n\
            | broken | failed |  |\n\
            | limit | 4.00 / 0.500 (1.00 / 1.00) | 10.0 / 2.00 (1.00 / 1.00) |\n\
            | device | 8.00 / 8.00 (2.00 / 16.00) |  |\n\
            | *times the best peer* | 2.00 / 2.00 | 0.98 / 0.75 |\n\n\
            scratchspace is not ahead in: 1 MiB, 2 threads burst (9.60, good 9.80: 0.98, level: 0.96 of the limit); \
            1 MiB, 2 threads sustained (1.50, good 2.00: 0.75). Without a figure: broken, 4 KiB. \
            Below the figures to reach: 4 KiB burst, 2.00 of 3 times good.\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_table_without_a_row_that_is_ahead_says_so_and_one_without_cells_is_none() {
        let mut cells = canned();
        cells.columns = vec![SMALL];
        let text = TABLE.markdown(&cells).unwrap();
        assert!(
            text.contains(
                "\nscratchspace is ahead of every peer that drops nothing in every column. Without a figure: "
            ),
            "{text}"
        );
        cells.failures.insert((SMALL, "broken"), vec!["not measured, for the time was over".to_owned()]);
        assert!(TABLE.markdown(&cells).unwrap().contains("| broken | not measured |"));
        assert_eq!(Table { workload: Workload::Hot, ..TABLE }.markdown(&cells), None);
        cells.rows.retain(|row| row.kind != Kind::Own);
        assert!(!TABLE.markdown(&cells).unwrap().contains("ahead"));
    }

    #[test]
    fn whoever_waits_longer_is_behind() {
        let mut cells = canned();
        for (name, value) in [("scratchspace", 3.0), ("good", 2.0), ("dropping", 1.0)] {
            let cell = Cell { value, runs: 3, cut: false, readable: 1.0 };
            cells.values.insert(((Workload::Reopen, Metric::First), SMALL, name), cell);
        }
        let reopen = Table { workload: Workload::Reopen, metrics: &[Metric::First], ..TABLE };
        let text = reopen.markdown(&cells).unwrap();
        assert!(text.contains("| good | **2.00** |") && text.contains("4 KiB first (3.00, good 2.00: 0.67)"), "{text}");
        assert_eq!(cells.best(BURST, SMALL, Kind::Peer).unwrap().0.name, "good");
    }

    #[test]
    fn cold_reads_are_held_against_peers_that_map() {
        const COLD: Table = Table { workload: Workload::Cold, metrics: &[Metric::Rate], ..TABLE };
        for (len, peer, says) in
            [(65_536, "good", true), (1 << 20, "good", true), (4096, "good", false), (65_536, "dropping", false)]
        {
            let (mut cells, column) = (canned(), Column { threads: 1, len });
            cells.columns = vec![column];
            for (name, value) in [("scratchspace", 2.0), (peer, 0.8)] {
                let cell = Cell { value, runs: 3, cut: false, readable: 1.0 };
                cells.values.insert(((Workload::Cold, Metric::Rate), column, name), cell);
            }
            let text = COLD.markdown(&cells).unwrap();
            assert_eq!(text.contains("rate, 2.50 of 3 times good, which maps."), says, "{text}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.0, 0.012_34, 0.123_4, 1.234, 12.34, 123.4].map(number);
        assert_eq!(written, ["0", "0.0123", "0.123", "1.23", "12.3", "123"]);
        assert_eq!([0.0, 0.5, 0.9999, 1.0].map(percent), ["0.0", "50.0", "99.9", "100"]);
    }
}
