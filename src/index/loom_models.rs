//! The races of the index, explored by loom. Run with
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release --lib loom`.
//!
//! A bucket has two words here. An address tells its key (slot modulo 4) and its age: file, then slot.
#![forbid(unsafe_code)]

use super::*;
use crate::block::Slot;
use crate::sync::{Arc, thread};

/// All keys share tag and buckets, so that each word is a candidate for each of them.
const TAG: u32 = 7;
const ONE_BUCKET: [usize; 2] = [0, 0];
const TWO_BUCKETS: [usize; 2] = [0, 1];

#[derive(Clone, Copy)]
struct Key(u32);

impl View for Key {
    fn is_same_key(&self, address: BlockAddress) -> bool {
        key_of(address) == self.0
    }

    fn version(&self, address: BlockAddress) -> (u64, u32) {
        (address.file().get().into(), address.slot().get())
    }
}

fn key_of(address: BlockAddress) -> u32 {
    address.slot().get() % 4
}

impl Key {
    fn at(self, file: u16, version: u32) -> BlockAddress {
        BlockAddress::new(FileId::new(file).unwrap(), Slot::new(version * 4 + self.0).unwrap())
    }

    fn place(self, buckets: [usize; 2]) -> Place {
        Place { tag: TAG, buckets, spread: 0, stripe: self.0 as usize % Stripes::COUNT }
    }

    fn publish(self, index: &BlockIndex, buckets: [usize; 2], new: BlockAddress) -> Published {
        index.publish_at(self.place(buckets), new, &self)
    }

    fn find(self, index: &BlockIndex, buckets: [usize; 2]) -> Vec<BlockAddress> {
        index.all_candidates_at(self.place(buckets)).filter(|&address| key_of(address) == self.0).collect()
    }

    /// Both buckets are the first one of each level.
    fn alone(self) -> Place {
        self.place(ONE_BUCKET)
    }

    fn publish_alone(self, index: &BlockIndex, new: BlockAddress) -> Published {
        index.publish_at(self.alone(), new, &self)
    }

    fn find_alone(self, index: &BlockIndex) -> Vec<BlockAddress> {
        let mut found = self.find(index, ONE_BUCKET);
        // A bucket that is both of a key's shows each word twice.
        found.dedup();
        found
    }
}

/// Runs a model, and fails if it had next to no orders to try: then it would prove nothing.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    // Not one of loom's: it lives through all runs.
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    loom::model(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    let runs = runs.load(std::sync::atomic::Ordering::Relaxed);
    assert!(runs > 20, "{runs} runs");
}

const A: Key = Key(0);
const B: Key = Key(1);
const C: Key = Key(2);

fn index(buckets: usize) -> Arc<BlockIndex> {
    Arc::new(BlockIndex::with_buckets(buckets, Room::Fixed).unwrap())
}

/// One bucket that is full of two keys, and levels to come.
fn growing() -> Arc<BlockIndex> {
    let index = BlockIndex::with_buckets(1, Room::Grows(u64::MAX)).unwrap();
    for key in [B, C] {
        assert_eq!(key.publish_alone(&index, key.at(1, 0)), Published::Inserted);
    }
    Arc::new(index)
}

fn all(index: &BlockIndex) -> Vec<BlockAddress> {
    let mut all = Vec::new();
    index.for_each(|address| all.push(address));
    all.sort_by_key(|address| address.to_bits());
    assert_eq!(index.len(), all.len() as u64);
    all
}

#[test]
fn a_look_up_never_misses_a_key_that_is_being_replaced() {
    explore(|| {
        let index = index(2);
        assert_eq!(A.publish(&index, TWO_BUCKETS, A.at(1, 0)), Published::Inserted);
        let writer = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                assert_eq!(A.publish(&index, TWO_BUCKETS, A.at(2, 0)), Published::Replaced(A.at(1, 0)));
                assert_eq!(A.publish(&index, TWO_BUCKETS, A.at(2, 1)), Published::Replaced(A.at(2, 0)));
            })
        };
        let first = A.find(&index, TWO_BUCKETS);
        let second = A.find(&index, TWO_BUCKETS);
        assert_eq!([first.len(), second.len()], [1, 1]);
        assert!(first[0].to_bits() <= second[0].to_bits(), "no look-up goes back in time");
        writer.join().unwrap();
        assert_eq!(all(&index), [A.at(2, 1)]);
    });
}

#[test]
fn a_look_up_misses_a_key_only_if_it_was_absent_meanwhile() {
    explore(|| {
        let index = index(2);
        assert_eq!(A.publish(&index, TWO_BUCKETS, A.at(1, 0)), Published::Inserted);
        // Another key in the first bucket makes the second one the emptier: A comes back elsewhere.
        assert_eq!(B.publish(&index, ONE_BUCKET, B.at(1, 0)), Published::Inserted);
        let absent = Arc::new(AtomicU64::new(0));
        let writer = {
            let (index, absent) = (Arc::clone(&index), Arc::clone(&absent));
            thread::spawn(move || {
                absent.store(1, Ordering::SeqCst);
                assert!(index.remove_at(A.place(TWO_BUCKETS), A.at(1, 0)));
                assert_eq!(A.publish(&index, TWO_BUCKETS, A.at(2, 0)), Published::Inserted);
                absent.store(2, Ordering::SeqCst);
            })
        };
        let before = absent.load(Ordering::SeqCst);
        let found = A.find(&index, TWO_BUCKETS);
        let after = absent.load(Ordering::SeqCst);
        if found.is_empty() {
            assert!(before < 2 && after > 0, "a miss with no absence");
        }
        writer.join().unwrap();
        assert_eq!(all(&index), [B.at(1, 0), A.at(2, 0)]);
    });
}

/// A has its word in the second level, removes it, and comes back in the first: the order in which these are read.
#[test]
fn a_look_up_misses_a_key_that_goes_to_another_level_only_if_it_was_absent_meanwhile() {
    explore(|| {
        let index = growing();
        assert_eq!(A.publish_alone(&index, A.at(1, 0)), Published::Inserted);
        let absent = Arc::new(AtomicU64::new(0));
        let writer = {
            let (index, absent) = (Arc::clone(&index), Arc::clone(&absent));
            thread::spawn(move || {
                assert!(index.remove_at(C.alone(), C.at(1, 0)));
                assert_eq!(A.publish_alone(&index, A.at(2, 0)), Published::Replaced(A.at(1, 0)));
                absent.store(1, Ordering::SeqCst);
                assert!(index.remove_at(A.alone(), A.at(2, 0)));
                assert_eq!(A.publish_alone(&index, A.at(3, 0)), Published::Inserted);
                absent.store(2, Ordering::SeqCst);
            })
        };
        let before = absent.load(Ordering::SeqCst);
        let found = A.find_alone(&index);
        let after = absent.load(Ordering::SeqCst);
        if found.is_empty() {
            assert!(before < 2 && after > 0, "a miss with no absence");
        }
        writer.join().unwrap();
        assert_eq!(all(&index), [B.at(1, 0), A.at(3, 0)]);
        assert_eq!(index.scan_at(1, A.alone()).unwrap().candidates(TAG).count(), 0);
    });
}

#[test]
fn two_inserts_that_both_need_another_level_share_it_and_are_found() {
    explore(|| {
        let index = growing();
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                assert_eq!(Key(3).publish_alone(&index, Key(3).at(1, 0)), Published::Inserted);
                assert_eq!(Key(3).find_alone(&index), [Key(3).at(1, 0)]);
            })
        };
        assert_eq!(A.publish_alone(&index, A.at(1, 0)), Published::Inserted);
        assert_eq!(A.find_alone(&index), [A.at(1, 0)]);
        other.join().unwrap();
        assert_eq!(all(&index), [A.at(1, 0), B.at(1, 0), C.at(1, 0), Key(3).at(1, 0)]);
        assert_eq!(index.levels.count(), 2);
    });
}

#[test]
fn two_inserts_of_one_key_into_another_level_leave_the_newer_word() {
    explore(|| {
        let index = growing();
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                let _ = index.remove_at(C.alone(), C.at(1, 0));
                A.publish_alone(&index, A.at(1, 0))
            })
        };
        let newer = A.publish_alone(&index, A.at(1, 1));
        let older = other.join().unwrap();
        let expected = if newer == Published::Inserted {
            (Published::Superseded(A.at(1, 1)), Published::Inserted)
        } else {
            (Published::Inserted, Published::Replaced(A.at(1, 0)))
        };
        assert_eq!((older, newer), expected);
        assert_eq!(all(&index), [B.at(1, 0), A.at(1, 1)]);
    });
}

#[test]
fn two_inserts_of_one_key_leave_the_newer_word() {
    explore(|| {
        let index = index(2);
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || A.publish(&index, TWO_BUCKETS, A.at(1, 0)))
        };
        let newer = A.publish(&index, TWO_BUCKETS, A.at(1, 1));
        let older = other.join().unwrap();
        let expected = if newer == Published::Inserted {
            (Published::Superseded(A.at(1, 1)), Published::Inserted)
        } else {
            (Published::Inserted, Published::Replaced(A.at(1, 0)))
        };
        assert_eq!((older, newer), expected);
        assert_eq!(all(&index), [A.at(1, 1)]);
    });
}

#[test]
fn inserts_of_two_keys_into_one_place_both_stay() {
    explore(|| {
        let index = index(1);
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || A.publish(&index, ONE_BUCKET, A.at(1, 0)))
        };
        assert_eq!(B.publish(&index, ONE_BUCKET, B.at(1, 0)), Published::Inserted);
        assert_eq!(other.join().unwrap(), Published::Inserted);
        assert_eq!(all(&index), [A.at(1, 0), B.at(1, 0)]);
    });
}

#[test]
fn a_remove_takes_the_old_word_or_none() {
    explore(|| {
        let index = index(2);
        assert_eq!(A.publish(&index, TWO_BUCKETS, A.at(1, 0)), Published::Inserted);
        let remover = {
            let index = Arc::clone(&index);
            thread::spawn(move || index.remove_at(A.place(TWO_BUCKETS), A.at(1, 0)))
        };
        let published = A.publish(&index, TWO_BUCKETS, A.at(2, 0));
        let was_removed = remover.join().unwrap();
        assert_eq!(published, if was_removed { Published::Inserted } else { Published::Replaced(A.at(1, 0)) });
        assert_eq!(all(&index), [A.at(2, 0)]);
    });
}

#[test]
fn an_exchange_and_a_publish_of_one_key_take_turns() {
    explore(|| {
        let index = index(1);
        assert_eq!(A.publish(&index, ONE_BUCKET, A.at(1, 0)), Published::Inserted);
        let rescuer = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                let place = A.place(ONE_BUCKET);
                index.compare_exchange_at(place, A.at(1, 0), A.at(3, 0), || true)
            })
        };
        let published = A.publish(&index, ONE_BUCKET, A.at(2, 0));
        if rescuer.join().unwrap() {
            assert_eq!(published, Published::Superseded(A.at(3, 0)));
            assert_eq!(all(&index), [A.at(3, 0)]);
        } else {
            assert_eq!(published, Published::Replaced(A.at(1, 0)));
            assert_eq!(all(&index), [A.at(2, 0)]);
        }
    });
}

#[test]
fn a_word_that_gives_way_is_told_once_and_its_own_writer_finds_another_place() {
    explore(|| {
        let index = index(1);
        assert_eq!(A.publish(&index, ONE_BUCKET, A.at(1, 0)), Published::Inserted);
        assert_eq!(B.publish(&index, ONE_BUCKET, B.at(2, 0)), Published::Inserted);
        let inserter = {
            let index = Arc::clone(&index);
            // The stripe of B, not that of A.
            thread::spawn(move || {
                let place = Place { stripe: 1, ..C.place(ONE_BUCKET) };
                index.publish_at(place, C.at(3, 0), &C)
            })
        };
        let a = A.publish(&index, ONE_BUCKET, A.at(4, 0));
        let c = inserter.join().unwrap();
        match (a, c) {
            // A was replaced in time, so B was the oldest.
            (Published::Replaced(old), Published::Evicted(gone)) => {
                assert_eq!((old, gone), (A.at(1, 0), B.at(2, 0)));
            }
            // C took A's word, A came back and took B's.
            (Published::Evicted(second), Published::Evicted(first)) => {
                assert_eq!((first, second), (A.at(1, 0), B.at(2, 0)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(all(&index), [C.at(3, 0), A.at(4, 0)]);
        assert_eq!(index.evictions(), if matches!(a, Published::Evicted(_)) { 2 } else { 1 });
    });
}

#[test]
fn two_inserts_into_a_full_bucket_evict_two_different_words() {
    explore(|| {
        let index = index(1);
        assert_eq!(Key(3).publish(&index, ONE_BUCKET, Key(3).at(1, 0)), Published::Inserted);
        assert_eq!(B.publish(&index, ONE_BUCKET, B.at(2, 0)), Published::Inserted);
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || A.publish(&index, ONE_BUCKET, A.at(3, 0)))
        };
        let c = Place { stripe: 1, ..C.place(ONE_BUCKET) };
        let mut gone = [index.publish_at(c, C.at(3, 0), &C), other.join().unwrap()];
        gone.sort_by_key(|gone| matches!(gone, Published::Evicted(address) if *address == B.at(2, 0)));
        assert_eq!(gone, [Published::Evicted(Key(3).at(1, 0)), Published::Evicted(B.at(2, 0))]);
        assert_eq!(all(&index), [A.at(3, 0), C.at(3, 0)]);
    });
}

#[test]
fn an_older_version_never_returns_when_a_newer_one_gave_way() {
    explore(|| {
        let index = index(1);
        assert_eq!(A.publish(&index, ONE_BUCKET, A.at(2, 0)), Published::Inserted);
        assert_eq!(B.publish(&index, ONE_BUCKET, B.at(3, 0)), Published::Inserted);
        let evictor = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                let place = Place { stripe: 1, ..C.place(ONE_BUCKET) };
                assert_eq!(index.publish_at(place, C.at(4, 0), &C), Published::Evicted(A.at(2, 0)));
                // Room, so that nothing but the floor stands in the way.
                assert!(index.remove_at(place, C.at(4, 0)));
            })
        };
        let late = A.publish(&index, ONE_BUCKET, A.at(1, 0));
        assert!(late == Published::Superseded(A.at(2, 0)) || late == Published::Evicted(A.at(1, 0)), "{late:?}");
        evictor.join().unwrap();
        assert_eq!(all(&index), [B.at(3, 0)]);
    });
}

#[test]
fn two_publishes_and_a_remove_of_one_key_leave_the_newest_word() {
    explore(|| {
        let index = index(1);
        assert_eq!(A.publish(&index, ONE_BUCKET, A.at(1, 0)), Published::Inserted);
        let publisher = {
            let index = Arc::clone(&index);
            thread::spawn(move || A.publish(&index, ONE_BUCKET, A.at(2, 0)))
        };
        let remover = {
            let index = Arc::clone(&index);
            thread::spawn(move || index.remove_at(A.place(ONE_BUCKET), A.at(1, 0)))
        };
        let results = [A.publish(&index, ONE_BUCKET, A.at(2, 1)), publisher.join().unwrap()];
        let was_removed = remover.join().unwrap();
        let inserted = results.iter().filter(|&&result| result == Published::Inserted).count();
        assert_eq!(inserted, usize::from(was_removed), "{results:?}");
        assert_eq!(all(&index), [A.at(2, 1)]);
    });
}

#[test]
fn a_sweep_takes_the_old_word_and_never_the_new_one() {
    explore(|| {
        let index = index(1);
        assert_eq!(A.publish(&index, ONE_BUCKET, A.at(1, 0)), Published::Inserted);
        let sweeper = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                let mut told = Vec::new();
                let count = index.sweep(FileId::new(1).unwrap(), |address| told.push(address));
                assert_eq!(count, told.len() as u64);
                told
            })
        };
        let published = A.publish(&index, ONE_BUCKET, A.at(2, 0));
        let told = sweeper.join().unwrap();
        match published {
            Published::Replaced(old) => assert_eq!((old, told), (A.at(1, 0), vec![])),
            Published::Inserted => assert_eq!(told, [A.at(1, 0)]),
            other => panic!("{other:?}"),
        }
        assert_eq!(all(&index), [A.at(2, 0)]);
    });
}

#[test]
fn whoever_finds_an_address_sees_what_its_writer_did_before() {
    explore(|| {
        let (index, prepared) = (index(1), Arc::new(AtomicU64::new(0)));
        let writer = {
            let (index, prepared) = (Arc::clone(&index), Arc::clone(&prepared));
            thread::spawn(move || {
                prepared.store(1, Ordering::Relaxed);
                assert_eq!(A.publish(&index, ONE_BUCKET, A.at(1, 0)), Published::Inserted);
            })
        };
        if !A.find(&index, ONE_BUCKET).is_empty() {
            assert_eq!(prepared.load(Ordering::Relaxed), 1);
        }
        writer.join().unwrap();
    });
}
