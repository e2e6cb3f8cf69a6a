use super::Lease;
use crate::base::{Few, Span};
use crate::limits::{FRAMES_MAX, GATHER_MAX};

/// A kernel descriptor, or the simulator's name for one. Copying it does not duplicate it; whoever
/// opened it sees that [`super::Driver::close`] is called once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fd(pub i32);

/// Names one operation in flight. `generation` keeps a stale completion from reaching a new owner
/// of the same key; `tag` is the owner's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub key: u32,
    pub generation: u16,
    pub tag: u16,
}

/// An errno value as the kernel returned it, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// Places inside one lease, in the order in which they are filled.
pub type Spans = Few<Span, FRAMES_MAX>;

/// Bytes of a lease to be sent or written; `span` counts from the lease's first byte.
#[derive(Debug)]
pub struct Chunk {
    pub lease: Lease,
    pub span: Span,
}

/// What one send or write takes together, in order.
pub type Gather = Few<Chunk, GATHER_MAX>;

/// Where received bytes go.
#[allow(
    clippy::large_enum_variant,
    reason = "an operation is as large without it, and boxing allocates"
)]
#[derive(Debug)]
pub enum Target {
    /// Into a shared small buffer that the driver picks when bytes are there, so that waiting owns
    /// no memory. It completes as `Owned` with one span that starts `HEADROOM` into the lease (or
    /// unchanged, as `Shared`, on error and at end of file).
    Shared,
    Owned {
        lease: Lease,
        spans: Spans,
    },
}

/// One operation. `result` of its completion is given beside each.
#[derive(Debug)]
pub enum Op {
    /// Connections from a listening socket; a completion each, `more` while armed. Result: the new
    /// descriptor, non-blocking and close-on-exec.
    Accept { listener: Fd },
    /// Bytes from a socket. Result: how many; 0 at end of stream.
    Recv { fd: Fd, into: Target },
    /// All the bytes to a socket, however many kernel calls that takes. Result: their number. After
    /// an error or a cancellation some of them may have left.
    Send { fd: Fd, from: Gather },
    /// Bytes from a pipe, terminal or other stream. Result: how many; 0 at end of file.
    Read { fd: Fd, into: Target },
    /// Bytes to a pipe, terminal or other stream. Result: how many, which may be fewer than given.
    Write { fd: Fd, from: Gather },
    /// Bytes from a file at an offset. Result: how many; fewer only at end of file or on error.
    ReadAt { fd: Fd, at: u64, lease: Lease, spans: Spans },
    /// Bytes to a file at an offset. Result: how many, which may be fewer than given.
    WriteAt { fd: Fd, at: u64, from: Gather },
    /// Flushes a file to stable storage. Result: 0.
    Fsync { fd: Fd },
    /// Waits until the descriptor is readable (a child's pidfd, for one). Result: poll events.
    Readable { fd: Fd },
}

/// A finished operation, handed back whole with its leases.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub op: Op,
    pub result: Result<u32, Errno>,
    /// Another completion with this token will come; only `Accept` says so.
    pub more: bool,
}

/// No room for another operation in flight; try again after completions have been collected.
#[derive(Debug)]
pub struct Full(pub Op);
