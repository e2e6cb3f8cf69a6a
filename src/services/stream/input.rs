use std::collections::VecDeque;

use super::End;
use crate::base::{Span, tally};
use crate::limits::{
    CHANNEL_PACKET_BYTES_MAX, INPUT_COPY_BYTES_MAX, SMALL_BYTES, WINDOW_BYTES, WINDOW_GRANT_PART,
};
use crate::reactor::{Chunk, Class, Errno, Fd, Gather, Op};
use crate::services::luggage::{Luggage, Unpacking};
use crate::services::{Child, Io};
use crate::wire::Malformed;

/// A queue that had to grow past this gives its memory back when it is empty. A window of large
/// packets is no reason to.
const QUEUE_KEPT: usize = (WINDOW_BYTES / CHANNEL_PACKET_BYTES_MAX) as usize;

/// Bytes of one block of copied data; a packet's lease takes it.
const BLOCK_BYTES: usize = CHANNEL_PACKET_BYTES_MAX as usize;

/// Channel data on its way to a program or a socket: one write in flight at a time, straight out of the
/// memory in which it was received.
///
/// Receive buffers are for data that moves. What a program keeps waiting is copied when it comes in
/// little pieces, each of which would hold a buffer, or when buffers become scarce; the channel's
/// window bounds it.
#[derive(Debug)]
pub struct Input {
    /// Of its operations.
    tag: u16,
    fd: Option<Fd>,
    end: End,
    waiting: VecDeque<Held>,
    flight: Flight,
    ended: bool,
    /// Nobody reads it any more: what still comes is thrown away.
    broken: bool,
    widened: bool,
    /// The channel exists no more: its window is not granted again.
    muted: bool,
    /// Nothing is to be begun.
    halted: bool,
    /// Written, and its window not granted again yet.
    spent: u32,
    /// Come and not written.
    unwritten: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    None,
    /// `yielding`: it was asked to let go of its memory.
    Writing {
        yielding: bool,
    },
    /// Waits until the other end takes something; holds no memory.
    Waiting,
}

/// Data that waits to be written.
#[derive(Debug)]
enum Held {
    /// Where it was received.
    Received(Chunk),
    Copied(Vec<u8>),
}

impl Input {
    /// `tag` names its operations.
    pub const fn new(tag: u16) -> Input {
        Input {
            tag,
            fd: None,
            end: End::Pipe,
            waiting: VecDeque::new(),
            flight: Flight::None,
            ended: false,
            broken: false,
            widened: false,
            muted: false,
            halted: false,
            spent: 0,
            unwritten: 0,
        }
    }

    /// Where the data goes.
    pub const fn open(&mut self, fd: Fd, end: End) {
        (self.fd, self.end) = (Some(fd), end);
    }

    /// The program runs, or buffers have come back: what waited may go.
    pub fn resume(&mut self, io: &mut Io<'_>) {
        self.write(io);
    }

    /// Data that comes before the program runs waits for it. All that comes in a turn is written
    /// together, by [`Input::resume`] at its end.
    pub fn data(&mut self, data: Chunk, io: &mut Io<'_>) {
        if self.broken {
            io.discard(data);
            return;
        }
        self.unwritten = self.unwritten.saturating_add(data.span.len);
        let moves = self.fd.is_some() && self.flight == Flight::None && self.waiting.is_empty();
        let copies = data.span.len <= INPUT_COPY_BYTES_MAX || io.is_scarce();
        // Even a write may wait for ever.
        let spares = data.span.len <= SMALL_BYTES && io.is_receiving_scarce();
        if spares || (copies && !moves) {
            self.copy(data, io);
        } else {
            self.waiting.push_back(Held::Received(data));
        }
        if self.fd.is_some() && self.flight == Flight::None {
            io.call_late();
        }
    }

    /// No more data will come.
    pub fn end(&mut self, io: &mut Io<'_>) {
        self.ended = true;
        self.write(io);
    }

    /// Nobody will read what is here or still comes.
    pub fn stop(&mut self, io: &mut Io<'_>) {
        self.broken = true;
        if self.flight != Flight::None {
            io.cancel(self.tag);
        }
        for held in std::mem::take(&mut self.waiting) {
            match held {
                Held::Received(chunk) => {
                    let bytes = chunk.span.len;
                    io.give_back(chunk.lease);
                    self.grant(bytes, io);
                }
                Held::Copied(bytes) => self.grant(bytes.len() as u32, io),
            }
        }
        self.close_if_done(io);
    }

    /// As `stop`, for a channel that exists no more: nothing may be granted on it.
    pub fn abandon(&mut self, io: &mut Io<'_>) {
        self.broken = true;
        if self.flight != Flight::None {
            io.cancel(self.tag);
        }
        for held in std::mem::take(&mut self.waiting) {
            if let Held::Received(chunk) = held {
                io.give_back(chunk.lease);
            }
        }
    }

    /// The channel exists no more, and what it brought is still to be written.
    pub fn write_out(&mut self, io: &mut Io<'_>) {
        (self.muted, self.ended, self.halted) = (true, true, false);
        self.write(io);
    }

    /// Memory is wanted elsewhere: a write that the other end does not take lets go of its own.
    pub fn yield_memory(&mut self, io: &mut Io<'_>) {
        for held in std::mem::take(&mut self.waiting) {
            match held {
                Held::Received(chunk) => self.copy(chunk, io),
                copied @ Held::Copied(_) => self.waiting.push_back(copied),
            }
        }
        if self.flight == (Flight::Writing { yielding: false }) {
            self.flight = Flight::Writing { yielding: true };
            io.cancel(self.tag);
        }
    }

    /// Begins nothing more, and lets go of what is being written.
    pub fn halt(&mut self, io: &mut Io<'_>) {
        self.halted = true;
        self.yield_memory(io);
        if self.flight == Flight::Waiting {
            io.cancel(self.tag);
        }
        self.grant(0, io);
    }

    pub fn go_on(&mut self, io: &mut Io<'_>) {
        self.halted = false;
        self.write(io);
    }

    /// What has halted and has nothing in flight, for another process. Its owner packs a descriptor that is
    /// not a pipe.
    pub fn pack(&mut self, out: &mut Luggage) {
        out.boolean(self.ended);
        out.boolean(self.broken);
        match self.end {
            End::Pipe => out.descriptor(self.fd.take()),
            End::Terminal | End::Socket => out.boolean(self.fd.take().is_some()),
        }
        let len = |held: &Held| match held {
            Held::Copied(bytes) => bytes.len() as u32,
            Held::Received(_) => 0,
        };
        out.uint32(self.waiting.iter().map(len).sum());
        for held in std::mem::take(&mut self.waiting) {
            match held {
                Held::Copied(bytes) => out.bytes.extend(bytes),
                Held::Received(_) => debug_assert!(false, "it has not halted"),
            }
        }
    }

    /// What [`Input::pack`] packed. `shared`: the descriptor that is not a pipe.
    pub fn unpack(
        (tag, end): (u16, End),
        shared: Option<Fd>,
        from: &mut Unpacking<'_>,
    ) -> Result<Input, Malformed> {
        let (ended, broken) = (from.boolean()?, from.boolean()?);
        let fd = match end {
            End::Pipe => from.descriptor()?,
            End::Terminal | End::Socket => {
                if from.boolean()? {
                    shared
                } else {
                    None
                }
            }
        };
        let bytes = from.string()?;
        let waiting = bytes.chunks(BLOCK_BYTES).map(|block| Held::Copied(block.to_vec())).collect();
        let unwritten = bytes.len() as u32;
        Ok(Input { fd, end, waiting, ended, broken, unwritten, ..Input::new(tag) })
    }

    /// The other end takes bytes again, or never will.
    pub fn may_write(&mut self, silent: bool, io: &mut Io<'_>) {
        self.flight = Flight::None;
        match (silent, self.broken) {
            (true, _) => self.abandon(io),
            (false, true) => self.stop(io),
            (false, false) => self.write(io),
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
        let flight = std::mem::replace(&mut self.flight, Flight::None);
        let yields = flight == (Flight::Writing { yielding: true }) && !self.broken && !silent;
        let yields = yields && result.map_or_else(|why| why.0 == libc::ECANCELED, |_| true);
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
        self.broken |= !yields && (result.is_err() || consumed == 0);
        if self.broken {
            while let Some(chunk) = unwritten.pop() {
                consumed += chunk.span.len;
                io.give_back(chunk.lease);
            }
        } else if yields {
            self.keep(unwritten, io);
        } else if !unwritten.is_empty() {
            self.widen(child);
            self.return_to_front(unwritten);
        }
        if silent {
            self.abandon(io);
            return;
        }
        self.grant(consumed, io);
        match self.fd.filter(|_| yields && !self.halted) {
            Some(fd) => {
                self.flight = Flight::Waiting;
                io.submit(self.tag, Op::Writable { fd });
            }
            None if self.broken => self.stop(io),
            None => self.write(io),
        }
    }

    /// Everything has been written that will be: nothing is in flight.
    pub const fn is_done(&self) -> bool {
        self.fd.is_none() && self.broken
    }

    /// Bytes wait or are being written.
    pub fn is_busy(&self) -> bool {
        self.flight != Flight::None || !self.waiting.is_empty()
    }

    /// How many.
    pub const fn unwritten(&self) -> u32 {
        self.unwritten
    }

    /// The descriptor, if it is ours and still open; nothing is in flight on it.
    pub fn take_fd(&mut self) -> Option<Fd> {
        let owned = self.end == End::Pipe;
        self.fd.take().filter(|_| owned)
    }

    fn write(&mut self, io: &mut Io<'_>) {
        let Some(fd) = self.fd else { return };
        if self.flight != Flight::None || self.halted {
            return;
        }
        let mut from = Gather::new();
        // What may wait for ever takes no more than one lease of the last there are.
        while !from.is_full() && (from.is_empty() || !io.is_scarce()) {
            let Some(chunk) = self.next(io) else { break };
            let _ = from.push(chunk);
        }
        if from.is_empty() {
            if self.waiting.is_empty() && self.waiting.capacity() > QUEUE_KEPT {
                self.waiting = VecDeque::new();
            }
            self.close_if_done(io);
            return;
        }
        self.flight = Flight::Writing { yielding: false };
        // Not all that a socket is given at once, so that letting go of the rest loses no count.
        io.submit(self.tag, Op::Write { fd, from });
    }

    fn close_if_done(&mut self, io: &mut Io<'_>) {
        let done = self.broken || (self.ended && self.waiting.is_empty());
        if !done || self.flight != Flight::None {
            return;
        }
        match (self.end, self.fd) {
            (End::Socket, Some(fd)) => {
                (self.fd, self.broken) = (None, true);
                io.shut_down(fd);
            }
            (End::Pipe, Some(fd)) => {
                (self.fd, self.broken) = (None, true);
                io.close_fd(fd);
            }
            (End::Terminal, _) => self.fd = None,
            (_, None) => {}
        }
    }

    /// A socket takes what comes at once, so its window is nearly always whole, and a part of it is
    /// soon enough granted again with more of it: each grant is a send, and wakes the peer.
    fn grant(&mut self, bytes: u32, io: &mut Io<'_>) {
        self.unwritten = self.unwritten.saturating_sub(bytes);
        self.spent += bytes;
        let waits = self.end == End::Socket && !self.halted;
        let part = if waits { io.receive_window() / WINDOW_GRANT_PART } else { 0 };
        if self.spent > part && !self.muted {
            io.consumed(std::mem::take(&mut self.spent));
        }
    }

    fn copy(&mut self, mut data: Chunk, io: &mut Io<'_>) {
        let mut rest = data.span.of(io.bytes(&mut data.lease)).unwrap_or_default();
        while !rest.is_empty() {
            let room = match self.waiting.back() {
                Some(Held::Copied(block)) => BLOCK_BYTES - block.len(),
                _ => 0,
            };
            if room == 0 {
                self.waiting.push_back(Held::Copied(Vec::new()));
            }
            let Some(Held::Copied(block)) = self.waiting.back_mut() else { break };
            let (taken, left) = rest.split_at(rest.len().min(BLOCK_BYTES - block.len()));
            tally::append(block, taken);
            rest = left;
        }
        io.give_back(data.lease);
    }

    /// The next data in memory that an operation can own. `None` when there is no data, or no
    /// memory: then `on_ready` tries again.
    fn next(&mut self, io: &mut Io<'_>) -> Option<Chunk> {
        match self.waiting.pop_front()? {
            Held::Received(chunk) => Some(chunk),
            Held::Copied(block) => {
                let Some(mut lease) = io.take(Class::Packet) else {
                    self.waiting.push_front(Held::Copied(block));
                    return None;
                };
                let span = Span::new(0, block.len() as u32);
                if let Some(to) = span.of_mut(io.bytes(&mut lease)) {
                    tally::copy(to, &block);
                }
                Some(Chunk { lease, span })
            }
        }
    }

    fn return_to_front(&mut self, mut unwritten: Gather) {
        let count = unwritten.len();
        while let Some(chunk) = unwritten.pop() {
            self.waiting.push_front(Held::Received(chunk));
        }
        // They went in first to last; the order has to be the other way round.
        self.waiting.make_contiguous()[..count].reverse();
    }

    /// Copies what was not written, and gives its leases back.
    fn keep(&mut self, mut unwritten: Gather, io: &mut Io<'_>) {
        let rest = std::mem::take(&mut self.waiting);
        while let Some(chunk) = unwritten.pop() {
            self.copy(chunk, io);
        }
        self.waiting.extend(rest);
    }

    fn widen(&mut self, child: Option<&Child>) {
        if self.end == End::Pipe
            && !self.widened
            && let (Some(child), Some(fd)) = (child, self.fd)
        {
            self.widened = true;
            child.widen(fd);
        }
    }
}
