//! The process that is killed: it opens, checks, works and closes, over and over, until its end.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use scratchspace::{OnFull, Scratch};

use crate::blocks::Blocks;
use crate::check::check_all;
use crate::dice::Dice;
use crate::laps::Laps;
use crate::options::{Layout, Options};
use crate::oracle::{Count, Oracle, Phase};
use crate::site::{FirstWrong, Site, WRITERS};
use crate::worker::Worker;

const KEYS: u64 = 64 * WRITERS;
const PATIENCE: Duration = Duration::from_mins(1);

/// The expected state of the store in `folder`.
pub(super) fn oracle(folder: &Path, seed: u64) -> Result<(Oracle, Layout), String> {
    let layout = Layout::of_seed(seed, folder);
    let blocks = Blocks::new(seed, layout.longest_block());
    let oracle = Oracle::open(&folder.join("oracle"), KEYS, blocks).map_err(|error| format!("the oracle: {error}"))?;
    Ok((oracle, layout))
}

/// Works on the store in `folder` until it is killed; with `last`, checks it once and ends.
///
/// # Errors
///
/// What was promised and does not hold.
pub(super) fn run(folder: &Path, seed: u64, cycle: u64, last: bool) -> Result<(), String> {
    crate::worker::end_at_unplanned_panics();
    let (oracle, layout) = oracle(folder, seed)?;
    for opening in 0.. {
        let mut dice = Dice::of(seed, &[cycle, opening, 2]);
        let options = Options::of_dice(&mut dice);
        oracle.phase(Phase::Opening);
        let shrinks = u64::from(options.files) < oracle.count(Count::Files);
        if shrinks || options.on_full == OnFull::Recycle {
            oracle.set(Count::MayForget, 1);
        }
        oracle.set(Count::Files, options.files.into());
        eprintln!("cycle {cycle}, opening {opening}: {options}");
        let scratch = options.builder(&layout).and_then(scratchspace::ScratchBuilder::open);
        let scratch = scratch.map_err(|error| format!("opening failed: {error}"))?;
        oracle.add(Count::Opened, 1);
        let laps = Laps::of(&layout.folders).map_err(|error| format!("the lock file: {error}"))?;
        let mut site = Site { oracle: &oracle, laps: &laps, options: &options, forgets: true, holds: true };
        if last || !dice.one_in(4) {
            oracle.phase(Phase::Checking);
            scratch.wait_recovered(PATIENCE).map_err(|error| format!("recovery does not end: {error}"))?;
            check_all(&site, &scratch)?;
            if last {
                return Ok(());
            }
            if options.on_full == OnFull::Refuse {
                oracle.set(Count::MayForget, 0);
            }
            oracle.set(Count::Unsettled, 0);
        } else {
            oracle.set(Count::Unsettled, 1);
        }
        oracle.set(Count::GatherLimit, options.gather_limit(&layout));
        site.forgets = oracle.count(Count::MayForget) != 0;
        oracle.phase(Phase::Working);
        work(&site, scratch, &mut dice)?;
    }
    Ok(())
}

/// Eight threads work for a while; then the store is closed, below them or after them.
fn work(site: &Site<'_>, scratch: Scratch, dice: &mut Dice) -> Result<(), String> {
    let time = Duration::from_millis(dice.of_these(&[20, 100, 400]));
    let below = dice.one_in(2);
    let (stop, wrong) = (AtomicBool::new(false), FirstWrong::default());
    let seeds: Vec<_> = (0..WRITERS).map(|_| dice.next()).collect();
    let mut workers = thread::scope(|scope| {
        let threads: Vec<_> = seeds
            .iter()
            .zip(0..)
            .map(|(seed, number)| {
                let mut worker = Worker::new(site, scratch.clone(), number, Dice::new(*seed));
                let (stop, wrong) = (&stop, &wrong);
                scope.spawn(move || {
                    // Relaxed: it carries nothing, and the threads are joined before anything else is looked at.
                    while !stop.load(Ordering::Relaxed) && !wrong.is_set() {
                        match worker.step() {
                            Ok(true) => {}
                            Ok(false) => break,
                            Err(what) => wrong.set(what),
                        }
                    }
                    worker
                })
            })
            .collect();
        thread::sleep(time);
        if below {
            close(site, &scratch, None);
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect::<Vec<_>>()
    });
    if !below && dice.one_in(2) {
        close(site, &scratch, Some(&mut workers));
    } else {
        site.oracle.phase(Phase::Closing);
    }
    site.oracle.add(Count::Turns, scratch.stats().turns);
    if scratch.stats().corrupted > 0 {
        return Err("a block was corrupted, and nobody touched the files".to_owned());
    }
    for worker in &mut workers {
        if let Err(what) = worker.give_back() {
            wrong.set(what);
        }
    }
    // The last handles: without a close before, this one closes.
    drop((workers, scratch));
    wrong.take().map_or(Ok(()), Err)
}

/// Closes the store; `workers` are over, and learn that all they did is stored.
fn close(site: &Site<'_>, scratch: &Scratch, mut workers: Option<&mut Vec<Worker<'_>>>) {
    workers.iter_mut().flat_map(|workers| workers.iter_mut()).for_each(Worker::ask_places);
    site.oracle.phase(Phase::Closing);
    let report = scratch.close(PATIENCE);
    if let Some(workers) = workers
        && report.is_clean()
        && scratch.stats().failed == 0
    {
        site.oracle.add(Count::Closed, 1);
        workers.iter_mut().for_each(Worker::closed_well);
    }
}
