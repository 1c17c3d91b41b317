//! Drives `zvb_fuzz::device`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zvb_fuzz::device::run(data));
