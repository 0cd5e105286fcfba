//! Laps of the wheel: memory, descriptors and mappings stay within what the store says it takes, whoever is in the way.
//!
//! Eight threads write into three files while one user after the other behaves badly. Every few laps the store is
//! closed and opened again, and every key is compared with what it must be.
#![forbid(unsafe_code)]

mod actors;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use scratchspace::{FailedClosure, FlushError, Scratch, ScratchBuilder, Stats};

use self::actors::Met;
use crate::blocks::Blocks;
use crate::check::check_all;
use crate::dice::Dice;
use crate::held::Held;
use crate::laps::Laps;
use crate::options::{Layout, Options};
use crate::oracle::{Count, Oracle};
use crate::process::{self, Ended};
use crate::report::{self, Failure, Limit};
use crate::site::{FirstWrong, Site, WRITERS};
use crate::worker::{Worker, is_of_closures};

const KEYS: u64 = 64 * WRITERS;
const FILES: u16 = 3;
const FILE_SIZE: u64 = 4 << 20;
/// Laps between two openings.
const LAPS: u64 = 10;
const PATIENCE: Duration = Duration::from_mins(1);
/// What the allocator, the stacks and the buffers of thirteen threads may take besides: an arena is not given back.
const SLACK: u64 = 48 << 20;
/// How much more the last quarter of a long run may take than the second: arenas still grow into holes by then.
const GROWTH: u64 = 6 << 20;
/// Laps of a run that was told nothing.
const LAPS_OF_A_RUN: u64 = 20;
/// After so long without a call that wrote or a block that was compared, a run hangs: whatever it waits for, itself it waits less.
const STANDSTILL: Duration = Duration::from_mins(4);
/// Openings of a run that is long enough to tell.
const LONG: usize = 16;

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

/// What the process that works is told.
#[derive(Debug, Args)]
pub(crate) struct SoakChildArguments {
    #[command(flatten)]
    soak: SoakArguments,
    #[arg(long)]
    folder: PathBuf,
}

/// Lets another process work: one that panics or hangs is told with its seed like any other failure.
pub(crate) fn run(arguments: &SoakArguments) -> Result<String, Failure> {
    if !Path::new("/proc/self/status").exists() {
        return Ok("skipped: soak: this system does not tell memory and descriptors in /proc".to_owned());
    }
    let folder = report::folder("soak").map_err(|error| Failure::new(format!("a folder to work in: {error}")))?;
    let (oracle, _) = oracle(folder.path(), arguments.seed).map_err(Failure::new)?;
    let own = std::env::current_exe().map_err(|error| Failure::new(format!("the path of this program: {error}")))?;
    let mut command = Command::new(own);
    command.arg("soak-child").arg("--folder").arg(folder.path());
    command.args([format!("--seed={}", arguments.seed), format!("--first={}", arguments.first)]);
    command.args(arguments.laps.map(|laps| format!("--laps={laps}"))).args(arguments.limit.to_argument());
    let bar = report::bar("laps", &arguments.limit.start(arguments.laps.unwrap_or(LAPS_OF_A_RUN)));
    let ended = process::run_watched(&mut command, STANDSTILL, || {
        bar.set_position(oracle.count(Count::Laps));
        oracle.count(Count::Calls) + oracle.count(Count::Compared)
    });
    bar.finish_and_clear();
    let ended = ended.map_err(|error| Failure::new(format!("starting a process: {error}")))?;
    // An opening counts when it begins, its laps when they were made.
    let reached = Reached {
        laps: oracle.count(Count::Laps),
        opening: (arguments.first + oracle.count(Count::Opened)).saturating_sub(1).max(arguments.first),
    };
    said(&ended, arguments, reached).map_err(|failure| failure.kept(folder))
}

/// The line of counts, or why there is none.
fn said(ended: &Ended, arguments: &SoakArguments, reached: Reached) -> Result<String, Failure> {
    if ended.is_success() {
        return Ok(ended.said.trim().to_owned());
    }
    let what = format!("the process has not ended well, {}\n{}", ended.how(), ended.said.trim());
    Err(failed(&what, arguments.seed, arguments.first, reached))
}

/// Works.
pub(crate) fn run_child(arguments: &SoakChildArguments) -> Result<String, Failure> {
    crate::worker::end_at_unplanned_panics();
    soak(&arguments.soak, &arguments.folder).map_err(Failure::new)
}

fn layout(folder: &Path) -> Layout {
    Layout { folders: vec![folder.join("disk")], lanes_per_folder: 1, file_size: FILE_SIZE }
}

/// The expected state of the store in `folder`.
fn oracle(folder: &Path, seed: u64) -> Result<(Oracle, Layout), String> {
    let layout = layout(folder);
    let blocks = Blocks::new(seed, layout.longest_block());
    let oracle = Oracle::open(&folder.join("oracle"), KEYS, blocks).map_err(|error| format!("the oracle: {error}"))?;
    Ok((oracle, layout))
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

fn soak(arguments: &SoakArguments, folder: &Path) -> Result<String, String> {
    let (oracle, layout) = oracle(folder, arguments.seed)?;
    let options = Options::modest(FILES);
    oracle.set(Count::MayForget, 1);
    let until = arguments.limit.start(arguments.laps.unwrap_or(LAPS_OF_A_RUN));
    let mut reached = Reached { opening: arguments.first, ..Reached::default() };
    let tell = |error: std::io::Error| format!("/proc/self: {error}");
    let before = Held::now().map_err(tell)?;
    let (mut in_the_way, mut first, mut most, mut anonymous) = (Met::default(), None, before, Vec::new());
    while !until.is_reached(reached.laps) {
        let mut dice = Dice::of(arguments.seed, &[reached.opening]);
        oracle.add(Count::Opened, 1);
        let scratch = options.builder(&layout).and_then(ScratchBuilder::open);
        let scratch = scratch.map_err(|error| format!("opening failed: {error}"))?;
        scratch.wait_recovered(PATIENCE).map_err(|error| format!("recovery does not end: {error}"))?;
        let found = Laps::of(&layout.folders).map_err(|error| format!("the lock file: {error}"))?;
        let site = Site { oracle: &oracle, laps: &found, options: &options, forgets: true, holds: false };
        check_all(&site, &scratch)?;
        let turns = LAPS.min(until.rest(reached.laps)) * u64::from(FILES);
        let (mut workers, met) = turn(&site, &scratch, turns, &mut dice, &|| until.is_over())?;
        in_the_way.add(met);
        flush_all(&scratch, PATIENCE)?;
        let held = Held::now().map_err(tell)?;
        judge(&held, &before, scratch.stats().index_bytes, &options)?;
        first.get_or_insert(held);
        anonymous.push(held.anonymous);
        most = Held {
            anonymous: most.anonymous.max(held.anonymous),
            descriptors: most.descriptors.max(held.descriptors),
            maps: most.maps.max(held.maps),
            store_maps: most.store_maps.max(held.store_maps),
        };
        reached.laps += scratch.stats().turns.div_ceil(FILES.into());
        oracle.set(Count::Laps, reached.laps);
        for worker in &mut workers {
            worker.give_back()?;
        }
        judge_counters(&scratch.stats())?;
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
    if reached.laps >= LAPS_OF_A_RUN && !in_the_way.is_complete() {
        return Err(format!("{} laps, and not each of the users was in the way: {in_the_way}", reached.laps));
    }
    let grown = judge_growth(&anonymous)?;
    let first = first.unwrap_or(before);
    Ok(format!(
        "soak: seed {}, {} laps of {FILES} files of {} MiB, {} openings, {in_the_way}: 0 wrong \
         bytes, 0 blocks lost, {} blocks compared; before {before}; after {LAPS} laps {first}; at most {most}{grown}",
        arguments.seed,
        reached.laps,
        FILE_SIZE >> 20,
        oracle.count(Count::Checks),
        oracle.count(Count::Compared),
    ))
}

/// Flushes until nothing is left to be told: closures that were to fail, or were given up by a turn, are told once.
fn flush_all(scratch: &Scratch, patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        match scratch.flush() {
            Ok(()) => return Ok(()),
            Err(error) if is_of_closures(&error) && Instant::now() < end => {}
            // Time was short for what waits, and nothing hangs.
            Err(FlushError { first: Some(FailedClosure::Busy { .. }), io: None, .. }) if Instant::now() < end => {}
            Err(error) => return Err(format!("the flush at the end of a lap: {error}")),
        }
    }
}

/// Nobody touches the files, the disk is whole, and closures panic or keep their word: a flush names the first failure
/// of many, these count them all.
fn judge_counters(stats: &Stats) -> Result<(), String> {
    let Stats { corrupted, store_failures, sync_failures, failed_io, failed_wrong_hash, .. } = stats;
    match (corrupted, store_failures, sync_failures, failed_io, failed_wrong_hash) {
        (0, 0, 0, 0, 0) => Ok(()),
        _ => Err(format!("nobody touched the files, no disk failed, and closures wrote what they promised: {stats:?}")),
    }
}

/// Eight threads and the users in the way, until `turns` files have made room.
fn turn<'a>(
    site: &'a Site<'a>,
    scratch: &Scratch,
    turns: u64,
    dice: &mut Dice,
    is_over: &(dyn Fn() -> bool + Sync),
) -> Result<(Vec<Worker<'a>>, Met), String> {
    let (stop, wrong) = (AtomicBool::new(false), FirstWrong::default());
    let seeds: Vec<_> = (0..WRITERS).map(|_| dice.next()).collect();
    let (workers, met) = thread::scope(|scope| {
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
        let met = actors::run(scratch, turns, &|| wrong.is_set() || is_over());
        stop.store(true, Ordering::Relaxed);
        let workers: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect();
        (workers, met)
    });
    match (wrong.take(), met) {
        (None, Ok(met)) => Ok((workers, met)),
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

/// Memory does not grow with the laps: that of the last quarter of the openings is compared with that of the second, by what
/// half of them exceed.
fn judge_growth(anonymous: &[u64]) -> Result<String, String> {
    if anonymous.len() < LONG {
        return Ok(String::new());
    }
    let quarter = anonymous.len() / 4;
    let middle = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let (early, late) = (middle(&anonymous[quarter..2 * quarter]), middle(&anonymous[3 * quarter..]));
    let said = format!("{} KiB in the second quarter and {} KiB in the last", early >> 10, late >> 10);
    if late > early + GROWTH { Err(format!("memory grows: {said}")) } else { Ok(format!("; {said}")) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic;
    use std::sync::mpsc;

    use scratchspace::{BlockHash, DiskFileSource, MemoryFileSource, Realm};

    use super::*;

    #[test]
    fn memory_that_grows_with_the_laps_is_told_and_an_outlier_is_not() {
        let mib = |number: u64| number << 20;
        assert_eq!(judge_growth(&[mib(1), mib(90)]).as_deref(), Ok(""), "too few to tell");
        let mut flat = vec![mib(30); 40];
        flat[0] = mib(10);
        flat[39] = mib(45);
        assert!(judge_growth(&flat).is_ok());
        // 16 KiB a lap, 100 openings of ten laps.
        let leaking: Vec<_> = (0..100).map(|opening| mib(20) + opening * 160 * 1024).collect();
        assert!(judge_growth(&leaking).is_err());
    }
    use crate::worker::Planned;

    fn in_memory() -> Scratch {
        let source = MemoryFileSource::builder().build().unwrap();
        Scratch::builder(source).wait_timeout(Duration::from_millis(10)).open().unwrap()
    }

    /// Whatever was not called syncing or storing passed, so a flush that was not over after its deadline did.
    #[test]
    fn a_closure_that_is_not_over_is_waited_for_and_fails_the_run_if_it_hangs() {
        let scratch = in_memory();
        let (begun, running) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let hang = move |_: &mut [u8]| {
            begun.send(()).unwrap();
            let _ = released.recv();
        };
        scratch.write_named(Realm::DEFAULT, BlockHash::from_u128(1), 8, hang).unwrap();
        running.recv_timeout(PATIENCE).unwrap();
        let what = flush_all(&scratch, Duration::from_millis(50)).unwrap_err();
        assert!(what.contains("look for one that hangs"), "{what}");
        let later = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(release);
        });
        flush_all(&scratch, PATIENCE).unwrap();
        later.join().unwrap();
    }

    #[test]
    fn a_closure_that_was_told_to_panic_is_no_failure_and_one_that_breaks_its_word_is() {
        let scratch = in_memory();
        let write = |number: u128, closure: fn(&mut [u8])| {
            scratch.write(Realm::DEFAULT, BlockHash::from_u128(number), 8, closure).unwrap();
        };
        write(1, |_| panic::panic_any(Planned));
        flush_all(&scratch, PATIENCE).unwrap();
        judge_counters(&scratch.stats()).unwrap();
        write(2, |_| ());
        let what = flush_all(&scratch, PATIENCE).unwrap_err();
        assert!(what.contains("promise the hash"), "{what}");
        assert!(judge_counters(&scratch.stats()).unwrap_err().contains("failed_wrong_hash: 1"));
    }

    #[test]
    fn a_file_that_lost_what_was_written_fails_the_run() {
        let folder = report::folder("lost").unwrap();
        let source = DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(64 << 10);
        let scratch = Scratch::open(source.build().unwrap()).unwrap();
        scratch.put(Realm::DEFAULT, b"lost").unwrap();
        let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|path| path.extension().is_some_and(|kind| kind == "scratch")) {
            fs::File::options().write(true).open(file).unwrap().set_len(4096).unwrap();
        }
        let what = flush_all(&scratch, PATIENCE).unwrap_err();
        assert!(what.contains("somebody else"), "{what}");
    }

    /// A panic ended the process of the run itself, which had not said its seed yet; one that hung said nothing at all.
    #[test]
    fn a_run_that_panics_or_hangs_says_how_to_repeat_it() {
        let arguments = SoakArguments { limit: Limit::default(), laps: None, seed: 7, first: 0 };
        let ran = |script: &str, patience| {
            let ended = process::run_watched(Command::new("sh").args(["-c", script]), patience, || 0).unwrap();
            said(&ended, &arguments, Reached { laps: 893, opening: 81 }).map_err(|failure| failure.to_string())
        };
        assert_eq!(ran("echo soak: 20 laps", PATIENCE).unwrap(), "soak: 20 laps");
        let panicked = ran("echo thread scratch-keep-0 panicked >&2; kill -ABRT $$", PATIENCE).unwrap_err();
        assert!(panicked.contains("thread scratch-keep-0 panicked") && panicked.contains("signal: 6"), "{panicked}");
        let hung = ran("sleep 1000", Duration::from_millis(200)).unwrap_err();
        assert!(hung.contains("it hangs"), "{hung}");
        for text in [panicked, hung] {
            assert!(text.ends_with("soak --seed 7 --laps 903"), "{text}");
        }
    }

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
