//! Opening the wheel: it is made of a [`Plan`], its lanes are laid out, and its threads start.
//!
//! # Invariants
//!
//! 1. A file is in its place, and in the list of its lane, before that lane is written to or searched.
//! 2. What a disk refuses once all folders are listed makes a folder missing, or a lane fail, and not the opening, unless
//!    the store is new or no other folder has a file.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};

use crate::block::FileId;
use crate::error::{ConfigError, IoError, OpenError};
use crate::index::{BlockIndex, Room};
use crate::os;
use crate::storage::{Contained, FileSource, Panics, check_source};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Arc, Condvar, Mutex};
use crate::wheel::attach::Search;
use crate::wheel::budget::PendingBudget;
use crate::wheel::event::Event;
use crate::wheel::hook::Events;
use crate::wheel::lane::Lane;
use crate::wheel::pin::Pinner;
use crate::wheel::plan::{Judged, LEAST_FILES_A_LANE, Plan, Told, check_lengths, check_order, erase, only_leftovers};
use crate::wheel::progress::RecoveryState;
use crate::wheel::recovery;
use crate::wheel::residency::Residency;
use crate::wheel::staging::Staging;
use crate::wheel::state::FileState;
use crate::wheel::threads::Role;
use crate::wheel::turn::{Searched, Turn};
use crate::wheel::{Counters, Failures, FileTable, FileWheel, OnFull, WheelOptions, ahead, flusher, keeper, syncer};

/// Bytes of disk a block is assumed to take when nothing else is said.
const ASSUMED_BLOCK: u64 = 16 * 1024;
/// Blocks that an index is made for where nobody says. One that is interpreted is swept by an interpreter.
const LEAST_EXPECTED: u64 = if cfg!(miri) { 1 } else { 1 << 14 };
/// Descriptors that the process needs besides the files of the store.
const OTHER_DESCRIPTORS: u64 = 64;

impl FileWheel {
    /// Opens the wheel over the files of `source`; see the module's words.
    pub(crate) fn open(source: Arc<dyn FileSource>, options: WheelOptions) -> Result<Arc<Self>, OpenError> {
        let panics = Panics::default();
        let source: Arc<dyn FileSource> = Arc::new(Contained::new(source, panics.clone())?);
        // First of all: what is refused for its numbers has deleted nothing.
        check_source(&*source)?;
        check_lanes(&*source, &options)?;
        check_descriptors(&*source)?;
        let mut search = Search::new(&*source)?;
        if options.reset || options.temporary {
            // What a missing folder holds would be back with it.
            search.need_all()?;
        }
        if options.reset {
            search.found = erase(&*source, search.found)?;
        }
        let judged = search.judge(&*source)?;
        if options.temporary {
            search.need_all()?;
        }
        check_order(&*source, &judged)?;
        check_lengths(&*source, &judged)?;
        let judged = if options.temporary { only_leftovers(&*source, judged)? } else { judged };
        let mut plan = Plan::new(&*source, judged, &options)?;
        plan.missing = search.missing;
        plan.mend(&*source)?;
        let wheel = Arc::new(Self { panics, ..Self::build(source, options, &plan)? });
        wheel.tell_damage(&plan);
        let removed = plan.remove(wheel.table.source());
        wheel.owe_marks(&plan);
        wheel.recovery.more(plan.to_be_searched(), plan.dropped);
        match removed.and_then(|()| wheel.lay_out(plan)) {
            Ok(()) => Ok(wheel),
            Err(error) => {
                wheel.stop_threads();
                Err(error)
            }
        }
    }

    /// A new wheel without threads: a model is its own flusher and keeper. Its keys are found in the same places always.
    #[cfg(all(test, loom))]
    pub(super) fn without_threads(source: Arc<dyn FileSource>, options: WheelOptions) -> Arc<Self> {
        let plan = Plan::new(&*source, Vec::new(), &options).unwrap();
        let wheel = Self { secret: 0, ..Self::build(source, options, &plan).unwrap() };
        wheel.turn.lock().lanes[0].absent = wheel.absent_numbers(&plan, |_| true).remove(0);
        wheel.begin_new_lane(&wheel.lanes[0]);
        Arc::new(wheel)
    }

    fn build(source: Arc<dyn FileSource>, options: WheelOptions, plan: &Plan) -> Result<Self, OpenError> {
        let size = source.file_size();
        let secret = source.store_id().secret();
        let mut options = options;
        let in_place = source.folders() * source.files_per_folder();
        // What lies in a folder that is not there may have any number.
        let any_missing = plan.missing.iter().any(Option::is_some);
        let count = if any_missing { FileId::MAX } else { in_place.max(plan.highest()) };
        let budget = u64::from(in_place) * size.get();
        let expected =
            options.expected_blocks.unwrap_or_else(|| (budget / ASSUMED_BLOCK).clamp(LEAST_EXPECTED, 1 << 24));
        let most_bytes = options.max_index_bytes.unwrap_or(u64::MAX);
        let room = if options.on_full == OnFull::Refuse { Room::Grows(most_bytes) } else { Room::Fixed };
        let index = match options.index_buckets {
            Some(buckets) => BlockIndex::with_buckets(buckets, room),
            None => BlockIndex::new(expected, most_bytes, room),
        };
        let index =
            index.map_err(|error| OpenError::Io(IoError::new("reserving memory for the index", None, error)))?;
        let events = Events::start(options.hook.0.take())
            .map_err(|error| OpenError::Io(IoError::new("starting a thread of the store", None, error)))?;
        Ok(Self {
            table: Arc::new(FileTable::new(source, count, options.piece_pages)),
            index,
            counters: Counters::default(),
            failures: Failures::default(),
            events,
            recovery: RecoveryState::new(),
            lanes: (0..plan.lanes).map(Lane::new).collect(),
            secret,
            size,
            hash_kind: plan.hash_kind,
            turn: Mutex::new(Turn::new(usize::from(count), usize::from(plan.lanes), plan.next_generation)),
            turned: Condvar::new(),
            keep: Condvar::new(),
            laps: Mutex::new(vec![None; usize::from(count)].into()),
            residency: Residency::new(options.access, options.resident_budget),
            staging: Staging::new(options.max_staging_bytes),
            pending_budget: PendingBudget::new(options.max_pending_bytes),
            calls: Pinner::new(Pinner::words_for_this_machine()),
            calls_in_closures: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            panics: Panics::default(),
            threads: Mutex::new(Vec::new()),
            #[cfg(all(test, not(loom)))]
            lacks_threads: AtomicBool::new(false),
            options,
        })
    }

    /// Puts files in their places, has a first file for each new lane, and starts the threads.
    fn lay_out(self: &Arc<Self>, plan: Plan) -> Result<(), OpenError> {
        let missing = |lane: u16| plan.missing[usize::from(lane % self.table.source().folders())].as_ref();
        let mut absent = self.absent_numbers(&plan, |lane| missing(lane).is_none());
        let is_new = plan.all_found().all(|judged| judged.header.is_none());
        let mut to_discover = Vec::new();
        for (lane, (found, empty)) in self.lanes.iter().zip(plan.found.into_iter().zip(plan.empty)) {
            let folder = usize::from(lane.id() % self.table.source().folders());
            if let Some(error) = &plan.missing[folder] {
                self.lane_is_missing(lane, error);
                to_discover.push(Vec::new());
                continue;
            }
            let ids = self.lay_out_lane(lane, &found, empty, std::mem::take(&mut absent[lane.index()]));
            // A store that is there goes on without a file that cannot be created: its keeper tries again.
            let failing = self.turn.lock().lanes[lane.index()].failing.clone();
            if let Some(failing) = failing.filter(|_| is_new) {
                return Err(OpenError::Io(failing.error));
            }
            to_discover.push(ids);
        }
        self.start_threads(to_discover)
    }

    /// Puts the files of a lane in their places, and has a first one if it has none; gives those to be discovered.
    ///
    /// What cannot be made ready makes the lane fail, and is tried again by its keeper.
    pub(crate) fn lay_out_lane(
        &self,
        lane: &Lane,
        found: &[Judged],
        empty: Vec<Judged>,
        absent: Vec<FileId>,
    ) -> Vec<FileId> {
        let mut ids = Vec::new();
        {
            let mut turn = self.turn.lock();
            for judged in found {
                let Some(header) = &judged.header else { continue };
                let file = self.table.file(judged.id);
                self.install(file, Arc::clone(&judged.memory));
                file.adopt(header.generation, header.nonce, judged.high_water);
                turn.found(judged.id);
                ids.push(judged.id);
            }
            turn.lanes[lane.index()].absent = absent;
            // Known before the directories are read: content that is found in it must not count as safe.
            if self.options.on_full == OnFull::Recycle
                && turn.lanes[lane.index()].absent.is_empty()
                && let Some(oldest) = found.last().and_then(|judged| judged.header.as_ref())
            {
                lane.set_victim(oldest.generation);
            }
        }
        for judged in empty {
            self.adopt_empty(lane, judged);
        }
        if ids.is_empty() {
            self.begin_new_lane(lane);
        }
        ids
    }

    /// Tells of files that somebody else has damaged while the store was closed, and of those that an earlier run found
    /// suspect: each once. When they are mended, by the names that they have then, and before any is deleted or used again.
    pub(crate) fn tell_damage(&self, plan: &Plan) {
        let mut damaged = 0;
        let lost = plan.headerless.iter().map(|(file, why)| (*file, *why, true));
        for (file, why, is_lost) in plan.suspect().map(|(file, why)| (file, why, false)).chain(lost) {
            if !self.recovery.is_news(file, is_lost) {
                continue;
            }
            damaged += u64::from(why != Told::Marked);
            let why = io::Error::new(ErrorKind::InvalidData, why);
            let error = self.io_error("opening a file of the store", file, why);
            let told = if is_lost { Event::FileLost { file, error } } else { Event::FileSuspect { file, error } };
            self.events.emit(|| told);
        }
        self.recovery.damaged(damaged);
    }

    /// Numbers that may still be created, the smallest last, for each lane.
    pub(crate) fn absent_numbers(&self, plan: &Plan, is_there: impl Fn(u16) -> bool) -> Vec<Vec<FileId>> {
        let folders = self.table.source().folders();
        let mut absent: Vec<Vec<FileId>> = (0..plan.lanes).map(|_| Vec::new()).collect();
        let mut room: Vec<usize> = (0..plan.lanes)
            .map(|lane| {
                let (most, at) = (usize::from(plan.files_per_lane), usize::from(lane));
                if is_there(lane) { most - plan.found[at].len() - plan.empty[at].len() } else { 0 }
            })
            .collect();
        let taken: Vec<FileId> = plan.all_found().map(|judged| judged.id).collect();
        for id in self.table.iter().map(super::file::BlockFile::id).filter(|id| !taken.contains(id)) {
            let folder = (id.get() - 1) % folders;
            // The lane of this folder that lacks most: lanes of a folder grow evenly.
            let lane = (folder..plan.lanes)
                .step_by(usize::from(folders))
                .map(usize::from)
                .filter(|lane| room[*lane] > 0)
                .max_by_key(|lane| (room[*lane], std::cmp::Reverse(*lane)));
            if let Some(lane) = lane {
                room[lane] -= 1;
                absent[lane].push(id);
            }
        }
        for of_lane in &mut absent {
            of_lane.reverse();
        }
        absent
    }

    /// A file without a header holds nothing that can be believed: it begins a lap of its own.
    fn adopt_empty(&self, lane: &Lane, judged: Judged) {
        let Judged { id, memory, .. } = judged;
        let file = self.table.file(id);
        self.install(file, memory);
        let lap = self.write_header(lane, id);
        let mut turn = self.turn.lock();
        match lap {
            Ok(lap) => {
                file.begin_lap(lap.generation, lap.nonce);
                turn.found(id);
                turn.set(id, FileState::Free);
                turn.lanes[lane.index()].spares.push(id);
            }
            Err(error) => {
                turn.found_hollow(id, lane);
                self.lane_fails(&mut turn, lane, Some(id), self.io_error("writing a header", id, error));
            }
        }
    }

    /// A lane without blocks may be written at once: its first file is there when `open` returns.
    fn begin_new_lane(&self, lane: &Lane) {
        let next = {
            let turn = self.turn.lock();
            let of_lane = &turn.lanes[lane.index()];
            if of_lane.spares.is_empty() { of_lane.absent.last().copied() } else { None }
        };
        if let Some(id) = next {
            self.create_file(lane, id);
        }
        let mut turn = self.turn.lock();
        turn.lanes[lane.index()].searched = Searched::Durable;
    }

    fn start_threads(self: &Arc<Self>, to_discover: Vec<Vec<FileId>>) -> Result<(), OpenError> {
        let failed = |error| OpenError::Io(IoError::new("starting a thread of the store", None, error));
        if to_discover.iter().any(|files| !files.is_empty()) {
            self.index.populate();
        }
        for (lane, files) in (0..self.lanes()).zip(to_discover) {
            // The keeper decides how blocks are asked for; then what somebody waits for.
            self.spawn(Role::Keeper, lane, move |wheel| keeper::run(wheel, lane)).map_err(failed)?;
            if !files.is_empty() {
                self.spawn(Role::Search, lane, move |wheel| recovery::run(wheel, lane, &files)).map_err(failed)?;
            }
            self.spawn(Role::Flusher, lane, move |wheel| flusher::run(wheel, lane)).map_err(failed)?;
            self.spawn(Role::Syncer, lane, move |wheel| syncer::run(wheel, lane)).map_err(failed)?;
            if ahead::is_worth_it(self.size.pages(), &self.options) {
                // Nobody depends on it.
                let _ = self.spawn(Role::Ahead, lane, move |wheel| ahead::run(wheel, lane));
            }
        }
        Ok(())
    }
}

/// Each lane that is asked for has its files.
fn check_lanes(source: &dyn FileSource, options: &WheelOptions) -> Result<(), ConfigError> {
    let files = source.files_per_folder();
    let most = files / LEAST_FILES_A_LANE;
    match options.lanes_per_folder {
        Some(lanes) if !(1..=most).contains(&lanes) => {
            let value = format!("{lanes} with `files_per_folder` {files}");
            let range = format!("1 to {most}, as each lane needs {LEAST_FILES_A_LANE} files");
            Err(ConfigError::new("lanes_per_folder", value, range))
        }
        _ => Ok(()),
    }
}

/// Every file keeps one descriptor open.
fn check_descriptors(source: &dyn FileSource) -> Result<(), OpenError> {
    let needed = u64::from(source.folders()) * u64::from(source.files_per_folder()) + OTHER_DESCRIPTORS;
    match os::open_file_limit() {
        Some(limit) if limit < needed => {
            let value = format!("{} in {} folders", source.files_per_folder(), source.folders());
            let range = format!(
                "few enough for the limit of {limit} open files, {needed} are needed (RLIMIT_NOFILE, `ulimit -n`)"
            );
            Err(ConfigError::new("files_per_folder", value, range).into())
        }
        _ => Ok(()),
    }
}
