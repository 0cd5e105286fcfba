//! The queue between the store and its `on_event` hook, and the thread that calls the hook.
//!
//! Whoever meets an event puts it into the queue, also under a lock of the store, and goes on: nobody waits for the
//! hook. One thread of its own takes events out and runs the hook, holding nothing; so the hook may call the store.
//!
//! # Invariants
//!
//! 1. The queue's lock is taken last, alone, and never while the hook runs.
//! 2. Events leave in the order in which they came. What comes to a full or ended queue is counted, and a gap is told
//!    in its place.
//! 3. The thread alone owns the hook: it is dropped there, after its last call, where its captured values may drop
//!    handles of the store.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::os::Process;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, has_ended, thread};
use crate::wheel::deadline::Deadline;
use crate::wheel::event::Event;

/// Most events that wait for the hook; later ones are dropped and counted.
pub(crate) const MAX_WAITING: usize = if cfg!(loom) { 2 } else { 4096 };

/// What the user wants to be told with.
pub(crate) type Hook = Arc<dyn Fn(&Event) + Send + Sync>;

/// Events on their way to the hook.
#[derive(Debug, Default)]
pub(crate) struct Events {
    shared: Option<Arc<Queue>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    come: Condvar,
    dropped: AtomicU64,
    panics: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    /// Dropped since the last event that found room.
    gap: u64,
    stop: bool,
}

impl Events {
    /// Starts the thread that runs `hook`; without one nothing is queued and nothing costs anything.
    pub(crate) fn start(hook: Option<Hook>) -> io::Result<Self> {
        let Some(hook) = hook else { return Ok(Self::default()) };
        let queue = Arc::new(Queue::default());
        let own = Arc::clone(&queue);
        let thread = thread::Builder::new().name("scratch-event".to_owned()).spawn(move || own.run(hook))?;
        Ok(Self { shared: Some(queue), thread: Mutex::new(Some(thread)) })
    }

    /// Tells the hook, if there is one. May be called under any lock of the store.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if let Some(queue) = &self.shared {
            queue.push(event());
        }
    }

    /// Events that the hook was never told.
    pub(crate) fn dropped(&self) -> u64 {
        // Relaxed: a statistic, as below.
        self.shared.as_ref().map_or(0, |queue| queue.dropped.load(Ordering::Relaxed))
    }

    /// Calls of the hook that panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.shared.as_ref().map_or(0, |queue| queue.panics.load(Ordering::Relaxed))
    }

    /// Has the thread end once it has told what waits. Later events are dropped and counted.
    pub(crate) fn stop(&self) {
        if let Some(queue) = &self.shared {
            queue.waiting.lock().stop = true;
            queue.come.notify_all();
        }
    }

    /// Joins the thread if it ends by the deadline; never from itself.
    pub(crate) fn join_until(&self, deadline: &Deadline, sleep: impl Fn()) {
        if self.is_own_thread() {
            return;
        }
        let Some(thread) = self.thread.lock().take() else { return };
        // A hook that hangs keeps its thread, which is left behind and holds nothing of the store.
        while !has_ended(&thread) && !deadline.has_passed() {
            sleep();
        }
        if has_ended(&thread) {
            // Panics of the hook are caught; nothing else there can.
            let _ = thread.join();
        }
    }

    /// Whether this is the thread that runs the hook.
    pub(crate) fn is_own_thread(&self) -> bool {
        let me = thread::current().id();
        self.thread.lock().as_ref().is_some_and(|thread| thread.thread().id() == me)
    }
}

impl Queue {
    fn push(&self, event: Event) {
        let mut waiting = self.waiting.lock();
        // Room for the gap, too.
        let needed = if waiting.gap > 0 { 2 } else { 1 };
        if waiting.stop || waiting.events.len() + needed > MAX_WAITING {
            waiting.gap += 1;
            // Relaxed: a statistic.
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let gap = std::mem::take(&mut waiting.gap);
        if gap > 0 {
            waiting.events.push_back(Event::Dropped { events: gap });
        }
        waiting.events.push_back(event);
        drop(waiting);
        self.come.notify_all();
    }

    /// The next event; `None` once all are out and no more may come. A gap at the very end is told, too.
    fn next(&self) -> Option<Event> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(event) = waiting.events.pop_front() {
                return Some(event);
            }
            if waiting.gap > 0 {
                return Some(Event::Dropped { events: std::mem::take(&mut waiting.gap) });
            }
            if waiting.stop {
                return None;
            }
            self.come.wait(&mut waiting);
        }
    }

    fn run(&self, hook: Hook) {
        let process = Process::current();
        while let Some(event) = self.next() {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| hook(&event))) {
                // Relaxed: a statistic.
                self.panics.fetch_add(1, Ordering::Relaxed);
                discard(payload);
            }
            // The hook may have forked, and this be the child.
            process.end_if_forked();
        }
        // What it captured is the user's, and may panic when it is dropped.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(hook))) {
            discard(payload);
        }
    }
}

/// Drops what somebody panicked with, which may panic in its turn.
fn discard(payload: Box<dyn std::any::Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}

/// A hook among the options, which are printed.
#[derive(Clone, Default)]
pub(crate) struct HookOption(pub(crate) Option<Hook>);

impl fmt::Debug for HookOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a hook" } else { "none" })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::block::FileId;

    const HANGS: Duration = Duration::from_mins(1);

    fn event(generation: u64) -> Event {
        Event::FileCreated { file: FileId::new(1).unwrap(), lane: 0, generation }
    }

    fn end(events: &Events) {
        events.stop();
        events.join_until(&Deadline::after(HANGS), thread::yield_now);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many events to interpret")]
    fn what_a_slow_hook_misses_is_counted_and_told_where_it_is_missing() {
        let (go, wait) = mpsc::channel::<()>();
        let (told, seen) = mpsc::channel();
        let wait = std::sync::Mutex::new(wait);
        let hook = move |event: &Event| {
            wait.lock().unwrap().recv().ok();
            told.send(event.clone()).unwrap();
        };
        let events = Events::start(Some(Arc::new(hook))).unwrap();
        // One is in the hook, or waits as well.
        let most = MAX_WAITING as u64 + 1;
        for number in 0..most + 20 {
            events.emit(|| event(number));
        }
        let dropped = events.dropped();
        assert!((20..=21).contains(&dropped), "{dropped}");
        for _ in 0..3 {
            go.send(()).unwrap();
            seen.recv_timeout(HANGS).unwrap();
        }
        events.emit(|| event(u64::MAX));
        drop(go);
        end(&events);
        let seen: Vec<_> = seen.into_iter().collect();
        let (last, gap) = (&seen[seen.len() - 1], &seen[seen.len() - 2]);
        assert_eq!((last, gap), (&event(u64::MAX), &Event::Dropped { events: dropped }));
        assert_eq!(seen.len() as u64 + 3, most + 20 - dropped + 2);
        assert_eq!(seen[0], event(3), "in the order in which they came");
    }

    #[test]
    fn a_hook_that_panics_is_called_again() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let (told, seen) = mpsc::channel();
        let bomb = Bomb;
        let hook = move |event: &Event| {
            let _ = &bomb;
            told.send(event.clone()).unwrap();
            panic!("told");
        };
        let events = Events::start(Some(Arc::new(hook))).unwrap();
        for number in 0..3 {
            events.emit(|| event(number));
        }
        end(&events);
        assert_eq!(seen.into_iter().count(), 3);
        assert_eq!((events.panics(), events.dropped()), (3, 0));
        events.emit(|| event(4));
        assert_eq!(events.dropped(), 1, "nobody is told any more");
    }

    #[test]
    fn without_a_hook_no_event_is_made() {
        let events = Events::start(None).unwrap();
        events.emit(|| panic!("nobody listens"));
        end(&events);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::block::FileId;

    fn event(file: u16, generation: u64) -> Event {
        Event::FileCreated { file: FileId::new(file).unwrap(), lane: 0, generation }
    }

    /// One thread tells, one ends the queue, one takes out: each event is told once, in the order of its file, or counted.
    #[test]
    fn an_event_is_told_once_in_order_or_counted() {
        loom::model(|| {
            let queue = Arc::new(Queue::default());
            let teller = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    queue.push(event(1, 1));
                    queue.push(event(1, 2));
                })
            };
            let ender = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    queue.waiting.lock().stop = true;
                    queue.come.notify_all();
                })
            };
            let (mut told, mut gaps, mut last) = (0, 0, 0);
            while let Some(event) = queue.next() {
                match event {
                    Event::Dropped { events } => gaps += events,
                    Event::FileCreated { file, generation, .. } => {
                        told += 1;
                        if file.get() == 1 {
                            assert!(generation > last);
                            last = generation;
                        }
                    }
                    _ => unreachable!(),
                }
            }
            teller.join().unwrap();
            ender.join().unwrap();
            let dropped = queue.dropped.load(Ordering::Relaxed);
            assert_eq!(told + dropped, 2);
            // What came after the end is counted, and told by nobody.
            assert!(gaps <= dropped);
        });
    }
}
