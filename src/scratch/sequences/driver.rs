//! Carries the calls of a sequence out on a store, and tells the model what became of each.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::block::{BlockHash, PAGE_SIZE, Realm, StoreId};
use crate::error::{BlittableError, FlushError, OpenError, ReadError, ReadWithError, WriteError};
use crate::scratch::{BlockRef, Scratch};
use crate::storage::MemoryFileSource;
use crate::storage::faulty::{Fault, Faults, FaultySource};
use crate::sync::{Arc, thread};
use crate::wheel::OnFull;

use super::calls::{Ends, How, Key, LENGTHS, NAMES, Op, Setting, bytes, content};
use super::model::Model;

const REALM: Realm = Realm::DEFAULT;
/// Decides the lanes of the keys: the same for the same seed.
const STORE: StoreId = StoreId::from_u128(0x5eed);
/// Bounds a hang, nothing else.
const LONG: Duration = Duration::from_secs(20);

pub(super) struct Driver {
    setting: Setting,
    files: MemoryFileSource,
    faults: Arc<Faults>,
    scratch: Option<Scratch>,
    model: Model,
    held: Vec<(BlockRef, Vec<u8>)>,
    written: u64,
}

impl Driver {
    pub(super) fn new(setting: Setting) -> Self {
        let files = MemoryFileSource::builder().folders(setting.folders).files_per_folder(setting.files);
        let mut driver = Self {
            setting,
            files: files.file_size(8 * PAGE_SIZE).store_id(STORE).build().unwrap(),
            faults: Arc::default(),
            scratch: None,
            model: Model::new(setting.on_full),
            held: Vec::new(),
            written: 0,
        };
        driver.open();
        driver
    }

    fn store(&self) -> Scratch {
        self.scratch.clone().expect("open between the calls")
    }

    fn open(&mut self) {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < LONG, "it does not open");
            let Setting { on_full, verify, gather, .. } = self.setting;
            let (below, delay) = gather.map_or((0, 0), |delay| (64 << 10, delay));
            let builder = Scratch::builder(FaultySource::with(self.files.clone(), Arc::clone(&self.faults)));
            let builder = builder.on_full(on_full).verify(verify).max_pending_bytes(60_000);
            let mut builder = builder.gather(below, Duration::from_millis(delay)).piece_pages(2);
            if on_full == OnFull::Refuse {
                // Few of the keys have a place in its first table.
                builder = builder.index_buckets(1);
            }
            match builder.wait_timeout(Duration::from_millis(20)).open() {
                Ok(scratch) => {
                    let report = scratch.wait_recovered(LONG).unwrap();
                    assert_eq!(report.skipped.misplaced + report.skipped.unknown + report.skipped.no_room, 0);
                    if report.skipped.unreadable == 0 {
                        self.scratch = Some(scratch);
                        return;
                    }
                    // What stands in a directory that was not read is missing until the next opening.
                    assert!(self.model.has_faults(), "{report:?}");
                    self.faults.clear();
                    scratch.close(LONG);
                }
                Err(OpenError::Io(error)) => {
                    self.model.is_told(&error);
                    self.faults.clear();
                }
                Err(OpenError::InUse { .. }) => self.drop_held(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn drop_held(&mut self) {
        for (block, bytes) in self.held.drain(..) {
            assert!(*block == *bytes, "a block changed while it was held");
        }
    }

    /// Judges what a key was found to be.
    fn judge(&self, key: Key, found: Option<&[u8]>) {
        self.model.judge(key, found, |(file, generation)| {
            let scratch = self.store();
            let wheel = scratch.wheel();
            // In this order: a file that has just got over dying has another generation by then.
            wheel.is_dying(file) || wheel.generation(file) != generation
        });
    }

    /// Repeats a read while the store says so, and judges what it gave; nothing if the disk failed.
    fn read(&mut self, key: Key, mut read: impl FnMut(&Scratch) -> Result<Vec<u8>, ReadError>) {
        let began = Instant::now();
        let scratch = self.store();
        loop {
            assert!(began.elapsed() < LONG, "{key:?} is busy for ever");
            match read(&scratch) {
                Ok(bytes) => return self.judge(key, Some(&bytes)),
                Err(ReadError::Missing { .. }) => return self.judge(key, None),
                Err(ReadError::Busy { .. }) => {}
                Err(ReadError::Failed { reason, .. }) => self.model.may_fail(key, &reason),
                Err(ReadError::Io(error)) => return self.model.is_told(&error),
                Err(error) => panic!("{key:?}: {error}"),
            }
        }
    }

    fn check(&mut self, key: Key, how: How) {
        let hash = key.hash();
        // What says nothing of the bytes is told them by a second read.
        let bytes = |scratch: &Scratch| scratch.read(REALM, hash, <[u8]>::to_vec);
        match how {
            How::Read => self.read(key, bytes),
            How::Verified => self.read(key, |scratch| scratch.read_verified(REALM, hash, <[u8]>::to_vec)),
            How::With => self.read(key, |scratch| {
                let read = scratch.read_with(REALM, hash, |reader| {
                    let rest = reader.remaining();
                    Ok::<_, BlittableError>(reader.read_slice::<u8>(rest)?.to_vec())
                });
                read.map_err(|error| match error {
                    ReadWithError::Read(error) => error,
                    error => panic!("{error}"),
                })
            }),
            How::Get => self.read(key, |scratch| scratch.get(REALM, hash).map(|block| block.to_vec())),
            How::Many => self.read(key, |scratch| {
                let mut found = None;
                scratch.get_many(REALM, &[hash], |_, read| found = Some(read.map(<[u8]>::to_vec)))?;
                found.expect("each is told")
            }),
            How::Contains => self.read(key, |scratch| {
                let missing = ReadError::Missing { realm: REALM, hash };
                if scratch.contains(REALM, hash)? { bytes(scratch) } else { Err(missing) }
            }),
            How::Info => self.read(key, |scratch| {
                scratch.info(REALM, hash)?;
                bytes(scratch)
            }),
        }
    }

    /// A call is over that began a version of this key. Whether nothing has happened.
    fn end(&mut self, key: Key, is_stored: bool, result: Result<(), WriteError>) -> bool {
        let place = self.store().info(REALM, key.hash()).ok().map(|info| (info.file, info.generation));
        self.model.end(key, is_stored, place, result)
    }

    fn put(&mut self, key: Key, new: &[u8]) -> bool {
        let hash = key.hash();
        self.model.begin(key, Some(new.to_vec()));
        let result = match key {
            Key::Name(_) => self.store().put_named(REALM, hash, new),
            Key::Content(_) => self.store().put(REALM, new).map(|found| assert_eq!(found, hash)),
        };
        self.end(key, self.setting.gather.is_none(), result)
    }

    fn write(&mut self, key: Key, new: Vec<u8>, ends: Ends) -> bool {
        let (scratch, hash) = (self.store(), key.hash());
        let ends = if matches!((key, ends), (Key::Name(_), Ends::Wrongly)) { Ends::Panics } else { ends };
        let ends_well = matches!(ends, Ends::Well);
        if ends_well {
            self.model.begin(key, Some(new.clone()));
        }
        let len = new.len();
        let closure = move |block: &mut [u8]| {
            block.copy_from_slice(&new);
            match ends {
                Ends::Well => {}
                Ends::Wrongly => block[0] ^= 1,
                // Without a message on the terminal.
                Ends::Panics => std::panic::resume_unwind(Box::new("as asked")),
            }
        };
        let result = match key {
            Key::Name(_) => scratch.write_named(REALM, hash, len, closure),
            Key::Content(_) => scratch.write(REALM, hash, len, closure),
        };
        if ends_well {
            return self.end(key, false, result);
        }
        match result {
            Ok(()) => self.model.will_fail(key),
            Err(error) => self.model.refused(&error),
        }
        false
    }

    fn remove(&mut self, key: Key) -> bool {
        self.model.begin(key, None);
        let result = self.store().remove(REALM, key.hash()).map(drop);
        self.end(key, self.setting.gather.is_none(), result)
    }

    fn put_many(&mut self, numbers: &[u8]) {
        let blocks: Vec<Vec<u8>> = numbers.iter().map(|number| content(*number)).collect();
        let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        for (number, block) in numbers.iter().zip(&blocks) {
            self.model.begin(Key::Content(*number), Some(block.clone()));
        }
        match self.store().put_many(REALM, &slices) {
            Ok(_) => {
                for number in numbers.iter().collect::<BTreeSet<_>>() {
                    self.end(Key::Content(*number), self.setting.gather.is_none(), Ok(()));
                }
            }
            // Some may be stored.
            Err(error) => self.model.refused(&error),
        }
    }

    fn flush(&mut self) -> Result<(), FlushError> {
        let result = self.store().flush();
        self.model.flushed(&result, self.faults.failed());
        result
    }

    pub(super) fn reopen(&mut self) {
        let report = self.store().close(LONG);
        assert_eq!(report.dropped, 0);
        self.model.closed(self.faults.failed());
        self.scratch = None;
        self.open();
        self.model.reopened(self.setting.on_full, self.faults.failed());
        for key in Key::all() {
            self.check(key, How::Get);
        }
    }

    /// The disk is whole again: so are the lanes, soon, and then every verb works.
    pub(super) fn lift(&mut self) {
        self.faults.clear();
        let began = Instant::now();
        let scratch = self.store();
        while scratch.health().broken().next().is_some() {
            assert!(began.elapsed() < LONG, "{}", self.describe());
            thread::sleep(Duration::from_millis(2));
        }
        scratch.wait_recovered(LONG).unwrap();
        drop(scratch);
        // Failures of before are told once more.
        while let Err(error) = self.flush() {
            assert!(began.elapsed() < LONG, "{error}");
        }
        self.drop_held();
        for number in 0..NAMES {
            let key = Key::Name(number);
            self.written += 1;
            let (first, second) = (bytes(self.written << 8, 3000), bytes(self.written << 8 | 1, 3000));
            self.until_done(|driver| driver.put(key, &first));
            self.check(key, How::Read);
            self.until_done(|driver| driver.write(key, second.clone(), Ends::Well));
            self.check(key, How::Get);
            self.until_done(|driver| driver.remove(key));
            self.check(key, How::Contains);
        }
        // A lane remembers a failure, and one of its files does, until the same has worked.
        if !self.store().wheel().is_failing() {
            self.model.lanes_are_whole();
        }
        // On a busy machine a closure may take longer than a call waits: nothing else fails.
        while let Err(error) = self.flush() {
            let is_busy = error.failed == 0 && error.io.is_none();
            assert!(is_busy && began.elapsed() < LONG, "{error}");
        }
        for key in Key::all() {
            self.check(key, How::Verified);
        }
    }

    /// Where every file stands.
    fn describe(&self) -> String {
        let scratch = self.store();
        let mut said = scratch.wheel().describe();
        let _ = write!(said, "{:?}\n{}", scratch.stats(), scratch.health());
        for key in Key::all() {
            let _ = write!(said, "\n {key:?} {:?}", scratch.info(REALM, key.hash()));
        }
        said
    }

    /// Repeats a write that found no room; what fills the store is removed.
    fn until_done(&mut self, mut call: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while call(self) {
            assert!(began.elapsed() < LONG, "there is no room for ever: {}", self.describe());
            if self.setting.on_full == OnFull::Refuse {
                for key in Key::all() {
                    self.remove(key);
                }
            }
        }
    }

    pub(super) fn run(&mut self, op: &Op) {
        self.written += 1;
        let number = self.written << 8;
        match op {
            Op::Put(content_number) => drop(self.put(Key::Content(*content_number), &content(*content_number))),
            Op::PutNamed(name, len) => drop(self.put(Key::Name(*name), &bytes(number, LENGTHS[*len]))),
            Op::PutMany(numbers) => self.put_many(numbers),
            Op::Write(number, ends) => drop(self.write(Key::Content(*number), content(*number), *ends)),
            Op::WriteNamed(name, len, ends) => {
                self.write(Key::Name(*name), bytes(number, LENGTHS[*len]), *ends);
            }
            Op::Remove(key) => drop(self.remove(*key)),
            Op::Read(key, how) => self.check(*key, *how),
            Op::Walk => {
                let known: BTreeMap<BlockHash, Key> = Key::all().map(|key| (key.hash(), key)).collect();
                let mut seen = BTreeSet::new();
                let walked = self.store().for_each(REALM, |block| {
                    assert!(known.contains_key(&block.hash) && seen.insert(block.hash), "{}", block.hash);
                });
                if let Err(ReadError::Io(error)) = &walked {
                    self.model.is_told(error);
                } else {
                    walked.unwrap();
                }
            }
            Op::Hold(key) => {
                let mut held = None;
                self.read(*key, |scratch| {
                    let block = scratch.get(REALM, key.hash())?;
                    let bytes = block.to_vec();
                    held = Some((block, bytes.clone()));
                    Ok(bytes)
                });
                self.held.extend(held);
            }
            Op::Release(which) => {
                if !self.held.is_empty() {
                    let (block, bytes) = self.held.swap_remove(usize::from(*which) % self.held.len());
                    assert!(*block == *bytes, "a block changed while it was held");
                }
            }
            Op::Flush => drop(self.flush()),
            Op::Reopen => self.reopen(),
            Op::Fault { k, sticky, errno, calls } => {
                let fault = Fault::at(*k).errno(*errno).only(calls);
                self.model.gives(errno.error().kind());
                self.faults.set(if *sticky { fault.sticky() } else { fault });
            }
            Op::Lift => self.lift(),
        }
    }
}
