//! foyer: a hybrid cache, here its disk half, the block engine.
//!
//! Its queue drops what it has no room for. The row to be compared with waits for the disk before that can happen; the
//! other one takes the defaults, and shows what they drop.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig, RecoverMode,
};
use tokio::runtime::{Builder, Runtime};

use crate::peers::sync_file_system;
use crate::store::{Failure, Filled, Kind, Measured, Peer, Plan, Reader, Store, Writer, always};

const MIB: usize = 1 << 20;
const PAGE: usize = 4 << 10;
/// Most bytes of an entry besides its value: header, key, length.
const ENTRY: usize = 64;
/// As in the full example of its documentation.
const FLUSHERS: usize = 2;
const BUFFERS: usize = 256 * MIB;

pub(crate) const WAITING: Peer = Peer {
    name: "foyer",
    kind: Kind::Peer,
    forgets: true,
    measured: Measured::All,
    maps: false,
    settings: "`HybridCache`, written on insertion, a memory half of a quarter of the set; block engine over a folder with \
               2 flushers, 2 reclaimers and 256 MiB of buffers (of its full example; at most an eighth of the memory), \
               blocks of 16 MiB (of 64 MiB for values of 16 MiB) and 256 KiB, the psync engine; values are \
               vectors, copied from the block that is put. Each writer waits for the disk before \
               the buffers can overflow, so that nothing is dropped",
    probe: always,
    open: |plan| Ok(Box::new(Foyer::open(plan, true)?)),
};

pub(crate) const DROPPING: Peer = Peer {
    name: "foyer-queue",
    // How fast it reads is what the row before tells.
    measured: Measured::Fills,
    settings: "the same with its default queue and buffers (16 MiB and one flusher; larger ones only where a value would \
               not fit) and without waiting before the end: it drops what it has no room for, and the cells say how much",
    open: |plan| Ok(Box::new(Foyer::open(plan, false)?)),
    ..WAITING
};

struct Foyer {
    folder: PathBuf,
    runtime: Runtime,
    cache: HybridCache<u64, Vec<u8>>,
    /// Bytes on disk after which a writer waits.
    wait_after: Option<usize>,
}

impl Foyer {
    fn open(plan: &Plan, waits: bool) -> Result<Self, Failure> {
        let entry = on_disk(plan.block_len);
        // With room for what a few long values have besides, so that no block stays a quarter empty.
        let block_size = (16 * MIB).max(4 * entry) + MIB / 4;
        let (flushers, buffers) = if waits {
            // Each of them has two, one to fill and one to write.
            (FLUSHERS, BUFFERS.min(usize::try_from(plan.memory / 8)?).max(FLUSHERS * 2 * entry))
        } else {
            (1, (16 * MIB).max(2 * entry))
        };
        let blocks = if plan.bounded {
            plan.set().div_ceil(block_size as u64)
        } else {
            // A page of index for each part of a block that is written at once, and blocks that stay clean.
            let entries_a_block = ((block_size - block_size / 64 - PAGE) / entry) as u64;
            let entries = (plan.blocks + plan.spare) * 5 / 4;
            entries.div_ceil(entries_a_block) + 8
        };
        let capacity = usize::try_from(blocks.max(8))? * block_size;
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let cache = runtime.block_on(async {
            let device = FsDeviceBuilder::new(plan.folder.join("foyer")).with_capacity(capacity).build()?;
            let mut engine = BlockEngineConfig::new(device)
                .with_block_size(block_size)
                .with_flushers(flushers)
                .with_buffer_pool_size(buffers)
                .with_submit_queue_size_threshold(buffers);
            if waits {
                engine = engine
                    .with_reclaimers(2)
                    .with_clean_block_threshold(2)
                    .with_submit_queue_size_threshold(4 * BUFFERS);
            }
            HybridCacheBuilder::new()
                .with_policy(HybridCachePolicy::WriteOnInsertion)
                .memory(plan.cache())
                .with_weighter(|_, value: &Vec<u8>| value.len())
                .storage()
                .with_io_engine_config(PsyncIoEngineConfig::new())
                .with_engine_config(engine)
                .with_recover_mode(RecoverMode::Quiet)
                .build()
                .await
        })?;
        let wait_after = waits.then(|| buffers / flushers / usize::try_from(plan.threads).expect("few"));
        Ok(Self { folder: plan.folder.clone(), runtime, cache, wait_after })
    }

    fn wait(&self) {
        self.runtime.block_on(self.cache.storage().wait());
    }
}

/// Bytes that a value takes.
fn on_disk(len: usize) -> usize {
    (len + ENTRY).next_multiple_of(PAGE)
}

impl Store for Foyer {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle { store: self, waiting: Filled::default() }))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Handle { store: self, waiting: Filled::default() }))
    }

    fn sync(&self) -> Result<(), Failure> {
        self.wait();
        // It never syncs.
        sync_file_system(&self.folder)
    }
}

impl Drop for Foyer {
    fn drop(&mut self) {
        // Whatever fails here, the next opening finds fewer blocks, which is counted.
        let _ = self.runtime.block_on(self.cache.close());
    }
}

struct Handle<'a> {
    store: &'a Foyer,
    waiting: Filled,
}

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        let bytes = on_disk(block.len());
        self.store.cache.insert(number, block.to_vec());
        // The next one must fit as well.
        if self.store.wait_after.is_some_and(|limit| self.waiting.by(bytes, limit.saturating_sub(bytes))) {
            self.store.wait();
        }
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        self.store.cache.remove(&number);
        Ok(())
    }

    fn publish(&mut self) -> Result<(), Failure> {
        self.store.wait();
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        let entry = self.store.runtime.block_on(async { self.store.cache.get(&number).await })?;
        Ok(entry.map(|entry| visit(entry.value())).is_some())
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        Ok(self.store.cache.contains(&number))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        for peer in [super::WAITING, super::DROPPING] {
            crate::contract::check(peer);
        }
    }
}
