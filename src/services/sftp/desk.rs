use std::ffi::CString;

use super::copy::Copy;
use super::fs::{FsDone, FsJob, Subject};
use super::handles::{Handle, HandleName, Handles, OpenFile};
use super::hash::Range;
use super::intake::writable;
use super::options::Options;
use super::replies::Replies;
use super::status::Failure;
use super::waiting::{Class, CopyAsk, HandleAsk, Waiting, What};
use super::watch::Watch;
use crate::limits::{
    SFTP_DATA_BYTES_MAX, SFTP_HANDLES_MAX, SFTP_NAMES_BYTES_MAX, SFTP_PACKET_BYTES_MAX,
};
use crate::reactor::Fd;
use crate::services::FileEvent;
use crate::services::root::Root;
use crate::wire::Writer;
use crate::wire::sftp::{
    Attributes, Extensions, Limits, Names, Reply, StatusCode, VERSION, VfsStatus, extension, open,
    put_name,
};

/// What requests mean, whoever does the work: a shard with its workers, or one thread that does all
/// by itself.
#[derive(Debug)]
pub struct Desk {
    /// Where absolute paths begin; open once INIT has been answered.
    pub root: Root,
    /// Where relative paths start; known once INIT has been answered.
    pub base: Box<[u8]>,
    pub options: Options,
    pub handles: Handles,
    pub replies: Replies,
    /// Where an audit is kept.
    pub watch: Option<Box<Watch>>,
    home: CString,
    /// Instead of the home.
    start: Option<CString>,
}

/// What the start of a request led to.
#[derive(Debug)]
pub enum Begun {
    Answered,
    /// Somebody does this and reports to [`Desk::finish`].
    Job(Running, FsJob),
    /// The file is to be flushed, and the request answered.
    Flush(Fd),
}

/// What the end of a job led to.
#[derive(Debug)]
pub enum Ended {
    Answered,
    /// INIT has been answered: requests are served.
    Greeted,
    /// There is more to do.
    Again(Running, FsJob),
    /// Nothing can be served.
    Failed,
}

/// A job under way.
#[derive(Debug)]
pub struct Running {
    id: u32,
    pub class: Class,
    then: Then,
    /// What an audit will hear of it.
    told: Option<Box<FileEvent>>,
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
    names: (HandleName, HandleName),
    /// Zero length on the wire: the end of the source is success.
    until_end: bool,
}

impl Running {
    /// A request for what is left of a copy, in the place of the one that is under way.
    pub fn rest(&self) -> Option<Waiting> {
        let Then::Copy(copying) = &self.then else { return None };
        let Copying { next, names, until_end } = &**copying;
        let ask = CopyAsk {
            from: (names.0, next.from_offset),
            to: (names.1, next.to_offset),
            len: if *until_end { 0 } else { next.len },
        };
        Some(Waiting { id: self.id, what: What::Copy(Box::new(ask)) })
    }
}

impl Desk {
    pub fn new(root: Root, home: CString, start: Option<CString>, options: Options) -> Desk {
        Desk {
            root,
            base: Box::new(*b"/"),
            options,
            handles: Handles::default(),
            replies: Replies::default(),
            watch: None,
            home,
            start,
        }
    }

    /// Starts a request that is not a READ; those the caller starts.
    pub fn begin(&mut self, Waiting { id, what }: Waiting) -> Begun {
        match what {
            What::Init => {
                let job = FsJob::Base { home: self.home.clone(), start: self.start.clone() };
                return self.job(id, Class::Alone, Then::Version, job);
            }
            What::Limits => self.reply_limits(id),
            What::Status(code) => self.replies.status(id, code),
            What::Forbidden(job) => return self.refuse(id, &job, StatusCode::PermissionDenied),
            What::Job { class, job } => {
                let then = match *job {
                    FsJob::Open { flags, .. } => Then::Handle(flags),
                    FsJob::OpenDirectory { .. } => Then::Handle(0),
                    _ => Then::Reply,
                };
                if matches!(then, Then::Handle(_)) && self.handles.is_full() {
                    return self.refuse(id, &job, StatusCode::Failure);
                }
                return self.job(id, class, then, *job);
            }
            What::Handle { name, ask } => return self.begin_on_handle(id, name, ask),
            What::Copy(copy) => return self.begin_copy(id, *copy),
            What::Read { .. } => self.replies.status(id, StatusCode::Failure),
        }
        Begun::Answered
    }

    fn answer(&mut self, id: u32, code: StatusCode) -> Begun {
        self.replies.status(id, code);
        Begun::Answered
    }

    /// What is asked for is not begun.
    fn refuse(&mut self, id: u32, job: &FsJob, code: StatusCode) -> Begun {
        if let Some(watch) = &mut self.watch {
            watch.refused(job, code);
        }
        self.answer(id, code)
    }

    fn job(&mut self, id: u32, class: Class, then: Then, job: FsJob) -> Begun {
        let told = self.watch.as_mut().and_then(|watch| watch.describe(&job));
        Begun::Job(Running { id, class, then, told }, job)
    }

    fn begin_on_handle(&mut self, id: u32, name: HandleName, ask: HandleAsk) -> Begun {
        let open = self.handles.file(name);
        let file = open.map(|file| file.fd);
        let (class, then, job) = match (ask, file) {
            (HandleAsk::Close, _) => match self.handles.remove(name) {
                Some(handle) => (Class::Alone, Then::Reply, FsJob::Close { fd: handle.fd() }),
                None => return self.answer(id, StatusCode::NoSuchFile),
            },
            (HandleAsk::Fsync, Some(fd)) => return Begun::Flush(fd),
            (HandleAsk::Fsync, None) => return self.answer(id, StatusCode::NoSuchFile),
            (HandleAsk::ReadDirectory, _) => match self.handles.find(name) {
                Some(Handle::Directory { fd, accounts }) => {
                    let job = FsJob::ReadDirectory { fd: *fd, accounts: std::mem::take(accounts) };
                    (Class::Alone, Then::Entries(name), job)
                }
                _ => return self.answer(id, StatusCode::Failure),
            },
            (_, None) => return self.answer(id, StatusCode::Failure),
            // What has no end is not hashed.
            (HandleAsk::Hash { offset, len, block }, Some(fd)) => {
                if open.is_none_or(|file| !file.regular) {
                    return self.answer(id, StatusCode::Failure);
                }
                (Class::Alone, Then::Reply, FsJob::Hash(Range { fd, offset, len, block }))
            }
            (HandleAsk::Stat, Some(fd)) => {
                (Class::Look, Then::Reply, FsJob::Stat { subject: Subject::Handle(fd) })
            }
            (HandleAsk::VfsStat, Some(fd)) => {
                (Class::Look, Then::Reply, FsJob::VfsStat { subject: Subject::Handle(fd) })
            }
            (HandleAsk::SetStat(attributes), Some(fd)) => {
                let subject = Subject::Handle(fd);
                let job = FsJob::SetStat { subject, attributes: *attributes };
                if !self.may_set(name, &attributes) {
                    return self.refuse(id, &job, StatusCode::PermissionDenied);
                }
                (Class::Alone, Then::Reply, job)
            }
        };
        self.job(id, class, then, job)
    }

    /// What a session that may not do everything may do to a file that it has open: what it opened it
    /// for.
    fn may_set(&mut self, name: HandleName, attributes: &Attributes) -> bool {
        if self.root.judged().is_none() {
            return true;
        }
        let Some(Handle::File(file)) = self.handles.find(name) else { return false };
        file.end = attributes.size.unwrap_or(file.end);
        file.writable
    }

    /// A WRITE is about to come: what it adds to its file is taken from the quota.
    pub fn admit_write(&mut self, name: HandleName, offset: u64, len: u32) -> Result<(), Failure> {
        if !self.root.accounts() {
            return Ok(());
        }
        let Some(Handle::File(file)) = self.handles.find(name) else { return Ok(()) };
        let start = if file.append { file.end } else { offset };
        let end = start.saturating_add(len.into());
        if file.regular && file.writable && end > file.end && len > 0 {
            self.root.take_bytes(end - file.end).map_err(Failure::from)?;
            file.end = end;
        }
        Ok(())
    }

    /// SECURITY 113: a file is not copied onto itself, and what has no end is not copied at all.
    fn begin_copy(&mut self, id: u32, ask: CopyAsk) -> Begun {
        let (from, to) = (self.handles.file(ask.from.0), self.handles.file(ask.to.0));
        let (Some(from), Some(to)) = (from, to) else {
            return self.answer(id, StatusCode::Failure);
        };
        // How much that would add shows only behind it.
        if from.file == to.file || !from.regular || self.root.accounts() {
            return self.answer(id, StatusCode::Failure);
        }
        let until_end = ask.len == 0;
        let next = Copy {
            from: from.fd,
            from_offset: ask.from.1,
            to: to.fd,
            to_offset: ask.to.1,
            len: if until_end { u64::MAX } else { ask.len },
        };
        let names = (ask.from.0, ask.to.0);
        let then = Then::Copy(Box::new(Copying { next, names, until_end }));
        self.job(id, Class::Alone, then, FsJob::Copy(next))
    }

    /// An audit hears how a job went.
    pub fn tell(&mut self, running: Running, done: &FsDone) {
        if let (Some(watch), Some(event)) = (&mut self.watch, running.told) {
            watch.tell(*event, done);
        }
    }

    /// A job is done.
    pub fn finish(&mut self, running: Running, done: FsDone) -> Ended {
        let Running { id, class, then, told } = running;
        if let (Some(watch), Some(event)) = (&mut self.watch, told) {
            watch.tell(*event, &done);
        }
        match (then, done) {
            // Without a base no path means anything.
            (Then::Version, FsDone::Failed(_)) => return Ended::Failed,
            (_, FsDone::Failed(failure)) => {
                let reply = Reply::Status { code: failure.code, text: failure.text.as_bytes() };
                self.replies.put(id, reply);
            }
            (Then::Version, FsDone::Base(root, base)) => {
                (self.root, self.base) = (root, base);
                self.reply_version();
                return Ended::Greeted;
            }
            (Then::Handle(flags), done) => self.reply_handle(id, flags, done),
            (Then::Entries(name), done) => self.reply_entries(id, name, done),
            (Then::Copy(copying), FsDone::Copied { bytes, ended }) => {
                return self.continue_copy(id, class, (copying, bytes, ended));
            }
            (_, done) => self.reply_done(id, &done),
        }
        Ended::Answered
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
            FsDone::Hashes(hashes) => {
                let mut space = vec![0; hashes.len() + 4 + extension::CHECK_FILE_HASH.len()];
                let mut out = Writer::new(&mut space);
                let hash = out.string(extension::CHECK_FILE_HASH);
                let _ = hash.and_then(|()| out.bytes(hashes));
                self.replies.put(id, Reply::Extended(out.written()));
            }
            // No job is answered with another's outcome.
            _ => self.replies.status(id, StatusCode::Failure),
        }
    }

    fn reply_version(&mut self) {
        let mut space = [0; 512];
        let extensions = Extensions::collect(&self.options.offered(), &mut space);
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
                end: opened.size,
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
    ) -> Ended {
        let next = &mut copying.next;
        if let Some(watch) = &mut self.watch {
            watch.copied(next.from, next.to, bytes);
        }
        next.len = next.len.saturating_sub(bytes);
        if next.len == 0 || ended {
            let whole = next.len == 0 || copying.until_end;
            self.replies.status(id, if whole { StatusCode::Ok } else { StatusCode::Eof });
            return Ended::Answered;
        }
        next.from_offset = next.from_offset.saturating_add(bytes);
        next.to_offset = next.to_offset.saturating_add(bytes);
        let job = FsJob::Copy(*next);
        Ended::Again(Running { id, class, then: Then::Copy(copying), told: None }, job)
    }
}
