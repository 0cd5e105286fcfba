//! redb: a copy-on-write B-tree in one file, without a mapping.
//!
//! A commit without durability publishes and syncs nothing, as its documentation recommends for bulk loads; a page that a
//! durable commit has left in use is free again only after the next durable one, so a store that must stay bounded makes
//! one now and then.
#![forbid(unsafe_code)]

use redb::{Database, Durability, ReadableDatabase, TableDefinition, TableError, WriteTransaction};

use crate::store::{BATCH, Failure, Filled, Kind, Measured, Peer, Reader, Store, Writer, always};

const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");

pub(crate) const PEER: Peer = Peer {
    name: "redb",
    kind: Kind::Peer,
    forgets: false,
    measured: Measured::All,
    settings: "transactions of 16 MiB, `Durability::None` and one durable commit at the end; a cache of a quarter of the \
               set; a read transaction for each read. Once the set is full the oldest block is removed before another is \
               put, and each eighth of the set is committed durably, without which no page is used again",
    probe: always,
    open: |plan| {
        let database = Database::builder().set_cache_size(plan.cache()).create(plan.folder.join("redb"))?;
        let durable_after = plan.bounded.then(|| usize::try_from(plan.set() / 8)).transpose()?;
        Ok(Box::new(Redb { database, durable_after }))
    },
};

struct Redb {
    database: Database,
    durable_after: Option<usize>,
}

impl Store for Redb {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Put { store: self, transaction: None, batch: Filled::default(), durable: Filled::default() }))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Get(&self.database)))
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
        Ok(self.transaction.take().map_or(Ok(()), WriteTransaction::commit)?)
    }
}

struct Get<'a>(&'a Database);

impl Get<'_> {
    fn get(&self, number: u64, visit: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        let table = match self.0.begin_read()?.open_table(BLOCKS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(false),
            table => table?,
        };
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
