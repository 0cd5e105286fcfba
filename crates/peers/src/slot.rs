//! A store in a column, and what it has given.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::grid::Column;
use crate::measure::Measure;
use crate::store::Peer;

/// A store in a column, and what it has given.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) peer: Peer,
    pub(crate) column: Column,
    pub(crate) blocks: u64,
    /// The measures of each round.
    pub(crate) runs: Vec<Vec<Measure>>,
    /// Why it gave less than was asked for.
    pub(crate) failures: Vec<String>,
    /// Of its last round.
    pub(crate) took: Duration,
    /// Something that is compared has failed.
    pub(crate) is_broken: bool,
    /// The longest that each part may take, the same in every round.
    pub(crate) limit: Duration,
}

impl Slot {
    pub(crate) fn new(peer: Peer, column: Column, blocks: u64) -> Self {
        Self {
            peer,
            column,
            blocks,
            runs: Vec::new(),
            failures: Vec::new(),
            took: Duration::ZERO,
            is_broken: false,
            limit: Duration::ZERO,
        }
    }
}
