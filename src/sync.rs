//! Atomics, locks and threads: the standard ones, or loom's under `cfg(loom)`.
//!
//! Every other module takes them from here, so that a protocol between threads can be model-checked unchanged.
//! Locks have the shape of `parking_lot`: no poisoning, a condition variable waits on `&mut` guard.
#![forbid(unsafe_code)]

pub(crate) use std::sync::{Arc, OnceLock, Weak};

#[cfg(not(loom))]
pub(crate) use std::{sync::atomic, thread};

#[cfg(not(loom))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

#[cfg(loom)]
pub(crate) use self::model::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub(crate) use loom::{sync::atomic, thread};

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

/// loom's lock and condition variable in the shape of `parking_lot`'s.
#[cfg(loom)]
mod model {
    use std::ops::{Deref, DerefMut};
    use std::time::Instant;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    /// Whether a wait ended at its deadline. loom has no clock: it never does.
    #[derive(Debug)]
    pub(crate) struct WaitTimeoutResult;

    impl WaitTimeoutResult {
        pub(crate) fn timed_out(&self) -> bool {
            false
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect("loom locks are not poisoned")))
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let inner = guard.0.take().expect("a guard outside a wait holds its lock");
            guard.0 = Some(self.0.wait(inner).expect("loom locks are not poisoned"));
        }

        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) -> WaitTimeoutResult {
            self.wait(guard);
            WaitTimeoutResult
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

        fn deref(&self) -> &T {
            self.0.as_ref().expect("a guard outside a wait holds its lock")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("a guard outside a wait holds its lock")
        }
    }
}
