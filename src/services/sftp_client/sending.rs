use nix::errno::Errno;
use slab::Slab;

use super::READ_TAGS;
use super::answer::Way;
use super::moves::Moves;
use crate::connection::Plan;
use crate::limits::{PACKET_SLOT, SFTP_HANDLE_BYTES_MAX, SFTP_READS_MAX};
use crate::reactor::{self, Class, Lease, Op};
use crate::services::Io;
use crate::services::credit::CreditWait;
use crate::services::sftp::{RETRIES_MAX, is_transient};
use crate::wire::Writer;
use crate::wire::sftp::WriteHeader;

/// Length, kind, id, handle length, offset and data length.
const HEADER_BYTES: u32 = 25;
/// A request that fits a packet lease, margins of its packets counted generously.
const PACKET_REQUEST_BYTES: u32 = PACKET_SLOT - 3 * 1024;

/// Our files on their way to the server: each piece is read where the packets that carry its WRITE
/// will be.
#[derive(Debug, Default)]
pub struct Sending {
    reads: Slab<Reading>,
    /// Bytes planned for all of them.
    bytes: u32,
    credit: CreditWait,
}

#[derive(Debug)]
struct Reading {
    of: usize,
    at: u64,
    plan: Plan,
    header: u32,
    tries: u8,
}

/// What is to be sent: a WRITE whose data is in its place.
#[derive(Debug)]
pub struct Ready {
    pub of: usize,
    pub len: u32,
    pub at: u64,
    plan: Plan,
    header: u32,
    lease: Lease,
}

impl Ready {
    /// Writes the header in front of the data and sends it.
    pub fn send(mut self, id: u32, handle: &[u8], there: u64, io: &mut Io<'_>) {
        let header = WriteHeader { id, handle, offset: there, len: self.len, trailing: 0 };
        let first = self.plan.spans(0).front().copied().unwrap_or_default();
        let space = first.of_mut(io.bytes(&mut self.lease)).unwrap_or_default();
        let mut out = Writer::new(space);
        // It was made sure of that the first packet takes it.
        let _ = header.write(&mut out);
        io.send(self.plan, self.header + self.len, self.lease);
    }

    pub fn drop_into(self, io: &mut Io<'_>) {
        io.drop_plan(self.plan, self.lease);
    }
}

impl Sending {
    pub const fn planned(&self) -> u32 {
        self.bytes
    }

    /// Reads the next piece of what is to be sent. False when credit, a lease, the socket or work is
    /// lacking.
    pub fn start(&mut self, write_max: u32, moves: &mut Moves, io: &mut Io<'_>) -> bool {
        let waits = moves.all.iter().any(|(_, one)| one.way == Way::Put && !one.ranges.is_spent());
        if !waits || self.reads.len() >= SFTP_READS_MAX {
            return false;
        }
        let unsent = io.backlog().saturating_add(self.bytes);
        if !io.may_send() || unsent >= io.unsent_max() {
            return false;
        }
        let Some((of, at, len)) = moves.take(Way::Put, write_max) else { return false };
        let Some(one) = moves.all.get_mut(of) else { return false };
        let header = HEADER_BYTES + (one.handle.len() as u32).min(SFTP_HANDLE_BYTES_MAX);
        let want = header + len;
        let planned = self.plan(header, want, io);
        let Some((plan, lease)) = planned else {
            one.ranges.give_back(at, len);
            return false;
        };
        let part = plan.total() - header;
        if part < len {
            one.ranges.give_back(at + u64::from(part), len - part);
        }
        one.requests += 1;
        self.bytes += plan.total();
        let (fd, place) = (one.fd, one.stretch.here.saturating_add(at));
        let spans = plan.spans(header);
        let key = self.reads.insert(Reading { of, at, plan, header, tries: 0 });
        io.submit(READ_TAGS + key as u16, Op::ReadAt { fd, at: place, lease, spans });
        true
    }

    fn plan(&mut self, header: u32, want: u32, io: &mut Io<'_>) -> Option<(Plan, Lease)> {
        if !self.credit.is_over(want, header + 1, io) || io.packet_max() < header {
            return None;
        }
        let class = if want <= PACKET_REQUEST_BYTES { Class::Packet } else { Class::Bulk };
        let planned = io.plan(None, want, class).or_else(|| io.plan(None, want, Class::Packet));
        let (plan, lease) = planned?;
        if plan.total() <= header {
            io.drop_plan(plan, lease);
            return None;
        }
        Some((plan, lease))
    }

    /// A ReadAt has completed: what is to be sent of it.
    pub fn completed(
        &mut self,
        key: usize,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        (moves, io): (&mut Moves, &mut Io<'_>),
    ) -> Option<Ready> {
        let Op::ReadAt { fd, at: place, lease, spans } = op else { return None };
        let Some(reading) = self.reads.get_mut(key) else {
            io.give_back(lease);
            return None;
        };
        let errno = result.err().map(|errno| Errno::from_raw(errno.0));
        if !gone && errno.is_some_and(|e| is_transient(e, true)) && reading.tries < RETRIES_MAX {
            reading.tries += 1;
            io.submit(READ_TAGS + key as u16, Op::ReadAt { fd, at: place, lease, spans });
            return None;
        }
        let Reading { of, at, plan, header, .. } = self.reads.remove(key);
        self.bytes = self.bytes.saturating_sub(plan.total());
        let wanted = plan.total() - header;
        let got = result.unwrap_or(0).min(wanted);
        let Some(one) = moves.all.get_mut(of) else {
            io.drop_plan(plan, lease);
            return None;
        };
        one.requests -= 1;
        match errno {
            Some(errno) => one.fail_here(errno),
            None if got == 0 => one.end_at(at),
            // Fewer come at the end of the file, or before a place that cannot be read: the next read
            // tells which.
            None => one.ranges.give_back(at + u64::from(got), wanted - got),
        }
        if got == 0 || gone || one.failed.is_some() {
            io.drop_plan(plan, lease);
            return None;
        }
        Some(Ready { of, len: got, at, plan, header, lease })
    }

    /// Something of this move is being read.
    pub fn reads_of(&self, of: usize) -> bool {
        self.reads.iter().any(|(_, reading)| reading.of == of)
    }

    /// The channel is gone.
    pub fn cancel(&self, io: &mut Io<'_>) {
        for (key, _) in &self.reads {
            io.cancel(READ_TAGS + key as u16);
        }
    }
}
