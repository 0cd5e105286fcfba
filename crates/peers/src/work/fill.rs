//! Writing a set, by one thread or several.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::content::Content;
use crate::store::{Failure, Filled, Store};
use crate::work::{BYTES_A_LOOK, Clock};

/// What to write.
#[derive(Clone, Debug)]
pub(crate) struct Fill {
    pub(crate) numbers: Range<u64>,
    pub(crate) threads: u64,
    /// Before a block is put, the one this many numbers older is removed.
    pub(crate) removes: Option<u64>,
    pub(crate) limit: Duration,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Of the numbers in order, as many as all threads have done.
    pub(crate) blocks: u64,
    /// All blocks, whoever wrote them.
    pub(crate) bytes: u64,
    /// Until the last of them was published.
    pub(crate) burst: Duration,
    /// Until all of them were on the device.
    pub(crate) sustained: Duration,
    pub(crate) cut: bool,
}

/// Writes the numbers in order: each thread takes those that leave the same rest.
pub(crate) fn fill(store: &dyn Store, content: Content, what: &Fill) -> Result<Written, Failure> {
    let start = Barrier::new(usize::try_from(what.threads)? + 1);
    let (done, clock) = thread::scope(|scope| {
        let (start, threads): (_, Vec<_>) = (&start, (0..what.threads).collect());
        let threads: Vec<_> =
            threads.into_iter().map(|thread| scope.spawn(move || one(store, content, what, thread, start))).collect();
        start.wait();
        let clock = Clock::start(what.limit);
        let done = threads.into_iter().map(|thread| thread.join().map_err(|_| "a writing thread has panicked")?);
        (done.collect::<Result<Vec<u64>, Failure>>(), clock)
    });
    let burst = clock.elapsed();
    let done = done?;
    store.sync()?;
    let sustained = clock.elapsed();
    let (all, wanted): (u64, _) = (done.iter().sum(), what.numbers.end - what.numbers.start);
    let least = done.iter().copied().min().unwrap_or(0) * what.threads;
    Ok(Written {
        blocks: if all == wanted { wanted } else { least.min(wanted) },
        bytes: all * content.len() as u64,
        burst,
        sustained,
        cut: all < wanted,
    })
}

/// One thread's part: how many blocks it has written.
fn one(store: &dyn Store, content: Content, what: &Fill, thread: u64, start: &Barrier) -> Result<u64, Failure> {
    let mut prepared = content.block().and_then(|block| Ok((block, store.writer()?)));
    start.wait();
    let (block, writer) = prepared.as_mut().map_err(|error| error.to_string())?;
    let (clock, mut look, mut done) = (Clock::start(what.limit), Filled::default(), 0);
    for number in what.numbers.clone().skip(usize::try_from(thread)?).step_by(usize::try_from(what.threads)?) {
        if let Some(older) = what.removes {
            writer.remove(number - older)?;
        }
        writer.put(number, block.of(number))?;
        done += 1;
        if look.by(content.len(), BYTES_A_LOOK) && clock.is_over() {
            break;
        }
    }
    writer.publish()?;
    Ok(done)
}
