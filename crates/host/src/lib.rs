//! How a device meets a driver: the vhost-user protocol, its server side and its client side, and the
//! memory that both share.

pub mod client;
pub mod control;
pub mod memory;
pub mod sandbox;
pub mod server;
pub mod vduse;
pub mod vhost_user;

mod polling;
mod sys;
mod worker;
