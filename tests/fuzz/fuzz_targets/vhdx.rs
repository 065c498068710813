//! See `benchtop_tests::fuzz::vhdx`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::vhdx::run(data));
