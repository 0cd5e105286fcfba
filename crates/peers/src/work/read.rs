//! Reading a set in no visible order.
#![forbid(unsafe_code)]

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use benchkit::shuffled;

use crate::content::Content;
use crate::store::{Failure, Filled, Reader, Store};
use crate::work::{BYTES_A_LOOK, Clock};

/// The numbers from `first` on, `count` of them, in no visible order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Order {
    /// Every number once; of several threads each has its own share.
    fn share(self, thread: u64, threads: u64) -> impl Iterator<Item = u64> {
        let bits = self.count.next_power_of_two().trailing_zeros();
        let all = (thread..1 << bits).step_by(usize::try_from(threads).expect("few"));
        let numbers = all.map(move |at| shuffled(at, bits) as u64).filter(move |number| *number < self.count);
        numbers.map(move |number| self.first + number)
    }

    /// Every number once.
    pub(crate) fn numbers(self) -> impl Iterator<Item = u64> {
        self.share(0, 1)
    }
}

/// What was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reads {
    pub(crate) found: u64,
    pub(crate) missing: u64,
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    pub(crate) cut: bool,
}

impl Reads {
    /// Which part of the blocks was found.
    #[expect(clippy::cast_precision_loss, reason = "a part of one")]
    pub(crate) fn readable(&self) -> f64 {
        self.found as f64 / (self.found + self.missing).max(1) as f64
    }
}

/// Reads each block once.
pub(crate) fn pass(
    store: &dyn Store,
    content: Content,
    order: Order,
    threads: u64,
    limit: Duration,
) -> Result<Reads, Failure> {
    reads(store, content, order, threads, Duration::ZERO, limit)
}

/// Reads all blocks again and again, for at least this time.
pub(crate) fn hot(
    store: &dyn Store,
    content: Content,
    order: Order,
    threads: u64,
    (least, limit): (Duration, Duration),
) -> Result<Reads, Failure> {
    reads(store, content, order, threads, least, limit)
}

/// Asks for one block after the other until one of them is found, and reads that; false if none is for so long.
pub(crate) fn first_found(store: &dyn Store, content: Content, order: Order, limit: Duration) -> Result<bool, Failure> {
    let (clock, mut reader) = (Clock::start(limit), store.reader()?);
    loop {
        for number in order.numbers() {
            if one_block(&mut *reader, content, number)? {
                return Ok(true);
            }
        }
        if clock.is_over() {
            return Ok(false);
        }
    }
}

/// Which part of these blocks is there, of as many as can be asked for in this time.
pub(crate) fn contained(store: &dyn Store, order: Order, limit: Duration) -> Result<f64, Failure> {
    let (clock, mut reader) = (Clock::start(limit), store.reader()?);
    let mut reads = Reads { found: 0, missing: 0, bytes: 0, time: Duration::ZERO, cut: false };
    for number in order.numbers() {
        if reader.contains(number)? {
            reads.found += 1;
        } else {
            reads.missing += 1;
        }
        if clock.is_over() {
            break;
        }
    }
    Ok(reads.readable())
}

fn reads(
    store: &dyn Store,
    content: Content,
    order: Order,
    threads: u64,
    least: Duration,
    limit: Duration,
) -> Result<Reads, Failure> {
    let start = Barrier::new(usize::try_from(threads)? + 1);
    let (reads, time) = thread::scope(|scope| {
        let start = &start;
        let one = |thread| {
            move || -> Result<Reads, Failure> {
                let reader = store.reader();
                start.wait();
                one(reader?, content, least, limit, || order.share(thread, threads))
            }
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(one(thread))).collect();
        start.wait();
        let clock = Clock::start(limit);
        let done = running.into_iter().map(|thread| thread.join().map_err(|_| "a reading thread has panicked")?);
        (done.collect::<Result<Vec<Reads>, Failure>>(), clock.elapsed())
    });
    let none = Reads { found: 0, missing: 0, bytes: 0, time, cut: false };
    Ok(reads?.into_iter().fold(none, |all, one| Reads {
        found: all.found + one.found,
        missing: all.missing + one.missing,
        bytes: all.bytes + one.bytes,
        time,
        cut: all.cut || one.cut,
    }))
}

fn one<N: Iterator<Item = u64>>(
    mut reader: Box<dyn Reader + '_>,
    content: Content,
    least: Duration,
    limit: Duration,
    numbers: impl Fn() -> N,
) -> Result<Reads, Failure> {
    let (clock, mut look) = (Clock::start(limit), Filled::default());
    let mut reads = Reads { found: 0, missing: 0, bytes: 0, time: Duration::ZERO, cut: false };
    while !reads.cut && (reads.time.is_zero() || reads.time < least) {
        for number in numbers() {
            if one_block(&mut *reader, content, number)? {
                reads.found += 1;
                reads.bytes += content.len() as u64;
            } else {
                reads.missing += 1;
            }
            if look.by(content.len(), BYTES_A_LOOK) && clock.is_over() {
                reads.cut = true;
                break;
            }
        }
        reads.time = clock.elapsed();
    }
    Ok(reads)
}

/// Reads a block and compares it; false if it is not there.
pub(super) fn one_block(reader: &mut dyn Reader, content: Content, number: u64) -> Result<bool, Failure> {
    let mut right = true;
    let found = reader.read(number, &mut |block| right = content.is(number, block))?;
    if right { Ok(found) } else { Err(format!("WRONG BYTES: block {number} is not what was written").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once_whatever_their_count_and_the_threads() {
        for (first, count, threads) in [(1, 64, 1), (1, 64, 2), (65, 37, 2), (1, 1, 1), (9, 3, 2)] {
            let order = Order { first, count };
            let mut seen: Vec<u64> = (0..threads).flat_map(|thread| order.share(thread, threads)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (first..first + count).collect::<Vec<_>>(), "{order:?}");
        }
    }
}
