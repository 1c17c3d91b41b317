//! Drives `zvb_fuzz::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zvb_fuzz::image::run(data));
