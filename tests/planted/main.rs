//! The lists of hazards agree with the code: `bugs.txt` names the test that must catch each planted bug, `docs/hazards.md` the
//! tests of each hazard.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The hazards whose rules must be broken once each to see a test fail. Neither the list nor the code alone says which:
/// a bug that is dropped from both is missed here.
const MUST_BE_PLANTED: [u8; 27] =
    [1, 3, 4, 6, 7, 14, 16, 19, 20, 21, 22, 25, 29, 30, 31, 34, 42, 48, 50, 51, 52, 53, 54, 55, 56, 57, 58];

/// Number, target, test, and what it does.
fn listed() -> Vec<(u8, String, String)> {
    let bugs = include_str!("bugs.txt").lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [number, target, test, what] = columns[..] else { panic!("{line}") };
        assert!(!what.is_empty(), "{line}");
        (number.parse().unwrap(), target.to_owned(), test.to_owned())
    };
    bugs.map(parse).collect()
}

/// Every Rust file below a folder.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn each_bug_that_is_planted_is_listed_once_and_each_listed_one_is_planted() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut planted = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for after in text.split("planted::is(").skip(1) {
            let number = after.split(')').next().unwrap();
            planted.insert(number.parse::<u8>().unwrap());
            assert!(
                text.contains(&format!("Hazard {number}")),
                "{}: no comment says what bug {number} does",
                file.display()
            );
        }
    }
    let numbers: Vec<u8> = listed().into_iter().map(|(number, ..)| number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    assert_eq!(numbers, MUST_BE_PLANTED, "what is planted was decided once; a bug more goes into that list, too");
    assert_eq!(numbers, planted.into_iter().collect::<Vec<_>>());
}

/// Whether the tests that are named exist is known without a run: a name in one of the files of its target.
#[test]
fn each_test_that_is_named_is_there() {
    for (number, target, test) in listed() {
        let mut files = Vec::new();
        match target.as_str() {
            "lib" | "loom" => sources(&root().join("src"), &mut files),
            target if root().join("tests").join(target).is_dir() => {
                sources(&root().join("tests").join(target), &mut files);
            }
            target => files.push(root().join("tests").join(target).with_extension("rs")),
        }
        let name = format!("fn {}()", test.rsplit("::").next().unwrap());
        let is_there = |file: &PathBuf| fs::read_to_string(file).unwrap().contains(&name);
        assert!(files.iter().any(is_there), "bug {number}: no `{name}` in {target}");
    }
}

#[test]
fn each_hazard_has_its_row_and_the_tests_that_it_names_are_there() {
    let table = fs::read_to_string(root().join("docs/hazards.md")).unwrap();
    let is_number = |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit());
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")).filter(|row| is_number(row));
    let mut numbers = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [number, _hazard, _rule, tests] = cells[..] else { panic!("four columns: {row}") };
        let (is_planted, number) = (number.ends_with('*'), number.trim_end_matches('*').parse::<u8>().unwrap());
        assert_eq!(is_planted, MUST_BE_PLANTED.contains(&number), "a star says that hazard {number} is planted");
        for of_file in tests.split("; ") {
            let (path, names) = of_file.split_once(": ").unwrap_or_else(|| panic!("a file and its tests: {row}"));
            let text = fs::read_to_string(root().join(path.trim_matches('`'))).unwrap_or_default();
            for name in names.split(", ").map(|name| name.trim_matches('`')) {
                assert!(text.contains(&format!("fn {name}(")), "hazard {number}: {path} has no test {name}");
            }
        }
        numbers.push(number);
    }
    assert_eq!(numbers, (1..=58).collect::<Vec<_>>());
}
