//! The bytes of a block that is being written: pieces gathered from small writes, and slices taken over as they are.
//!
//! # Invariants
//!
//! 1. Each part starts where the one before it ends; none is empty.
//! 2. Bytes appended by one call lie in one part.
//! 3. A block that has grown beyond the limit holds no bytes any more, only its length: it cannot be committed, and a
//!    writer that never fails must not eat up all memory on the way.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

use bytemuck::NoUninit;

use crate::block::MAX_BLOCK;
use crate::sync::Arc;

/// Bytes up to which small writes share one buffer.
const GATHER: usize = 64 << 10;

/// A slice somebody gave away, seen as its bytes.
pub(super) trait AsBytes: Send + Sync {
    fn as_bytes(&self) -> &[u8];
}

impl<T: NoUninit + Send + Sync> AsBytes for Vec<T> {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: NoUninit + Send + Sync> AsBytes for Arc<[T]> {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

enum Bytes {
    Gathered(Vec<u8>),
    Taken(Box<dyn AsBytes>),
}

struct Part {
    start: u64,
    bytes: Bytes,
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Gathered(bytes) => bytes,
            Bytes::Taken(taken) => taken.as_bytes(),
        }
    }
}

/// All parts of one block, in order.
#[derive(Default)]
pub(super) struct Parts {
    list: Vec<Part>,
    len: u64,
}

impl Parts {
    /// Bytes so far, counted on beyond the limit.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the block has grown beyond what any block may hold: its bytes are gone.
    pub(super) fn is_too_large(&self) -> bool {
        self.len > u64::from(MAX_BLOCK)
    }

    /// Copies `bytes` to the end.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || !self.grow(bytes.len()) {
            return;
        }
        let mut capacity = bytes.len();
        if let Some(Part { bytes: Bytes::Gathered(last), .. }) = self.list.last_mut() {
            if last.len() + bytes.len() <= GATHER {
                last.extend_from_slice(bytes);
                return;
            }
            // The block is not a small one: what follows may well fill a buffer, too.
            capacity = capacity.max(GATHER);
        }
        let mut gathered = Vec::with_capacity(capacity);
        gathered.extend_from_slice(bytes);
        self.push(bytes.len(), Bytes::Gathered(gathered));
    }

    /// Appends `count` zeros.
    pub(super) fn append_zeros(&mut self, count: usize) {
        static ZEROS: [u8; 64] = [0; 64];
        match ZEROS.get(..count) {
            Some(zeros) => self.append(zeros),
            None => self.append(&vec![0; count]),
        }
    }

    /// Takes a slice as it is.
    pub(super) fn take(&mut self, taken: Box<dyn AsBytes>) {
        let len = taken.as_bytes().len();
        if len > 0 && self.grow(len) {
            self.push(len, Bytes::Taken(taken));
        }
    }

    /// Overwrites bytes that one call of [`append`](Self::append) put at `offset`. Other bytes stay as they are.
    pub(super) fn patch(&mut self, offset: u64, bytes: &[u8]) {
        let at = self.list.partition_point(|part| part.start <= offset);
        let Some(part) = at.checked_sub(1).and_then(|at| self.list.get_mut(at)) else { return };
        let Ok(from) = usize::try_from(offset - part.start) else { return };
        if let Bytes::Gathered(gathered) = &mut part.bytes
            && let Some(place) = gathered.get_mut(from..).and_then(|rest| rest.get_mut(..bytes.len()))
        {
            place.copy_from_slice(bytes);
        }
    }

    /// Shows `visit` all bytes of `range`, piece by piece.
    pub(super) fn for_each(&self, range: Range<u64>, mut visit: impl FnMut(&[u8])) {
        let first = self.list.partition_point(|part| part.start <= range.start).saturating_sub(1);
        for part in self.list[first..].iter().take_while(|part| part.start < range.end) {
            let bytes = part.bytes();
            let inside = |offset: u64| {
                usize::try_from(offset.saturating_sub(part.start)).map_or(bytes.len(), |at| at.min(bytes.len()))
            };
            visit(&bytes[inside(range.start)..inside(range.end)]);
        }
    }

    /// All parts, each in one piece.
    pub(super) fn slices(&self) -> Vec<&[u8]> {
        self.list.iter().map(Part::bytes).collect()
    }

    /// All bytes in one piece.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.slices().concat()
    }

    /// Counts `more` bytes. Returns whether there is still anything to keep.
    fn grow(&mut self, more: usize) -> bool {
        self.len = self.len.saturating_add(more as u64);
        if self.is_too_large() {
            self.list = Vec::new();
            return false;
        }
        true
    }

    /// Adds a part of `len` bytes that were counted already.
    fn push(&mut self, len: usize, bytes: Bytes) {
        self.list.push(Part { start: self.len - len as u64, bytes });
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("len", &self.len).field("parts", &self.list.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_share_a_buffer_and_large_ones_do_not() {
        let mut parts = Parts::default();
        for _ in 0..GATHER / 8 {
            parts.append(&[1; 8]);
        }
        assert_eq!(parts.slices().len(), 1);
        parts.append(&vec![2; GATHER + 1]);
        parts.append(&[3]);
        assert_eq!(parts.slices().iter().map(|part| part.len()).collect::<Vec<_>>(), [GATHER, GATHER + 1, 1]);
        assert_eq!(parts.len(), 2 * GATHER as u64 + 2);
    }

    #[test]
    fn write_that_does_not_fit_begins_a_buffer_of_its_own() {
        let mut parts = Parts::default();
        parts.append(&[1; 8]);
        parts.append(&vec![2; GATHER - 7]);
        assert_eq!(parts.slices().iter().map(|part| part.len()).collect::<Vec<_>>(), [8, GATHER - 7]);
    }

    #[test]
    fn nothing_is_not_a_part() {
        let mut parts = Parts::default();
        parts.append(&[]);
        parts.append_zeros(0);
        parts.take(Box::new(Vec::<u64>::new()));
        assert!(parts.slices().is_empty());
        assert_eq!(parts.len(), 0);
    }

    #[test]
    fn ranges_are_cut_at_the_borders_of_parts() {
        let mut parts = Parts::default();
        parts.append(&[0, 1, 2]);
        parts.take(Box::new(vec![3_u8, 4]));
        parts.append(&[5, 6]);
        let all = parts.to_vec();
        for start in 0..=all.len() {
            for end in start..=all.len() {
                let mut seen = Vec::new();
                parts.for_each(start as u64..end as u64, |bytes| seen.extend_from_slice(bytes));
                assert_eq!(seen, all[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn patch_changes_only_the_bytes_it_was_given() {
        let mut parts = Parts::default();
        parts.append(&[0; 4]);
        parts.take(Box::new(vec![1_u16; 2]));
        parts.append(&[0; 4]);
        parts.patch(1, &[7, 8]);
        parts.patch(10, &[9, 9]);
        assert_eq!(parts.to_vec(), [0, 7, 8, 0, 1, 0, 1, 0, 0, 0, 9, 9]);
    }

    #[test]
    fn patch_outside_gathered_bytes_changes_nothing() {
        let mut parts = Parts::default();
        parts.patch(0, &[1]);
        parts.append(&[0; 4]);
        parts.take(Box::new(vec![0_u8; 4]));
        for offset in [3, 4, 7, 8, u64::MAX] {
            parts.patch(offset, &[1, 1]);
        }
        assert_eq!(parts.to_vec(), [0; 8]);
    }

    #[test]
    fn block_beyond_the_limit_keeps_its_length_but_no_bytes() {
        let shared: Arc<[u64]> = vec![0; 1 << 20].into();
        let mut parts = Parts::default();
        while !parts.is_too_large() {
            parts.take(Box::new(Arc::clone(&shared)));
        }
        assert_eq!(parts.len(), 1 << 31);
        assert!(parts.slices().is_empty());
        assert_eq!(Arc::strong_count(&shared), 1);
        parts.append(&[0; 8]);
        parts.patch(0, &[1]);
        assert_eq!((parts.len(), parts.slices().len()), ((1 << 31) + 8, 0));
    }
}
