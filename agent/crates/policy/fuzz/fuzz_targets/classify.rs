//! See `bailiff_policy_fuzz::classify`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiff_policy_fuzz::classify(bytes));
