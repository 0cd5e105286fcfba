//! `RocksDB` with blob files, by the C interface of the system's library, where there is one.

mod library;

use std::path::PathBuf;

use crate::peers::sync_file_system;
use crate::store::{Failure, Kind, Measured, Peer, Plan, Reader, Store, Writer};
use library::{Library, Open, Options};

const MIB: usize = 1 << 20;

pub(crate) const PEER: Peer = Peer {
    name: "rocksdb",
    kind: Kind::Peer,
    forgets: false,
    measured: Measured::All,
    maps: false,
    settings: "the system's library (Debian: `librocksdb7.8` or newer); blob files of 256 MiB for values from 1 KiB on with \
               garbage collection (age cutoff 0.25, forced from half garbage on), no compression, write buffers of 64 MiB, \
               four of them, as many background jobs as cores, a block cache of a quarter of the set that holds blobs \
               too; no write-ahead log, the memtable is flushed and the file system synced at the end. The oldest block \
               is removed before another is written once the set is full",
    probe: || Library::load().map(drop),
    open: |plan| Ok(Box::new(Rocks::open(plan)?)),
};

struct Rocks {
    open: Open,
    folder: PathBuf,
}

impl Rocks {
    fn open(plan: &Plan) -> Result<Self, Failure> {
        let write_buffer = (64 * MIB).min(usize::try_from(plan.memory / 16)?);
        let options = Options {
            blob_file: (256 * MIB) as u64,
            least_blob: 1 << 10,
            age_cutoff: 0.25,
            forced_from: 0.5,
            write_buffer,
            write_buffers: 4,
            jobs: i32::try_from(std::thread::available_parallelism()?.get())?,
            cache: plan.cache(),
        };
        let open = Library::load()?.open(&plan.folder.join("rocksdb"), &options)?;
        Ok(Self { open, folder: plan.folder.clone() })
    }
}

impl Store for Rocks {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle(&self.open)))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Handle(&self.open)))
    }

    fn sync(&self) -> Result<(), Failure> {
        self.open.flush()?;
        sync_file_system(&self.folder)
    }
}

struct Handle<'a>(&'a Open);

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        Ok(self.0.put(&number.to_be_bytes(), block)?)
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        Ok(self.0.delete(&number.to_be_bytes())?)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.0.get(&number.to_be_bytes(), visit)?)
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        // It has no question that does not bring the value.
        Ok(self.0.get(&number.to_be_bytes(), &mut |_| ())?)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
