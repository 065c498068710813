//! See `benchtop_tests::fuzz::board`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::board::run(data));
