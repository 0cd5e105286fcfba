//! Memory in which closures write blocks before they are stored: zeroed, pooled and bounded.
//!
//! A semaphore in bytes. Whoever finds no room waits in line, until its deadline. Memory that comes back is kept for
//! the next one, and given away when a block of another size needs the room.
//!
//! # Invariants
//!
//! 1. What is lent and what is kept is at most `max` bytes together; only a block larger than that exceeds it, alone.
//! 2. Nobody overtakes: while someone waits, all that come later line up behind. So a large block gets its turn.
//! 3. Whatever makes room or shortens the line wakes the line, of which the first one goes on.
//! 4. Bytes of a kept buffer from `dirty` on are zero.
#![forbid(unsafe_code)]

use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

/// Buffers are whole pages long, and longer ones a multiple of more, so that blocks of nearly the same length use each
/// other's. What is added is a page, or at most an eighth.
const STEP: usize = 4096;

/// How many buffers are kept at most: small ones are cheap to allocate, and the list of them is searched.
const MAX_KEPT: usize = 64;

/// A bounded amount of memory for blocks that are being written.
pub(crate) struct Staging {
    max: u64,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes charged for what is lent: at most `max`, even if one block is larger.
    lent: u64,
    /// Bytes of `kept`.
    kept_bytes: u64,
    /// Least recently used first.
    kept: VecDeque<Memory>,
    /// Tickets of those who wait, first come first.
    line: VecDeque<u64>,
    next_ticket: u64,
}

/// An allocation, of which the bytes before `dirty` have been lent (invariant 4).
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    dirty: usize,
}

/// Room for one block: dereferences to exactly the bytes asked for, all zero at first. Comes back when dropped.
pub(crate) struct StagingBuffer<'a> {
    staging: &'a Staging,
    memory: Memory,
    len: usize,
    charge: u64,
}

impl Staging {
    /// Lends at most so many bytes at a time.
    pub(crate) fn new(max: u64) -> Self {
        Self { max: max.max(1), state: Mutex::new(State::default()), turn: Condvar::new() }
    }

    /// Zeroed memory for a block of `len` bytes, or `None` if its turn has not come at the deadline.
    ///
    /// A deadline in the past does not wait. A block larger than the limit takes all of it, alone.
    pub(crate) fn acquire(&self, len: usize, deadline: Instant) -> Option<StagingBuffer<'_>> {
        let size = self.size_for(len);
        let mut state = self.state.lock();
        if size > 0 && (!state.line.is_empty() || !state.has_room(size, self.max)) {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.line.push_back(ticket);
            loop {
                // The room is looked at once more after the deadline: it may have come with it.
                let late = self.turn.wait_until(&mut state, deadline).timed_out();
                let admitted = state.line.front() == Some(&ticket) && state.has_room(size, self.max);
                if admitted || late {
                    state.line.retain(|&other| other != ticket);
                    // Invariant 3: the next one may be small enough for what is left.
                    self.wake(&state);
                    if admitted {
                        break;
                    }
                    return None;
                }
            }
        }
        let (memory, given_away) = state.take(size, self.max);
        let charge = (size as u64).min(self.max);
        state.lent += charge;
        drop(state);
        let mut buffer = StagingBuffer { staging: self, memory, len, charge };
        // Memory is freed, allocated and zeroed outside the lock: for a large block these take milliseconds.
        drop(given_away);
        buffer.memory.make_zeros(size, len);
        Some(buffer)
    }

    /// Bytes lent now, as their buffers are long: at most the limit.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> u64 {
        self.state.lock().lent
    }

    /// How long the buffer for a block is. It depends on nothing else, so who fits together always does.
    fn size_for(&self, len: usize) -> usize {
        let max = usize::try_from(self.max).unwrap_or(usize::MAX);
        if len >= max {
            return len;
        }
        let step = (len.checked_next_power_of_two().unwrap_or(0) / 16).max(STEP);
        len.checked_next_multiple_of(step).unwrap_or(max).min(max)
    }

    fn release(&self, memory: Memory, charge: u64) {
        let mut state = self.state.lock();
        state.lent -= charge;
        let given_away = state.keep(memory, self.max);
        self.wake(&state);
        drop(state);
        drop(given_away);
    }

    fn wake(&self, state: &State) {
        if !state.line.is_empty() {
            self.turn.notify_all();
        }
    }
}

impl State {
    /// Whether a buffer of this size may be lent now. What is kept does not count: it gives way.
    fn has_room(&self, size: usize, max: u64) -> bool {
        self.lent + (size as u64).min(max) <= max
    }

    /// A kept buffer of this size, or no memory and room for it, by what is given away. For a size that has room.
    fn take(&mut self, size: usize, max: u64) -> (Memory, Vec<Memory>) {
        // The most recently used: more of it is in the processor's cache.
        let same = self.kept.iter().rposition(|memory| memory.bytes.len() == size);
        if let Some(memory) = same.and_then(|at| self.kept.remove(at)) {
            self.kept_bytes -= size as u64;
            return (memory, Vec::new());
        }
        let room = max - (size as u64).min(max) - self.lent;
        (Memory::default(), self.shrink_to(room))
    }

    /// Keeps what comes back, if it counts at all and fits (invariant 1). Returns what is given away.
    fn keep(&mut self, memory: Memory, max: u64) -> Vec<Memory> {
        let (size, room) = (memory.bytes.len() as u64, max - self.lent);
        if size == 0 || size > room {
            return vec![memory];
        }
        self.kept_bytes += size;
        self.kept.push_back(memory);
        self.shrink_to(room)
    }

    /// Gives away what was used least recently, until so many bytes are kept at most.
    fn shrink_to(&mut self, room: u64) -> Vec<Memory> {
        let mut given_away = Vec::new();
        while self.kept_bytes > room || self.kept.len() > MAX_KEPT {
            let Some(memory) = self.kept.pop_front() else { break };
            self.kept_bytes -= memory.bytes.len() as u64;
            given_away.push(memory);
        }
        given_away
    }
}

impl Memory {
    /// Makes the first `len` bytes zero; allocates `size` bytes if there are none.
    fn make_zeros(&mut self, size: usize, len: usize) {
        if self.bytes.is_empty() {
            // Zero pages of the system, if it is large.
            self.bytes = vec![0; size];
        }
        // Invariant 4: the others are zero.
        let dirty = self.dirty.min(len);
        self.bytes[..dirty].fill(0);
        self.dirty = self.dirty.max(len);
    }
}

impl Deref for StagingBuffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes[..self.len]
    }
}

impl DerefMut for StagingBuffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes[..self.len]
    }
}

impl Drop for StagingBuffer<'_> {
    fn drop(&mut self) {
        self.staging.release(std::mem::take(&mut self.memory), self.charge);
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging").field("max", &self.max).finish_non_exhaustive()
    }
}

impl fmt::Debug for StagingBuffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagingBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};
    use proptest::prelude::*;
    use std::time::Duration;

    const KIB: usize = 1024;

    fn past() -> Instant {
        Instant::now()
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    fn kept_bytes(staging: &Staging) -> u64 {
        let state = staging.state.lock();
        assert_eq!(state.kept_bytes, state.kept.iter().map(|memory| memory.bytes.len() as u64).sum::<u64>());
        state.kept_bytes
    }

    fn wait_until_in_line(staging: &Staging, waiting: usize) {
        while staging.state.lock().line.len() != waiting {
            thread::yield_now();
        }
    }

    #[test]
    fn a_buffer_has_exactly_the_bytes_asked_for_and_they_are_zero() {
        let staging = Staging::new(1 << 20);
        for len in [0, 1, 100, 4096, 4097, 300 * KIB] {
            let buffer = staging.acquire(len, past()).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn memory_comes_back_zeroed_from_the_last_one_that_used_it() {
        let staging = Staging::new(1 << 20);
        for len in [5000, 8000, 100, 8192, 5000] {
            let mut buffer = staging.acquire(len, past()).unwrap();
            assert!(buffer.iter().all(|&byte| byte == 0), "{len}");
            buffer.fill(0xff);
        }
        // One of 8 KiB has served all but the one of 4.
        assert_eq!(kept_bytes(&staging), 12 * KIB as u64);
    }

    #[test]
    fn a_buffer_is_longer_than_its_block_by_a_page_or_an_eighth() {
        let staging = Staging::new(1 << 20);
        for len in (0..1 << 20).step_by(509) {
            let size = staging.size_for(len);
            assert!(size >= len && size <= 1 << 20 && size - len < STEP.max(len / 8 + 1), "{size} for {len}");
        }
        assert_eq!(
            [1, 4096, 4097, 1 << 20, (1 << 20) + 1].map(|len| staging.size_for(len)),
            [4096, 4096, 8192, 1 << 20, (1 << 20) + 1]
        );
        assert_eq!(staging.size_for(usize::MAX), usize::MAX);
        assert_eq!(Staging::new(u64::MAX).size_for(usize::MAX - 1), usize::MAX);
    }

    #[test]
    fn what_is_lent_and_kept_together_stays_within_the_limit() {
        let staging = Staging::new(64 * KIB as u64);
        let small: Vec<_> = (0..16).map(|_| staging.acquire(4 * KIB, past()).unwrap()).collect();
        assert_eq!(staging.in_use(), 64 * KIB as u64);
        assert!(staging.acquire(1, past()).is_none());
        drop(small);
        assert_eq!((staging.in_use(), kept_bytes(&staging)), (0, 64 * KIB as u64));
        let large = staging.acquire(40 * KIB, past()).unwrap();
        assert_eq!((staging.in_use(), kept_bytes(&staging)), (40 * KIB as u64, 24 * KIB as u64));
        drop(large);
        assert_eq!((staging.in_use(), kept_bytes(&staging)), (0, 64 * KIB as u64));
    }

    #[test]
    fn a_block_larger_than_the_limit_is_alone_and_not_kept() {
        let staging = Staging::new(16 * KIB as u64);
        let small = staging.acquire(1, past()).unwrap();
        assert!(staging.acquire(100 * KIB, past()).is_none());
        drop(small);
        let large = staging.acquire(100 * KIB, past()).unwrap();
        assert_eq!((large.len(), staging.in_use(), kept_bytes(&staging)), (100 * KIB, 16 * KIB as u64, 0));
        assert!(staging.acquire(1, past()).is_none());
        // Nothing costs nothing.
        assert!(staging.acquire(0, past()).is_some());
        drop(large);
        assert_eq!((staging.in_use(), kept_bytes(&staging)), (0, 0));
    }

    #[test]
    fn few_buffers_are_kept_however_small() {
        let staging = Staging::new(1 << 30);
        let all: Vec<_> = (0..MAX_KEPT + 10).map(|_| staging.acquire(1, past()).unwrap()).collect();
        drop(all);
        assert_eq!(staging.state.lock().kept.len(), MAX_KEPT);
    }

    #[test]
    fn who_waits_gets_what_is_released() {
        let staging = Arc::new(Staging::new(8 * KIB as u64));
        let held = staging.acquire(8 * KIB, past()).unwrap();
        let waiter = thread::spawn({
            let staging = Arc::clone(&staging);
            move || staging.acquire(4 * KIB, far()).map(|buffer| buffer.len())
        });
        wait_until_in_line(&staging, 1);
        drop(held);
        assert_eq!(waiter.join().unwrap(), Some(4 * KIB));
        assert_eq!(staging.in_use(), 0);
    }

    #[test]
    fn a_small_block_does_not_overtake_a_large_one() {
        let staging = Arc::new(Staging::new(8 * KIB as u64));
        let held = staging.acquire(4 * KIB, past()).unwrap();
        let large = thread::spawn({
            let staging = Arc::clone(&staging);
            move || staging.acquire(8 * KIB, far()).map(|buffer| buffer.len())
        });
        wait_until_in_line(&staging, 1);
        // It would fit, but it is not its turn.
        assert!(staging.acquire(4 * KIB, past()).is_none());
        drop(held);
        assert_eq!(large.join().unwrap(), Some(8 * KIB));
        assert!(staging.acquire(4 * KIB, past()).is_some());
    }

    #[test]
    fn one_that_gives_up_lets_those_behind_it_go_on() {
        let staging = Arc::new(Staging::new(8 * KIB as u64));
        let held = staging.acquire(4 * KIB, past()).unwrap();
        let acquire = |len: usize, wait: Duration| {
            let staging = Arc::clone(&staging);
            thread::spawn(move || staging.acquire(len, Instant::now() + wait).map(|buffer| buffer.len()))
        };
        let large = acquire(8 * KIB, Duration::from_millis(100));
        wait_until_in_line(&staging, 1);
        let small = acquire(4 * KIB, Duration::from_mins(1));
        assert_eq!(large.join().unwrap(), None);
        assert_eq!(small.join().unwrap(), Some(4 * KIB));
        assert!(staging.state.lock().line.is_empty());
        drop(held);
        assert_eq!(staging.in_use(), 0);
    }

    #[test]
    fn a_closure_that_panics_gives_its_memory_back() {
        let staging = Arc::new(Staging::new(4 * KIB as u64));
        let panicked = thread::spawn({
            let staging = Arc::clone(&staging);
            move || {
                let _buffer = staging.acquire(10, past()).unwrap();
                std::panic::resume_unwind(Box::new(()));
            }
        });
        assert!(panicked.join().is_err());
        assert_eq!(staging.in_use(), 0);
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "too many bytes to interpret")]
        fn memory_is_bounded_and_zero_whatever_is_asked_for(
            max in 1..200_000_u64,
            steps in proptest::collection::vec((0..60_000_usize, 0..4_usize), 1..60),
        ) {
            let staging = Staging::new(max);
            let mut held = Vec::new();
            for (len, drops) in steps {
                if let Some(mut buffer) = staging.acquire(len, past()) {
                    prop_assert!(buffer.len() == len && buffer.iter().all(|&byte| byte == 0));
                    buffer.fill(0xff);
                    held.push(buffer);
                } else {
                    prop_assert!(staging.in_use() > 0, "alone, there is room for anything");
                }
                let lent: u64 = held.iter().map(|buffer| buffer.memory.bytes.len() as u64).sum();
                prop_assert!(lent == staging.in_use() || held.iter().filter(|buffer| !buffer.is_empty()).count() == 1);
                prop_assert!(staging.in_use() + kept_bytes(&staging) <= max);
                held.drain(..drops.min(held.len()));
            }
            held.clear();
            prop_assert_eq!(staging.in_use(), 0);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::{Arc, thread};

    /// Takes and gives back. loom has no clock: whoever is not woken waits for ever, which it reports as a deadlock.
    fn use_and_release(staging: &Staging, len: usize) {
        let mut buffer = staging.acquire(len, Instant::now()).unwrap();
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer.fill(1);
        assert!(staging.in_use() <= 2 * STEP as u64);
    }

    #[test]
    fn everyone_in_line_gets_its_turn() {
        loom::model(|| {
            let staging = Arc::new(Staging::new(2 * STEP as u64));
            // A large one, and two that fit together.
            let others = [2 * STEP, 1].map(|len| {
                let staging = Arc::clone(&staging);
                thread::spawn(move || use_and_release(&staging, len))
            });
            use_and_release(&staging, STEP);
            for other in others {
                other.join().unwrap();
            }
            assert_eq!(staging.in_use(), 0);
        });
    }

    #[test]
    fn two_that_fit_together_hold_their_memory_together() {
        loom::model(|| {
            let staging = Arc::new(Staging::new(2 * STEP as u64));
            let holders = Arc::new((Mutex::new(0), Condvar::new()));
            let all = staging.acquire(2 * STEP, Instant::now()).unwrap();
            let others = [(); 2].map(|()| {
                let (staging, holders) = (Arc::clone(&staging), Arc::clone(&holders));
                thread::spawn(move || {
                    let _half = staging.acquire(STEP, Instant::now()).unwrap();
                    let (count, changed) = &*holders;
                    let mut count = count.lock();
                    *count += 1;
                    changed.notify_all();
                    while *count < 2 {
                        changed.wait(&mut count);
                    }
                })
            });
            drop(all);
            for other in others {
                other.join().unwrap();
            }
        });
    }
}
