//! Reservations: the next page and the next slot of a file in one word.
//!
//! Pages are dealt from page 1 upwards, slots from the end of the file downwards; a reservation takes both with one
//! compare-exchange, so that payloads and directory never meet. It belongs to the file, not to whoever holds the file:
//! what was reserved is valid whatever the writer believed.
//!
//! # Invariants
//!
//! 1. Pages and slots of two reservations of one lap never overlap, and no page reaches into an entry of the directory.
//! 2. A sealed cursor does not move: its next slot is final until `reset`, or `unseal`.
//! 3. Only the owner of a sealed file calls `reset`, when every reservation of the lap is finished.
//! 4. A lap begins with a plain store, that of `reset`; the one of `clear` before it leaves the cursor sealed. All else
//!    are read-modify-writes, which carry its Release on.
#![forbid(unsafe_code)]

use crate::block::{Entry, FileSize, PAGE_SIZE, Slot};
use crate::sync::atomic::{AtomicU64, Ordering};

const FIELD_BITS: u32 = 23;
const FIELD: u64 = (1 << FIELD_BITS) - 1;
const SEALED: u64 = 1 << 63;

// A cursor that has dealt everything still fits.
const _: () = assert!(FileSize::MAX.pages() as u64 <= FIELD && Slot::COUNT as u64 <= FIELD);

/// How far a file is filled.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Bit 63 `SEALED`, bits 23..46 next page, bits 0..23 next slot.
    word: AtomicU64,
    size: FileSize,
}

/// Why nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The file takes nothing more: ask the lane for its active file.
    Sealed,
    /// This block does not fit any more: seal the file.
    Full,
}

/// A cursor that is sealed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Whether this call did it. Of all calls of a lap one has it true.
    pub(crate) first: bool,
    /// How many slots the file holds, for the rest of the lap.
    pub(crate) next_slot: u32,
}

/// The word, taken apart.
#[derive(Clone, Copy)]
struct Position {
    page: u32,
    slot: u32,
}

impl Position {
    const EMPTY: Self = Self { page: 1, slot: 0 };

    fn of(word: u64) -> Self {
        Self { page: (word >> FIELD_BITS & FIELD) as u32, slot: (word & FIELD) as u32 }
    }

    fn to_word(self) -> u64 {
        u64::from(self.page) << FIELD_BITS | u64::from(self.slot)
    }

    /// The position after a block of so many pages, if there is room for it.
    fn after(self, size: FileSize, pages: u32) -> Option<Self> {
        size.fits(self.page, pages, self.slot).then(|| Self { page: self.page + pages, slot: self.slot + 1 })
    }
}

impl Cursor {
    /// The cursor of a file that nobody may fill yet: sealed, with nothing in it.
    pub(crate) fn new(size: FileSize) -> Self {
        Self { word: AtomicU64::new(SEALED | Position::EMPTY.to_word()), size }
    }

    /// Takes a slot and so many neighbouring pages, of which the first is returned. A block of no pages takes a slot
    /// only.
    #[inline]
    pub(crate) fn reserve(&self, pages: u32) -> Result<(u32, Slot), NoRoom> {
        let (start, slot, _) = self.advance(|position| Some((position.after(self.size, pages)?, 1)))?;
        Ok((start, slot))
    }

    /// Takes neighbouring slots and pages for as many of these blocks, from the front, as fit: one compare-exchange.
    ///
    /// Returns first page, first slot, and how many fit, or `None` if that is none. Each block starts where the one
    /// before it ends.
    pub(crate) fn reserve_run(&self, pages: &[u32]) -> Option<(u32, Slot, usize)> {
        let run = |start: Position| {
            let mut end = start;
            let fitting = pages.iter().map_while(|&pages| end.after(self.size, pages).map(|next| end = next)).count();
            (fitting > 0).then_some((end, fitting))
        };
        self.advance(run).ok()
    }

    /// Moves to where `step` says, from wherever the cursor is, unless it is sealed.
    #[inline]
    fn advance(&self, step: impl Fn(Position) -> Option<(Position, usize)>) -> Result<(u32, Slot, usize), NoRoom> {
        // Relaxed: a guess, which the compare-exchange proves.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & SEALED != 0 {
                return Err(NoRoom::Sealed);
            }
            let start = Position::of(word);
            let (end, count) = step(start).ok_or(NoRoom::Full)?;
            let slot = Slot::new(start.slot).ok_or(NoRoom::Full)?;
            // Acquire pairs with the Release in `reset`: who reserves sees the file as it is in this lap (invariant 4).
            match self.word.compare_exchange_weak(word, end.to_word(), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok((start.page, slot, count)),
                Err(now) => word = now,
            }
        }
    }

    /// Bytes of payloads and entries that were reserved, with the header.
    pub(crate) fn bytes(&self) -> u64 {
        // Relaxed: a number of a moment.
        let position = Position::of(self.word.load(Ordering::Relaxed));
        u64::from(position.page) * PAGE_SIZE + u64::from(position.slot) * Entry::SIZE as u64
    }

    /// Ends the lap, whatever room is left: nothing is reserved any more.
    pub(crate) fn seal(&self) -> Sealed {
        // Relaxed: the word says it all. What was done in the reservations is told by their own counter.
        let before = self.word.fetch_or(SEALED, Ordering::Relaxed);
        Sealed { first: before & SEALED == 0, next_slot: Position::of(before).slot }
    }

    /// Goes on with a lap that was ended, if there is room for an entry; whether it does. Only by the owner of the file.
    pub(crate) fn unseal(&self) -> bool {
        let has_room = Position::of(self.word.load(Ordering::Relaxed)).after(self.size, 0).is_some();
        if has_room {
            // Relaxed: what `reset` has published is carried on (invariant 4).
            self.word.fetch_and(!SEALED, Ordering::Relaxed);
        }
        has_room
    }

    /// Ends the lap if a block of so many pages has no room; `None` if it has.
    ///
    /// For a writer that found the file full: it may have slept for a lap since then, and meets a file that is empty.
    pub(crate) fn seal_if_full(&self, pages: u32) -> Option<Sealed> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let position = Position::of(word);
            if word & SEALED != 0 {
                return Some(Sealed { first: false, next_slot: position.slot });
            }
            if position.after(self.size, pages).is_some() {
                return None;
            }
            // Relaxed as in `seal`.
            match self.word.compare_exchange_weak(word, word | SEALED, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Sealed { first: true, next_slot: position.slot }),
                Err(now) => word = now,
            }
        }
    }

    /// How many slots were taken in this lap. Final once the cursor is sealed.
    pub(crate) fn next_slot(&self) -> u32 {
        // Relaxed here and below: a number. Whether a slot below it holds something is told by its state.
        Position::of(self.word.load(Ordering::Relaxed)).slot
    }

    /// The page at which the next payload would start.
    pub(crate) fn next_page(&self) -> u32 {
        Position::of(self.word.load(Ordering::Relaxed)).page
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & SEALED != 0
    }

    /// Makes a sealed cursor that of an empty file, sealed still. (Invariant 3.)
    pub(crate) fn clear(&self) {
        assert!(self.is_sealed(), "a file that is being filled does not begin anew");
        // Relaxed: nobody reserves before `reset`, which publishes what was done to the file.
        self.word.store(SEALED | Position::EMPTY.to_word(), Ordering::Relaxed);
    }

    /// Begins a lap at this page and slot: 1 and 0 in an empty file. (Invariant 3.)
    ///
    /// A place outside the file, as a damaged directory may suggest, is full from the start.
    pub(crate) fn reset(&self, next_page: u32, next_slot: u32) {
        assert!(self.is_sealed(), "a file that is being filled does not begin anew");
        let position = Position { page: next_page.clamp(1, self.size.pages()), slot: next_slot.min(Slot::COUNT) };
        // Release pairs with the Acquire in `advance`: who reserves sees what the owner did to the file before.
        self.word.store(position.to_word(), Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::PAGE_SIZE;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn slot(number: u32) -> Slot {
        Slot::new(number).unwrap()
    }

    fn open(size: FileSize, next_page: u32, next_slot: u32) -> Cursor {
        let cursor = Cursor::new(size);
        cursor.reset(next_page, next_slot);
        cursor
    }

    #[test]
    fn a_cursor_starts_sealed_and_empty() {
        let cursor = Cursor::new(FileSize::MIN);
        assert_eq!(cursor.reserve(0), Err(NoRoom::Sealed));
        assert_eq!(cursor.reserve_run(&[0]), None);
        assert_eq!(cursor.seal(), Sealed { first: false, next_slot: 0 });
        assert_eq!((cursor.next_page(), cursor.next_slot(), cursor.is_sealed()), (1, 0, true));
    }

    #[test]
    fn a_lap_goes_on_where_it_was_ended_if_there_is_room_for_an_entry() {
        let cursor = open(FileSize::MIN, 1, 0);
        cursor.reserve(1).unwrap();
        for number in 1..64 {
            cursor.seal();
            assert_eq!(cursor.reserve(0), Err(NoRoom::Sealed));
            assert!(cursor.unseal());
            assert_eq!(cursor.reserve(0), Ok((2, slot(number))));
        }
        cursor.seal();
        assert!(!cursor.unseal() && cursor.is_sealed());
    }

    #[test]
    fn the_smallest_file_holds_one_page_and_a_page_of_entries() {
        let cursor = open(FileSize::MIN, 1, 0);
        assert_eq!(cursor.reserve(2), Err(NoRoom::Full));
        assert_eq!(cursor.reserve(1), Ok((1, slot(0))));
        assert_eq!(cursor.reserve(1), Err(NoRoom::Full));
        for number in 1..64 {
            assert_eq!(cursor.reserve(0), Ok((2, slot(number))));
        }
        assert_eq!(cursor.reserve(0), Err(NoRoom::Full));
        assert_eq!(cursor.seal(), Sealed { first: true, next_slot: 64 });
    }

    #[test]
    fn the_smallest_file_holds_128_entries_if_no_block_has_a_payload() {
        let cursor = open(FileSize::MIN, 1, 0);
        assert_eq!(cursor.reserve_run(&[0; 200]), Some((1, slot(0), 128)));
        assert_eq!(cursor.reserve(0), Err(NoRoom::Full));
    }

    #[test]
    fn the_largest_file_ends_at_its_last_slot_and_its_last_page() {
        let cursor = open(FileSize::MAX, 1, Slot::COUNT - 1);
        assert_eq!(cursor.reserve(0), Ok((1, slot(Slot::COUNT - 1))));
        assert_eq!(cursor.reserve(0), Err(NoRoom::Full));
        let pages = FileSize::MAX.pages();
        let cursor = open(FileSize::MAX, 1, 0);
        assert_eq!(cursor.reserve(pages - 1), Err(NoRoom::Full));
        assert_eq!(cursor.reserve(u32::MAX), Err(NoRoom::Full));
        assert_eq!(cursor.reserve(pages - 2), Ok((1, slot(0))));
        assert_eq!(cursor.next_page(), pages - 1);
    }

    #[test]
    fn a_run_takes_what_fits_from_the_front() {
        let cursor = open(FileSize::new(6 * PAGE_SIZE).unwrap(), 1, 0);
        assert_eq!(cursor.reserve_run(&[]), None);
        assert_eq!(cursor.reserve_run(&[5]), None);
        assert_eq!(cursor.reserve_run(&[1, 2, 2, 0]), Some((1, slot(0), 2)));
        assert_eq!(cursor.reserve_run(&[0, 1, 0, 1]), Some((4, slot(2), 3)));
        assert_eq!((cursor.next_page(), cursor.next_slot()), (5, 5));
    }

    #[test]
    fn one_call_of_a_lap_seals_and_all_agree_on_the_end() {
        let cursor = open(FileSize::MIN, 1, 0);
        cursor.reserve(1).unwrap();
        assert_eq!(cursor.seal_if_full(0), None);
        assert_eq!(cursor.seal_if_full(1), Some(Sealed { first: true, next_slot: 1 }));
        assert_eq!(cursor.seal_if_full(0), Some(Sealed { first: false, next_slot: 1 }));
        assert_eq!(cursor.seal(), Sealed { first: false, next_slot: 1 });
        cursor.reset(1, 0);
        assert_eq!(cursor.seal(), Sealed { first: true, next_slot: 0 });
    }

    #[test]
    fn a_place_outside_the_file_is_full() {
        for (page, slot) in [(u32::MAX, 0), (4, 0), (1, 129), (1, u32::MAX), (u32::MAX, u32::MAX)] {
            let cursor = open(FileSize::MIN, page, slot);
            assert_eq!(cursor.reserve(0), Err(NoRoom::Full), "page {page}, slot {slot}");
        }
        assert_eq!(open(FileSize::MIN, 0, 0).reserve(1), Ok((1, slot(0))), "page 0 is the header's");
    }

    #[test]
    #[should_panic(expected = "being filled")]
    fn a_cursor_in_use_is_not_reset() {
        open(FileSize::MIN, 1, 0).reset(1, 0);
    }

    /// A file as bytes: payloads end somewhere, the directory starts somewhere.
    #[derive(Debug)]
    struct Model {
        size: u64,
        payloads_end: u64,
        slots: u64,
        sealed: bool,
    }

    impl Model {
        fn page(&self) -> u32 {
            u32::try_from(self.payloads_end / PAGE_SIZE).unwrap()
        }

        fn reserve(&mut self, pages: u32) -> Result<(u32, Slot), NoRoom> {
            if self.sealed {
                return Err(NoRoom::Sealed);
            }
            let end = self.payloads_end + u64::from(pages) * PAGE_SIZE;
            let entry = (self.slots + 1) * 64;
            if end + entry > self.size || self.slots == u64::from(Slot::COUNT) {
                return Err(NoRoom::Full);
            }
            let reserved = (self.page(), slot(u32::try_from(self.slots).unwrap()));
            (self.payloads_end, self.slots) = (end, self.slots + 1);
            Ok(reserved)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u32),
        Run(Vec<u32>),
        Seal,
        SealIfFull(u32),
        Reset,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let pages = || prop_oneof![6 => 0..4_u32, 1 => Just(u32::MAX)];
        let step = prop_oneof![
            8 => pages().prop_map(Step::Reserve),
            8 => vec(pages(), 0..4).prop_map(Step::Run),
            4 => vec(Just(0), 0..150).prop_map(Step::Run),
            1 => Just(Step::Seal),
            1 => pages().prop_map(Step::SealIfFull),
            1 => Just(Step::Reset),
        ];
        vec(step, 1..60)
    }

    /// Sizes, and places near their ends, from which a lap begins.
    fn starts() -> impl Strategy<Value = (FileSize, u32, u32)> {
        let largest = FileSize::MAX.pages();
        prop_oneof![
            Just((FileSize::MIN, 1, 0)),
            (3..20_u64).prop_map(|pages| (FileSize::new(pages * PAGE_SIZE).unwrap(), 1, 0)),
            (0..40_u32).prop_map(|back| (FileSize::MAX, 1, Slot::COUNT - back)),
            (1..9_u32, 0..300_u32).prop_map(move |(back, slot)| (FileSize::MAX, largest - back, slot)),
        ]
    }

    proptest! {
        #[test]
        fn payloads_and_directory_meet_where_their_bytes_do((size, page, first_slot) in starts(), steps in steps()) {
            let cursor = open(size, page, first_slot);
            let start = u64::from(page) * PAGE_SIZE;
            let begin = || Model { size: size.get(), payloads_end: start, slots: first_slot.into(), sealed: false };
            let mut model = begin();
            for step in steps {
                match step {
                    Step::Reserve(pages) => prop_assert_eq!(cursor.reserve(pages), model.reserve(pages)),
                    Step::Run(run) => {
                        let reserved: Vec<_> = run.iter().map_while(|&pages| model.reserve(pages).ok()).collect();
                        let expected = reserved.first().map(|&(page, slot)| (page, slot, reserved.len()));
                        prop_assert_eq!(cursor.reserve_run(&run), expected);
                    }
                    Step::Seal => {
                        let sealed = cursor.seal();
                        prop_assert_eq!((sealed.first, u64::from(sealed.next_slot)), (!model.sealed, model.slots));
                        model.sealed = true;
                    }
                    Step::SealIfFull(pages) => {
                        let mut copy = Model { ..model };
                        let room = copy.reserve(pages);
                        let sealed = cursor.seal_if_full(pages);
                        prop_assert_eq!(sealed.is_none(), room.is_ok());
                        if let Some(sealed) = sealed {
                            prop_assert_eq!((sealed.first, u64::from(sealed.next_slot)), (!model.sealed, model.slots));
                            model.sealed = true;
                        }
                    }
                    Step::Reset => {
                        cursor.seal();
                        cursor.reset(page, first_slot);
                        model = begin();
                    }
                }
                prop_assert_eq!((cursor.next_page(), u64::from(cursor.next_slot())), (model.page(), model.slots));
                prop_assert_eq!(cursor.is_sealed(), model.sealed);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::atomic::AtomicU32;
    use crate::sync::{Arc, thread};

    /// A file of five pages, of which three are for payloads.
    fn small_file() -> Arc<Cursor> {
        let cursor = Cursor::new(FileSize::new(5 * 4096).unwrap());
        cursor.reset(1, 0);
        Arc::new(cursor)
    }

    /// First page, pages and slot of what a thread reserved.
    type Reserved = Vec<(u32, u32, u32)>;

    fn spawn(cursor: &Arc<Cursor>, run: impl FnOnce(&Cursor) -> Reserved + 'static) -> thread::JoinHandle<Reserved> {
        let cursor = Arc::clone(cursor);
        thread::spawn(move || run(&cursor))
    }

    fn one_by_one(cursor: &Cursor) -> Reserved {
        let reserve = |pages| cursor.reserve(pages).map(|(page, slot)| (page, pages, slot.get()));
        [1, 1].into_iter().map_while(|pages| reserve(pages).ok()).collect()
    }

    fn as_a_run(cursor: &Cursor) -> Reserved {
        let Some((page, slot, count)) = cursor.reserve_run(&[1, 1]) else { return Vec::new() };
        (0..).zip(page..).map(|(at, page)| (page, 1, slot.get() + at)).take(count).collect()
    }

    #[test]
    fn reservations_are_disjoint_and_lie_below_the_seal() {
        loom::model(|| {
            let cursor = small_file();
            let writers = [spawn(&cursor, one_by_one), spawn(&cursor, as_a_run)];
            let sealed = cursor.seal();
            assert!(sealed.first);
            assert_eq!(cursor.reserve(0), Err(NoRoom::Sealed));
            let mut reserved: Reserved = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
            // Neither a hole nor an overlap: slots and pages are dealt one after the other, to the seal.
            reserved.sort_unstable_by_key(|&(_, _, slot)| slot);
            let mut next_page = 1;
            for (at, &(page, pages, slot)) in (0..).zip(&reserved) {
                assert_eq!((page, slot), (next_page, at), "{reserved:?}");
                next_page += pages;
            }
            assert_eq!(reserved.len(), sealed.next_slot as usize);
            assert_eq!((cursor.next_slot(), cursor.next_page()), (sealed.next_slot, next_page));
        });
    }

    #[test]
    fn of_writers_that_find_the_file_full_one_seals_it() {
        loom::model(|| {
            let cursor = small_file();
            let writer = |cursor: &Cursor| {
                let reserved = cursor.reserve(2).is_ok();
                if reserved { (true, false) } else { (false, cursor.seal_if_full(2).unwrap().first) }
            };
            let threads = [(); 2].map(|()| {
                let cursor = Arc::clone(&cursor);
                thread::spawn(move || writer(&cursor))
            });
            let mut all = vec![writer(&cursor)];
            all.extend(threads.map(|thread| thread.join().unwrap()));
            assert_eq!(all.iter().filter(|writer| writer.0).count(), 1, "{all:?}");
            assert_eq!(all.iter().filter(|writer| writer.1).count(), 1, "{all:?}");
            assert_eq!(cursor.next_slot(), 1);
        });
    }

    #[test]
    fn who_reserves_sees_the_lap_it_reserves_in() {
        loom::model(|| {
            let cursor = Arc::new(Cursor::new(FileSize::MIN));
            let lap = Arc::new(AtomicU32::new(1));
            // The second to succeed reads what the first has written to the word, not what `reset` has.
            let writers = [(); 2].map(|()| {
                let (cursor, lap) = (Arc::clone(&cursor), Arc::clone(&lap));
                thread::spawn(move || {
                    if cursor.reserve(0).is_ok() {
                        assert_eq!(lap.load(Ordering::Relaxed), 2);
                    }
                })
            });
            lap.store(2, Ordering::Relaxed);
            cursor.reset(1, 0);
            for writer in writers {
                writer.join().unwrap();
            }
        });
    }
}
