//! Folders that are not there when the store is opened, or take no change that it has to make in them, and how they are
//! taken back without opening it again.
//!
//! # Invariants
//!
//! 1. The lanes of a folder that is not there have no file: nothing is written to them, so nothing can be older or newer
//!    than what the folder holds when it is back.
//! 2. A lane whose folder was not there stays *unknown*, so that a miss in it is an error, until it was discovered.
//! 3. A folder is taken back as an opening takes it: locked, of the same store, each header judged, the layout the
//!    same. Whatever is refused changes nothing and is tried again.
#![forbid(unsafe_code)]

use crate::block::{FileId, PAGE_SIZE};
use crate::error::{IoError, OpenError};
use crate::storage::{FileSource, Found};
use crate::sync::Arc;
use crate::wheel::failing::Failing;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::plan::{Judged, Plan, check_order, judge};
use crate::wheel::recovery;
use crate::wheel::threads::Role;
use crate::wheel::turn::Searched;
use crate::wheel::{FileWheel, WheelOptions, high_water};

/// What is found at open, folder by folder.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) found: Vec<Found>,
    /// For each folder, why it is not there.
    pub(crate) missing: Vec<Option<IoError>>,
}

impl Search {
    /// Lists all folders, or those that can be; an error if none can.
    pub(crate) fn new(source: &dyn FileSource) -> Result<Self, OpenError> {
        let folders = source.folders();
        let mut search = Self { found: Vec::new(), missing: vec![None; usize::from(folders)] };
        match source.scan() {
            Ok(found) => search.found = found,
            Err(OpenError::Io(_)) if folders > 1 => {
                for folder in 0..folders {
                    match source.scan_folder(folder) {
                        Ok(found) => search.found.extend(found),
                        Err(OpenError::Io(error)) => search.miss(folder, error)?,
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(search)
    }

    fn miss(&mut self, folder: u16, error: IoError) -> Result<(), OpenError> {
        self.missing[usize::from(folder)].get_or_insert(error);
        let first = self.missing.iter().flatten().next().filter(|_| self.missing.iter().all(Option::is_some));
        first.map_or(Ok(()), |error| Err(OpenError::Io(error.clone())))
    }

    /// An error if a folder is not there, where all of them are needed.
    pub(crate) fn need_all(&self) -> Result<(), OpenError> {
        self.missing.iter().flatten().next().map_or(Ok(()), |error| Err(OpenError::Io(error.clone())))
    }

    /// Reads every header. A folder in which one cannot be read counts as missing: which of its files is the oldest is
    /// not known then.
    pub(crate) fn judge(&mut self, source: &dyn FileSource) -> Result<Vec<Judged>, OpenError> {
        let mut judged = Vec::new();
        for found in &self.found {
            found.memory.will_need(0..PAGE_SIZE);
        }
        for found in std::mem::take(&mut self.found) {
            let folder = folder_of(source, found.file);
            match judge(source, found) {
                Ok(one) => judged.push(one),
                Err(OpenError::Io(error)) => self.miss(folder, error)?,
                Err(error) => return Err(error),
            }
        }
        judged.retain(|judged| self.missing[usize::from(folder_of(source, judged.id))].is_none());
        // Without a header nobody knows how many lanes the missing folder has.
        if judged.iter().all(|judged| judged.header.is_none()) {
            self.need_all()?;
        }
        Ok(judged)
    }
}

fn folder_of(source: &dyn FileSource, file: FileId) -> u16 {
    (file.get() - 1) % source.folders()
}

impl FileWheel {
    /// Says at open that the folder of a lane is not there.
    pub(crate) fn lane_is_missing(&self, lane: &Lane, error: &IoError) {
        lane.knowledge.set_unknown();
        let mut turn = self.turn.lock();
        let of_lane = &mut turn.lanes[lane.index()];
        of_lane.detached = true;
        of_lane.away = Some(Failing::broken(error.clone()));
        self.tell_broken(lane, error.clone());
    }

    /// Tries to take the folder back whose first lane this is.
    pub(crate) fn attach(self: &Arc<Self>, first: &Lane) {
        let folder = first.id();
        let plan = match self.look_into(folder) {
            Ok(plan) => plan,
            Err(error) => {
                let error = match error {
                    OpenError::Io(error) => error,
                    // The folder is there, and is none that may be taken: the error says what to do about it.
                    other => {
                        let path = self.folder_of(folder);
                        IoError::new("taking a folder back", path.as_deref(), std::io::Error::other(other))
                    }
                };
                let mut turn = self.turn.lock();
                for lane in self.lanes_of(folder) {
                    self.folder_fails(&mut turn, lane, error.clone());
                }
                return;
            }
        };
        self.recovery.more(plan.to_be_searched(), 0);
        let mut absent = self.absent_numbers(&plan, |lane| lane % self.table.source().folders() == folder);
        {
            let mut turn = self.turn.lock();
            turn.next_generation = turn.next_generation.max(plan.next_generation);
        }
        for (at, (found, empty)) in plan.found.into_iter().zip(plan.empty).enumerate() {
            let lane = &self.lanes[at];
            if lane.id() % self.table.source().folders() != folder {
                continue;
            }
            // What the disk refuses from here on is tried again by the keeper of the lane.
            let files = self.lay_out_lane(lane, &found, empty, std::mem::take(&mut absent[at]));
            self.turn.lock().lanes[at].detached = false;
            if files.is_empty() {
                self.lane_is_discovered(lane);
                self.turn.lock().lanes[at].searched = Searched::Durable;
                continue;
            }
            let (id, own) = (lane.id(), files.clone());
            let spawned = self.spawn(Role::Search, id, move |wheel| recovery::run(wheel, id, &own));
            if spawned.is_err() {
                self.contain(Role::Search, id, |wheel| recovery::run(wheel, id, &files));
            }
        }
    }

    /// Everything that may be refused, before anything changes in the wheel; tells what is damaged.
    fn look_into(&self, folder: u16) -> Result<Plan, OpenError> {
        let source = self.table.source();
        // What could not be synced is believed by nobody: first the word that was owed.
        let owes = |file: &&BlockFile| folder_of(source, file.id()) == folder && file.owes_its_mark();
        self.table.iter().filter(owes).try_for_each(|file| self.mark_again(file))?;
        let found = source.scan_folder(folder)?;
        let mut judged = found.into_iter().map(|found| judge(source, found)).collect::<Result<Vec<_>, _>>()?;
        // Its disk may have been another machine's meanwhile, and this is the boot in which the store was opened.
        for judged in &mut judged {
            judged.high_water = high_water::Found::Doubted;
        }
        check_order(source, &judged)?;
        let options = WheelOptions {
            lanes_per_folder: Some(self.lanes() / source.folders()),
            hash_kind: Some(self.hash_kind),
            ..self.options.clone()
        };
        // No header of this folder need tell the layout: those of the others do.
        let mut plan = Plan::new(source, judged, &options)?;
        let mended = plan.mend(source);
        self.tell_damage(&plan);
        let removed = mended.and_then(|()| plan.remove(source));
        // What was done before a refusal is done.
        self.recovery.more(0, plan.dropped);
        self.owe_marks(&plan);
        removed.map(|()| plan)
    }

    fn lanes_of(&self, folder: u16) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().skip(usize::from(folder)).step_by(usize::from(self.table.source().folders()))
    }
}
