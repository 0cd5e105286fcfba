//! The library itself.
#![forbid(unsafe_code)]

use std::time::Duration;

use scratchspace::{BlockHash, DiskFileSource, ReadError, Realm, Scratch};

use crate::store::{Failure, Kind, Measured, Peer, Plan, Reader, Store, Writer, always};

const REALM: Realm = Realm::DEFAULT;
/// Longest wait for what a background thread does.
const PATIENCE: Duration = Duration::from_mins(2);
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
/// What a file has besides payload: its header, and the entry of each block, in whole pages.
const HEADER: u64 = 8 * KIB;
const ENTRY: u64 = 64;
/// Files of a set, and the fewest blocks of a file.
const FILES: u64 = 16;
const LEAST_BLOCKS: u64 = 4;

pub(crate) const PEER: Peer = Peer {
    name: "scratchspace",
    kind: Kind::Own,
    forgets: true,
    measured: Measured::All,
    maps: true,
    settings: "`put_named` of one block at a time under the hash of its number, `read`; files of a \
               sixteenth of the set, which is what `with_capacity` derives (at least 4 blocks, at most 1 GiB), \
               `expected_blocks` the blocks of the set and half as many more, a lane for each writing thread; everything else is the default: blocks are hashed, and verified at their first read after a \
               restart",
    probe: always,
    open: |plan| {
        let source = source(plan)?;
        let builder = Scratch::builder(source).wait_timeout(PATIENCE).lanes_per_folder(u16::try_from(plan.threads)?);
        let scratch = builder.expected_blocks((plan.blocks + plan.spare) * 6 / 5).open()?;
        Ok(Box::new(Own { scratch }))
    },
};

/// Files with room for the set and what comes on top; of the size of the set, and no more, if it is bounded.
fn source(plan: &Plan) -> Result<DiskFileSource, Failure> {
    let block = (plan.block_len as u64).next_multiple_of(4 * KIB);
    let blocks_a_file = ((plan.set() / FILES).min(GIB) / block).max(LEAST_BLOCKS);
    let file_size = blocks_a_file * block + (blocks_a_file * ENTRY).next_multiple_of(4 * KIB) + HEADER;
    let files = if plan.bounded {
        (plan.set() + file_size / 2) / file_size
    } else {
        // Hashes do not share keys out to lanes quite evenly.
        ((plan.blocks + plan.spare) * 11 / 10).div_ceil(blocks_a_file) + 2 * plan.threads
    };
    let files = files.max(3 * plan.threads).next_multiple_of(plan.threads);
    let source = DiskFileSource::builder().folder(plan.folder.join("store")).file_size(file_size);
    Ok(source.files_per_folder(u16::try_from(files)?).build()?)
}

struct Own {
    scratch: Scratch,
}

fn key(number: u64) -> BlockHash {
    BlockHash::of(&number.to_le_bytes())
}

impl Store for Own {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle(&self.scratch)))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Handle(&self.scratch)))
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.scratch.flush()?)
    }

    fn settle(&self) -> Result<(), Failure> {
        Ok(self.scratch.wait_recovered(PATIENCE).map(drop)?)
    }
}

struct Handle<'a>(&'a Scratch);

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        Ok(self.0.put_named(REALM, key(number), block)?)
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        Ok(self.0.remove(REALM, key(number)).map(drop)?)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        // Readable since `put` has returned.
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        match self.0.read(REALM, key(number), visit) {
            Ok(()) => Ok(true),
            Err(ReadError::Missing { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        Ok(self.0.contains(REALM, key(number))?)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
