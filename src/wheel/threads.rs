//! The threads of the store: who is counted, who is joined, and what becomes of the lane of one that panics.
//!
//! # Invariants
//!
//! 1. A thread counts as running from before it is spawned until it ends, however it does: a close waits for it.
//! 2. A lane of which a thread has panicked takes no write any more, until the store is opened again: what the thread
//!    was about, and what it left half done, nobody knows. What is stored there is still read, closures that wait are
//!    run by whoever needs them, and each flush tells.
//! 3. If the lane was not searched to its end, a miss in it is an error from then on.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{IoError, ThreadPanicked};
use crate::sync::{Arc, thread};
use crate::wheel::FileWheel;
use crate::wheel::failing::Failing;
use crate::wheel::lane::Lane;
use crate::wheel::turn::Searched;

/// What a thread of the store does for its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Prepares files.
    Keeper,
    /// Brings files to the device.
    Syncer,
    /// Runs closures, and stores what was gathered.
    Flusher,
    /// Has memory ready for new files.
    Ahead,
    /// Looks for blocks of an earlier run.
    Search,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keeper => "keep",
            Self::Syncer => "sync",
            Self::Flusher => "flush",
            Self::Ahead => "ready",
            Self::Search => "find",
        })
    }
}

impl FileWheel {
    /// Starts a thread of the store that is joined at close.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        role: Role,
        lane: u16,
        run: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> io::Result<()> {
        let running = Running::new(self);
        let mut threads = self.threads.lock();
        #[cfg(all(test, not(loom)))]
        if self.lacks_threads.load(crate::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // A close sets this before it takes the threads: one that comes later would be joined by nobody.
        if self.is_closed() {
            return Err(io::Error::other("the store is closed"));
        }
        let thread = thread::Builder::new().name(format!("scratch-{role}-{lane}")).spawn(move || {
            running.0.contain(role, lane, run);
        })?;
        threads.push(thread);
        drop(threads);
        Ok(())
    }

    /// Does on this thread what one of the store's does for a lane (invariant 2).
    pub(crate) fn contain(self: &Arc<Self>, role: Role, lane: u16, run: impl FnOnce(&Arc<Self>)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| run(self))) {
            self.panics.add();
            let lane = &self.lanes[usize::from(lane)];
            // What it was about nobody depends on (`ahead`, invariant 1).
            if role == Role::Ahead {
                return;
            }
            self.has_panicked(role, lane, ThreadPanicked::caught(payload));
            // After that nobody hands one over. A panic here leaves it to nobody, as one of the flusher itself does.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if role == Role::Flusher
                    && let Some(outstanding) = lane.take_handed()
                {
                    self.store_outstanding(lane, outstanding);
                }
            }));
        }
    }

    /// A thread of this lane has panicked (invariant 2).
    fn has_panicked(&self, role: Role, lane: &Lane, panicked: ThreadPanicked) {
        let folder = self.folder_of(lane.id());
        let error = IoError::new("running a thread of the store", folder.as_deref(), io::Error::other(panicked));
        let folders = self.table.source().folders();
        let mut turn = self.turn.lock();
        let looks_for_a_folder = role == Role::Keeper && lane.id() < folders;
        let falls = |other: &&Lane| {
            // The keeper of a folder's first lane looks for the folder on behalf of them all, and may have got half-way.
            let is_served = looks_for_a_folder && turn.lanes[other.index()].detached;
            other.id() == lane.id() || (is_served && other.id() % folders == lane.id() % folders)
        };
        let mut fallen: Vec<&Lane> = self.lanes.iter().filter(falls).collect();
        let is_away = looks_for_a_folder && fallen.iter().any(|lane| turn.lanes[lane.index()].detached);
        fallen.retain(|lane| {
            let of_lane = &mut turn.lanes[lane.index()];
            if of_lane.searched < Searched::All {
                lane.knowledge.set_unknown();
            }
            let is_first = of_lane.fallen.is_none();
            of_lane.fallen.get_or_insert_with(|| Failing::broken(error.clone()));
            is_first
        });
        drop(turn);
        for lane in fallen {
            lane.set_fallen();
            self.tell_broken(lane, error.clone());
        }
        // Nobody looks for the folder any more either.
        if role == Role::Search || is_away {
            self.recovery.fail(error);
        }
        self.turned.notify_all();
    }

    /// Why a lane takes no write any more, if a thread of it has panicked.
    pub(crate) fn fallen(&self, lane: &Lane) -> Option<IoError> {
        if !lane.has_fallen() {
            return None;
        }
        self.turn.lock().lanes[lane.index()].fallen.as_ref().map(|fallen| fallen.error.clone())
    }
}

/// A thread of the store that has not ended (invariant 1).
struct Running(Arc<FileWheel>);

impl Running {
    fn new(wheel: &Arc<FileWheel>) -> Self {
        wheel.turn.lock().running += 1;
        Self(Arc::clone(wheel))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.turn.lock().running -= 1;
        // A close may wait for the last one.
        self.0.turned.notify_all();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::block::{BlockHash, BlockKind, Realm};
    use crate::error::{FlushError, WriteError};
    use crate::storage::MemoryFileSource;
    use crate::wheel::{NewBlock, WheelOptions};

    /// Bound of what does not wait, far below the 30 s for which a call waits by default.
    const AT_ONCE: Duration = Duration::from_secs(15);

    fn wheel() -> Arc<FileWheel> {
        let source = MemoryFileSource::builder().file_size(64 << 10).build().unwrap();
        FileWheel::open(Arc::new(source), WheelOptions::default()).unwrap()
    }

    fn put(wheel: &FileWheel) -> Result<(), WriteError> {
        let (key, parts) = (BlockHash::of(b"gathered"), [&b"gathered"[..]]);
        let block = NewBlock { realm: Realm::DEFAULT, key, kind: BlockKind::Content, hash: key, parts: &parts, len: 8 };
        wheel.store_block(&block, &wheel.deadline()).map(drop)
    }

    fn panics(wheel: &Arc<FileWheel>, role: Role) {
        let asked = |_: &Arc<FileWheel>| panic!("as the test asks");
        wheel.spawn(role, 0, asked).unwrap();
        let began = Instant::now();
        while wheel.fallen(&wheel.lanes[0]).is_none() {
            assert!(began.elapsed() < AT_ONCE);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A close looked once a millisecond whether a thread had ended, for each of them; now they say so, and one that
    /// does not come to its regular end must say so too.
    #[test]
    fn a_thread_that_panics_or_is_never_begun_is_not_waited_for() {
        let wheel = wheel();
        panics(&wheel, Role::Flusher);
        let began = Instant::now();
        assert_eq!(wheel.close(Duration::from_secs(20)).panics, 1);
        assert!(began.elapsed() < AT_ONCE);
        wheel.spawn(Role::Search, 0, |_| ()).unwrap_err();
        assert_eq!(wheel.turn.lock().running, 0);
    }

    /// A keeper that had panicked was the one that looked at memory: blocks were released no more.
    #[test]
    fn another_keeper_looks_at_memory_for_one_that_panicked() {
        let source = MemoryFileSource::builder().folders(2).file_size(64 << 10).build().unwrap();
        let wheel = FileWheel::open(Arc::new(source), WheelOptions::default()).unwrap();
        let who = || wheel.lanes.iter().filter(|lane| wheel.looks_for_all(lane)).map(Lane::id).collect::<Vec<_>>();
        assert_eq!((wheel.lanes.len(), who()), (2, vec![0]));
        panics(&wheel, Role::Keeper);
        assert_eq!(who(), [1]);
        wheel.close(Duration::from_secs(20));
    }

    /// The puts of its blocks have returned.
    #[test]
    fn a_buffer_that_waits_for_a_flusher_that_panics_is_stored() {
        let source = MemoryFileSource::builder().file_size(64 << 10).build().unwrap();
        let options = WheelOptions { gather_delay: Duration::from_mins(10), ..WheelOptions::default() };
        let wheel = FileWheel::open(Arc::new(source), options).unwrap();
        put(&wheel).unwrap();
        let lane = &wheel.lanes[0];
        let gathered = lane.gather_now().take().unwrap();
        // The flusher itself would have taken it, as soon as it is awake.
        lane.stop();
        let is_over =
            |thread: &thread::JoinHandle<()>| thread.thread().name() != Some("scratch-flush-0") || thread.is_finished();
        let began = Instant::now();
        while !wheel.threads.lock().iter().all(is_over) {
            assert!(began.elapsed() < AT_ONCE);
            thread::yield_now();
        }
        lane.leave(gathered);
        wheel.contain(Role::Flusher, 0, |_| panic!("as the test asks"));
        assert!(lane.wait_for_outstanding(&crate::wheel::deadline::Deadline::after(Duration::ZERO)));
        assert_eq!(wheel.close(Duration::from_secs(20)).unstored, 0);
    }

    /// A thread panicked with a gather buffer that it was about to store: each flush, and each write that needed a
    /// buffer, waited for it until its deadline.
    #[test]
    fn a_buffer_that_went_with_its_thread_is_not_waited_for() {
        let wheel = wheel();
        put(&wheel).unwrap();
        let lost: Vec<_> = (0..crate::wheel::lane::MAX_OUTSTANDING)
            .map(|_| {
                let mut slot = wheel.lanes[0].gather_now();
                let file = wheel.lanes[0].active().unwrap();
                if slot.open.is_none() {
                    slot.open = Some(crate::wheel::gather::Gather::open(file, wheel.size, None));
                }
                slot.take()
            })
            .collect();
        let began = Instant::now();
        panics(&wheel, Role::Flusher);
        let Err(WriteError::Io(error)) = put(&wheel) else { panic!("it takes no write") };
        let panicked = error.panicked().unwrap();
        assert_eq!(panicked.to_string(), "thread scratch-flush-0 panicked: as the test asks");
        let Err(FlushError { io: Some(told), .. }) = wheel.flush() else { panic!("nothing is known to be durable") };
        assert_eq!(told, error);
        wheel.close(Duration::from_secs(20));
        assert!(began.elapsed() < AT_ONCE);
        drop(lost);
    }
}
