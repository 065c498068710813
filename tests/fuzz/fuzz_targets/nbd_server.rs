//! See `benchtop_tests::fuzz::nbd_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::nbd_server::run(data));
