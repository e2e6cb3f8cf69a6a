use std::collections::VecDeque;

use nix::errno::Errno;

use super::jobs::{Kind, Opened, ScpDone, ScpJob};
use super::peer::{Peer, Response};
use super::sending::Sending;
use super::{Next, Paths};
use crate::limits::{SCP_DEPTH_MAX, SFTP_PATH_BYTES_MAX};
use crate::reactor::{self, Fd, Op};
use crate::services::Io;

/// What of a mode is told: not the sticky bit, as in OpenSSH.
const TOLD_MODE: u32 = 0o6777;

/// The side that files leave from: `scp -f`.
#[derive(Debug)]
pub struct Source {
    recursive: bool,
    preserve: bool,
    /// What the command line named and is not sent yet.
    names: VecDeque<Vec<u8>>,
    /// Directories being sent, the innermost last.
    inside: Vec<Directory>,
    state: State,
}

#[derive(Debug)]
struct Directory {
    name: Vec<u8>,
    fd: Fd,
    entries: VecDeque<Box<[u8]>>,
}

#[derive(Debug)]
enum State {
    /// The peer says first that it is there.
    Greeting,
    /// Between two files.
    Choosing,
    /// A worker opens the file of this name.
    Opening(Vec<u8>),
    /// A worker reads names of the innermost directory.
    Listing,
    /// The peer has been told the times, and says whether it goes on.
    Dated(Box<Item>),
    /// The peer has been told what comes, and says whether it wants it.
    Announced(Box<Item>),
    Sending(Box<Sending>),
    /// A file or a directory is over; its answer is for the record.
    Closing,
}

#[derive(Debug)]
struct Item {
    name: Vec<u8>,
    opened: Opened,
}

impl Source {
    pub fn new(recursive: bool, preserve: bool, names: Vec<Vec<u8>>) -> Source {
        let (names, inside) = (names.into(), Vec::new());
        Source { recursive, preserve, names, inside, state: State::Greeting }
    }

    /// Goes as far as what has come allows.
    pub fn advance(&mut self, peer: &mut Peer, paths: &Paths, io: &mut Io<'_>) -> Next {
        loop {
            if let State::Sending(sending) = &mut self.state {
                if !sending.advance(peer, io) {
                    return Next::Wait;
                }
                let (name, failed, fd) = (&sending.name, sending.failed, sending.fd);
                match failed {
                    None => peer.say(&[0]),
                    Some(errno) => peer.complain_of(name, errno),
                }
                io.close_fd(fd);
                self.state = State::Closing;
            }
            if matches!(self.state, State::Choosing) {
                match self.choose(peer, paths) {
                    Some(next) => return next,
                    None => continue,
                }
            }
            if matches!(self.state, State::Opening(_) | State::Listing) {
                return Next::Wait;
            }
            let Some(response) = peer.response(io) else { return Next::Wait };
            if response == Response::Fatal {
                return Next::Exit(1);
            }
            let fine = response == Response::Fine;
            match std::mem::replace(&mut self.state, State::Choosing) {
                State::Dated(item) if fine => self.announce(item, peer),
                State::Announced(item) if fine => self.enter(*item),
                State::Dated(item) | State::Announced(item) => io.close_fd(item.opened.fd),
                _ => {}
            }
        }
    }

    /// A worker is done.
    pub fn done(&mut self, done: ScpDone, peer: &mut Peer, io: &mut Io<'_>) {
        match (std::mem::replace(&mut self.state, State::Choosing), done) {
            (State::Opening(name), ScpDone::Opened(opened)) => {
                self.opened(Item { name, opened }, peer, io);
            }
            (State::Opening(name), ScpDone::Failed(errno)) => {
                peer.complain_of(&visible(&name), errno);
            }
            (State::Opening(name), _) => peer.complain_of(&visible(&name), Errno::EIO),
            (State::Listing, ScpDone::Entries(entries)) if !entries.is_empty() => {
                if let Some(inner) = self.inside.last_mut() {
                    inner.entries = entries.into();
                }
            }
            // Its end, or an error, which OpenSSH takes for the end.
            (State::Listing, _) => {
                if let Some(inner) = self.inside.pop() {
                    io.close_fd(inner.fd);
                }
                peer.say(b"E\n");
                self.state = State::Closing;
            }
            (state, _) => self.state = state,
        }
    }

    pub fn completed(
        &mut self,
        tag: u16,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        io: &mut Io<'_>,
    ) {
        match &mut self.state {
            State::Sending(sending) => sending.completed(tag, op, result, gone, io),
            _ => io.dissolve(op),
        }
    }

    /// The channel is gone.
    pub fn cancel(&mut self, io: &mut Io<'_>) {
        if let State::Sending(sending) = &mut self.state {
            sending.cancel(io);
        }
    }

    /// Descriptors that are still open; nothing is in flight on them.
    pub fn descriptors(&mut self) -> Vec<Fd> {
        let mut open: Vec<Fd> = self.inside.drain(..).map(|directory| directory.fd).collect();
        match &self.state {
            State::Dated(item) | State::Announced(item) => open.push(item.opened.fd),
            State::Sending(sending) => open.push(sending.fd),
            _ => {}
        }
        self.state = State::Closing;
        open
    }

    /// Starts on the next file. `None`: it was dealt with at once.
    fn choose(&mut self, peer: &mut Peer, paths: &Paths) -> Option<Next> {
        // Names that cannot be sent make no more errors than the peer takes.
        if peer.is_behind() {
            return Some(Next::Wait);
        }
        let mut name = match self.inside.last_mut() {
            Some(inner) => match inner.entries.pop_front() {
                Some(entry) => {
                    let name = [&inner.name[..], b"/", &entry].concat();
                    if name.len() >= SFTP_PATH_BYTES_MAX as usize - 1 {
                        peer.complain(&[&name[..], b": name too long"].concat());
                        return None;
                    }
                    name
                }
                None => {
                    let fd = inner.fd;
                    self.state = State::Listing;
                    return Some(Next::Job(ScpJob::Entries { fd }));
                }
            },
            None => match self.names.pop_front() {
                Some(name) => name,
                None => return Some(Next::Exit(u32::from(peer.failed))),
            },
        };
        while name.len() > 1 && name.last() == Some(&b'/') {
            name.pop();
        }
        match paths.absolute(&name) {
            Some(path) => {
                self.state = State::Opening(name);
                Some(Next::Job(ScpJob::Open { path }))
            }
            None => {
                peer.complain_of(&name, Errno::ENOENT);
                None
            }
        }
    }

    fn opened(&mut self, item: Item, peer: &mut Peer, io: &mut Io<'_>) {
        let Opened { fd, kind, times: (modified, read), .. } = item.opened;
        let deep = self.inside.len() >= SCP_DEPTH_MAX;
        match kind {
            Kind::File => {}
            Kind::Directory if self.recursive && !deep => {}
            Kind::Directory if self.recursive => {
                io.close_fd(fd);
                return peer.complain_of(&visible(&item.name), Errno::EMFILE);
            }
            Kind::Directory | Kind::Other => {
                if kind == Kind::Directory {
                    io.close_fd(fd);
                }
                let name = visible(&item.name);
                return peer.complain(&[&name[..], b": not a regular file"].concat());
            }
        }
        if !self.preserve {
            return self.announce(Box::new(item), peer);
        }
        // Times before 1970 are cut, as OpenSSH cuts them.
        let line = format!("T{} 0 {} 0\n", modified.max(0), read.max(0));
        peer.note(&format!("File mtime {modified} atime {read}"), b"");
        peer.note("Sending file timestamps: ", line.trim_end().as_bytes());
        peer.say(line.as_bytes());
        self.state = State::Dated(Box::new(item));
    }

    fn announce(&mut self, item: Box<Item>, peer: &mut Peer) {
        let name = visible(&item.name);
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mode = item.opened.mode & TOLD_MODE;
        let (front, told) = match item.opened.kind {
            Kind::Directory => (format!("D{mode:04o} 0 "), "Entering directory: "),
            _ => (format!("C{mode:04o} {} ", item.opened.size), "Sending file modes: "),
        };
        let line = [front.as_bytes(), last].concat();
        peer.note(told, &line);
        peer.say(&line);
        peer.say(b"\n");
        self.state = State::Announced(item);
    }

    /// The peer wants it.
    fn enter(&mut self, Item { name, opened }: Item) {
        if opened.kind == Kind::Directory {
            let entries = VecDeque::new();
            self.inside.push(Directory { name, fd: opened.fd, entries });
            return;
        }
        let sending = Sending::new(visible(&name), opened.fd, opened.size);
        self.state = State::Sending(Box::new(sending));
    }
}

/// A name as OpenSSH sends it: one with a line end in it is encoded as strnvis(3) does it.
fn visible(name: &[u8]) -> Vec<u8> {
    if !name.contains(&b'\n') {
        return name.to_vec();
    }
    let mut shown = Vec::new();
    for byte in name {
        match byte {
            b'\\' => shown.extend_from_slice(b"\\\\"),
            b' ' | b'\t' | 0x21..=0x7e => shown.push(*byte),
            _ => {
                shown.push(b'\\');
                if byte & 0x80 != 0 {
                    shown.push(b'M');
                }
                match byte & 0x7f {
                    0x7f => shown.extend_from_slice(b"^?"),
                    control @ 0..=0x1f => shown.extend_from_slice(&[b'^', control + b'@']),
                    plain => shown.extend_from_slice(&[b'-', plain]),
                }
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_in_names_are_encoded() {
        assert_eq!(visible(b"a\\b\xff"), b"a\\b\xff");
        assert_eq!(visible(b"a\nb\\ \xff\x7f"), b"a\\^Jb\\\\ \\M^?\\^?");
    }
}
