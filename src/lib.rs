//! A bounded store of binary blocks on local disks, read zero-copy from a memory mapping.

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!(
    "scratchspace supports little-endian 64-bit targets only: typed values are stored as they lie in memory"
);

mod sync;
