use super::copy::Copy;
use super::fs::{FsDone, FsJob, Subject};
use super::handles::{Handle, HandleName, OpenFile};
use super::intake::writable;
use super::reads::Started;
use super::waiting::{Class, CopyAsk, HandleAsk, Waiting, What};
use super::{EXIT_BAD_PEER, Sftp, State};
use crate::limits::{
    SFTP_DATA_BYTES_MAX, SFTP_HANDLES_MAX, SFTP_LOOKS_MAX, SFTP_NAMES_BYTES_MAX,
    SFTP_PACKET_BYTES_MAX,
};
use crate::reactor::Op;
use crate::services::{Io, Job};
use crate::wire::Writer;
use crate::wire::sftp::{
    Attributes, Extensions, Limits, Names, Reply, StatusCode, VERSION, VfsStatus, extension, open,
    put_name,
};

/// A job that a worker has.
#[derive(Debug)]
pub struct Running {
    id: u32,
    class: Class,
    then: Then,
}

/// What its outcome is for.
#[derive(Debug)]
enum Then {
    Reply,
    Version,
    /// With the wire's flags.
    Handle(u32),
    Entries(HandleName),
    Copy(Box<Copying>),
}

#[derive(Debug)]
struct Copying {
    next: Copy,
    /// Zero length on the wire: the end of the source is success.
    until_end: bool,
}

impl Sftp {
    /// Starts requests in order, as far as those before them allow. True when any was.
    pub(super) fn start_waiting(&mut self, io: &mut Io<'_>) -> bool {
        let mut started = false;
        while let Some(next) = self.waiting.front() {
            // What cannot be sent is not added to: replies wait for the client to read them.
            if !self.replies.is_empty() || !self.may_start(&next.what) {
                break;
            }
            if let Waiting { id, what: What::Read { handle, offset, len } } = *next {
                if self.start_read(id, (handle, offset, len), io) == Started::NotYet {
                    break;
                }
                self.waiting.pop();
            } else if let Some(next) = self.waiting.pop() {
                self.start(next, io);
            }
            started = true;
        }
        started
    }

    /// Nothing that was started is unanswered, writes aside.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.reads.is_empty() && self.flushing.is_none()
    }

    fn may_start(&self, what: &What) -> bool {
        if !self.writes.is_empty() || self.flushing.is_some() {
            return false;
        }
        match what.class() {
            Class::Alone => self.is_idle(),
            Class::Look => {
                let alone = self.jobs.iter().any(|(_, job)| job.class == Class::Alone);
                !alone && self.jobs.len() < SFTP_LOOKS_MAX
            }
        }
    }

    fn start_read(
        &mut self,
        id: u32,
        (handle, offset, len): (HandleName, u64, u32),
        io: &mut Io<'_>,
    ) -> Started {
        match self.handles.file(handle) {
            Some(file) => self.reads.start(id, file, (offset, len), &mut self.replies, io),
            None => {
                self.replies.status(id, StatusCode::Failure);
                Started::Yes
            }
        }
    }

    fn start(&mut self, Waiting { id, what }: Waiting, io: &mut Io<'_>) {
        match what {
            What::Init => {
                let job = FsJob::Base { home: self.home.clone() };
                self.run(id, Class::Alone, Then::Version, job, io);
            }
            What::Limits => self.reply_limits(id),
            What::Status(code) => self.replies.status(id, code),
            What::Job { class, job } => {
                let then = match *job {
                    FsJob::Open { flags, .. } => Then::Handle(flags),
                    FsJob::OpenDirectory { .. } => Then::Handle(0),
                    _ => Then::Reply,
                };
                if matches!(then, Then::Handle(_)) && self.handles.is_full() {
                    return self.replies.status(id, StatusCode::Failure);
                }
                self.run(id, class, then, *job, io);
            }
            What::Handle { name, ask } => self.start_on_handle(id, name, ask, io),
            What::Copy(copy) => self.start_copy(id, *copy, io),
            // Started by `start_waiting`, which keeps it when it cannot be.
            What::Read { .. } => self.replies.status(id, StatusCode::Failure),
        }
    }

    fn start_on_handle(&mut self, id: u32, name: HandleName, ask: HandleAsk, io: &mut Io<'_>) {
        let file = self.handles.file(name).map(|file| file.fd);
        let (class, then, job) = match (ask, file) {
            (HandleAsk::Close, _) => match self.handles.remove(name) {
                Some(handle) => (Class::Alone, Then::Reply, FsJob::Close { fd: handle.fd() }),
                None => return self.replies.status(id, StatusCode::NoSuchFile),
            },
            (HandleAsk::Fsync, Some(fd)) => {
                self.flushing = Some((id, 0));
                return io.submit(super::FLUSH_TAG, Op::Fsync { fd });
            }
            (HandleAsk::Fsync, None) => return self.replies.status(id, StatusCode::NoSuchFile),
            (HandleAsk::ReadDirectory, _) => match self.handles.find(name) {
                Some(Handle::Directory { fd, accounts }) => {
                    let job = FsJob::ReadDirectory { fd: *fd, accounts: std::mem::take(accounts) };
                    (Class::Alone, Then::Entries(name), job)
                }
                _ => return self.replies.status(id, StatusCode::Failure),
            },
            (_, None) => return self.replies.status(id, StatusCode::Failure),
            (HandleAsk::Stat, Some(fd)) => {
                (Class::Look, Then::Reply, FsJob::Stat { subject: Subject::Handle(fd) })
            }
            (HandleAsk::VfsStat, Some(fd)) => {
                (Class::Look, Then::Reply, FsJob::VfsStat { subject: Subject::Handle(fd) })
            }
            (HandleAsk::SetStat(attributes), Some(fd)) => {
                let subject = Subject::Handle(fd);
                (Class::Alone, Then::Reply, FsJob::SetStat { subject, attributes: *attributes })
            }
        };
        self.run(id, class, then, job, io);
    }

    /// SECURITY 113: a file is not copied onto itself, and what has no end is not copied at all.
    fn start_copy(&mut self, id: u32, ask: CopyAsk, io: &mut Io<'_>) {
        let (from, to) = (self.handles.file(ask.from.0), self.handles.file(ask.to.0));
        let (Some(from), Some(to)) = (from, to) else {
            return self.replies.status(id, StatusCode::Failure);
        };
        if from.file == to.file || !from.regular {
            return self.replies.status(id, StatusCode::Failure);
        }
        let until_end = ask.len == 0;
        let next = Copy {
            from: from.fd,
            from_offset: ask.from.1,
            to: to.fd,
            to_offset: ask.to.1,
            len: if until_end { u64::MAX } else { ask.len },
        };
        let then = Then::Copy(Box::new(Copying { next, until_end }));
        self.run(id, Class::Alone, then, FsJob::Copy(next), io);
    }

    fn run(&mut self, id: u32, class: Class, then: Then, job: FsJob, io: &mut Io<'_>) {
        let key = self.jobs.insert(Running { id, class, then });
        io.job(super::JOB_TAGS + key as u16, Job::Fs(Box::new(job)));
    }

    /// A worker is done.
    pub(super) fn job_done(&mut self, key: usize, done: FsDone, io: &mut Io<'_>) {
        let Some(Running { id, class, then }) = self.jobs.try_remove(key) else { return };
        match (then, done) {
            // Without a base no path means anything.
            (Then::Version, FsDone::Failed(_)) => self.state = State::Ending(EXIT_BAD_PEER),
            (_, FsDone::Failed(failure)) => {
                let reply = Reply::Status { code: failure.code, text: failure.text.as_bytes() };
                self.replies.put(id, reply);
            }
            (Then::Version, FsDone::Base(base)) => {
                self.base = base;
                self.state = State::Serving;
                self.reply_version();
            }
            (Then::Handle(flags), done) => self.reply_handle(id, flags, done),
            (Then::Entries(name), done) => self.reply_entries(id, name, done),
            (Then::Copy(copying), FsDone::Copied { bytes, ended }) => {
                self.continue_copy(id, class, (copying, bytes, ended), io);
            }
            (_, done) => self.reply_done(id, &done),
        }
    }

    fn reply_done(&mut self, id: u32, done: &FsDone) {
        match done {
            FsDone::Done => self.replies.status(id, StatusCode::Ok),
            FsDone::Attributes(attributes) => self.replies.put(id, Reply::Attributes(*attributes)),
            FsDone::Path(path) => {
                let mut entry = vec![0; 2 * path.len() + 16];
                let mut out = Writer::new(&mut entry);
                if put_name(&mut out, path, path, &Attributes::EMPTY).is_ok() {
                    let names = Names::from_encoded(1, out.written());
                    return self.replies.put(id, Reply::Names(names));
                }
                self.replies.status(id, StatusCode::Failure);
            }
            FsDone::VfsStatus(status) => {
                let mut space = [0; VfsStatus::ENCODED_BYTES];
                let mut out = Writer::new(&mut space);
                let _ = status.encode(&mut out);
                self.replies.put(id, Reply::Extended(out.written()));
            }
            FsDone::Names { users, groups } => {
                let mut space = vec![0; users.len() + groups.len() + 8];
                let mut out = Writer::new(&mut space);
                let _ = out.string(users).and_then(|()| out.string(groups));
                self.replies.put(id, Reply::Extended(out.written()));
            }
            // No job is answered with another's outcome.
            _ => self.replies.status(id, StatusCode::Failure),
        }
    }

    fn reply_version(&mut self) {
        let mut space = [0; 512];
        let extensions = Extensions::collect(&extension::OFFERED, &mut space);
        let extensions = extensions.unwrap_or(Extensions::NONE);
        self.replies.put(0, Reply::Version { version: VERSION, extensions });
    }

    fn reply_limits(&mut self, id: u32) {
        let limits = Limits {
            packet_bytes: SFTP_PACKET_BYTES_MAX.into(),
            read_bytes: SFTP_DATA_BYTES_MAX.into(),
            write_bytes: SFTP_DATA_BYTES_MAX.into(),
            open_handles: SFTP_HANDLES_MAX as u64,
        };
        let mut space = [0; Limits::ENCODED_BYTES];
        let mut out = Writer::new(&mut space);
        let _ = limits.encode(&mut out);
        self.replies.put(id, Reply::Extended(out.written()));
    }

    fn reply_handle(&mut self, id: u32, flags: u32, done: FsDone) {
        let handle = match done {
            FsDone::Opened(opened) => Handle::File(OpenFile {
                fd: opened.fd,
                file: opened.file,
                regular: opened.regular,
                writable: writable(flags),
                append: flags & open::APPEND != 0,
            }),
            FsDone::OpenedDirectory(fd) => Handle::Directory { fd, accounts: Box::default() },
            done => return self.reply_done(id, &done),
        };
        let name = self.handles.insert(handle);
        self.replies.put(id, Reply::Handle(&name.to_bytes()));
    }

    fn reply_entries(&mut self, id: u32, name: HandleName, done: FsDone) {
        let accounts = match done {
            FsDone::Entries { count, encoded, accounts } => {
                debug_assert!(encoded.len() <= SFTP_NAMES_BYTES_MAX);
                self.replies.put(id, Reply::Names(Names::from_encoded(count, &encoded)));
                accounts
            }
            FsDone::EndOfDirectory { accounts } => {
                self.replies.status(id, StatusCode::Eof);
                accounts
            }
            done => return self.reply_done(id, &done),
        };
        if let Some(Handle::Directory { accounts: place, .. }) = self.handles.find(name) {
            *place = accounts;
        }
    }

    fn continue_copy(
        &mut self,
        id: u32,
        class: Class,
        (mut copying, bytes, ended): (Box<Copying>, u64, bool),
        io: &mut Io<'_>,
    ) {
        let next = &mut copying.next;
        next.len = next.len.saturating_sub(bytes);
        if next.len == 0 || ended {
            let whole = next.len == 0 || copying.until_end;
            return self.replies.status(id, if whole { StatusCode::Ok } else { StatusCode::Eof });
        }
        next.from_offset = next.from_offset.saturating_add(bytes);
        next.to_offset = next.to_offset.saturating_add(bytes);
        let job = FsJob::Copy(*next);
        self.run(id, class, Then::Copy(copying), job, io);
    }
}
