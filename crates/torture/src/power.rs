//! Simulated power cuts, over ever new seeds: the library's own model, in its own test executable.
//!
//! The model (`src/scratch/power.rs`) loses any subset of what was not synced, torn at 512 bytes, and has an oracle of
//! its own. A seed stands for four ends of runs over one store; two of three are power cuts, the others kills of the
//! process. The model says how many there were of each, and only cuts count as cuts.
#![forbid(unsafe_code)]

use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::cargo;
use crate::report::{self, Failure, Limit, Until};

const TEST: &str = "scratch::power::what_was_flushed_survives_every_crash_and_what_is_gone_stays_so";
/// Most seeds that one process tries.
const CHUNK: u64 = 250;
/// Cuts of a seed that may be counted on; they are 2.7 on average.
const CUTS: u64 = 2;
/// Longest time for the seeds of one process: a run that hangs does not name its seed itself.
const PATIENCE: Duration = Duration::from_mins(20);

#[derive(Debug, Args)]
pub(crate) struct PowerArguments {
    #[command(flatten)]
    limit: Limit,
    /// How many power cuts, at least; kills come on top. Without it and without `--for`: 10,000
    #[arg(long, conflicts_with = "time")]
    cuts: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Processes at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// What was tried so far.
#[derive(Debug, Default)]
struct Progress {
    /// Seeds that a process has, or has had.
    begun: u64,
    seeds: u64,
    cuts: u64,
    kills: u64,
    failure: Option<Failure>,
}

impl Progress {
    /// The seeds of the next process, counted from the first one; `None` if there is nothing left to do.
    fn next(&mut self, limit: &Until) -> Option<(u64, u64)> {
        if limit.is_reached(self.cuts) || self.failure.is_some() {
            return None;
        }
        // What others are about to bring is not asked for again; if it is less, the last of them goes on.
        let expected = self.cuts.saturating_add((self.begun - self.seeds) * CUTS);
        let (first, count) = (self.begun, limit.rest(expected).div_ceil(CUTS).min(CHUNK));
        self.begun += count;
        (count > 0).then_some((first, count))
    }
}

pub(crate) fn run(arguments: &PowerArguments) -> Result<String, Failure> {
    let tests = cargo::library_tests()?;
    let limit = arguments.limit.start(arguments.cuts.unwrap_or(10_000));
    let bar = report::bar("power cuts", &limit);
    let progress = Mutex::new(Progress::default());
    let locked = || progress.lock().expect("nobody panics");
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Some((first, count)) = locked().next(&limit) else { return };
                    let first = arguments.seed + first;
                    let mut command = Command::new(&tests);
                    command
                        .args(["--exact", TEST, "--show-output"])
                        .env("SCRATCHSPACE_POWER_FIRST", first.to_string())
                        .env("SCRATCHSPACE_POWER_THREADS", "16")
                        .env("SCRATCHSPACE_POWER_SEEDS", count.to_string())
                        .env_remove("SCRATCHSPACE_POWER_SEED");
                    let ended = cargo::run_test(&mut command, PATIENCE)
                        .and_then(|said| ends(&said).ok_or_else(|| format!("no line of counts\n{said}")));
                    let mut progress = locked();
                    match ended {
                        Ok((cuts, kills)) => {
                            progress.seeds += count;
                            progress.cuts += cuts;
                            progress.kills += kills;
                            bar.inc(cuts);
                        }
                        Err(said) => drop(progress.failure.get_or_insert_with(|| failed(&said, first, count))),
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let Progress { begun, seeds, cuts, kills, failure } = progress.into_inner().expect("nobody panics");
    if let Some(failure) = failure {
        return Err(failure);
    }
    debug_assert_eq!(begun, seeds, "each range was tried to its end");
    Ok(format!(
        "power: {cuts} power cuts, and {kills} kills besides, of {seeds} seeds from {} on: 0 wrong bytes, 0 flushed \
         blocks lost, 0 failed openings",
        arguments.seed
    ))
}

/// Power cuts and kills, as the model says at its end.
fn ends(said: &str) -> Option<(u64, u64)> {
    let counts = said.lines().find_map(|line| line.strip_prefix("power: "))?;
    let (cuts, rest) = counts.split_once(" cuts and ")?;
    let (kills, _) = rest.split_once(" kills of ")?;
    Some((cuts.parse().ok()?, kills.parse().ok()?))
}

/// The model names its seed, unless it hangs or dies: then it is one of those that the process had.
fn failed(said: &str, first: u64, count: u64) -> Failure {
    let seed = said.split("SCRATCHSPACE_POWER_SEED=").nth(1);
    let seed: String = seed.into_iter().flat_map(str::chars).take_while(char::is_ascii_digit).collect();
    let failure = Failure::new(said);
    let seeds = if seed.is_empty() {
        format!("SCRATCHSPACE_POWER_FIRST={first} SCRATCHSPACE_POWER_SEEDS={count}")
    } else {
        format!("SCRATCHSPACE_POWER_SEED={seed} SCRATCHSPACE_POWER_SEEDS=100")
    };
    failure.replayed_with(format!("{seeds} cargo test --release --lib -- --exact {TEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each end of a run was counted as a power cut, and one in three was a kill.
    #[test]
    fn only_power_cuts_count_as_such() {
        let said = "running 1 test\n\npower: 7 cuts and 5 kills of 3 seeds from 40 on\n\ntest result: ok\n";
        assert_eq!(ends(said), Some((7, 5)));
        assert_eq!(ends("running 1 test\ntest result: ok\n"), None);
        let limit = Limit::default().start(10);
        let mut progress = Progress { cuts: 3, kills: 100, begun: 8, seeds: 8, ..Progress::default() };
        assert_eq!((progress.next(&limit), progress.begun), (Some((8, 4)), 12));
        assert_eq!(progress.next(&limit), None, "the four that are under way will do");
        (progress.cuts, progress.seeds) = (9, 12);
        assert_eq!((progress.next(&limit), progress.begun), (Some((12, 1)), 13), "they have not done");
        (progress.cuts, progress.seeds) = (10, 13);
        assert_eq!(progress.next(&limit), None);
        let limit = Limit::default().start(1_000_000);
        assert_eq!((progress.next(&limit), progress.begun), (Some((13, CHUNK)), 13 + CHUNK));
        progress.failure = Some(Failure::new("a block is back"));
        assert_eq!(progress.next(&limit), None);
    }

    #[test]
    fn a_failed_seed_is_repeated_by_its_number() {
        let said = "a removed block is back\nseed 77: repeat with SCRATCHSPACE_POWER_SEED=77\n";
        let text = failed(said, 0, 250).to_string();
        assert!(text.contains("repeat with: SCRATCHSPACE_POWER_SEED=77 "), "{text}");
    }

    /// A process that hung had no end and named no seed.
    #[test]
    fn a_process_that_hangs_is_repeated_with_all_of_its_seeds() {
        let text = failed("killed, for it was not over after 1200s", 500, 250).to_string();
        assert!(text.contains("SCRATCHSPACE_POWER_FIRST=500 SCRATCHSPACE_POWER_SEEDS=250 "), "{text}");
    }
}
