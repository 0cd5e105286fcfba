//! The comparison at the end: each block that was written is there unchanged, or went with its file.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;

use scratchspace::{BlockHash, BlockInfo, MissingOk, Scratch};

use crate::ledger::{self, Ledger, Place, Written};
use crate::progress;
use crate::size::show;
use crate::spill::REALM;

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Different blocks that were ever written.
    pub(crate) written: u64,
    pub(crate) compared: u64,
    /// Bytes of the compared ones.
    pub(crate) bytes: u64,
    /// Gone with files that were turned.
    pub(crate) recycled: u64,
    pub(crate) recycled_files: u64,
    /// Bytes differ from what the hash names.
    pub(crate) wrong: Vec<Written>,
    /// Gone although the file it lay in, or an older one, still lives.
    pub(crate) lost: Vec<Written>,
}

/// Where a block lies. A lane for each folder is what a store has by default, and files go to the folders in turn.
pub(crate) fn place(info: &BlockInfo, folders: u16) -> Place {
    Place { lane: (info.file.get() - 1) % folders, generation: info.generation }
}

/// Reads everything in the ledger once more.
pub(crate) fn compare(scratch: &Scratch, ledger: &Ledger, folders: u16) -> Result<Outcome, Box<dyn Error>> {
    let mut outcome = Outcome { written: ledger.blocks().len() as u64, ..Outcome::default() };
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    let bar = progress::bar("comparing", ledger.blocks().iter().map(|block| block.len as u64).sum());
    for block in ledger.blocks() {
        let same = |bytes: &[u8]| bytes.len() == block.len && BlockHash::of(bytes) == block.hash;
        match scratch.read(REALM, block.hash, same).missing_ok()? {
            None => missing.push(*block),
            Some(false) => outcome.wrong.push(*block),
            Some(true) => {
                outcome.compared += 1;
                outcome.bytes += block.len as u64;
                there.push(block.hash);
            }
        }
        bar.inc(block.len as u64);
    }
    bar.finish_and_clear();
    // Asked for after the last read: a file that was turned meanwhile must not count as alive, its blocks may be among
    // the missing ones.
    let mut alive = Vec::new();
    for hash in there {
        alive.extend(scratch.info(REALM, hash).missing_ok()?.map(|info| place(&info, folders)));
    }
    outcome.lost = ledger::lost(&missing, alive);
    outcome.recycled = (missing.len() - outcome.lost.len()) as u64;
    outcome.recycled_files = ledger::files_of(&missing);
    Ok(outcome)
}

impl Outcome {
    /// Whether every block is accounted for.
    pub(crate) fn is_right(&self) -> bool {
        self.compared + self.recycled == self.written && self.wrong.is_empty() && self.lost.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { written, compared, recycled, recycled_files, .. } = self;
        write!(f, "{written} different blocks were written = {compared} are there and equal ({}) ", show(self.bytes))?;
        write!(f, "+ {recycled} are gone with the {recycled_files} oldest files")?;
        for (what, blocks) in [("WRONG", &self.wrong), ("LOST", &self.lost)] {
            if let Some(first) = blocks.first() {
                let Place { lane, generation } = first.place;
                write!(f, " + {} are {what}, the first is {} ", blocks.len(), first.hash)?;
                write!(f, "of {} bytes in lane {lane}, generation {generation}", first.len)?;
            }
        }
        Ok(())
    }
}
