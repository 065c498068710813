//! See `benchtop_tests::fuzz::qcow2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::qcow2::run(data));
