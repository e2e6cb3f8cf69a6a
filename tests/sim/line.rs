//! A client's socket, with what is on its way in and out.

use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::reactor::Fd;
use tidegate::reactor::sim::SimWorld;
use tidegate::transport::{Env, Outbox};

use crate::chance::{hits, up_to};

/// What a client does to its own bytes on their way out.
#[derive(Clone, Debug)]
pub struct Meddling {
    /// Bytes that leave as they are.
    pub after: u64,
    pub how: Meddle,
}

#[derive(Clone, Copy, Debug)]
pub enum Meddle {
    Flip,
    Insert,
    Lose,
    Double,
    /// Nothing more leaves.
    Silence,
}

/// How a client reads.
#[derive(Clone, Debug)]
pub struct Reading {
    pub bytes_max: usize,
    /// Of a million: chances of resting before a read, and how long.
    pub rests: u32,
    pub rest_max: Duration,
}

pub struct Line {
    world: SimWorld,
    fd: Option<Fd>,
    pub inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: u64,
    meddling: Option<Meddling>,
    pub meddled_at: Option<Instant>,
    reading: Reading,
    resting_until: Instant,
    pub rested: u64,
    scratch: Vec<u8>,
    pub entropy: SeededEntropy,
}

/// Bytes a client keeps that the socket does not take.
const OUTBOX_MAX: usize = 96 * 1024;
/// Bytes it reads ahead of handling them.
const INBOX_MAX: usize = 300 * 1024;

impl Line {
    pub fn new(
        world: SimWorld,
        fd: Fd,
        reading: Reading,
        meddling: Option<Meddling>,
        entropy: SeededEntropy,
    ) -> Line {
        Line {
            world,
            fd: Some(fd),
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            meddling,
            meddled_at: None,
            reading,
            resting_until: Instant::ZERO,
            rested: 0,
            scratch: vec![0; 64 * 1024],
            entropy,
        }
    }

    /// For a failure's sake.
    pub fn describe(&self) -> String {
        format!(
            "{} bytes in, {} out, {} sent, resting until {:?}, meddled at {:?}",
            self.inbox.len(),
            self.outbox.len(),
            self.sent,
            self.resting_until,
            self.meddled_at
        )
    }

    /// Runs `work` with an environment; what it wrote is on its way afterwards.
    pub fn call<T>(&mut self, work: impl FnOnce(&mut Env<'_>) -> T) -> T {
        let out = Outbox::new(&mut self.scratch, 0);
        let mut env = Env { now: self.world.now(), entropy: &mut self.entropy, out };
        let answer = work(&mut env);
        let used = env.out.used();
        self.outbox.extend_from_slice(&self.scratch[..used]);
        answer
    }

    pub fn now(&self) -> Instant {
        self.world.now()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    /// The socket keeps up.
    pub fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_MAX
    }

    /// Everything said has left.
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Reads what is there. An error: the other end is gone, and how.
    pub fn receive(&mut self) -> Result<(), String> {
        let Some(fd) = self.fd else { return Err("closed by ourselves".to_owned()) };
        let now = self.world.now();
        if self.inbox.len() > INBOX_MAX || now < self.resting_until {
            return Ok(());
        }
        if hits(&mut self.entropy, self.reading.rests) {
            self.rested += 1;
            self.resting_until = now.after(up_to(&mut self.entropy, self.reading.rest_max));
            self.world.wake_at(self.resting_until);
            return Ok(());
        }
        match self.world.read(fd, &mut self.scratch[..self.reading.bytes_max]) {
            Ok(0) => Err("end of stream".to_owned()),
            Ok(len) => {
                self.inbox.extend_from_slice(&self.scratch[..len]);
                // There may be more, and nothing else need happen before it is read.
                self.world.wake_at(now.after(Duration::from_nanos(1)));
                Ok(())
            }
            Err(errno) if errno.0 == libc::EAGAIN => Ok(()),
            Err(errno) => Err(errno.to_string()),
        }
    }

    /// Sends what the socket takes. An error: the other end is gone.
    pub fn send(&mut self) -> Result<(), String> {
        let Some(fd) = self.fd else { return Ok(()) };
        self.meddle();
        if self.outbox.is_empty() {
            return Ok(());
        }
        match self.world.write(fd, &self.outbox) {
            Ok(len) => {
                self.outbox.drain(..len);
                self.sent += len as u64;
                Ok(())
            }
            Err(errno) if errno.0 == libc::EAGAIN => Ok(()),
            Err(errno) => Err(errno.to_string()),
        }
    }

    /// Says nothing more.
    pub fn shutdown_send(&self) {
        if let Some(fd) = self.fd {
            self.world.shutdown_send(fd);
        }
    }

    pub fn close(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.world.close(fd);
        }
    }

    pub fn reset(&mut self) {
        if let Some(fd) = self.fd {
            self.world.reset(fd);
        }
        self.close();
    }

    fn meddle(&mut self) {
        let Some(Meddling { after, how }) = self.meddling.clone() else { return };
        let at = after.saturating_sub(self.sent) as usize;
        if self.meddled_at.is_some() && matches!(how, Meddle::Silence) {
            self.outbox.clear();
        }
        if self.meddled_at.is_some() || at >= self.outbox.len() {
            return;
        }
        self.meddled_at = Some(self.world.now());
        match how {
            Meddle::Flip => self.outbox[at] ^= 1 << self.entropy.below(8),
            Meddle::Insert => self.outbox.insert(at, self.entropy.next_u64() as u8),
            Meddle::Lose => {
                self.outbox.remove(at);
            }
            Meddle::Double => {
                let rest = self.outbox[at..].to_vec();
                self.outbox.extend(rest);
            }
            Meddle::Silence => self.outbox.truncate(at),
        }
    }
}
