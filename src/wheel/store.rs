//! Blocks that are stored on the caller's thread, large ones at once, small ones through the lane's gather buffer.
#![forbid(unsafe_code)]

use std::time::Instant;

use crate::block::{BlockHash, BlockKind, Entry, FileSize, KeyHash, PAGE_SIZE, Realm, Slot, now, padding, pages_of};
use crate::error::{FailedClosure, WriteError};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, MutexGuard};
use crate::wheel::deadline::Deadline;
use crate::wheel::event::WaitCause;
use crate::wheel::file::BlockFile;
use crate::wheel::gather::Gather;
use crate::wheel::lane::{GatherSlot, Lane, Outstanding};
use crate::wheel::pace::PATIENCE;
use crate::wheel::pending::{Gathered, Hides, Record};
use crate::wheel::publish::Outcome;
use crate::wheel::reserve::{Purpose, Reservation};
use crate::wheel::slots::{self, State};
use crate::wheel::{BlockView, FileWheel};

/// A block on its way into the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewBlock<'a> {
    pub(crate) realm: Realm,
    pub(crate) key: BlockHash,
    pub(crate) kind: BlockKind,
    /// Hash of the payload; for content it is the key.
    pub(crate) hash: BlockHash,
    pub(crate) parts: &'a [&'a [u8]],
    pub(crate) len: u32,
}

impl NewBlock<'_> {
    /// The entry of this block at a reserved place.
    pub(crate) fn entry(&self, page: u32) -> Entry {
        Entry {
            key: self.key,
            realm: self.realm,
            kind: self.kind,
            len: self.len,
            page: if self.len == 0 { 0 } else { page },
            written_at: now(),
            hash: self.hash,
        }
    }

    fn purpose(&self) -> Purpose {
        if self.kind.is_tombstone() { Purpose::Tombstone } else { Purpose::Data }
    }
}

impl FileWheel {
    /// Stores one block; it is readable when this returns. Gives the block that it hides.
    pub(crate) fn store_block(
        &self,
        block: &NewBlock<'_>,
        deadline: &Deadline,
    ) -> Result<Option<BlockView>, WriteError> {
        self.go_on()?;
        let hash = self.key_hash(block.realm, block.key);
        let lane = self.lane_of(hash);
        let hidden = if self.is_gathered(block.len) {
            self.store_gathered(hash, lane, block, deadline)?
        } else {
            self.store_alone(hash, lane, block, deadline)?
        };
        self.counters.blocks_written.add(u64::from(!block.kind.is_tombstone()));
        self.counters.bytes_written.add(u64::from(block.len));
        Ok(hidden)
    }

    fn store_alone(
        &self,
        hash: KeyHash,
        lane: &Lane,
        block: &NewBlock<'_>,
        deadline: &Deadline,
    ) -> Result<Option<BlockView>, WriteError> {
        let reservation = self.reserve(lane, pages_of(block.len), block.purpose(), deadline)?;
        let pages = reservation.page()..reservation.page() + pages_of(block.len);
        self.store_payload_and_entry(lane, &reservation, block)?;
        let hidden = self.publish_reserved(hash, block, reservation)?;
        self.keep_pace(lane, &pages, PATIENCE, deadline);
        Ok(hidden)
    }

    /// Stores payload and entry of a reserved block, and sets its state. A failed store seals the file early.
    pub(crate) fn store_payload_and_entry(
        &self,
        lane: &Lane,
        reservation: &Reservation<'_>,
        block: &NewBlock<'_>,
    ) -> Result<(), WriteError> {
        let (file, slot) = (reservation.file(), reservation.slot());
        let store = || {
            if block.len > 0 {
                if let [payload] = block.parts {
                    file.store(reservation.offset(), &[payload, padding(block.len.into())])?;
                } else {
                    let mut parts = block.parts.to_vec();
                    parts.push(padding(block.len.into()));
                    file.store(reservation.offset(), &parts)?;
                }
            }
            file.store_entry(slot, &block.entry(reservation.page()))
        };
        if let Err(error) = store() {
            self.counters.store_failures.add(1);
            if block.kind != BlockKind::Content {
                lane.doubt(file.generation());
            }
            self.seal_early(lane, file);
            return Err(WriteError::Io(self.io_error("storing a block", file.id(), error)));
        }
        file.slots.set(slot, final_state(block.kind));
        file.slots.mark(slot, slots::WARM);
        Ok(())
    }

    fn store_gathered(
        &self,
        hash: KeyHash,
        lane: &Lane,
        block: &NewBlock<'_>,
        deadline: &Deadline,
    ) -> Result<Option<BlockView>, WriteError> {
        loop {
            let no_turn = || self.fallen(lane).map_or_else(|| self.timed_out(deadline), WriteError::Io);
            let mut slot = self.gather_of(lane, deadline).ok_or_else(no_turn)?;
            // Reserved under the lane's lock, so that neighbours in the buffer are neighbours in the file.
            let reservation = match self.try_reserve(lane, pages_of(block.len), block.purpose()) {
                Ok(reservation) => reservation,
                Err(full) => {
                    drop(slot);
                    self.turn_from(lane, full, pages_of(block.len), block.purpose(), deadline)?;
                    continue;
                }
            };
            let pages = reservation.page()..reservation.page() + pages_of(block.len);
            let full = self.gather_reserved(lane, &mut slot, &reservation, block, None)?;
            drop(slot);
            let published = self.publish_reserved(hash, block, reservation);
            if let Some(full) = full {
                self.store_full(lane, full);
            }
            if self.is_closed() {
                // A close that did not wait for this call has looked for buffers already.
                self.store_open_gather(lane, |_| true);
            }
            self.keep_pace(lane, &pages, PATIENCE, deadline);
            return published;
        }
    }

    /// The lane's gather buffer; `None` at the deadline.
    pub(crate) fn gather_of<'a>(&self, lane: &'a Lane, deadline: &Deadline) -> Option<MutexGuard<'a, GatherSlot>> {
        if let Some(slot) = lane.gather_if_free() {
            return Some(slot);
        }
        let began = Instant::now();
        let slot = lane.gather(deadline);
        self.tell_wait(lane, WaitCause::Gather, began);
        slot
    }

    /// Copies a reserved block into the lane's buffer; gives the buffer that had no room for it, to be stored.
    pub(crate) fn gather_reserved(
        &self,
        lane: &Lane,
        slot: &mut GatherSlot,
        reservation: &Reservation<'_>,
        block: &NewBlock<'_>,
        hides: Option<Arc<Hides>>,
    ) -> Result<Option<Outstanding>, WriteError> {
        let (file, at) = (reservation.file(), reservation.slot());
        let fits = |gather: &Gather| gather.file() == file.id() && gather.has_room(block.len);
        let full = if slot.open.as_ref().is_some_and(|gather| !fits(gather)) { slot.take() } else { None };
        if slot.open.is_none() {
            let spare = slot.take_spare();
            let gather = Gather::open(file.id(), self.gather_size(), spare);
            lane.gather_opened(gather.opened() + self.options.gather_delay);
            slot.open = Some(gather);
        }
        let gather = slot.open.as_mut().expect("opened above if it was not open");
        let entry = block.entry(reservation.page()).encode(file.nonce(), at);
        let entry_offset = file.size().entry_offset(at);
        let start = gather
            .add(at, reservation.offset(), block.parts, entry_offset, &entry)
            .map_err(|error| WriteError::Io(self.io_error("gathering a block", file.id(), error)))?;
        // The word of a closure's block is there already.
        let is_named = hides.is_some();
        let record = Record::Gathered(Gathered {
            realm: block.realm,
            key: block.key,
            kind: block.kind,
            len: block.len,
            start,
            buffer: Arc::clone(gather.buffer()),
            hides,
            refused: false,
        });
        if is_named {
            file.slots.mark(at, slots::NAMED);
        }
        // Counted before the record can be stored by anybody else: that takes the lane's lock, which we hold.
        file.gathered(1);
        file.pending.lock().insert(at, record);
        file.slots.set(at, State::Gathered);
        Ok(full)
    }

    /// Publishes a block whose slot has its state, and finishes the reservation.
    fn publish_reserved(
        &self,
        hash: KeyHash,
        block: &NewBlock<'_>,
        reservation: Reservation<'_>,
    ) -> Result<Option<BlockView>, WriteError> {
        let (file, slot, address) = (reservation.file(), reservation.slot(), reservation.address());
        let outcome = self.publish(hash, (block.realm, block.key), address, block.kind, block.len);
        let result = match outcome {
            Outcome::Published(hidden) => Ok(hidden.map(|hidden| hidden.block)),
            // Somebody wrote the key again meanwhile: this version came first and is hidden already.
            Outcome::Superseded(newer) | Outcome::Waiting(newer) => Ok(self.view(newer)),
            Outcome::Full => Err(WriteError::Full { needed: u64::from(block.len), live: self.live_bytes() }),
        };
        // The buffer may have been stored, and have failed, before the index named the block. The fence pairs with
        // the one in `gather_failed`: either FAILED is seen here, or NAMED there, and the word with it.
        fence(Ordering::SeqCst);
        if matches!(file.slots.get(slot), State::Gathered | State::Failed) {
            file.slots.mark(slot, slots::NAMED);
        }
        if file.slots.get(slot) == State::Failed {
            let record = file.pending.lock().get(slot).cloned();
            self.bury(file, slot);
            reservation.finish();
            let error = match &record {
                Some(Record::Gathered(gathered)) => gathered.buffer.failure().cloned(),
                _ => None,
            };
            let unknown = || std::io::Error::other("the gather buffer of the block could not be stored");
            return Err(WriteError::Io(
                error.unwrap_or_else(|| self.io_error("storing a block", file.id(), unknown())),
            ));
        }
        if result.is_err() {
            self.take_back(self.lane_of(hash), file, slot);
        }
        reservation.finish();
        result
    }

    /// Takes the entry of a block back that the index had no place for: what was refused must not be found by a later opening,
    /// least of all in the place of what was not.
    pub(crate) fn take_back(&self, lane: &Lane, file: &BlockFile, slot: Slot) {
        if !file.pending.lock().refuse(slot) {
            file.slots.set(slot, State::Failed);
            self.clear_entry(lane, file, slot);
        }
    }

    fn clear_entry(&self, lane: &Lane, file: &BlockFile, slot: Slot) {
        if file.clear_entry(slot).is_err() {
            // The next opening may find it.
            self.counters.store_failures.add(1);
            self.counters.strays.add(1);
            lane.doubt(file.generation());
        }
    }

    /// Stores the lane's open buffer, if there is one and `is_due` says so.
    pub(crate) fn store_open_gather(&self, lane: &Lane, is_due: impl FnOnce(&Gather) -> bool) {
        let mut slot = lane.gather_now();
        if slot.open.as_ref().is_some_and(is_due)
            && let Some(outstanding) = slot.take()
        {
            drop(slot);
            self.store_outstanding(lane, outstanding);
        }
    }

    /// Stores the lane's buffer if it is as old as it may become.
    pub(crate) fn store_due_gather(&self, lane: &Lane) {
        let due = |gather: &Gather| Instant::now() >= gather.opened() + self.options.gather_delay;
        self.store_open_gather(lane, due);
        if let Some(gather) = &lane.gather_now().open {
            // Opened meanwhile: its own wake-up may have been the one that was just used up.
            lane.gather_opened(gather.opened() + self.options.gather_delay);
        }
    }

    /// Has the flusher store a full buffer while the caller fills the next one, unless it is too busy: then the caller stores
    /// it, which keeps writers from running away from the disk.
    pub(crate) fn store_full(&self, lane: &Lane, outstanding: Outstanding) {
        if let Some(outstanding) = lane.hand_over(outstanding) {
            self.store_outstanding(lane, outstanding);
        }
    }

    /// Stores a buffer that was taken out: payloads, entries, then READY, then its records go.
    pub(crate) fn store_outstanding(&self, lane: &Lane, outstanding: Outstanding) {
        let gather = &outstanding.gather;
        let file = self.table.file(gather.file());
        let covered = gather.slots().iter().max().map_or(Ok(()), |highest| file.cover(*highest));
        let result = covered.and_then(|()| gather.store_runs(|offset, bytes| file.store(offset, &[bytes])));
        match result {
            Ok(()) => {
                let mut refused = Vec::new();
                let mut pending = file.pending.lock();
                for slot in gather.slots() {
                    let record = pending.take_after(*slot, |record| {
                        let kind = record.map_or(BlockKind::Content, Record::kind);
                        file.slots.set(*slot, final_state(kind));
                        file.slots.mark(*slot, slots::WARM);
                    });
                    if let Some(Record::Gathered(gathered)) = record {
                        if gathered.refused {
                            refused.push(*slot);
                        }
                        if let Some(hides) = gathered.hides {
                            hides.forget();
                        }
                    }
                }
                drop(pending);
                for slot in refused {
                    self.take_back(lane, file, slot);
                }
            }
            Err(error) => self.gather_failed(lane, file, gather, error),
        }
        #[expect(clippy::cast_possible_truncation, reason = "slots of one file are fewer than 2^22")]
        file.gathered_are_stored(gather.slots().len() as u32);
        lane.gather_is_stored(outstanding);
    }

    fn gather_failed(&self, lane: &Lane, file: &BlockFile, gather: &Gather, error: std::io::Error) {
        let error = self.io_error("storing gathered blocks", file.id(), error);
        gather.has_failed(error.clone());
        self.counters.store_failures.add(1);
        self.seal_early(lane, file);
        let hides_content =
            |slot| file.pending.lock().get(slot).is_some_and(|record| record.kind() != BlockKind::Content);
        if gather.slots().iter().any(|slot| hides_content(*slot)) {
            // Before what they hid is back, and taken for content that is there.
            lane.doubt(file.generation());
        }
        for slot in gather.slots() {
            let record = file.pending.lock().get(*slot).cloned();
            // FAILED only once the index is rid of it, so that readers find what it hid.
            self.put_back(file, *slot);
            file.slots.set(*slot, State::Failed);
            // A writer that has not published it yet will see that, and do the rest.
            if file.slots.flags(*slot) & slots::NAMED != 0 {
                // Pairs with the fence in `publish_reserved`.
                fence(Ordering::SeqCst);
                self.bury(file, *slot);
            }
            if let Some(record) = record {
                self.tell_failed(record.realm(), record.key(), FailedClosure::Io(error.clone()));
            }
        }
    }

    /// Puts back what a gathered block hides that fails.
    fn put_back(&self, file: &BlockFile, slot: Slot) {
        let (record, hides) = {
            let mut pending = file.pending.lock();
            (pending.get(slot).cloned(), pending.hides_at(slot))
        };
        if let (Some(record), Some(hides)) = (record, hides) {
            let hash = self.key_hash(record.realm(), record.key());
            let live = (!record.kind().is_tombstone()).then_some(record.len());
            self.restore(hash, file.address(slot), live, hides.begin_to_fail());
        }
    }

    /// Takes the record of a failed block away, once the index is rid of it for good: until then it tells whose word it
    /// is, so that a write of the same key replaces the word instead of adding another.
    fn bury(&self, file: &BlockFile, slot: Slot) {
        self.put_back(file, slot);
        file.pending.lock().remove(slot);
    }

    /// Size of a lane's gather buffers: payloads, and as much again as a sixteenth for entries.
    fn gather_size(&self) -> FileSize {
        let payloads = self.options.gather_bytes.next_multiple_of(PAGE_SIZE);
        let entries = (payloads / 16).next_multiple_of(PAGE_SIZE);
        FileSize::new(payloads + entries).unwrap_or(FileSize::MIN)
    }
}

/// The state of a slot whose bytes are stored.
pub(crate) fn final_state(kind: BlockKind) -> State {
    if kind.is_tombstone() { State::Tombstone } else { State::Ready }
}
