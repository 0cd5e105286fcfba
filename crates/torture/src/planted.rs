//! Tests the tests: every planted bug must be caught, by the whole suite or by its own test alone.
//!
//! `tests/planted/bugs.txt` lists the bugs; `--cfg planted` compiles all of them in, `SCRATCHSPACE_PLANTED` chooses
//! one.
//!
//! # Invariants
//!
//! 1. What fails without a bug catches none: everything that is to catch one must have passed without any before.
//! 2. Where another test than its own catches a bug, that test passes alone without it, and fails alone with it.
//! 3. A process that hangs has caught nothing unless a test has failed before: a hang has no name.
//! 4. Only a run that has looked at all bugs succeeds.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::cargo::{self, Flags};
use crate::process::{self, Ended};
use crate::report::{self, Failure, Limit, Until};

const LIST: &str = "tests/planted/bugs.txt";
/// Longest time for one executable of the suite.
const PATIENCE: Duration = Duration::from_mins(20);
/// Time for the rest of an executable when one of its tests has failed: it unmounts what it has mounted.
const GRACE: Duration = Duration::from_mins(1);
/// How often a test of another bug may try to catch this one again.
const TRIES: usize = 3;

#[derive(Debug, Args)]
pub(crate) struct PlantedArguments {
    #[command(flatten)]
    limit: Limit,
    /// The test that names a bug must catch it alone, as in `.ci/planted`, instead of any test of the suite
    #[arg(long)]
    own: bool,
    /// Numbers of bugs; all without any
    bugs: Vec<u8>,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bug {
    number: u8,
    target: String,
    test: String,
}

/// What became of a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// By this test or executable.
    Caught(String),
    Missed(String),
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

/// The bugs that were asked for, all without any.
fn choose(bugs: Vec<Bug>, asked: &[u8]) -> Result<Vec<Bug>, String> {
    if let Some(number) = asked.iter().find(|number| bugs.iter().all(|bug| bug.number != **number)) {
        return Err(format!("{LIST} lists no bug {number}"));
    }
    Ok(bugs.into_iter().filter(|bug| asked.is_empty() || asked.contains(&bug.number)).collect())
}

/// A test executable, by the name that the list has for it.
#[derive(Clone, Debug)]
struct Executable {
    target: String,
    path: PathBuf,
}

impl Executable {
    /// All that one build of cargo has made; `library` is what the list calls the unit tests of it.
    fn build(which: &[&str], with: Flags<'_>, library: &str) -> Result<Vec<Self>, Failure> {
        let named =
            |(name, path)| Self { target: if name == "scratchspace" { library.to_owned() } else { name }, path };
        Ok(cargo::test_executables(which, with)?.into_iter().map(named).collect())
    }

    /// Runs it, or one test of it, with a bug or without any.
    fn run(&self, test: Option<&str>, bug: Option<u8>, folder: &Path) -> Result<Ended, Failure> {
        let mut command = Command::new(&self.path);
        command.current_dir(cargo::root()).env("LOOM_MAX_PREEMPTIONS", "3");
        // What a killed one leaves behind goes with the folder.
        command.env("SCRATCHSPACE_TEST_DIR", folder).env("TMPDIR", folder).env_remove("SCRATCHSPACE_PLANTED");
        if let Some(bug) = bug {
            command.env("SCRATCHSPACE_PLANTED", bug.to_string());
        }
        command.args(self.arguments(test));
        let ended = process::run_and_look(&mut command, PATIENCE, |said| failed_tests(said).next().map(|_| GRACE));
        ended.map_err(|error| Failure::new(format!("running {}: {error}", self.path.display())))
    }

    /// What the harness is told: under `--cfg loom` only models are tests, and all of them have loom in their path.
    fn arguments<'a>(&self, test: Option<&'a str>) -> Vec<&'a str> {
        match test {
            Some(test) => vec!["--exact", test],
            None if self.target == "loom" => vec!["loom"],
            None => Vec::new(),
        }
    }

    /// How to run it without a bug by hand.
    fn by_hand(&self, test: Option<&str>) -> String {
        let (flags, which) = match self.target.as_str() {
            "loom" => ("--cfg planted --cfg loom", "--lib".to_owned()),
            "lib" => ("--cfg planted", "--lib".to_owned()),
            target => ("--cfg planted", format!("--test {target}")),
        };
        format!("RUSTFLAGS=\"{flags}\" cargo test --release {which} -- {}", self.arguments(test).join(" "))
    }
}

/// The tests that have failed, as the harness names them.
fn failed_tests(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter_map(|line| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.strip_suffix(" - should panic").unwrap_or(name))
    })
}

pub(crate) fn run(arguments: &PlantedArguments) -> Result<String, Failure> {
    let list = fs::read_to_string(cargo::root().join(LIST));
    let list = list.map_err(|error| Failure::new(format!("reading {LIST}: {error}")))?;
    let bugs = parse(&list).and_then(|bugs| choose(bugs, &arguments.bugs)).map_err(Failure::new)?;
    let folder = report::folder("planted").map_err(|error| Failure::new(format!("a folder to work in: {error}")))?;
    let planted = Flags { folder: "planted", flags: "--cfg planted" };
    let mut suite = Executable::build(&["--lib", "--tests"], planted, "lib")?;
    if !arguments.own || bugs.iter().any(|bug| bug.target == "loom") {
        let loom = Flags { folder: "planted-loom", flags: "--cfg planted --cfg loom" };
        suite.extend(Executable::build(&["--lib"], loom, "loom")?);
    }
    let run = Run { suite, folder: folder.path(), until: arguments.limit.start(bugs.len() as u64) };
    let bar = report::bar("bugs", &run.until);
    if !arguments.own {
        run.passes_without_bugs(&|what| bar.set_message(what))?;
        bar.set_message("bugs");
    }
    let mut outcomes = Vec::new();
    for bug in &bugs {
        let outcome = if arguments.own { run.own_test(bug)? } else { run.whole_suite(bug)? };
        let Some(outcome) = outcome else { break };
        outcomes.push((bug.number, outcome));
        bar.inc(1);
    }
    bar.finish_and_clear();
    summary(&bugs, &outcomes, arguments.own)
}

/// What every bug is tried on.
struct Run<'a> {
    suite: Vec<Executable>,
    folder: &'a Path,
    until: Until,
}

impl Run<'_> {
    /// Invariant 1.
    fn passes_without_bugs(&self, tell: &dyn Fn(String)) -> Result<(), Failure> {
        for executable in &self.suite {
            tell(format!("without a bug: {}; bugs", executable.target));
            let ended = executable.run(None, None, self.folder)?;
            if !ended.is_success() {
                let what = format!("without any bug {} fails: {}\n{}", executable.target, ended.how(), ended.said);
                return Err(Failure::new(what).replayed_with(executable.by_hand(None)));
            }
        }
        Ok(())
    }

    fn executable(&self, bug: &Bug) -> Result<&Executable, Failure> {
        let own = self.suite.iter().find(|executable| executable.target == bug.target);
        own.ok_or_else(|| Failure::new(format!("bug {}: no target is named {}", bug.number, bug.target)))
    }

    /// The test that names the bug, alone; nothing if there is no more time.
    fn own_test(&self, bug: &Bug) -> Result<Option<Outcome>, Failure> {
        if self.until.is_over() {
            return Ok(None);
        }
        let (own, test) = (self.executable(bug)?, Some(bug.test.as_str()));
        let without = own.run(test, None, self.folder)?;
        if !without.is_success() || !without.said.contains("test result: ok. 1 passed") {
            let what = format!("without any bug {} fails, or there is no such test\n{}", bug.test, without.said);
            return Err(Failure::new(what).replayed_with(own.by_hand(test)));
        }
        let with = own.run(test, Some(bug.number), self.folder)?;
        let outcome = match catcher(bug, own, &with) {
            Some(by) => Outcome::Caught(by),
            None => Outcome::Missed(format!("{} {}", bug.test, if with.is_success() { "passes" } else { "hangs" })),
        };
        Ok(Some(outcome))
    }

    /// Every executable until one catches the bug, that of its own test first; nothing if there is no more time.
    fn whole_suite(&self, bug: &Bug) -> Result<Option<Outcome>, Failure> {
        let own = self.executable(bug)?;
        let others = self.suite.iter().filter(|executable| executable.target != bug.target);
        let mut missed = Vec::new();
        for executable in std::iter::once(own).chain(others) {
            if self.until.is_over() {
                return Ok(None);
            }
            let ended = executable.run(None, Some(bug.number), self.folder)?;
            match catcher(bug, executable, &ended) {
                Some(by) if by == bug.test || failed_tests(&ended.said).next().is_none() => {
                    return Ok(Some(Outcome::Caught(by)));
                }
                Some(by) if self.catches_again(bug, executable, &by)? => return Ok(Some(Outcome::Caught(by))),
                Some(by) => missed.push(format!("{by} failed once and not alone")),
                None if ended.status.is_none() => missed.push(format!("{} hangs", executable.target)),
                None => {}
            }
        }
        Ok(Some(Outcome::Missed(format!("every test passes; {}", missed.join(", ")))))
    }

    /// Invariant 2.
    fn catches_again(&self, bug: &Bug, executable: &Executable, test: &str) -> Result<bool, Failure> {
        let without = executable.run(Some(test), None, self.folder)?;
        if !without.is_success() {
            let what = format!("without any bug {test} fails now and then: {}\n{}", without.how(), without.said);
            return Err(Failure::new(what).replayed_with(executable.by_hand(Some(test))));
        }
        for _ in 0..TRIES {
            let with = executable.run(Some(test), Some(bug.number), self.folder)?;
            if catcher(bug, executable, &with).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Which test has failed, the bug's own if that is one of them; the executable if the process died without a word.
fn catcher(bug: &Bug, executable: &Executable, ended: &Ended) -> Option<String> {
    let is_own = |test: &&str| executable.target == bug.target && **test == bug.test;
    if let Some(test) = failed_tests(&ended.said).find(is_own).or_else(|| failed_tests(&ended.said).next()) {
        return Some(test.to_owned());
    }
    let died = ended.status.filter(|status| !status.success());
    died.map(|status| format!("the end of {}, {status}", executable.target))
}

fn summary(bugs: &[Bug], outcomes: &[(u8, Outcome)], own: bool) -> Result<String, Failure> {
    let mut by = Vec::new();
    let mut missed = Vec::new();
    for (number, outcome) in outcomes {
        match outcome {
            Outcome::Caught(test) => by.push(format!("{number} by {test}")),
            Outcome::Missed(why) => missed.push((number, format!("bug {number} is caught by nothing: {why}"))),
        }
    }
    let how = if own { "alone by the test that names it" } else { "by the suite, which passes without any" };
    let replay = |numbers: Vec<String>| format!("planted {}{}", if own { "--own " } else { "" }, numbers.join(" "));
    if !missed.is_empty() {
        let (numbers, why): (Vec<_>, Vec<_>) =
            missed.into_iter().map(|(number, why)| (number.to_string(), why)).unzip();
        let what = format!("a test is missing:\n{}\ncaught: {}", why.join("\n"), by.join(", "));
        return Err(Failure::new(what).replayed_by(&replay(numbers)));
    }
    if outcomes.len() < bugs.len() {
        let left: Vec<_> = bugs[outcomes.len()..].iter().map(|bug| bug.number.to_string()).collect();
        let (looked_at, all) = (outcomes.len(), bugs.len());
        let what = format!("the time was over when {looked_at} of {all} bugs had been looked at: {}", by.join(", "));
        return Err(Failure::new(what).replayed_by(&replay(left)));
    }
    Ok(format!("planted: all {} bugs caught, each {how}: {}", bugs.len(), by.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn bug(number: u8, test: &str) -> Bug {
        Bug { number, target: "lib".to_owned(), test: test.to_owned() }
    }

    #[test]
    fn a_list_is_numbers_targets_and_tests() {
        let bugs = parse("# words\n\n7 | lib | a::b | what it does\n14 | restart | c | more | bars\n").unwrap();
        assert_eq!(bugs[0], bug(7, "a::b"));
        assert_eq!((bugs.len(), bugs[1].number), (2, 14));
        assert!(parse("seven | lib | a").is_err() && parse("7 | lib").is_err());
        assert_eq!(choose(bugs.clone(), &[14]).unwrap(), bugs[1..]);
        assert_eq!(choose(bugs.clone(), &[]).unwrap(), bugs);
        choose(bugs, &[7, 8]).unwrap_err();
    }

    #[test]
    fn a_bug_is_caught_by_a_test_that_fails_or_a_process_that_dies_and_not_by_a_hang() {
        let lib = Executable { target: "lib".to_owned(), path: PathBuf::new() };
        let by = |said: &str, status: Option<i32>| {
            let ended = Ended { status: status.map(ExitStatus::from_raw), said: said.to_owned() };
            catcher(&bug(7, "a::b"), &lib, &ended)
        };
        let failed = "running 3 tests\ntest x::y ... FAILED\ntest a::b ... FAILED\ntest z ... ok\n";
        assert_eq!(by(failed, Some(101 << 8)).as_deref(), Some("a::b"));
        assert_eq!(
            by("test x - should panic ... FAILED\n", None).as_deref(),
            Some("x"),
            "a test has failed before it hung"
        );
        assert!(by("test z ... ok\n", Some(11)).unwrap().contains("signal: 11"));
        assert_eq!(by("test z ... ok\n", Some(0)), None);
        assert_eq!(by("test z ... ok\n", None), None);
    }

    #[test]
    fn of_the_library_under_loom_only_the_models_are_run() {
        let of = |target: &str| Executable { target: target.to_owned(), path: PathBuf::new() };
        assert_eq!(of("loom").arguments(None), ["loom"]);
        assert!(of("lib").arguments(None).is_empty());
        assert_eq!(of("loom").arguments(Some("a::b")), ["--exact", "a::b"]);
        assert!(of("loom").by_hand(None).ends_with("cargo test --release --lib -- loom"));
    }

    /// A run that ended with its time said "3 of 25 bugs caught" and succeeded.
    #[test]
    fn only_a_run_that_has_caught_every_bug_succeeds() {
        let bugs = [bug(1, "a"), bug(3, "b"), bug(42, "c")];
        let caught = |number| (number, Outcome::Caught("t".to_owned()));
        let all = [caught(1), caught(3), caught(42)];
        assert!(summary(&bugs, &all, false).unwrap().contains("all 3 bugs caught"));
        let early = summary(&bugs, &all[..1], false).unwrap_err().to_string();
        assert!(early.contains("1 of 3 bugs had been looked at") && early.ends_with("planted 3 42"), "{early}");
        let missed = [caught(1), (3, Outcome::Missed("every test passes".to_owned())), caught(42)];
        let missed = summary(&bugs, &missed, true).unwrap_err().to_string();
        assert!(missed.contains("bug 3 is caught by nothing") && missed.ends_with("planted --own 3"), "{missed}");
    }
}
