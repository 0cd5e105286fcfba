//! Memory for what is measured, kept from the host of a virtual machine until it is needed.
//!
//! A machine that gives free memory back to its host does so some two seconds after it has become free: what is measured for
//! longer than that met memory that was gone again, even if all of it had been touched right before, and one that took a bit
//! less did not. Such memory comes back at a twentieth of the speed.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use memmap2::MmapMut;

use crate::{MIB, hold_memory};

/// What is given back at a time.
const SLICE: usize = 64 * MIB;
/// Bytes that are free beyond what was before, as long as there are slices left: used up in a tenth of a second at most.
const AHEAD: u64 = 768 << 20;
/// How often it is looked whether that is so.
const LOOK: Duration = Duration::from_millis(10);

/// Memory that was touched, and is given back as fast as others take it. All of it is free again once this is dropped.
///
/// It ends a wait of at most some milliseconds when it is dropped.
#[derive(Debug)]
pub struct Reserve {
    is_over: Arc<AtomicBool>,
    feeder: Option<JoinHandle<()>>,
    held: Vec<MmapMut>,
}

impl Reserve {
    /// Touches this much memory.
    ///
    /// # Panics
    ///
    /// If there is not so much.
    #[must_use]
    pub fn hold(bytes: usize) -> Self {
        let slices = (0..bytes).step_by(SLICE).filter_map(|at| hold_memory(SLICE.min(bytes - at)));
        Self { held: slices.collect(), is_over: Arc::default(), feeder: None }
    }

    /// Gives back what is needed next, and from now on as much as others take. Where the system does not tell what is free, all
    /// of it at once.
    pub fn feed(&mut self) {
        let (is_over, mut held) = (Arc::clone(&self.is_over), std::mem::take(&mut self.held));
        let Some(before) = free_memory() else { return };
        give(&mut held, before, before);
        self.feeder = Some(thread::spawn(move || {
            // Relaxed: it guards nothing.
            while !held.is_empty() && !is_over.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
                give(&mut held, before, free_memory().unwrap_or(0));
            }
        }));
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(feeder) = self.feeder.take() {
            // It does nothing that could panic.
            let _ = feeder.join();
        }
    }
}

/// Gives slices back until so much is free beyond what was free before.
fn give(held: &mut Vec<MmapMut>, before: u64, free: u64) {
    let lacking = (before + AHEAD).saturating_sub(free);
    let slices = usize::try_from(lacking.div_ceil(SLICE as u64)).unwrap_or(usize::MAX);
    held.truncate(held.len().saturating_sub(slices));
}

/// Bytes of memory that nobody uses, not even as a cache.
fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(count: usize) -> Vec<MmapMut> {
        (0..count).map(|_| MmapMut::map_anon(1).unwrap()).collect()
    }

    #[test]
    fn as_much_is_given_back_as_is_lacking() {
        let (slice, before) = (SLICE as u64, 5 << 30);
        // What is free, and how many of twenty slices are kept.
        for (free, kept) in [
            (before + AHEAD, 20),
            (before + AHEAD + slice, 20),
            (before + AHEAD - 1, 19),
            (before + AHEAD - 3 * slice, 17),
            (before, 20 - usize::try_from(AHEAD / slice).unwrap()),
            (0, 0),
        ] {
            let mut held = slices(20);
            give(&mut held, before, free);
            assert_eq!(held.len(), kept, "{free}");
        }
    }

    #[test]
    fn what_is_held_ends_with_the_reserve_whether_it_was_fed_or_not() {
        for feeds in [false, true] {
            let mut reserve = Reserve::hold(3 * MIB);
            assert_eq!(reserve.held.len(), 1);
            if feeds {
                reserve.feed();
                assert!(reserve.held.is_empty());
            }
            drop(reserve);
        }
        assert!(Reserve::hold(0).held.is_empty());
    }
}
