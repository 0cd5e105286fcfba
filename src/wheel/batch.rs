//! Many blocks in one call: runs of neighbouring slots and pages, reserved at once and stored at once.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::Duration;

use crate::block::{BlockAddress, BlockHash, BlockKind, Entry, KeyHash, PAGE_SIZE, Realm, Slot, padding, pages_of};
use crate::error::WriteError;
use crate::wheel::FileWheel;
use crate::wheel::deadline::Deadline;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::pace::PATIENCE;
use crate::wheel::publish::Outcome;
use crate::wheel::reserve::{Purpose, Reservation};
use crate::wheel::slots::{self, State};
use crate::wheel::store::NewBlock;

/// Most blocks, and most bytes, that one run takes.
const RUN_BLOCKS: usize = 256;
const RUN_BYTES: u64 = 4 << 20;

/// One block of a batch, ready to be placed.
struct Item<'a> {
    hash: KeyHash,
    key: BlockHash,
    bytes: &'a [u8],
    len: u32,
}

/// A run that was reserved; dropped unfinished, its slots are FAILED.
struct Run<'a> {
    file: &'a BlockFile,
    pages: Range<u32>,
    slots: Vec<Reservation<'a>>,
}

impl FileWheel {
    /// Stores content blocks whose lengths were checked; gives their hashes in the order of `blocks`.
    pub(crate) fn store_many(
        &self,
        realm: Realm,
        blocks: &[&[u8]],
        deadline: &Deadline,
    ) -> Result<Vec<BlockHash>, WriteError> {
        let mut keys = Vec::with_capacity(blocks.len());
        let mut by_lane: Vec<Vec<Item<'_>>> = (0..self.lanes.len()).map(|_| Vec::new()).collect();
        for bytes in blocks {
            let key = self.hash_of(bytes);
            let hash = self.key_hash(realm, key);
            keys.push(key);
            self.index.prefetch(hash);
            let len = u32::try_from(bytes.len()).map_err(|_| self.too_large(bytes.len() as u64))?;
            by_lane[self.lane_of(hash).index()].push(Item { hash, key, bytes, len });
        }
        let (mut result, mut patience) = (Ok(()), PATIENCE);
        for (lane, items) in self.lanes.iter().zip(by_lane) {
            let mut fresh = Vec::with_capacity(items.len());
            for item in items {
                if self.has_content(item.hash, realm, item.key, true, deadline) {
                    self.counters.duplicates.add(1);
                } else {
                    fresh.push(item);
                }
            }
            // The same content twice in one batch is written once.
            fresh.sort_by_key(|item| item.key);
            let before = fresh.len();
            fresh.dedup_by_key(|item| item.key);
            self.counters.duplicates.add((before - fresh.len()) as u64);
            let stored = self.store_lane(lane, realm, &fresh, &mut patience, deadline);
            // A lane that is broken or full is no reason to leave the blocks of the others out.
            result = result.and(stored);
        }
        result.map(|()| keys)
    }

    fn store_lane(
        &self,
        lane: &Lane,
        realm: Realm,
        mut items: &[Item<'_>],
        patience: &mut Duration,
        deadline: &Deadline,
    ) -> Result<(), WriteError> {
        self.go_on()?;
        while !items.is_empty() {
            let mut bytes = 0;
            let fits = |item: &&Item<'_>| {
                bytes += u64::from(item.len);
                bytes <= RUN_BYTES
            };
            let most = items.iter().take(RUN_BLOCKS).take_while(fits).count().max(1);
            let run = self.reserve_run(lane, &items[..most], deadline)?;
            let (now, later) = items.split_at(run.slots.len());
            let pages = run.pages.clone();
            self.store_run(lane, realm, now, run)?;
            *patience = self.keep_pace(lane, &pages, *patience, deadline);
            items = later;
        }
        Ok(())
    }

    /// Reserves neighbouring places for as many of `items` as the active file still takes, at least one.
    fn reserve_run(&self, lane: &Lane, items: &[Item<'_>], deadline: &Deadline) -> Result<Run<'_>, WriteError> {
        let pages: Vec<u32> = items.iter().map(|item| pages_of(item.len)).collect();
        loop {
            let full = {
                let _neighbours = lane.gather_now();
                match self.writable_file(lane, Purpose::Data) {
                    Ok(file) => match file.cursor.reserve_run(&pages) {
                        Some((page, slot, count)) => return Ok(self.run_of(file, page, slot, &pages[..count])),
                        None => Some(file.id()),
                    },
                    Err(full) => full,
                }
            };
            self.turn_from(lane, full, pages[0], Purpose::Data, deadline)?;
        }
    }

    fn run_of<'a>(&self, file: &'a BlockFile, first_page: u32, first: Slot, pages: &[u32]) -> Run<'a> {
        let mut page = first_page;
        let slots = pages.iter().zip(first.get()..).filter_map(|(pages, slot)| {
            let reservation = Reservation::new(file, Slot::new(slot)?, page, *pages);
            page += pages;
            Some(reservation)
        });
        let slots = slots.collect();
        self.wake_at_marks(file, first_page, page - first_page);
        Run { file, pages: first_page..page, slots }
    }

    /// One store for the payloads, one for the entries; then READY, index, finished.
    fn store_run(&self, lane: &Lane, realm: Realm, items: &[Item<'_>], run: Run<'_>) -> Result<(), WriteError> {
        let file = run.file;
        let blocks: Vec<NewBlock<'_>> = items
            .iter()
            .map(|item| NewBlock {
                realm,
                key: item.key,
                kind: BlockKind::Content,
                hash: item.key,
                parts: std::slice::from_ref(&item.bytes),
                len: item.len,
            })
            .collect();
        let parts = items.iter().flat_map(|item| [item.bytes, padding(item.len.into())]);
        // Empty ones would take half of the places that a call has.
        let parts: Vec<&[u8]> = parts.filter(|part| !part.is_empty()).collect();
        let mut entries = Vec::with_capacity(items.len() * Entry::SIZE);
        // Directories grow downwards: the last slot lies first.
        for (block, reservation) in blocks.iter().zip(&run.slots).rev() {
            entries.extend_from_slice(&block.entry(reservation.page()).encode(file.nonce(), reservation.slot()));
        }
        let (Some(first), Some(last)) = (run.slots.first(), run.slots.last()) else { return Ok(()) };
        debug_assert_eq!(first.offset() % PAGE_SIZE, 0);
        let stored = file
            .store(first.offset(), &parts)
            .and_then(|()| file.cover(last.slot()))
            .and_then(|()| file.store(file.size().entry_offset(last.slot()), &[&entries]));
        if let Err(error) = stored {
            self.counters.store_failures.add(1);
            self.seal_early(lane, file);
            return Err(WriteError::Io(self.io_error("storing a run of blocks", file.id(), error)));
        }
        let mut full = None;
        for ((item, block), reservation) in items.iter().zip(&blocks).zip(run.slots) {
            let (slot, address): (Slot, BlockAddress) = (reservation.slot(), reservation.address());
            file.slots.set(slot, State::Ready);
            file.slots.mark(slot, slots::WARM);
            match self.publish(item.hash, (realm, item.key), address, BlockKind::Content, item.len) {
                Outcome::Published(_) | Outcome::Superseded(_) | Outcome::Waiting(_) => {
                    self.counters.blocks_written.add(1);
                    self.counters.bytes_written.add(u64::from(block.len));
                }
                Outcome::Full => {
                    self.take_back(lane, file, slot);
                    full.get_or_insert(WriteError::Full { needed: u64::from(item.len), live: self.live_bytes() });
                }
            }
            reservation.finish();
        }
        full.map_or(Ok(()), Err)
    }

    /// The error for a block that no file can hold.
    pub(crate) fn too_large(&self, len: u64) -> WriteError {
        WriteError::TooLarge { len, max: u64::from(self.size.largest_block()) }
    }
}
