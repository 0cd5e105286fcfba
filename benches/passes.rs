//! `passes/*`: half a gibibyte at once, until all of it is readable (`burst`) and until all of it is synced as well, into files
//! that are new and into files that are used again.
//!
//! What criterion's other writes cannot show: they go on for ever, and measure the disk as soon as memory is full of what
//! waits for it. Each pass begins when nothing waits. `limit` hashes each block and stores it with one call of the system.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benchkit::{KIB, MIB, bare_file, folder, fresh_file, noise, stamp, warm_memory, write_all_at};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use scratchspace::{BlockHash, DiskFileSource, Realm, Scratch};

const REALM: Realm = Realm::DEFAULT;
/// Longest wait for what a background thread does.
const PATIENCE: Duration = Duration::from_mins(1);
const PASS: usize = 512 * MIB;
const FILES: u16 = 8;
const FILE: usize = 128 * MIB;

/// Until when a pass is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Readable,
    Synced,
}

const UNTIL: [(Until, &str); 2] = [(Until::Readable, "burst"), (Until::Synced, "synced")];

/// Gives every block of a pass, and each of all passes, content of its own.
struct Blocks {
    block: Vec<u8>,
    number: u64,
}

impl Blocks {
    fn new(len: usize) -> Self {
        Self { block: noise(len), number: 0 }
    }

    fn count(&self) -> usize {
        PASS / self.block.len()
    }

    fn next(&mut self) -> &[u8] {
        self.number += 1;
        stamp(&mut self.block, self.number);
        &self.block
    }

    /// The time of one pass over a file, in place; blocks below a mebibyte are gathered first.
    fn fill_file(&mut self, file: &File, until: Until) -> Duration {
        let (len, mut gathered) = (self.block.len(), vec![0_u8; MIB]);
        let begun = Instant::now();
        for at in (0..PASS).step_by(len) {
            let block = self.next();
            black_box(BlockHash::of(block));
            if len >= MIB {
                write_all_at(file, block, at as u64);
                continue;
            }
            gathered[at % MIB..][..len].copy_from_slice(block);
            if (at + len).is_multiple_of(MIB) {
                write_all_at(file, &gathered, (at + len - MIB) as u64);
            }
        }
        if until == Until::Synced {
            file.sync_data().expect("a disk that works");
        }
        begun.elapsed()
    }

    /// The time of one pass into a store.
    fn put_all(&mut self, scratch: &Scratch, until: Until) -> Duration {
        let begun = Instant::now();
        for _ in 0..self.count() {
            scratch.put(REALM, self.next()).expect("room");
        }
        Self::end(scratch, until, begun)
    }

    /// The same by closures, which copy what the caller has.
    fn write_all(&mut self, scratch: &Scratch, until: Until) -> Duration {
        let (len, bytes) = (self.block.len(), Arc::<[u8]>::from(self.block.as_slice()));
        let begun = Instant::now();
        for _ in 0..self.count() {
            self.number += 1;
            let (bytes, key) = (Arc::clone(&bytes), BlockHash::from_u128(u128::from(self.number)));
            scratch.write_named(REALM, key, len, move |block| block.copy_from_slice(&bytes)).expect("room");
        }
        while scratch.stats().pending_bytes > 0 {
            std::thread::yield_now();
        }
        Self::end(scratch, until, begun)
    }

    fn end(scratch: &Scratch, until: Until, begun: Instant) -> Duration {
        if until == Until::Synced {
            scratch.flush().expect("a disk that works");
        }
        begun.elapsed()
    }
}

/// A store in one lane of one folder.
fn store(folder: &Path, len: usize) -> Scratch {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(FILES).file_size(FILE as u64);
    let blocks = usize::from(FILES) * FILE / len * 5 / 4;
    let builder = Scratch::builder(source.build().expect("a source of its own")).expected_blocks(blocks as u64);
    builder.wait_timeout(PATIENCE).open().expect("a store on an empty folder")
}

/// Nothing was refused, dropped, or told to be stored already.
fn check(scratch: &Scratch) {
    scratch.flush().expect("a disk that works");
    let stats = scratch.stats();
    assert_eq!((stats.duplicates, stats.failed, stats.corrupted), (0, 0, 0), "{stats:?}");
    assert!(stats.written_bytes >= PASS as u64, "{stats:?}");
}

type Pass = fn(&mut Blocks, &Scratch, Until) -> Duration;
const VERBS: [(&str, Pass); 2] = [("put", Blocks::put_all), ("write_named, closures run", Blocks::write_all)];

fn group<'a>(c: &'a mut Criterion, name: &str, kind: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(format!("passes/{name}, {kind}"));
    group.throughput(Throughput::Bytes(PASS as u64)).sampling_mode(SamplingMode::Flat);
    group
}

/// The rows of a group: `limit` and `store` prepare a pass, and time it.
fn rows(
    group: &mut BenchmarkGroup<'_, WallTime>,
    blocks: &mut Blocks,
    limit: impl Fn(&mut Blocks, Until) -> Duration,
    store: impl Fn(&mut Blocks, Pass, Until) -> Duration,
) {
    for (until, tag) in UNTIL {
        group.bench_function(format!("limit, {tag}"), |b| {
            b.iter_custom(|passes| (0..passes).map(|_| limit(blocks, until)).sum());
        });
        for (verb, pass) in VERBS {
            group.bench_function(format!("{verb}, {tag}"), |b| {
                b.iter_custom(|passes| (0..passes).map(|_| store(blocks, pass, until)).sum());
            });
        }
    }
}

fn fresh(c: &mut Criterion) {
    for (name, len) in [("64 KiB", 64 * KIB), ("1 MiB", MIB), ("16 MiB", 16 * MIB)] {
        let mut group = group(c, name, "new files");
        let limit = |blocks: &mut Blocks, until| {
            let place = folder();
            let file = fresh_file(place.path(), PASS);
            warm_memory(2 * PASS);
            blocks.fill_file(&file, until)
        };
        let store = |blocks: &mut Blocks, pass: Pass, until| {
            let place = folder();
            let scratch = store(place.path(), len);
            warm_memory(2 * PASS);
            let time = pass(blocks, &scratch, until);
            check(&scratch);
            time
        };
        rows(&mut group, &mut Blocks::new(len), limit, store);
        group.finish();
    }
}

fn recycled(c: &mut Criterion) {
    for (name, len) in [("4 KiB", 4 * KIB), ("64 KiB", 64 * KIB), ("1 MiB", MIB), ("16 MiB", 16 * MIB)] {
        let place = folder();
        let file = bare_file(place.path(), PASS);
        let scratch = store(&place.path().join("store"), len);
        let mut blocks = Blocks::new(len);
        while scratch.stats().turns == 0 {
            blocks.put_all(&scratch, Until::Synced);
        }
        warm_memory(2 * PASS);
        let mut group = group(c, name, "files used again");
        let limit = |blocks: &mut Blocks, until| {
            file.sync_data().expect("a disk that works");
            blocks.fill_file(&file, until)
        };
        let store = |blocks: &mut Blocks, pass: Pass, until| {
            scratch.flush().expect("a disk that works");
            pass(blocks, &scratch, until)
        };
        rows(&mut group, &mut blocks, limit, store);
        group.finish();
        check(&scratch);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    targets = fresh, recycled
}
criterion_main!(benches);
