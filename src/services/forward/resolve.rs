use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::AsRawFd;

use crate::limits::CONNECT_ADDRESSES_MAX;

/// The addresses behind a name in the order in which they are to be tried: as the system sorts
/// them, the families by turns (RFC 8305 §4). Blocks.
///
/// # Errors
/// The name is unknown, or nobody can be asked.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses = by_turns((host, port).to_socket_addrs()?);
    match addresses.is_empty() {
        true => Err(io::Error::other("the name has no address")),
        false => Ok(addresses),
    }
}

/// Connects to the socket at this path, with the rights of this process. Waits for the file system
/// and for nothing else.
///
/// # Errors
/// There is no such socket, nobody listens, or too many wait already.
pub fn connect_to_path(path: &[u8]) -> io::Result<OwnedFd> {
    // An empty path, and one that starts with NUL, would name something else than a file.
    if path.is_empty() || path.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let address = UnixAddr::new(Path::new(std::ffi::OsStr::from_bytes(path)))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn by_turns(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for address in found {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    let Some(first) = all.first().map(SocketAddr::is_ipv4) else { return all };
    let (preferred, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| address.is_ipv4() == first);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [preferred.next(), others.next()];
        if pair == [None, None] || ordered.len() >= CONNECT_ADDRESSES_MAX {
            ordered.truncate(CONNECT_ADDRESSES_MAX);
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let list = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| format!("{text}:1").parse().expect("an address")).collect()
        };
        let sorted = list(&["[2001:db8::1]", "[2001:db8::2]", "192.0.2.1", "[2001:db8::1]"]);
        let turns = list(&["[2001:db8::1]", "192.0.2.1", "[2001:db8::2]"]);
        assert_eq!(by_turns(sorted.into_iter()), turns);
        let four = list(&["192.0.2.1", "192.0.2.2", "[2001:db8::1]"]);
        assert_eq!(by_turns(four.into_iter()), list(&["192.0.2.1", "[2001:db8::1]", "192.0.2.2"]));
        let many = (0..100).map(|n| SocketAddr::from(([192, 0, 2, n], 1)));
        assert_eq!(by_turns(many).len(), CONNECT_ADDRESSES_MAX);
        assert!(by_turns(std::iter::empty()).is_empty());
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        let long = vec![b'a'; 4096];
        for path in [&b""[..], b"\0abstract", b"/a\0b", b"/no/such/socket", &long] {
            assert!(connect_to_path(path).is_err(), "{path:?}");
        }
    }
}
