use crate::reactor::flights::{Id, Named};
use crate::reactor::{Op, Token};

/// One operation the driver has taken and not completed.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) token: Token,
    pub(super) op: Op,
    /// Bytes already moved by earlier attempts at the same operation.
    pub(super) done: u32,
    /// A connect has been started, and is only asked about from then on.
    pub(super) begun: bool,
    pub(super) place: Place,
    /// Its `Owned` target is a small lease of the driver's choice; without bytes it is `Shared`.
    pub(super) borrowed: bool,
    /// The next one that waits for the same descriptor.
    pub(super) next: Option<Id>,
}

/// Where an operation is between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In line for an attempt at the next wait.
    Queued,
    /// Until its descriptor is ready, in that descriptor's chain.
    Waiting,
    /// Ready, and until there is a small lease to receive into.
    Parked,
    /// With a helper, which works on the flight's memory.
    Helped,
}

/// Which way an operation moves bytes: what readiness it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

impl Flight {
    pub(super) const fn new(token: Token, op: Op) -> Flight {
        Flight {
            token,
            op,
            done: 0,
            begun: false,
            place: Place::Queued,
            borrowed: false,
            next: None,
        }
    }

    pub(super) const fn way(&self) -> Way {
        match self.op {
            Op::Connect { .. }
            | Op::Send { .. }
            | Op::Write { .. }
            | Op::WriteAt { .. }
            | Op::Writable { .. } => Way::Out,
            _ => Way::In,
        }
    }

    /// Its descriptor is a file, which is always ready and can still wait for a disk.
    pub(super) const fn is_for_file(&self) -> bool {
        matches!(self.op, Op::ReadAt { .. } | Op::WriteAt { .. } | Op::Fsync { .. })
    }
}

impl Named for Flight {
    fn token(&self) -> Token {
        self.token
    }
}
