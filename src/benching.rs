//! What benches measure below the public interface: built with `--cfg benching` only, and promised to nobody.
#![forbid(unsafe_code)]

use std::io;

use crate::block::{BlockAddress, BlockHash, FileId, KeyHash, Realm, Slot};
use crate::index::{BlockIndex, Published, Room, View};

/// Slots of a file: one for each block of these benches, file after file.
const SLOTS: u64 = 1 << 20;

/// The index of a store, without a store: the number of a block is its key and tells its address.
#[derive(Debug)]
pub struct Index(BlockIndex);

/// Knows of each address whose it is, and its age, without looking anywhere.
struct Numbers(BlockAddress);

impl View for Numbers {
    fn is_same_key(&self, address: BlockAddress) -> bool {
        address == self.0
    }

    fn version(&self, address: BlockAddress) -> (u64, u32) {
        (u64::from(address.file().get()), address.slot().get())
    }
}

fn address(number: u64) -> BlockAddress {
    let file = u16::try_from(number / SLOTS + 1).ok().and_then(FileId::new);
    let slot = u32::try_from(number % SLOTS).ok().and_then(Slot::new);
    BlockAddress::new(file.expect("fewer blocks than a store may have"), slot.expect("below a file's"))
}

fn key(number: u64) -> KeyHash {
    KeyHash::of(0x5EED, Realm::DEFAULT, BlockHash::from_u128(number.into()))
}

impl Index {
    /// Room for so many blocks.
    ///
    /// # Errors
    ///
    /// If the address space cannot be had.
    pub fn new(expected_blocks: u64) -> io::Result<Self> {
        BlockIndex::new(expected_blocks, u64::MAX, Room::Fixed).map(Self)
    }

    /// Whether the block was inserted, which it is not if it is there already.
    #[must_use]
    pub fn insert(&self, number: u64) -> bool {
        let address = address(number);
        self.0.publish_if_newer(key(number), address, &Numbers(address)) == Published::Inserted
    }

    /// The number of the block that the index has for this key; that of another one where two tags are equal.
    #[must_use]
    pub fn find(&self, number: u64) -> Option<u64> {
        let address = self.0.candidates(key(number)).next()?;
        Some((u64::from(address.file().get()) - 1) * SLOTS + u64::from(address.slot().get()))
    }

    /// Asks the processor for what the next call for this key will read.
    pub fn prefetch(&self, number: u64) {
        self.0.prefetch(key(number));
    }

    /// Bytes of address space.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes()
    }
}
