//! One store, one size, one folder, in a process of its own: every store starts alike, and one that is killed takes nothing
//! with it.
//!
//! It prints each measure as soon as it has it.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

use crate::cold;
use crate::content::Content;
use crate::measure::{Measure, Metric, Workload};
use crate::peers;
use crate::store::{Failure, Kind, Peer, Plan, Store};
use crate::work::{self, Fill, Order, Reads};

const MIB: u64 = 1 << 20;
/// Longest look at what is left after laps.
const COUNTING: Duration = Duration::from_secs(2);
/// Sets of the long burst: 12 GiB of a full run.
const LONG: u64 = 6;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Task {
    /// A set that stays: filled, read, opened again, read from the disk.
    Keep,
    /// The same set, in little memory.
    Scarce,
    /// A set that makes room for the next one.
    Turn,
}

/// What it is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChildArguments {
    #[arg(long)]
    pub(crate) task: Task,
    #[arg(long)]
    pub(crate) store: String,
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Bytes of a block
    #[arg(long)]
    pub(crate) len: usize,
    #[arg(long)]
    pub(crate) blocks: u64,
    /// Of these, as many were written
    #[arg(long)]
    pub(crate) there: Option<u64>,
    #[arg(long)]
    pub(crate) threads: u64,
    /// Milliseconds that a part may take
    #[arg(long)]
    pub(crate) limit: u64,
    /// Milliseconds of hot reads, at least
    #[arg(long)]
    pub(crate) least: u64,
    /// How often a part that takes little is done: one pass alone may be off by half, whatever is measured
    #[arg(long)]
    pub(crate) passes: u64,
    #[arg(long, value_delimiter = ',')]
    pub(crate) workloads: Vec<Workload>,
    /// Bytes of memory, if that is limited
    #[arg(long)]
    pub(crate) memory: Option<u64>,
    #[arg(long)]
    pub(crate) group: Option<PathBuf>,
}

impl ChildArguments {
    /// As a command line has them.
    pub(crate) fn to_command_line(&self) -> Vec<String> {
        let task = self.task.to_possible_value().map(|task| task.get_name().to_owned()).unwrap_or_default();
        let workloads: Vec<String> = self.workloads.iter().map(ToString::to_string).collect();
        let mut line = vec![format!("--task={task}"), format!("--store={}", self.store)];
        line.push(format!("--folder={}", self.folder.display()));
        line.push(format!("--len={}", self.len));
        line.push(format!("--blocks={}", self.blocks));
        line.push(format!("--threads={}", self.threads));
        line.push(format!("--limit={}", self.limit));
        line.push(format!("--least={}", self.least));
        line.push(format!("--passes={}", self.passes));
        line.push(format!("--workloads={}", workloads.join(",")));
        line.extend(self.there.map(|there| format!("--there={there}")));
        line.extend(self.memory.map(|memory| format!("--memory={memory}")));
        line.extend(self.group.as_ref().map(|group| format!("--group={}", group.display())));
        line
    }
}

/// Does the task, and prints what it measures.
pub(crate) fn run(arguments: &ChildArguments) -> Result<(), Failure> {
    if let Some(group) = &arguments.group {
        benchkit::cgroup::join(group)?;
    }
    let peer = peers::by_name(&arguments.store).ok_or("no such store")?;
    let machine = cold::meminfo("MemAvailable").unwrap_or(1 << 30);
    let plan = Plan {
        folder: arguments.folder.clone(),
        block_len: arguments.len,
        blocks: arguments.blocks,
        spare: arguments.blocks / 4,
        threads: arguments.threads,
        bounded: arguments.task == Task::Turn,
        memory: arguments.memory.unwrap_or(machine),
    };
    fs::create_dir_all(&plan.folder)?;
    let run = Run {
        peer,
        content: Content::new(plan.block_len),
        limit: Duration::from_millis(arguments.limit),
        least: Duration::from_millis(arguments.least),
        passes: arguments.passes,
        workloads: &arguments.workloads,
        is_part: Cell::new(false),
        plan,
    };
    match arguments.task {
        Task::Keep => run.keep(),
        Task::Scarce => run.scarce(arguments.there.unwrap_or(arguments.blocks)),
        Task::Turn => run.turn(),
    }
}

struct Run<'a> {
    peer: Peer,
    plan: Plan,
    content: Content,
    limit: Duration,
    least: Duration,
    passes: u64,
    workloads: &'a [Workload],
    /// Not all of the set was written: what follows is of less than it should be.
    is_part: Cell<bool>,
}

impl Run<'_> {
    fn keep(&self) -> Result<(), Failure> {
        let (threads, limit) = (self.plan.threads, self.limit);
        let (store, there) = self.filled()?;
        println!("there {}", there.count);
        self.is_part.set(there.count < self.plan.blocks);
        if self.wants(Workload::Hot) {
            let _memory = cold::fed_reserve(self.plan.set() / 4);
            self.passes(|_| {
                let hot = work::hot(&*store, self.content, there, threads, (self.least, limit))?;
                self.tell_reads(Workload::Hot, &hot);
                Ok(hot.time)
            })?;
        }
        let mut all = there;
        if self.wants(Workload::Mixed) {
            let more = self.mixed(&*store, there)?;
            // What comes last is found first, or last: it is asked for like the others, if all of them follow each other.
            all.count += if there.count == self.plan.blocks { more } else { 0 };
        }
        drop(store);
        if self.wants(Workload::Reopen) {
            self.reopen(all)?;
        }
        if self.wants(Workload::Cold) {
            self.passes(|_| self.cold(Workload::Cold, there, limit))?;
        }
        Ok(())
    }

    /// Fills an empty store, several of them one after the other if that takes little; the last of them, and what is in it.
    fn filled(&self) -> Result<(Box<dyn Store>, Order), Failure> {
        let (threads, limit) = (self.plan.threads, self.limit);
        let mut last = None;
        self.passes(|pass| {
            if pass > 0 {
                last = None;
                cold::delete(&self.plan.folder)?;
                fs::create_dir_all(&self.plan.folder)?;
            }
            let mut memory = cold::reserve(self.plan.set());
            // What was deleted has left something to be done, which is not this pass's.
            rustix::fs::sync();
            memory.feed();
            let store = self.open()?;
            let numbers = 1..self.plan.blocks + 1;
            let written = work::fill(&*store, self.content, &Fill { numbers, threads, removes: None, limit })?;
            let there = Order { first: 1, count: written.blocks };
            // It brings into memory what is not there, and counts.
            let found = work::pass(&*store, self.content, there, threads, limit)?;
            self.tell_fill(Workload::Fill, &written, found.readable());
            last = Some((store, there));
            Ok(if self.wants(Workload::Fill) { written.sustained + found.time } else { self.enough() })
        })?;
        last.ok_or_else(|| "no pass was made".into())
    }

    /// Does a part again and again until it has taken enough time in all, a few times at most; it says how long it took.
    fn passes(&self, mut part: impl FnMut(u64) -> Result<Duration, Failure>) -> Result<(), Failure> {
        let mut took = Duration::ZERO;
        for pass in 0..self.passes {
            took += part(pass)?;
            if took >= self.enough() {
                break;
            }
        }
        Ok(())
    }

    /// What takes so long is not repeated.
    fn enough(&self) -> Duration {
        3 * self.least
    }

    /// How many blocks were written.
    fn mixed(&self, store: &dyn Store, there: Order) -> Result<u64, Failure> {
        let _memory = cold::fed_reserve(self.plan.set() / 2);
        let more = self.plan.blocks + 1..self.plan.blocks + self.plan.spare + 1;
        let mixed = work::mixed(store, self.content, more, there, self.limit)?;
        let tell = |metric, value| self.tell(Workload::Mixed, metric, value, mixed.cut, mixed.readable());
        tell(Metric::WriteRate, work::rate(mixed.written, mixed.time));
        tell(Metric::ReadRate, work::rate(mixed.found * self.plan.block_len as u64, mixed.time));
        for (histogram, metrics) in [
            (&mixed.reads, [Metric::ReadP50, Metric::ReadP99, Metric::ReadP999]),
            (&mixed.puts, [Metric::WriteP50, Metric::WriteP99, Metric::WriteP999]),
        ] {
            for (metric, quantile) in metrics.into_iter().zip([0.5, 0.99, 0.999]) {
                tell(metric, micros(histogram, quantile));
            }
        }
        Ok(mixed.puts.len())
    }

    /// From the call that opens, caches cold, to the first block that is found and read, and to the last one that is found.
    /// Once: whoever opens again finds what this one has cleared up.
    fn reopen(&self, there: Order) -> Result<(), Failure> {
        cold::drop_caches(&self.plan.folder)?;
        let _memory = cold::fed_reserve(self.plan.set() / 4);
        let begun = Instant::now();
        let store = self.open()?;
        let found_one = work::first_found(&*store, self.content, there, self.limit)?;
        let first = begun.elapsed();
        store.settle()?;
        let tell = |metric, time: Duration, readable| {
            self.tell(Workload::Reopen, metric, time.as_secs_f64() * 1e3, false, readable);
        };
        tell(Metric::First, first, f64::from(u8::from(found_one)));
        if self.peer.kind != Kind::Limit {
            let (mut reader, mut found) = (store.reader()?, 0);
            for number in there.first..there.first + there.count {
                found += u64::from(reader.contains(number)?);
            }
            tell(Metric::All, begun.elapsed(), part(found, there.count));
        }
        Ok(())
    }

    /// How long the pass took.
    fn cold(&self, workload: Workload, there: Order, limit: Duration) -> Result<Duration, Failure> {
        cold::drop_caches(&self.plan.folder)?;
        let mut memory = (workload == Workload::Cold).then(|| cold::reserve(self.plan.set()));
        let store = self.open()?;
        store.settle()?;
        if !cold::drop_caches(&self.plan.folder)? {
            println!("note caches are dropped file by file only: not root");
        }
        if let Some(memory) = &mut memory {
            memory.feed();
        }
        let reads = work::pass(&*store, self.content, there, self.plan.threads, limit)?;
        self.tell_reads(workload, &reads);
        Ok(reads.time)
    }

    /// The process is in a group that takes less than the set, page cache included. The rate is steady, so a part will do.
    fn scarce(&self, count: u64) -> Result<(), Failure> {
        self.is_part.set(count < self.plan.blocks);
        let there = Order { first: 1, count };
        self.cold(Workload::Scarce, there, (4 * self.least).min(self.limit)).map(drop)
    }

    fn turn(&self) -> Result<(), Failure> {
        let (threads, limit, folder) = (self.plan.threads, self.limit, &self.plan.folder);
        rustix::fs::sync();
        let store = self.open()?;
        let first = Fill { numbers: 1..self.plan.blocks + 1, threads, removes: None, limit };
        // A store that was too slow for all of it turns what it has.
        let set = work::fill(&*store, self.content, &first)?.blocks;
        if set == 0 {
            return Err("not one block was written in the time that there was".into());
        }
        self.is_part.set(set < self.plan.blocks);
        let lap = |number: u64| {
            let removes = (!self.peer.forgets).then_some(set);
            Fill { numbers: number * set + 1..(number + 1) * set + 1, threads, removes, limit }
        };
        let (mut most, mut laps, mut last, mut cut) = (cold::bytes_on_disk(folder)?, 1, set, false);
        let mut filled = Vec::new();
        let mut memory = Some(cold::fed_reserve(self.plan.set()));
        self.passes(|_| {
            let written = work::fill(&*store, self.content, &lap(laps))?;
            most = most.max(cold::bytes_on_disk(folder)?);
            filled.push(written);
            // The laps that follow take what this one has given back a moment ago, or has still.
            memory = None;
            (laps, last, cut) = (laps + 1, last + written.blocks, written.cut);
            Ok(if cut || !self.wants(Workload::Recycled) { self.enough() } else { written.sustained })
        })?;
        if self.wants(Workload::Recycled) {
            // A store that forgets by itself has less than a set while it turns, and one that drops nothing a quarter.
            let newest = Order { first: last - set / 4 + 1, count: set / 4 };
            let kept = work::contained(&*store, newest, COUNTING)?;
            for written in &filled {
                self.tell_fill(Workload::Recycled, written, kept);
            }
        }
        if self.wants(Workload::Bounded) {
            // Three sets at least.
            if !cut && laps < 3 {
                let third = work::fill(&*store, self.content, &lap(laps))?;
                most = most.max(cold::bytes_on_disk(folder)?);
                (last, cut) = (last + third.blocks, third.cut);
            }
            let newest = Order { first: last - set + 1, count: set };
            let reads = work::pass(&*store, self.content, newest, threads, limit)?;
            let disk = part(most, set * self.plan.block_len as u64);
            self.tell(Workload::Bounded, Metric::Disk, disk, cut, reads.readable());
        }
        if self.wants(Workload::Long) { self.long(&*store, last) } else { Ok(()) }
    }

    /// Sets through a full store, for as long as the disk has to write back while blocks come.
    fn long(&self, store: &dyn Store, after: u64) -> Result<(), Failure> {
        let numbers = after + 1..after + LONG * self.plan.blocks + 1;
        let begun = Instant::now();
        let (puts, cut) = work::write(store, self.content, numbers, &work::Clock::start(self.limit))?;
        let rate = work::rate(puts.len() * self.plan.block_len as u64, begun.elapsed());
        self.tell(Workload::Long, Metric::Rate, rate, cut, 1.0);
        let metrics = [Metric::WriteP50, Metric::WriteP99, Metric::WriteP999, Metric::WriteMax];
        for (metric, quantile) in metrics.into_iter().zip([0.5, 0.99, 0.999, 1.0]) {
            self.tell(Workload::Long, metric, micros(&puts, quantile), cut, 1.0);
        }
        Ok(())
    }

    fn open(&self) -> Result<Box<dyn Store>, Failure> {
        (self.peer.open)(&self.plan)
    }

    fn wants(&self, workload: Workload) -> bool {
        self.workloads.contains(&workload)
    }

    fn tell(&self, workload: Workload, metric: Metric, value: f64, cut: bool, readable: f64) {
        if self.wants(workload) {
            let cut = cut || self.is_part.get();
            println!("{}", Measure { workload, metric, value, cut, readable });
        }
    }

    fn tell_fill(&self, workload: Workload, written: &work::Written, readable: f64) {
        self.tell(workload, Metric::Burst, work::rate(written.bytes, written.burst), written.cut, readable);
        self.tell(workload, Metric::Sustained, work::rate(written.bytes, written.sustained), written.cut, readable);
    }

    fn tell_reads(&self, workload: Workload, reads: &Reads) {
        self.tell(workload, Metric::Rate, work::rate(reads.bytes, reads.time), reads.cut, reads.readable());
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of three digits")]
fn part(some: u64, of: u64) -> f64 {
    some as f64 / of.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a time of three digits")]
fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

/// Bytes of memory for a set that is four times as large; not so few that no process fits.
pub(crate) fn scarce_memory(set: u64) -> u64 {
    (set / 4).max(64 * MIB)
}
