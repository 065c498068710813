//! See `benchtop_tests::fuzz::ide`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::ide::run(data));
