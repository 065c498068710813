//! See `benchtop_tests::fuzz::vmdk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::vmdk::run(data));
