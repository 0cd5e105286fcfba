//! Kills and power cuts at any call, against an oracle that knows what was promised.
//!
//! A run works on a few keys over tiny files until its [`Plan`] ends it; the next one opens what is left, checks every key
//! and goes on from there. A seed has four runs, and a fifth that only checks. Each ends by a power cut or a kill, two to
//! one. What fails prints its seed: `SCRATCHSPACE_POWER_SEED=seed` runs it alone, as often as `SCRATCHSPACE_POWER_SEEDS`
//! says, because threads may meet otherwise the next time. `SCRATCHSPACE_POWER_FIRST` is the first of the seeds,
//! `SCRATCHSPACE_POWER_THREADS` how many run at once.
//!
//! # What must hold
//!
//! 1. A key reads as its last durable version or as a later one, never as an earlier one and never as anything else.
//! 2. It may be missing if its last durable version is its removal, lay in a file that has turned, or if a later
//!    removal was written.
//! 3. A version is durable after a `flush` that succeeded, or once it was read after a power cut. A miss is not: the
//!    block's file may be making room, and is dead only when its next header is durable.
//! 4. A kill loses nothing but closures that wait if nothing is gathered and no sync has failed.
//! 5. Where a sync has failed, a kill takes the word with it: what lay in that file is not durable by a flush of the next
//!    process, which speaks of its own writes and of what it found in sound files. A power cut ends such a past.
//! 6. With `Verify::Never` alone a key that may be missing may read as other bytes, if a version of as many bytes was not
//!    durable when the power was cut, or when a process was killed whose disk had lost writes, and no later one is. Of these
//!    nothing may become durable.
//! 7. Files count as damaged if a cut has torn their headers (one in thirty cuts of this disk, which tears within 512
//!    bytes), and no others: what is told of damage is no noise of crashes.
#![forbid(unsafe_code)]

mod found;
mod oracle;
mod uncompared;

use std::env;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::block::{BlockHash, FileSize, PAGE_SIZE, Realm};
use crate::error::{OpenError, WriteError};
use crate::scratch::history::bytes;
use crate::scratch::{BlockRef, Scratch};
use crate::storage::dice::Dice;
use crate::storage::lossy::{Crash, Image, LossySource, Plan};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, thread};
use crate::wheel::{OnFull, Verify};

use self::oracle::{Done, Oracle};

const REALM: Realm = Realm::DEFAULT;
/// Keys of each kind: half of them are named, half are content.
const KEYS: u64 = 14;
const PATIENCE: Duration = Duration::from_secs(20);

/// The realm of a key of a world: keys of two lie beside each other.
fn realm_of(key: BlockHash) -> Realm {
    Realm::from(u16::from(key.to_u128() >> 80 & 1 == 1))
}

/// One store over several runs.
struct World {
    dice: Dice,
    oracle: Oracle,
    named: Vec<BlockHash>,
    contents: Vec<Vec<u8>>,
    written: u64,
    lanes_per_folder: u16,
    gathers: bool,
    on_full: OnFull,
}

impl World {
    fn new(seed: u64) -> (Self, LossySource) {
        let mut dice = Dice::new(seed);
        let four = dice.one_in(2);
        let (folders, lanes_per_folder) = if four { (2, 2) } else { (1, 1) };
        // Small ones turn often, in larger ones a crash finds much that was never turned.
        let pages = if dice.one_in(4) { 16 + dice.below(32) } else { 3 + dice.below(10) };
        let size = FileSize::new(PAGE_SIZE * pages).unwrap();
        let files = 3 + u16::try_from(dice.below(3)).unwrap();
        let source = LossySource::new(folders, files * lanes_per_folder, size, dice.next());
        let most = u64::from(size.largest_block());
        let contents = (0..KEYS / 2).map(|at| bytes(&mut dice, most, 1_000_000 + at)).collect();
        let on_full = if dice.one_in(3) { OnFull::Refuse } else { OnFull::Recycle };
        let mut log = String::new();
        let lanes = folders * lanes_per_folder;
        writeln!(log, "{lanes} lanes, {files} files of {} bytes a lane, {on_full:?}", size.get()).unwrap();
        let gathers = dice.one_in(2);
        let named = (0..KEYS / 2).map(|at| BlockHash::from_u128(u128::from(at) << 80 | u128::from(seed))).collect();
        let oracle = Oracle::new(log);
        let world = Self { dice, oracle, named, contents, written: 0, lanes_per_folder, gathers, on_full };
        (world, source)
    }

    /// How the next run fails, and how it ends.
    fn plan(&mut self) -> Plan {
        self.oracle.faults = self.dice.one_in(3);
        let crash = if self.dice.one_in(3) { Crash::Kill } else { Crash::PowerCut };
        let (failing_syncs, failing_stores) = match self.oracle.faults {
            true if self.dice.one_in(2) => (6, 0),
            true => (20, 30),
            false => (0, 0),
        };
        let calls = [30, 100, 400, 400][usize::try_from(self.dice.below(4)).unwrap()];
        Plan { crash, at_call: 1 + self.dice.below(calls), failing_syncs, failing_stores }
    }

    fn open(&mut self, source: LossySource) -> Result<Scratch, OpenError> {
        let delay = Duration::from_micros(if self.dice.one_in(2) { 300 } else { 50_000 });
        let (gather, delay) = if self.gathers { (64 << 10, delay) } else { (0, Duration::ZERO) };
        self.oracle.verify = match self.dice.below(8) {
            0 | 1 => Verify::Never,
            2 => Verify::Always,
            _ => Verify::FirstRead,
        };
        let remote = source.remote();
        let builder = Scratch::builder(source).lanes_per_folder(self.lanes_per_folder).gather(gather, delay);
        // Half of them send what they store to the device piece by piece, which a sync alone is not.
        let piece = if self.dice.one_in(2) { 1 + self.dice.below(6) } else { 1 << 20 };
        let piece = u32::try_from(piece).expect("a few pages");
        let mut builder = builder.verify(self.oracle.verify).on_full(self.on_full).piece_pages(piece);
        // Half of those that may not forget have an index that most of their keys make grow.
        if self.on_full == OnFull::Refuse && self.dice.one_in(2) {
            builder = builder.index_buckets(1);
        }
        let scratch = builder.wait_timeout(Duration::from_millis(300)).open()?;
        // A folder is left out if a sync fails there before a file is removed, and is back once all of them work.
        let began = Instant::now();
        while !scratch.health().lanes().all(|lane| lane.readable) && began.elapsed() < PATIENCE {
            if began.elapsed() > PATIENCE / 20 {
                remote.heal();
            }
            scratch.wait_recovered(PATIENCE).expect("recovery ends");
            thread::sleep(Duration::from_millis(1));
        }
        scratch.wait_recovered(PATIENCE).expect("recovery ends");
        Ok(scratch)
    }

    /// Opens what a crash has left and compares it with what was promised; then works until the crash of `plan`, which
    /// may come while it is being opened.
    fn work(&mut self, source: LossySource, plan: Plan) -> Image {
        let remote = source.remote();
        let in_opening = self.dice.one_in(4);
        writeln!(self.oracle.log, "{plan:?}, in its opening: {in_opening}, gathers: {}", self.gathers).unwrap();
        if in_opening {
            remote.set_plan(plan);
        }
        let opened = self.open_and_check(source, in_opening && self.oracle.faults);
        if let Some(scratch) = &opened {
            if !in_opening {
                remote.set_plan(plan);
            }
            self.write(scratch, &remote);
        }
        let is_checked = opened.is_some();
        let image = remote.crash();
        self.oracle.ends(plan.crash, is_checked, &image);
        image
    }

    /// Opens what a crash has left and compares it with what was promised; `None` if another crash came before that was
    /// over, or if it `may_fail` and did.
    fn open_and_check(&mut self, source: LossySource, may_fail: bool) -> Option<Scratch> {
        let remote = source.remote();
        let torn = remote.torn();
        match self.open(source) {
            Ok(scratch) => {
                // A file without a header is told, also if it is a cut that has torn it; nothing else is.
                assert_eq!(scratch.recovery().report.files_damaged, torn as u64);
                self.oracle.check(&scratch, &remote, self.gathers).then_some(scratch)
            }
            Err(error) => {
                assert!(may_fail, "every image opens: {error}");
                writeln!(self.oracle.log, "not opened: {error}").unwrap();
                None
            }
        }
    }

    /// Works until the crash.
    fn write(&mut self, scratch: &Scratch, remote: &LossySource) {
        let mut held: Vec<(BlockRef, Vec<u8>)> = Vec::new();
        for _ in 0..400 {
            let done = self.step(scratch, &mut held);
            if remote.has_crashed() {
                break;
            }
            let refused = self.oracle.settle(scratch, done);
            // Pins may hold every file that could turn: without this, runs would do little but wait.
            if refused && let Some((block, bytes)) = held.pop() {
                assert_eq!(block[..], bytes[..], "a block changed while it was held");
            }
        }
        for (block, bytes) in &held {
            assert_eq!(block[..], bytes[..], "a block changed while it was held");
        }
    }

    /// One call. What it does goes into the histories as something that may or may not have happened.
    fn step(&mut self, scratch: &Scratch, held: &mut Vec<(BlockRef, Vec<u8>)>) -> Done {
        let most = u64::from(scratch.wheel().file_size().largest_block());
        let named = self.dice.one_in(2);
        let at = usize::try_from(self.dice.below(KEYS / 2)).unwrap();
        let key = if named { self.named[at] } else { BlockHash::of(&self.contents[at]) };
        self.written += 1;
        match self.dice.below(20) {
            0..=8 if named => {
                let bytes = bytes(&mut self.dice, most, self.written);
                self.oracle.begin(key, Some(bytes.clone()), "put_named");
                Done::written(key, scratch.put_named(realm_of(key), key, &bytes))
            }
            9..=11 if named => {
                let bytes = bytes(&mut self.dice, most, self.written);
                self.oracle.begin(key, Some(bytes.clone()), "write_named");
                let len = bytes.len();
                let result = scratch.write_named(realm_of(key), key, len, move |block| block.copy_from_slice(&bytes));
                Done::Written { key, stored: false, result }
            }
            0..=11 => {
                let bytes = self.contents[at].clone();
                self.oracle.begin(key, Some(bytes.clone()), "put");
                Done::written(key, scratch.put(realm_of(key), &bytes).map(drop))
            }
            12..=13 => {
                self.oracle.begin(key, None, "remove");
                Done::written(key, scratch.remove(realm_of(key), key).map(drop))
            }
            14..=15 => Done::Flushed(scratch.flush()),
            16 => {
                match scratch.get(realm_of(key), key) {
                    Ok(block) if held.len() < 3 => {
                        let bytes = block.to_vec();
                        held.push((block, bytes));
                    }
                    _ => {}
                }
                Done::Nothing
            }
            17 => {
                for (block, bytes) in held.drain(..) {
                    assert_eq!(block[..], bytes[..], "a block changed while it was held");
                }
                Done::Nothing
            }
            _ => {
                let read = scratch.get(realm_of(key), key);
                assert!(
                    read.is_err() || self.oracle.knows(key, &read.unwrap()),
                    "key {key} reads as what was never written"
                );
                Done::Nothing
            }
        }
    }
}

/// How the runs of some seeds have ended; each end was judged by a later opening.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    cuts: u64,
    kills: u64,
}

fn run(seed: u64) -> Ends {
    let (mut world, mut source) = World::new(seed);
    let mut ends = Ends::default();
    let check = std::panic::AssertUnwindSafe(|| {
        for _ in 0..4 {
            let plan = world.plan();
            match plan.crash {
                Crash::PowerCut => ends.cuts += 1,
                Crash::Kill => ends.kills += 1,
            }
            let mut image = world.work(source, plan);
            if world.dice.one_in(4) {
                let files = 3 + u16::try_from(world.dice.below(3)).unwrap();
                image.set_files_per_folder(files * world.lanes_per_folder);
                writeln!(world.oracle.log, "{files} files a lane").unwrap();
            }
            source = LossySource::open(&image, world.dice.next());
        }
        world.oracle.faults = false;
        let last = world.open_and_check(source, false);
        assert!(last.is_some(), "nothing ends the last run before it is checked");
    });
    let caught = std::panic::catch_unwind(check);
    if let Err(panic) = caught {
        eprintln!("{}seed {seed}: repeat with SCRATCHSPACE_POWER_SEED={seed}", world.oracle.log);
        std::panic::resume_unwind(panic);
    }
    ends
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn what_was_flushed_survives_every_crash_and_what_is_gone_stays_so() {
    let count = number("SCRATCHSPACE_POWER_SEEDS").unwrap_or(150);
    let only = number("SCRATCHSPACE_POWER_SEED");
    let first = number("SCRATCHSPACE_POWER_FIRST").unwrap_or(0);
    // Runs wait more than they work.
    let threads = number("SCRATCHSPACE_POWER_THREADS").unwrap_or(32);
    let (next, ends) = (AtomicU64::new(0), Mutex::new(Ends::default()));
    thread::scope(|scope| {
        let run_some = |_| {
            scope.spawn(|| {
                loop {
                    // Relaxed: nothing but the number is shared.
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let of_seed = run(only.unwrap_or(first + at));
                    let mut ends = ends.lock();
                    ends.cuts += of_seed.cuts;
                    ends.kills += of_seed.kills;
                }
            })
        };
        for thread in (0..threads).map(run_some).collect::<Vec<_>>() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    // `torture power` reads this line, and so does whoever looks at what the CI has done.
    let Ends { cuts, kills } = *ends.lock();
    println!("power: {cuts} cuts and {kills} kills of {count} seeds from {} on", only.unwrap_or(first));
}

#[test]
fn open_returns_and_reads_are_served_while_directories_are_read() {
    let source = LossySource::new(1, 4, FileSize::new(64 << 10).unwrap(), 1);
    let remote = source.remote();
    let hash = Scratch::open(source).unwrap().put(REALM, b"of the first run").unwrap();
    remote.hold_directories(true);
    let scratch = Scratch::builder(remote.remote()).wait_timeout(Duration::ZERO).open().unwrap();
    assert!(!scratch.recovery().complete && scratch.stats().recovering);
    assert_eq!((scratch.recovery().files_total, scratch.recovery().report.files), (1, 0));
    let missing = scratch.get(REALM, hash).unwrap_err();
    assert!(missing.is_missing(), "{missing}");
    let busy = scratch.wait_recovered(Duration::from_millis(5)).unwrap_err();
    assert!(busy.is_retryable(), "{busy}");
    // A block of its lane could be older than what is not found yet.
    assert!(matches!(scratch.put(REALM, b"too early"), Err(WriteError::Timeout { .. })));
    remote.hold_directories(false);
    assert_eq!(scratch.wait_recovered(PATIENCE).unwrap().blocks, 1);
    assert_eq!(&scratch.get(REALM, hash).unwrap()[..], b"of the first run");
    scratch.put(REALM, b"in time").unwrap();
}
