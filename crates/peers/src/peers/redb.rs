//! redb: a copy-on-write B-tree in one file, without a mapping.
//!
//! A commit without durability publishes and syncs nothing, as its documentation recommends for bulk loads; a page that a
//! durable commit has left in use is free again only after the next durable one, so a store that must stay bounded makes
//! one now and then.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError, WriteTransaction};

use crate::store::{BATCH, Failure, Filled, Kind, Measured, Peer, Reader, Store, Writer, always};

const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");

pub(crate) const PEER: Peer = Peer {
    name: "redb",
    kind: Kind::Peer,
    forgets: false,
    measured: Measured::All,
    maps: false,
    settings: "transactions of 16 MiB, `Durability::None` and one durable commit at the end; a cache of a quarter of the \
               set; a reader keeps its transaction until something is committed. Once the set is full the oldest block is removed before another is \
               put, and each eighth of the set is committed durably, without which no page is used again",
    probe: always,
    open: |plan| {
        let database = Database::builder().set_cache_size(plan.cache()).create(plan.folder.join("redb"))?;
        let durable_after = plan.bounded.then(|| usize::try_from(plan.set() / 8)).transpose()?;
        Ok(Box::new(Redb { database, durable_after, commits: AtomicU64::new(0) }))
    },
};

struct Redb {
    database: Database,
    durable_after: Option<usize>,
    /// How often something was committed: a reader that knows it keeps its transaction.
    commits: AtomicU64,
}

impl Store for Redb {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Put { store: self, transaction: None, batch: Filled::default(), durable: Filled::default() }))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Get { store: self, table: None }))
    }

    fn sync(&self) -> Result<(), Failure> {
        // An empty one makes all before it durable.
        Ok(self.database.begin_write()?.commit()?)
    }
}

struct Put<'a> {
    store: &'a Redb,
    transaction: Option<WriteTransaction>,
    batch: Filled,
    durable: Filled,
}

impl Put<'_> {
    fn transaction(&mut self) -> Result<&mut WriteTransaction, Failure> {
        if self.transaction.is_none() {
            let mut transaction = self.store.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            self.transaction = Some(transaction);
        }
        Ok(self.transaction.as_mut().expect("set above"))
    }
}

impl Writer for Put<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        self.transaction()?.open_table(BLOCKS)?.insert(number, block)?;
        if self.store.durable_after.is_some_and(|limit| self.durable.by(block.len(), limit)) {
            self.transaction()?.set_durability(Durability::Immediate)?;
            return self.publish();
        }
        if self.batch.by(block.len(), BATCH) { self.publish() } else { Ok(()) }
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        self.transaction()?.open_table(BLOCKS)?.remove(number)?;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), Failure> {
        self.transaction.take().map_or(Ok(()), WriteTransaction::commit)?;
        // Release pairs with the Acquire in `Get::get`: whoever sees the count finds what was committed.
        self.store.commits.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

struct Get<'a> {
    store: &'a Redb,
    /// With the commits that it knows of. It keeps its transaction.
    table: Option<(u64, ReadOnlyTable<u64, &'static [u8]>)>,
}

impl Get<'_> {
    fn get(&mut self, number: u64, visit: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        // Acquire pairs with the Release in `Put::publish`.
        let commits = self.store.commits.load(Ordering::Acquire);
        if self.table.as_ref().is_none_or(|(known, _)| *known != commits) {
            self.table = None;
            match self.store.database.begin_read()?.open_table(BLOCKS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(false),
                table => self.table = Some((commits, table?)),
            }
        }
        let (_, table) = self.table.as_ref().expect("set above");
        Ok(table.get(number)?.map(|block| visit(block.value())).is_some())
    }
}

impl Reader for Get<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        self.get(number, visit)
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        self.get(number, |_| ())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
