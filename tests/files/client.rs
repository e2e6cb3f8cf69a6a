//! SFTP version 3 by hand, through an `ssh` program: one request at a time, or many.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::support::Gateway;

pub const READ: u32 = 1;
pub const WRITE: u32 = 2;
pub const APPEND: u32 = 4;
pub const CREATE: u32 = 8;

pub const OK: u32 = 0;
pub const EOF: u32 = 1;
pub const NO_SUCH_FILE: u32 = 2;
pub const PERMISSION_DENIED: u32 = 3;
pub const FAILURE: u32 = 4;
pub const BAD_MESSAGE: u32 = 5;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ_DATA: u8 = 5;
const WRITE_DATA: u8 = 6;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const EXTENDED: u8 = 200;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

const SIZE: u32 = 1;

/// A session. The program behind it ends with the value.
pub struct Sftp {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    id: u32,
}

impl Sftp {
    pub fn start(gateway: &Gateway) -> Sftp {
        Sftp::start_as(gateway, None)
    }

    pub fn start_as(gateway: &Gateway, user: Option<&str>) -> Sftp {
        let user = user.map(|user| format!("User={user}"));
        let mut options = vec!["KexAlgorithms=curve25519-sha256"];
        options.extend(user.as_deref());
        let mut command = gateway.ssh(&options, &[]);
        command.args(["-s", "sftp"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("ssh starts");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let mut sftp = Sftp { child, input, output, id: 0 };
        sftp.send(INIT, &[&3u32.to_be_bytes()]);
        assert_eq!(sftp.hear()[0], VERSION);
        sftp
    }

    /// Ends the session as clients do; nothing may be unanswered.
    pub fn end(mut self) {
        self.input = None;
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).expect("an end");
        assert_eq!(rest, b"", "nobody asked for this");
        assert!(self.child.wait().expect("its status").success());
    }

    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("its status");
    }

    pub fn open(&mut self, path: &[u8], flags: u32) -> Result<Vec<u8>, u32> {
        let answer = self.ask(OPEN, &[&text(path), &flags.to_be_bytes(), &[0; 4]]);
        handle(&answer)
    }

    pub fn close(&mut self, handle: &[u8]) -> u32 {
        status(&self.ask(CLOSE, &[&text(handle)]))
    }

    /// Up to `len` bytes, by as many requests as it takes until the file ends.
    pub fn read(&mut self, handle: &[u8], at: u64, len: u32) -> Result<Vec<u8>, u32> {
        let mut all = Vec::new();
        while all.len() < len as usize {
            let (at, len) = (at + all.len() as u64, len - all.len() as u32);
            let answer =
                self.ask(READ_DATA, &[&text(handle), &at.to_be_bytes(), &len.to_be_bytes()]);
            match answer[0] {
                DATA => all.extend(&answer[9..]),
                _ if !all.is_empty() => break,
                _ => return Err(status(&answer)),
            }
        }
        Ok(all)
    }

    pub fn write(&mut self, handle: &[u8], at: u64, bytes: &[u8]) -> u32 {
        let id = self.send_write(handle, at, bytes);
        let (of, status) = self.hear_status();
        assert_eq!(of, id);
        status
    }

    /// Sends a WRITE and leaves its answer to [`Sftp::hear_status`].
    pub fn send_write(&mut self, handle: &[u8], at: u64, bytes: &[u8]) -> u32 {
        self.id += 1;
        let id = self.id;
        self.send(WRITE_DATA, &[&id.to_be_bytes(), &text(handle), &at.to_be_bytes(), &text(bytes)]);
        id
    }

    /// Sends a READ and leaves its answer to [`Sftp::hear_data`].
    pub fn send_read(&mut self, handle: &[u8], at: u64, len: u32) -> u32 {
        self.id += 1;
        let id = self.id;
        self.send(
            READ_DATA,
            &[&id.to_be_bytes(), &text(handle), &at.to_be_bytes(), &len.to_be_bytes()],
        );
        id
    }

    /// The request that the next answer is to, and the bytes or the status.
    pub fn hear_data(&mut self) -> (u32, Result<Vec<u8>, u32>) {
        let answer = self.hear();
        let result =
            if answer[0] == DATA { Ok(answer[9..].to_vec()) } else { Err(status(&answer)) };
        (number(&answer[1..]), result)
    }

    /// The request that the next answer is to, and its status.
    pub fn hear_status(&mut self) -> (u32, u32) {
        let answer = self.hear();
        (number(&answer[1..]), status(&answer))
    }

    pub fn size(&mut self, path: &[u8]) -> Result<u64, u32> {
        let answer = self.ask(STAT, &[&text(path)]);
        if answer[0] != ATTRS {
            return Err(status(&answer));
        }
        assert_ne!(number(&answer[5..]) & SIZE, 0, "no size");
        Ok(u64::from(number(&answer[9..])) << 32 | u64::from(number(&answer[13..])))
    }

    pub fn set_size(&mut self, handle: &[u8], size: u64) -> u32 {
        let answer = self.ask(FSETSTAT, &[&text(handle), &SIZE.to_be_bytes(), &size.to_be_bytes()]);
        status(&answer)
    }

    /// By name, as `truncate` does.
    pub fn set_size_of(&mut self, path: &[u8], size: u64) -> u32 {
        status(&self.ask(SETSTAT, &[&text(path), &SIZE.to_be_bytes(), &size.to_be_bytes()]))
    }

    pub fn sync(&mut self, handle: &[u8]) -> u32 {
        status(&self.ask(EXTENDED, &[&text(b"fsync@openssh.com"), &text(handle)]))
    }

    pub fn remove(&mut self, path: &[u8]) -> u32 {
        status(&self.ask(REMOVE, &[&text(path)]))
    }

    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> u32 {
        status(&self.ask(RENAME, &[&text(from), &text(to)]))
    }

    pub fn open_directory(&mut self, path: &[u8]) -> Result<Vec<u8>, u32> {
        handle(&self.ask(OPENDIR, &[&text(path)]))
    }

    /// The names of one reply.
    pub fn read_directory(&mut self, handle: &[u8]) -> Result<Vec<Vec<u8>>, u32> {
        let answer = self.ask(READDIR, &[&text(handle)]);
        if answer[0] != NAME {
            return Err(status(&answer));
        }
        let mut rest = &answer[9..];
        let mut names = Vec::new();
        for _ in 0..number(&answer[5..]) {
            names.push(take(&mut rest).to_vec());
            take(&mut rest);
            // Size, owner, permissions and times: what a server over a file system knows.
            assert_eq!(number(rest), 0x0f);
            rest = &rest[4 + 8 + 8 + 4 + 8..];
        }
        assert!(rest.is_empty());
        Ok(names)
    }

    pub fn list(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, u32> {
        let handle = self.open_directory(path)?;
        let mut names = Vec::new();
        let end = loop {
            match self.read_directory(&handle) {
                Ok(some) => names.extend(some),
                Err(status) => break status,
            }
        };
        assert_eq!(self.close(&handle), OK);
        if end == EOF { Ok(names) } else { Err(end) }
    }

    fn ask(&mut self, kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        self.id += 1;
        let id = self.id.to_be_bytes();
        self.send(kind, &[&[&id[..]], parts].concat());
        let answer = self.hear();
        assert_eq!(number(&answer[1..]), self.id, "an answer to another request");
        answer
    }

    fn send(&mut self, kind: u8, parts: &[&[u8]]) {
        let body = parts.concat();
        let head = [&(body.len() as u32 + 1).to_be_bytes()[..], &[kind]].concat();
        let input = self.input.as_mut().expect("an open session");
        input.write_all(&[head, body].concat()).expect("ssh runs");
    }

    fn hear(&mut self) -> Vec<u8> {
        let mut head = [0; 4];
        self.output.read_exact(&mut head).expect("an answer");
        let mut answer = vec![0; u32::from_be_bytes(head) as usize];
        self.output.read_exact(&mut answer).expect("a whole answer");
        answer
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().expect("a number"))
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (bytes, behind) = rest[4..].split_at(number(rest) as usize);
    *rest = behind;
    bytes
}

fn status(answer: &[u8]) -> u32 {
    assert_eq!(answer[0], STATUS, "{answer:?}");
    number(&answer[5..])
}

fn handle(answer: &[u8]) -> Result<Vec<u8>, u32> {
    if answer[0] == HANDLE { Ok(answer[9..].to_vec()) } else { Err(status(answer)) }
}
