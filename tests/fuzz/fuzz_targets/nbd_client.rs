//! See `benchtop_tests::fuzz::nbd_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| benchtop_tests::fuzz::nbd_client::run(data));
