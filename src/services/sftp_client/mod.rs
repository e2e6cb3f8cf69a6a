//! The client's end of SFTP on a channel: it carries the requests of whoever turns the shard, and
//! moves stretches of files by itself.
//!
//! What is read of our files goes into the places of the packets that carry it (`sending`), what
//! comes is written out of the buffers it was received in (`landing`); how much is under way follows
//! rate x delay (`window`). Everything else is a request with a ticket ([`SftpClient::ask`]), whose
//! answer is a note ([`SftpNote`]). A server that does not keep to the protocol is heard no more.

mod answer;
mod landing;
mod moves;
mod sending;
mod window;

pub use answer::{Answer, Behind, Last, Moved, Offers, SftpNote, Stretch, Way};

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use slab::Slab;

use self::landing::{Landing, Taken};
use self::moves::{Move, Moves};
use self::sending::{Ready, Sending};
use self::window::{Ranges, Window};
use super::forward::Note;
use super::sftp::Input;
use super::{Io, Service};
use crate::base::{Instant, tally};
use crate::limits::{
    COPY_DATA_BYTES_PLAIN, COPY_GRANT_BYTES, COPY_REQUESTS_MAX, COPY_STEP_BYTES,
    SFTP_DATA_BYTES_MAX, SFTP_HANDLE_BYTES_MAX, SFTP_PACKET_BYTES_MAX, SFTP_READS_MAX,
    SFTP_REQUEST_BYTES_MAX, SFTP_WRITE_OPS_MAX, SMALL_BYTES,
};
use crate::reactor::{Chunk, Errno, Fd, Op};
use crate::wire::sftp::{
    DATA_HEADER_BYTES, Extensions, Limits, Operation, Reply, Request, Response, StatusCode,
    VERSION, kind,
};
use crate::wire::{Reader, Writer};

const READ_TAGS: u16 = 0;
const WRITE_TAGS: u16 = 0x100;
/// The longest READ: length, kind, id, handle, offset and length.
const READ_BYTES_MAX: usize = 4 + 1 + 4 + 4 + SFTP_HANDLE_BYTES_MAX as usize + 8 + 4;
/// Length, kind and id.
const FRONT_BYTES: usize = 9;

/// One SFTP session of ours.
#[derive(Debug)]
pub struct SftpClient {
    state: State,
    input: Input,
    /// Encoded, and not sent: each leaves whole.
    outgoing: VecDeque<Box<[u8]>>,
    /// The same of READs, which are many and short.
    reads: Vec<u8>,
    /// A reply that is being acted upon.
    reply: Vec<u8>,
    pending: Slab<Pending>,
    moves: Moves,
    landing: Landing,
    sending: Sending,
    window: Window,
    read_max: u32,
    write_max: u32,
    pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The server has not told its version.
    Greeting,
    Running,
    Broken,
    Gone,
}

/// What an answer is waited for.
#[derive(Debug)]
enum Pending {
    Asked { ticket: u32 },
    Last { of: usize, ticket: u32 },
    Read { of: usize, at: u64, len: u32, since: Instant },
    Write { of: usize, len: u32 },
}

/// A bound on the bytes of files that are begun in a second.
#[derive(Debug, Default)]
struct Pace {
    /// `None`: there is none.
    bytes_a_second: Option<u64>,
    next: Option<Instant>,
}

impl Pace {
    /// Whether the next piece may begin; asks to be called when it may.
    fn permits(&self, io: &mut Io<'_>) -> bool {
        match self.next {
            Some(at) if self.bytes_a_second.is_some() && io.now() < at => {
                io.wake_at(at);
                false
            }
            _ => true,
        }
    }

    fn begun(&mut self, bytes: u32, now: Instant) {
        let Some(rate) = self.bytes_a_second else { return };
        let nanos = u64::from(bytes).saturating_mul(1_000_000_000) / rate.max(1);
        let from = self.next.unwrap_or(now).max(now);
        self.next = Some(from.after(std::time::Duration::from_nanos(nanos)));
    }
}

impl SftpClient {
    /// For a channel on which the server is asked for its sftp subsystem. `bytes_a_second` bounds
    /// what is moved.
    pub fn new(bytes_a_second: Option<u64>) -> SftpClient {
        SftpClient {
            state: State::Greeting,
            input: Input::default(),
            outgoing: VecDeque::new(),
            reads: Vec::new(),
            reply: Vec::new(),
            pending: Slab::new(),
            moves: Moves::default(),
            landing: Landing::default(),
            sending: Sending::default(),
            window: Window::default(),
            read_max: COPY_DATA_BYTES_PLAIN,
            write_max: COPY_DATA_BYTES_PLAIN,
            pace: Pace { bytes_a_second, next: None },
        }
    }

    /// The subsystem runs: [`SftpNote::Ready`] follows.
    pub fn greet(&mut self, io: &mut Io<'_>) {
        let operation = Operation::Init { version: VERSION, extensions: Extensions::NONE };
        self.enqueue(0, &operation);
        self.advance(io);
    }

    /// Asks for something; [`SftpNote::Answered`] follows. False: it does not fit a request.
    pub fn ask(&mut self, ticket: u32, operation: &Operation<'_>, io: &mut Io<'_>) -> bool {
        let id = self.pending.insert(Pending::Asked { ticket }) as u32;
        let fits = self.enqueue(id, operation);
        if !fits {
            self.pending.remove(id as usize);
        }
        self.advance(io);
        fits
    }

    /// Moves a stretch between the server's file behind `handle` and ours behind `fd`, which becomes
    /// the session's; [`SftpNote::Moved`] follows. What is moved for good is counted in `moved`.
    /// `behind` is asked behind the last WRITE, and answered by its own tickets before the move is over; of a
    /// move that fails all of it or nothing is asked.
    pub fn start_move(
        &mut self,
        (ticket, behind): (u32, Behind),
        way: Way,
        (handle, fd): (&[u8], Fd),
        (stretch, moved): (Stretch, Rc<Cell<u64>>),
        io: &mut Io<'_>,
    ) {
        let one = Move {
            ticket,
            way,
            handle: handle.into(),
            fd,
            stretch,
            ranges: Ranges::new(stretch.len),
            requests: 0,
            writes: 0,
            ended_at: None,
            moved,
            failed: None,
            behind,
        };
        self.moves.all.insert(one);
        self.advance(io);
    }

    /// One session carries as much as is under way at any delay, and an interrupted copy is gone on with by hashes.
    pub const fn go_deep(&mut self) {
        self.window.deepen();
    }

    /// What the server takes and gives at once: its answer to `limits@openssh.com`.
    pub fn know_limits(&mut self, limits: Limits) {
        let bounded = |bytes: u64| match u32::try_from(bytes).unwrap_or(u32::MAX) {
            0 => COPY_DATA_BYTES_PLAIN,
            bytes => bytes.min(SFTP_DATA_BYTES_MAX),
        };
        self.read_max = bounded(limits.read_bytes);
        self.write_max = bounded(limits.write_bytes);
    }

    fn enqueue(&mut self, id: u32, operation: &Operation<'_>) -> bool {
        let mut space = vec![0; SFTP_REQUEST_BYTES_MAX as usize];
        let mut out = Writer::new(&mut space);
        let written = Request { id, operation: *operation }.write(&mut out);
        let len = out.len();
        space.truncate(len);
        self.outgoing.push_back(space.into());
        written.is_ok() || self.outgoing.pop_back().is_none()
    }

    // ---- Progress --------------------------------------------------------------------------------

    fn advance(&mut self, io: &mut Io<'_>) {
        if matches!(self.state, State::Broken | State::Gone) {
            self.input.discard(io);
            self.input.report(io);
            return;
        }
        if let Err(why) = self.read(io) {
            return self.break_off(why, io);
        }
        if self.state == State::Running {
            self.begin(io);
        }
        self.ask_last();
        let asks = !self.reads.is_empty();
        self.flush(io);
        self.landing.settle(&mut self.moves, io);
        self.grant(asks && self.reads.is_empty(), io);
        self.finish_moves(io);
        let awaited = self.awaited();
        if awaited > 0 {
            io.awaits(awaited);
        }
    }

    /// Many bytes of files are on their way to us.
    const fn flows(&self) -> bool {
        self.window.owed() >= COPY_STEP_BYTES
    }

    /// Grants the window of what was used: in a flow beside READs (`asks`), or when it is much.
    fn grant(&mut self, asks: bool, io: &mut Io<'_>) {
        let least = COPY_GRANT_BYTES.min(io.receive_window() / 4);
        if asks || !self.flows() || self.input.unreported() >= least {
            self.input.report(io);
        }
    }

    /// Bytes that are to come before anything has to be done: in a flow further replies too, but for the last of
    /// those that were asked for.
    fn awaited(&self) -> u32 {
        let more = if self.flows() { self.window.owed() / 2 } else { 0 };
        self.landing.awaited().saturating_add(more)
    }

    /// Asks for what may be asked for, and reads what may be sent.
    fn begin(&mut self, io: &mut Io<'_>) {
        while self.pending.len() < COPY_REQUESTS_MAX
            && self.reads.len() + READ_BYTES_MAX <= SMALL_BYTES as usize
            && self.window.may_ask()
            && self.pace.permits(io)
        {
            let Some((of, at, len)) = self.moves.take(Way::Get, self.read_max) else { break };
            let now = io.now();
            let id = self.pending.insert(Pending::Read { of, at, len, since: now }) as u32;
            let Some(one) = self.moves.all.get_mut(of) else { break };
            one.requests += 1;
            let offset = one.stretch.there.saturating_add(at);
            let mut space = [0; READ_BYTES_MAX];
            let mut out = Writer::new(&mut space);
            let operation = Operation::Read { handle: &one.handle, offset, len };
            // Handles are bounded where they are read.
            let _ = Request { id, operation }.write(&mut out);
            tally::append(&mut self.reads, out.written());
            self.window.ask(len);
            self.pace.begun(len, now);
        }
        while self.pending.len() < COPY_REQUESTS_MAX
            && self.window.may_send(self.sending.planned())
            && self.pace.permits(io)
        {
            let before = self.sending.planned();
            if !self.sending.start(self.write_max, &mut self.moves, io) {
                break;
            }
            self.pace.begun(self.sending.planned() - before, io.now());
        }
    }

    /// Asks what is to be asked behind the last WRITE of a move that has left.
    fn ask_last(&mut self) {
        let waits = |one: &Move| !one.behind.asks.is_empty() && one.ranges.is_spent();
        while let Some((key, one)) =
            self.moves.all.iter_mut().find(|(key, one)| waits(one) && !self.sending.reads_of(*key))
        {
            let (asks, handle) = (std::mem::take(&mut one.behind.asks), one.handle.clone());
            if one.failed.is_some() {
                continue;
            }
            one.requests += asks.len() as u32;
            let closed = asks.iter().any(|(_, what)| *what == Last::Close);
            one.behind.closed.set(closed);
            for (ticket, what) in asks {
                let id = self.pending.insert(Pending::Last { of: key, ticket }) as u32;
                // Handles are bounded where they are read.
                self.enqueue(id, &what.of(&handle));
            }
        }
    }

    /// Sends requests, several in a packet.
    fn flush(&mut self, io: &mut Io<'_>) {
        if !self.reads.is_empty() && io.reply(&self.reads) {
            self.reads.clear();
        }
        while let Some(first) = self.outgoing.front() {
            let room = io.credit().min(SMALL_BYTES) as usize;
            let mut len = first.len();
            let mut count = 1;
            for request in self.outgoing.iter().skip(1) {
                if len + request.len() > room {
                    break;
                }
                len += request.len();
                count += 1;
            }
            let sent = match count {
                1 => io.reply(first),
                _ => {
                    let parts: Vec<&[u8]> =
                        self.outgoing.iter().take(count).map(|request| &request[..]).collect();
                    io.reply(&parts.concat())
                }
            };
            if !sent {
                return;
            }
            self.outgoing.drain(..count);
        }
    }

    /// Reads replies out of what has come.
    fn read(&mut self, io: &mut Io<'_>) -> Result<(), &'static str> {
        loop {
            match self.landing.take(&mut self.input, &mut self.moves, io) {
                Taken::All => {}
                Taken::Hungry | Taken::Blocked => return Ok(()),
            }
            if !self.input.fill(FRONT_BYTES, io) {
                return Ok(());
            }
            let mut front = Reader::new(self.input.partial());
            let bad = |_| "a reply without a beginning";
            let len = front.uint32().map_err(bad)?;
            let kind = front.byte().map_err(bad)?;
            let id = front.uint32().map_err(bad)? as usize;
            if !(5..=SFTP_PACKET_BYTES_MAX).contains(&len) {
                return Err("a reply that is longer than any may be, or is none");
            }
            if let (kind::DATA, Some(Pending::Read { .. })) = (kind, self.pending.get(id)) {
                if !self.input.fill(DATA_HEADER_BYTES as usize, io) {
                    return Ok(());
                }
                self.data(id, len, io.now())?;
                self.input.clear_partial();
                continue;
            }
            if !self.input.fill(4 + len as usize, io) {
                return Ok(());
            }
            let mut packet = std::mem::take(&mut self.reply);
            packet.clear();
            tally::append(&mut packet, self.input.partial().get(4..).unwrap_or_default());
            self.input.clear_partial();
            let response = Response::parse(&packet).map_err(|_| "a reply that cannot be read")?;
            self.answered(&response, io)?;
            // Listings are long and rare.
            if packet.capacity() <= SMALL_BYTES as usize {
                self.reply = packet;
            }
        }
    }

    /// The head of a DATA reply has come.
    fn data(&mut self, id: usize, packet: u32, now: Instant) -> Result<(), &'static str> {
        let mut tail = Reader::new(self.input.partial().get(FRONT_BYTES..).unwrap_or_default());
        let got = tail.uint32().map_err(|_| "data without a length")?;
        let Some(Pending::Read { of, at, len, since }) = self.pending.try_remove(id) else {
            return Err("an answer to what was not asked");
        };
        if got == 0 || got > len || packet != got + DATA_HEADER_BYTES - 4 {
            return Err("another amount of data than was asked for");
        }
        self.window.answered(len, now.since(since));
        if let Some(one) = self.moves.all.get_mut(of) {
            one.ranges.give_back(at + u64::from(got), len - got);
        }
        self.landing.begin(of, at, got);
        Ok(())
    }

    fn answered(&mut self, response: &Response<'_>, io: &mut Io<'_>) -> Result<(), &'static str> {
        if let Reply::Version { version, extensions } = &response.reply {
            if self.state != State::Greeting {
                return Err("its version a second time");
            }
            if *version < VERSION {
                return Err("a version of SFTP older than 3");
            }
            self.state = State::Running;
            io.note(Note::Sftp(Box::new(SftpNote::Ready(Offers::read(extensions)))));
            return Ok(());
        }
        let pending = self.pending.try_remove(response.id as usize);
        match (pending, &response.reply) {
            (None, _) => return Err("an answer to what was not asked"),
            (Some(Pending::Asked { ticket }), reply) => {
                let answer = Answer::read(reply).ok_or("an answer that is none")?;
                io.note(Note::Sftp(Box::new(SftpNote::Answered { ticket, answer })));
            }
            (Some(Pending::Last { of, ticket }), reply) => {
                let answer = Answer::read(reply).ok_or("an answer that is none")?;
                io.note(Note::Sftp(Box::new(SftpNote::Answered { ticket, answer })));
                if let Some(one) = self.moves.all.get_mut(of) {
                    one.requests -= 1;
                }
            }
            (Some(Pending::Read { of, at, len, since }), Reply::Status { code, text }) => {
                self.window.answered(len, io.now().since(since));
                let Some(one) = self.moves.all.get_mut(of) else { return Ok(()) };
                one.requests -= 1;
                match code {
                    StatusCode::Eof => one.end_at(at),
                    StatusCode::Ok => return Err("success in place of data"),
                    code => one.refused(*code, text),
                }
            }
            (Some(Pending::Write { of, len }), Reply::Status { code, text }) => {
                self.window.confirmed(len);
                let Some(one) = self.moves.all.get_mut(of) else { return Ok(()) };
                one.requests -= 1;
                match code {
                    StatusCode::Ok => one.count(len),
                    code => one.refused(*code, text),
                }
            }
            (Some(_), _) => return Err("an answer of the wrong kind"),
        }
        Ok(())
    }

    fn finish_moves(&mut self, io: &mut Io<'_>) {
        while let Some(key) = self.over() {
            let one = self.moves.all.remove(key);
            io.close_fd(one.fd);
            let (ticket, moved) = (one.ticket, one.outcome());
            io.note(Note::Sftp(Box::new(SftpNote::Moved { ticket, moved })));
        }
    }

    fn over(&self) -> Option<usize> {
        let over = |(key, one): &(usize, &Move)| {
            one.is_quiet() && one.writes == 0 && !self.landing.holds(*key)
        };
        self.moves.all.iter().find(over).map(|(key, _)| key)
    }

    fn break_off(&mut self, why: &'static str, io: &mut Io<'_>) {
        self.state = State::Broken;
        self.stop(io);
        self.input.report(io);
        io.note(Note::Sftp(Box::new(SftpNote::Broken(why))));
        io.close();
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        self.landing.cancel(&mut self.input, io);
        self.sending.cancel(io);
        self.input.discard(io);
        self.outgoing.clear();
        self.reads.clear();
    }

    fn send(&mut self, ready: Ready, io: &mut Io<'_>) {
        let Some(one) = self.moves.all.get_mut(ready.of) else { return ready.drop_into(io) };
        one.requests += 1;
        let (of, len) = (ready.of, ready.len);
        let id = self.pending.insert(Pending::Write { of, len }) as u32;
        self.window.send(len);
        let there = one.stretch.there.saturating_add(ready.at);
        ready.send(id, &one.handle, there, io);
    }
}

impl Service for SftpClient {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        // What the server's program says on its standard error is not ours to read.
        if extended.is_some() || matches!(self.state, State::Broken | State::Gone) {
            return io.discard(data);
        }
        self.input.hold(data, io);
        self.advance(io);
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        if matches!(self.state, State::Greeting | State::Running) {
            self.stop(io);
            self.state = State::Broken;
            self.input.report(io);
            io.note(Note::Sftp(Box::new(SftpNote::Ended)));
            io.close();
        }
    }

    fn on_completion(&mut self, tag: u16, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        let gone = matches!(self.state, State::Broken | State::Gone);
        if tag >= WRITE_TAGS {
            let key = usize::from(tag - WRITE_TAGS);
            let around = (&mut self.input, &mut self.moves, &mut *io);
            self.landing.completed(key, op, result, gone, around);
        } else {
            let key = usize::from(tag - READ_TAGS);
            let around = (&mut self.moves, &mut *io);
            if let Some(ready) = self.sending.completed(key, op, result, gone, around) {
                self.send(ready, io);
            }
        }
        self.advance(io);
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        self.advance(io);
    }

    fn on_close(&mut self, io: &mut Io<'_>) {
        self.state = State::Gone;
        self.stop(io);
    }

    fn release(&mut self, io: &mut Io<'_>) {
        for one in self.moves.all.drain() {
            io.close_fd(one.fd);
        }
    }
}

const _: () = assert!(SFTP_READS_MAX <= (WRITE_TAGS - READ_TAGS) as usize);
const _: () = assert!(SFTP_WRITE_OPS_MAX <= 0x100);
