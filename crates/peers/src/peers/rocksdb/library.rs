//! The few functions of `RocksDB`'s C interface that the adapter calls, found when the program runs.
//!
//! # Invariants
//!
//! 1. The functions live as long as the library is loaded, and it is never unloaded.
//! 2. Each signature is that of `rocksdb/c.h`, unchanged from 7.8 to this day; an older library lacks a symbol and is
//!    refused.
//! 3. Options, caches and databases come from the library, are not null, and are given back once.

use std::error::Error as _;
use std::ffi::{CStr, CString, c_char, c_double, c_int, c_uchar, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::{NonNull, null_mut};

/// Whatever the library made.
type Object = *mut c_void;
/// Where it puts the text of an error, from `malloc`.
type Error = *mut *mut c_char;

/// Names under which Debian has it, with and without the files for development.
const NAMES: [&str; 6] = [
    "librocksdb.so",
    "librocksdb.so.7.8",
    "librocksdb.so.8.9",
    "librocksdb.so.9.10",
    "librocksdb.so.9",
    "librocksdb.so.10",
];

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)+) => {
        /// Invariant 2.
        #[expect(non_snake_case, reason = "names of the library")]
        #[derive(Clone, Copy)]
        pub(super) struct Library {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
        }

        impl Library {
            fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $(
                        // SAFETY: the function has this signature by invariant 2, and is kept no longer than the library by
                        // invariant 1.
                        $name: *unsafe { library.get(concat!("rocksdb_", stringify!($name), "\0").as_bytes()) }?,
                    )+
                })
            }
        }
    };
}

functions! {
    options_create: fn() -> Object;
    options_destroy: fn(Object);
    options_set_create_if_missing: fn(Object, c_uchar);
    options_set_compression: fn(Object, c_int);
    options_set_write_buffer_size: fn(Object, usize);
    options_set_max_write_buffer_number: fn(Object, c_int);
    options_set_max_background_jobs: fn(Object, c_int);
    options_set_enable_blob_files: fn(Object, c_uchar);
    options_set_min_blob_size: fn(Object, u64);
    options_set_blob_file_size: fn(Object, u64);
    options_set_enable_blob_gc: fn(Object, c_uchar);
    options_set_blob_gc_age_cutoff: fn(Object, c_double);
    options_set_blob_gc_force_threshold: fn(Object, c_double);
    options_set_blob_cache: fn(Object, Object);
    options_set_block_based_table_factory: fn(Object, Object);
    block_based_options_create: fn() -> Object;
    block_based_options_destroy: fn(Object);
    block_based_options_set_block_cache: fn(Object, Object);
    cache_create_lru: fn(usize) -> Object;
    cache_destroy: fn(Object);
    open: fn(Object, *const c_char, Error) -> Object;
    close: fn(Object);
    writeoptions_create: fn() -> Object;
    writeoptions_destroy: fn(Object);
    writeoptions_disable_WAL: fn(Object, c_int);
    readoptions_create: fn() -> Object;
    readoptions_destroy: fn(Object);
    flushoptions_create: fn() -> Object;
    flushoptions_destroy: fn(Object);
    put: fn(Object, Object, *const c_char, usize, *const c_char, usize, Error);
    delete: fn(Object, Object, *const c_char, usize, Error);
    get_pinned: fn(Object, Object, *const c_char, usize, Error) -> Object;
    pinnableslice_value: fn(Object, *mut usize) -> *const c_char;
    pinnableslice_destroy: fn(Object);
    flush: fn(Object, Object, Error);
    free: fn(*mut c_void);
}

/// What a database is opened with.
pub(super) struct Options {
    pub(super) blob_file: u64,
    pub(super) least_blob: u64,
    pub(super) age_cutoff: f64,
    pub(super) forced_from: f64,
    pub(super) write_buffer: usize,
    pub(super) write_buffers: c_int,
    pub(super) jobs: c_int,
    pub(super) cache: usize,
}

impl Library {
    /// Finds the system's library.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) fn load() -> Result<Self, String> {
        Self::load_one_of(&NAMES)
    }

    fn load_one_of(names: &[&str]) -> Result<Self, String> {
        let mut why = String::new();
        for name in names {
            // SAFETY: the initialisers of RocksDB set up its own statics, and ask nothing of the caller.
            match unsafe { libloading::Library::new(*name) } {
                Ok(library) => {
                    // Invariant 1.
                    let library = ManuallyDrop::new(library);
                    let told = |error: libloading::Error| match error.source() {
                        Some(cause) => format!("{name} is too old: {cause}"),
                        None => format!("{name} is too old: {error}"),
                    };
                    return Self::of(&library).map_err(told);
                }
                // The words of the system stand behind those of the crate.
                Err(error) => why = error.source().map_or_else(|| error.to_string(), ToString::to_string),
            }
        }
        Err(format!("the system has no librocksdb (Debian: `apt-get install librocksdb-dev`): {why}"))
    }

    /// Opens a database in a folder, which is made if it is missing.
    pub(super) fn open(self, folder: &Path, options: &Options) -> Result<Open, String> {
        let path = CString::new(folder.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        let given = self.options(options);
        let opened = self.checked(|error| {
            // SAFETY: options by invariant 3, a text that ends with a zero, and a place for an error.
            unsafe { (self.open)(given, path.as_ptr(), error) }
        });
        // SAFETY: invariant 3; the database has a copy.
        unsafe { (self.options_destroy)(given) };
        let database = opened.and_then(|database| NonNull::new(database).ok_or_else(|| "no database".to_owned()))?;
        // SAFETY: asks for nothing.
        let write = unsafe { (self.writeoptions_create)() };
        // SAFETY: invariant 3.
        unsafe { (self.writeoptions_disable_WAL)(write, 1) };
        // SAFETY: asks for nothing.
        let read = unsafe { (self.readoptions_create)() };
        // SAFETY: asks for nothing. It waits by default.
        let flush = unsafe { (self.flushoptions_create)() };
        Ok(Open { library: self, database, write, read, flush })
    }

    fn options(self, options: &Options) -> Object {
        let Options { blob_file, least_blob, age_cutoff, forced_from, write_buffer, write_buffers, jobs, cache } =
            *options;
        // SAFETY: all of these make an object, or set a number in one of invariant 3. Tables and caches are counted, and
        // belong to the options once those have them.
        #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one duty, met once: each object was made here")]
        unsafe {
            let given = (self.options_create)();
            (self.options_set_create_if_missing)(given, 1);
            (self.options_set_compression)(given, 0);
            (self.options_set_write_buffer_size)(given, write_buffer);
            (self.options_set_max_write_buffer_number)(given, write_buffers);
            (self.options_set_max_background_jobs)(given, jobs);
            (self.options_set_enable_blob_files)(given, 1);
            (self.options_set_min_blob_size)(given, least_blob);
            (self.options_set_blob_file_size)(given, blob_file);
            (self.options_set_enable_blob_gc)(given, 1);
            (self.options_set_blob_gc_age_cutoff)(given, age_cutoff);
            (self.options_set_blob_gc_force_threshold)(given, forced_from);
            let cache = (self.cache_create_lru)(cache);
            let tables = (self.block_based_options_create)();
            (self.block_based_options_set_block_cache)(tables, cache);
            (self.options_set_block_based_table_factory)(given, tables);
            (self.options_set_blob_cache)(given, cache);
            (self.block_based_options_destroy)(tables);
            (self.cache_destroy)(cache);
            given
        }
    }

    /// Makes an error of the text that a call may leave.
    fn checked<T>(self, call: impl FnOnce(Error) -> T) -> Result<T, String> {
        let mut error = null_mut();
        let result = call(&raw mut error);
        if error.is_null() {
            return Ok(result);
        }
        // SAFETY: a text that ends with a zero, which nobody else has.
        let text = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
        // SAFETY: it is the caller's to free, and not used any more.
        unsafe { (self.free)(error.cast()) };
        Err(text)
    }
}

/// An open database.
pub(super) struct Open {
    library: Library,
    database: NonNull<c_void>,
    write: Object,
    read: Object,
    flush: Object,
}

// SAFETY: a database may be used by any thread, and options are read only once they are set.
unsafe impl Send for Open {}
// SAFETY: a database takes calls of several threads at once, and options are read only once they are set.
unsafe impl Sync for Open {}

impl Open {
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let (keys, values) = (key.as_ptr().cast(), value.as_ptr().cast());
        self.library.checked(|error| {
            // SAFETY: objects by invariant 3, two slices with their lengths, and a place for an error.
            unsafe {
                (self.library.put)(self.database.as_ptr(), self.write, keys, key.len(), values, value.len(), error);
            }
        })
    }

    pub(super) fn delete(&self, key: &[u8]) -> Result<(), String> {
        self.library.checked(|error| {
            // SAFETY: objects by invariant 3, a slice with its length, and a place for an error.
            unsafe {
                (self.library.delete)(self.database.as_ptr(), self.write, key.as_ptr().cast(), key.len(), error);
            }
        })
    }

    /// Lends a value; false if there is none.
    pub(super) fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<bool, String> {
        let pinned = self.library.checked(|error| {
            // SAFETY: objects by invariant 3, a slice with its length, and a place for an error.
            unsafe {
                (self.library.get_pinned)(self.database.as_ptr(), self.read, key.as_ptr().cast(), key.len(), error)
            }
        })?;
        if pinned.is_null() {
            return Ok(false);
        }
        let mut len = 0;
        // SAFETY: a slice that is pinned, and a place for its length.
        let value = unsafe { (self.library.pinnableslice_value)(pinned, &raw mut len) };
        // SAFETY: so many bytes are there, and nobody changes them, until the slice is given back below.
        visit(unsafe { std::slice::from_raw_parts(value.cast(), len) });
        // SAFETY: once, and nothing is lent any more.
        unsafe { (self.library.pinnableslice_destroy)(pinned) };
        Ok(true)
    }

    pub(super) fn flush(&self) -> Result<(), String> {
        self.library.checked(|error| {
            // SAFETY: objects by invariant 3, and a place for an error.
            unsafe { (self.library.flush)(self.database.as_ptr(), self.flush, error) }
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: each is given back once by invariant 3, and no thread calls any more: `self` is lent to none.
        #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one duty, met once: the end of all four")]
        unsafe {
            (self.library.close)(self.database.as_ptr());
            (self.library.writeoptions_destroy)(self.write);
            (self.library.readoptions_destroy)(self.read);
            (self.library.flushoptions_destroy)(self.flush);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_or_lacks_a_function_is_refused_with_the_reason() {
        let refused = |names: &[&str]| Library::load_one_of(names).map(drop).unwrap_err();
        let why = refused(&["libnobody-has-this.so"]);
        assert!(why.contains("no librocksdb") && why.contains("libnobody-has-this.so"), "{why}");
        let why = refused(&["libc.so.6"]);
        assert!(why.contains("too old") && why.contains("rocksdb_"), "{why}");
    }
}
