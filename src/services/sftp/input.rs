use std::collections::VecDeque;

use crate::base::Span;
use crate::limits::{SFTP_SMALL_CHUNK_BYTES, SFTP_SMALL_CHUNKS_MAX};
use crate::reactor::{Chunk, Class};
use crate::services::Io;

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
struct Held {
    chunk: Chunk,
    /// The lease is our own and takes more bytes behind the span.
    ours: bool,
}

impl Input {
    /// Keeps a chunk. Many tiny ones are copied together, so that a peer that sends one byte a
    /// packet does not pin a receive buffer with each.
    pub fn hold(&mut self, chunk: Chunk, io: &mut Io<'_>) {
        if chunk.span.is_empty() {
            io.give_back(chunk.lease);
            return;
        }
        let crowded = self.held.len() >= SFTP_SMALL_CHUNKS_MAX;
        if !crowded || chunk.span.len as usize > SFTP_SMALL_CHUNK_BYTES {
            self.held.push_back(Held { chunk, ours: false });
            return;
        }
        self.hold_copy(chunk, io);
    }

    fn hold_copy(&mut self, mut chunk: Chunk, io: &mut Io<'_>) {
        let len = chunk.span.len;
        let roomy =
            |held: &Held| held.ours && held.chunk.lease.len() - held.chunk.span.end() >= len;
        if !self.held.back().is_some_and(roomy) {
            match io.take(Class::Packet) {
                Some(lease) => {
                    let chunk = Chunk { lease, span: Span::new(0, 0) };
                    self.held.push_back(Held { chunk, ours: true });
                }
                None => {
                    self.held.push_back(Held { chunk, ours: false });
                    return;
                }
            }
        }
        let mut copy = [0; SFTP_SMALL_CHUNK_BYTES];
        let Some(copy) = copy.get_mut(..len as usize) else { return };
        if let Some(from) = chunk.span.of(io.bytes(&mut chunk.lease)) {
            copy.copy_from_slice(from);
        }
        io.give_back(chunk.lease);
        let Some(back) = self.held.back_mut() else { return };
        let place = Span::new(back.chunk.span.end(), len);
        if let Some(to) = place.of_mut(io.bytes(&mut back.chunk.lease)) {
            to.copy_from_slice(copy);
        }
        back.chunk.span.len += len;
    }

    /// Nothing has come that is not used.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Copies bytes until the partial request has `need` of them; false when more must come first.
    pub fn fill(&mut self, need: usize, io: &mut Io<'_>) -> bool {
        while self.partial.len() < need {
            let Some(front) = self.held.front_mut() else { return false };
            let more = (need - self.partial.len()).min(front.chunk.span.len as usize);
            let take = Span::new(front.chunk.span.at, more as u32);
            let bytes = take.of(io.bytes(&mut front.chunk.lease)).unwrap_or(&[]);
            self.partial.extend_from_slice(bytes);
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

    /// Up to `max` bytes of what has come, where they are. The caller counts them as used when they
    /// are ([`Input::used`]).
    pub fn piece(&mut self, max: u32, io: &mut Io<'_>) -> Option<Chunk> {
        if max == 0 {
            return None;
        }
        let front = self.held.front_mut()?;
        let Span { at, len } = front.chunk.span;
        if len <= max {
            return self.held.pop_front().map(|held| held.chunk);
        }
        let rest = io.split(&mut front.chunk.lease, at + max);
        let lease = std::mem::replace(&mut front.chunk.lease, rest);
        front.chunk.span = Span::new(0, len - max);
        Some(Chunk { lease, span: Span::new(at, max) })
    }

    /// Drops up to `max` bytes; answers how many.
    pub fn skip(&mut self, max: u32, io: &mut Io<'_>) -> u32 {
        let mut skipped = 0;
        while skipped < max
            && let Some(front) = self.held.front()
        {
            let more = (max - skipped).min(front.chunk.span.len);
            self.eat(more, io);
            skipped += more;
        }
        skipped
    }

    /// Bytes of a piece are done with: the window may be granted again.
    pub const fn used(&mut self, bytes: u32) {
        self.eaten = self.eaten.saturating_add(bytes);
    }

    /// Grants the window of what was used, once for all of it.
    pub fn report(&mut self, io: &mut Io<'_>) {
        io.consumed(std::mem::take(&mut self.eaten));
    }

    /// Gives everything back. The window is granted again if the channel lives.
    pub fn discard(&mut self, io: &mut Io<'_>) {
        while let Some(held) = self.held.pop_front() {
            self.used(held.chunk.span.len);
            io.give_back(held.chunk.lease);
        }
        self.partial = Vec::new();
    }

    /// Removes `bytes` (no more than it has) from the front chunk.
    fn eat(&mut self, bytes: u32, io: &mut Io<'_>) {
        self.used(bytes);
        let Some(front) = self.held.front_mut() else { return };
        front.chunk.span = front.chunk.span.skip(bytes);
        if front.chunk.span.is_empty()
            && let Some(held) = self.held.pop_front()
        {
            io.give_back(held.chunk.lease);
        }
    }
}
