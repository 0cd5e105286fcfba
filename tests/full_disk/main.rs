//! Real devices that are full, cannot read, cannot write, or turn read-only: tmpfs, and ext4, xfs and btrfs on loop
//! devices.
//!
//! They need root. What cannot be mounted here is skipped by name. A test mounts its device and does its work in a child
//! process, so that a signal is a failure with a name and leaves nothing mounted.
#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

mod device;
mod full;
mod read_errors;
mod read_only;
#[path = "../common/skipped.rs"]
mod skipped;
mod store;
mod write_errors;
