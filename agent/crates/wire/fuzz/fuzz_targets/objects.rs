//! See `bailiff_wire_fuzz::objects`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bailiff_wire_fuzz::objects(bytes));
