use nix::errno::Errno;
use slab::Slab;

use super::WRITE_TAGS;
use super::peer::Peer;
use crate::limits::SCP_WRITE_OPS_MAX;
use crate::reactor::{self, Chunk, Fd, Gather, Op};
use crate::services::Io;
use crate::services::sftp::{Input, Patience, RETRIES_MAX, discard, drop_front, is_transient};

/// A file on its way from the client: its bytes are written out of the buffers that they were
/// received in, up to a gather's worth at once and several at once.
#[derive(Debug)]
pub struct Receiving {
    pub fd: Fd,
    /// The first thing that went wrong. What still comes is dropped, to stay in step.
    pub failed: Option<Errno>,
    /// Bytes that have not been taken in.
    remaining: u64,
    /// Where the gather goes.
    offset: u64,
    gather: Gather,
    gathered: u32,
    ops: Slab<Write>,
    patience: Patience,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    at: u64,
    len: u32,
    tries: u8,
}

/// How far a file got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// All its bytes are written, or will never be.
    All,
    /// The peer has ended in the middle.
    Part,
    /// More has to come, or an operation to complete.
    Wait,
}

impl Receiving {
    pub fn new(fd: Fd, size: u64) -> Receiving {
        Receiving {
            fd,
            failed: None,
            remaining: size,
            offset: 0,
            gather: Gather::new(),
            gathered: 0,
            ops: Slab::new(),
            patience: Patience::default(),
        }
    }

    /// Takes what has come.
    pub fn advance(&mut self, peer: &mut Peer, io: &mut Io<'_>) -> Got {
        loop {
            if self.failed.is_some() {
                discard(&mut self.gather, &mut peer.input, io);
                self.gathered = 0;
                let want = u32::try_from(self.remaining).unwrap_or(u32::MAX);
                self.remaining -= u64::from(peer.input.skip(want, io));
            }
            if self.gather.is_full() || (self.remaining == 0 && !self.gather.is_empty()) {
                if !self.submit(io) {
                    return Got::Wait;
                }
                continue;
            }
            if self.remaining == 0 {
                return if self.ops.is_empty() { Got::All } else { Got::Wait };
            }
            let want = u32::try_from(self.remaining).unwrap_or(u32::MAX);
            let piece = if self.failed.is_none() { peer.input.piece(want, io) } else { None };
            match piece {
                Some(piece) => self.push(piece, &mut peer.input, io),
                None => {
                    let may_wait = !self.gather.is_empty() && !peer.input_over;
                    let held = may_wait && self.patience.lasts(io);
                    if !self.gather.is_empty() && !held {
                        self.submit(io);
                    }
                    io.awaits(want);
                    let over = peer.input_over && self.gather.is_empty() && self.ops.is_empty();
                    return if over { Got::Part } else { Got::Wait };
                }
            }
        }
    }

    pub fn completed(
        &mut self,
        tag: u16,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        (input, io): (&mut Input, &mut Io<'_>),
    ) {
        let Op::WriteAt { fd, mut from, .. } = op else { return };
        let key = usize::from(tag.wrapping_sub(WRITE_TAGS));
        let Some(write) = self.ops.get_mut(key) else { return discard(&mut from, input, io) };
        let failed = match result {
            Ok(0) => Some(Errno::EIO),
            Ok(written) => {
                let written = written.min(write.len);
                drop_front(&mut from, written, input, io);
                write.at = write.at.saturating_add(written.into());
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
        if failed.is_none() && write.len > 0 && !gone {
            let at = write.at;
            return io.submit(tag, Op::WriteAt { fd, at, from });
        }
        discard(&mut from, input, io);
        self.ops.remove(key);
        self.failed = self.failed.or(failed);
    }

    /// The channel is gone.
    pub fn cancel(&mut self, input: &mut Input, io: &mut Io<'_>) {
        discard(&mut self.gather, input, io);
        for (key, _) in &self.ops {
            io.cancel(WRITE_TAGS + key as u16);
        }
    }

    /// Called only while the gather has room.
    fn push(&mut self, piece: Chunk, input: &mut Input, io: &mut Io<'_>) {
        let len = piece.span.len;
        self.remaining -= u64::from(len);
        match self.gather.push(piece) {
            Ok(()) => self.gathered += len,
            Err(piece) => {
                input.used(len);
                io.give_back(piece.lease);
            }
        }
    }

    /// Starts writing the gather. False when it has to wait for operations before it.
    fn submit(&mut self, io: &mut Io<'_>) -> bool {
        if self.ops.len() >= SCP_WRITE_OPS_MAX {
            return false;
        }
        let (at, len) = (self.offset, self.gathered);
        let key = self.ops.insert(Write { at, len, tries: 0 });
        self.offset = self.offset.saturating_add(len.into());
        self.gathered = 0;
        let from = std::mem::take(&mut self.gather);
        io.submit(WRITE_TAGS + key as u16, Op::WriteAt { fd: self.fd, at, from });
        true
    }
}
