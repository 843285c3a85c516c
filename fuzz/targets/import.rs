//! See `sg_fuzz::import`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sg_fuzz::import(bytes));
