//! `read/*`: blocks that are in memory, in no order, beside the same bytes in a bare mapping.
//!
//! Every row adds up the bytes it reads. What `limit` touches is where the store has its blocks: a mapping of a file as
//! long as all of them, walked in the same order. Two threads have a half of the blocks each.

use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use benchkit::{KIB, MIB, bare_file, folder, noise, shuffled, stamp, sum, warm_memory};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memmap2::Mmap;
use scratchspace::{BlockHash, DiskFileSource, Realm, Scratch, ScratchBuilder};

const REALM: Realm = Realm::DEFAULT;
/// Longest wait for what a background thread does.
const PATIENCE: Duration = Duration::from_mins(1);
const SET: usize = 1 << 30;
/// Blocks of a `get_many`.
const MANY: usize = 64;

/// A store in one lane of one folder.
fn store(folder: &Path, files: u16, file_size: usize) -> ScratchBuilder {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(files).file_size(file_size as u64);
    Scratch::builder(source.build().expect("a source of its own")).wait_timeout(PATIENCE)
}

/// The time in which two threads read so many of 2^`bits` blocks each, and none that the other reads.
fn by_two(reads: u64, bits: u32, read: impl Fn(usize) -> u64 + Sync) -> Duration {
    let half = 1 << (bits - 1);
    let begun = Instant::now();
    thread::scope(|scope| {
        for first in [0, half] {
            let read = &read;
            scope.spawn(move || {
                let blocks = (0..reads).map(|number| read(shuffled(first + number % half, bits)));
                black_box(blocks.fold(0, u64::wrapping_add))
            });
        }
    });
    begun.elapsed()
}

fn hot(c: &mut Criterion) {
    for (name, len) in [("4 KiB", 4 * KIB), ("64 KiB", 64 * KIB), ("1 MiB", MIB)] {
        let place = folder();
        let count = SET / len;
        let bits = count.trailing_zeros();
        let file = bare_file(place.path(), SET);
        // SAFETY: this process alone has the file, and nobody writes to it any more.
        let map = unsafe { Mmap::map(&file) }.expect("a mapping of a file of this bench");
        let scratch = store(&place.path().join("store"), 12, 128 * MIB).expected_blocks(5 * count as u64 / 4).open();
        let scratch = scratch.expect("a store on an empty folder");
        warm_memory(2 * SET);
        let (mut block, mut total) = (noise(len), 0_u64);
        let put = |number: usize| {
            stamp(&mut block, number as u64);
            total = total.wrapping_add(sum(&block));
            scratch.put(REALM, &block).expect("room")
        };
        let keys: Vec<BlockHash> = (0..count).map(put).collect();
        scratch.flush().expect("a disk that works");
        let of_store = || {
            let blocks = keys.iter().map(|key| scratch.read(REALM, *key, sum).expect("a block that stays"));
            blocks.fold(0, u64::wrapping_add)
        };
        assert_eq!(of_store(), total, "every block reads as it was written");
        assert_eq!(sum(&map), sum(&noise(MIB)).wrapping_mul((SET / MIB) as u64));
        let mut number = 0;
        let mut next = || {
            number += 1;
            shuffled(number, bits)
        };
        let mut group = c.benchmark_group(format!("read/{name}"));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function("limit: a bare mapping", |b| {
            b.iter(|| {
                let at = next() * len;
                sum(&map[at..at + len])
            });
        });
        group.bench_function("read", |b| {
            b.iter(|| scratch.read(REALM, keys[next()], sum).expect("a block that stays"));
        });
        group.throughput(Throughput::Bytes(2 * len as u64));
        group.bench_function("limit: a bare mapping, two threads", |b| {
            b.iter_custom(|reads| by_two(reads, bits, |block| sum(&map[block * len..][..len])));
        });
        group.bench_function("read, two threads", |b| {
            let read = |block: usize| scratch.read(REALM, keys[block], sum).expect("a block that stays");
            b.iter_custom(|reads| by_two(reads, bits, read));
        });
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function("get", |b| {
            b.iter(|| sum(&scratch.get(REALM, keys[next()]).expect("a block that stays")));
        });
        group.bench_function("read_verified", |b| {
            b.iter(|| scratch.read_verified(REALM, keys[next()], sum).expect("a block that stays"));
        });
        group.throughput(Throughput::Bytes((MANY * len) as u64));
        group.bench_function("get_many of 64", |b| {
            b.iter(|| {
                let asked: [BlockHash; MANY] = std::array::from_fn(|_| keys[next()]);
                let mut all = 0_u64;
                let read = |_, block: Result<&[u8], _>| all = all.wrapping_add(sum(block.expect("a block that stays")));
                scratch.get_many(REALM, &asked, read).expect("an open store");
                all
            });
        });
        group.finish();
        assert_eq!(of_store(), total, "every block reads as it was written");
        assert_eq!(scratch.stats().corrupted, 0);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1));
    targets = hot
}
criterion_main!(benches);
