//! Making room: the oldest file of a lane dies, drains, and begins its next lap.
//!
//! # Invariants
//!
//! 1. A file is dead on disk, by its new header or by its unlinking, before the next of its lane may die.
//! 2. In memory its old lap goes on until the last pin and the last reservation are gone.
//! 3. After the second sweep no word names the file: whoever puts one there holds a pin or a reservation.
#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use crate::block::{FileHeader, FileId, HighWaterMark, PAGE_LEN, StoreId, now, random_nonce};
use crate::error::{FailedClosure, IoError};
use crate::planted;
use crate::sync::MutexGuard;
use crate::wheel::deadline::Deadline;
use crate::wheel::event::Event;
use crate::wheel::high_water;
use crate::wheel::lane::Lane;
use crate::wheel::state::FileState;
use crate::wheel::turn::Turn;
use crate::wheel::{FileWheel, OnFull};

/// How long a slow disk is waited for at once, whatever callers have asked for: they may not want to wait at all.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The lap that a file begins next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    pub(crate) generation: u64,
    pub(crate) nonce: u64,
}

impl FileWheel {
    /// Steps 1 to 3: the oldest file is chosen, and what is asked of it from now on is missing.
    pub(crate) fn recycle(&self, lane: &Lane, id: FileId) {
        let file = self.table.file(id);
        if self.options.on_full == OnFull::Refuse {
            match self.sync_successors(lane, id) {
                Ok(true) => {}
                // If a block of it has come back, the writers that wait are told so.
                Ok(false) => {
                    self.turned.notify_all();
                    return;
                }
                Err(error) => {
                    self.lane_fails(&mut self.turn.lock(), lane, Some(id), error);
                    return;
                }
            }
        }
        {
            let mut turn = self.turn.lock();
            let of_lane = &mut turn.lanes[lane.index()];
            // Hazard 48: not the oldest one.
            if planted::is(48) {
                of_lane.order.retain(|other| *other != id);
                of_lane.order.push_front(id);
            }
            if of_lane.order.front() != Some(&id) {
                return;
            }
            of_lane.order.pop_front();
            of_lane.draining.push((id, Instant::now()));
            turn.set(id, FileState::Closing);
            self.counters.blocks_recycled.add(file.live_blocks());
            self.choose_victim(&turn, lane);
        }
        self.sweep(id);
        let waiting = file.pending.lock().deferred();
        for deferred in waiting {
            if let Some(closure) = self.give_up(&deferred, Some(FailedClosure::Abandoned)) {
                lane.discard(closure);
            }
        }
        self.kill(lane, id);
    }

    /// With `Refuse` nothing that was flushed is forgotten: what replaced the blocks of the oldest file is durable
    /// before they die. `false` if it could not be stored, so that some of them are not dead, or is not stored yet.
    fn sync_successors(&self, lane: &Lane, id: FileId) -> Result<bool, IoError> {
        self.store_open_gather(lane, |_| true);
        // A disk that is slow fails nothing: this is tried again, and who waits has a deadline of its own.
        if !lane.wait_for_outstanding(&Deadline::after(LOOK_AGAIN)) {
            return Ok(false);
        }
        let others: Vec<FileId> = {
            let turn = self.turn.lock();
            let of_lane = &turn.lanes[lane.index()];
            if !self.is_spent_for_good(of_lane, self.table.file(id)) {
                return Ok(false);
            }
            of_lane.files().filter(|other| *other != id).collect()
        };
        for other in others {
            let file = self.table.file(other);
            let had_lost_writes = file.has_lost_writes();
            let synced_all = self.sync_file(file);
            // Somebody else may have met the failure. What was lost before was told: it is as durable as it will ever be.
            if !synced_all || (file.has_lost_writes() && !had_lost_writes) {
                let error = io::Error::other("a sync failed");
                return Err(self.io_error("syncing what replaced the oldest file", other, error));
            }
        }
        Ok(true)
    }

    /// Steps 4 and 5: no new pin, and the old lap dies on disk.
    pub(crate) fn kill(&self, lane: &Lane, id: FileId) {
        let file = self.table.file(id);
        file.pins.close();
        let dead = self.write_next_header(lane, id).or_else(|_| {
            // Where no header can be written the name has to go.
            self.delete(id).map(|()| None)
        });
        let mut turn = self.turn.lock();
        match dead {
            Ok(lap) => {
                turn.set(id, FileState::Draining);
                self.lane_works(&mut turn, lane);
                drop(turn);
                self.laps.lock()[id.index()] = lap;
                self.counters.turns.add(1);
                self.turned.notify_all();
            }
            Err(error) => {
                let error = self.io_error("recycling the oldest file", id, error);
                self.lane_fails(&mut turn, lane, Some(id), error);
            }
        }
    }

    /// Writes the header of the next lap; `None` if the file is suspect and was unlinked instead.
    ///
    /// An error also if somebody else has cut the file short, or removed it: what is stored to it then would come back
    /// with holes, or not at all.
    fn write_next_header(&self, lane: &Lane, id: FileId) -> io::Result<Option<Lap>> {
        let file = self.table.file(id);
        if self.is_suspect(file) {
            self.delete(id)?;
            return Ok(None);
        }
        file.memory()?.check()?;
        self.write_header(lane, id).map(Some)
    }

    /// Steps 6 and 7, once drained: second sweep, and the next lap begins.
    pub(crate) fn finish_recycling(&self, lane: &Lane, id: FileId) {
        let file = self.table.file(id);
        self.sweep(id);
        let written = self.laps.lock()[id.index()];
        let ready = match written {
            Some(lap) if !self.is_suspect(file) && file.memory().is_ok_and(|memory| memory.check().is_ok()) => Ok(lap),
            _ => self.create_afresh(lane, id),
        };
        // Takes its time, and writers need the lock below.
        self.forget_lap(file);
        let (mut turn, ready) = self.youngest(lane, id, ready);
        match ready {
            Ok(lap) => {
                file.begin_lap(lap.generation, lap.nonce);
                file.pins.reopen();
                turn.set(id, FileState::Free);
                let of_lane = &mut turn.lanes[lane.index()];
                if let Some((_, since)) = of_lane.draining.iter().find(|(other, _)| *other == id) {
                    of_lane.tempo.has_made_one_ready(since.elapsed());
                }
                of_lane.draining.retain(|(other, _)| *other != id);
                of_lane.unready.retain(|unready| unready.file != id);
                of_lane.spares.push(id);
                self.events.emit(|| Event::FileRecycled { file: id, lane: lane.id(), generation: lap.generation });
                self.lane_works(&mut turn, lane);
                self.choose_victim(&turn, lane);
            }
            Err(error) => {
                let error = self.io_error("making the oldest file ready again", id, error);
                // It is dead on disk (invariant 1): the others may turn without it.
                if turn.state(id) == FileState::Draining {
                    turn.set(id, FileState::Broken);
                    turn.lanes[lane.index()].draining.retain(|(other, _)| *other != id);
                }
                self.laps.lock()[id.index()] = None;
                self.file_fails(&mut turn, lane, id, error);
            }
        }
        self.turned.notify_all();
    }

    /// Gives a file that is ready a later generation, for as long as a younger one has become active meanwhile
    /// (`turn`, invariant 2). Under the lock that comes back it may be handed out.
    pub(crate) fn youngest(
        &self,
        lane: &Lane,
        id: FileId,
        mut ready: io::Result<Lap>,
    ) -> (MutexGuard<'_, Turn>, io::Result<Lap>) {
        loop {
            let turn = self.turn.lock();
            match ready {
                Ok(lap) if lap.generation <= turn.lanes[lane.index()].handed => {}
                ready => return (turn, ready),
            }
            drop(turn);
            ready = self.write_header(lane, id);
        }
    }

    /// Unlinks what is left of a file and creates it anew. Nobody holds a pin.
    fn create_afresh(&self, lane: &Lane, id: FileId) -> io::Result<Lap> {
        self.delete(id)?;
        self.table.file(id).uninstall();
        self.create_memory(lane, id)
    }

    fn delete(&self, id: FileId) -> io::Result<()> {
        self.table.file(id).delete_by(|| self.table.source().delete(id))
    }

    /// Creates one more file for the lane.
    pub(crate) fn create_file(&self, lane: &Lane, id: FileId) {
        // A name that is there already was left by an attempt that failed half-way.
        let created = self.create_memory(lane, id).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => self.create_afresh(lane, id),
            _ => Err(error),
        });
        let (mut turn, created) = self.youngest(lane, id, created);
        match created {
            Ok(lap) => {
                let file = self.table.file(id);
                file.begin_lap(lap.generation, lap.nonce);
                file.ready.begin();
                turn.set(id, FileState::Free);
                let of_lane = &mut turn.lanes[lane.index()];
                of_lane.absent.retain(|other| *other != id);
                of_lane.spares.push(id);
                self.events.emit(|| Event::FileCreated { file: id, lane: lane.id(), generation: lap.generation });
                self.lane_works(&mut turn, lane);
                self.choose_victim(&turn, lane);
            }
            // Hazard 31: nobody is told.
            Err(_) if planted::is(31) => return,
            Err(_) if self.does_without(&mut turn, lane) => return,
            Err(error) => {
                let error = self.io_error("creating a file of the store", id, error);
                self.lane_fails(&mut turn, lane, Some(id), error);
            }
        }
        self.turned.notify_all();
    }

    fn create_memory(&self, lane: &Lane, id: FileId) -> io::Result<Lap> {
        let lap = self.next_lap()?;
        let header = self.header_page(lane, id, lap);
        let source = self.table.source();
        let memory = if self.options.temporary {
            // The memory keeps the file; without a name nothing is left of it when the process ends.
            source.create_unnamed(id, &header)?
        } else {
            source.create(id, &header)?
        };
        self.install(self.table.file(id), memory);
        Ok(lap)
    }

    /// Makes the header of a new lap durable: from here every block of the old one is dead on disk.
    pub(crate) fn write_header(&self, lane: &Lane, id: FileId) -> io::Result<Lap> {
        let lap = self.next_lap()?;
        let file = self.table.file(id);
        file.store(0, &[&self.header_page(lane, id, lap)])?;
        let mut kind = io::ErrorKind::Other;
        // Hazard 51: the old lap dies in the page cache only.
        if !planted::is(51) {
            file.sync_or(|error, is_news| {
                kind = error.kind();
                self.tell_suspect(file, error, is_news);
            });
        }
        // Also if somebody else's sync has covered the header, and failed: then this one found nothing to do.
        if self.is_suspect(file) {
            return Err(io::Error::new(kind, "a sync of the file has failed"));
        }
        Ok(lap)
    }

    fn next_lap(&self) -> io::Result<Lap> {
        let nonce = random_nonce()?;
        Ok(Lap { generation: self.turn.lock().take_generation(), nonce })
    }

    fn header_page(&self, lane: &Lane, id: FileId, lap: Lap) -> Vec<u8> {
        let store: StoreId = self.table.source().store_id();
        let header = FileHeader {
            file_size: self.size,
            store,
            file: id,
            lane: lane.id(),
            lanes: self.lanes(),
            generation: lap.generation,
            hash_kind: self.hash_kind(),
            nonce: lap.nonce,
            created_at: now(),
        };
        let mut page = vec![0; PAGE_LEN];
        let header = header.encode();
        page[..header.len()].copy_from_slice(&header);
        self.table.file(id).high_water.header_begins();
        if let Some(boot) = self.table.source().boot() {
            let mark = high_water::first_mark(self.size, boot).encode(lap.nonce);
            page[HighWaterMark::OFFSET..][..mark.len()].copy_from_slice(&mark);
        }
        page
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::storage::faulty::{Call, Fault, FaultySource};
    use crate::storage::{FileSource, MemoryFileSource};
    use crate::sync::Arc;
    use crate::wheel::WheelOptions;

    fn wheel() -> Arc<FileWheel> {
        wheel_over(MemoryFileSource::builder().file_size(64 << 10).build().unwrap())
    }

    fn wheel_over(source: impl FileSource) -> Arc<FileWheel> {
        FileWheel::open(Arc::new(source), WheelOptions { gather_bytes: 0, ..WheelOptions::default() }).unwrap()
    }

    /// A file was created with a generation that was taken before the creation began. Meanwhile the search for blocks
    /// of an earlier run had made another file ready, and that one was handed out: a younger file followed by an older
    /// one, whose blocks then counted as older than those they replaced.
    #[test]
    fn a_file_that_is_ready_late_is_younger_than_all_that_were_handed_out() {
        let wheel = wheel();
        let lane = &wheel.lanes[0];
        let (id, handed) = {
            let mut turn = wheel.turn.lock();
            let handed = turn.next_generation + 3;
            turn.lanes[0].handed = handed;
            (*turn.lanes[0].absent.last().unwrap(), handed)
        };
        wheel.create_file(lane, id);
        assert!(wheel.table.file(id).generation() > handed);
        wheel.close(Duration::from_secs(20));
    }

    /// A creation that failed after the file had got its name was tried again for ever: the name was there.
    #[test]
    fn a_creation_that_failed_half_way_does_not_stand_in_its_own_way() {
        let wheel = wheel();
        let id = *wheel.turn.lock().lanes[0].absent.last().unwrap();
        drop(wheel.table.source().create(id, b"left behind").unwrap());
        wheel.create_file(&wheel.lanes[0], id);
        assert_eq!(wheel.turn.lock().state(id), FileState::Free);
        wheel.close(Duration::from_secs(20));
    }

    /// What was mapped of a file counted for as long as no other could be made in its place.
    #[test]
    fn nothing_of_a_file_that_is_gone_is_in_memory() {
        let source = FaultySource::new(MemoryFileSource::builder().file_size(64 << 10).build().unwrap());
        let faults = source.faults();
        let wheel = wheel_over(source);
        let lane = &wheel.lanes[0];
        let id = *wheel.turn.lock().lanes[0].absent.last().unwrap();
        wheel.create_file(lane, id);
        let file = wheel.table.file(id);
        file.store(4096, &[&[1; 4096]]).unwrap();
        assert_eq!(file.regions.bytes(), 4096);
        faults.set(Fault::at(1).only(&[Call::Create]));
        wheel.create_afresh(lane, id).unwrap_err();
        assert_eq!(file.regions.bytes(), 0);
        wheel.close(Duration::from_secs(20));
    }

    /// A flush synced a file between the store of its next header and the sync of that, and failed. The header was taken
    /// for durable, as there was nothing left to sync: the next file died, and a power cut brought the old lap back.
    #[test]
    fn a_header_that_somebody_else_failed_to_sync_is_not_durable() {
        let source = FaultySource::new(MemoryFileSource::builder().file_size(64 << 10).build().unwrap());
        let faults = source.faults();
        let wheel = wheel_over(source);
        let lane = &wheel.lanes[0];
        let id = FileId::new(1).unwrap();
        wheel.write_header(lane, id).unwrap();
        let file = wheel.table.file(id);
        file.store(0, &[b"the next header"]).unwrap();
        faults.set(Fault::at(1).only(&[Call::Sync]));
        file.sync().unwrap_err();
        assert!(wheel.write_header(lane, id).is_err());
        wheel.close(Duration::from_secs(20));
    }

    /// A file was deleted and made anew while somebody still synced what it had held before. That sync failed, and the
    /// new file was taken for the one that had lost writes.
    #[test]
    fn a_sync_that_fails_late_says_nothing_about_the_file_that_was_made_anew() {
        let source = FaultySource::new(MemoryFileSource::builder().file_size(64 << 10).build().unwrap());
        let faults = source.faults();
        let wheel = wheel_over(source);
        let id = *wheel.turn.lock().lanes[0].absent.last().unwrap();
        wheel.create_file(&wheel.lanes[0], id);
        let file = wheel.table.file(id);
        file.store(0, &[b"not synced"]).unwrap();
        let created = faults.count(Call::Create);
        let eventually = |is_so: &dyn Fn() -> bool| {
            let began = Instant::now();
            while !is_so() {
                assert!(began.elapsed() < Duration::from_mins(1));
                crate::sync::thread::yield_now();
            }
        };
        faults.set(Fault::at(1).only(&[Call::Sync]));
        faults.hold_syncs(true);
        let late = {
            let wheel = Arc::clone(&wheel);
            crate::sync::thread::spawn(move || wheel.sync_file(wheel.table.file(id)))
        };
        eventually(&|| faults.held_syncs() > 0);
        let error = wheel.io_error("reading a block", id, io::Error::other("a bad sector"));
        wheel.tell_unreadable(file, &error);
        // Time enough for a keeper that does not wait for the sync.
        crate::sync::thread::sleep(Duration::from_millis(50));
        faults.hold_syncs(false);
        late.join().unwrap();
        eventually(&|| wheel.turn.lock().state(id) == FileState::Free);
        assert_eq!((file.is_suspect(), faults.count(Call::Create)), (false, created + 1));
        wheel.close(Duration::from_secs(20));
    }
}
