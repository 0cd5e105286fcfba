//! The directory of a file of an earlier run, read from the file's end downwards.
//!
//! # Invariants
//!
//! 1. Entries stand alone: one that does not check is skipped, never a reason to stop.
//! 2. No entry is looked for within a payload that a valid entry of a lower slot names: those bytes are a tenant's.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::block::{Entry, PAGE_LEN, PAGE_SIZE, Slot, pages_of};
use crate::planted;
use crate::wheel::file::BlockFile;
use crate::wheel::lane::Lane;
use crate::wheel::{FileWheel, OnFull};

/// Directories are read in pieces, the first one small: most are, and what lies below them is payload. No further one is
/// larger than the second size.
const FIRST_PIECE: u64 = 64 << 10;
const PIECE: u64 = 1 << 20;
/// Entries of a page.
const A_PAGE: u32 = 64;
/// So many bytes of a directory are kept from the one look at it to the other.
const KEPT: usize = 1 << 20;
/// How often a piece is read before it counts as unreadable, and the sleep before it is read again.
const TRIES: u32 = 3;
/// So many pages of a file that cannot be read are looked for one by one, so that only what they hold is lost. Where there are
/// more, each costs time, and the next piece counts as a whole.
const BAD_PAGES: usize = 8;
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// What one directory holds.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) entries: u64,
    /// One more than the highest valid slot.
    pub(crate) next_slot: u32,
    /// The page after the highest valid payload.
    pub(crate) next_page: u32,
    /// Entries below the highest valid one that do not check.
    pub(crate) invalid: u64,
    /// The same above it: what earlier laps left there, as far as is known.
    beyond: u64,
    /// Where pages, or whole pieces, begin that could not be read, none of them in a payload.
    lost: Vec<u64>,
    pieces: Vec<Piece>,
}

/// A part of a directory that was read.
#[derive(Debug)]
struct Piece {
    start: u64,
    len: u64,
    /// `None`: there was too much of it.
    bytes: Option<Vec<u8>>,
}

impl Directory {
    /// Whether no entry of the file's lap is in it, and none can be that was not seen.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.entries == 0 && self.lost.is_empty()
    }

    /// Whether a page that cannot be read now names something in a file of this size, and could be read at first.
    fn misses_now(&self, page: u64, size: u64) -> bool {
        page + PAGE_SIZE > size - self.len() && !self.lost.contains(&page)
    }

    /// How many pages, or whole pieces, could not be read.
    pub(crate) fn unreadable(&self) -> u64 {
        self.lost.len() as u64
    }

    /// Bytes of the entries up to the highest valid one.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.next_slot) * Entry::SIZE as u64
    }

    /// How much of the directory lies below `end`, if the blocks there are as large as those above; 0 if it is not known.
    fn expected_below(&self, end: u64) -> u64 {
        let payload = u64::from(self.next_page) * PAGE_SIZE;
        let of_a_block = payload.checked_div(self.next_slot.into()).unwrap_or(u64::MAX - PAGE_SIZE);
        let blocks = end.saturating_sub(payload) / (of_a_block + Entry::SIZE as u64);
        (blocks * Entry::SIZE as u64).next_multiple_of(PAGE_SIZE)
    }
}

/// Asks for a directory of about `len` bytes, so that it is in memory when it is read.
pub(crate) fn ask_for_directory(file: &BlockFile, len: u64) {
    let Ok(memory) = file.memory() else { return };
    let end = file.size().get();
    memory.will_need(end.saturating_sub(len.clamp(FIRST_PIECE, PIECE))..end);
}

impl FileWheel {
    /// Reads a directory from its end downwards, as far as it may reach, by its high-water mark if the file has one; `None`
    /// if the store closes meanwhile.
    pub(crate) fn read_bounds(&self, lane: &Lane, file: &BlockFile) -> Option<Directory> {
        let mut directory = Directory { next_page: 1, ..Directory::default() };
        let size = file.size().get();
        let (most, known) = (file.size().slots(), file.high_water.known().filter(|_| !file.is_suspect()));
        // Whole pages: of a bad one no other is hidden. What a file says may be any number.
        let slots = known.map_or(most, |slots| slots.min(most).next_multiple_of(A_PAGE).min(most));
        let (mut slot, mut piece, mut skipped, mut kept, mut buffer) = (0, FIRST_PIECE, 0, 0, Vec::new());
        let mut least = PAGE_SIZE / 2;
        // From slot 0 upwards in number and downwards in the file.
        loop {
            let lowest = u64::from(directory.next_page) * PAGE_SIZE;
            let end = size - u64::from(slot) * Entry::SIZE as u64;
            if self.is_closed() || slot >= slots || end < lowest + Entry::SIZE as u64 {
                break;
            }
            let left = u64::from(slots - slot) * Entry::SIZE as u64;
            let len = piece.max(skipped).min(end - lowest).min(left) / Entry::SIZE as u64 * Entry::SIZE as u64;
            debug_assert!(len >= Entry::SIZE as u64, "slot {slot} of {size} bytes");
            let start = end - len;
            #[expect(clippy::cast_possible_truncation, reason = "no more than the slots of a file")]
            let count = (len / Entry::SIZE as u64) as u32;
            if file.memory().is_ok_and(|memory| memory.is_untouched(start..end)) {
                slot += count;
                // Where nothing was stored there is much of it, as a rule.
                skipped = 2 * len;
                continue;
            }
            if len > piece {
                skipped = 0;
                continue;
            }
            skipped = 0;
            let wanted = usize::try_from(len).ok()?;
            let is_kept = kept + wanted <= KEPT;
            let mut bytes = if is_kept { Vec::new() } else { std::mem::take(&mut buffer) };
            bytes.resize(wanted, 0);
            let loaded = self.load_piece(file, start, &mut bytes, BAD_PAGES.saturating_sub(directory.lost.len()));
            match loaded {
                Loaded::All => {}
                Loaded::But(pages) => directory.lost.extend(pages),
                Loaded::Nothing => {
                    directory.lost.push(start);
                    slot += count;
                    // Each takes its time.
                    (least, piece) = (PIECE.min(2 * least), PIECE.min(2 * piece));
                    continue;
                }
            }
            for (number, bytes) in (slot..).zip(bytes.rchunks_exact(Entry::SIZE)) {
                let offset = size - (u64::from(number) + 1) * Entry::SIZE as u64;
                if offset < u64::from(directory.next_page) * PAGE_SIZE {
                    break; // invariant 2; so does the next piece
                }
                match decode(file, number, bytes) {
                    Decoded::Valid(_, entry) => {
                        directory.entries += 1;
                        directory.invalid += std::mem::take(&mut directory.beyond);
                        directory.next_slot = number + 1;
                        if entry.len > 0 {
                            directory.next_page = directory.next_page.max(entry.page + pages_of(entry.len));
                        }
                    }
                    Decoded::Nothing => {}
                    Decoded::Invalid => directory.beyond += 1,
                }
            }
            slot += count;
            // What was expected may be too little, again and again.
            least = PIECE.min(2 * least);
            piece = if directory.entries == 0 { 2 * piece } else { least.max(directory.expected_below(start)) };
            piece = PIECE.min(piece);
            let bytes = if is_kept {
                kept += wanted;
                Some(bytes)
            } else {
                buffer = bytes;
                None
            };
            directory.pieces.push(Piece { start, len, bytes });
        }
        if directory.entries == 0 {
            directory.pieces.clear();
        }
        // What turned out to be payload names nothing.
        directory.lost.retain(|at| *at >= u64::from(directory.next_page) * PAGE_SIZE);
        self.has_lost(lane, file, directory.unreadable());
        (!self.is_closed()).then_some(directory)
    }

    /// Hands on each entry within the bounds that checks, from the highest slot down.
    ///
    /// What lies beyond them was written since: the file may be active by now.
    pub(crate) fn read_entries(
        &self,
        lane: &Lane,
        file: &BlockFile,
        directory: &Directory,
        mut found: impl FnMut(Slot, &Entry),
    ) {
        let size = file.size().get();
        let mut buffer = Vec::new();
        for Piece { start, len, bytes } in directory.pieces.iter().rev() {
            let (start, len) = (*start, *len);
            if directory.entries == 0 || self.is_closed() {
                return;
            }
            // Nothing valid lies that far down.
            if (size - start - len) / Entry::SIZE as u64 >= u64::from(directory.next_slot) {
                continue;
            }
            let bytes = if let Some(bytes) = bytes {
                bytes
            } else {
                // In the page cache still, as a rule.
                buffer.resize(usize::try_from(len).unwrap_or(0), 0);
                let loaded = self.load_piece(file, start, &mut buffer, BAD_PAGES);
                let lost = match &loaded {
                    Loaded::All => 0,
                    Loaded::But(pages) => pages.iter().filter(|page| directory.misses_now(**page, size)).count() as u64,
                    Loaded::Nothing => 1,
                };
                // What is older is handed on after that.
                self.has_lost(lane, file, lost);
                self.recovery.update(|report| report.skipped.unreadable += lost);
                if matches!(loaded, Loaded::Nothing) {
                    continue;
                }
                &buffer
            };
            for (at, bytes) in bytes.chunks_exact(Entry::SIZE).enumerate() {
                let offset = start + at as u64 * Entry::SIZE as u64;
                let Ok(number) = u32::try_from((size - offset) / Entry::SIZE as u64 - 1) else { continue };
                if number < directory.next_slot
                    && let Decoded::Valid(slot, entry) = decode(file, number, bytes)
                {
                    found(slot, &entry);
                }
            }
        }
    }

    /// Reads a piece of a directory, with zeros in place of the pages that the disk cannot read, after a few tries: what lacks
    /// memory or descriptors for a moment must not hide a megabyte of entries until the next opening. Pages are looked at
    /// until so many are `bad`.
    fn load_piece(&self, file: &BlockFile, start: u64, bytes: &mut [u8], bad: usize) -> Loaded {
        let mut tries = 1;
        let error = loop {
            match file.memory().and_then(|memory| memory.load(start, bytes)) {
                Ok(()) => return Loaded::All,
                Err(_) if tries < TRIES && !self.is_closed() => {
                    tries += 1;
                    self.sleep(TRY_AGAIN);
                }
                Err(error) => break error,
            }
        };
        let loaded = if self.is_closed() { Loaded::Nothing } else { load_pages(file, start, bytes, bad) };
        // What the system lacked it may have had by the last of them.
        if !matches!(loaded, Loaded::All) {
            self.tell_unreadable(file, &self.io_error("reading a directory", file.id(), error));
        }
        loaded
    }

    /// Nobody knows what so many parts of a directory name.
    fn has_lost(&self, lane: &Lane, file: &BlockFile, parts: u64) {
        if parts == 0 {
            return;
        }
        // Whatever is removed from now on is removed by an entry, and content is written again that is older than what may
        // be a removal of it.
        self.counters.strays.add(parts);
        lane.doubt(file.generation());
        if self.options.on_full == OnFull::Refuse {
            file.add_unfound();
        }
    }
}

/// What came of reading a piece.
enum Loaded {
    All,
    /// All but the pages that begin there.
    But(Vec<u64>),
    Nothing,
}

/// Reads a piece page by page, as no page can be read with the bad one in one call.
fn load_pages(file: &BlockFile, start: u64, bytes: &mut [u8], bad: usize) -> Loaded {
    let Ok(memory) = file.memory() else { return Loaded::Nothing };
    let mut lost = Vec::new();
    for (at, page) in (start..).step_by(PAGE_LEN).zip(bytes.chunks_mut(PAGE_LEN)) {
        if memory.load(at, page).is_ok() {
            continue;
        }
        if lost.len() == bad {
            return Loaded::Nothing;
        }
        lost.push(at);
        page.fill(0);
    }
    if lost.is_empty() { Loaded::All } else { Loaded::But(lost) }
}

enum Decoded {
    Valid(Slot, Entry),
    Nothing,
    Invalid,
}

fn decode(file: &BlockFile, number: u32, bytes: &[u8]) -> Decoded {
    let (Some(slot), Ok(bytes)) = (Slot::new(number), <&[u8; Entry::SIZE]>::try_from(bytes)) else {
        return Decoded::Nothing;
    };
    // Most of what is read is empty, and a checksum takes longer than a look. Hazard 1: zeros are no block.
    if *bytes == [0; Entry::SIZE] && !planted::is(1) {
        return Decoded::Nothing;
    }
    match Entry::decode(bytes, file.nonce(), slot) {
        Ok(entry) if entry.payload(file.size(), slot).is_some() => Decoded::Valid(slot, entry),
        _ => Decoded::Invalid,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::{BlockHash, BlockKind, Realm};
    use crate::storage::faulty::{Call, Fault, FaultySource};
    use crate::storage::{DiskFileSource, FileSource, MemoryFileSource};
    use crate::sync::Arc;
    use crate::wheel::{NewBlock, WheelOptions};

    fn put(wheel: &FileWheel, number: u8) {
        let bytes = [number; 100];
        let (key, parts) = (BlockHash::of(&bytes), [&bytes[..]]);
        let block =
            NewBlock { realm: Realm::DEFAULT, key, kind: BlockKind::Content, hash: key, parts: &parts, len: 100 };
        wheel.store_block(&block, &wheel.deadline()).unwrap();
    }

    /// The directory of a file was read once more to hand its entries on, when the file was active already: what had been
    /// written since was taken for blocks of the run before, and its slots for unverified ones, whoever owned them.
    #[test]
    fn what_is_written_while_a_directory_is_read_is_not_found_in_it() {
        let source = MemoryFileSource::builder().file_size(64 << 10).build().unwrap();
        let wheel =
            FileWheel::open(Arc::new(source), WheelOptions { gather_bytes: 0, ..WheelOptions::default() }).unwrap();
        (0..3).for_each(|number| put(&wheel, number));
        let file = wheel.table.iter().next().unwrap();
        let directory = wheel.read_bounds(&wheel.lanes[0], file).unwrap();
        (3..5).for_each(|number| put(&wheel, number));
        let mut found = Vec::new();
        wheel.read_entries(&wheel.lanes[0], file, &directory, |slot, _| found.push(slot.get()));
        assert_eq!((found, directory.entries), (vec![2, 1, 0], 3));
        wheel.close(Duration::from_secs(20));
    }

    /// How often a directory of three blocks is read from, for its bounds and for its entries, where it has no high-water mark.
    fn loads(source: impl FileSource) -> [u64; 2] {
        let source = FaultySource::new(source).in_boot(None);
        let faults = source.faults();
        let options = WheelOptions { gather_bytes: 0, ..WheelOptions::default() };
        let wheel = FileWheel::open(Arc::new(source), options).unwrap();
        (0..3).for_each(|number| put(&wheel, number));
        let file = wheel.table.iter().next().unwrap();
        let before = faults.count(Call::Load);
        let directory = wheel.read_bounds(&wheel.lanes[0], file).unwrap();
        let bounds = faults.count(Call::Load);
        let mut found = 0;
        wheel.read_entries(&wheel.lanes[0], file, &directory, |_, _| found += 1);
        assert_eq!(found, 3);
        let entries = faults.count(Call::Load);
        wheel.close(Duration::from_secs(20));
        [bounds - before, entries - bounds]
    }

    /// A file that was hardly filled was read as far as its directory might reach, which is all of it, and then once more:
    /// one mebibyte after the other, before the first block of the store was found.
    #[test]
    #[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
    fn what_was_never_stored_is_not_read_and_what_holds_no_entry_is_read_once() {
        let memory = MemoryFileSource::builder().file_size(32 << 20).build().unwrap();
        assert_eq!(loads(memory), [38, 0]);
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(32 << 20);
        let [bounds, entries] = loads(disk.build().unwrap());
        // Few file systems do not tell what was never stored.
        assert!((bounds == 1 || bounds == 38) && entries == 0, "{bounds} and {entries}");
    }

    /// The bounds of the only file of a store with one block of `len` bytes, or none, how often it was read from for them, and
    /// whether reads fail from the `k`th on.
    fn bounds(file_size: u64, len: usize, fails_from: Option<u64>) -> (Directory, u64) {
        let source = FaultySource::new(MemoryFileSource::builder().file_size(file_size).build().unwrap());
        let faults = source.faults();
        let options = WheelOptions { gather_bytes: 0, ..WheelOptions::default() };
        let wheel = FileWheel::open(Arc::new(source), options).unwrap();
        if len > 0 {
            let bytes = vec![1; len];
            let (key, parts) = (BlockHash::of(&bytes), [&bytes[..]]);
            let (realm, kind, len) = (Realm::DEFAULT, BlockKind::Content, u32::try_from(len).unwrap());
            let block = NewBlock { realm, key, kind, hash: key, parts: &parts, len };
            wheel.store_block(&block, &wheel.deadline()).unwrap();
        }
        if let Some(k) = fails_from {
            faults.set(Fault::at(k).sticky().only(&[Call::Load]));
        }
        let before = faults.count(Call::Load);
        let directory = wheel.read_bounds(&wheel.lanes[0], wheel.table.iter().next().unwrap()).unwrap();
        let loads = faults.count(Call::Load) - before;
        wheel.close(Duration::from_secs(20));
        (directory, loads)
    }

    /// Files that turn hold bytes wherever a directory may reach: with one block of a mebibyte the size of the next piece ran
    /// over after fifty of them.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn large_files_that_are_hardly_filled_are_read_down_to_their_payload() {
        let (directory, loads) = bounds(128 << 20, 1 << 20, None);
        assert_eq!((directory.entries, directory.next_page), (1, 257));
        assert!(loads < 150, "{loads}");
        let (directory, loads) = bounds(128 << 20, 0, None);
        assert!(directory.holds_nothing() && directory.pieces.is_empty() && loads < 140, "{loads}");
    }

    /// Each costs some tries, and what they wait for.
    #[test]
    fn pieces_that_cannot_be_read_are_few() {
        let (directory, _) = bounds(16 << 20, 0, Some(1));
        assert!((15..30).contains(&directory.unreadable()), "{directory:?}");
        let (directory, _) = bounds(16 << 20, 1 << 20, Some(2));
        assert_eq!(directory.entries, 1);
        assert!((10..40).contains(&directory.unreadable()), "{}", directory.unreadable());
    }

    /// The first piece of a small file is all of it: a page of a block that could not be read hid the end of the directory.
    #[test]
    fn a_bad_page_costs_what_it_names_and_one_of_a_block_names_nothing() {
        for (page, entries, unreadable) in [(1, 3, 0), (3, 3, 0), (4, 3, 1), (14, 3, 1), (15, 0, 1)] {
            let source = FaultySource::new(MemoryFileSource::builder().file_size(64 << 10).build().unwrap());
            let faults = source.faults();
            let options = WheelOptions { gather_bytes: 0, ..WheelOptions::default() };
            let wheel = FileWheel::open(Arc::new(source), options).unwrap();
            (0..3).for_each(|number| put(&wheel, number));
            let file = wheel.table.iter().next().unwrap();
            faults.spoil(file.id(), page * PAGE_SIZE..(page + 1) * PAGE_SIZE);
            let directory = wheel.read_bounds(&wheel.lanes[0], file).unwrap();
            assert_eq!((directory.entries, directory.unreadable()), (entries, unreadable), "page {page}");
            wheel.close(Duration::from_secs(20));
        }
    }

    /// How many entries are handed on of a directory that is too large to be kept, of which a page is bad when its bounds are
    /// read, and one when its entries are; and how often that is counted.
    fn read_twice(bad: [Option<u64>; 2]) -> (u64, u64) {
        const SIZE: u64 = 4 << 20;
        const BLOCKS: u64 = 20_000;
        let source = FaultySource::new(MemoryFileSource::builder().file_size(SIZE).build().unwrap());
        let faults = source.faults();
        let options = WheelOptions { gather_bytes: 0, ..WheelOptions::default() };
        let wheel = FileWheel::open(Arc::new(source), options).unwrap();
        let (realm, kind, parts) = (Realm::DEFAULT, BlockKind::Named, [&[][..]]);
        for number in 0..BLOCKS {
            let (key, hash) = (BlockHash::from_u128(number.into()), BlockHash::of(b""));
            wheel.store_block(&NewBlock { realm, key, kind, hash, parts: &parts, len: 0 }, &wheel.deadline()).unwrap();
        }
        let file = wheel.table.iter().next().unwrap();
        let spoil = |page: Option<u64>| {
            let end = page.map_or(0, |page| SIZE - page * PAGE_SIZE);
            faults.spoil(file.id(), end.saturating_sub(PAGE_SIZE)..end);
        };
        spoil(bad[0]);
        let directory = wheel.read_bounds(&wheel.lanes[0], file).unwrap();
        spoil(bad[1]);
        let mut found = 0;
        wheel.read_entries(&wheel.lanes[0], file, &directory, |_, _| found += 1);
        let counted = wheel.recovery.snapshot().report.skipped.unreadable;
        wheel.close(Duration::from_secs(20));
        (found, directory.unreadable() + counted)
    }

    /// The same page counts once, and one that was read and held nothing does not count at all.
    #[test]
    #[cfg_attr(miri, ignore = "too many blocks to interpret")]
    fn a_page_that_is_bad_at_both_looks_is_counted_once() {
        // Entry 20,000 lies on page 312.
        assert_eq!(read_twice([None, None]), (20_000, 0));
        assert_eq!(read_twice([Some(300), Some(300)]), (20_000 - 64, 1));
        assert_eq!(read_twice([Some(300), None]), (20_000, 1));
        assert_eq!(read_twice([None, Some(300)]), (20_000 - 64, 1));
        assert_eq!(read_twice([None, Some(312)]), (20_000 - 32, 1));
        assert_eq!(read_twice([None, Some(313)]), (20_000, 0));
    }
}
