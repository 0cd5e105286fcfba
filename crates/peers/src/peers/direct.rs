//! The device: the file of the limits, written and read with `O_DIRECT`, past the page cache.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, OFlags};

use crate::store::{Failure, Kind, Measured, Peer, Plan, Reader, Store, Writer};

const PAGE: usize = 4096;

pub(crate) const PEER: Peer = Peer {
    name: "device",
    kind: Kind::Device,
    forgets: true,
    measured: Measured::Disk,
    maps: false,
    settings: "one preallocated file without an index, overwritten in place; one call with `O_DIRECT` a block and thread, \
               one at a time",
    probe,
    open: |plan| Ok(Box::new(Direct::open(plan)?)),
};

fn probe() -> Result<(), String> {
    let folder = benchkit::folder();
    direct(&folder.path().join("direct"))
        .map(drop)
        .map_err(|error| format!("the file system refuses O_DIRECT: {error}"))
}

fn direct(path: &Path) -> std::io::Result<File> {
    #[expect(clippy::cast_possible_wrap, reason = "a flag of open(2), which are C integers")]
    let flags = OFlags::DIRECT.bits() as i32;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)
}

struct Direct {
    file: File,
    block_len: usize,
    slots: u64,
}

impl Direct {
    fn open(plan: &Plan) -> Result<Self, Failure> {
        let file = direct(&plan.folder.join("direct"))?;
        let slots = plan.blocks + if plan.bounded { 0 } else { plan.spare };
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, slots * plan.block_len as u64)?;
        Ok(Self { file, block_len: plan.block_len, slots })
    }

    fn handle(&self) -> Result<Handle<'_>, Failure> {
        Ok(Handle { store: self, buffer: MmapMut::map_anon(self.block_len)? })
    }

    fn at(&self, number: u64) -> u64 {
        number % self.slots * self.block_len as u64
    }
}

impl Store for Direct {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(self.handle()?))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(self.handle()?))
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.file.sync_data()?)
    }
}

/// With a block of memory at a page of its own, which `O_DIRECT` asks for.
struct Handle<'a> {
    store: &'a Direct,
    buffer: MmapMut,
}

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        let at = self.store.at(number);
        if block.as_ptr().addr().is_multiple_of(PAGE) {
            return Ok(self.store.file.write_all_at(block, at)?);
        }
        self.buffer.copy_from_slice(block);
        Ok(self.store.file.write_all_at(&self.buffer, at)?)
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        self.buffer[..PAGE].fill(0);
        Ok(self.store.file.write_all_at(&self.buffer[..PAGE], self.store.at(number))?)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        self.store.file.read_exact_at(&mut self.buffer, self.store.at(number))?;
        let found = self.buffer[..8] == number.to_le_bytes();
        if found {
            visit(&self.buffer);
        }
        Ok(found)
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        self.store.file.read_exact_at(&mut self.buffer[..PAGE], self.store.at(number))?;
        Ok(self.buffer[..8] == number.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
