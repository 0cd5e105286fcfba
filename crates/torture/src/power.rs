//! Simulated power cuts, over ever new seeds: the library's own model, in its own test executable.
//!
//! The model (`src/scratch/power.rs`) loses any subset of what was not synced, torn at 512 bytes, and has an oracle of
//! its own. A seed stands for four crashes of one store.
#![forbid(unsafe_code)]

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::cargo;
use crate::report::{self, Failure, Limit};

const TEST: &str = "scratch::power::what_was_flushed_survives_every_crash_and_what_is_gone_stays_so";
/// Seeds that one process tries.
const CHUNK: u64 = 250;
/// Crashes of a seed.
const CUTS: u64 = 4;
/// Longest time for the seeds of one process: a run that hangs does not name its seed itself.
const PATIENCE: Duration = Duration::from_mins(20);

#[derive(Debug, Args)]
pub(crate) struct PowerArguments {
    #[command(flatten)]
    limit: Limit,
    /// How many crashes; without it and without `--for`: 10,000
    #[arg(long, conflicts_with = "time")]
    cuts: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Processes at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

pub(crate) fn run(arguments: &PowerArguments) -> Result<String, Failure> {
    let tests = cargo::library_tests()?;
    let limit = arguments.limit.start(arguments.cuts.unwrap_or(10_000).div_ceil(CUTS));
    let bar = report::bar("seeds", &limit);
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    // Relaxed: a range of seeds for each, nothing else is told by them.
                    let begun = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if limit.is_reached(begun) || failure.lock().expect("nobody panics").is_some() {
                        return;
                    }
                    let (first, count) = (arguments.seed + begun, limit.rest(begun).min(CHUNK));
                    let mut command = Command::new(&tests);
                    command
                        .args(["--exact", TEST])
                        .env("SCRATCHSPACE_POWER_FIRST", first.to_string())
                        .env("SCRATCHSPACE_POWER_THREADS", "16")
                        .env("SCRATCHSPACE_POWER_SEEDS", count.to_string())
                        .env_remove("SCRATCHSPACE_POWER_SEED");
                    match cargo::run_test(&mut command, PATIENCE) {
                        Ok(()) => {
                            done.fetch_add(count, Ordering::Relaxed);
                            bar.inc(count);
                        }
                        Err(said) => {
                            failure.lock().expect("nobody panics").get_or_insert_with(|| failed(&said, first, count));
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    if let Some(failure) = failure.into_inner().expect("nobody panics") {
        return Err(failure);
    }
    let seeds = done.into_inner();
    Ok(format!(
        "power: {} cuts and kills of {seeds} seeds from {} on: 0 wrong bytes, 0 flushed blocks lost, 0 failed openings",
        seeds * CUTS,
        arguments.seed
    ))
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
