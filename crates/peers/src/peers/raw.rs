//! The limits: one preallocated file without an index, written by `pwrite` or through a map, and read through a map.
//!
//! Where a block is follows from its number, and whether it is there from its first eight bytes.
//!
//! # Invariants
//!
//! 1. The workloads read blocks that were published, and overwrite or remove none while anybody reads.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use memmap2::{Advice, MmapRaw};
use rustix::fs::FallocateFlags;

use crate::store::{Failure, Kind, Measured, Peer, Plan, Reader, Store, Writer, always};

/// One call of `madvise` asks for no more than the device's read-ahead, 8 MiB on many.
const REQUEST: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Pwrite,
    Map,
}

pub(crate) const PWRITE: Peer = Peer {
    name: "limit-pwrite",
    kind: Kind::Limit,
    forgets: true,
    measured: Measured::All,
    maps: true,
    settings: "one preallocated file without an index, overwritten in place; one `pwrite` a block, not hashed; read through \
               a map, with the kernel's own read-ahead",
    probe: always,
    open: |plan| Ok(Box::new(Raw::open(plan, How::Pwrite, false)?)),
};

pub(crate) const EXACT: Peer = Peer {
    name: "limit-exact",
    measured: Measured::Reads,
    settings: "the same, read through a map after `MADV_WILLNEED` for the exact range of the block, 4 MiB at a time",
    open: |plan| Ok(Box::new(Raw::open(plan, How::Pwrite, true)?)),
    ..PWRITE
};

pub(crate) const MAP: Peer = Peer {
    name: "limit-map",
    settings: "the same file, stored to and read through a map",
    open: |plan| Ok(Box::new(Raw::open(plan, How::Map, false)?)),
    ..PWRITE
};

pub(super) struct Raw {
    file: Arc<File>,
    map: MmapRaw,
    block_len: usize,
    slots: u64,
    how: How,
    exact: bool,
}

impl Raw {
    pub(super) fn open(plan: &Plan, how: How, exact: bool) -> Result<Self, Failure> {
        let path = plan.folder.join("raw");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let slots = plan.blocks + if plan.bounded { 0 } else { plan.spare };
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, slots * plan.block_len as u64)?;
        let map = MmapRaw::map_raw(&file)?;
        Ok(Self { file: Arc::new(file), map, block_len: plan.block_len, slots, how, exact })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub(super) fn range(&self, number: u64) -> Range<usize> {
        let slot = usize::try_from(number % self.slots).expect("a 64-bit target");
        slot * self.block_len..(slot + 1) * self.block_len
    }

    fn block(&self, number: u64) -> Option<&[u8]> {
        let range = self.range(number);
        assert!(range.end <= self.map.len(), "{range:?} of {}", self.map.len());
        // SAFETY: in bounds by the assert, and `map` lives as long as the slice; nobody writes there by invariant 1.
        let block = unsafe { std::slice::from_raw_parts(self.map.as_ptr().wrapping_add(range.start), range.len()) };
        (block[..8] == number.to_le_bytes()).then_some(block)
    }

    fn store(&self, bytes: &[u8], at: usize) -> Result<(), Failure> {
        match self.how {
            How::Pwrite => self.file.write_all_at(bytes, at as u64)?,
            How::Map => {
                assert!(at + bytes.len() <= self.map.len(), "{at} of {}", self.map.len());
                let to = self.map.as_mut_ptr().wrapping_add(at);
                // SAFETY: in bounds by the assert, and `bytes` is not of the map, which is never lent to a writer; nobody
                // reads there by invariant 1, and two writers never have the same number.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
            }
        }
        Ok(())
    }
}

impl Store for Raw {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle(self)))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Handle(self)))
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.file.sync_data()?)
    }
}

struct Handle<'a>(&'a Raw);

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        self.0.store(block, self.0.range(number).start)
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        self.0.store(&[0; 8], self.0.range(number).start)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        if self.0.exact {
            let range = self.0.range(number);
            for at in range.clone().step_by(REQUEST) {
                self.0.map.advise_range(Advice::WillNeed, at, REQUEST.min(range.end - at))?;
            }
        }
        Ok(self.0.block(number).map(visit).is_some())
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        let mut stamp = [0; 8];
        self.0.file.read_exact_at(&mut stamp, self.0.range(number).start as u64)?;
        Ok(stamp == number.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        for peer in [super::PWRITE, super::EXACT, super::MAP] {
            crate::contract::check(peer);
        }
    }
}
