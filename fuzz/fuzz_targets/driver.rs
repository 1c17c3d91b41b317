//! Drives `zvb_fuzz::driver`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zvb_fuzz::driver::run(data));
