//! Tests the tests: every planted bug must be caught, by its own test or by the whole suite.
//!
//! `tests/planted/bugs.txt` lists the bugs; `--cfg planted` compiles all of them in, `SCRATCHSPACE_PLANTED` chooses
//! one.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::cargo::{self, Flags};
use crate::report::{self, Failure, Limit};

const LIST: &str = "tests/planted/bugs.txt";
/// Longest time for one executable of the suite.
const PATIENCE: Duration = Duration::from_mins(10);

#[derive(Debug, Args)]
pub(crate) struct PlantedArguments {
    #[command(flatten)]
    limit: Limit,
    /// The whole suite must catch each bug, not the test that names it
    #[arg(long)]
    suite: bool,
    /// Numbers of bugs; all without any
    bugs: Vec<u8>,
}

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Bug {
    number: u8,
    target: String,
    test: String,
}

fn parse(list: &str) -> Result<Vec<Bug>, String> {
    let lines = list.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let bug = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let number = columns.next()?.parse().ok()?;
        Some(Bug { number, target: columns.next()?.to_owned(), test: columns.next()?.to_owned() })
    };
    lines.map(|line| bug(line).ok_or_else(|| format!("{LIST}: `{line}` is no line of the list"))).collect()
}

pub(crate) fn run(arguments: &PlantedArguments) -> Result<String, Failure> {
    let list = fs::read_to_string(cargo::root().join(LIST));
    let list = list.map_err(|error| Failure::new(format!("reading {LIST}: {error}")))?;
    let mut bugs = parse(&list).map_err(Failure::new)?;
    bugs.retain(|bug| arguments.bugs.is_empty() || arguments.bugs.contains(&bug.number));
    let plain = cargo::test_executables(&["--lib", "--tests"], Flags { folder: "planted", flags: "--cfg planted" })?;
    let loom = if bugs.iter().any(|bug| bug.target == "loom") {
        cargo::test_executables(&["--lib"], Flags { folder: "planted-loom", flags: "--cfg planted --cfg loom" })?
    } else {
        Vec::new()
    };
    let until = arguments.limit.start(bugs.len() as u64);
    let bar = report::bar("bugs", &until);
    let (mut caught, mut by) = (0, Vec::new());
    for bug in &bugs {
        if until.is_over() {
            break;
        }
        let repeat = || format!("bash .ci/planted {}", bug.number);
        let named = |executables: &[(String, PathBuf)], target: &str| {
            executables.iter().find(|(name, _)| name == target).map(|(_, path)| path.clone())
        };
        let own = match bug.target.as_str() {
            "loom" => named(&loom, "scratchspace"),
            "lib" => named(&plain, "scratchspace"),
            target => named(&plain, target),
        };
        let own = own.ok_or_else(|| Failure::new(format!("bug {}: no target is named {}", bug.number, bug.target)))?;
        let catcher = if arguments.suite && bug.target != "loom" {
            let mut all = plain.iter().map(|(name, path)| (name, catches(path, &[], bug.number)));
            all.find_map(|(name, result)| match result {
                Ok(true) => Some(Ok(name.clone())),
                Ok(false) => None,
                Err(what) => Some(Err(what)),
            })
        } else {
            match catches(&own, &["--exact", &bug.test], bug.number) {
                Ok(true) => Some(Ok(bug.test.clone())),
                Ok(false) => None,
                Err(what) => Some(Err(what)),
            }
        };
        match catcher {
            Some(Ok(name)) => by.push(format!("{} by {name}", bug.number)),
            Some(Err(what)) => {
                return Err(Failure::new(format!("bug {}: {what}", bug.number)).replayed_with(repeat()));
            }
            None => {
                let what = format!("bug {} is caught by nothing: a test is missing", bug.number);
                return Err(Failure::new(what).replayed_with(repeat()));
            }
        }
        caught += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(format!("planted: {caught} of {} bugs caught: {}", bugs.len(), by.join(", ")))
}

/// Whether an executable fails with the bug. One that hangs has caught nothing, for a hang has no name.
fn catches(executable: &PathBuf, arguments: &[&str], bug: u8) -> Result<bool, String> {
    let mut child = Command::new(executable)
        .args(arguments)
        .current_dir(cargo::root())
        .env("SCRATCHSPACE_PLANTED", bug.to_string())
        .env("LOOM_MAX_PREEMPTIONS", "3")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("starting {}: {error}", executable.display()))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(|error| format!("waiting: {error}"))? {
            Some(status) => return Ok(!ExitStatus::success(&status)),
            None if Instant::now() > end => {
                let killed = child.kill().and_then(|()| child.wait());
                return Err(format!("{} hangs with it for {PATIENCE:?}, {killed:?}", executable.display()));
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_numbers_targets_and_tests() {
        let bugs = parse("# words\n\n7 | lib | a::b | what it does\n14 | restart | c | more | bars\n").unwrap();
        assert_eq!(bugs[0], Bug { number: 7, target: "lib".to_owned(), test: "a::b".to_owned() });
        assert_eq!((bugs.len(), bugs[1].number), (2, 14));
        assert!(parse("seven | lib | a").is_err() && parse("7 | lib").is_err());
    }
}
