//! What the writers of an index share: locks by key, a counter, the ages of what gave way. None is touched by a read.
#![forbid(unsafe_code)]

use super::Age;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

const STRIPES: usize = if cfg!(loom) { 2 } else { 512 };
const TALLIES: usize = if cfg!(loom) { 1 } else { 16 };
const FLOORS: usize = if cfg!(loom) { 2 } else { 1024 };

/// Alone in its cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Padded<T>(T);

/// Locks that let the writers of one key take turns. Two keys may share one.
#[derive(Debug)]
pub(super) struct Stripes(Box<[Padded<Mutex<()>>]>);

impl Stripes {
    pub(super) const COUNT: usize = STRIPES;

    pub(super) fn new() -> Self {
        Self((0..STRIPES).map(|_| Padded(Mutex::new(()))).collect())
    }

    pub(super) fn lock(&self, stripe: usize) -> MutexGuard<'_, ()> {
        self.0[stripe].0.lock()
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(&*self.0) as u64
    }
}

/// How many words are in use, counted in several cache lines. Exact while nobody writes.
#[derive(Debug)]
pub(super) struct Tally(Box<[Padded<AtomicU64>]>);

impl Tally {
    pub(super) fn new() -> Self {
        Self((0..TALLIES).map(|_| Padded(AtomicU64::new(0))).collect())
    }

    // Relaxed throughout: a number for people, it orders nothing. One line may wrap below 0, the sum does not.
    pub(super) fn add(&self, bucket: usize) {
        self.0[bucket % TALLIES].0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, bucket: usize) {
        self.0[bucket % TALLIES].0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn sum(&self) -> u64 {
        let sum = self.0.iter().fold(0_u64, |sum, line| sum.wrapping_add(line.0.load(Ordering::Relaxed)));
        // A word may be counted out in one line before this saw it counted in in another.
        u64::try_from(sum.cast_signed()).unwrap_or(0)
    }
}

/// The youngest block that gave way in each group of buckets.
///
/// A block that gave way is forgotten, and so is its age: an older version of its key, met later by discovery or by a
/// writer that was slow, would be taken for new. So nothing older than what gave way in a bucket is ever inserted
/// there.
#[derive(Debug)]
pub(super) struct Floors(Box<[AtomicU64]>);

impl Floors {
    pub(super) fn new() -> Self {
        Self((0..FLOORS).map(|_| AtomicU64::new(0)).collect())
    }

    /// To be called before the word gives way.
    pub(super) fn raise(&self, bucket: usize, to: Age) {
        // Relaxed: the exchange that follows (`Bucket::exchange`, Release) publishes it to whoever sees the word gone.
        self.0[bucket % FLOORS].fetch_max(to.0, Ordering::Relaxed);
    }

    /// To be called after the words were read.
    pub(super) fn of(&self, buckets: [usize; 2]) -> Age {
        // Relaxed: `Bucket::word` (Acquire) of the word that is gone came first.
        let [first, second] = buckets.map(|bucket| self.0[bucket % FLOORS].load(Ordering::Relaxed));
        Age(first.max(second))
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(&*self.0) as u64
    }
}
