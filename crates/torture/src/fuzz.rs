//! Every fuzz target for an equal share of the time.
#![forbid(unsafe_code)]

use std::process::Command;
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::cargo;
use crate::process::{self, Ended};
use crate::report::{Failure, Limit};

/// Longest time for building the targets.
const BUILD: Duration = Duration::from_hours(1);
/// Seconds after which libFuzzer itself reports an input that does not end.
const INPUT: u64 = 120;
/// Longest time for a target beyond its share.
const PATIENCE: Duration = Duration::from_mins(10);

#[derive(Debug, Args)]
pub(crate) struct FuzzArguments {
    #[command(flatten)]
    limit: Limit,
    /// Seconds for each target, without `--for`
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where every target's random numbers begin; another one each time by default
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seed: Option<u32>,
    /// Names of targets; all without any
    targets: Vec<String>,
}

impl FuzzArguments {
    /// For libFuzzer zero is no seed.
    fn seed(&self) -> u32 {
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.subsec_nanos());
        self.seed.unwrap_or_else(clock).max(1)
    }
}

/// What libFuzzer is told.
fn options(seed: u32, share: Duration) -> [String; 5] {
    [
        format!("-max_total_time={}", share.as_secs()),
        format!("-seed={seed}"),
        format!("-timeout={INPUT}"),
        "-rss_limit_mb=1024".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]
}

pub(crate) fn run(arguments: &FuzzArguments) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("running cargo: {error}"));
    let fuzz = || {
        let mut command = Command::new("cargo");
        command.current_dir(cargo::root()).args(["+nightly", "fuzz"]);
        command
    };
    let listed = fuzz().arg("list").output().map_err(failed)?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr);
        return Err(Failure::new(format!("`cargo +nightly fuzz list` needs nightly, cargo-fuzz and fuzz/: {said}")));
    }
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut targets: Vec<_> = listed.split_whitespace().collect();
    if let Some(unknown) = arguments.targets.iter().find(|target| !targets.contains(&target.as_str())) {
        return Err(Failure::new(format!("no fuzz target is named {unknown}; there are {targets:?}")));
    }
    targets.retain(|target| arguments.targets.is_empty() || arguments.targets.iter().any(|asked| asked == target));
    // All of them at once, and before the time begins.
    let built = process::run(fuzz().arg("build"), BUILD).map_err(failed)?;
    if !built.is_success() {
        return Err(Failure::new(format!("cargo +nightly fuzz build: {}\n{}", built.how(), built.said)));
    }
    let until = arguments.limit.start(0);
    let share = until.time().map_or(Duration::from_secs(arguments.seconds), |time| time / as_count(targets.len()));
    let seed = arguments.seed();
    let mut executions = Vec::new();
    for target in &targets {
        eprintln!("fuzz: {target} for {} s, seed {seed}", share.as_secs());
        // What earlier runs have found, and the seeds that are committed.
        let [corpus, seeds] = ["corpus", "seeds"].map(|kind| format!("fuzz/{kind}/{target}"));
        std::fs::create_dir_all(cargo::root().join(&corpus)).map_err(failed)?;
        let mut command = fuzz();
        command.args(["run", target, &corpus, &seeds, "--"]).args(options(seed, share));
        let ended = process::run(&mut command, share + PATIENCE).map_err(failed)?;
        if !ended.is_success() {
            return Err(broken(target, &ended, seed, share));
        }
        executions.push(format!("{target} {}", executed(&ended.said)));
    }
    Ok(format!(
        "fuzz: {} targets, {} s each, seed {seed}: 0 panics; executions: {}",
        targets.len(),
        share.as_secs(),
        executions.join(", ")
    ))
}

/// An input that fails was kept; without one only the seed is left.
fn broken(target: &str, ended: &Ended, seed: u32, share: Duration) -> Failure {
    let said = &ended.said;
    let artifact = said.split("Test unit written to ").nth(1).and_then(|rest| rest.lines().next());
    let failure = Failure::new(format!("fuzz target {target}, seed {seed}: {}\n{said}", ended.how()));
    match artifact {
        Some(path) => failure.replayed_with(format!("cargo +nightly fuzz run {target} {path}")),
        None => failure.replayed_by(&format!("fuzz --seconds {} --seed {seed} {target}", share.as_secs())),
    }
}

fn as_count(targets: usize) -> u32 {
    u32::try_from(targets).unwrap_or(u32::MAX).max(1)
}

/// The number that libFuzzer prints at its end.
fn executed(said: &str) -> &str {
    let stat = said.split("stat::number_of_executed_units:").nth(1);
    stat.and_then(|rest| rest.split_whitespace().next()).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_final_statistics() {
        assert_eq!(executed("x\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     9\n"), "1234");
        assert_eq!(executed("nothing"), "unknown");
    }

    #[test]
    fn a_target_that_fails_is_repeated_by_its_input_or_by_its_seed() {
        let share = Duration::from_secs(30);
        let said = |said: &str| broken("folder", &Ended { status: None, said: said.to_owned() }, 7, share).to_string();
        let input = said("x\nTest unit written to fuzz/artifacts/folder/crash-1\nBase64: AA\n");
        assert!(input.ends_with("cargo +nightly fuzz run folder fuzz/artifacts/folder/crash-1"), "{input}");
        let hung = said("no word");
        assert!(hung.contains("it hangs") && hung.ends_with("fuzz --seconds 30 --seed 7 folder"), "{hung}");
        assert!(options(7, share).contains(&"-seed=7".to_owned()));
    }
}
