//! Connects to hosts, many at a time, for a process that may not connect: a thread that waits for all of
//! them at once.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket,
    sockopt,
};

use crate::base::Instant;
use crate::limits::{CONNECT_TIME_MAX, DIALS_MAX};
use crate::reactor;

/// Hears of the connection, or why there is none. Called once, by the thread that connects; must not wait.
pub type Answer = Box<dyn FnOnce(Result<(OwnedFd, SocketAddr), String>) + Send>;

/// The way to the thread. It ends when nobody has one any more.
pub struct Dialer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    bell: EventFd,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    /// Those that the thread has, too.
    count: usize,
    over: bool,
}

struct Order {
    addresses: VecDeque<SocketAddr>,
    answer: Answer,
}

impl Dialer {
    /// # Errors
    /// There is no thread or no descriptor left.
    pub fn start() -> io::Result<Dialer> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let shared = Arc::new(Shared { state: Mutex::default(), bell });
        let for_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("dialer".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || for_thread.run())?;
        Ok(Dialer { shared })
    }

    /// Tries these in order, each for [`CONNECT_TIME_MAX`].
    pub fn dial(&self, addresses: VecDeque<SocketAddr>, answer: Answer) {
        let refused = {
            let mut state = self.shared.state();
            if state.count >= DIALS_MAX {
                Some(answer)
            } else {
                state.count += 1;
                state.orders.push(Order { addresses, answer });
                None
            }
        };
        match refused {
            Some(answer) => answer(Err("too many connections are being made".to_owned())),
            None => self.shared.ring(),
        }
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.shared.ring();
    }
}

/// A connection that is being made.
struct Attempt {
    socket: OwnedFd,
    at: SocketAddr,
    until: Instant,
    order: Order,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let _ = self.bell.write(1);
    }

    fn run(&self) {
        let mut attempts: Vec<Attempt> = Vec::new();
        loop {
            let fresh = {
                let mut state = self.state();
                if state.over {
                    return;
                }
                std::mem::take(&mut state.orders)
            };
            attempts.extend(fresh.into_iter().filter_map(|order| self.next(order, NO_ADDRESS)));
            let ready = self.wait(&attempts);
            let now = reactor::now();
            for (number, attempt) in std::mem::take(&mut attempts).into_iter().enumerate() {
                let told = ready.get(number).copied().unwrap_or(false);
                if !told && now < attempt.until {
                    attempts.push(attempt);
                } else {
                    attempts.extend(self.settle(attempt, told));
                }
            }
        }
    }

    /// Which of them the kernel has something to tell of.
    fn wait(&self, attempts: &[Attempt]) -> Vec<bool> {
        let now = reactor::now();
        let pause = attempts.iter().map(|attempt| attempt.until.since(now)).min();
        let pause = pause.map_or(PollTimeout::NONE, |pause| {
            PollTimeout::try_from(pause.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        let sockets = attempts.iter().map(|attempt| attempt.socket.as_fd());
        polled.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::POLLOUT)));
        match poll(&mut polled, pause) {
            Ok(0) | Err(_) => Vec::new(),
            Ok(_) => {
                let _ = self.bell.read();
                let told = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
                polled.iter().skip(1).map(told).collect()
            }
        }
    }

    /// One is over: it is answered, or the next address is tried.
    fn settle(&self, attempt: Attempt, told: bool) -> Option<Attempt> {
        let Attempt { socket, at, order, .. } = attempt;
        let why = match getsockopt(&socket, sockopt::SocketError) {
            _ if !told => format!("{at}: no answer in time"),
            Ok(0) => {
                self.answer(order, Ok((socket, at)));
                return None;
            }
            Ok(errno) => format!("{at}: {}", io::Error::from_raw_os_error(errno)),
            Err(why) => format!("{at}: {}", io::Error::from(why)),
        };
        self.next(order, &why)
    }

    /// Tries the next address. `why`: the one before it was of no use.
    fn next(&self, mut order: Order, why: &str) -> Option<Attempt> {
        let mut why = why.to_owned();
        while let Some(at) = order.addresses.pop_front() {
            match begin(&at) {
                Ok(socket) => {
                    let until = reactor::now().after(CONNECT_TIME_MAX);
                    return Some(Attempt { socket, at, until, order });
                }
                Err(errno) => why = format!("{at}: {}", io::Error::from(errno)),
            }
        }
        self.answer(order, Err(why));
        None
    }

    fn answer(&self, order: Order, result: Result<(OwnedFd, SocketAddr), String>) {
        self.state().count -= 1;
        (order.answer)(result);
    }
}

fn begin(at: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None)?;
    // As on every connection of ours.
    let _ = setsockopt(&fd, sockopt::TcpNoDelay, &true);
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(*at)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}

const NO_ADDRESS: &str = "it has no address";

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    use super::*;

    fn dial(dialer: &Dialer, addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
        let (sender, answer) = mpsc::channel();
        let addresses = addresses.iter().copied().collect();
        dialer.dial(addresses, Box::new(move |result| drop(sender.send(result))));
        let (socket, at) = answer.recv().expect("an answer")?;
        let peer = TcpStream::from(socket).peer_addr().expect("connected");
        assert_eq!(peer, at);
        Ok(at)
    }

    #[test]
    fn the_first_address_that_answers_is_taken() {
        let dialer = Dialer::start().expect("a thread");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let open = listener.local_addr().expect("its address");
        let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
        let closed = gone.local_addr().expect("its address");
        drop(gone);
        assert_eq!(dial(&dialer, &[closed, open]), Ok(open));
        assert_eq!(dial(&dialer, &[]), Err(NO_ADDRESS.to_owned()));
        let why = dial(&dialer, &[closed]).expect_err("nobody is there");
        assert!(why.starts_with(&format!("{closed}: Connection refused")), "{why}");
    }
}
