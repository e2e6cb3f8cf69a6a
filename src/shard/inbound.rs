use crate::base::{Span, tally};
use crate::limits::{PACKET_SLOT, SMALL_BYTES};
use crate::reactor::{Chunk, Class, Classes, Lease, Pool, Spans, Target};

/// Free space a bulk lease must still have to be received into again.
const ROOM_MIN: u32 = 48 * 1024;
/// A receive this small means that the connection is not moving bulk any more.
const CALM_BYTES: u32 = 4096;
/// Calm receives in a row before a connection gives its large buffer up.
const CALM_TURNS: u8 = 4;

/// The receiving half of a connection: bytes received and not opened yet.
///
/// While idle it owns no lease and waits on the shard's shared buffers; the beginning of a packet
/// whose rest is slow to come waits on the heap, so that no number of slow peers holds the buffers
/// that others are to be received in. A receive that fills a shared buffer turns the connection to
/// bulk: single receives into its own large lease, in which packets are opened where they arrived.
#[derive(Debug, Default)]
pub struct Inbound {
    lease: Option<Lease>,
    /// Stands for the lease, from 0 to `end`, while there is none.
    kept: Vec<u8>,
    start: u32,
    end: u32,
    bulk: bool,
    calm: u8,
    /// The receive in flight is into a shared buffer.
    shared: bool,
    /// What the last packet of data took: those of a stream are alike.
    packet: u32,
    /// Bytes that must be there, from `start`, before opening can go on.
    pub need: u32,
    /// A receive is in flight.
    pub armed: bool,
}

impl Inbound {
    /// With bytes to be opened, for a connection that arrives from another process.
    pub const fn with(bytes: Vec<u8>) -> Inbound {
        let end = bytes.len() as u32;
        Inbound {
            lease: None,
            kept: bytes,
            start: 0,
            end,
            bulk: false,
            calm: 0,
            shared: false,
            packet: 0,
            need: 0,
            armed: false,
        }
    }

    pub const fn len(&self) -> u32 {
        self.end - self.start
    }

    /// It receives into a large lease of its own.
    pub const fn is_bulk(&self) -> bool {
        self.bulk
    }

    /// Nothing comes any more: the next receive shares, unless a packet is half there that is too large
    /// for that.
    pub const fn calm_down(&mut self) {
        (self.bulk, self.calm) = (false, 0);
    }

    /// Enough is there for the next packet, or for finding out how long it is.
    pub const fn is_workable(&self) -> bool {
        let len = self.len();
        len > 0 && len >= self.need
    }

    /// Puts the bytes where packets can be opened and handed on. False when no lease can be had.
    pub fn settle_in(&mut self, pool: &mut Pool) -> bool {
        self.kept.is_empty() || self.move_to_lease(self.len(), pool).is_some()
    }

    /// Where the next receive goes; `None` when no lease can be had now.
    pub fn next_target(&mut self, pool: &mut Pool) -> Option<Target> {
        if self.len() == 0 {
            self.release(pool);
        }
        let need = self.need.max(self.len() + 1);
        let alone = self.bulk || need > PACKET_SLOT;
        let roomy = alone && (self.has_room() || self.move_to_lease(need, pool).is_some());
        if let Some(lease) = self.lease.take_if(|_| roomy) {
            let mut spans = Spans::new();
            let _ = spans.push(Span::new(self.end, self.reach(lease.len()) - self.end));
            return Some(Target::Owned { lease, spans });
        }
        if need > PACKET_SLOT {
            return None;
        }
        self.keep(pool);
        (self.bulk, self.shared) = (false, true);
        Some(Target::Shared)
    }

    /// What [`Inbound::settle_in`] or [`Inbound::next_target`] found none of.
    pub fn lacks(&self) -> Classes {
        let large = Classes::NONE.with(Class::Bulk);
        if self.need.max(self.len()) <= PACKET_SLOT { large.with(Class::Packet) } else { large }
    }

    /// A receive is over: `bytes` more, or none at end of stream or on error.
    pub fn received(&mut self, target: Target, bytes: u32, pool: &mut Pool) {
        let shared = std::mem::take(&mut self.shared);
        let Target::Owned { mut lease, mut spans } = target else { return };
        if !shared {
            self.end += bytes;
            self.settle(bytes);
            self.lease = Some(lease);
        } else {
            let span = Span::new(spans.pop().map_or(0, |span| span.at), bytes);
            self.bulk = bytes >= SMALL_BYTES;
            if self.kept.is_empty() {
                (self.start, self.end) = (span.at, span.end());
                self.lease = Some(lease);
            } else {
                let bytes = span.of(pool.bytes(&mut lease)).unwrap_or_default();
                tally::append(&mut self.kept, bytes);
                self.end = self.kept.len() as u32;
                pool.give_back(lease);
            }
        }
        if self.len() == 0 {
            self.release(pool);
        }
    }

    /// The bytes to be opened.
    pub fn bytes<'a>(&'a mut self, pool: &'a Pool) -> &'a mut [u8] {
        let (start, end) = (self.start as usize, self.end as usize);
        let all = match &mut self.lease {
            Some(lease) => pool.bytes(lease),
            None => &mut self.kept,
        };
        all.get_mut(start..end).unwrap_or(&mut [])
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
        (self.need, self.packet) = (0, used);
        Some(Chunk { lease: front, span })
    }

    pub fn release(&mut self, pool: &mut Pool) {
        if let Some(lease) = self.lease.take() {
            pool.give_back(lease);
        }
        self.kept = Vec::new();
        (self.start, self.end) = (0, 0);
    }

    /// Waits without a lease, so that nobody waits for it in turn.
    pub fn step_back(&mut self, pool: &mut Pool) {
        if !self.armed && self.len() <= PACKET_SLOT {
            self.keep(pool);
        }
    }

    /// Gives the lease back and keeps the bytes that were in it.
    fn keep(&mut self, pool: &mut Pool) {
        if self.lease.is_none() {
            return;
        }
        let mut kept = std::mem::take(&mut self.kept);
        let bytes = self.bytes(pool);
        tally::append(&mut kept, bytes);
        self.release(pool);
        self.end = kept.len() as u32;
        self.kept = kept;
    }

    /// It has memory of its own, to receive into or with what has come.
    pub const fn holds_lease(&self) -> bool {
        self.lease.is_some() || (self.armed && !self.shared)
    }

    fn has_room(&self) -> bool {
        let Some(lease) = &self.lease else { return false };
        let room = lease.len() - self.end;
        let fits = self.start.saturating_add(self.need.max(1)) <= lease.len();
        fits && room > 0 && (!self.bulk || room >= ROOM_MIN)
    }

    /// How far into a lease of so many bytes the next receive goes: where a stream's packets are like the last one,
    /// to the end of one. What the end of the lease cut would have to be copied.
    fn reach(&self, len: u32) -> u32 {
        let first = self.start.saturating_add(self.need.max(self.packet));
        let Some(more) = len.saturating_sub(first).checked_div(self.packet) else { return len };
        let reach = first.saturating_add(more * self.packet);
        if (self.end + ROOM_MIN..=len).contains(&reach) { reach } else { len }
    }

    /// Moves the bytes to a fresh lease of at least `need`.
    fn move_to_lease(&mut self, need: u32, pool: &mut Pool) -> Option<()> {
        let large = self.bulk || need > PACKET_SLOT;
        let wanted = if large { Class::Bulk } else { Class::Packet };
        let mut fresh = match pool.take_spare(wanted) {
            Some(lease) => lease,
            // Under pressure one packet at a time still makes progress.
            None if !large => pool.take_spare(Class::Bulk)?,
            None if need <= PACKET_SLOT => pool.take_spare(Class::Packet)?,
            None => return None,
        };
        let bytes = self.bytes(pool);
        let len = bytes.len() as u32;
        if let Some(to) = pool.bytes(&mut fresh).get_mut(..bytes.len()) {
            tally::copy(to, bytes);
        }
        self.release(pool);
        self.lease = Some(fresh);
        self.end = len;
        Some(())
    }

    fn settle(&mut self, bytes: u32) {
        if bytes >= CALM_BYTES {
            (self.bulk, self.calm) = (true, 0);
        } else if self.bulk {
            self.calm += 1;
            if self.calm >= CALM_TURNS {
                self.calm_down();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BULK_SLOT;

    #[test]
    fn receives_reach_to_the_end_of_a_packet() {
        const PACKET: u32 = 32 * 1024 + 36;
        for (packet, start, end, need, reach) in [
            // Nothing is known yet.
            (0, 0, 0, 0, BULK_SLOT),
            (0, 0, 100, 60_000, BULK_SLOT),
            (PACKET, 0, 0, 0, 8 * PACKET),
            (PACKET, 0, 100, 4, 8 * PACKET),
            (PACKET, 0, 100, PACKET, 8 * PACKET),
            // What has begun is larger than the last one.
            (PACKET, 0, 100, PACKET + 40, 7 * PACKET + PACKET + 40),
            (PACKET, 1000, 1100, PACKET, 1000 + 8 * PACKET),
            (PACKET, PACKET, PACKET, 0, 8 * PACKET),
            // Too little would be received.
            (PACKET, 6 * PACKET, 7 * PACKET, 0, BULK_SLOT),
            (40, 0, 0, 0, BULK_SLOT / 40 * 40),
            (u32::MAX, 0, 0, 0, BULK_SLOT),
        ] {
            let inbound = Inbound { packet, start, end, need, ..Inbound::default() };
            assert_eq!(inbound.reach(BULK_SLOT), reach, "{packet} {start} {end} {need}");
        }
    }
}
