//! What needs a path or may wait for a disk: done by workers, as the account.

use std::ffi::{CStr, CString};
use std::os::fd::{IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{close, ftruncate};

use super::command::Word;
use super::glob;
use crate::limits::SCP_ENTRIES_BYTES;
use crate::reactor::Fd;
use crate::services::files::Rights;
use crate::services::root::{Root, change_mode, change_times};
use crate::services::sftp::{base, borrow, directory_records, refuse_own_process};
use crate::services::umask::with_umask;

/// One piece of work. Paths are absolute, descriptors open until the job is done.
#[derive(Debug)]
pub enum ScpJob {
    /// Opens the root; what a shell would make of the words, and where relative paths start.
    Expand {
        home: CString,
        words: Box<[Word]>,
    },
    /// Opens a file or a directory to be sent.
    Open {
        path: CString,
    },
    /// The next names of an open directory.
    Entries {
        fd: Fd,
    },
    /// What the target of a copy is.
    Look {
        path: CString,
    },
    /// Opens a file to be written, as it is or new. `mode` and `umask` are for a new one; the umask
    /// is in the place of the process's own.
    Create {
        path: CString,
        mode: u32,
        umask: Option<u32>,
        /// What will be written.
        size: u64,
    },
    Finish(Box<Finish>),
    /// Makes a directory if there is none. Its owner may do everything in it until it is full.
    MakeDirectory {
        path: CString,
        mode: u32,
        preserve: bool,
    },
    /// Gives a directory its last mode and times; what cannot be set stays.
    FinishDirectory {
        path: CString,
        mode: Option<u32>,
        times: Option<Times>,
    },
}

/// The end of a file that has been written: its length, mode and times, then its close.
#[derive(Debug)]
pub struct Finish {
    pub fd: Fd,
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub times: Option<Times>,
}

/// When a file was changed and read: seconds and microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub modified: (i64, i64),
    pub read: (i64, i64),
}

#[derive(Debug)]
pub enum ScpDone {
    Done,
    Failed(Errno),
    Expanded {
        root: Root,
        base: Box<[u8]>,
        names: Vec<Vec<u8>>,
    },
    /// The words become more names than there may be.
    TooMany,
    Opened(Opened),
    /// No names: the directory has no more.
    Entries(Vec<Box<[u8]>>),
    Looked {
        is_directory: bool,
    },
    Created {
        fd: Fd,
        existed: bool,
        regular: bool,
    },
    /// What could not be done, and why.
    Finished(Option<(&'static str, Errno)>),
    Made {
        existed: bool,
    },
}

/// Something to send.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub fd: Fd,
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
    /// Seconds since 1970, of the last change and the last read.
    pub times: (i64, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// Neither; it is not open.
    Other,
}

/// Does a job, whose paths begin at `root`. Called on a worker thread; it may block for as long as the file system does.
pub fn run(root: &Root, job: ScpJob) -> ScpDone {
    attempt(root, job).unwrap_or_else(ScpDone::Failed)
}

fn attempt(root: &Root, job: ScpJob) -> Result<ScpDone, Errno> {
    Ok(match job {
        ScpJob::Expand { home, words } => {
            let root = root.opened()?;
            let base = base(&root, &home, None);
            // In a root the home may be elsewhere than the account's.
            let tilde = if root.is_fenced() { &base } else { home.to_bytes() };
            match glob::expand(&root, &words, tilde, &base) {
                Ok(names) => ScpDone::Expanded { root, base, names },
                Err(glob::TooMany) => ScpDone::TooMany,
            }
        }
        ScpJob::Open { path } => ScpDone::Opened(open(root, &path)?),
        ScpJob::Entries { fd } => ScpDone::Entries(entries(fd)?),
        ScpJob::Look { path } => {
            let kind = root.stat(&path)?.st_mode & libc::S_IFMT;
            ScpDone::Looked { is_directory: kind == libc::S_IFDIR }
        }
        ScpJob::Create { path, mode, umask, size } => create(root, &path, (mode, umask), size)?,
        ScpJob::Finish(finish) => ScpDone::Finished(end_file(&finish)),
        ScpJob::MakeDirectory { path, mode, preserve } => {
            make_directory(root, &path, mode, preserve)?
        }
        ScpJob::FinishDirectory { path, mode, times } => {
            root.permit_change(&path, true, false)?;
            let held = root.hold(&path, true)?;
            if let Some(times) = times {
                let (read, modified) = times.specs();
                let _ = change_times(&held, [*read.as_ref(), *modified.as_ref()]);
            }
            if let Some(mode) = mode {
                let _ = change_mode(&held, Mode::from_bits_truncate(mode));
            }
            ScpDone::Done
        }
    })
}

/// Nothing here waits: what is no file and no directory is closed again, with nothing read of it.
fn open(root: &Root, path: &CStr) -> Result<Opened, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = root.open_at(path, flags, Mode::empty())?;
    let stat = fstat(&fd)?;
    let kind = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => Kind::File,
        libc::S_IFDIR => Kind::Directory,
        _ => Kind::Other,
    };
    if kind == Kind::File {
        refuse_own_process(&fd)?;
        set_blocking(&fd)?;
    }
    let fd = if kind == Kind::Other { Fd(-1) } else { Fd(fd.into_raw_fd()) };
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(Opened { fd, kind, mode: stat.st_mode, size, times: (stat.st_mtime, stat.st_atime) })
}

fn set_blocking(fd: &OwnedFd) -> Result<(), Errno> {
    let set = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(set - OFlag::O_NONBLOCK)).map(|_| ())
}

fn entries(fd: Fd) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut found = Vec::new();
    // Dots alone are no end.
    while found.is_empty() {
        let mut space = [0; SCP_ENTRIES_BYTES];
        let Some(names) = directory_records(fd, &mut space)? else { break };
        let real = names.filter(|name| !matches!(name.to_bytes(), b"." | b".."));
        found.extend(real.map(|name| Box::from(name.to_bytes())));
    }
    Ok(found)
}

/// Existing files are written in place: their owner, mode and links stay.
fn create(
    root: &Root,
    path: &CStr,
    (mode, umask): (u32, Option<u32>),
    size: u64,
) -> Result<ScpDone, Errno> {
    let before = root.stat(path).ok();
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    let fd = with_umask(umask, || root.open_at(path, flags, mode))?;
    let kind = fstat(&fd)?.st_mode & libc::S_IFMT;
    match kind {
        // Bytes go to offsets, as they do for SFTP.
        libc::S_IFIFO | libc::S_IFSOCK => return Err(Errno::ESPIPE),
        libc::S_IFREG | libc::S_IFBLK => {
            refuse_own_process(&fd)?;
            set_blocking(&fd)?;
        }
        _ => {}
    }
    let regular = kind == libc::S_IFREG;
    if regular {
        let has = u64::try_from(fstat(&fd)?.st_size).unwrap_or(0);
        root.take_bytes(size.saturating_sub(has))?;
    }
    Ok(ScpDone::Created { fd: Fd(fd.into_raw_fd()), existed: before.is_some(), regular })
}

/// The first thing that cannot be done is told; the rest is tried all the same.
fn end_file(finish: &Finish) -> Option<(&'static str, Errno)> {
    let fd = finish.fd;
    let mut first = None;
    let mut tried = |what, outcome: Result<(), Errno>| {
        if let (None, Err(errno)) = (first, outcome) {
            first = Some((what, errno));
        }
    };
    if let Some(size) = finish.size {
        let size = i64::try_from(size).map_err(|_| Errno::EFBIG);
        tried("truncate", size.and_then(|size| ftruncate(borrow(fd), size)));
    }
    if let Some(mode) = finish.mode {
        tried("set mode", fchmod(borrow(fd), Mode::from_bits_truncate(mode)));
    }
    if let Some(times) = finish.times {
        let (read, modified) = times.specs();
        tried("set times", futimens(borrow(fd), &read, &modified));
    }
    tried("close", close(fd.0));
    first
}

fn make_directory(root: &Root, path: &CStr, mode: u32, preserve: bool) -> Result<ScpDone, Errno> {
    if let Ok(stat) = root.stat(path) {
        if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        if preserve && root.permit_change(path, true, false).is_ok() {
            let _ = change_mode(&root.hold(path, true)?, Mode::from_bits_truncate(mode));
        }
        return Ok(ScpDone::Made { existed: true });
    }
    let mode = Mode::from_bits_truncate(mode) | Mode::S_IRWXU;
    let entry = root.entry(path, Rights::WRITE)?;
    let make = || mkdirat(entry.directory(), entry.name(), mode);
    root.making(|| with_umask(preserve.then_some(0), make))?;
    Ok(ScpDone::Made { existed: false })
}

impl Times {
    /// Of the last read, and of the last change.
    fn specs(&self) -> (TimeSpec, TimeSpec) {
        let spec = |(seconds, micros): (i64, i64)| TimeSpec::new(seconds, micros * 1000);
        (spec(self.read), spec(self.modified))
    }
}
