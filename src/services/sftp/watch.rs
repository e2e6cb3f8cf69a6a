//! What an audit hears of an SFTP session: each operation on a path, and what a file has moved when it is
//! closed.

use std::collections::HashMap;
use std::ffi::CStr;

use super::fs::{FsDone, FsJob, Subject};
use super::intake::writable;
use crate::reactor::{Fd, Op};
use crate::services::{FileEvent, Luggage, Unpacking};
use crate::wire::Malformed;
use crate::wire::sftp::StatusCode;

/// Keeps what is open, as much as the session may have open, and what is to be told.
#[derive(Debug, Default)]
pub struct Watch {
    files: HashMap<i32, Opened>,
    told: Vec<FileEvent>,
}

#[derive(Debug)]
struct Opened {
    path: Vec<u8>,
    read: u64,
    written: u64,
}

impl Watch {
    /// What a job will be told as, once it is known how it went; `None` for what only looks.
    pub fn describe(&mut self, job: &FsJob) -> Option<Box<FileEvent>> {
        let event = match job {
            FsJob::Open { path, flags, .. } if writable(*flags) => event("open_write", path),
            FsJob::Open { path, .. } => event("open_read", path),
            FsJob::OpenDirectory { path } => event("list", path),
            FsJob::Remove { path } => event("remove", path),
            FsJob::MakeDirectory { path, .. } => event("mkdir", path),
            FsJob::RemoveDirectory { path } => event("rmdir", path),
            FsJob::Rename { from, to, .. } => with("rename", from, to),
            FsJob::SymbolicLink { target, path } => with("symlink", path, target),
            FsJob::HardLink { existing, path } => with("link", existing, path),
            FsJob::SetStat { subject: Subject::Path(path) | Subject::Link(path), .. } => {
                event("setstat", path)
            }
            FsJob::SetStat { subject: Subject::Handle(fd), .. } => {
                let path = self.files.get(&fd.0).map(|file| file.path.clone());
                FileEvent { path: path.unwrap_or_default(), ..event("setstat", c"") }
            }
            FsJob::Close { fd } => closed(self.files.remove(&fd.0)?),
            _ => return None,
        };
        Some(Box::new(event))
    }

    /// The job is done.
    pub fn tell(&mut self, mut event: FileEvent, done: &FsDone) {
        match done {
            FsDone::Failed(failure) => event.status = failure.code,
            FsDone::Opened(opened) => {
                let file = Opened { path: event.path.clone(), read: 0, written: 0 };
                self.files.insert(opened.fd.0, file);
            }
            _ => {}
        }
        self.told.push(event);
    }

    /// The job is not begun.
    pub fn refused(&mut self, job: &FsJob, status: StatusCode) {
        let event = self.describe(job);
        self.told.extend(event.map(|event| FileEvent { status, ..*event }));
    }

    /// Bytes have gone from or to a file.
    pub fn moved(&mut self, op: &Op, count: u32) {
        match op {
            Op::ReadAt { fd, .. } => self.count(*fd, u64::from(count), 0),
            Op::WriteAt { fd, .. } => self.count(*fd, 0, u64::from(count)),
            _ => {}
        }
    }

    pub fn copied(&mut self, from: Fd, to: Fd, bytes: u64) {
        self.count(from, bytes, 0);
        self.count(to, 0, bytes);
    }

    /// The session is over: what is open is closed.
    pub fn end(&mut self) {
        self.told.extend(self.files.drain().map(|(_, file)| closed(file)));
    }

    /// What a file has moved, for another process. Nothing is left of it here.
    pub fn pack(&mut self, fd: Fd, out: &mut Luggage) {
        let file = self.files.remove(&fd.0);
        out.boolean(file.is_some());
        if let Some(Opened { path, read, written }) = file {
            out.string(&path);
            out.uint64(read);
            out.uint64(written);
        }
    }

    /// What [`Watch::pack`] packed.
    pub fn unpack(&mut self, fd: Fd, from: &mut Unpacking<'_>) -> Result<(), Malformed> {
        if from.boolean()? {
            let path = from.string()?.to_vec();
            let file = Opened { path, read: from.uint64()?, written: from.uint64()? };
            self.files.insert(fd.0, file);
        }
        Ok(())
    }

    pub fn take(&mut self) -> Vec<FileEvent> {
        std::mem::take(&mut self.told)
    }

    fn count(&mut self, fd: Fd, read: u64, written: u64) {
        if let Some(file) = self.files.get_mut(&fd.0) {
            file.read += read;
            file.written += written;
        }
    }
}

fn event(operation: &'static str, path: &CStr) -> FileEvent {
    let path = path.to_bytes().to_vec();
    FileEvent { operation, path, to: Vec::new(), moved: None, status: StatusCode::Ok }
}

fn with(operation: &'static str, path: &CStr, to: &CStr) -> FileEvent {
    FileEvent { to: to.to_bytes().to_vec(), ..event(operation, path) }
}

fn closed(file: Opened) -> FileEvent {
    let moved = Some((file.read, file.written));
    FileEvent { path: file.path, moved, ..event("close", c"") }
}
