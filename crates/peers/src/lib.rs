//! `scratchspace` beside the stores that one would take instead, and beside the limits of the machine:
//! `cargo run --release -p peers -- --help`.
//!
//! Every store does the same work through the same trait (`store`), in a process of its own (`child`); all of it is measured
//! in one run (`run`), and written as tables, a CSV file and charts (`report`). How each store is configured stands in its
//! adapter (`peers`), and in the report.

mod child;
mod cold;
mod content;
#[cfg(test)]
mod contract;
mod grid;
mod machine;
mod measure;
mod pace;
mod peers;
mod report;
mod run;
mod store;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::store::Failure;

#[derive(Debug, Parser)]
#[command(name = "peers", about = "Measures scratchspace beside other stores, and beside the limits of the machine")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    grid: grid::GridArguments,
    /// Where to write: the root of the repository for a whole --full run, otherwise nowhere
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The process of one store
    #[command(hide = true)]
    Child(child::ChildArguments),
}

fn go(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(Task::Child(arguments)) = &arguments.command {
        return child::run(arguments);
    }
    let outcome = run::run(&arguments.grid)?;
    let report = report::Report::new(&arguments.grid, &outcome);
    println!("{}", report.markdown());
    let root = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Some(out) = arguments.out.clone().or_else(|| (!arguments.grid.is_partial()).then(root)) {
        report.write(&out)?;
    }
    report.failure().map_or(Ok(()), |what| Err(what.into()))
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    match go(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
