use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::listen::bind_address;
use crate::connection::{ChannelId, X11Request};
use crate::limits::X11_DISPLAYS_MAX;

/// Where the port of display 0 would be.
const FIRST_PORT: u16 = 6000;

/// How programs are to find the client's X server, from X11DisplayOffset and its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayRules {
    /// The first display's number.
    pub offset: u16,
    /// X11UseLocalhost: from here alone.
    pub localhost: bool,
    /// XAuthLocation; `None`: nothing is forwarded.
    pub xauth: Option<String>,
}

impl DisplayRules {
    /// Where Debian and most others have it.
    pub const XAUTH: &'static str = "/usr/bin/xauth";
    pub const OFFSET: u16 = 10;
}

impl Default for DisplayRules {
    fn default() -> DisplayRules {
        let xauth = Some(DisplayRules::XAUTH.to_owned());
        DisplayRules { offset: DisplayRules::OFFSET, localhost: true, xauth }
    }
}

/// What it takes to make a display for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplaySpec {
    /// The session's.
    pub channel: ChannelId,
    pub request: X11Request,
    pub rules: DisplayRules,
    pub inet: bool,
    pub inet6: bool,
}

/// A display that listens.
#[derive(Debug)]
pub struct Listened {
    pub number: u16,
    pub sockets: Vec<OwnedFd>,
    pub display: Display,
}

/// What a session's programs are told, and xauth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Display {
    /// DISPLAY.
    pub name: String,
    /// What xauth calls it.
    pub auth_name: String,
    /// Letters, digits and `.:/-_` alone, both.
    pub protocol: Box<str>,
    pub cookie: Box<str>,
    /// The program's path.
    pub xauth: String,
}

/// Listens at the first display whose port is free on all addresses.
///
/// # Errors
/// There is no xauth, or no such port.
pub fn listen_as_display(spec: &DisplaySpec) -> io::Result<Listened> {
    let absent = || io::Error::new(io::ErrorKind::NotFound, "XAuthLocation names no program");
    let xauth = spec.rules.xauth.clone().ok_or_else(absent)?;
    std::fs::metadata(&xauth).map_err(|_| absent())?;
    let addresses = addresses(spec);
    for number in spec.rules.offset..X11_DISPLAYS_MAX {
        let Some(port) = FIRST_PORT.checked_add(number) else { break };
        let Some(sockets) = listen_at_port(&addresses, port) else { continue };
        let screen = spec.request.screen;
        let tail = format!("{number}.{screen}");
        // As sshd writes them: xauth looks up `unix:` for what is of this machine.
        let (name, auth_name) = match spec.rules.localhost {
            true => (format!("localhost:{tail}"), format!("unix:{tail}")),
            false => {
                let host = nix::unistd::gethostname()?;
                let name = format!("{}:{tail}", host.to_string_lossy());
                (name.clone(), name)
            }
        };
        let X11Request { protocol, cookie, .. } = spec.request.clone();
        let display = Display { name, auth_name, protocol, cookie, xauth };
        return Ok(Listened { number, sockets, display });
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "every display's port is taken"))
}

fn addresses(spec: &DisplaySpec) -> Vec<IpAddr> {
    let pair: [IpAddr; 2] = match spec.rules.localhost {
        true => [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        false => [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
    };
    let wanted = |address: &IpAddr| if address.is_ipv4() { spec.inet } else { spec.inet6 };
    pair.into_iter().filter(wanted).collect()
}

/// On all of them, but for a family that this machine has not.
fn listen_at_port(addresses: &[IpAddr], port: u16) -> Option<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    for address in addresses {
        match bind_address(SocketAddr::new(*address, port)) {
            Ok((socket, _)) => sockets.push(socket),
            Err(why) => match why.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {}
                _ => return None,
            },
        }
    }
    (!sockets.is_empty()).then_some(sockets)
}
