use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

/// Connections the kernel completes ahead of us.
const BACKLOG: i32 = 4096;

/// Opens a listening socket.
///
/// # Errors
/// The system's, with the address and what usually helps.
pub fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    try_open(address).map_err(|why| {
        let hint = match why.kind() {
            io::ErrorKind::AddrInUse => "; another program listens there, choose a port with -p",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need root, choose one with -p",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        io::Error::new(why.kind(), format!("cannot listen on {address}: {why}{hint}"))
    })
}

fn try_open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        // An IPv4 listener of its own stands beside it, as with sshd.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_explained() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("its address");
        let error = open(address).expect_err("it is taken").to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("choose a port with -p"), "{error}");
        assert!(open("127.0.0.1:0".parse().expect("address")).is_ok());
    }
}
