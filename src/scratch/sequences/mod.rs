//! Sequences of calls on a store whose disk fails now and then, beside a model of what each key may read as.
//!
//! A list of calls is drawn and then carried out, as in `tests/scratch_model.rs`, and not a state machine whose model
//! says beforehand what comes next: what a failed call has done is known only from what the store says later, so the
//! model learns from its answers. Each seed is one case: `SCRATCHSPACE_SEQUENCES_FIRST` is the first of them,
//! `SCRATCHSPACE_SEQUENCES` how many there are, and what fails prints its own, and the shortest list that fails too.
//! No file keeps such lists: one that showed a defect becomes a test of its own.
//!
//! # What must hold
//!
//! 1. A key reads as the last version that is known to be stored, or as a later one; never as an earlier one and never
//!    as anything else.
//! 2. It is missing only if that version is a removal, if its file has turned, or if a later removal was tried.
//! 3. A call fails for the reason that was given to the disk, and only from that fault on until the lanes are whole.
//!    Nothing is ever corrupted.
//! 4. Once the disk is whole every verb works, on every lane.
#![forbid(unsafe_code)]

mod calls;
mod driver;
mod model;

use std::env;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread;

use self::calls::{Op, Ops, Setting, ops, settings};
use self::driver::Driver;

fn run(setting: Setting, ops: &Ops) {
    let mut driver = Driver::new(setting);
    for (at, op) in ops.0.iter().enumerate() {
        let told = Told(at, op);
        driver.run(op);
        std::mem::forget(told);
    }
    driver.lift();
    driver.reopen();
}

/// Says which call it was that failed.
struct Told<'a>(usize, &'a Op);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!("in call {}: {:?}", self.0, self.1);
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn no_sequence_of_calls_and_faults_loses_a_block_or_gives_another() {
    let count = number("SCRATCHSPACE_SEQUENCES").unwrap_or(60);
    let first = number("SCRATCHSPACE_SEQUENCES_FIRST").unwrap_or(0);
    // They wait more than they work.
    let threads = number("SCRATCHSPACE_SEQUENCES_THREADS").unwrap_or(16);
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    thread::scope(|scope| {
        let run_some = |_| {
            scope.spawn(|| {
                loop {
                    // Relaxed: nothing but the number is shared.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let mut bytes = [0; 32];
                    bytes[..8].copy_from_slice(&seed.to_le_bytes());
                    let config = ProptestConfig {
                        cases: 1,
                        failure_persistence: None,
                        max_shrink_iters: 256,
                        ..ProptestConfig::default()
                    };
                    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
                    let result = TestRunner::new_with_rng(config, rng).run(&(settings(), ops()), |(setting, ops)| {
                        // Relaxed: a counter that is read when all threads have ended.
                        done.fetch_add(ops.0.len() as u64, Ordering::Relaxed);
                        run(setting, &ops);
                        Ok(())
                    });
                    if let Err(error) = result {
                        panic!("{error}\nrepeat with SCRATCHSPACE_SEQUENCES_FIRST={seed} SCRATCHSPACE_SEQUENCES=1");
                    }
                }
            })
        };
        for thread in (0..threads).map(run_some).collect::<Vec<_>>() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    println!("{} calls in {count} sequences from seed {first} on", done.into_inner());
}
