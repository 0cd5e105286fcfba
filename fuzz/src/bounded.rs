//! An allocator that refuses to be asked for much: no file of these targets justifies it.
//!
//! # Invariants
//!
//! 1. One allocation above [`MOST`] ends the process, whatever the length on disk was that asked for it.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes. The largest legitimate allocation is a piece of a directory, 1 MiB, and what proptest and libfuzzer need.
const MOST: usize = 64 << 20;

struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn check(size: usize) {
    if size > MOST {
        eprintln!("{size} bytes were asked for at once, more than {MOST}");
        std::process::abort();
    }
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: by the caller.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: by the caller.
        unsafe { System.realloc(at, layout, size) }
    }
}
