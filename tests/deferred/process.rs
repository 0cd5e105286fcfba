//! Tests that run as a process of their own: to be killed, or to be alone.
#![forbid(unsafe_code)]

use std::process::Command;

/// A process that runs one ignored test of this binary, and prints what that prints.
pub(crate) fn of_test(name: &str) -> Command {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", name, "--ignored", "--nocapture"]);
    process
}
