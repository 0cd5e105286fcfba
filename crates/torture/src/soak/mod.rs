//! Laps of the wheel: memory, descriptors and mappings stay within what the store says it takes, whoever is in the way.
//!
//! Eight threads write into three files while one user after the other behaves badly. Every few laps the store is
//! closed and opened again, and every key is compared with what it must be.
#![forbid(unsafe_code)]

mod actors;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use scratchspace::{Scratch, ScratchBuilder};

use crate::blocks::Blocks;
use crate::check::check_all;
use crate::dice::Dice;
use crate::held::Held;
use crate::laps::Laps;
use crate::options::{Layout, Options};
use crate::oracle::{Count, Oracle};
use crate::report::{self, Failure, Limit};
use crate::site::{FirstWrong, Site, WRITERS};
use crate::worker::Worker;

const KEYS: u64 = 64 * WRITERS;
const FILES: u16 = 3;
const FILE_SIZE: u64 = 4 << 20;
/// Laps between two openings.
const LAPS: u64 = 10;
const PATIENCE: Duration = Duration::from_mins(1);
/// What the allocator, the stacks and the buffers of thirteen threads may take besides: an arena is not given back.
const SLACK: u64 = 48 << 20;

#[derive(Debug, Args)]
pub(crate) struct SoakArguments {
    #[command(flatten)]
    limit: Limit,
    /// Laps of the wheel; without it and without `--for`: 20
    #[arg(long, conflicts_with = "time")]
    laps: Option<u64>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first opening: a later one begins, on a new store, as it did in a longer run of this seed
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    laps: u64,
    /// All dice of an opening follow from the seed and this number.
    opening: u64,
}

pub(crate) fn run(arguments: &SoakArguments) -> Result<String, Failure> {
    if !Path::new("/proc/self/status").exists() {
        return Ok("skipped: soak: this system does not tell memory and descriptors in /proc".to_owned());
    }
    crate::worker::end_at_unplanned_panics();
    let folder = report::folder("soak").map_err(|error| Failure::new(format!("a folder to work in: {error}")))?;
    let mut reached = Reached { opening: arguments.first, ..Reached::default() };
    let done = soak(arguments, folder.path(), &mut reached);
    done.map_err(|what| failed(&what, arguments.seed, arguments.first, reached).kept(folder))
}

/// As many laps again as the run had made, and those of the opening that failed: with the same dice in each opening.
fn failed(what: &str, seed: u64, first: u64, reached: Reached) -> Failure {
    let Reached { laps, opening } = reached;
    let from = if first == 0 { String::new() } else { format!(" --first {first}") };
    let what = format!(
        "{what}\nafter {laps} laps, in opening {opening}, which begins on a new store with: soak --seed {seed} --first \
         {opening} --laps {LAPS}"
    );
    Failure::new(what).replayed_by(&format!("soak --seed {seed}{from} --laps {}", laps + LAPS))
}

fn soak(arguments: &SoakArguments, folder: &Path, reached: &mut Reached) -> Result<String, String> {
    let layout = Layout { folders: vec![folder.join("disk")], lanes_per_folder: 1, file_size: FILE_SIZE };
    let options = Options::modest(FILES);
    let blocks = Blocks::new(arguments.seed, layout.longest_block());
    let oracle = Oracle::open(&folder.join("oracle"), KEYS, blocks).map_err(|error| format!("the oracle: {error}"))?;
    oracle.set(Count::MayForget, 1);
    let until = arguments.limit.start(arguments.laps.unwrap_or(20));
    let bar = report::bar("laps", &until);
    let tell = |error: std::io::Error| format!("/proc/self: {error}");
    let before = Held::now().map_err(tell)?;
    let (mut rounds, mut first, mut most) = (0, None, before);
    while !until.is_reached(reached.laps) {
        let mut dice = Dice::of(arguments.seed, &[reached.opening]);
        let scratch = options.builder(&layout).and_then(ScratchBuilder::open);
        let scratch = scratch.map_err(|error| format!("opening failed: {error}"))?;
        scratch.wait_recovered(PATIENCE).map_err(|error| format!("recovery does not end: {error}"))?;
        let found = Laps::of(&layout.folders).map_err(|error| format!("the lock file: {error}"))?;
        let site = Site { oracle: &oracle, laps: &found, options: &options, forgets: true, holds: false };
        check_all(&site, &scratch)?;
        let turns = LAPS.min(until.rest(reached.laps)) * u64::from(FILES);
        let (mut workers, met) = turn(&site, &scratch, turns, &mut dice, &|| until.is_over())?;
        rounds += met;
        scratch.flush().map_err(|error| format!("the flush at the end of a lap: {error}")).or_else(only_closures)?;
        let held = Held::now().map_err(tell)?;
        judge(&held, &before, scratch.stats().index_bytes, &options)?;
        first.get_or_insert(held);
        most = Held {
            anonymous: most.anonymous.max(held.anonymous),
            descriptors: most.descriptors.max(held.descriptors),
            maps: most.maps.max(held.maps),
            store_maps: most.store_maps.max(held.store_maps),
        };
        reached.laps += scratch.stats().turns.div_ceil(FILES.into());
        bar.set_position(reached.laps);
        for worker in &mut workers {
            worker.give_back()?;
        }
        if scratch.stats().corrupted > 0 {
            return Err("a block was corrupted, and nobody touched the files".to_owned());
        }
        if dice.one_in(2) {
            let report = scratch.close(PATIENCE);
            if !report.is_clean() || report.lent > 0 {
                return Err(format!("nothing hangs and nothing is held, but the close says {report:?}"));
            }
        }
        drop((workers, scratch));
        let after = Held::now().map_err(tell)?;
        if after.descriptors > before.descriptors || after.store_maps > 0 {
            return Err(format!("a store that is gone has left something: before it {before}, after it {after}"));
        }
        reached.opening += 1;
    }
    bar.finish_and_clear();
    let first = first.unwrap_or(before);
    Ok(format!(
        "soak: seed {}, {} laps of {FILES} files of {} MiB, {} openings, {rounds} rounds of users in the way: 0 wrong \
         bytes, 0 blocks lost, {} blocks compared; before {before}; after {LAPS} laps {first}; at most {most}",
        arguments.seed,
        reached.laps,
        FILE_SIZE >> 20,
        oracle.count(Count::Checks),
        oracle.count(Count::Compared),
    ))
}

/// Closures that were told to fail are told by some flush.
fn only_closures(what: String) -> Result<(), String> {
    if what.contains("syncing") || what.contains("storing") { Err(what) } else { Ok(()) }
}

/// Eight threads and the users in the way, until `turns` files have made room.
fn turn<'a>(
    site: &'a Site<'a>,
    scratch: &Scratch,
    turns: u64,
    dice: &mut Dice,
    is_over: &(dyn Fn() -> bool + Sync),
) -> Result<(Vec<Worker<'a>>, u64), String> {
    let (stop, wrong) = (AtomicBool::new(false), FirstWrong::default());
    let seeds: Vec<_> = (0..WRITERS).map(|_| dice.next()).collect();
    let (workers, rounds) = thread::scope(|scope| {
        let threads: Vec<_> = seeds
            .iter()
            .zip(0..)
            .map(|(seed, number)| {
                let mut worker = Worker::new(site, scratch.clone(), number, Dice::new(*seed));
                let (stop, wrong) = (&stop, &wrong);
                scope.spawn(move || {
                    // Relaxed: it carries nothing, and the threads are joined before anything else is looked at.
                    while !stop.load(Ordering::Relaxed) && !wrong.is_set() {
                        if let Err(what) = worker.step() {
                            wrong.set(what);
                        }
                    }
                    worker
                })
            })
            .collect();
        let rounds = actors::run(scratch, turns, &|| wrong.is_set() || is_over());
        stop.store(true, Ordering::Relaxed);
        let workers: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect();
        (workers, rounds)
    });
    match (wrong.take(), rounds) {
        (None, Ok(rounds)) => Ok((workers, rounds)),
        (Some(what), _) | (None, Err(what)) => Err(what),
    }
}

/// The store takes what the README says, and nothing that grows with the laps.
fn judge(held: &Held, before: &Held, index: u64, options: &Options) -> Result<(), String> {
    // A byte for each slot ever used: at most as many as a file has entries. Gather buffers: four a lane.
    let slots = u64::from(FILES) * FILE_SIZE / 64;
    let memory = index + slots + options.pending_and_staging() + 4 * options.gather;
    let most = before.anonymous + memory + SLACK;
    if held.anonymous > most {
        return Err(format!("{held} is more memory than the {} KiB that the store may take", most >> 10));
    }
    // A file each, a lock, and the folder while it is synced.
    let descriptors = before.descriptors + u64::from(FILES) + 2;
    if held.descriptors > descriptors {
        return Err(format!("{held} is more than {descriptors} descriptors"));
    }
    // A mapping a file; one that drains is created afresh only when it is unmapped.
    if held.store_maps > u64::from(FILES) {
        return Err(format!("{held}: the store has {FILES} files"));
    }
    // A thread has a stack, its guard, and up to two pieces of an arena.
    let maps = before.maps + u64::from(FILES) + 4 * (WRITERS + 8) + 32;
    if held.maps > maps { Err(format!("{held} is more than {maps} maps")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failure in lap 900 was repeated by a run of twenty laps.
    #[test]
    fn a_failure_is_repeated_by_as_many_laps_with_the_same_dice() {
        let text = failed("a block is back", 7, 0, Reached { laps: 893, opening: 81 }).to_string();
        assert!(text.ends_with("soak --seed 7 --laps 903"), "{text}");
        assert!(text.contains("soak --seed 7 --first 81 --laps 10\n"), "{text}");
        let again = failed("a block is back", 7, 81, Reached { laps: 5, opening: 82 }).to_string();
        assert!(again.ends_with("soak --seed 7 --first 81 --laps 15"), "{again}");
    }
}
