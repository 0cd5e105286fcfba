//! Users who behave badly: one who never gives a block back, one whose closure hangs, one who writes while he reads.
//!
//! None of them may stop the wheel: with each at work, files must go on making room.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use scratchspace::{BlockHash, BlockRef, MissingOk, Realm, Scratch};

/// Apart from the keys of the oracle.
const REALM: u32 = 7;
/// Longest time for two turns, whoever is in the way.
const PATIENCE: Duration = Duration::from_mins(2);
/// Turns that each of them is in the way.
const TURNS: u64 = 4;

/// How often each of them was really in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Met {
    held: u64,
    hung: u64,
    wrote: u64,
}

impl Met {
    pub(super) fn add(&mut self, more: Self) {
        self.held += more.held;
        self.hung += more.hung;
        self.wrote += more.wrote;
    }

    /// Each of them was.
    pub(super) fn is_complete(self) -> bool {
        self.held.min(self.hung).min(self.wrote) > 0
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, hung, wrote } = self;
        write!(f, "in the way {held} blocks that were held, {hung} closures that hung, {wrote} readers that wrote")
    }
}

/// Lets each of them be in the way in turn, until `turns` files have made room or somebody says to `stop`.
///
/// # Errors
///
/// If the wheel stands still, or a block changes while it is held.
pub(super) fn run(scratch: &Scratch, turns: u64, stop: &dyn Fn() -> bool) -> Result<Met, String> {
    let (mut met, mut round) = (Met::default(), 0);
    while scratch.stats().turns < turns && !stop() {
        round += 1;
        if let Some(held) = Pin::take(scratch, round)? {
            met.held += u64::from(wait_for_turns(scratch, "a block that is never given back", stop)?);
            held.give_back()?;
        }
        if let Some(hung) = hang(scratch, round)? {
            met.hung += u64::from(wait_for_turns(scratch, "a closure that hangs", stop)?);
            drop(hung);
        }
        met.wrote += u64::from(write_while_reading(scratch, round)?);
    }
    Ok(met)
}

fn realm() -> Realm {
    Realm::new(REALM).expect("below 2^24")
}

fn name(what: u64, number: u64) -> BlockHash {
    BlockHash::from_u128(u128::from(what) << 64 | u128::from(number))
}

/// Whether so many files have turned; else somebody has said to stop.
fn wait_for_turns(scratch: &Scratch, who: &str, stop: &dyn Fn() -> bool) -> Result<bool, String> {
    let (before, end) = (scratch.stats().turns, Instant::now() + PATIENCE);
    while scratch.stats().turns < before + TURNS {
        if stop() {
            return Ok(false);
        }
        if Instant::now() > end {
            return Err(format!(
                "{who} stops the wheel: fewer than {TURNS} turns in {PATIENCE:?}; {:?}",
                scratch.stats()
            ));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// A block that is held while the wheel turns past its file.
struct Pin {
    block: BlockRef,
    bytes: Vec<u8>,
}

impl Pin {
    fn take(scratch: &Scratch, number: u64) -> Result<Option<Self>, String> {
        let bytes = vec![u8::try_from(number % 251).expect("below 251"); 100_000];
        match scratch.put_named(realm(), name(1, number), &bytes) {
            Ok(()) => {}
            Err(error) if error.is_retryable() => return Ok(None),
            Err(error) => return Err(format!("the block to be held: {error}")),
        }
        let block = scratch.get(realm(), name(1, number)).missing_ok().map_err(|error| error.to_string())?;
        Ok(block.map(|block| Self { block, bytes }))
    }

    fn give_back(self) -> Result<(), String> {
        if self.block[..] == self.bytes[..] { Ok(()) } else { Err("a block changed while it was held".to_owned()) }
    }
}

/// Writes a closure that ends when what comes back is dropped, and waits until it runs; `None` if it never did.
fn hang(scratch: &Scratch, number: u64) -> Result<Option<Sender<()>>, String> {
    let (release, released) = mpsc::channel::<()>();
    let (begun, runs) = mpsc::channel();
    let closure = move |into: &mut [u8]| {
        // Nobody may wait for it any more.
        let _ = begun.send(());
        // Ends with an error once the other end is dropped.
        let _ = released.recv();
        into.fill(1);
    };
    match scratch.write_named(realm(), name(2, number), 1000, closure) {
        // An error: it was given up unrun, as its file had to make room, and dropped.
        Ok(()) => match runs.recv_timeout(PATIENCE) {
            Ok(()) => Ok(Some(release)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(format!("no thread ran a closure for {PATIENCE:?}")),
        },
        Err(error) if error.is_retryable() => Ok(None),
        Err(error) => Err(format!("the closure that hangs: {error}")),
    }
}

/// Writes many blocks from inside the callback of a read, whose file may have to make room meanwhile; whether there was what
/// to read.
fn write_while_reading(scratch: &Scratch, number: u64) -> Result<bool, String> {
    let key = name(3, number);
    let written = scratch.put_named(realm(), key, &number.to_le_bytes());
    if let Err(error) = written {
        return if error.is_retryable() { Ok(false) } else { Err(format!("the block to be read: {error}")) };
    }
    let read = scratch.read(realm(), key, |bytes| {
        for other in 0..20 {
            match scratch.put_named(realm(), name(4, other), &vec![7; 300_000]) {
                Ok(()) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(format!("writing while reading: {error}")),
            }
        }
        if bytes == number.to_le_bytes() { Ok(()) } else { Err("a block changed while it was read".to_owned()) }
    });
    match read.missing_ok().map_err(|error| error.to_string())? {
        Some(outcome) => outcome.map(|()| true),
        None => Ok(false),
    }
}
