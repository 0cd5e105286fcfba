//! The state of all lanes and files, for `Scratch::health`: of one instant, but for what is told a moment later.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::block::FileId;
use crate::wheel::FileWheel;
use crate::wheel::failing::{Failing, Unready};
use crate::wheel::file::BlockFile;
use crate::wheel::known::Known;
use crate::wheel::state::FileState;

/// What is looked at under one lock, and after it `unmarked`, `recovering` and whether lanes are readable.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) lanes: Vec<LaneState>,
    /// Files whose sync has failed and that serve still.
    pub(crate) suspect: Vec<FileId>,
    /// Files that the next run would take for sound ones, those whose death could not be made durable as well.
    pub(crate) unmarked: Vec<FileId>,
    /// Files that could not be made ready again, and their lanes.
    pub(crate) unready: Vec<(u16, Unready)>,
    /// The file that waits longest for its readers, and how long.
    pub(crate) oldest_drain: Option<(FileId, Duration)>,
    pub(crate) recovering: bool,
    pub(crate) closed: bool,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct LaneState {
    pub(crate) lane: u16,
    pub(crate) folder: u16,
    pub(crate) path: Option<PathBuf>,
    /// Why it is BROKEN, if it is.
    pub(crate) broken: Option<Failing>,
    /// Whether its keys are found.
    pub(crate) readable: bool,
    /// Whether some of its blocks are not, and may not be forgotten.
    pub(crate) unfound: bool,
}

impl FileWheel {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let folders = self.table.source().folders();
        let turn = self.turn.lock();
        let failing = turn.lanes.iter().map(|lane| lane.why_no_file().filter(|failing| failing.is_broken()).cloned());
        let broken: Vec<Option<Failing>> = failing.collect();
        let serves = |file: FileId| !matches!(turn.state(file), FileState::Absent | FileState::Free);
        let all = self.table.iter().filter(|file| file.is_suspect()).map(BlockFile::id);
        let suspect: Vec<FileId> = all.filter(|file| serves(*file) && !turn.state(*file).is_dying()).collect();
        let draining = turn.lanes.iter().flat_map(|lane| &lane.draining);
        let held = draining.filter(|(file, _)| self.table.file(*file).pins.held() > 0);
        let oldest = held.min_by_key(|(_, since)| *since).copied();
        let unready = self.lanes.iter().flat_map(|lane| {
            let of_lane = &turn.lanes[lane.index()];
            of_lane.unready.iter().map(|unready| (lane.id(), unready.clone()))
        });
        let unready = unready.collect();
        drop(turn);
        for file in &suspect {
            // Whoever looks first tells it.
            self.is_suspect(self.table.file(*file));
        }
        let now = Instant::now();
        let lanes = self.lanes.iter().zip(broken).map(|(lane, broken)| LaneState {
            lane: lane.id(),
            folder: lane.id() % folders,
            path: self.folder_of(lane.id()),
            readable: lane.knowledge.known() != Known::NotYet,
            unfound: lane.knowledge.has_unfound(),
            broken,
        });
        Snapshot {
            lanes: lanes.collect(),
            unmarked: self.table.iter().filter(|file| file.owes_its_mark()).map(BlockFile::id).collect(),
            suspect,
            unready,
            oldest_drain: oldest.map(|(file, since)| (file, now.saturating_duration_since(since))),
            recovering: !self.recovery.is_complete(),
            closed: self.is_closed(),
        }
    }
}
