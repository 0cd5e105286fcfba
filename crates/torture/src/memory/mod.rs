//! A set many times larger than the memory of its process: written, read, and read again after a restart, in a memory
//! cgroup.
//!
//! The group counts the page cache too. The process must not be killed for want of memory, and every block must be
//! there.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use benchkit::cgroup::{self, Cgroup};
use clap::Args;
use scratchspace::{DiskFileSource, OnFull, ReadError, Scratch};

use crate::blocks::{Blocks, KeyKind};
use crate::laps::Laps;
use crate::oracle::{Count, Kind, Oracle, Read, Verdict};
use crate::process;
use crate::report::{self, Failure};
use crate::site::{FirstWrong, REALM};

const MIB: u64 = 1 << 20;
const WRITERS: u64 = 4;
/// The longest block; on average they have half of it.
const MOST: usize = 512 << 10;
const PATIENCE: Duration = Duration::from_mins(2);
/// After so long without a block that was written or compared, the process hangs: it flushes a large set and finds it again meanwhile.
const STANDSTILL: Duration = Duration::from_mins(20);
/// Least MiB of a set: with less there are too few files to leave one for tombstones, and room at the end of each.
const LEAST: u64 = 64;

#[derive(Debug, Args)]
pub(crate) struct MemoryArguments {
    /// MiB to write and read; the disk takes a quarter more, and two files
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(LEAST..=1 << 20))]
    size: u64,
    /// MiB of memory that the process may take
    #[arg(long, default_value_t = 256)]
    memory: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the process in the group is told.
#[derive(Debug, Args)]
pub(crate) struct MemoryChildArguments {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    group: PathBuf,
    #[arg(long)]
    size: u64,
    #[arg(long)]
    memory: u64,
    #[arg(long)]
    seed: u64,
}

pub(crate) fn run(arguments: &MemoryArguments) -> Result<String, Failure> {
    let &MemoryArguments { size, memory, seed } = arguments;
    let group = match Cgroup::new("torture", memory * MIB) {
        Ok(group) => group,
        Err(why) => return Ok(format!("skipped: memory: {why}")),
    };
    let folder = report::folder("memory").map_err(|error| Failure::new(format!("a folder to work in: {error}")))?;
    let failed =
        |what: String| Failure::new(what).replayed_by(&format!("memory --size {size} --memory {memory} --seed {seed}"));
    let expected = oracle(folder.path(), size, seed).map_err(failed)?;
    let ended = std::env::current_exe().and_then(|own| {
        let mut command = Command::new(own);
        command.arg("memory-child").arg("--folder").arg(folder.path()).arg("--group").arg(group.folder());
        command.args(["--size", &size.to_string(), "--memory", &memory.to_string(), "--seed", &seed.to_string()]);
        process::run_watched(&mut command, STANDSTILL, || {
            expected.count(Count::Calls) + expected.count(Count::Compared)
        })
    });
    let ended = ended.map_err(|error| failed(format!("starting a process: {error}")))?;
    let (how, said) = (ended.how(), ended.said.trim());
    let killed = group.killed().map_err(|error| failed(format!("asking the group: {error}")))?;
    if killed > 0 {
        return Err(failed(format!("the process was killed for want of memory, {how}\n{said}")).kept(folder));
    }
    if !ended.is_success() {
        return Err(failed(format!("the process has not ended well, {how}\n{said}")).kept(folder));
    }
    let most = group.most().map_or("unknown".to_owned(), |most| format!("{} MiB", most / MIB));
    Ok(format!(
        "memory: {said} in {memory} MiB, page cache included (at most {most} at once): not killed, 0 wrong bytes"
    ))
}

/// Writes, reads, opens again and reads.
pub(crate) fn run_child(arguments: &MemoryChildArguments) -> Result<String, Failure> {
    crate::worker::end_at_unplanned_panics();
    cgroup::join(&arguments.group).map_err(|error| Failure::new(format!("joining the group: {error}")))?;
    child(arguments).map_err(Failure::new)
}

/// The expected state of a store of `size` MiB in `folder`.
fn oracle(folder: &Path, size: u64, seed: u64) -> Result<Oracle, String> {
    let keys = (size * MIB / (MOST as u64 / 2)).next_multiple_of(WRITERS);
    let oracle = Oracle::open(&folder.join("oracle"), keys, Blocks::even(seed, MOST));
    oracle.map_err(|error| format!("the oracle: {error}"))
}

fn child(arguments: &MemoryChildArguments) -> Result<String, String> {
    let folder = arguments.folder.join("disk");
    let oracle = || oracle(&arguments.folder, arguments.size, arguments.seed);
    let expected = oracle()?;
    let (keys, blocks) = (expected.keys(), expected.blocks);
    let (budget, mapped) = (arguments.memory * MIB / 16, arguments.memory * MIB / 2);
    let open = || {
        let (capacity, file_size) = layout(arguments.size);
        let source = DiskFileSource::builder().folder(&folder).capacity(capacity).file_size(file_size);
        let builder = source.build().map(|source| {
            let builder = Scratch::builder(source).on_full(OnFull::Refuse).resident_budget(mapped);
            builder.max_pending_bytes(budget).max_staging_bytes(budget)
        });
        builder.and_then(scratchspace::ScratchBuilder::open).map_err(|error| format!("opening failed: {error}"))
    };
    let scratch = open()?;
    each_key(keys, |key| write(&expected, &scratch, key))?;
    scratch.flush().map_err(|error| format!("the flush: {error}"))?;
    let laps = Laps::of(std::slice::from_ref(&folder)).map_err(|error| format!("the lock file: {error}"))?;
    for key in 0..keys {
        let info =
            scratch.info(REALM, blocks.hash(key, KeyKind::Named)).map_err(|error| format!("key {key}: {error}"))?;
        let place = laps.place(info.file, info.generation).map_err(|error| format!("a header: {error}"))?;
        expected.key(key).raise(1, place);
    }
    let bytes = AtomicU64::new(0);
    each_key(keys, |key| read(&expected, &scratch, key, &bytes))?;
    drop((scratch, expected));
    let (scratch, expected) = (open()?, oracle()?);
    scratch.wait_recovered(PATIENCE).map_err(|error| format!("recovery does not end: {error}"))?;
    each_key(keys, |key| read(&expected, &scratch, key, &bytes))?;
    let left = until_released(&scratch, mapped)? / MIB;
    let (size, mapped) = (bytes.into_inner() / 2 / MIB, mapped / MIB);
    Ok(format!(
        "{keys} blocks of {size} MiB written, read, and read again after a restart; of {mapped} MiB that may be mapped {left} were left"
    ))
}

/// Waits until no more is mapped than may be.
fn until_released(scratch: &Scratch, mapped: u64) -> Result<u64, String> {
    let began = Instant::now();
    loop {
        match scratch.stats().resident_bytes {
            bytes if bytes <= mapped => return Ok(bytes),
            bytes if began.elapsed() > PATIENCE => {
                return Err(format!("{bytes} bytes stay mapped, where {mapped} are allowed"));
            }
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Bytes of the disk, and of one file, for a set of so many MiB: enough files, and not more than there are descriptors.
fn layout(size: u64) -> (u64, u64) {
    let capacity = size * MIB / 4 * 5;
    let file_size = (capacity / 20).clamp(4 * MIB, 64 * MIB).max(capacity / 500).next_multiple_of(4096);
    (capacity + 2 * file_size, file_size)
}

/// Each thread takes every fourth key.
fn each_key(keys: u64, work: impl Fn(u64) -> Result<(), String> + Sync) -> Result<(), String> {
    let wrong = FirstWrong::default();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (work, wrong) = (&work, &wrong);
            scope.spawn(move || {
                for key in (writer..keys).step_by(usize::try_from(WRITERS).expect("few")) {
                    if wrong.is_set() {
                        return;
                    }
                    if let Err(what) = work(key) {
                        wrong.set(format!("key {key}: {what}"));
                    }
                }
            });
        }
    });
    wrong.take().map_or(Ok(()), Err)
}

fn write(oracle: &Oracle, scratch: &Scratch, key: u64) -> Result<(), String> {
    let (blocks, len) = (oracle.blocks, oracle.blocks.len(key, 1));
    let deferred = key.is_multiple_of(3);
    let hash = blocks.hash(key, KeyKind::Named);
    oracle.key(key).begin(if deferred { Kind::Deferred } else { Kind::Put }, len);
    let result = if deferred {
        scratch.write_named(REALM, hash, len, move |into| blocks.fill(key, 1, into))
    } else {
        scratch.put_named(REALM, hash, &blocks.bytes(key, 1))
    };
    oracle.add(Count::Calls, 1);
    result.map_err(|error| error.to_string())
}

/// Reads a key; adds the bytes of all that was read.
fn read(oracle: &Oracle, scratch: &Scratch, key: u64, bytes: &AtomicU64) -> Result<(), String> {
    let hash = oracle.blocks.hash(key, KeyKind::Named);
    let version = scratch.read(REALM, hash, |block| {
        oracle.add(Count::Compared, 1);
        // Relaxed: a sum that is looked at when all threads have ended.
        bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
        oracle.blocks.version_of(key, block)
    });
    let read = match version {
        Ok(Ok(version)) => Read::Version(version),
        Ok(Err(what)) => return Err(format!("wrong bytes: {what}")),
        Err(ReadError::Missing { .. }) => Read::Missing,
        Err(error) => return Err(error.to_string()),
    };
    judge(oracle, key, read)
}

/// A full store refuses, and forgets nothing: no miss is excused by a file that has turned.
fn judge(oracle: &Oracle, key: u64, read: Read) -> Result<(), String> {
    let record = oracle.key(key);
    match record.judge(read, record.floor(), record.place())? {
        Verdict::There => Ok(()),
        miss => Err(format!("a block is missing, and nothing may be forgotten: {miss:?}; {record}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of 64 MiB were too few for a small set and too many for a large one: the process ended with an error.
    #[test]
    fn a_set_of_any_size_has_files_enough_and_not_too_many() {
        for size in [LEAST, 65, 100, 256, 2048, 64 << 10, 1 << 20] {
            let (capacity, file_size) = layout(size);
            let files = capacity / file_size;
            assert!((20..=502).contains(&files), "{size} MiB in {files} files of {file_size} bytes");
            // All but one file are filled, each of them up to a block that does not fit any more.
            let usable = (files - 1) * (file_size - MOST as u64);
            assert!(usable > size * MIB, "{size} MiB in {files} files of {file_size} bytes");
        }
    }

    /// The oracle was written, and no check ever asked it.
    #[test]
    fn the_oracle_decides_what_may_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let oracle = Oracle::open(&folder.path().join("oracle"), 1, Blocks::even(1, MOST)).unwrap();
        judge(&oracle, 0, Read::Version(1)).unwrap_err();
        judge(&oracle, 0, Read::Missing).unwrap_err();
        oracle.key(0).begin(Kind::Put, 100);
        judge(&oracle, 0, Read::Version(1)).unwrap();
        judge(&oracle, 0, Read::Missing).unwrap_err();
        oracle.key(0).begin(Kind::Put, 100);
        oracle.key(0).raise(2, None);
        judge(&oracle, 0, Read::Version(2)).unwrap();
        for wrong in [Read::Version(1), Read::Version(3), Read::Missing] {
            judge(&oracle, 0, wrong).unwrap_err();
        }
    }
}
