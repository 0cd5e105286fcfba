//! Folders of a store whose files were edited, torn, spliced, renamed: refused with a reason, or served rightly.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| scratchspace_fuzz::folder::run(data));
