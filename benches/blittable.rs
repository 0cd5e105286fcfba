//! `blittable/*`: typed values into a block and out of it, beside a copy of the same bytes and a `put` of them.

use std::sync::Arc;
use std::time::Duration;

use benchkit::{KIB, MIB, noise, warm_memory};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use scratchspace::bytemuck::cast_slice;
use scratchspace::{BlittableReader, MemoryFileSource, Realm, Scratch};

const REALM: Realm = Realm::DEFAULT;

fn values(c: &mut Criterion) {
    warm_memory(1 << 30);
    let source = MemoryFileSource::builder().files_per_folder(4).file_size(64 * MIB as u64).build();
    let scratch = Scratch::open(source.expect("options in their ranges")).expect("a new store");
    let columns: Vec<u64> =
        noise(MIB).chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();

    let mut group = c.benchmark_group("blittable/1 MiB column");
    group.throughput(Throughput::Bytes(MIB as u64));
    // Content of its own in each block: what is there is not stored again.
    let mut number = 0;
    let assert_stored = |key, number: u64| {
        let block = scratch.get(REALM, key).expect("a block that was just written");
        assert!(block[..8] == number.to_le_bytes() && block[8..] == *cast_slice::<u64, u8>(&columns[1..]), "{number}");
    };
    group.bench_function("limit: copy, and put to memory", |b| {
        let mut last = None;
        b.iter(|| {
            number += 1;
            let mut copy = columns.clone();
            copy[0] = number;
            last = Some(scratch.put(REALM, cast_slice(&copy)).expect("room"));
        });
        assert_stored(last.expect("an iteration"), number);
    });
    group.bench_function("write_slice and commit to memory", |b| {
        let mut last = None;
        b.iter(|| {
            number += 1;
            let mut writer = scratch.writer(REALM);
            writer.write::<u64>(&number);
            writer.write_slice(&columns[1..]);
            last = Some(writer.commit().expect("room"));
        });
        assert_stored(last.expect("an iteration"), number);
    });
    group.bench_function("limit: put to memory", |b| {
        b.iter_batched_ref(
            || {
                number += 1;
                let mut copy = columns.clone();
                copy[0] = number;
                copy
            },
            |copy| scratch.put(REALM, cast_slice(copy)).expect("room"),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("write_shared and commit to memory", |b| {
        let (shared, mut last): (Arc<[u64]>, _) = (columns[1..].into(), None);
        b.iter(|| {
            number += 1;
            let mut writer = scratch.writer(REALM);
            writer.write::<u64>(&number);
            writer.write_shared(Arc::clone(&shared));
            last = Some(writer.commit().expect("room"));
        });
        assert_stored(last.expect("an iteration"), number);
    });
    let bytes = {
        let mut writer = scratch.writer(REALM);
        writer.write_prefixed(&columns);
        writer.to_bytes().expect("a complete block")
    };
    let key = scratch.put(REALM, &bytes).expect("room");
    let block = scratch.get(REALM, key).expect("a block that was just written");
    group.bench_function("read_prefixed, borrowed", |b| {
        b.iter(|| {
            let mut reader = BlittableReader::new(&block);
            let read: &[u64] = reader.read_prefixed().expect("what was written");
            assert_eq!(read.len(), columns.len());
        });
        assert!(BlittableReader::new(&block).read_prefixed::<u64>().expect("what was written") == columns);
    });
    group.finish();
    one_by_one(c, &scratch, &columns[..4 * KIB / 8]);
}

fn one_by_one(c: &mut Criterion, scratch: &Scratch, words: &[u64]) {
    let mut group = c.benchmark_group("blittable/512 words one by one");
    group.throughput(Throughput::Elements(words.len() as u64));
    group.bench_function("limit: a vector", |b| {
        b.iter(|| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    });
    group.bench_function("write", |b| {
        b.iter(|| {
            let mut writer = scratch.writer(REALM);
            for word in words {
                writer.write(word);
            }
            writer.to_bytes().expect("a complete block")
        });
    });
    let bytes = {
        let mut writer = scratch.writer(REALM);
        for word in words {
            writer.write(word);
        }
        writer.to_bytes().expect("a complete block")
    };
    let expected = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
    group.bench_function("read", |b| {
        b.iter(|| {
            let mut reader = BlittableReader::new(&bytes);
            let mut sum = 0_u64;
            while !reader.is_empty() {
                sum = sum.wrapping_add(reader.read::<u64>().expect("what was written"));
            }
            assert_eq!(sum, expected);
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1));
    targets = values
}
criterion_main!(benches);
