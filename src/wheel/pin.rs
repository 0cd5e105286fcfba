//! Pins that keep a file from being reused while its blocks are being read.
//!
//! A closed [`Pinner`] takes no new pin; it is drained once each of its words was seen empty. There is a word for each
//! group of threads, so that readers of one file on different cores do not share a cache line.
//!
//! # Invariants
//!
//! 1. A pin is dropped once, on the word on which it was taken, whatever thread drops it.
//! 2. A word seen empty while `CLOSING` is set never holds a pin again until `reopen`: what it counts in between are
//!    calls of `pin` that are on their way out.
//! 3. Every change of a word is a read-modify-write. So flag and count never overwrite each other, and a release
//!    sequence reaches over all later changes of its word.
//! 4. `close`, `is_drained` and `reopen` belong to the owner of the file: one thread at a time, handed on under a lock.
#![forbid(unsafe_code)]

use crate::planted;
use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wheel::thread_number::thread_number;

const CLOSING: u64 = 1 << 63;

/// Pins one word takes. Far enough below [`CLOSING`] for all calls that are on their way out, one a thread.
const LIMIT: u64 = 1 << 48;

/// Counts the pins of one file and says when none is left.
#[derive(Debug)]
pub(crate) struct Pinner {
    words: Box<[Word]>,
    /// Bit i: word i was seen empty since `close`. Only the owner touches it (invariant 4).
    seen_empty: AtomicU64,
}

/// `CLOSING` and a count, on cache lines of its own: processors fetch 64-byte lines in pairs, or have lines of 128.
#[derive(Debug)]
#[repr(align(128))]
struct Word(AtomicU64);

/// On which word a pin was taken: what [`Pinner::unpin`] needs to drop it (invariant 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pin that is not dropped keeps its file from being reused"]
pub(crate) struct PinWord(u8);

/// Why there is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PinError {
    /// The file makes room: look the block up again.
    Closing,
    /// As many pins as a word counts are held, so they leak somewhere. The block is still there.
    Overflow,
}

impl Pinner {
    /// The most words a pinner has.
    pub(crate) const MAX_WORDS: usize = 64;

    /// An open pinner of so many words: a power of two, at most [`Self::MAX_WORDS`].
    pub(crate) fn new(words: usize) -> Self {
        assert!(words.is_power_of_two() && words <= Self::MAX_WORDS, "{words} pin words");
        Self { words: (0..words).map(|_| Word(AtomicU64::new(0))).collect(), seen_empty: AtomicU64::new(0) }
    }

    /// A word for every core of this machine, as far as there are that many.
    ///
    /// The system is asked once: it reads files to answer, and a store has many pinners.
    pub(crate) fn words_for_this_machine() -> usize {
        static CORES: OnceLock<usize> = OnceLock::new();
        let ask = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cores = *CORES.get_or_init(ask);
        cores.next_power_of_two().min(Self::MAX_WORDS)
    }

    /// Keeps the file as it is until [`unpin`](Self::unpin). Never waits.
    #[inline]
    pub(crate) fn pin(&self) -> Result<PinWord, PinError> {
        self.pin_as(thread_number())
    }

    #[inline]
    fn pin_as(&self, thread: usize) -> Result<PinWord, PinError> {
        let at = thread & (self.words.len() - 1);
        let word = &self.words[at].0;
        // Acquire pairs with the Release in `reopen`: whoever is let in sees the file as it is in this lap. It pairs
        // with the one in `close` too: whoever is sent away sees the index as it was swept before.
        // Hazard 42: the flag is looked at on its own, before the pin is counted.
        let flag = planted::is(42).then(|| word.load(Ordering::Acquire));
        let before = word.fetch_add(1, Ordering::Acquire);
        let before = flag.unwrap_or(before);
        // Hazard 29: the count runs into the flag.
        if before & CLOSING == 0 && (before < LIMIT || planted::is(29)) {
            #[expect(clippy::cast_possible_truncation, reason = "fewer than 64 words")]
            return Ok(PinWord(at as u8));
        }
        // Relaxed: nothing was read of the file.
        word.fetch_sub(1, Ordering::Relaxed);
        Err(if before & CLOSING == 0 { PinError::Overflow } else { PinError::Closing })
    }

    /// Drops a pin, once, from any thread.
    #[inline]
    pub(crate) fn unpin(&self, word: PinWord) {
        // Release pairs with the Acquire in `is_drained`: what was read under the pin was read before the reuse.
        let before = self.words[usize::from(word.0)].0.fetch_sub(1, Ordering::Release);
        // If it fires, the count has borrowed from CLOSING: the file takes no more pins and never drains.
        assert!(before & !CLOSING != 0, "a pin was dropped twice");
    }

    /// Lets no new pin in. Those that are held stay valid. (Invariant 4.)
    pub(crate) fn close(&self) {
        for word in &self.words {
            // Release pairs with the Acquire in `pin`: whoever is sent away looks up again, in an index without us.
            word.0.fetch_or(CLOSING, Ordering::Release);
        }
    }

    /// Whether every pin is gone and none can come. Never before `close`. Call it until it says so. (Invariant 4.)
    pub(crate) fn is_drained(&self) -> bool {
        // Hazard 42, the rest of it: whatever the words hold one after the other is added up.
        if planted::is(42) {
            return self.held() == 0;
        }
        // Relaxed: the owner alone writes this.
        let mut seen = self.seen_empty.load(Ordering::Relaxed);
        for (at, word) in self.words.iter().enumerate() {
            // Acquire pairs with the Release in `unpin`. By invariant 3 it does so with that of every pin of the word.
            // One look is enough, by invariant 2: words need not be empty at the same time.
            if seen & (1 << at) == 0 && word.0.load(Ordering::Acquire) == CLOSING {
                seen |= 1 << at;
            }
        }
        self.seen_empty.store(seen, Ordering::Relaxed);
        seen.count_ones() as usize == self.words.len()
    }

    /// Lets pins in again. The caller has made all its changes to the file. (Invariant 4.)
    pub(crate) fn reopen(&self) {
        // Relaxed: the owner alone reads this.
        self.seen_empty.store(0, Ordering::Relaxed);
        for word in &self.words {
            // Never a `store(0)`: the count of a call on its way out would be lost, and its decrement borrow from the
            // flag. Release pairs with the Acquire in `pin`: whoever is let in sees the file of the new lap.
            word.0.fetch_and(!CLOSING, Ordering::Release);
        }
    }

    /// Takes, or gives back, as many pins as each word counts.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn fill(&self, is_full: bool) {
        for word in &self.words {
            let change = if is_full { LIMIT } else { LIMIT.wrapping_neg() };
            word.0.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// About how many pins are held now: a number for statistics, no proof of anything.
    pub(crate) fn held(&self) -> u64 {
        self.words.iter().map(|word| word.0.load(Ordering::Relaxed) & !CLOSING).sum()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    #[test]
    fn a_closed_pinner_takes_no_pin_and_a_reopened_one_does() {
        let pinner = Pinner::new(4);
        pinner.close();
        assert_eq!(pinner.pin(), Err(PinError::Closing));
        assert_eq!(pinner.held(), 0);
        pinner.reopen();
        let word = pinner.pin().unwrap();
        assert_eq!(pinner.held(), 1);
        pinner.unpin(word);
    }

    #[test]
    fn an_open_pinner_is_never_drained() {
        let pinner = Pinner::new(2);
        assert!(!pinner.is_drained());
        pinner.close();
        assert!(pinner.is_drained());
        pinner.reopen();
        assert!(!pinner.is_drained());
    }

    #[test]
    fn it_drains_when_the_last_pin_is_gone_and_not_before() {
        for words in [1, 2, 64] {
            let pinner = Pinner::new(words);
            let pins: Vec<_> = (0..words + 3).map(|thread| pinner.pin_as(thread).unwrap()).collect();
            pinner.close();
            for pin in pins {
                assert!(!pinner.is_drained(), "{words} words, {} pins", pinner.held());
                pinner.unpin(pin);
            }
            assert!(pinner.is_drained());
        }
    }

    #[test]
    fn a_call_on_its_way_out_does_not_undo_a_word_seen_empty() {
        let pinner = Pinner::new(2);
        let held = pinner.pin_as(1).unwrap();
        pinner.close();
        assert!(!pinner.is_drained());
        // Word 0 has been seen empty. Half of a call of `pin` on it must not matter any more.
        pinner.words[0].0.fetch_add(1, Ordering::Relaxed);
        pinner.unpin(held);
        assert!(pinner.is_drained());
        // Its other half comes after `reopen`, which keeps the count.
        pinner.reopen();
        pinner.words[0].0.fetch_sub(1, Ordering::Relaxed);
        pinner.close();
        assert!(pinner.is_drained());
    }

    #[test]
    fn reopening_with_pins_held_keeps_them() {
        let pinner = Pinner::new(2);
        let old = pinner.pin_as(0).unwrap();
        pinner.close();
        assert!(!pinner.is_drained());
        pinner.reopen();
        let new = pinner.pin_as(0).unwrap();
        pinner.close();
        pinner.unpin(new);
        assert!(!pinner.is_drained());
        pinner.unpin(old);
        assert!(pinner.is_drained());
    }

    #[test]
    fn one_pin_too_many_is_an_error_and_costs_nothing() {
        let pinner = Pinner::new(1);
        pinner.words[0].0.store(LIMIT - 1, Ordering::Relaxed);
        let last = pinner.pin().unwrap();
        assert_eq!(pinner.pin(), Err(PinError::Overflow));
        assert_eq!(pinner.held(), LIMIT);
        pinner.unpin(last);
        assert_eq!(pinner.pin(), Ok(last));
        pinner.close();
        assert_eq!(pinner.pin(), Err(PinError::Closing));
    }

    #[test]
    #[should_panic(expected = "a pin was dropped twice")]
    fn dropping_a_pin_twice_is_noticed() {
        let pinner = Pinner::new(1);
        let pin = pinner.pin().unwrap();
        pinner.unpin(pin);
        pinner.unpin(pin);
    }

    #[test]
    #[should_panic(expected = "3 pin words")]
    fn the_number_of_words_is_a_power_of_two() {
        let _ = Pinner::new(3);
    }

    #[test]
    fn pins_of_many_threads_add_up_to_zero() {
        let pinner = Arc::new(Pinner::new(4));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let pinner = Arc::clone(&pinner);
                thread::spawn(move || {
                    for _ in 0..2_000 {
                        if let Ok(pin) = pinner.pin() {
                            pinner.unpin(pin);
                        }
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            pinner.close();
            while !pinner.is_drained() {
                thread::yield_now();
            }
            pinner.reopen();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(pinner.held(), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::atomic::{AtomicBool, AtomicU32};
    use crate::sync::{Arc, thread};
    use loom::cell::UnsafeCell;

    /// A file and the lap it is in, which only the pinner orders. The cell tells loom of each access to the bytes: it
    /// reports those that no other operation keeps apart, also where their values would not show it.
    struct File {
        pinner: Pinner,
        lap: AtomicU32,
        bytes: UnsafeCell<()>,
    }

    impl File {
        fn new(words: usize) -> Arc<Self> {
            Arc::new(Self { pinner: Pinner::new(words), lap: AtomicU32::new(1), bytes: UnsafeCell::new(()) })
        }

        /// The lap a reader of this thread number sees, if it is let in.
        fn read(&self, thread: usize) -> Option<u32> {
            let pin = self.pinner.pin_as(thread).ok()?;
            let lap = self.lap_under_pin();
            self.pinner.unpin(pin);
            Some(lap)
        }

        fn lap_under_pin(&self) -> u32 {
            self.bytes.with(|_| self.lap.load(Ordering::Relaxed))
        }

        fn reuse_if_drained(&self) -> bool {
            let drained = self.pinner.is_drained();
            if drained {
                self.bytes.with_mut(|_| self.lap.store(2, Ordering::Relaxed));
            }
            drained
        }
    }

    fn spawn<T: 'static>(file: &Arc<File>, run: impl FnOnce(&File) -> T + 'static) -> thread::JoinHandle<T> {
        let file = Arc::clone(file);
        thread::spawn(move || run(&file))
    }

    #[test]
    fn a_file_is_never_drained_while_a_pin_is_held() {
        loom::model(|| {
            let file = File::new(2);
            let readers = [0, 1].map(|number| spawn(&file, move |file| file.read(number)));
            file.pinner.close();
            // Words are looked at one by one, some of them in an earlier call.
            let _ = file.reuse_if_drained() || file.reuse_if_drained();
            for reader in readers {
                assert_ne!(reader.join().unwrap(), Some(2), "let in while closed");
            }
        });
    }

    #[test]
    fn a_pin_taken_after_reopen_sees_the_new_lap() {
        loom::model(|| {
            let file = File::new(1);
            // Each of them is let in before, sent away meanwhile, or let in after.
            let readers = [(); 2].map(|()| spawn(&file, |file| file.read(0)));
            file.pinner.close();
            let reused = file.reuse_if_drained();
            file.pinner.reopen();
            for reader in readers {
                reader.join().unwrap();
            }
            assert_eq!(file.read(0), Some(if reused { 2 } else { 1 }));
            assert_eq!(file.pinner.held(), 0);
        });
    }

    #[test]
    fn a_pin_dropped_on_another_thread_holds_the_file_until_then() {
        loom::model(|| {
            let file = File::new(2);
            let pin = file.pinner.pin_as(0).unwrap();
            let dropper = spawn(&file, move |file| {
                assert_eq!(file.lap_under_pin(), 1);
                file.pinner.unpin(pin);
                file.read(1)
            });
            file.pinner.close();
            let reused = file.reuse_if_drained();
            file.pinner.reopen();
            let seen = dropper.join().unwrap();
            assert!(reused || seen != Some(2));
            // It closes once more: words seen empty in the first lap count for nothing in the second.
            let pin = file.pinner.pin_as(1).unwrap();
            file.pinner.close();
            assert!(!file.pinner.is_drained());
            file.pinner.unpin(pin);
            assert!(file.pinner.is_drained());
        });
    }

    #[test]
    fn who_is_sent_away_sees_what_was_done_before_close() {
        loom::model(|| {
            let (file, swept) = (File::new(1), Arc::new(AtomicBool::new(false)));
            let readers = [(); 2].map(|()| {
                let swept = Arc::clone(&swept);
                spawn(&file, move |file| match file.pinner.pin_as(0) {
                    Ok(pin) => file.pinner.unpin(pin),
                    Err(_) => assert!(swept.load(Ordering::Relaxed)),
                })
            });
            swept.store(true, Ordering::Relaxed);
            file.pinner.close();
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }
}
