//! Atomics, locks and threads: the standard ones, or loom's under `cfg(loom)`.
//!
//! Every other module takes them from here, so that a protocol between threads can be model-checked unchanged.
//!
//! # Invariants
//!
//! 1. A lock is not poisoned: what panics under one is a defect of this library, never of a user's code, which runs
//!    under none.
//! 2. All of a lock is its own bytes. A library that keeps a table of waiting threads (`parking_lot`) finds those of the
//!    parent in it after a fork, and follows pointers to stacks that are gone.
//! 3. Under `cfg(tsan)` a lock says once more, with an atomic of this crate, what it orders anyway, and nothing else:
//!    the sanitizer of threads sees neither the slow paths of the standard library's locks nor the waits of its condition
//!    variables, as that library comes without instrumentation.
#![forbid(unsafe_code)]

pub(crate) use std::sync::{Arc, OnceLock, Weak};

#[cfg(loom)]
pub(crate) use loom::{sync::atomic, thread};
#[cfg(not(loom))]
pub(crate) use std::{sync::atomic, thread};

#[cfg(loom)]
use loom::sync as system;
#[cfg(not(loom))]
use std::sync as system;

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Instant;

/// Whether joining `thread` would not wait.
#[cfg(not(loom))]
pub(crate) fn has_ended<T>(thread: &thread::JoinHandle<T>) -> bool {
    thread.is_finished()
}

/// loom does not tell, and has no clock to stop asking by: whoever wants to know joins.
#[cfg(loom)]
pub(crate) fn has_ended<T>(_thread: &thread::JoinHandle<T>) -> bool {
    true
}

/// A lock that is not poisoned.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(system::Mutex<T>, Order);

/// What is locked; unlocked when this is dropped.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T>(Option<system::MutexGuard<'a, T>>, &'a Order);

/// What one holder of a lock hands to the next (invariant 3).
#[derive(Debug, Default)]
struct Order(#[cfg(tsan)] atomic::AtomicU32);

#[cfg_attr(not(tsan), expect(clippy::unused_self, reason = "there is nothing to say"))]
impl Order {
    /// The lock was taken.
    #[inline]
    fn taken(&self) {
        // Acquire pairs with the Release in `given` of whoever held the lock before.
        #[cfg(tsan)]
        self.0.load(atomic::Ordering::Acquire);
    }

    /// The lock is about to be given back.
    #[inline]
    fn given(&self) {
        // Release: see `taken`.
        #[cfg(tsan)]
        self.0.fetch_add(1, atomic::Ordering::Release);
    }
}

/// A condition variable that waits on a `&mut` guard.
#[derive(Debug, Default)]
pub(crate) struct Condvar(system::Condvar);

/// Whether a wait ended at its deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(system::Mutex::new(value), Order::default())
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.1.taken();
        MutexGuard(Some(inner), &self.1)
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(system::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.1.given();
        guard.0 = guard.0.take().map(|inner| self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
        guard.1.taken();
    }

    /// Waits until it is told, or `until` is over; or wakes for no reason.
    #[cfg(not(loom))]
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        let left = until.saturating_duration_since(Instant::now());
        let mut timed_out = false;
        guard.1.given();
        guard.0 = guard.0.take().map(|inner| {
            let (inner, result) = self.0.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
            timed_out = result.timed_out();
            inner
        });
        guard.1.taken();
        WaitTimeoutResult(timed_out)
    }

    /// loom has no clock: it never times out.
    #[cfg(loom)]
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) -> WaitTimeoutResult {
        self.wait(guard);
        WaitTimeoutResult(false)
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("a guard outside a wait holds its lock")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("a guard outside a wait holds its lock")
    }
}

#[cfg(tsan)]
impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.1.given();
    }
}
