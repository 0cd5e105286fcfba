//! One thread of the store's users: it writes, removes and reads the keys that are its own, and checks each answer.
//!
//! # Invariants
//!
//! 1. A key has one writer, so that its versions are begun in the order in which the store sees them.
//! 2. What a call did goes into the oracle as begun before it, and as done after it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::panic;
use std::process;

use scratchspace::{BlockHash, BlockRef, FailedClosure, FlushError, OnFull, ReadError, Scratch, WriteError};

use crate::blocks::KeyKind;
use crate::dice::Dice;
use crate::laps::Place;
use crate::oracle::{Count, Kind, Oracle, Read, Version};
use crate::site::{Ended, REALM, Site, WRITERS, answer};

/// Blocks that a thread holds at most.
const HELD: usize = 3;

/// A panic that a closure was told to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned;

/// Panics that were planned are not printed; any other ends the process, whichever thread it is on: the store catches
/// those of its own threads, and goes on.
pub(crate) fn end_at_unplanned_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Planned>() {
            before(info);
            let thread = std::thread::current();
            eprintln!("thread {} panicked, as nobody had planned: the process ends", thread.name().unwrap_or("?"));
            process::abort();
        }
    }));
}

/// Whether a flush tells of nothing but closures that were to panic, or were given up by a turn of the wheel.
pub(crate) fn is_of_closures(error: &FlushError) -> bool {
    error.io.is_none() && matches!(error.first, Some(FailedClosure::Panicked | FailedClosure::Abandoned))
}

/// What this process knows of a key beyond the oracle: what must be read while it lives.
#[derive(Clone, Copy, Debug, Default)]
struct Live {
    /// The last version that was there when its call returned.
    solid: u64,
    place: Option<Place>,
    /// The last version whose call returned well.
    done: u64,
    /// Where that lies, if it was asked for since.
    done_place: Option<Place>,
}

/// One thread.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    site: &'a Site<'a>,
    scratch: Scratch,
    number: u64,
    dice: Dice,
    live: BTreeMap<u64, Live>,
    held: Vec<(u64, BlockRef)>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(site: &'a Site<'a>, scratch: Scratch, number: u64, dice: Dice) -> Self {
        Self { site, scratch, number, dice, live: BTreeMap::new(), held: Vec::new() }
    }

    fn own_key(&mut self) -> u64 {
        self.dice.below(self.site.oracle.keys() / WRITERS) * WRITERS + self.number
    }

    fn own_content(&mut self) -> u64 {
        loop {
            let key = self.own_key();
            if Oracle::kind(key, WRITERS) == KeyKind::Content {
                return key;
            }
        }
    }

    fn hash(&self, key: u64) -> BlockHash {
        self.site.oracle.blocks.hash(key, Oracle::kind(key, WRITERS))
    }

    /// One call; `false` once the store is closed.
    pub(crate) fn step(&mut self) -> Result<bool, String> {
        let key = self.own_key();
        let result = match self.dice.below(64) {
            0..26 => self.put(key),
            26..34 => self.defer(key),
            34..37 => self.put_many(),
            37..42 => self.remove(key),
            42 => self.flush(),
            43..58 => self.read_own(key),
            58..62 => self.read_other(),
            _ => self.hold(key),
        };
        match result {
            Ok(()) => Ok(true),
            Err(Ended::Closed) => Ok(false),
            Err(Ended::Wrong(what)) => Err(format!("thread {}: {what}; {:?}", self.number, self.scratch.stats())),
        }
    }

    /// What a version's bytes are: those of a content key never change.
    fn content_of(key: u64, version: u64) -> u64 {
        if Oracle::kind(key, WRITERS) == KeyKind::Content { 0 } else { version }
    }

    /// Whether the record of a key has room for another version; if not it has to rest.
    fn make_room(&mut self, key: u64) -> Result<bool, Ended> {
        let record = self.site.oracle.key(key);
        if !record.has_room() {
            self.flush()?;
        }
        if !record.has_room() && record.room() > 1 {
            // What was written is lost again and again, in files that turn: a tombstone settles it.
            self.remove_version(key)?;
            self.flush()?;
        }
        if !record.has_room() {
            self.site.oracle.add(Count::Refused, 1);
        }
        Ok(record.has_room())
    }

    /// Numbers the next version, which the store is about to be told.
    fn begin(&self, key: u64, kind: Kind) -> u64 {
        let record = self.site.oracle.key(key);
        let next = record.begun() + 1;
        let len = if kind.is_removal() { 0 } else { self.site.oracle.blocks.len(key, Self::content_of(key, next)) };
        self.site.oracle.add(Count::Calls, 1);
        record.begin(kind, len)
    }

    fn put(&mut self, key: u64) -> Result<(), Ended> {
        if !self.make_room(key)? {
            return Ok(());
        }
        let version = self.begin(key, Kind::Put);
        let bytes = self.site.oracle.blocks.bytes(key, Self::content_of(key, version));
        let hash = self.hash(key);
        let result = match Oracle::kind(key, WRITERS) {
            KeyKind::Named => self.scratch.put_named(REALM, hash, &bytes),
            KeyKind::Content => self.scratch.put(REALM, &bytes).map(drop),
        };
        self.wrote(key, version, result)
    }

    fn put_many(&mut self) -> Result<(), Ended> {
        let mut keys: Vec<_> = (0..=self.dice.below(6)).map(|_| self.own_content()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            if !self.make_room(*key)? {
                return Ok(());
            }
        }
        let versions: Vec<_> = keys.iter().map(|key| self.begin(*key, Kind::Put)).collect();
        let blocks: Vec<_> = keys.iter().map(|key| self.site.oracle.blocks.bytes(*key, 0)).collect();
        let slices: Vec<_> = blocks.iter().map(Vec::as_slice).collect();
        match self.scratch.put_many(REALM, &slices) {
            Ok(_) => {
                for (key, version) in keys.into_iter().zip(versions) {
                    self.wrote(key, version, Ok(()))?;
                }
                Ok(())
            }
            // Those before the one that found no room stay: each is left open.
            Err(error) => self.refused(error),
        }
    }

    fn defer(&mut self, key: u64) -> Result<(), Ended> {
        if !self.make_room(key)? {
            return Ok(());
        }
        let fails = self.dice.one_in(32);
        let version = self.begin(key, if fails { Kind::Failing } else { Kind::Deferred });
        let (hash, blocks) = (self.hash(key), self.site.oracle.blocks);
        let content = Self::content_of(key, version);
        let len = blocks.len(key, content);
        let write = move |into: &mut [u8]| {
            if fails {
                panic::panic_any(Planned);
            }
            blocks.fill(key, content, into);
        };
        let result = match Oracle::kind(key, WRITERS) {
            KeyKind::Named => self.scratch.write_named(REALM, hash, len, write),
            KeyKind::Content => self.scratch.write(REALM, hash, len, write),
        };
        match result {
            Ok(()) => {
                // Content that is there already is there after a closure that would have failed, too.
                if !fails {
                    self.live.entry(key).or_default().done = version;
                }
                Ok(())
            }
            Err(error) => self.undo(key, version, error),
        }
    }

    fn remove(&mut self, key: u64) -> Result<(), Ended> {
        if self.make_room(key)? { self.remove_version(key) } else { Ok(()) }
    }

    fn remove_version(&mut self, key: u64) -> Result<(), Ended> {
        let version = self.begin(key, Kind::Remove);
        match self.scratch.remove(REALM, self.hash(key)) {
            Ok(_) => {
                self.live.insert(key, Live { solid: version, done: version, ..Live::default() });
                if self.site.options.gather == 0 {
                    self.site.oracle.key(key).raise(version, None);
                } else {
                    self.site.oracle.key(key).gathered(version);
                }
                Ok(())
            }
            Err(error) => self.undo(key, version, error),
        }
    }

    /// A call that stores before it returns has returned.
    fn wrote(&mut self, key: u64, version: u64, result: Result<(), WriteError>) -> Result<(), Ended> {
        if let Err(error) = result {
            return self.undo(key, version, error);
        }
        let record = self.site.oracle.key(key);
        let place = self.place(key)?;
        self.live.insert(key, Live { solid: version, place, done: version, done_place: None });
        let len = usize::try_from(record.version(version).len).expect("a length");
        // Content that is still gathered by an earlier call is not stored again.
        let at_once = self.site.options.gather == 0
            || Oracle::kind(key, WRITERS) == KeyKind::Named && self.site.options.is_stored_at_once(len);
        if at_once {
            record.raise(version, place);
        } else {
            record.gathered(version);
        }
        Ok(())
    }

    /// Nothing has happened, the store says.
    fn undo(&mut self, key: u64, version: u64, error: WriteError) -> Result<(), Ended> {
        if !matches!(error, WriteError::Io(_)) {
            self.site.oracle.key(key).void(version);
        }
        self.refused(error)
    }

    fn refused(&mut self, error: WriteError) -> Result<(), Ended> {
        match error {
            WriteError::Timeout { .. } | WriteError::AllPinned { .. } => {}
            WriteError::Full { .. } if self.site.options.on_full == OnFull::Refuse => {}
            WriteError::Closed => return Err(Ended::Closed),
            other => return Err(Ended::Wrong(format!("a write failed: {other}"))),
        }
        // Whoever holds nothing makes room for all.
        self.check_held()?;
        self.site.oracle.add(Count::Refused, 1);
        Ok(())
    }

    /// Where the newest version of a key lies; `None` if it has been forgotten already.
    fn place(&self, key: u64) -> Result<Option<Place>, Ended> {
        match self.scratch.info(REALM, self.hash(key)) {
            Ok(info) => {
                let place = self.site.laps.place(info.file, info.generation);
                place.map_err(|error| Ended::Wrong(format!("reading a header: {error}")))
            }
            Err(ReadError::Missing { .. }) => {
                self.site.oracle.add(Count::NoPlace, 1);
                Ok(None)
            }
            Err(ReadError::Closed) => Err(Ended::Closed),
            Err(error) => Err(Ended::Wrong(format!("asking where it is: {error}"))),
        }
    }

    /// Flushes, and then knows of every key it can read that no kill takes it.
    fn flush(&mut self) -> Result<(), Ended> {
        for _ in 0..3 {
            self.site.oracle.add(Count::Calls, 1);
            match self.scratch.flush() {
                Ok(()) => return self.promote(),
                // The next flush says nothing of them.
                Err(error) if is_of_closures(&error) => {}
                // Whoever is in the way lets a closure hang.
                Err(FlushError { first: Some(FailedClosure::Busy { .. }), io: None, .. }) => {}
                Err(_) if self.scratch.info(REALM, self.hash(0)) == Err(ReadError::Closed) => {
                    return Err(Ended::Closed);
                }
                Err(error) => return Err(Ended::Wrong(format!("a flush failed: {error}"))),
            }
        }
        Ok(())
    }

    /// After a flush: what can be read is in its file, and so is the tombstone of what cannot.
    fn promote(&mut self) -> Result<(), Ended> {
        let keys: Vec<_> = self.live.keys().copied().collect();
        for key in keys {
            let record = self.site.oracle.key(key);
            if record.begun() == record.floor() {
                continue;
            }
            let read = self.read_and_judge(key)?;
            let open = record.floor() + 1..=record.begun();
            let last = |is: &dyn Fn(Version) -> bool| open.clone().rev().find(|at| is(record.version(*at)));
            match read {
                Some(Read::Version(version)) if version > record.floor() => record.raise(version, self.place(key)?),
                Some(Read::Content) => {
                    if let Some(version) = last(&|version| version.kind.is_write()) {
                        record.raise(version, self.place(key)?);
                    }
                }
                Some(Read::Missing) => {
                    if let Some(version) = last(&|version| version.kind.is_removal() && version.gathered) {
                        record.raise(version, None);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks where the blocks are to lie whose closures may not have run: a closed store does not tell.
    pub(crate) fn ask_places(&mut self) {
        let deferred = self.live.iter().filter(|(_, live)| live.done > live.solid);
        let keys: Vec<_> = deferred.map(|(key, _)| *key).collect();
        for key in keys {
            // A closure that runs just now does not tell either, and one that has failed is counted by the store.
            let place = self.place(key).unwrap_or(None);
            self.live.entry(key).or_default().done_place = place;
        }
    }

    /// The store was closed, no closure had failed and none was dropped: all that was done is in its file.
    pub(crate) fn closed_well(&mut self) {
        for (key, live) in &self.live {
            let record = self.site.oracle.key(*key);
            if live.done > record.floor() && record.version(live.done).kind != Kind::Void {
                record.raise(live.done, if live.done == live.solid { live.place } else { live.done_place });
            }
        }
    }

    fn read_own(&mut self, key: u64) -> Result<(), Ended> {
        self.read_and_judge(key).map(drop)
    }

    /// Reads a key of one's own; `None` if nothing can be said of it.
    fn read_and_judge(&mut self, key: u64) -> Result<Option<Read>, Ended> {
        let found = self.scratch.recovery().complete;
        let hash = self.hash(key);
        let read = if self.dice.one_in(8) {
            self.scratch.read_verified(REALM, hash, |bytes| self.site.read_as(key, bytes))
        } else {
            self.scratch.read(REALM, hash, |bytes| self.site.read_as(key, bytes))
        };
        let Some(read) = answer(read)? else { return Ok(None) };
        if read == Read::Missing && !found {
            return Ok(None);
        }
        let record = self.site.oracle.key(key);
        let live = self.live.get(&key).copied().unwrap_or_default();
        let (floor, place) =
            if live.solid > record.floor() { (live.solid, live.place) } else { (record.floor(), record.place()) };
        let judged = record.judge(read, floor, place);
        let judged = judged.and_then(|verdict| self.site.settle_miss(verdict, self.site.forgets));
        judged.map_err(|what| Ended::Wrong(format!("key {key}: {what}; {record}; {live:?}")))?;
        if let Read::Version(version) = read
            && version > live.solid
        {
            let place = self.place(key)?;
            let live = self.live.entry(key).or_default();
            (live.solid, live.place, live.done) = (version, place, live.done.max(version));
        }
        Ok(Some(read))
    }

    /// A block of somebody else may change at any time, but not into anything.
    fn read_other(&mut self) -> Result<(), Ended> {
        let key = self.dice.below(self.site.oracle.keys());
        let read = self.scratch.read(REALM, self.hash(key), |bytes| self.site.read_as(key, bytes));
        match answer(read)? {
            Some(Read::Version(version)) if version > self.site.oracle.key(key).begun() => {
                Err(Ended::Wrong(format!("key {key} of another thread reads as version {version}, never begun")))
            }
            _ => Ok(()),
        }
    }

    /// Holds a block, and looks at those that were held.
    fn hold(&mut self, key: u64) -> Result<(), Ended> {
        if self.held.len() >= HELD || !self.site.holds {
            return self.check_held();
        }
        match self.scratch.get(REALM, self.hash(key)) {
            Ok(block) => {
                self.held.push((key, block));
                Ok(())
            }
            Err(error) => answer(Err(error)).map(drop),
        }
    }

    /// Gives back what is held, at the end.
    pub(crate) fn give_back(&mut self) -> Result<(), String> {
        match self.check_held() {
            Ok(()) | Err(Ended::Closed) => Ok(()),
            Err(Ended::Wrong(what)) => Err(what),
        }
    }

    /// Gives back what is held, unchanged.
    fn check_held(&mut self) -> Result<(), Ended> {
        for (key, block) in self.held.drain(..) {
            self.site.read_as(key, &block).map_err(|what| Ended::Wrong(format!("held block of key {key}: {what}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;
    use std::thread;

    use super::*;

    const CHILD: &str = "TORTURE_TEST_PANICS";

    /// A thread of the store panicked, the hook printed it, and the run went on and was called good.
    #[test]
    fn a_panic_that_nobody_planned_ends_the_process_whoever_catches_it() {
        if let Ok(planned) = env::var(CHILD) {
            end_at_unplanned_panics();
            let planned = planned == "planned";
            let panics = move || if planned { panic::panic_any(Planned) } else { panic!("by a defect") };
            thread::Builder::new().name("scratch-keep-7".to_owned()).spawn(panics).unwrap().join().unwrap_err();
            return;
        }
        let run = |planned| {
            let mut test = Command::new(env::current_exe().unwrap());
            test.args(["--exact", "worker::tests::a_panic_that_nobody_planned_ends_the_process_whoever_catches_it"]);
            let output = test.args(["--nocapture"]).env(CHILD, planned).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert!(run("planned").0);
        let (succeeded, said) = run("by a defect");
        assert!(!succeeded && said.contains("thread scratch-keep-7 panicked, as nobody had planned"), "{said}");
    }
}
