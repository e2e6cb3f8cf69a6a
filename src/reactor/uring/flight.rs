use crate::reactor::flights::Named;
use crate::reactor::{Op, Token};

/// One operation the driver has taken and not completed.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) token: Token,
    pub(super) op: Op,
    /// Bytes already moved by earlier requests of the same operation.
    pub(super) done: u32,
    pub(super) stage: Stage,
    /// A request of it is with the kernel; otherwise it waits in one of the driver's queues.
    pub(super) in_kernel: bool,
    pub(super) cancelled: bool,
    /// Its `Owned` target is a small lease of the driver's choice; without bytes it is `Shared`.
    pub(super) borrowed: bool,
    /// Its descriptor is of a kind that the kernel cannot be asked not to wait for.
    pub(super) knows_no_haste: bool,
}

/// What the next request of an operation is, or what the one in the kernel was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The operation itself, tried at once.
    Direct,
    /// Waiting until the descriptor is ready.
    Poll,
    /// The operation itself, after the descriptor became ready.
    Polled,
}

impl Flight {
    pub(super) const fn new(token: Token, op: Op) -> Flight {
        Flight {
            token,
            op,
            done: 0,
            stage: Stage::Direct,
            in_kernel: false,
            cancelled: false,
            borrowed: false,
            knows_no_haste: false,
        }
    }
}

impl Named for Flight {
    fn token(&self) -> Token {
        self.token
    }
}
