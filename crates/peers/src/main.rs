//! Measures stores beside each other from the command line: `cargo run --release -p peers -- --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    peers::main()
}
