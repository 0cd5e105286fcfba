//! Values whose place in a block is known before they are.
//!
//! # Invariants
//!
//! 1. A place is filled at most once, and only through the handle that its own writer made.
#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

use crate::sync::Arc;

/// The place of a value that is [set](crate::BlittableWriter::set) later.
#[must_use = "a delayed value that is never set makes `commit` fail"]
pub struct Delayed<T> {
    writer: Arc<()>,
    index: usize,
    value: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for Delayed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delayed").field("index", &self.index).finish_non_exhaustive()
    }
}

/// The places that one writer left open.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Its address tells the handles of this writer from those of others.
    writer: Arc<()>,
    list: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    offset: u64,
    is_set: bool,
}

impl Places {
    /// Notes that a `T` will be filled in at `offset`.
    pub(super) fn leave<T>(&mut self, offset: u64) -> Delayed<T> {
        self.list.push(Place { offset, is_set: false });
        Delayed { writer: Arc::clone(&self.writer), index: self.list.len() - 1, value: PhantomData }
    }

    /// Notes that the value is there now. Returns its offset, or `None` if another writer left that place.
    #[expect(clippy::needless_pass_by_value, reason = "a place is filled once: the handle is used up")]
    pub(super) fn fill<T>(&mut self, at: Delayed<T>) -> Option<u64> {
        let place = self.list.get_mut(at.index).filter(|_| Arc::ptr_eq(&at.writer, &self.writer))?;
        place.is_set = true;
        Some(place.offset)
    }

    /// The offset of the first place that was not filled.
    pub(super) fn first_unset(&self) -> Option<u64> {
        self.list.iter().find(|place| !place.is_set).map(|place| place.offset)
    }
}
