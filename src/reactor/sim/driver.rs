use std::fmt;
use std::net::SocketAddr;

use super::attempt::{Flight, Outcome};
use super::handle::SimWorld;
use super::world::{DriverRecord, Object, World};
use crate::base::Instant;
use crate::reactor::waker::Sleeper;
use crate::reactor::{
    Class, Completion, Driver, DriverStats, Errno, Fd, Full, Op, Pool, PoolSizes, Token, Waker,
};

/// [`Driver`] over a [`SimWorld`]. Never blocks: `wait` gives what is due now.
pub struct SimDriver {
    world: SimWorld,
    number: usize,
    flights: Vec<Flight>,
    /// What [`SimDriver::is_due`] found for the next wait, once it has looked.
    found: Option<Vec<Completion>>,
    /// When an operation that found no room is to be tried again.
    room_at: Option<Instant>,
    stats: DriverStats,
    pool: Pool,
}

impl SimDriver {
    pub(super) fn new(world: SimWorld, pool: PoolSizes) -> SimDriver {
        let pool = Pool::new(pool).expect("memory for a simulated pool");
        let mut inner = world.0.borrow_mut();
        let number = inner.drivers.len();
        let spins_at = inner.now;
        inner.drivers.push(DriverRecord {
            alive: true,
            seen: u64::MAX,
            eager: true,
            until: None,
            sleeper: Sleeper::without_kernel(),
            submitted: 0,
            completed: 0,
            abandoned: 0,
            spins: 0,
            spins_at,
        });
        drop(inner);
        let stats = DriverStats::default();
        SimDriver { world, number, flights: Vec::new(), found: None, room_at: None, stats, pool }
    }

    /// Nothing is in flight and every lease has come back.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self) {
        let tokens: Vec<Token> = self.flights.iter().map(|flight| flight.token).collect();
        assert!(tokens.is_empty(), "in flight: {tokens:?}");
        let stats = self.pool.stats();
        assert_eq!(stats.outstanding(), 0, "{stats:?}");
    }

    /// Nothing is in flight.
    pub const fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether a driver that was told to sleep until `until` would go on now: something has
    /// completed, a waker has rung, there is room again, the time has come, or there is no reason.
    /// A harness that turns its loops only then finds what they forget to wake up for.
    pub fn is_due(&mut self, until: Option<Instant>) -> bool {
        let shared = self.world.clone();
        let world = &mut *shared.0.borrow_mut();
        world.begin_wait(self.number, until);
        let mut found = self.found.take().unwrap_or_default();
        let interrupted = world.interrupts(self.number);
        if !interrupted {
            self.attempt_all(world, &mut found);
        }
        let has_room = self.room_at.take_if(|at| *at <= world.now).is_some();
        let driver = &world.drivers[self.number];
        let called = driver.eager || driver.sleeper.is_rung();
        let due = interrupted || has_room || called || !found.is_empty();
        self.found = Some(found);
        due
    }

    /// Two transfers in one direction of one stream would mix their bytes.
    fn forbid_mixing(&self, op: &Op) {
        let mixes = self.flights.iter().any(|flight| {
            !flight.cancelled && flight.op.fd() == op.fd() && direction(&flight.op) == direction(op)
        });
        assert!(!(mixes && direction(op).is_some()), "second transfer in flight: {op:?}");
    }

    /// Tries every flight once, in an order of the world's choice.
    fn attempt_all(&mut self, world: &mut World, out: &mut Vec<Completion>) {
        for last in (1..self.flights.len()).rev() {
            self.flights.swap(last, world.entropy.below(last as u64 + 1) as usize);
        }
        let mut at = 0;
        while let Some(flight) = self.flights.get_mut(at) {
            let outcome = world.attempt(flight, &mut self.pool, &mut self.stats);
            let (result, more) = match outcome {
                Outcome::NotYet => {
                    at += 1;
                    continue;
                }
                Outcome::Accepted(fd) => (Ok(fd), true),
                Outcome::Done(result) => (result, false),
            };
            let token = flight.token;
            world.record(self.number, token, result, more);
            self.stats.completions += 1;
            let op = match &flight.op {
                Op::Accept { listener } if more => Op::Accept { listener: *listener },
                _ => {
                    let flight = self.flights.swap_remove(at);
                    world.vacate(flight.op.fd());
                    flight.op
                }
            };
            out.push(Completion { token, op, result, more });
        }
    }
}

impl fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = Class::ALL.map(|class| self.pool.free(class));
        f.debug_struct("SimDriver")
            .field("number", &self.number)
            .field("flights", &self.flights)
            .field("free", &free)
            .field("leases", &self.pool.stats())
            .finish()
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Instant {
        self.world.now()
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn submit(&mut self, token: Token, op: Op) -> Result<(), Full> {
        self.forbid_mixing(&op);
        let world = &mut *self.world.0.borrow_mut();
        if world.hits(world.swarm.full) {
            world.faults.full += 1;
            self.room_at = Some(world.retry_soon());
            return Err(Full(op));
        }
        let mut delay = world.up_to(world.swarm.latency_max);
        if matches!(op, Op::ReadAt { .. } | Op::WriteAt { .. } | Op::Fsync { .. }) {
            delay += world.up_to(world.swarm.disk_delay_max);
        }
        let not_before = world.now.after(delay);
        world.schedule(not_before);
        world.activity += 1;
        world.drivers[self.number].submitted += 1;
        world.occupy(op.fd());
        self.stats.submissions += 1;
        self.flights.push(Flight::new(token, op, not_before));
        Ok(())
    }

    fn cancel(&mut self, token: Token) {
        let world = &mut *self.world.0.borrow_mut();
        let found = self.flights.iter_mut().filter(|flight| flight.token == token);
        for flight in found.filter(|flight| !flight.cancelled) {
            flight.cancelled = true;
            flight.cancel_lost = world.hits(world.swarm.cancel_loses);
            let soon = world.now.after(world.up_to(world.swarm.latency_max));
            if !flight.cancel_lost {
                flight.not_before = flight.not_before.min(soon);
            }
            world.schedule(flight.not_before);
            world.activity += 1;
        }
    }

    fn socket(&mut self, _to: &SocketAddr) -> Result<Fd, Errno> {
        Ok(self.world.0.borrow_mut().open(Object::Fresh))
    }

    fn welcome(&mut self, _fd: Fd) -> Option<SocketAddr> {
        None
    }

    fn close(&mut self, fd: Fd) {
        self.world.0.borrow_mut().close(fd);
    }

    fn release(&mut self, fd: Fd) {
        let busy = self.world.is_in_use(fd);
        assert!(!busy, "{fd:?} is given away with operations in flight");
    }

    fn set_receive_mark(&mut self, fd: Fd, bytes: u32) {
        self.world.0.borrow_mut().set_receive_mark(fd, bytes);
    }

    fn shutdown(&mut self, fd: Fd) {
        self.world.0.borrow_mut().shutdown(fd, true);
    }

    fn shutdown_send(&mut self, fd: Fd) {
        self.world.0.borrow_mut().shutdown(fd, false);
    }

    fn wait(&mut self, until: Option<Instant>, out: &mut Vec<Completion>) -> std::io::Result<()> {
        let shared = self.world.clone();
        let world = &mut *shared.0.borrow_mut();
        self.stats.enters += 1;
        world.begin_wait(self.number, until);
        if world.drivers[self.number].sleeper.wake_up() {
            self.stats.wakes += 1;
        }
        if let Some(mut found) = self.found.take() {
            out.append(&mut found);
        } else if !world.interrupts(self.number) {
            self.attempt_all(world, out);
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.world.0.borrow().drivers[self.number].sleeper.waker()
    }

    fn stats(&self) -> DriverStats {
        DriverStats { in_flight: self.flights.len() as u64, ..self.stats }
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        let world = &mut *self.world.0.borrow_mut();
        world.drivers[self.number].alive = false;
        world.drivers[self.number].abandoned += self.flights.len() as u64;
        for flight in self.flights.drain(..) {
            world.vacate(flight.op.fd());
            flight.op.dissolve(&mut self.pool);
        }
        for completion in self.found.take().unwrap_or_default() {
            completion.op.dissolve(&mut self.pool);
        }
    }
}

impl World {
    /// A wait of the driver ends for no reason.
    fn interrupts(&mut self, number: usize) -> bool {
        let interrupted = self.hits(self.swarm.interrupt);
        self.faults.interrupts += u64::from(interrupted);
        self.drivers[number].eager |= interrupted;
        interrupted
    }

    /// # Panics
    /// When a driver is turned and turned while time stands still.
    fn begin_wait(&mut self, number: usize, until: Option<Instant>) {
        let (now, activity) = (self.now, self.activity);
        let driver = &mut self.drivers[number];
        driver.seen = activity;
        driver.eager = until.is_some_and(|until| until <= now);
        if driver.spins_at == now {
            driver.spins += 1;
            assert!(driver.spins < SPINS_MAX, "driver {number} spins: {driver:?}");
        } else {
            driver.spins = 0;
            driver.spins_at = now;
        }
        // Not an event of the world: the next wait has an end of its own.
        driver.until = until.filter(|until| *until > now);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// `None` for operations that may overlap others of their kind.
const fn direction(op: &Op) -> Option<Direction> {
    match op {
        Op::Recv { .. } | Op::Read { .. } => Some(Direction::In),
        Op::Send { .. } | Op::Write { .. } => Some(Direction::Out),
        _ => None,
    }
}

/// Waits of one driver at one instant. A turn moves at least a packet, so this is gigabytes.
const SPINS_MAX: u32 = 1_000_000;
