//! Every storage call fails: the k-th, for every k of a run of three laps, once or from then on. Calls of the trait over
//! files in memory and on a disk; and on a disk every call of the system that is behind them.
//!
//! A run opens a store over tiny files, turns them three times, closes, reopens and closes again. It waits for the
//! store's threads after each step, so that the k-th call is the same one each time. What fails prints its case:
//! `SCRATCHSPACE_FAULT=files,k,errno,sticky,gathers` runs it alone, say `memory,17,Io,true,false`. With
//! `SCRATCHSPACE_FAULTS=all` each call over files in memory fails with every error, and not with one of them; and every call
//! of the system fails, and not only those of the opening and of the first files, and every eleventh.
//!
//! # What must hold
//!
//! 1. A key reads as its last version that is stored or as a later one, whatever fails, or its file has turned. What
//!    lies in a directory that could not be read is counted as such, and there again at the next opening.
//! 2. What fails says so with the file or folder and with what the disk answered; nothing hangs, nothing panics.
//! 3. Once calls work again the store does too, without being opened again.
//! 4. A store whose close failed opens, and has everything that was stored.
#![forbid(unsafe_code)]

mod files;

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use crate::block::{BlockHash, Realm};
use crate::error::{FailedClosure, FlushError, IoError, OpenError, ReadError, WriteError};
use crate::scratch::Scratch;
use crate::scratch::faults::files::{Files, Kind};
use crate::scratch::history::{History, Short, Version, number_of};
use crate::storage::MemoryFileSource;
use crate::storage::dice::Dice;
use crate::storage::faulty::{Call, Errno, Fault, FaultySource};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, thread};

const REALM: Realm = Realm::DEFAULT;
const FILES: u16 = 3;
/// A header, six pages of blocks, a directory.
const FILE_SIZE: u64 = 32 << 10;
/// Three blocks of four pages in all, and others.
const ROUNDS: u64 = 15;
/// Calls after the first opening in which each file is made for the first time.
const FIRST_CALLS: u64 = 50;
/// Named keys, written in turn.
const NAMES: u64 = 3;
/// Longest wait of a call. A lane that fails is BROKEN long before.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long small blocks are gathered at most: nothing is stored because time went by.
const LONG: Duration = Duration::from_secs(10);
/// Bound of everything that is waited for: only a defect reaches it.
const HANGS: Duration = Duration::from_mins(1);

/// One run: which call fails, and how.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    k: u64,
    errno: Errno,
    sticky: bool,
    gathers: bool,
}

/// What a run was that has ended.
#[derive(Debug)]
struct Ended {
    /// Calls at the end of each phase: open, work, close, reopen, work, close.
    calls: Vec<u64>,
    failed: Vec<String>,
    turns: u64,
}

struct Run {
    case: Option<Case>,
    gathers: bool,
    files: Files,
    keys: BTreeMap<BlockHash, History>,
    /// How many versions each key had when a directory could not be read at the last opening.
    unread: BTreeMap<BlockHash, usize>,
    era: u64,
    written: u64,
    calls: Vec<u64>,
}

impl Run {
    /// Runs until the end; `None`: nothing fails.
    fn to_the_end(case: Option<Case>, kind: Kind, gathers: bool) -> Ended {
        let files = Files::new(kind);
        if let Some(Case { k, errno, sticky, .. }) = case {
            files.fail(k, errno, sticky);
        }
        let (keys, unread, calls) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut run = Self { case, gathers, files, keys, unread, era: 0, written: 0, calls };
        let mut turns = 0;
        for rounds in [ROUNDS, 2] {
            let scratch = run.open();
            run.phase_ends();
            run.check(&scratch);
            for round in 0..rounds {
                run.round(&scratch, round);
            }
            if run.files.failed() > 0 {
                run.heal(&scratch);
            }
            run.check(&scratch);
            turns += scratch.stats().turns;
            run.phase_ends();
            run.close(&scratch);
            drop(scratch);
            run.phase_ends();
        }
        run.files.clear();
        let scratch = run.open();
        run.check(&scratch);
        run.heal(&scratch);
        drop(scratch);
        Ended { calls: run.calls, failed: run.files.failed_calls(), turns }
    }

    fn phase_ends(&mut self) {
        self.calls.push(self.files.total());
    }

    /// Opens the store; if that fails it must succeed once nothing fails any more.
    fn open(&mut self) -> Scratch {
        let open = || {
            let source = self.files.source()?;
            let (gather, delay) = if self.gathers { (64 << 10, LONG) } else { (0, Duration::ZERO) };
            // Files that are this small are sent to the device as a whole, unless they are cut up.
            Scratch::builder(source).gather(gather, delay).piece_pages(2).wait_timeout(PATIENCE).open()
        };
        let scratch = open().unwrap_or_else(|error| {
            let OpenError::Io(error) = error else { panic!("{error}") };
            self.check_error(&error);
            self.files.clear();
            open().expect("it opens once nothing fails")
        });
        let report = scratch.wait_recovered(HANGS).expect("recovery ends");
        self.unread.clear();
        if report.skipped.unreadable > 0 {
            assert!(self.files.failed_calls().iter().any(|call| call == "Load"), "{report:?}");
            let versions = self.keys.iter().map(|(key, history)| (*key, history.versions.len()));
            self.unread = versions.collect();
        }
        self.settle(&scratch);
        scratch
    }

    /// The store's threads come to rest, so that the next call is the same in each run. After a failure nobody
    /// counts any more.
    fn settle(&self, scratch: &Scratch) {
        let began = Instant::now();
        let wheel = scratch.wheel();
        while self.files.failed() == 0 && !(wheel.keepers_rest() && scratch.stats().pending_bytes == 0) {
            assert!(began.elapsed() < HANGS, "the keeper does not come to rest");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// One call of each kind, more or less.
    fn round(&mut self, scratch: &Scratch, round: u64) {
        let named = BlockHash::from_u128(u128::from(round % NAMES + 1));
        let bytes = self.bytes(5000);
        self.write(scratch, named, Some(&bytes), true, |bytes| scratch.put_named(REALM, named, bytes.unwrap()));
        self.read(scratch, named);
        let bytes = self.bytes(3000);
        let content = BlockHash::of(&bytes);
        match round % 3 {
            0 => self.write(scratch, content, Some(&bytes), true, |_| scratch.put(REALM, &bytes).map(drop)),
            1 => self.write(scratch, content, Some(&bytes), false, |_| {
                let bytes = bytes.clone();
                scratch.write(REALM, content, bytes.len(), move |block| block.copy_from_slice(&bytes))
            }),
            _ => self.put_many(scratch, &bytes),
        }
        self.read(scratch, content);
        match round % 5 {
            1 => {
                let removed = BlockHash::from_u128(u128::from((round / 5) % NAMES + 1));
                self.write(scratch, removed, None, true, |_| scratch.remove(REALM, removed).map(drop));
                self.read(scratch, removed);
            }
            3 => self.flush(scratch),
            _ => {}
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.written += 1;
        let mut dice = Dice::new(self.written);
        let mut bytes = self.written.to_le_bytes().to_vec();
        bytes.extend(std::iter::repeat_with(|| dice.next().to_le_bytes()).take(len / 8).flatten());
        bytes
    }

    /// Notes that a key is written by `call`, and how that ended.
    fn write(
        &mut self,
        scratch: &Scratch,
        key: BlockHash,
        bytes: Option<&[u8]>,
        at_once: bool,
        call: impl FnOnce(Option<&[u8]>) -> Result<(), WriteError>,
    ) {
        let mut version =
            Version { bytes: bytes.map(<[u8]>::to_vec), place: None, done: false, stored: false, era: self.era };
        let result = call(bytes);
        self.settle(scratch);
        match result {
            Ok(()) => {
                version.done = true;
                version.stored = at_once && !self.gathers;
                version.place = scratch.info(REALM, key).ok().map(|info| (info.file, info.generation));
            }
            Err(WriteError::Io(error)) => self.check_error(&error),
            Err(error) => panic!("key {key}: {error}"),
        }
        self.keys.entry(key).or_default().versions.push(version);
        self.settle(scratch);
    }

    fn put_many(&mut self, scratch: &Scratch, first: &[u8]) {
        let second = self.bytes(100);
        let result = scratch.put_many(REALM, &[first, &second]);
        for bytes in [first, &second] {
            self.write(scratch, BlockHash::of(bytes), Some(bytes), true, |_| match &result {
                Ok(keys) => {
                    assert_eq!(keys, &[BlockHash::of(first), BlockHash::of(&second)]);
                    Ok(())
                }
                Err(error) => Err(error.clone()),
            });
        }
    }

    fn flush(&mut self, scratch: &Scratch) {
        match scratch.flush() {
            Ok(()) => self.is_durable(),
            Err(error) => {
                self.check_flush(&error);
                self.era += 1;
            }
        }
        self.settle(scratch);
    }

    /// What was written since the last failure that was told.
    fn is_durable(&mut self) {
        for history in self.keys.values_mut() {
            let era = self.era;
            let durable = history.versions.iter().rposition(|version| version.done && version.era == era);
            history.durable = history.durable.max(durable);
        }
    }

    /// Reads a key in every way there is.
    fn read(&self, scratch: &Scratch, key: BlockHash) {
        self.judge(scratch, key, scratch.get(REALM, key).map(|block| block.to_vec()));
        self.judge(scratch, key, scratch.read(REALM, key, <[u8]>::to_vec));
        self.judge(scratch, key, scratch.read_verified(REALM, key, <[u8]>::to_vec));
        let mut read = None;
        scratch.get_many(REALM, &[key], |_, block| read = Some(block.map(<[u8]>::to_vec))).unwrap();
        self.judge(scratch, key, read.expect("it was asked for one block"));
        if let Err(error) = scratch.contains(REALM, key) {
            self.check_read(&error);
        }
        self.settle(scratch);
    }

    /// Whether a key may read as that.
    fn judge(&self, scratch: &Scratch, key: BlockHash, read: Result<Vec<u8>, ReadError>) {
        let read = match read {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_missing() => None,
            // Told once: what is there instead is read next.
            Err(error) => return self.check_read(&error),
        };
        let history = &self.keys[&key];
        let has_turned = |version: &Version| has_turned(scratch, version);
        let mut judged = history.judge(read.as_deref(), |_| true, has_turned);
        if let Some(unread) = self.unread.get(&key) {
            // As if these had never been durable: one of them, or nothing, unless it was written since.
            let versions = history.versions.iter().enumerate().map(|(at, version)| {
                let is_new = at >= *unread;
                Version { stored: version.stored && is_new, ..version.clone() }
            });
            let durable = history.durable.filter(|durable| durable >= unread);
            let history = History { versions: versions.collect(), durable };
            judged = history.judge(read.as_deref(), |_| true, has_turned);
        }
        let last = history.versions.last().expect("it was written");
        if self.files.failed() == 0 && read != last.bytes && !has_turned(last) {
            judged = Err("nothing has failed, and the last version is not there");
        }
        if let Err(problem) = judged {
            let what = read.as_deref().map(|bytes| (bytes.len(), number_of(bytes)));
            let versions: Vec<_> = history.versions.iter().map(Short).collect();
            panic!("{problem}: key {key} reads as {what:?}, durable {:?} of {versions:?}", history.durable);
        }
    }

    fn check(&self, scratch: &Scratch) {
        for key in self.keys.keys() {
            self.judge(scratch, *key, scratch.get(REALM, *key).map(|block| block.to_vec()));
        }
        self.settle(scratch);
    }

    fn check_read(&self, error: &ReadError) {
        match error {
            ReadError::Io(error) | ReadError::Failed { reason: FailedClosure::Io(error), .. } => {
                self.check_error(error);
            }
            other => panic!("{other}"),
        }
    }

    fn check_flush(&self, error: &FlushError) {
        match &error.first {
            Some(FailedClosure::Io(error)) => self.check_error(error),
            None => assert!(error.io.is_some(), "{error}"),
            Some(other) => panic!("{other}"),
        }
        if let Some(error) = &error.io {
            self.check_error(error);
        }
    }

    /// What is told names what was touched, and what the disk said.
    fn check_error(&self, error: &IoError) {
        let case = self.case.unwrap_or_else(|| panic!("nothing was made to fail: {error}"));
        let path = error.path().unwrap_or_else(|| panic!("no file or folder is named: {error}"));
        assert!(path.starts_with(self.files.root()), "{error}");
        assert_eq!(error.kind(), case.errno.error().kind(), "{error}");
    }

    /// Nothing fails any more: after a while everything works again.
    fn heal(&mut self, scratch: &Scratch) {
        self.files.clear();
        let began = Instant::now();
        let key = BlockHash::from_u128(999);
        loop {
            let bytes = self.bytes(4000);
            self.write(scratch, key, Some(&bytes), true, |bytes| scratch.put_named(REALM, key, bytes.unwrap()));
            self.flush(scratch);
            let history = &self.keys[&key];
            if history.durable == Some(history.versions.len() - 1) && scratch.health().broken().next().is_none() {
                break;
            }
            assert!(began.elapsed() < HANGS, "the store does not heal: {}", scratch.health());
            thread::sleep(Duration::from_millis(5));
        }
        self.read(scratch, key);
    }

    fn close(&mut self, scratch: &Scratch) {
        let (began, failed) = (Instant::now(), self.files.failed());
        let report = scratch.close(HANGS);
        assert!(began.elapsed() < HANGS, "the close hangs");
        assert_eq!((report.dropped, report.lent), (0, 0), "{report:?}");
        assert_eq!(scratch.flush().unwrap_err().failed, 0);
        assert!(matches!(scratch.put(REALM, b"late"), Err(WriteError::Closed)));
        if self.files.failed() > failed {
            // What was gathered may be lost; a later flush does not speak of it.
            self.era += 1;
        } else {
            self.is_durable();
        }
    }
}

/// Whether the file of a version has begun another lap, or is about to.
fn has_turned(scratch: &Scratch, version: &Version) -> bool {
    version.place.is_none_or(|(file, generation)| scratch.wheel().has_turned(file, generation))
}

/// Which of the cases are run: all of `SCRATCHSPACE_FAULTS`, the one of `SCRATCHSPACE_FAULT`, or each call (on a disk some)
/// with one error.
fn cases(clean: &Ended, kind: Kind, gathers: bool) -> Vec<Case> {
    let (opened, calls) = (clean.calls[0], *clean.calls.last().unwrap());
    let all = env::var("SCRATCHSPACE_FAULTS").is_ok_and(|which| which == "all");
    let only = env::var("SCRATCHSPACE_FAULT").ok();
    let is_chosen = |case: &Case| only.as_ref().is_none_or(|only| *only == case.to_string());
    let errnos = |k: u64| {
        let one = usize::try_from(k % 4).unwrap();
        if only.is_some() || (all && kind == Kind::Memory) { Errno::ALL.to_vec() } else { vec![Errno::ALL[one]] }
    };
    // Eleven is no multiple of the number of errors: all of them come.
    let is_met =
        |k: &u64| all || only.is_some() || kind != Kind::System || *k <= opened + FIRST_CALLS || k.is_multiple_of(11);
    let cases = (1..=calls).filter(is_met).flat_map(|k| errnos(k).into_iter().map(move |errno| (k, errno)));
    let cases = cases.flat_map(|(k, errno)| [false, true].map(|sticky| Case { kind, k, errno, sticky, gathers }));
    cases.filter(is_chosen).collect()
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, k, errno, sticky, gathers } = self;
        write!(f, "{},{k},{errno:?},{sticky},{gathers}", kind.name())
    }
}

/// Runs every case, many at once: they wait more than they work.
fn sweep(kind: Kind, gathers: bool) {
    // The shortest of some: a longer one has calls by chance, which most cases do not come to.
    let clean = (0..3).map(|_| Run::to_the_end(None, kind, gathers));
    let clean = clean.min_by_key(|ended| ended.calls.last().copied()).expect("three of them");
    assert!(clean.turns >= u64::from(FILES) * 2, "three laps: each file is filled once and turns twice: {clean:?}");
    assert!(clean.calls.windows(2).all(|ends| ends[0] < ends[1]), "each phase calls: {clean:?}");
    let calls = *clean.calls.last().unwrap();
    let cases = cases(&clean, kind, gathers);
    eprintln!("{kind:?}: {clean:?}, {} cases", cases.len());
    let next = AtomicU64::new(0);
    let failed = Mutex::new(BTreeMap::<String, u64>::new());
    let unmet = AtomicU64::new(0);
    let bad = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                // Relaxed: nothing but the number is shared.
                while let Some(case) = cases.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
                    let run = std::panic::AssertUnwindSafe(|| Run::to_the_end(Some(*case), kind, gathers));
                    let Ok(ended) = std::panic::catch_unwind(run) else {
                        bad.lock().push(format!("SCRATCHSPACE_FAULT={case}"));
                        continue;
                    };
                    // Whether a flush or the syncer syncs a file that was just sealed is chance: a few calls more or
                    // less, and on a slow machine more of them.
                    let is_met = !ended.failed.is_empty();
                    assert!(is_met || case.k + calls / 16 > calls, "{case:?}: there is no such call");
                    // Relaxed: read when all threads have ended.
                    unmet.fetch_add(u64::from(!is_met), Ordering::Relaxed);
                    for call in ended.failed {
                        *failed.lock().entry(call).or_default() += 1;
                    }
                }
            });
        }
    });
    let (bad, failed, unmet) = (bad.lock(), failed.lock(), unmet.into_inner());
    println!("{kind:?}: {unmet} of {} cases came after the last call", cases.len());
    // Else the end of a run, its second close above all, would be tried by nobody.
    assert!(unmet <= 8 + cases.len() as u64 / 100, "{unmet} of {} cases have met no fault", cases.len());
    assert!(bad.is_empty(), "{} of {} cases failed, repeat with {bad:#?}", bad.len(), cases.len());
    if env::var("SCRATCHSPACE_FAULT").is_err() {
        let missed: Vec<_> = kind.calls().into_iter().filter(|call| !failed.contains_key(call)).collect();
        assert!(missed.is_empty(), "every kind of call must have failed, and {missed:?} has not: {failed:?}");
    }
}

#[test]
fn whichever_call_fails_nothing_that_was_stored_is_lost_and_the_store_heals() {
    sweep(Kind::Memory, false);
}

#[test]
fn whichever_call_fails_nothing_that_was_gathered_and_flushed_is_lost() {
    sweep(Kind::Memory, true);
}

#[test]
fn whichever_call_fails_on_a_disk_nothing_is_lost_and_the_store_heals() {
    sweep(Kind::Disk, true);
}

/// Between the calls of one creation, of one sync, of one opening; and a store that has come half-way.
#[test]
#[cfg(target_os = "linux")]
fn whichever_call_of_the_system_fails_nothing_that_was_stored_is_lost_and_the_store_heals() {
    sweep(Kind::System, false);
}

/// A version that was flushed was hidden by a newer one in a gather buffer. The buffer could not be stored, and as the
/// disk could not read the entry of the older one either just then, that one left the index, too.
#[test]
fn a_flushed_version_comes_back_whose_entry_cannot_be_read_when_a_newer_one_fails() {
    let key = BlockHash::from_u128(1);
    for is_hidden_before in [true, false] {
        let files = MemoryFileSource::builder().file_size(FILE_SIZE).build().unwrap();
        let source = FaultySource::new(files);
        let faults = source.faults();
        let scratch = Scratch::builder(source).gather(64 << 10, LONG).open().unwrap();
        scratch.put_named(REALM, key, b"flushed").unwrap();
        scratch.flush().unwrap();
        let fails = || faults.set(Fault::at(1).sticky());
        if !is_hidden_before {
            fails();
        }
        scratch.put_named(REALM, key, b"gathered").unwrap();
        fails();
        scratch.flush().unwrap_err();
        faults.clear();
        assert_eq!(scratch.get(REALM, key).as_deref(), Ok(&b"flushed"[..]), "hidden before: {is_hidden_before}");
        assert_eq!(scratch.len(), 1);
    }
}

/// A directory that could not be read for a moment hid its blocks until the next opening. (One that is read twice:
/// `damaged`.)
#[test]
fn a_directory_that_cannot_be_read_at_first_is_read_again_and_counted_if_that_fails_too() {
    let files = MemoryFileSource::builder().file_size(FILE_SIZE).build().unwrap();
    let scratch = Scratch::open(files.clone()).unwrap();
    let hash = scratch.put(REALM, b"of an earlier run").unwrap();
    scratch.close(HANGS);
    drop(scratch);
    let reopen = |fault: Option<Fault>| {
        let source = FaultySource::new(files.clone());
        let faults = source.faults();
        if let Some(fault) = fault {
            faults.set(fault);
        }
        let scratch = Scratch::open(source).unwrap();
        let report = scratch.wait_recovered(HANGS).unwrap();
        let loads = faults.count(Call::Load);
        let is_there = scratch.contains(REALM, hash).unwrap();
        scratch.close(HANGS);
        (loads, report.files, report.skipped.unreadable > 0, is_there)
    };
    let (loads, headers, ..) = reopen(None);
    assert!(loads > headers, "a header, and a directory: {loads}");
    for (k, sticky) in (headers + 1..=loads).flat_map(|k| [(k, false), (k, true)]) {
        let fault = Fault::at(k).only(&[Call::Load]).errno(Errno::Io);
        let (.., is_unreadable, is_there) = reopen(Some(if sticky { fault.sticky() } else { fault }));
        assert_eq!((is_unreadable, is_there), (sticky, !sticky), "load {k} of {loads}");
    }
}
