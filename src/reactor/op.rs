use std::net::SocketAddr;

use super::{Lease, Pool};
use crate::base::{Few, Span};
use crate::limits::{FRAMES_MAX, GATHER_MAX, HEADROOM, SMALL_BYTES};

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
    /// descriptor, non-blocking and close-on-exec. A cancelled accept may end with a descriptor. The
    /// listener may be made non-blocking.
    Accept { listener: Fd },
    /// Connects a fresh stream socket ([`super::Driver::socket`]). Result: 0, when it is connected.
    Connect { fd: Fd, to: SocketAddr },
    /// Bytes from a socket. Result: how many; 0 at end of stream.
    Recv { fd: Fd, into: Target },
    /// All the bytes to a socket, however many kernel calls that takes. Result: their number. After
    /// an error or a cancellation some of them may have left.
    Send { fd: Fd, from: Gather },
    /// Bytes from a pipe, terminal or other stream, which is non-blocking. Result: how many; 0 at
    /// end of file. Into memory of its owner it does not wait for a pipe, and for others it may not:
    /// EAGAIN when nothing is there, and [`Op::Readable`] tells when something is.
    Read { fd: Fd, into: Target },
    /// Bytes to a pipe, terminal or other stream, which is non-blocking. Result: how many, which may
    /// be fewer than given; none have left when it was cancelled.
    Write { fd: Fd, from: Gather },
    /// Bytes from a file at an offset. Result: how many; fewer only at end of file or on error.
    ReadAt { fd: Fd, at: u64, lease: Lease, spans: Spans },
    /// Bytes to a file at an offset. Result: how many, which may be fewer than given.
    WriteAt { fd: Fd, at: u64, from: Gather },
    /// Flushes a file to stable storage. Result: 0.
    Fsync { fd: Fd },
    /// Waits until the descriptor is readable (a child's pidfd, for one). Result: poll events.
    Readable { fd: Fd },
    /// Waits until the descriptor takes bytes, or never will again. Result: poll events.
    Writable { fd: Fd },
}

/// The order in which a driver begins what it was asked for in one turn. What has just been opened or sealed
/// leaves while the CPU's caches have it, and whoever waits for it is woken; only then does more come, which
/// takes its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Out,
    In,
    /// Reads of files, of which a driver does some at a time.
    Files,
}

impl Op {
    /// The descriptor it works on.
    pub const fn fd(&self) -> Fd {
        match self {
            Op::Accept { listener: fd }
            | Op::Connect { fd, .. }
            | Op::Recv { fd, .. }
            | Op::Send { fd, .. }
            | Op::Read { fd, .. }
            | Op::Write { fd, .. }
            | Op::ReadAt { fd, .. }
            | Op::WriteAt { fd, .. }
            | Op::Fsync { fd }
            | Op::Readable { fd }
            | Op::Writable { fd } => *fd,
        }
    }

    /// Gives every lease back to the pool: for an owner that has no use for the operation any more.
    pub fn dissolve(self, pool: &mut Pool) {
        match self {
            Op::Recv { into: Target::Owned { lease, .. }, .. }
            | Op::Read { into: Target::Owned { lease, .. }, .. }
            | Op::ReadAt { lease, .. } => pool.give_back(lease),
            Op::Send { mut from, .. }
            | Op::Write { mut from, .. }
            | Op::WriteAt { mut from, .. } => {
                while let Some(chunk) = from.pop() {
                    pool.give_back(chunk.lease);
                }
            }
            _ => {}
        }
    }

    pub(super) const fn rank(&self) -> Rank {
        match self {
            Op::Recv { .. } | Op::Read { .. } => Rank::In,
            Op::ReadAt { .. } => Rank::Files,
            _ => Rank::Out,
        }
    }

    /// Bytes it may move at most.
    pub fn total(&self) -> u32 {
        match self {
            Op::Recv { into: Target::Owned { spans, .. }, .. }
            | Op::Read { into: Target::Owned { spans, .. }, .. }
            | Op::ReadAt { spans, .. } => spans.iter().map(|span| span.len).sum(),
            Op::Recv { .. } | Op::Read { .. } => SMALL_BYTES,
            Op::Send { from, .. } | Op::Write { from, .. } | Op::WriteAt { from, .. } => {
                from.iter().map(|chunk| chunk.span.len).sum()
            }
            Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Fsync { .. }
            | Op::Readable { .. }
            | Op::Writable { .. } => 0,
        }
    }

    /// A receive whose memory the driver picks.
    pub(super) const fn is_shared(&self) -> bool {
        matches!(
            self,
            Op::Recv { into: Target::Shared, .. } | Op::Read { into: Target::Shared, .. }
        )
    }

    /// Takes what is there, and does not wait when that is nothing.
    pub(super) const fn is_hasty(&self) -> bool {
        matches!(self, Op::Read { into: Target::Owned { .. }, .. })
    }

    /// Gives a shared receive the small lease its bytes arrived in, or are to arrive in.
    pub(super) fn lend(&mut self, lease: Lease, len: u32) {
        if let Op::Recv { into, .. } | Op::Read { into, .. } = self {
            let mut spans = Spans::new();
            spans.push(Span::new(HEADROOM, len)).expect("an empty queue has room");
            *into = Target::Owned { lease, spans };
        }
    }

    /// The reverse of [`Op::lend`].
    pub(super) fn unlend(&mut self, pool: &mut Pool) {
        if let Op::Recv { into, .. } | Op::Read { into, .. } = self
            && let Target::Owned { lease, .. } = std::mem::replace(into, Target::Shared)
        {
            pool.unlend(lease);
        }
    }

    /// The operation ends: a lent lease is handed out with bytes, or goes back without.
    pub(super) fn settle_lent(&mut self, result: Result<u32, Errno>, pool: &mut Pool) {
        let (Op::Recv { into, .. } | Op::Read { into, .. }) = self else { return };
        match (into, result) {
            (Target::Owned { lease, spans }, Ok(len)) if len > 0 => {
                pool.claim(lease);
                if let Some(span) = spans.front_mut() {
                    span.len = len;
                }
            }
            _ => self.unlend(pool),
        }
    }
}

/// The places of a lease, each with its lease.
pub(super) fn pieces<'a>(
    lease: &'a Lease,
    spans: &'a Spans,
) -> impl Iterator<Item = (&'a Lease, Span)> {
    spans.iter().map(move |span| (lease, *span))
}

/// The places of a gather, each with its lease.
pub(super) fn chunks(from: &Gather) -> impl Iterator<Item = (&Lease, Span)> {
    from.iter().map(|chunk| (&chunk.lease, chunk.span))
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
