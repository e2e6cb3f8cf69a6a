//! Reads or writes one file by SFTP, a fixed number of requests of a fixed size under way. Nothing of
//! what comes is kept, and what goes is filler.

use std::collections::VecDeque;
use std::rc::Rc;

use super::out::Out;
use super::runner::Moved;
use crate::base::escape;
use crate::limits::{SFTP_HANDLE_BYTES_MAX, SFTP_PACKET_BYTES_MAX};
use crate::reactor::Chunk;
use crate::services::forward::Note;
use crate::services::{Guest, Io, Service};
use crate::wire::sftp::{
    Attributes, DATA_HEADER_BYTES, Extensions, Operation, Reply, Request, Response, StatusCode,
    VERSION, WriteHeader, kind, open,
};
use crate::wire::{NoSpace, Writer};

/// Ids of requests that are neither READ nor WRITE: those have the number of their place.
const CONTROL_ID: u32 = u32::MAX;
/// Room for any request of ours without its data.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Get,
    Put,
}

/// What is moved, and how.
#[derive(Clone, Debug)]
pub struct Job {
    pub way: Way,
    pub path: Vec<u8>,
    pub bytes: u64,
    /// Requests under way.
    pub depth: u32,
    /// Bytes that each is about.
    pub size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Opening,
    Moving,
    Closing,
    Removing,
    Over,
}

/// One SFTP session.
#[derive(Debug)]
pub struct Files {
    job: Job,
    state: State,
    out: Out,
    handle: Vec<u8>,
    /// What the request of each place is about: offset and length.
    places: Vec<(u64, u32)>,
    /// Places without a request.
    free: VecDeque<u32>,
    /// What came short, to be asked for again.
    again: Vec<(u64, u32)>,
    next: u64,
    moved: u64,
    /// Of the reply under way: its front, or all of it unless it is DATA.
    front: Vec<u8>,
    /// Data of a reply that is still to come.
    skipped: u32,
    /// Remove the file in the end instead.
    remove: bool,
    failed: Option<String>,
    told: Rc<Moved>,
}

impl Files {
    pub fn new(job: Job, told: Rc<Moved>) -> Files {
        Files {
            places: vec![(0, 0); job.depth as usize],
            free: (0..job.depth).collect(),
            job,
            state: State::Greeting,
            out: Out::default(),
            handle: Vec::new(),
            again: Vec::new(),
            next: 0,
            moved: 0,
            front: Vec::new(),
            skipped: 0,
            remove: false,
            failed: None,
            told,
        }
    }

    /// Removes the file, and does nothing else.
    pub fn removing(path: Vec<u8>, told: Rc<Moved>) -> Files {
        let job = Job { way: Way::Get, path, bytes: 0, depth: 1, size: 1 };
        Files { remove: true, ..Files::new(job, told) }
    }

    fn ask(&mut self, operation: &Operation<'_>) -> Result<(), NoSpace> {
        let mut space = vec![0; REQUEST_BYTES_MAX];
        let mut out = Writer::new(&mut space);
        Request { id: CONTROL_ID, operation: *operation }.write(&mut out)?;
        self.out.push(out.written().to_vec(), 0);
        Ok(())
    }

    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
        self.state = State::Over;
    }

    // ---- Requests -----------------------------------------------------------------------------

    fn next_piece(&mut self) -> Option<(u64, u32)> {
        if let Some(piece) = self.again.pop() {
            return Some(piece);
        }
        let left = self.job.bytes.saturating_sub(self.next);
        let len = u32::try_from(left).unwrap_or(u32::MAX).min(self.job.size);
        let at = self.next;
        self.next += u64::from(len);
        (len > 0).then_some((at, len))
    }

    fn fill(&mut self) {
        while self.state == State::Moving && !self.free.is_empty() {
            let Some((offset, len)) = self.next_piece() else { break };
            let Some(id) = self.free.pop_front() else { break };
            if let Some(place) = self.places.get_mut(id as usize) {
                *place = (offset, len);
            }
            let mut space = vec![0; REQUEST_BYTES_MAX.min(64 + self.handle.len())];
            let mut out = Writer::new(&mut space);
            let handle = &self.handle;
            let (written, filler) = match self.job.way {
                Way::Get => {
                    let operation = Operation::Read { handle, offset, len };
                    (Request { id, operation }.write(&mut out), 0)
                }
                Way::Put => {
                    let header = WriteHeader { id, handle, offset, len, trailing: 0 };
                    (header.write(&mut out), u64::from(len))
                }
            };
            if written.is_err() {
                return self.fail("a handle longer than any".to_owned());
            }
            self.out.push(out.written().to_vec(), filler);
        }
    }

    // ---- Replies ------------------------------------------------------------------------------

    fn heard(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state != State::Over {
            if self.skipped > 0 {
                let part = self.skipped.min(bytes.len() as u32);
                bytes = bytes.get(part as usize..).unwrap_or_default();
                self.skipped -= part;
                continue;
            }
            let lacking = match self.lacking() {
                Ok(lacking) => lacking,
                Err(why) => return self.fail(why),
            };
            let (part, rest) = bytes.split_at(lacking.min(bytes.len()));
            self.front.extend_from_slice(part);
            bytes = rest;
            match self.lacking() {
                Ok(0) => {
                    let front = std::mem::take(&mut self.front);
                    self.reply(&front);
                }
                Ok(_) => {}
                Err(why) => return self.fail(why),
            }
        }
    }

    /// Bytes that are still to come before there is something to look at.
    fn lacking(&self) -> Result<usize, String> {
        let Some((length, rest)) = self.front.split_first_chunk::<4>() else {
            return Ok(5 - self.front.len());
        };
        let Some(kind) = rest.first() else { return Ok(1) };
        let length = u32::from_be_bytes(*length);
        if !(1..=SFTP_PACKET_BYTES_MAX).contains(&length) {
            return Err(format!("a reply of {length} bytes"));
        }
        let whole = 4 + length as usize;
        let wanted = if *kind == kind::DATA { DATA_HEADER_BYTES as usize } else { whole };
        Ok(wanted.saturating_sub(self.front.len()))
    }

    fn reply(&mut self, front: &[u8]) {
        let Some(packet) = front.get(4..) else { return };
        if let Some(([kind::DATA, i @ ..], d)) = packet.split_first_chunk::<5>() {
            let len = d.first_chunk().map_or(0, |d| u32::from_be_bytes(*d));
            self.skipped = len;
            return self.piece_came(u32::from_be_bytes(*i), len);
        }
        let outcome = match Response::parse(packet) {
            Ok(response) => self.answered(&response),
            Err(why) => Err(format!("a reply that makes no sense: {why}")),
        };
        if let Err(why) = outcome {
            self.fail(why);
        }
    }

    fn answered(&mut self, response: &Response<'_>) -> Result<(), String> {
        let long = |_: NoSpace| "the path is too long".to_owned();
        let path = self.job.path.clone();
        match (self.state, response.reply) {
            (State::Greeting, Reply::Version { .. }) if self.remove => {
                self.state = State::Removing;
                self.ask(&Operation::Remove { path: &path }).map_err(long)
            }
            (State::Greeting, Reply::Version { .. }) => {
                self.state = State::Opening;
                let flags = match self.job.way {
                    Way::Get => open::READ,
                    Way::Put => open::WRITE | open::CREATE | open::TRUNCATE,
                };
                let attributes = Attributes { permissions: Some(0o600), ..Attributes::EMPTY };
                self.ask(&Operation::Open { path: &path, flags, attributes }).map_err(long)
            }
            (State::Opening, Reply::Handle(handle)) => {
                if handle.len() > SFTP_HANDLE_BYTES_MAX as usize {
                    return Err("a handle longer than any".to_owned());
                }
                self.handle = handle.to_vec();
                self.state = State::Moving;
                self.go_on();
                Ok(())
            }
            (State::Moving, Reply::Status { code: StatusCode::Ok, .. })
                if self.job.way == Way::Put =>
            {
                let len = self.places.get(response.id as usize).map_or(0, |(_, len)| *len);
                self.piece_came(response.id, len);
                Ok(())
            }
            (State::Closing | State::Removing, Reply::Status { code: StatusCode::Ok, .. }) => {
                self.state = State::Over;
                Ok(())
            }
            (_, Reply::Status { code, text }) => Err(format!("{}: {}", code.text(), escape(text))),
            _ => Err("a reply to something else".to_owned()),
        }
    }

    /// So much of what the request of this place was about is there.
    fn piece_came(&mut self, id: u32, got: u32) {
        let Some(place) = self.places.get_mut(id as usize) else {
            return self.fail("a reply to no request".to_owned());
        };
        let (at, len) = std::mem::take(place);
        if got == 0 || got > len {
            return self.fail(format!("{got} bytes in place of {len}"));
        }
        if got < len {
            self.again.push((at + u64::from(got), len - got));
        }
        self.moved += u64::from(got);
        self.told.done(u64::from(got));
        self.free.push_back(id);
        self.go_on();
    }

    fn go_on(&mut self) {
        self.fill();
        if self.state == State::Moving && self.moved >= self.job.bytes {
            self.state = State::Closing;
            let handle = std::mem::take(&mut self.handle);
            if self.ask(&Operation::Close { handle: &handle }).is_err() {
                self.fail("a handle longer than any".to_owned());
            }
        }
    }

    /// Tells once that it is over.
    fn tell(&mut self, was: State, io: &mut Io<'_>) {
        if self.state != State::Over {
            io.awaits(self.skipped);
        } else if was != State::Over {
            io.note(match self.failed.take() {
                Some(why) => Note::Failed { what: "SFTP".to_owned(), why },
                None => Note::Reached,
            });
        }
    }
}

impl Guest for Files {
    fn begin(&mut self, io: &mut Io<'_>) {
        let operation = Operation::Init { version: VERSION, extensions: Extensions::NONE };
        if self.ask(&operation).is_ok() {
            self.told.carried(self.out.pump(io));
        }
    }
}

impl Service for Files {
    fn on_data(&mut self, mut data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        let was = self.state;
        if extended.is_none() {
            self.heard(data.span.of(io.bytes(&mut data.lease)).unwrap_or_default());
        }
        let heard = u64::from(data.span.len);
        io.discard(data);
        self.told.carried(heard + self.out.pump(io));
        self.tell(was, io);
    }

    fn on_eof(&mut self, _io: &mut Io<'_>) {}

    fn on_ready(&mut self, io: &mut Io<'_>) {
        self.told.carried(self.out.pump(io));
    }

    fn on_close(&mut self, _io: &mut Io<'_>) {}

    fn release(&mut self, _io: &mut Io<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(way: Way) -> Files {
        let job = Job { way, path: b"/f".to_vec(), bytes: 10, depth: 2, size: 4 };
        Files::new(job, Rc::default())
    }

    fn reply(id: u32, reply: Reply<'_>) -> Vec<u8> {
        let mut space = vec![0; 256];
        let mut out = Writer::new(&mut space);
        Response { id, reply }.write(&mut out).expect("room");
        out.written().to_vec()
    }

    fn opened() -> Vec<u8> {
        let version = Reply::Version { version: 3, extensions: Extensions::NONE };
        [reply(0, version), reply(CONTROL_ID, Reply::Handle(b"h"))].concat()
    }

    #[test]
    fn what_comes_short_is_asked_for_again_however_replies_are_cut() {
        let ok = Reply::Status { code: StatusCode::Ok, text: b"" };
        let mut all = opened();
        all.extend(reply(0, Reply::Data(b"abc")));
        all.extend(reply(1, Reply::Data(b"efgh")));
        for cut in 1..all.len() {
            let mut files = job(Way::Get);
            all.chunks(cut).for_each(|part| files.heard(part));
            assert_eq!((files.moved, files.state, &files.failed), (7, State::Moving, &None));
            assert_eq!(files.places, [(3, 1), (8, 2)], "{cut}");
            files.heard(&reply(1, Reply::Data(b"ij")));
            files.heard(&reply(0, Reply::Data(b"d")));
            assert_eq!(files.state, State::Closing);
            files.heard(&reply(CONTROL_ID, ok));
            assert_eq!((files.state, &files.failed), (State::Over, &None));
        }
    }

    #[test]
    fn servers_that_lie_or_refuse_are_heard_no_more() {
        let status = |code| Reply::Status { code, text: b"full\x1b" };
        let no_space = reply(0, status(StatusCode::Failure));
        for (said, why) in [
            (reply(7, Reply::Data(b"x")), "no request"),
            (reply(0, Reply::Data(b"abcde")), "5 bytes in place of 4"),
            (reply(0, Reply::Data(b"")), "0 bytes"),
            (no_space.clone(), "full\\"),
            (vec![0xff; 5], "a reply of"),
            (vec![0, 0, 0, 2, 77, 0], "no sense"),
        ] {
            let mut files = job(Way::Get);
            files.heard(&opened());
            files.heard(&said);
            assert!(files.failed.as_ref().is_some_and(|f| f.contains(why)), "{:?}", files.failed);
        }
        let mut files = job(Way::Put);
        files.heard(&opened());
        files.heard(&reply(1, status(StatusCode::Ok)));
        assert_eq!((files.moved, files.places[1]), (4, (8, 2)));
        files.heard(&no_space);
        assert_eq!(files.state, State::Over);
    }
}
