//! Writes the input, and compares each block right after its write.
//!
//! # Invariants
//!
//! 1. Every second block is handed over as a closure that has yet to run when the block is read back.
//! 2. A block counts as written only once it was read back equal.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use scratchspace::{BlockHash, MissingOk, Realm, Scratch};

use crate::check;
use crate::cut;
use crate::ledger::{Ledger, Written};
use crate::plan::Plan;
use crate::progress;
use crate::tree::{InputFile, Tree};

pub(crate) const REALM: Realm = Realm::DEFAULT;

#[derive(Debug, Default)]
pub(crate) struct Spilled {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    /// Input files that could not be read to their end.
    pub(crate) unreadable: u64,
    /// Spent in writing calls of the store.
    pub(crate) writing: Duration,
    /// Spent in reading the blocks back.
    pub(crate) reading: Duration,
    pub(crate) total: Duration,
    /// Whether the time was up before the input was.
    pub(crate) cut_short: bool,
}

enum Failure {
    Input,
    TimeIsUp,
    Store(Box<dyn Error>),
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Input
    }
}

/// Spills the files of `tree`, for at most `time`.
pub(crate) fn spill(
    scratch: &Scratch,
    tree: &Tree,
    plan: &Plan,
    ledger: &mut Ledger,
    time: Duration,
) -> Result<Spilled, Box<dyn Error>> {
    let (start, mut spilled) = (Instant::now(), Spilled::default());
    let bar = progress::bar("spilling", tree.bytes);
    for file in &tree.files {
        let done = spill_file(file, plan, |bytes| {
            if start.elapsed() > time {
                return Err(Failure::TimeIsUp);
            }
            spill_block(scratch, bytes, plan, ledger, &mut spilled).map_err(Failure::Store)?;
            bar.inc(bytes.len() as u64);
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(Failure::Input) => spilled.unreadable += 1,
            Err(Failure::Store(error)) => return Err(format!("{}: {error}", file.path.display()).into()),
            Err(Failure::TimeIsUp) => {
                spilled.cut_short = true;
                break;
            }
        }
    }
    bar.finish_and_clear();
    spilled.total = start.elapsed();
    Ok(spilled)
}

fn spill_file(file: &InputFile, plan: &Plan, block: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let longest = usize::try_from(plan.block).expect("a block of the plan fits into memory");
    cut::cut(File::open(&file.path)?.take(file.len), longest, block)
}

fn spill_block(
    scratch: &Scratch,
    bytes: &[u8],
    plan: &Plan,
    ledger: &mut Ledger,
    spilled: &mut Spilled,
) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let hash = if spilled.blocks.is_multiple_of(2) {
        scratch.put(REALM, bytes)?
    } else {
        let (hash, owned) = (BlockHash::of(bytes), bytes.to_vec());
        scratch.write(REALM, hash, bytes.len(), move |buf: &mut [u8]| buf.copy_from_slice(&owned))?;
        hash
    };
    let written = Instant::now();
    let equal = scratch.read(REALM, hash, |found: &[u8]| found == bytes).missing_ok()?;
    spilled.writing += written - started;
    spilled.reading += written.elapsed();
    match equal {
        Some(true) => {}
        Some(false) => return Err(format!("block {hash} differs right after its write").into()),
        None => return Err(format!("block {hash} is missing right after its write").into()),
    }
    let info = scratch.info(REALM, hash)?;
    ledger.note(Written { hash, len: bytes.len(), place: check::place(&info, plan.lanes()) });
    spilled.blocks += 1;
    spilled.bytes += bytes.len() as u64;
    Ok(())
}
