//! cacache: content-addressed files and an index of append-only files, after npm's cache.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};

use cacache::{Algorithm, Error, RemoveOpts, WriteOpts};

use crate::peers::sync_file_system;
use crate::store::{Failure, Kind, Measured, Peer, Reader, Store, Writer, always};

pub(crate) const PEER: Peer = Peer {
    name: "cacache",
    kind: Kind::Peer,
    forgets: false,
    measured: Measured::All,
    maps: false,
    settings: "the synchronous interface, XXH3 in place of SHA-256 (which its documentation recommends where content is \
               trusted), the size announced so that up to 1 MiB is stored through a map; `read_sync` copies and verifies; \
               `syncfs` at the end. The oldest entry is removed with its content (`remove_fully`) before another is \
               written once the set is full",
    probe: always,
    open: |plan| Ok(Box::new(Cache { folder: plan.folder.clone() })),
};

struct Cache {
    folder: PathBuf,
}

impl Store for Cache {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle(&self.folder)))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Handle(&self.folder)))
    }

    fn sync(&self) -> Result<(), Failure> {
        sync_file_system(&self.folder)
    }
}

struct Handle<'a>(&'a Path);

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        let options = WriteOpts::new().algorithm(Algorithm::Xxh3).size(block.len());
        let mut writer = options.open_sync(self.0, number.to_string())?;
        writer.write_all(block)?;
        writer.commit()?;
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        Ok(RemoveOpts::new().remove_fully(true).remove_sync(self.0, number.to_string())?)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        match cacache::read_sync(self.0, number.to_string()) {
            Ok(block) => visit(&block),
            Err(Error::EntryNotFound(..)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        Ok(cacache::metadata_sync(self.0, number.to_string())?.is_some())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
