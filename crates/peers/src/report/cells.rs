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
use crate::run::Slot;
use crate::store::Kind;

/// A store, as a row of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// The median of the passes of all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) value: f64,
    pub(super) runs: usize,
    /// One of the passes was.
    pub(super) cut: bool,
    /// The least of the passes.
    pub(super) readable: f64,
}

/// What is measured, as a group of columns.
pub(super) type What = (Workload, Metric);

/// All cells of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Cells {
    pub(super) rows: Vec<Row>,
    pub(super) columns: Vec<Column>,
    pub(super) values: BTreeMap<(What, Column, &'static str), Cell>,
    /// Why there is less than was asked for.
    pub(super) failures: BTreeMap<(Column, &'static str), Vec<String>>,
}

impl Cells {
    pub(super) fn of(slots: &[Slot], order: &[Row]) -> Self {
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

    pub(super) fn get(&self, what: What, column: Column, row: Row) -> Option<Cell> {
        self.values.get(&(what, column, row.name)).copied()
    }

    /// Whether a store has kept less than it was given, in a column of a table. A store of a bounded size forgets.
    pub(super) fn drops(&self, of: Workload, column: Column, row: Row) -> bool {
        let is_of = |workload| workload == Workload::Fill || workload == of && workload != Workload::Bounded;
        let cells = self.values.iter();
        cells
            .filter(|(((workload, _), at, name), _)| is_of(*workload) && *at == column && *name == row.name)
            .any(|(_, cell)| cell.readable < 1.0)
    }

    /// The best row of a kind that drops nothing, and its value.
    pub(super) fn best(&self, what: What, column: Column, kind: Kind) -> Option<(Row, f64)> {
        let rows = self.rows.iter().filter(|row| row.kind == kind && !self.drops(what.0, column, **row));
        let cells = rows.filter_map(|row| Some((*row, self.get(what, column, *row)?.value)));
        let more_is_better = what.1.more_is_better();
        cells.reduce(|best, one| if (one.1 > best.1) == more_is_better { one } else { best })
    }

    /// How a value compares with the best of the limits: less than 1 is behind it.
    pub(super) fn ratio(&self, what: What, column: Column, value: f64) -> Option<f64> {
        let (_, limit) = self.best(what, column, Kind::Limit)?;
        match what.1 {
            metric if metric.more_is_better() => Some(value / limit),
            Metric::First => Some(limit / value),
            // A limit looks for nothing.
            _ => None,
        }
    }
}
