//! See `sg_fuzz::decision`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sg_fuzz::decision(bytes));
