//! See `benchtop_tests::fuzz::vhd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::vhd::run(data));
