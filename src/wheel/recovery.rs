//! Blocks of an earlier run are found again, in the background, while the store serves.
//!
//! # Invariants
//!
//! 1. A file is discovered or active, never both: until its directory was read it is FOUND, and a lane takes no
//!    write before its newest file with a block was read.
//! 2. Entries stand alone: one that does not check is skipped, never a reason to stop.
//! 3. An entry that is found never replaces a newer version. An older version is forgotten only once the newer
//!    one's payload was verified, so that a flushed value is not lost to one that was not.
//! 4. What an earlier run left in the page cache is durable before a file of its lane dies. A run that was killed may
//!    have stored a header or a tombstone and never synced it: if a file died for good meanwhile, a power cut would
//!    bring back an older lap, and with it what was removed or replaced.
//! 5. No entry is looked for within a payload that a valid entry of a lower slot names: those bytes are a tenant's.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::block::{BlockKind, Entry, FileId, PAGE_SIZE, Slot, pages_of};
use crate::error::IoError;
use crate::sync::{Arc, Condvar, Mutex};
use crate::wheel::FileWheel;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::{Known, Lane};
use crate::wheel::pending::Deadline;
use crate::wheel::publish::Outcome;
use crate::wheel::slots::State;
use crate::wheel::state::FileState;

/// Directories are read in pieces of this size.
const PIECE: u64 = 1 << 20;
/// How often a piece is read before it counts as unreadable, and the sleep before it is read again.
const TRIES: u32 = 3;
const TRY_AGAIN: Duration = Duration::from_millis(10);
/// How often a found entry is offered to the index, while newer versions turn out to be bad.
const OFFERS: usize = 64;

/// What was found of an earlier run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Files whose directory was searched.
    pub files: u64,
    /// Blocks that are in the store again.
    pub blocks: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Files that were removed because the store was opened with fewer.
    pub files_dropped: u64,
    /// Files that somebody else has cut short or made longer while the store was closed. Of one that still has a header
    /// the blocks are found that are whole, and it is suspect; one without is deleted, as is a suspect one without, which
    /// counts here too. Blocks that are lost with them are missing, or found as older versions; [`Event`](crate::Event)
    /// tells each file.
    pub files_damaged: u64,
    /// What was not taken over, by reason.
    pub skipped: Skipped,
}

/// Entries of an earlier run that were not taken over, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Entries between valid ones that do not check: torn by a crash, or damaged.
    pub invalid: u64,
    /// Entries in a lane that is not their key's.
    pub misplaced: u64,
    /// Entries of a kind that this release does not know.
    pub unknown: u64,
    /// Versions that a newer one hides.
    pub superseded: u64,
    /// Pieces of directories (of up to 1 MiB) that the disk could not read: their blocks are missing, or found as older
    /// versions, until an opening that can read them.
    pub unreadable: u64,
    /// Blocks that found no room in the index: see [`expected_blocks`](crate::ScratchBuilder::expected_blocks).
    pub no_room: u64,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invalid, misplaced, unknown, superseded, unreadable, no_room } = self;
        write!(
            f,
            "{invalid} invalid, {misplaced} misplaced, {unknown} unknown, {superseded} superseded, {unreadable} \
             unreadable, {no_room} without room"
        )
    }
}

/// How far the search for blocks of an earlier run has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether the directory of every file that is there was searched. From then on a miss is a miss, but for blocks
    /// that only a piece could name which the disk did not read ([`Skipped::unreadable`]), or a part of a file that
    /// somebody else has cut off ([`RecoveryReport::files_damaged`]).
    ///
    /// A folder that was not there at open does not count: what is not found of its keys is an error and no miss. Once
    /// it is back this is `false` again until it was searched.
    pub complete: bool,
    /// Files whose directory is to be searched; [`RecoveryReport::files`] of them were.
    pub files_total: u64,
    /// What was found so far; final once `complete`, unless a folder comes back.
    pub report: RecoveryReport,
}

/// Why a search has not come to its end.
#[derive(Clone, Debug)]
pub(crate) enum Unrecovered {
    /// It goes on.
    NotYet,
    /// Whoever searched has panicked.
    Failed(IoError),
    /// The store was closed before.
    Closed,
}

/// Progress, and who waits for its end.
#[derive(Debug)]
pub(crate) struct RecoveryState {
    progress: Mutex<Recovery>,
    /// Why it will never be complete; set under `progress`.
    ended: Mutex<Option<Unrecovered>>,
    completed: Condvar,
}

impl RecoveryState {
    pub(crate) fn new(files: usize) -> Self {
        let progress = Recovery { complete: files == 0, files_total: files as u64, report: RecoveryReport::default() };
        Self { progress: Mutex::new(progress), ended: Mutex::new(None), completed: Condvar::new() }
    }

    pub(crate) fn snapshot(&self) -> Recovery {
        self.progress.lock().clone()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.progress.lock().complete
    }

    pub(crate) fn dropped(&self, files: usize) {
        self.progress.lock().report.files_dropped += files as u64;
    }

    pub(crate) fn damaged(&self, files: usize) {
        self.progress.lock().report.files_damaged += files as u64;
    }

    /// A folder is back: so many more files are to be read, and so many were dropped.
    pub(crate) fn more(&self, files: usize, dropped: usize) {
        let mut progress = self.progress.lock();
        progress.files_total += files as u64;
        progress.complete &= files == 0;
        progress.report.files_dropped += dropped as u64;
    }

    /// It will never be complete: whoever searched has panicked.
    pub(crate) fn fail(&self, error: IoError) {
        self.end(Unrecovered::Failed(error));
    }

    /// Nobody searches any more.
    pub(crate) fn close(&self) {
        self.end(Unrecovered::Closed);
    }

    fn end(&self, why: Unrecovered) {
        let progress = self.progress.lock();
        self.ended.lock().get_or_insert(why);
        drop(progress);
        self.completed.notify_all();
    }

    /// Waits for the end of recovery; the error is why there is none.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<RecoveryReport, Unrecovered> {
        let deadline = Deadline::after(timeout);
        let mut progress = self.progress.lock();
        while !progress.complete {
            if let Some(why) = self.ended.lock().clone() {
                return Err(why);
            }
            if deadline.has_passed() {
                return Err(Unrecovered::NotYet);
            }
            self.completed.wait_until(&mut progress, deadline.at);
        }
        Ok(progress.report.clone())
    }

    fn update(&self, change: impl FnOnce(&mut RecoveryReport)) {
        change(&mut self.progress.lock().report);
    }

    fn file_is_read(&self) {
        let mut progress = self.progress.lock();
        progress.report.files += 1;
        progress.complete = progress.report.files == progress.files_total;
        drop(progress);
        self.completed.notify_all();
    }
}

/// What one directory holds.
#[derive(Debug, Default)]
struct Directory {
    entries: u64,
    /// One more than the highest valid slot.
    next_slot: u32,
    /// The page after the highest valid payload.
    next_page: u32,
    /// Entries below the highest valid one that do not check.
    invalid: u64,
    /// The same above it: what earlier laps left there, as far as is known.
    beyond: u64,
    unreadable: u64,
    /// Where it was read, and how much at once.
    pieces: Vec<(u64, u64)>,
}

/// Discovers the files of a lane, the newest first.
pub(crate) fn run(wheel: &Arc<FileWheel>, lane: u16, files: &[FileId]) {
    let lane = &wheel.lanes[usize::from(lane)];
    let mut resumed = false;
    for id in files {
        let file = wheel.table.file(*id);
        let Some(directory) = wheel.read_bounds(file) else { return };
        wheel.recovery.update(|report| {
            report.skipped.invalid += directory.invalid;
            report.skipped.unreadable += directory.unreadable;
        });
        wheel.place(lane, file, &directory, &mut resumed);
        wheel.read_entries(file, &directory, |slot, entry| wheel.publish_found(lane, file, slot, entry));
        if wheel.is_closed() {
            return;
        }
        if Some(id) == files.last() {
            wheel.sync_found(files);
            wheel.lane_is_discovered(lane);
        }
        wheel.recovery.file_is_read();
    }
}

impl FileWheel {
    /// Reads a directory from its end downwards, as far as it may reach; `None` if the store closes meanwhile.
    fn read_bounds(&self, file: &BlockFile) -> Option<Directory> {
        let mut directory = Directory { next_page: 1, ..Directory::default() };
        let size = file.size().get();
        let mut buffer = vec![0; usize::try_from(PIECE.min(size)).ok()?];
        let mut slot = 0;
        // From slot 0 upwards in number and downwards in the file.
        loop {
            let lowest = u64::from(directory.next_page) * PAGE_SIZE;
            let end = size - u64::from(slot) * Entry::SIZE as u64;
            if self.is_closed() || slot >= file.size().slots() || end < lowest + Entry::SIZE as u64 {
                break;
            }
            let left = u64::from(file.size().slots() - slot) * Entry::SIZE as u64;
            let len = PIECE.min(end - lowest).min(left) / Entry::SIZE as u64 * Entry::SIZE as u64;
            let start = end - len;
            #[expect(clippy::cast_possible_truncation, reason = "at most 1 MiB / 64 entries a piece")]
            let count = (len / Entry::SIZE as u64) as u32;
            let bytes = &mut buffer[..usize::try_from(len).ok()?];
            if !self.load_piece(file, start, bytes) {
                directory.unreadable += 1;
                slot += count;
                continue;
            }
            directory.pieces.push((start, len));
            for (number, bytes) in (slot..).zip(bytes.rchunks_exact(Entry::SIZE)) {
                let offset = size - (u64::from(number) + 1) * Entry::SIZE as u64;
                if offset < u64::from(directory.next_page) * PAGE_SIZE {
                    break; // invariant 5; so does the next piece
                }
                match decode(file, number, bytes) {
                    Decoded::Valid(_, entry) => {
                        directory.entries += 1;
                        directory.invalid += std::mem::take(&mut directory.beyond);
                        directory.next_slot = number + 1;
                        if entry.len > 0 {
                            directory.next_page = directory.next_page.max(entry.page + pages_of(entry.len));
                        }
                    }
                    Decoded::Nothing => {}
                    Decoded::Invalid => directory.beyond += 1,
                }
            }
            slot += count;
        }
        (!self.is_closed()).then_some(directory)
    }

    /// Hands on each entry within the bounds that checks, from the highest slot down, out of the page cache.
    ///
    /// What lies beyond them was written since: the file may be active by now.
    fn read_entries(&self, file: &BlockFile, directory: &Directory, mut found: impl FnMut(Slot, &Entry)) {
        let size = file.size().get();
        let mut buffer = Vec::new();
        for &(start, len) in directory.pieces.iter().rev() {
            if directory.entries == 0 || self.is_closed() {
                return;
            }
            buffer.resize(usize::try_from(len).unwrap_or(0), 0);
            let bytes = &mut buffer[..];
            if !self.load_piece(file, start, bytes) {
                self.recovery.update(|report| report.skipped.unreadable += 1);
                continue;
            }
            for (at, bytes) in bytes.chunks_exact(Entry::SIZE).enumerate() {
                let offset = start + at as u64 * Entry::SIZE as u64;
                let Ok(number) = u32::try_from((size - offset) / Entry::SIZE as u64 - 1) else { continue };
                if number < directory.next_slot
                    && let Decoded::Valid(slot, entry) = decode(file, number, bytes)
                {
                    found(slot, &entry);
                }
            }
        }
    }

    /// Reads a piece of a directory; `false` if the disk cannot, after a few tries: what lacks memory or descriptors
    /// for a moment must not hide a megabyte of entries until the next opening.
    fn load_piece(&self, file: &BlockFile, start: u64, bytes: &mut [u8]) -> bool {
        let mut tries = 1;
        loop {
            match file.memory().and_then(|memory| memory.load(start, bytes)) {
                Ok(()) => return true,
                Err(_) if tries < TRIES && !self.is_closed() => {
                    tries += 1;
                    self.sleep(TRY_AGAIN);
                }
                Err(error) => {
                    // Nobody knows what it names: whatever is removed from now on is removed by an entry.
                    self.counters.strays.add(1);
                    self.tell_unreadable(file, &self.io_error("reading a directory", file.id(), error));
                    return false;
                }
            }
        }
    }

    /// Gives a file whose directory was read its place in the lane.
    fn place(&self, lane: &Lane, file: &BlockFile, directory: &Directory, resumed: &mut bool) {
        let id = file.id();
        let holds_nothing = directory.entries == 0 && directory.unreadable == 0;
        // What is in the page cache of a suspect file proves nothing, and it must not be used again.
        let is_empty = holds_nothing && !file.is_suspect();
        if is_empty {
            // Its header may be in the page cache only. If it cannot be made durable the file is retired below, and no
            // other dies before it.
            self.sync_file(file);
        }
        // An empty file older than the resumed one takes a new generation before use.
        let (mut turn, renewed) = if is_empty && *resumed {
            let (turn, renewed) = self.youngest(lane, id, self.write_header(lane, id));
            let renewed = renewed.map_err(|error| {
                // It is queued with the full ones, and made anew when its turn comes.
                self.tell_unready(lane, id, self.io_error("writing a header", id, error));
            });
            (turn, renewed.ok())
        } else {
            (self.turn.lock(), None)
        };
        if is_empty && (!*resumed || renewed.is_some()) {
            let (generation, nonce) =
                renewed.map_or((file.generation(), file.nonce()), |lap| (lap.generation, lap.nonce));
            file.begin_lap(generation, nonce);
            turn.set(id, FileState::Free);
            turn.lanes[lane.index()].spares.push(id);
        } else if !*resumed && !holds_nothing {
            *resumed = true;
            let handed = file.generation();
            let has_room = file.size().fits(directory.next_page, 1, directory.next_slot);
            if has_room && directory.unreadable == 0 && !file.is_suspect() {
                file.resume_lap(directory.next_slot);
                file.cursor.reset(directory.next_page, directory.next_slot);
                turn.set(id, FileState::Active);
                let of_lane = &mut turn.lanes[lane.index()];
                of_lane.active = Some(id);
                // Its last free file before the restart is so after it.
                lane.set_tombstones_only(self.is_last(of_lane, of_lane.spares.len() + 1));
                lane.set_active(Some(id));
            } else {
                turn.set(id, FileState::Sealed);
                turn.lanes[lane.index()].order.push_front(id);
            }
            let of_lane = &mut turn.lanes[lane.index()];
            of_lane.handed = of_lane.handed.max(handed);
            of_lane.writable = true;
        } else {
            // One that is suspect and holds nothing, a spare that was cut short as a rule, is no reason to seal the next
            // one as well (`turn`, invariant 3).
            turn.set(id, FileState::Sealed);
            turn.lanes[lane.index()].order.push_front(id);
        }
        self.turned.notify_all();
        drop(turn);
        if file.is_suspect() {
            self.retire(file);
        }
        self.wake_keepers();
    }

    /// Makes durable what an earlier run may have left in the page cache (invariant 4).
    fn sync_found(&self, files: &[FileId]) {
        for file in files.iter().map(|id| self.table.file(*id)) {
            self.sync_file(file);
        }
    }

    pub(crate) fn lane_is_discovered(&self, lane: &Lane) {
        let mut turn = self.turn.lock();
        if lane.known() == Known::NotYet {
            lane.set_known();
            self.folder_works(&mut turn, lane);
        }
        let of_lane = &mut turn.lanes[lane.index()];
        // A lane whose files are all empty has nothing to resume.
        of_lane.writable = true;
        of_lane.discovered = true;
        self.refresh_tombstones_only(&turn, lane);
        self.choose_victim(&turn, lane);
        self.turned.notify_all();
        drop(turn);
        self.wake_keepers();
    }

    /// Offers an entry of an earlier run to the index.
    fn publish_found(&self, lane: &Lane, file: &BlockFile, slot: Slot, entry: &Entry) {
        let hash = self.key_hash(entry.realm, entry.key);
        if self.lane_of(hash).id() != lane.id() {
            self.recovery.update(|report| report.skipped.misplaced += 1);
            return;
        }
        let state = match entry.kind {
            BlockKind::Content | BlockKind::Named => State::Unverified,
            BlockKind::Tombstone => State::Tombstone,
            _ => {
                self.recovery.update(|report| report.skipped.unknown += 1);
                return;
            }
        };
        let Ok(_pin) = file.pin() else { return };
        file.slots.set(slot, state);
        let address = file.address(slot);
        for _ in 0..OFFERS {
            match self.publish(hash, (entry.realm, entry.key), address, entry.kind, entry.len) {
                Outcome::Published(_) => {
                    if !entry.kind.is_tombstone() {
                        self.recovery.update(|report| {
                            report.blocks += 1;
                            report.bytes += u64::from(entry.len);
                        });
                    }
                    return;
                }
                Outcome::Full => {
                    // The disk has it: removing its key writes a tombstone.
                    self.counters.strays.add(1);
                    self.recovery.update(|report| report.skipped.no_room += 1);
                    return;
                }
                Outcome::Waiting(_) => break,
                Outcome::Superseded(newer) => {
                    if self.is_sound(hash, newer) != Some(false) {
                        break;
                    }
                    self.recovery.update(|report| {
                        report.blocks = report.blocks.saturating_sub(1);
                    });
                }
            }
        }
        self.recovery.update(|report| report.skipped.superseded += 1);
    }
}

enum Decoded {
    Valid(Slot, Entry),
    Nothing,
    Invalid,
}

fn decode(file: &BlockFile, number: u32, bytes: &[u8]) -> Decoded {
    let (Some(slot), Ok(bytes)) = (Slot::new(number), <&[u8; Entry::SIZE]>::try_from(bytes)) else {
        return Decoded::Nothing;
    };
    match Entry::decode(bytes, file.nonce(), slot) {
        Ok(entry) if entry.payload(file.size(), slot).is_some() => Decoded::Valid(slot, entry),
        Err(_) if *bytes == [0; Entry::SIZE] => Decoded::Nothing,
        _ => Decoded::Invalid,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::{BlockHash, Realm};
    use crate::storage::MemoryFileSource;
    use crate::wheel::{NewBlock, WheelOptions};

    fn put(wheel: &FileWheel, number: u8) {
        let bytes = [number; 100];
        let (key, parts) = (BlockHash::of(&bytes), [&bytes[..]]);
        let block =
            NewBlock { realm: Realm::DEFAULT, key, kind: BlockKind::Content, hash: key, parts: &parts, len: 100 };
        wheel.store_block(&block, &wheel.deadline()).unwrap();
    }

    /// The directory of a file was read once more to hand its entries on, when the file was active already: what had been
    /// written since was taken for blocks of the run before, and its slots for unverified ones, whoever owned them.
    #[test]
    fn what_is_written_while_a_directory_is_read_is_not_found_in_it() {
        let source = MemoryFileSource::builder().file_size(64 << 10).build().unwrap();
        let wheel =
            FileWheel::open(Arc::new(source), WheelOptions { gather_bytes: 0, ..WheelOptions::default() }).unwrap();
        (0..3).for_each(|number| put(&wheel, number));
        let file = wheel.table.iter().next().unwrap();
        let directory = wheel.read_bounds(file).unwrap();
        (3..5).for_each(|number| put(&wheel, number));
        let mut found = Vec::new();
        wheel.read_entries(file, &directory, |slot, _| found.push(slot.get()));
        assert_eq!((found, directory.entries), (vec![2, 1, 0], 3));
        wheel.close(Duration::from_secs(20));
    }
}
