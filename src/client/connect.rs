//! The way to a server: a connected socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, getsockopt, setsockopt, socket, sockopt,
};

use super::{Options, Voice};
use crate::base::escape;
use crate::limits::{PROXY_END_LOOKS, PROXY_END_REST};
use crate::reactor::Fd;
use crate::services::forward::resolve;

/// Connects to the first address that answers.
///
/// # Errors
/// Nobody answers: why, for the user.
pub fn connect(options: &Options, voice: &Voice) -> Result<Fd> {
    let (host, port) = (&options.host_name, options.port);
    let found = match resolve(host, port) {
        Ok(found) => found,
        Err(why) => bail!("Could not resolve hostname {host}: {why}"),
    };
    let wanted = |at: &SocketAddr| if at.is_ipv4() { options.ipv4 } else { options.ipv6 };
    let addresses: Vec<SocketAddr> = found.into_iter().filter(wanted).collect();
    let mut failed = "it has no address of the wanted family".to_owned();
    for attempt in 0..options.connection_attempts.max(1) {
        if attempt > 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
        for address in &addresses {
            voice.debug(format_args!("Connecting to {host} [{}] port {port}.", address.ip()));
            match try_one(*address, options) {
                Ok(socket) => {
                    voice.debug("Connection established.");
                    return Ok(Fd(socket.into_raw_fd()));
                }
                Err(why) => {
                    voice.debug(format_args!("connect to address {address}: {why:#}"));
                    failed = format!("{why:#}");
                }
            }
        }
    }
    bail!("connect to host {host} port {port}: {failed}")
}

/// A command that speaks with a server for us.
#[derive(Debug)]
pub struct Proxy {
    command: String,
    child: Child,
}

impl Proxy {
    /// How it has ended; it may be about to. `None`: it has not.
    pub fn end(&mut self) -> Option<String> {
        for _ in 0..PROXY_END_LOOKS {
            if let Ok(Some(status)) = self.child.try_wait() {
                let command = escape(self.command.as_bytes());
                return Some(format!("ProxyCommand \"{command}\" has ended ({status})"));
            }
            std::thread::sleep(PROXY_END_REST);
        }
        None
    }
}

/// Starts a command that speaks with the server for us, and answers the socket that is its standard
/// input and output.
///
/// # Errors
/// It cannot be started.
pub fn spawn_proxy(command: &str, voice: &Voice) -> Result<(Fd, Proxy)> {
    voice.debug(format_args!("Executing proxy command: exec {command}"));
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let both = OwnedFd::from(theirs);
    let child = Command::new(shell)
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::from(both.try_clone()?))
        .stdout(Stdio::from(both))
        .spawn()
        .context("ProxyCommand")?;
    let command = command.to_owned();
    Ok((Fd(OwnedFd::from(ours).into_raw_fd()), Proxy { command, child }))
}

fn try_one(address: SocketAddr, options: &Options) -> Result<OwnedFd> {
    let socket = bound(address, options)?;
    // It waits for nobody, so that a time can be set.
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) => {
            let login_time = options.login_time.map(|(time, _)| time);
            wait_for(&socket, options.connect_timeout.into_iter().chain(login_time).min())?;
        }
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    if options.tcp_keepalive {
        setsockopt(&socket, sockopt::KeepAlive, &true)?;
    }
    Ok(socket)
}

/// A socket at the address and interface of ours that were chosen.
fn bound(to: SocketAddr, options: &Options) -> Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None).map_err(io::Error::from)?;
    if let Some(name) = &options.bind_interface {
        setsockopt(&socket, sockopt::BindToDevice, &name.into())
            .map_err(io::Error::from)
            .with_context(|| format!("BindInterface {name}"))?;
    }
    if let Some(name) = &options.bind_address {
        let found = resolve(name, 0).map_err(|why| anyhow::anyhow!("BindAddress {name}: {why}"))?;
        let Some(from) = found.into_iter().find(|from| from.is_ipv4() == to.is_ipv4()) else {
            bail!("BindAddress {name}: no address of the host's family");
        };
        nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(from))
            .map_err(io::Error::from)
            .with_context(|| format!("BindAddress {name}"))?;
    }
    Ok(socket)
}

/// Waits until a connection is made; without a time as long as the system tries.
fn wait_for(socket: &OwnedFd, time: Option<Duration>) -> Result<()> {
    let time = time
        .map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    loop {
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], time) {
            Ok(0) => return Err(io::Error::from(Errno::ETIMEDOUT).into()),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    match getsockopt(socket, sockopt::SocketError)? {
        0 => Ok(()),
        raw => Err(io::Error::from_raw_os_error(raw).into()),
    }
}
