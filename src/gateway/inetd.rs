//! A connection that somebody else accepted and gave us as standard input and output: inetd,
//! `ssh -o ProxyCommand`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use anyhow::Context;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::fstat;
use nix::unistd::{dup2_stdin, dup2_stdout};

use super::daemon::null;

/// Bytes that a relay moves at a time: what a pipe holds by default.
const RELAY_BYTES: usize = 64 * 1024;

/// The connection as one socket, and what has to go on for it.
#[derive(Debug)]
pub struct Streams {
    pub socket: OwnedFd,
    relay: Option<JoinHandle<()>>,
}

impl Streams {
    /// Takes standard input and output over; what is written there from now on goes nowhere.
    ///
    /// One socket is used as it is. Two streams, such as the pipes of a ProxyCommand, are joined:
    /// two threads carry bytes between them and a pair of sockets. Two copies more than necessary,
    /// for one connection, and the reactors need to know nothing but sockets.
    ///
    /// # Errors
    /// One of the streams is closed, or the process is out of descriptors or threads.
    pub fn take() -> anyhow::Result<Streams> {
        let (input, output) = (keep(io::stdin().as_fd())?, keep(io::stdout().as_fd())?);
        let null = null().context("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        if is_one_socket(&input, &output) {
            set_blocking(&input, false)?;
            return Ok(Streams { socket: input, relay: None });
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // Whoever gave them may have left them non-blocking; a relay waits.
        set_blocking(&input, true)?;
        set_blocking(&output, true)?;
        let relay = start_relay(File::from(input), File::from(output), theirs)
            .context("cannot start the threads that carry the connection")?;
        Ok(Streams { socket: OwnedFd::from(ours), relay: Some(relay) })
    }
}

/// What is on its way to standard output.
#[derive(Debug)]
pub struct Rest(Option<JoinHandle<()>>);

impl Rest {
    /// Waits until it has been written, or cannot be.
    pub fn wait(self) {
        if let Some(relay) = self.0 {
            let _ = relay.join();
        }
    }
}

impl Streams {
    pub fn split(self) -> (OwnedFd, Rest) {
        (self.socket, Rest(self.relay))
    }
}

fn keep(stream: BorrowedFd<'_>) -> anyhow::Result<OwnedFd> {
    stream.try_clone_to_owned().context("with -i, standard input and output are the connection")
}

fn is_one_socket(input: &OwnedFd, output: &OwnedFd) -> bool {
    let is_stream = getsockopt(input, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream);
    match (fstat(input), fstat(output)) {
        (Ok(one), Ok(other)) => {
            is_stream && (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
        }
        _ => false,
    }
}

fn set_blocking(fd: &OwnedFd, blocking: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !blocking);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// The thread that is answered ends when everything for `output` is out. The other one may wait
/// for input for ever and ends with the process.
fn start_relay(input: File, output: File, socket: UnixStream) -> io::Result<JoinHandle<()>> {
    let (mut input, mut output) = (input, output);
    let (mut to, mut from) = (socket.try_clone()?, socket);
    thread::Builder::new().name("input".to_owned()).spawn(move || {
        carry(&mut input, &mut to);
        // Half closed: what was asked for until now is still answered.
        let _ = to.shutdown(Shutdown::Write);
    })?;
    thread::Builder::new().name("output".to_owned()).spawn(move || {
        carry(&mut from, &mut output);
        // Nobody reads any more: our side of the connection learns it here.
        let _ = from.shutdown(Shutdown::Both);
    })
}

/// Until one side has ended. Not `io::copy`: it has the kernel move the bytes (splice(2)), which
/// keeps a pipe locked while it waits for the socket, so that nobody can read what is in it.
fn carry(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = vec![0; RELAY_BYTES];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => len,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if to.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pipes_become_one_socket() {
        let (input, mut sends) = io::pipe().expect("a pipe");
        let (mut reads, output) = io::pipe().expect("a pipe");
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        assert!(!is_one_socket(&input, &output));
        let relay = start_relay(File::from(input), File::from(output), theirs).expect("threads");
        sends.write_all(b"there").expect("room");
        let mut buffer = [0; 5];
        ours.read_exact(&mut buffer).expect("bytes");
        assert_eq!(&buffer, b"there");
        drop(sends);
        assert_eq!(ours.read(&mut buffer).expect("the end"), 0);
        ours.write_all(b"and back").expect("room");
        drop(ours);
        relay.join().expect("no panic");
        let mut text = String::new();
        reads.read_to_string(&mut text).expect("the rest");
        assert_eq!(text, "and back");
    }

    #[test]
    fn a_socket_given_twice_is_one() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let again = OwnedFd::from(one.try_clone().expect("a copy"));
        let (one, other) = (OwnedFd::from(one), OwnedFd::from(other));
        assert!(is_one_socket(&one, &again));
        assert!(!is_one_socket(&one, &other));
        set_blocking(&one, false).expect("flags");
        let flags = OFlag::from_bits_retain(fcntl(&again, FcntlArg::F_GETFL).expect("flags"));
        assert!(flags.contains(OFlag::O_NONBLOCK));
    }
}
