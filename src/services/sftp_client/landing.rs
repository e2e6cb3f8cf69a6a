use nix::errno::Errno;
use slab::Slab;

use super::WRITE_TAGS;
use super::moves::Moves;
use crate::limits::SFTP_WRITE_OPS_MAX;
use crate::reactor::{self, Chunk, Gather, Op};
use crate::services::Io;
use crate::services::sftp::{Input, Patience, RETRIES_MAX, discard, drop_front, is_transient};

/// Data of a server's on its way to our files: written out of the buffers it was received in, and
/// what belongs together in one operation, wherever one reply ends and the next begins.
#[derive(Debug, Default)]
pub struct Landing {
    body: Option<Body>,
    gather: Gather,
    gathered: u32,
    /// The move that the gather belongs to, and where in it.
    to: (usize, u64),
    ops: Slab<Write>,
    patience: Patience,
}

/// The data of the reply that is coming in.
#[derive(Debug)]
struct Body {
    to: usize,
    at: u64,
    remaining: u32,
}

#[derive(Debug)]
struct Write {
    to: usize,
    at: u64,
    len: u32,
    tries: u8,
}

/// How far the data of a reply got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    All,
    /// More has to come first.
    Hungry,
    /// An operation has to complete first.
    Blocked,
}

impl Landing {
    pub const fn begin(&mut self, to: usize, at: u64, len: u32) {
        self.body = Some(Body { to, at, remaining: len });
    }

    /// Takes data of the current reply out of `input`.
    pub fn take(&mut self, input: &mut Input, moves: &mut Moves, io: &mut Io<'_>) -> Taken {
        loop {
            let Some(body) = &mut self.body else { return Taken::All };
            if body.remaining == 0 {
                if let Some(one) = moves.all.get_mut(body.to) {
                    one.requests -= 1;
                }
                self.body = None;
                return Taken::All;
            }
            let failed = moves.all.get(body.to).is_none_or(|one| one.failed.is_some());
            if failed {
                let skipped = input.skip(body.remaining, io);
                body.remaining -= skipped;
                if body.remaining > 0 {
                    return Taken::Hungry;
                }
                continue;
            }
            let goes_on = self.to.0 == body.to && self.to.1 + u64::from(self.gathered) == body.at;
            let full = self.gather.is_full() || (!self.gather.is_empty() && !goes_on);
            if full && !self.submit(moves, io) {
                return Taken::Blocked;
            }
            let Some(body) = &mut self.body else { return Taken::All };
            let Some(piece) = input.piece(body.remaining, io) else { return Taken::Hungry };
            let len = piece.span.len;
            if self.gather.is_empty() {
                self.to = (body.to, body.at);
            }
            body.at += u64::from(len);
            body.remaining -= len;
            match self.gather.push(piece) {
                Ok(()) => self.gathered += len,
                // There is room: it was made above.
                Err(piece) => give_back(piece, input, io),
            }
        }
    }

    /// Nothing more has come: writes what was gathered, unless more of it is to come soon.
    pub fn settle(&mut self, moves: &mut Moves, io: &mut Io<'_>) {
        if self.gather.is_empty() {
            return;
        }
        let more = self.body.is_some() || moves.all.get(self.to.0).is_some_and(|m| m.requests > 0);
        if !more || !self.patience.lasts(io) {
            self.submit(moves, io);
        }
    }

    /// Bytes of the current reply that have yet to come.
    pub fn awaited(&self) -> u32 {
        self.body.as_ref().map_or(0, |body| body.remaining)
    }

    /// Whether something of this move waits to be written.
    pub fn holds(&self, to: usize) -> bool {
        let gathers = !self.gather.is_empty() && self.to.0 == to;
        gathers || self.body.as_ref().is_some_and(|body| body.to == to)
    }

    /// A WriteAt has completed. What it did not write is written next.
    pub fn completed(
        &mut self,
        key: usize,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        (input, moves, io): (&mut Input, &mut Moves, &mut Io<'_>),
    ) {
        let Op::WriteAt { fd, mut from, .. } = op else { return };
        let Some(write) = self.ops.get_mut(key) else { return discard(&mut from, input, io) };
        let failed = match result {
            Ok(0) => Some(Errno::EIO),
            Ok(written) => {
                let written = written.min(write.len);
                drop_front(&mut from, written, input, io);
                if let Some(one) = moves.all.get(write.to) {
                    one.count(written);
                }
                write.at += u64::from(written);
                write.len -= written;
                write.tries = 0;
                None
            }
            Err(errno) => {
                let errno = Errno::from_raw(errno.0);
                let again = is_transient(errno, true) && write.tries < RETRIES_MAX;
                write.tries = write.tries.saturating_add(1);
                (!again).then_some(errno)
            }
        };
        let alive = !gone && moves.all.get(write.to).is_some_and(|one| one.failed.is_none());
        if failed.is_none() && write.len > 0 && alive {
            let at = write.at;
            return io.submit(WRITE_TAGS + key as u16, Op::WriteAt { fd, at, from });
        }
        discard(&mut from, input, io);
        let to = self.ops.remove(key).to;
        if let Some(one) = moves.all.get_mut(to) {
            one.writes -= 1;
            if let Some(errno) = failed {
                one.fail_here(errno);
            }
        }
    }

    /// The channel is gone.
    pub fn cancel(&mut self, input: &mut Input, io: &mut Io<'_>) {
        self.body = None;
        self.gathered = 0;
        discard(&mut self.gather, input, io);
        for (key, _) in &self.ops {
            io.cancel(WRITE_TAGS + key as u16);
        }
    }

    /// Starts writing the gather. False when it has to wait for operations before it.
    fn submit(&mut self, moves: &mut Moves, io: &mut Io<'_>) -> bool {
        if self.ops.len() >= SFTP_WRITE_OPS_MAX {
            return false;
        }
        let (to, at) = self.to;
        let len = std::mem::take(&mut self.gathered);
        let from = std::mem::take(&mut self.gather);
        // A move lasts as long as something of it is held here.
        let Some(one) = moves.all.get_mut(to) else {
            io.dissolve(Op::WriteAt { fd: reactor::Fd(-1), at, from });
            return true;
        };
        one.writes += 1;
        let at = one.stretch.here.saturating_add(at);
        let key = self.ops.insert(Write { to, at, len, tries: 0 });
        io.submit(WRITE_TAGS + key as u16, Op::WriteAt { fd: one.fd, at, from });
        true
    }
}

fn give_back(piece: Chunk, input: &mut Input, io: &mut Io<'_>) {
    input.used(piece.span.len);
    io.give_back(piece.lease);
}
