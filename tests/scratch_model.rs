//! Any sequence of calls on a store, beside a `HashMap` that is told the same.
//!
//! Two things are allowed to differ. A block may be missing once its file made room: never with `Refuse`, and otherwise
//! only if the wheel turned since it was written and every older block of its lane is missing too. And a closure that
//! breaks its promise is told to at most one reader, after which things are as before its write.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use scratchspace::{
    BlittableError, BlockHash, BlockInfo, BlockRef, CommitError, DiskFileSource, MemoryFileSource, MissingOk, OnFull,
    OpenError, ReadError, ReadWithError, Realm, Scratch, WriteError,
};
use tempfile::TempDir;

const FILES: u16 = 4;
const FILE_SIZE: u64 = 32 << 10;
/// Bounds a hang, nothing else.
const LONG: Duration = Duration::from_secs(20);

type Key = (Realm, BlockHash);

/// Two neighbouring realms and the last one.
const REALMS: [Realm; 3] = [
    Realm::DEFAULT,
    match Realm::new(1) {
        Ok(realm) => realm,
        Err(_) => Realm::MAX,
    },
    Realm::MAX,
];
/// Around a page, around what is gathered (16 KiB of 64), and what fills a file.
const LENGTHS: [usize; 10] = [0, 1, 500, 4095, 4096, 4097, 9000, 16_384, 16_385, 24 << 10];

/// Which bytes: of so many lengths, two contents each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content(u8, u8);

impl Content {
    fn all() -> impl Iterator<Item = Self> {
        (0..10).flat_map(|length| (0..2).map(move |seed| Self(length, seed)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bytes will do")]
    fn bytes(self) -> Vec<u8> {
        let seed = usize::from(self.1) * 101 + usize::from(self.0);
        (0..LENGTHS[usize::from(self.0)]).map(|at| (at / 7 + at * 31 + seed) as u8).collect()
    }

    fn hash(self) -> BlockHash {
        BlockHash::of(&self.bytes())
    }
}

/// Keys of named blocks. The last one is also the hash of some content.
fn name(number: u8) -> BlockHash {
    if number < 4 { BlockHash::from_u128(u128::from(number) << 100) } else { Content(2, 0).hash() }
}

/// How a closure behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closure {
    Good,
    /// Writes other bytes than it promised; of a named block there is no such thing.
    Wrong,
    Panics,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Content(Content),
    Name(u8),
}

impl Asked {
    fn hash(self) -> BlockHash {
        match self {
            Self::Content(content) => content.hash(),
            Self::Name(number) => name(number),
        }
    }
}

#[derive(Clone, Debug)]
enum Call {
    Put(usize, Content),
    PutNamed(usize, u8, Content),
    Write(usize, Content, Closure),
    WriteNamed(usize, u8, Content, Closure),
    PutMany(usize, Vec<Content>),
    Commit(usize, Option<u8>, Content),
    Read(usize, Asked),
    ReadWith(usize, Asked),
    GetMany(usize, Vec<Asked>),
    Contains(usize, Asked),
    Hold(usize, Asked),
    Drop(u8),
    Remove(usize, Asked),
    ForEach(usize),
    Len,
    Flush,
    Reopen,
}

/// Calls that print one a line.
#[derive(Clone)]
struct Calls(Vec<Call>);

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|call| write!(f, "\n    {call:?}"))
    }
}

fn calls() -> impl Strategy<Value = Calls> {
    let realm = || 0..REALMS.len();
    let content = || (0..10_u8, 0..2_u8).prop_map(|(length, seed)| Content(length, seed));
    let asked = || prop_oneof![content().prop_map(Asked::Content), (0..5_u8).prop_map(Asked::Name)];
    let closure = || prop_oneof![4 => Just(Closure::Good), 1 => Just(Closure::Wrong), 1 => Just(Closure::Panics)];
    let call = prop_oneof![
        8 => (realm(), content()).prop_map(|(realm, content)| Call::Put(realm, content)),
        8 => (realm(), 0..5_u8, content()).prop_map(|(realm, key, content)| Call::PutNamed(realm, key, content)),
        6 => (realm(), content(), closure()).prop_map(|(realm, content, how)| Call::Write(realm, content, how)),
        6 => (realm(), 0..5_u8, content(), closure())
            .prop_map(|(realm, key, content, how)| Call::WriteNamed(realm, key, content, how)),
        2 => (realm(), vec(content(), 0..12)).prop_map(|(realm, contents)| Call::PutMany(realm, contents)),
        3 => (realm(), prop::option::of(0..5_u8), content())
            .prop_map(|(realm, key, content)| Call::Commit(realm, key, content)),
        6 => (realm(), asked()).prop_map(|(realm, asked)| Call::Read(realm, asked)),
        2 => (realm(), asked()).prop_map(|(realm, asked)| Call::ReadWith(realm, asked)),
        1 => (realm(), vec(asked(), 0..20)).prop_map(|(realm, asked)| Call::GetMany(realm, asked)),
        2 => (realm(), asked()).prop_map(|(realm, asked)| Call::Contains(realm, asked)),
        3 => (realm(), asked()).prop_map(|(realm, asked)| Call::Hold(realm, asked)),
        2 => any::<u8>().prop_map(Call::Drop),
        6 => (realm(), asked()).prop_map(|(realm, asked)| Call::Remove(realm, asked)),
        1 => realm().prop_map(Call::ForEach),
        1 => Just(Call::Len),
        1 => Just(Call::Flush),
        2 => Just(Call::Reopen),
    ];
    vec(call, 1..120).prop_map(Calls)
}

enum Source {
    Memory(MemoryFileSource),
    Disk(TempDir),
}

/// What a store is made of.
#[derive(Clone, Copy, Debug)]
struct Setting {
    disk: bool,
    lanes: u16,
    on_full: OnFull,
    gathers: bool,
}

impl Setting {
    fn source(self) -> Source {
        if self.disk {
            let folder = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
                Some(root) => TempDir::new_in(root),
                None => TempDir::new(),
            };
            return Source::Disk(folder.unwrap());
        }
        let source = MemoryFileSource::builder().folders(self.lanes).files_per_folder(FILES).file_size(FILE_SIZE);
        Source::Memory(source.build().unwrap())
    }

    fn open(self, source: &Source) -> Result<Scratch, OpenError> {
        let builder = match source {
            Source::Memory(source) => Scratch::builder(source.clone()),
            Source::Disk(folder) => {
                let folders = (0..self.lanes).map(|lane| folder.path().join(lane.to_string()));
                let source = DiskFileSource::builder().folders(folders).files_per_folder(FILES).file_size(FILE_SIZE);
                Scratch::builder(source.build()?)
            }
        };
        let gather = if self.gathers { (64 << 10, Duration::from_millis(1)) } else { (0, Duration::ZERO) };
        builder
            .on_full(self.on_full)
            .wait_timeout(Duration::from_millis(10))
            .max_pending_bytes(40_000)
            .gather(gather.0, gather.1)
            .open()
    }
}

/// What the store was told of a key.
#[derive(Clone, Debug)]
struct Block {
    bytes: Vec<u8>,
    lane: usize,
    generation: u64,
    /// Turns before it was written.
    turns: u64,
}

struct Model {
    setting: Setting,
    source: Source,
    scratch: Scratch,
    blocks: HashMap<Key, Block>,
    /// Keys of closures that break their promise and were not waited for yet.
    failing: HashSet<Key>,
    /// How many failures the next flush tells: at least, at most.
    failures: (u64, u64),
    held: Vec<(BlockRef, Vec<u8>)>,
    /// Turns of earlier runs.
    turns: u64,
    /// For each lane, the largest generation that is known to be gone.
    gone: Vec<u64>,
}

impl Model {
    fn new(setting: Setting) -> Self {
        let source = setting.source();
        let scratch = setting.open(&source).unwrap();
        let gone = vec![0; usize::from(setting.lanes)];
        Self {
            setting,
            source,
            scratch,
            blocks: HashMap::new(),
            failing: HashSet::new(),
            failures: (0, 0),
            held: Vec::new(),
            turns: 0,
            gone,
        }
    }

    fn turns(&self) -> u64 {
        self.turns + self.scratch.stats().turns
    }

    /// Repeats a write that found no room in time; blocks that are held give way.
    fn writes<T>(&mut self, mut write: impl FnMut(&Scratch) -> Result<T, WriteError>) -> Result<T, WriteError> {
        let began = Instant::now();
        loop {
            match write(&self.scratch) {
                Err(error) if error.is_retryable() && began.elapsed() < LONG => self.drop_held(),
                Err(full @ WriteError::Full { .. }) => {
                    assert_eq!(self.setting.on_full, OnFull::Refuse, "{full}");
                    return Err(full);
                }
                Err(error) => panic!("{error}"),
                done => return done,
            }
        }
    }

    fn wrote(&mut self, key: Key, bytes: Vec<u8>, turns: u64) {
        let info = self.scratch.info(key.0, key.1).expect("what was just written is there");
        self.has(key, bytes, &info, turns);
    }

    /// The store has these bytes there.
    fn has(&mut self, key: Key, bytes: Vec<u8>, info: &BlockInfo, turns: u64) {
        assert_eq!((info.realm, info.hash, info.len as usize), (key.0, key.1, bytes.len()));
        let lane = usize::from((info.file.get() - 1) % self.setting.lanes);
        assert!(info.generation > self.gone[lane], "a file of a lane is older than one that is gone");
        self.blocks.insert(key, Block { bytes, lane, generation: info.generation, turns });
    }

    /// Judges a failed read; `true` if it is to be repeated.
    fn again(&mut self, key: Key, error: &ReadError) -> bool {
        match error {
            ReadError::Missing { .. } => {
                if let Some(block) = self.blocks.remove(&key) {
                    self.is_lost(key, &block);
                }
                false
            }
            ReadError::Busy { .. } => true,
            ReadError::Failed { .. } => {
                let abandoned = self.setting.on_full == OnFull::Recycle && self.turns() > 0;
                assert!(self.failing.remove(&key) || abandoned, "{error}");
                true
            }
            error => panic!("{error}"),
        }
    }

    /// A block may be missing only if it lay in a file that made room.
    fn is_lost(&mut self, key: Key, block: &Block) {
        assert_eq!(self.setting.on_full, OnFull::Recycle, "{key:?} {} bytes", block.bytes.len());
        self.until("a turn", |model| model.turns() > block.turns);
        let gone = &mut self.gone[block.lane];
        *gone = block.generation.max(*gone);
        let older: Vec<Key> =
            self.blocks.iter().filter(|(_, other)| self.is_older(other)).map(|(key, _)| *key).collect();
        for key in older {
            self.until("older blocks to go first", |model| !model.scratch.contains(key.0, key.1).unwrap());
            self.blocks.remove(&key);
        }
    }

    fn is_older(&self, block: &Block) -> bool {
        block.generation <= self.gone[block.lane]
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < LONG, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Compares what `read` gives with what the key holds; `read` is repeated while the store says so.
    fn compare(&mut self, key: Key, mut read: impl FnMut(&Scratch) -> Result<Vec<u8>, ReadError>) {
        loop {
            match read(&self.scratch) {
                Ok(bytes) => {
                    let block = self.blocks.get(&key).unwrap_or_else(|| panic!("{key:?} came back"));
                    assert!(block.bytes == bytes, "{key:?}: other {} bytes", bytes.len());
                    return;
                }
                Err(error) => {
                    if !self.again(key, &error) {
                        return;
                    }
                }
            }
        }
    }

    fn check(&mut self, key: Key) {
        self.compare(key, |scratch| scratch.read(key.0, key.1, <[u8]>::to_vec));
    }

    /// Waits for closures that break their promise, so that what they hid is there again.
    fn settle(&mut self) {
        for key in self.failing.clone() {
            self.check(key);
        }
        self.failing.clear();
    }

    fn check_all(&mut self) {
        self.settle();
        for realm in REALMS {
            let names = (0..5).map(name);
            for hash in Content::all().map(Content::hash).chain(names).collect::<Vec<_>>() {
                self.check((realm, hash));
            }
        }
    }

    fn check_held(&self) {
        for (block, bytes) in &self.held {
            assert!(**block == **bytes, "{} bytes that are held have changed", bytes.len());
        }
    }

    fn drop_held(&mut self) {
        self.check_held();
        self.held.clear();
    }

    /// A content write, of whatever verb, that keeps its promise.
    fn content(&mut self, realm: usize, content: Content, write: impl Fn(&Scratch, &[u8]) -> Result<(), WriteError>) {
        let (key, bytes, turns) = ((REALMS[realm], content.hash()), content.bytes(), self.turns());
        if self.writes(|scratch| write(scratch, &bytes)).is_ok() {
            self.failing.remove(&key);
            self.wrote(key, bytes, turns);
        }
    }

    fn named(
        &mut self,
        realm: usize,
        number: u8,
        content: Content,
        write: impl Fn(&Scratch, BlockHash, &[u8]) -> Result<(), WriteError>,
    ) {
        let (key, bytes, turns) = ((REALMS[realm], name(number)), content.bytes(), self.turns());
        if self.writes(|scratch| write(scratch, key.1, &bytes)).is_ok() {
            self.failing.remove(&key);
            self.wrote(key, bytes, turns);
        }
    }

    #[expect(clippy::too_many_lines, reason = "an arm a call")]
    fn call(&mut self, call: Call) {
        match call {
            Call::Put(realm, content) => self.content(realm, content, |scratch, bytes| {
                assert_eq!(scratch.put(REALMS[realm], bytes)?, BlockHash::of(bytes));
                Ok(())
            }),
            Call::PutNamed(realm, number, content) => {
                self.named(realm, number, content, |scratch, key, bytes| scratch.put_named(REALMS[realm], key, bytes));
            }
            Call::Write(realm, content, Closure::Good) => {
                self.failures.1 += 1;
                self.content(realm, content, |scratch, bytes| {
                    scratch.write(REALMS[realm], BlockHash::of(bytes), bytes.len(), closure(bytes, Closure::Good))
                });
            }
            Call::WriteNamed(realm, number, content, Closure::Good) => {
                self.failures.1 += 1;
                self.named(realm, number, content, |scratch, key, bytes| {
                    scratch.write_named(REALMS[realm], key, bytes.len(), closure(bytes, Closure::Good))
                });
            }
            Call::Write(realm, content, how) => {
                let (key, bytes) = ((REALMS[realm], content.hash()), content.bytes());
                // Nothing can be wrong with no bytes.
                let how = if bytes.is_empty() { Closure::Panics } else { how };
                let write = |scratch: &Scratch| scratch.write(key.0, key.1, bytes.len(), closure(&bytes, how));
                if self.writes(write).is_ok() {
                    // Not run at all if the content is there.
                    self.failures.1 += 1;
                    self.failing.insert(key);
                }
            }
            Call::WriteNamed(realm, number, content, _) => {
                let (key, bytes) = ((REALMS[realm], name(number)), content.bytes());
                let how = Closure::Panics;
                let write = |scratch: &Scratch| scratch.write_named(key.0, key.1, bytes.len(), closure(&bytes, how));
                if self.writes(write).is_ok() {
                    self.failures.0 += 1;
                    self.failures.1 += 1;
                    self.failing.insert(key);
                }
            }
            Call::PutMany(realm, contents) => self.put_many(REALMS[realm], &contents),
            Call::Commit(realm, None, content) => self.content(realm, content, |scratch, bytes| {
                let mut writer = scratch.writer(REALMS[realm]);
                writer.write_slice(bytes);
                writer.commit().map(drop).map_err(write_error)
            }),
            Call::Commit(realm, Some(number), content) => {
                self.named(realm, number, content, |scratch, key, bytes| {
                    let mut writer = scratch.writer(REALMS[realm]);
                    let (first, last) = bytes.split_at(bytes.len() / 3);
                    writer.write_slice(first);
                    writer.write_vec(last.to_vec());
                    writer.commit_named(key).map_err(write_error)
                });
            }
            Call::Read(realm, asked) => self.check((REALMS[realm], asked.hash())),
            Call::ReadWith(realm, asked) => {
                let key = (REALMS[realm], asked.hash());
                self.compare(key, |scratch| {
                    let read = scratch.read_with(key.0, key.1, |reader| {
                        let rest = reader.remaining();
                        Ok::<_, BlittableError>(reader.read_slice::<u8>(rest)?.to_vec())
                    });
                    read.map_err(|error| match error {
                        ReadWithError::Read(error) => error,
                        error => panic!("{error}"),
                    })
                });
            }
            Call::GetMany(realm, asked) => self.get_many(REALMS[realm], &asked),
            Call::Contains(realm, asked) => {
                let key = (REALMS[realm], asked.hash());
                self.settle();
                if self.scratch.contains(key.0, key.1).unwrap() {
                    assert!(self.blocks.contains_key(&key), "{key:?} came back");
                    return;
                }
                if let Some(block) = self.blocks.remove(&key) {
                    self.is_lost(key, &block);
                }
            }
            Call::Hold(realm, asked) => {
                let key = (REALMS[realm], asked.hash());
                let mut held = None;
                self.compare(key, |scratch| {
                    let block = scratch.get(key.0, key.1)?;
                    let bytes = block.to_vec();
                    held = Some((block, bytes.clone()));
                    Ok(bytes)
                });
                self.held.extend(held);
            }
            Call::Drop(which) => {
                if !self.held.is_empty() {
                    let (block, bytes) = self.held.swap_remove(usize::from(which) % self.held.len());
                    assert!(*block == *bytes, "bytes that are held have changed");
                }
            }
            Call::Remove(realm, asked) => self.remove((REALMS[realm], asked.hash())),
            Call::ForEach(realm) => self.for_each(REALMS[realm]),
            Call::Len => self.len(),
            Call::Flush => self.flush(),
            Call::Reopen => self.reopen(),
        }
    }

    fn put_many(&mut self, realm: Realm, contents: &[Content]) {
        if self.setting.on_full == OnFull::Refuse {
            // Else a call that fails half-way would leave open whether a key is still to fail.
            self.settle();
        }
        let turns = self.turns();
        let bytes: Vec<Vec<u8>> = contents.iter().map(|content| content.bytes()).collect();
        let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let hashes = self.writes(|scratch| scratch.put_many(realm, &slices));
        if let Ok(hashes) = &hashes {
            assert_eq!(*hashes, contents.iter().map(|content| content.hash()).collect::<Vec<_>>());
        }
        for content in contents {
            self.failing.remove(&(realm, content.hash()));
        }
        // What comes first in a call, or was there before, may be gone at its end. What is there is told to the model
        // before it judges what is not, as both may be of one lane.
        for (content, bytes) in contents.iter().zip(bytes) {
            let key = (realm, content.hash());
            // Its file may turn between the two questions.
            let is_there = self.scratch.read(key.0, key.1, |found| *found == bytes) == Ok(true);
            if let Ok(info) = self.scratch.info(key.0, key.1)
                && is_there
            {
                self.has(key, bytes, &info, turns);
            } else if hashes.is_ok() {
                assert_eq!(self.setting.on_full, OnFull::Recycle, "{key:?}");
                self.blocks.remove(&key);
            }
        }
        for content in contents {
            self.check((realm, content.hash()));
        }
    }

    fn get_many(&mut self, realm: Realm, asked: &[Asked]) {
        self.settle();
        let hashes: Vec<BlockHash> = asked.iter().map(|asked| asked.hash()).collect();
        let mut results = Vec::new();
        let each = |at, result: Result<&[u8], ReadError>| results.push((at, result.map(<[u8]>::to_vec)));
        self.scratch.get_many(realm, &hashes, each).unwrap();
        assert_eq!(results.iter().map(|(at, _)| *at).collect::<Vec<_>>(), (0..asked.len()).collect::<Vec<_>>());
        // A file may make room meanwhile: what was found of it is told to the model before what was not.
        let mut answers: Vec<_> = results.into_iter().map(|(_, result)| result).zip(hashes).collect();
        answers.sort_by_key(|(result, _)| result.is_err());
        for (result, hash) in answers {
            let mut result = Some(result);
            self.compare((realm, hash), |scratch| {
                // A block that was found may be gone a moment later, for a second mention of its key.
                result.take().unwrap_or_else(|| scratch.read(realm, hash, <[u8]>::to_vec))
            });
        }
    }

    fn remove(&mut self, key: Key) {
        let removed = self.writes(|scratch| scratch.remove(key.0, key.1));
        // Whatever the answer, closures of the key are over.
        self.failing.remove(&key);
        let Ok(removed) = removed else { return };
        match self.blocks.remove(&key) {
            Some(block) if !removed => self.is_lost(key, &block),
            None => assert!(!removed, "{key:?} came back"),
            Some(_) => {}
        }
        assert!(self.scratch.get(key.0, key.1).missing_ok().unwrap().is_none());
    }

    fn for_each(&mut self, realm: Realm) {
        self.settle();
        let mut visited = HashMap::new();
        self.scratch
            .for_each(realm, |block| {
                assert_eq!(block.realm, realm);
                assert!(visited.insert(block.hash, block.len as usize).is_none(), "visited twice");
            })
            .unwrap();
        for (hash, len) in &visited {
            let block = self.blocks.get(&(realm, *hash)).expect("what is visited was written");
            assert_eq!(block.bytes.len(), *len);
        }
        let missing: Vec<Key> =
            self.blocks.keys().filter(|key| key.0 == realm && !visited.contains_key(&key.1)).copied().collect();
        for key in missing {
            if let Some(block) = self.blocks.remove(&key) {
                self.is_lost(key, &block);
            }
        }
    }

    fn len(&mut self) {
        self.settle();
        // A file that makes room right now is counted until it has: the two agree in the end.
        self.until("the number of blocks", |model| {
            let (mut visited, mut bytes) = (0, 0);
            for realm in REALMS {
                model
                    .scratch
                    .for_each(realm, |block| {
                        visited += 1;
                        bytes += u64::from(block.len);
                    })
                    .unwrap();
            }
            let stats = model.scratch.stats();
            let known: u64 = model.blocks.values().map(|block| block.bytes.len() as u64).sum();
            assert!(visited <= model.blocks.len() as u64 && bytes <= known);
            model.scratch.len() == visited && stats.bytes == bytes
        });
    }

    fn flush(&mut self) {
        let failed = loop {
            match self.scratch.flush() {
                Ok(()) => break 0,
                // A closure that had no memory, or a file that was being stored: nothing is lost.
                Err(error) if error.failed == 0 && error.io.is_none() => {}
                Err(error) => break error.failed,
            }
        };
        let (least, most) = self.failures;
        assert!((least..=most).contains(&failed), "{failed} of {least} to {most} failures");
        self.failures = (0, 0);
        self.failing.clear();
        assert_eq!(self.scratch.stats().pending_bytes, 0);
    }

    fn reopen(&mut self) {
        self.check_held();
        let report = self.scratch.close(LONG);
        // Now that the threads have ended.
        self.turns += self.scratch.stats().turns;
        assert_eq!(report.dropped, 0);
        self.failing.clear();
        self.failures = (0, 0);
        // The old store has to go before the new one may come; a store that nobody uses takes its place meanwhile.
        self.scratch = Scratch::open(MemoryFileSource::builder().file_size(12 << 10).build().unwrap()).unwrap();
        self.scratch = match self.setting.open(&self.source) {
            Ok(scratch) => scratch,
            Err(OpenError::InUse { .. }) if report.lent > 0 => {
                self.drop_held();
                self.setting.open(&self.source).unwrap()
            }
            Err(error) => panic!("{error}"),
        };
        let report = self.scratch.wait_recovered(LONG).unwrap();
        assert_eq!(report.skipped.misplaced + report.skipped.unknown + report.skipped.unreadable, 0);
        assert_eq!((report.skipped.no_room, report.files_dropped), (0, 0));
        self.check_held();
    }
}

fn closure(bytes: &[u8], how: Closure) -> impl FnOnce(&mut [u8]) + Send + 'static {
    let bytes = bytes.to_vec();
    move |block| {
        assert!(block.iter().all(|byte| *byte == 0), "a closure was given another block's bytes");
        block.copy_from_slice(&bytes);
        match how {
            Closure::Good => {}
            Closure::Wrong => block[0] ^= 1,
            // Without a message on the terminal.
            Closure::Panics => std::panic::resume_unwind(Box::new("as asked")),
        }
    }
}

fn write_error(error: CommitError) -> WriteError {
    match error {
        CommitError::Write(error) => error,
        error => panic!("{error}"),
    }
}

/// Says which call it was that failed.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in call {}", self.0);
        }
    }
}

fn store_and_map_agree(disk: bool, lanes: u16, on_full: OnFull) {
    let cases =
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(if disk { 12 } else { 32 });
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(gathers: bool, calls in calls())| {
        let mut model = Model::new(Setting { disk, lanes, on_full, gathers });
        for (number, call) in calls.0.into_iter().enumerate() {
            let _told = Told(format!("{number}: {call:?}"));
            model.call(call);
        }
        model.check_all();
        model.reopen();
        model.check_all();
    });
}

#[test]
fn one_lane_in_memory_is_a_map_that_forgets_its_oldest_file() {
    store_and_map_agree(false, 1, OnFull::Recycle);
}

#[test]
fn four_lanes_in_memory_are_a_map_that_forgets_its_oldest_file() {
    store_and_map_agree(false, 4, OnFull::Recycle);
}

#[test]
fn one_lane_in_memory_that_refuses_is_a_map() {
    store_and_map_agree(false, 1, OnFull::Refuse);
}

#[test]
fn four_lanes_in_memory_that_refuse_are_a_map() {
    store_and_map_agree(false, 4, OnFull::Refuse);
}

#[test]
fn one_lane_on_disk_is_a_map_that_forgets_its_oldest_file() {
    store_and_map_agree(true, 1, OnFull::Recycle);
}

#[test]
fn four_lanes_on_disk_are_a_map_that_forgets_its_oldest_file() {
    store_and_map_agree(true, 4, OnFull::Recycle);
}

#[test]
fn one_lane_on_disk_that_refuses_is_a_map() {
    store_and_map_agree(true, 1, OnFull::Refuse);
}

#[test]
fn four_lanes_on_disk_that_refuse_are_a_map() {
    store_and_map_agree(true, 4, OnFull::Refuse);
}
