//! A driver on a bench: every operation is counted, and every lease.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tidegate::base::{Few, Instant, Span};
use tidegate::limits::OPS_IN_FLIGHT_MAX;
use tidegate::reactor::either::{EitherDriver, Way};
use tidegate::reactor::{
    Chunk, Class, Completion, Driver, Fd, Gather, Lease, Op, PoolSizes, Spans, Target, Token,
};

pub const POOL: PoolSizes = PoolSizes { small: 32, packet: 16, bulk: 16 };

/// A driver and the completions it has given.
pub struct Bench {
    pub driver: EitherDriver,
    pub out: Vec<Completion>,
    submitted: u64,
    completed: u64,
}

impl Bench {
    pub fn new(way: Way) -> Bench {
        Bench::sized(way, OPS_IN_FLIGHT_MAX, POOL)
    }

    pub fn sized(way: Way, in_flight_max: u32, pool: PoolSizes) -> Bench {
        let driver = EitherDriver::new(way, in_flight_max, pool).expect("the driver is available");
        Bench { driver, out: Vec::new(), submitted: 0, completed: 0 }
    }

    pub fn submit(&mut self, tag: u16, op: Op) -> Token {
        let token = Token { key: u32::from(tag), generation: 0, tag };
        self.driver.submit(token, op).expect("room for one more");
        self.submitted += 1;
        token
    }

    pub fn soon(&self, millis: u64) -> Option<Instant> {
        Some(self.driver.now().after(Duration::from_millis(millis)))
    }

    /// Turns once; counts and returns what completed.
    pub fn turn(&mut self, millis: u64) -> Vec<Completion> {
        let until = self.soon(millis);
        self.driver.wait(until, &mut self.out).expect("waiting works");
        self.completed += self.out.iter().filter(|done| !done.more).count() as u64;
        std::mem::take(&mut self.out)
    }

    /// Turns until `count` operations have completed.
    pub fn collect(&mut self, count: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        let end = self.driver.now().after(Duration::from_secs(20));
        while all.len() < count {
            assert!(self.driver.now() < end, "{} of {count} completed", all.len());
            all.extend(self.turn(1000));
        }
        assert_eq!(all.len(), count);
        all
    }

    pub fn one(&mut self) -> Completion {
        self.collect(1).pop().expect("one")
    }

    /// Nothing completes for a while.
    pub fn quiet(&mut self) {
        let end = self.driver.now().after(Duration::from_millis(30));
        while self.driver.now() < end {
            let done = self.turn(10);
            assert!(done.is_empty(), "{done:?}");
        }
    }

    pub fn packet(&mut self) -> Lease {
        self.driver.pool().take(Class::Packet).expect("a packet slot")
    }

    pub fn bulk(&mut self) -> Lease {
        self.driver.pool().take(Class::Bulk).expect("a bulk slot")
    }

    pub fn filled(&mut self, class: Class, seed: u8) -> Lease {
        let mut lease = self.driver.pool().take(class).expect("a slot");
        fill(self.driver.pool().bytes(&mut lease), seed);
        lease
    }

    pub fn give(&mut self, lease: Lease) {
        self.driver.pool().give_back(lease);
    }

    pub fn give_all(&mut self, op: Op) {
        op.dissolve(self.driver.pool());
    }

    /// The received bytes, in order.
    pub fn bytes(&mut self, op: &Op, len: u32) -> Vec<u8> {
        let (Op::Recv { into: Target::Owned { lease, spans }, .. }
        | Op::Read { into: Target::Owned { lease, spans }, .. }
        | Op::ReadAt { lease, spans, .. }) = op
        else {
            panic!("no bytes in {op:?}");
        };
        let view = self.driver.pool().view(lease);
        let all: Vec<u8> = spans.iter().flat_map(|span| span.of(view).unwrap().to_vec()).collect();
        all[..len as usize].to_vec()
    }

    pub fn finish(mut self) {
        assert_eq!(self.driver.stats().in_flight, 0);
        assert_eq!(self.submitted, self.completed, "every operation completes once");
        let stats = self.driver.pool().stats();
        assert_eq!(stats.outstanding(), 0, "{stats:?}");
    }
}

/// Runs a test on every driver there is.
pub fn on_all(test: impl Fn(Bench)) {
    for way in Way::ALL {
        println!("{way:?}");
        test(Bench::new(way));
    }
}

pub fn fill(bytes: &mut [u8], seed: u8) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed);
    }
}

pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, seed);
    bytes
}

pub fn spans(list: &[(u32, u32)]) -> Spans {
    let mut spans = Spans::new();
    for (at, len) in list {
        spans.push(Span::new(*at, *len)).unwrap();
    }
    spans
}

pub fn gather(chunks: impl IntoIterator<Item = (Lease, Span)>) -> Gather {
    let mut gather = Few::new();
    for (lease, span) in chunks {
        gather.push(Chunk { lease, span }).unwrap();
    }
    gather
}

pub fn raw(fd: &impl AsRawFd) -> Fd {
    Fd(fd.as_raw_fd())
}

pub fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

pub fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (near, far)
}
