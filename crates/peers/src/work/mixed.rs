//! One writer, and one reader at once, with the time that each call takes.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::content::Content;
use crate::store::{Failure, Filled, Store};
use crate::work::read::one_block;
use crate::work::{BYTES_A_LOOK, Clock, Order};

/// Longest call that is told from longer ones, in ns.
const LONGEST: u64 = 120_000_000_000;

/// What each of the two has done while the other was at work.
#[derive(Debug)]
pub(crate) struct Mixed {
    pub(crate) written: u64,
    pub(crate) found: u64,
    pub(crate) time: Duration,
    pub(crate) cut: bool,
    /// Of each `put`, in ns; what a commit takes is paid by the call that makes it.
    pub(crate) puts: Histogram<u64>,
    /// Of each read, all bytes summed, in ns.
    pub(crate) reads: Histogram<u64>,
}

impl Mixed {
    /// Which part of the reads found their block.
    #[expect(clippy::cast_precision_loss, reason = "a part of one")]
    pub(crate) fn readable(&self) -> f64 {
        self.found as f64 / self.reads.len().max(1) as f64
    }
}

/// Writes `numbers`, and reads `there` in no visible order until that is done.
pub(crate) fn mixed(
    store: &dyn Store,
    content: Content,
    numbers: Range<u64>,
    there: Order,
    limit: Duration,
) -> Result<Mixed, Failure> {
    let is_over = AtomicBool::new(false);
    let (clock, len) = (Clock::start(limit), content.len() as u64);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read(store, content, there, &is_over));
        let written = {
            let _end = End(&is_over);
            write(store, content, numbers, &clock)
        };
        let time = clock.elapsed();
        let (found, reads) = reader.join().map_err(|_| "the reading thread has panicked")??;
        let (puts, cut) = written?;
        Ok(Mixed { written: puts.len() * len, found, time, cut, puts, reads })
    })
}

/// Ends the reader, also if the writer panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // Relaxed: nothing but the end is told.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes `numbers`: the time of each call, and whether the time was over before.
pub(crate) fn write(
    store: &dyn Store,
    content: Content,
    numbers: Range<u64>,
    clock: &Clock,
) -> Result<(Histogram<u64>, bool), Failure> {
    let (mut block, mut writer, mut times) = (content.block()?, store.writer()?, histogram()?);
    let (mut look, mut cut) = (Filled::default(), false);
    for number in numbers {
        let block = block.of(number);
        let begun = Instant::now();
        writer.put(number, block)?;
        times.saturating_record(nanos(begun));
        if look.by(content.len(), BYTES_A_LOOK) && clock.is_over() {
            cut = true;
            break;
        }
    }
    writer.publish()?;
    Ok((times, cut))
}

/// How many blocks were found, and the time of each read.
fn read(
    store: &dyn Store,
    content: Content,
    there: Order,
    is_over: &AtomicBool,
) -> Result<(u64, Histogram<u64>), Failure> {
    let (mut reader, mut times, mut found) = (store.reader()?, histogram()?, 0);
    loop {
        for number in there.numbers() {
            let begun = Instant::now();
            found += u64::from(one_block(&mut *reader, content, number)?);
            times.saturating_record(nanos(begun));
            // Relaxed: nothing but the end is told.
            if is_over.load(Ordering::Relaxed) {
                return Ok((found, times));
            }
        }
    }
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_max(LONGEST, 3)?)
}

fn nanos(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(LONGEST)
}
