//! `kill -9` in a loop, on the real disk: a process of eight threads is killed at any moment, and the next one, with
//! other options, compares every key with what was promised.
//!
//! A *world* is one store with its oracle, killed [`KILLS`] times; the next world has the next seed and another layout.
#![forbid(unsafe_code)]

mod child;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::dice::Dice;
use crate::oracle::{Count, Oracle, Phase};
use crate::report::{self, Failure, Limit};

/// Kills of one store, before the next one begins.
const KILLS: u64 = 25;
/// Longest time that a process has for its last check, and for a few openings that nobody cuts short.
const PATIENCE: Duration = Duration::from_mins(3);
/// So many: each is followed by at most half a second of work, and a close.
const OPENINGS: u64 = 3;

/// What the command line says.
#[derive(Debug, Args)]
pub(crate) struct KillArguments {
    #[command(flatten)]
    limit: Limit,
    /// How often a process is killed; without it and without `--for`: 100
    #[arg(long, conflicts_with = "time")]
    cycles: Option<u64>,
    /// Seed of the first store; the next store has the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stores at work at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// What the process that is killed is told.
#[derive(Debug, Args)]
pub(crate) struct ChildArguments {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    cycle: u64,
    #[arg(long)]
    last: bool,
}

pub(crate) fn run_child(arguments: &ChildArguments) -> Result<(), Failure> {
    child::run(&arguments.folder, arguments.seed, arguments.cycle, arguments.last).map_err(Failure::new)
}

/// Kills until the limit is reached, or something was not as promised.
pub(crate) fn run(arguments: &KillArguments) -> Result<String, Failure> {
    let limit = arguments.limit.start(arguments.cycles.unwrap_or(100));
    let bar = report::bar("kills", &limit);
    let (killed, worlds) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    let total = Mutex::new(Total::default());
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    // Relaxed: a number for each, nothing else is told by them.
                    let begun = killed.fetch_add(KILLS, Ordering::Relaxed);
                    if limit.is_reached(begun) || failure.lock().expect("nobody panics").is_some() {
                        return;
                    }
                    let kills = limit.rest(begun).min(KILLS);
                    let seed = arguments.seed + worlds.fetch_add(1, Ordering::Relaxed);
                    match world(seed, kills, &|| limit.is_over(), &|| bar.inc(1)) {
                        Ok(world) => total.lock().expect("nobody panics").add(&world),
                        Err(what) => {
                            failure.lock().expect("nobody panics").get_or_insert(what);
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    match failure.into_inner().expect("nobody panics") {
        Some(failure) => Err(failure),
        None => Ok(total.into_inner().expect("nobody panics").to_string()),
    }
}

/// One store: killed, opened and checked, `kills` times.
fn world(seed: u64, kills: u64, is_over: &dyn Fn() -> bool, killed: &dyn Fn()) -> Result<Total, Failure> {
    let folder = report::folder("kill").map_err(|error| Failure::new(format!("a folder to work in: {error}")))?;
    let outcome = kill_and_check(folder.path(), seed, kills, is_over, killed);
    outcome.map_err(|what| {
        let replay = format!("kill --seed {seed} --cycles {kills} --jobs 1");
        Failure::new(what).replayed_by(&replay).kept(folder)
    })
}

fn kill_and_check(
    folder: &Path,
    seed: u64,
    kills: u64,
    is_over: &dyn Fn() -> bool,
    killed: &dyn Fn(),
) -> Result<Total, String> {
    let (oracle, _) = child::oracle(folder, seed)?;
    let mut total = Total { stores: 1, ..Total::default() };
    for cycle in 0..kills {
        if is_over() {
            break;
        }
        let mut child = spawn(folder, seed, cycle, false)?;
        if let Some(status) = wait_for_the_moment(&mut child, &oracle, &mut Dice::of(seed, &[cycle, 1]))? {
            return Err(format!("cycle {cycle}: {}", what_it_said(folder, cycle, status)));
        }
        let phase = usize::try_from(oracle.count(Count::Phase)).expect("a few phases");
        // SIGKILL: nothing of the process runs any more, and its locks are gone once it was waited for.
        child.kill().and_then(|()| child.wait()).map_err(|error| format!("killing: {error}"))?;
        total.in_phase[phase.min(4)] += 1;
        killed();
    }
    let_work(folder, seed, kills, &oracle)?;
    let last = kills + 1;
    let mut child = spawn(folder, seed, last, true)?;
    match wait(&mut child, PATIENCE)? {
        Some(status) if status.success() => {}
        Some(status) => return Err(format!("at last: {}", what_it_said(folder, last, status))),
        None => {
            child.kill().map_err(|error| format!("killing: {error}"))?;
            return Err(format!("the last check hangs for {PATIENCE:?}"));
        }
    }
    total.read(&oracle);
    Ok(total)
}

/// Lets a process open, work and close for a while: of one that is killed after a moment nobody sees that it hangs.
fn let_work(folder: &Path, seed: u64, cycle: u64, oracle: &Oracle) -> Result<(), String> {
    // One more: its opening says that the last close is over.
    let (wanted, end) = (oracle.count(Count::Opened) + OPENINGS + 1, Instant::now() + PATIENCE);
    let mut child = spawn(folder, seed, cycle, false)?;
    let (mut hangs, mut is_over) = (false, false);
    while !hangs && !is_over {
        is_over = oracle.count(Count::Opened) >= wanted;
        if let Some(status) = wait(&mut child, Duration::from_millis(10))? {
            return Err(format!("cycle {cycle}: {}", what_it_said(folder, cycle, status)));
        }
        hangs = Instant::now() > end;
    }
    child.kill().and_then(|()| child.wait()).map_err(|error| format!("killing: {error}"))?;
    if hangs {
        let phase = oracle.count(Count::Phase);
        return Err(format!("cycle {cycle}: in phase {phase} nothing has gone on for {PATIENCE:?}"));
    }
    Ok(())
}

fn log(folder: &Path, cycle: u64) -> PathBuf {
    folder.join(format!("log-{cycle}"))
}

fn spawn(folder: &Path, seed: u64, cycle: u64, last: bool) -> Result<Child, String> {
    let failed = |error: std::io::Error| format!("starting a process: {error}");
    let log = File::create(log(folder, cycle)).map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("child").arg("--folder").arg(folder);
    command.args(["--seed", &seed.to_string(), "--cycle", &cycle.to_string()]);
    if last {
        command.arg("--last");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(failed)
}

fn what_it_said(folder: &Path, cycle: u64, status: ExitStatus) -> String {
    let said = fs::read_to_string(log(folder, cycle)).unwrap_or_default();
    format!("the process ended by itself, {status}\n{said}")
}

/// Waits for the moment of the kill; gives the status of a process that ended before it.
fn wait_for_the_moment(child: &mut Child, oracle: &Oracle, dice: &mut Dice) -> Result<Option<ExitStatus>, String> {
    let micros = |most: u64, dice: &mut Dice| Duration::from_micros(dice.below(most));
    let phase = match dice.below(8) {
        0 | 1 => return wait(child, micros(25_000, dice)),
        2..=4 => return wait(child, micros(350_000, dice)),
        5 => Phase::Opening,
        6 => Phase::Checking,
        _ => Phase::Closing,
    };
    let before = oracle.count(Count::Opened);
    let end = Instant::now() + Duration::from_millis(800);
    let begun = |oracle: &Oracle| match phase {
        // Another opening than the one that the process begins with.
        Phase::Opening => oracle.count(Count::Opened) > before && oracle.count(Count::Phase) == phase as u64,
        _ => oracle.count(Count::Phase) == phase as u64,
    };
    while !begun(oracle) && Instant::now() < end {
        if let Some(status) = wait(child, Duration::from_micros(200))? {
            return Ok(Some(status));
        }
    }
    wait(child, micros(4000, dice))
}

/// Waits for the end of a process, `None` if that takes longer than `time`.
fn wait(child: &mut Child, time: Duration) -> Result<Option<ExitStatus>, String> {
    let end = Instant::now() + time;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| format!("waiting: {error}"))? {
            return Ok(Some(status));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        thread::sleep(left.min(Duration::from_millis(1)));
    }
}

/// What all worlds have come to.
#[derive(Debug, Default)]
struct Total {
    stores: u64,
    in_phase: [u64; 5],
    counts: Vec<(&'static str, u64)>,
}

impl Total {
    fn read(&mut self, oracle: &Oracle) {
        self.counts = [
            ("openings", Count::Opened),
            ("complete checks", Count::Checks),
            ("keys compared after an opening", Count::Checked),
            ("blocks compared", Count::Compared),
            ("writes, removals and flushes", Count::Calls),
            ("of them refused for want of room or time", Count::Refused),
            ("closes that stored everything", Count::Closed),
            ("turns of files", Count::Turns),
            ("misses because a file had turned", Count::Turned),
            ("misses of blocks whose file is not known", Count::Unproved),
            ("blocks whose file had turned before it could be asked for", Count::NoPlace),
            ("misses where nothing had to be", Count::Absent),
            ("puts lost in gather buffers, within the limit", Count::LostGathered),
        ]
        .map(|(name, count)| (name, oracle.count(count)))
        .to_vec();
    }

    fn add(&mut self, other: &Self) {
        self.stores += other.stores;
        for (sum, more) in self.in_phase.iter_mut().zip(other.in_phase) {
            *sum += more;
        }
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
            return;
        }
        for ((_, sum), (_, more)) in self.counts.iter_mut().zip(&other.counts) {
            *sum += more;
        }
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [starting, opening, checking, working, closing] = self.in_phase;
        let kills: u64 = self.in_phase.iter().sum();
        write!(
            f,
            "kill: {kills} kills of {} stores (before their first opening {starting}, opening {opening}, checking \
             {checking}, working {working}, closing {closing}): 0 wrong bytes, 0 blocks lost that were READY, 0 failed \
             openings",
            self.stores
        )?;
        for (name, count) in &self.counts {
            write!(f, "; {name} {count}")?;
        }
        Ok(())
    }
}
