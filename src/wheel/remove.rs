//! Removing a key: a tombstone in its lane, and in the index, until its file dies.
#![forbid(unsafe_code)]

use crate::block::{BlockAddress, BlockHash, BlockKind, KeyHash, Realm};
use crate::error::{ReadError, WriteError};
use crate::wheel::deadline::Deadline;
use crate::wheel::lane::Lane;
use crate::wheel::store::NewBlock;
use crate::wheel::{BlockView, FileWheel};

impl FileWheel {
    /// The newest version of a key, a tombstone too, without its payload.
    ///
    /// An entry that cannot be read, or is damaged, is an error, if none of the others is that of the key.
    pub(crate) fn locate(
        &self,
        hash: KeyHash,
        realm: Realm,
        key: BlockHash,
    ) -> Result<Option<(BlockAddress, BlockView)>, ReadError> {
        loop {
            let asked = self.index.candidates(hash);
            let deeper: Vec<_> = self.index.deeper_candidates(hash).collect();
            let mut unreadable = None;
            for address in asked.chain(deeper.iter().copied()) {
                match self.try_view_of(hash, address) {
                    Ok(Some(block)) if block.key == key && block.realm == realm => return Ok(Some((address, block))),
                    Ok(_) => {}
                    Err(error) => unreadable = Some(error),
                }
            }
            // A damaged one has just left the index.
            let is_damaged = matches!(unreadable, Some(ReadError::Corrupted { .. }));
            if is_damaged || !(self.has_moved(hash, asked) || self.has_moved_deeper(hash, &deeper)) {
                return unreadable.map_or(Ok(None), Err);
            }
        }
    }

    /// Removes a key; whether there was a block.
    ///
    /// For a key that the index does not hold nothing is written, unless a file may hold a version of it nevertheless.
    pub(crate) fn remove_key(&self, realm: Realm, key: BlockHash, deadline: &Deadline) -> Result<bool, WriteError> {
        let hash = self.key_hash(realm, key);
        // A closure that fails later would put back what it had hidden.
        if !self.complete_pending(hash, realm, key, deadline) {
            return Err(self.timed_out(deadline));
        }
        // Before the index is asked: what recovery finds between the two is in the index, and not a stray.
        let was_recovered = self.recovery.is_complete();
        // What was not found counts as a stray below, and is hidden by a tombstone.
        let known = self.searched(hash);
        let located = self.locate(hash, realm, key);
        if matches!(located, Ok(None)) {
            known?;
        }
        match located {
            // A tombstone that a failed sync may have lost is written again, as content is; and so is one that a newer
            // version may hide after a restart, whose store has failed, or which is bad.
            Ok(Some((address, block)))
                if block.kind.is_tombstone()
                    && !self.is_suspect(self.table.file(address.file()))
                    && self.counters.strays.get() == 0
                    && self.counters.corrupted.get() == 0 =>
            {
                return Ok(false);
            }
            Ok(None) if was_recovered && !self.may_hold_strays(self.lane_of(hash)) => return Ok(false),
            // Also for a version that cannot be read now: it may be readable again one day.
            _ => {}
        }
        let tombstone =
            NewBlock { realm, key, kind: BlockKind::Tombstone, hash: BlockHash::from_u128(0), parts: &[], len: 0 };
        let hidden = self.store_block(&tombstone, deadline)?;
        self.counters.removed.add(1);
        Ok(hidden.is_some_and(|block| !block.kind.is_tombstone()))
    }
    /// Whether a file of the lane may hold a version that the index does not know, and that a restart would find.
    ///
    /// Asked after the index: a file that is chosen to die is CLOSING before its words leave the index, until its
    /// death is durable.
    fn may_hold_strays(&self, lane: &Lane) -> bool {
        self.index.evictions() > 0
            || self.counters.strays.get() > 0
            || self.counters.corrupted.get() > 0
            || self.is_closing_a_file(lane)
    }
}
