//! What the user is told, step by step.
#![forbid(unsafe_code)]

use std::time::Duration;

use scratchspace::{RecoveryReport, Skipped, Stats};

use crate::check::Outcome;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::size::{show, show_rate};
use crate::spill::Spilled;
use crate::tree::Tree;

pub(crate) fn plan(plan: &Plan, tree: &Tree) {
    let folders: Vec<String> = plan.folders.iter().map(|folder| folder.display().to_string()).collect();
    println!("Input: {} in {} files below {}", show(tree.bytes), tree.files.len(), tree.root.display());
    println!("Store: {} in {} files of {}, in", show(plan.bytes()), plan.files(), show(plan.file_size));
    println!("       {}", folders.join(" and "));
    if plan.bytes() < tree.bytes {
        println!("       smaller than the input: the oldest blocks will make room for the newest");
    }
    println!("       (deleted at the end; a run that is interrupted leaves it to you)");
}

pub(crate) fn spilled(spilled: &Spilled, stats: &Stats, unlisted: u64, limit: Duration) {
    let Spilled { blocks, bytes, unreadable, writing, reading, total, cut_short } = *spilled;
    println!();
    println!("1. Write the input block by block, and read each block back at once");
    println!("   {blocks} blocks, {} in {total:.1?}; each was read back equal", show(bytes));
    println!(
        "   {} through writes, {} through reads of the store",
        show_rate(bytes, writing),
        show_rate(bytes, reading)
    );
    println!("   {} blocks were there already and were not stored again", stats.duplicates);
    println!("   {} times the store was full and its oldest file made room", stats.turns);
    if cut_short {
        println!("   stopped after {} s, before the end of the input", limit.as_secs());
    }
    if unreadable + unlisted > 0 {
        println!("   {unreadable} files and {unlisted} folders of the input could not be read");
    }
    if let Some(memory) = Memory::now() {
        println!("   memory: {memory}");
    }
}

/// `turns` is `None` if there were too few for what is gone.
pub(crate) fn compared(outcome: &Outcome, turns: Option<u64>) {
    println!();
    println!("2. Read every block once more");
    println!("   {outcome}");
    if turns.is_none() {
        println!("   WRONG: blocks of {} files are gone, more than made room", outcome.recycled_files);
    }
}

pub(crate) fn reopened(opened: Duration, recovered: Duration, found: &RecoveryReport, outcome: &Outcome) {
    let RecoveryReport { files, blocks, bytes, skipped, .. } = found;
    println!();
    println!("3. Close the store, open it again, and read every block that survived");
    println!("   open after {opened:.1?}; all blocks found again after {recovered:.1?}");
    println!("   {blocks} blocks, {} in {files} files", show(*bytes));
    if *skipped != Skipped::default() {
        println!("   not taken over: {skipped}");
    }
    println!("   {outcome}");
}

pub(crate) fn verdict(right: bool) {
    println!();
    if right {
        println!("Every block is accounted for: equal to its input, or gone with the oldest files.");
    } else {
        println!("FAILED: blocks are WRONG or LOST, see above.");
    }
}
