//! What the fuzz targets do with their bytes. `tests/corpus.rs` of the library does the same with the seeds, on any
//! toolchain.
//!
//! # Invariants
//!
//! 1. Equal bytes do the same: base stores have fixed ids and nonces, and nothing here is drawn at random.
//! 2. A target knows the format from `docs/format.md` alone (`format.rs`), not from the code that it tests.

pub mod blittable_reader;
mod bounded;
pub mod directory;
pub mod folder;
mod format;
pub mod header;
mod memory;
pub mod seeds;
mod store;

/// What AddressSanitizer does unless `ASAN_OPTIONS` says otherwise: a store starts some threads at each opening, and the
/// second stack that would be mapped for each of them costs more than all they do.
#[cfg(fuzzing)]
#[unsafe(no_mangle)]
extern "C" fn __asan_default_options() -> *const std::ffi::c_char {
    c"detect_stack_use_after_return=0:quarantine_size_mb=16:thread_local_quarantine_size_kb=64:malloc_context_size=8"
        .as_ptr()
}
