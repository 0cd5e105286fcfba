//! Which mappings the handler of SIGBUS may touch: looked up without a lock, by address.
//!
//! # Invariants
//!
//! 1. Places are never freed: the handler may walk them at any time.
//! 2. Looking up takes no lock and allocates nothing.
//! 3. A range is found whole or not at all, and only by the process that registered it.

use std::ptr;

use crate::os::faults::{Faults, Mark};
use crate::os::span::Span;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

/// Places in one piece of the registry.
const PLACES: usize = 64;

/// One registered mapping, or a free place.
#[derive(Debug)]
pub(super) struct Place {
    taken: AtomicBool,
    /// Where the mapping lies; no range if none is registered.
    span: Span,
    /// Whose mapping it is: a forked child does not get it, and may have something else there.
    process: AtomicU32,
    poisoned: Mark,
    replaced: AtomicU32,
}

/// A piece of the registry, in a list that only grows.
struct Piece {
    places: [Place; PLACES],
    next: AtomicPtr<Piece>,
}

static FIRST: Piece = Piece::new();

impl Place {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            span: Span::new(),
            process: AtomicU32::new(0),
            poisoned: Mark::new(),
            replaced: AtomicU32::new(0),
        }
    }

    /// Registers a range of this process, in a place whose marks are new.
    ///
    /// # Safety
    /// - The range is a mapping of whole pages that is only read from, and stays one until the place is forgotten: its
    ///   owner allows the handler to replace any page of it by zeros.
    pub(super) unsafe fn register(start: usize, len: usize) -> &'static Self {
        let place = Self::take();
        // Relaxed: marks of the last mapping here, which nobody asks for any more.
        place.poisoned.clear();
        place.replaced.store(0, Ordering::Relaxed);
        place.process.store(std::process::id(), Ordering::Relaxed);
        place.span.set(start, len);
        place
    }

    /// Gives the place back; whoever registered it does not use it any more.
    pub(super) fn forget(&self) {
        self.span.set(0, 0);
        // Release pairs with the Acquire in `take`.
        self.taken.store(false, Ordering::Release);
    }

    /// The place whose range `address` lies in, and that range.
    pub(super) fn find(address: usize) -> Option<(&'static Self, (usize, usize))> {
        let mut piece = Some(&FIRST);
        while let Some(here) = piece {
            for place in &here.places {
                if let Some(range) = place.holding(address) {
                    return Some((place, range));
                }
            }
            piece = here.next();
        }
        None
    }

    /// Marks the mapping, of which one more page will be replaced, and counts that; how many of its pages were before.
    pub(super) fn poison(&self, faults: &Faults) -> u32 {
        faults.raise(&self.poisoned);
        // Relaxed: only a count.
        self.replaced.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a page of the mapping was replaced.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.is_set()
    }

    /// How many pages of the mapping were replaced.
    #[cfg(test)]
    pub(super) fn replaced(&self) -> u32 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// A free place, in a new piece if there is none.
    fn take() -> &'static Self {
        let mut piece: &'static Piece = &FIRST;
        loop {
            for place in &piece.places {
                // Acquire pairs with the Release in `forget`.
                if place.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return place;
                }
            }
            piece = piece.next_or_new();
        }
    }

    /// The range, if `address` lies in it. A range that changes right now is not the one that is being read from
    /// (`sigbus`, invariant 2), so one look is enough.
    fn holding(&self, address: usize) -> Option<(usize, usize)> {
        let range = self.span.holding(address)?;
        // Relaxed: set before the range of this process was.
        (self.process.load(Ordering::Relaxed) == std::process::id()).then_some(range)
    }
}

impl Piece {
    const fn new() -> Self {
        Self { places: [const { Place::new() }; PLACES], next: AtomicPtr::new(ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Self> {
        // Acquire pairs with the Release in `next_or_new`.
        let next = self.next.load(Ordering::Acquire);
        // SAFETY: null, or a leaked piece (invariant 1).
        unsafe { next.as_ref() }
    }

    fn next_or_new(&self) -> &'static Self {
        self.next().unwrap_or_else(|| {
            let new = Box::into_raw(Box::new(Self::new()));
            // Release pairs with the Acquire in `next`, Acquire on failure with this Release.
            let there = self.next.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Acquire);
            let next = match there {
                Ok(_) => new,
                Err(other) => {
                    // SAFETY: nobody but this thread has seen the new one.
                    drop(unsafe { Box::from_raw(new) });
                    other
                }
            };
            // SAFETY: not null, and leaked (invariant 1).
            unsafe { &*next }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapOptions;

    #[test]
    fn a_forgotten_mapping_is_not_found_and_its_place_is_used_again() {
        // Anonymous memory, which is always there: other tests of this process use the registry too.
        let map = MmapOptions::new().len(8192).map_anon().unwrap();
        let (start, at, end) = (map.as_ptr().addr(), map.as_ptr().addr() + 5, map.as_ptr().addr() + 8192);
        // SAFETY: mapped until the end of the test, and no page of it is ever missing.
        let register = || unsafe { Place::register(start, 8192) };
        let place = register();
        let (found, range) = Place::find(at).unwrap();
        assert_eq!((ptr::eq(found, place), range), (true, (start, 8192)));
        assert!(Place::find(end).is_none_or(|(found, _)| !ptr::eq(found, place)));
        place.forget();
        assert!(Place::find(at).is_none());
        // More than one piece of the registry, and each place once.
        let many: Vec<_> = (0..=2 * PLACES).map(|_| register()).collect();
        let mut places: Vec<_> = many.iter().map(|place| ptr::from_ref(*place).addr()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), many.len());
        for place in many {
            place.forget();
        }
    }
}
