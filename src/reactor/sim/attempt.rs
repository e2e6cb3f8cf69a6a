use std::net::SocketAddr;
use std::time::Duration;

use super::stream::End;
use super::world::{Object, World};
use crate::base::{Instant, Span};
use crate::reactor::{DriverStats, Errno, Fd, Gather, Lease, Op, Pool, Target, Token};

/// One operation a simulated driver has taken and not completed.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) token: Token,
    pub(super) op: Op,
    /// Bytes that have left already.
    done: u32,
    pub(super) not_before: Instant,
    pub(super) cancelled: bool,
    /// Runs on if it can at once; else it is cancelled all the same.
    pub(super) cancel_lost: bool,
    /// Times it had bytes to receive and no buffer.
    starved: u32,
}

impl Flight {
    pub(super) const fn new(token: Token, op: Op, not_before: Instant) -> Flight {
        Flight { token, op, done: 0, not_before, cancelled: false, cancel_lost: false, starved: 0 }
    }
}

/// What came of trying an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    NotYet,
    /// A connection; the operation goes on.
    Accepted(u32),
    Done(Result<u32, Errno>),
}

impl World {
    /// Takes an operation as far as it can get now.
    pub(super) fn attempt(
        &mut self,
        flight: &mut Flight,
        pool: &mut Pool,
        stats: &mut DriverStats,
    ) -> Outcome {
        if flight.not_before > self.now {
            self.schedule(flight.not_before);
            return Outcome::NotYet;
        }
        if flight.cancelled && !flight.cancel_lost {
            return Outcome::Done(Err(Errno(libc::ECANCELED)));
        }
        let outcome = self
            .attempt_kind(flight, pool, stats)
            .unwrap_or_else(|errno| Outcome::Done(Err(errno)));
        match outcome {
            Outcome::Done(_) if flight.cancelled => {
                self.faults.cancels_lost += 1;
                outcome
            }
            // It lost, but there was nothing to run on for.
            Outcome::NotYet if flight.cancelled => Outcome::Done(Err(Errno(libc::ECANCELED))),
            _ => outcome,
        }
    }

    fn attempt_kind(
        &mut self,
        flight: &mut Flight,
        pool: &mut Pool,
        stats: &mut DriverStats,
    ) -> Result<Outcome, Errno> {
        match &mut flight.op {
            Op::Accept { listener } => self.accept(*listener),
            Op::Connect { fd, to } => self.connect_to(*fd, *to),
            Op::Recv { .. } | Op::Read { .. } => self.receive(flight, pool, stats),
            Op::Send { .. } => self.send(flight, pool),
            Op::Write { fd, from } => self.transmit(*fd, from, 0, pool).map(|moved| match moved {
                Some(len) => Outcome::Done(Ok(len)),
                None => Outcome::NotYet,
            }),
            Op::ReadAt { fd, at, lease, spans } => {
                let room = spans.iter().map(|span| span.len).sum();
                let bytes = self.read_file(*fd, *at, room)?;
                scatter(&bytes, spans.iter().copied(), lease, pool);
                Ok(Outcome::Done(Ok(bytes.len() as u32)))
            }
            Op::WriteAt { fd, at, from } => {
                let bytes = collect(from, 0, u32::MAX, pool);
                self.write_file(*fd, *at, &bytes).map(|len| Outcome::Done(Ok(len)))
            }
            Op::Fsync { fd } => {
                self.file(*fd)?;
                self.disk_error()?;
                Ok(Outcome::Done(Ok(0)))
            }
            Op::Readable { fd } => self.poll(*fd),
            Op::Writable { fd } => Ok(match self.writable(*fd) {
                Ok(tx) if self.streams[tx].room() == 0 => Outcome::NotYet,
                _ => Outcome::Done(Ok(libc::POLLOUT as u32)),
            }),
        }
    }

    fn accept(&mut self, listener: Fd) -> Result<Outcome, Errno> {
        let now = self.now;
        match self.object(listener) {
            Some(Object::Listener { queue }) => match queue.front() {
                Some((at, _)) if *at <= now => {}
                _ => return Ok(Outcome::NotYet),
            },
            Some(Object::Closed) | None => return Err(Errno(libc::EBADF)),
            Some(_) => return Err(Errno(libc::EINVAL)),
        }
        if self.hits(self.swarm.accept_error) {
            self.faults.accept_errors += 1;
            return Err(Errno(libc::EMFILE));
        }
        match self.object_mut(listener) {
            Some(Object::Listener { queue }) => match queue.pop_front() {
                Some((_, server)) => Ok(Outcome::Accepted(server.0 as u32)),
                None => Ok(Outcome::NotYet),
            },
            _ => Err(Errno(libc::EBADF)),
        }
    }

    fn connect_to(&mut self, fd: Fd, to: SocketAddr) -> Result<Outcome, Errno> {
        match self.object(fd) {
            Some(Object::Fresh) => {}
            Some(Object::Duplex { .. }) => return Err(Errno(libc::EISCONN)),
            _ => return Err(Errno(libc::EBADF)),
        }
        let Some(listener) = self.addresses.get(&to).copied() else { return Ok(Outcome::NotYet) };
        let near = self.connect(listener)?;
        // The connection is the socket's from now on, under its own number.
        let end = self.object_mut(near).map(|end| std::mem::replace(end, Object::Closed));
        if let (Some(end), Some(socket)) = (end, self.object_mut(fd)) {
            *socket = end;
        }
        if self.steady.contains(&listener.0) {
            self.steady.insert(fd.0);
        }
        Ok(Outcome::Done(Ok(0)))
    }

    fn receive(
        &mut self,
        flight: &mut Flight,
        pool: &mut Pool,
        stats: &mut DriverStats,
    ) -> Result<Outcome, Errno> {
        let fd = flight.op.fd();
        let room = flight.op.total() as usize;
        if room == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let rx = self.readable(fd)?;
        let available = self.streams[rx].available(self.now).min(room);
        if available == 0 {
            return match self.streams[rx].ending(self.now) {
                Some(End::OfFile) => Ok(Outcome::Done(Ok(0))),
                Some(End::Broken(errno)) => Err(errno),
                None if flight.op.is_hasty() => Err(Errno(libc::EAGAIN)),
                None => Ok(Outcome::NotYet),
            };
        }
        if self.is_held_up(rx) {
            return Ok(Outcome::NotYet);
        }
        if self.streams[rx].is_below_mark(self.now) {
            self.faults.below_mark += 1;
            return Ok(Outcome::NotYet);
        }
        self.maybe_reset(fd)?;
        let borrowed = if flight.op.is_shared() {
            match self.borrow_small(flight, pool, stats) {
                None => return Ok(Outcome::NotYet),
                lease => lease,
            }
        } else {
            None
        };
        let mut bytes = vec![0; self.maybe_short(available)];
        let len = self.streams[rx].pull(self.now, &mut bytes) as u32;
        self.maybe_flip(fd, &mut bytes);
        if let Some(lease) = borrowed {
            flight.op.lend(lease, len);
        }
        if let Op::Recv { into: Target::Owned { lease, spans }, .. }
        | Op::Read { into: Target::Owned { lease, spans }, .. } = &mut flight.op
        {
            scatter(&bytes, spans.iter().copied(), lease, pool);
        }
        Ok(Outcome::Done(Ok(len)))
    }

    fn send(&mut self, flight: &mut Flight, pool: &Pool) -> Result<Outcome, Errno> {
        let total = flight.op.total();
        let Op::Send { fd, from } = &flight.op else { return Err(Errno(libc::EINVAL)) };
        if total == 0 {
            self.writable(*fd)?;
            return Ok(Outcome::Done(Ok(0)));
        }
        self.maybe_reset(*fd)?;
        // What does not fit waits until the other end reads, which shows by itself.
        let Some(moved) = self.transmit(*fd, from, flight.done, pool)? else {
            return Ok(Outcome::NotYet);
        };
        flight.done += moved;
        if flight.done == total {
            return Ok(Outcome::Done(Ok(total)));
        }
        self.retry_soon();
        Ok(Outcome::NotYet)
    }

    /// Moves what fits, or a part of it, into the stream behind `fd`. `None` when nothing fits.
    fn transmit(
        &mut self,
        fd: Fd,
        from: &Gather,
        skip: u32,
        pool: &Pool,
    ) -> Result<Option<u32>, Errno> {
        let tx = self.writable(fd)?;
        let total: u32 = from.iter().map(|chunk| chunk.span.len).sum();
        let left = total - skip;
        if left == 0 {
            return Ok(Some(0));
        }
        let fits = self.streams[tx].room().min(left as usize);
        if fits == 0 {
            return Ok(None);
        }
        let len = self.maybe_short(fits);
        let bytes = collect(from, skip, len as u32, pool);
        self.push(tx, &bytes);
        Ok(Some(len as u32))
    }

    fn poll(&mut self, fd: Fd) -> Result<Outcome, Errno> {
        let ready = match self.object(fd) {
            Some(Object::Exit { fired }) => *fired,
            Some(Object::Listener { queue }) => {
                queue.front().is_some_and(|(at, _)| *at <= self.now)
            }
            Some(Object::File { .. }) => true,
            _ => {
                let stream = &self.streams[self.readable(fd)?];
                stream.available(self.now) > 0 || stream.ending(self.now).is_some()
            }
        };
        let events = libc::POLLIN as u32;
        Ok(if ready { Outcome::Done(Ok(events)) } else { Outcome::NotYet })
    }

    fn read_file(&mut self, fd: Fd, at: u64, room: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(fd)?;
        if self.failing.remove(&file) {
            self.faults.disk_errors += 1;
            return Err(Errno(libc::EIO));
        }
        let contents = self.contents_of(file);
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(contents.len());
        let end = start.saturating_add(room as usize).min(contents.len());
        let mut bytes = contents[start..end].to_vec();
        if self.disk_error().is_err() {
            // The error is met somewhere within: what came before is told first.
            bytes.truncate(self.entropy.below(bytes.len() as u64 + 1) as usize);
            if bytes.is_empty() {
                return Err(Errno(libc::EIO));
            }
            self.failing.insert(file);
        }
        Ok(bytes)
    }

    fn write_file(&mut self, fd: Fd, at: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let file = self.file(fd)?;
        self.disk_error()?;
        if self.hits(self.swarm.disk_full) {
            self.faults.disk_full += 1;
            return Err(Errno(libc::ENOSPC));
        }
        let used: u64 = self.files.iter().map(|file| file.len() as u64).sum();
        let size = self.contents_of(file).len() as u64;
        let room = self.swarm.disk_bytes_max.saturating_sub(used).saturating_add(size);
        let fits = room.saturating_sub(at).min(bytes.len() as u64) as usize;
        if fits == 0 && !bytes.is_empty() {
            self.faults.disk_full += 1;
            return Err(Errno(libc::ENOSPC));
        }
        let len = self.maybe_short(fits);
        let start = usize::try_from(at).map_err(|_| Errno(libc::EFBIG))?;
        let contents = self.contents_of(file);
        if contents.len() < start + len {
            contents.resize(start + len, 0);
        }
        contents[start..start + len].copy_from_slice(&bytes[..len]);
        Ok(len as u32)
    }

    fn disk_error(&mut self) -> Result<(), Errno> {
        if self.hits(self.swarm.disk_error) {
            self.faults.disk_errors += 1;
            return Err(Errno(libc::EIO));
        }
        Ok(())
    }

    /// Whether the reader of this stream has stopped, or stops now.
    fn is_held_up(&mut self, rx: usize) -> bool {
        let until = self.streams[rx].stalled_until;
        if until > self.now {
            self.schedule(until);
            return true;
        }
        if !self.hits(self.swarm.stall) {
            return false;
        }
        self.faults.stalls += 1;
        let until = self.now.after(self.up_to(self.swarm.stall_max));
        self.streams[rx].stalled_until = until;
        self.schedule(until);
        until > self.now
    }

    fn maybe_reset(&mut self, fd: Fd) -> Result<(), Errno> {
        let socket = matches!(self.object(fd), Some(Object::Duplex { terminal: false, .. }));
        if socket && self.hits(self.swarm.reset) {
            self.faults.resets += 1;
            self.reset(fd);
            return Err(Errno(libc::ECONNRESET));
        }
        Ok(())
    }

    /// How many of `len` bytes are moved: all, or some.
    fn maybe_short(&mut self, len: usize) -> usize {
        if len > 1 && self.hits(self.swarm.short) {
            self.faults.shorts += 1;
            return 1 + self.entropy.below(len as u64 - 1) as usize;
        }
        len
    }

    fn maybe_flip(&mut self, fd: Fd, bytes: &mut [u8]) {
        let socket = matches!(self.object(fd), Some(Object::Duplex { terminal: false, .. }));
        let socket = socket && !self.steady.contains(&fd.0);
        if socket && !bytes.is_empty() && self.hits(self.swarm.flip) {
            self.faults.flips += 1;
            let bit = self.entropy.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }

    /// Finds a small lease for a shared receive that has bytes to receive. Without one it tries
    /// again after ever longer times, because the world does not see leases return to a pool.
    fn borrow_small(
        &mut self,
        flight: &mut Flight,
        pool: &mut Pool,
        stats: &mut DriverStats,
    ) -> Option<Lease> {
        let lease = if self.hits(self.swarm.starve) { None } else { pool.lend() };
        if let Some(lease) = lease {
            pool.claim(&lease);
            return Some(lease);
        }
        stats.enobufs += 1;
        self.faults.starved += 1;
        let delay = STARVED_RETRY * (1 << flight.starved.min(12));
        flight.starved += 1;
        flight.not_before = self.now.after(delay);
        self.schedule(flight.not_before);
        None
    }
}

/// The bytes of a gather after the first `skip`, at most `len`.
fn collect(from: &Gather, mut skip: u32, len: u32, pool: &Pool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in from.iter() {
        let rest = chunk.span.skip(skip);
        skip -= chunk.span.len - rest.len;
        let take = Span::new(rest.at, rest.len.min(len - bytes.len() as u32));
        let part = take.of(pool.view(&chunk.lease)).expect("a chunk's bytes are within its lease");
        bytes.extend_from_slice(part);
    }
    bytes
}

/// Lays bytes out over spans in order.
fn scatter(mut bytes: &[u8], spans: impl Iterator<Item = Span>, lease: &mut Lease, pool: &Pool) {
    let into = pool.bytes(lease);
    for span in spans {
        let place = span.of_mut(into).expect("a span is within its lease");
        let len = place.len().min(bytes.len());
        let (front, rest) = bytes.split_at(len);
        place[..len].copy_from_slice(front);
        bytes = rest;
    }
}

/// First wait of a receive that found no buffer; doubles each time.
const STARVED_RETRY: Duration = Duration::from_micros(10);
