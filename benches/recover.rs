//! `recover/*`: how long a restart takes: until the store serves, and until every block is found.
//!
//! The page cache has what the run before has written, or nothing of it (`caches cold`). The blocks are named, with a page of
//! bytes each or none. A store serves when it has taken a block and lent it.

use std::path::Path;
use std::time::{Duration, Instant};

use benchkit::{KIB, MIB, folder, forget, noise, warm_memory};
use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use scratchspace::{BlockHash, DiskFileSource, Realm, Scratch, ScratchBuilder};

const REALM: Realm = Realm::DEFAULT;
/// Longest wait for what a background thread does.
const PATIENCE: Duration = Duration::from_mins(1);
const FILES: u16 = 16;

/// A store in one lane of one folder.
fn store(folder: &Path, files: u16, file_size: usize) -> ScratchBuilder {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(files).file_size(file_size as u64);
    Scratch::builder(source.build().expect("a source of its own")).wait_timeout(PATIENCE)
}

fn key(number: u64) -> BlockHash {
    BlockHash::from_u128(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// Times `open` alone, after `prepare`: a store is closed before the next is opened, as a folder has one owner.
fn timed_openings(b: &mut Bencher<'_>, prepare: impl Fn(), open: impl Fn() -> Scratch) {
    b.iter_custom(|openings| {
        let mut all = Duration::ZERO;
        for _ in 0..openings {
            prepare();
            let begun = Instant::now();
            let scratch = open();
            all += begun.elapsed();
            drop(scratch);
        }
        all
    });
}

fn restarts(c: &mut Criterion) {
    let mut group = c.benchmark_group("recover");
    for (name, count, len) in [("empty", 1_u64 << 20, 0), ("4 KiB", 1 << 17, 4 * KIB)] {
        let place = folder();
        let open = || -> Scratch {
            let builder = store(place.path(), FILES, 64 * MIB).expected_blocks(count + count / 4);
            builder.open().expect("a store that was closed")
        };
        warm_memory(1 << 30);
        let scratch = open();
        let block = noise(len);
        for number in 0..count {
            scratch.put_named(REALM, key(number), &block).expect("room");
        }
        let scratch = serving(scratch);
        assert!(scratch.close(PATIENCE).is_clean());
        drop(scratch);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new("open until it serves", name), |b| {
            timed_openings(b, || (), || serving(open()));
        });
        let all_found = || {
            let scratch = open();
            // With the one by which it was seen to serve.
            assert_eq!(scratch.wait_recovered(PATIENCE).expect("a search that ends").blocks, count + 1);
            scratch
        };
        group.bench_function(BenchmarkId::new("open until all is found", name), |b| {
            timed_openings(b, || (), all_found);
        });
        group.bench_function(BenchmarkId::new("open until all is found, caches cold", name), |b| {
            timed_openings(b, || forget(place.path()), all_found);
        });
    }
    group.finish();
}

/// A store that serves: it takes a block without bytes, so that it is never full for that, and has it.
fn serving(scratch: Scratch) -> Scratch {
    let probe = BlockHash::of(b"probe");
    scratch.put_named(REALM, probe, &[]).expect("room");
    assert!(scratch.read(REALM, probe, <[u8]>::is_empty).expect("a block that was just written"));
    scratch
}

/// What a further file costs.
fn files(c: &mut Criterion) {
    let mut group = c.benchmark_group("recover");
    for files in [FILES, 4 * FILES] {
        let place = folder();
        let open = || store(place.path(), files, 4 * MIB).open().expect("a store that was closed");
        let scratch = open();
        let block = noise(MIB);
        // All files are created, and all but a few hold blocks.
        for number in 0..4 * u64::from(files) {
            scratch.put_named(REALM, key(number), &block).expect("room");
        }
        assert!(scratch.close(PATIENCE).is_clean());
        drop(scratch);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("open until it serves", format!("{files} files")), |b| {
            timed_openings(
                b,
                || (),
                || {
                    let scratch = serving(open());
                    assert!(scratch.recovery().files_total + 2 >= u64::from(files));
                    scratch
                },
            );
        });
    }
    group.finish();
}

/// A store that is full: filled once, or so often that each file holds an earlier lap below what it holds.
fn full(c: &mut Criterion) {
    let mut group = c.benchmark_group("recover");
    for (name, laps) in [("filled once", 1), ("used again", 3)] {
        let place = folder();
        let open =
            || store(place.path(), 4, 256 * MIB).expected_blocks(1 << 15).open().expect("a store that was closed");
        warm_memory(1 << 30);
        let scratch = open();
        let block = noise(64 * KIB);
        // Two and a half files hold blocks.
        let (of_a_lap, last) = (4 * 256 * 16, 5 * 256 * 16 / 2);
        for number in 0..(laps - 1) * of_a_lap + last {
            scratch.put_named(REALM, key(number), &block).expect("room");
        }
        assert!(scratch.close(PATIENCE).is_clean());
        drop(scratch);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("open a full store until all is found, caches cold", name), |b| {
            timed_openings(
                b,
                || forget(place.path()),
                || {
                    let scratch = open();
                    let blocks = scratch.wait_recovered(PATIENCE).expect("a search that ends").blocks;
                    assert!(blocks >= last / 2, "{blocks}");
                    scratch
                },
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1));
    targets = restarts, files, full
}
criterion_main!(benches);
