//! Every fuzz target for an equal share of the time.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use crate::cargo;
use crate::report::{Failure, Limit};

#[derive(Debug, Args)]
pub(crate) struct FuzzArguments {
    #[command(flatten)]
    limit: Limit,
    /// Seconds for each target, without `--for`
    #[arg(long, default_value_t = 10)]
    seconds: u64,
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
    let targets: Vec<_> = listed.split_whitespace().collect();
    let until = arguments.limit.start(0);
    let share = until.time().map_or(Duration::from_secs(arguments.seconds), |time| time / as_count(targets.len()));
    let mut executions = Vec::new();
    for target in &targets {
        eprintln!("fuzz: {target} for {} s", share.as_secs());
        let time = format!("-max_total_time={}", share.as_secs());
        // What earlier runs have found, and the seeds that are committed.
        let [corpus, seeds] = ["corpus", "seeds"].map(|kind| format!("fuzz/{kind}/{target}"));
        std::fs::create_dir_all(cargo::root().join(&corpus)).map_err(failed)?;
        let output = fuzz()
            .args(["run", target, &corpus, &seeds, "--", &time, "-rss_limit_mb=1024", "-print_final_stats=1"])
            .stderr(Stdio::piped())
            .output()
            .map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let artifact = said.split("Test unit written to ").nth(1).and_then(|rest| rest.lines().next());
            let failure = Failure::new(format!("fuzz target {target}: {}\n{said}", output.status));
            return Err(match artifact {
                Some(path) => failure.replayed_with(format!("cargo +nightly fuzz run {target} {path}")),
                None => failure.replayed_with(format!("cargo +nightly fuzz run {target}")),
            });
        }
        executions.push(format!("{target} {}", executed(&said)));
    }
    Ok(format!(
        "fuzz: {} targets, {} s each: 0 panics; executions: {}",
        targets.len(),
        share.as_secs(),
        executions.join(", ")
    ))
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
}
