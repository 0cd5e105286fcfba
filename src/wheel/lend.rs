//! The lending of a file's bytes, to whoever holds a pin on it.
//!
//! # Invariants
//!
//! 1. Bytes of a slot are lent only once they are stored, and under a pin: then they stay as they are, and where they
//!    are (`file`, invariants 1 and 2).

use std::io;
use std::ops::Range;
use std::slice;

use crate::block::{Entry, FileId, Slot};
use crate::sync::Arc;
use crate::wheel::file::{BlockFile, FileTable};
use crate::wheel::pin::{PinError, PinWord};
use crate::wheel::slots::State;

impl BlockFile {
    /// Pins this file's present lap, so that its bytes may be lent.
    pub(crate) fn pin(&self) -> Result<FilePin<'_>, PinError> {
        Ok(FilePin { word: self.pins.pin()?, file: self })
    }
}

/// Keeps one file from being reused.
pub(crate) struct FilePin<'a> {
    file: &'a BlockFile,
    word: PinWord,
}

impl<'a> FilePin<'a> {
    pub(crate) fn file(&self) -> &'a BlockFile {
        self.file
    }

    /// The entry of a slot whose entry has been stored; `None` if the state says otherwise or the bytes do not check.
    ///
    /// Seen through the mapping, where a page that cannot be read is a signal: for blocks that will be lent from there
    /// anyway. `None` may also be a page that was replaced by zeros; `load_entry` knows.
    pub(crate) fn entry(&self, slot: Slot) -> Option<Entry> {
        if !self.is_stored(slot) {
            return None;
        }
        let start = self.file.size().entry_offset(slot);
        let bytes = self.slice(start..start + Entry::SIZE as u64)?;
        self.decode(slot, bytes.try_into().ok()?)
    }

    /// As `entry`, read through the file: what cannot be read is an error, and never a signal.
    pub(crate) fn load_entry(&self, slot: Slot) -> io::Result<Option<Entry>> {
        if !self.is_stored(slot) {
            return Ok(None);
        }
        let mut bytes = [0; Entry::SIZE];
        self.file.memory()?.load(self.file.size().entry_offset(slot), &mut bytes)?;
        Ok(self.decode(slot, &bytes))
    }

    fn decode(&self, slot: Slot, bytes: &[u8; Entry::SIZE]) -> Option<Entry> {
        let entry = Entry::decode(bytes, self.file.nonce(), slot).ok()?;
        entry.payload(self.file.size(), slot).is_some().then_some(entry)
    }

    /// The payload that a checked entry of this slot names.
    ///
    /// Also if the slot is BAD by now: whoever was lent the block before that was found keeps the bytes it was lent.
    pub(crate) fn payload(&self, slot: Slot, entry: &Entry) -> Option<&[u8]> {
        if !self.is_stored(slot) && self.file.slots.get(slot) != State::Bad {
            return None;
        }
        self.slice(entry.payload(self.file.size(), slot)?)
    }

    fn is_stored(&self, slot: Slot) -> bool {
        // The Acquire inside `get` pairs with the Release of whoever stored the slot's bytes.
        matches!(self.file.slots.get(slot), State::Ready | State::Unverified | State::Verifying | State::Tombstone)
    }

    /// Bytes of the file; `None` for a file without memory or a range outside of it.
    ///
    /// Private to this file: `entry` and `payload` have looked at the slot's state before.
    fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        let base = self.file.base()?;
        if range.start > range.end || range.end > self.file.size().get() {
            return None;
        }
        let start = usize::try_from(range.start).ok()?;
        let len = usize::try_from(range.end - range.start).ok()?;
        // SAFETY: in bounds by the check above, so the offset stays inside the mapping (`FileMemory::base`).
        let first = unsafe { base.add(start) };
        // SAFETY: `self` is a pin, so the memory stays installed and mapped for as long as the slice lives
        // (`file`, invariant 1), and nobody stores to these bytes meanwhile (invariant 2 there, checked by `is_stored`).
        Some(unsafe { slice::from_raw_parts(first.as_ptr(), len) })
    }

    /// Gives the pin to somebody who remembers it without a borrow.
    fn into_word(self) -> PinWord {
        let word = self.word;
        std::mem::forget(self);
        word
    }

    /// Turns this pin into one that owns the table it lies in.
    pub(crate) fn into_owned(self, table: Arc<FileTable>) -> OwnedPin {
        let file = self.file.id();
        OwnedPin { word: self.into_word(), file, table }
    }
}

impl Drop for FilePin<'_> {
    fn drop(&mut self) {
        self.file.pins.unpin(self.word);
    }
}

/// A pin that outlives the call: it keeps the mappings and the locks of the store with it.
pub(crate) struct OwnedPin {
    table: Arc<FileTable>,
    file: FileId,
    word: PinWord,
}

impl OwnedPin {
    /// Whether the file is mapped here: a forked child does not get the mappings of its parent.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.table.process().is_current()
    }

    pub(crate) fn file(&self) -> &BlockFile {
        self.table.file(self.file)
    }

    /// The payload of the block at `slot`, as [`FilePin::payload`].
    pub(crate) fn payload(&self, slot: Slot, entry: &Entry) -> Option<&[u8]> {
        let pin = std::mem::ManuallyDrop::new(FilePin { file: self.table.file(self.file), word: self.word });
        let bytes = pin.payload(slot, entry)?;
        let (first, len) = (bytes.as_ptr(), bytes.len());
        // SAFETY: `bytes` was just formed over the pinned file; `self` holds that same pin and the table for as
        // long as the slice now lives, which is all that tied `bytes` to the shorter-lived guard.
        Some(unsafe { slice::from_raw_parts(first, len) })
    }
}

impl Drop for OwnedPin {
    fn drop(&mut self) {
        self.table.file(self.file).pins.unpin(self.word);
    }
}
