//! fjall: an LSM tree with values kept apart in blob files.
#![forbid(unsafe_code)]

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};

use crate::store::{Failure, Kind, Measured, Peer, Reader, Store, Writer, always};

pub(crate) const PEER: Peer = Peer {
    name: "fjall",
    kind: Kind::Peer,
    forgets: false,
    measured: Measured::All,
    maps: false,
    settings: "key-value separation with its defaults (values from 1 KiB on, blob files of 64 MiB), no compression, \
               big-endian keys, a cache of a quarter of the set (20 to 25 % of the memory are recommended); the journal \
               is persisted once, at the end (`manual_journal_persist`). The oldest block is removed before another is written once \
               the set is full",
    probe: always,
    open: |plan| {
        let builder = Database::builder(&plan.folder).cache_size(plan.cache() as u64);
        let database = builder.manual_journal_persist(true).open()?;
        let options = || {
            let separated = KeyspaceCreateOptions::default().with_kv_separation(Some(KvSeparationOptions::default()));
            separated.manual_journal_persist(true)
        };
        let blocks = database.keyspace("blocks", options)?;
        Ok(Box::new(Fjall { database, blocks }))
    },
};

struct Fjall {
    database: Database,
    blocks: Keyspace,
}

impl Store for Fjall {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle(&self.blocks)))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Handle(&self.blocks)))
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

struct Handle<'a>(&'a Keyspace);

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        Ok(self.0.insert(number.to_be_bytes(), block)?)
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        Ok(self.0.remove(number.to_be_bytes())?)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.0.get(number.to_be_bytes())?.map(|block| visit(&block)).is_some())
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        Ok(self.0.contains_key(number.to_be_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
