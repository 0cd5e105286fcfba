//! What was written, where it lay then, and which of it may be gone.
//!
//! Only hashes are kept: the hash of a block tells whether what is read is what was written.
//!
//! # Invariants
//!
//! 1. A block stands once, at the place of its latest write.
//! 2. A lane forgets whole files, the oldest generation first. So a missing block is in order only if its lane holds
//!    nothing of the same or an older generation any more.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use scratchspace::BlockHash;

/// One life of one file: which lane it belongs to and when it was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) lane: u16,
    pub(crate) generation: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) hash: BlockHash,
    /// Bytes.
    pub(crate) len: usize,
    pub(crate) place: Place,
}

/// Blocks in the order of their first write.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    blocks: Vec<Written>,
    known: HashMap<BlockHash, usize>,
}

impl Ledger {
    pub(crate) fn note(&mut self, written: Written) {
        let at = *self.known.entry(written.hash).or_insert(self.blocks.len());
        match self.blocks.get_mut(at) {
            Some(block) => *block = written,
            None => self.blocks.push(written),
        }
    }

    pub(crate) fn blocks(&self) -> &[Written] {
        &self.blocks
    }
}

/// How many files the missing blocks lay in.
pub(crate) fn files_of(missing: &[Written]) -> u64 {
    missing.iter().map(|block| block.place).collect::<BTreeSet<_>>().len() as u64
}

/// Those of the missing blocks that had no right to go, given where the blocks lie that are still there.
pub(crate) fn lost(missing: &[Written], alive: impl IntoIterator<Item = Place>) -> Vec<Written> {
    let mut oldest = BTreeMap::new();
    for Place { lane, generation } in alive {
        let least: &mut u64 = oldest.entry(lane).or_insert(generation);
        *least = generation.min(*least);
    }
    let in_order = |block: &&Written| oldest.get(&block.place.lane).is_none_or(|&least| block.place.generation < least);
    missing.iter().filter(|block| !in_order(block)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: u8, lane: u16, generation: u64) -> Written {
        Written { hash: BlockHash::of(&[name]), len: 1, place: Place { lane, generation } }
    }

    fn lost_of(missing: &[Written], alive: &[(u16, u64)]) -> usize {
        lost(missing, alive.iter().map(|&(lane, generation)| Place { lane, generation })).len()
    }

    #[test]
    fn a_block_written_again_stands_once_at_its_new_place() {
        let mut ledger = Ledger::default();
        for written in [block(1, 0, 1), block(2, 0, 1), block(1, 0, 5)] {
            ledger.note(written);
        }
        let places: Vec<u64> = ledger.blocks().iter().map(|block| block.place.generation).collect();
        assert_eq!(places, [5, 1]);
    }

    #[test]
    fn older_files_of_a_lane_may_be_gone() {
        let missing = [block(1, 0, 1), block(2, 0, 2), block(3, 1, 7)];
        assert_eq!(lost_of(&missing, &[(0, 3), (0, 9), (1, 8)]), 0);
        assert_eq!(files_of(&missing), 3);
    }

    #[test]
    fn a_block_missing_from_a_file_that_lives_is_lost() {
        assert_eq!(lost_of(&[block(1, 0, 3)], &[(0, 3)]), 1);
    }

    #[test]
    fn a_block_missing_while_an_older_file_of_its_lane_lives_is_lost() {
        assert_eq!(lost_of(&[block(1, 0, 4)], &[(0, 3), (0, 9)]), 1);
        assert_eq!(lost_of(&[block(1, 0, 4)], &[(1, 3), (0, 9)]), 0, "other lanes turn at their own pace");
    }
}
