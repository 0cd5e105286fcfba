//! `index/*`: how long it takes to learn whether a block is there, beside a read of memory that no cache has.
//!
//! The blocks are named and empty, so that nothing but the index, the slots and the entries is touched. `limit` follows a
//! random cycle through half a gibibyte: each step is one read that waits for the one before. Among the most of them some have
//! bytes, which are read in no order, beside as many in a bare mapping.

use std::path::Path;
use std::time::Duration;

use benchkit::{KIB, MIB, bare_file, folder, noise, shuffled, stamp, sum, warm_memory};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memmap2::Mmap;
use scratchspace::{BlockHash, DiskFileSource, Realm, Scratch, ScratchBuilder};

const REALM: Realm = Realm::DEFAULT;
/// Longest wait for what a background thread does.
const PATIENCE: Duration = Duration::from_mins(1);
/// Keys of a `get_many`.
const MANY: usize = 256;
const CHASE: usize = 512 * MIB / 8;
/// Blocks of the largest store, as a power of two.
const MOST: u32 = 24;

/// A store in one lane of one folder.
fn store(folder: &Path, files: u16, file_size: usize) -> ScratchBuilder {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(files).file_size(file_size as u64);
    Scratch::builder(source.build().expect("a source of its own")).wait_timeout(PATIENCE)
}

/// A random cycle through all of its places.
fn cycle() -> Vec<u64> {
    let mut places: Vec<u64> = (0..CHASE as u64).collect();
    // Sattolo's: one cycle, and no shorter one.
    let mut state = 1_u64;
    for last in (1..places.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from((u128::from(state) * last as u128) >> 64).expect("below `last`");
        places.swap(last, other);
    }
    places
}

fn key(number: u64) -> BlockHash {
    BlockHash::from_u128(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn filled(scratch: &Scratch, count: u64) {
    for number in 0..count {
        scratch.put_named(REALM, key(number), &[]).expect("room");
    }
    scratch.flush().expect("a disk that works");
    assert_eq!(scratch.len(), count);
}

fn lookups(c: &mut Criterion) {
    let cycle = cycle();
    let mut at = 0;
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(1));
    group.bench_function("limit: one read of memory that no cache has", |b| {
        b.iter(|| {
            at = cycle[usize::try_from(at).expect("a place")];
            at
        });
    });
    group.finish();
    drop(cycle);
    for bits in [18, 22, MOST] {
        let place = folder();
        warm_memory(1 << 30);
        let files = if bits == MOST { 20 } else { 12 };
        let builder = store(&place.path().join("store"), files, 128 * MIB).expected_blocks(5 << (bits - 2));
        let scratch = builder.open().expect("a store on an empty folder");
        filled(&scratch, 1 << bits);
        let mut group = c.benchmark_group(format!("index/2^{bits} blocks"));
        group.throughput(Throughput::Elements(1));
        let mut number = 0;
        let mut next = move || {
            number += 1;
            shuffled(number, bits) as u64
        };
        group.bench_function("hit", |b| {
            b.iter(|| assert!(scratch.contains(REALM, key(next())).expect("an open store")));
        });
        group.bench_function("miss", |b| {
            b.iter(|| assert!(!scratch.contains(REALM, key(next() + (1 << 40))).expect("an open store")));
        });
        group.throughput(Throughput::Elements(MANY as u64));
        group.bench_function("get_many of 256", |b| {
            b.iter(|| {
                let asked: [BlockHash; MANY] = std::array::from_fn(|_| key(next()));
                let mut found = 0;
                scratch.get_many(REALM, &asked, |_, block| found += usize::from(block.is_ok())).expect("an open store");
                assert_eq!(found, MANY);
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function("put_named over a block", |b| {
            b.iter(|| scratch.put_named(REALM, key(next()), &[]).expect("room"));
        });
        group.finish();
        assert_eq!((scratch.len(), scratch.stats().evicted), (1 << bits, 0));
        assert!(scratch.stats().index_bytes < (1 << bits) * 16 + (256 * KIB) as u64);
        if bits == MOST {
            among(c, &scratch, place.path());
        }
    }
}

/// Blocks with bytes in a store that has 64 times as many without.
fn among(c: &mut Criterion, scratch: &Scratch, place: &Path) {
    const LEN: usize = 4 * KIB;
    const BITS: u32 = 18;
    const FIRST: u64 = 1 << 41;

    let file = bare_file(place, LEN << BITS);
    // SAFETY: this process alone has the file, and nobody writes to it any more.
    let map = unsafe { Mmap::map(&file) }.expect("a mapping of a file of this bench");
    warm_memory(2 << 30);
    let (mut block, mut total) = (noise(LEN), 0_u64);
    for number in 0..1 << BITS {
        stamp(&mut block, number);
        total = total.wrapping_add(sum(&block));
        scratch.put_named(REALM, key(FIRST + number), &block).expect("room");
    }
    scratch.flush().expect("a disk that works");
    let read = |number: usize| scratch.read(REALM, key(FIRST + number as u64), sum).expect("a block that stays");
    let of_map = |number: usize| sum(&map[number * LEN..][..LEN]);
    assert_eq!((0..1 << BITS).map(read).fold(0, u64::wrapping_add), total, "every block reads as it was written");
    assert_eq!((0..1 << BITS).map(of_map).fold(0, u64::wrapping_add), sum(&map));
    let mut number = 0;
    let mut next = || {
        number += 1;
        shuffled(number, BITS)
    };
    let mut group = c.benchmark_group(format!("index/2^{MOST} blocks"));
    group.throughput(Throughput::Elements(1));
    group.bench_function("limit: 4 KiB of a bare mapping", |b| b.iter(|| of_map(next())));
    group.bench_function("read of 4 KiB, as one in 64 has", |b| b.iter(|| read(next())));
    group.finish();
    assert_eq!((0..1 << BITS).map(read).fold(0, u64::wrapping_add), total);
}

/// The index without a store, at its capacity: what is left of a look-up without entries, files and pins.
#[cfg(benching)]
fn alone(c: &mut Criterion) {
    use std::cell::{Cell, RefCell};
    use std::time::Instant;

    use scratchspace::benching::Index;

    const BITS: u32 = 24;
    const BLOCKS: u64 = 1 << BITS;
    const DECILES: u64 = 10;
    /// So many keys are asked for ahead.
    const AHEAD: u64 = 32;
    const FILLS: usize = 10;

    warm_memory(1 << 30);
    let end = |decile: u64| BLOCKS * decile / DECILES;
    // Of so many keys a few find both of their buckets full: a store lets an older block give way then.
    let refused = Cell::new(0_u64);
    let fill = |ahead: bool| -> (Index, Vec<Duration>) {
        let index = Index::new(BLOCKS).expect("address space");
        refused.set(0);
        let decile = |decile| {
            let begun = Instant::now();
            let (mut number, end) = (end(decile), end(decile + 1));
            while number < end {
                let next = if ahead { end.min(number + AHEAD) } else { number + 1 };
                if ahead {
                    (number..next).for_each(|number| index.prefetch(number));
                }
                (number..next).for_each(|number| refused.set(refused.get() + u64::from(!index.insert(number))));
                number = next;
            }
            begun.elapsed()
        };
        let times = (0..DECILES).map(decile).collect();
        assert!(refused.get() <= BLOCKS >> 15, "{} of {BLOCKS} blocks have no room", refused.get());
        (index, times)
    };
    for (name, ahead) in [("insert", false), ("insert, in batches", true)] {
        let fills: Vec<Vec<Duration>> = (0..FILLS).map(|_| fill(ahead).1).collect();
        let mut group = c.benchmark_group(format!("index/alone, 2^{BITS} blocks/{name}"));
        for decile in 0..DECILES {
            let count = end(decile + 1) - end(decile);
            group.throughput(Throughput::Elements(count)).sample_size(FILLS);
            // A fill gives a sample of each decile; they are told one after the other.
            let turn = RefCell::new(fills.iter().cycle());
            group.bench_function(format!("decile {}", decile + 1), |b| {
                let next = || turn.borrow_mut().next().expect("without end")[usize::try_from(decile).expect("few")];
                b.iter_custom(|fills| (0..fills).map(|_| next()).sum());
            });
        }
        group.finish();
    }

    let (index, _) = fill(true);
    assert!(index.memory_bytes() <= BLOCKS * 11, "{} bytes for 2^{BITS} blocks", index.memory_bytes());
    let mut group = c.benchmark_group(format!("index/alone, 2^{BITS} blocks"));
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    let mut next = move || {
        number += 1;
        shuffled(number, BITS) as u64
    };
    let (asked, missing) = (Cell::new(0_u64), Cell::new(0_u64));
    let find = |number| {
        let found = index.find(number);
        asked.set(asked.get() + 1);
        missing.set(missing.get() + u64::from(found.is_none()));
        found.unwrap_or_default()
    };
    group.bench_function("hit", |b| b.iter(|| find(next())));
    // Each key depends on what was found for the one before.
    group.bench_function("hit, one after the other", |b| {
        let mut found = 0;
        b.iter(|| {
            found = find((next() + found) % BLOCKS);
            found
        });
    });
    let (others, taken) = (Cell::new(0_u64), Cell::new(0_u64));
    group.bench_function("miss", |b| {
        b.iter(|| {
            let found = index.find(next() + BLOCKS).is_some();
            others.set(others.get() + 1);
            taken.set(taken.get() + u64::from(found));
        });
    });
    // A word has a part of the hash only.
    assert!(taken.get() <= others.get() / 1000 + 10, "{} of {} were taken for another", taken.get(), others.get());
    const { assert!(AHEAD == 32) };
    group.throughput(Throughput::Elements(AHEAD));
    group.bench_function("hits, in batches", |b| {
        b.iter(|| {
            let numbers: [u64; 32] = std::array::from_fn(|_| next());
            for number in numbers {
                index.prefetch(number);
            }
            numbers.into_iter().fold(0, |all: u64, number| all.wrapping_add(find(number)))
        });
    });
    group.finish();
    let is_found = missing.get() <= refused.get() * (asked.get() / BLOCKS + 4);
    assert!(is_found, "{} of {} blocks were not found", missing.get(), asked.get());
}

/// The library has it for `--cfg benching` only.
#[cfg(not(benching))]
fn alone(_: &mut Criterion) {
    eprintln!("skipped: the index alone is measured with RUSTFLAGS=\"--cfg benching\"");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1));
    targets = lookups, alone
}
criterion_main!(benches);
