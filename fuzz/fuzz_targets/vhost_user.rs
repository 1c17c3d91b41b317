//! Drives `zvb_fuzz::vhost_user`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zvb_fuzz::vhost_user::run(data));
