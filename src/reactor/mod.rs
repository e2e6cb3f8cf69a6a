//! Floor 5: completion-shaped I/O. Drivers take [`Op`]s that own their memory and give them back in
//! [`Completion`]s. Knows nothing of SSH.

#[cfg(any(test, feature = "sim"))]
pub mod either;
mod files;
mod flights;
mod mio;
mod op;
mod places;
mod pool;
#[cfg(feature = "sim")]
pub mod sim;
mod system;
mod timers;
mod uring;
mod waker;

pub use self::mio::{MioConfig, MioDriver};
pub use op::{Chunk, Completion, Errno, Fd, Full, Gather, Op, Spans, Target, Token};
pub use pool::{Class, Classes, Lease, Pool, PoolSizes, PoolStats, leases_lost};
pub use system::now;
pub use timers::Timers;
pub use uring::{Features, UringConfig, UringDriver};
pub use waker::Waker;

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::Instant;

/// One event loop's way to the kernel (or to the simulated world).
///
/// An operation handed in by [`Driver::submit`] owns its leases until exactly one completion with
/// `more == false` gives them back, cancelled or not. A descriptor is closed only when no operation
/// on it is in flight.
pub trait Driver {
    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// The payload memory that this driver's operations use.
    fn pool(&mut self) -> &mut Pool;

    /// Queues an operation; it may start at once or at the next `wait`. Gives it back when the
    /// driver's queues are full.
    fn submit(&mut self, token: Token, op: Op) -> Result<(), Full>;

    /// Asks for the operation with this token to end early. Its completion still comes.
    fn cancel(&mut self, token: Token);

    /// A stream socket that is to be connected there: non-blocking, close-on-exec, no delay.
    ///
    /// # Errors
    /// The process is out of descriptors or memory, or the kernel has no such network.
    fn socket(&mut self, to: &SocketAddr) -> Result<Fd, Errno>;

    /// A connection that a listener gave: nothing on it is held back from now on. Answers who is at
    /// its other end, where that has an address.
    fn welcome(&mut self, fd: Fd) -> Option<SocketAddr>;

    /// Closes a descriptor at once.
    fn close(&mut self, fd: Fd);

    /// Forgets a descriptor that its owner gives away or closes by other means. Nothing may be in
    /// flight on it.
    fn release(&mut self, _fd: Fd) {}

    /// From now on, and already for a receive in flight, so many bytes have to be there before one
    /// completes, unless the peer has ended its direction; 1 is the usual. A hint: a receive may
    /// still bring less, and a descriptor that knows no such thing ignores it.
    fn set_receive_mark(&mut self, fd: Fd, bytes: u32);

    /// Ends both directions of a socket, so that operations on it complete.
    fn shutdown(&mut self, fd: Fd);

    /// Ends the sending direction of a socket: its peer reads to the end of the stream.
    fn shutdown_send(&mut self, fd: Fd);

    /// Starts what is queued, then collects completions into `out`, sleeping until the first one,
    /// a wake-up, or `until`. Returns with `out` empty after a wake-up or a time-out.
    ///
    /// May return early with `out` empty for reasons of its own.
    fn wait(&mut self, until: Option<Instant>, out: &mut Vec<Completion>) -> std::io::Result<()>;

    /// The next sleep, if there is one, may last so long whatever completes or rings meanwhile: streams
    /// are under way, and one of their pieces is not worth waking for. `until` ends it as ever. A hint.
    fn linger(&mut self, _time: Duration) {}

    /// A handle with which other threads end this driver's sleep.
    fn waker(&self) -> Waker;

    /// Counts since it was made.
    fn stats(&self) -> DriverStats;
}

/// Counts since a driver was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Requests handed to the kernel, the driver's own included. With mio each is a system call,
    /// the vain ones and those of helpers included.
    pub submissions: u64,
    /// System calls that submitted or waited; with mio, that waited.
    pub enters: u64,
    /// Results the kernel gave, "not ready" apart.
    pub completions: u64,
    /// Receives that found no shared buffer and had to wait for one.
    pub enobufs: u64,
    /// Times the kernel had more results than its queue had room for.
    pub overflows: u64,
    /// Times a waker ended a sleep.
    pub wakes: u64,
    /// Operations in flight now.
    pub in_flight: u64,
}
