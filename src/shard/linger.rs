//! Streams in large pieces: a gateway that is faster than both of its peers would wake for each packet
//! of a stream, and for each window that is granted for it. While packets of full size come in quick
//! succession, a reactor that has nothing else to do sleeps a little before it looks. And a stream that comes faster
//! than it is written is answered now and then, not for each receive.

use super::*;
use crate::connection::Event;
use crate::limits::{LINGER_REST, LINGER_TIME, STREAM_ANSWERS_BYTES_MAX};
use crate::services::flows_on;

/// What has come on a link of late.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The largest packet of data there was. A sender that has more to say fills its packets.
    largest: u32,
    /// The last one was as large.
    full: bool,
    /// At the last receive's rate another packet comes within [`LINGER_TIME`].
    fast: bool,
    /// The last receive took all that its lease had room for: more is in the socket.
    goes_on: bool,
    /// Bytes of such receives in a row since something was last sent.
    unanswered: u32,
}

impl Flow {
    /// A receive of up to `room` bytes is over that was asked for so long ago, if it was one into a large lease.
    pub fn received(&mut self, bytes: u32, room: u32, after: Option<Duration>) {
        self.fast = after.is_some_and(|after| flows_on(bytes, after));
        self.goes_on = after.is_some() && bytes == room;
        self.unanswered = if self.goes_on { self.unanswered.saturating_add(bytes) } else { 0 };
    }

    /// What is to be said may wait for the next receive, which brings something at once. Said once for each.
    fn holds_answers(&mut self) -> bool {
        let holds = std::mem::take(&mut self.goes_on) && self.unanswered < STREAM_ANSWERS_BYTES_MAX;
        if !holds {
            self.unanswered = 0;
        }
        holds
    }

    fn heard(&mut self, bytes: u32) {
        self.largest = self.largest.max(bytes);
        self.full = bytes == self.largest;
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// More of a stream is about to come on this link, which waits for it.
    pub(super) fn flows(&self, key: u32) -> bool {
        self.links.get(key as usize).is_some_and(|link| {
            link.inbound.is_bulk() && link.mark == 1 && link.flow.full && link.flow.fast
        })
    }

    /// Takes note of what a packet was about. All but a stream and its windows may be something that
    /// somebody waits for.
    pub(super) fn note_flow(&mut self, key: u32, event: Option<&Event>) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        match event {
            None | Some(Event::WindowOpened(_)) => return,
            Some(Event::Data { data, .. }) => link.flow.heard(data.len),
            Some(_) => link.flow.full = false,
        }
        if !self.is_in_flow(key) {
            self.hurried_until = self.driver.now().after(LINGER_REST);
        }
    }

    /// It or the link that it is coupled with brings much.
    fn is_in_flow(&self, key: u32) -> bool {
        let Some(link) = self.links.get(key as usize) else { return false };
        let other = link.relay.as_ref().and_then(|relay| relay.lines.first());
        let other = other.and_then(|other| self.links.get(*other as usize));
        link.inbound.is_bulk() || other.is_some_and(|other| other.inbound.is_bulk())
    }

    /// Windows and confirmations wait for the next turn, which comes at once, while more of a stream lies in the
    /// socket: those of several receives leave together, and wake the peer once.
    pub(super) fn holds_answers(&mut self, key: u32) -> bool {
        let Some(link) = self.links.get_mut(key as usize) else { return false };
        let may = link.state == LinkState::Open && link.authenticated && link.conn.is_ready();
        let holds = may && link.outgoing.has_words_alone() && link.flow.holds_answers();
        if holds {
            self.held.push(key);
        }
        holds
    }

    /// What was held in this turn is looked at in the next.
    pub(super) fn end_hold(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        for key in held.drain(..) {
            self.mark_dirty(key);
        }
        self.held = held;
    }

    /// Before each wait.
    pub(super) fn linger(&mut self) {
        if std::mem::take(&mut self.lingers) && self.hurried_until <= self.driver.now() {
            self.driver.linger(LINGER_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{CHANNEL_PACKET_BYTES_MAX, LINGER_BYTES};

    #[test]
    fn answers_wait_while_there_is_more_and_not_for_long() {
        let (room, soon) = (STREAM_ANSWERS_BYTES_MAX / 2, Some(Duration::ZERO));
        let mut flow = Flow::default();
        assert!(!flow.holds_answers(), "nothing has come");
        flow.received(room, room, soon);
        assert!(flow.holds_answers());
        assert!(!flow.holds_answers(), "the next turn has brought nothing");
        for (bytes, after, holds) in [
            (room, soon, true),
            (room, soon, false),
            (room, soon, true),
            (room - 1, soon, false),
            (room, None, false),
            (room, soon, true),
            (0, soon, false),
        ] {
            flow.received(bytes, room, after);
            assert_eq!(flow.holds_answers(), holds, "{bytes} after {after:?}");
        }
    }

    #[test]
    fn a_flow_is_full_packets_in_quick_succession() {
        let packet = CHANNEL_PACKET_BYTES_MAX;
        let mut flow = Flow::default();
        for (bytes, after, fast) in [
            (packet, Some(LINGER_TIME), true),
            (packet, Some(LINGER_TIME * 2), false),
            (2 * packet, Some(LINGER_TIME * 2), true),
            (packet - 1, Some(LINGER_TIME), false),
            (LINGER_BYTES - 1, Some(Duration::ZERO), true),
            (LINGER_BYTES, Some(Duration::ZERO), false),
            (packet, None, false),
            (0, Some(Duration::ZERO), true),
        ] {
            flow.received(bytes, u32::MAX, after);
            assert_eq!(flow.fast, fast, "{bytes} after {after:?}");
        }
        for (bytes, full) in [(10, true), (packet, true), (packet - 1, false), (packet, true)] {
            flow.heard(bytes);
            assert_eq!(flow.full, full, "{bytes}");
        }
    }
}
