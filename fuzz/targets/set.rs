//! See `sg_fuzz::set`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sg_fuzz::set(bytes));
