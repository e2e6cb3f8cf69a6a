//! Listening sockets: opened, kept over a reload, taken over from a service manager.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use anyhow::bail;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen,
    setsockopt, shutdown, socket, sockopt,
};
use tracing::warn;

use super::config::{Endpoint, Global};
use crate::limits::{PORT_WAIT_MAX, PORT_WAIT_STEP};
use crate::reactor;

/// Connections the kernel completes ahead of us.
const BACKLOG: i32 = 4096;

/// The sockets a gateway listens on, each with the address the configuration asked for.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    open: Vec<(Endpoint, Arc<OwnedFd>)>,
    /// They came from a service manager: ListenAddress and Port do not count.
    given: bool,
}

impl Listeners {
    /// Sockets that somebody else opened.
    ///
    /// # Errors
    /// One of them has no IP address.
    pub fn given(sockets: Vec<OwnedFd>) -> anyhow::Result<Listeners> {
        let mut open = Vec::new();
        for socket in sockets {
            let Some(address) = addresses([&socket]).pop() else {
                bail!("a listening socket that was handed over has no IP address");
            };
            open.push((Endpoint { address, rdomain: None }, Arc::new(socket)));
        }
        Ok(Listeners { open, given: true })
    }

    /// Those of the program whose place this one takes.
    pub fn inherited(sockets: Vec<(Endpoint, OwnedFd)>, given: bool) -> Listeners {
        let open = sockets.into_iter().map(|(endpoint, socket)| (endpoint, Arc::new(socket)));
        Listeners { open: open.collect(), given }
    }

    /// They came from a service manager.
    pub const fn are_given(&self) -> bool {
        self.given
    }

    /// Each socket, and what it was opened for.
    pub fn each(&self) -> impl Iterator<Item = (&Endpoint, &OwnedFd)> {
        self.open.iter().map(|(endpoint, socket)| (endpoint, &**socket))
    }

    /// Opens what the configuration names.
    ///
    /// # Errors
    /// An address cannot be listened on, or none is left.
    pub fn open(global: &Global) -> anyhow::Result<Listeners> {
        Listeners::default().renewed(global)
    }

    /// What another configuration names. Sockets that it names too are kept as they are, so that no
    /// client is refused meanwhile; the others are for [`Listeners::close_except`].
    ///
    /// # Errors
    /// As for [`Listeners::open`]; these sockets then go on listening.
    pub fn renewed(&self, global: &Global) -> anyhow::Result<Listeners> {
        if self.given {
            return Ok(Listeners { open: self.open.clone(), given: true });
        }
        let outcome = self.renew(&global.sockets()?);
        if outcome.is_err() {
            self.resume();
        }
        outcome
    }

    /// Listens again where another configuration was in the way and then came to nothing.
    pub fn resume(&self) {
        for (_, socket) in &self.open {
            let _ = Backlog::new(BACKLOG).and_then(|backlog| listen(&**socket, backlog));
        }
    }

    fn renew(&self, wanted: &[Endpoint]) -> anyhow::Result<Listeners> {
        let mut open = Vec::new();
        for address in wanted {
            let kept = self.open.iter().find(|(known, _)| known == address);
            let opened = match kept {
                Some((_, socket)) => Ok(Arc::clone(socket)),
                None => self.open_beside(address, wanted).map(Arc::new),
            };
            match opened {
                Ok(socket) => open.push((address.clone(), socket)),
                // A machine without IPv6 still serves IPv4, as sshd does.
                Err(why) if wanted.len() > 1 && why.kind() == io::ErrorKind::AddrNotAvailable => {
                    warn!("{why}");
                }
                Err(why) => return Err(why.into()),
            }
        }
        if open.is_empty() {
            bail!("no address to listen on could be opened");
        }
        Ok(Listeners { open, given: false })
    }

    /// A new address may be in the way of an old one, as 127.0.0.1 and 0.0.0.0 are at one port: what
    /// is not wanted any more then goes first.
    fn open_beside(&self, endpoint: &Endpoint, wanted: &[Endpoint]) -> io::Result<OwnedFd> {
        let refused = match open(endpoint) {
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => why,
            outcome => return outcome,
        };
        let port = endpoint.address.port();
        let in_the_way = |old: &Endpoint| old.address.port() == port && !wanted.contains(old);
        let old = self.open.iter().filter(|(old, _)| in_the_way(old));
        let silenced = old.map(|(_, socket)| silence(socket)).count();
        match silenced {
            0 if self.open.is_empty() => open_soon(endpoint, refused),
            0 => Err(refused),
            _ => open(endpoint),
        }
    }

    /// Ends listening on what `kept` has not, at once: accepts in the kernel still hold a socket
    /// that is only closed. Those of a service manager stay: it goes on listening itself.
    pub fn close_except(&self, kept: &Listeners) {
        if self.given {
            return;
        }
        let is_kept = |socket: &Arc<OwnedFd>| kept.open.iter().any(|(_, k)| Arc::ptr_eq(k, socket));
        self.open.iter().map(|(_, socket)| socket).filter(|s| !is_kept(s)).for_each(silence);
    }

    pub fn sockets(&self) -> Vec<Arc<OwnedFd>> {
        self.open.iter().map(|(_, socket)| Arc::clone(socket)).collect()
    }

    /// The addresses as they were bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().flat_map(|(_, socket)| addresses([&**socket])).collect()
    }
}

/// Opens a listening socket.
///
/// # Errors
/// The system's, with the address and what usually helps.
pub fn open(endpoint: &Endpoint) -> io::Result<OwnedFd> {
    let address = endpoint.address;
    try_open(endpoint).map_err(|why| {
        let hint = match why.kind() {
            io::ErrorKind::AddrInUse => "; another program listens there, choose a port with -p",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need root, choose one with -p",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        io::Error::new(why.kind(), format!("cannot listen on {address}: {why}{hint}"))
    })
}

/// As [`open`] at a start: a gateway that was killed a moment ago may have processes that are about to
/// end, and hold the port till then.
fn open_soon(endpoint: &Endpoint, mut refused: io::Error) -> io::Result<OwnedFd> {
    let end = reactor::now().after(PORT_WAIT_MAX);
    while reactor::now() < end {
        thread::sleep(PORT_WAIT_STEP);
        match open(endpoint) {
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => refused = why,
            outcome => return outcome,
        }
    }
    Err(refused)
}

/// Makes a listening socket that was handed over one like ours.
///
/// # Errors
/// The system refused.
pub fn adopt(socket: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The addresses of listening sockets, as they were bound.
pub fn addresses<'a>(listeners: impl IntoIterator<Item = &'a OwnedFd>) -> Vec<SocketAddr> {
    listeners
        .into_iter()
        .filter_map(|fd| fd.try_clone().ok())
        .filter_map(|fd| std::net::TcpListener::from(fd).local_addr().ok())
        .collect()
}

fn silence(socket: &Arc<OwnedFd>) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

fn try_open(endpoint: &Endpoint) -> io::Result<OwnedFd> {
    let address = endpoint.address;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        // An IPv4 listener of its own stands beside it, as with sshd.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if let Some(name) = &endpoint.rdomain {
        setsockopt(&fd, sockopt::BindToDevice, &OsString::from(name))?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::gateway::config;

    #[test]
    fn a_port_in_use_is_explained() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("its address");
        let at = |address| Endpoint { address, rdomain: None };
        let error = open(&at(address)).expect_err("it is taken").to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("choose a port with -p"), "{error}");
        assert!(open(&at("127.0.0.1:0".parse().expect("address"))).is_ok());
    }

    fn global(addresses: &[SocketAddr]) -> Global {
        let lines = addresses.iter().map(|address| format!("ListenAddress {address}\n"));
        config::parse(lines.collect::<String>().as_bytes()).expect("a configuration").global
    }

    fn free() -> SocketAddr {
        let [address] = all_free();
        address
    }

    /// As many that differ: one that is let go before the next is chosen may be chosen again.
    fn all_free<const COUNT: usize>() -> [SocketAddr; COUNT] {
        let listeners: [TcpListener; COUNT] =
            std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        listeners.each_ref().map(|listener| listener.local_addr().expect("its address"))
    }

    #[test]
    fn what_stays_is_kept_and_what_goes_refuses_at_once() {
        let [stays, goes, comes] = all_free();
        let before = Listeners::open(&global(&[stays, goes])).expect("sockets");
        // Completed by the kernel, accepted by nobody yet: it must not be lost.
        let early = TcpStream::connect(stays).expect("a connection");
        let after = before.renewed(&global(&[stays, comes])).expect("sockets");
        before.close_except(&after);
        assert_eq!(after.addresses(), [stays, comes]);
        assert!(TcpStream::connect(stays).is_ok() && TcpStream::connect(comes).is_ok());
        assert!(TcpStream::connect(goes).is_err(), "{goes} still listens");
        assert!(Arc::ptr_eq(&before.sockets()[0], &after.sockets()[0]));
        assert!(early.take_error().expect("a state").is_none());
    }

    #[test]
    fn an_address_in_the_way_of_another_gives_way_and_comes_back_on_failure() {
        let narrow = free();
        let wide = SocketAddr::new("0.0.0.0".parse().expect("an address"), narrow.port());
        let before = Listeners::open(&global(&[wide])).expect("sockets");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let taken = taken.local_addr().map(|address| (address, taken)).expect("its address");
        assert!(before.renewed(&global(&[narrow, taken.0])).is_err());
        assert!(TcpStream::connect(narrow).is_ok(), "the old one listens again");
        let after = before.renewed(&global(&[narrow])).expect("sockets");
        before.close_except(&after);
        assert!(TcpStream::connect(narrow).is_ok());
    }

    #[test]
    fn sockets_that_were_given_stay_whatever_the_configuration_says() {
        let socket = OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("a free port"));
        adopt(&socket).expect("flags");
        let given = Listeners::given(vec![socket]).expect("a socket");
        let after = given.renewed(&global(&[free()])).expect("sockets");
        assert_eq!(given.addresses(), after.addresses());
    }
}
