//! Sending what is stored to the device in time, piece by piece, so that the sync of a full file finds little to do and
//! dirty pages do not pile up until the system stalls whoever writes next.
//!
//! `pieces` says which part is whole.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;

use crate::block::FileId;
use crate::wheel::FileWheel;
use crate::wheel::file::BlockFile;

/// Pieces of a lane that are under way to the device at once: enough to keep it busy, and no more than a header that has to be
/// durable before its file is used again should wait for, as devices take what they are sent in turn.
const UNDER_WAY: usize = 2;

/// The pieces of a lane that are under way to the device, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(VecDeque<(FileId, Range<u64>)>);

impl FileWheel {
    /// Sends a piece of a file to the device that has become whole, once few enough are under way. For the lane's syncer only.
    pub(crate) fn send_piece(&self, id: FileId, under_way: &mut UnderWay) {
        let file = self.table.file(id);
        let Some(piece) = file.pieces.take_whole().next() else { return };
        while under_way.0.len() >= UNDER_WAY {
            let Some((before, piece)) = under_way.0.pop_front() else { break };
            self.finish_piece(self.table.file(before), piece);
        }
        if let Ok(memory) = file.memory() {
            memory.start_write_back(piece.clone());
            under_way.0.push_back((id, piece));
        }
        // Writers that are too far ahead (`pace`).
        self.turned.notify_all();
    }

    fn finish_piece(&self, file: &BlockFile, piece: Range<u64>) {
        // Of a file that was made anew meanwhile nothing is under way there.
        let Ok(memory) = file.memory() else { return };
        if let Err(error) = memory.finish_write_back(piece) {
            self.write_was_lost(file, error);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::ops::Range;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::block::{BlockHash, BlockKind, PAGE_SIZE, Realm};
    use crate::storage::MemoryFileSource;
    use crate::storage::faulty::{Call, Fault, Faults, FaultySource, Hint};
    use crate::sync::{Arc, thread};
    use crate::wheel::pieces::PIECE;
    use crate::wheel::{Event, HookOption, NewBlock, WheelOptions};

    const MIB: u64 = 1 << 20;
    const HANGS: Duration = Duration::from_mins(1);

    /// One lane of three files of 20 MiB: two pieces and a rest each.
    fn wheel(gather_bytes: u64) -> (Arc<FileWheel>, Arc<Faults>) {
        let source = MemoryFileSource::builder().files_per_folder(3).file_size(20 * MIB).build().unwrap();
        let source = FaultySource::new(source);
        let faults = source.faults();
        let options = WheelOptions { gather_bytes, ..WheelOptions::default() };
        (FileWheel::open(Arc::new(source), options).unwrap(), faults)
    }

    fn store(wheel: &FileWheel, number: u128, len: u32) {
        let bytes = vec![7; len as usize];
        let parts = [&bytes[..]];
        let (key, hash) = (BlockHash::from_u128(number), BlockHash::of(&bytes));
        let (realm, kind) = (Realm::DEFAULT, BlockKind::Named);
        wheel.store_block(&NewBlock { realm, key, kind, hash, parts: &parts, len }, &wheel.deadline()).unwrap();
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + HANGS;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: not within {HANGS:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn piece(number: u64) -> Range<u64> {
        PAGE_SIZE + number * 8 * MIB..PAGE_SIZE + (number + 1) * 8 * MIB
    }

    /// Nobody would have noticed if it were never done.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn each_piece_of_8_mib_of_a_file_that_is_filled_is_sent_to_the_device_once_a_lap() {
        let (wheel, faults) = wheel(0);
        let mut sent: Vec<(FileId, Range<u64>)> = Vec::new();
        let mut numbers = 0..;
        let mut store_some = |count| numbers.by_ref().take(count).for_each(|number| store(&wheel, number, 1 << 20));
        // The fourth file is the first one in its second lap.
        for _ in 0..4 {
            for number in 0..2 {
                store_some(8);
                sent.push((wheel.lanes[0].active().unwrap(), piece(number)));
                until("a piece is sent", || faults.hints.written_back().len() >= sent.len());
                assert_eq!(faults.hints.written_back(), sent);
            }
            store_some(3);
        }
        assert_eq!(sent[0], sent[6], "of another lap");
        wheel.stop_threads();
    }

    /// What was reserved counted as stored: a piece was sent while a writer, or a closure, had not filled it, and then
    /// never again.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn a_piece_that_is_reserved_but_not_stored_is_sent_when_it_is() {
        let (wheel, faults) = wheel(0);
        faults.hold_stores(true);
        let writer = thread::spawn({
            let wheel = Arc::clone(&wheel);
            move || store(&wheel, 1, 17 << 20)
        });
        until("the store waits", || faults.held_stores() == 1);
        assert!(wheel.table.file(wheel.lanes[0].active().unwrap()).cursor.next_page() > 2 * PIECE);
        wheel.send_piece(wheel.lanes[0].active().unwrap(), &mut UnderWay::default());
        let too_early = faults.hints.written_back();
        faults.hold_stores(false);
        writer.join().unwrap();
        assert_eq!(too_early, []);
        until("both pieces are sent", || faults.hints.written_back().len() == 2);
        assert_eq!(
            faults.hints.written_back().into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
            [piece(0), piece(1)]
        );
        wheel.stop_threads();
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn small_blocks_fill_pieces_once_their_buffers_are_stored() {
        let (wheel, faults) = wheel(1 << 20);
        // A page each, most of it padding.
        (0..=PIECE).for_each(|number| store(&wheel, number.into(), 8));
        until("a piece is sent", || !faults.hints.written_back().is_empty());
        assert_eq!(faults.hints.written_back(), [(FileId::new(1).unwrap(), piece(0))]);
        wheel.stop_threads();
    }

    /// A header that has to be durable waited behind all that was sent before: a gibibyte, where the device takes as much.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn two_pieces_are_under_way_and_the_third_waits_for_the_first() {
        let (wheel, faults) = wheel(0);
        (0..3 * 19).for_each(|number| store(&wheel, number, 1 << 20));
        until("all pieces are sent", || faults.hints.written_back().len() == 6);
        let of = |hint: &(FileId, Hint)| match &hint.1 {
            Hint::WrittenBack(range) => Some((true, hint.0, range.clone())),
            Hint::Awaited(range) => Some((false, hint.0, range.clone())),
            _ => None,
        };
        let (mut under_way, mut most) = (VecDeque::new(), 0);
        for (is_sent, file, range) in faults.hints.take().iter().filter_map(of) {
            if is_sent {
                under_way.push_back((file, range));
                most = most.max(under_way.len());
            } else {
                assert_eq!(under_way.pop_front(), Some((file, range)), "the oldest first");
            }
        }
        assert_eq!(most, UNDER_WAY);
        wheel.stop_threads();
    }

    /// Who waits for a piece is told that it is lost; a process that was killed before the next sync left the file unmarked.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn a_piece_that_is_lost_makes_its_file_suspect_and_is_told_once() {
        for sync_fails in [false, true] {
            let source = MemoryFileSource::builder().files_per_folder(3).file_size(40 * MIB).build().unwrap();
            let source = FaultySource::new(source);
            let faults = source.faults();
            let (told, events) = channel();
            let hook = HookOption(Some(Arc::new(move |event: &Event| told.send(event.clone()).unwrap())));
            let options = WheelOptions { gather_bytes: 0, hook, ..WheelOptions::default() };
            let wheel = FileWheel::open(Arc::new(source), options).unwrap();
            let calls = if sync_fails { &[Call::Finish, Call::Sync][..] } else { &[Call::Finish] };
            faults.set(Fault::at(1).sticky().only(calls));
            (0..30).for_each(|number| store(&wheel, number, 1 << 20));
            let suspect = || wheel.table.iter().find(|file| file.is_suspect());
            until("the file is suspect", || suspect().is_some_and(|file| !file.is_dirty()));
            faults.clear();
            assert_eq!(wheel.table.iter().filter(|file| file.is_suspect()).count(), 1);
            // What was being stored meanwhile is owed to a sync of its own, which has the same to say.
            assert!(wheel.counters.sync_failures.get() > 0);
            wheel.flush().unwrap_err();
            wheel.flush().unwrap();
            wheel.close(HANGS);
            assert_eq!(events.try_iter().filter(|event| matches!(event, Event::FileSuspect { .. })).count(), 1);
        }
    }

    /// The sync that followed was not listened to: a block that was stored during it, and lost, was flushed with Ok.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn whoever_stores_while_a_lost_piece_is_dealt_with_is_told() {
        let (wheel, faults) = wheel(0);
        store(&wheel, 1, 1 << 20);
        let id = wheel.lanes[0].active().unwrap();
        faults.hold_syncs(true);
        let told = thread::spawn({
            let wheel = Arc::clone(&wheel);
            move || wheel.write_was_lost(wheel.table.file(id), std::io::ErrorKind::Other.into())
        });
        until("the sync is on its way", || faults.held_syncs() == 1);
        store(&wheel, 2, 1 << 20);
        assert_eq!(wheel.lanes[0].active(), Some(id), "it was stored to the same file");
        faults.hold_syncs(false);
        told.join().unwrap();
        wheel.flush().unwrap_err();
        // Its sync has nothing to tell, but that of the block is owed.
        assert!(wheel.counters.sync_failures.get() >= 2);
        wheel.close(HANGS);
    }
}
