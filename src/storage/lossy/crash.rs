//! What a crash leaves of a file: its bytes in the cache and on the disk, each sector by chance where nothing settles it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::block::FileId;
use crate::storage::dice::Dice;
use crate::storage::in_memory;

/// What a disk writes as a whole.
pub(super) const SECTOR: usize = 512;

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed: the page cache goes on.
    Kill,
    /// The power is cut: only the disk goes on.
    PowerCut,
}

/// One file, as the cache has it and as the disk has it.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) cache: Vec<u8>,
    pub(super) disk: Vec<u8>,
    /// Sectors that are newer in the cache, and will be written.
    pub(super) dirty: BTreeSet<usize>,
    /// Sectors that are newer in the cache, and count as clean.
    pub(super) lost: BTreeSet<usize>,
    pub(super) is_marked: bool,
}

/// Files at the moment of a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    /// How often the power was cut.
    pub(super) boot: u64,
    pub(super) files: BTreeMap<FileId, Copy>,
    /// Names that the disk does not have as the cache has them: what it has there.
    pub(super) unsynced: BTreeMap<FileId, Option<Copy>>,
}

impl Copy {
    /// What a crash leaves of it. Of what was not synced a power cut keeps one sector in so many `times`.
    pub(super) fn crash(mut self, crash: Crash, times: u64, dice: &mut Dice) -> Self {
        if crash == Crash::PowerCut {
            for sector in std::mem::take(&mut self.dirty) {
                let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                if sector == 0 && dice.one_in(4) {
                    let end = in_memory(dice.below(SECTOR as u64));
                    self.disk[..end].copy_from_slice(&self.cache[..end]);
                } else if dice.one_in(times) {
                    self.disk[bytes.clone()].copy_from_slice(&self.cache[bytes]);
                }
            }
            self.cache.clone_from(&self.disk);
            self.lost.clear();
            // The mark is a name that was not synced.
            self.is_marked &= dice.one_in(2);
        } else {
            self.evict(dice);
        }
        self
    }

    /// The cache drops pages that it takes for clean, some of them, or all, or none.
    fn evict(&mut self, dice: &mut Dice) {
        const SECTORS: usize = 4096 / SECTOR;
        let times = 1 + dice.below(4);
        let pages: BTreeSet<usize> = self.lost.iter().map(|sector| sector / SECTORS).collect();
        for page in pages {
            let sectors = page * SECTORS..(page + 1) * SECTORS;
            if self.dirty.range(sectors.clone()).next().is_none() && dice.one_in(times) {
                let bytes = sectors.start * SECTOR..sectors.end * SECTOR;
                self.cache[bytes.clone()].copy_from_slice(&self.disk[bytes]);
                self.lost.retain(|sector| !sectors.contains(sector));
            }
        }
    }
}
