//! The wheel itself under loom: real writes, real stores that fail, real closures. Only its threads are the model's.
#![forbid(unsafe_code)]

use crate::block::{BlockHash, BlockKind, PAGE_SIZE, Realm};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Fault, Faults, FaultySource};
use crate::sync::{Arc, thread};
use crate::wheel::slots::State;
use crate::wheel::{FileWheel, NewBlock, WheelOptions};

const REALM: Realm = Realm::DEFAULT;

fn key() -> BlockHash {
    BlockHash::from_u128(1)
}

/// A wheel of one lane that gathers.
fn wheel() -> (Arc<FileWheel>, Arc<Faults>) {
    let memory = MemoryFileSource::builder().files_per_folder(3).file_size(8 * PAGE_SIZE).build().unwrap();
    let source = FaultySource::new(memory);
    let faults = source.faults();
    let options = WheelOptions { gather_bytes: 4 * PAGE_SIZE, expected_blocks: Some(1), ..WheelOptions::default() };
    let wheel = FileWheel::without_threads(Arc::new(source), options);
    // One more than the first: a file whose store fails is sealed, and there is no keeper to make another.
    let spare = *wheel.turn.lock().lanes[0].absent.last().unwrap();
    wheel.create_file(&wheel.lanes[0], spare);
    (wheel, faults)
}

/// Runs a model with two preemptions (a write is some sixty steps), or with any number where no bound is set.
///
/// Fails if it had next to no orders to try: then it would prove nothing.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    // Not one of loom's: it lives through all runs.
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.map(|most| most.min(2));
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    let runs = runs.load(std::sync::atomic::Ordering::Relaxed);
    assert!(runs > 20, "{runs} runs");
}

impl FileWheel {
    /// Writes this version of the key, which is a byte; whether the call says that it is stored.
    fn put(&self, version: u8) -> bool {
        let bytes = [version];
        let hash = BlockHash::of(&bytes);
        let block = NewBlock { realm: REALM, key: key(), kind: BlockKind::Named, hash, parts: &[&bytes], len: 1 };
        self.store_block(&block, &self.deadline()).is_ok()
    }

    fn store_gathered_blocks(&self) {
        self.store_open_gather(&self.lanes[0], |_| true);
    }

    fn version(&self) -> Option<u8> {
        self.find(REALM, key()).ok().map(|lent| lent[0])
    }

    /// The counts and records that a store at rest has, of so many blocks.
    fn is_at_rest_with(&self, blocks: u64) {
        assert_eq!(self.live_blocks(), blocks);
        for file in self.table.iter() {
            assert!((0..file.cursor.next_slot()).filter_map(crate::block::Slot::new).all(|slot| {
                !matches!(file.slots.get(slot), State::Gathered | State::Pending | State::Running)
                    && file.pending.lock().get(slot).is_none()
            }));
        }
    }
}

/// A block is published by its writer and fails by whoever stores its buffer. NAMED and FAILED, each set before the
/// other is looked at, say which of the two comes last and puts back what the block hid.
#[test]
fn what_a_block_hid_is_back_when_its_buffer_fails_before_while_or_after_it_is_published() {
    explore(|| {
        let (wheel, faults) = wheel();
        assert!(wheel.put(1));
        wheel.store_gathered_blocks();
        faults.set(Fault::at(1).sticky().only(&[Call::Store]));
        let writer = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || wheel.put(2))
        };
        wheel.store_gathered_blocks();
        writer.join().unwrap();
        wheel.store_gathered_blocks();
        assert_eq!(wheel.version(), Some(1));
        wheel.is_at_rest_with(1);
    });
}

/// The version that a write hides may fail at any moment of the write: what that one hid is then what the write hides.
#[test]
fn when_two_versions_fail_one_after_the_other_the_one_before_both_is_back() {
    explore(|| {
        let (wheel, faults) = wheel();
        assert!(wheel.put(1));
        wheel.store_gathered_blocks();
        assert!(wheel.put(2));
        // Of version 2 the payload is not stored, nor of version 3 if it is in the same buffer.
        faults.set(Fault::at(1).only(&[Call::Store]));
        let writer = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || wheel.put(3))
        };
        wheel.store_gathered_blocks();
        let is_written = writer.join().unwrap();
        let before = wheel.version();
        assert!(before == Some(3) || before == Some(1), "{before:?}");
        assert!(is_written || before == Some(1));
        wheel.store_gathered_blocks();
        assert_eq!(wheel.version(), before);
        wheel.is_at_rest_with(1);
    });
}

/// The version that a failing write puts back may begin to fail in that moment: asked before its word is there and again
/// after it, one of the two sees the other.
#[test]
fn when_two_versions_fail_at_the_same_time_the_one_before_both_is_back() {
    explore(|| {
        let (wheel, faults) = wheel();
        assert!(wheel.put(1));
        wheel.store_gathered_blocks();
        assert!(wheel.put(2));
        let earlier = wheel.lanes[0].gather_now().take().unwrap();
        assert!(wheel.put(3));
        faults.set(Fault::at(1).sticky().only(&[Call::Store]));
        let failing = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || wheel.store_outstanding(&wheel.lanes[0], earlier))
        };
        wheel.store_gathered_blocks();
        failing.join().unwrap();
        assert_eq!(wheel.version(), Some(1));
        wheel.is_at_rest_with(1);
    });
}
