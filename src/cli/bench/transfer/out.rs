//! What a measured channel sends: messages, each with so much filler behind it, laid out in large leases
//! as bulk is.

use std::collections::VecDeque;

use crate::limits::{PACKET_SLOT, TAILROOM};
use crate::reactor::Class;
use crate::services::Io;

/// Messages up to this size are copied into an outbox when nothing bulky is before or behind them.
const SMALL_BYTES: u64 = 4 * 1024;

/// Bytes that wait to be sent, in their order.
#[derive(Debug, Default)]
pub struct Out {
    waiting: VecDeque<Message>,
    bytes: u64,
}

#[derive(Debug)]
struct Message {
    head: Vec<u8>,
    /// Of the head.
    sent: usize,
    /// Behind the head.
    filler: u64,
}

impl Out {
    pub fn push(&mut self, head: Vec<u8>, filler: u64) {
        self.bytes += head.len() as u64 + filler;
        self.waiting.push_back(Message { head, sent: 0, filler });
    }

    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Sends what can be sent now: so many bytes.
    pub fn pump(&mut self, io: &mut Io<'_>) -> u64 {
        let before = self.bytes;
        while !self.is_empty() && io.may_send() && self.send_some(io) {}
        before - self.bytes
    }

    fn send_some(&mut self, io: &mut Io<'_>) -> bool {
        let room = u64::from(io.credit().min(io.packet_max()));
        if self.bytes <= SMALL_BYTES.min(room) {
            let mut bytes = vec![0; self.bytes as usize];
            let sent = io.reply(self.peek(&mut bytes));
            if sent {
                self.waiting.clear();
                self.bytes = 0;
            }
            return sent;
        }
        let is_bulk = self.bytes > u64::from(PACKET_SLOT - TAILROOM);
        let class = if is_bulk { Class::Bulk } else { Class::Packet };
        let want = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        let Some((plan, mut lease)) = io.plan(None, want, class) else { return false };
        for span in plan.spans(0).iter() {
            if let Some(place) = span.of_mut(io.bytes(&mut lease)) {
                self.fill(place);
            }
        }
        let total = plan.total();
        io.send(plan, total, lease);
        true
    }

    fn peek<'b>(&self, into: &'b mut [u8]) -> &'b [u8] {
        let mut at = 0;
        for message in &self.waiting {
            let head = message.head.get(message.sent..).unwrap_or_default();
            if let Some(place) = into.get_mut(at..at + head.len()) {
                place.copy_from_slice(head);
            }
            at += head.len() + message.filler as usize;
        }
        into
    }

    /// Takes as many bytes as fit. Filler is whatever the place holds, but never somebody's data.
    fn fill(&mut self, mut place: &mut [u8]) {
        while let Some(message) = self.waiting.front_mut().filter(|_| !place.is_empty()) {
            let head = message.head.get(message.sent..).unwrap_or_default();
            let part = head.len().min(place.len());
            let (front, rest) = place.split_at_mut(part);
            front.copy_from_slice(head.get(..part).unwrap_or_default());
            message.sent += part;
            let filler = message.filler.min(rest.len() as u64) as usize;
            let (front, rest) = rest.split_at_mut(filler);
            front.fill(0);
            message.filler -= filler as u64;
            self.bytes -= (part + filler) as u64;
            place = rest;
            if message.sent == message.head.len() && message.filler == 0 {
                self.waiting.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_leave_in_order_however_they_are_cut() {
        for cut in 1..12 {
            let mut out = Out::default();
            out.push(b"abc".to_vec(), 4);
            out.push(b"d".to_vec(), 0);
            out.push(Vec::new(), 2);
            let mut sent = Vec::new();
            while !out.is_empty() {
                let mut place = vec![b'x'; cut.min(out.bytes as usize)];
                out.fill(&mut place);
                sent.extend(place);
            }
            assert_eq!(sent, b"abc\0\0\0\0d\0\0", "{cut}");
        }
        let mut out = Out::default();
        out.push(b"abc".to_vec(), 1);
        out.push(b"d".to_vec(), 0);
        out.fill(&mut [0; 2]);
        assert_eq!(out.peek(&mut [0; 3]), b"c\0d");
    }
}
