//! Drives `zvb_fuzz::ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zvb_fuzz::ring::run(data));
