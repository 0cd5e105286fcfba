//! The header of a file: any 512 bytes, believed or not as docs/format.md says.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scratchspace_fuzz::header::run(data));
