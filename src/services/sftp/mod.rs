//! The SFTP subsystem (draft-ietf-secsh-filexfer-02 and OpenSSH's extensions), in process.
//!
//! Requests are read off the channel into a bounded `waiting` queue. READs read the file into the
//! very places of the packets that carry it (`reads`); the data of WRITEs goes to the file out of
//! the buffers it was received in (`writes`); whatever needs a path or may wait for a disk is a
//! job for a worker ([`fs`]). What only looks runs side by side, WRITEs run side by side, and
//! everything else waits for all that came before it (draft §4.1).
//!
//! Replies are those of OpenSSH's sftp-server, status codes and long names included. On purpose it
//! differs in this:
//! - a request that is malformed, too long or of an unknown kind is answered (BAD_MESSAGE or
//!   OP_UNSUPPORTED), and the session goes on; an impossible length or a request before INIT ends it;
//! - a path with a NUL in it is a BAD_MESSAGE;
//! - RENAME never replaces anything, not even a dangling link by a directory;
//! - FIFOs and sockets are not opened; nor are this process's own files under /proc, and links that
//!   the kernel makes up there are not followed;
//! - copy-data refuses a source that is the target under another name or is not a plain file, and
//!   says EOF when the source ended early;
//! - clients that give SYMLINK's paths in the draft's order are known by name, and served so;
//! - open handles are capped at [`SFTP_HANDLES_MAX`](crate::limits::SFTP_HANDLES_MAX).

mod attrs;
mod copy;
mod desk;
mod directory;
pub mod fs;
mod handles;
mod hash;
mod input;
mod intake;
mod jobs;
mod longname;
mod moving;
mod open;
mod options;
mod reads;
mod realpath;
mod replies;
mod status;
mod stdio;
mod waiting;
mod watch;
mod writes;

pub use copy::Copy;
pub(super) use directory::records as directory_records;
pub use fs::{FsDone, FsJob, Subject};
pub(super) use fs::{account, base, borrow, retry};
pub use hash::hash_blocks;
pub(super) use input::Input;
pub(super) use intake::absolute;
pub use longname::{AccountNames, day_and_time};
pub(super) use open::refuse_own_process;
pub use open::{FileId, Opened};
pub use options::{BadOption, Flags, Options, request_names};
pub(super) use realpath::real_path;
pub use status::Failure;
pub use stdio::{Answer, Note, Setting, serve};
pub(super) use writes::{Patience, discard, drop_front};

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use slab::Slab;

use self::desk::{Desk, Running};
use self::handles::{HandleName, Handles};
use self::reads::Reads;
use self::replies::Replies;
use self::waiting::{Queue, Waiting, What};
use self::writes::{Taken, Writes};
use crate::base::Instant;
use crate::limits::{
    SFTP_LOOKS_MAX, SFTP_PACKET_BYTES_MAX, SFTP_READS_MAX, SFTP_REQUEST_BYTES_MAX,
    SFTP_WRITE_OPS_MAX,
};
use crate::reactor::{self, Chunk, Op};
use crate::services::{Done, Io, Root, Service, forward};
use crate::wire::sftp::{Request, StatusCode, WriteHeader, kind};

const READ_TAGS: u16 = 0;
const WRITE_TAGS: u16 = 0x100;
const FLUSH_TAG: u16 = 0x200;
const JOB_TAGS: u16 = 0x300;
/// Length, kind and id: enough to answer a request that is skipped.
const FRONT_BYTES: usize = 9;
/// How often an operation that was interrupted is asked for again.
pub(super) const RETRIES_MAX: u8 = 64;
/// Exit statuses: a clean end, and a client that does not speak the protocol.
const EXIT_CLEAN: u32 = 0;
const EXIT_BAD_PEER: u32 = 11;

/// One SFTP session on one channel.
#[derive(Debug)]
pub struct Sftp {
    desk: Desk,
    state: State,
    /// The peer has sent EOF.
    input_over: bool,
    reading: Reading,
    input: Input,
    waiting: Queue,
    jobs: Slab<Running>,
    reads: Reads,
    writes: Writes,
    /// The request for which an fsync is under way, and how often it was tried.
    flushing: Option<(u32, u8)>,
    /// Nothing is to be begun: it is about to go on in another process.
    halted: bool,
    /// For that process: another descriptor of the directory that is the root, if that is open.
    directory: Option<OwnedFd>,
    /// When everything had been answered.
    rests_since: Option<Instant>,
    /// How long after that the client asked again, the last time: its way there and back, or longer.
    turn: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before INIT.
    Fresh,
    /// INIT has come; the base is being looked up, without which no path means anything.
    Greeting,
    Serving,
    /// Takes no more requests, finishes what it has, then exits so.
    Ending(u32),
    Ended,
    /// The channel is gone.
    Gone,
}

/// Where in the byte stream the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Request,
    WriteData {
        /// Bytes behind the data.
        trailing: u32,
    },
    /// The rest of a request that has been answered already.
    Skip(u32),
}

/// What one step of reading led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Onward,
    /// More bytes, or something else, must come first.
    Stuck,
}

impl Sftp {
    /// A session for an account. Nothing is looked at before the client says INIT.
    /// Paths begin at `root`.
    pub fn new(root: Root, home: &Path, user: &str, options: Options) -> Sftp {
        let start = options.start_directory(home, user);
        let home = CString::new(home.as_os_str().as_bytes()).unwrap_or_default();
        Sftp {
            desk: Desk::new(root, home, start, options),
            state: State::Fresh,
            input_over: false,
            reading: Reading::Request,
            input: Input::default(),
            waiting: Queue::default(),
            jobs: Slab::new(),
            reads: Reads::default(),
            writes: Writes::default(),
            flushing: None,
            halted: false,
            directory: None,
            rests_since: None,
            turn: None,
        }
    }

    /// How the client identified itself.
    pub fn know_client(&mut self, ident: &[u8]) {
        self.desk.options.know_client(ident);
    }

    /// Somebody keeps an audit.
    pub fn watch(&mut self) {
        self.desk.watch = Some(Box::default());
    }

    fn tell(&mut self, io: &mut Io<'_>) {
        if let Some(watch) = &mut self.desk.watch {
            watch.take().into_iter().for_each(|event| io.note(forward::Note::File(event)));
        }
    }

    /// Goes as far as what has come and what is free allow.
    fn advance(&mut self, io: &mut Io<'_>) {
        if matches!(self.state, State::Ended | State::Gone) {
            return;
        }
        loop {
            self.desk.replies.flush(!self.reads.is_empty(), io);
            if self.stands_still() {
                break;
            }
            let started = self.start_waiting(io);
            let mut read = false;
            while self.read_step(io) == Step::Onward {
                read = true;
            }
            if !started && !read {
                break;
            }
        }
        if self.halted {
            self.writes.hurry(&mut self.input, io);
        }
        self.tell(io);
        self.input.report(io);
        let has_all = self.input.is_empty() && self.input.partial().is_empty();
        if self.rests_since.is_none() && has_all && self.is_answered() {
            self.rests_since = Some(io.now());
        }
        if self.input.is_empty() {
            io.awaits(self.writes.awaited());
        }
        self.finish(io);
    }

    /// Reads one request, or a part of one.
    fn read_step(&mut self, io: &mut Io<'_>) -> Step {
        match self.state {
            State::Fresh | State::Serving => {}
            State::Greeting => return Step::Stuck,
            State::Ending(_) | State::Ended | State::Gone => {
                self.input.discard(io);
                return Step::Stuck;
            }
        }
        match self.reading {
            Reading::Request => self.read_request(io),
            Reading::WriteData { trailing } => {
                match self.writes.take(&mut self.input, &mut self.desk.replies, io) {
                    Taken::All => self.reading = Reading::Skip(trailing),
                    Taken::Hungry | Taken::Blocked => return Step::Stuck,
                }
                Step::Onward
            }
            Reading::Skip(left) => {
                let left = left - self.input.skip(left, io);
                self.reading = if left == 0 { Reading::Request } else { Reading::Skip(left) };
                if left == 0 { Step::Onward } else { Step::Stuck }
            }
        }
    }

    fn read_request(&mut self, io: &mut Io<'_>) -> Step {
        if self.waiting.is_full() || !self.input.fill(FRONT_BYTES, io) {
            return Step::Stuck;
        }
        let front = self.input.partial();
        let (Some([a, b, c, d, kind]), Some(id)) = (front.first_chunk::<5>(), front.get(5..9))
        else {
            return Step::Stuck;
        };
        let (len, kind) = (u32::from_be_bytes([*a, *b, *c, *d]), *kind);
        let id = id.try_into().map_or(0, u32::from_be_bytes);
        // An id, or INIT's version, is the least there is.
        let framed = (5..=SFTP_PACKET_BYTES_MAX).contains(&len);
        if !framed || (self.state == State::Fresh && kind != kind::INIT) {
            self.state = State::Ending(EXIT_BAD_PEER);
            return Step::Onward;
        }
        if kind == kind::WRITE {
            return self.read_write(id, len, io);
        }
        if len > SFTP_REQUEST_BYTES_MAX {
            return self.refuse(id, len, StatusCode::BadMessage);
        }
        let total = 4 + len as usize;
        if !self.input.fill(total, io) {
            return Step::Stuck;
        }
        let packet = self.input.partial().get(4..).unwrap_or(&[]);
        let waiting = match Request::parse(packet) {
            Ok(request) => intake::wait(&request, &self.desk.base, &self.desk.options),
            Err(_) if kind == kind::INIT => {
                self.state = State::Ending(EXIT_BAD_PEER);
                return Step::Onward;
            }
            Err(_) => Waiting { id, what: What::Status(StatusCode::BadMessage) },
        };
        self.input.clear_partial();
        if kind == kind::INIT {
            self.greet(io);
        }
        self.waiting.push(waiting, total);
        Step::Onward
    }

    fn greet(&mut self, io: &Io<'_>) {
        if self.state == State::Fresh {
            self.desk.handles = Handles::starting_at(io.now().nanos() as u32);
        }
        self.state = State::Greeting;
    }

    /// Reads a WRITE up to its data, which is taken when everything before it is done: data that
    /// cannot be written yet stays where it is, and its window is not granted again.
    fn read_write(&mut self, id: u32, len: u32, io: &mut Io<'_>) -> Step {
        if (len as usize) < FRONT_BYTES {
            return self.refuse(id, len, StatusCode::BadMessage);
        }
        if !self.desk.options.permit("write") {
            return self.refuse(id, len, StatusCode::PermissionDenied);
        }
        if !self.input.fill(FRONT_BYTES + 4, io) {
            return Step::Stuck;
        }
        let total = match WriteHeader::total(self.input.partial()) {
            Ok(total) if total <= 4 + len as usize => total,
            _ => return self.refuse(id, len, StatusCode::BadMessage),
        };
        if !self.input.fill(total, io) {
            return Step::Stuck;
        }
        let Ok(header) = WriteHeader::parse(self.input.partial()) else {
            return self.refuse(id, len, StatusCode::BadMessage);
        };
        let busy = !self.waiting.is_empty() || !self.is_idle() || !self.desk.replies.is_empty();
        if busy || self.writes.is_full() {
            return Step::Stuck;
        }
        let name = HandleName::parse(header.handle);
        let refused = self.desk.admit_write(name, header.offset, header.len).err();
        let file = self.desk.handles.file(name);
        self.writes.begin(header.id, (file, refused), header.offset, header.len);
        self.reading = Reading::WriteData { trailing: header.trailing };
        self.input.clear_partial();
        Step::Onward
    }

    /// Answers with `code` and skips the rest of a request that is too long, makes no sense or is
    /// not permitted. The frame is sound, so the session goes on.
    fn refuse(&mut self, id: u32, len: u32, code: StatusCode) -> Step {
        let have = self.input.partial().len();
        let left = (4 + len).saturating_sub(have as u32);
        self.input.clear_partial();
        self.waiting.push(Waiting { id, what: What::Status(code) }, FRONT_BYTES);
        self.reading = Reading::Skip(left);
        Step::Onward
    }

    /// Nothing that was asked is unanswered.
    fn is_answered(&self) -> bool {
        let busy = !self.is_idle() || !self.writes.is_empty() || !self.waiting.is_empty();
        !busy && self.desk.replies.is_empty()
    }

    /// Ends the session once there is nothing left to do or to say.
    fn finish(&mut self, io: &mut Io<'_>) {
        if self.halted {
            return;
        }
        let over = self.input_over && self.input.is_empty();
        if over {
            self.writes.abandon_body(&mut self.input, &mut self.desk.replies, io);
        }
        if !self.is_answered() {
            return;
        }
        let code = match self.state {
            State::Ending(code) => code,
            _ if over => EXIT_CLEAN,
            _ => return,
        };
        self.state = State::Ended;
        self.input.discard(io);
        self.input.report(io);
        io.exit_status(code);
        io.eof();
        io.close();
    }

    fn flushed(&mut self, op: Op, result: Result<u32, reactor::Errno>, io: &mut Io<'_>) {
        let Some((id, tries)) = self.flushing.take() else { return };
        let what = match result {
            Ok(_) => StatusCode::Ok.into(),
            Err(errno) => {
                let errno = Errno::from_raw(errno.0);
                let again = is_transient(errno, true) && tries < RETRIES_MAX;
                if again && self.state != State::Gone {
                    self.flushing = Some((id, tries + 1));
                    return io.submit(FLUSH_TAG, op);
                }
                Failure::from(errno)
            }
        };
        self.desk.replies.status(id, what);
    }
}

impl Service for Sftp {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        let over = matches!(self.state, State::Ending(_) | State::Ended | State::Gone);
        if over || extended.is_some() {
            return io.discard(data);
        }
        if let Some(since) = self.rests_since.take() {
            self.turn = Some(io.now().since(since));
        }
        self.input.hold(data, io);
        self.advance(io);
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        self.input_over = true;
        self.advance(io);
    }

    fn on_completion(
        &mut self,
        tag: u16,
        op: Op,
        result: Result<u32, reactor::Errno>,
        io: &mut Io<'_>,
    ) {
        let gone = self.state == State::Gone;
        if let (Some(watch), Ok(count)) = (&mut self.desk.watch, &result) {
            watch.moved(&op, *count);
        }
        match tag {
            WRITE_TAGS..FLUSH_TAG => {
                let key = usize::from(tag - WRITE_TAGS);
                let rest = (&mut self.input, &mut self.desk.replies, &mut *io);
                self.writes.completed(key, op, result, gone, rest);
            }
            FLUSH_TAG => self.flushed(op, result, io),
            _ => {
                let key = usize::from(tag - READ_TAGS);
                self.reads.completed(key, op, result, gone, (&mut self.desk.replies, &mut *io));
            }
        }
        self.advance(io);
    }

    fn on_done(&mut self, tag: u16, done: Done, io: &mut Io<'_>) {
        let done = match done {
            Done::Fs(done) => done,
            // Nobody knows how it went; the client shall not wait for ever.
            _ => Box::new(FsDone::Failed(Failure::new(StatusCode::Failure))),
        };
        if self.state == State::Gone {
            match *done {
                FsDone::Opened(Opened { fd, .. }) | FsDone::OpenedDirectory(fd) => io.close_fd(fd),
                _ => {}
            }
            self.job_lost(usize::from(tag.saturating_sub(JOB_TAGS)), &done);
            return;
        }
        self.job_done(usize::from(tag.saturating_sub(JOB_TAGS)), *done, io);
        self.advance(io);
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        self.advance(io);
    }

    fn on_close(&mut self, io: &mut Io<'_>) {
        self.state = State::Gone;
        self.input.discard(io);
        self.writes.cancel(&mut self.input, io);
        self.reads.cancel(io);
        if self.flushing.is_some() {
            io.cancel(FLUSH_TAG);
        }
        self.waiting.clear();
        self.desk.replies = Replies::default();
    }

    fn release(&mut self, io: &mut Io<'_>) {
        if let Some(watch) = &mut self.desk.watch {
            watch.end();
        }
        self.tell(io);
        for handle in self.desk.handles.drain() {
            io.close_fd(handle.fd());
        }
    }
}

/// Worth asking again: the call was interrupted, not refused. A file that is not a plain one may
/// say "again" for as long as nobody feeds it.
pub(super) fn is_transient(errno: Errno, regular: bool) -> bool {
    match errno {
        Errno::EINTR | Errno::ECANCELED => true,
        Errno::EAGAIN => regular,
        _ => false,
    }
}

const _: () = assert!(SFTP_READS_MAX <= WRITE_TAGS as usize);
const _: () = assert!(SFTP_WRITE_OPS_MAX <= (FLUSH_TAG - WRITE_TAGS) as usize);
const _: () = assert!(SFTP_LOOKS_MAX <= 0x100);

#[cfg(test)]
mod tests;
