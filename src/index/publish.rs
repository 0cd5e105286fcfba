//! Publishing an address: one operation for writers, removers and discovery, so that the newest version wins whoever
//! comes last.
#![forbid(unsafe_code)]

use super::bucket::{SLOTS, Word};
use super::scan::{Scan, WAYS, Ways};
use super::{BlockIndex, Place, Room, Spot};
use crate::block::BlockAddress;
use crate::planted;
use crate::sync::atomic::Ordering;

/// What the index has to ask about the blocks behind its addresses.
pub(crate) trait View {
    /// Whether this block, by its entry or pending record, is one of the key being published. May be slow: no lock is
    /// held.
    ///
    /// When it cannot be told (an error of the device, a file that is closing), the answer is yes: with the tag equal
    /// it nearly always is, and at worst another key's block is forgotten, where a wrong no would leave two words for
    /// one key.
    fn is_same_key(&self, address: BlockAddress) -> bool;

    /// Generation of the file and slot: the age of a block. Cheap: it is asked under a lock, and for other keys' blocks
    /// too.
    ///
    /// The generation is that of the file in memory, which changes only when no word of the file is left.
    fn version(&self, address: BlockAddress) -> (u64, u32);
}

/// What became of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Published {
    /// The key had no word, now it has this one.
    Inserted,
    /// This older address of the key was replaced: its block is dead.
    Replaced(BlockAddress),
    /// The key has this newer address, or exactly the one to be published: nothing changed.
    Superseded(BlockAddress),
    /// There was no room, and this address is in the index no more. It is the oldest of all that wanted to stay:
    /// usually another key's, and the new one was inserted; or the new one itself, when it is older than the others or
    /// than what gave way here before, or when there is no memory for an index that grows.
    Evicted(BlockAddress),
}

/// Generation and slot of a block in one number: the larger the younger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age(pub(super) u64);

const SLOT_BITS: u32 = 22;

/// A file a millisecond reaches it in 139 years. Ages beyond are told apart by their slots only.
const MAX_GENERATION: u64 = (1 << (u64::BITS - SLOT_BITS)) - 1;

impl Age {
    fn of(view: &impl View, address: BlockAddress) -> Self {
        let (generation, slot) = view.version(address);
        debug_assert!(slot < 1 << SLOT_BITS, "slot {slot}");
        Self(generation.min(MAX_GENERATION) << SLOT_BITS | u64::from(slot))
    }
}

/// What the words of the key's tag in one level turned out to be, asked before the lock was taken.
struct Known {
    scan: Scan,
    tagged: Ways,
    same: Ways,
    ages: [Age; WAYS],
}

/// A word of the tag is not the one that was asked about.
struct Changed;

impl Known {
    fn ask(scan: Scan, tag: u32, view: &impl View) -> Self {
        let mut known = Self { scan, tagged: scan.tagged(tag), same: Ways::NONE, ages: [Age(0); WAYS] };
        for way in known.tagged {
            let Some(address) = scan.word(way).address() else { continue };
            // The age first: if the file turns after this, `own_way` sees it.
            known.ages[way] = Age::of(view, address);
            if view.is_same_key(address) {
                known.same.insert(way);
            }
        }
        known
    }

    /// Where the key's word is, going by what was asked; words that have vanished since do no harm.
    fn own_way(&self, now: &Scan, tag: u32, view: &impl View) -> Result<Option<usize>, Changed> {
        let mut own = None;
        for way in now.tagged(tag) {
            let word = now.word(way);
            let unchanged = self.tagged.holds(way)
                && self.scan.word(way) == word
                && word.address().is_some_and(|address| Age::of(view, address) == self.ages[way]);
            if !unchanged {
                return Err(Changed);
            }
            if self.same.holds(way) {
                own = own.or(Some(way));
            }
        }
        Ok(own)
    }
}

impl BlockIndex {
    pub(super) fn publish_at(&self, place: Place, new: BlockAddress, view: &impl View) -> Published {
        loop {
            // Slow, and calls out: no lock is held. Most often there is nothing to ask about.
            let known = Known::ask(self.scan(place), place.tag, view);
            let deeper: Vec<_> = self.deeper_scans(place).map(|scan| Known::ask(scan, place.tag, view)).collect();
            let _turn = self.stripes.lock(place.stripe);
            let now = self.scan(place);
            match self.own_spot(place, &now, &known, &deeper, view) {
                Err(Changed) => {}
                Ok(None) => return self.insert(place, now, new, view),
                Ok(Some((spot, word, age))) => {
                    if let Some(old) = word.address().filter(|_| age >= Age::of(view, new)) {
                        return Published::Superseded(old);
                    }
                    match word.address() {
                        Some(old) if self.exchange(place, spot, word, Word::new(place.tag, new)) => {
                            return Published::Replaced(old);
                        }
                        // It was taken away. By invariant 2 the key has no word now.
                        _ => return self.insert(place, self.scan(place), new, view),
                    }
                }
            }
        }
    }

    /// Where the key's word is, under its lock, and the word and its age; `now` is what the first level has.
    fn own_spot(
        &self,
        place: Place,
        now: &Scan,
        known: &Known,
        deeper: &[Known],
        view: &impl View,
    ) -> Result<Option<(Spot, Word, Age)>, Changed> {
        if let Some(way) = known.own_way(now, place.tag, view)? {
            return Ok(Some((Spot::first_level(way), now.word(way), known.ages[way])));
        }
        if self.levels.count() != 1 + deeper.len() {
            return Err(Changed);
        }
        for ((known, now), level) in deeper.iter().zip(self.deeper_scans(place)).zip(1..) {
            if let Some(way) = known.own_way(&now, place.tag, view)? {
                return Ok(Some((Spot { level, way }, now.word(way), known.ages[way])));
            }
        }
        Ok(None)
    }

    /// Under the key's lock, when the key has no word; `now` is what the first level had before that was known, or has now.
    fn insert(&self, place: Place, mut now: Scan, new: BlockAddress, view: &impl View) -> Published {
        let (word, age) = (Word::new(place.tag, new), Age::of(view, new));
        loop {
            if age < self.floors.of(place.buckets) {
                return self.give_up(place, new, age);
            }
            if let Some(way) = now.emptiest() {
                if self.fill(place, Spot::first_level(way), word) {
                    return Published::Inserted;
                }
            } else if self.room != Room::Fixed {
                return self.insert_deeper(place, word, new, age);
            } else {
                let Some((oldest, victim, way)) = oldest(&now, view).filter(|&(oldest, ..)| oldest < age) else {
                    return self.give_up(place, new, age);
                };
                // Hazard 16: a full index is an error, and the block has its room in the file already.
                if planted::is(16) {
                    return self.give_up(place, new, age);
                }
                // Before the exchange, so that whoever sees the word gone sees the floor. If the exchange is lost, the
                // floor is higher than it had to be, by a block that was the oldest of sixteen.
                self.floors.raise(place.buckets[way / SLOTS], oldest);
                if self.exchange(place, Spot::first_level(way), now.word(way), word) {
                    self.evictions.fetch_add(1, Ordering::Relaxed);
                    return Published::Evicted(victim);
                }
            }
            now = self.scan(place);
        }
    }

    /// As `insert`, where the first level had no room and none may give way; only where no memory is had for another level
    /// the new block does.
    fn insert_deeper(&self, place: Place, word: Word, new: BlockAddress, age: Age) -> Published {
        let mut level = 1;
        while self.levels.grow_to(level) {
            let Some(now) = self.scan_at(level, place) else { break };
            match now.emptiest() {
                Some(way) if self.fill(place, Spot { level, way }, word) => return Published::Inserted,
                // Another key's writer was quicker.
                Some(_) => {}
                None => level += 1,
            }
        }
        self.give_up(place, new, age)
    }

    /// Puts a word where there was none.
    fn fill(&self, place: Place, spot: Spot, word: Word) -> bool {
        let is_filled = self.exchange(place, spot, Word::EMPTY, word);
        if is_filled {
            self.tally.add(place.bucket(spot));
        }
        is_filled
    }

    /// The new block is the oldest one that wants to stay, or there is no memory for it: it gives way itself.
    fn give_up(&self, place: Place, new: BlockAddress, age: Age) -> Published {
        self.floors.raise(place.buckets[0], age);
        self.evictions.fetch_add(1, Ordering::Relaxed);
        Published::Evicted(new)
    }
}

fn oldest(scan: &Scan, view: &impl View) -> Option<(Age, BlockAddress, usize)> {
    let ages =
        (0..WAYS).filter_map(|way| scan.word(way).address().map(|address| (Age::of(view, address), address, way)));
    ages.min_by_key(|&(age, ..)| age)
}
