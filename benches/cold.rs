//! `cold/*`: blocks that are on the disk only, in no order, beside a bare file that is read in each of the usual ways.
//!
//! Before each part that is measured the store is closed, its files leave the page cache, and it is opened again: its
//! directories are in memory then, as they are read at open, and no block is. Every row adds up the bytes it reads.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use benchkit::{KIB, MIB, bare_file, folder, forget, noise, shuffled, stamp, sum, warm_memory};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use memmap2::{Advice, Mmap};
use scratchspace::{Access, BlockHash, DiskFileSource, Realm, Scratch, ScratchBuilder, Verify};

const REALM: Realm = Realm::DEFAULT;
/// Longest wait for what a background thread does.
const PATIENCE: Duration = Duration::from_mins(1);
const FILES: u16 = 6;
/// Blocks of a `get_many`.
const MANY: usize = 64;

/// The blocks of one length, in a store and in a bare file.
struct Set<'a> {
    place: &'a Path,
    len: usize,
    /// The keys of the store, and what all their blocks add up to.
    keys: Vec<BlockHash>,
    total: u64,
}

impl Set<'_> {
    fn new(place: &Path, len: usize, bytes: usize) -> Set<'_> {
        drop(bare_file(place, bytes));
        warm_memory(2 * bytes);
        let mut set = Set { place, len, keys: Vec::new(), total: 0 };
        // A sixth more than the blocks, for their entries and the ends of files.
        let file_size = (bytes / 5).next_multiple_of(MIB) as u64;
        let source = DiskFileSource::builder().folder(set.store()).files_per_folder(FILES).file_size(file_size);
        let builder = Scratch::builder(source.build().expect("a source of its own"));
        let scratch = builder.expected_blocks(bytes as u64 / len as u64 * 5 / 4).open().expect("an empty folder");
        let mut block = noise(len);
        for number in 0..bytes / len {
            stamp(&mut block, number as u64);
            set.total = set.total.wrapping_add(sum(&block));
            set.keys.push(scratch.put(REALM, &block).expect("room"));
        }
        assert!(scratch.close(PATIENCE).is_clean());
        set
    }

    fn store(&self) -> std::path::PathBuf {
        self.place.join("store")
    }

    /// The bare file, with nothing of it in memory.
    fn bare(&self) -> File {
        forget(self.place);
        File::open(self.place.join("bare")).expect("the file of this bench")
    }

    /// The store, with nothing of its blocks in memory.
    fn reopened(&self, options: impl Fn(ScratchBuilder) -> ScratchBuilder) -> Scratch {
        forget(&self.store());
        let source = DiskFileSource::builder().folder(self.store()).files_per_folder(FILES);
        let builder = Scratch::builder(source.build().expect("a source of its own")).wait_timeout(PATIENCE);
        let builder = builder.expected_blocks(self.keys.len() as u64 * 5 / 4);
        let scratch = options(builder).open().expect("a store that was closed");
        let found = scratch.wait_recovered(PATIENCE).expect("a search that ends").blocks;
        assert_eq!(found, self.keys.len() as u64);
        scratch
    }

    fn block(&self, number: usize) -> usize {
        shuffled(number as u64, self.keys.len().trailing_zeros())
    }

    /// The time for so many reads by what `begin` makes: at most half of the set before it is prepared anew, so that what lies
    /// around a block is of no use yet.
    fn time<R>(&self, reads: u64, prepare: impl Fn() -> R, read: impl Fn(&R, usize) -> u64) -> Duration {
        let (mut left, mut time) = (usize::try_from(reads).expect("few"), Duration::ZERO);
        let mut round = 0;
        while left > 0 {
            let reader = prepare();
            let now = left.min(self.keys.len() / 2);
            let began = Instant::now();
            let all = (0..now).fold(0, |all: u64, at| all.wrapping_add(read(&reader, self.block(round + at))));
            time += began.elapsed();
            assert_ne!(all, 0);
            left -= now;
            round += now;
        }
        time
    }

    /// The time in which all blocks are read once.
    fn time_of_all<R>(&self, rounds: u64, prepare: impl Fn() -> R, read: impl Fn(&R, usize) -> u64) -> Duration {
        (0..rounds)
            .map(|_| {
                let reader = prepare();
                let began = Instant::now();
                let count = self.keys.len();
                let all = (0..count).fold(0, |all: u64, at| all.wrapping_add(read(&reader, self.block(at))));
                let time = began.elapsed();
                assert_ne!(all, 0);
                time
            })
            .sum()
    }

    fn map(&self) -> Mmap {
        // SAFETY: this process alone has the file, and nobody writes to it any more.
        unsafe { Mmap::map(&self.bare()) }.expect("a mapping of a file of this bench")
    }

    fn sum_of(&self, map: &Mmap, number: usize) -> u64 {
        sum(&map[number * self.len..][..self.len])
    }

    fn requested(&self, map: &Mmap, number: usize) -> u64 {
        map.advise_range(Advice::WillNeed, number * self.len, self.len).expect("a range of the mapping");
        self.sum_of(map, number)
    }

    fn read(&self, scratch: &Scratch, number: usize) -> u64 {
        scratch.read(REALM, self.keys[number], sum).expect("a block that stays")
    }
}

/// Scattered reads of a set of which most is not read.
fn scattered(c: &mut Criterion) {
    for (name, len, bytes) in
        [("4 KiB", 4 * KIB, 512 * MIB), ("64 KiB", 64 * KIB, 1024 * MIB), ("1 MiB", MIB, 1024 * MIB)]
    {
        let place = folder();
        let set = Set::new(place.path(), len, bytes);
        let mut group = c.benchmark_group(format!("cold/{name}"));
        group.throughput(Throughput::Bytes(len as u64)).sampling_mode(SamplingMode::Flat);
        group.bench_function("limit: exact requests on a bare mapping", |b| {
            b.iter_custom(|reads| set.time(reads, || set.map(), |map, number| set.requested(map, number)));
        });
        group.bench_function("limit: a bare mapping", |b| {
            b.iter_custom(|reads| set.time(reads, || set.map(), |map, number| set.sum_of(map, number)));
        });
        let exact = |builder: ScratchBuilder| builder.access(Access::Exact);
        group.bench_function("read, of another run and not compared yet", |b| {
            b.iter_custom(|reads| set.time(reads, || set.reopened(exact), |scratch, number| set.read(scratch, number)));
        });
        let exact = |builder: ScratchBuilder| builder.access(Access::Exact).verify(Verify::Never);
        group.bench_function("read", |b| {
            b.iter_custom(|reads| set.time(reads, || set.reopened(exact), |scratch, number| set.read(scratch, number)));
        });
        group.throughput(Throughput::Bytes((MANY * len) as u64));
        group.bench_function("get_many of 64", |b| {
            b.iter_custom(|batches| {
                let read = |scratch: &Scratch, number: usize| {
                    let asked: [BlockHash; MANY] = std::array::from_fn(|at| set.keys[set.block(number * MANY + at)]);
                    let mut all = 0_u64;
                    let add = |_, block: Result<&[u8], _>| all = all.wrapping_add(sum(block.expect("it stays")));
                    scratch.get_many(REALM, &asked, add).expect("an open store");
                    all
                };
                let one = Set { place: set.place, len, keys: set.keys[..set.keys.len() / MANY].to_vec(), total: 0 };
                one.time(batches, || set.reopened(exact), read)
            });
        });
        group.finish();
        let again = set.reopened(|builder| builder);
        let total = set
            .keys
            .iter()
            .fold(0, |all: u64, key| all.wrapping_add(again.read(REALM, *key, sum).expect("a block that stays")));
        assert_eq!(total, set.total, "every block reads as it was written");
        assert_eq!(again.stats().corrupted, 0);
    }
}

/// All of a set that fits into memory, in no order: the policy that the store finds by itself beside the two raw ones.
fn all(c: &mut Criterion) {
    for (name, len, bytes) in [("4 KiB", 4 * KIB, 256 * MIB), ("64 KiB", 64 * KIB, 1024 * MIB)] {
        let place = folder();
        let set = Set::new(place.path(), len, bytes);
        let mut group = c.benchmark_group(format!("cold/all of a set that fits, {name}"));
        group.throughput(Throughput::Bytes(bytes as u64)).sampling_mode(SamplingMode::Flat);
        group.bench_function("limit: exact requests on a bare mapping", |b| {
            b.iter_custom(|rounds| set.time_of_all(rounds, || set.map(), |map, number| set.requested(map, number)));
        });
        group.bench_function("limit: a bare mapping", |b| {
            b.iter_custom(|rounds| set.time_of_all(rounds, || set.map(), |map, number| set.sum_of(map, number)));
        });
        for access in [Access::Auto, Access::Exact, Access::ReadAround] {
            group.bench_function(BenchmarkId::new("read", format!("{access:?}")), |b| {
                let prepare = || set.reopened(|builder| builder.access(access).verify(Verify::Never));
                b.iter_custom(|rounds| set.time_of_all(rounds, prepare, |scratch, number| set.read(scratch, number)));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    targets = scattered, all
}
criterion_main!(benches);
