//! See `benchtop_tests::fuzz::probe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::probe::run(data));
