//! Blocks of an earlier run are found again, in the background, while the store serves. `directory` reads what names them,
//! `progress` says how far it is.
//!
//! # Invariants
//!
//! 1. A file is discovered or active, never both: until its directory was read it is FOUND, and a lane takes no
//!    write before its newest file with a block was read.
//! 2. An entry that is found never replaces a newer version. An older version is forgotten only once the newer
//!    one's payload was verified, so that a flushed value is not lost to one that was not.
//! 3. What an earlier run left in the page cache is durable before a file of its lane dies. A run that was killed may
//!    have stored a header or a tombstone and never synced it: if a file died for good meanwhile, a power cut would
//!    bring back an older lap, and with it what was removed or replaced.
//! 4. A suspect file in which nothing is found may have its header in the page cache only, and no sync makes that durable
//!    any more: it dies before any other of its lane, and until then whatever is removed gets a tombstone.
#![forbid(unsafe_code)]

use crate::block::{BlockKind, Entry, FileId, KeyHash, Slot, pages_of};
use crate::sync::Arc;
use crate::wheel::directory::{Directory, ask_for_directory};
use crate::wheel::file::BlockFile;
use crate::wheel::known::Known;
use crate::wheel::lane::Lane;
use crate::wheel::progress::RecoveryReport;
use crate::wheel::publish::Outcome;
use crate::wheel::recycle::Lap;
use crate::wheel::slots::State;
use crate::wheel::state::FileState;
use crate::wheel::turn::Searched;
use crate::wheel::{FileWheel, OnFull};

/// How often a found entry is offered to the index, while newer versions turn out to be bad.
const OFFERS: usize = 64;
/// Of so many files ahead of the one that is read the directories are asked for.
const ASKED_AHEAD: usize = 2;
/// So many entries are offered to the index together.
const BATCH: usize = 32;

/// Where a file stands among those of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// It is free, and newer than all that hold a block.
    Ahead,
    /// It is the newest one that holds a block, or newer, suspect, and holds nothing.
    Newest,
    Older,
}

/// Discovers the files of a lane, the newest first.
///
/// Free files that are newer than all blocks have their place once the newest file with a block has its own: nobody reads
/// what is in them, and each takes a sync.
pub(crate) fn run(wheel: &Arc<FileWheel>, lane: u16, files: &[FileId]) {
    let lane = &wheel.lanes[usize::from(lane)];
    let (mut resumed, mut ahead, mut unreported, mut len) = (false, Vec::new(), 0, 0);
    for (at, id) in files.iter().enumerate() {
        let file = wheel.table.file(*id);
        for next in &files[at + 1..files.len().min(at + 1 + ASKED_AHEAD)] {
            ask_for_directory(wheel.table.file(*next), len);
        }
        let Some(directory) = wheel.read_bounds(lane, file) else { return };
        wheel.recovery.update(|report| {
            report.skipped.invalid += directory.invalid;
            report.skipped.unreadable += directory.unreadable();
        });
        (unreported, len) = (unreported + 1, directory.len());
        let is_last = at + 1 == files.len();
        if !resumed && directory.holds_nothing() && !file.is_suspect() {
            ahead.push((file, directory));
            wheel.turn.lock().lanes[lane.index()].unplaced += 1;
        } else {
            let rank = if resumed { Rank::Older } else { Rank::Newest };
            resumed |= !directory.holds_nothing();
            wheel.place(lane, file, &directory, rank);
            if lane.active().is_none() {
                wheel.place_free(lane, &mut ahead);
            }
            let mut batch = Batch { wheel, lane, file, entries: Vec::with_capacity(BATCH) };
            wheel.read_entries(lane, file, &directory, |slot, entry| batch.add(slot, entry));
            batch.publish();
        }
        if file.has_unfound() {
            lane.knowledge.set_unfound();
        }
        if resumed || is_last {
            wheel.place_free(lane, &mut ahead);
        }
        if wheel.is_closed() {
            return;
        }
        if is_last {
            wheel.lane_is_discovered(lane);
        }
        if ahead.is_empty() {
            wheel.recovery.files_are_read(std::mem::take(&mut unreported));
        }
    }
    wheel.sync_found(lane, files);
}

impl FileWheel {
    /// Gives free files that are newer than all blocks their place, the newest first.
    fn place_free(&self, lane: &Lane, ahead: &mut Vec<(&BlockFile, Directory)>) {
        for (file, directory) in ahead.drain(..) {
            self.place(lane, file, &directory, Rank::Ahead);
        }
    }

    /// Gives a file whose directory was read its place in the lane.
    fn place(&self, lane: &Lane, file: &BlockFile, directory: &Directory, rank: Rank) {
        let id = file.id();
        if directory.holds_nothing() && !file.is_suspect() {
            // Its header may be in the page cache only.
            self.sync_file(file);
        }
        let is_hollow = directory.holds_nothing() && file.is_suspect();
        let is_empty = directory.holds_nothing() && !is_hollow;
        let (mut turn, ready) = if is_empty {
            // One that is older than the resumed file takes a new generation before use; so does one that was overtaken.
            let found = Lap { generation: file.generation(), nonce: file.nonce() };
            let ready = if rank == Rank::Older { self.write_header(lane, id) } else { Ok(found) };
            let (turn, ready) = self.youngest(lane, id, ready);
            let ready = ready.map_err(|error| {
                // It is queued with the full ones, and made anew when its turn comes.
                self.tell_unready(lane, id, self.io_error("writing a header", id, error));
            });
            (turn, ready.ok())
        } else {
            (self.turn.lock(), None)
        };
        if rank == Rank::Ahead {
            turn.lanes[lane.index()].unplaced -= 1;
        }
        if is_hollow {
            turn.found_hollow(id, lane);
        } else if let Some(lap) = ready {
            file.begin_lap(lap.generation, lap.nonce);
            turn.set(id, FileState::Free);
            turn.lanes[lane.index()].spares.push(id);
        } else if rank == Rank::Newest {
            let handed = file.generation();
            let has_room = file.size().fits(directory.next_page, 1, directory.next_slot);
            // Else nobody knows how far it is filled.
            let is_known = directory.unreadable() == 0;
            if is_known {
                file.resume_lap(directory.next_slot, directory.next_page);
                file.cursor.reset(directory.next_page, directory.next_slot);
                turn.lanes[lane.index()].newest = Some(id);
            }
            if has_room && is_known && !file.is_suspect() {
                turn.set(id, FileState::Active);
                let of_lane = &mut turn.lanes[lane.index()];
                of_lane.active = Some(id);
                // Its last free file before the restart is so after it.
                lane.set_tombstones_only(self.is_last(of_lane));
                lane.set_active(Some(id));
            } else {
                file.cursor.seal();
                turn.set(id, FileState::Sealed);
                turn.lanes[lane.index()].order.push_front(id);
            }
            let of_lane = &mut turn.lanes[lane.index()];
            of_lane.handed = of_lane.handed.max(handed);
            of_lane.searched = of_lane.searched.max(Searched::Newest);
        } else {
            // Of a file whose new header failed nothing is found, whichever lap of it the disk has.
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

    /// Makes durable what an earlier run may have left in the page cache. From then on files of the lane may die (invariant 3).
    fn sync_found(&self, lane: &Lane, files: &[FileId]) {
        for file in files.iter().map(|id| self.table.file(*id)) {
            if self.is_closed() {
                return;
            }
            self.sync_file(file);
        }
        self.turn.lock().lanes[lane.index()].searched = Searched::Durable;
        self.wake_keepers();
    }

    pub(crate) fn lane_is_discovered(&self, lane: &Lane) {
        let mut turn = self.turn.lock();
        if lane.knowledge.known() == Known::NotYet {
            lane.knowledge.set_known();
            self.folder_works(&mut turn, lane);
        }
        // A lane whose files are all empty has nothing to resume.
        turn.lanes[lane.index()].searched = Searched::All;
        self.refresh_tombstones_only(&turn, lane);
        self.choose_victim(&turn, lane);
        self.turned.notify_all();
        drop(turn);
        self.wake_keepers();
    }
}

/// Entries of one file that are offered to the index together: what is looked at in it is asked for ahead.
struct Batch<'a> {
    wheel: &'a FileWheel,
    lane: &'a Lane,
    file: &'a BlockFile,
    entries: Vec<(Slot, Entry, KeyHash)>,
}

impl Batch<'_> {
    fn add(&mut self, slot: Slot, entry: &Entry) {
        let hash = self.wheel.key_hash(entry.realm, entry.key);
        self.wheel.index.prefetch(hash);
        self.entries.push((slot, *entry, hash));
        if self.entries.len() == BATCH {
            self.publish();
        }
    }

    /// Offers the entries to the index, in their order.
    fn publish(&mut self) {
        let Ok(_pin) = self.file.pin() else { return self.entries.clear() };
        let mut came_to = RecoveryReport::default();
        for (slot, entry, hash) in self.entries.drain(..) {
            let Self { wheel, lane, file, .. } = self;
            wheel.publish_found(lane, file, slot, &entry, hash, &mut came_to);
        }
        self.wheel.recovery.update(|report| report.add(&came_to));
    }
}

impl FileWheel {
    /// Offers an entry of an earlier run to the index; its file is pinned.
    fn publish_found(
        &self,
        lane: &Lane,
        file: &BlockFile,
        slot: Slot,
        entry: &Entry,
        hash: KeyHash,
        came_to: &mut RecoveryReport,
    ) {
        if self.lane_of(hash).id() != lane.id() {
            came_to.skipped.misplaced += 1;
            return;
        }
        let state = match entry.kind {
            BlockKind::Content | BlockKind::Named => State::Unverified,
            BlockKind::Tombstone => State::Tombstone,
            _ => {
                came_to.skipped.unknown += 1;
                return;
            }
        };
        file.slots.set(slot, state);
        file.stride.note(slot, entry.page, pages_of(entry.len));
        let address = file.address(slot);
        for _ in 0..OFFERS {
            match self.publish(hash, (entry.realm, entry.key), address, entry.kind, entry.len) {
                Outcome::Published(_) => {
                    if !entry.kind.is_tombstone() {
                        came_to.blocks += 1;
                        came_to.bytes += u64::from(entry.len);
                    }
                    return;
                }
                Outcome::Full => {
                    // The disk has it: removing its key writes a tombstone. Where nothing may be forgotten its file waits for
                    // an opening that has a place for it, and until then a miss proves nothing.
                    self.counters.strays.add(1);
                    if self.options.on_full == OnFull::Refuse && !entry.kind.is_tombstone() {
                        file.add_unfound();
                    }
                    came_to.skipped.no_room += 1;
                    return;
                }
                Outcome::Waiting(_) => break,
                Outcome::Superseded(newer) => {
                    if self.is_sound(hash, newer) != Some(false) {
                        break;
                    }
                    // Of this batch, or of an earlier one.
                    if came_to.blocks > 0 {
                        came_to.blocks -= 1;
                    } else {
                        self.recovery.update(|report| report.blocks = report.blocks.saturating_sub(1));
                    }
                }
            }
        }
        came_to.skipped.superseded += 1;
    }
}
