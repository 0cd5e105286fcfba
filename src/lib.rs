//! A bounded store of binary blocks on local disks, read zero-copy from a memory mapping.

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!(
    "scratchspace supports little-endian 64-bit targets only: typed values are stored as they lie in memory"
);

mod blittable;
mod block;
mod error;
mod index;
mod os;
mod storage;
mod sync;

/// Derives and traits for what a [`BlittableWriter`] may write and a [`BlittableReader`] may read.
pub use bytemuck;

pub use crate::blittable::{BlittableIo, BlittableReader, BlittableWriter, Delayed};
pub use crate::block::{
    BlockAddress, BlockHash, BlockHasher, BlockKind, FileId, FileSize, HashKind, MAX_BLOCK, PAGE_SIZE, ParseHashError,
    Realm, RealmError, Slot, StoreId, pages_of,
};
pub use crate::error::{
    BlittableError, BlittableErrorKind, CommitError, ConfigError, FailedClosure, FlushError, IoError, Layout,
    MissingOk, OpenError, ReadError, ReadWithError, WriteError,
};
pub use crate::storage::{
    DiskFileSource, DiskFileSourceBuilder, FileMemory, FileSource, Found, MemoryFileSource, MemoryFileSourceBuilder,
};
