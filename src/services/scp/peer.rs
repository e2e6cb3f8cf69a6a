use std::io::Write;

use nix::errno::Errno;

use crate::base::escape;
use crate::limits::{OUTBOX_RESERVE, SCP_LINE_BYTES_MAX, SCP_UNSENT_BYTES_MAX};
use crate::services::Io;
use crate::services::sftp::Input;

/// Bytes sent in one go.
const PIECE_BYTES: usize = OUTBOX_RESERVE as usize / 2;
/// RFC 4254 §5.2: SSH_EXTENDED_DATA_STDERR.
const STDERR: u32 = 1;
/// How much of an error's text is kept; OpenSSH's buffer.
const RESPONSE_BYTES_MAX: usize = 2047;

/// The other side of a copy: lines and answers of the protocol, both ways.
#[derive(Debug, Default)]
pub struct Peer {
    pub input: Input,
    /// The peer has sent EOF.
    pub input_over: bool,
    /// Something failed; the exit status tells.
    pub failed: bool,
    /// `-v`: what happens is told on standard error.
    pub verbose: bool,
    out: Vec<u8>,
    notes: Vec<u8>,
}

/// What the peer says to a line or to the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    Fine,
    /// It cannot do this one.
    Refused,
    /// It cannot go on, or is gone.
    Fatal,
}

/// A control line without its line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Whole(Vec<u8>),
    /// It has no end within the bound.
    Endless,
    /// The peer has ended, in the middle of a line or not.
    Over {
        in_line: bool,
    },
}

impl Peer {
    /// Everything said has left, or is on its way in order.
    pub fn is_silent(&self) -> bool {
        self.out.is_empty()
    }

    /// Too much is said already; the peer does not take it.
    pub fn is_behind(&self) -> bool {
        self.out.len() + self.notes.len() > SCP_UNSENT_BYTES_MAX
    }

    pub fn say(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Tells of an error, and goes on.
    pub fn complain(&mut self, text: &[u8]) {
        self.failed = true;
        self.out.extend_from_slice(b"\x01scp: ");
        // A line end inside would end the message, and what follows would be read as protocol.
        self.out.extend(text.iter().map(|byte| if *byte == b'\n' { b'?' } else { *byte }));
        self.out.push(b'\n');
    }

    /// An error about a file, in OpenSSH's form.
    pub fn complain_of(&mut self, name: &[u8], errno: Errno) {
        self.complain(&[name, b": ", error_text(errno).as_bytes()].concat());
    }

    /// A line on standard error when the client wants to hear much.
    pub fn note(&mut self, front: &str, line: &[u8]) {
        if self.verbose && !self.is_behind() {
            // Writing to a Vec does not fail.
            let _ = writeln!(self.notes, "{front}{}", escape(line));
        }
    }

    /// A line on standard error.
    pub fn warn(&mut self, text: &str) {
        self.failed = true;
        let _ = writeln!(self.notes, "scp: {text}");
    }

    /// The peer's next answer, once it is there.
    pub fn response(&mut self, io: &mut Io<'_>) -> Option<Response> {
        if !self.input.fill(1, io) {
            return self.input_over.then_some(Response::Fatal);
        }
        let first = self.input.partial().first().copied().unwrap_or_default();
        if first == 0 {
            self.input.clear_partial();
            return Some(Response::Fine);
        }
        while !self.has_line(RESPONSE_BYTES_MAX) {
            if !self.input.fill(self.input.partial().len() + 1, io) {
                return self.input_over.then_some(Response::Fatal);
            }
        }
        self.input.clear_partial();
        self.failed = true;
        Some(if first == 1 { Response::Refused } else { Response::Fatal })
    }

    /// The peer's next line, once it is there.
    pub fn line(&mut self, io: &mut Io<'_>) -> Option<Line> {
        while !self.has_line(SCP_LINE_BYTES_MAX) {
            if !self.input.fill(self.input.partial().len() + 1, io) {
                let in_line = !self.input.partial().is_empty();
                return self.input_over.then_some(Line::Over { in_line });
            }
        }
        let mut line = self.input.partial().to_vec();
        self.input.clear_partial();
        Some(match line.pop() {
            Some(b'\n') => Line::Whole(line),
            _ => Line::Endless,
        })
    }

    fn has_line(&self, bytes_max: usize) -> bool {
        let partial = self.input.partial();
        partial.last() == Some(&b'\n') || partial.len() >= bytes_max
    }

    /// Sends what the window and the outbox allow. True when everything has left.
    pub fn flush(&mut self, io: &mut Io<'_>) -> bool {
        flush(&mut self.notes, Some(STDERR), io);
        flush(&mut self.out, None, io);
        self.out.is_empty() && self.notes.is_empty()
    }

    /// The channel is gone: nobody hears anything any more.
    pub fn forget(&mut self, io: &mut Io<'_>) {
        self.input.discard(io);
        self.out = Vec::new();
        self.notes = Vec::new();
    }
}

fn flush(bytes: &mut Vec<u8>, extended: Option<u32>, io: &mut Io<'_>) {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        let len = rest.len().min(PIECE_BYTES).min(io.credit() as usize);
        let piece = rest.get(..len).unwrap_or(&[]);
        if len == 0 || !io.may_send() || !io.write(extended, piece) {
            break;
        }
        sent += len;
    }
    bytes.drain(..sent);
    if bytes.is_empty() {
        *bytes = Vec::new();
    }
}

/// What strerror says of it.
pub fn error_text(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno as i32).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_openssh_and_stay_one_line() {
        let mut peer = Peer::default();
        peer.complain_of(b"no\nsuch", Errno::ENOENT);
        assert_eq!(peer.out, b"\x01scp: no?such: No such file or directory\n");
        assert!(peer.failed);
        assert_eq!(error_text(Errno::ELOOP), "Too many levels of symbolic links");
        peer.note("Sink: ", b"C0644");
        assert!(peer.notes.is_empty(), "nobody asked");
    }
}
