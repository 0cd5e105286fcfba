//! The limit of a store that keeps its promises while a burst runs: each block is hashed, and what is whole is sent to the
//! device by a second thread, so that a sync at the end finds little to do. No index, and nothing is found by name.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use scratchspace::BlockHash;

use crate::peers::raw::{How, PWRITE, Raw};
use crate::store::{Failure, Measured, Peer, Plan, Reader, Store, Writer};

/// What is sent at once, and how many of these are under way: as the library has it.
const PIECE: u64 = 8 << 20;
const UNDER_WAY: usize = 2;

pub(crate) const PEER: Peer = Peer {
    name: "limit-kept",
    measured: Measured::Fills,
    settings: "as limit-pwrite, but each block is hashed (XXH3-128), and each 8 MiB that are whole are sent to the device by a \
               second thread, two of them under way: what a store costs that can tell a damaged block, and that is durable \
               soon after a burst",
    open: |plan| Ok(Box::new(Kept::open(plan)?)),
    ..PWRITE
};

struct Kept {
    raw: Raw,
    /// Bytes of each piece that were written since it was sent.
    filled: Vec<AtomicU64>,
    /// `None` once it is being dropped.
    whole: Option<Sender<u64>>,
    sending: Option<JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

impl Kept {
    fn open(plan: &Plan) -> Result<Self, Failure> {
        let raw = Raw::open(plan, How::Pwrite, false)?;
        let (whole, pieces) = channel();
        let file = Arc::clone(raw.file());
        let failed = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&failed);
        let thread = thread::Builder::new().name("write-back".to_owned());
        let sending = Some(thread.spawn(move || send(&file, &pieces, &tell))?);
        let filled = (0..raw.len().div_ceil(PIECE)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { raw, filled, whole: Some(whole), sending, failed })
    }

    /// A block was written: the pieces that are whole with it are sent.
    fn was_written(&self, number: u64) -> Result<(), Failure> {
        let range = self.raw.range(number);
        let (start, end) = (range.start as u64, range.end as u64);
        for piece in start / PIECE..end.div_ceil(PIECE) {
            let part = end.min((piece + 1) * PIECE) - start.max(piece * PIECE);
            let filled = &self.filled[usize::try_from(piece)?];
            // Relaxed: the kernel orders writes and what is sent; who comes second sends.
            if filled.fetch_add(part, Ordering::Relaxed) + part >= PIECE {
                filled.store(0, Ordering::Relaxed);
                self.whole.as_ref().ok_or("it is closed")?.send(piece)?;
            }
        }
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.whole = None;
        if let Some(sending) = self.sending.take() {
            let _ = sending.join();
        }
    }
}

/// Sends pieces until nobody writes any more. Whoever waits for a piece is told what failed, and no sync of the same opening is
/// told it again.
fn send(file: &File, pieces: &Receiver<u64>, failed: &AtomicBool) {
    let mut under_way = VecDeque::new();
    for piece in pieces {
        let oldest = if under_way.len() >= UNDER_WAY { under_way.pop_front() } else { None };
        let waited = oldest.map_or(Ok(()), |oldest| sync_file_range(file, oldest, libc::SYNC_FILE_RANGE_WAIT_BEFORE));
        if waited.and_then(|()| sync_file_range(file, piece, libc::SYNC_FILE_RANGE_WRITE)).is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        under_way.push_back(piece);
    }
}

fn sync_file_range(file: &File, piece: u64, how: libc::c_uint) -> io::Result<()> {
    let (start, len) = (libc::off64_t::try_from(piece * PIECE), libc::off64_t::try_from(PIECE));
    let (Ok(start), Ok(len)) = (start, len) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // SAFETY: no memory is handed over; the descriptor is open for as long as `file` is borrowed.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, how) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Store for Kept {
    fn writer(&self) -> Result<Box<dyn Writer + '_>, Failure> {
        Ok(Box::new(Handle { kept: self, raw: self.raw.writer()? }))
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>, Failure> {
        self.raw.reader()
    }

    fn sync(&self) -> Result<(), Failure> {
        self.raw.sync()?;
        if self.failed.load(Ordering::Relaxed) { Err("a piece could not be written back".into()) } else { Ok(()) }
    }
}

struct Handle<'a> {
    kept: &'a Kept,
    raw: Box<dyn Writer + 'a>,
}

impl Writer for Handle<'_> {
    fn put(&mut self, number: u64, block: &[u8]) -> Result<(), Failure> {
        std::hint::black_box(BlockHash::of(block));
        self.raw.put(number, block)?;
        self.kept.was_written(number)
    }

    fn remove(&mut self, number: u64) -> Result<(), Failure> {
        self.raw.remove(number)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        self.raw.publish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        crate::contract::check(PEER);
    }

    #[test]
    fn a_piece_is_sent_each_time_it_is_whole() {
        let folder = benchkit::folder();
        let plan = Plan {
            folder: folder.path().to_owned(),
            block_len: 4 << 20,
            blocks: 4,
            spare: 0,
            threads: 1,
            bounded: true,
            memory: 1 << 30,
        };
        let mut kept = Kept::open(&plan).unwrap();
        let (whole, sent) = channel();
        kept.whole = Some(whole);
        let block = vec![7; plan.block_len];
        let mut writer = kept.writer().unwrap();
        for number in 0..9 {
            writer.put(number, &block).unwrap();
        }
        drop(writer);
        assert_eq!(sent.try_iter().collect::<Vec<_>>(), [0, 1, 0, 1]);
    }
}
