//! Where root's process puts mail for one shard of another process, which hears it by itself, when its driver
//! says that something is there: no other thread is woken for it.

use std::os::fd::{AsRawFd, OwnedFd};

use super::helper::{Heard, hear_now};
use super::socket::Messenger;
use crate::limits::PARCEL_BYTES_MAX;
use crate::reactor::Fd;
use crate::shard::Mail;

/// One shard's.
pub struct Mailbox {
    messenger: Messenger,
    reads: Box<dyn Reads>,
    buffer: Vec<u8>,
}

/// Knows what the messages mean.
pub trait Reads: Send {
    /// Makes mail of one, and of the descriptor that came with it. Answers how many connections came, lost ones
    /// included.
    fn read(&mut self, message: &[u8], passenger: Option<OwnedFd>, mail: &mut Vec<Mail>) -> u64;
}

impl Mailbox {
    pub fn new(messenger: Messenger, reads: Box<dyn Reads>) -> Mailbox {
        Mailbox { messenger, reads, buffer: vec![0; PARCEL_BYTES_MAX as usize] }
    }

    /// Readable when something is in it. Open as long as this is there.
    pub fn fd(&self) -> Fd {
        Fd(self.messenger.as_owned_fd().as_raw_fd())
    }

    /// Takes the next message, if there is one, into `mail`; answers as [`Reads::read`] does. `None`: none comes
    /// any more, which whoever hears the rest of what root's process says hears too.
    pub fn empty(&mut self, mail: &mut Vec<Mail>) -> Option<u64> {
        match hear_now(&self.messenger, &mut self.buffer) {
            Ok(Heard::Message(len, passenger)) => {
                let message = self.buffer.get(..len).unwrap_or_default();
                Some(self.reads.read(message, passenger, mail))
            }
            Ok(Heard::Nothing) => Some(0),
            Ok(Heard::Gone) | Err(_) => None,
        }
    }
}
