//! The directory of a file: any entries, forged ones too, give the blocks that docs/format.md says.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scratchspace_fuzz::directory::run(data));
