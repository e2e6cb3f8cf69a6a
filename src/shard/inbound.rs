use crate::base::Span;
use crate::limits::{PACKET_SLOT, SMALL_BYTES};
use crate::reactor::{Chunk, Class, Lease, Pool, Spans, Target};

/// Free space a bulk lease must still have to be received into again.
const ROOM_MIN: u32 = 48 * 1024;
/// A receive this small means that the connection is not moving bulk any more.
const CALM_BYTES: u32 = 4096;
/// Calm receives in a row before a connection gives its large buffer up.
const CALM_TURNS: u8 = 4;

/// The receiving half of a connection: bytes received and not opened yet.
///
/// While idle it owns nothing and waits on the shard's shared buffers. A receive that fills one of
/// those turns the connection to bulk: single receives into its own large lease, in which packets
/// are opened where they arrived.
#[derive(Debug, Default)]
pub struct Inbound {
    lease: Option<Lease>,
    start: u32,
    end: u32,
    bulk: bool,
    calm: u8,
    /// Bytes that must be there, from `start`, before opening can go on.
    pub need: u32,
    /// A receive is in flight.
    pub armed: bool,
}

impl Inbound {
    pub const fn len(&self) -> u32 {
        self.end - self.start
    }

    /// Enough is there for the next packet, or for finding out how long it is.
    pub const fn is_workable(&self) -> bool {
        let len = self.len();
        len > 0 && len >= self.need
    }

    /// Bytes to be opened, for a connection that arrives from another process.
    pub fn preload(&mut self, bytes: &[u8], pool: &mut Pool) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(mut lease) = pool.take(class_for(bytes.len() as u32)) else { return false };
        let Some(to) = pool.bytes(&mut lease).get_mut(..bytes.len()) else {
            pool.give_back(lease);
            return false;
        };
        to.copy_from_slice(bytes);
        (self.lease, self.start, self.end) = (Some(lease), 0, bytes.len() as u32);
        true
    }

    /// Where the next receive goes; `None` when no lease can be had now.
    pub fn next_target(&mut self, pool: &mut Pool) -> Option<Target> {
        if self.len() == 0 {
            self.release(pool);
            if !self.bulk {
                return Some(Target::Shared);
            }
        }
        if !self.has_room() {
            self.move_to_new_lease(pool)?;
        }
        let lease = self.lease.take()?;
        let mut spans = Spans::new();
        let _ = spans.push(Span::new(self.end, lease.len() - self.end));
        Some(Target::Owned { lease, spans })
    }

    /// A receive is over: `bytes` more, or none at end of stream or on error.
    pub fn received(&mut self, target: Target, bytes: u32, pool: &mut Pool) {
        let Target::Owned { lease, mut spans } = target else { return };
        if !self.bulk && self.len() == 0 {
            // From a shared buffer: only there does a connection without bulk start from nothing.
            let at = spans.pop().map_or(0, |span| span.at);
            self.bulk = bytes >= SMALL_BYTES;
            (self.start, self.end) = (at, at + bytes);
        } else {
            self.end += bytes;
            self.settle(bytes);
        }
        self.lease = Some(lease);
        if self.len() == 0 {
            self.release(pool);
        }
    }

    /// The bytes to be opened.
    pub fn bytes<'a>(&'a mut self, pool: &'a Pool) -> &'a mut [u8] {
        let (start, end) = (self.start as usize, self.end as usize);
        match &mut self.lease {
            Some(lease) => pool.bytes(lease).get_mut(start..end).unwrap_or(&mut []),
            None => &mut [],
        }
    }

    /// The first `used` bytes are done with.
    pub fn consume(&mut self, used: u32) {
        self.start = (self.start + used).min(self.end);
        self.need = 0;
    }

    /// The first `used` bytes are done with but for `data`, which becomes a chunk of its own.
    pub fn take_chunk(&mut self, used: u32, data: Span, pool: &mut Pool) -> Option<Chunk> {
        let mut front = self.lease.take()?;
        let span = data.shifted(self.start);
        let cut = self.start + used;
        if cut < front.len() {
            self.lease = Some(pool.split(&mut front, cut));
        }
        (self.start, self.end) = (0, self.end.saturating_sub(cut));
        self.need = 0;
        Some(Chunk { lease: front, span })
    }

    pub fn release(&mut self, pool: &mut Pool) {
        if let Some(lease) = self.lease.take() {
            pool.give_back(lease);
        }
        (self.start, self.end) = (0, 0);
    }

    fn has_room(&self) -> bool {
        let Some(lease) = &self.lease else { return false };
        let room = lease.len() - self.end;
        let fits = self.start.saturating_add(self.need.max(1)) <= lease.len();
        fits && room > 0 && (!self.bulk || room >= ROOM_MIN)
    }

    fn move_to_new_lease(&mut self, pool: &mut Pool) -> Option<()> {
        let need = self.need.max(self.len() + 1);
        let wanted = if self.bulk { Class::Bulk } else { class_for(need) };
        let mut fresh = match pool.take(wanted) {
            Some(lease) => lease,
            // Under pressure one packet at a time still makes progress.
            None if need <= PACKET_SLOT => pool.take(Class::Packet)?,
            None => return None,
        };
        let len = self.len();
        if let Some(mut old) = self.lease.take() {
            let from = Span::new(self.start, len).of(pool.bytes(&mut old)).unwrap_or(&[]);
            if let Some(to) = pool.bytes(&mut fresh).get_mut(..from.len()) {
                to.copy_from_slice(from);
            }
            pool.give_back(old);
        }
        self.lease = Some(fresh);
        (self.start, self.end) = (0, len);
        Some(())
    }

    fn settle(&mut self, bytes: u32) {
        if bytes >= CALM_BYTES {
            (self.bulk, self.calm) = (true, 0);
        } else if self.bulk {
            self.calm += 1;
            if self.calm >= CALM_TURNS {
                (self.bulk, self.calm) = (false, 0);
            }
        }
    }
}

const fn class_for(bytes: u32) -> Class {
    if bytes <= PACKET_SLOT { Class::Packet } else { Class::Bulk }
}
