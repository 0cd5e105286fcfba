//! What is known of each block of a file: one byte a slot.
//!
//! The low four bits are the [`State`], the high four are flags that anyone may set at any time. Bytes come in chunks
//! that are allocated when their first slot is used, and never move.
//!
//! # Invariants
//!
//! 1. A slot that was never set since `clear` is [`State::Empty`], whether its chunk exists or not.
//! 2. A change of the state keeps the flags, and a change of a flag keeps the state: each is one read-modify-write. So
//!    a flag set after a state was published does not hide what was published with it.
//! 3. `clear` is called by the owner of the file alone, when no pin and no reservation is left.
#![forbid(unsafe_code)]

use crate::block::Slot;
use crate::os;
use crate::planted;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU8, Ordering};

/// Slots of a chunk. Two, where each is a tracked object of a model, and few where each is an interpreted step.
const CHUNK: usize = if cfg!(loom) {
    2
} else if cfg!(miri) {
    512
} else {
    4096
};

const STATE_BITS: u8 = 0x0f;

/// Set once the block was proven bad and that was counted: under the lock of the file's pending table.
pub(crate) const CONDEMNED: u8 = 0x10;

/// Set once the writer of a gathered block has published it: if it fails, whoever sees both FAILED and this one does
/// the rest. Unlike a hint it is set and read beside fences.
pub(crate) const NAMED: u8 = 0x20;

/// Set by a read: worth to be kept when the file makes room.
pub(crate) const VISITED: u8 = 0x40;

/// Set by a write and by a read: probably in memory, so that no hint is given before it is lent.
pub(crate) const WARM: u8 = 0x80;

/// How far a block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Nothing is known of it: not taken, or taken a moment ago.
    #[default]
    Empty = 0,
    /// Its closure waits for someone to run it.
    Pending,
    /// Somebody runs its closure.
    Running,
    /// In a gather buffer.
    Gathered,
    /// Payload and entry are stored.
    Ready,
    /// It never came to be.
    Failed,
    /// Found at open: its payload has not been compared with its hash yet.
    Unverified,
    /// Somebody compares it.
    Verifying,
    /// Its payload does not match its hash.
    Bad,
    /// It says that its key was removed.
    Tombstone,
}

impl State {
    const ALL: [Self; 10] = [
        Self::Empty,
        Self::Pending,
        Self::Running,
        Self::Gathered,
        Self::Ready,
        Self::Failed,
        Self::Unverified,
        Self::Verifying,
        Self::Bad,
        Self::Tombstone,
    ];

    fn of(byte: u8) -> Self {
        Self::ALL[usize::from(byte & STATE_BITS)]
    }
}

/// How often this thread has looked at the state of a block.
#[cfg(all(test, not(loom)))]
pub(crate) fn looks() -> u64 {
    LOOKS.get()
}

#[cfg(all(test, not(loom)))]
thread_local! {
    static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// States and flags of all slots of one file.
#[derive(Debug)]
pub(crate) struct Slots {
    chunks: Box<[OnceLock<Box<[AtomicU8]>>]>,
}

impl Slots {
    /// Slots 0 to `count - 1`, all of them empty. Memory for them comes with their use.
    pub(crate) fn new(count: u32) -> Self {
        Self { chunks: (0..(count as usize).div_ceil(CHUNK)).map(|_| OnceLock::new()).collect() }
    }

    /// How far a block is. A slot beyond the last one is empty.
    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> State {
        #[cfg(all(test, not(loom)))]
        LOOKS.set(LOOKS.get() + 1);
        // Acquire pairs with the Release in `set` and `swap_from`: who sees a state sees what was done before it was
        // set; for READY these are the bytes of payload and entry.
        self.existing(slot).map_or(State::Empty, |byte| State::of(byte.load(Ordering::Acquire)))
    }

    /// Publishes how far a block is, and with it everything the caller did to the block. Flags stay.
    ///
    /// The caller is the only one who may move the slot on from its present state.
    pub(crate) fn set(&self, slot: Slot, state: State) {
        let byte = self.byte(slot);
        // Relaxed: the state is the caller's own, and a flag guarded by nothing.
        let mut before = byte.load(Ordering::Relaxed);
        loop {
            let after = before & !STATE_BITS | state as u8;
            // Release pairs with the Acquire in `get` and `swap_from`. Hazard 19: the state is seen before the bytes are.
            let order = if planted::is(19) { Ordering::Relaxed } else { Ordering::Release };
            match byte.compare_exchange_weak(before, after, order, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }

    /// Moves a block from one state to another, if it is in the first. Of several callers one succeeds. Flags stay.
    ///
    /// # Errors
    /// The state it is in instead.
    pub(crate) fn swap_from(&self, slot: Slot, from: State, to: State) -> Result<(), State> {
        let byte = self.byte(slot);
        // Acquire here and on failure: the caller acts on the state it is told, as after `get`.
        let mut before = byte.load(Ordering::Acquire);
        while State::of(before) == from {
            let after = before & !STATE_BITS | to as u8;
            // Acquire once more, as the slot may have left the state and come back since the load: who takes the slot
            // sees what was left for it by the Release in `set`. Release pairs with the Acquire in `get`.
            match byte.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => before = now,
            }
        }
        Err(State::of(before))
    }

    /// The flags of a slot, such as [`VISITED`] and [`WARM`].
    #[inline]
    pub(crate) fn flags(&self, slot: Slot) -> u8 {
        // Relaxed: flags are hints.
        self.existing(slot).map_or(0, |byte| byte.load(Ordering::Relaxed) & !STATE_BITS)
    }

    /// Asks the processor for what is known of a slot.
    #[inline]
    pub(crate) fn prefetch(&self, slot: Slot) {
        if let Some(byte) = self.existing(slot) {
            os::prefetch(byte);
        }
    }

    /// Sets a flag. Writes nothing if it is set, so that readers of one block share its cache line.
    #[inline]
    pub(crate) fn mark(&self, slot: Slot, flag: u8) {
        debug_assert_eq!(flag & STATE_BITS, 0, "{flag:#x} is no flag");
        let byte = self.byte(slot);
        if byte.load(Ordering::Relaxed) & flag != flag {
            // Relaxed: a hint. As a read-modify-write it carries the Release of the state on (invariant 2).
            byte.fetch_or(flag & !STATE_BITS, Ordering::Relaxed);
        }
    }

    /// Takes a flag from all slots.
    pub(crate) fn unmark_all(&self, flag: u8) {
        debug_assert_eq!(flag & STATE_BITS, 0, "{flag:#x} is no flag");
        for byte in self.chunks.iter().filter_map(OnceLock::get).flatten() {
            if byte.load(Ordering::Relaxed) & flag != 0 {
                // Relaxed: as in `mark`.
                byte.fetch_and(!flag | STATE_BITS, Ordering::Relaxed);
            }
        }
    }

    /// Makes all slots empty and takes all flags. Memory stays. (Invariant 3.)
    pub(crate) fn clear(&self) {
        for byte in self.chunks.iter().filter_map(OnceLock::get).flatten() {
            // Relaxed: the Release of `Cursor::reset` and `Pinner::reopen`, which come after, publish it.
            byte.store(State::Empty as u8, Ordering::Relaxed);
        }
    }

    /// The byte of a slot, unless its chunk was never used.
    #[inline]
    fn existing(&self, slot: Slot) -> Option<&AtomicU8> {
        let slot = slot.index();
        self.chunks.get(slot / CHUNK)?.get().map(|chunk| &chunk[slot % CHUNK])
    }

    fn byte(&self, slot: Slot) -> &AtomicU8 {
        let slot = slot.index();
        let chunk = self.chunks[slot / CHUNK].get_or_init(|| (0..CHUNK).map(|_| AtomicU8::new(0)).collect());
        &chunk[slot % CHUNK]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn slot(number: u32) -> Slot {
        Slot::new(number).unwrap()
    }

    fn chunks_in_use(slots: &Slots) -> usize {
        slots.chunks.iter().filter(|chunk| chunk.get().is_some()).count()
    }

    #[test]
    fn each_state_fits_its_bits_and_comes_back() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            for flags in [0, VISITED, WARM, VISITED | WARM] {
                assert_eq!(State::of(state as u8 | flags), state);
            }
        }
    }

    #[test]
    fn looking_at_slots_allocates_nothing() {
        let slots = Slots::new(10_000);
        assert_eq!(slots.get(slot(9_999)), State::Empty);
        assert_eq!(slots.flags(slot(5_000)), 0);
        slots.clear();
        assert_eq!(chunks_in_use(&slots), 0);
        slots.set(slot(5_000), State::Pending);
        assert_eq!(chunks_in_use(&slots), 1);
    }

    #[test]
    fn a_slot_beyond_the_last_is_empty() {
        let slots = Slots::new(1);
        assert_eq!(slots.get(slot(Slot::COUNT - 1)), State::Empty);
        assert_eq!(Slots::new(0).get(slot(0)), State::Empty);
    }

    #[test]
    fn the_last_slot_of_the_largest_file_has_a_byte() {
        let slots = Slots::new(Slot::COUNT);
        slots.set(slot(Slot::COUNT - 1), State::Ready);
        assert_eq!(slots.get(slot(Slot::COUNT - 1)), State::Ready);
    }

    #[test]
    fn a_swap_that_fails_tells_the_state_and_changes_nothing() {
        let slots = Slots::new(1);
        assert_eq!(slots.swap_from(slot(0), State::Pending, State::Running), Err(State::Empty));
        slots.set(slot(0), State::Ready);
        assert_eq!(slots.swap_from(slot(0), State::Pending, State::Running), Err(State::Ready));
        assert_eq!(slots.get(slot(0)), State::Ready);
    }

    #[test]
    fn clear_empties_every_slot_and_keeps_its_memory() {
        let chunk = u32::try_from(CHUNK).unwrap();
        let slots = Slots::new(3 * chunk);
        for number in [0, chunk - 1, chunk, 3 * chunk - 1] {
            slots.set(slot(number), State::Ready);
            slots.mark(slot(number), WARM);
        }
        slots.clear();
        for number in [0, chunk - 1, chunk, 3 * chunk - 1] {
            assert_eq!((slots.get(slot(number)), slots.flags(slot(number))), (State::Empty, 0));
        }
        assert_eq!(chunks_in_use(&slots), 3);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, State),
        SwapFrom(u32, State, State),
        Mark(u32, u8),
        UnmarkAll(u8),
        Clear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Both sides of the border of two chunks.
        let number = || 4_090..4_100_u32;
        let state = || prop::sample::select(&State::ALL[..]);
        let flag = || prop::sample::select(&[VISITED, WARM, VISITED | WARM][..]);
        let step = prop_oneof![
            4 => (number(), state()).prop_map(|(number, state)| Step::Set(number, state)),
            4 => (number(), state(), state()).prop_map(|(number, from, to)| Step::SwapFrom(number, from, to)),
            4 => (number(), flag()).prop_map(|(number, flag)| Step::Mark(number, flag)),
            1 => flag().prop_map(Step::UnmarkAll),
            1 => Just(Step::Clear),
        ];
        vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn slots_are_pairs_of_a_state_and_flags(steps in steps()) {
            let slots = Slots::new(4_100);
            let mut model = std::collections::BTreeMap::<u32, (State, u8)>::new();
            for step in steps {
                match step {
                    Step::Set(number, state) => {
                        slots.set(slot(number), state);
                        model.entry(number).or_default().0 = state;
                    }
                    Step::SwapFrom(number, from, to) => {
                        let expected = model.entry(number).or_default();
                        let result = slots.swap_from(slot(number), from, to);
                        prop_assert_eq!(result, if expected.0 == from { Ok(()) } else { Err(expected.0) });
                        if result.is_ok() {
                            expected.0 = to;
                        }
                    }
                    Step::Mark(number, flag) => {
                        slots.mark(slot(number), flag);
                        model.entry(number).or_default().1 |= flag;
                    }
                    Step::UnmarkAll(flag) => {
                        slots.unmark_all(flag);
                        for (_, flags) in model.values_mut() {
                            *flags &= !flag;
                        }
                    }
                    Step::Clear => {
                        slots.clear();
                        model.clear();
                    }
                }
                for number in 4_090..4_100 {
                    let expected = model.get(&number).copied().unwrap_or_default();
                    prop_assert_eq!((slots.get(slot(number)), slots.flags(slot(number))), expected);
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::atomic::AtomicU32;
    use crate::sync::{Arc, thread};

    const BYTES: u32 = 7;

    /// One slot and the bytes of its block. Their accesses are `Relaxed`: only the state orders them.
    struct Block {
        slots: Slots,
        bytes: AtomicU32,
    }

    impl Block {
        fn pending() -> Arc<Self> {
            let block = Self { slots: Slots::new(1), bytes: AtomicU32::new(0) };
            block.slots.set(slot(), State::Pending);
            Arc::new(block)
        }

        /// Runs the closure of the block, if nobody else does.
        fn run(&self) -> bool {
            let taken = self.slots.swap_from(slot(), State::Pending, State::Running).is_ok();
            if taken {
                // Two of them running would give twice as much.
                self.bytes.store(self.bytes.load(Ordering::Relaxed) + BYTES, Ordering::Relaxed);
                self.slots.set(slot(), State::Ready);
            }
            taken
        }

        fn check(&self) {
            if self.slots.get(slot()) == State::Ready {
                assert_eq!(self.bytes.load(Ordering::Relaxed), BYTES);
            }
        }
    }

    fn slot() -> Slot {
        Slot::new(0).unwrap()
    }

    fn spawn<T: 'static>(block: &Arc<Block>, run: impl FnOnce(&Block) -> T + 'static) -> thread::JoinHandle<T> {
        let block = Arc::clone(block);
        thread::spawn(move || run(&block))
    }

    // Threads that look come after those that change. The other way round, loom lets the load with which `set` begins
    // hide that what follows it depends on their looks, and leaves out orders.

    #[test]
    fn of_two_takers_of_a_pending_block_one_runs_it() {
        loom::model(|| {
            let block = Block::pending();
            let takers = [(); 2].map(|()| spawn(&block, Block::run));
            let reader = spawn(&block, Block::check);
            let taken = takers.map(|taker| taker.join().unwrap());
            assert!(taken[0] != taken[1], "taken by {taken:?}");
            reader.join().unwrap();
            assert_eq!(block.slots.get(slot()), State::Ready);
            block.check();
        });
    }

    #[test]
    fn who_sees_ready_sees_the_bytes_whoever_marks_the_slot_meanwhile() {
        loom::model(|| {
            let block = Block::pending();
            let runner = spawn(&block, Block::run);
            let marker = spawn(&block, |block| block.slots.mark(slot(), VISITED));
            let reader = spawn(&block, Block::check);
            for thread in [marker, reader] {
                thread.join().unwrap();
            }
            assert!(runner.join().unwrap());
            assert_eq!((block.slots.get(slot()), block.slots.flags(slot())), (State::Ready, VISITED));
        });
    }

    #[test]
    fn who_takes_over_sees_what_was_left_for_it() {
        loom::model(|| {
            let block = Arc::new(Block { slots: Slots::new(1), bytes: AtomicU32::new(0) });
            // The chunk is there before threads meet: a model does not track how it comes to be.
            block.slots.set(slot(), State::Empty);
            let writer = spawn(&block, |block| {
                block.bytes.store(BYTES, Ordering::Relaxed);
                block.slots.set(slot(), State::Unverified);
            });
            let verifier = spawn(&block, |block| {
                if block.slots.swap_from(slot(), State::Unverified, State::Verifying).is_ok() {
                    assert_eq!(block.bytes.load(Ordering::Relaxed), BYTES);
                    block.slots.set(slot(), State::Ready);
                }
            });
            let reader = spawn(&block, Block::check);
            for thread in [writer, verifier, reader] {
                thread.join().unwrap();
            }
        });
    }
}
