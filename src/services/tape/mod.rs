//! Sessions that are recorded: what a connection says on them goes to a recorder first, and to the client
//! once that has taken it. The recorder is behind a socket, in a process that the account has no hold of;
//! it answers each message ([`frame`]).

pub mod frame;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send};

use self::frame::{Answer, Frame};
use super::Command;
use crate::base::{Instant, Span, cut, tally};
use crate::connection::{ChannelId, Conn};
use crate::limits::{
    RECORD_TEXT_BYTES_MAX, RECORDER_ANSWER_BYTES_MAX, RECORDER_TIME_MAX, TAPE_FRAMES_MAX,
    TAPE_HELD_BYTES_MAX, TAPE_MOMENT, TAPE_OUTPUT_BYTES_MAX,
};
use crate::reactor::{Fd, Pool};
use crate::wire::Message;
use crate::wire::request::{ChannelRequest, RequestBody};

/// The size and type of a session's terminal, as far as it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    pub columns: u32,
    pub rows: u32,
    pub terminal: Box<str>,
}

/// The recorded sessions of one connection.
#[derive(Debug)]
pub struct Tape {
    socket: OwnedFd,
    /// Frames that the socket has not taken.
    unsent: VecDeque<Box<[u8]>>,
    /// Frames that were made, and that the recorder has taken.
    made: u64,
    taken: u64,
    /// What is said once the recorder has taken so many frames, in order.
    held: VecDeque<(u64, Command)>,
    /// Bytes of data and of requests among that.
    held_bytes: u32,
    held_requests: u32,
    /// The sessions that are recorded.
    channels: Vec<ChannelId>,
    /// Of frames that are not answered: since when so many of them wait. Those of one moment wait together.
    waiting: VecDeque<(u64, Instant)>,
    /// Nothing more is recorded, and nothing held.
    over: bool,
}

impl Tape {
    pub const fn new(socket: OwnedFd) -> Tape {
        Tape {
            socket,
            unsent: VecDeque::new(),
            made: 0,
            taken: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            held_requests: 0,
            channels: Vec::new(),
            waiting: VecDeque::new(),
            over: false,
        }
    }

    pub fn fd(&self) -> Fd {
        Fd(self.socket.as_raw_fd())
    }

    /// The descriptor, for whoever closes it.
    pub fn into_fd(self) -> Fd {
        Fd(self.socket.into_raw_fd())
    }

    /// The session of this channel is recorded, or was.
    pub fn covers(&self, id: ChannelId) -> bool {
        self.channels.contains(&id)
    }

    /// Records a session from now on. Nothing may run in it before [`Tape::taken`] has come to what
    /// this answers.
    pub fn begin(&mut self, id: ChannelId, screen: &Screen, what: &str) -> u64 {
        let Screen { columns, rows, ref terminal } = *screen;
        self.channels.push(id);
        let (terminal, what) = (shortened(terminal), shortened(what));
        self.put(&Frame::Begin { channel: id.number(), columns, rows, terminal, what });
        self.made
    }

    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// The session's terminal has another size. A flood of these to a recorder that stands still is cut
    /// off.
    pub fn resize(&mut self, id: ChannelId, columns: u32, rows: u32) {
        if self.covers(id) && self.unsent.len() < TAPE_FRAMES_MAX {
            self.put(&Frame::Resize { channel: id.number(), columns, rows });
        }
    }

    /// Takes a command that has to wait for the recorder, and answers any other one back. Data that waits
    /// lies in no lease: its credit stays reserved.
    pub fn take(&mut self, command: Command, conn: &mut Conn, pool: &mut Pool) -> Option<Command> {
        let id = command.channel().filter(|id| !self.over && self.covers(*id));
        let Some(id) = id else { return Some(command) };
        let channel = id.number();
        match command {
            Command::Data { plan, got, lease } => {
                let (extended, mut left) = (plan.extended(), got);
                let mut pieces = Vec::new();
                for span in plan.spans(0).iter() {
                    let span = Span::new(span.at, span.len.min(left));
                    left -= span.len;
                    pieces.push(copied(span, pool.view(&lease)));
                }
                conn.drop_plan(plan);
                pool.give_back(lease);
                for bytes in pieces.into_iter().filter(|bytes| !bytes.is_empty()) {
                    let len = bytes.len() as u32;
                    if conn.reserve(id, len) == len {
                        self.hold_data(id, extended, bytes);
                    }
                }
            }
            Command::Pass { extended, data, .. } => {
                let bytes = copied(data.span, pool.view(&data.lease));
                pool.give_back(data.lease);
                self.hold_data(id, extended, bytes);
            }
            Command::Kept { extended, bytes, .. } => self.hold_data(id, extended, bytes),
            Command::Ask { request, .. } => {
                match ChannelRequest::parse(&request).map(|asked| asked.body) {
                    Ok(RequestBody::ExitStatus { code }) => {
                        self.put(&Frame::Status { channel, code });
                    }
                    Ok(RequestBody::ExitSignal { name, .. }) => {
                        self.put(&Frame::Signal { channel, name: shortened(name) });
                    }
                    _ => {}
                }
                self.held_requests = self.held_requests.saturating_add(request.len() as u32);
                self.hold(Command::Ask { id, request });
            }
            Command::ExitStatus { code, .. } => {
                self.put(&Frame::Status { channel, code });
                self.hold(command);
            }
            Command::ExitSignal { name, .. } => {
                self.put(&Frame::Signal { channel, name });
                self.hold(command);
            }
            Command::Eof(_) => self.hold(command),
            Command::Close(_) => {
                self.end(id);
                self.hold(command);
            }
            other => return Some(other),
        }
        None
    }

    /// What may be said now.
    pub fn release(&mut self) -> Option<Command> {
        let (number, _) = self.held.front()?;
        if *number > self.taken {
            return None;
        }
        let (_, command) = self.held.pop_front()?;
        self.count_out(&command);
        Some(command)
    }

    /// The channel is gone: what was to be said on it has no meaning any more.
    pub fn forget(&mut self, gone: ChannelId) {
        if self.covers(gone) {
            self.end(gone);
        }
        for (number, command) in std::mem::take(&mut self.held) {
            match command.channel() == Some(gone) {
                true => self.count_out(&command),
                false => self.held.push_back((number, command)),
            }
        }
    }

    /// The recorder fails, and its sessions go on: all that was held may be said.
    pub fn give_up(&mut self) {
        (self.over, self.taken) = (true, u64::MAX);
        self.unsent.clear();
        self.waiting.clear();
    }

    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Bytes of data that wait for the recorder.
    pub const fn held_bytes(&self) -> u32 {
        self.held_bytes
    }

    /// The same of requests.
    pub const fn held_requests(&self) -> u32 {
        self.held_requests
    }

    /// So much of this session waits that no more is to be read for it.
    pub fn is_behind(&self, id: ChannelId) -> bool {
        self.held_bytes >= TAPE_HELD_BYTES_MAX && self.covers(id)
    }

    /// An answer is to come.
    pub const fn is_waiting(&self) -> bool {
        self.taken < self.made && !self.over
    }

    /// When the recorder has taken too long, over whatever waits longest. Others that it has written meanwhile
    /// make no difference: whoever looks at the screen waits.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, since)| since.after(RECORDER_TIME_MAX))
    }

    // ---- The recorder ------------------------------------------------------------------------

    /// Sends what the socket takes. Never waits: what it does not take is sent when answers have come.
    ///
    /// # Errors
    /// The recorder is gone.
    pub fn pump(&mut self, now: Instant) -> Result<(), String> {
        while let Some(frame) = self.unsent.pop_front() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), &frame, flags) {
                Ok(_) => {}
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {
                    self.unsent.push_front(frame);
                    break;
                }
                Err(why) => return Err(format!("the recorder is gone: {}", io::Error::from(why))),
            }
        }
        if self.is_waiting() {
            self.mark(now);
        }
        Ok(())
    }

    fn mark(&mut self, now: Instant) {
        match self.waiting.back_mut() {
            Some((number, since)) if *number == self.made || now.since(*since) < TAPE_MOMENT => {
                *number = self.made;
            }
            _ => self.waiting.push_back((self.made, now)),
        }
    }

    /// Hears the answers that have come. Never waits.
    ///
    /// # Errors
    /// The recorder is gone, or cannot write.
    pub fn hear(&mut self) -> Result<(), String> {
        let mut buffer = [0; RECORDER_ANSWER_BYTES_MAX];
        loop {
            let len = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err("the recorder is gone".to_owned()),
                Ok(len) => len,
                Err(nix::Error::EAGAIN) => return Ok(()),
                Err(nix::Error::EINTR) => continue,
                Err(why) => return Err(format!("the recorder is gone: {}", io::Error::from(why))),
            };
            match Answer::decode(buffer.get(..len).unwrap_or_default()) {
                Ok(Answer::Taken(count)) if count <= self.made => self.taken = count,
                Ok(Answer::Failed(why)) => return Err(why),
                _ => return Err("the recorder answers what none would".to_owned()),
            }
            while self.waiting.front().is_some_and(|(number, _)| *number <= self.taken) {
                self.waiting.pop_front();
            }
        }
    }

    fn put(&mut self, frame: &Frame<'_>) {
        self.made += 1;
        self.unsent.push_back(frame.encode());
    }

    fn end(&mut self, id: ChannelId) {
        self.channels.retain(|channel| *channel != id);
        if !self.over {
            self.put(&Frame::End { channel: id.number() });
        }
    }

    fn hold_data(&mut self, id: ChannelId, extended: Option<u32>, bytes: Box<[u8]>) {
        for piece in bytes.chunks(TAPE_OUTPUT_BYTES_MAX) {
            self.put(&Frame::Output { channel: id.number(), bytes: piece });
        }
        tally::add(tally::Cost::Copied, bytes.len() as u64);
        self.held_bytes = self.held_bytes.saturating_add(bytes.len() as u32);
        self.hold(Command::Kept { id, extended, bytes });
    }

    fn hold(&mut self, command: Command) {
        self.held.push_back((self.made, command));
    }

    const fn count_out(&mut self, command: &Command) {
        match command {
            Command::Kept { bytes, .. } => {
                self.held_bytes = self.held_bytes.saturating_sub(bytes.len() as u32);
            }
            Command::Ask { request, .. } => {
                self.held_requests = self.held_requests.saturating_sub(request.len() as u32);
            }
            _ => {}
        }
    }
}

fn copied(span: Span, lease: &[u8]) -> Box<[u8]> {
    tally::add(tally::Cost::Copied, u64::from(span.len));
    span.of(lease).unwrap_or_default().into()
}

/// Whole characters of it, as many as a recorder takes.
fn shortened(text: &str) -> &str {
    let (kept, _) = cut(text.as_bytes(), RECORD_TEXT_BYTES_MAX as usize);
    text.get(..kept.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    /// Each frame from when it was made on, however many were answered meanwhile: a disk that crawls holds
    /// nobody up for longer than one that stands still.
    #[test]
    fn a_recorder_has_so_long_for_each_frame() {
        let kind = SockType::SeqPacket;
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.expect("a pair");
        let mut tape = Tape::new(ours);
        let at = |seconds| Instant::from_nanos(0).after(Duration::from_secs(seconds));
        let answer = |count| {
            let bytes = Answer::Taken(count).encode();
            send(theirs.as_raw_fd(), &bytes, MsgFlags::empty()).expect("room");
        };
        assert_eq!(tape.due(), None, "nothing is asked");
        for seconds in [1, 5] {
            tape.put(&Frame::End { channel: 1 });
            tape.pump(at(seconds)).expect("it is there");
            assert_eq!(tape.due(), Some(at(1).after(RECORDER_TIME_MAX)), "the first counts");
        }
        answer(1);
        tape.hear().expect("an answer");
        assert_eq!(tape.due(), Some(at(5).after(RECORDER_TIME_MAX)), "the other waits since then");
        answer(2);
        tape.hear().expect("an answer");
        assert_eq!(tape.due(), None, "it has answered all");
        // Many that wait take no more room than the seconds they wait for.
        for n in 0..10_000 {
            tape.put(&Frame::End { channel: 1 });
            tape.pump(at(50 + n / 500)).expect("it is there");
            tape.unsent.clear();
        }
        assert_eq!(tape.due(), Some(at(50).after(RECORDER_TIME_MAX)));
        assert_eq!(tape.waiting.len(), 20);
        drop(theirs);
        assert!(tape.hear().is_err(), "it is gone");
    }
}
