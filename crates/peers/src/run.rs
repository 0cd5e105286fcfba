//! Runs the grid: one store at a time, each in processes and folders of its own, column by column, and each column round after
//! round: what is compared was measured within minutes, on a disk that may be another one an hour later.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use benchkit::cgroup::Cgroup;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cells::{Cells, Row};
use crate::child::{ChildArguments, Task, scarce_memory};
use crate::cold;
use crate::grid::{COMPARED, GridArguments, size, workloads_of};
use crate::measure::{Measure, Workload};
use crate::pace::Pace;
use crate::peers;
use crate::slot::Slot;
use crate::store::{Failure, Kind};

/// How long a process may go on besides its timed parts: syncing, counting, opening.
const PATIENCE: Duration = Duration::from_mins(5);

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
    let begun = Instant::now();
    let (all, limit) = (Duration::from_secs(arguments.seconds()), Duration::from_millis(arguments.limit()));
    let mut pace = Pace::start(all, limit);
    let bar = bar(slots.len() as u64);
    let columns = arguments.columns().len();
    for (at, column) in slots.chunk_by_mut(|one, next| one.column == next.column).enumerate() {
        pace.begin_column(columns - at, arguments.rounds());
        site.first_round(column, &mut pace, &bar);
        site.further_rounds(column, &pace, &bar);
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
        let slot = |column, peer| Slot::new(peer, column, self.arguments.blocks(column));
        let columns = self.arguments.columns().into_iter();
        columns.flat_map(|column| stores.iter().map(move |peer| slot(column, *peer))).collect()
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// All stores of a column, and everything of each.
    fn first_round(&mut self, slots: &mut [Slot], pace: &mut Pace, bar: &ProgressBar) {
        let count = slots.len();
        for (at, slot) in slots.iter_mut().enumerate() {
            if pace.is_over() && slot.peer.kind == Kind::Peer {
                // The limits and this library take little, and a column is nothing without them.
                slot.failures.push("not measured, for the time was over".to_owned());
            } else {
                slot.limit = pace.limit(count - at);
                let wanted = workloads_of(&slot.peer, slot.column);
                self.measure(slot, wanted, bar);
                pace.has_taken(slot.took, slot.limit);
            }
            bar.inc(1);
        }
    }

    /// Who is compared, and in what, again and again: in turn and in turn backwards, and each round whole, as long as the column
    /// has time for it. The first of these is made whatever the time, or a single pass would be compared.
    fn further_rounds(&mut self, slots: &mut [Slot], pace: &Pace, bar: &ProgressBar) {
        let mut took = Duration::ZERO;
        for round in 1..self.arguments.rounds() {
            if pace.is_over() || round > 1 && !pace.has_time_for(took) {
                return;
            }
            let cells = Cells::of(slots, &peers::ALL.map(Row::from));
            let mut again: Vec<(&mut Slot, Vec<Workload>)> = slots
                .iter_mut()
                .filter(|slot| !slot.is_broken)
                .map(|slot| {
                    let contends =
                        |of: &Workload| COMPARED.contains(of) && cells.contends(*of, slot.column, Row::from(slot.peer));
                    let wanted = workloads_of(&slot.peer, slot.column).into_iter().filter(contends).collect();
                    (slot, wanted)
                })
                .filter(|(_, wanted): &(_, Vec<Workload>)| !wanted.is_empty())
                .collect();
            if round % 2 == 0 {
                again.reverse();
            }
            took = Duration::ZERO;
            for (slot, wanted) in again {
                self.measure(slot, wanted, bar);
                took += slot.took;
            }
        }
    }

    /// One round of a slot.
    fn measure(&mut self, slot: &mut Slot, mut wanted: Vec<Workload>, bar: &ProgressBar) {
        bar.set_message(format!("{}, {}, round {}", slot.peer.name, slot.column, slot.runs.len() + 1));
        let begun = Instant::now();
        wanted.retain(|workload| self.arguments.wants(*workload));
        let (turning, staying): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|one| matches!(one, Workload::Recycled | Workload::Bounded | Workload::Long));
        let mut measures = Vec::new();
        if !staying.is_empty() {
            let told = self.task(slot, Task::Keep, &staying, None);
            let there = told.there;
            let is_whole = self.take(slot, &mut measures, told);
            slot.is_broken |= !is_whole;
            if is_whole && staying.contains(&Workload::Scarce) {
                self.scarce(slot, &mut measures, there);
            }
            self.clear();
        }
        if !turning.is_empty() {
            let told = self.task(slot, Task::Turn, &turning, None);
            let is_whole = self.take(slot, &mut measures, told);
            slot.is_broken |= !is_whole;
            self.clear();
        }
        slot.runs.push(measures);
        slot.took = begun.elapsed();
        if bar.is_hidden() {
            eprintln!("{}, {}: {:.1} s", slot.column, slot.peer.name, slot.took.as_secs_f64());
        }
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
            passes: self.arguments.passes(),
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
