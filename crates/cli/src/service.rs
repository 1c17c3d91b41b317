//! What a service manager (systemd) and a server tell each other, by its protocol and without its library:
//! sockets that are handed over, and word that the service is ready.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::output::Usage;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// The socket that was handed over to this process, if one was: its descriptor.
pub(crate) fn handed_over() -> Result<Option<i32>, Usage> {
    let variable = |name| env::var(name).ok();
    choose(variable("LISTEN_PID").as_deref(), variable("LISTEN_FDS").as_deref(), std::process::id())
}

fn choose(pid: Option<&str>, count: Option<&str>, own: u32) -> Result<Option<i32>, Usage> {
    // What was meant for another process may have been inherited.
    if pid.and_then(|pid| pid.parse().ok()) != Some(own) {
        return Ok(None);
    }
    match count.map(str::parse::<u32>) {
        Some(Ok(1)) => Ok(Some(FIRST)),
        None | Some(Ok(0)) => Ok(None),
        Some(_) => Err(Usage(format!(
            "LISTEN_FDS is {}, and one server serves one socket; use a service for each",
            count.unwrap_or_default()
        ))),
    }
}

/// The way to a service manager that waits for word; to be made before the process confines itself.
pub(crate) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Who NOTIFY_SOCKET names.
    pub(crate) fn from_environment() -> io::Result<Self> {
        match env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => Self::at(&name).map(|socket| Self(Some(socket))),
            _ => Ok(Self(None)),
        }
    }

    /// A path, or with a leading @ a name of no file.
    fn at(name: &OsString) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(rest) => SocketAddr::from_abstract_name(rest)?,
            None => SocketAddr::from_pathname(OsStr::from_bytes(name.as_bytes()))?,
        };
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// The service is ready.
    pub(crate) fn ready(&self) {
        self.tell("READY=1\nSTATUS=Serving");
    }

    /// The service is about to end.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, what: &str) {
        if let Some(socket) = &self.0 {
            // Who does not listen any more misses it.
            let _ = socket.send(what.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_is_taken_and_only_by_whom_it_is_meant_for() {
        let choose = |pid, count| choose(pid, count, 17).map_err(|usage| usage.0);
        assert_eq!(choose(Some("17"), Some("1")), Ok(Some(3)));
        assert_eq!(choose(Some("18"), Some("1")), Ok(None));
        assert_eq!(choose(None, Some("1")), Ok(None));
        assert_eq!(choose(Some("17"), None), Ok(None));
        assert_eq!(choose(Some("17"), Some("0")), Ok(None));
        assert!(choose(Some("17"), Some("2")).unwrap_err().contains("LISTEN_FDS is 2"));
        assert!(choose(Some("17"), Some("many")).is_err());
    }

    #[test]
    fn a_manager_hears_that_the_service_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = Manager(Some(Manager::at(&path.into_os_string()).unwrap()));
        manager.ready();
        let mut heard = [0; 64];
        let len = listener.recv(&mut heard).unwrap();
        assert!(heard[..len].starts_with(b"READY=1\n"));

        let name = format!("zvb-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let manager = Manager(Some(Manager::at(&format!("@{name}").into()).unwrap()));
        manager.stopping();
        let len = listener.recv(&mut heard).unwrap();
        assert_eq!(&heard[..len], b"STOPPING=1");
    }
}
