//! Where a block is: from the hash of realm and key to candidate addresses, without a lock for readers.
//!
//! A table of fixed size, buckets of eight words, each a tag and an address. A key has two candidate buckets; an insert
//! takes the emptier one. The tag is a hint: the entry or the pending record behind an address decides whose it is.
//! When both buckets are full, the oldest block among their sixteen (or the new one, if it is older) gives way; in an
//! index that grows none does, and the key has its word in the next level, a table like the first (`levels`); only where no
//! memory is had for that the new block gives way.
//!
//! # Invariants
//!
//! 1. Nothing moves: a word stays in its place until it is replaced there by one of the same key, removed, or gives
//!    way.
//! 2. A word of a key is written under the key's stripe lock only, so the writers of one key take turns, and a key has
//!    at most one word. Removing, giving way and sweeping only take words away, and need no lock: each is one
//!    compare-exchange from exactly the word that was seen, and who loses it looks again.
//! 3. Ages of a key only grow: `publish_if_newer` puts no older version in place of a newer one, nor where a newer one
//!    gave way (`Floors`). `compare_exchange_if` may, its caller has named what it replaces.
//! 4. Within one generation of a file an address is one key's. The word of an earlier generation left the index before
//!    the generation changed, so [`View::version`] speaks of the generation in which the word was written.
//!
//! # A look-up that finds nothing may say so
//!
//! It reads sixteen words a level one after the other, not at one instant. If the key has no word when it begins, then that is
//! the instant at which *nothing* is true. Else the word is in one place P, and by invariant 1 it is there until it is
//! taken away. When the look-up reads P it finds the word, or one of the same key that replaced it, tag and all: a
//! candidate. Or it finds P empty or another key's: then the word was taken away since the look-up began, and between
//! that and any later insert (possibly into a place already passed by) the key was in the index nowhere. That instant
//! lies within the look-up. An insert or replace that happened before the look-up cannot be overlooked: reads of one
//! word never go back in its history, whatever the order of the reads. That a level is not there yet is read like a word
//! of it that is empty. What lies between two reads does not matter, nor how long it takes: the candidates of one level are
//! looked at before the next level is read.
//!
//! # What the writers of one key must not do to each other, nor to others
//!
//! `publish_if_newer` asks what each word of its tag is (slow: it may read the disk) before it takes the lock. Under
//! it, words that are not exactly what was seen, in place and in generation (invariant 4), send it back to ask again.
//! What was seen, the key's own word or somebody else's, is then what it was, and by invariant 2 no word of this key
//! can appear until the lock is free. The key's word can still vanish: then the exchange fails and the new one is
//! inserted. A word that another key puts where this one wanted to go makes the exchange fail too, and another place is
//! looked for. One window is left to the caller: if a file turned a whole round between the check of its generation and
//! the exchange a few instructions later, another key's word could be replaced: a lost block, never a wrong one. A
//! caller that holds a pin on the file has no such window.
// Not `forbid`, which `table` could not lift.
#![deny(unsafe_code)]

mod bucket;
mod levels;
mod publish;
mod scan;
mod shards;
mod table;

#[cfg(all(test, loom))]
mod loom_models;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;
use std::io;

use self::bucket::{Bucket, SLOTS, Word};
use self::levels::{Levels, buckets_at};
use self::publish::Age;
pub(crate) use self::publish::{Published, View};
pub(crate) use self::scan::Candidates;
use self::scan::Scan;
use self::shards::{Floors, Stripes, Tally};
use crate::block::{BlockAddress, FileId, KeyHash};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Words a table may have: 2^14 ..= 2^27, that is 128 KiB to 1 GiB. Two, where each is a tracked object of a model, and
/// few where a store has a few blocks: under fuzzing, which sweeps its table thousands of times a second, and interpreted.
const MIN_WORDS: u64 = if cfg!(loom) {
    2
} else if cfg!(any(fuzzing, miri)) {
    1 << 10
} else {
    1 << 14
};
const MAX_WORDS: u64 = 1 << 27;

/// Whether an index takes every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It stays as large as it is, and the oldest blocks give way.
    Fixed,
    /// It grows, by tables that take so many bytes at most with the first one, and none gives way.
    Grows(u64),
}

/// The index of a store: 8 bytes a word, three quarters of them meant to be used.
pub(crate) struct BlockIndex {
    levels: Levels,
    room: Room,
    stripes: Stripes,
    floors: Floors,
    tally: Tally,
    evictions: AtomicU64,
}

/// Where the word of a key may be, and what it looks like.
#[derive(Clone, Copy, Debug)]
struct Place {
    tag: u32,
    /// In the first level.
    buckets: [usize; 2],
    /// Which of the buckets of a larger level that stand for one of the first.
    spread: u32,
    stripe: usize,
}

/// Where a word is among those of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    level: usize,
    way: usize,
}

impl BlockIndex {
    /// Room for `expected_blocks` at load 0.75, between 2^14 and 2^27 words at first, and no more than `most_bytes` take.
    /// Memory is taken as it is touched.
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub(crate) fn new(expected_blocks: u64, most_bytes: u64, room: Room) -> io::Result<Self> {
        let words =
            expected_blocks.saturating_mul(4).div_ceil(3).min(most_bytes / size_of::<Bucket>() as u64 * SLOTS as u64);
        let words = words.clamp(MIN_WORDS, MAX_WORDS);
        let buckets = words.div_ceil(SLOTS as u64) as usize;
        Self::with_buckets(buckets, room)
    }

    /// Any number of buckets: tests want few.
    pub(crate) fn with_buckets(buckets: usize, room: Room) -> io::Result<Self> {
        Ok(Self {
            levels: Levels::new(buckets, if let Room::Grows(most_bytes) = room { most_bytes } else { 0 })?,
            room,
            stripes: Stripes::new(),
            floors: Floors::new(),
            tally: Tally::new(),
            evictions: AtomicU64::new(0),
        })
    }

    /// The addresses in the first table that may be this key's, at most 16 and rarely more than one. No lock, no allocation,
    /// two cache lines.
    pub(crate) fn candidates(&self, key: KeyHash) -> Candidates {
        let place = self.place(key);
        Candidates::of(place.buckets.map(|bucket| &self.levels.first()[bucket]), place.tag)
    }

    /// Those in the other tables, asked for one after the other, if the index has grown.
    pub(crate) fn deeper_candidates(&self, key: KeyHash) -> impl Iterator<Item = BlockAddress> {
        self.deeper_candidates_at(self.place(key))
    }

    fn deeper_candidates_at(&self, place: Place) -> impl Iterator<Item = BlockAddress> {
        self.deeper_scans(place).flat_map(move |scan| scan.candidates(place.tag))
    }

    /// Those in all tables.
    pub(crate) fn all_candidates(&self, key: KeyHash) -> impl Iterator<Item = BlockAddress> {
        self.all_candidates_at(self.place(key))
    }

    fn all_candidates_at(&self, place: Place) -> impl Iterator<Item = BlockAddress> {
        self.scan(place).candidates(place.tag).chain(self.deeper_candidates_at(place))
    }

    /// Whether there is more than the first table.
    pub(crate) fn has_grown(&self) -> bool {
        self.levels.have_grown()
    }

    /// Asks the processor for the two cache lines of a key, ahead of a look-up or a publish.
    pub(crate) fn prefetch(&self, key: KeyHash) {
        for bucket in self.place(key).buckets {
            self.levels.first().prefetch(bucket);
        }
    }

    /// Has the memory of a small index at hand: much of it is about to be touched, in no order. A page at each first touch takes
    /// ten times as long, and if somebody has looked there before, it stops all that run.
    pub(crate) fn populate(&self) {
        self.levels.first().populate();
    }

    /// Puts `new` in place of the key's older address, or where there is room.
    ///
    /// Nobody reads the block at `new` before this; whoever finds it afterwards sees what the caller did before.
    pub(crate) fn publish_if_newer(&self, key: KeyHash, new: BlockAddress, view: &impl View) -> Published {
        self.publish_at(self.place(key), new, view)
    }

    /// Puts `new` in place of `old`, whatever their ages, if `old` is still what this key's word says.
    ///
    /// `prepare` is a last step under the key's lock, when `old` was seen there and before it is replaced.
    /// `prepare` must be short and must not come back to this index. If it says no, nothing changes.
    pub(crate) fn compare_exchange_if(
        &self,
        key: KeyHash,
        old: BlockAddress,
        new: BlockAddress,
        prepare: impl FnOnce() -> bool,
    ) -> bool {
        self.compare_exchange_at(self.place(key), old, new, prepare)
    }

    fn compare_exchange_at(
        &self,
        place: Place,
        old: BlockAddress,
        new: BlockAddress,
        prepare: impl FnOnce() -> bool,
    ) -> bool {
        let _turn = self.stripes.lock(place.stripe);
        let old = Word::new(place.tag, old);
        // Losing the exchange means that the word was taken away: it cannot have gone elsewhere under the lock.
        self.spot_of(place, old)
            .is_some_and(|spot| prepare() && self.exchange(place, spot, old, Word::new(place.tag, new)))
    }

    /// Removes the word of this key if it is still exactly this address.
    pub(crate) fn remove(&self, key: KeyHash, address: BlockAddress) -> bool {
        self.remove_at(self.place(key), address)
    }

    fn remove_at(&self, place: Place, address: BlockAddress) -> bool {
        let word = Word::new(place.tag, address);
        let removed = self.spot_of(place, word).filter(|&spot| self.exchange(place, spot, word, Word::EMPTY));
        removed.inspect(|&spot| self.tally.subtract(place.bucket(spot))).is_some()
    }

    /// Removes every word of a file, tells each, and returns how many there were. Reads all tables.
    ///
    /// Words that others put there meanwhile may be missed: the caller sweeps again when no writer of the file is left.
    pub(crate) fn sweep(&self, file: FileId, mut removed: impl FnMut(BlockAddress)) -> u64 {
        let mut count = 0;
        let buckets = self.levels.iter().flat_map(|table| table.iter().enumerate());
        for (number, bucket) in buckets {
            for slot in 0..SLOTS {
                let mut word = bucket.word(slot);
                while let Some(address) = word.address().filter(|address| address.file() == file) {
                    match bucket.exchange(slot, word, Word::EMPTY) {
                        Ok(()) => {
                            self.tally.subtract(number);
                            count += 1;
                            removed(address);
                            break;
                        }
                        Err(now) => word = now,
                    }
                }
            }
        }
        count
    }

    /// Calls `visit` with every address, in no order. What is written meanwhile may be seen or not.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(BlockAddress)) {
        for bucket in self.levels.iter().flat_map(|table| table.iter()) {
            (0..SLOTS).filter_map(|slot| bucket.word(slot).address()).for_each(&mut visit);
        }
    }

    /// How many blocks are in the index. Exact while nobody writes.
    pub(crate) fn len(&self) -> u64 {
        self.tally.sum()
    }

    /// How many blocks its first table holds at load 0.75, up to which next to none has to give way, or to go to another.
    pub(crate) fn capacity(&self) -> u64 {
        (self.levels.first().len() * SLOTS) as u64 * 3 / 4
    }

    /// How many blocks gave way because their buckets were full.
    pub(crate) fn evictions(&self) -> u64 {
        // Relaxed: a number for people. `Floors` is what writers look at.
        self.evictions.load(Ordering::Relaxed)
    }

    /// Bytes of address space. Memory is taken as buckets are touched.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.levels.bytes() + self.stripes.bytes() + self.floors.bytes() + size_of::<Self>() as u64
    }

    fn place(&self, key: KeyHash) -> Place {
        let count = self.levels.first().len() as u64;
        let (first, second) = key.buckets(u32::MAX);
        // 32 random bits times the count, high half: below the count, and any count will do, not powers of two only.
        let bucket = |bits: u32| ((u64::from(bits) * count) >> 32) as usize;
        let buckets = [bucket(first), bucket(second)];
        Place { tag: key.tag(), buckets, spread: key.spread(), stripe: key.stripe(Stripes::COUNT) }
    }

    /// What the first level has at a place.
    fn scan(&self, place: Place) -> Scan {
        let [first, second] = place.buckets;
        Scan::new(&self.levels.first()[first], &self.levels.first()[second])
    }

    /// What the other levels have there, the second one first.
    fn deeper_scans(&self, place: Place) -> impl Iterator<Item = Scan> {
        (1..).map_while(move |level| self.scan_at(level, place))
    }

    fn scan_at(&self, level: usize, place: Place) -> Option<Scan> {
        self.levels.buckets(level, place).map(|[first, second]| Scan::new(first, second))
    }

    fn spot_of(&self, place: Place, word: Word) -> Option<Spot> {
        let scans = (0..).map_while(|level| self.scan_at(level, place));
        scans.enumerate().find_map(|(level, scan)| {
            let way = scan.tagged(place.tag).find(|&way| scan.word(way) == word)?;
            Some(Spot { level, way })
        })
    }

    fn exchange(&self, place: Place, spot: Spot, from: Word, to: Word) -> bool {
        let bucket = self.levels.buckets(spot.level, place).map(|buckets| buckets[spot.way / SLOTS]);
        bucket.is_some_and(|bucket| bucket.exchange(spot.way % SLOTS, from, to).is_ok())
    }
}

impl Spot {
    fn first_level(way: usize) -> Self {
        Self { level: 0, way }
    }
}

impl Place {
    fn bucket(self, spot: Spot) -> usize {
        buckets_at(spot.level, self)[spot.way / SLOTS]
    }
}

impl fmt::Debug for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockIndex")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("evictions", &self.evictions())
            .finish_non_exhaustive()
    }
}
