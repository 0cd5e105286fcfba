//! Runs one torture from the command line: `cargo run -p torture --release -- --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    torture::main()
}
