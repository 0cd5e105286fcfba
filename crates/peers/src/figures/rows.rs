//! What criterion has measured: a row for each of its benchmarks.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::store::Failure;

/// One benchmark: its median time, and what it gets done in that time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) nanos: f64,
    pub(super) work: Work,
}

/// What an iteration does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Work {
    Bytes(u64),
    Elements(u64),
}

impl Row {
    /// Bytes, or elements, a nanosecond.
    #[expect(clippy::cast_precision_loss, reason = "a rate of three digits")]
    pub(super) fn rate(self) -> f64 {
        let (Work::Bytes(count) | Work::Elements(count)) = self.work;
        count as f64 / self.nanos
    }

    /// Nanoseconds of an element; of everything, where bytes are counted.
    pub(super) fn nanos_each(self) -> f64 {
        match self.work {
            Work::Bytes(_) => self.nanos,
            Work::Elements(_) => 1.0 / self.rate(),
        }
    }
}

/// All rows, by the name that criterion prints.
pub(super) type Rows = BTreeMap<String, Row>;

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<Work>,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// All benches take less. What is older than the newest row by more is of another run, or of a bench that is gone.
const RUN: Duration = Duration::from_hours(2);

/// The newest run of the benchmarks below criterion's folder.
///
/// # Errors
///
/// If there is none, or one of them cannot be read or counts nothing.
pub(super) fn read(folder: &Path) -> Result<Rows, Failure> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name == "new") {
                let text = |name| fs::read_to_string(path.join(name));
                let told = |what: &str| format!("{}: {what}", path.display());
                let benchmark: Benchmark = serde_json::from_str(&text("benchmark.json")?)?;
                let estimates: Estimates = serde_json::from_str(&text("estimates.json")?)?;
                let work = benchmark.throughput.ok_or_else(|| told("a benchmark without throughput"))?;
                let measured: SystemTime = fs::metadata(path.join("estimates.json"))?.modified()?;
                found.push((measured, benchmark.full_id, Row { nanos: estimates.median.point_estimate, work }));
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    let newest = found.iter().map(|(measured, ..)| *measured).max();
    let newest = newest.ok_or_else(|| format!("{}: no benchmark has run", folder.display()))?;
    let of_run =
        found.into_iter().filter(|(measured, ..)| newest.duration_since(*measured).is_ok_and(|age| age <= RUN));
    Ok(of_run.map(|(_, name, row)| (name, row)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_from_where_criterion_leaves_them_and_older_runs_are_not() {
        let folder = benchkit::folder();
        assert!(read(folder.path()).is_err_and(|error| error.to_string().contains("no benchmark has run")));
        for (run, nanos) in [("base", 5.0), ("new", 512.0)] {
            let run = folder.path().join("write_4 KiB/put").join(run);
            fs::create_dir_all(&run).unwrap();
            let benchmark = r#"{"group_id":"write/4 KiB","full_id":"write/4 KiB/put","throughput":{"Bytes":4096}}"#;
            fs::write(run.join("benchmark.json"), benchmark).unwrap();
            let estimates = format!(r#"{{"mean":{{"point_estimate":9.0}},"median":{{"point_estimate":{nanos}}}}}"#);
            fs::write(run.join("estimates.json"), estimates).unwrap();
        }
        let row = Row { nanos: 512.0, work: Work::Bytes(4096) };
        assert_eq!(read(folder.path()).unwrap(), Rows::from([("write/4 KiB/put".to_owned(), row)]));
        let each = Row { work: Work::Elements(256), ..row };
        assert_eq!(
            [row.rate(), row.nanos_each(), each.nanos_each()].map(|value| format!("{value:.3}")),
            ["8.000", "512.000", "2.000"]
        );
        // One that was not run again.
        let old = folder.path().join("write_4 KiB/old/new");
        fs::create_dir_all(&old).unwrap();
        for file in ["benchmark.json", "estimates.json"] {
            let text = fs::read_to_string(folder.path().join("write_4 KiB/put/new").join(file)).unwrap();
            fs::write(old.join(file), text.replace("KiB/put", "KiB/old")).unwrap();
        }
        assert_eq!(read(folder.path()).unwrap().len(), 2);
        let estimates = fs::File::options().write(true).open(old.join("estimates.json")).unwrap();
        estimates.set_modified(SystemTime::now() - RUN - Duration::from_mins(1)).unwrap();
        assert_eq!(read(folder.path()).unwrap().into_keys().collect::<Vec<_>>(), ["write/4 KiB/put"]);
        fs::write(folder.path().join("write_4 KiB/put/new/benchmark.json"), "{}").unwrap();
        read(folder.path()).unwrap_err();
    }
}
