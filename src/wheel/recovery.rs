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

use crate::block::{BlockKind, Entry, FileId, Slot};
use crate::sync::Arc;
use crate::wheel::FileWheel;
use crate::wheel::directory::Directory;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::{Known, Lane};
use crate::wheel::publish::Outcome;
use crate::wheel::slots::State;
use crate::wheel::state::FileState;

/// How often a found entry is offered to the index, while newer versions turn out to be bad.
const OFFERS: usize = 64;

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
    /// Gives a file whose directory was read its place in the lane.
    fn place(&self, lane: &Lane, file: &BlockFile, directory: &Directory, resumed: &mut bool) {
        let id = file.id();
        let holds_nothing = directory.entries == 0 && directory.unreadable == 0;
        if holds_nothing && !file.is_suspect() {
            // Its header may be in the page cache only.
            self.sync_file(file);
        }
        let is_hollow = holds_nothing && file.is_suspect();
        let is_empty = holds_nothing && !is_hollow;
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
        if is_hollow {
            turn.found_hollow(id, lane);
        } else if is_empty && (!*resumed || renewed.is_some()) {
            let (generation, nonce) =
                renewed.map_or((file.generation(), file.nonce()), |lap| (lap.generation, lap.nonce));
            file.begin_lap(generation, nonce);
            turn.set(id, FileState::Free);
            turn.lanes[lane.index()].spares.push(id);
        } else if !*resumed && !holds_nothing {
            *resumed = true;
            let handed = file.generation();
            let has_room = file.size().fits(directory.next_page, 1, directory.next_slot);
            // Else nobody knows how far it is filled.
            let is_known = directory.unreadable == 0;
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
                lane.set_tombstones_only(self.is_last(of_lane, of_lane.spares.len() + 1));
                lane.set_active(Some(id));
            } else {
                file.cursor.seal();
                turn.set(id, FileState::Sealed);
                turn.lanes[lane.index()].order.push_front(id);
            }
            let of_lane = &mut turn.lanes[lane.index()];
            of_lane.handed = of_lane.handed.max(handed);
            of_lane.writable = true;
        } else {
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

    /// Makes durable what an earlier run may have left in the page cache (invariant 3).
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
