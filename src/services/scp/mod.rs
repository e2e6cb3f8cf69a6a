//! scp's own protocol (`scp -O`), in process: what `scp -f` and `scp -t` do as programs.
//!
//! An exec request that is exactly such a command line is read here as a shell would read it
//! ([`Command`]); tildes and patterns are expanded by us, so no shell runs and names mean nothing
//! but themselves (SECURITY 116). Every other command line is the shell's.
//!
//! The two sides are state machines: `source` walks and sends, `sink` takes lines and writes. Bulk
//! goes as in the sftp service: files are read into the places of the packets that carry them
//! (`sending`) and written out of the buffers they came in (`receiving`). Paths are a worker's
//! ([`jobs`]), one job at a time.
//!
//! Texts, modes, times and exit statuses are those of OpenSSH's scp. On purpose it differs in this:
//! - FIFOs and sockets are not written to; nor are this process's own files under /proc touched;
//! - a name with a NUL in it is refused, and a control line has a bound;
//! - directories may be [`SCP_DEPTH_MAX`](crate::limits::SCP_DEPTH_MAX) deep;
//! - the account's start-up files do not run, so a umask set there does not count.

mod command;
mod glob;
pub mod jobs;
mod peer;
mod receiving;
mod record;
mod sending;
mod sink;
mod source;

pub use command::{Command, Side, Word, is_plain_shell};
pub use glob::Pattern;
pub use jobs::{ScpDone, ScpJob};

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use self::peer::Peer;
use self::sink::Sink;
use self::source::Source;
use crate::limits::{SCP_READS_MAX, SCP_WRITE_OPS_MAX};
use crate::reactor::{Chunk, Errno, Op};
use crate::services::sftp::absolute;
use crate::services::{Done, Io, Job, Root, Service};

const READ_TAGS: u16 = 0;
const WRITE_TAGS: u16 = 0x100;
const JOB_TAG: u16 = 0x200;
/// What a shell says when a command line becomes too long.
const EXIT_TOO_LONG: u32 = 126;

/// One copy on one channel.
#[derive(Debug)]
pub struct Scp {
    command: Command,
    peer: Peer,
    paths: Paths,
    work: Work,
    /// A worker has a job of ours.
    busy: bool,
    state: State,
}

#[derive(Debug)]
enum Work {
    /// What the words of the command line mean is being found out.
    Expanding,
    Source(Box<Source>),
    Sink(Box<Sink>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Says what is left to say, then exits so.
    Ending(u32),
    Ended(u32),
    /// The channel is gone.
    Gone,
}

/// Where absolute paths begin, and where relative ones start.
#[derive(Debug)]
struct Paths {
    root: Root,
    base: Box<[u8]>,
}

/// What a side needs in order to go on.
#[derive(Debug)]
enum Next {
    Wait,
    Job(ScpJob),
    Exit(u32),
}

impl Paths {
    /// `None` for what no system call takes.
    fn absolute(&self, name: &[u8]) -> Option<CString> {
        absolute(&self.base, name)
    }
}

impl Scp {
    /// Starts what `command` asks for, for an account with this home. Paths begin at `root`.
    pub fn start(command: Command, root: Root, home: &Path, io: &mut Io<'_>) -> Scp {
        let home = CString::new(home.as_os_str().as_bytes()).unwrap_or_default();
        let words = command.words.clone().into_boxed_slice();
        let mut peer = Peer::default();
        peer.verbose = command.verbose;
        let paths = Paths { root, base: Box::new(*b"/") };
        let state = State::Running;
        let mut scp = Scp { command, peer, paths, work: Work::Expanding, busy: false, state };
        scp.submit(ScpJob::Expand { home, words }, io);
        scp
    }

    /// How it went, for the log.
    pub fn outcome(&self) -> String {
        let side = if self.command.side == Side::Source { "scp -f" } else { "scp -t" };
        match self.state {
            State::Ending(code) | State::Ended(code) => format!("{side}: exit status {code}"),
            State::Running | State::Gone => format!("{side}: closed before its end"),
        }
    }

    fn submit(&mut self, job: ScpJob, io: &mut Io<'_>) {
        self.busy = true;
        io.job(JOB_TAG, Job::Scp(self.paths.root.clone(), Box::new(job)));
    }

    /// Goes as far as what has come and what is free allow.
    fn advance(&mut self, io: &mut Io<'_>) {
        if matches!(self.state, State::Ended(_) | State::Gone) {
            return;
        }
        loop {
            self.peer.flush(io);
            if self.state != State::Running || self.busy {
                break;
            }
            let next = match &mut self.work {
                Work::Expanding => break,
                Work::Source(source) => source.advance(&mut self.peer, &self.paths, io),
                Work::Sink(sink) => sink.advance(&mut self.peer, &self.paths, io),
            };
            if !self.follow(next, io) {
                break;
            }
        }
        self.peer.flush(io);
        if let State::Ending(_) = self.state {
            self.peer.input.discard(io);
        }
        self.peer.input.report(io);
        self.finish(io);
    }

    /// True when there may be more to do at once.
    fn follow(&mut self, next: Next, io: &mut Io<'_>) -> bool {
        match next {
            Next::Wait => return false,
            Next::Job(job) => self.submit(job, io),
            Next::Exit(code) => self.state = State::Ending(code),
        }
        true
    }

    /// Ends the session once everything has been said.
    fn finish(&mut self, io: &mut Io<'_>) {
        let State::Ending(code) = self.state else { return };
        if self.peer.flush(io) {
            self.state = State::Ended(code);
            io.exit_status(code);
            io.eof();
            io.close();
        }
    }

    /// The names on the command line are known.
    fn expanded(&mut self, done: ScpDone) {
        let (root, base, mut names) = match done {
            ScpDone::Expanded { root, base, names } => (root, base, names),
            ScpDone::TooMany => {
                self.peer.warn("Argument list too long");
                self.state = State::Ending(EXIT_TOO_LONG);
                return;
            }
            _ => {
                self.state = State::Ending(1);
                return;
            }
        };
        self.paths = Paths { root, base };
        let Command { side, recursive, preserve, directory, .. } = self.command;
        self.work = match (side, names.pop()) {
            (Side::Source, last) => {
                names.extend(last);
                Work::Source(Box::new(Source::new(recursive, preserve, names)))
            }
            (Side::Sink, Some(target)) if names.is_empty() => {
                Work::Sink(Box::new(Sink::new((recursive, preserve, directory), target)))
            }
            (Side::Sink, _) => {
                self.peer.complain(b"ambiguous target");
                self.state = State::Ending(1);
                return;
            }
        };
    }
}

impl Service for Scp {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        if self.state != State::Running || extended.is_some() {
            return io.discard(data);
        }
        self.peer.input.hold(data, io);
        self.advance(io);
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        self.peer.input_over = true;
        self.advance(io);
    }

    fn on_completion(&mut self, tag: u16, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        let gone = self.state != State::Running;
        match &mut self.work {
            Work::Source(source) => source.completed(tag, op, result, gone, io),
            Work::Sink(sink) => sink.completed(tag, op, result, gone, (&mut self.peer, io)),
            Work::Expanding => io.dissolve(op),
        }
        self.advance(io);
    }

    fn on_done(&mut self, _tag: u16, done: Done, io: &mut Io<'_>) {
        self.busy = false;
        let done = match done {
            Done::Scp(done) => *done,
            // Nobody knows how it went.
            _ => ScpDone::Failed(nix::errno::Errno::EIO),
        };
        if self.state == State::Gone {
            match done {
                ScpDone::Opened(opened) if opened.fd.0 >= 0 => io.close_fd(opened.fd),
                ScpDone::Created { fd, .. } => io.close_fd(fd),
                _ => {}
            }
            return;
        }
        match &mut self.work {
            Work::Expanding => self.expanded(done),
            Work::Source(source) => source.done(done, &mut self.peer, io),
            Work::Sink(sink) => {
                let next = sink.done(done, &mut self.peer, &self.paths);
                self.follow(next, io);
            }
        }
        self.advance(io);
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        self.advance(io);
    }

    fn on_close(&mut self, io: &mut Io<'_>) {
        if !matches!(self.state, State::Ended(_)) {
            self.state = State::Gone;
        }
        match &mut self.work {
            Work::Source(source) => source.cancel(io),
            Work::Sink(sink) => sink.cancel(&mut self.peer, io),
            Work::Expanding => {}
        }
        self.peer.forget(io);
    }

    fn release(&mut self, io: &mut Io<'_>) {
        let open = match &mut self.work {
            Work::Source(source) => source.descriptors(),
            Work::Sink(sink) => sink.descriptor().into_iter().collect(),
            Work::Expanding => Vec::new(),
        };
        open.into_iter().for_each(|fd| io.close_fd(fd));
    }
}

const _: () = assert!(SCP_READS_MAX <= (WRITE_TAGS - READ_TAGS) as usize);
const _: () = assert!(SCP_WRITE_OPS_MAX <= (JOB_TAG - WRITE_TAGS) as usize);
