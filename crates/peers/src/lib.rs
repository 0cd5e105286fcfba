//! `scratchspace` beside the stores that one would take instead, and beside the limits of the machine:
//! `cargo run --release -p peers -- --help`.
//!
//! Every store does the same work through the same trait (`store`), in a process of its own (`child`); all of it is measured
//! in one run (`run`, `slot`, `cells`), and written as tables, a CSV file and charts (`report`). How each store is configured stands in its
//! adapter (`peers`), and in the report.

mod cells;
mod child;
mod cold;
mod content;
#[cfg(test)]
mod contract;
mod figures;
mod grid;
mod machine;
mod measure;
mod pace;
mod peers;
mod report;
mod run;
mod slot;
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
    /// Holds what `cargo bench` has measured against the figures to reach: writes a part of BENCHMARKS.md
    Figures {
        /// Criterion's folder: `criterion` in cargo's target folder by default
        #[arg(long)]
        criterion: Option<PathBuf>,
        /// Where to write: the root of the repository by default
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

fn go(arguments: &Arguments) -> Result<(), Failure> {
    let root = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    match &arguments.command {
        Some(Task::Child(arguments)) => return child::run(arguments),
        Some(Task::Figures { criterion, out }) => {
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
            let criterion = criterion.clone().unwrap_or_else(|| target.join("criterion"));
            return figures::run(&criterion, &out.clone().unwrap_or_else(root));
        }
        None => {}
    }
    let outcome = run::run(&arguments.grid)?;
    let report = report::Report::new(&arguments.grid, &outcome);
    println!("{}", report.markdown());
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
