//! `read/*`: blocks that are in memory, in no order, beside the same bytes in a bare mapping.
//!
//! Every row adds up the bytes it reads. What `limit` touches is where the store has its blocks: a mapping of a file as
//! long as all of them, walked in the same order.

use std::path::Path;
use std::time::Duration;

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
        let mut block = noise(len);
        let put = |number: usize| {
            stamp(&mut block, number as u64);
            scratch.put(REALM, &block).expect("room")
        };
        let keys: Vec<BlockHash> = (0..count).map(put).collect();
        scratch.flush().expect("a disk that works");
        let of_store: u64 = keys.iter().fold(0, |all, key| {
            all.wrapping_add(scratch.read(REALM, *key, sum).expect("a block that was just written"))
        });
        assert_eq!(sum(&map) != 0, of_store != 0);
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
        let again = keys
            .iter()
            .fold(0, |all: u64, key| all.wrapping_add(scratch.read(REALM, *key, sum).expect("a block that stays")));
        assert_eq!(again, of_store, "every block reads as it was written");
        assert_eq!(scratch.stats().corrupted, 0);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1));
    targets = hot
}
criterion_main!(benches);
