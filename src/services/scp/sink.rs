use nix::errno::Errno;

use super::jobs::{Finish, ScpDone, ScpJob, Times};
use super::peer::{Line, Peer, Response, error_text};
use super::receiving::{Got, Receiving};
use super::record::{Record, Wrong};
use super::{Next, Paths};
use crate::limits::SCP_DEPTH_MAX;
use crate::reactor::{self, Fd, Op};
use crate::services::Io;
use crate::services::umask::process_umask;

const OWNER_WRITES: u32 = 0o200;
/// Set-user-id, set-group-id and sticky.
const SPECIAL_BITS: u32 = 0o7000;

/// The side that files come to: `scp -t`.
#[derive(Debug)]
pub struct Sink {
    recursive: bool,
    preserve: bool,
    must_be_directory: bool,
    /// Where what comes next goes: into it when it is a directory, else to this very name.
    target: Vec<u8>,
    is_directory: bool,
    /// Directories that what comes is inside of, the innermost last.
    frames: Vec<Frame>,
    /// Of what comes next.
    times: Option<Times>,
    /// Nothing has come yet since the last directory began.
    first: bool,
    state: State,
}

/// A directory to come back to, and what is left to do for the one inside it.
#[derive(Debug)]
struct Frame {
    outer: (Vec<u8>, bool),
    mode: Option<u32>,
    times: Option<Times>,
}

#[derive(Debug)]
enum State {
    Fresh,
    /// A worker looks what the target is.
    Looking,
    Line,
    /// A worker makes this directory.
    Making {
        name: Vec<u8>,
        mode: u32,
    },
    /// A worker opens this file.
    Creating(Box<Coming>),
    Receiving(Box<Coming>, Box<Receiving>),
    /// A worker closes it. `Some`: then the session ends so.
    Closing(Box<Coming>, Option<u32>),
    /// The client says how its own side went.
    Answering(Box<Coming>),
    /// A worker gives a directory its last mode. True: the client has ended, the others follow.
    Leaving {
        over: bool,
    },
}

/// A file that comes.
#[derive(Debug)]
struct Coming {
    name: Vec<u8>,
    size: u64,
    /// As the client has it, less what the umask takes away.
    mode: u32,
    existed: bool,
    regular: bool,
    /// The first error, as the client will be told.
    noted: Option<Vec<u8>>,
}

impl Coming {
    /// Only the first error is told: the client waits for one answer.
    fn note(&mut self, what: &str, errno: Errno, peer: &mut Peer) {
        peer.failed = true;
        let text = [what, &error_text(errno)].concat();
        self.noted.get_or_insert_with(|| [&self.name[..], b": ", text.as_bytes()].concat());
    }
}

impl Sink {
    pub fn new(
        (recursive, preserve, must_be_directory): (bool, bool, bool),
        target: Vec<u8>,
    ) -> Sink {
        Sink {
            recursive,
            preserve,
            must_be_directory,
            target,
            is_directory: false,
            frames: Vec::new(),
            times: None,
            first: true,
            state: State::Fresh,
        }
    }

    /// Goes as far as what has come allows.
    pub fn advance(&mut self, peer: &mut Peer, paths: &Paths, io: &mut Io<'_>) -> Next {
        loop {
            match std::mem::replace(&mut self.state, State::Line) {
                State::Fresh => {
                    self.state = State::Looking;
                    let Some(path) = paths.absolute(&self.target) else {
                        peer.complain_of(&self.target, Errno::ENOENT);
                        return Next::Exit(1);
                    };
                    return Next::Job(ScpJob::Look { path });
                }
                State::Line if peer.is_behind() => return Next::Wait,
                State::Line => {
                    let Some(line) = peer.line(io) else { return Next::Wait };
                    if let Some(next) = self.line(line, peer, paths) {
                        return next;
                    }
                }
                State::Receiving(mut coming, mut receiving) => {
                    let exit = match receiving.advance(peer, io) {
                        Got::Wait => {
                            self.state = State::Receiving(coming, receiving);
                            return Next::Wait;
                        }
                        Got::All => None,
                        Got::Part => {
                            peer.complain(error_text(Errno::EPIPE).as_bytes());
                            Some(1)
                        }
                    };
                    if let Some(errno) = receiving.failed {
                        coming.note("", errno, peer);
                    }
                    let finish = self.finish(&coming, receiving.fd, exit.is_none());
                    self.state = State::Closing(coming, exit);
                    return Next::Job(ScpJob::Finish(Box::new(finish)));
                }
                State::Answering(coming) => match peer.response(io) {
                    None => {
                        self.state = State::Answering(coming);
                        return Next::Wait;
                    }
                    Some(Response::Fatal) => return Next::Exit(1),
                    Some(_) => match coming.noted {
                        Some(text) => peer.complain(&text),
                        None => peer.say(&[0]),
                    },
                },
                waiting => {
                    self.state = waiting;
                    return Next::Wait;
                }
            }
        }
    }

    /// A worker is done.
    pub fn done(&mut self, done: ScpDone, peer: &mut Peer, paths: &Paths) -> Next {
        match (std::mem::replace(&mut self.state, State::Line), done) {
            (State::Looking, done) => return self.looked(&done, peer),
            (State::Making { name, mode }, ScpDone::Made { existed }) => {
                // Made by us: it was given more than it shall keep.
                let mode = (self.preserve || !existed).then_some(mode);
                let times = self.times.take();
                let outer = (std::mem::replace(&mut self.target, name), self.is_directory);
                self.frames.push(Frame { outer, mode, times });
                (self.is_directory, self.first) = (true, true);
                peer.say(&[0]);
            }
            (State::Creating(mut coming), ScpDone::Created { fd, existed, regular }) => {
                (coming.existed, coming.regular) = (existed, regular);
                peer.say(&[0]);
                let receiving = Receiving::new(fd, coming.size);
                self.state = State::Receiving(coming, Box::new(receiving));
            }
            (State::Making { name, .. }, ScpDone::Failed(errno)) => peer.complain_of(&name, errno),
            (State::Creating(coming), ScpDone::Failed(errno)) => {
                peer.complain_of(&coming.name, errno);
            }
            (State::Making { name, .. }, _) => peer.complain_of(&name, Errno::EIO),
            (State::Creating(coming), _) => peer.complain_of(&coming.name, Errno::EIO),
            (State::Closing(mut coming, exit), done) => {
                match done {
                    ScpDone::Finished(None) => {}
                    ScpDone::Finished(Some((what, errno))) => {
                        coming.note(&format!("{what}: "), errno, peer);
                    }
                    _ => coming.note("", Errno::EIO, peer),
                }
                if let Some(code) = exit {
                    return Next::Exit(code);
                }
                self.state = State::Answering(coming);
            }
            (State::Leaving { over: true }, _) => return self.leave_all(peer, paths),
            (State::Leaving { over: false }, _) => {}
            (state, _) => self.state = state,
        }
        Next::Wait
    }

    pub fn completed(
        &mut self,
        tag: u16,
        op: Op,
        result: Result<u32, reactor::Errno>,
        gone: bool,
        (peer, io): (&mut Peer, &mut Io<'_>),
    ) {
        match &mut self.state {
            State::Receiving(_, receiving) => {
                receiving.completed(tag, op, result, gone, (&mut peer.input, io));
            }
            _ => io.dissolve(op),
        }
    }

    /// The channel is gone.
    pub fn cancel(&mut self, peer: &mut Peer, io: &mut Io<'_>) {
        if let State::Receiving(_, receiving) = &mut self.state {
            receiving.cancel(&mut peer.input, io);
        }
    }

    /// The descriptor that is still open; nothing is in flight on it.
    pub fn descriptor(&mut self) -> Option<Fd> {
        match std::mem::replace(&mut self.state, State::Line) {
            State::Receiving(_, receiving) => Some(receiving.fd),
            _ => None,
        }
    }

    fn looked(&mut self, done: &ScpDone, peer: &mut Peer) -> Next {
        self.is_directory = matches!(done, ScpDone::Looked { is_directory: true });
        if self.must_be_directory && !self.is_directory {
            let errno = if let ScpDone::Failed(errno) = done { *errno } else { Errno::ENOTDIR };
            peer.complain_of(&self.target, errno);
            return Next::Exit(1);
        }
        peer.say(&[0]);
        Next::Wait
    }

    fn line(&mut self, line: Line, peer: &mut Peer, paths: &Paths) -> Option<Next> {
        let first = std::mem::replace(&mut self.first, false);
        let line = match line {
            Line::Whole(line) => line,
            Line::Over { in_line: false } => return Some(self.leave_all(peer, paths)),
            Line::Over { in_line: true } => return Some(screw_up("lost connection", peer)),
            Line::Endless => return Some(screw_up("line too long", peer)),
        };
        peer.note("Sink: ", &line);
        match Record::parse(&line) {
            Ok(Record::File { mode, size, name }) => self.file((mode, size, name), peer, paths),
            Ok(Record::Directory { .. }) if !self.recursive => {
                Some(screw_up("received directory without -r", peer))
            }
            Ok(Record::Directory { mode, name }) => self.directory(mode, &name, peer, paths),
            Ok(Record::Times(times)) => {
                self.times = times;
                peer.say(&[0]);
                None
            }
            Ok(Record::End) => {
                peer.say(&[0]);
                match self.leave(paths, false) {
                    Some(job) => Some(Next::Job(job)),
                    None => Some(Next::Exit(u32::from(peer.failed))),
                }
            }
            Ok(Record::Warning) => {
                peer.failed = true;
                None
            }
            Ok(Record::Fatal) => Some(Next::Exit(1)),
            // Something else than scp talks over there.
            Err(Wrong::Unknown) if first => {
                peer.complain(&line);
                Some(Next::Exit(1))
            }
            Err(Wrong::Unknown) => Some(screw_up("expected control record", peer)),
            Err(Wrong::Protocol(why)) => Some(screw_up(why, peer)),
            Err(Wrong::Name(name)) => {
                peer.complain(&[b"error: unexpected filename: ", &name[..]].concat());
                Some(Next::Exit(1))
            }
        }
    }

    fn file(
        &mut self,
        (mode, size, name): (u32, u64, Vec<u8>),
        peer: &mut Peer,
        paths: &Paths,
    ) -> Option<Next> {
        let name = self.place(&name);
        let Some(path) = paths.absolute(&name) else {
            peer.complain_of(&name, Errno::ENOENT);
            return None;
        };
        let mode = self.kept(mode);
        let coming = Coming { name, size, mode, existed: false, regular: true, noted: None };
        self.state = State::Creating(Box::new(coming));
        let umask = self.preserve.then_some(0);
        Some(Next::Job(ScpJob::Create { path, mode: mode | OWNER_WRITES, umask, size }))
    }

    fn directory(
        &mut self,
        mode: u32,
        name: &[u8],
        peer: &mut Peer,
        paths: &Paths,
    ) -> Option<Next> {
        let name = self.place(name);
        let path = paths.absolute(&name).filter(|_| self.frames.len() < SCP_DEPTH_MAX);
        let Some(path) = path else {
            peer.complain_of(&name, Errno::ENAMETOOLONG);
            return None;
        };
        let mode = self.kept(mode);
        self.state = State::Making { name, mode };
        Some(Next::Job(ScpJob::MakeDirectory { path, mode, preserve: self.preserve }))
    }

    /// The end of a file: `whole` when all its bytes have come.
    fn finish(&mut self, coming: &Coming, fd: Fd, whole: bool) -> Finish {
        let opened_with = coming.mode | OWNER_WRITES;
        let mode = match self.preserve {
            true => coming.existed || coming.mode != opened_with,
            false => !coming.existed && coming.mode != opened_with,
        };
        let good = whole && coming.noted.is_none();
        Finish {
            fd,
            size: (good && coming.regular).then_some(coming.size),
            mode: (whole && mode).then_some(coming.mode),
            times: if good { self.times.take() } else { None },
        }
    }

    /// The name of something that comes.
    fn place(&self, name: &[u8]) -> Vec<u8> {
        match self.is_directory {
            true if self.target == b"/" => [b"/", name].concat(),
            true => [&self.target[..], b"/", name].concat(),
            false => self.target.clone(),
        }
    }

    /// Without -p the umask takes its part of a mode, and nobody gets set-id bits.
    fn kept(&self, mode: u32) -> u32 {
        if self.preserve { mode } else { mode & !(process_umask() | SPECIAL_BITS) }
    }

    /// Goes out of the innermost directory; `None` when there is none.
    fn leave(&mut self, paths: &Paths, over: bool) -> Option<ScpJob> {
        let Frame { outer, mode, times } = self.frames.pop()?;
        let (target, is_directory) = outer;
        let left = std::mem::replace(&mut self.target, target);
        self.is_directory = is_directory;
        self.state = State::Leaving { over };
        let path = paths.absolute(&left).unwrap_or_default();
        Some(ScpJob::FinishDirectory { path, mode, times })
    }

    /// The client has ended: every directory is left, then the session.
    fn leave_all(&mut self, peer: &Peer, paths: &Paths) -> Next {
        match self.leave(paths, true) {
            Some(job) => Next::Job(job),
            None => Next::Exit(u32::from(peer.failed)),
        }
    }
}

fn screw_up(why: &str, peer: &mut Peer) -> Next {
    peer.complain(format!("protocol error: {why}").as_bytes());
    Next::Exit(1)
}
