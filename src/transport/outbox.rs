use crate::base::{Entropy, Instant};

/// Bytes ready for the socket, appended behind what is already there. Small packets that are made
/// in one turn leave in one send.
#[derive(Debug)]
pub struct Outbox<'a> {
    target: &'a mut [u8],
    used: usize,
}

impl<'a> Outbox<'a> {
    /// The first `used` bytes of `target` wait to be sent already.
    pub fn new(target: &'a mut [u8], used: usize) -> Outbox<'a> {
        let used = used.min(target.len());
        Outbox { target, used }
    }

    /// Bytes waiting to be sent, those from before included.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Bytes of room left.
    pub const fn free(&self) -> usize {
        self.target.len() - self.used
    }

    /// The room itself. What is written there counts once it is [committed](Outbox::commit).
    pub(super) fn spare(&mut self) -> &mut [u8] {
        self.target.get_mut(self.used..).unwrap_or_default()
    }

    pub(super) fn commit(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes).min(self.target.len());
    }

    /// Appends raw bytes; false, and nothing done, when they do not fit.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.spare().get_mut(..bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.commit(bytes.len());
        true
    }
}

/// What a call that may write is handed: the time, randomness, and somewhere to write.
pub struct Env<'a> {
    pub now: Instant,
    pub entropy: &'a mut dyn Entropy,
    pub out: Outbox<'a>,
}
