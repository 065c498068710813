//! See `benchtop_tests::fuzz::vdi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::vdi::run(data));
