//! The figures that this library means to reach, held against what criterion has measured: `RUSTFLAGS="--cfg benching" cargo bench`, and
//! then `cargo run --release -p peers -- figures`.
//!
//! # Invariants
//!
//! 1. A figure is a ratio to a row of the same run of the same bench, or a time: none is compared with what is written down.
#![forbid(unsafe_code)]

mod rows;
mod wanted;

use std::path::Path;

use crate::machine;
use crate::report::markers::{self, FIGURES as PART};
use crate::report::number;
use crate::store::Failure;
use rows::{Row, Rows, Work};
use wanted::{Bound, FIGURES, Figure};

/// Bytes of a GiB, in as many nanoseconds as a second has.
const GIB_A_SECOND: f64 = 1_073_741_824.0 / 1e9;

/// What came out of a figure: how it is written, and whether it is reached.
struct Verdict {
    wanted: String,
    measured: String,
    reached: bool,
}

impl Figure {
    fn row<'a>(&self, rows: &'a Rows) -> Option<&'a Row> {
        let Some(start) = self.row.strip_suffix('*') else { return rows.get(self.row) };
        let named = rows.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, row)| row);
        named.max_by(|one, other| one.nanos_each().total_cmp(&other.nanos_each()))
    }

    /// `None` if one of its rows was not measured.
    fn verdict(&self, rows: &Rows) -> Option<Verdict> {
        let row = self.row(rows)?;
        let other = |name: &str| rows.get(name).copied();
        Some(match self.bound {
            Bound::Rate(least, of) => {
                let ratio = row.rate() / other(of)?.rate();
                Verdict {
                    wanted: format!("≥ {least} of `{of}`"),
                    measured: format!("{ratio:.2} ({} and {})", speed(*row), speed(other(of)?)),
                    reached: ratio >= least,
                }
            }
            Bound::Times(most, of) => {
                let ratio = row.nanos_each() / other(of)?.nanos_each();
                Verdict {
                    wanted: format!("≤ {most} × `{of}`"),
                    measured: format!("{ratio:.2} ({} and {})", time(row.nanos_each()), time(other(of)?.nanos_each())),
                    reached: ratio <= most,
                }
            }
            Bound::More(most, of) => {
                let more = row.nanos_each() - other(of)?.nanos_each();
                Verdict {
                    wanted: format!("≤ {} more than `{of}`", time(most)),
                    measured: format!(
                        "{} ({} and {})",
                        time(more),
                        time(row.nanos_each()),
                        time(other(of)?.nanos_each())
                    ),
                    reached: more <= most,
                }
            }
            Bound::MoreTimes(most, of, unit) => {
                let more = (row.nanos_each() - other(of)?.nanos_each()) / other(unit)?.nanos_each();
                Verdict {
                    wanted: format!("≤ {most} × `{unit}` more than `{of}`"),
                    measured: format!("{more:.2} ({} and {})", time(row.nanos_each()), time(other(of)?.nanos_each())),
                    reached: more <= most,
                }
            }
            Bound::Scaling(least, one, [of_one, of_two]) => {
                let (own, limit) = (row.rate() / other(one)?.rate(), other(of_two)?.rate() / other(of_one)?.rate());
                Verdict {
                    wanted: format!("≥ {least} of what two threads gain `{of_two}`"),
                    measured: format!("{:.2} ({own:.2} times and {limit:.2} times)", own / limit),
                    reached: own / limit >= least,
                }
            }
            Bound::Whole(most) => {
                Verdict { wanted: format!("≤ {}", time(most)), measured: time(row.nanos), reached: row.nanos <= most }
            }
            Bound::Nanos(most) => Verdict {
                wanted: format!("≤ {}", time(most)),
                measured: time(row.nanos_each()),
                reached: row.nanos_each() <= most,
            },
        })
    }
}

/// A rate, in what it counts.
fn speed(row: Row) -> String {
    match row.work {
        Work::Bytes(_) => format!("{} GiB/s", number(row.rate() / GIB_A_SECOND)),
        Work::Elements(_) => time(row.nanos_each()),
    }
}

/// A time in the unit that gives it one to three digits before the point.
fn time(nanos: f64) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "µs")];
    let unit = units.into_iter().find(|(unit, _)| nanos.abs() >= *unit);
    unit.map_or(format!("{} ns", number(nanos)), |(unit, name)| format!("{} {name}", number(nanos / unit)))
}

/// The part of a document: the figures, and every row.
fn markdown(rows: &Rows, machine: &str) -> String {
    let mut text = format!(
        "## Figures to reach\n\n`RUSTFLAGS=\"--cfg benching\" cargo bench`, then `cargo run --release -p peers -- figures`, on {machine}.\n\nEach figure is \
         a ratio to a row of the same run. Medians.\n\n| | wanted | measured | |\n|---|---|---|---|\n"
    );
    text.extend(FIGURES.iter().map(|figure| {
        let (what, verdict) = (figure.what, figure.verdict(rows));
        verdict.map_or(format!("| {what} | | not measured | |\n"), |verdict| {
            let word = if verdict.reached { "reached" } else { "**short**" };
            format!("| {what} | {} | {} | {word} |\n", verdict.wanted, verdict.measured)
        })
    }));
    text.push_str("\n### Every row of the benches\n\n| | time | |\n|---|---|---|\n");
    text.extend(rows.iter().map(|(name, row)| {
        let rate = match row.work {
            Work::Bytes(_) => speed(*row),
            Work::Elements(1) => String::new(),
            Work::Elements(_) => format!("{} each", time(row.nanos_each())),
        };
        format!("| {name} | {} | {rate} |\n", time(row.nanos))
    }));
    text
}

/// Reads criterion's folder, and writes the figures into `BENCHMARKS.md` below `root`.
pub(crate) fn run(criterion: &Path, root: &Path) -> Result<(), Failure> {
    let part = markdown(&rows::read(criterion)?, &machine::describe(benchkit::folder().path()));
    println!("{part}");
    markers::write(&root.join("BENCHMARKS.md"), PART, &part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(nanos: f64, work: Work) -> Row {
        Row { nanos, work }
    }

    fn verdict(bound: Bound, row: Row, other: Row) -> (String, bool) {
        let rows = Rows::from([("this".to_owned(), row), ("that".to_owned(), other)]);
        let verdict = Figure { what: "a figure", row: "this", bound }.verdict(&rows).unwrap();
        (verdict.measured, verdict.reached)
    }

    #[test]
    fn a_figure_is_reached_at_its_bound_and_not_beyond_it() {
        let (mib, many) = (Work::Bytes(1 << 20), Work::Elements(256));
        let (two, one) = (row(2e6, mib), row(1e6, mib));
        assert_eq!(
            verdict(Bound::Rate(0.5, "that"), two, one),
            ("0.50 (0.488 GiB/s and 0.977 GiB/s)".to_owned(), true)
        );
        assert!(!verdict(Bound::Rate(0.51, "that"), two, one).1);
        let each = row(256.0 * 40.0, many);
        assert_eq!(verdict(Bound::Nanos(40.0), each, one), ("40.0 ns".to_owned(), true));
        assert!(!verdict(Bound::Nanos(39.9), each, one).1);
        assert!(verdict(Bound::Whole(10_240.0), each, one).1 && !verdict(Bound::Whole(10_239.0), each, one).1);
        let read = row(100.0, Work::Elements(1));
        assert_eq!(verdict(Bound::Times(0.4, "that"), each, read), ("0.40 (40.0 ns and 100 ns)".to_owned(), true));
        assert!(!verdict(Bound::Times(0.39, "that"), each, read).1);
        assert_eq!(verdict(Bound::More(60.0, "that"), read, each), ("60.0 ns (100 ns and 40.0 ns)".to_owned(), true));
        assert!(!verdict(Bound::More(59.0, "that"), read, each).1);
    }

    #[test]
    fn what_two_threads_gain_is_held_against_what_they_gain_the_limit() {
        let named = |name: &str, nanos| (name.to_owned(), row(nanos, Work::Bytes(1 << 20)));
        let rows = Rows::from([named("one", 10.0), named("two", 6.0), named("of one", 8.0), named("of two", 4.0)]);
        let verdict = |least| {
            let bound = Bound::Scaling(least, "one", ["of one", "of two"]);
            let verdict = Figure { what: "a figure", row: "two", bound }.verdict(&rows).unwrap();
            (verdict.measured, verdict.reached)
        };
        assert_eq!(verdict(0.83), ("0.83 (1.67 times and 2.00 times)".to_owned(), true));
        assert!(!verdict(0.84).1);
    }

    #[test]
    fn what_a_figure_may_take_more_is_counted_in_a_third_row_and_of_several_rows_the_slowest_counts() {
        let named = |name: &str, nanos| (name.to_owned(), row(nanos, Work::Elements(1)));
        let rows =
            Rows::from([named("this 1", 300.0), named("this 2", 500.0), named("that", 100.0), named("unit", 200.0)]);
        let verdict = |most| {
            let bound = Bound::MoreTimes(most, "that", "unit");
            let verdict = Figure { what: "a figure", row: "this *", bound }.verdict(&rows).unwrap();
            (verdict.measured, verdict.reached)
        };
        assert_eq!(verdict(2.0), ("2.00 (500 ns and 100 ns)".to_owned(), true));
        assert!(!verdict(1.9).1);
    }

    #[test]
    fn what_was_not_measured_is_named_and_every_row_is_listed() {
        let rows = Rows::from([("index/limit".to_owned(), row(1536.0, Work::Elements(2)))]);
        let text = markdown(&rows, "a machine");
        assert_eq!(text.matches("not measured").count(), FIGURES.len());
        assert!(
            text.contains("on a machine.\n") && text.ends_with("| index/limit | 1.54 µs | 768 ns each |\n"),
            "{text}"
        );
    }

    #[test]
    fn times_have_units_of_their_size() {
        let written = [0.5, 999.0, 1e3, 2.5e6, 3e9, -40.0].map(time);
        assert_eq!(written, ["0.500 ns", "999 ns", "1.00 µs", "2.50 ms", "3.00 s", "-40.0 ns"]);
    }
}
