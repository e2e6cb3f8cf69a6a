use super::status::Failure;
use crate::base::{Span, tally};
use crate::limits::OUTBOX_RESERVE;
use crate::reactor::Class;
use crate::services::{Io, Luggage, Unpacking};
use crate::wire::sftp::{Reply, Response};
use crate::wire::{Malformed, Writer};

/// Replies up to this size are copied into the connection's outbox; longer ones get a lease.
const SMALL_BYTES: usize = OUTBOX_RESERVE as usize / 2;
/// Room for every part of a reply that is not counted apart: frame, numbers, a status text.
const FRAME_BYTES: usize = 128;
/// Memory kept between replies.
const KEPT_BYTES: usize = 4 * 1024;

/// Replies other than DATA, encoded and not sent yet.
///
/// A reply may be cut by the window only while no DATA is on its way: DATA has its credit already
/// and must never land inside another reply.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    sent: usize,
    /// Bytes of a reply that has been sent in part.
    owed: usize,
}

impl Replies {
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    pub fn status(&mut self, id: u32, what: impl Into<Failure>) {
        let Failure { code, text } = what.into();
        self.put(id, Reply::Status { code, text: text.as_bytes() });
    }

    pub fn put(&mut self, id: u32, reply: Reply<'_>) {
        let content = match reply {
            Reply::Data(bytes) | Reply::Extended(bytes) | Reply::Handle(bytes) => bytes.len(),
            Reply::Names(names) => names.encoded_bytes(),
            Reply::Version { .. } => 1024,
            Reply::Status { text, .. } => text.len(),
            Reply::Attributes(_) => 0,
        };
        let at = self.bytes.len();
        self.bytes.resize(at + content + FRAME_BYTES, 0);
        let mut out = Writer::new(self.bytes.get_mut(at..).unwrap_or(&mut []));
        let written = Response { id, reply }.write(&mut out).map(|()| out.len());
        debug_assert!(written.is_ok(), "a reply is larger than its room: {reply:?}");
        self.bytes.truncate(at + written.unwrap_or(0));
    }

    /// Moves everything to the end of `to`, for a session without a window.
    pub fn drain_to(&mut self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.bytes.get(self.sent..).unwrap_or(&[]));
        self.bytes.clear();
        (self.sent, self.owed) = (0, 0);
    }

    /// For another process. Nothing is left here.
    pub fn pack(&mut self, out: &mut Luggage) {
        out.uint32(self.owed as u32);
        out.string(self.bytes.get(self.sent..).unwrap_or(&[]));
        *self = Replies::default();
    }

    /// What [`Replies::pack`] packed: the rest of a reply and whole ones.
    pub fn unpack(from: &mut Unpacking<'_>) -> Result<Replies, Malformed> {
        let (owed, bytes) = (from.uint32()? as usize, from.string()?.to_vec());
        let mut rest = bytes.get(owed..).ok_or(Malformed::Range)?;
        while !rest.is_empty() {
            let len = packet_len(rest).ok_or(Malformed::Range)?;
            rest = rest.get(len..).ok_or(Malformed::Range)?;
        }
        Ok(Replies { bytes, sent: 0, owed })
    }

    /// Sends what the window, the outbox and the rule above allow. True when everything has left.
    pub fn flush(&mut self, data_on_its_way: bool, io: &mut Io<'_>) -> bool {
        while !self.is_empty() && io.may_send() {
            let len = self.sendable(io.credit() as usize, data_on_its_way);
            if len == 0 || !self.send(len, data_on_its_way, io) {
                break;
            }
        }
        if !self.is_empty() {
            return false;
        }
        self.bytes.clear();
        self.sent = 0;
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        true
    }

    /// How many bytes may go next: whole replies if possible, part of one if need be.
    fn sendable(&self, credit: usize, data_on_its_way: bool) -> usize {
        if self.owed > 0 {
            return self.owed.min(credit);
        }
        let rest = self.bytes.get(self.sent..).unwrap_or(&[]);
        let mut whole = 0;
        while let Some(len) = packet_len(rest.get(whole..).unwrap_or(&[])) {
            let more = whole + len;
            // Long replies travel alone, short ones together.
            if more > credit || (whole > 0 && more > SMALL_BYTES) {
                break;
            }
            whole = more;
        }
        if whole > 0 || data_on_its_way { whole } else { rest.len().min(credit) }
    }

    /// Sends `len` bytes, or fewer if they need a lease that takes fewer.
    fn send(&mut self, len: usize, data_on_its_way: bool, io: &mut Io<'_>) -> bool {
        let bytes = self.bytes.get(self.sent..self.sent + len).unwrap_or(&[]);
        if len <= SMALL_BYTES {
            if !io.reply(bytes) {
                return false;
            }
            self.advance(len);
            return true;
        }
        let Some((plan, mut lease)) = io.plan(None, len as u32, Class::Packet) else {
            return false;
        };
        if (plan.total() as usize) < len && data_on_its_way {
            io.drop_plan(plan, lease);
            return false;
        }
        let mut copied = 0;
        for place in plan.spans(0).iter() {
            let more = (place.len as usize).min(len - copied);
            let place = Span::new(place.at, more as u32);
            let from = bytes.get(copied..copied + more).unwrap_or(&[]);
            if let Some(to) = place.of_mut(io.bytes(&mut lease)) {
                tally::copy(to, from);
            }
            copied += more;
        }
        io.send(plan, copied as u32, lease);
        self.advance(copied);
        true
    }

    fn advance(&mut self, mut len: usize) {
        while len > 0 {
            if self.owed == 0 {
                let rest = self.bytes.get(self.sent..).unwrap_or(&[]);
                self.owed = packet_len(rest).unwrap_or(len);
            }
            let step = self.owed.min(len);
            self.owed -= step;
            self.sent += step;
            len -= step;
        }
    }
}

/// The length of the packet at the front, its length field included.
fn packet_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<4>().map(|len| 4 + u32::from_be_bytes(*len) as usize)
}
