//! The client side of vhost-user: a [`Transport`](zvb_driver::Transport) over a socket, and memory to
//! share over it.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use zvb_host::client::{Options, SharedMemory, VhostUser};
//!
//! let memory = SharedMemory::new(64 << 20)?;
//! let device = VhostUser::connect("disk.sock".as_ref(), memory.clone(), Options::default())?;
//! # Ok(())
//! # }
//! ```

mod config;
mod connection;
mod error;
mod memory;
mod queue;
mod requests;
#[cfg(test)]
mod tests;
mod transport;

pub use error::{ClientError, Violation};
pub use memory::SharedMemory;
pub use transport::{Options, VhostUser};
