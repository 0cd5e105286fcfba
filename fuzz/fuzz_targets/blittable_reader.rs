//! The payload of a block, read as typed values in any order.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scratchspace_fuzz::blittable_reader::run(data));
