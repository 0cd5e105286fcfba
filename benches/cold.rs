//! `cold/*`: blocks that are on the disk only, in no order, beside a bare file that is read in each of the usual ways.
//!
//! Before each part that is measured the store is closed, its files leave the page cache, and it is opened again: its
//! directories are in memory then, as they are read at open, and no block is. Every row adds up the bytes it reads.

use std::fs::File;
use std::ops::Range;
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
    /// The keys of the store, and what the block of each adds up to.
    keys: Vec<BlockHash>,
    sums: Vec<u64>,
    /// The same of the bare file, whose mebibytes are alike.
    bare_sums: Vec<u64>,
}

impl Set<'_> {
    fn new(place: &Path, len: usize, bytes: usize) -> Set<'_> {
        drop(bare_file(place, bytes));
        warm_memory(2 * bytes);
        let bare_sums = noise(MIB).chunks_exact(len).map(sum).collect();
        let mut set = Set { place, len, keys: Vec::new(), sums: Vec::new(), bare_sums };
        // A sixth more than the blocks, for their entries and the ends of files.
        let file_size = (bytes / 5).next_multiple_of(MIB) as u64;
        let source = DiskFileSource::builder().folder(set.store()).files_per_folder(FILES).file_size(file_size);
        let builder = Scratch::builder(source.build().expect("a source of its own"));
        let scratch = builder.expected_blocks(bytes as u64 / len as u64 * 5 / 4).open().expect("an empty folder");
        let mut block = noise(len);
        for number in 0..bytes / len {
            stamp(&mut block, number as u64);
            set.sums.push(sum(&block));
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

    /// The time for so many reads of `many` blocks each by what `prepare` makes: at most half of the set before that is prepared
    /// anew, so that what lies around a block is of no use yet.
    fn time<R: Reader>(&self, reads: u64, many: usize, prepare: impl Fn() -> R) -> Duration {
        let (mut left, mut time) = (usize::try_from(reads).expect("few"), Duration::ZERO);
        let mut round = 0;
        while left > 0 {
            let reader = prepare();
            let now = left.min(self.keys.len() / 2 / many);
            time += self.time_of(&reader, round..round + now, many);
            left -= now;
            round += now;
        }
        time
    }

    /// The time in which all blocks are read once.
    fn time_of_all<R: Reader>(&self, rounds: u64, prepare: impl Fn() -> R) -> Duration {
        (0..rounds).map(|_| self.time_of(&prepare(), 0..self.keys.len(), 1)).sum()
    }

    /// The time of these reads, and whether they were right.
    fn time_of(&self, reader: &impl Reader, reads: Range<usize>, many: usize) -> Duration {
        let numbers = |read: usize| (read * many..(read + 1) * many).map(|at| self.block(at));
        let mut asked = Vec::with_capacity(many);
        let began = Instant::now();
        let all = reads.clone().fold(0, |all: u64, read| {
            asked.clear();
            asked.extend(numbers(read));
            all.wrapping_add(reader.read(self, &asked))
        });
        let time = began.elapsed();
        let expected = reads.flat_map(numbers).map(|number| reader.expected(self, number));
        assert_eq!(all, expected.fold(0, u64::wrapping_add), "every block reads as it was written");
        time
    }

    fn map(&self, is_requested: bool) -> Bare {
        // SAFETY: this process alone has the file, and nobody writes to it any more.
        let map = unsafe { Mmap::map(&self.bare()) }.expect("a mapping of a file of this bench");
        Bare { map, is_requested }
    }
}

/// Adds up the words of blocks.
trait Reader {
    fn read(&self, set: &Set<'_>, numbers: &[usize]) -> u64;
    fn expected(&self, set: &Set<'_>, number: usize) -> u64;
}

struct Bare {
    map: Mmap,
    /// Whether each block is asked for before it is read.
    is_requested: bool,
}

impl Reader for Bare {
    fn read(&self, set: &Set<'_>, numbers: &[usize]) -> u64 {
        let blocks = numbers.iter().map(|number| {
            if self.is_requested {
                self.map.advise_range(Advice::WillNeed, number * set.len, set.len).expect("a range of the mapping");
            }
            sum(&self.map[number * set.len..][..set.len])
        });
        blocks.fold(0, u64::wrapping_add)
    }

    fn expected(&self, set: &Set<'_>, number: usize) -> u64 {
        set.bare_sums[number % set.bare_sums.len()]
    }
}

impl Reader for Scratch {
    fn read(&self, set: &Set<'_>, numbers: &[usize]) -> u64 {
        if let [number] = numbers {
            return Self::read(self, REALM, set.keys[*number], sum).expect("a block that stays");
        }
        let asked: [BlockHash; MANY] = std::array::from_fn(|at| set.keys[numbers[at]]);
        let mut all = 0_u64;
        let add = |_, block: Result<&[u8], _>| all = all.wrapping_add(sum(block.expect("a block that stays")));
        self.get_many(REALM, &asked, add).expect("an open store");
        all
    }

    fn expected(&self, set: &Set<'_>, number: usize) -> u64 {
        set.sums[number]
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
            b.iter_custom(|reads| set.time(reads, 1, || set.map(true)));
        });
        group.bench_function("limit: a bare mapping", |b| {
            b.iter_custom(|reads| set.time(reads, 1, || set.map(false)));
        });
        let exact = |builder: ScratchBuilder| builder.access(Access::Exact);
        group.bench_function("read, of another run and not compared yet", |b| {
            b.iter_custom(|reads| set.time(reads, 1, || set.reopened(exact)));
        });
        let exact = |builder: ScratchBuilder| builder.access(Access::Exact).verify(Verify::Never);
        group.bench_function("read", |b| {
            b.iter_custom(|reads| set.time(reads, 1, || set.reopened(exact)));
        });
        group.throughput(Throughput::Bytes((MANY * len) as u64));
        group.bench_function("get_many of 64", |b| {
            b.iter_custom(|batches| set.time(batches, MANY, || set.reopened(exact)));
        });
        group.finish();
        let again = set.reopened(|builder| builder);
        set.time_of(&again, 0..set.keys.len(), 1);
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
            b.iter_custom(|rounds| set.time_of_all(rounds, || set.map(true)));
        });
        group.bench_function("limit: a bare mapping", |b| {
            b.iter_custom(|rounds| set.time_of_all(rounds, || set.map(false)));
        });
        group.bench_function("read/Auto, not compared yet", |b| {
            b.iter_custom(|rounds| set.time_of_all(rounds, || set.reopened(|builder| builder)));
        });
        for access in [Access::Auto, Access::Exact, Access::ReadAround] {
            group.bench_function(BenchmarkId::new("read", format!("{access:?}")), |b| {
                let prepare = || set.reopened(|builder| builder.access(access).verify(Verify::Never));
                b.iter_custom(|rounds| set.time_of_all(rounds, prepare));
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
