use nix::errno::Errno;
use slab::Slab;

use super::handles::OpenFile;
use super::replies::Replies;
use super::status::Failure;
use super::{RETRIES_MAX, is_transient};
use crate::connection::Plan;
use crate::limits::{PACKET_SLOT, SFTP_DATA_BYTES_MAX, SFTP_READS_MAX};
use crate::reactor::{self, Class, Op};
use crate::services::credit::CreditWait;
use crate::services::{Io, Luggage, Unpacking};
use crate::wire::Malformed;
use crate::wire::sftp::{DATA_HEADER_BYTES, Reply, StatusCode, data_header};

/// A reply that fits a packet lease, margins of its packets counted generously.
const PACKET_REPLY_BYTES: u32 = PACKET_SLOT - 3 * 1024;

/// READs under way: each has credit, and a lease into which the file is read where the packets
/// that carry it will be.
#[derive(Debug, Default)]
pub struct Reads {
    running: Slab<Reading>,
    /// Bytes planned for all of them.
    bytes: u32,
    credit: CreditWait,
}

#[derive(Debug)]
struct Reading {
    id: u32,
    plan: Plan,
    file: OpenFile,
    tries: u8,
}

/// What became of the start of a READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    Yes,
    /// Credit, a lease or the socket is lacking: try again later.
    NotYet,
}

impl Reads {
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// For another process: nothing is under way.
    pub fn pack(&self, out: &mut Luggage) {
        out.uint32(self.credit.most());
    }

    /// What [`Reads::pack`] packed.
    pub fn unpack(from: &mut Unpacking<'_>) -> Result<Reads, Malformed> {
        Ok(Reads { credit: CreditWait::having_seen(from.uint32()?), ..Reads::default() })
    }

    pub fn start(
        &mut self,
        id: u32,
        file: OpenFile,
        (offset, len): (u64, u32),
        replies: &mut Replies,
        io: &mut Io<'_>,
    ) -> Started {
        // As lseek refuses it.
        let Ok(at) = i64::try_from(offset) else {
            replies.status(id, StatusCode::BadMessage);
            return Started::Yes;
        };
        let room = u32::try_from(i64::MAX - at).unwrap_or(u32::MAX);
        if len == 0 {
            replies.put(id, Reply::Data(&[]));
            return Started::Yes;
        }
        let len = len.min(SFTP_DATA_BYTES_MAX).min(room).max(1);
        let want = len + DATA_HEADER_BYTES;
        if self.running.len() >= SFTP_READS_MAX || !self.has_room_for(want, io) {
            return Started::NotYet;
        }
        let whole = if want <= PACKET_REPLY_BYTES { Class::Packet } else { Class::Bulk };
        // With no large lease free, a small one now: the client asks for the rest.
        let planned = io.plan(None, want, whole).or_else(|| io.plan(None, want, Class::Packet));
        let Some((plan, lease)) = planned else { return Started::NotYet };
        if plan.total() <= DATA_HEADER_BYTES {
            io.drop_plan(plan, lease);
            return Started::NotYet;
        }
        self.bytes += plan.total();
        let spans = plan.spans(DATA_HEADER_BYTES);
        let key = self.running.insert(Reading { id, plan, file, tries: 0 });
        io.submit(
            super::READ_TAGS + key as u16,
            Op::ReadAt { fd: file.fd, at: offset, lease, spans },
        );
        Started::Yes
    }

    /// A ReadAt has completed. Its data leaves, or its request is answered otherwise.
    pub fn completed(
        &mut self,
        key: usize,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        (replies, io): (&mut Replies, &mut Io<'_>),
    ) {
        let Op::ReadAt { fd, at, mut lease, spans } = op else { return };
        let Some(reading) = self.running.get_mut(key) else {
            io.give_back(lease);
            return;
        };
        let errno = result.err().map(|errno| Errno::from_raw(errno.0));
        if !gone
            && errno.is_some_and(|errno| is_transient(errno, reading.file.regular))
            && reading.tries < RETRIES_MAX
        {
            reading.tries += 1;
            io.submit(super::READ_TAGS + key as u16, Op::ReadAt { fd, at, lease, spans });
            return;
        }
        let Reading { id, plan, .. } = self.running.remove(key);
        self.bytes = self.bytes.saturating_sub(plan.total());
        match result {
            Ok(got) if got > 0 && !gone => {
                let got = got.min(plan.total().saturating_sub(DATA_HEADER_BYTES));
                let first = plan.spans(0).front().copied().unwrap_or_default();
                let to = first.of_mut(io.bytes(&mut lease)).unwrap_or(&mut []);
                if let Some(to) = to.first_chunk_mut() {
                    *to = data_header(id, got);
                }
                io.send(plan, DATA_HEADER_BYTES + got, lease);
                return;
            }
            Ok(_) => replies.status(id, StatusCode::Eof),
            Err(_) => replies.status(id, Failure::from(errno.unwrap_or(Errno::EIO))),
        }
        io.drop_plan(plan, lease);
    }

    /// Asks for everything under way to end early.
    pub fn cancel(&self, io: &mut Io<'_>) {
        for (key, _) in &self.running {
            io.cancel(super::READ_TAGS + key as u16);
        }
    }

    fn has_room_for(&mut self, want: u32, io: &mut Io<'_>) -> bool {
        let unsent = io.backlog().saturating_add(self.bytes);
        io.may_send()
            && unsent < io.unsent_max()
            && self.credit.is_over(want, DATA_HEADER_BYTES + 1, io)
    }
}
