//! How a store is: what is broken, since when, and what is still looked for.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::block::FileId;
use crate::error::IoError;
use crate::wheel::{FileWheel, LaneState, Unready};

/// The state of a store at one instant: see [`Scratch::health`](crate::Scratch::health).
///
/// `Display` says it in sentences, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// All in one word.
    pub state: HealthState,
    /// Every folder, in the order of the store.
    pub folders: Vec<FolderHealth>,
    /// Files whose sync has failed, of which a part could not be read, or whose length was another at open, and that
    /// are not recycled yet: each read of them is copied and compared.
    pub suspect: Vec<FileId>,
    /// Files whose sync has failed and that could not be marked yet: a run that began now would take them for sound ones.
    /// It is tried again and again. Also those that make room already, as long as they are not dead on the disk.
    pub unmarked: Vec<FileId>,
    /// Files that could not be made ready again after they had made room. Their lanes go on without them for as long as two
    /// others are left.
    pub broken_files: Vec<BrokenFile>,
    /// The file that waits longest for its readers before it can be used again.
    pub oldest_pin: Option<OldestPin>,
    /// Whether blocks of an earlier run are still being looked for.
    pub recovering: bool,
    /// Whether the store was closed.
    pub closed: bool,
}

/// The state of a store in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HealthState {
    /// Nothing is known to be wrong.
    Healthy,
    /// Some lanes or files are broken, some files may have lost writes, or some blocks were not found; all else works.
    Degraded,
    /// Every lane is broken, or the store is closed.
    Failed,
}

/// A folder, and the lanes whose files lie in it. (A source without folders has one that has no path.)
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FolderHealth {
    /// Where it is.
    pub path: Option<PathBuf>,
    /// Its lanes: the files of it that are filled side by side.
    pub lanes: Vec<LaneHealth>,
}

/// A lane: one of the files that are filled side by side. The hash of a key decides its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneHealth {
    /// Its number.
    pub lane: u16,
    /// Why it gets no file, if that has failed several times in a row.
    pub broken: Option<Broken>,
    /// Whether all that its keys hold is found. `false` while its folder, which was not there at open, is not back and
    /// searched: then a read that finds nothing is an error and not a miss.
    pub readable: bool,
    /// Whether some blocks of an earlier run are not found before the next opening, in a store that may not forget: the index
    /// had no memory for them, or a directory could not be read. A read that finds nothing is an error then, too, until they
    /// are given up: [`Scratch::forget_unfound`](crate::Scratch::forget_unfound).
    pub unfound: bool,
}

/// Since when a lane is broken, and why. It is tried again by itself, at least every 5 s; not so after a panic of a thread
/// of the lane ("running a thread of the store"): then it takes no write until the store is opened again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broken {
    /// The first failure of the row.
    pub since: SystemTime,
    /// How often it was tried since.
    pub attempts: u32,
    /// The newest failure, with the file or folder.
    pub error: IoError,
}

/// A file that is missing to its lane, since when, and why. It is tried again by itself, at least every 5 s.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokenFile {
    /// The file.
    pub file: FileId,
    /// Its lane.
    pub lane: u16,
    /// The first failure of the row.
    pub since: SystemTime,
    /// How often it was tried since.
    pub attempts: u32,
    /// The newest failure, with the file.
    pub error: IoError,
}

/// A file that drains: its blocks are dead, and somebody still reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OldestPin {
    /// The file.
    pub file: FileId,
    /// Since it began to make room; whoever holds a block of it has held it for longer. (Taking a block reads no
    /// clock, so blocks of files that need not make room have no age.)
    pub age: Duration,
}

impl Health {
    pub(crate) fn of(wheel: &FileWheel) -> Self {
        if wheel.is_forked() {
            // No lock may be taken there.
            let (state, folders, broken_files) = (HealthState::Failed, Vec::new(), Vec::new());
            let (suspect, unmarked, oldest_pin) = (Vec::new(), Vec::new(), None);
            let (recovering, closed) = (false, true);
            return Self { state, folders, suspect, unmarked, broken_files, oldest_pin, recovering, closed };
        }
        let snapshot = wheel.snapshot();
        let mut folders: Vec<FolderHealth> = Vec::new();
        for LaneState { lane, folder, path, broken, readable, unfound } in snapshot.lanes {
            let broken =
                broken.map(|failing| Broken { since: failing.since, attempts: failing.attempts, error: failing.error });
            let lane = LaneHealth { lane, broken, readable, unfound };
            match folders.get_mut(usize::from(folder)) {
                Some(known) => known.lanes.push(lane),
                // Lanes come in order, so folder `n` is met first with lane `n`.
                None => folders.push(FolderHealth { path, lanes: vec![lane] }),
            }
        }
        let mut health = Self {
            state: HealthState::Healthy,
            folders,
            suspect: snapshot.suspect,
            unmarked: snapshot.unmarked,
            broken_files: snapshot.unready.into_iter().map(BrokenFile::new).collect(),
            oldest_pin: snapshot.oldest_drain.map(|(file, age)| OldestPin { file, age }),
            recovering: snapshot.recovering,
            closed: snapshot.closed,
        };
        health.state = health.judge();
        health
    }

    fn judge(&self) -> HealthState {
        let is_down = |lane: &LaneHealth| lane.broken.is_some() || !lane.readable;
        let mut lanes = self.lanes();
        if self.closed || lanes.all(is_down) {
            HealthState::Failed
        } else if self.lanes().any(|lane| is_down(lane) || lane.unfound)
            || !(self.suspect.is_empty() && self.unmarked.is_empty() && self.broken_files.is_empty())
        {
            HealthState::Degraded
        } else {
            HealthState::Healthy
        }
    }

    /// Every lane, those of one folder after those of another.
    pub fn lanes(&self) -> impl Iterator<Item = &LaneHealth> {
        self.folders.iter().flat_map(|folder| &folder.lanes)
    }

    /// The lanes that are broken, and why.
    pub fn broken(&self) -> impl Iterator<Item = (&FolderHealth, &LaneHealth, &Broken)> {
        let lanes = self.folders.iter().flat_map(|folder| folder.lanes.iter().map(move |lane| (folder, lane)));
        lanes.filter_map(|(folder, lane)| Some((folder, lane, lane.broken.as_ref()?)))
    }
}

impl BrokenFile {
    fn new((lane, Unready { file, failing }): (u16, Unready)) -> Self {
        Self { file, lane, since: failing.since, attempts: failing.attempts, error: failing.error }
    }
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        })
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lanes, broken) = (self.lanes().count(), self.broken().count());
        write!(f, "The store is {}: {broken} of {lanes} lanes broken.", self.state)?;
        if self.closed {
            write!(f, "\nIt was closed.")?;
        }
        for (folder, lane, broken) in self.broken() {
            let path = folder.path.as_ref().map(|path| format!(" in `{}`", path.display())).unwrap_or_default();
            let age = broken.since.elapsed().unwrap_or_default().as_secs();
            let reads = if lane.readable { "it is still read" } else { "it cannot be read" };
            let Broken { attempts, error, .. } = broken;
            write!(f, "\nLane {}{path} is broken for {age} s, {attempts} tries, {reads}: {error}.", lane.lane)?;
        }
        for lane in self.lanes().filter(|lane| lane.broken.is_none() && !lane.readable) {
            write!(f, "\nLane {} is back, and its blocks are being looked for.", lane.lane)?;
        }
        for lane in self.lanes().filter(|lane| lane.unfound) {
            write!(f, "\nOf lane {} not all blocks of an earlier run were found: a miss is an error.", lane.lane)?;
        }
        for BrokenFile { file, lane, since, attempts, error } in &self.broken_files {
            let age = since.elapsed().unwrap_or_default().as_secs();
            write!(
                f,
                "\nFile {file} of lane {lane} is broken for {age} s, {attempts} tries, and holds nothing: {error}."
            )?;
        }
        for file in &self.suspect {
            write!(
                f,
                "\nFile {file} may have lost writes or could not be read: each read of it is copied and compared."
            )?;
        }
        for file in &self.unmarked {
            write!(
                f,
                "\nFile {file} cannot be marked for the next run, which would trust it; let this process rename it."
            )?;
        }
        if let Some(OldestPin { file, age }) = self.oldest_pin {
            write!(f, "\nFile {file} waits for its readers for {age:?}: blocks of it are held.")?;
        }
        if self.recovering {
            write!(f, "\nBlocks of an earlier run are still being looked for.")?;
        }
        Ok(())
    }
}
