//! `write/*`: blocks into files that are used again, which is what a store does all its life, beside a bare file of the
//! same length that is overwritten in place.
//!
//! Each row of a size does the same work per block: `limit` hashes it and stores it with one call of the system, for itself
//! or for a mebibyte of blocks, the store hashes it, stores it and its entry, and publishes it. Blocks are content that was
//! never written before.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benchkit::{KIB, MIB, bare_file, folder, noise, stamp, warm_memory, write_all_at};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use scratchspace::{BlockHash, DiskFileSource, Realm, Scratch, ScratchBuilder};

const REALM: Realm = Realm::DEFAULT;
/// Longest wait for what a background thread does.
const PATIENCE: Duration = Duration::from_mins(1);
/// Capacity of the store and length of the bare file: a few laps of it are written for each row.
const FILES: u16 = 8;
const FILE: usize = 128 * MIB;
/// Blocks of a `put_many`.
const MANY: usize = 64;

/// A store in one lane of one folder.
fn store(folder: &Path, files: u16, file_size: usize) -> ScratchBuilder {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(files).file_size(file_size as u64);
    Scratch::builder(source.build().expect("a source of its own")).wait_timeout(PATIENCE)
}

/// A store whose files have all been filled once.
fn recycled(builder: ScratchBuilder) -> Scratch {
    let scratch = builder.open().expect("a store on an empty folder");
    let mut block = noise(MIB);
    for number in 0..u64::from(FILES) * (FILE / MIB) as u64 {
        stamp(&mut block, u64::MAX - number);
        scratch.put(REALM, &block).expect("room");
    }
    scratch.flush().expect("a disk that works");
    assert!(scratch.stats().turns > 0, "the wheel has turned");
    scratch
}

fn blocks(c: &mut Criterion) {
    for (name, len) in [("4 KiB", 4 * KIB), ("64 KiB", 64 * KIB), ("1 MiB", MIB), ("16 MiB", 16 * MIB)] {
        let place = folder();
        let file = bare_file(place.path(), usize::from(FILES) * FILE);
        // An index that is too small for its blocks reads the entry of one that gives way, at each put.
        let blocks = (usize::from(FILES) * FILE / len) as u64;
        let scratch = recycled(store(&place.path().join("store"), FILES, FILE).expected_blocks(blocks));
        warm_memory(2 * usize::from(FILES) * FILE);
        let mut block = noise(len);
        let mut number = 0;
        let mut next = |block: &mut [u8]| {
            number += 1;
            stamp(block, number);
            number
        };
        let mut group = c.benchmark_group(format!("write/{name}"));
        group.throughput(Throughput::Bytes(len as u64));

        let slots = (usize::from(FILES) * FILE / len) as u64;
        group.bench_function("limit: pwrite in place, not hashed", |b| {
            b.iter(|| {
                let at = next(&mut block) % slots;
                write_all_at(&file, &block, at * len as u64);
            });
        });
        group.bench_function("limit: hash and pwrite in place", |b| {
            b.iter(|| {
                let at = next(&mut block) % slots;
                black_box(BlockHash::of(&block));
                write_all_at(&file, &block, at * len as u64);
            });
        });
        if len <= 64 * KIB {
            // What gathering can reach at best.
            group.bench_function("limit: hash and copy, a pwrite for each MiB", |b| {
                let mut gathered = vec![0_u8; MIB];
                let mut at = 0;
                b.iter(|| {
                    next(&mut block);
                    black_box(BlockHash::of(&block));
                    gathered[at % MIB..][..len].copy_from_slice(&block);
                    at += len;
                    if at.is_multiple_of(MIB) {
                        write_all_at(&file, &gathered, ((at - MIB) % (usize::from(FILES) * FILE)) as u64);
                    }
                });
            });
        }
        group.bench_function("put", |b| {
            let mut last = None;
            b.iter(|| {
                next(&mut block);
                last = Some(scratch.put(REALM, &block).expect("room"));
            });
            assert_stored(&scratch, last.expect("an iteration"), &block);
        });
        let key = BlockHash::of(b"one key");
        group.bench_function("put_named", |b| {
            b.iter(|| {
                next(&mut block);
                scratch.put_named(REALM, key, &block).expect("room");
            });
            assert_stored(&scratch, key, &block);
        });
        deferred(&mut group, &scratch, len);
        if len <= 64 * KIB {
            let mut many: Vec<Vec<u8>> = vec![noise(len); MANY];
            group.throughput(Throughput::Bytes((MANY * len) as u64));
            // The same blocks: one that is put again and again is never out of the processor's nearest cache.
            group.bench_function(BenchmarkId::new("put, one by one", MANY), |b| {
                b.iter(|| {
                    for block in &mut many {
                        next(block);
                    }
                    for block in &many {
                        black_box(scratch.put(REALM, block).expect("room"));
                    }
                });
            });
            group.bench_function(BenchmarkId::new("put_many", MANY), |b| {
                let mut last = Vec::new();
                b.iter(|| {
                    for block in &mut many {
                        next(block);
                    }
                    let blocks: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
                    last = scratch.put_many(REALM, &blocks).expect("room");
                });
                assert_eq!(last.len(), MANY);
                for (key, block) in last.iter().zip(&many) {
                    assert_stored(&scratch, *key, block);
                }
            });
        }
        if len <= 4 * KIB {
            not_gathered(&mut group, &file);
        }
        group.finish();
        // What was written is there: nothing above was refused, dropped or told to be stored already. The rows before this
        // may have turned the wheel past the key.
        scratch.put_named(REALM, key, &block).expect("room");
        scratch.flush().expect("a disk that works");
        assert_stored(&scratch, key, &block);
        let stats = scratch.stats();
        assert_eq!((stats.duplicates, stats.failed, stats.corrupted), (0, 0, 0), "{stats:?}");
    }
}

fn assert_stored(scratch: &Scratch, key: BlockHash, block: &[u8]) {
    let stored = scratch.get(REALM, key).expect("a block that was just written");
    assert!(*stored == *block, "{key:?} is what was written");
}

/// Closures that are run later, by another thread as a rule.
fn deferred(group: &mut BenchmarkGroup<'_, WallTime>, scratch: &Scratch, len: usize) {
    // The caller has the hash, and gives the closure the bytes; who runs it is paid here too.
    group.bench_function("write_named, closures run", |b| {
        let bytes: Arc<[u8]> = noise(len).into();
        let mut keys = 0_u64;
        b.iter(|| {
            keys += 1;
            let bytes = Arc::clone(&bytes);
            let key = BlockHash::from_u128(u128::from(keys));
            scratch.write_named(REALM, key, len, move |block| block.copy_from_slice(&bytes)).expect("room");
        });
        scratch.flush().expect("closures that keep their word");
        assert_eq!(scratch.stats().failed, 0);
        assert_stored(scratch, BlockHash::from_u128(u128::from(keys)), &bytes);
    });
    // What the caller of a deferred write waits for: as many calls as there is room for, and what they have left to be
    // done is not timed, nor is the disk.
    group.bench_function("write_named, the call alone", |b| {
        let bytes: Arc<[u8]> = noise(len).into();
        let (mut keys, mut behind) = (1_u64 << 40, 0);
        b.iter_custom(|calls| {
            let mut time = Duration::ZERO;
            for call in 0..calls {
                keys += 1;
                let bytes = Arc::clone(&bytes);
                let key = BlockHash::from_u128(u128::from(keys));
                let begun = Instant::now();
                let given = scratch.write_named(REALM, key, len, move |block| block.copy_from_slice(&bytes));
                time += begun.elapsed();
                given.expect("room");
                if call % 8 == 7 {
                    while scratch.stats().pending_bytes > 0 {
                        std::thread::yield_now();
                    }
                }
                behind += len;
                if behind >= 256 * MIB {
                    scratch.flush().expect("closures that keep their word");
                    behind = 0;
                }
            }
            time
        });
        scratch.flush().expect("closures that keep their word");
        assert_eq!(scratch.stats().failed, 0);
        assert_stored(scratch, BlockHash::from_u128(u128::from(keys)), &bytes);
    });
}

/// Small blocks that are in their files before their calls return, beside the two calls of the system that this takes.
fn not_gathered(group: &mut BenchmarkGroup<'_, WallTime>, file: &File) {
    const LEN: usize = 4 * KIB;
    let place = folder();
    let slots = (usize::from(FILES) * FILE / LEN) as u64;
    let scratch = store(&place.path().join("store"), FILES, FILE).expected_blocks(slots).gather(0, Duration::ZERO);
    let scratch = recycled(scratch);
    let (mut block, entry) = (noise(LEN), noise(64));
    let mut number = 0;
    let mut next = |block: &mut [u8]| {
        number += 1;
        stamp(block, number);
        number
    };
    group.throughput(Throughput::Bytes(LEN as u64));
    group.bench_function("limit: a pwrite of the block and one of its entry", |b| {
        // Entries lie close together, at the end of the file.
        let blocks = slots * 63 / 64 - 1;
        b.iter(|| {
            let at = next(&mut block) % blocks;
            write_all_at(file, &block, at * LEN as u64);
            write_all_at(file, &entry, slots * LEN as u64 - (at + 1) * 64);
        });
    });
    group.bench_function("put, not gathered", |b| {
        let mut last = None;
        b.iter(|| {
            next(&mut block);
            last = Some(scratch.put(REALM, &block).expect("room"));
        });
        assert_stored(&scratch, last.expect("an iteration"), &block);
    });
    scratch.flush().expect("a disk that works");
    let stats = scratch.stats();
    assert_eq!((stats.duplicates, stats.failed, stats.corrupted), (0, 0, 0), "{stats:?}");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1));
    targets = blocks
}
criterion_main!(benches);
