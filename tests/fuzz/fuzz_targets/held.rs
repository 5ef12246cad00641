#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nodecert_fuzz::held(data));
