//! A reservation laid aside, while its closure waits.
#![forbid(unsafe_code)]

use crate::block::BlockAddress;

/// What [`Reservation::resume`](crate::wheel::reserve::Reservation::resume) takes up again.
#[derive(Debug)]
#[must_use = "the slot is never finished if the ticket is lost"]
pub(crate) struct Ticket {
    address: BlockAddress,
    page: u32,
}

impl Ticket {
    pub(crate) fn new(address: BlockAddress, page: u32) -> Self {
        Self { address, page }
    }

    pub(crate) fn address(&self) -> BlockAddress {
        self.address
    }

    /// The first page of the payload.
    pub(crate) fn page(&self) -> u32 {
        self.page
    }
}
