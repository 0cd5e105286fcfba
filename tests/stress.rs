//! Many threads on one store of two folders that turns all the time, with blocks that say what they are.
//!
//! Each block carries its key, its version and a checksum of what follows, so that a foreign block, an older one or a
//! single wrong byte is noticed by whoever reads it. A key has one writer: nobody may see its versions go backwards.
#![forbid(unsafe_code)]
#![expect(clippy::cast_possible_truncation, reason = "the library is for 64 bits, and numbers of keys are small")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scratchspace::{
    BlittableError, BlockHash, BlockRef, DiskFileSource, MemoryFileSource, MissingOk, Realm, Scratch, WriteError,
};
use tempfile::TempDir;

/// What is interpreted is a thousand times as slow: there few threads turn a small store.
const IS_SLOW: bool = cfg!(miri);
const THREADS: u64 = if IS_SLOW { 3 } else { 8 };
const KEYS_A_THREAD: u64 = if IS_SLOW { 4 } else { 24 };
const FILES: u16 = if IS_SLOW { 4 } else { 8 };
const FILE: u64 = if IS_SLOW { 20 << 10 } else { 1 << 20 };
/// So often each file is used twice.
const TURNS: u64 = 2 * FILES as u64;
/// Blocks are shorter by this.
const SHORTER: u64 = if IS_SLOW { 32 } else { 1 };
const RUN: Duration = Duration::from_millis(2500);
const LONG: Duration = Duration::from_secs(if IS_SLOW { 100 } else { 60 });
const WAIT: Duration = Duration::from_millis(if IS_SLOW { 100 } else { 5000 });
const HEADER: usize = 32;
/// Named blocks in one realm, content in another.
const NAMED: Realm = Realm::DEFAULT;
const CONTENT: Realm = Realm::MAX;

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Mostly small, sometimes an eighth of a file; often at an edge of a page.
    fn len(&mut self) -> usize {
        let len = match self.below(16) {
            0 => 64 + self.below(128 << 10),
            1..=3 => self.below(24 << 10),
            4..=7 => 4096 * self.below(4) + self.below(3) + 4095,
            _ => self.below(4096),
        };
        usize::try_from(len / SHORTER).unwrap().max(HEADER)
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xCBF2_9CE4_8422_2325, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01B3).rotate_left(29)
    })
}

/// Key, version, length, checksum of all that follows, and that.
fn block(key: u64, version: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut random = Random(key << 32 ^ version);
    for chunk in bytes[HEADER..].chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    let header = [key, version, len as u64, sum(&bytes[HEADER..])];
    for (to, word) in bytes.chunks_mut(8).zip(header) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The version of a block of `key`, every byte of which is right.
fn check(key: u64, bytes: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(bytes[at * 8..][..8].try_into().unwrap());
    assert_eq!((word(0), word(2)), (key, bytes.len() as u64), "a foreign block, or of another length");
    assert_eq!(word(3), sum(&bytes[HEADER..]), "wrong bytes in version {} of key {key}", word(1));
    word(1)
}

fn name(key: u64) -> BlockHash {
    BlockHash::from_u128(u128::from(key) + 1)
}

fn may_be_full<T>(result: Result<T, WriteError>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        // Blocks that are held may drain every file of a lane for a while.
        Err(error) if error.is_retryable() => None,
        Err(error) => panic!("{error}"),
    }
}

/// What all threads know.
struct Shared {
    scratch: Scratch,
    /// For each key, the newest version whose write has returned; odd once it was removed.
    written: Vec<AtomicU64>,
    reads: AtomicU64,
    hits: AtomicU64,
    stop: AtomicBool,
}

/// One thread: owner of some keys, reader of all.
struct Worker<'a> {
    shared: &'a Shared,
    random: Random,
    first_key: u64,
    versions: Vec<u64>,
    /// For each key of the store, the newest version this thread has seen.
    seen: Vec<u64>,
    held: Vec<(u64, BlockRef, u64)>,
    contents: Vec<(BlockHash, u64)>,
}

impl Worker<'_> {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.random.below(20) {
                0..=3 => self.write_named(),
                4 => self.remove(),
                5..=6 => self.put(),
                7 => self.put_many(),
                8..=14 => self.read(),
                15..=16 => self.read_content(),
                17 => self.hold(),
                18 => self.drop_held(),
                _ => self.get_many(),
            }
        }
        for (key, block, version) in self.held {
            assert_eq!(check(key, &block), version, "a held block has changed");
        }
    }

    fn write_named(&mut self) {
        let scratch = &self.shared.scratch;
        let own = self.random.below(KEYS_A_THREAD);
        let key = self.first_key + own;
        // Even versions are blocks, odd ones say that the key was removed.
        let version = (self.versions[own as usize] | 1) + 1;
        let bytes = block(key, version, self.random.len());
        let done = match self.random.below(4) {
            0 => scratch.put_named(NAMED, name(key), &bytes),
            1 => {
                let len = bytes.len();
                scratch.write_named(NAMED, name(key), len, move |to| to.copy_from_slice(&bytes))
            }
            2 => {
                let mut writer = scratch.writer(NAMED);
                writer.write_slice(&bytes);
                writer.commit_named(name(key)).map_err(|error| match error {
                    scratchspace::CommitError::Write(error) => error,
                    error => panic!("{error}"),
                })
            }
            _ => {
                // A promise that is broken leaves what was there.
                let failing = |_: &mut [u8]| std::panic::resume_unwind(Box::new("as asked"));
                may_be_full(scratch.write_named(NAMED, name(key), bytes.len(), failing));
                return;
            }
        };
        if may_be_full(done).is_some() {
            self.versions[own as usize] = version;
            self.shared.written[key as usize].store(version, Ordering::Release);
        }
    }

    fn remove(&mut self) {
        let own = self.random.below(KEYS_A_THREAD);
        let key = self.first_key + own;
        if may_be_full(self.shared.scratch.remove(NAMED, name(key))).is_some() {
            let version = self.versions[own as usize] | 1;
            self.versions[own as usize] = version;
            self.shared.written[key as usize].store(version, Ordering::Release);
        }
    }

    /// What a read of `key` may show that began when `written` was the newest version that had returned.
    fn saw(&mut self, key: u64, written: u64, bytes: Option<&[u8]>) {
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        let Some(bytes) = bytes else { return };
        self.shared.hits.fetch_add(1, Ordering::Relaxed);
        let version = check(key, bytes);
        assert!(version >= written, "key {key}: version {version} came back after {written}");
        let seen = &mut self.seen[key as usize];
        assert!(version >= *seen, "key {key}: version {version} was seen after {seen}");
        *seen = version;
    }

    fn some_key(&mut self) -> (u64, u64) {
        let key = self.random.below(THREADS * KEYS_A_THREAD);
        (key, self.shared.written[key as usize].load(Ordering::Acquire))
    }

    fn read(&mut self) {
        let ((key, written), scratch) = (self.some_key(), &self.shared.scratch);
        let copy = match self.random.below(3) {
            0 => scratch.read(NAMED, name(key), <[u8]>::to_vec),
            1 => scratch.get(NAMED, name(key)).map(|block| block.to_vec()),
            _ => {
                let whole = scratch.read_with(NAMED, name(key), |reader| {
                    let left = reader.remaining();
                    Ok::<_, BlittableError>(reader.read_slice::<u8>(left)?.to_vec())
                });
                whole.map_err(|error| match error {
                    scratchspace::ReadWithError::Read(error) => error,
                    error => panic!("{error}"),
                })
            }
        };
        match copy {
            Ok(bytes) => self.saw(key, written, Some(&bytes)),
            Err(scratchspace::ReadError::Failed { .. } | scratchspace::ReadError::Busy { .. }) => {}
            Err(error) if error.is_missing() => self.saw(key, written, None),
            Err(error) => panic!("{error}"),
        }
    }

    fn hold(&mut self) {
        let (key, written) = self.some_key();
        let Ok(block) = self.shared.scratch.get(NAMED, name(key)) else { return };
        self.saw(key, written, Some(&block));
        let version = check(key, &block);
        // Few, so that files of a lane are left to write to.
        if !self.held.is_empty() {
            self.drop_held();
        }
        self.held.push((key, block, version));
    }

    fn drop_held(&mut self) {
        if let Some((key, block, version)) = self.held.pop() {
            assert_eq!(check(key, &block), version, "a held block has changed");
        }
    }

    /// A content block that tells which one it is; a few of them are written again and again.
    fn content(&mut self) -> (u64, Vec<u8>) {
        let number = 1 << 20 | self.random.below(2000);
        let len = Random(number).len();
        (number, block(number, 0, len))
    }

    fn put(&mut self) {
        let (number, bytes) = self.content();
        let (hash, scratch) = (BlockHash::of(&bytes), &self.shared.scratch);
        let done = if self.random.below(2) == 0 {
            scratch.put(CONTENT, &bytes).map(|found| assert_eq!(found, hash))
        } else {
            scratch.write(CONTENT, hash, bytes.len(), move |to| to.copy_from_slice(&bytes))
        };
        if may_be_full(done).is_some() {
            self.contents.push((hash, number));
        }
    }

    fn put_many(&mut self) {
        let (numbers, blocks): (Vec<_>, Vec<_>) = (0..self.random.below(20)).map(|_| self.content()).unzip();
        let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        if let Some(hashes) = may_be_full(self.shared.scratch.put_many(CONTENT, &slices)) {
            self.contents.extend(hashes.into_iter().zip(numbers));
        }
    }

    fn read_content(&mut self) {
        if self.contents.is_empty() {
            return;
        }
        let recent = self.contents.len().min(40) as u64;
        let (hash, number) = self.contents[self.contents.len() - 1 - self.random.below(recent) as usize];
        match self.shared.scratch.read(CONTENT, hash, |bytes| check(number, bytes)) {
            Ok(version) => assert_eq!(version, 0),
            Err(scratchspace::ReadError::Failed { .. } | scratchspace::ReadError::Busy { .. }) => {}
            Err(error) => assert!(error.is_missing(), "{error}"),
        }
        if self.random.below(16) == 0 {
            may_be_full(self.shared.scratch.remove(CONTENT, hash));
        }
    }

    fn get_many(&mut self) {
        let asked: Vec<(u64, u64)> = (0..self.random.below(40)).map(|_| self.some_key()).collect();
        let hashes: Vec<BlockHash> = asked.iter().map(|(key, _)| name(*key)).collect();
        let scratch = &self.shared.scratch;
        let each = |at: usize, bytes: Result<&[u8], scratchspace::ReadError>| match bytes {
            Ok(bytes) => self.saw(asked[at].0, asked[at].1, Some(bytes)),
            Err(scratchspace::ReadError::Failed { .. } | scratchspace::ReadError::Busy { .. }) => {}
            Err(error) => assert!(error.is_missing(), "{error}"),
        };
        scratch.get_many(NAMED, &hashes, each).unwrap();
    }
}

/// Walks over the store as long as the others work.
fn walk(shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let visit = |block: &scratchspace::BlockInfo| {
            assert!(block.len as usize >= HEADER && block.realm == NAMED && block.file.get() <= 16);
            assert!((1..=u128::from(THREADS * KEYS_A_THREAD)).contains(&block.hash.to_u128()));
        };
        shared.scratch.for_each(NAMED, visit).unwrap();
        shared.scratch.for_each(CONTENT, |block| assert_eq!(block.realm, CONTENT)).unwrap();
        std::thread::sleep(Duration::from_millis(if IS_SLOW { 2000 } else { 5 }));
    }
}

/// Where a store lies, closed or open. In memory, tools that watch memory see each byte of a block.
enum Place {
    Disk(TempDir),
    Memory(MemoryFileSource),
}

impl Place {
    fn disk() -> Self {
        Self::Disk(match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
            Some(root) => TempDir::new_in(root).unwrap(),
            None => TempDir::new().unwrap(),
        })
    }

    fn memory() -> Self {
        let source = MemoryFileSource::builder().folders(2).files_per_folder(FILES).file_size(FILE);
        Self::Memory(source.build().unwrap())
    }

    fn open(&self) -> Scratch {
        let builder = match self {
            Self::Disk(folder) => {
                let folders = ["left", "right"].map(|name| folder.path().join(name));
                let source = DiskFileSource::builder().folders(folders).files_per_folder(FILES).file_size(FILE);
                Scratch::builder(source.build().unwrap())
            }
            Self::Memory(source) => Scratch::builder(source.clone()),
        };
        builder
            .expected_blocks(if IS_SLOW { 64 } else { 1 << 14 })
            .lanes_per_folder(if IS_SLOW { 1 } else { 2 })
            .wait_timeout(WAIT)
            .max_pending_bytes(1 << 20)
            .max_staging_bytes(1 << 20)
            .gather(if IS_SLOW { 64 << 10 } else { 256 << 10 }, Duration::from_millis(1))
            .open()
            .unwrap()
    }
}

/// Reads everything and compares it with the newest version of each key; how many blocks there were.
fn check_all(scratch: &Scratch, newest: &[u64]) -> u64 {
    let mut found = 0;
    for (key, newest) in (0..).zip(newest) {
        let version = scratch.read(NAMED, name(key), |bytes| check(key, bytes)).missing_ok().unwrap();
        assert!(version.is_none_or(|version| version == *newest), "key {key}: {version:?} instead of {newest}");
        found += u64::from(version.is_some());
    }
    let mut contents = Vec::new();
    scratch.for_each(CONTENT, |block| contents.push(block.hash)).unwrap();
    for hash in contents {
        let right = scratch.read(CONTENT, hash, |bytes| BlockHash::of(bytes) == hash).missing_ok().unwrap();
        assert_ne!(right, Some(false), "{hash}");
        found += u64::from(right.is_some());
    }
    found
}

#[test]
#[cfg_attr(miri, ignore = "files are not mapped where they are interpreted")]
fn many_threads_on_disks_never_see_a_wrong_byte_nor_an_older_version() {
    run(&Place::disk());
}

#[test]
fn many_threads_in_memory_never_see_a_wrong_byte_nor_an_older_version() {
    run(&Place::memory());
}

fn run(place: &Place) {
    let seed = std::env::var("SCRATCHSPACE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| std::process::id().into());
    println!("SCRATCHSPACE_SEED={seed}");
    let keys = THREADS * KEYS_A_THREAD;
    let shared = Shared {
        scratch: place.open(),
        written: (0..keys).map(|_| AtomicU64::new(0)).collect(),
        reads: AtomicU64::new(0),
        hits: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for thread in 0..THREADS {
            let worker = Worker {
                shared: &shared,
                random: Random(seed << 8 | thread),
                first_key: thread * KEYS_A_THREAD,
                versions: vec![0; KEYS_A_THREAD as usize],
                seen: vec![0; keys as usize],
                held: Vec::new(),
                contents: Vec::new(),
            };
            threads.push(scope.spawn(|| {
                // One that fails ends the others.
                let stop = Stop(&shared.stop);
                worker.run();
                drop(stop);
            }));
        }
        threads.push(scope.spawn(|| walk(&shared)));
        let began = Instant::now();
        // On a slow machine for longer, until each file has been used twice.
        let is_short = || began.elapsed() < RUN || shared.scratch.stats().turns < TURNS && began.elapsed() < LONG;
        while is_short() && !shared.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        shared.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
    });

    let newest: Vec<u64> = shared.written.iter().map(|version| version.load(Ordering::Relaxed)).collect();
    // Closures that broke their promise are told here, and nothing else is.
    if let Err(error) = shared.scratch.flush() {
        assert!(error.failed > 0 && error.io.is_none(), "{error}");
    }
    assert_eq!(shared.scratch.flush(), Ok(()));
    let stats = shared.scratch.stats();
    let found = check_all(&shared.scratch, &newest);
    let (reads, hits) = (shared.reads.load(Ordering::Relaxed), shared.hits.load(Ordering::Relaxed));
    println!("{hits} of {reads} reads hit, {found} blocks are left, {stats:?}");
    assert!(stats.turns > 0 && stats.corrupted == 0 && stats.lent == 0 && stats.pending_bytes == 0);
    assert!(hits * 10 > reads, "a test that finds nothing proves nothing");
    drop(shared);

    let scratch = place.open();
    let report = scratch.wait_recovered(LONG).unwrap();
    let again = check_all(&scratch, &newest);
    assert_eq!(report.skipped.misplaced + report.skipped.unknown + report.skipped.unreadable, 0);
    assert!(again > 0 && again <= found, "{again} of {found} blocks came back");
    assert_eq!(scratch.stats().corrupted, 0);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
