//! See `benchtop_tests::fuzz::strata`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::strata::run(data));
