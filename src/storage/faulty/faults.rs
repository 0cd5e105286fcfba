//! What a test holds of a source: faults that it sets, calls that it keeps waiting, and counters.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
use std::collections::BTreeSet;
use std::io;
#[cfg(not(loom))]
use std::ops::Range;

#[cfg(not(loom))]
use super::fault::Errno;
use super::fault::{Call, Fault};
#[cfg(not(loom))]
use super::hints::Hints;
#[cfg(not(loom))]
use super::hold::Hold;
#[cfg(not(loom))]
use crate::block::{Entry, FileId};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What a test holds of a [`FaultySource`]: sets faults and reads counters.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    fault: Mutex<Option<Fault>>,
    counts: [AtomicU64; Call::ALL.len()],
    failed: [AtomicU64; Call::ALL.len()],
    /// The threads that created and deleted files.
    #[cfg(not(loom))]
    makers: Mutex<BTreeSet<String>>,
    #[cfg(not(loom))]
    pub(crate) hints: Hints,
    #[cfg(not(loom))]
    syncs: Hold,
    #[cfg(not(loom))]
    stores: Hold,
    #[cfg(not(loom))]
    entries: Hold,
    #[cfg(not(loom))]
    payloads: Hold,
    #[cfg(not(loom))]
    payloads_of: Mutex<Option<FileId>>,
    #[cfg(not(loom))]
    bad: Mutex<Option<(FileId, Range<u64>, Errno)>>,
}

impl Faults {
    /// From now on calls fail as `fault` says, in place of what was set before.
    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock() = Some(fault);
    }

    /// From now on no call fails.
    pub(crate) fn clear(&self) {
        *self.fault.lock() = None;
    }

    /// How many of these calls there were, failed ones as well.
    pub(crate) fn count(&self, call: Call) -> u64 {
        // Relaxed: a test reads it when the threads that count are quiet.
        self.counts[call as usize].load(Ordering::Relaxed)
    }

    /// How many calls there were.
    pub(crate) fn total(&self) -> u64 {
        Call::ALL.iter().map(|&call| self.count(call)).sum()
    }

    /// How many calls were made to fail.
    pub(crate) fn failed(&self) -> u64 {
        Call::ALL.iter().map(|&call| self.failed_of(call)).sum()
    }

    /// How many of these calls were made to fail.
    pub(crate) fn failed_of(&self, call: Call) -> u64 {
        // Relaxed: as in `count`.
        self.failed[call as usize].load(Ordering::Relaxed)
    }

    /// The names of the threads that have created and deleted files since this was asked last.
    #[cfg(not(loom))]
    pub(crate) fn take_makers(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.makers.lock())
    }

    /// From now on syncs wait before they begin, until this is called with `false`.
    #[cfg(not(loom))]
    pub(crate) fn hold_syncs(&self, held: bool) {
        self.syncs.hold(held);
    }

    /// How many syncs wait.
    #[cfg(not(loom))]
    pub(crate) fn held_syncs(&self) -> u64 {
        self.syncs.waiting()
    }

    /// From now on stores wait before they begin, until this is called with `false`.
    #[cfg(not(loom))]
    pub(crate) fn hold_stores(&self, held: bool) {
        self.stores.hold(held);
    }

    /// How many stores wait.
    #[cfg(not(loom))]
    pub(crate) fn held_stores(&self) -> u64 {
        self.stores.waiting()
    }

    /// From now on loads of single entries wait before they begin, until this is called with `false`.
    #[cfg(not(loom))]
    pub(crate) fn hold_entries(&self, held: bool) {
        self.entries.hold(held);
    }

    /// How many of those loads wait.
    #[cfg(not(loom))]
    pub(crate) fn held_entries(&self) -> u64 {
        self.entries.waiting()
    }

    /// From now on loads of more than an entry wait before they begin, until this is called with `false`: those of payloads
    /// and directories, and none of a header.
    #[cfg(not(loom))]
    pub(crate) fn hold_payloads(&self, held: bool) {
        *self.payloads_of.lock() = None;
        self.payloads.hold(held);
    }

    /// The same for one file.
    #[cfg(not(loom))]
    pub(crate) fn hold_payloads_of(&self, file: FileId) {
        *self.payloads_of.lock() = Some(file);
        self.payloads.hold(true);
    }

    /// How many of those loads wait.
    #[cfg(not(loom))]
    pub(crate) fn held_payloads(&self) -> u64 {
        self.payloads.waiting()
    }

    /// From now on no load of this file may touch these bytes.
    #[cfg(not(loom))]
    pub(crate) fn spoil(&self, file: FileId, bytes: Range<u64>) {
        self.spoil_with(file, bytes, Errno::Io);
    }

    /// The same, with another error than that of a bad sector.
    #[cfg(not(loom))]
    pub(crate) fn spoil_with(&self, file: FileId, bytes: Range<u64>, errno: Errno) {
        *self.bad.lock() = Some((file, bytes, errno));
    }

    /// An error if that is what this load does.
    #[cfg(not(loom))]
    pub(super) fn meet_bad(&self, file: FileId, offset: u64, len: usize) -> io::Result<()> {
        let touches = |bytes: &Range<u64>| offset < bytes.end && bytes.start < offset + len as u64;
        let Some((_, _, errno)) = self.bad.lock().clone().filter(|(of, bytes, _)| *of == file && touches(bytes)) else {
            return Ok(());
        };
        // Relaxed: as in `meet`.
        self.failed[Call::Load as usize].fetch_add(1, Ordering::Relaxed);
        Err(errno.error())
    }

    /// Counts a call in a folder, or in all; an error if it is one that fails.
    pub(super) fn meet(&self, call: Call, folder: Option<u16>) -> io::Result<()> {
        // Relaxed: these are counters, nothing is published by them.
        self.counts[call as usize].fetch_add(1, Ordering::Relaxed);
        #[cfg(not(loom))]
        if matches!(call, Call::Create | Call::Delete) {
            let thread = std::thread::current();
            self.makers.lock().insert(thread.name().unwrap_or("unnamed").to_owned());
        }
        let mut slot = self.fault.lock();
        let Some(fault) = slot.as_mut() else { return Ok(()) };
        if !fault.strikes(call, folder) {
            return Ok(());
        }
        let fault = fault.clone();
        slot.take_if(|fault| fault.is_spent());
        drop(slot);
        // Relaxed: as above.
        self.failed[call as usize].fetch_add(1, Ordering::Relaxed);
        Err(fault.answer(call))
    }

    /// Waits while syncs are held.
    #[cfg(not(loom))]
    pub(super) fn wait_to_sync(&self) {
        self.syncs.wait_while_held();
    }

    /// Waits while stores are held.
    #[cfg(not(loom))]
    pub(super) fn wait_to_store(&self) {
        self.stores.wait_while_held();
    }

    /// Waits if this is a load that is held.
    #[cfg(not(loom))]
    pub(super) fn wait_to_load(&self, file: FileId, offset: u64, len: usize) {
        if len == Entry::SIZE {
            self.entries.wait_while_held();
        }
        if len > Entry::SIZE && offset > 0 && self.payloads_of.lock().is_none_or(|held| held == file) {
            self.payloads.wait_while_held();
        }
    }
}
