//! Runs the grid: one store at a time, each in processes and folders of its own, round after round.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use benchkit::cgroup::Cgroup;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::child::{ChildArguments, Task, scarce_memory};
use crate::cold;
use crate::grid::{Column, GridArguments, size, workloads_of};
use crate::measure::{Measure, Workload};
use crate::pace::Pace;
use crate::store::{Failure, Kind, Peer};

/// How long a process may go on besides its timed parts: syncing, counting, opening.
const PATIENCE: Duration = Duration::from_mins(5);

/// A store in a column, and what it has given.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) peer: Peer,
    pub(crate) column: Column,
    pub(crate) blocks: u64,
    /// The measures of each round.
    pub(crate) runs: Vec<Vec<Measure>>,
    /// Why it gave less than was asked for.
    pub(crate) failures: Vec<String>,
    /// Of one round.
    took: Duration,
    /// The longest that each part may take, the same in every round.
    limit: Duration,
}

/// Everything that was found out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) slots: Vec<Slot>,
    /// What there is to say besides.
    pub(crate) notes: Vec<String>,
    pub(crate) took: Duration,
}

/// What all processes of a run have in common.
struct Site<'a> {
    root: &'a Path,
    arguments: &'a GridArguments,
    notes: Vec<String>,
}

pub(crate) fn run(arguments: &GridArguments) -> Result<Outcome, Failure> {
    let folder = benchkit::folder();
    let mut site = Site { root: folder.path(), arguments, notes: Vec::new() };
    site.has_room()?;
    let mut slots = site.slots();
    let (begun, rounds) = (Instant::now(), arguments.rounds());
    let (all, limit) = (Duration::from_secs(arguments.seconds()), Duration::from_millis(arguments.limit()));
    let mut pace = Pace::start(all, rounds, limit);
    let bar = bar((slots.len() * rounds) as u64);
    for round in 0..rounds {
        let count = slots.len();
        for (at, slot) in slots.iter_mut().enumerate() {
            bar.set_message(format!("round {} of {rounds}: {}, {}", round + 1, slot.peer.name, slot.column));
            if round == 0 && pace.is_over() && slot.peer.kind == Kind::Peer {
                // The limits and this library take little, and a column is nothing without them.
                slot.failures.push("not measured, for the time was over".to_owned());
            } else if round == 0 || slot.failures.is_empty() && pace.has_time_for(slot.took) {
                if round == 0 {
                    slot.limit = pace.limit(count - at);
                }
                site.measure(slot);
                if round == 0 {
                    pace.has_taken(slot.took, slot.limit);
                }
                if bar.is_hidden() {
                    eprintln!("{}, {}: {:.1} s", slot.column, slot.peer.name, slot.took.as_secs_f64());
                }
            }
            bar.inc(1);
        }
        // This library and the limits again first, then the others as they take longer.
        slots.sort_by_key(|slot| (slot.peer.kind == Kind::Peer, slot.took));
    }
    bar.finish_and_clear();
    Ok(Outcome { slots, notes: site.notes, took: begun.elapsed() })
}

fn bar(len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos} of {len}, {elapsed} gone");
    let style = style.expect("the template above is valid").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr_with_hz(2)).with_style(style)
}

impl Site<'_> {
    fn has_room(&self) -> Result<(), Failure> {
        let disk = rustix::fs::statvfs(self.root)?;
        let (free, wanted) = (disk.f_bavail * disk.f_frsize, self.arguments.disk());
        if free >= wanted {
            return Ok(());
        }
        let (free, wanted) = (free >> 20, wanted >> 20);
        Err(format!(
            "the disk has {free} MiB free, and the largest store may take {wanted}: SCRATCHSPACE_TEST_DIR names a \
                     folder on another one, --quick takes less"
        )
        .into())
    }

    /// Column by column, so that the rows of a column are measured close together.
    fn slots(&mut self) -> Vec<Slot> {
        let mut stores = self.arguments.stores();
        stores.retain(|peer| match (peer.probe)() {
            Ok(()) => true,
            Err(why) => {
                self.note(format!("{} was skipped: {why}", peer.name));
                false
            }
        });
        let slot = |column, peer| {
            let blocks = self.arguments.blocks(column);
            Slot {
                peer,
                column,
                blocks,
                runs: Vec::new(),
                failures: Vec::new(),
                took: Duration::ZERO,
                limit: Duration::ZERO,
            }
        };
        let columns = self.arguments.columns().into_iter();
        columns.flat_map(|column| stores.iter().map(move |peer| slot(column, *peer))).collect()
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// One round of a slot.
    fn measure(&mut self, slot: &mut Slot) {
        let begun = Instant::now();
        let mut wanted = workloads_of(&slot.peer, slot.column);
        wanted.retain(|workload| self.arguments.wants(*workload));
        let (turning, staying): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|one| matches!(one, Workload::Recycled | Workload::Bounded | Workload::Long));
        let mut measures = Vec::new();
        if !staying.is_empty() {
            let told = self.task(slot, Task::Keep, &staying, None);
            let there = told.there;
            let is_whole = self.take(slot, &mut measures, told);
            if is_whole && staying.contains(&Workload::Scarce) {
                self.scarce(slot, &mut measures, there);
            }
            self.clear();
        }
        if !turning.is_empty() {
            let told = self.task(slot, Task::Turn, &turning, None);
            self.take(slot, &mut measures, told);
            self.clear();
        }
        slot.runs.push(measures);
        slot.took = begun.elapsed();
    }

    fn scarce(&mut self, slot: &mut Slot, measures: &mut Vec<Measure>, there: Option<u64>) {
        // Of what was written, which may be less.
        let set = there.unwrap_or(slot.blocks) * slot.column.len as u64;
        let memory = scarce_memory(set);
        if set <= memory {
            return self.note(format!("a set of {} fits into the least memory that a process needs", size(set)));
        }
        let group = match Cgroup::new("peers", memory) {
            Ok(group) => group,
            Err(why) => return self.note(format!("reads with little memory were skipped: {why}")),
        };
        if let Err(error) = cold::drop_caches(&self.folder()) {
            return slot.failures.push(format!("dropping caches: {error}"));
        }
        // Here, not there: the group has less.
        let _memory = cold::fed_reserve(memory);
        let mut told = self.task(slot, Task::Scarce, &[Workload::Scarce], Some((&group, memory, there)));
        if group.killed().is_ok_and(|killed| killed > 0) {
            told.failure = Some(format!("killed for want of memory: it had {}", size(memory)));
        }
        self.take(slot, measures, told);
    }

    /// Whether it went well to the end.
    fn take(&mut self, slot: &mut Slot, measures: &mut Vec<Measure>, told: Told) -> bool {
        measures.extend(told.measures);
        for note in told.notes {
            self.note(note);
        }
        let is_whole = told.failure.is_none();
        slot.failures.extend(told.failure);
        is_whole
    }

    fn folder(&self) -> PathBuf {
        self.root.join("store")
    }

    fn clear(&mut self) {
        if let Err(error) = cold::delete(&self.folder()) {
            self.note(format!("a folder could not be deleted: {error}"));
        }
        // What that has left to be done is not the next store's.
        rustix::fs::sync();
    }

    fn task(
        &self,
        slot: &Slot,
        task: Task,
        workloads: &[Workload],
        scarce: Option<(&Cgroup, u64, Option<u64>)>,
    ) -> Told {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let arguments = ChildArguments {
            task,
            store: slot.peer.name.to_owned(),
            folder: self.folder(),
            len: slot.column.len,
            blocks: slot.blocks,
            there: scarce.and_then(|(_, _, there)| there),
            threads: slot.column.threads,
            limit: millis(slot.limit),
            least: self.arguments.least(),
            workloads: workloads.to_vec(),
            memory: scarce.map(|(_, memory, _)| memory),
            group: scarce.map(|(group, _, _)| group.folder().to_owned()),
        };
        Told::by(&arguments, 10 * slot.limit + PATIENCE)
    }
}

/// What a process has printed, and how it ended.
#[derive(Debug, Default)]
struct Told {
    measures: Vec<Measure>,
    notes: Vec<String>,
    there: Option<u64>,
    failure: Option<String>,
}

impl Told {
    fn by(arguments: &ChildArguments, patience: Duration) -> Self {
        match Self::listen(arguments, patience) {
            Ok(told) => told,
            Err(error) => Self { failure: Some(format!("starting a process: {error}")), ..Self::default() },
        }
    }

    fn listen(arguments: &ChildArguments, patience: Duration) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("child").args(arguments.to_command_line());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, mut err) = (child.stdout.take().ok_or("no output")?, child.stderr.take().ok_or("no errors")?);
        let out = thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).collect::<Vec<_>>());
        let err = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let ended = wait(&mut child, patience)?;
        let lines = out.join().map_err(|_| "a thread has panicked")?;
        let said = err.join().map_err(|_| "a thread has panicked")?;
        let mut told = Self::default();
        for line in lines {
            told.measures.extend(Measure::parse(&line));
            told.notes.extend(line.strip_prefix("note ").map(str::to_owned));
            told.there = line.strip_prefix("there ").and_then(|count| count.parse().ok()).or(told.there);
        }
        told.failure = ended.map(|how| {
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            format!("{how}: {last}")
        });
        Ok(told)
    }
}

/// How it failed, if it did. One that takes too long is killed.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<String>, Failure> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| status.to_string()));
        }
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("killed after {} s", patience.as_secs())));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
