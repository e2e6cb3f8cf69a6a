use std::collections::VecDeque;

use crate::base::{Span, tally};
use crate::limits::{
    CHANNEL_PACKET_BYTES_MAX, SFTP_REQUEST_BYTES_MAX, SFTP_SMALL_CHUNK_BYTES,
    SFTP_SMALL_CHUNKS_MAX, SMALL_BYTES,
};
use crate::reactor::{Chunk, Class};
use crate::services::{Io, Luggage, Unpacking};
use crate::wire::Malformed;

/// Bytes of one block of copied data; a packet's lease takes it.
const BLOCK_BYTES: usize = CHANNEL_PACKET_BYTES_MAX as usize;

/// Channel data that has come and is not used yet. The receive window bounds it: what is in here
/// has not been granted again.
#[derive(Debug, Default)]
pub struct Input {
    held: VecDeque<Held>,
    /// The front of a request while it is put together.
    partial: Vec<u8>,
    /// Bytes used since the last [`Input::report`].
    eaten: u32,
}

#[derive(Debug)]
enum Held {
    /// Where it was received.
    Received(Chunk),
    /// What holds no lease, from `start` on.
    Copied { bytes: Vec<u8>, start: usize },
}

impl Held {
    fn len(&self) -> u32 {
        match self {
            Held::Received(chunk) => chunk.span.len,
            Held::Copied { bytes, start } => (bytes.len() - start) as u32,
        }
    }
}

impl Input {
    /// Keeps a chunk. Many tiny ones are copied together, so that a peer that sends one byte a
    /// packet does not pin a buffer with each; and when buffers become scarce, so is everything that
    /// is small or waits behind something else.
    pub fn hold(&mut self, chunk: Chunk, io: &mut Io<'_>) {
        let len = chunk.span.len;
        let crowded = self.held.len() >= SFTP_SMALL_CHUNKS_MAX;
        let waits = len <= SMALL_BYTES || !self.held.is_empty();
        if len == 0 {
            io.give_back(chunk.lease);
        } else if (crowded && len as usize <= SFTP_SMALL_CHUNK_BYTES) || (waits && io.is_scarce()) {
            self.copy(chunk, io);
        } else {
            self.held.push_back(Held::Received(chunk));
        }
    }

    fn copy(&mut self, mut chunk: Chunk, io: &mut Io<'_>) {
        let from = chunk.span.of(io.bytes(&mut chunk.lease)).unwrap_or_default();
        match self.held.back_mut() {
            Some(Held::Copied { bytes, .. }) if bytes.len() + from.len() <= BLOCK_BYTES => {
                tally::append(bytes, from);
            }
            _ => {
                let mut bytes = Vec::with_capacity(from.len());
                tally::append(&mut bytes, from);
                self.held.push_back(Held::Copied { bytes, start: 0 });
            }
        }
        io.give_back(chunk.lease);
    }

    /// Nothing has come that is not used.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Bytes that have come and are not used.
    pub fn held_bytes(&self) -> u32 {
        self.held.iter().map(Held::len).sum()
    }

    /// For another process. Nothing is left here.
    pub fn pack(&mut self, out: &mut Luggage, io: &mut Io<'_>) {
        out.uint32(self.eaten);
        out.string(&self.partial);
        out.uint32(self.held_bytes());
        for held in std::mem::take(&mut self.held) {
            match held {
                Held::Received(mut chunk) => {
                    let bytes = chunk.span.of(io.bytes(&mut chunk.lease)).unwrap_or_default();
                    out.bytes.extend_from_slice(bytes);
                    io.give_back(chunk.lease);
                }
                Held::Copied { bytes, start } => {
                    out.bytes.extend_from_slice(bytes.get(start..).unwrap_or_default());
                }
            }
        }
        *self = Input::default();
    }

    /// What [`Input::pack`] packed.
    pub fn unpack(from: &mut Unpacking<'_>) -> Result<Input, Malformed> {
        let (eaten, partial) = (from.uint32()?, from.string()?.to_vec());
        if partial.len() > 4 + SFTP_REQUEST_BYTES_MAX as usize {
            return Err(Malformed::Range);
        }
        let blocks = from.string()?.chunks(BLOCK_BYTES);
        let held = blocks.map(|block| Held::Copied { bytes: block.to_vec(), start: 0 }).collect();
        Ok(Input { held, partial, eaten })
    }

    /// Copies bytes until the partial request has `need` of them; false when more must come first.
    pub fn fill(&mut self, need: usize, io: &mut Io<'_>) -> bool {
        while self.partial.len() < need {
            let Some(front) = self.held.front_mut() else { return false };
            let more = (need - self.partial.len()).min(front.len() as usize);
            let bytes = match front {
                Held::Received(chunk) => {
                    let take = Span::new(chunk.span.at, more as u32);
                    take.of(io.bytes(&mut chunk.lease))
                }
                Held::Copied { bytes, start } => bytes.get(*start..*start + more),
            };
            tally::append(&mut self.partial, bytes.unwrap_or_default());
            self.eat(more as u32, io);
        }
        true
    }

    /// The partial request so far.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Starts over with the next request. Keeps room for common ones only.
    pub fn clear_partial(&mut self) {
        self.partial.clear();
        if self.partial.capacity() > SFTP_SMALL_CHUNK_BYTES {
            self.partial = Vec::new();
        }
    }

    /// Up to `max` bytes of what has come, in memory that an operation can own. The caller counts
    /// them as used when they are ([`Input::used`]). `None` when there are none, or no memory: then
    /// the service hears when there is some.
    pub fn piece(&mut self, max: u32, io: &mut Io<'_>) -> Option<Chunk> {
        if max == 0 {
            return None;
        }
        let front = self.held.front_mut()?;
        let take = front.len().min(max);
        let whole = take == front.len();
        let chunk = match front {
            Held::Copied { bytes, start } => {
                let mut lease = io.take(Class::Packet)?;
                let span = Span::new(0, take);
                let from = bytes.get(*start..*start + take as usize).unwrap_or_default();
                if let Some(to) = span.of_mut(io.bytes(&mut lease)) {
                    tally::copy(to, from);
                }
                *start += take as usize;
                Chunk { lease, span }
            }
            Held::Received(_) if whole => match self.held.pop_front() {
                Some(Held::Received(chunk)) => return Some(chunk),
                _ => return None,
            },
            Held::Received(chunk) => {
                let Span { at, len } = chunk.span;
                let rest = io.split(&mut chunk.lease, at + take);
                let lease = std::mem::replace(&mut chunk.lease, rest);
                chunk.span = Span::new(0, len - take);
                return Some(Chunk { lease, span: Span::new(at, take) });
            }
        };
        if whole {
            self.held.pop_front();
        }
        Some(chunk)
    }

    /// Drops up to `max` bytes; answers how many.
    pub fn skip(&mut self, max: u32, io: &mut Io<'_>) -> u32 {
        let mut skipped = 0;
        while skipped < max
            && let Some(front) = self.held.front()
        {
            let more = (max - skipped).min(front.len());
            self.eat(more, io);
            skipped += more;
        }
        skipped
    }

    /// Bytes of a piece are done with: the window may be granted again.
    pub const fn used(&mut self, bytes: u32) {
        self.eaten = self.eaten.saturating_add(bytes);
    }

    /// Bytes used since the last [`Input::report`].
    pub const fn unreported(&self) -> u32 {
        self.eaten
    }

    /// Grants the window of what was used, once for all of it.
    pub fn report(&mut self, io: &mut Io<'_>) {
        io.consumed(std::mem::take(&mut self.eaten));
    }

    /// Gives everything back. The window is granted again if the channel lives.
    pub fn discard(&mut self, io: &mut Io<'_>) {
        while let Some(held) = self.held.pop_front() {
            self.used(held.len());
            give_back(held, io);
        }
        self.partial = Vec::new();
    }

    /// Removes `bytes` (no more than it has) from the front chunk.
    fn eat(&mut self, bytes: u32, io: &mut Io<'_>) {
        self.used(bytes);
        let Some(front) = self.held.front_mut() else { return };
        match front {
            Held::Received(chunk) => chunk.span = chunk.span.skip(bytes),
            Held::Copied { start, .. } => *start += bytes as usize,
        }
        if front.len() == 0
            && let Some(held) = self.held.pop_front()
        {
            give_back(held, io);
        }
    }
}

fn give_back(held: Held, io: &mut Io<'_>) {
    if let Held::Received(chunk) = held {
        io.give_back(chunk.lease);
    }
}
