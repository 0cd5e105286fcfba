//! Spills a folder tree into a store that is smaller than the tree, and proves that nothing is lost but what had to go.
//!
//! Each file is cut into blocks, each block is written under the hash of its content and compared right away. At the
//! end every block must either still be there, unchanged, or have gone with a file that was turned, the oldest first.
//! Then the store is dropped and opened again, and what survived is compared once more.
//!
//! `cargo run --release --example spill -- --help` lists the arguments; without any it finds its own input.
#![forbid(unsafe_code)]

mod arguments;
mod check;
mod cut;
mod ledger;
mod memory;
mod plan;
mod progress;
mod report;
mod size;
mod spill;
mod tree;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use scratchspace::{DiskFileSource, Scratch};
use tempfile::TempDir;

use crate::arguments::{Arguments, Asked};
use crate::check::Outcome;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::tree::Tree;

/// Leaves the rest of a minute for the comparisons.
const TIME_TO_SPILL: Duration = Duration::from_secs(40);
const TIME_TO_RECOVER: Duration = Duration::from_secs(10);

/// What a run needs, all of it checked.
struct Prepared {
    tree: Tree,
    plan: Plan,
    /// Deleted when the run ends, with the store in them.
    _folders: Vec<TempDir>,
}

fn main() -> ExitCode {
    match prepare(env::args_os().skip(1)) {
        Ok(Some(prepared)) => match run(&prepared) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("spill: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(None) => {
            print!("{}", arguments::HELP);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("spill: {error}");
            ExitCode::from(2)
        }
    }
}

/// Checks what was asked for before anything is written; `None` if it was help.
fn prepare(line: impl IntoIterator<Item = OsString>) -> Result<Option<Prepared>, String> {
    let Asked::Run(arguments) = arguments::parse(line)? else { return Ok(None) };
    let root = arguments.tree.clone().unwrap_or_else(tree::default_root);
    let parents = parents_of_the_store(&arguments);
    let folders = parents.iter().map(|parent| temporary_folder(parent)).collect::<Result<Vec<_>, _>>()?;
    let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
    let tree = Tree::walk(&root, arguments.limit, &paths)
        .map_err(|error| format!("the tree {} cannot be read: {error}", root.display()))?;
    let plan = Plan::new(&arguments, paths, &tree)?;
    Ok(Some(Prepared { tree, plan, _folders: folders }))
}

/// Whether every block is accounted for.
fn run(Prepared { tree, plan, .. }: &Prepared) -> Result<bool, Box<dyn Error>> {
    report::plan(plan, tree);
    let mut ledger = Ledger::default();
    let scratch = open(plan)?;
    let spilled = spill::spill(&scratch, tree, plan, &mut ledger, TIME_TO_SPILL)?;
    report::spilled(&spilled, &scratch.stats(), tree.unreadable, TIME_TO_SPILL);

    let before = check::compare(&scratch, &ledger, plan.lanes())?;
    let turns = scratch.stats().turns;
    // A file of each lane may be on its way: its blocks are gone, but it has not turned yet.
    let turned_enough = before.recycled_files <= turns + u64::from(plan.lanes());
    report::compared(&before, turned_enough.then_some(turns));
    scratch.flush()?;
    drop(scratch);

    let after = reopen(plan, &ledger)?;
    let right = before.is_right() && turned_enough && after.is_right();
    report::verdict(right);
    Ok(right)
}

fn open(plan: &Plan) -> Result<Scratch, Box<dyn Error>> {
    let mut source = DiskFileSource::builder().files_per_folder(plan.files_per_folder).file_size(plan.file_size);
    for folder in &plan.folders {
        source = source.folder(folder);
    }
    // Twice what it will hold: in a crowded index an entry may have to give way, and its block would be missing.
    Ok(Scratch::builder(source.build()?).expected_blocks(2 * plan.blocks).open()?)
}

fn reopen(plan: &Plan, ledger: &Ledger) -> Result<Outcome, Box<dyn Error>> {
    let start = Instant::now();
    let scratch = open(plan)?;
    let opened = start.elapsed();
    let found = scratch.wait_recovered(TIME_TO_RECOVER)?;
    let recovered = start.elapsed();
    let outcome = check::compare(&scratch, ledger, plan.lanes())?;
    report::reopened(opened, recovered, &found, &outcome);
    drop(scratch);
    Ok(outcome)
}

/// `/var/tmp` is on a disk where `/tmp` may not be.
fn parents_of_the_store(arguments: &Arguments) -> Vec<PathBuf> {
    if !arguments.folders.is_empty() {
        return arguments.folders.clone();
    }
    let usual = Path::new("/var/tmp");
    vec![if usual.is_dir() { usual.to_owned() } else { env::temp_dir() }]
}

/// A folder of its own for a part of the store, gone when the run ends.
fn temporary_folder(parent: &Path) -> Result<TempDir, String> {
    if !parent.is_dir() {
        return Err(format!("{} is no folder: give one that exists with --folder", parent.display()));
    }
    tempfile::Builder::new()
        .prefix("scratchspace-spill-")
        .tempdir_in(parent)
        .map_err(|error| format!("no folder can be created in {}: {}", parent.display(), error.kind()))
}
