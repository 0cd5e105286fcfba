//! What the index names: publishing a block, taking a word back, and the live count of each file.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

use crate::block::{BlockAddress, BlockHash, BlockKind, FileId, KeyHash, Realm};
use crate::error::ReadError;
use crate::index::{Published, View};
use crate::planted;
use crate::sync::Arc;
use crate::wheel::file::BlockFile;
use crate::wheel::lend::FilePin;
use crate::wheel::pending::{Hides, Previous};
use crate::wheel::pin::PinError;
use crate::wheel::slots::State;
use crate::wheel::{FileWheel, OnFull};

/// What is known of a block without reading its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockView {
    pub(crate) realm: Realm,
    pub(crate) key: BlockHash,
    pub(crate) kind: BlockKind,
    pub(crate) len: u32,
    pub(crate) generation: u64,
}

/// A block, and what it hides itself if it may still fail.
#[derive(Clone, Debug)]
pub(crate) struct Hidden {
    pub(crate) block: BlockView,
    pub(crate) previous: Previous,
}

/// How a publication ended, the live counts being right already.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The index names the block; it hides this one.
    Published(Option<Hidden>),
    /// A newer block of the key, at this address, is there.
    Superseded(BlockAddress),
    /// As `Superseded`, but the newer one may still fail: then the index names this block.
    Waiting(BlockAddress),
    /// The index has no room for it.
    Full,
}

/// What an address turned out to be.
enum Look<'a> {
    /// A block.
    Block(BlockView),
    /// Its file is closing.
    Lost,
    /// Its file has as many pins as it counts.
    Busy,
    /// Its entry does not check; pinned, so that the slot means this block still.
    Damaged(Unseen, FilePin<'a>),
    /// Its entry could not be read.
    Unreadable(std::io::Error, Unseen),
    /// Its slot failed, or its bytes were proven bad.
    Failed,
}

/// What is known of a stored block whose entry is not.
#[derive(Clone, Copy)]
struct Unseen {
    generation: u64,
    is_tombstone: bool,
}

/// The eyes of the index: whose word is this, and how old is it.
struct KeyView<'a> {
    wheel: &'a FileWheel,
    realm: Realm,
    key: BlockHash,
    /// The block to be published.
    address: BlockAddress,
    /// The block of this key that was seen last: a failing block cannot be looked at any more once it is replaced.
    seen: Cell<Option<Hidden>>,
}

impl View for KeyView<'_> {
    fn is_same_key(&self, address: BlockAddress) -> bool {
        match self.wheel.look(address) {
            Look::Block(block) if block.key == self.key && block.realm == self.realm => {
                // If it is stored or has failed by now, it hides nothing, or its word has left.
                let hides = self.wheel.hides_at(address);
                let previous = Previous { address, generation: block.generation, block: Some(block), hides };
                self.will_hide(&previous);
                self.seen.set(Some(Hidden { block, previous }));
                true
            }
            // Its file is closing, or its entry is damaged or cannot be read: with the tag equal it is nearly always
            // this key's, and the block is lost either way, where a wrong no would leave two words for one key.
            Look::Lost | Look::Busy => true,
            // Its word comes back if the newer block is not stored: the disk may read it then.
            Look::Damaged(unseen, _) | Look::Unreadable(_, unseen) => {
                // Of a length that nobody knows, but it was a live block: it must not keep its file from making room.
                let kind = if unseen.is_tombstone { BlockKind::Tombstone } else { BlockKind::Named };
                let generation = unseen.generation;
                let block = BlockView { realm: self.realm, key: self.key, kind, len: 0, generation };
                let previous = Previous { address, generation, block: Some(block), hides: None };
                self.will_hide(&previous);
                self.seen.set(Some(Hidden { block, previous }));
                true
            }
            Look::Block(..) | Look::Failed => false,
        }
    }

    fn version(&self, address: BlockAddress) -> (u64, u32) {
        let file = self.wheel.table.file(address.file());
        // Hazard 7: what discovery offers is taken for the newest.
        if planted::is(7) && address == self.address && file.slots.get(address.slot()) == State::Unverified {
            return (u64::MAX, address.slot().get());
        }
        (file.generation(), address.slot().get())
    }
}

impl KeyView<'_> {
    /// Told before it is hidden: whoever finds the block failed then knows what it hid.
    fn will_hide(&self, previous: &Previous) {
        if self.version(previous.address) < self.version(self.address)
            && let Some(own) = self.wheel.hides_at(self.address)
        {
            own.will_hide(previous.clone());
        }
    }
}

/// The length of a block that counts as live: tombstones do not.
fn live_len(block: BlockView) -> Option<u32> {
    (!block.kind.is_tombstone()).then_some(block.len)
}

impl FileWheel {
    /// Looks at the block of an address; `None` if it is dying, failed, bad or unreadable.
    pub(crate) fn view(&self, address: BlockAddress) -> Option<BlockView> {
        self.try_view(address).ok().flatten()
    }

    /// As `view`, where an entry that cannot be looked at now, cannot be read, or is damaged, is an error.
    pub(crate) fn try_view(&self, address: BlockAddress) -> Result<Option<BlockView>, ReadError> {
        self.judge(address, self.look(address))
    }

    /// As `try_view`; a block of this key whose entry is damaged leaves the index.
    pub(crate) fn try_view_of(&self, hash: KeyHash, address: BlockAddress) -> Result<Option<BlockView>, ReadError> {
        match self.look(address) {
            Look::Damaged(_, _pin) => Err(self.entry_is_bad(hash, address)),
            look => self.judge(address, look),
        }
    }

    fn judge(&self, address: BlockAddress, look: Look<'_>) -> Result<Option<BlockView>, ReadError> {
        match look {
            Look::Block(block) => Ok(Some(block)),
            Look::Lost | Look::Failed => Ok(None),
            Look::Busy => Err(ReadError::Busy { waited: Duration::ZERO }),
            Look::Damaged(..) => Err(ReadError::Corrupted { address }),
            Look::Unreadable(error, _) => Err(self.read_failed(self.table.file(address.file()), error)),
        }
    }

    fn look(&self, address: BlockAddress) -> Look<'_> {
        let pin = match self.table.get(address.file()).map(BlockFile::pin) {
            Some(Ok(pin)) => pin,
            Some(Err(PinError::Overflow)) => return Look::Busy,
            Some(Err(PinError::Closing)) | None => return Look::Lost,
        };
        let file = pin.file();
        let slot = address.slot();
        let generation = file.generation();
        loop {
            match file.slots.get(slot) {
                state @ (State::Ready | State::Unverified | State::Verifying | State::Tombstone) => {
                    let unseen = Unseen { generation, is_tombstone: state == State::Tombstone };
                    let entry = match pin.load_entry(slot) {
                        Ok(Some(entry)) => entry,
                        Ok(None) if file.slots.get(slot) != state => continue,
                        Ok(None) => return Look::Damaged(unseen, pin),
                        Err(error) => return Look::Unreadable(error, unseen),
                    };
                    let (realm, key, kind, len) = (entry.realm, entry.key, entry.kind, entry.len);
                    return Look::Block(BlockView { realm, key, kind, len, generation });
                }
                state @ (State::Pending | State::Running | State::Gathered | State::Failed) => {
                    // A failed block keeps its record until its word has left.
                    if let Some(record) = file.pending.lock().get(slot) {
                        let (realm, key, kind, len) = (record.realm(), record.key(), record.kind(), record.len());
                        return Look::Block(BlockView { realm, key, kind, len, generation });
                    }
                    if state == State::Failed {
                        return Look::Failed;
                    }
                    // No record: the state has changed meanwhile (`pending`, invariant 1).
                }
                State::Empty | State::Bad => return Look::Failed,
            }
        }
    }

    /// Where a block that may still fail remembers what it hides.
    fn hides_at(&self, address: BlockAddress) -> Option<Arc<Hides>> {
        self.table.file(address.file()).pending.lock().hides_at(address.slot())
    }

    /// As `hides_at`, if the block is one of this key.
    fn hides_of(&self, address: BlockAddress, realm: Realm, key: BlockHash) -> Option<Arc<Hides>> {
        let mut pending = self.table.file(address.file()).pending.lock();
        pending.get(address.slot()).filter(|record| record.is_of(realm, key))?;
        pending.hides_at(address.slot())
    }

    /// The word of this block has left the index.
    fn no_longer_live(&self, address: BlockAddress, block: BlockView) {
        let Some(len) = live_len(block) else { return };
        let file = self.table.file(address.file());
        // The pin keeps a new lap from beginning in between, whose count would otherwise be lowered.
        let Ok(_pin) = file.pin() else { return };
        if file.generation() == block.generation {
            file.sub_live(len);
            if self.options.on_full == OnFull::Refuse && !file.is_needed() {
                self.wake_keepers();
            }
        }
    }

    /// Has the index name a block, unless a newer one of its key is there.
    ///
    /// The caller holds a pin on its file or an unfinished reservation in it.
    pub(crate) fn publish(
        &self,
        hash: KeyHash,
        (realm, key): (Realm, BlockHash),
        address: BlockAddress,
        kind: BlockKind,
        len: u32,
    ) -> Outcome {
        let file = self.table.file(address.file());
        let counts = !kind.is_tombstone();
        if counts {
            file.add_live(len);
        }
        let view = KeyView { wheel: self, realm, key, address, seen: Cell::new(None) };
        let mut waits = false;
        let published = loop {
            let published = self.index.publish_if_newer(hash, address, &view);
            // One that fails puts back what it has hidden, also what comes only now (`pending`, invariant 4).
            let Published::Superseded(newer) = published else { break published };
            if newer == address {
                break published;
            }
            if let Some(hides) = self.hides_of(newer, realm, key) {
                let (generation, own) = (file.generation(), self.hides_at(address));
                let block = Some(BlockView { realm, key, kind, len, generation });
                waits = hides.hide(Previous { address, generation, block, hides: own });
                if waits {
                    break published;
                }
                // It has failed, and its word is about to leave.
                crate::sync::thread::yield_now();
            } else if self.table.file(newer.file()).slots.get(newer.slot()) != State::Failed {
                break published;
            }
            // Otherwise it failed before it could be told of this one, and its word has left.
        };
        match published {
            Published::Inserted => Outcome::Published(None),
            Published::Replaced(previous) => {
                let hidden = view.seen.take().filter(|hidden| hidden.previous.address == previous);
                if let Some(hidden) = &hidden {
                    self.no_longer_live(previous, hidden.block);
                }
                Outcome::Published(hidden)
            }
            // Older than what had to give way here before, or there is no memory for it: it is not in the index.
            Published::Evicted(other) if other == address => {
                if counts {
                    file.sub_live(len);
                }
                Outcome::Full
            }
            Published::Evicted(other) => {
                if let Some(block) = self.view(other) {
                    self.no_longer_live(other, block);
                }
                Outcome::Published(None)
            }
            Published::Superseded(newer) => {
                if counts {
                    file.sub_live(len);
                }
                if waits { Outcome::Waiting(newer) } else { Outcome::Superseded(newer) }
            }
        }
    }

    /// Takes the word of a failed or bad block out of the index; `len` counts if the block was live.
    pub(crate) fn unpublish(&self, hash: KeyHash, address: BlockAddress, live: Option<u32>) -> bool {
        let removed = self.index.remove(hash, address);
        if removed && let Some(len) = live {
            self.table.file(address.file()).sub_live(len);
        }
        removed
    }

    /// Puts the newest block back that a failed one had hidden and that is still there; otherwise removes the word.
    ///
    /// `live` counts if the failed block was live, `previous` is what it says when it begins to fail.
    pub(crate) fn restore(
        &self,
        hash: KeyHash,
        mut failed: BlockAddress,
        mut live: Option<u32>,
        mut previous: Option<Previous>,
    ) {
        while let Some(hidden) = previous {
            // Whoever has replaced it since hides what it hid.
            if self.index.all_candidates(hash).all(|address| address != failed) {
                return;
            }
            if self.put_in_place(hash, failed, live, &hidden) {
                // Asked again: one that begins to fail after this finds its word there, and restores in its turn.
                if !hidden.is_failing() {
                    return;
                }
                (failed, live) = (hidden.address, hidden.block.and_then(live_len));
            }
            // That one has failed as well: what it hid itself.
            previous = hidden.hidden();
        }
        self.unpublish(hash, failed, live);
    }

    /// Puts one hidden block back, if it is there still; whether it was.
    fn put_in_place(&self, hash: KeyHash, failed: BlockAddress, failed_live: Option<u32>, hidden: &Previous) -> bool {
        let file = self.table.file(hidden.address.file());
        // The pin, and the generation under it, show that the address still means the same block.
        let Some(_pin) = file.pin().ok().filter(|_| file.generation() == hidden.generation) else { return false };
        // What cannot be read now is not lost for that.
        if matches!(self.look(hidden.address), Look::Lost | Look::Damaged(..) | Look::Failed) {
            return false;
        }
        // Before its word is there (invariant 3 of the module): whoever replaces it lowers the count at once.
        let live = hidden.block.and_then(live_len);
        if let Some(len) = live {
            file.add_live(len);
        }
        if !self.index.compare_exchange_if(hash, failed, hidden.address, || !hidden.is_failing()) {
            if let Some(len) = live {
                file.sub_live(len);
            }
            return false;
        }
        if let Some(len) = failed_live {
            self.table.file(failed.file()).sub_live(len);
        }
        true
    }

    /// Takes every word of a file out of the index; how many there were.
    pub(crate) fn sweep(&self, file: FileId) -> u64 {
        self.index.sweep(file, |_| ())
    }
}
