//! See `sg_fuzz::rules`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sg_fuzz::rules(bytes));
