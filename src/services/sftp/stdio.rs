//! SFTP over two streams, for a server that another sshd starts: one thread reads, carries out and
//! answers one request after the other. The requests are those of the service on a channel.

use std::ffi::CStr;
use std::io::{ErrorKind, Read, Write};

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::fsync;

use super::desk::{Begun, Desk, Ended};
use super::fs::{self, borrow, retry};
use super::handles::{HandleName, Handles};
use super::intake;
use super::options::{Options, name_of};
use super::status::Failure;
use super::{EXIT_BAD_PEER, EXIT_CLEAN};
use crate::limits::{SFTP_DATA_BYTES_MAX, SFTP_PACKET_BYTES_MAX, SFTP_STREAM_BYTES};
use crate::services::root::Root;
use crate::wire::sftp::{
    DATA_HEADER_BYTES, Operation, Reply, Request, StatusCode, data_header, kind,
};

/// A stream failed: nobody is left to tell.
const EXIT_BROKEN: u32 = 1;

/// What a session on two streams is made of.
pub struct Setting<'a> {
    /// The account's home.
    pub home: &'a CStr,
    pub start: Option<&'a CStr>,
    pub options: Options,
    /// Hears of every request and of every status.
    pub log: &'a mut dyn FnMut(Note<'_>),
}

/// What a log can be made of.
#[derive(Clone, Copy, Debug)]
pub enum Note<'a> {
    Asked(&'a Operation<'a>),
    /// What was asked for is not permitted: OpenSSH's words for it.
    Refused(&'a str),
    Answered(Answer<'a>),
}

/// What a log wants to know of a reply.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    Status(StatusCode),
    Handle(&'a [u8]),
    Data { bytes: u32 },
    Other,
}

impl Answer<'_> {
    /// Of a reply with its length in front.
    fn read(reply: &[u8]) -> Answer<'_> {
        let Some((&[_, _, _, _, kind, _, _, _, _, a, b, c, d], rest)) =
            reply.split_first_chunk::<13>()
        else {
            return Answer::Other;
        };
        let number = u32::from_be_bytes([a, b, c, d]);
        match kind {
            kind::STATUS => Answer::Status(StatusCode::from_number(number)),
            kind::HANDLE => Answer::Handle(rest.get(..number as usize).unwrap_or(&[])),
            kind::DATA => Answer::Data { bytes: number },
            _ => Answer::Other,
        }
    }
}

/// Serves until the client ends. Answers the exit status: OpenSSH's for the same end.
pub fn serve(input: &mut dyn Read, output: &mut dyn Write, setting: Setting<'_>) -> u32 {
    let Setting { home, start, options, log } = setting;
    let desk = Desk::new(Root::System, home.to_owned(), start.map(CStr::to_owned), options);
    let mut session = Session { desk, greeted: false, out: Vec::new(), log };
    session.desk.handles = Handles::starting_at(std::process::id());
    let mut inbox = Inbox { bytes: vec![0; INBOX_BYTES].into_boxed_slice(), start: 0, end: 0 };
    loop {
        loop {
            match inbox.packet() {
                Ok(Some(packet)) => match session.serve(packet) {
                    Ok(len) => inbox.start += 4 + len,
                    Err(code) => return code,
                },
                Ok(None) => break,
                Err(code) => return code,
            }
            if session.out.len() >= SFTP_STREAM_BYTES && !session.flush(output) {
                return EXIT_BROKEN;
            }
        }
        if !session.flush(output) {
            return EXIT_BROKEN;
        }
        match inbox.fill(input) {
            Ok(0) => return EXIT_CLEAN,
            Ok(_) => {}
            Err(_) => return EXIT_BROKEN,
        }
    }
}

const INBOX_BYTES: usize = 4 + SFTP_PACKET_BYTES_MAX as usize + SFTP_STREAM_BYTES;

/// What has been read and not carried out: at most one packet and a bit more.
struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// The next whole packet without its length; an exit status when its length is impossible.
    fn packet(&self) -> Result<Option<&[u8]>, u32> {
        let have = self.bytes.get(self.start..self.end).unwrap_or(&[]);
        let Some((len, rest)) = have.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len);
        // A kind and an id, or INIT's version, is the least there is.
        if !(5..=SFTP_PACKET_BYTES_MAX).contains(&len) {
            return Err(EXIT_BAD_PEER);
        }
        Ok(rest.get(..len as usize))
    }

    fn fill(&mut self, input: &mut dyn Read) -> std::io::Result<usize> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        loop {
            match input.read(self.bytes.get_mut(self.end..).unwrap_or(&mut [])) {
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Ok(got) => {
                    self.end += got;
                    return Ok(got);
                }
                Err(why) => return Err(why),
            }
        }
    }
}

struct Session<'a> {
    desk: Desk,
    greeted: bool,
    /// Replies that have not been written.
    out: Vec<u8>,
    log: &'a mut dyn FnMut(Note<'_>),
}

impl Session<'_> {
    fn flush(&mut self, output: &mut dyn Write) -> bool {
        let written = output.write_all(&self.out).and_then(|()| output.flush());
        self.out.clear();
        written.is_ok()
    }

    /// Carries one packet out; answers its length, or the exit status.
    fn serve(&mut self, packet: &[u8]) -> Result<usize, u32> {
        let is_init = packet.first() == Some(&kind::INIT);
        if !self.greeted && !is_init {
            return Err(EXIT_BAD_PEER);
        }
        let from = self.out.len();
        match Request::parse(packet) {
            Ok(request) => {
                let options = &self.desk.options;
                let refusal = options.refusal(&request.operation);
                // As OpenSSH tells it: only what a mode of opening forbids is told before.
                if name_of(&request.operation).is_none_or(|name| options.permit(name)) {
                    (self.log)(Note::Asked(&request.operation));
                }
                if let Some(refusal) = &refusal {
                    (self.log)(Note::Refused(refusal));
                }
                self.request(&request)?;
            }
            Err(_) if is_init => return Err(EXIT_BAD_PEER),
            Err(_) => {
                let id = packet.get(1..5).and_then(|id| id.try_into().ok());
                self.status(id.map_or(0, u32::from_be_bytes), StatusCode::BadMessage);
            }
        }
        self.desk.replies.drain_to(&mut self.out);
        (self.log)(Note::Answered(Answer::read(self.out.get(from..).unwrap_or(&[]))));
        Ok(packet.len())
    }

    fn request(&mut self, request: &Request<'_>) -> Result<(), u32> {
        let id = request.id;
        let permitted = self.desk.options.permit_operation(&request.operation);
        match request.operation {
            Operation::Read { handle, offset, len } if permitted => {
                self.read(id, HandleName::parse(handle), offset, len);
            }
            Operation::Write { handle, offset, data } if permitted => {
                let code = self.write(HandleName::parse(handle), offset, data);
                self.status(id, code);
            }
            _ => {
                let waiting = intake::wait(request, &self.desk.base, &self.desk.options);
                let (mut running, mut job) = match self.desk.begin(waiting) {
                    Begun::Answered => return Ok(()),
                    Begun::Job(running, job) => (running, job),
                    Begun::Flush(fd) => {
                        let flushed = retry(|| fsync(borrow(fd)));
                        self.status(
                            id,
                            flushed.map_or_else(Failure::from, |()| StatusCode::Ok.into()),
                        );
                        return Ok(());
                    }
                };
                loop {
                    match self.desk.finish(running, fs::run(&Root::System, job)) {
                        Ended::Answered => break,
                        Ended::Greeted => {
                            self.greeted = true;
                            break;
                        }
                        Ended::Again(next, more) => (running, job) = (next, more),
                        Ended::Failed => return Err(EXIT_BAD_PEER),
                    }
                }
            }
        }
        Ok(())
    }

    /// The file is read to where its bytes leave from.
    fn read(&mut self, id: u32, handle: HandleName, offset: u64, len: u32) {
        let Some(file) = self.desk.handles.file(handle) else {
            return self.status(id, StatusCode::Failure);
        };
        // As lseek refuses it.
        let Ok(offset) = i64::try_from(offset) else {
            return self.status(id, StatusCode::BadMessage);
        };
        if len == 0 {
            return self.desk.replies.put(id, Reply::Data(&[]));
        }
        let (at, header) = (self.out.len(), DATA_HEADER_BYTES as usize);
        let len = len.min(SFTP_DATA_BYTES_MAX) as usize;
        self.out.resize(at + header + len, 0);
        let place = self.out.get_mut(at + header..).unwrap_or(&mut []);
        let got = retry(|| pread(borrow(file.fd), place, offset));
        match got {
            Ok(got) if got > 0 => {
                let front = data_header(id, got as u32);
                if let Some(to) = self.out.get_mut(at..at + header) {
                    to.copy_from_slice(&front);
                }
                self.out.truncate(at + header + got);
            }
            ended => {
                self.out.truncate(at);
                self.status(id, ended.map_or_else(Failure::from, |_| StatusCode::Eof.into()));
            }
        }
    }

    fn write(&mut self, handle: HandleName, offset: u64, mut data: &[u8]) -> Failure {
        let Some(file) = self.desk.handles.file(handle) else { return StatusCode::Failure.into() };
        // The kernel ignores it for an appending descriptor, but -1 has a meaning of its own.
        let offset = if file.append { 0 } else { offset };
        let Ok(mut at) = i64::try_from(offset) else { return StatusCode::BadMessage.into() };
        if data.is_empty() && !file.writable {
            return Errno::EBADF.into();
        }
        while !data.is_empty() {
            match retry(|| pwrite(borrow(file.fd), data, at)) {
                Ok(0) => return StatusCode::Failure.into(),
                Ok(written) => {
                    data = data.get(written..).unwrap_or(&[]);
                    at = at.saturating_add(written as i64);
                }
                Err(errno) => return errno.into(),
            }
        }
        StatusCode::Ok.into()
    }

    fn status(&mut self, id: u32, what: impl Into<Failure>) {
        self.desk.replies.status(id, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Writer;
    use crate::wire::sftp::{Extensions, Response, open};

    fn packet(id: u32, operation: Operation<'_>) -> Vec<u8> {
        let mut space = vec![0; 300 << 10];
        let mut out = Writer::new(&mut space);
        Request { id, operation }.write(&mut out).expect("room");
        out.written().to_vec()
    }

    fn run(home: &std::path::Path, options: Options, asked: &[u8]) -> (u32, Vec<u8>) {
        let home = std::ffi::CString::new(home.to_str().expect("UTF-8")).expect("no NUL");
        let (mut input, mut output) = (asked, Vec::new());
        let setting = Setting { home: &home, start: None, options, log: &mut |_| {} };
        (serve(&mut input, &mut output, setting), output)
    }

    fn init() -> Vec<u8> {
        packet(0, Operation::Init { version: 3, extensions: Extensions::NONE })
    }

    /// Each reply, shown.
    fn shown(mut bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
            let (packet, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
            let Response { id, reply } = Response::parse(packet).expect("a reply");
            all.push(match reply {
                Reply::Status { code, .. } => format!("{id} {code:?}"),
                Reply::Data(data) => format!("{id} {} bytes", data.len()),
                Reply::Handle(_) => format!("{id} handle"),
                Reply::Version { .. } => "version".to_owned(),
                other => format!("{id} {other:?}"),
            });
            bytes = rest;
        }
        all
    }

    #[test]
    fn files_come_and_go_over_plain_streams() {
        let home = tempfile::tempdir().expect("home");
        let flags = open::READ | open::WRITE | open::CREATE;
        let opened = Operation::Open { path: b"file", flags, attributes: Default::default() };
        // The first handle of a session, as this process counts.
        let mut handles = Handles::starting_at(std::process::id());
        let name = handles.insert(super::super::handles::Handle::Directory {
            fd: crate::reactor::Fd(0),
            accounts: Box::default(),
        });
        let handle = &name.to_bytes();
        let data = vec![7; 200 << 10];
        let asked = [
            init(),
            packet(1, opened),
            packet(2, Operation::Write { handle, offset: 5, data: &data }),
            packet(3, Operation::Read { handle, offset: 0, len: u32::MAX }),
            packet(4, Operation::Read { handle, offset: 1 << 40, len: 5 }),
            packet(5, Operation::Read { handle, offset: u64::MAX, len: 5 }),
            packet(6, Operation::Fsync { handle }),
            packet(7, Operation::Close { handle }),
            packet(8, Operation::Write { handle, offset: 0, data: b"x" }),
            vec![0, 0, 0, 6, kind::STAT, 0, 0, 0, 9, 0],
        ];
        let (code, replies) = run(home.path(), Options::default(), &asked.concat());
        let expected = [
            "version",
            "1 handle",
            "2 Ok",
            &format!("3 {} bytes", 5 + data.len()),
            "4 Eof",
            "5 BadMessage",
            "6 Ok",
            "7 Ok",
            "8 Failure",
            "9 BadMessage",
        ];
        assert_eq!(
            (code, shown(&replies).as_slice()),
            (EXIT_CLEAN, &expected.map(String::from)[..])
        );
        let content = std::fs::read(home.path().join("file")).expect("the file");
        assert_eq!((&content[..5], &content[5..]), (&[0; 5][..], &data[..]));
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let home = tempfile::tempdir().expect("home");
        let options = Flags::parse(["-R", "-P", "stat"]).expect("options").options;
        let flags = open::WRITE | open::CREATE;
        let asked = [
            init(),
            packet(1, Operation::Open { path: b"f", flags, attributes: Default::default() }),
            packet(2, Operation::MakeDirectory { path: b"d", attributes: Default::default() }),
            packet(3, Operation::Stat { path: b"." }),
            packet(4, Operation::Write { handle: b"", offset: 0, data: b"x" }),
        ];
        let (code, replies) = run(home.path(), options, &asked.concat());
        let refused = (1..=4).map(|id| format!("{id} PermissionDenied"));
        let expected: Vec<_> = std::iter::once("version".to_owned()).chain(refused).collect();
        assert_eq!((code, shown(&replies)), (EXIT_CLEAN, expected));
        assert_eq!(std::fs::read_dir(home.path()).expect("home").count(), 0);
    }

    #[test]
    fn impossible_streams_end_as_openssh_ends_them() {
        let home = tempfile::tempdir().expect("home");
        let run = |asked: &[u8]| run(home.path(), Options::default(), asked).0;
        assert_eq!(run(b""), EXIT_CLEAN);
        assert_eq!(run(&[0, 0, 0, 4, 1, 0, 0, 0]), EXIT_BAD_PEER);
        assert_eq!(run(&[0xff; 9]), EXIT_BAD_PEER);
        assert_eq!(run(&packet(1, Operation::Stat { path: b"/" })), EXIT_BAD_PEER);
        assert_eq!(run(&[init(), vec![0, 4, 0, 1]].concat()), EXIT_BAD_PEER);
        assert_eq!(run(&init()[..6]), EXIT_CLEAN);
    }

    use super::super::options::Flags;
}
