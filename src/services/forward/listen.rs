use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockname,
    listen, setsockopt, socket, sockopt,
};

use super::permits::{Forwarding, GatewayPorts};
use super::{Target, forbidden};
use crate::connection::ChannelId;
use crate::limits::{FORWARD_BACKLOG, LISTENER_SOCKETS_MAX, PORT_CHOICES_MAX};
use crate::services::umask::with_umask;

/// Where a client wants connections to be taken for it; as it wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Port 0 leaves the choice to us.
    Tcp {
        address: Box<str>,
        port: u32,
    },
    Path(Box<[u8]>),
    /// Where programs find the client's agent. Made by [`super::make_agent_socket`] alone.
    Agent(PathBuf),
    /// The display of one session. Made by [`super::listen_as_display`] alone.
    Display {
        number: u16,
        channel: ChannelId,
        /// For one connection.
        single: bool,
    },
    /// A client's own: connections go on to this target from the server.
    Near(Target),
}

/// What it takes to listen there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    pub place: Place,
    pub gateway_ports: GatewayPorts,
    pub inet: bool,
    pub inet6: bool,
    /// StreamLocalBindMask.
    pub mask: u32,
    /// StreamLocalBindUnlink.
    pub unlink: bool,
}

impl ListenSpec {
    /// A name server may have to be asked first.
    pub fn asks_for_a_name(&self) -> bool {
        let chosen = self.gateway_ports == GatewayPorts::ClientSpecified;
        let names = |address: &str| address.parse::<IpAddr>().is_err();
        chosen && matches!(&self.place, Place::Tcp { address, .. } if names(address))
    }
}

/// Sockets that listen for one place, and the port they have in common; zero for a path.
#[derive(Debug)]
pub struct Listening {
    pub sockets: Vec<OwnedFd>,
    pub port: u16,
    /// One of several addresses that somebody else has, and why.
    pub refused: Option<String>,
}

impl Place {
    /// The type of the channels that come of it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Place::Tcp { .. } => "forwarded-tcpip",
            Place::Path(_) => "forwarded-streamlocal@openssh.com",
            Place::Agent(_) => "agent-connection",
            Place::Display { .. } => "x11-connection",
            Place::Near(target) => target.kind(),
        }
    }

    /// Whether a login may listen there; if not, why.
    ///
    /// # Errors
    /// The setting or the option that forbids it.
    pub fn check(&self, rules: &Forwarding, uid: u32) -> Result<(), &'static str> {
        let ways = match self {
            Place::Tcp { .. } => rules.tcp,
            Place::Path(_) => rules.streamlocal,
            Place::Agent(_) | Place::Display { .. } | Place::Near(_) => {
                return Err("nobody asks for it in this way");
            }
        };
        if !ways.remote {
            return Err(forbidden(matches!(self, Place::Tcp { .. })));
        }
        let Place::Tcp { address, port } = self else { return Ok(()) };
        let Ok(port) = u16::try_from(*port) else { return Err("a port is at most 65535") };
        if (1..1024).contains(&port) && uid != 0 {
            return Err("ports below 1024 are root's");
        }
        match () {
            () if !rules.listen.permits_listening(address, port) => {
                Err("PermitListen does not list it")
            }
            () if !rules.key_listen.permits_listening(address, port) => {
                Err("the key's permitlisten does not list it")
            }
            () => Ok(()),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp { address, port } if address.is_empty() => write!(out, "* port {port}"),
            Place::Tcp { address, port } => write!(out, "{address} port {port}"),
            Place::Path(path) => out.write_str(&String::from_utf8_lossy(path)),
            Place::Agent(path) => write!(out, "{}", path.display()),
            Place::Display { number, .. } => write!(out, "display {number}"),
            Place::Near(target) => write!(out, "here, for {target}"),
        }
    }
}

/// Listens as RFC 4254 §7.1 and sshd read what the client asked for, with the rights of this
/// process. May look a name up.
///
/// # Errors
/// Nothing could be bound: the first reason.
pub fn listen_at(spec: &ListenSpec) -> io::Result<Listening> {
    match &spec.place {
        Place::Tcp { address, port } => {
            let port = u16::try_from(*port).map_err(io::Error::other)?;
            let addresses = addresses(address, spec)?;
            chosen(port, || listen_on(&addresses, port))
        }
        Place::Path(path) => {
            let socket = with_umask(Some(spec.mask), || bind_path(path, spec.unlink))?;
            listen(&socket, Backlog::new(FORWARD_BACKLOG)?)?;
            Ok(Listening { sockets: vec![socket], port: 0, refused: None })
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The addresses that an address to bind stands for (RFC 4254 §7.1): without GatewayPorts only
/// loopback ones, of both families unless one was named.
fn addresses(asked: &str, spec: &ListenSpec) -> io::Result<Vec<IpAddr>> {
    let wanted = |address: &IpAddr| if address.is_ipv4() { spec.inet } else { spec.inet6 };
    let pair = |six, four| [IpAddr::V6(six), IpAddr::V4(four)].into_iter().filter(wanted);
    let everywhere = || pair(Ipv6Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED).collect();
    let loopback = || -> Vec<_> { pair(Ipv6Addr::LOCALHOST, Ipv4Addr::LOCALHOST).collect() };
    let wild = asked.is_empty() || asked == "*";
    Ok(match (spec.gateway_ports, asked) {
        (GatewayPorts::Yes, _) => everywhere(),
        (GatewayPorts::ClientSpecified, _) if wild => everywhere(),
        (_, "localhost") => loopback(),
        (_, "127.0.0.1") => loopback().into_iter().filter(IpAddr::is_ipv4).collect(),
        (_, "::1") => loopback().into_iter().filter(IpAddr::is_ipv6).collect(),
        (GatewayPorts::ClientSpecified, name) => {
            let found = (name, 0).to_socket_addrs()?.map(|address| address.ip());
            let mut found: Vec<IpAddr> = found.filter(wanted).collect();
            found.dedup();
            found.truncate(LISTENER_SOCKETS_MAX);
            found
        }
        (GatewayPorts::No, _) => loopback(),
    })
}

/// A port that the kernel chooses (0) is one that is free on the first address; where another has it taken,
/// it chooses again.
fn chosen(port: u16, mut listen: impl FnMut() -> io::Result<Listening>) -> io::Result<Listening> {
    let mut listening = listen()?;
    for _ in 1..PORT_CHOICES_MAX {
        if port != 0 || listening.refused.is_none() {
            break;
        }
        listening = listen()?;
    }
    Ok(listening)
}

fn listen_on(addresses: &[IpAddr], mut port: u16) -> io::Result<Listening> {
    let mut sockets = Vec::new();
    let mut failed = None;
    for address in addresses {
        match bind_address(SocketAddr::new(*address, port)) {
            Ok((socket, bound)) => {
                // The others have the port that was chosen for the first.
                port = bound;
                sockets.push(socket);
            }
            Err(why) => {
                failed.get_or_insert((*address, why));
            }
        }
    }
    // A machine without a family is no reason to say anything.
    let taken = |(_, why): &&(IpAddr, io::Error)| why.kind() == io::ErrorKind::AddrInUse;
    let tell = |(address, why): &(IpAddr, io::Error)| format!("{address} port {port}: {why}");
    let refused = failed.as_ref().filter(taken).map(tell);
    match (sockets.is_empty(), failed) {
        (false, _) => Ok(Listening { sockets, port, refused }),
        (true, Some((_, why))) => Err(why),
        (true, None) => Err(io::Error::other("there is no such address here")),
    }
}

pub(super) fn bind_address(at: SocketAddr) -> io::Result<(OwnedFd, u16)> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, flags(), None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&socket, Backlog::new(FORWARD_BACKLOG)?)?;
    let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let port = match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(name), _) => name.port(),
        (None, Some(name)) => name.port(),
        (None, None) => at.port(),
    };
    Ok((socket, port))
}

fn bind_path(path: &[u8], unlink: bool) -> io::Result<OwnedFd> {
    if path.is_empty() || path.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = Path::new(OsStr::from_bytes(path));
    let address = UnixAddr::new(path)?;
    if unlink {
        match std::fs::remove_file(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
    }
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags(), None)?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn flags() -> SockFlag {
    SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(gateway_ports: GatewayPorts) -> ListenSpec {
        let place = Place::Tcp { address: "".into(), port: 0 };
        ListenSpec { place, gateway_ports, inet: true, inet6: true, mask: 0o177, unlink: false }
    }

    #[test]
    fn gateway_ports_says_where_connections_may_come_from() {
        let all = ["::", "0.0.0.0"];
        let own = ["::1", "127.0.0.1"];
        for (gateway_ports, asked, expected) in [
            (GatewayPorts::No, "", &own[..]),
            (GatewayPorts::No, "*", &own),
            (GatewayPorts::No, "localhost", &own),
            (GatewayPorts::No, "0.0.0.0", &own),
            (GatewayPorts::No, "192.0.2.1", &own),
            (GatewayPorts::No, "127.0.0.1", &own[1..]),
            (GatewayPorts::No, "::1", &own[..1]),
            (GatewayPorts::Yes, "localhost", &all),
            (GatewayPorts::Yes, "127.0.0.1", &all),
            (GatewayPorts::ClientSpecified, "", &all),
            (GatewayPorts::ClientSpecified, "*", &all),
            (GatewayPorts::ClientSpecified, "0.0.0.0", &all[1..]),
            (GatewayPorts::ClientSpecified, "localhost", &own),
            (GatewayPorts::ClientSpecified, "127.0.0.2", &["127.0.0.2"]),
        ] {
            let found = addresses(asked, &spec(gateway_ports)).expect(asked);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{gateway_ports:?} {asked:?}");
        }
        let spec = ListenSpec { inet6: false, ..spec(GatewayPorts::No) };
        assert_eq!(addresses("", &spec).expect("one"), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        assert!(addresses("::1", &spec).expect("none").is_empty(), "AddressFamily inet");
    }

    #[test]
    fn a_port_that_is_taken_on_one_address_is_chosen_again() {
        let listening = |refused: bool| {
            let refused = refused.then(|| "taken".to_owned());
            Ok(Listening { sockets: Vec::new(), port: 1, refused })
        };
        for (port, taken, asked, refused) in
            [(0, 2, 3, false), (0, u32::MAX, PORT_CHOICES_MAX, true), (80, 2, 1, true)]
        {
            let mut times = 0;
            let found = chosen(port, || {
                times += 1;
                listening(times <= taken)
            });
            assert_eq!((times, found.expect("one").refused.is_some()), (asked, refused));
        }
    }

    #[test]
    fn a_port_of_our_choice_is_the_same_on_every_address() {
        let Listening { sockets, port, .. } = listen_at(&spec(GatewayPorts::No)).expect("a port");
        assert!(port > 0 && !sockets.is_empty());
        let taken = Place::Tcp { address: "127.0.0.1".into(), port: port.into() };
        let again = listen_at(&ListenSpec { place: taken, ..spec(GatewayPorts::No) });
        assert_eq!(again.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
