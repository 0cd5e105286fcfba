//! The background thread of a lane that prepares its files: creation, recycling. It waits for the sync of a full file only
//! where the oldest file may not die before.
//!
//! It never runs user code, and nobody waits for it without a deadline. It looks at its lane under the turn mutex,
//! chooses one job, and does it outside.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::block::{FileId, PAGE_SIZE};
use crate::planted;
use crate::sync::Arc;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::pace::ends_a_piece;
use crate::wheel::state::FileState;
use crate::wheel::tempo::LARGE;
use crate::wheel::turn::{LaneTurn, Searched, Turn};
use crate::wheel::{FileWheel, OnFull};

/// Longest sleep between two looks when there is nothing to do.
const REST: Duration = Duration::from_millis(100);
/// Sleep between two looks at a file that drains or is being sealed.
const WATCH: Duration = Duration::from_millis(1);
/// How long a draining file is given before the next oldest dies for a writer that waits.
const GRACE: Duration = Duration::from_millis(10);

/// Pages of a lane that are created ahead at most, and that at least may wait for the device before writers wait for a file, which
/// may end their call: 1 GiB.
const AHEAD: u32 = 1 << 18;
/// When a creation ahead of need is tried again that has failed.
const AHEAD_AGAIN: Duration = Duration::from_secs(10);

/// How many files of this size a lane of so many has free ahead of need: creation takes some milliseconds, on a busy disk some
/// tens of them.
fn most_ahead(pages: u32, files: usize) -> usize {
    if pages < LARGE { 0 } else { (files / 4).min((AHEAD / pages) as usize) }
}

/// Whether so many full files that are not synced are more than what writers run ahead of the disk, so many bytes, and the one
/// that is being synced.
fn is_behind(counted: u64, full: usize, ahead: u64) -> bool {
    full as u64 > (ahead / counted).max(1) + 1
}

/// What a full file counts of those bytes, as for `pace`: its whole pieces, so that writers wait for one of these before they
/// wait for a file; all of it if it has none.
fn counted(pages: u32, piece: u32) -> u64 {
    let pieces = pages.saturating_sub(1) / piece;
    u64::from(if pieces == 0 { pages } else { pieces * piece }) * PAGE_SIZE
}

/// What a keeper does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// A dead file has drained: begin its next lap.
    Finish(FileId),
    /// The lane may have one more file.
    Create(FileId),
    /// The oldest file makes room.
    Recycle(FileId),
    /// Making room failed half-way: try the rest again.
    Kill(FileId),
    /// The folder of the lane was not there at open: look whether it is by now.
    Attach,
    /// A file without memory is created afresh.
    Revive(FileId),
    /// A suspect file: somebody has to be told, or the next run left word.
    Attend(FileId),
    /// A free file became suspect while it was on its way to be one.
    Retire(FileId),
    Rest(Duration),
    Stop,
}

/// Runs until the wheel stops.
pub(crate) fn run(wheel: &Arc<FileWheel>, lane: u16) {
    let lane = &wheel.lanes[usize::from(lane)];
    loop {
        let job = wheel.next_job(&wheel.turn.lock(), lane);
        match job {
            Job::Finish(file) | Job::Revive(file) => wheel.finish_recycling(lane, file),
            Job::Create(file) => {
                wheel.create_file(lane, file);
                // One may follow the other.
                wheel.look_after(lane);
            }
            Job::Recycle(file) => wheel.recycle(lane, file),
            Job::Kill(file) => wheel.kill(lane, file),
            Job::Attach => wheel.attach(lane),
            Job::Attend(file) => wheel.attend_to(wheel.table.file(file)),
            Job::Retire(file) => wheel.retire(wheel.table.file(file)),
            Job::Stop => return,
            Job::Rest(time) => {
                wheel.look_after(lane);
                let mut turn = wheel.turn.lock();
                // Looked at again under the lock that is kept until the wait, so that no wake-up is lost.
                if matches!(wheel.next_job(&turn, lane), Job::Rest(_)) {
                    wheel.keep.wait_until(&mut turn, Instant::now() + time);
                }
            }
        }
    }
}

impl FileWheel {
    /// The most urgent job of a lane.
    fn next_job(&self, turn: &Turn, lane: &Lane) -> Job {
        if turn.stop {
            return Job::Stop;
        }
        let of_lane = &turn.lanes[lane.index()];
        let now = Instant::now();
        let held_back = of_lane.failing.as_ref().is_some_and(|failing| failing.holds_back(now));
        if of_lane.detached {
            let held_back = of_lane.away.as_ref().is_some_and(|away| away.holds_back(now));
            // The keeper of the folder's first lane does it for all.
            let is_first = lane.id() < self.table.source().folders();
            return if is_first && !held_back { Job::Attach } else { Job::Rest(REST) };
        }
        if of_lane.searched < Searched::Newest {
            return Job::Rest(REST);
        }
        // Whoever found it suspect may have looked before it was free, and found nothing to retire.
        if let Some(file) = of_lane.spares.iter().find(|file| self.table.file(**file).is_suspect()) {
            return Job::Retire(*file);
        }
        let mut watch = false;

        for (file, _) in &of_lane.draining {
            match turn.state(*file) {
                // Nothing dies before what was found is durable (`recovery`, invariant 3).
                FileState::Closing if !held_back && of_lane.searched == Searched::Durable => return Job::Kill(*file),
                // There is nothing to be seen before it is tried again.
                FileState::Closing => {}
                FileState::Draining if self.has_drained(*file) => return Job::Finish(*file),
                _ => watch = true,
            }
        }
        // It has waited for its time, which is short if it fails again, and gives the lane a file if not.
        if let Some(unready) = of_lane.unready.iter().find(|unready| !unready.failing.holds_back(now)) {
            return Job::Revive(unready.file);
        }
        let spare = if held_back { None } else { self.spare_job(turn, lane, now) };
        // A writer that waits comes first.
        if let Some(job) = spare.as_ref()
            && of_lane.active.is_none()
        {
            return *job;
        }
        // What was gathered for a file that is full is stored without its neighbours.
        watch |= of_lane
            .order
            .iter()
            .any(|file| turn.state(*file) == FileState::Sealing && !self.table.file(*file).is_quiet());
        if let Some(file) = self.in_need_of_a_word(of_lane.all(), now) {
            return Job::Attend(file);
        }
        spare.unwrap_or(Job::Rest(if watch { WATCH } else { REST }))
    }

    /// What is done between two jobs.
    fn look_after(&self, lane: &Lane) {
        self.keep_within_memory(lane);
        // The flusher does this in time, unless a closure holds it up. What was gathered for a file that is full now has no
        // neighbours to wait for, and keeps the file from being settled.
        self.store_open_gather(lane, |gather| {
            let is_due = gather.opened().elapsed() >= self.options.gather_delay;
            is_due || self.table.file(gather.file()).cursor.is_sealed()
        });
    }

    /// Whether no keeper or syncer does anything, or has anything to do.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn keepers_rest(&self) -> bool {
        // At memory, which decides how blocks are asked for.
        let has_looked = self.residency.has_looked();
        let turn = self.turn.lock();
        has_looked
            && self.lanes.iter().all(|lane| {
                let of_lane = &turn.lanes[lane.index()];
                let settles = of_lane.order.iter().any(|file| turn.state(*file) == FileState::Sealing);
                // Only then may files die.
                let is_synced = of_lane.searched != Searched::All;
                !settles && is_synced && self.next_job(&turn, lane) == Job::Rest(REST)
            })
    }

    /// Whether a file has begun another lap than this one, or is about to.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn has_turned(&self, file: FileId, generation: u64) -> bool {
        let turn = self.turn.lock();
        turn.state(file).is_dying() || self.table.file(file).generation() != generation
    }

    /// Seals the active file of the first lane as if it were full.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn seal_active(&self) {
        let lane = &self.lanes[0];
        let active = lane.active().unwrap();
        self.table.file(active).cursor.seal();
        self.demote(&mut self.turn.lock(), lane, active);
        self.wake_keepers();
    }

    /// Makes room by the oldest file of the first lane.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn recycle_oldest(&self) {
        let oldest = *self.turn.lock().lanes[0].order.front().unwrap();
        self.recycle(&self.lanes[0], oldest);
    }

    /// Wakes keepers and syncers.
    pub(crate) fn wake_keepers(&self) {
        self.keep.notify_all();
    }

    /// Wakes them when a reservation crosses three quarters of its file, or a piece: that, or the one before, may be stored
    /// by now, and the next file of a fast writer may be due.
    pub(crate) fn wake_at_marks(&self, file: &BlockFile, page: u32, pages: u32) {
        let (mark, end) = (file.size().pages() / 4 * 3, page + pages);
        if (page < mark && end >= mark) || ends_a_piece(&(page..end), self.options.piece_pages) {
            self.wake_keepers();
        }
    }

    /// How the lane gets its next file, if it needs one.
    fn spare_job(&self, turn: &Turn, lane: &Lane, now: Instant) -> Option<Job> {
        let of_lane = &turn.lanes[lane.index()];
        // Nothing is written any more, so nothing need make room.
        if of_lane.fallen.is_some() || self.is_behind(turn, of_lane) {
            return None;
        }
        let wanted = self.needs_a_spare(turn, lane);
        if let Some(file) = of_lane.absent.last() {
            return (wanted || self.creates_ahead(of_lane, now)).then_some(Job::Create(*file));
        }
        if !wanted {
            return None;
        }
        // Hazard 48: a file that is held is passed over.
        let may_turn = |file: &&FileId| !planted::is(48) || self.table.file(**file).pins.held() == 0;
        let oldest = of_lane.order.iter().find(may_turn).copied()?;
        self.may_die(turn, lane, oldest, now).then_some(Job::Recycle(oldest))
    }

    /// How many free files a lane likes to have: with `Refuse` one of them is for tombstones.
    fn wanted_spares(&self) -> usize {
        if self.options.on_full == OnFull::Refuse { 2 } else { 1 }
    }

    /// Whether the lane cannot go on for long without another file.
    fn needs_a_spare(&self, turn: &Turn, lane: &Lane) -> bool {
        let of_lane = &turn.lanes[lane.index()];
        of_lane.spares.len() + of_lane.unplaced < self.wanted_spares() && self.wants_a_spare(turn, lane)
    }

    /// Whether one more file is created before the lane needs it, in a store that is written to: that costs no block, and no
    /// space beyond the budget.
    fn creates_ahead(&self, of_lane: &LaneTurn, now: Instant) -> bool {
        let files = of_lane.all().count() + of_lane.absent.len();
        of_lane.active.is_some()
            && of_lane.spares.len() + of_lane.unplaced < most_ahead(self.size.pages(), files)
            && of_lane.not_ahead_before.is_none_or(|time| now >= time)
            && self.counters.blocks_written.get() > 0
    }

    /// A file that nobody waits for could not be created: it is tried again when somebody does, or later. `false` if the
    /// lane needs it.
    pub(crate) fn does_without(&self, turn: &mut Turn, lane: &Lane) -> bool {
        if self.needs_a_spare(turn, lane) {
            return false;
        }
        turn.lanes[lane.index()].not_ahead_before = Some(Instant::now() + AHEAD_AGAIN);
        true
    }

    /// Whether writers are far enough ahead of the disk to wait for it: what they store then would stall them, or all others,
    /// where the system bounds it.
    fn is_behind(&self, turn: &Turn, of_lane: &LaneTurn) -> bool {
        let is_full = |file: &&FileId| turn.state(**file) == FileState::Sealing && self.table.file(**file).is_quiet();
        let counted = counted(self.size.pages(), self.options.piece_pages);
        let ahead = self.most_ahead().max(u64::from(AHEAD) * PAGE_SIZE);
        is_behind(counted, of_lane.order.iter().filter(is_full).count(), ahead)
    }

    /// Whether the lane will soon need its next file.
    fn wants_a_spare(&self, turn: &Turn, lane: &Lane) -> bool {
        let of_lane = &turn.lanes[lane.index()];
        let Some(active) = of_lane.active else { return true };
        let file = self.table.file(active);
        let directory = u64::from(file.cursor.next_slot()) * 64 / PAGE_SIZE;
        of_lane.waiting > 0
            || file.cursor.is_sealed()
            || u64::from(file.cursor.next_page()) + directory >= u64::from(of_lane.tempo.mark(file.size().pages()))
    }

    /// Whether the oldest file of the lane may make room now.
    fn may_die(&self, turn: &Turn, lane: &Lane, oldest: FileId, now: Instant) -> bool {
        let of_lane = &turn.lanes[lane.index()];
        if of_lane.searched < Searched::Durable {
            return false;
        }
        if self.options.on_full == OnFull::Refuse && !self.is_spent(of_lane, self.table.file(oldest)) {
            return false;
        }
        // A death that is not durable yet forbids the next one.
        if of_lane.draining.iter().any(|(file, _)| turn.state(*file) == FileState::Closing) {
            return false;
        }
        if of_lane.draining.is_empty() {
            // One file is left to be read (`turn`, invariant 4).
            return of_lane.unready.is_empty() || of_lane.has_another_to_give();
        }
        // Hazard 30: nothing turns before the last pin is gone.
        if planted::is(30) {
            return false;
        }
        // Reads are short: the next file dies early only for a writer that waits already.
        let patience = of_lane.draining.iter().any(|(_, since)| now < *since + GRACE);
        let nobody_can_write = of_lane.active.is_none() || (of_lane.waiting > 0 && lane.takes_tombstones_only());
        nobody_can_write && !patience && of_lane.has_another_to_give()
    }

    pub(super) fn has_drained(&self, id: FileId) -> bool {
        let file = self.table.file(id);
        // Hazard 20: whoever still writes holds nothing.
        (file.is_quiet() || planted::is(20)) && file.pins.is_drained()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::{BlockHash, BlockKind, Realm};
    use crate::storage::faulty::{Call, Errno, Fault, FaultySource};
    use crate::storage::{FileSource, MemoryFileSource};
    use crate::sync::thread;
    use crate::wheel::{NewBlock, WheelOptions};

    fn put(wheel: &FileWheel, number: u128) {
        let bytes = vec![7; 1 << 20];
        let (key, hash, parts) = (BlockHash::from_u128(number), BlockHash::of(&bytes), [&bytes[..]]);
        let (realm, kind, len) = (Realm::DEFAULT, BlockKind::Named, 1 << 20);
        wheel.store_block(&NewBlock { realm, key, kind, hash, parts: &parts, len }, &wheel.deadline()).unwrap();
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_mins(1), "{what}: not within a minute");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Files of 16 MiB.
    fn files(count: u16) -> MemoryFileSource {
        MemoryFileSource::builder().files_per_folder(count).file_size(16 << 20).build().unwrap()
    }

    fn open(source: impl FileSource) -> Arc<FileWheel> {
        FileWheel::open(Arc::new(source), WheelOptions { gather_bytes: 0, ..WheelOptions::default() }).unwrap()
    }

    fn spares(wheel: &FileWheel) -> usize {
        wheel.turn.lock().lanes[0].spares.len()
    }

    /// A file was created when the one before was full to three quarters: whoever filled the rest in less time than that
    /// takes waited, at each new file.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn large_files_are_created_ahead_once_a_store_is_written_to() {
        let source = files(12);
        let wheel = open(source.clone());
        put(&wheel, 1);
        until("three spares", || spares(&wheel) == 3 && wheel.keepers_rest());
        wheel.close(Duration::from_secs(20));
        drop(wheel);
        // Whoever only reads needs none.
        let wheel = open(source);
        until("it is searched", || wheel.turn.lock().lanes[0].searched == Searched::Durable && wheel.keepers_rest());
        assert_eq!(wheel.turn.lock().lanes[0].absent.len(), 8);
        put(&wheel, 2);
        until("three spares", || spares(&wheel) == 3);
        wheel.close(Duration::from_secs(20));
    }

    #[test]
    fn up_to_a_quarter_of_the_files_and_a_gibibyte_is_created_ahead() {
        let mib = |size: u32| size << 8;
        let of = |size, files| most_ahead(mib(size), files);
        assert_eq!([of(1, 64), of(15, 64), of(16, 3), of(16, 12), of(16, 1000)], [0, 0, 0, 3, 64]);
        assert_eq!([of(128, 16), of(128, 100), of(1024, 10), of(1025, 10), of(16 << 10, 100)], [4, 8, 1, 0, 0]);
    }

    #[test]
    fn a_full_file_counts_as_its_whole_pieces() {
        let mib = |size: u32| counted(size << 8, 2048) >> 20;
        assert_eq!([mib(1), mib(8), mib(9), mib(16), mib(17), mib(128)], [1, 8, 8, 8, 16, 120]);
    }

    #[test]
    fn writers_wait_once_more_full_files_than_they_may_be_ahead_and_one_are_not_synced() {
        let behind = |size: u64, full| is_behind(size << 20, full, 1 << 30);
        assert_eq!([behind(1, 1025), behind(1, 1026), behind(128, 9), behind(128, 10)], [false, true, false, true]);
        assert_eq!(
            [behind(1024, 2), behind(1024, 3), behind(16 << 10, 2), behind(16 << 10, 3)],
            [false, true, false, true]
        );
    }

    /// A full disk was told as a broken lane when the first of its files was hardly begun.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn a_file_that_cannot_be_created_ahead_of_need_breaks_nothing() {
        let source = FaultySource::new(files(12));
        let faults = source.faults();
        let wheel = open(source);
        until("the first file", || spares(&wheel) == 1);
        faults.set(Fault::at(1).sticky().only(&[Call::Create]).errno(Errno::NoSpace));
        (0..11).for_each(|number| put(&wheel, number));
        until("a creation fails", || faults.failed() > 0);
        until("rest", || wheel.keepers_rest());
        assert!(wheel.turn.lock().lanes[0].failing.is_none());
        assert_eq!((faults.failed(), wheel.counters.file_failures.get()), (1, 0));
        // Three quarters: the lane needs the next one.
        (11..13).for_each(|number| put(&wheel, number));
        until("the lane is told to fail", || wheel.turn.lock().lanes[0].failing.is_some());
        faults.clear();
        (13..20).for_each(|number| put(&wheel, number));
        wheel.close(Duration::from_secs(20));
    }
}
