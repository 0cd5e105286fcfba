//! `passes/*`: half a gibibyte at once, until all of it is readable (`burst`) and until all of it is synced as well, into files
//! that are new and into files that are used again.
//!
//! What criterion's other writes cannot show: they go on for ever, and measure the disk as soon as memory is full of what
//! waits for it. Each pass begins when nothing waits. `limit` hashes each block and stores it with one call of the system,
//! small ones by the mebibyte.
//!
//! `two threads`: each writes a half of a pass, of the limit into a file of its own, of the store into both of its lanes. `in
//! company`: two threads write small blocks, into one lane of the store, while a third reads blocks, for as long as they write.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use benchkit::{KIB, MIB, bare_file, folder, fresh_file, noise, shuffled, stamp, sum, warm_memory, write_all_at};
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

/// What the limit does with a block besides hashing it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Below a mebibyte it is gathered first.
    Gathered,
    /// By a call of the system, and it is not hashed.
    Bare,
}

/// Gives every block of a pass, and each of all passes, content of its own.
struct Blocks {
    block: Vec<u8>,
    number: u64,
    /// Bytes of a pass.
    pass: usize,
}

impl Blocks {
    fn new(len: usize) -> Self {
        Self { block: noise(len), number: 0, pass: PASS }
    }

    /// A half of a pass each, whose content differs.
    fn halves(len: usize) -> [Self; 2] {
        [0, 1 << 40].map(|number| Self { number, pass: PASS / 2, ..Self::new(len) })
    }

    fn count(&self) -> usize {
        self.pass / self.block.len()
    }

    fn next(&mut self) -> &[u8] {
        self.number += 1;
        stamp(&mut self.block, self.number);
        &self.block
    }

    /// The time of one pass over a file, in place.
    fn fill_file(&mut self, file: &File, stored: Stored, until: Until) -> Duration {
        let (len, pass, mut gathered) = (self.block.len(), self.pass, vec![0_u8; MIB]);
        let begun = Instant::now();
        for at in (0..pass).step_by(len) {
            let block = self.next();
            if stored != Stored::Bare {
                black_box(BlockHash::of(block));
            }
            if len >= MIB || stored == Stored::Bare {
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
        let (begun, mut last) = (Instant::now(), None);
        for _ in 0..self.count() {
            last = Some(scratch.put(REALM, self.next()).expect("room"));
        }
        let time = Self::end(scratch, until, begun);
        assert_stored(scratch, last.expect("a block"), &self.block);
        time
    }

    /// The same from 64 buffers in turn, by one call for all of them or by one for each.
    fn put_by_64(&mut self, scratch: &Scratch, many: &mut [Vec<u8>], at_once: bool) -> Duration {
        let (begun, mut last) = (Instant::now(), None);
        for _ in 0..self.count() / many.len() {
            for block in &mut *many {
                self.number += 1;
                stamp(block, self.number);
            }
            last = if at_once {
                let blocks: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
                scratch.put_many(REALM, &blocks).expect("room").pop()
            } else {
                many.iter().fold(None, |_, block| Some(scratch.put(REALM, block).expect("room")))
            };
        }
        let time = begun.elapsed();
        assert_stored(scratch, last.expect("a block"), many.last().expect("64 of them"));
        time
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
            thread::yield_now();
        }
        let time = Self::end(scratch, until, begun);
        assert_stored(scratch, BlockHash::from_u128(u128::from(self.number)), &bytes);
        time
    }

    fn end(scratch: &Scratch, until: Until, begun: Instant) -> Duration {
        if until == Until::Synced {
            scratch.flush().expect("a disk that works");
        }
        begun.elapsed()
    }
}

fn assert_stored(scratch: &Scratch, key: BlockHash, block: &[u8]) {
    let stored = scratch.get(REALM, key).expect("a block that was just written");
    assert!(*stored == *block, "{key:?} is what was written");
}

/// A store in one folder.
fn store(folder: &Path, len: usize, lanes: u16) -> Scratch {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(FILES).file_size(FILE as u64);
    let blocks = usize::from(FILES) * FILE / len * 5 / 4;
    let builder = Scratch::builder(source.build().expect("a source of its own")).expected_blocks(blocks as u64);
    builder.lanes_per_folder(lanes).wait_timeout(PATIENCE).open().expect("a store on an empty folder")
}

/// The same, with files that have all been filled once.
fn turned(folder: &Path, len: usize, lanes: u16) -> Scratch {
    let (scratch, mut blocks) = (store(folder, len, lanes), Blocks { number: 1 << 50, ..Blocks::new(len) });
    while scratch.stats().turns < u64::from(lanes) {
        blocks.put_all(&scratch, Until::Synced);
    }
    scratch
}

/// The time in which two threads that begin together do a half each: that of the slower one.
fn by_two(halves: &mut [Blocks; 2], half: impl Fn(usize, &mut Blocks) -> Duration + Sync) -> Duration {
    let begin = Barrier::new(2);
    thread::scope(|scope| {
        let (half, begin) = (&half, &begin);
        let run = |(at, blocks): (usize, _)| {
            scope.spawn(move || {
                begin.wait();
                half(at, blocks)
            })
        };
        let running: Vec<_> = halves.iter_mut().enumerate().map(run).collect();
        let times = running.into_iter().map(|thread| thread.join().expect("a thread that writes its half"));
        times.max().expect("two of them")
    })
}

/// Says that it is over when it is dropped, by a panic too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads blocks until `act` is over, whose time this is; a few at least.
fn beside_a_reader(read: impl Fn(u64) -> u64 + Sync, act: impl FnOnce() -> Duration) -> Duration {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut number = 0;
            while number < 100 || !over.load(Ordering::Relaxed) {
                black_box(read(number));
                number += 1;
            }
        });
        let ending = Over(&over);
        let time = act();
        drop(ending);
        reader.join().expect("a reader that finds its blocks");
        time
    })
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
    for (name, len) in [("4 KiB", 4 * KIB), ("64 KiB", 64 * KIB), ("1 MiB", MIB), ("16 MiB", 16 * MIB)] {
        let mut group = group(c, name, "new files");
        let limit = |blocks: &mut Blocks, until| {
            let place = folder();
            let file = fresh_file(place.path(), PASS);
            warm_memory(2 * PASS);
            blocks.fill_file(&file, Stored::Gathered, until)
        };
        let store = |blocks: &mut Blocks, pass: Pass, until| {
            let place = folder();
            let scratch = store(place.path(), len, 1);
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
        let scratch = turned(&place.path().join("store"), len, 1);
        let mut blocks = Blocks::new(len);
        warm_memory(2 * PASS);
        let mut group = group(c, name, "files used again");
        let limit = |blocks: &mut Blocks, until| {
            file.sync_data().expect("a disk that works");
            blocks.fill_file(&file, Stored::Gathered, until)
        };
        let store = |blocks: &mut Blocks, pass: Pass, until| {
            scratch.flush().expect("a disk that works");
            pass(blocks, &scratch, until)
        };
        rows(&mut group, &mut blocks, limit, store);
        if len == 4 * KIB {
            let mut many = vec![noise(len); 64];
            for (row, at_once) in [("put, from 64 buffers, burst", false), ("put_many of 64, burst", true)] {
                let mut pass = || {
                    scratch.flush().expect("a disk that works");
                    blocks.put_by_64(&scratch, &mut many, at_once)
                };
                group.bench_function(row, |b| b.iter_custom(|passes| (0..passes).map(|_| pass()).sum()));
            }
        }
        if len == 64 * KIB {
            let bare = |blocks: &mut Blocks| {
                file.sync_data().expect("a disk that works");
                blocks.fill_file(&file, Stored::Bare, Until::Readable)
            };
            group.bench_function("limit: a pwrite of each, not hashed, burst", |b| {
                b.iter_custom(|passes| (0..passes).map(|_| bare(&mut blocks)).sum());
            });
        }
        group.finish();
        check(&scratch);
    }
}

fn synced(files: &[File]) {
    for file in files {
        file.sync_data().expect("a disk that works");
    }
}

fn two_threads(c: &mut Criterion) {
    for (name, len) in [("64 KiB", 64 * KIB), ("1 MiB", MIB)] {
        let (place, others) = (folder(), folder());
        let files = [place.path(), others.path()].map(|folder| bare_file(folder, PASS / 2));
        let scratch = turned(&place.path().join("store"), len, 2);
        let mut halves = Blocks::halves(len);
        warm_memory(2 * PASS);
        let mut group = group(c, name, "files used again, two threads");
        group.bench_function("limit, burst", |b| {
            let mut pass = || {
                synced(&files);
                by_two(&mut halves, |at, blocks| blocks.fill_file(&files[at], Stored::Gathered, Until::Readable))
            };
            b.iter_custom(|passes| (0..passes).map(|_| pass()).sum());
        });
        group.bench_function("put, burst", |b| {
            let mut pass = || {
                scratch.flush().expect("a disk that works");
                by_two(&mut halves, |_, blocks| blocks.put_all(&scratch, Until::Readable))
            };
            b.iter_custom(|passes| (0..passes).map(|_| pass()).sum());
        });
        group.finish();
        check(&scratch);
    }
}

/// Small blocks, while others write and read.
fn in_company(c: &mut Criterion) {
    const LEN: usize = 4 * KIB;
    // Is read, in no order: so little that none of it makes room for a pass.
    const READ: usize = 128 * MIB;
    let (place, others, third) = (folder(), folder(), folder());
    let files = [place.path(), others.path()].map(|folder| bare_file(folder, PASS / 2));
    let read_file = bare_file(third.path(), READ);
    let scratch = turned(&place.path().join("store"), LEN, 1);
    let mut halves = Blocks::halves(LEN);
    let bits = (READ / LEN).trailing_zeros();
    warm_memory(2 * PASS);
    let mut group = group(c, "4 KiB", "files used again, in company");
    group.bench_function("limit, burst", |b| {
        // SAFETY: this process alone has the file, and nobody writes to it any more.
        let map = unsafe { memmap2::Mmap::map(&read_file) }.expect("a mapping of a file of this bench");
        let read = |number| sum(&map[shuffled(number, bits) * LEN..][..LEN]);
        let mut pass = || {
            synced(&files);
            beside_a_reader(read, || {
                by_two(&mut halves, |at, blocks| blocks.fill_file(&files[at], Stored::Gathered, Until::Readable))
            })
        };
        b.iter_custom(|passes| (0..passes).map(|_| pass()).sum());
    });
    let mut newest = Blocks { number: 1 << 45, ..Blocks::new(LEN) };
    group.bench_function("put, burst", |b| {
        let mut pass = || {
            let put = |_| scratch.put(REALM, newest.next()).expect("room");
            let keys: Vec<BlockHash> = (0..READ / LEN).map(put).collect();
            scratch.flush().expect("a disk that works");
            let read = |number| scratch.read(REALM, keys[shuffled(number, bits)], sum).expect("a block that stays");
            beside_a_reader(read, || by_two(&mut halves, |_, blocks| blocks.put_all(&scratch, Until::Readable)))
        };
        b.iter_custom(|passes| (0..passes).map(|_| pass()).sum());
    });
    group.finish();
    check(&scratch);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    targets = fresh, recycled, two_threads, in_company
}
criterion_main!(benches);
