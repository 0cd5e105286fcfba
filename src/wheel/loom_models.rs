//! The protocols between the parts of the wheel, explored by loom: the parts are the real ones, their files have none
//! but tiny buffers behind them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::block::{
    BlockAddress, BlockHash, BlockKind, FileId, FileSize, HighWaterMark, KeyHash, PAGE_LEN, PAGE_SIZE, Realm, Slot,
};
use crate::index::{BlockIndex, Published, Room, View};
use crate::storage::MemoryFileSource;
use crate::sync::atomic::{AtomicU32, Ordering, fence};
use crate::sync::{Arc, Mutex, thread};
use crate::wheel::deadline::Deadline;
use crate::wheel::file::{BlockFile, FileTable};
use crate::wheel::gather::Gather;
use crate::wheel::high_water::HighWater;
use crate::wheel::lane::{Lane, Outstanding};
use crate::wheel::pending::{Deferred, Gathered, Previous, Record};
use crate::wheel::pin::Pinner;
use crate::wheel::reserve::Reservation;
use crate::wheel::slots::State;
use crate::wheel::work::Work;

const REALM: Realm = Realm::DEFAULT;

fn first_file() -> FileId {
    FileId::new(1).unwrap()
}

fn slot(number: u32) -> Slot {
    Slot::new(number).unwrap()
}

/// A table of one file, in its first lap, and whatever threads share beside it.
struct Shared<T> {
    table: FileTable,
    rest: T,
}

impl<T: 'static> Shared<T> {
    fn new(rest: T) -> Arc<Self> {
        // Two pages of payloads, between the header and the directory.
        let source = MemoryFileSource::builder().files_per_folder(3).file_size(4 * PAGE_SIZE).build().unwrap();
        let shared = Self { table: FileTable::new(Arc::new(source), 1, 1), rest };
        let file = shared.file();
        file.begin_lap(1, 0);
        // The states are there before threads meet: a model does not track how they come to be.
        file.slots.set(slot(0), State::Empty);
        file.cursor.reset(1, 0);
        Arc::new(shared)
    }

    fn file(&self) -> &BlockFile {
        self.table.file(first_file())
    }

    fn spawn(self: &Arc<Self>, run: impl FnOnce(&Self) + 'static) -> thread::JoinHandle<()> {
        let shared = Arc::clone(self);
        thread::spawn(move || run(&shared))
    }
}

/// What the lane gathers, and where it is stored.
struct Gathering {
    lane: Lane,
    disk: Mutex<BTreeMap<u64, Vec<u8>>>,
}

const LEN: u32 = 8;

impl Shared<Gathering> {
    /// Gathers the block of `number`, whose bytes are that number.
    fn gather(&self, number: u8) {
        let (file, bytes) = (self.file(), [number; LEN as usize]);
        let mut gathering = self.rest.lane.gather_now();
        let Ok((page, at)) = file.cursor.reserve(1) else { return };
        if gathering.open.is_none() {
            let spare = gathering.take_spare();
            gathering.open = Some(Gather::open(file.id(), FileSize::MIN, spare));
        }
        let gather = gathering.open.as_mut().unwrap();
        let offset = u64::from(page) * PAGE_SIZE;
        let start = gather.add(at, offset, &[&bytes], file.size().entry_offset(at), &[0; 64]).unwrap();
        let (key, buffer) = (BlockHash::of(&bytes), Arc::clone(gather.buffer()));
        let gathered = Gathered {
            realm: REALM,
            key,
            kind: BlockKind::Content,
            len: LEN,
            start,
            buffer,
            hides: None,
            refused: false,
        };
        file.gathered(1);
        file.pending.lock().insert(at, Record::Gathered(gathered));
        file.slots.set(at, State::Gathered);
        drop(gathering);
        file.finish(1);
    }

    /// Stores what is gathered.
    fn store(&self) {
        let taken = self.rest.lane.gather_now().take();
        if let Some(outstanding) = taken {
            self.store_taken(outstanding);
        }
    }

    /// As a writer does whose block needs the next buffer.
    fn hand_over(&self) {
        let taken = self.rest.lane.gather_now().take();
        if let Some(outstanding) = taken.and_then(|outstanding| self.rest.lane.hand_over(outstanding)) {
            self.store_taken(outstanding);
        }
    }

    fn store_until_stopped(&self) {
        loop {
            match self.rest.lane.next_work() {
                Work::Store(outstanding) => self.store_taken(outstanding),
                Work::Stop => return,
                work => panic!("{work:?}"),
            }
        }
    }

    fn store_taken(&self, outstanding: Outstanding) {
        let (file, gather) = (self.file(), &outstanding.gather);
        let store = |offset, bytes: &[u8]| {
            let pages = bytes.chunks(PAGE_LEN).map(<[u8]>::to_vec);
            self.rest.disk.lock().extend((offset..).step_by(PAGE_LEN).zip(pages));
            Ok(())
        };
        gather.store_runs(store).unwrap();
        {
            let mut pending = file.pending.lock();
            for at in gather.slots() {
                file.slots.set(*at, State::Ready);
                pending.remove(*at);
            }
        }
        file.gathered_are_stored(u32::try_from(gather.slots().len()).unwrap());
        self.rest.lane.gather_is_stored(outstanding);
    }

    fn is_on_disk(&self, number: u8) -> bool {
        let offset = u64::from(number) * PAGE_SIZE;
        self.rest.disk.lock().get(&offset).is_some_and(|bytes| bytes[..LEN as usize] == [number; LEN as usize])
    }

    /// Reads the first block, as far as it has come, and goes on looking at the bytes that were lent.
    fn read_first(&self) {
        let file = self.file();
        match file.slots.get(slot(0)) {
            State::Gathered => {
                let record = file.pending.lock().get(slot(0)).cloned();
                let Some(Record::Gathered(lent)) = record else {
                    assert_eq!(file.slots.get(slot(0)), State::Ready);
                    return;
                };
                let bytes = || lent.buffer.bytes(lent.start..lent.start + u64::from(LEN)).unwrap();
                assert_eq!(bytes(), [1; LEN as usize]);
                // Whatever happens meanwhile: the next block takes this lock once it is in its buffer.
                drop(file.pending.lock());
                assert_eq!(bytes(), [1; LEN as usize], "the buffer was filled again while it was lent");
            }
            State::Ready => assert!(self.is_on_disk(1)),
            state => assert_eq!(state, State::Empty),
        }
    }
}

#[test]
fn a_gathered_block_is_lent_unchanged_while_its_buffer_is_stored_and_the_next_one_filled() {
    loom::model(|| {
        let shared = Shared::new(Gathering { lane: Lane::new(0), disk: Mutex::default() });
        shared.gather(1);
        let writer = shared.spawn(|shared| shared.gather(2));
        let storer = shared.spawn(Shared::store);
        shared.read_first();
        writer.join().unwrap();
        storer.join().unwrap();
        shared.store();
        assert!(shared.is_on_disk(1) && shared.is_on_disk(2));
    });
}

#[test]
fn a_sealed_file_is_quiet_only_when_all_that_was_gathered_for_it_is_stored() {
    loom::model(|| {
        let shared = Shared::new(Gathering { lane: Lane::new(0), disk: Mutex::default() });
        let writer = shared.spawn(|shared| shared.gather(1));
        let storer = shared.spawn(Shared::store);
        let file = shared.file();
        file.cursor.seal();
        if file.is_quiet() {
            // It may be used again now.
            assert!(file.pending.lock().get(slot(0)).is_none());
            assert!(file.cursor.next_slot() == 0 || shared.is_on_disk(1));
        }
        writer.join().unwrap();
        storer.join().unwrap();
        shared.store();
        assert!(file.is_quiet());
    });
}

/// The key of the block in a slot, and its age.
struct InFile<'a>(&'a BlockFile);

impl View for InFile<'_> {
    fn is_same_key(&self, address: BlockAddress) -> bool {
        self.0.slots.get(address.slot()) != State::Failed
    }

    fn version(&self, address: BlockAddress) -> (u64, u32) {
        (self.0.generation(), address.slot().get())
    }
}

fn key() -> KeyHash {
    KeyHash::of(0, REALM, BlockHash::from_u128(1))
}

impl Shared<BlockIndex> {
    fn indexed() -> Arc<Self> {
        Self::new(BlockIndex::with_buckets(1, Room::Fixed).unwrap())
    }

    /// A write: reserved, published, finished. It may come at any time of a recycling.
    fn write(&self) {
        let file = self.file();
        if let Ok((_, at)) = file.cursor.reserve(0) {
            file.slots.set(at, State::Ready);
            let _ = self.rest.publish_if_newer(key(), file.address(at), &InFile(file));
            file.finish(1);
        }
    }

    /// A read: what it finds under its pin belongs to the lap in which the index named it.
    fn read(&self) {
        for address in self.rest.candidates(key()) {
            let Ok(pin) = self.file().pin() else { continue };
            if pin.file().slots.get(address.slot()) == State::Ready {
                assert_eq!(pin.file().generation(), 1);
                // Whatever happens meanwhile: the pin holds the lap.
                assert_eq!(pin.file().slots.get(address.slot()), State::Ready);
                assert_eq!(pin.file().generation(), 1);
            }
        }
    }

    /// Recycles the file, if it drains at once; whether it did.
    fn recycle(&self) -> bool {
        let file = self.file();
        file.cursor.seal();
        self.rest.sweep(file.id(), drop);
        file.pins.close();
        let drained = file.is_quiet() && file.pins.is_drained();
        if drained {
            self.rest.sweep(file.id(), drop);
            file.begin_lap(2, 0);
            file.pins.reopen();
        }
        drained
    }

    fn names_nothing(&self) -> bool {
        let mut named = 0;
        self.rest.for_each(|_| named += 1);
        named == 0 && self.rest.len() == 0
    }
}

#[test]
fn no_word_of_an_earlier_lap_is_left_when_a_file_begins_the_next() {
    loom::model(|| {
        let shared = Shared::indexed();
        let straggler = shared.spawn(Shared::<BlockIndex>::write);
        let recycled = shared.recycle();
        let left_at_once = recycled && !shared.names_nothing();
        straggler.join().unwrap();
        assert!(!left_at_once);
        assert!(!recycled || shared.names_nothing());
    });
}

#[test]
fn a_reader_under_a_pin_stays_in_the_lap_that_the_index_named() {
    loom::model(|| {
        let shared = Shared::indexed();
        shared.write();
        let reader = shared.spawn(Shared::read);
        let straggler = shared.spawn(Shared::<BlockIndex>::write);
        let recycled = shared.recycle();
        reader.join().unwrap();
        straggler.join().unwrap();
        assert!(!recycled || shared.names_nothing());
    });
}

#[test]
fn a_word_does_not_outlive_the_failure_of_its_gather_buffer() {
    loom::model(|| {
        let shared = Shared::indexed();
        let (_, at) = shared.file().cursor.reserve(0).unwrap();
        let address = shared.file().address(at);
        // As in `gather_failed`.
        let failing = shared.spawn(move |shared| {
            shared.rest.remove(key(), address);
            shared.file().slots.set(at, State::Failed);
            fence(Ordering::SeqCst);
            shared.rest.remove(key(), address);
        });
        // As in `publish_reserved`.
        let _ = shared.rest.publish_if_newer(key(), address, &InFile(shared.file()));
        fence(Ordering::SeqCst);
        if shared.file().slots.get(at) == State::Failed {
            shared.rest.remove(key(), address);
        }
        failing.join().unwrap();
        assert!(shared.names_nothing());
    });
}

#[test]
fn a_version_found_while_a_newer_one_fails_takes_its_place() {
    loom::model(|| {
        let shared = Shared::indexed();
        let [old, new] = [0, 1].map(|_| shared.file().cursor.reserve(0).unwrap().1);
        let (found, failed) = (shared.file().address(old), shared.file().address(new));
        let ticket = Reservation::new(shared.file(), new, 0, 0).into_ticket();
        let closure = Box::new(|_: &mut [u8]| ());
        let newer = Deferred::new(REALM, BlockHash::from_u128(1), BlockKind::Named, 0, closure, ticket);
        let newer = Arc::new(newer);
        let _ = shared.rest.publish_if_newer(key(), failed, &InFile(shared.file()));
        // As in `restore`.
        let failing = {
            let newer = Arc::clone(&newer);
            shared.spawn(move |shared| {
                let hidden = newer.hides.begin_to_fail();
                if !hidden.is_some_and(|hidden| shared.rest.compare_exchange_if(key(), failed, hidden.address, || true))
                {
                    shared.rest.remove(key(), failed);
                }
                shared.file().slots.set(new, State::Failed);
            })
        };
        // As in `publish`.
        let view = InFile(shared.file());
        while let Published::Superseded(_) = shared.rest.publish_if_newer(key(), found, &view) {
            if newer.hides.hide(Previous { address: found, generation: 1, block: None, hides: None }) {
                break;
            }
            thread::yield_now();
        }
        failing.join().unwrap();
        assert_eq!(shared.rest.candidates(key()).next(), Some(found));
    });
}

/// Calls that are admitted, and the lane whose flusher runs what they leave.
struct Closing {
    calls: Pinner,
    lane: Lane,
    admitted: AtomicU32,
    run: AtomicU32,
}

impl Shared<Closing> {
    fn write(&self) {
        let Ok(call) = self.rest.calls.pin() else { return };
        let file = self.file();
        let (page, at) = file.cursor.reserve(0).unwrap();
        let ticket = Reservation::new(file, at, page, 0).into_ticket();
        let deferred = Deferred::new(REALM, BlockHash::from_u128(1), BlockKind::Named, 0, Box::new(|_| ()), ticket);
        self.rest.lane.push(Arc::new(deferred));
        self.rest.admitted.fetch_add(1, Ordering::Relaxed);
        self.rest.calls.unpin(call);
    }

    fn flush_until_stopped(&self) {
        loop {
            match self.rest.lane.next_work() {
                Work::Closure(_) => self.rest.run.fetch_add(1, Ordering::Relaxed),
                Work::Stop => return,
                work => panic!("{work:?}"),
            };
        }
    }

    fn close(&self) {
        self.rest.calls.close();
        while !self.rest.calls.is_drained() {
            thread::yield_now();
        }
        self.rest.lane.stop();
    }
}

#[test]
fn a_close_ends_the_flusher_after_the_closures_of_every_call_that_was_admitted() {
    loom::model(|| {
        let (admitted, run) = (AtomicU32::new(0), AtomicU32::new(0));
        let shared = Shared::new(Closing { calls: Pinner::new(1), lane: Lane::new(0), admitted, run });
        let writer = shared.spawn(Shared::<Closing>::write);
        let flusher = shared.spawn(Shared::flush_until_stopped);
        shared.close();
        writer.join().unwrap();
        flusher.join().unwrap();
        let [admitted, run] = [&shared.rest.admitted, &shared.rest.run].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(admitted, run);
    });
}

#[test]
fn whoever_waits_for_a_buffer_to_be_stored_is_woken() {
    loom::model(|| {
        let shared = Shared::new(Gathering { lane: Lane::new(0), disk: Mutex::default() });
        shared.gather(1);
        let storer = shared.spawn(Shared::store);
        // As a flush does. There is no clock here: a wake-up that is lost is a deadlock.
        shared.store();
        let deadline = Deadline::after(Duration::from_hours(1));
        assert!(shared.rest.lane.wait_for_outstanding(&deadline));
        assert!(shared.is_on_disk(1));
        storer.join().unwrap();
    });
}

#[test]
fn a_buffer_that_is_handed_over_is_stored_once_also_when_the_flusher_is_told_to_stop() {
    loom::model(|| {
        let shared = Shared::new(Gathering { lane: Lane::new(0), disk: Mutex::default() });
        let flusher = shared.spawn(Shared::store_until_stopped);
        for number in [1, 2] {
            shared.gather(number);
            shared.hand_over();
        }
        shared.rest.lane.stop();
        flusher.join().unwrap();
        let deadline = Deadline::after(Duration::ZERO);
        assert!(shared.rest.lane.wait_for_outstanding(&deadline));
        assert!(shared.is_on_disk(1) && shared.is_on_disk(2));
    });
}

#[test]
fn an_entry_is_stored_behind_the_mark_that_covers_it_whoever_has_raised_it() {
    loom::model(|| {
        let high_water = HighWater::new(FileSize::MIN, Some(1));
        high_water.begin();
        // What the file has. Relaxed: whoever goes on sees it by what the high-water mark orders, or the model fails.
        let shared = Arc::new((high_water, AtomicU32::new(0)));
        let store = |(high_water, mark): &(HighWater, AtomicU32), number: u32| {
            let raise = |raised: Option<HighWaterMark>| {
                mark.store(raised.unwrap().slots, Ordering::Relaxed);
                Ok(())
            };
            high_water.cover(slot(number), raise).unwrap();
            let mark = mark.load(Ordering::Relaxed);
            assert!(number < mark, "slot {number} is stored, and the mark is {mark}");
        };
        let other = Arc::clone(&shared);
        let writer = thread::spawn(move || [4, 9].into_iter().for_each(|number| store(&other, number)));
        [5, 14].into_iter().for_each(|number| store(&shared, number));
        writer.join().unwrap();
        assert_eq!(shared.1.load(Ordering::Relaxed), 16);
    });
}
