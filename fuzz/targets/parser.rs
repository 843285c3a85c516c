//! See `sg_fuzz::parser`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sg_fuzz::parser(bytes));
