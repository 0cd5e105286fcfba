//! The wheel itself under loom: real writes, real stores that fail, real closures. Only its threads are the model's.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::block::{BlockHash, BlockKind, Entry, FileId, PAGE_SIZE, Realm, Slot};
use crate::error::{FailedClosure, ReadError};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Call, Fault, Faults, FaultySource};
use crate::sync::{Arc, thread};
use crate::wheel::pending::Deferred;
use crate::wheel::reserve::Purpose;
use crate::wheel::run::Completion;
use crate::wheel::slots::State;
use crate::wheel::state::FileState;
use crate::wheel::{FileWheel, NewBlock, OnFull, WheelOptions};

const REALM: Realm = Realm::DEFAULT;

fn key() -> BlockHash {
    BlockHash::from_u128(1)
}

/// A wheel of one lane that gathers.
fn wheel() -> (Arc<FileWheel>, Arc<Faults>) {
    wheel_with(WheelOptions { expected_blocks: Some(1), ..WheelOptions::default() })
}

fn wheel_with(options: WheelOptions) -> (Arc<FileWheel>, Arc<Faults>) {
    let memory = MemoryFileSource::builder().files_per_folder(3).file_size(8 * PAGE_SIZE).build().unwrap();
    let source = FaultySource::new(memory);
    let faults = source.faults();
    let options = WheelOptions {
        gather_bytes: 4 * PAGE_SIZE,
        // The clock of a busy machine must not decide which way a run takes.
        report_waits: Duration::MAX,
        ..options
    };
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
        self.put_as(key(), version)
    }

    fn put_as(&self, key: BlockHash, version: u8) -> bool {
        let bytes = [version];
        let hash = BlockHash::of(&bytes);
        let block = NewBlock { realm: REALM, key, kind: BlockKind::Named, hash, parts: &[&bytes], len: 1 };
        self.store_block(&block, &self.deadline()).is_ok()
    }

    fn store_gathered_blocks(&self) {
        self.store_open_gather(&self.lanes[0], |_| true);
    }

    /// Ends the lap of the active file; the next one is there.
    fn end_lap(&self, file: FileId) {
        self.seal_early(&self.lanes[0], self.table.file(file));
    }

    /// What a keeper does of the last steps of a turn, as soon as it may; whether it did.
    fn finishes_a_turn(&self, file: FileId) -> bool {
        let has_drained = self.has_drained(file);
        if has_drained {
            self.finish_recycling(&self.lanes[0], file);
        }
        has_drained
    }

    fn version(&self) -> Option<u8> {
        self.find(REALM, key()).ok().map(|lent| lent[0])
    }

    /// The counts and records that a store at rest has, of so many blocks.
    fn is_at_rest_with(&self, blocks: u64) {
        assert_eq!(self.live_blocks(), blocks);
        for file in self.table.iter() {
            assert!((0..file.cursor.next_slot()).filter_map(Slot::new).all(|slot| {
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

/// A write that the index has no place for takes its entry back, or has whoever stores its buffer do so: one of the two.
#[test]
fn what_the_index_refuses_leaves_no_entry_whoever_stores_its_buffer() {
    explore(|| {
        // Two words.
        let options = WheelOptions { index_buckets: Some(1), max_index_bytes: Some(1), ..WheelOptions::default() };
        let (wheel, _) = wheel_with(WheelOptions { on_full: OnFull::Refuse, ..options });
        assert!((2..4).all(|number| wheel.put_as(BlockHash::from_u128(number), 1)));
        wheel.store_gathered_blocks();
        let storing = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || wheel.store_gathered_blocks())
        };
        assert!(!wheel.put(1) && !wheel.put(2));
        storing.join().unwrap();
        wheel.store_gathered_blocks();
        let file = wheel.table.file(wheel.lanes[0].active().unwrap());
        for slot in [2, 3].map(|slot| Slot::new(slot).unwrap()) {
            let mut entry = [1; Entry::SIZE];
            file.memory().unwrap().load(file.size().entry_offset(slot), &mut entry).unwrap();
            assert_eq!((entry, file.slots.get(slot)), ([0; Entry::SIZE], State::Failed));
        }
        wheel.is_at_rest_with(2);
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

/// The pin of a reader holds the lap, wherever the keeper is.
#[test]
fn what_is_lent_of_a_file_that_makes_room_keeps_its_lap_from_ending() {
    explore(|| {
        let (wheel, _) = wheel();
        assert!(wheel.put(1));
        wheel.store_gathered_blocks();
        let oldest = wheel.lanes[0].active().unwrap();
        wheel.end_lap(oldest);
        let generation = wheel.table.file(oldest).generation();
        let reader = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || match wheel.find(REALM, key()) {
                Ok(lent) => {
                    assert_eq!(wheel.table.file(oldest).generation(), generation);
                    assert_eq!(lent[..], [1]);
                }
                Err(ReadError::Missing { .. }) => {}
                Err(error) => panic!("{error}"),
            })
        };
        wheel.recycle(&wheel.lanes[0], oldest);
        let is_over = wheel.finishes_a_turn(oldest);
        reader.join().unwrap();
        assert!(is_over || wheel.finishes_a_turn(oldest));
        assert_eq!((wheel.version(), wheel.turn.lock().state(oldest)), (None, FileState::Free));
        wheel.is_at_rest_with(0);
    });
}

/// A write holds no pin, only its reservation, and what it gathers no more than a count: neither may outlive the lap.
#[test]
fn a_write_that_is_under_way_in_a_file_that_makes_room_leaves_nothing_in_its_next_lap() {
    explore(|| {
        let (wheel, _) = wheel();
        assert!(wheel.put(1));
        wheel.store_gathered_blocks();
        let oldest = wheel.lanes[0].active().unwrap();
        let writer = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || wheel.put(2))
        };
        wheel.end_lap(oldest);
        wheel.recycle(&wheel.lanes[0], oldest);
        let is_over = wheel.finishes_a_turn(oldest);
        assert!(writer.join().unwrap());
        wheel.store_gathered_blocks();
        assert!(is_over || wheel.finishes_a_turn(oldest));
        let file = wheel.table.file(oldest);
        assert_eq!((file.cursor.next_slot(), file.slots.get(Slot::new(0).unwrap())), (0, State::Empty));
        // It went with the lap, or it is in the next file.
        let found = wheel.version();
        assert!(found.is_none_or(|version| version == 2), "{found:?}");
        wheel.is_at_rest_with(u64::from(found.is_some()));
    });
}

/// How a closure that fails ended, as this thread has learned it.
fn is_panicked(completion: &Completion) -> bool {
    matches!(completion, Completion::Failed(FailedClosure::Panicked))
}

/// A closure panics, on whichever thread is first. Whoever runs it, waits for it or finds it over learns the same end, or
/// finds the version before; nobody waits for ever, as there is no clock here; and it runs once.
#[test]
fn a_closure_that_panics_ends_once_and_alike_for_reader_flusher_and_flush() {
    explore(|| {
        let (wheel, _) = wheel();
        assert!(wheel.put(1));
        wheel.store_gathered_blocks();
        let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let closure = Box::new(move |_: &mut [u8]| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            // As a panic, without its message in every run.
            std::panic::resume_unwind(Box::new(()));
        });
        wheel.defer_block((REALM, key()), BlockKind::Named, 1, closure, &wheel.deadline()).unwrap();
        let waiting: Vec<_> = wheel.table.iter().flat_map(|file| file.pending.lock().deferred()).collect();
        let reader = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || match wheel.find(REALM, key()) {
                Ok(lent) => assert_eq!(lent[..], [1]),
                Err(ReadError::Failed { reason, .. }) => assert_eq!(reason, FailedClosure::Panicked),
                Err(error) => panic!("{error}"),
            })
        };
        let flusher = {
            let wheel = Arc::clone(&wheel);
            thread::spawn(move || wheel.run_one_queued(&wheel.lanes[0], &wheel.deadline()))
        };
        // As a flush does.
        assert!(is_panicked(&wheel.complete(&waiting[0], &wheel.deadline())));
        // Told before whoever waited for it is awake.
        assert_eq!(wheel.counters.failed_panicked.get(), 1);
        reader.join().unwrap();
        flusher.join().unwrap();
        assert_eq!((runs.load(std::sync::atomic::Ordering::Relaxed), wheel.version()), (1, Some(1)));
        assert_eq!((wheel.counters.failed.get(), wheel.pending_bytes()), (1, 0));
        wheel.is_at_rest_with(1);
    });
}

/// The record of a closure is found before its writer knows what it hides: whoever comes then waits, and is woken by the
/// writer, or by whoever was first to take the closure and fails.
#[test]
fn whoever_waits_for_a_closure_that_is_not_published_yet_learns_how_it_ends() {
    explore(|| {
        let (wheel, _) = wheel();
        let reservation = wheel.reserve(&wheel.lanes[0], 0, Purpose::Data, &wheel.deadline()).unwrap();
        let closure = Box::new(|_: &mut [u8]| std::panic::resume_unwind(Box::new(())));
        let deferred = Deferred::new(REALM, key(), BlockKind::Named, 0, closure, reservation.into_ticket());
        let deferred = Arc::new(deferred);
        let complete = || {
            let (wheel, deferred) = (Arc::clone(&wheel), Arc::clone(&deferred));
            thread::spawn(move || assert!(is_panicked(&wheel.complete(&deferred, &wheel.deadline()))))
        };
        let others = [complete(), complete()];
        deferred.is_published();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(deferred.result(), Some(Err(FailedClosure::Panicked)));
        assert!(deferred.take().is_none());
    });
}
