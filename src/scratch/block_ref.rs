//! Owned, pinned bytes of a block.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::{Bound, Deref, Range, RangeBounds};

use crate::block::{Entry, Slot};
use crate::sync::Arc;
use crate::wheel::{Copied, FileWheel, Lent, OwnedPin};

/// The bytes of one block, or of a part of it, for as long as they are held.
///
/// Dereferences to `&[u8]`, zero-copy, whatever becomes of the block in the store meanwhile: it may be removed,
/// replaced or recycled. Cloning costs a count. A block that is held keeps its file from being reused, and the folders
/// of the store locked; dropping it does no I/O.
///
/// # Panics
///
/// A forked child has no mapping of its parent's files: dereferencing a block there panics, unless its bytes are a copy,
/// and a `&[u8]` that was borrowed before the fork is an address without memory behind it.
#[derive(Clone)]
pub struct BlockRef {
    held: Arc<Held>,
    range: Range<usize>,
}

enum Held {
    Mapped { pin: OwnedPin, slot: Slot, entry: Entry },
    Copied(Copied),
}

impl Held {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped { pin, slot, entry } => {
                // A panic with a text instead of a signal without one.
                assert!(pin.is_of_this_process(), "a block lent by the store of a parent was read in a forked child");
                pin.payload(*slot, entry).expect("checked when it was found")
            }
            Self::Copied(bytes) => bytes,
        }
    }
}

impl BlockRef {
    pub(crate) fn new(wheel: &FileWheel, lent: Lent<'_>) -> Self {
        let held = match lent {
            Lent::Mapped { pin, slot, entry } => Held::Mapped { pin: wheel.own(pin), slot, entry },
            Lent::Gathered { .. } => Held::Copied(Copied::of(&lent)),
            Lent::Copied(bytes) => Held::Copied(bytes),
        };
        let range = 0..held.bytes().len();
        Self { held: Arc::new(held), range }
    }

    /// Whether these are still the bytes that were written.
    ///
    /// `false` if a page of their file could not be read meanwhile: then bytes seen through this may be zeros, and what
    /// was computed from them should be forgotten, and [`get`](crate::Scratch::get) called again. That happens with the
    /// feature `sigbus-guard` only: without it the process is killed by such a page. Ask after the bytes were used.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let hash = scratch.put(Realm::DEFAULT, b"bytes")?;
    /// let block = scratch.get(Realm::DEFAULT, hash)?;
    /// let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    /// assert!(block.is_intact(), "else the sum is worth nothing");
    /// # assert_eq!(sum, 551);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_intact(&self) -> bool {
        match &*self.held {
            Held::Mapped { pin, .. } => !pin.file().is_poisoned(),
            Held::Copied(_) => true,
        }
    }

    /// A part of these bytes that holds the block as well.
    ///
    /// # Panics
    ///
    /// If the range does not lie within these bytes, as slicing does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let hash = scratch.put(Realm::DEFAULT, b"header and body")?;
    /// let block = scratch.get(Realm::DEFAULT, hash)?;
    /// let body = block.slice(11..);
    /// drop(block);
    /// assert_eq!(&body[..], b"body");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let len = self.range.len();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => len,
        };
        assert!(start <= end && end <= len, "range {start}..{end} of {len} bytes");
        let range = self.range.start + start..self.range.start + end;
        Self { held: Arc::clone(&self.held), range }
    }
}

impl Deref for BlockRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.held.bytes()[self.range.clone()]
    }
}

impl AsRef<[u8]> for BlockRef {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for BlockRef {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for BlockRef {}

impl fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockRef").field("len", &self.range.len()).finish_non_exhaustive()
    }
}

const _: () = {
    const fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<BlockRef>();
};
