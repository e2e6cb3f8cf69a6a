use std::collections::VecDeque;

use nix::errno::Errno;

use super::READ_TAGS;
use super::peer::Peer;
use crate::connection::Plan;
use crate::limits::{PACKET_SLOT, SCP_READS_MAX};
use crate::reactor::{self, Class, Fd, Lease, Op};
use crate::services::Io;
use crate::services::credit::CreditWait;
use crate::services::sftp::{RETRIES_MAX, is_transient};

/// Data that fits a packet lease, margins of its packets counted generously.
const PACKET_DATA_BYTES: u32 = PACKET_SLOT - 3 * 1024;
/// What one read asks for at most: eight packets of OpenSSH's size.
const READ_BYTES: u32 = 256 * 1024;

/// A file on its way to the client: read into the places of the packets that carry it, several
/// reads at once, sent in order.
///
/// As many bytes leave as were announced. What cannot be read is zeroes, so that both sides stay in
/// step, and the error is told behind them.
#[derive(Debug)]
pub struct Sending {
    pub name: Vec<u8>,
    pub fd: Fd,
    /// The first thing that went wrong.
    pub failed: Option<Errno>,
    size: u64,
    /// Bytes that have a place in a packet.
    planned: u64,
    pieces: VecDeque<Piece>,
    /// The number of the first piece; its tag follows from it.
    first: u16,
    /// Bytes planned and not sent.
    bytes: u32,
    credit: CreditWait,
}

#[derive(Debug)]
struct Piece {
    plan: Plan,
    /// `None` while its read is in flight.
    lease: Option<Lease>,
    tries: u8,
}

impl Sending {
    pub fn new(name: Vec<u8>, fd: Fd, size: u64) -> Sending {
        Sending {
            name,
            fd,
            failed: None,
            size,
            planned: 0,
            pieces: VecDeque::new(),
            first: 0,
            bytes: 0,
            credit: CreditWait::default(),
        }
    }

    /// Sends and reads as far as things go. True when everything has been sent.
    pub fn advance(&mut self, peer: &Peer, io: &mut Io<'_>) -> bool {
        loop {
            while let Some((plan, lease)) = self.pop_landed() {
                let total = plan.total();
                io.send(plan, total, lease);
            }
            // Lines said before the data leave before it.
            let room = peer.is_silent() && self.pieces.len() < SCP_READS_MAX;
            if !room || self.planned >= self.size || !self.start(io) {
                break;
            }
        }
        self.planned >= self.size && self.pieces.is_empty()
    }

    pub fn completed(
        &mut self,
        tag: u16,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        io: &mut Io<'_>,
    ) {
        let Op::ReadAt { fd, at, mut lease, spans } = op else { return };
        let count = SCP_READS_MAX as u16;
        let number = (tag.wrapping_sub(READ_TAGS) + count - self.first) % count;
        let Some(piece) = self.pieces.get_mut(usize::from(number)) else {
            return io.give_back(lease);
        };
        let total = piece.plan.total();
        let (got, errno) = match result {
            Ok(got) if got < total => (got, Some(Errno::EPIPE)),
            Ok(_) => (total, None),
            Err(errno) => (0, Some(Errno::from_raw(errno.0))),
        };
        if let (Err(_), Some(errno)) = (result, errno)
            && is_transient(errno, true)
            && piece.tries < RETRIES_MAX
            && !gone
        {
            piece.tries += 1;
            return io.submit(tag, Op::ReadAt { fd, at, lease, spans });
        }
        if got < total {
            blank(&piece.plan, got, &mut lease, io);
        }
        piece.lease = Some(lease);
        self.failed = self.failed.or(errno);
        if gone {
            self.drop_landed(io);
        }
    }

    /// The channel is gone: what is in flight ends early and is dropped when it comes.
    pub fn cancel(&mut self, io: &mut Io<'_>) {
        for number in 0..self.pieces.len() as u16 {
            io.cancel(self.tag(number));
        }
        self.planned = self.size;
        self.drop_landed(io);
    }

    const fn tag(&self, number: u16) -> u16 {
        READ_TAGS + (self.first + number) % SCP_READS_MAX as u16
    }

    fn drop_landed(&mut self, io: &mut Io<'_>) {
        while let Some((plan, lease)) = self.pop_landed() {
            io.drop_plan(plan, lease);
        }
    }

    /// The first piece, once its read is over.
    fn pop_landed(&mut self) -> Option<(Plan, Lease)> {
        let lease = self.pieces.front_mut()?.lease.take()?;
        let Piece { plan, .. } = self.pieces.pop_front()?;
        self.first = (self.first + 1) % SCP_READS_MAX as u16;
        self.bytes = self.bytes.saturating_sub(plan.total());
        Some((plan, lease))
    }

    /// Reads the next piece. False when credit, a lease or the socket is lacking.
    fn start(&mut self, io: &mut Io<'_>) -> bool {
        let left = u32::try_from(self.size - self.planned).unwrap_or(u32::MAX);
        let want = left.min(READ_BYTES);
        let unsent = io.backlog().saturating_add(self.bytes);
        if !io.may_send() || unsent >= io.unsent_max() || !self.credit.is_over(want, 1, io) {
            return false;
        }
        let class = if want <= PACKET_DATA_BYTES { Class::Packet } else { Class::Bulk };
        let planned = io.plan(None, want, class).or_else(|| io.plan(None, want, Class::Packet));
        let Some((plan, mut lease)) = planned else { return false };
        let total = plan.total();
        if total == 0 {
            io.drop_plan(plan, lease);
            return false;
        }
        let tag = self.tag(self.pieces.len() as u16);
        let at = self.planned;
        self.planned += u64::from(total);
        self.bytes = self.bytes.saturating_add(total);
        if self.failed.is_some() {
            blank(&plan, 0, &mut lease, io);
            self.pieces.push_back(Piece { plan, lease: Some(lease), tries: 0 });
            return true;
        }
        let spans = plan.spans(0);
        self.pieces.push_back(Piece { plan, lease: None, tries: 0 });
        io.submit(tag, Op::ReadAt { fd: self.fd, at, lease, spans });
        true
    }
}

/// Zeroes behind the first `got` bytes: nobody's old data leaves.
fn blank(plan: &Plan, got: u32, lease: &mut Lease, io: &mut Io<'_>) {
    for place in plan.spans(got).iter() {
        if let Some(bytes) = place.of_mut(io.bytes(lease)) {
            bytes.fill(0);
        }
    }
}
