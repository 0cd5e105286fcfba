//! Tests that run in a process of their own.
#![forbid(unsafe_code)]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// Says in a process that `alone` has made which round it is.
const ROUND: &str = "SCRATCHSPACE_MEDIA_ROUND";

/// Runs `body` once a round, each in a process of its own: `cargo test --test media NAME` with the round in
/// `SCRATCHSPACE_MEDIA_ROUND` repeats one. A round that dies of a signal fails with its number.
pub(crate) fn alone(test: &str, rounds: u64, body: impl Fn(u64)) {
    if let Some(round) = std::env::var_os(ROUND) {
        let round = round.to_str().and_then(|round| round.parse().ok());
        return body(round.expect("a round is a number"));
    }
    for round in 0..rounds {
        let mut process = Command::new(std::env::current_exe().unwrap());
        let output = process.args(["--exact", test, "--nocapture"]).env(ROUND, round.to_string()).output().unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("running 1 test"), "no test is named {test}");
        assert!(
            output.status.success(),
            "repeat with {ROUND}={round} cargo test --test media {test}: signal {:?}, {}\n{said}{errors}",
            output.status.signal(),
            output.status,
        );
    }
}
