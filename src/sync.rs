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
pub(crate) struct Mutex<T>(system::Mutex<T>);

/// What is locked; unlocked when this is dropped.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T>(Option<system::MutexGuard<'a, T>>);

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
        Self(system::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(system::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.0 = guard.0.take().map(|inner| self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until it is told, or `until` is over; or wakes for no reason.
    #[cfg(not(loom))]
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        let left = until.saturating_duration_since(Instant::now());
        let mut timed_out = false;
        guard.0 = guard.0.take().map(|inner| {
            let (inner, result) = self.0.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
            timed_out = result.timed_out();
            inner
        });
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
