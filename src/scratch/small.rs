//! Small stores for the tests of this module, their events and faults, and blocks by their number.
#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::block::{BlockAddress, BlockHash, Realm};
use crate::index::View;
use crate::scratch::{Health, Scratch, ScratchBuilder};
use crate::storage::faulty::{Faults, FaultySource};
use crate::storage::{FileSource, MemoryFileSource};
use crate::sync::{Arc, thread};
use crate::wheel::Event;

pub(super) const REALM: Realm = Realm::DEFAULT;
/// Bound of everything that a test waits for: only a defect reaches it.
pub(super) const HANGS: Duration = Duration::from_mins(if cfg!(miri) { 1000 } else { 1 });
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

pub(super) fn memory(folders: u16, files: u16, bytes: u64) -> MemoryFileSource {
    MemoryFileSource::builder().folders(folders).files_per_folder(files).file_size(bytes).build().unwrap()
}

/// Three files in one folder.
pub(super) fn three_files_of(bytes: u64) -> MemoryFileSource {
    memory(1, 3, bytes)
}

/// A store in which each block reaches its file before its call returns.
pub(super) fn ungathered(source: impl FileSource) -> Scratch {
    Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap()
}

/// A store that stores each block before its call returns, its events, and its faults.
pub(super) fn open_told(
    source: impl FileSource,
    options: impl FnOnce(ScratchBuilder) -> ScratchBuilder,
) -> (Scratch, Receiver<Event>, Arc<Faults>) {
    let source = FaultySource::new(source);
    let faults = source.faults();
    let (told, events) = channel();
    let builder = Scratch::builder(source).gather(0, Duration::ZERO).on_event(send_to(told));
    (options(builder).open().unwrap(), events, faults)
}

pub(super) fn send_to(told: Sender<Event>) -> impl Fn(&Event) + Send + Sync {
    move |event| drop(told.send(event.clone()))
}

/// Bytes of which no two numbers share a hash.
pub(super) fn block(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![7; len.max(8)];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Waits for the first event that `is_it`; the ones before it are given, too.
pub(super) fn until(events: &Receiver<Event>, is_it: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        seen.push(events.recv_timeout(HANGS).unwrap_or_else(|_| panic!("after {seen:#?}")));
        if seen.last().is_some_and(&is_it) {
            return seen;
        }
    }
}

/// Whether the text about a store has these words. Where it is interpreted there is no date, and so no text with an age.
pub(super) fn shows(health: &Health, words: &str) -> bool {
    cfg!(miri) || health.to_string().contains(words)
}

pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANGS, "{what}: not within {HANGS:?}");
        thread::sleep(MILLISECOND);
    }
}

/// A key whose blocks lie in this lane.
pub(super) fn key_in(scratch: &Scratch, lane: u16, seed: u64) -> BlockHash {
    let keys = (seed * 1000..).map(|number| BlockHash::of(&number.to_le_bytes()));
    let mut of_lane = keys.filter(|key| scratch.wheel().lane_of_key(REALM, *key) == lane);
    of_lane.next().unwrap()
}

/// Any block, for an index that is told so: as if the tags of two keys were the same.
pub(super) struct Collision;

impl View for Collision {
    fn is_same_key(&self, _: BlockAddress) -> bool {
        false
    }

    fn version(&self, address: BlockAddress) -> (u64, u32) {
        (1, address.slot().get())
    }
}
