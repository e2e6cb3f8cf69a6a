//! The driver for Linux with io_uring, one ring a shard.
//!
//! Operations wait in `queue` until the shard waits; then they become submission entries, at most
//! one system call submits them and sleeps, and what completed is judged: handed out, or continued
//! (a short send, a descriptor that was not ready, a shared receive that found no buffer).

mod entry;
mod flight;
mod judge;
mod ring;
mod setup;
mod shared;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode};
use nix::sys::socket::Shutdown;

use entry::{Request, Scatter, Style};
use flight::{Flight, Stage};
use judge::{Verdict, judge};
use ring::{Pause, Ring};
pub use setup::Features;
use shared::SharedBuffers;

use super::files;
use super::flights::{Flights, Id};
use super::op::Rank;
use super::system::{self, ACCEPT_AGAIN, CLOSE_PATIENCE};
use super::waker::Sleeper;
use super::{
    Class, Completion, Driver, DriverStats, Errno, Fd, Full, Op, Pool, PoolSizes, Token, Waker,
};
use crate::base::Instant;
use crate::limits::{
    FILE_READS_A_WAIT_BYTES, OPS_IN_FLIGHT_MAX, QUEUE_ENTRIES_FIRST, RING_COMPLETIONS,
    RING_SUBMISSIONS, RING_WORKERS_BOUNDED, RING_WORKERS_UNBOUNDED,
};

/// How large a driver is. The default is what a shard in production has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringConfig {
    pub submissions: u32,
    pub completions: u32,
    pub in_flight_max: u32,
    pub pool: PoolSizes,
    /// Use nothing that is newer than Linux 5.11: for tests, and to rule out a kernel's bug.
    pub plain: bool,
    /// The ring does what connections that are not logged in need, and nothing else ever: it accepts,
    /// receives and sends. The kernel holds it to that.
    pub confined: bool,
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig {
            submissions: RING_SUBMISSIONS,
            completions: RING_COMPLETIONS,
            in_flight_max: OPS_IN_FLIGHT_MAX,
            pool: PoolSizes::default(),
            plain: false,
            confined: false,
        }
    }
}

/// [`Driver`] over io_uring. Stays on the thread that made it.
#[derive(Debug)]
pub struct UringDriver {
    core: Core,
    /// Before the fields that own memory the kernel writes to: it must be gone first.
    ring: Ring,
    shared: Option<SharedBuffers>,
    scatter: Scatter,
    /// Where the armed read of the waker's eventfd lands.
    bell: Box<[u8; 8]>,
    /// Last, so that it outlives everything that refers to its region.
    pool: Pool,
}

impl UringDriver {
    /// Makes the ring on the calling thread. An error says what to look at when the kernel refuses.
    pub fn new(config: UringConfig) -> io::Result<UringDriver> {
        let pool = Pool::new(config.pool)?;
        let (ring, mut features) = setup::build(&config)?;
        let shared = if config.plain { None } else { SharedBuffers::new(&ring, &pool)? };
        features.buffer_ring = shared.is_some();
        // Both came with Linux 5.19; a kernel with the one and not the other is stepped down from.
        features.multishot_accept = shared.is_some();
        features.worker_limits = limit_workers(&ring);
        if config.confined {
            setup::confine(&ring)?;
        }
        let style = Style {
            buffer_ring: features.buffer_ring,
            multishot_accept: features.multishot_accept,
        };
        let core = Core::new(&config, features, style)?;
        let scatter = Scatter::new(ring.params().sq_entries() as usize);
        let ring = Ring::new(ring, features.no_iowait);
        Ok(UringDriver { core, ring, shared, scatter, bell: Box::default(), pool })
    }

    /// What the kernel offers, for the log.
    pub const fn features(&self) -> Features {
        self.core.features
    }

    /// Turns what is queued into submission entries, in order, entering the kernel in between when
    /// they do not fit. Leaves the rest for the next turn when the kernel takes no more.
    fn fill(&mut self) -> io::Result<()> {
        while let Some(step) = self.core.queue.front().copied() {
            if !(self.ring.has_room() && self.scatter.has_room()) {
                self.ring.enter(Pause::None, &mut self.core.stats)?;
                if !self.ring.is_submitted() {
                    return Ok(());
                }
                self.scatter.reset();
            }
            self.core.queue.pop_front();
            let entry = match step {
                Step::Start(id) => self.start(id),
                Step::Cancel(id) => Some(self.core.cancel_entry(id)),
                Step::WatchBell => self.watch_bell(),
            };
            if let Some(entry) = entry {
                // SAFETY: the buffers belong to leases the flight owns until its completion, or to
                // the bell; lists of places stay until the entry is consumed.
                unsafe { self.ring.push(&entry) };
            }
        }
        Ok(())
    }

    /// `None` when there is nothing to submit: the flight is gone, finished or parked.
    fn start(&mut self, id: Id) -> Option<io_uring::squeue::Entry> {
        let flight = self.core.flights.get(id)?;
        // The ring would leave it to a thread of the kernel, on another CPU.
        if !self.core.plain
            && let Some(result) = files::write_memory(&flight.op, &self.pool, &mut self.core.stats)
        {
            self.core.finish(id, result, &mut self.pool);
            return None;
        }
        match entry::request(flight, self.core.style, &mut self.pool, &mut self.scatter) {
            Request::Submit(entry) => {
                flight.in_kernel = true;
                Some(entry.user_data(id.user_data()))
            }
            Request::Finish(result) => {
                self.core.finish(id, result, &mut self.pool);
                None
            }
            Request::Starved => {
                self.core.park(id);
                None
            }
        }
    }

    /// Lets some of the reads of files go on, behind the sends of this turn: what they bring is sealed
    /// and sent before the next ones push it out of the CPU's cache.
    fn choose_reads(&mut self) {
        let (core, mut bytes) = (&mut self.core, 0);
        while bytes < FILE_READS_A_WAIT_BYTES
            && let Some(id) = core.reads.pop_front()
        {
            let Some(flight) = core.flights.get(id) else { continue };
            bytes = bytes.saturating_add(flight.op.total());
            // The ring would leave it to a thread of the kernel, on another CPU.
            if !core.plain && files::is_in_memory(flight.op.fd(), &mut core.stats) {
                core.on_the_spot.push(id);
            } else {
                core.queue.push_back(Step::Start(id));
            }
        }
    }

    fn read_on_the_spot(&mut self, out: &mut Vec<Completion>) {
        let mut ids = std::mem::take(&mut self.core.on_the_spot);
        for id in ids.drain(..) {
            let Some(flight) = self.core.flights.get(id) else { continue };
            match files::read_memory(&flight.op, &self.pool, &mut self.core.stats) {
                Some(result) => self.core.finish(id, result, &mut self.pool),
                None => self.core.queue.push_back(Step::Start(id)),
            }
        }
        self.core.on_the_spot = ids;
        out.append(&mut self.core.finished);
    }

    fn watch_bell(&mut self) -> Option<io_uring::squeue::Entry> {
        if self.core.closing {
            return None;
        }
        let fd = io_uring::types::Fd(self.core.sleeper.fd()?.0);
        self.core.bell_watched = true;
        let read = opcode::Read::new(fd, self.bell.as_mut_ptr(), 8).build();
        Some(read.user_data(BELL))
    }

    /// Lets shared receives that found no buffer try again when there are some: twice as many as
    /// there are buffers, because most of them turn out to have nothing to receive yet.
    fn unpark(&mut self) {
        if self.core.parked.is_empty() {
            return;
        }
        let buffers = match &self.shared {
            Some(shared) => shared.count(),
            None => self.pool.free(Class::Small),
        };
        for _ in 0..buffers.saturating_mul(2) {
            let Some(id) = self.core.parked.pop_front() else { return };
            self.core.queue.push_back(Step::Start(id));
        }
        self.core.hurry |= buffers > 0 && !self.core.parked.is_empty();
    }

    fn collect(&mut self, out: &mut Vec<Completion>) {
        let (core, pool, shared) = (&mut self.core, &mut self.pool, &mut self.shared);
        self.ring.drain(|entry| {
            core.stats.completions += 1;
            core.completed(&entry, shared.as_mut(), pool);
        });
        out.append(&mut core.finished);
    }

    /// How long to sleep, given that `out` has `ready` completions already.
    fn pause(&mut self, until: Option<Instant>, ready: bool) -> Pause {
        let hurry = std::mem::take(&mut self.core.hurry);
        let linger = self.core.linger.take();
        let core = &self.core;
        let reads = !core.reads.is_empty() || !core.on_the_spot.is_empty();
        let unsettled = !core.finished.is_empty() || !core.queue.is_empty();
        if ready || hurry || reads || unsettled {
            return Pause::None;
        }
        let pause = match until.map(|until| until.since(self.now())) {
            None => Pause::Forever,
            Some(Duration::ZERO) => return Pause::None,
            Some(pause) => Pause::For(pause),
        };
        let pause = match (pause, linger) {
            (Pause::For(pause), Some(linger)) if pause <= linger => Pause::For(pause),
            (_, Some(linger)) => Pause::Linger(linger),
            (pause, None) => pause,
        };
        if self.core.sleeper.fall_asleep() { pause } else { Pause::None }
    }
}

impl Driver for UringDriver {
    fn now(&self) -> Instant {
        system::now()
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn submit(&mut self, token: Token, op: Op) -> Result<(), Full> {
        let rank = op.rank();
        let flight = Flight::new(token, op);
        let id = self.core.flights.insert(flight).map_err(|flight| Full(flight.op))?;
        match rank {
            Rank::Out => self.core.queue.push_back(Step::Start(id)),
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
        debug_assert!(
            !self.core.flights.iter().any(|(_, flight)| flight.op.fd() == fd),
            "{fd:?} is closed with an operation in flight"
        );
        system::close(fd);
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
        if let Some(shared) = &mut self.shared {
            shared.publish(&mut self.pool);
        }
        self.unpark();
        self.core.queue.extend(self.core.takes.drain(..).map(Step::Start));
        self.choose_reads();
        self.fill()?;
        let pause = self.pause(until, !out.is_empty());
        let entered = self.ring.enter(pause, &mut self.core.stats);
        if self.core.sleeper.wake_up() {
            self.core.stats.wakes += 1;
        }
        if self.ring.is_submitted() {
            self.scatter.reset();
        }
        self.collect(out);
        self.read_on_the_spot(out);
        entered
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

impl Drop for UringDriver {
    /// The kernel writes to the pool's region until it has answered every request, so everything is
    /// cancelled and waited for. A request that does not end (a hung disk) costs the region's
    /// address space: it is never unmapped.
    fn drop(&mut self) {
        self.core.closing = true;
        for id in self.core.flights.ids() {
            self.core.cancel(id, &mut self.pool);
        }
        if self.core.bell_watched {
            self.core.queue.push_back(Step::Cancel(Id::from_user_data(BELL)));
        }
        let mut out = Vec::new();
        let deadline = self.now().after(CLOSE_PATIENCE);
        while self.core.flights.len() > 0 || self.core.bell_watched {
            let left = deadline.since(self.now());
            let failed = self.fill().is_err()
                || self.ring.enter(Pause::For(left), &mut self.core.stats).is_err();
            self.collect(&mut out);
            if failed || left.is_zero() {
                break;
            }
        }
        self.collect(&mut out);
        let stuck = self.core.flights.len() > 0 || self.core.bell_watched;
        if stuck {
            self.pool.leak_region();
            self.scatter.leak();
            std::mem::forget(std::mem::take(&mut self.bell));
        }
        for completion in out {
            completion.op.dissolve(&mut self.pool);
        }
        self.core.flights.end_all(|flight| flight.op.dissolve(&mut self.pool));
        if let Some(shared) = &mut self.shared {
            shared.withdraw(&mut self.pool);
        }
    }
}

/// A step towards the kernel, in the order in which it was asked for.
#[derive(Clone, Copy, Debug)]
enum Step {
    Start(Id),
    Cancel(Id),
    WatchBell,
}

/// What the driver knows without asking the kernel.
#[derive(Debug)]
struct Core {
    features: Features,
    plain: bool,
    style: Style,
    flights: Flights<Flight>,
    queue: VecDeque<Step>,
    /// What comes behind that: see [`Rank`].
    takes: VecDeque<Id>,
    /// Reads of files, which come behind everything else.
    reads: VecDeque<Id>,
    /// Those of files in memory that are next.
    on_the_spot: Vec<Id>,
    /// Shared receives waiting for a buffer, longest first.
    parked: VecDeque<Id>,
    /// Completions not handed out yet.
    finished: Vec<Completion>,
    sleeper: Sleeper,
    /// The read of the bell is with the kernel.
    bell_watched: bool,
    /// There is more to do than one turn took: do not sleep.
    hurry: bool,
    /// Being dropped: nothing is continued, accepted connections are closed.
    closing: bool,
    /// See [`Driver::linger`].
    linger: Option<Duration>,
    scratch: Vec<Id>,
    stats: DriverStats,
}

impl Core {
    fn new(config: &UringConfig, features: Features, style: Style) -> io::Result<Core> {
        Ok(Core {
            features,
            plain: config.plain,
            style,
            flights: Flights::new(config.in_flight_max),
            queue: VecDeque::from([Step::WatchBell]),
            takes: VecDeque::with_capacity(QUEUE_ENTRIES_FIRST),
            reads: VecDeque::new(),
            on_the_spot: Vec::new(),
            parked: VecDeque::new(),
            finished: Vec::with_capacity(QUEUE_ENTRIES_FIRST),
            sleeper: Sleeper::new()?,
            bell_watched: false,
            hurry: false,
            closing: false,
            linger: None,
            scratch: Vec::new(),
            stats: DriverStats::default(),
        })
    }

    fn cancel_entry(&self, id: Id) -> io_uring::squeue::Entry {
        let entry = opcode::AsyncCancel::new(id.user_data()).build().user_data(CANCEL);
        if self.features.silent_cancel {
            entry.flags(io_uring::squeue::Flags::SKIP_SUCCESS)
        } else {
            entry
        }
    }

    fn cancel(&mut self, id: Id, pool: &mut Pool) {
        let Some(flight) = self.flights.get(id) else { return };
        if !flight.in_kernel {
            self.finish(id, Err(Errno(libc::ECANCELED)), pool);
        } else if !std::mem::replace(&mut flight.cancelled, true) {
            self.queue.push_back(Step::Cancel(id));
        }
    }

    fn park(&mut self, id: Id) {
        self.stats.enobufs += 1;
        self.parked.push_back(id);
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

    fn completed(
        &mut self,
        entry: &cqueue::Entry,
        shared: Option<&mut SharedBuffers>,
        pool: &mut Pool,
    ) {
        match entry.user_data() {
            CANCEL => return,
            BELL => {
                self.bell_watched = false;
                if !self.closing {
                    self.queue.push_back(Step::WatchBell);
                }
                return;
            }
            _ => {}
        }
        let id = Id::from_user_data(entry.user_data());
        let more = cqueue::more(entry.flags());
        let Some(flight) = self.flights.get(id) else {
            unreachable!("the kernel completed a request that was not in flight");
        };
        flight.in_kernel = more;
        let result = match entry.result() {
            errno if errno < 0 => Err(Errno(-errno)),
            value => Ok(value as u32),
        };
        if let Some(buffer) = cqueue::buffer_select(entry.flags()) {
            judge::receive_shared(flight, buffer, result, shared, pool);
        }
        if let Op::Accept { listener } = flight.op {
            return self.accepted(id, listener, result, more, pool);
        }
        let mut verdict = judge(flight, result);
        if flight.cancelled && !matches!(verdict, Verdict::Finish(_)) {
            verdict = Verdict::Finish(Err(Errno(libc::ECANCELED)));
        }
        self.act(id, verdict, pool);
    }

    fn act(&mut self, id: Id, verdict: Verdict, pool: &mut Pool) {
        let Some(flight) = self.flights.get(id) else { return };
        match verdict {
            Verdict::Finish(result) => return self.finish(id, result, pool),
            Verdict::Park => return self.park(id),
            Verdict::Continue => {}
            Verdict::AwaitReadiness => {
                flight.stage = Stage::Poll;
                if std::mem::take(&mut flight.borrowed) {
                    flight.op.unlend(pool);
                }
            }
        }
        self.queue.push_back(Step::Start(id));
    }

    /// `more` says that the kernel keeps accepting by itself.
    fn accepted(
        &mut self,
        id: Id,
        listener: Fd,
        result: Result<u32, Errno>,
        more: bool,
        pool: &mut Pool,
    ) {
        let Some(flight) = self.flights.get(id) else { return };
        let polled = std::mem::replace(&mut flight.stage, Stage::Direct) == Stage::Poll;
        let (token, cancelled) = (flight.token, flight.cancelled);
        match result {
            Ok(_) if polled && !cancelled => self.queue.push_back(Step::Start(id)),
            Ok(_) if polled => self.finish(id, Err(Errno(libc::ECANCELED)), pool),
            Ok(fd) if self.closing => {
                let _ = nix::unistd::close(fd as i32);
                if !more {
                    self.finish(id, Err(Errno(libc::ECANCELED)), pool);
                }
            }
            Ok(fd) if more || !cancelled => {
                let op = Op::Accept { listener };
                self.finished.push(Completion { token, op, result: Ok(fd), more: true });
                if !more {
                    self.queue.push_back(Step::Start(id));
                }
            }
            Ok(fd) => self.finish(id, Ok(fd), pool),
            Err(Errno(libc::EINVAL)) if self.style.multishot_accept && !cancelled => {
                self.style.multishot_accept = false;
                self.features.multishot_accept = false;
                self.queue.push_back(Step::Start(id));
            }
            Err(errno) if cancelled => self.finish(id, Err(errno), pool),
            Err(Errno(libc::EAGAIN)) => self.act(id, Verdict::AwaitReadiness, pool),
            Err(Errno(errno)) if ACCEPT_AGAIN.contains(&errno) => {
                self.queue.push_back(Step::Start(id));
            }
            Err(errno) => self.finish(id, Err(errno), pool),
        }
    }
}

/// Keeps a burst of slow file operations from starting hundreds of kernel threads.
fn limit_workers(ring: &IoUring) -> bool {
    let mut limits = [RING_WORKERS_BOUNDED, RING_WORKERS_UNBOUNDED];
    ring.submitter().register_iowq_max_workers(&mut limits).is_ok()
}

/// User data of requests that are no flights; no flight has a key this large.
const BELL: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

const _: () = assert!(OPS_IN_FLIGHT_MAX < u32::MAX - 1);
