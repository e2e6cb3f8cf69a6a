//! The driver for kernels and sandboxes without io_uring: readiness from epoll (through mio), and
//! ordinary system calls that do not wait.
//!
//! Operations are tried when the shard waits; those whose descriptor is not ready wait in its chain
//! until an event says that it is. Files are read and written on the spot as far as the page cache
//! goes and the filesystem can tell (`RWF_NOWAIT`); what could wait for a disk goes to a helper
//! thread. Streams have to be non-blocking; sockets are used without blocking whatever they are.

mod calls;
mod flight;
mod helpers;
mod watch;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ::mio::event::Event;
use ::mio::unix::SourceFd;
use ::mio::{Events, Interest, Poll};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::Shutdown;

use calls::Outcome;
use flight::{Flight, Place, Way};
use helpers::{Answer, Helpers, Job, Work};
use watch::Watches;

use super::flights::{Flights, Id};
use super::op::{Rank, chunks, pieces};
use super::places::Places;
use super::system::{self, ACCEPT_AGAIN, CLOSE_PATIENCE};
use super::waker::Sleeper;
use super::{
    Class, Completion, Driver, DriverStats, Errno, Fd, Full, Op, Pool, PoolSizes, Token, Waker,
};
use crate::base::Instant;
use crate::limits::{
    ACCEPTS_A_TURN, EVENTS_A_WAIT, FILE_HELPERS, FILE_READS_A_WAIT_BYTES, LINGER_COMPLETIONS,
    OPS_IN_FLIGHT_MAX, QUEUE_ENTRIES_FIRST,
};

/// How large a driver is. The default is what a shard in production has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MioConfig {
    pub in_flight_max: u32,
    pub pool: PoolSizes,
    /// Leave every file operation to a helper, as on a filesystem that cannot say when it would
    /// wait: for tests.
    pub plain: bool,
}

impl Default for MioConfig {
    fn default() -> MioConfig {
        MioConfig { in_flight_max: OPS_IN_FLIGHT_MAX, pool: PoolSizes::default(), plain: false }
    }
}

/// [`Driver`] over mio. Stays on the thread that made it.
#[derive(Debug)]
pub struct MioDriver {
    poll: Poll,
    events: Events,
    core: Core,
    /// Last, so that it outlives everything that refers to its region.
    pool: Pool,
}

impl MioDriver {
    /// # Errors
    /// The process is out of descriptors or memory.
    pub fn new(config: MioConfig) -> io::Result<MioDriver> {
        let pool = Pool::new(config.pool)?;
        let poll = Poll::new()?;
        let sleeper = Sleeper::new()?;
        if let Some(bell) = sleeper.fd() {
            // Never read: each ring is an edge, whatever the counter says.
            poll.registry().register(&mut SourceFd(&bell.0), BELL, Interest::READABLE)?;
        }
        let core = Core {
            flights: Flights::new(config.in_flight_max),
            watches: Watches::new(poll.registry().try_clone()?),
            queue: VecDeque::with_capacity(QUEUE_ENTRIES_FIRST),
            takes: VecDeque::with_capacity(QUEUE_ENTRIES_FIRST),
            reads: VecDeque::new(),
            parked: VecDeque::with_capacity(QUEUE_ENTRIES_FIRST),
            finished: Vec::with_capacity(QUEUE_ENTRIES_FIRST),
            helpers: Helpers::new(FILE_HELPERS, sleeper.waker()),
            helped: 0,
            answers: Vec::with_capacity(QUEUE_ENTRIES_FIRST),
            sleeper,
            plain: config.plain,
            linger: None,
            scratch: Vec::new(),
            stats: DriverStats::default(),
        };
        Ok(MioDriver { poll, events: Events::with_capacity(EVENTS_A_WAIT), core, pool })
    }

    /// How long to sleep, given that `out` has `ready` completions already. `None` is for ever.
    fn pause(&self, until: Option<Instant>, ready: bool) -> Option<Duration> {
        let core = &self.core;
        let parked = !core.parked.is_empty() && self.pool.free(Class::Small) > 0;
        let queued = !core.queue.is_empty() || !core.reads.is_empty();
        let unsettled = !core.finished.is_empty() || queued;
        let pause = until.map(|until| until.since(system::now()));
        let stay = ready || parked || unsettled || pause == Some(Duration::ZERO);
        if stay || !core.sleeper.fall_asleep() { Some(Duration::ZERO) } else { pause }
    }

    /// Sleeps the time in which nothing is heard. What has completed on the spot, like a send, is as
    /// little worth staying awake for as what completes meanwhile.
    fn linger_now(&mut self, until: Option<Instant>, ready: bool) {
        let Some(time) = self.core.linger.take() else { return };
        let core = &mut self.core;
        let waits = !core.queue.is_empty() || !core.reads.is_empty() || !core.parked.is_empty();
        let enough = core.finished.len() >= LINGER_COMPLETIONS as usize;
        let short = until.is_some_and(|until| until.since(system::now()) <= time);
        if !(ready || waits || enough || short) {
            core.stats.enters += 1;
            std::thread::sleep(time);
        }
    }

    fn sleep(&mut self, pause: Option<Duration>) -> io::Result<()> {
        self.core.stats.enters += 1;
        let polled = self.poll.poll(&mut self.events, pause);
        if self.core.sleeper.wake_up() {
            self.core.stats.wakes += 1;
        }
        match polled {
            Err(why) if why.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            polled => polled?,
        }
        for event in &self.events {
            self.core.happened(event, &mut self.pool);
        }
        Ok(())
    }
}

impl Driver for MioDriver {
    fn now(&self) -> Instant {
        system::now()
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn submit(&mut self, token: Token, op: Op) -> Result<(), Full> {
        if let Op::Accept { listener } = op {
            set_nonblocking(listener);
        }
        let rank = op.rank();
        let flight = Flight::new(token, op);
        let id = self.core.flights.insert(flight).map_err(|flight| Full(flight.op))?;
        match rank {
            Rank::Out => self.core.queue.push_back(id),
            Rank::In => self.core.takes.push_back(id),
            Rank::Files => self.core.reads.push_back(id),
        }
        Ok(())
    }

    fn cancel(&mut self, token: Token) {
        let mut found = std::mem::take(&mut self.core.scratch);
        self.core.flights.find(token, &mut found);
        for id in found.drain(..) {
            self.core.cancel(id, &mut self.pool);
        }
        self.core.scratch = found;
    }

    fn socket(&mut self, to: &SocketAddr) -> Result<Fd, Errno> {
        system::socket(to)
    }

    fn welcome(&mut self, fd: Fd) -> Option<SocketAddr> {
        system::welcome(fd)
    }

    fn close(&mut self, fd: Fd) {
        self.release(fd);
        system::close(fd);
    }

    fn release(&mut self, fd: Fd) {
        debug_assert!(
            !self.core.flights.iter().any(|(_, flight)| flight.op.fd() == fd),
            "{fd:?} is given up with an operation in flight"
        );
        self.core.watches.release(fd, &mut self.core.stats);
    }

    fn set_receive_mark(&mut self, fd: Fd, bytes: u32) {
        system::set_receive_mark(fd, bytes);
    }

    fn shutdown(&mut self, fd: Fd) {
        system::shutdown(fd, Shutdown::Both);
    }

    fn shutdown_send(&mut self, fd: Fd) {
        system::shutdown(fd, Shutdown::Write);
    }

    fn wait(&mut self, until: Option<Instant>, out: &mut Vec<Completion>) -> io::Result<()> {
        self.core.start_all(&mut self.pool);
        self.core.watches.release_resting(&mut self.core.stats);
        self.linger_now(until, !out.is_empty());
        let pause = self.pause(until, !out.is_empty());
        let slept = self.sleep(pause);
        self.core.hear_helpers(&mut self.pool);
        out.append(&mut self.core.finished);
        slept
    }

    fn linger(&mut self, time: Duration) {
        self.core.linger = Some(time);
    }

    fn waker(&self) -> Waker {
        self.core.sleeper.waker()
    }

    fn stats(&self) -> DriverStats {
        DriverStats { in_flight: u64::from(self.core.flights.len()), ..self.core.stats }
    }
}

impl Drop for MioDriver {
    /// Helpers work on the pool's region until they have answered, so they are waited for. One that
    /// does not (a hung disk) costs the region's address space: it is never unmapped.
    fn drop(&mut self) {
        for id in self.core.flights.ids() {
            self.core.cancel(id, &mut self.pool);
        }
        let deadline = system::now().after(CLOSE_PATIENCE);
        while self.core.helped > 0 {
            let left = deadline.since(system::now());
            let pause = if self.core.sleeper.fall_asleep() { left } else { Duration::ZERO };
            let failed = self.sleep(Some(pause)).is_err();
            self.core.hear_helpers(&mut self.pool);
            if failed || left.is_zero() {
                break;
            }
        }
        if self.core.helped > 0 {
            self.pool.leak_region();
        }
        for completion in self.core.finished.drain(..) {
            completion.op.dissolve(&mut self.pool);
        }
        self.core.flights.end_all(|flight| flight.op.dissolve(&mut self.pool));
    }
}

/// What the driver knows without asking the kernel.
#[derive(Debug)]
struct Core {
    flights: Flights<Flight>,
    watches: Watches,
    /// To be tried at the next wait, in the order in which they were asked for.
    queue: VecDeque<Id>,
    /// What comes behind that: see [`Rank`].
    takes: VecDeque<Id>,
    /// Reads of files, which come behind everything else.
    reads: VecDeque<Id>,
    /// Shared receives that are ready and wait for a buffer, longest first.
    parked: VecDeque<Id>,
    /// Completions not handed out yet.
    finished: Vec<Completion>,
    helpers: Helpers,
    /// Flights that helpers have.
    helped: u32,
    answers: Vec<Answer>,
    sleeper: Sleeper,
    plain: bool,
    /// See [`Driver::linger`].
    linger: Option<Duration>,
    scratch: Vec<Id>,
    stats: DriverStats,
}

impl Core {
    /// Tries what was submitted and what has waited for small leases.
    fn start_all(&mut self, pool: &mut Pool) {
        for _ in 0..self.parked.len() {
            if pool.free(Class::Small) == 0 {
                break;
            }
            let Some(id) = self.parked.pop_front() else { break };
            if self.flights.get(id).is_some_and(|flight| flight.place == Place::Parked) {
                self.attempt(id, pool);
            }
        }
        self.queue.append(&mut self.takes);
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(flight) = self.flights.get(id) else { continue };
            let (fd, way) = (flight.op.fd(), flight.way());
            if self.watches.is_worth_trying(fd, way) {
                self.attempt(id, pool);
            } else {
                self.wait_for_readiness(id, pool);
            }
        }
        self.read_files(pool);
    }

    /// Some of the reads of files, behind the sends of this turn: what they bring is sealed and sent
    /// before the next ones push it out of the CPU's cache.
    fn read_files(&mut self, pool: &mut Pool) {
        let mut bytes = 0;
        while bytes < FILE_READS_A_WAIT_BYTES
            && let Some(id) = self.reads.pop_front()
        {
            let Some(flight) = self.flights.get(id) else { continue };
            bytes = flight.op.total().saturating_add(bytes);
            self.attempt(id, pool);
        }
    }

    fn attempt(&mut self, id: Id, pool: &mut Pool) {
        let Some(flight) = self.flights.get(id) else { return };
        let fd = flight.op.fd();
        if let Op::Accept { listener } = flight.op {
            return self.accept(id, listener, pool);
        }
        if self.plain && flight.is_for_file() {
            return self.help(id, pool);
        }
        match calls::attempt(flight, pool, &mut self.stats) {
            Outcome::Done(result) => {
                let is_receive = matches!(flight.op, Op::Recv { .. });
                if is_receive && result.is_ok_and(|moved| moved < flight.op.total()) {
                    self.watches.was_short(fd);
                }
                self.finish(id, result, pool);
            }
            Outcome::NotReady => self.wait_for_readiness(id, pool),
            Outcome::Starved if self.watches.is_known_ready(fd, Way::In) => {
                flight.place = Place::Parked;
                self.stats.enobufs += 1;
                self.parked.push_back(id);
            }
            // There may be nothing to receive yet, and then no memory is needed.
            Outcome::Starved => self.wait_for_readiness(id, pool),
            Outcome::Slow => self.help(id, pool),
        }
    }

    fn accept(&mut self, id: Id, listener: Fd, pool: &mut Pool) {
        let Some(flight) = self.flights.get(id) else { return };
        let token = flight.token;
        for _ in 0..ACCEPTS_A_TURN {
            match calls::accept(listener, &mut self.stats) {
                Ok(fd) => {
                    let op = Op::Accept { listener };
                    self.finished.push(Completion { token, op, result: Ok(fd), more: true });
                }
                Err(Errno(libc::EAGAIN)) => return self.wait_for_readiness(id, pool),
                Err(Errno(errno)) if ACCEPT_AGAIN.contains(&errno) => {}
                Err(errno) => return self.finish(id, Err(errno), pool),
            }
        }
        flight.place = Place::Queued;
        self.queue.push_back(id);
    }

    /// Puts the flight behind the others that wait for its descriptor, if it is one that waits.
    fn wait_for_readiness(&mut self, id: Id, pool: &mut Pool) {
        let Some(flight) = self.flights.get(id) else { return };
        if flight.op.is_hasty() {
            return self.finish(id, Err(Errno(libc::EAGAIN)), pool);
        }
        (flight.place, flight.next) = (Place::Waiting, None);
        let (fd, way, receives) =
            (flight.op.fd(), flight.way(), matches!(flight.op, Op::Recv { .. }));
        if let Err(errno) = self.watches.ask(fd, way, receives, &mut self.stats) {
            return self.finish(id, Err(errno), pool);
        }
        let Some(mut last) = self.watches.first(fd) else {
            return self.watches.set_first(fd, Some(id));
        };
        while let Some(next) = self.flights.get(last).and_then(|flight| flight.next) {
            last = next;
        }
        if let Some(last) = self.flights.get(last) {
            last.next = Some(id);
        }
    }

    /// The kernel says something of a descriptor: those who wait for it try again.
    fn happened(&mut self, event: &Event, pool: &mut Pool) {
        if event.token() == BELL {
            self.stats.completions += 1;
            return;
        }
        let fd = Fd(event.token().0 as i32);
        self.watches.note(fd, event);
        let mut next = self.watches.first(fd);
        self.watches.set_first(fd, None);
        while let Some(id) = next {
            let Some(flight) = self.flights.get(id) else { return };
            next = flight.next.take();
            let way = flight.way();
            if self.watches.is_worth_trying(fd, way) {
                self.attempt(id, pool);
            } else {
                self.wait_for_readiness(id, pool);
            }
        }
    }

    /// Gives the operation to a thread that may wait for a disk.
    fn help(&mut self, id: Id, pool: &mut Pool) {
        let Some(flight) = self.flights.get(id) else { return };
        let (fd, done) = (flight.op.fd(), flight.done);
        let work = match &flight.op {
            Op::ReadAt { at, lease, spans, .. } => {
                let at = at.saturating_add(u64::from(done));
                Places::new(pool, pieces(lease, spans), done)
                    .map(|places| Work::Read { at, places })
            }
            Op::WriteAt { at, from, .. } => {
                Places::new(pool, chunks(from), done).map(|places| Work::Write { at: *at, places })
            }
            _ => Ok(Work::Sync),
        };
        match work {
            Ok(work) => {
                flight.place = Place::Helped;
                self.helped += 1;
                self.helpers.submit(Job { id, fd, work });
            }
            Err(errno) => self.finish(id, Err(errno), pool),
        }
    }

    fn hear_helpers(&mut self, pool: &mut Pool) {
        if self.helped == 0 {
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        self.helpers.collect(&mut answers);
        for Answer { id, result, calls } in answers.drain(..) {
            self.helped -= 1;
            self.stats.submissions += calls;
            self.stats.completions += 1;
            let Some(flight) = self.flights.get(id) else { continue };
            let result = match result {
                Ok(moved) => Ok(flight.done + moved),
                // What has been read is told first; the error comes again with the next read.
                Err(_) if flight.done > 0 => Ok(flight.done),
                Err(errno) => Err(errno),
            };
            self.finish(id, result, pool);
        }
        self.answers = answers;
    }

    fn cancel(&mut self, id: Id, pool: &mut Pool) {
        let Some(flight) = self.flights.get(id) else { return };
        match flight.place {
            Place::Queued | Place::Parked => {}
            Place::Waiting => self.stop_waiting(id),
            // What has been begun is finished.
            Place::Helped if !self.helpers.withdraw(id) => return,
            Place::Helped => self.helped -= 1,
        }
        self.finish(id, Err(Errno(libc::ECANCELED)), pool);
    }

    /// Takes the flight out of its descriptor's chain.
    fn stop_waiting(&mut self, id: Id) {
        let Some(flight) = self.flights.get(id) else { return };
        let (fd, next) = (flight.op.fd(), flight.next.take());
        if self.watches.first(fd) == Some(id) {
            self.watches.set_first(fd, next);
            if next.is_none() {
                // Its owner may be about to give it away.
                self.watches.release(fd, &mut self.stats);
            }
            return;
        }
        let mut at = self.watches.first(fd);
        while let Some(flight) = at.and_then(|at| self.flights.get(at)) {
            if flight.next == Some(id) {
                flight.next = next;
                return;
            }
            at = flight.next;
        }
    }

    /// Hands the operation back. A borrowed lease that holds no bytes returns to the pool.
    fn finish(&mut self, id: Id, result: Result<u32, Errno>, pool: &mut Pool) {
        let Some(mut flight) = self.flights.remove(id) else { return };
        if flight.borrowed {
            flight.op.settle_lent(result, pool);
        }
        let Flight { token, op, .. } = flight;
        self.finished.push(Completion { token, op, result, more: false });
    }
}

/// For listeners that were opened elsewhere. What is wrong with one shows when it is used.
fn set_nonblocking(fd: Fd) {
    if fd.0 < 0 {
        return;
    }
    // SAFETY: the caller has it open, and it is borrowed for these calls alone.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.0) };
    if let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) {
        let flags = OFlag::from_bits_retain(flags);
        if !flags.contains(OFlag::O_NONBLOCK) {
            let _ = fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK));
        }
    }
}

/// The token of the waker's eventfd; no descriptor has this number.
const BELL: ::mio::Token = ::mio::Token(usize::MAX);

#[cfg(test)]
mod tests;
