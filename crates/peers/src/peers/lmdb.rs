//! LMDB through heed: a copy-on-write B-tree in a mapping, which readers are lent.

use std::sync::atomic::{AtomicU64, Ordering};

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};

use crate::store::{BATCH, Failure, Filled, Kind, Measured, Peer, Plan, Reader, Store, Writer, always};

pub(crate) const PEER: Peer = Peer {
    name: "lmdb",
    kind: Kind::Peer,
    forgets: false,
    measured: Measured::All,
    maps: true,
    settings: "`MDB_WRITEMAP` and `MDB_NOSYNC`, transactions of 16 MiB and `mdb_env_sync` at the end; `MDB_NORDAHEAD` where \
               the set is larger than the memory, as its documentation says; big-endian keys; a reader keeps its transaction until \
               something is committed. The oldest block is removed in the same transaction before another is put once the set is full",
    probe: always,
    open: |plan| Ok(Box::new(Lmdb::open(plan)?)),
};

type Blocks = Database<'static, U64<BigEndian>, Bytes>;

struct Lmdb {
    env: Env<WithoutTls>,
    blocks: Blocks,
    /// How often something was committed: a reader that knows it keeps its transaction.
    commits: AtomicU64,
}

impl Lmdb {
    fn open(plan: &Plan) -> Result<Self, Failure> {
        // A reader that keeps its transaction may be on the thread of another one.
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        // Addresses, not space: removed blocks come back in pieces, and those of a reader's snapshot not at all.
        let size = usize::try_from(4 * plan.room() + (1 << 30))?;
        options.map_size(size.next_multiple_of(1 << 20));
        let mut flags = EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC;
        if plan.set() > plan.memory {
            flags |= EnvFlags::NO_READ_AHEAD;
        }
        // SAFETY: of these flags only NO_SYNC gives anything up, and that for a crash of the system: the files are thrown
        // away after the run.
        unsafe { options.flags(flags) };
        // SAFETY: the folder belongs to this run alone: no other process changes the files, and this one opens them once.
        let env = unsafe { options.open(&plan.folder) }?;
        let created = env.create_databases_and_commit(env.write_txn()?, |opener, transaction| {
            opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
        });
        let blocks = created?.commit().ok_or("the database was not created")?;
        Ok(Self { env, blocks, commits: AtomicU64::new(0) })
    }
}

impl Store for Lmdb {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Put { store: self, transaction: None, batch: Filled::default() }))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Get { store: self, transaction: None }))
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.env.force_sync()?)
    }
}

struct Put<'a> {
    store: &'a Lmdb,
    transaction: Option<RwTxn<'a>>,
    batch: Filled,
}

impl<'a> Put<'a> {
    fn transaction(&mut self) -> Result<&mut RwTxn<'a>, Failure> {
        if self.transaction.is_none() {
            self.transaction = Some(self.store.env.write_txn()?);
        }
        Ok(self.transaction.as_mut().expect("set above"))
    }
}

impl Writer for Put<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        let blocks = self.store.blocks;
        blocks.put(self.transaction()?, &number, block)?;
        if self.batch.by(block.len(), BATCH) { self.publish() } else { Ok(()) }
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        let blocks = self.store.blocks;
        blocks.delete(self.transaction()?, &number)?;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), Failure> {
        self.transaction.take().map_or(Ok(()), RwTxn::commit)?;
        // Release pairs with the Acquire in `Get::read`: whoever sees the count finds what was committed.
        self.store.commits.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

struct Get<'a> {
    store: &'a Lmdb,
    /// With the commits that it knows of.
    transaction: Option<(u64, RoTxn<'a, WithoutTls>)>,
}

impl Reader for Get<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        // Acquire pairs with the Release in `Put::publish`.
        let commits = self.store.commits.load(Ordering::Acquire);
        let transaction = match self.transaction.take() {
            Some((known, transaction)) if known == commits => transaction,
            old => {
                drop(old);
                self.store.env.read_txn()?
            }
        };
        let found = self.store.blocks.get(&transaction, &number)?.map(visit).is_some();
        self.transaction = Some((commits, transaction));
        Ok(found)
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        self.read(number, &mut |_| ())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
