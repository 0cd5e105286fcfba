//! What the fuzz targets call below the public interface: built with `--cfg fuzzing` only, and promised to nobody.
#![forbid(unsafe_code)]

use crate::block::{Entry, FileHeader, FileSize, Slot};

/// The fields of a header.
#[derive(Debug)]
pub struct Header {
    pub size: u64,
    pub store: u128,
    pub file: u16,
    pub lane: u16,
    pub lanes: u16,
    pub generation: u64,
    pub nonce: u64,
    pub created_at: u32,
}

/// What the library reads out of the start of a file.
#[must_use]
pub fn header(bytes: &[u8]) -> Option<Header> {
    let header = FileHeader::decode(bytes).ok()?;
    Some(Header {
        size: header.file_size.get(),
        store: header.store.to_u128(),
        file: header.file.get(),
        lane: header.lane,
        lanes: header.lanes,
        generation: header.generation,
        nonce: header.nonce,
        created_at: header.created_at,
    })
}

/// Key, realm, kind, length, page and hash of the entry that these bytes are, if it is believed.
#[must_use]
pub fn entry(bytes: &[u8; 64], nonce: u64, slot: u32, size: u64) -> Option<(u128, u32, u8, u32, u32, u128)> {
    let (slot, size) = (Slot::new(slot)?, FileSize::new(size)?);
    let entry = Entry::decode(bytes, nonce, slot).ok()?;
    entry.payload(size, slot)?;
    Some((entry.key.to_u128(), entry.realm.get(), entry.kind as u8, entry.len, entry.page, entry.hash.to_u128()))
}
