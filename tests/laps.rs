//! Twenty laps of mixed writers and readers cost no memory and no descriptors.
#![forbid(unsafe_code)]

#[path = "common/skipped.rs"]
mod skipped;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use scratchspace::{BlockHash, DiskFileSource, MissingOk, Realm, Scratch};
use tempfile::TempDir;

use crate::skipped::skipped;

const FILES: u16 = 3;
const FILE_SIZE: u64 = 64 << 20;
const LAPS: u64 = 20;
/// The longest block.
const MOST: usize = 1 << 20;
/// Blocks that readers ask for, back from the newest one.
const YOUNG: u64 = 32;

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    anonymous_kib: u64,
    descriptors: usize,
    maps: usize,
}

fn held() -> Held {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells RssAnon");
    Held {
        anonymous_kib: line.trim().trim_end_matches(" kB").parse().unwrap(),
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        maps: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
    }
}

/// Blocks cost little to make: all share their bytes but for the number in front.
struct Blocks {
    shared: Vec<u8>,
}

impl Blocks {
    fn new() -> Self {
        let words = (0..MOST as u64 / 8).map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        Self { shared: words.flatten().collect() }
    }

    /// Mostly one page, now and then a long one.
    fn len(number: u64) -> usize {
        match number % 64 {
            0 => MOST,
            1..4 => 100_000,
            4..8 => 9000,
            _ => 8 + usize::try_from(number % 50).unwrap(),
        }
    }

    fn fill(&self, number: u64, into: &mut [u8]) {
        into.copy_from_slice(&self.shared[..into.len()]);
        into[..8].copy_from_slice(&number.to_le_bytes());
    }

    fn is(&self, number: u64, bytes: &[u8]) -> bool {
        bytes.len() == Self::len(number)
            && bytes[..8] == number.to_le_bytes()
            && bytes[8..] == self.shared[8..bytes.len()]
    }
}

/// The name of block `number`.
fn key(number: u64) -> BlockHash {
    BlockHash::from_u128(u128::from(number) << 64 | u128::from(number.wrapping_mul(0xD6E8_FEB8_6659_FD93)))
}

fn write(scratch: &Scratch, blocks: &'static Blocks, number: u64, buffer: &mut Vec<u8>) {
    let len = Blocks::len(number);
    if number.is_multiple_of(3) {
        scratch.write_named(Realm::DEFAULT, key(number), len, move |into| blocks.fill(number, into)).unwrap();
    } else {
        buffer.resize(len, 0);
        blocks.fill(number, buffer);
        scratch.put_named(Realm::DEFAULT, key(number), buffer).unwrap();
    }
    if number.is_multiple_of(100) {
        scratch.remove(Realm::DEFAULT, key(number)).unwrap();
    }
}

#[test]
fn a_store_of_three_files_turns_twenty_times_with_flat_memory_and_descriptors() {
    if !Path::new("/proc/self/status").exists() {
        skipped("laps: this system does not tell memory and descriptors in /proc");
        return;
    }
    let folder = std::env::var_os("SCRATCHSPACE_TEST_DIR").map_or_else(TempDir::new, TempDir::new_in).unwrap();
    let source = DiskFileSource::builder().folder(folder.path()).files_per_folder(FILES).file_size(FILE_SIZE);
    let scratch =
        Scratch::builder(source.build().unwrap()).max_pending_bytes(8 << 20).expected_blocks(1 << 16).open().unwrap();
    let blocks: &'static Blocks = Box::leak(Box::new(Blocks::new()));
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let checked = AtomicU64::new(0);
    let (early, late) = thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut buffer = Vec::new();
                    while scratch.stats().turns < LAPS * u64::from(FILES) {
                        for _ in 0..64 {
                            write(&scratch, blocks, next.fetch_add(1, Ordering::Relaxed), &mut buffer);
                        }
                    }
                })
            })
            .collect();
        for reader in 0..2 {
            let (next, done, checked, scratch) = (&next, &done, &checked, &scratch);
            scope.spawn(move || {
                let mut step = reader;
                let mut kept = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    step += 7;
                    let Some(number) = next.load(Ordering::Relaxed).checked_sub(1 + step % YOUNG) else { continue };
                    if let Some(block) = scratch.get(Realm::DEFAULT, key(number)).missing_ok().unwrap() {
                        assert!(blocks.is(number, &block), "block {number} has other bytes");
                        checked.fetch_add(1, Ordering::Relaxed);
                        kept.push((number, block));
                    }
                    if kept.len() > 8 {
                        let (number, block) = kept.remove(0);
                        assert!(blocks.is(number, &block), "block {number} has other bytes while it is held");
                    }
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
        while scratch.stats().turns < 3 * u64::from(FILES) && !writers.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(2));
        }
        let early = held();
        let failed = writers.into_iter().map(thread::ScopedJoinHandle::join).any(|writer| writer.is_err());
        let late = held();
        done.store(true, Ordering::Relaxed);
        assert!(!failed, "a writer failed");
        (early, late)
    });
    println!("after 3 laps {early:?}, after {LAPS} laps {late:?}, {checked:?} reads compared, {:?}", scratch.stats());
    assert!(checked.load(Ordering::Relaxed) > 100);
    // Gather buffers, waiting closures and the tables of a full file come and go; a leak of a lap is 200 MiB of blocks.
    assert!(late.anonymous_kib < early.anonymous_kib + 64 * 1024, "{early:?}, then {late:?}");
    assert!(late.descriptors <= early.descriptors + 4, "{early:?}, then {late:?}");
    assert!(late.maps <= early.maps + 64, "{early:?}, then {late:?}");
    let stats = scratch.stats();
    // On a busy machine the wheel goes once around before somebody has run a closure: it is given up, and counted.
    let failed = stats.failed - stats.failed_abandoned;
    assert_eq!((stats.corrupted, failed, stats.evicted), (0, 0, 0), "{stats:?}");
    assert_eq!(scratch.flush().is_err(), stats.failed_abandoned > 0, "{stats:?}");
}
