//! What each lane has: which of its files is filled, which come next, which are sealed, and which dies first.
//!
//! # Invariants
//!
//! 1. All file states, and the lists below, change only under the turn mutex.
//! 2. A lane is handed only files whose generation is larger than that of every file it was handed before. (It may go on
//!    with the last of them: invariant 6.)
//! 3. `order` holds the SEALING and SEALED files of a lane, the oldest generation first; files leave it at the
//!    front, so they die in the order of their age.
//! 4. Of the files of a lane one always stays readable: while others drain, or are not ready, the last that does not, or
//!    is, never makes room.
//! 5. With `Refuse`, once a lane has all its files, the last free one takes tombstones only, until another is free.
//! 6. If that one is sealed, by a fault, the file that was handed out last goes on for tombstones. Without them nothing
//!    could be removed, and so nothing make room. A suspect one takes no block: it is sealed again once another is free.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Instant;

use crate::block::FileId;
use crate::wheel::event::Event;
use crate::wheel::failing::{Failing, Unready};
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::reserve::Purpose;
use crate::wheel::state::FileState;
use crate::wheel::tempo::Tempo;
use crate::wheel::{FileWheel, OnFull};

/// The states of all files, and what each lane has.
#[derive(Debug)]
pub(crate) struct Turn {
    states: Box<[FileState]>,
    pub(crate) lanes: Box<[LaneTurn]>,
    pub(crate) next_generation: u64,
    pub(crate) stop: bool,
    /// Threads of the store that have not come to their end.
    pub(crate) running: usize,
}

/// How far the search of a lane is: each step allows more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Searched {
    #[default]
    Nothing,
    /// The newest file with a block is resumed: writes may begin.
    Newest,
    /// Every directory was read: what is not found is not there.
    All,
    /// What was found is durable: files may die.
    Durable,
}

/// What a lane has, and why it may have to wait.
#[derive(Debug, Default)]
pub(crate) struct LaneTurn {
    pub(crate) active: Option<FileId>,
    pub(crate) spares: Vec<FileId>,
    /// Free files of an earlier run that are about to be spares.
    pub(crate) unplaced: usize,
    pub(crate) order: VecDeque<FileId>,
    pub(crate) draining: Vec<(FileId, Instant)>,
    /// Numbers that may still be created for this lane, the next one last.
    pub(crate) absent: Vec<FileId>,
    /// The largest generation handed to this lane.
    pub(crate) handed: u64,
    /// The file that has it, if it is known how far that is filled.
    pub(crate) newest: Option<FileId>,
    /// The largest generation that was sealed: the active file has it only if it is filled further (invariant 6).
    sealed: u64,
    /// How fast files are filled and made ready.
    pub(crate) tempo: Tempo,
    /// Writers that wait for a file.
    pub(crate) waiting: u32,
    /// How far the search for what an earlier run has left is.
    pub(crate) searched: Searched,
    /// Why no file could be made ready, and when that is tried again.
    pub(crate) failing: Option<Failing>,
    /// One that was created ahead of need could not be, and none is before then.
    pub(crate) not_ahead_before: Option<Instant>,
    /// Files that could not be made ready again.
    pub(crate) unready: Vec<Unready>,
    /// Why its folder is not there, if it was not at open; until the lane was searched.
    pub(crate) away: Option<Failing>,
    /// Its folder was not there at open and has not been taken back: it has no file at all.
    pub(crate) detached: bool,
    /// A thread of it has panicked: it takes no write any more.
    pub(crate) fallen: Option<Failing>,
}

impl Turn {
    pub(crate) fn new(files: usize, lanes: usize, next_generation: u64) -> Self {
        Self {
            states: vec![FileState::Absent; files].into(),
            lanes: (0..lanes).map(|_| LaneTurn::default()).collect(),
            next_generation,
            stop: false,
            running: 0,
        }
    }

    pub(crate) fn state(&self, file: FileId) -> FileState {
        self.states[file.index()]
    }

    /// Moves a file along an arrow of `state`.
    pub(crate) fn set(&mut self, file: FileId, next: FileState) {
        let state = &mut self.states[file.index()];
        debug_assert!(state.may_become(next), "file {file}: {state:?} -> {next:?}");
        *state = next;
    }

    /// Says at open that a file of an earlier run is there.
    pub(crate) fn found(&mut self, file: FileId) {
        self.states[file.index()] = FileState::Found;
    }

    /// Says at open that a file is there, and that nothing is in it that can be believed, nor its header: an older one may
    /// be on the disk still, so nothing else of the lane dies before it.
    pub(crate) fn found_hollow(&mut self, file: FileId, lane: &Lane) {
        self.found(file);
        self.set(file, FileState::Closing);
        self.lanes[lane.index()].draining.push((file, Instant::now()));
    }

    /// How many files are in `state`.
    pub(crate) fn count(&self, state: FileState) -> usize {
        self.states.iter().filter(|other| **other == state).count()
    }

    pub(crate) fn take_generation(&mut self) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        generation
    }
}

impl LaneTurn {
    /// Files of the lane that hold blocks which can still be read.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileId> {
        self.active.into_iter().chain(self.order.iter().copied())
    }

    /// Why the lane gets no file, if it does not.
    pub(crate) fn why_no_file(&self) -> Option<&Failing> {
        self.fallen.as_ref().or(self.away.as_ref()).or(self.failing.as_ref())
    }

    /// Whether writers get that error without a wait.
    pub(crate) fn is_broken(&self) -> bool {
        self.why_no_file().is_some_and(Failing::is_broken)
    }

    /// Whether the lane may get another file than those that are not ready.
    pub(crate) fn can_turn(&self) -> bool {
        !self.draining.is_empty() || !self.absent.is_empty() || self.has_another_to_give()
    }

    /// All files of the lane that are there.
    pub(crate) fn all(&self) -> impl Iterator<Item = FileId> {
        let draining = self.draining.iter().map(|(file, _)| *file);
        let unready = self.unready.iter().map(|unready| unready.file);
        self.files().chain(self.spares.iter().copied()).chain(draining).chain(unready)
    }

    /// Files that are free, and the one that is being filled. Not those that are about to be free: a sync may fail first.
    pub(crate) fn free(&self) -> usize {
        self.spares.len() + usize::from(self.active.is_some())
    }

    /// Whether the oldest file may make room while others drain: another one that does not drain is left.
    pub(crate) fn has_another_to_give(&self) -> bool {
        self.order.len() + self.spares.len() + usize::from(self.active.is_some()) > 1
    }
}

impl FileWheel {
    /// Seals a file whose store or sync failed, so that nothing more is lost with it.
    pub(crate) fn seal_early(&self, lane: &Lane, file: &BlockFile) {
        self.counters.strays.add(1);
        file.cursor.seal();
        let mut turn = self.turn.lock();
        self.demote(&mut turn, lane, file.id());
        drop(turn);
        self.wake_keepers();
    }

    /// A suspect file takes no more writes: the active one is sealed, and a spare begins another lap before it serves,
    /// as the disk may have an older header of it, and with that an older lap.
    pub(crate) fn retire(&self, file: &BlockFile) {
        let mut turn = self.turn.lock();
        let id = file.id();
        let has = |lane: &LaneTurn| lane.active == Some(id) || lane.spares.contains(&id);
        let Some(lane) = self.lanes.iter().find(|lane| has(&turn.lanes[lane.index()])) else { return };
        let of_lane = &mut turn.lanes[lane.index()];
        if of_lane.active == Some(id) {
            self.counters.strays.add(1);
            file.cursor.seal();
            self.demote(&mut turn, lane, id);
        } else {
            of_lane.spares.retain(|spare| *spare != id);
            of_lane.draining.push((id, Instant::now()));
            turn.set(id, FileState::Closing);
        }
        drop(turn);
        self.wake_keepers();
    }

    /// Makes a sealed active file SEALING; nothing happens if it is not the lane's active file.
    ///
    /// Nor if it is active again: whoever found it full may have slept until it had begun another lap.
    pub(crate) fn demote(&self, turn: &mut Turn, lane: &Lane, file: FileId) {
        let of_lane = &mut turn.lanes[lane.index()];
        if of_lane.active == Some(file) && self.table.file(file).cursor.is_sealed() {
            of_lane.active = None;
            of_lane.order.push_back(file);
            let generation = self.table.file(file).generation();
            let is_news = of_lane.sealed < generation;
            of_lane.sealed = generation;
            turn.set(file, FileState::Sealing);
            if is_news {
                self.events.emit(|| Event::FileSealed { file, lane: lane.id(), generation });
            }
            lane.set_active(None);
            self.choose_victim(turn, lane);
        }
    }

    /// Hands the lane its next free file, if it has one.
    fn promote(&self, turn: &mut Turn, lane: &Lane) -> bool {
        let of_lane = &mut turn.lanes[lane.index()];
        // A suspect one is about to be retired, by the keeper if by nobody else.
        let ready = of_lane.spares.iter().enumerate().filter(|(_, id)| !self.table.file(**id).is_suspect());
        let Some((at, _)) = ready.min_by_key(|(_, id)| self.table.file(**id).generation()) else { return false };
        let next = of_lane.spares.swap_remove(at);
        let file = self.table.file(next);
        debug_assert!(file.generation() > of_lane.handed, "invariant 2");
        of_lane.handed = file.generation();
        of_lane.tempo.is_handed_a_file(Instant::now());
        (of_lane.newest, of_lane.active) = (Some(next), Some(next));
        turn.set(next, FileState::Active);
        file.cursor.reset(1, 0);
        let of_lane = &turn.lanes[lane.index()];
        let last = self.is_last(of_lane);
        lane.set_tombstones_only(last);
        lane.set_active(Some(next));
        self.choose_victim(turn, lane);
        self.turned.notify_all();
        self.wake_keepers();
        true
    }

    /// Has the lane go on with the file that it was handed last, which was sealed, if it has no other one for tombstones
    /// and gets none by itself (invariant 6).
    fn fill_further(&self, turn: &mut Turn, lane: &Lane) -> bool {
        let of_lane = &turn.lanes[lane.index()];
        let has_none = of_lane.absent.is_empty() && of_lane.spares.is_empty() && of_lane.draining.is_empty();
        if self.options.on_full != OnFull::Refuse || !has_none || of_lane.searched < Searched::All {
            return false;
        }
        let may_turn = of_lane.order.front().is_some_and(|oldest| self.is_spent(of_lane, self.table.file(*oldest)));
        let at = of_lane.order.iter().position(|file| Some(*file) == of_lane.newest);
        let Some((id, at)) = of_lane.newest.zip(at).filter(|_| !may_turn) else { return false };
        if !self.table.file(id).cursor.unseal() {
            return false;
        }
        let of_lane = &mut turn.lanes[lane.index()];
        of_lane.order.remove(at);
        of_lane.active = Some(id);
        of_lane.sealed = of_lane.handed;
        turn.set(id, FileState::Active);
        lane.set_tombstones_only(true);
        lane.set_active(Some(id));
        self.turned.notify_all();
        true
    }

    /// A suspect file does not go on for tombstones once there is another one (invariant 6).
    fn end_filling_further(&self, turn: &mut Turn, lane: &Lane) {
        let of_lane = &turn.lanes[lane.index()];
        let Some(active) = of_lane.active.filter(|_| of_lane.sealed == of_lane.handed && !of_lane.spares.is_empty())
        else {
            return;
        };
        let file = self.table.file(active);
        if file.is_suspect() {
            file.cursor.seal();
            self.demote(turn, lane, active);
        }
    }

    /// Whether, with `Refuse`, the lane has one free file, all that is left for tombstones.
    ///
    /// A file that is about to make room, or drains, is none that is left: whoever holds it may never let go.
    pub(crate) fn is_last(&self, of_lane: &LaneTurn) -> bool {
        self.options.on_full == OnFull::Refuse && of_lane.absent.is_empty() && of_lane.free() == 1
    }

    /// Names the file that dies next, once every file of the lane exists.
    pub(crate) fn choose_victim(&self, turn: &Turn, lane: &Lane) {
        let of_lane = &turn.lanes[lane.index()];
        let turns =
            self.options.on_full == OnFull::Recycle && of_lane.absent.is_empty() && of_lane.searched >= Searched::All;
        if let Some(oldest) = of_lane.order.front().filter(|_| turns) {
            lane.set_victim(self.table.file(*oldest).generation());
        }
    }

    /// Whether the lane has a file for this purpose, after it was handed the next one if it had none.
    pub(crate) fn hand_out(&self, turn: &mut Turn, lane: &Lane, purpose: Purpose) -> bool {
        if turn.lanes[lane.index()].searched < Searched::Newest {
            return false;
        }
        self.end_filling_further(turn, lane);
        let of_lane = &turn.lanes[lane.index()];
        if of_lane.active.is_some() {
            return !self.refresh_tombstones_only(turn, lane) || purpose == Purpose::Tombstone;
        }
        if purpose == Purpose::Tombstone {
            return self.promote(turn, lane) || self.fill_further(turn, lane);
        }
        !self.is_last(of_lane) && self.promote(turn, lane)
    }

    /// Looks again whether the active file is for tombstones only.
    pub(crate) fn refresh_tombstones_only(&self, turn: &Turn, lane: &Lane) -> bool {
        let of_lane = &turn.lanes[lane.index()];
        let only = lane.takes_tombstones_only() && self.is_last(of_lane);
        lane.set_tombstones_only(only);
        only
    }

    /// Whether a file of the lane was chosen to die whose death is not durable yet.
    pub(crate) fn is_closing_a_file(&self, lane: &Lane) -> bool {
        let turn = self.turn.lock();
        turn.lanes[lane.index()].draining.iter().any(|(file, _)| turn.state(*file) == FileState::Closing)
    }

    /// Whether the blocks of a full file are dead: none is live or out of sight, and none comes back if a closure fails.
    ///
    /// One may come back still if a gather buffer is not stored: see `is_spent_for_good`.
    pub(crate) fn is_spent(&self, of_lane: &LaneTurn, file: &BlockFile) -> bool {
        // Quiet first: what its writers have published is counted by then.
        file.is_quiet() && !file.is_needed() && {
            let mut others = of_lane.files().map(|other| self.table.file(other));
            !others.any(|other| {
                // The table is left before a record is asked: records are locked on their own.
                let waiting = other.pending.lock().deferred();
                waiting.iter().any(|deferred| deferred.may_restore_in(file.id()))
            })
        }
    }

    /// As `is_spent`, and nothing comes back either if a gather buffer is not stored.
    pub(crate) fn is_spent_for_good(&self, of_lane: &LaneTurn, file: &BlockFile) -> bool {
        self.is_spent(of_lane, file) && {
            let mut others = of_lane.files().map(|other| self.table.file(other));
            !others.any(|other| {
                let hidden = other.pending.lock().hidden_by_gathered();
                hidden.iter().any(|hides| hides.may_restore_in(file.id()))
            })
        }
    }

    /// Payload bytes of all live blocks.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.sum_of_living(BlockFile::live_bytes)
    }

    /// Live blocks, tombstones not counted.
    pub(crate) fn live_blocks(&self) -> u64 {
        self.sum_of_living(BlockFile::live_blocks)
    }

    /// A file that makes room keeps its counts until its next lap begins, though nothing of it is found any more.
    fn sum_of_living(&self, count: impl Fn(&BlockFile) -> u64) -> u64 {
        let turn = self.turn.lock();
        self.table.iter().filter(|file| !turn.state(file.id()).is_dying()).map(count).sum()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::{BlockHash, BlockKind, PAGE_SIZE, Realm};
    use crate::error::WriteError;
    use crate::storage::MemoryFileSource;
    use crate::sync::Arc;
    use crate::wheel::{NewBlock, WheelOptions};

    /// One lane of three files with room for six pages each, and waits of a tenth of a second.
    fn wheel(on_full: OnFull) -> Arc<FileWheel> {
        let source = MemoryFileSource::builder().files_per_folder(3).file_size(8 * PAGE_SIZE).build().unwrap();
        let options = WheelOptions {
            on_full,
            wait_timeout: Duration::from_millis(100),
            gather_bytes: 0,
            ..WheelOptions::default()
        };
        FileWheel::open(Arc::new(source), options).unwrap()
    }

    fn store_six_pages(wheel: &FileWheel, number: u8) -> Result<(), WriteError> {
        let bytes = vec![number; 6 * 4096];
        let (key, parts) = (BlockHash::of(&bytes), [&bytes[..]]);
        let block =
            NewBlock { realm: Realm::DEFAULT, key, kind: BlockKind::Content, hash: key, parts: &parts, len: 6 * 4096 };
        wheel.store_block(&block, &wheel.deadline()).map(drop)
    }

    /// A full file without a live block was recycled, with `Refuse`, while a writer still stored a block to it: the
    /// writer was told that its block is stored, and it was gone.
    #[test]
    #[cfg_attr(miri, ignore = "a wait that ends at its deadline is long there")]
    fn a_file_whose_writer_is_late_does_not_count_as_empty() {
        let wheel = wheel(OnFull::Refuse);
        let late = wheel.reserve(&wheel.lanes[0], 1, Purpose::Data, &wheel.deadline()).unwrap();
        store_six_pages(&wheel, 1).unwrap();
        let error = store_six_pages(&wheel, 2).unwrap_err();
        assert!(matches!(error, WriteError::Timeout { .. }), "{error}");
        assert_eq!(wheel.counters.turns.get(), 0);
        // It fails, and leaves nothing in the file.
        drop(late);
        store_six_pages(&wheel, 2).unwrap();
        assert_eq!(wheel.counters.turns.get(), 1);
        wheel.stop_threads();
    }

    /// A writer that had found a file full, and slept until that was the active one of a later lap, sent it away with
    /// its cursor open: such a file never becomes quiet, and never serves again.
    #[test]
    fn a_file_in_a_later_lap_is_not_sent_away_for_the_lap_that_was_full() {
        let wheel = wheel(OnFull::Recycle);
        store_six_pages(&wheel, 1).unwrap();
        let lane = &wheel.lanes[0];
        let active = lane.active().unwrap();
        wheel.table.file(active).cursor.seal();
        store_six_pages(&wheel, 2).unwrap();
        let active = lane.active().unwrap();
        wheel.demote(&mut wheel.turn.lock(), lane, active);
        assert_eq!(lane.active(), Some(active));
        wheel.table.file(active).cursor.seal();
        wheel.demote(&mut wheel.turn.lock(), lane, active);
        assert_eq!(lane.active(), None);
        assert_eq!(wheel.turn.lock().state(active), FileState::Sealing);
        wheel.stop_threads();
    }
}
