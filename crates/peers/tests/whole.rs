//! Whole runs of the program on small sets, from its command line.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

const HEAD: &str = "workload,metric,unit,store,block_bytes,threads,value,runs,cut,readable";
const STORES: [&str; 10] =
    ["scratchspace", "foyer", "foyer-queue", "lmdb", "redb", "fjall", "rocksdb", "cacache", "files", "device"];
const LIMITS: [&str; 4] = ["limit-pwrite", "limit-exact", "limit-map", "limit-kept"];

fn peers(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peers")).args(arguments).output().unwrap()
}

fn succeeded(output: &Output) -> String {
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{failed}", output.status);
    said.into_owned()
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn all_stores_do_all_workloads_and_the_report_is_well_formed() {
    let out = benchkit::folder();
    let path = out.path().to_str().unwrap();
    let said = succeeded(&peers(&["--quick", "--size", "4k", "--blocks", "64", "--out", path]));
    let markdown = read(out.path(), "BENCHMARKS.md");
    assert!(
        said.contains("## Beside other stores") && markdown.contains(said.trim()),
        "what is printed is written\n{said}"
    );
    assert!(!said.contains("failed"), "{said}");
    for table in markdown.split("\n### ").filter(|part| part.contains("|---|")) {
        let widths: BTreeSet<usize> =
            table.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(widths.len(), 1, "{table}");
    }
    check_csv(&read(out.path(), "docs/peers.csv"), &said);
    for chart in ["fill", "recycled", "hot", "cold", "reopen"] {
        let svg = read(out.path(), &format!("docs/peers-{chart}.svg"));
        assert!(
            svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("scratchspace"),
            "{chart}"
        );
        assert!(markdown.contains(&format!("docs/peers-{chart}.svg")), "{chart}");
    }
}

/// Each store has every measure that it should, and kept what it was given.
fn check_csv(csv: &str, said: &str) {
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some(HEAD));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == HEAD.split(',').count()), "{csv}");
    for store in STORES.into_iter().chain(LIMITS) {
        // Not every machine has its library, or a disk that can be read past the page cache.
        if said.contains(&format!("{store} was skipped")) {
            assert!(["rocksdb", "device"].contains(&store), "{said}");
            continue;
        }
        let of_store: Vec<_> = rows.iter().filter(|row| row[3] == store).collect();
        let workloads: BTreeSet<&str> = of_store.iter().map(|row| row[0]).collect();
        let expected: &[&str] = match store {
            "limit-exact" => &["hot", "cold"],
            "limit-kept" => &["fill", "recycled"],
            "foyer-queue" => &["fill", "recycled", "bounded"],
            "device" => &["fill", "recycled", "cold"],
            "limit-pwrite" | "limit-map" => &["fill", "recycled", "hot", "cold", "mixed", "reopen"],
            _ => &["fill", "recycled", "hot", "cold", "mixed", "reopen", "bounded"],
        };
        for workload in ["fill", "recycled", "hot", "cold", "mixed", "reopen", "bounded"] {
            assert_eq!(workloads.contains(workload), expected.contains(&workload), "{store} {workload}\n{said}");
        }
        for row in of_store {
            let (value, readable): (f64, f64) = (row[6].parse().unwrap(), row[9].parse().unwrap());
            assert!(value.is_finite() && value > 0.0, "{row:?}");
            assert!(readable >= 1.0 || row[0] == "bounded" || store == "foyer-queue", "{row:?}");
            assert_eq!(row[8], "false", "nothing is cut: {row:?}");
        }
    }
}

#[test]
fn two_threads_and_some_stores_only_are_measured_where_that_is_asked_for() {
    let out = benchkit::folder();
    let path = out.path().to_str().unwrap();
    let only = ["--only", "limit-map,scratchspace", "--workload", "fill,hot"];
    let arguments = [&["--quick", "--size", "64KiB", "--blocks", "16", "--out", path][..], &only].concat();
    let said = succeeded(&peers(&arguments));
    let csv = read(out.path(), "docs/peers.csv");
    let rows: BTreeSet<(&str, &str, &str)> = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').collect::<Vec<_>>())
        .map(|row| (row[0], row[3], row[5]))
        .collect();
    let expected = ["fill", "hot"].into_iter().flat_map(|workload| {
        let stores = ["scratchspace", "limit-map"].into_iter();
        stores.flat_map(move |store| ["1", "2"].into_iter().map(move |threads| (workload, store, threads)))
    });
    assert_eq!(rows, expected.collect(), "{said}");
}

#[test]
fn who_is_compared_is_measured_round_after_round_in_what_is_compared() {
    let out = benchkit::folder();
    let path = out.path().to_str().unwrap();
    let only = ["--only", "scratchspace,lmdb,limit-map,device", "--workload", "fill,reopen,mixed"];
    let said = succeeded(&peers(&[&["--full", "--size", "4k", "--blocks", "16", "--out", path][..], &only].concat()));
    let csv = read(out.path(), "docs/peers.csv");
    let runs = |workload: &str, store: &str| -> BTreeSet<u32> {
        let rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        rows.filter(|row| row[0] == workload && row[3] == store).map(|row| row[7].parse().unwrap()).collect()
    };
    for store in ["scratchspace", "lmdb", "limit-map"] {
        for workload in ["fill", "reopen"] {
            let runs = runs(workload, store);
            assert!(!runs.is_empty() && runs.into_iter().all(|runs| runs >= 3), "{store}, {workload}\n{said}");
        }
        assert_eq!(runs("mixed", store), BTreeSet::from([1]), "{store}\n{said}");
    }
    if !said.contains("device was skipped") {
        assert_eq!(runs("fill", "device"), BTreeSet::from([1]), "{said}");
    }
}

#[test]
fn a_set_twice_as_large_as_the_memory_of_a_group_is_read_in_it() {
    let out = benchkit::folder();
    let path = out.path().to_str().unwrap();
    let only = ["--only", "scratchspace,limit-exact", "--workload", "scarce"];
    let arguments = [&["--quick", "--size", "64KiB", "--blocks", "2048", "--out", path][..], &only].concat();
    let said = succeeded(&peers(&arguments));
    if let Some(why) = said.lines().find(|line| line.contains("reads with little memory were skipped")) {
        return benchkit::skipped(why);
    }
    let csv = read(out.path(), "docs/peers.csv");
    for store in ["scratchspace", "limit-exact"] {
        assert!(
            csv.lines().any(|line| line.starts_with(&format!("scarce,rate,GiB/s,{store},65536,1,"))),
            "{csv}\n{said}"
        );
    }
}

#[test]
fn text_outside_the_comments_stays_and_a_file_with_half_of_them_is_refused() {
    let out = benchkit::folder();
    let path = out.path().to_str().unwrap();
    let arguments = ["--only", "limit-pwrite", "--workload", "hot", "--size", "4k", "--blocks", "16", "--out", path];
    let file = out.path().join("BENCHMARKS.md");
    std::fs::write(&file, "before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nafter\n").unwrap();
    succeeded(&peers(&arguments));
    let text = read(out.path(), "BENCHMARKS.md");
    assert!(
        text.starts_with("before\n<!-- peers: begin -->\n") && text.ends_with("<!-- peers: end -->\nafter\n"),
        "{text}"
    );
    assert!(!text.contains("\nold\n") && text.contains("limit-pwrite"), "{text}");

    let half = "nothing\n<!-- peers: begin -->\n";
    std::fs::write(&file, half).unwrap();
    let refused = peers(&arguments);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("peers: end"));
    assert_eq!(read(out.path(), "BENCHMARKS.md"), half);
}

#[test]
fn a_long_burst_is_told_with_the_time_of_its_longest_put() {
    let out = benchkit::folder();
    let path = out.path().to_str().unwrap();
    let only = ["--only", "scratchspace,limit-pwrite,files", "--workload", "long"];
    let said = succeeded(&peers(&[&only[..], &["--size", "1M", "--blocks", "16", "--out", path]].concat()));
    let csv = read(out.path(), "docs/peers.csv");
    for store in ["scratchspace", "limit-pwrite"] {
        for metric in ["rate,GiB/s", "write-p50,us", "write-max,us"] {
            assert!(csv.contains(&format!("\nlong,{metric},{store},1048576,1,")), "{csv}\n{said}");
        }
    }
    assert!(!csv.contains("files"), "{csv}");
}

#[test]
fn figures_are_those_that_were_measured_and_stand_beside_the_other_part() {
    let (criterion, out) = (benchkit::folder(), benchkit::folder());
    for (name, nanos) in [("put_many of 64, burst", "900.0"), ("put, from 64 buffers, burst", "450.0")] {
        let run = criterion.path().join(name).join("new");
        std::fs::create_dir_all(&run).unwrap();
        let benchmark =
            format!(r#"{{"full_id":"passes/4 KiB, files used again/{name}","throughput":{{"Bytes":4096}}}}"#);
        std::fs::write(run.join("benchmark.json"), benchmark).unwrap();
        std::fs::write(run.join("estimates.json"), format!(r#"{{"median":{{"point_estimate":{nanos}}}}}"#)).unwrap();
    }
    let [from, to] = [&criterion, &out].map(|folder| folder.path().to_str().unwrap());
    std::fs::write(out.path().join("BENCHMARKS.md"), "before\n").unwrap();
    let said = succeeded(&peers(&["figures", "--criterion", from, "--out", to]));
    assert!(said.contains("| 0.50 (4.24 GiB/s and 8.48 GiB/s) | **short** |"), "{said}");
    let text = read(out.path(), "BENCHMARKS.md");
    assert!(text.starts_with("before\n\n<!-- figures: begin -->\n") && text.contains(said.trim()), "{text}");
}

#[test]
fn what_is_not_there_is_told_before_anything_is_measured() {
    for (arguments, says) in [
        (["--only", "nobody"], "scratchspace"),
        (["--size", "4x"], "4k"),
        (["--blocks", "60"], "power of two"),
        (["--workload", "nothing"], "recycled"),
    ] {
        let refused = peers(&arguments);
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}
