use std::collections::VecDeque;

use super::TAG_INPUT;
use crate::base::Span;
use crate::limits::INPUT_COPY_BYTES_MAX;
use crate::reactor::{Chunk, Class, Errno, Fd, Gather, Op};
use crate::services::{Child, Io};

/// A queue that had to grow past this gives its memory back when it is empty.
const QUEUE_KEPT: usize = 32;

/// Channel data on its way to the program: one write in flight at a time, straight out of the
/// memory in which it was received.
#[derive(Debug, Default)]
pub(super) struct Input {
    fd: Option<Fd>,
    /// The descriptor is a pipe of our own, to be closed at the end of the data. A terminal stays:
    /// it has no end of file but the character that says so, and sending that is the client's.
    owned: bool,
    waiting: VecDeque<Chunk>,
    writing: bool,
    ended: bool,
    /// Nobody reads it any more: what still comes is thrown away.
    broken: bool,
    widened: bool,
}

impl Input {
    /// Where the data goes.
    pub const fn open(&mut self, fd: Fd, owned: bool) {
        (self.fd, self.owned) = (Some(fd), owned);
    }

    /// The program runs: what came before it did may go.
    pub fn resume(&mut self, io: &mut Io<'_>) {
        self.write(io);
    }

    /// Data that comes before the program runs waits for it.
    pub fn data(&mut self, data: Chunk, io: &mut Io<'_>) {
        if self.broken {
            io.discard(data);
            return;
        }
        if let Some(data) = self.merge(data, io) {
            self.waiting.push_back(data);
        }
        self.write(io);
    }

    /// No more data will come.
    pub fn end(&mut self, io: &mut Io<'_>) {
        self.ended = true;
        self.write(io);
    }

    /// Nobody will read what is here or still comes.
    pub fn stop(&mut self, io: &mut Io<'_>) {
        self.broken = true;
        if self.writing {
            io.cancel(TAG_INPUT);
        }
        while let Some(chunk) = self.waiting.pop_front() {
            io.discard(chunk);
        }
        self.waiting = VecDeque::new();
        self.close_if_done(io);
    }

    /// As `stop`, for a channel that exists no more: nothing may be granted on it.
    pub fn abandon(&mut self, io: &mut Io<'_>) {
        self.broken = true;
        if self.writing {
            io.cancel(TAG_INPUT);
        }
        while let Some(chunk) = self.waiting.pop_front() {
            io.give_back(chunk.lease);
        }
    }

    /// A write is over. `silent` when the channel exists no more.
    pub fn written(
        &mut self,
        mut from: Gather,
        result: Result<u32, Errno>,
        child: Option<&Child>,
        silent: bool,
        io: &mut Io<'_>,
    ) {
        self.writing = false;
        let mut left = result.unwrap_or(0);
        let mut consumed = left;
        let mut unwritten = Gather::new();
        while let Some(mut chunk) = from.pop() {
            let taken = left.min(chunk.span.len);
            left -= taken;
            chunk.span = chunk.span.skip(taken);
            if chunk.span.is_empty() {
                io.give_back(chunk.lease);
            } else {
                let _ = unwritten.push(chunk);
            }
        }
        // A pipe that is read never takes nothing; anything else would be tried for ever.
        self.broken |= result.is_err() || consumed == 0;
        if self.broken {
            while let Some(chunk) = unwritten.pop() {
                consumed += chunk.span.len;
                io.give_back(chunk.lease);
            }
        } else if !unwritten.is_empty() {
            self.widen(child);
            self.return_to_front(unwritten);
        }
        if silent {
            self.abandon(io);
            return;
        }
        io.consumed(consumed);
        if self.broken {
            self.stop(io);
        } else {
            self.write(io);
        }
    }

    /// The descriptor, if it is ours and still open; nothing is in flight on it.
    pub fn take_fd(&mut self) -> Option<Fd> {
        let owned = self.owned;
        self.fd.take().filter(|_| owned)
    }

    fn write(&mut self, io: &mut Io<'_>) {
        let Some(fd) = self.fd else { return };
        if self.writing {
            return;
        }
        let mut from = Gather::new();
        while !from.is_full() {
            let Some(chunk) = self.waiting.pop_front() else { break };
            if let Err(chunk) = from.push(chunk) {
                self.waiting.push_front(chunk);
                break;
            }
        }
        if from.is_empty() {
            self.close_if_done(io);
            return;
        }
        if self.waiting.is_empty() && self.waiting.capacity() > QUEUE_KEPT {
            self.waiting = VecDeque::new();
        }
        self.writing = true;
        io.submit(TAG_INPUT, Op::Write { fd, from });
    }

    fn close_if_done(&mut self, io: &mut Io<'_>) {
        let done = self.broken || (self.ended && self.waiting.is_empty());
        if done
            && !self.writing
            && let Some(fd) = self.take_fd()
        {
            self.broken = true;
            io.close_fd(fd);
        }
    }

    /// Little data behind other data is copied together, so that a peer that sends single bytes to
    /// a program that does not read cannot hold a receive buffer with each of them. Gives back what
    /// is to wait as it is.
    fn merge(&mut self, mut data: Chunk, io: &mut Io<'_>) -> Option<Chunk> {
        let len = data.span.len;
        if len > INPUT_COPY_BYTES_MAX || (self.fd.is_some() && !self.writing) {
            return Some(data);
        }
        let room = |last: &Chunk| last.lease.len().saturating_sub(last.span.end());
        if self.waiting.back().is_none_or(|last| room(last) < len) {
            let Some(lease) = io.take(Class::Packet) else { return Some(data) };
            self.waiting.push_back(Chunk { lease, span: Span::default() });
        }
        let mut copy = [0; INPUT_COPY_BYTES_MAX as usize];
        let (Some(last), Some(copy)) = (self.waiting.back_mut(), copy.get_mut(..len as usize))
        else {
            return Some(data);
        };
        if let Some(from) = data.span.of(io.bytes(&mut data.lease)) {
            copy.copy_from_slice(from);
        }
        let place = Span::new(last.span.end(), len);
        if let Some(to) = place.of_mut(io.bytes(&mut last.lease)) {
            to.copy_from_slice(copy);
        }
        last.span.len += len;
        io.give_back(data.lease);
        None
    }

    fn return_to_front(&mut self, mut unwritten: Gather) {
        let count = unwritten.len();
        while let Some(chunk) = unwritten.pop() {
            self.waiting.push_front(chunk);
        }
        // They went in first to last; the order has to be the other way round.
        self.waiting.make_contiguous()[..count].reverse();
    }

    fn widen(&mut self, child: Option<&Child>) {
        if self.owned
            && !self.widened
            && let (Some(child), Some(fd)) = (child, self.fd)
        {
            self.widened = true;
            child.widen(fd);
        }
    }
}
