//! systemd's side of a service's life: readiness told on its socket, listening sockets handed over.
//! Its protocols are a datagram and three variables; no library is needed.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::socket::{getsockopt, sockopt};

use crate::limits::LISTENERS_MAX;
use crate::reactor;

/// The first descriptor that is handed over (sd_listen_fds(3)).
pub(super) const FIRST_FD: i32 = 3;

/// Tells the service manager what we are about (sd_notify(3)); without one it does nothing.
#[derive(Debug, Default)]
pub struct Notifier {
    to: Option<SocketAddr>,
}

impl Notifier {
    /// Follows NOTIFY_SOCKET.
    pub fn from_environment() -> Notifier {
        let to = env::var_os("NOTIFY_SOCKET").and_then(|name| address(name.as_bytes()));
        Notifier { to }
    }

    /// Connections are served; `pid` is the process to watch when that is not the one started.
    pub fn ready(&self, pid: Option<u32>) {
        let pid = pid.map(|pid| format!("\nMAINPID={pid}")).unwrap_or_default();
        self.tell(&format!("READY=1{pid}"));
    }

    /// Another process is the one to watch from now on.
    pub fn moved(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
    }

    /// The configuration is being read again; [`Notifier::ready`] follows.
    pub fn reloading(&self) {
        let microseconds = reactor::now().nanos() / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// A manager that does not listen is no reason to fail.
    fn tell(&self, text: &str) {
        let Some(to) = &self.to else { return };
        let _ = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to_addr(text.as_bytes(), to).map(|_| ()));
    }
}

/// A path, or a name without a file behind `@`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)).ok(),
        _ => None,
    }
}

/// Listening sockets that the service manager opened for us (sd_listen_fds(3)); none without one.
/// To be called once, before other descriptors are opened.
///
/// # Errors
/// What was handed over is no listening stream socket, or more than we take.
pub fn inherited_listeners() -> io::Result<Vec<OwnedFd>> {
    let count = inherited_count() as usize;
    if count > LISTENERS_MAX {
        return Err(io::Error::other(format!("LISTEN_FDS is {count}, over {LISTENERS_MAX}")));
    }
    (FIRST_FD..).take(count).map(listener).collect()
}

/// How many there are, if they are meant for this process.
pub(super) fn inherited_count() -> u32 {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return 0;
    }
    // More descriptors than a process can have are a slip.
    number("LISTEN_FDS").unwrap_or_default().min(i32::MAX as u32 / 2)
}

fn listener(fd: i32) -> io::Result<OwnedFd> {
    let wrong = |why: String| io::Error::other(format!("descriptor {fd} of LISTEN_FDS: {why}"));
    // SAFETY: takes two numbers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    nix::errno::Errno::result(flags).map_err(|why| wrong(why.to_string()))?;
    // SAFETY: it is open, and was given to this process for this purpose alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `fd` owns it and outlives the borrow.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    match getsockopt(&borrowed, sockopt::AcceptConn) {
        Ok(true) => super::listen::adopt(&fd)?,
        Ok(false) => return Err(wrong("it does not listen (ssh.socket needs Accept=no)".into())),
        Err(why) => return Err(wrong(why.to_string())),
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let notifier = Notifier { to: address(path.as_os_str().as_bytes()) };
        let mut buffer = [0; 200];
        let mut told = |tell: &dyn Fn()| {
            tell();
            let len = manager.recv(&mut buffer).expect("a word");
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        assert_eq!(told(&|| notifier.ready(None)), "READY=1");
        assert_eq!(told(&|| notifier.ready(Some(7))), "READY=1\nMAINPID=7");
        assert_eq!(told(&|| notifier.moved(8)), "MAINPID=8");
        assert_eq!(told(&|| notifier.stopping()), "STOPPING=1");
        let reloading = told(&|| notifier.reloading());
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a time");
        assert!(time.parse::<u64>().expect("a number") > 0);
        drop(manager);
        notifier.ready(None);
        Notifier::default().ready(None);
    }

    #[test]
    fn names_without_files_are_addresses_too() {
        assert!(address(b"@tidegate/test").expect("abstract").as_abstract_name().is_some());
        assert!(address(b"relative").is_none() && address(b"").is_none());
    }
}
