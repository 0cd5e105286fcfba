//! One file a block: what everybody writes first.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::peers::sync_file_system;
use crate::store::{Failure, Kind, Measured, Peer, Reader, Store, Writer, always};

/// Folders that the files are shared out to.
const FOLDERS: u64 = 256;

pub(crate) const PEER: Peer = Peer {
    name: "files",
    kind: Kind::Peer,
    forgets: false,
    measured: Measured::All,
    maps: false,
    settings: "one file a block in 256 folders, created, written and closed; read by `read` into a buffer that is kept; \
               `syncfs` at the end. The oldest file is removed before another is written once the set is full",
    probe: always,
    open: |plan| {
        for folder in 0..FOLDERS {
            fs::create_dir_all(plan.folder.join(format!("{folder:02x}")))?;
        }
        Ok(Box::new(Files { folder: plan.folder.clone() }))
    },
};

struct Files {
    folder: PathBuf,
}

impl Store for Files {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle { folder: &self.folder, buffer: Vec::new() }))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        Ok(Box::new(Handle { folder: &self.folder, buffer: Vec::new() }))
    }

    fn sync(&self) -> Result<(), Failure> {
        sync_file_system(&self.folder)
    }
}

struct Handle<'a> {
    folder: &'a Path,
    buffer: Vec<u8>,
}

impl Handle<'_> {
    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{:02x}/{number}", number % FOLDERS))
    }
}

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        Ok(fs::write(self.path(number), block)?)
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        Ok(fs::remove_file(self.path(number))?)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn read(&mut self, number: u64, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        let mut file = match File::open(self.path(number)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        self.buffer.clear();
        file.read_to_end(&mut self.buffer)?;
        visit(&self.buffer);
        Ok(true)
    }

    fn contains(&mut self, number: u64) -> Result<bool, Failure> {
        Ok(self.path(number).try_exists()?)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        crate::contract::check(super::PEER);
    }
}
