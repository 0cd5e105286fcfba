//! Tests that run as a process of their own: to be killed, or to be alone.
#![forbid(unsafe_code)]

use std::process::Command;

/// Set in a process that `of_test` has made.
const ALONE: &str = "SCRATCHSPACE_ALONE";

/// Whether this process runs one test alone. Such a test does nothing among the others.
pub(crate) fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// A process that runs one test of this binary alone, and prints what that prints.
pub(crate) fn of_test(name: &str) -> Command {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
    process
}
