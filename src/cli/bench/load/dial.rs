//! Connections that are being made. None waits for another, and none is waited for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::reactor::Fd;

/// Connections of which is heard at once; the others follow with the next look.
const EVENTS: usize = 1024;

/// Connections under way, and those that are there.
pub struct Dial {
    poll: Poll,
    events: Events,
    under_way: Slab<(TcpStream, usize)>,
    done: VecDeque<(usize, io::Result<Fd>)>,
}

impl Dial {
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Dial> {
        let (poll, events) = (Poll::new()?, Events::with_capacity(EVENTS));
        Ok(Dial { poll, events, under_way: Slab::new(), done: VecDeque::new() })
    }

    /// Begins to connect for the visit of this number; [`Dial::next`] tells how that ends.
    pub fn begin(&mut self, to: SocketAddr, visit: usize) {
        let begun = TcpStream::connect(to).and_then(|mut stream| {
            let entry = self.under_way.vacant_entry();
            let token = Token(entry.key());
            self.poll.registry().register(&mut stream, token, Interest::WRITABLE)?;
            entry.insert((stream, visit));
            Ok(())
        });
        if let Err(why) = begun {
            self.done.push_back((visit, Err(why)));
        }
    }

    /// Gives a connection up that is not there yet.
    pub fn give_up(&mut self, visit: usize) {
        let found = self.under_way.iter().find(|(_, (_, of))| *of == visit).map(|(key, _)| key);
        // Closing the socket ends its registration.
        found.map(|key| self.under_way.remove(key));
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.done.is_empty()
    }

    /// One that is there, or cannot be, and whose it is.
    pub fn next(&mut self) -> Option<(usize, io::Result<Fd>)> {
        self.done.pop_front()
    }

    /// Looks what has become of them, without waiting.
    ///
    /// # Errors
    /// The system refused.
    pub fn look(&mut self) -> io::Result<()> {
        if self.under_way.is_empty() {
            return Ok(());
        }
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(why) if why.kind() == ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        for event in &self.events {
            let key = event.token().0;
            let Some((stream, _)) = self.under_way.get(key) else { continue };
            let outcome = match (stream.take_error()?, stream.peer_addr()) {
                (Some(why), _) => Err(why),
                // Not yet: it is told of again.
                (None, Err(why)) if why.kind() == ErrorKind::NotConnected => continue,
                (None, outcome) => outcome,
            };
            let (mut stream, visit) = self.under_way.remove(key);
            let made = outcome.and_then(|_| {
                self.poll.registry().deregister(&mut stream)?;
                stream.set_nodelay(true)?;
                Ok(Fd(OwnedFd::from(stream).into_raw_fd()))
            });
            self.done.push_back((visit, made));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn outcome(dial: &mut Dial) -> (usize, io::Result<Fd>) {
        loop {
            dial.look().expect("a look");
            if let Some(done) = dial.next() {
                return done;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn connections_are_made_refused_and_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let mut dial = Dial::new().expect("a poll");
        dial.begin(at, 7);
        let (visit, made) = outcome(&mut dial);
        assert_eq!(visit, 7);
        let _ = nix::unistd::close(made.expect("a socket").0);
        drop(listener);
        dial.begin(at, 8);
        let (visit, refused) = outcome(&mut dial);
        assert_eq!((visit, refused.expect_err("nobody").kind()), (8, ErrorKind::ConnectionRefused));
        // A place for tests, behind which nobody answers; or the network says so at once.
        dial.begin(SocketAddr::from(([192, 0, 2, 1], 9)), 9);
        dial.give_up(9);
        assert!(dial.next().is_none_or(|(_, outcome)| outcome.is_err()));
    }
}
