//! The numbers of all rounds, one for each row, column and measure.
//!
//! # Invariants
//!
//! 1. A store that has dropped blocks of a fill is compared with nobody in that column, and with nobody in a table in which it
//!    has dropped some.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::grid::Column;
use crate::measure::{Metric, Workload, median};
use crate::slot::Slot;
use crate::store::{Kind, Peer};

/// A store, as a row of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// It reads through a map.
    pub(crate) maps: bool,
}

impl From<Peer> for Row {
    fn from(Peer { name, kind, maps, .. }: Peer) -> Self {
        Self { name, kind, maps }
    }
}

/// A peer that is as near as this to the best one may be that one in another pass.
const NEAR: f64 = 0.8;

/// The median of the passes of all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) value: f64,
    pub(crate) runs: usize,
    /// One of the passes was.
    pub(crate) cut: bool,
    /// The least of the passes.
    pub(crate) readable: f64,
}

/// What is measured, as a group of columns.
pub(crate) type What = (Workload, Metric);

/// All cells of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cells {
    pub(crate) rows: Vec<Row>,
    pub(crate) columns: Vec<Column>,
    pub(crate) values: BTreeMap<(What, Column, &'static str), Cell>,
    /// Why there is less than was asked for.
    pub(crate) failures: BTreeMap<(Column, &'static str), Vec<String>>,
}

impl Cells {
    pub(crate) fn of(slots: &[Slot], order: &[Row]) -> Self {
        let mut cells = Self::default();
        for slot in slots {
            let measured = slot.runs.iter().flatten();
            let mut whats: Vec<What> = measured.map(|measure| (measure.workload, measure.metric)).collect();
            whats.sort_unstable();
            whats.dedup();
            for what in whats {
                let of_what =
                    || slot.runs.iter().flatten().filter(|measure| (measure.workload, measure.metric) == what);
                let Some(value) = median(of_what().map(|measure| measure.value).collect()) else { continue };
                let cell = Cell {
                    value,
                    runs: of_what().count(),
                    cut: of_what().any(|measure| measure.cut),
                    readable: of_what().map(|measure| measure.readable).fold(1.0, f64::min),
                };
                cells.values.insert((what, slot.column, slot.peer.name), cell);
            }
            if !slot.failures.is_empty() {
                cells.failures.insert((slot.column, slot.peer.name), slot.failures.clone());
            }
            if !cells.columns.contains(&slot.column) {
                cells.columns.push(slot.column);
            }
        }
        cells.columns.sort_unstable();
        let is_there = |row: &&Row| slots.iter().any(|slot| slot.peer.name == row.name);
        cells.rows = order.iter().filter(is_there).copied().collect();
        cells
    }

    pub(crate) fn get(&self, what: What, column: Column, row: Row) -> Option<Cell> {
        self.values.get(&(what, column, row.name)).copied()
    }

    /// Whether a store has kept less than it was given, in a column of a table. A store of a bounded size forgets.
    pub(crate) fn drops(&self, of: Workload, column: Column, row: Row) -> bool {
        let is_of = |workload| workload == Workload::Fill || workload == of && workload != Workload::Bounded;
        let cells = self.values.iter();
        cells
            .filter(|(((workload, _), at, name), _)| is_of(*workload) && *at == column && *name == row.name)
            .any(|(_, cell)| cell.readable < 1.0)
    }

    /// The best row of a kind that drops nothing, and its value.
    pub(crate) fn best(&self, what: What, column: Column, kind: Kind) -> Option<(Row, f64)> {
        let rows = self.rows.iter().filter(|row| row.kind == kind && !self.drops(what.0, column, **row));
        let cells = rows.filter_map(|row| Some((*row, self.get(what, column, *row)?.value)));
        let more_is_better = what.1.more_is_better();
        cells.reduce(|best, one| if (one.1 > best.1) == more_is_better { one } else { best })
    }

    /// Whether a row of a column is measured again in this: this library, the limits, and whoever may be the best peer.
    pub(crate) fn contends(&self, of: Workload, column: Column, row: Row) -> bool {
        let is_near = |what: What| {
            let Some((_, best)) = self.best(what, column, Kind::Peer) else { return false };
            let Some(cell) = self.get(what, column, row).filter(|_| !self.drops(what.0, column, row)) else {
                return false;
            };
            let ratio = if what.1.more_is_better() { cell.value / best } else { best / cell.value };
            ratio >= NEAR
        };
        match row.kind {
            Kind::Own | Kind::Limit => true,
            Kind::Device => false,
            Kind::Peer => {
                let mut whats = self.values.keys().map(|(what, ..)| *what);
                whats.any(|what| what.0 == of && is_near(what))
            }
        }
    }

    /// How a value compares with the best of the limits: less than 1 is behind it.
    pub(crate) fn ratio(&self, what: What, column: Column, value: f64) -> Option<f64> {
        let (_, limit) = self.best(what, column, Kind::Limit)?;
        match what.1 {
            metric if metric.more_is_better() => Some(value / limit),
            Metric::First => Some(limit / value),
            // A limit looks for nothing.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_be_the_best_peer_is_measured_again_beside_this_library_and_the_limits() {
        let column = Column { threads: 1, len: 4096 };
        let mut cells = Cells { columns: vec![column], ..Cells::default() };
        let kinds = [("own", Kind::Own), ("limit", Kind::Limit), ("device", Kind::Device)];
        let names = ["best", "near", "far", "soonest", "dropping", "writer"].map(|name| (name, Kind::Peer));
        cells.rows = kinds.into_iter().chain(names).map(|(name, kind)| Row { name, kind, maps: false }).collect();
        let mut set = |what: What, name, value, readable| {
            cells.values.insert((what, column, name), Cell { value, runs: 1, cut: false, readable });
        };
        for (name, burst, first) in [
            ("own", 0.1, 90.0),
            ("limit", 9.0, 1.0),
            ("device", 9.0, 1.0),
            ("best", 2.0, 50.0),
            ("near", 1.7, 50.0),
            ("far", 1.5, 13.0),
            ("soonest", 0.1, 10.0),
            ("writer", 0.1, 50.0),
        ] {
            set((Workload::Fill, Metric::Burst), name, burst, 1.0);
            set((Workload::Reopen, Metric::First), name, first, 1.0);
        }
        set((Workload::Fill, Metric::Burst), "dropping", 5.0, 0.9);
        set((Workload::Mixed, Metric::WriteRate), "writer", 5.0, 1.0);
        let contend = |of| -> Vec<&str> {
            cells.rows.iter().filter(|row| cells.contends(of, column, **row)).map(|row| row.name).collect()
        };
        assert_eq!(contend(Workload::Fill), ["own", "limit", "best", "near"]);
        assert_eq!(contend(Workload::Reopen), ["own", "limit", "soonest"]);
        assert_eq!(contend(Workload::Mixed), ["own", "limit", "writer"]);
    }
}
