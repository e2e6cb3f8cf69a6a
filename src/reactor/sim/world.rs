use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::stream::{End, Stream};
use super::swarm::{Chance, Swarm};
use crate::base::{Instant, SeededEntropy};
use crate::reactor::waker::Sleeper;
use crate::reactor::{Errno, Fd, Token};

/// A simulated file, open or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub(super) u32);

/// How often each fault has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub shorts: u64,
    pub resets: u64,
    pub stalls: u64,
    pub flips: u64,
    pub starved: u64,
    /// Receives that a mark kept waiting although there were bytes.
    pub below_mark: u64,
    pub full: u64,
    pub cancels_lost: u64,
    pub interrupts: u64,
    pub accept_errors: u64,
    pub refused: u64,
    pub disk_errors: u64,
    pub disk_full: u64,
}

/// What the handles share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) entropy: SeededEntropy,
    pub(super) swarm: Swarm,
    pub(super) streams: Vec<Stream>,
    pub(super) files: Vec<Vec<u8>>,
    /// Files whose next read fails.
    pub(super) failing: BTreeSet<FileId>,
    pub(super) faults: Faults,
    pub(super) drivers: Vec<DriverRecord>,
    /// Moves whenever something happens that an operation may wait for.
    pub(super) activity: u64,
    /// Operations in flight by descriptor.
    pub(super) in_use: BTreeMap<i32, u32>,
    pub(super) objects: Vec<Object>,
    /// Where listeners can be reached; connecting anywhere else is never answered.
    pub(super) addresses: BTreeMap<SocketAddr, Fd>,
    /// Sockets of which no bit flips: what they carry has no checksum of ours.
    pub(super) steady: BTreeSet<i32>,
    pub(super) events: BTreeSet<Instant>,
    pub(super) trace: u64,
}

/// The world's side of a driver.
#[derive(Debug)]
pub(super) struct DriverRecord {
    pub(super) alive: bool,
    /// The world's activity at its last wait.
    pub(super) seen: u64,
    /// Its last wait asked for no sleep.
    pub(super) eager: bool,
    /// When its last wait wanted to end.
    pub(super) until: Option<Instant>,
    pub(super) sleeper: Sleeper,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    /// In flight when it was dropped.
    pub(super) abandoned: u64,
    /// Waits since the clock last moved.
    pub(super) spins: u32,
    pub(super) spins_at: Instant,
}

#[derive(Debug)]
pub(super) enum Object {
    /// Either end of a connection or a terminal.
    Duplex {
        rx: usize,
        tx: usize,
        terminal: bool,
    },
    Reader {
        rx: usize,
    },
    Writer {
        tx: usize,
    },
    File {
        file: FileId,
    },
    Listener {
        queue: VecDeque<(Instant, Fd)>,
    },
    Exit {
        fired: bool,
    },
    /// A socket that is not connected yet.
    Fresh,
    Closed,
}

impl Object {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Object::Duplex { terminal: true, .. } => "terminal",
            Object::Duplex { .. } => "socket",
            Object::Reader { .. } => "pipe, reading end",
            Object::Writer { .. } => "pipe, writing end",
            Object::File { .. } => "file",
            Object::Listener { .. } => "listener",
            Object::Exit { .. } => "exit event",
            Object::Fresh => "socket, not connected",
            Object::Closed => "closed",
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, swarm: Swarm) -> World {
        World {
            now: Instant::from_nanos(1_000_000_000),
            entropy: SeededEntropy::new(seed),
            swarm,
            streams: Vec::new(),
            files: Vec::new(),
            failing: BTreeSet::new(),
            faults: Faults::default(),
            drivers: Vec::new(),
            activity: 0,
            in_use: BTreeMap::new(),
            objects: Vec::new(),
            addresses: BTreeMap::new(),
            steady: BTreeSet::new(),
            events: BTreeSet::new(),
            trace: seed,
        }
    }

    pub(super) const fn hits(&mut self, chance: Chance) -> bool {
        chance.hits(&mut self.entropy)
    }

    /// A duration up to `most`.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.entropy.below(most.as_nanos() as u64 + 1))
    }

    /// Something may become possible at `at`.
    pub(super) fn schedule(&mut self, at: Instant) {
        if at > self.now {
            self.events.insert(at);
        }
    }

    /// Something was held back without reason; it is to be tried again soon, and when.
    pub(super) fn retry_soon(&mut self) -> Instant {
        let delay = Duration::from_nanos(1) + self.up_to(Duration::from_micros(50));
        let at = self.now.after(delay);
        self.schedule(at);
        at
    }

    pub(super) fn advance(&mut self, at: Instant) {
        self.now = self.now.max(at);
        while self.events.first().is_some_and(|event| *event <= self.now) {
            self.events.pop_first();
        }
        self.activity += 1;
    }

    /// Notes a completion in the ledger and the trace.
    pub(super) fn record(
        &mut self,
        driver: usize,
        token: Token,
        result: Result<u32, Errno>,
        more: bool,
    ) {
        let result = match result {
            Ok(value) => u64::from(value),
            Err(errno) => !u64::from(errno.0.unsigned_abs()),
        };
        let named =
            u64::from(token.key) << 32 | u64::from(token.generation) << 16 | u64::from(token.tag);
        for word in [self.now.nanos(), driver as u64, named, result, u64::from(more)] {
            self.trace = SeededEntropy::new(self.trace ^ word).next_u64();
        }
        self.activity += 1;
        if !more {
            self.drivers[driver].completed += 1;
        }
    }

    /// An operation on `fd` starts.
    pub(super) fn occupy(&mut self, fd: Fd) {
        *self.in_use.entry(fd.0).or_default() += 1;
    }

    /// An operation on `fd` has ended.
    pub(super) fn vacate(&mut self, fd: Fd) {
        if let Some(count) = self.in_use.get_mut(&fd.0) {
            *count -= 1;
            if *count == 0 {
                self.in_use.remove(&fd.0);
            }
        }
    }

    pub(super) fn object(&self, fd: Fd) -> Option<&Object> {
        self.objects.get(usize::try_from(fd.0.checked_sub(FIRST_FD)?).ok()?)
    }

    pub(super) fn object_mut(&mut self, fd: Fd) -> Option<&mut Object> {
        self.objects.get_mut(usize::try_from(fd.0.checked_sub(FIRST_FD)?).ok()?)
    }

    /// The stream that `fd` reads from.
    pub(super) fn readable(&self, fd: Fd) -> Result<usize, Errno> {
        match self.object(fd) {
            Some(Object::Duplex { rx, .. } | Object::Reader { rx }) => Ok(*rx),
            Some(Object::Closed) | None => Err(Errno(libc::EBADF)),
            Some(_) => Err(Errno(libc::EINVAL)),
        }
    }

    pub(super) fn set_receive_mark(&mut self, fd: Fd, bytes: u32) {
        let Ok(rx) = self.readable(fd) else { return };
        self.streams[rx].mark = bytes as usize;
        self.schedule(self.now);
        self.activity += 1;
    }

    /// The stream that `fd` writes to, if it still takes bytes.
    pub(super) fn writable(&self, fd: Fd) -> Result<usize, Errno> {
        let (tx, rx) = match self.object(fd) {
            Some(Object::Duplex { tx, rx, .. }) => (*tx, Some(*rx)),
            Some(Object::Writer { tx }) => (*tx, None),
            Some(Object::Closed) | None => return Err(Errno(libc::EBADF)),
            Some(_) => return Err(Errno(libc::EINVAL)),
        };
        let stream = &self.streams[tx];
        // The reset of a peer that is gone takes a round trip.
        let gone = stream.unread_since.is_some_and(|at| at.after(stream.delay * 2) <= self.now);
        let broken =
            rx.is_some_and(|rx| matches!(self.streams[rx].ending(self.now), Some(End::Broken(_))));
        if stream.is_ended() || gone || broken { Err(Errno(libc::EPIPE)) } else { Ok(tx) }
    }

    pub(super) fn file(&self, fd: Fd) -> Result<FileId, Errno> {
        match self.object(fd) {
            Some(Object::File { file }) => Ok(*file),
            Some(Object::Closed) | None => Err(Errno(libc::EBADF)),
            Some(_) => Err(Errno(libc::ESPIPE)),
        }
    }

    pub(super) fn contents_of(&mut self, file: FileId) -> &mut Vec<u8> {
        &mut self.files[file.0 as usize]
    }

    pub(super) fn push(&mut self, tx: usize, bytes: &[u8]) {
        let now = self.now;
        let events = &mut self.events;
        self.streams[tx].push(now, bytes, |at| {
            events.insert(at);
        });
        self.activity += 1;
    }

    pub(super) fn open(&mut self, object: Object) -> Fd {
        self.objects.push(object);
        Fd(FIRST_FD + self.objects.len() as i32 - 1)
    }

    pub(super) fn stream(&mut self, delay: Duration, rate: Option<u64>, capacity: u32) -> usize {
        self.streams.push(Stream::new(delay, rate, capacity));
        self.streams.len() - 1
    }

    pub(super) fn socket_pair(&mut self) -> (Fd, Fd) {
        let delay = self.up_to(self.swarm.delay_max);
        let (rate, capacity) = (self.swarm.bytes_per_second, self.swarm.socket_bytes);
        let down = self.stream(delay, rate, capacity);
        let up = self.stream(delay, rate, capacity);
        let near = self.open(Object::Duplex { rx: up, tx: down, terminal: false });
        let far = self.open(Object::Duplex { rx: down, tx: up, terminal: false });
        (near, far)
    }

    pub(super) fn connect(&mut self, listener: Fd) -> Result<Fd, Errno> {
        let waiting = match self.object(listener) {
            Some(Object::Listener { queue }) => queue.len(),
            // Nobody listens there: no fault of the world's.
            _ => return Err(Errno(libc::ECONNREFUSED)),
        };
        if waiting == BACKLOG || self.hits(self.swarm.connect_refused) {
            self.faults.refused += 1;
            return Err(Errno(libc::ECONNREFUSED));
        }
        let (client, server) = self.socket_pair();
        let at = self.now.after(self.up_to(self.swarm.delay_max));
        if let Some(Object::Listener { queue }) = self.object_mut(listener) {
            queue.push_back((at, server));
        }
        self.schedule(at);
        self.activity += 1;
        Ok(client)
    }

    /// # Panics
    /// When `fd` is not open, or an operation on it is in flight: bugs of the closer's.
    pub(super) fn close(&mut self, fd: Fd) {
        assert!(!self.in_use.contains_key(&fd.0), "{fd:?} is closed with operations in flight");
        let now = self.now;
        let object = self.object_mut(fd).unwrap_or_else(|| panic!("{fd:?} was never open"));
        match std::mem::replace(object, Object::Closed) {
            Object::Closed => panic!("{fd:?} is closed twice"),
            Object::Duplex { rx, tx, terminal } => self.hang_up(rx, tx, terminal),
            Object::Reader { rx } => self.streams[rx].discard(now),
            Object::Writer { tx } => drop(self.streams[tx].finish(now, End::OfFile)),
            Object::Listener { queue } => {
                for (_, server) in queue {
                    self.reset(server);
                    self.close(server);
                }
            }
            Object::File { .. } | Object::Exit { .. } | Object::Fresh => {}
        }
        self.activity += 1;
    }

    /// Closing a socket with unread bytes resets the connection, as TCP does.
    fn hang_up(&mut self, rx: usize, tx: usize, terminal: bool) {
        let now = self.now;
        let unread = !self.streams[rx].is_empty();
        self.streams[rx].discard(now);
        let end = match (terminal, unread) {
            (true, _) => End::Broken(Errno(libc::EIO)),
            (false, true) => End::Broken(Errno(libc::ECONNRESET)),
            (false, false) => End::OfFile,
        };
        let at = self.streams[tx].finish(now, end);
        self.schedule(at);
    }

    /// Ends the sending direction of a socket, and the receiving one if `both`.
    pub(super) fn shutdown(&mut self, fd: Fd, both: bool) {
        let Some(Object::Duplex { rx, tx, .. }) = self.object(fd) else { return };
        let (rx, tx, now) = (*rx, *tx, self.now);
        let at = self.streams[tx].finish(now, End::OfFile);
        self.schedule(at);
        if both {
            self.streams[rx].tear(now, now, End::OfFile);
            self.streams[rx].discard(now);
        }
        self.activity += 1;
    }

    pub(super) fn reset(&mut self, fd: Fd) {
        let Some(Object::Duplex { rx, tx, .. }) = self.object(fd) else { return };
        let (rx, tx, now) = (*rx, *tx, self.now);
        let end = End::Broken(Errno(libc::ECONNRESET));
        let noticed = now.after(self.streams[tx].delay);
        self.streams[rx].tear(now, now, end);
        self.streams[tx].tear(now, noticed, end);
        self.schedule(noticed);
        self.activity += 1;
    }
}

/// Descriptors of the world start here, so that one of the process's own is noticed.
pub(super) const FIRST_FD: i32 = 1_000_000;
/// Connections a listener holds that have not been accepted.
const BACKLOG: usize = 128;
