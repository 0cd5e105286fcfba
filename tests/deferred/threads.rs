//! No thread of a store outlives it. In a process of its own, as all threads of the process are counted.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::place::{Hung, Place, REALM, bytes_of, write_later};
use crate::process;
use crate::skipped::skipped;
use crate::waiting::{until, without_hanging};

/// Threads of this process that belong to a store; `None` where the system does not tell.
fn threads_of_stores() -> Option<usize> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    Some(names.filter(|name| name.starts_with("scratch-")).count())
}

#[test]
fn every_thread_of_a_store_ends_with_it() {
    if threads_of_stores().is_none() {
        skipped("threads of a store: there is no /proc/self/task");
        return;
    }
    let ended = process::of_test("threads::counts_threads").status().unwrap();
    assert!(ended.success(), "{ended}");
}

#[test]
fn counts_threads() {
    if !process::is_alone() {
        return;
    }
    Place::each(|place| {
        for round in 0..3 {
            let scratch = place.open();
            write_later(&scratch, bytes_of(round, 5000)).unwrap();
            scratch.put(REALM, &bytes_of(round, 100)).unwrap();
            // A thread names itself when it begins, and is listed for a moment after it was joined.
            until("the start of the threads", || threads_of_stores() >= Some(3));
            if round == 0 {
                scratch.close(Duration::from_secs(30));
                until("the end of the threads", || threads_of_stores() == Some(0));
            }
            without_hanging(move || drop(scratch));
            until("the end of the threads", || threads_of_stores() == Some(0));
        }
        // One that hangs in a closure is left behind, and ends when the closure does.
        let scratch = place.open();
        let hung = Hung::in_flusher(&scratch);
        scratch.close(Duration::ZERO);
        drop(scratch);
        // The list may leave one out while others end.
        until("the thread that hangs", || threads_of_stores() >= Some(1));
        hung.release();
        until("the end of the last thread", || threads_of_stores() == Some(0));
    });
}
