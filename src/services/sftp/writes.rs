use std::collections::VecDeque;

use nix::errno::Errno;
use slab::Slab;

use super::handles::{HandleName, Handles, OpenFile};
use super::input::Input;
use super::replies::Replies;
use super::status::Failure;
use super::{RETRIES_MAX, is_transient};
use crate::base::Instant;
use crate::limits::{SERVICE_PAUSE, SFTP_WRITE_OPS_MAX};
use crate::reactor::{self, Chunk, Gather, Op};
use crate::services::{Io, Luggage, Unpacking};
use crate::wire::Malformed;
use crate::wire::sftp::StatusCode;

/// WRITEs under way. Data goes to the file from the buffers it was received in: up to a gather's
/// worth at once, several at once as long as they do not touch the same bytes of the same file.
#[derive(Debug, Default)]
pub struct Writes {
    requests: Slab<Writing>,
    /// The requests as they came. They are answered in this order, for some clients (paramiko) drop an
    /// answer that overtakes another.
    order: VecDeque<usize>,
    ops: Slab<WriteOp>,
    /// The request whose data is coming in.
    body: Option<Body>,
    patience: Patience,
}

/// How long a gather waits for more data of its request: fewer operations write it then. No lease
/// is kept waiting for a slow peer, nor when others need it.
#[derive(Debug, Default)]
pub(in crate::services) struct Patience {
    /// When the pause ends that has been asked for.
    until: Option<Instant>,
}

impl Patience {
    /// The gather may wait: an `on_ready` comes when it may not any more.
    pub(in crate::services) fn lasts(&mut self, io: &mut Io<'_>) -> bool {
        let until = *self.until.get_or_insert_with(|| {
            io.pause();
            io.now().after(SERVICE_PAUSE)
        });
        let over = until <= io.now();
        if over {
            self.until = None;
        }
        !over && !io.is_scarce()
    }
}

#[derive(Debug)]
struct Writing {
    id: u32,
    file: Option<OpenFile>,
    /// All its data has been taken in.
    complete: bool,
    ops: u16,
    failed: Option<Failure>,
    /// The client left in the middle; nobody waits for a reply.
    silent: bool,
}

#[derive(Clone, Copy, Debug)]
struct WriteOp {
    request: usize,
    file: OpenFile,
    at: u64,
    len: u32,
    tries: u8,
}

#[derive(Debug)]
struct Body {
    request: usize,
    remaining: u32,
    /// Where the gather goes.
    offset: u64,
    gather: Gather,
    gathered: u32,
}

/// How far the data of a WRITE got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it; the next request can be read.
    All,
    /// More has to come first.
    Hungry,
    /// An operation has to complete first.
    Blocked,
}

impl WriteOp {
    /// The draft (§4.1): requests that overlap are not reordered. An appending write touches
    /// whatever is the end of the file by then, so it overlaps everything.
    fn overlaps(&self, file: &OpenFile, at: u64, len: u32) -> bool {
        let anywhere = self.file.append || file.append;
        let apart = at >= self.at.saturating_add(self.len.into())
            || self.at >= at.saturating_add(len.into());
        self.file.file == file.file && (anywhere || !apart)
    }
}

impl Writes {
    /// No request is unanswered.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// So many wait for an answer that no more may begin.
    pub fn is_full(&self) -> bool {
        self.requests.len() >= SFTP_WRITE_OPS_MAX
    }

    /// A WRITE begins; its `len` bytes of data come next. `file` is `None` when its handle names no
    /// open file; `refused`: it is answered so, and writes nothing.
    pub fn begin(
        &mut self,
        id: u32,
        (file, refused): (Option<OpenFile>, Option<Failure>),
        offset: u64,
        len: u32,
    ) {
        let failed = match file {
            _ if refused.is_some() => refused,
            None => Some(StatusCode::Failure.into()),
            Some(file) if !file.append && i64::try_from(offset).is_err() => {
                Some(StatusCode::BadMessage.into())
            }
            // What write(2) answers; no operation is made for nothing.
            Some(file) if len == 0 && !file.writable => Some(Errno::EBADF.into()),
            Some(_) => None,
        };
        // The kernel ignores it for an appending descriptor, but -1 has a meaning of its own.
        let offset = if file.is_some_and(|file| file.append) { 0 } else { offset };
        let writing = Writing { id, file, complete: false, ops: 0, failed, silent: false };
        let request = self.requests.insert(writing);
        self.order.push_back(request);
        self.body =
            Some(Body { request, remaining: len, offset, gather: Gather::new(), gathered: 0 });
    }

    /// Takes data of the current WRITE out of `input`.
    pub fn take(&mut self, input: &mut Input, replies: &mut Replies, io: &mut Io<'_>) -> Taken {
        loop {
            let failed = self.drop_if_failed(input, io);
            let Some(body) = &mut self.body else { return Taken::All };
            if failed {
                body.remaining -= input.skip(body.remaining, io);
                if body.remaining > 0 {
                    return Taken::Hungry;
                }
            }
            if body.gather.is_full() || (body.remaining == 0 && !body.gather.is_empty()) {
                if !self.submit(io) {
                    return Taken::Blocked;
                }
                continue;
            }
            if body.remaining == 0 {
                let request = body.request;
                self.body = None;
                if let Some(writing) = self.requests.get_mut(request) {
                    writing.complete = true;
                }
                self.settle(replies);
                return Taken::All;
            }
            match input.piece(body.remaining, io) {
                Some(piece) => body.push(piece, input, io),
                None => {
                    if !body.gather.is_empty() && !self.patience.lasts(io) {
                        self.submit(io);
                    }
                    return Taken::Hungry;
                }
            }
        }
    }

    /// Nothing more of a request that has failed is written. Whether the current one has.
    fn drop_if_failed(&mut self, input: &mut Input, io: &mut Io<'_>) -> bool {
        let Some(body) = &mut self.body else { return false };
        let failed = self.requests.get(body.request).is_none_or(|w| w.failed.is_some());
        if failed {
            discard(&mut body.gather, input, io);
            body.gathered = 0;
        }
        failed
    }

    /// Starts writing what is here of the current WRITE, as far as operations before it allow: no more of it
    /// comes for now.
    pub fn hurry(&mut self, input: &mut Input, io: &mut Io<'_>) {
        let gathers = self.body.as_ref().is_some_and(|body| !body.gather.is_empty());
        if gathers && !self.drop_if_failed(input, io) {
            self.submit(io);
        }
    }

    /// Nothing is under way, nor gathered to be.
    pub fn stand_still(&self) -> bool {
        self.ops.is_empty() && self.body.as_ref().is_none_or(|body| body.gather.is_empty())
    }

    /// The current WRITE, for another process: nothing is under way, and so every other is answered.
    /// Nothing is left here.
    pub fn pack(&mut self, handles: &Handles, out: &mut Luggage) {
        let Writes { mut requests, body, .. } = std::mem::take(self);
        let body = body.and_then(|body| Some((requests.try_remove(body.request)?, body)));
        out.boolean(body.is_some());
        let Some((Writing { id, file, failed, .. }, body)) = body else { return };
        out.uint32(id);
        let name = file.map_or(HandleName::NOBODY, |file| handles.name_of(file.fd));
        out.bytes.extend(name.to_bytes());
        out.boolean(failed.is_some());
        if let Some(Failure { code, text }) = failed {
            out.uint32(code.number());
            out.string(text.as_bytes());
        }
        out.uint64(body.offset);
        out.uint32(body.remaining);
    }

    /// What [`Writes::pack`] packed.
    pub fn unpack(handles: &mut Handles, from: &mut Unpacking<'_>) -> Result<Writes, Malformed> {
        let mut writes = Writes::default();
        if !from.boolean()? {
            return Ok(writes);
        }
        let id = from.uint32()?;
        let file = handles.file(HandleName::parse(&from.uint64()?.to_be_bytes()));
        let failed = match from.boolean()? {
            true => {
                let code = StatusCode::from_number(from.uint32()?);
                Some(Failure::told_as(code, from.string()?))
            }
            false => None,
        };
        let (offset, len) = (from.uint64()?, from.uint32()?);
        if file.is_none() && failed.is_none() {
            return Err(Malformed::Range);
        }
        writes.begin(id, (file, failed), offset, len);
        Ok(writes)
    }

    /// Bytes of the current WRITE that have yet to come.
    pub fn awaited(&self) -> u32 {
        self.body.as_ref().map_or(0, |body| body.remaining)
    }

    /// The peer will send no more: the rest of the current WRITE will not come.
    pub fn abandon_body(&mut self, input: &mut Input, replies: &mut Replies, io: &mut Io<'_>) {
        let Some(mut body) = self.body.take_if(|body| body.remaining > 0) else { return };
        discard(&mut body.gather, input, io);
        if let Some(writing) = self.requests.get_mut(body.request) {
            writing.complete = true;
            writing.silent = true;
        }
        self.settle(replies);
    }

    /// A WriteAt has completed. What it did not write is written next, or its request fails.
    pub fn completed(
        &mut self,
        key: usize,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        (input, replies, io): (&mut Input, &mut Replies, &mut Io<'_>),
    ) {
        let Op::WriteAt { fd, mut from, .. } = op else { return };
        let Some(write) = self.ops.get_mut(key) else { return discard(&mut from, input, io) };
        let failed = match result {
            Ok(written) => {
                let written = written.min(write.len);
                drop_front(&mut from, written, input, io);
                write.at = write.at.saturating_add(written.into());
                write.len -= written;
                write.tries = 0;
                // OpenSSH's "nothing at all written".
                (written == 0).then_some(StatusCode::Failure.into())
            }
            Err(errno) => {
                let errno = Errno::from_raw(errno.0);
                let again = is_transient(errno, write.file.regular) && write.tries < RETRIES_MAX;
                write.tries = write.tries.saturating_add(1);
                (!again).then(|| errno.into())
            }
        };
        if failed.is_none() && write.len > 0 && !gone {
            let at = write.at;
            io.submit(super::WRITE_TAGS + key as u16, Op::WriteAt { fd, at, from });
            return;
        }
        discard(&mut from, input, io);
        let request = self.ops.remove(key).request;
        if let Some(writing) = self.requests.get_mut(request) {
            writing.ops -= 1;
            writing.failed = writing.failed.or(failed);
        }
        self.settle(replies);
    }

    /// Gives back what has not been handed to an operation, and asks operations to end early.
    pub fn cancel(&mut self, input: &mut Input, io: &mut Io<'_>) {
        if let Some(body) = &mut self.body {
            discard(&mut body.gather, input, io);
        }
        self.body = None;
        for (key, _) in &self.ops {
            io.cancel(super::WRITE_TAGS + key as u16);
        }
    }

    /// Starts writing the gather. False when it has to wait for operations before it.
    fn submit(&mut self, io: &mut Io<'_>) -> bool {
        let Some(body) = &mut self.body else { return true };
        let Some(writing) = self.requests.get_mut(body.request) else { return true };
        let Some(file) = writing.file else { return true };
        let (at, len) = (body.offset, body.gathered);
        let busy = self.ops.len() >= SFTP_WRITE_OPS_MAX;
        if busy || self.ops.iter().any(|(_, op)| op.overlaps(&file, at, len)) {
            return false;
        }
        let op = WriteOp { request: body.request, file, at, len, tries: 0 };
        let key = self.ops.insert(op);
        writing.ops += 1;
        body.offset = body.offset.saturating_add(len.into());
        body.gathered = 0;
        let from = std::mem::take(&mut body.gather);
        io.submit(super::WRITE_TAGS + key as u16, Op::WriteAt { fd: file.fd, at, from });
        true
    }

    /// Answers requests all of whose data has been written, or has failed to be.
    fn settle(&mut self, replies: &mut Replies) {
        let is_done = |writing: &Writing| writing.complete && writing.ops == 0;
        while let Some(request) = self.order.front().copied()
            && self.requests.get(request).is_some_and(is_done)
        {
            self.order.pop_front();
            let Writing { id, failed, silent, .. } = self.requests.remove(request);
            if !silent {
                replies.status(id, failed.unwrap_or(StatusCode::Ok.into()));
            }
        }
    }
}

impl Body {
    /// Called only while the gather has room.
    fn push(&mut self, piece: Chunk, input: &mut Input, io: &mut Io<'_>) {
        let len = piece.span.len;
        self.remaining -= len;
        match self.gather.push(piece) {
            Ok(()) => self.gathered += len,
            Err(piece) => {
                input.used(len);
                io.give_back(piece.lease);
            }
        }
    }
}

/// Gives everything back and counts it as used.
pub(in crate::services) fn discard(gather: &mut Gather, input: &mut Input, io: &mut Io<'_>) {
    while let Some(chunk) = gather.pop() {
        input.used(chunk.span.len);
        io.give_back(chunk.lease);
    }
}

/// Gives back what has been written.
pub(in crate::services) fn drop_front(
    gather: &mut Gather,
    mut written: u32,
    input: &mut Input,
    io: &mut Io<'_>,
) {
    input.used(written);
    while let Some(front) = gather.front_mut() {
        let step = written.min(front.span.len);
        front.span = front.span.skip(step);
        written -= step;
        if !front.span.is_empty() {
            return;
        }
        if let Some(chunk) = gather.pop() {
            io.give_back(chunk.lease);
        }
    }
}
