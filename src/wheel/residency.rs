//! How blocks come into memory, and how much of them stays mapped.
//!
//! A block that was not read for a while is asked for before it is lent: alone, which is what a disk does best with blocks
//! that are far apart, or with all that lies around it, which is what brings a set into memory soonest that will be there
//! in the end. Neither is always right, so the store looks once a second whether what it holds fits into the memory that is
//! left.
//!
//! # Invariants
//!
//! 1. A page that cannot be read is an error of the blocks it holds, and of no other: what was asked for around a block may
//!    fail without a word.
//! 2. What is asked here is a hint. A block is as readable after a wrong one, and its bytes are the same.
//! 3. Whatever is released stays where it is: only the page tables forget it, so whoever is lent it reads on.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::os;
use crate::storage::FileMemory;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use crate::wheel::FileWheel;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::regions::{REGION, end_of_region, pages_of};
use crate::wheel::slots::WARM;
use crate::wheel::state::FileState;

/// A block that is lent for the first time has as much of it mapped at once.
const MAPPED_AT_ONCE: u64 = 256 << 10;
/// Blocks up to this length are brought with what lies around them; longer ones alone, and what lies behind them is asked for.
const AROUND_BELOW: u64 = 256 << 10;
/// So many regions behind one that is brought are asked for with it, and behind a long block: the disk has something to do
/// while that is used, and what it brings in between is there when its turn comes.
const BEHIND: usize = 3;
const BEHIND_LONG: usize = 7;
/// This part of a file is in memory, brought or just written, before its long blocks are brought with what lies around them.
const LONG_ALONE: u64 = 32;
/// Blocks of so many bytes and more are brought with the rest of the regions that they touch, whatever else was read.
const WHOLE_FROM: u64 = 4 * REGION;
/// After so many regions in a row that did not come as one piece of memory none is asked for that way, until the next look.
const REFUSALS: u32 = 3;
/// So many blocks of a region are asked for alone before all of it is.
pub(crate) const ALONE: u32 = 2;
/// How often the memory that is left is looked at while blocks are brought.
const LOOK: Duration = Duration::from_secs(1);
/// The same, while none is: others may want the memory meanwhile.
const LOOK_AT_REST: Duration = Duration::from_secs(10);
/// How many regions of a file are looked at, at each look.
const SAMPLED: usize = 8;
/// The keeper is woken when a file has brought another such part of the budget.
const STEPS: u64 = 16;
/// The smallest such part, in bytes.
const LEAST_STEP: u64 = 1 << 20;

/// How blocks that are not in memory are brought there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// As `ReadAround` while all that the store holds fits into the memory that is left, once a few blocks of a region of 2
    /// MiB were read, or of blocks of more than 256 KiB a thirty-second part of their file, and at once for those of 8 MiB and
    /// more; alone otherwise: looked at once a second.
    #[default]
    Auto,
    /// Each block alone: for blocks that are far apart, few of many.
    Exact,
    /// Always with what lies around them, 2 MiB at once: for sets of which most is read soon. Where the system has no pieces of
    /// memory of that length, or something of one was in memory before, the next 6 MiB come in the background; blocks of more than
    /// 256 KiB come alone there, and what lies behind them, up to 14 MiB, in the background.
    ReadAround,
}

/// What the store assumes of memory.
#[derive(Debug)]
pub(crate) struct Residency {
    access: Access,
    /// What the user allows.
    budget: Option<u64>,
    /// Whether blocks are brought with what lies around them.
    around: AtomicBool,
    /// Most bytes that are meant to be in memory.
    limit: AtomicU64,
    /// Bytes of memory that were left at the last look; the largest number where the system does not tell.
    left: AtomicU64,
    /// How many regions in a row did not come as one piece, since the last look.
    refusals: AtomicU32,
    /// Whether the last one did not.
    is_small: AtomicBool,
    look: Mutex<Look>,
}

/// The last look at what memory is left.
#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    /// Bytes in memory then.
    bytes: u64,
    /// The file that is released next.
    hand: usize,
    /// Which regions are looked at next.
    round: usize,
}

impl Look {
    /// Whether it is time for another one, with so many bytes in memory. A store of which nothing is there has nothing to lose.
    fn is_due(&self, resident: u64) -> bool {
        self.at.is_none_or(|at| match resident {
            bytes if bytes != self.bytes => at.elapsed() >= LOOK,
            0 => false,
            _ => at.elapsed() >= LOOK_AT_REST,
        })
    }
}

impl Residency {
    pub(crate) fn new(access: Access, budget: Option<u64>) -> Self {
        Self {
            access,
            budget,
            around: AtomicBool::new(access == Access::ReadAround),
            limit: AtomicU64::new(budget.unwrap_or(u64::MAX)),
            left: AtomicU64::new(u64::MAX),
            refusals: AtomicU32::new(0),
            is_small: AtomicBool::new(false),
            look: Mutex::new(Look::default()),
        }
    }

    /// Bytes of memory that may still be taken.
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    pub(crate) fn assume_left(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn reads_around(&self) -> bool {
        // Relaxed, and all below: hints, which guard nothing.
        self.around.load(Ordering::Relaxed)
    }

    /// Whether regions may come as one piece of memory each.
    fn may_have_pieces(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) < REFUSALS
    }

    /// Whether the last one did, or none was asked for yet.
    fn has_pieces(&self) -> bool {
        !self.is_small.load(Ordering::Relaxed)
    }

    fn tell_piece(&self, is_one: bool) {
        self.is_small.store(!is_one, Ordering::Relaxed);
        if is_one {
            self.refusals.store(0, Ordering::Relaxed);
        } else {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Has memory looked at when the keeper comes next.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn look_soon(&self) {
        self.look.lock().at = None;
    }

    /// Has so much time passed since the last look.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn let_pass(&self, time: Duration) {
        let mut look = self.look.lock();
        look.at = look.at.and_then(|at| at.checked_sub(time));
    }

    /// Whether memory was looked at since somebody asked for that.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn has_looked(&self) -> bool {
        self.look.lock().at.is_some()
    }

    /// Decides by the memory that is left and the bytes that the store holds; whether what is asked for has changed.
    fn decide(&self, available: Option<u64>, held: u64) -> bool {
        let most = available.map_or(u64::MAX, |bytes| bytes / 4 * 3).min(self.budget.unwrap_or(u64::MAX));
        self.limit.store(most, Ordering::Relaxed);
        self.assume_left(available.unwrap_or(u64::MAX));
        let before = self.reads_around();
        let around = match self.access {
            Access::ReadAround => true,
            Access::Exact => false,
            // Not known to fit is not fitting. What is read around already may use a little more.
            Access::Auto if available.is_none() => false,
            Access::Auto => held <= if before { most } else { most / 8 * 7 },
        };
        self.around.store(around, Ordering::Relaxed);
        around != before
    }
}

impl FileWheel {
    /// Puts the memory of a file in place, as `BlockFile::install`, and says how it will be read.
    pub(crate) fn install(&self, file: &BlockFile, memory: Arc<dyn FileMemory>) {
        file.install(memory);
        // In this order: whoever changes how files are read looks for their memory afterwards.
        if let Ok(memory) = file.memory() {
            memory.read_around(self.residency.reads_around());
        }
    }

    /// Brings bytes of a file into memory and maps them, the beginning at least.
    ///
    /// # Errors
    ///
    /// If they cannot be read: an error here, and not a signal later.
    pub(crate) fn bring(&self, file: &BlockFile, memory: &dyn FileMemory, bytes: &Range<u64>) -> io::Result<()> {
        if bytes.is_empty() || file.regions.are_whole(bytes) {
            return Ok(());
        }
        let len = bytes.end - bytes.start;
        if len <= AROUND_BELOW && self.residency.reads_around() {
            let alone = if self.residency.access == Access::ReadAround { 0 } else { ALONE };
            let mut at = bytes.start;
            while at < bytes.end {
                let end = end_of_region(at);
                if !file.regions.are_whole(&(at..bytes.end.min(end))) {
                    let is_untouched = file.regions.is_untouched(at);
                    if file.regions.ask(at) >= alone {
                        self.bring_region(file, memory, at, is_untouched, bytes.end <= end);
                    }
                }
                at = end;
            }
            if file.regions.are_whole(bytes) {
                return Ok(());
            }
        }
        let is_long = len > AROUND_BELOW && self.residency.reads_around();
        let is_read = || file.regions.bytes() >= file.size().get() / LONG_ALONE;
        let with_others = is_long && (self.residency.access == Access::ReadAround || is_read());
        let in_pieces = (with_others || is_long && len >= WHOLE_FROM) && self.residency.may_have_pieces();
        if in_pieces && self.bring_in_pieces(file, memory, bytes) {
            return Ok(());
        }
        memory.will_need(bytes.clone());
        // In pieces the system brings what lies behind by itself, and not in pieces what is asked for here.
        if with_others && !self.residency.has_pieces() {
            ask_behind(file, memory, bytes.end - 1, BEHIND_LONG);
        }
        // A piece that somebody else is bringing may hold a sector that cannot be read: then it takes this block's pages with it,
        // and whoever meets them first, an error here, or a reader by a signal.
        let mapped = if in_pieces { bytes.end } else { bytes.end.min(bytes.start + MAPPED_AT_ONCE) };
        memory.populate(bytes.start..mapped)
    }

    /// Brings the regions of a long block, those of which nothing was asked for yet as one piece of memory each; whether all of
    /// the block is in memory then.
    fn bring_in_pieces(&self, file: &BlockFile, memory: &dyn FileMemory, bytes: &Range<u64>) -> bool {
        let mut at = bytes.start;
        while at < bytes.end && self.residency.may_have_pieces() {
            // Once, whatever comes of it: a piece that could not be read takes others with it, as long as it is in memory.
            if file.regions.is_untouched(at) && file.regions.request(at) {
                self.bring_region(file, memory, at, true, false);
            }
            at = end_of_region(at);
        }
        file.regions.are_whole(bytes)
    }

    /// Brings all of a region, if it can be read: then nothing of it need be asked for any more. If it is the `last` of a
    /// block, those behind it are asked for once, unless it comes as one piece of memory.
    fn bring_region(&self, file: &BlockFile, memory: &dyn FileMemory, at: u64, is_untouched: bool, last: bool) {
        let region = region_of(file, at);
        if !(is_untouched && self.bring_piece(memory, &region)) {
            memory.will_need(region.clone());
            if last {
                ask_behind(file, memory, at, BEHIND);
            }
        }
        // Invariant 1: the block itself is asked for by whoever wants it.
        if memory.populate(region.clone()).is_ok() {
            self.wake_above_limit(&file.regions.set_whole(at, pages_of(region)));
        }
    }

    /// Brings a region as one piece of memory, if the system has such pieces and nothing of it is in memory; whether it came so.
    fn bring_piece(&self, memory: &dyn FileMemory, region: &Range<u64>) -> bool {
        // The end of a file, and a region with a page of the header or the directory, are no pieces and say nothing of others.
        let may_be_piece = region.end - region.start == REGION && self.residency.may_have_pieces();
        if !may_be_piece || memory.resident(region.clone()) != Some(0) {
            return false;
        }
        let is_piece = memory.prepare(region.clone());
        self.residency.tell_piece(is_piece);
        is_piece
    }

    /// Says that a block was brought, and wakes a keeper if that may be too much.
    pub(crate) fn was_brought(&self, file: &BlockFile, bytes: Range<u64>) {
        self.wake_above_limit(&file.regions.add(bytes));
    }

    /// Wakes a keeper if a file has brought another step, from so many bytes to so many, and the files together too much.
    fn wake_above_limit(&self, of_file: &Range<u64>) {
        let step = (self.residency.limit() / STEPS).max(LEAST_STEP);
        if of_file.start / step != of_file.end / step && self.resident_bytes() > self.residency.limit() {
            self.wake_keepers();
        }
    }

    /// A file that nobody reads or writes will begin another lap: what is mapped of the last one goes. It stays where nobody
    /// has said how much may be mapped, for whoever reads what is written there next.
    pub(crate) fn forget_lap(&self, file: &BlockFile) {
        if self.residency.budget.is_some() {
            release(file);
        }
    }

    /// Bytes that should be in memory: of blocks that were written, or read, and not released since.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.table.iter().map(|file| file.regions.bytes()).sum()
    }

    /// Looks whether the memory that is left has changed, and releases what is too much of it. Each keeper asks; one does it.
    pub(crate) fn keep_within_memory(&self, lane: &Lane) {
        if !self.looks_for_all(lane) {
            return;
        }
        let mut look = self.residency.look.lock();
        let is_due = look.is_due(self.resident_bytes());
        if is_due {
            self.look_at_memory(&mut look, os::available_memory());
        }
        self.release_surplus(&mut look);
        if is_due {
            look.at = Some(Instant::now());
            look.bytes = self.resident_bytes();
        }
    }

    /// Whether it is the keeper of this lane that looks at memory: of the first that has not fallen, as one that has may have
    /// none.
    pub(crate) fn looks_for_all(&self, lane: &Lane) -> bool {
        let first = self.lanes.iter().find(|lane| !lane.has_fallen());
        lane.id() == first.map_or(0, Lane::id)
    }

    fn look_at_memory(&self, look: &mut Look, available: Option<u64>) {
        if self.residency.decide(available, self.held_bytes()) {
            let around = self.residency.reads_around();
            for memory in self.table.iter().filter_map(|file| file.memory().ok()) {
                memory.read_around(around);
            }
        }
        // What refused pieces may have them again.
        self.residency.refusals.store(0, Ordering::Relaxed);
        look.round = look.round.wrapping_add(1);
        for file in self.table.iter().filter(|file| file.regions.bytes() > 0) {
            if has_lost_pages(file, look.round) {
                release(file);
            }
        }
    }

    /// Releases file after file until what is left is well within the limit.
    fn release_surplus(&self, look: &mut Look) {
        let limit = self.residency.limit();
        let mut left = self.resident_bytes();
        if left <= limit {
            return;
        }
        let files = self.table.iter().count();
        for _ in 0..files {
            if left <= limit / 4 * 3 {
                return;
            }
            let file = self.table.iter().nth(look.hand % files);
            look.hand = (look.hand + 1) % files;
            if let Some(file) = file.filter(|file| file.regions.bytes() > 0) {
                left = left.saturating_sub(file.regions.bytes());
                release(file);
            }
        }
    }

    /// Bytes of all files that something was written to.
    fn held_bytes(&self) -> u64 {
        let turn = self.turn.lock();
        let held = |file: &BlockFile| match turn.state(file.id()) {
            FileState::Active => file.cursor.bytes(),
            FileState::Found | FileState::Sealing | FileState::Sealed => file.size().get(),
            _ => 0,
        };
        self.table.iter().map(held).sum()
    }
}

/// Asks for a block that somebody will bring soon.
pub(crate) fn ask_for(file: &BlockFile, memory: &dyn FileMemory, bytes: &Range<u64>) {
    memory.will_need(bytes.clone());
    // What is on its way in small pages does not become one piece.
    if bytes.end - bytes.start > AROUND_BELOW {
        for number in bytes.start / REGION..bytes.end.div_ceil(REGION) {
            file.regions.request(number * REGION);
        }
    }
}

/// Asks for some regions behind that of a byte, each once, and waits for none. They count as in memory once they are used:
/// what is asked ahead is the system's to keep or to drop.
fn ask_behind(file: &BlockFile, memory: &dyn FileMemory, at: u64, count: usize) {
    let mut next = end_of_region(at);
    for _ in 0..count {
        if next < file.size().get() && file.regions.request(next) {
            memory.will_need(region_of(file, next));
        }
        next = end_of_region(next);
    }
}

/// The region of a byte.
fn region_of(file: &BlockFile, at: u64) -> Range<u64> {
    at - at % REGION..end_of_region(at).min(file.size().get())
}

/// Whether less is in memory than should be: the system had another use for it.
fn has_lost_pages(file: &BlockFile, round: usize) -> bool {
    let Ok(memory) = file.memory() else { return false };
    let count = file.regions.brought(0, 1).count();
    let step = count.div_ceil(SAMPLED).max(1);
    let (mut expected, mut found) = (0, 0);
    for (start, bytes) in file.regions.brought(round % step, step) {
        let Some(resident) = memory.resident(start..end_of_region(start).min(file.size().get())) else { return false };
        expected += bytes;
        found += resident.min(bytes);
    }
    found < expected / 8 * 7
}

/// Forgets that anything of a file is in memory: each block is asked for at its next read.
fn release(file: &BlockFile) {
    // In this order: a block that is brought meanwhile may be asked for once too often, and no block too rarely.
    file.regions.clear();
    file.slots.unmark_all(WARM);
    if let Ok(memory) = file.memory() {
        memory.release(0..file.size().get());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_policy_follows_the_memory_that_is_left() {
        let mib = |number: u64| number << 20;
        let auto = Residency::new(Access::Auto, None);
        // What is available, what is held, and whether it is read around.
        for (available, held, around) in [
            (Some(8), 5, true),
            (Some(8), 6, true),
            (Some(8), 7, false),
            (Some(8), 6, false),
            (None, 1, false),
            (Some(8), 1, true),
        ] {
            let before = auto.reads_around();
            assert_eq!(auto.decide(available.map(mib), mib(held)), before != around, "{available:?} {held}");
            assert_eq!(auto.reads_around(), around, "{available:?} {held}");
        }
        assert_eq!(auto.limit(), mib(6));
        let bounded = Residency::new(Access::Auto, Some(mib(4)));
        bounded.decide(Some(mib(100)), mib(5));
        assert_eq!((bounded.reads_around(), bounded.limit()), (false, mib(4)));
        for (access, around) in [(Access::Exact, false), (Access::ReadAround, true)] {
            let asked = Residency::new(access, None);
            for held in [1, 100] {
                assert!(!asked.decide(Some(mib(8)), mib(held)));
                assert_eq!(asked.reads_around(), around);
            }
        }
    }
}
