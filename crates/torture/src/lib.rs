//! Tortures `scratchspace`, and compares what is left with what was promised:
//! `cargo run -p torture --release -- --help`.
//!
//! | command | what it does |
//! |---|---|
//! | `kill` | `kill -9` of a process with eight threads, again and again, other options at each restart |
//! | `soak` | laps of the wheel within the memory, descriptors and mappings that are promised, users in the way |
//! | `memory` | a set many times larger than the memory of its process, in a memory cgroup |
//! | `power` | simulated power cuts over ever new seeds: the library's own model, in its test executable |
//! | `fuzz` | every fuzz target for an equal share of the time |
//! | `planted` | plants one bug after the other, each of which the suite must catch, or its own test |
//!
//! What a store must hold stands in an oracle that outlives the process (`oracle`). Every failure is printed with its
//! seed and the command that repeats it. `docs/reliability.md` tells which promise is tested by what.

mod blocks;
mod cargo;
mod check;
mod dice;
mod fuzz;
mod held;
mod kill;
mod laps;
mod memory;
mod options;
mod oracle;
mod planted;
mod power;
mod process;
mod report;
mod site;
mod soak;
mod words;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::report::Failure;

#[derive(Debug, Parser)]
#[command(name = "torture", about = "Tortures scratchspace, and compares what is left with what was promised")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kills a process of eight threads with SIGKILL, again and again, with other options at each restart
    Kill(kill::KillArguments),
    /// Turns the wheel, with users in the way, and looks at memory, descriptors and mappings
    Soak(soak::SoakArguments),
    /// The process that does it
    #[command(hide = true)]
    SoakChild(soak::SoakChildArguments),
    /// Writes and reads a set many times larger than the memory of its process, in a memory cgroup
    Memory(memory::MemoryArguments),
    /// The process in that group
    #[command(hide = true)]
    MemoryChild(memory::MemoryChildArguments),
    /// Simulates power cuts over ever new seeds, by the library's own model
    Power(power::PowerArguments),
    /// Runs every fuzz target for an equal share of the time
    Fuzz(fuzz::FuzzArguments),
    /// Plants one bug after the other, each of which the suite must catch, or its own test
    Planted(planted::PlantedArguments),
    /// The process that `kill` kills
    #[command(hide = true)]
    Child(kill::ChildArguments),
}

fn run(command: &Command) -> Result<String, Failure> {
    match command {
        Command::Kill(arguments) => on_disk(|| kill::run(arguments)),
        Command::Soak(arguments) => on_disk(|| soak::run(arguments)),
        Command::SoakChild(arguments) => soak::run_child(arguments),
        Command::Memory(arguments) => on_disk(|| memory::run(arguments)),
        Command::MemoryChild(arguments) => memory::run_child(arguments),
        Command::Power(arguments) => power::run(arguments),
        Command::Fuzz(arguments) => fuzz::run(arguments),
        Command::Planted(arguments) => planted::run(arguments),
        Command::Child(arguments) => kill::run_child(arguments).map(|()| String::new()),
    }
}

/// A torture of real files tells on which file system they were.
fn on_disk(torture: impl FnOnce() -> Result<String, Failure>) -> Result<String, Failure> {
    let place = report::place();
    eprintln!("works {place}");
    let summary = torture()?;
    Ok(if summary.starts_with("skipped") { summary } else { format!("{summary}; {place}") })
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(summary) if summary.is_empty() => ExitCode::SUCCESS,
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}
