//! A slot and its pages, promised to one writer.
//!
//! # Invariants
//!
//! 1. Every reservation is finished exactly once: by `finish`, or by its drop, which makes the slot FAILED.
//! 2. A file is reused only when all its reservations are finished; a reservation therefore needs no pin.
#![forbid(unsafe_code)]

use crate::block::{BlockAddress, PAGE_SIZE, Slot};
use crate::wheel::file::BlockFile;
use crate::wheel::slots::State;
use crate::wheel::ticket::Ticket;

/// What a reservation is for: the last free file of a full lane takes tombstones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Data,
    Tombstone,
}

/// A place in a file that nobody else stores to.
#[derive(Debug)]
#[must_use = "a reservation that is dropped makes its slot FAILED"]
pub(crate) struct Reservation<'a> {
    file: &'a BlockFile,
    slot: Slot,
    page: u32,
}

impl<'a> Reservation<'a> {
    pub(crate) fn new(file: &'a BlockFile, slot: Slot, page: u32, pages: u32) -> Self {
        file.stride.note(slot, page, pages);
        Self { file, slot, page }
    }

    /// Takes up what `into_ticket` laid aside; `file` is the one of its address.
    pub(crate) fn resume(file: &'a BlockFile, ticket: &Ticket) -> Self {
        debug_assert_eq!(file.id(), ticket.address().file());
        Self { file, slot: ticket.address().slot(), page: ticket.page() }
    }

    pub(crate) fn file(&self) -> &'a BlockFile {
        self.file
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// The first page of the payload.
    pub(crate) fn page(&self) -> u32 {
        self.page
    }

    /// Where the payload begins in the file, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.page) * PAGE_SIZE
    }

    pub(crate) fn address(&self) -> BlockAddress {
        self.file.address(self.slot)
    }

    /// Ends the reservation; the slot has its state.
    pub(crate) fn finish(self) {
        self.file.finish(1);
        std::mem::forget(self);
    }

    pub(crate) fn into_ticket(self) -> Ticket {
        let ticket = Ticket::new(self.address(), self.page);
        std::mem::forget(self);
        ticket
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.file.slots.set(self.slot, State::Failed);
        self.file.finish(1);
    }
}
