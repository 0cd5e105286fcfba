//! From a key to bytes that are lent.
//!
//! # Invariants
//!
//! 1. Bytes are lent only of a slot whose record or checked entry names exactly the realm and key asked for.
//! 2. *Busy* never costs the block: a file that is closing sends the reader back to the index, where a newer copy
//!    is found, or none.
//! 3. Memory of a mapping is touched only for a block that is asked for, to be lent from there if it is sound, and whose
//!    pages were brought without an error (WARM, or a moment ago). Everything else is read through the file (`verify`,
//!    invariant 2).
//! 4. What a file stores that is seen to be suspect is lent only as a copy that was verified for this read; so is all,
//!    with `Verify::Always`.
//! 5. What `Verify::Never` lends without a comparison stays UNVERIFIED: whoever writes the same content, asks for a
//!    verified copy, or weighs it against an older version compares it still.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::time::Duration;

use crate::block::{BlockAddress, BlockHash, BlockKind, Entry, KeyHash, Realm, Slot};
use crate::error::ReadError;
use crate::index::Candidates;
use crate::planted;
use crate::sync::Arc;
use crate::wheel::deadline::Deadline;
use crate::wheel::file::BlockFile;
use crate::wheel::gather::GatherBuffer;
use crate::wheel::known::Known;
use crate::wheel::lend::FilePin;
use crate::wheel::pending::Record;
use crate::wheel::pin::PinError;
use crate::wheel::run::Completion;
use crate::wheel::slots::{self, State};
use crate::wheel::verify::Compare;
use crate::wheel::{Copied, FileWheel, Verify, residency};

/// A block that was found, and what keeps its bytes in place.
pub(crate) enum Lent<'a> {
    /// In the mapping of a pinned file.
    Mapped { pin: FilePin<'a>, slot: Slot, entry: Entry },
    /// In a gather buffer, on its way to the file.
    Gathered { buffer: Arc<GatherBuffer>, start: u64, len: u32 },
    /// A verified copy: the file is suspect, or every read is verified.
    Copied(Copied),
}

impl Deref for Lent<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // The ranges were checked when the block was found: a failure here would be a defect of this library, and
        // an empty slice in its place a lie.
        match self {
            Self::Mapped { pin, slot, entry } => pin.payload(*slot, entry).expect("checked when it was found"),
            Self::Gathered { buffer, start, len } => {
                buffer.bytes(*start..*start + u64::from(*len)).expect("checked when it was gathered")
            }
            Self::Copied(bytes) => bytes,
        }
    }
}

/// What one candidate of the index turned out to be.
enum Candidate<'a> {
    Found(Lent<'a>),
    /// The key's newest version says that it was removed.
    Removed,
    /// Another key with the same tag, or whatever a later lap has put into the slot.
    Other,
    /// Its file is closing, or its slot failed.
    Gone,
}

/// What a look-up has come to in the tables that an index has grown by.
enum Deeper<'a> {
    Found(Lent<'a>),
    /// The key's newest version says that it was removed.
    Removed,
    /// One that may be the key's cannot be read.
    Unreadable(ReadError),
    /// The index names others by now.
    Moved,
    Nothing,
}

impl FileWheel {
    /// Finds a block and lends its bytes.
    pub(crate) fn find(&self, realm: Realm, key: BlockHash) -> Result<Lent<'_>, ReadError> {
        self.find_hashed(self.key_hash(realm, key), realm, key, self.options.verify)
    }

    /// As `find`, on a copy that is verified now.
    pub(crate) fn find_verified(&self, realm: Realm, key: BlockHash) -> Result<Lent<'_>, ReadError> {
        self.find_hashed(self.key_hash(realm, key), realm, key, Verify::Always)
    }

    /// As `find`, for a key that was hashed before.
    pub(crate) fn find_hashed(
        &self,
        hash: KeyHash,
        realm: Realm,
        key: BlockHash,
        verify: Verify,
    ) -> Result<Lent<'_>, ReadError> {
        let found = self.find_block(hash, realm, key, verify);
        self.count_failed_read(found.as_ref().err());
        found
    }

    /// Counts a read that ended with this error, if it did.
    #[inline]
    pub(crate) fn count_failed_read(&self, error: Option<&ReadError>) {
        match error {
            Some(ReadError::Io(_)) => self.counters.read_errors.add(1),
            Some(ReadError::Busy { .. }) => self.counters.timeouts.add(1),
            _ => {}
        }
    }

    fn find_block(&self, hash: KeyHash, realm: Realm, key: BlockHash, verify: Verify) -> Result<Lent<'_>, ReadError> {
        let deadline = self.deadline();
        let mut looked_again = false;
        loop {
            let asked = self.index.candidates(hash);
            let mut unreadable = None;
            for address in asked {
                let candidate = self.candidate(hash, address, realm, key, verify, &deadline);
                // Hazard 14: a read that fails costs the block.
                if planted::is(14) && matches!(candidate, Err(ReadError::Io(_))) {
                    self.unpublish(hash, address, None);
                }
                match candidate {
                    Ok(Candidate::Found(lent)) => return Ok(lent),
                    Ok(Candidate::Removed) => return Err(ReadError::Missing { realm, hash: key }),
                    Ok(Candidate::Other | Candidate::Gone) => {}
                    // An entry that does not say whose it is may be another key's of this tag.
                    Err(error) => unreadable = Some(error),
                }
            }
            // Hazard 57: what has no place in the first table is not looked for.
            if self.index.has_grown() && !planted::is(57) {
                match self.find_deeper(hash, (realm, key), verify, &deadline) {
                    Deeper::Found(lent) => return Ok(lent),
                    Deeper::Removed => return Err(ReadError::Missing { realm, hash: key }),
                    Deeper::Unreadable(error) => unreadable = Some(error),
                    Deeper::Moved if unreadable.is_none() => continue,
                    Deeper::Moved | Deeper::Nothing => {}
                }
            }
            if let Some(error) = unreadable {
                return Err(error);
            }
            if !self.has_moved(hash, asked) {
                match self.known(hash)? {
                    // What was found in between is there now.
                    Known::Since if !looked_again => looked_again = true,
                    _ => return Err(ReadError::Missing { realm, hash: key }),
                }
            }
        }
    }

    /// As `find_block`, in the other tables.
    #[inline(never)]
    fn find_deeper(
        &self,
        hash: KeyHash,
        (realm, key): (Realm, BlockHash),
        verify: Verify,
        deadline: &Deadline,
    ) -> Deeper<'_> {
        let (mut asked, mut unreadable) = (Vec::new(), None);
        for address in self.index.deeper_candidates(hash) {
            match self.candidate(hash, address, realm, key, verify, deadline) {
                Ok(Candidate::Found(lent)) => return Deeper::Found(lent),
                Ok(Candidate::Removed) => return Deeper::Removed,
                Ok(Candidate::Other | Candidate::Gone) => {}
                Err(error) => unreadable = Some(error),
            }
            // The first one is nearly always it: then no memory is taken.
            asked.push(address);
        }
        match unreadable {
            Some(error) => Deeper::Unreadable(error),
            None if self.has_moved_deeper(hash, &asked) => Deeper::Moved,
            None => Deeper::Nothing,
        }
    }

    /// Whether the index names other blocks of the key's tag by now, after none of those in `asked` was the key's.
    ///
    /// A file that was met closing, or in a later lap with another key's block in the slot, proves nothing unless its
    /// word is still there: then nobody has published the key anew since. Whoever looks again was overtaken by
    /// somebody who wrote or removed it, so nobody looks for ever.
    pub(crate) fn has_moved(&self, hash: KeyHash, asked: Candidates) -> bool {
        asked.len() > 0 && !asked.eq(self.index.candidates(hash))
    }

    /// The same of what it names in the other tables.
    pub(crate) fn has_moved_deeper(&self, hash: KeyHash, asked: &[BlockAddress]) -> bool {
        !asked.is_empty() && !asked.iter().copied().eq(self.index.deeper_candidates(hash))
    }

    #[expect(clippy::inline_always, reason = "as if it had one caller: a call is a tenth of a look-up")]
    #[inline(always)]
    fn candidate<'a>(
        &'a self,
        hash: KeyHash,
        address: BlockAddress,
        realm: Realm,
        key: BlockHash,
        verify: Verify,
        deadline: &Deadline,
    ) -> Result<Candidate<'a>, ReadError> {
        let slot = address.slot();
        let Some(file) = self.table.get(address.file()) else { return Ok(Candidate::Gone) };
        // Before the pin, which the processor does not look behind before it has it.
        file.prefetch(slot);
        let pin = match file.pin() {
            Ok(pin) => pin,
            // Hazard 29: the block is there, and may be read once others let go.
            Err(PinError::Overflow) => return Err(ReadError::Busy { waited: Duration::ZERO }),
            Err(PinError::Closing) => return Ok(Candidate::Gone),
        };
        loop {
            match file.slots.get(slot) {
                state @ (State::Ready | State::Unverified | State::Verifying) => {
                    let is_copied = || verify == Verify::Always || self.is_suspect(file);
                    // Invariant 5.
                    let is_believed = state == State::Ready || verify == Verify::Never;
                    if is_believed
                        && file.slots.flags(slot) & slots::WARM != 0
                        && !is_copied()
                        && let Some(entry) = pin.entry(slot)
                    {
                        let is_same = entry.key == key && entry.realm == realm;
                        let lent = || Candidate::Found(Lent::Mapped { pin, slot, entry });
                        return Ok(if is_same { lent() } else { Candidate::Other });
                    }
                    let entry = if is_copied() { Self::load_entry } else { Self::entry_at_hand };
                    let Some(entry) = entry(self, hash, &pin, slot)? else { continue };
                    if entry.key != key || entry.realm != realm {
                        return Ok(Candidate::Other);
                    }
                    // Asked again: the entry may just have shown it.
                    if is_copied() {
                        let copy = self.copy_and_verify(hash, &pin, slot, &entry)?;
                        return Ok(Candidate::Found(Lent::Copied(copy)));
                    }
                    let warmed = self.warm(file, slot, &entry);
                    if !is_believed {
                        // After it was brought: this would bring it too, and nothing of what lies around it. What cannot be
                        // read is an error here, with what the disk says.
                        let compare = if warmed.is_ok() { Compare::InPlace } else { Compare::ThroughFile };
                        self.verify(hash, &pin, slot, &entry, compare, deadline)?;
                        continue;
                    }
                    warmed.map_err(|error| self.read_failed(file, error))?;
                    return Ok(Candidate::Found(Lent::Mapped { pin, slot, entry }));
                }
                State::Tombstone => {
                    let Some(entry) = self.load_entry(hash, &pin, slot)? else { continue };
                    let is_of_key = entry.key == key && entry.realm == realm;
                    return Ok(if is_of_key { Candidate::Removed } else { Candidate::Other });
                }
                State::Gathered | State::Pending | State::Running => {
                    let record = file.pending.lock().get(slot).cloned();
                    // Hazard 55: the tag is believed where there is no entry yet.
                    let is_of_key = |record: &Record| {
                        record.is_of(realm, key) || (planted::is(55) && matches!(record, Record::Deferred(_)))
                    };
                    match record {
                        // The state has changed meanwhile (`pending`, invariant 1).
                        None => {}
                        Some(record) if !is_of_key(&record) => return Ok(Candidate::Other),
                        Some(Record::Gathered(block)) if block.kind.is_tombstone() => return Ok(Candidate::Removed),
                        Some(Record::Gathered(block)) => {
                            let (buffer, start, len) = (block.buffer, block.start, block.len);
                            return Ok(Candidate::Found(Lent::Gathered { buffer, start, len }));
                        }
                        Some(Record::Deferred(deferred)) => match self.complete(&deferred, deadline) {
                            Completion::Done => {}
                            Completion::Failed(reason) => {
                                return Err(ReadError::Failed { realm, hash: key, reason });
                            }
                            Completion::Busy => return Err(ReadError::Busy { waited: deadline.waited() }),
                        },
                    }
                }
                State::Empty | State::Failed | State::Bad => return Ok(Candidate::Gone),
            }
        }
    }

    /// Brings a block that nobody has touched for a while into memory, and its entry: what of these cannot be read is an
    /// error here, and not a signal later. A wrong hint costs three probes.
    fn warm(&self, file: &BlockFile, slot: Slot, entry: &Entry) -> io::Result<()> {
        let at = file.size().entry_offset(slot);
        let payload = entry.payload(file.size(), slot).unwrap_or(0..0);
        let memory = file.memory()?;
        self.bring(file, &*memory, &payload)?;
        self.bring(file, &*memory, &(at..at + Entry::SIZE as u64))?;
        self.was_brought(file, payload);
        file.slots.mark(slot, slots::WARM);
        Ok(())
    }

    /// Asked once the bytes of a block were read: an error if they may have been zeros in place of what could not be
    /// read (feature `sigbus-guard`). From now on a copy is lent.
    pub(crate) fn check_lent(&self, lent: &Lent<'_>) -> Result<(), ReadError> {
        match lent {
            // The reader may have forked, and this be the child: it takes no lock, and has no mapping.
            Lent::Mapped { pin, .. } if !self.is_forked() && pin.file().is_poisoned() => {
                self.counters.read_errors.add(1);
                let problem = "a page of the file could not be read while it was lent; read again";
                Err(self.read_failed(pin.file(), io::Error::other(problem)))
            }
            _ => Ok(()),
        }
    }

    /// Asks for a block that will be read soon: the disk for its pages if it is stored and cold, else the processor for what
    /// is looked at first. How many bytes the disk was asked for.
    pub(crate) fn request_ahead(&self, hash: KeyHash, realm: Realm, key: BlockHash) -> u64 {
        for address in self.index.all_candidates(hash) {
            let (Some(file), slot) = (self.table.get(address.file()), address.slot()) else { continue };
            if file.slots.flags(slot) & slots::WARM != 0 {
                file.prefetch(slot);
            } else if let Ok(pin) = file.pin()
                && let Ok(Some(entry)) = pin.load_entry(slot)
                && entry.key == key
                && entry.realm == realm
                && let (Some(range), Ok(memory)) = (entry.payload(file.size(), slot), file.memory())
                && !file.regions.are_whole(&range)
            {
                residency::ask_for(file, &*memory, &range);
                return range.end - range.start;
            }
        }
        0
    }

    /// Whether this content is there, verified, and will stay for a while; it is marked as wanted.
    ///
    /// A closure of the same content that waits is completed first; with `verify_found`, so is the verification of
    /// a copy of an earlier run.
    pub(crate) fn has_content(
        &self,
        hash: KeyHash,
        realm: Realm,
        key: BlockHash,
        verify_found: bool,
        deadline: &Deadline,
    ) -> bool {
        let lane = self.lane_of(hash);
        for address in self.index.all_candidates(hash) {
            let Some(Ok(pin)) = self.table.get(address.file()).map(BlockFile::pin) else { continue };
            let (file, slot) = (pin.file(), address.slot());
            let of_content = |block: &crate::wheel::BlockView| {
                block.key == key && block.realm == realm && block.kind == BlockKind::Content
            };
            if !self.view(address).as_ref().is_some_and(of_content) {
                continue;
            }
            let generation = file.generation();
            if self.is_suspect(file) || lane.is_soon_dead(generation) || lane.is_doubted(generation) {
                return false;
            }
            let deferred = file.pending.lock().deferred_at(slot);
            if let Some(deferred) = deferred {
                self.complete_in_call(&deferred, deadline);
            }
            if verify_found && file.slots.get(slot) == State::Unverified {
                self.is_sound(hash, address);
            }
            if matches!(file.slots.get(slot), State::Ready | State::Gathered) {
                file.slots.mark(slot, slots::VISITED);
                return true;
            }
        }
        false
    }

    /// Completes the closure of a named key that waits, so that the next version finds a settled one.
    pub(crate) fn complete_pending(&self, hash: KeyHash, realm: Realm, key: BlockHash, deadline: &Deadline) -> bool {
        for address in self.index.all_candidates(hash) {
            let Some(file) = self.table.get(address.file()) else { continue };
            let deferred = file.pending.lock().deferred_at(address.slot());
            if let Some(deferred) = deferred.filter(|deferred| deferred.key == key && deferred.realm == realm)
                && matches!(self.complete_in_call(&deferred, deadline), Completion::Busy)
            {
                return false;
            }
        }
        true
    }
}
