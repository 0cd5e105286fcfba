//! Small neighbours on their way to one store.
//!
//! Payloads grow upwards from the start of a buffer, entries downwards from its end, as in the file itself.
//! Neighbouring pages, and neighbouring slots, form runs; each run is one store.
//!
//! # Invariants
//!
//! 1. A range of a buffer is written once, before its record is published, and never again while the buffer is
//!    shared: a buffer is used again only when nobody else holds its `Arc`.
//! 2. All slots of a buffer lie in one file, and that file counts each of them in `unstored` until it is stored.
//! 3. Whole pages are gathered, their tails zeroed, so that a run never carries an earlier lap's bytes.

use std::fmt;
use std::io;
use std::ops::Range;
use std::slice;
use std::time::Instant;

use crate::block::{Entry, FileId, FileSize, PAGE_SIZE, Slot, padding, pages_of};
use crate::error::IoError;
use crate::planted;
use crate::storage::{FileMemory, HeapMemory};
use crate::sync::{Arc, OnceLock};

/// Memory in which neighbours gather; readers of a GATHERED block hold it by `Arc`.
#[derive(Debug)]
pub(crate) struct GatherBuffer {
    memory: HeapMemory,
    /// Why it could not be stored.
    failure: OnceLock<IoError>,
}

impl GatherBuffer {
    fn new(size: FileSize) -> Self {
        Self { memory: HeapMemory::new(size), failure: OnceLock::new() }
    }

    /// Why it could not be stored, if it could not: known before any of its slots is FAILED.
    pub(crate) fn failure(&self) -> Option<&IoError> {
        self.failure.get()
    }

    /// Bytes of `range`, which a published record names.
    pub(crate) fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.memory.size().get() {
            return None;
        }
        let start = usize::try_from(range.start).ok()?;
        let len = usize::try_from(range.end - range.start).ok()?;
        // SAFETY: in bounds by the check above.
        let first = unsafe { self.memory.base().as_ptr().add(start) };
        // SAFETY: the memory lives as long as `self`; the range was written before its record was published and
        // is not written again while the buffer is shared (invariant 1).
        Some(unsafe { slice::from_raw_parts(first, len) })
    }
}

/// Neighbours of one run: where it begins in the file, and where it lies in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    offset: u64,
    bytes: Range<u64>,
}

/// A buffer being filled for one file.
pub(crate) struct Gather {
    buffer: Arc<GatherBuffer>,
    file: FileId,
    opened: Instant,
    payload_end: u64,
    entries_start: u64,
    payloads: Vec<Run>,
    entries: Vec<Run>,
    slots: Vec<Slot>,
}

impl Gather {
    /// An empty buffer for `file`. `spare` is used again if nobody else holds it (invariant 1).
    pub(crate) fn open(file: FileId, size: FileSize, spare: Option<Arc<GatherBuffer>>) -> Self {
        let mut spare = spare;
        // Hazard 56: a buffer is filled again below whoever reads it.
        let reusable = spare.as_mut().is_some_and(|buffer| {
            buffer.failure.get().is_none() && (Arc::get_mut(buffer).is_some() || planted::is(56))
        });
        let buffer = match spare {
            Some(buffer) if reusable => buffer,
            _ => Arc::new(GatherBuffer::new(size)),
        };
        Self {
            buffer,
            file,
            opened: Instant::now(),
            payload_end: 0,
            entries_start: size.get(),
            payloads: Vec::new(),
            entries: Vec::new(),
            slots: Vec::new(),
        }
    }

    pub(crate) fn file(&self) -> FileId {
        self.file
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Bytes that payloads take, whole pages each.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.payload_end
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn buffer(&self) -> &Arc<GatherBuffer> {
        &self.buffer
    }

    /// Says why the buffer could not be stored, before any of its slots is FAILED.
    pub(crate) fn has_failed(&self, error: IoError) {
        let _ = self.buffer.failure.set(error);
    }

    pub(crate) fn into_buffer(self) -> Arc<GatherBuffer> {
        self.buffer
    }

    /// Whether a block of `len` bytes and its entry still fit.
    pub(crate) fn has_room(&self, len: u32) -> bool {
        let payload = u64::from(pages_of(len)) * PAGE_SIZE;
        self.payload_end + payload + Entry::SIZE as u64 <= self.entries_start
    }

    /// Copies a block and its encoded entry in; gives where the block begins in the buffer.
    ///
    /// The caller has seen `has_room`. `offset` and `entry_offset` are where they belong in the file.
    pub(crate) fn add(
        &mut self,
        slot: Slot,
        offset: u64,
        parts: &[&[u8]],
        entry_offset: u64,
        entry: &[u8; Entry::SIZE],
    ) -> io::Result<u64> {
        let start = self.payload_end;
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let end = (start + len).next_multiple_of(PAGE_SIZE);
        let entries_start = self.entries_start - Entry::SIZE as u64;
        self.copy(start, parts)?;
        self.copy(start + len, &[padding(len)])?;
        self.copy(entries_start, &[entry])?;

        if end > start {
            match self.payloads.last_mut() {
                Some(run) if run.offset + (run.bytes.end - run.bytes.start) == offset => run.bytes.end = end,
                _ => self.payloads.push(Run { offset, bytes: start..end }),
            }
        }
        match self.entries.last_mut() {
            Some(run) if entry_offset + Entry::SIZE as u64 == run.offset => {
                run.offset = entry_offset;
                run.bytes.start = entries_start;
            }
            _ => {
                let bytes = entries_start..entries_start + Entry::SIZE as u64;
                self.entries.push(Run { offset: entry_offset, bytes });
            }
        }
        self.payload_end = end;
        self.entries_start = entries_start;
        self.slots.push(slot);
        Ok(start)
    }

    /// Copies parts to a place in the buffer that no record and no run names.
    fn copy(&mut self, at: u64, parts: &[&[u8]]) -> io::Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if at < self.payload_end || at + len > self.entries_start {
            return Err(io::Error::other("a part of a gathered block lies outside of what is free"));
        }
        // SAFETY: nobody else stores, as `self` is exclusive and alone fills its buffer, which nobody else held when it was
        // opened; nobody reads these bytes, as records name only what ends at `payload_end` or before (invariant 1), and
        // entries are read by `store_runs` only; both bounds were just checked.
        unsafe { self.buffer.memory.store_unshared(at, parts) }
    }

    /// Hands each run to `store`: all payloads before the first entry.
    pub(crate) fn store_runs(&self, mut store: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        for run in self.payloads.iter().chain(&self.entries) {
            let Some(bytes) = self.buffer.bytes(run.bytes.clone()) else {
                return Err(io::Error::other("a gathered run lies outside of its buffer"));
            };
            store(run.offset, bytes)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").field("file", &self.file).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 * 1024;

    fn gather() -> Gather {
        Gather::open(FileId::new(1).unwrap(), FileSize::new(SIZE).unwrap(), None)
    }

    fn add(gather: &mut Gather, slot: u32, page: u64, bytes: &[u8]) -> u64 {
        let entry_offset = (1 << 20) - 64 * (u64::from(slot) + 1);
        let entry = [u8::try_from(slot).unwrap(); 64];
        gather.add(Slot::new(slot).unwrap(), page * PAGE_SIZE, &[bytes], entry_offset, &entry).unwrap()
    }

    fn runs(gather: &Gather) -> Vec<(u64, Vec<u8>)> {
        let mut runs = Vec::new();
        gather
            .store_runs(|offset, bytes| {
                runs.push((offset, bytes.to_vec()));
                Ok(())
            })
            .unwrap();
        runs
    }

    #[test]
    fn neighbours_become_one_run_of_payloads_and_one_of_entries() {
        let mut gather = gather();
        add(&mut gather, 0, 1, b"one");
        add(&mut gather, 1, 2, &[7; 5000]);
        add(&mut gather, 2, 4, b"three");
        let runs = runs(&gather);
        assert_eq!(runs.len(), 2);
        let (offset, payloads) = &runs[0];
        assert_eq!((*offset, payloads.len()), (4096, 4 * 4096));
        assert_eq!(&payloads[..4], b"one\0");
        assert_eq!(payloads[4096..9096], [7; 5000]);
        assert_eq!(&payloads[3 * 4096..][..6], b"three\0");
        let (offset, entries) = &runs[1];
        assert_eq!(*offset, (1 << 20) - 64 * 3);
        assert_eq!(entries[..], [[2; 64], [1; 64], [0; 64]].concat());
    }

    #[test]
    fn a_larger_block_between_two_ends_both_runs() {
        let mut gather = gather();
        add(&mut gather, 0, 1, b"one");
        add(&mut gather, 2, 9, b"two");
        let offsets: Vec<_> = runs(&gather).into_iter().map(|(offset, bytes)| (offset, bytes.len())).collect();
        assert_eq!(offsets, [(4096, 4096), (9 * 4096, 4096), ((1 << 20) - 64, 64), ((1 << 20) - 192, 64)]);
    }

    #[test]
    fn a_block_without_bytes_takes_an_entry_and_no_page() {
        let mut gather = gather();
        add(&mut gather, 0, 1, b"");
        assert_eq!(runs(&gather), [((1 << 20) - 64, vec![0; 64])]);
    }

    #[test]
    fn room_ends_where_payloads_and_entries_would_meet() {
        let mut gather = gather();
        for slot in 0..15 {
            assert!(gather.has_room(4096), "{slot}");
            add(&mut gather, slot, u64::from(slot) + 1, &[1; 4096]);
        }
        assert!(!gather.has_room(4096));
        assert!(gather.has_room(0));
    }

    #[test]
    fn a_buffer_that_is_still_lent_is_not_used_again() {
        let size = FileSize::new(SIZE).unwrap();
        let mut first = gather();
        let start = add(&mut first, 0, 1, b"lent");
        let lent = Arc::clone(first.buffer());
        let mut second = Gather::open(FileId::new(1).unwrap(), size, Some(first.into_buffer()));
        add(&mut second, 0, 1, b"other");
        assert_eq!(lent.bytes(start..start + 4), Some(&b"lent"[..]));
        drop(lent);
        let again = second.into_buffer();
        let address = Arc::as_ptr(&again);
        assert_eq!(Arc::as_ptr(Gather::open(FileId::new(1).unwrap(), size, Some(again)).buffer()), address);
    }

    #[test]
    fn reused_pages_carry_nothing_of_the_earlier_block() {
        let size = FileSize::new(SIZE).unwrap();
        let mut first = gather();
        add(&mut first, 0, 1, &[0xFF; 4096]);
        let mut second = Gather::open(FileId::new(1).unwrap(), size, Some(first.into_buffer()));
        add(&mut second, 0, 1, b"x");
        let (_, payload) = &runs(&second)[0];
        assert!(payload[1..].iter().all(|byte| *byte == 0));
    }
}
