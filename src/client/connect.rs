//! The way to a server: a connected socket.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Options, Voice};
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
                    voice.debug(format_args!("connect to address {address}: {why}"));
                    failed = why.to_string();
                }
            }
        }
    }
    bail!("connect to host {host} port {port}: {failed}")
}

/// Starts a command that speaks with the server for us, and answers the socket that is its standard
/// input and output.
///
/// # Errors
/// It cannot be started.
pub fn spawn_proxy(command: &str, voice: &Voice) -> Result<Fd> {
    voice.debug(format_args!("Executing proxy command: exec {command}"));
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let both = OwnedFd::from(theirs);
    Command::new(shell)
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::from(both.try_clone()?))
        .stdout(Stdio::from(both))
        .spawn()
        .context("ProxyCommand")?;
    Ok(Fd(OwnedFd::from(ours).into_raw_fd()))
}

fn try_one(address: SocketAddr, options: &Options) -> io::Result<OwnedFd> {
    let stream = match options.connect_timeout {
        Some(time) => TcpStream::connect_timeout(&address, time)?,
        None => TcpStream::connect(address)?,
    };
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    if options.tcp_keepalive {
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
    }
    Ok(stream.into())
}
