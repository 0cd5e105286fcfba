//! Whether stored bytes are still those that were written, and what a reader is told if not.
//!
//! # Invariants
//!
//! 1. A block leaves the index here only if it was proven bad under its pin, and only by its own address. An error of
//!    the disk proves nothing: the block stays, and its file becomes suspect.
//! 2. What cannot be read is an error, and no signal: entries and payloads are read through the file. Only what a reader
//!    will be lent from the mapping is met there before: an entry in a region that was brought without an error, and a
//!    payload in such a one, or piece by piece after a call that is an error for what cannot be read. What seems not to
//!    match there is read through the file as well.
//! 3. Its word is out of the index before a slot becomes BAD: until then the entry tells whose word it is.
//! 4. One reader makes a slot VERIFYING and compares the bytes. Whatever comes of it, the slot gets another state, and
//!    those who wait are told.
#![forbid(unsafe_code)]

use std::io;
use std::time::Instant;

use crate::block::{BlockAddress, BlockHasher, Entry, KeyHash, Slot};
use crate::error::ReadError;
use crate::wheel::deadline::Deadline;
use crate::wheel::event::WaitCause;
use crate::wheel::file::BlockFile;
use crate::wheel::lend::FilePin;
use crate::wheel::slots::State;
use crate::wheel::{Copied, FileWheel};

/// Payloads are hashed in pieces of this size: an interpreter takes minutes for one.
pub(crate) const PIECE: usize = if cfg!(miri) { 8 << 10 } else { 256 << 10 };
/// Shorter payloads are copied, unless they are in memory already: that takes one call as well, and no longer.
const MAPPED_FROM: usize = 16 << 10;

/// Where the bytes of a payload are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    /// In a copy, read through the file.
    ThroughFile,
    /// Where they are mapped, if they may be met there.
    InPlace,
}

impl FileWheel {
    /// The entry of a stored slot, where it is mapped if it was brought with all that lies around it, else as `load_entry`.
    pub(crate) fn entry_at_hand(
        &self,
        hash: KeyHash,
        pin: &FilePin<'_>,
        slot: Slot,
    ) -> Result<Option<Entry>, ReadError> {
        let file = pin.file();
        let at = file.size().entry_offset(slot);
        if file.regions.are_whole(&(at..at + Entry::SIZE as u64))
            && file.memory().is_ok_and(|memory| memory.populate_tells())
            && let Some(entry) = pin.entry(slot)
        {
            return Ok(Some(entry));
        }
        self.load_entry(hash, pin, slot)
    }

    /// The entry of a stored slot, read through the file; `None` if the slot has moved on meanwhile.
    pub(crate) fn load_entry(&self, hash: KeyHash, pin: &FilePin<'_>, slot: Slot) -> Result<Option<Entry>, ReadError> {
        let file = pin.file();
        let before = file.slots.get(slot);
        match pin.load_entry(slot) {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) if file.slots.get(slot) != before => Ok(None),
            // It was stored and no longer checks: the directory itself is damaged.
            Ok(None) => Err(self.entry_is_bad(hash, file.address(slot))),
            Err(error) => Err(self.read_failed(file, error)),
        }
    }

    /// An entry that was stored no longer checks: the directory itself is damaged.
    pub(crate) fn entry_is_bad(&self, hash: KeyHash, address: BlockAddress) -> ReadError {
        self.tell_corrupted(hash, address);
        let slots = &self.table.file(address.file()).slots;
        // Its length is not known any more, but it was a live block, unless it was a tombstone: it must not keep its file
        // from making room.
        let live = (slots.get(address.slot()) != State::Tombstone).then_some(0);
        self.unpublish(hash, address, live);
        slots.set(address.slot(), State::Bad);
        ReadError::Corrupted { address }
    }

    /// What a reader is told whose file could not be read. It says nothing about the block, which stays; but of this file
    /// no byte is believed any more without its hash, nor lent from the mapping, and it takes no more writes.
    pub(crate) fn read_failed(&self, file: &BlockFile, error: io::Error) -> ReadError {
        let error = self.io_error("reading a block", file.id(), error);
        self.tell_unreadable(file, &error);
        ReadError::Io(error)
    }

    /// Compares the bytes of a recovered block with their hash, once; everybody else waits for that.
    pub(crate) fn verify(
        &self,
        hash: KeyHash,
        pin: &FilePin<'_>,
        slot: Slot,
        entry: &Entry,
        compare: Compare,
        deadline: &Deadline,
    ) -> Result<(), ReadError> {
        let file = pin.file();
        if file.slots.swap_from(slot, State::Unverified, State::Verifying).is_err() {
            let began = Instant::now();
            let result = Self::wait_for_verification(file, slot, deadline);
            self.tell_wait(self.lane_of(hash), WaitCause::Block, began);
            return result;
        }
        let checked = match compare {
            Compare::InPlace if self.matches_in_place(pin, slot, entry) => Ok(true),
            // What does not match may be zeros in place of what could not be read (feature `sigbus-guard`).
            _ => self.check_payload(pin, slot, entry),
        };
        let (state, result) = match checked {
            Ok(true) => (State::Ready, Ok(())),
            Ok(false) => {
                self.tell_corrupted(hash, file.address(slot));
                // Before it is BAD (invariant 3).
                self.unpublish(hash, file.address(slot), Some(entry.len));
                (State::Bad, Err(ReadError::Corrupted { address: file.address(slot) }))
            }
            // An error of the disk says nothing about the block: it stays, unverified.
            Err(error) => (State::Unverified, Err(self.read_failed(file, error))),
        };
        file.slots.set(slot, state);
        drop(file.pending.lock());
        file.verified.notify_all();
        result
    }

    fn wait_for_verification(file: &BlockFile, slot: Slot, deadline: &Deadline) -> Result<(), ReadError> {
        let mut pending = file.pending.lock();
        while file.slots.get(slot) == State::Verifying {
            if deadline.has_passed() {
                return Err(ReadError::Busy { waited: deadline.waited() });
            }
            file.verified.wait_until(&mut pending, deadline.at());
        }
        if file.slots.get(slot) == State::Bad {
            return Err(ReadError::Corrupted { address: file.address(slot) });
        }
        Ok(())
    }

    /// Whether the payload is seen to match the hash of its entry where it is mapped, piece by piece. If not, it may match all
    /// the same.
    fn matches_in_place(&self, pin: &FilePin<'_>, slot: Slot, entry: &Entry) -> bool {
        let file = pin.file();
        let (Ok(memory), Some(range), Some(bytes)) =
            (file.memory(), entry.payload(file.size(), slot), pin.payload(slot, entry))
        else {
            return false;
        };
        let is_brought = file.regions.are_whole(&range);
        if (bytes.len() < MAPPED_FROM && !is_brought) || !memory.populate_tells() {
            return false;
        }
        if is_brought {
            return self.hash_of(bytes) == entry.hash;
        }
        let mut hasher = BlockHasher::with_kind(self.hash_kind);
        let mut at = range.start;
        for piece in bytes.chunks(PIECE) {
            let end = at + piece.len() as u64;
            if at > range.start {
                // All of it was asked for, but the system may have needed the memory since.
                memory.will_need(at..end);
            }
            if memory.populate(at..end).is_err() {
                return false;
            }
            hasher.update(piece);
            at = end;
        }
        hasher.finish() == entry.hash
    }

    /// Whether the payload matches the hash of its entry, read through the file piece by piece.
    fn check_payload(&self, pin: &FilePin<'_>, slot: Slot, entry: &Entry) -> io::Result<bool> {
        let file = pin.file();
        let Some(range) = entry.payload(file.size(), slot) else { return Ok(false) };
        let memory = file.memory()?;
        let mut piece = Copied::zeroed((entry.len as usize).min(PIECE));
        let mut hasher = BlockHasher::with_kind(self.hash_kind);
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).map_or(piece.len(), |left| left.min(piece.len()));
            memory.load(at, &mut piece[..len])?;
            hasher.update(&piece[..len]);
            at += len as u64;
        }
        Ok(hasher.finish() == entry.hash)
    }

    /// A copy of the payload, read through the file and compared with its hash.
    pub(crate) fn copy_and_verify(
        &self,
        hash: KeyHash,
        pin: &FilePin<'_>,
        slot: Slot,
        entry: &Entry,
    ) -> Result<Copied, ReadError> {
        let file = pin.file();
        let address = file.address(slot);
        let range = entry.payload(file.size(), slot).unwrap_or(0..0);
        let mut bytes = Copied::zeroed(entry.len as usize);
        file.memory()
            .and_then(|memory| memory.load(range.start, &mut bytes))
            .map_err(|error| self.read_failed(file, error))?;
        if self.hash_of(&bytes) == entry.hash {
            // As good as verified; somebody who verifies it now says so himself.
            let _ = file.slots.swap_from(slot, State::Unverified, State::Ready);
            return Ok(bytes);
        }
        self.tell_corrupted(hash, address);
        // Before it is BAD (invariant 3).
        self.unpublish(hash, address, Some(entry.len));
        for state in [State::Ready, State::Unverified] {
            let _ = file.slots.swap_from(slot, state, State::Bad);
        }
        Err(ReadError::Corrupted { address })
    }

    /// Whether the block at an address still has the bytes of its hash; verifies it if nobody has before.
    ///
    /// `None` if it cannot be told now: its file is closing, or the disk does not answer.
    pub(crate) fn is_sound(&self, hash: KeyHash, address: BlockAddress) -> Option<bool> {
        let file = self.table.get(address.file())?;
        let pin = file.pin().ok()?;
        let slot = address.slot();
        match file.slots.get(slot) {
            State::Unverified | State::Verifying => {
                let entry = self.load_entry(hash, &pin, slot).ok()??;
                if let (Some(range), Ok(memory)) = (entry.payload(file.size(), slot), file.memory()) {
                    memory.will_need(range);
                }
                let deadline = self.deadline();
                match self.verify(hash, &pin, slot, &entry, Compare::ThroughFile, &deadline) {
                    Ok(()) => Some(true),
                    Err(ReadError::Corrupted { .. }) => Some(false),
                    Err(_) => None,
                }
            }
            State::Bad | State::Failed | State::Empty => Some(false),
            _ => Some(true),
        }
    }
}
