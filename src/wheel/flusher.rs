//! The background thread of a lane that runs closures and stores gather buffers: full ones while it does nothing else, others
//! in time. It never turns the wheel.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sync::Arc;
use crate::wheel::FileWheel;
use crate::wheel::deadline::Deadline;
use crate::wheel::run::Completion;
use crate::wheel::work::Work;

/// Longest wait for the staging memory of one closure, before the others and the gather buffer have their turn.
const PATIENCE: Duration = Duration::from_millis(20);

/// Runs until the lane is stopped.
pub(crate) fn run(wheel: &Arc<FileWheel>, lane: u16) {
    let lane = &wheel.lanes[usize::from(lane)];
    loop {
        match lane.next_work() {
            Work::Store(outstanding) => wheel.store_outstanding(lane, outstanding),
            Work::GatherIsDue => wheel.store_due_gather(lane),
            // Somebody has taken it: it may hang in it, but not this thread with it.
            Work::Closure(deferred) if !deferred.is_queued() => {}
            Work::Closure(deferred) => {
                // Busy: staging memory did not come free in time. It stays queued behind the others, and whoever
                // reads the block meanwhile runs it.
                let completion = wheel.complete(&deferred, &Deadline::after(PATIENCE));
                if matches!(completion, Completion::Busy) && deferred.is_queued() {
                    lane.push(deferred);
                }
                // A closure may take long; a buffer that became due meanwhile is not kept waiting for the next.
                wheel.store_due_gather(lane);
            }
            Work::Discard(discarded) => wheel.drop_closure(discarded.0),
            Work::Stop => {
                wheel.store_open_gather(lane, |_| true);
                return;
            }
        }
    }
}
