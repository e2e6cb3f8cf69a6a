//! What needs a path or may wait for a disk: done by workers, as the account, with plain system
//! calls. NUMBERS: a system call costs less than a trip through the ring for these.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::libc;
use nix::sys::stat::{fstat, mkdirat};
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs};
use nix::unistd::{Gid, Group, Uid, UnlinkatFlags, User, close, linkat, symlinkat, unlinkat};

use super::attrs::{attributes, mode, set};
use super::copy::{self, Copy};
use super::directory;
use super::hash::{self, Range};
use super::longname::AccountNames;
use super::open::{self, Opened};
use super::realpath::real_path;
use super::status::Failure;
use crate::limits::SFTP_NAMES_BYTES_MAX;
use crate::reactor::Fd;
use crate::services::files::Rights;
use crate::services::root::{Entry, Root};
use crate::services::umask::with_umask;
use crate::wire::Writer;
use crate::wire::sftp::{Attributes, StatusCode, VfsStatus};

/// What a job is about.
#[derive(Debug)]
pub enum Subject {
    /// A path whose last component may be a link, which is followed.
    Path(CString),
    /// A path whose last component is not followed.
    Link(CString),
    Handle(Fd),
}

/// One piece of work on the file system. Paths are absolute, descriptors open until the job is
/// done.
#[derive(Debug)]
pub enum FsJob {
    /// Opens the root and finds where relative paths start in it, given the account's home and what was
    /// chosen in its place.
    Base {
        home: CString,
        start: Option<CString>,
    },
    /// `flags` are the wire's; `umask` is in the place of the process's own.
    Open {
        path: CString,
        flags: u32,
        permissions: u32,
        umask: Option<u32>,
    },
    OpenDirectory {
        path: CString,
    },
    ReadDirectory {
        fd: Fd,
        accounts: Box<AccountNames>,
    },
    /// Closing can wait for a network file system, and can fail.
    Close {
        fd: Fd,
    },
    Stat {
        subject: Subject,
    },
    SetStat {
        subject: Subject,
        attributes: Attributes,
    },
    VfsStat {
        subject: Subject,
    },
    Remove {
        path: CString,
    },
    MakeDirectory {
        path: CString,
        permissions: u32,
        umask: Option<u32>,
    },
    RemoveDirectory {
        path: CString,
    },
    /// `base` is what [`FsDone::Base`] said.
    RealPath {
        base: Box<[u8]>,
        path: Box<[u8]>,
    },
    /// The same, with a leading `~` or `~user`.
    ExpandPath {
        base: Box<[u8]>,
        path: Box<[u8]>,
    },
    Rename {
        from: CString,
        to: CString,
        replace: bool,
    },
    ReadLink {
        path: CString,
    },
    SymbolicLink {
        target: CString,
        path: CString,
    },
    HardLink {
        existing: CString,
        path: CString,
    },
    Copy(Copy),
    Hash(Range),
    HomeDirectory {
        user: Box<[u8]>,
    },
    /// Lists of big-endian `uint32`.
    NamesById {
        users: Box<[u8]>,
        groups: Box<[u8]>,
    },
}

/// How it went.
#[derive(Debug)]
pub enum FsDone {
    Done,
    Failed(Failure),
    /// The root, open, and where relative paths start.
    Base(Root, Box<[u8]>),
    Opened(Opened),
    OpenedDirectory(Fd),
    /// Entries of a NAME reply, encoded.
    Entries {
        count: u32,
        encoded: Vec<u8>,
        accounts: Box<AccountNames>,
    },
    EndOfDirectory {
        accounts: Box<AccountNames>,
    },
    Attributes(Attributes),
    VfsStatus(VfsStatus),
    Path(Vec<u8>),
    /// `ended`: the source has no more.
    Copied {
        bytes: u64,
        ended: bool,
    },
    /// Back to back.
    Hashes(Vec<u8>),
    /// Names as strings back to back, empty where there is none.
    Names {
        users: Vec<u8>,
        groups: Vec<u8>,
    },
}

/// Does a job, whose paths begin at `root`. Called on a worker thread; it may block for as long as the
/// file system does.
pub fn run(root: &Root, job: FsJob) -> FsDone {
    attempt(root, job).unwrap_or_else(FsDone::Failed)
}

/// A descriptor for the length of one call.
pub(in crate::services) fn borrow<'a>(fd: Fd) -> BorrowedFd<'a> {
    // SAFETY: the service owns the descriptor and closes it only when no job or operation that was
    // given it is in flight; the borrow does not outlive the job. The service never uses -1.
    unsafe { BorrowedFd::borrow_raw(fd.0) }
}

/// Calls again as long as a signal interrupts.
pub(in crate::services) fn retry<T>(
    mut call: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}

fn attempt(root: &Root, job: FsJob) -> Result<FsDone, Failure> {
    let done = match job {
        FsJob::Base { home, start } => {
            let root = root.opened()?;
            let base = base(&root, &home, start.as_deref());
            FsDone::Base(root, base)
        }
        FsJob::Open { path, flags, permissions, umask } => {
            FsDone::Opened(with_umask(umask, || open::file(root, &path, flags, permissions))?)
        }
        FsJob::OpenDirectory { path } => FsDone::OpenedDirectory(open::directory(root, &path)?),
        FsJob::ReadDirectory { fd, accounts } => directory::read(root, fd, accounts)?,
        FsJob::Close { fd } => nothing(close(fd.0))?,
        FsJob::Stat { subject } => FsDone::Attributes(attributes(&match &subject {
            Subject::Path(path) => root.stat(path),
            Subject::Link(path) => root.lstat(path),
            Subject::Handle(fd) => fstat(borrow(*fd)),
        }?)),
        FsJob::SetStat { subject, attributes } => nothing(set(root, &subject, &attributes))?,
        FsJob::VfsStat { subject } => FsDone::VfsStatus(vfs_status(&match &subject {
            Subject::Path(path) | Subject::Link(path) => root.statvfs(path),
            Subject::Handle(fd) => fstatvfs(borrow(*fd)),
        }?)),
        FsJob::Remove { path } => nothing(remove(root, &path, UnlinkatFlags::NoRemoveDir))?,
        FsJob::MakeDirectory { path, permissions, umask } => {
            let entry = root.entry(&path, Rights::WRITE)?;
            let make = || mkdirat(entry.directory(), entry.name(), mode(permissions));
            nothing(root.making(|| with_umask(umask, make)))?
        }
        FsJob::RemoveDirectory { path } => nothing(remove(root, &path, UnlinkatFlags::RemoveDir))?,
        FsJob::RealPath { base, path } => FsDone::Path(root.seen(real_path(root, &base, &path)?)?),
        FsJob::ExpandPath { base, path } => {
            FsDone::Path(root.seen(expand_path(root, &base, &path)?)?)
        }
        FsJob::Rename { from, to, replace: true } => {
            root.permit_move(&from, &to)?;
            let (from, to) = (root.entry(&from, Rights::NONE)?, root.entry(&to, Rights::NONE)?);
            nothing(root.losing(&to, || rename(&from, &to)))?
        }
        FsJob::Rename { from, to, replace: false } => nothing(rename_aside(root, &from, &to))?,
        FsJob::ReadLink { path } => {
            root.lstat(&path)?;
            FsDone::Path(root.read_link(&path)?)
        }
        FsJob::SymbolicLink { target, path } => {
            let entry = root.entry(&path, Rights::WRITE)?;
            let make = || symlinkat(target.as_c_str(), entry.directory(), entry.name());
            nothing(root.making(make))?
        }
        FsJob::HardLink { existing, path } => {
            let (existing, new) = (root.linkable(&existing)?, root.entry(&path, Rights::WRITE)?);
            nothing(root.making(|| hard_link(&existing, &new)))?
        }
        FsJob::Copy(copy) => copy::run(&copy)?,
        FsJob::Hash(range) => hash::run(&range)?,
        FsJob::HomeDirectory { user } => match account(root, &user) {
            Some(account) => FsDone::Path(account.dir.into_os_string().into_vec()),
            None => return Err(Failure::new(StatusCode::Failure)),
        },
        FsJob::NamesById { users, groups } => names_by_id(root, &users, &groups)?,
    };
    Ok(done)
}

fn nothing(outcome: Result<(), Errno>) -> Result<FsDone, Errno> {
    outcome.map(|()| FsDone::Done)
}

/// Where relative paths start: the home without links in it when it can be entered, the root
/// otherwise, as a login does it. `start` counts from there and is used if it can be entered.
pub(in crate::services) fn base(root: &Root, home: &CStr, start: Option<&CStr>) -> Box<[u8]> {
    let enterable =
        |path: &Vec<u8>| root.is_enterable(&CString::new(path.as_slice()).unwrap_or_default());
    let entered = |from: &[u8], path: &CStr| {
        real_path(root, from, path.to_bytes()).ok().filter(enterable).map(Vec::into_boxed_slice)
    };
    let home = entered(b"/", home).unwrap_or_else(|| Box::new(*b"/"));
    start.and_then(|start| entered(&home, start)).unwrap_or(home)
}

/// The account of this name; the accounts of the system are not in a root.
pub(in crate::services) fn account(root: &Root, user: &[u8]) -> Option<User> {
    if root.is_fenced() {
        return None;
    }
    User::from_name(std::str::from_utf8(user).ok()?).ok().flatten()
}

/// PROTOCOL 4.9. A bare `~` is where relative paths start, which is the home unless the
/// administrator chose another directory.
fn expand_path(root: &Root, base: &[u8], path: &[u8]) -> Result<Vec<u8>, Failure> {
    let Some(tail) = path.strip_prefix(b"~") else { return Ok(real_path(root, base, path)?) };
    let slash = tail.iter().position(|byte| *byte == b'/').unwrap_or(tail.len());
    let (user, below) = tail.split_at(slash);
    if user.is_empty() {
        return Ok(real_path(root, base, below.strip_prefix(b"/").unwrap_or(below))?);
    }
    let Some(account) = account(root, user) else {
        return Err(Failure { code: StatusCode::NoSuchFile, text: "no such user" });
    };
    let home = account.dir.as_os_str().as_bytes();
    Ok(real_path(root, b"/", &[home, below].concat())?)
}

/// RENAME of version 3 fails when the new name exists. The kernel can do just that in one step;
/// where a file system cannot, files are linked and unlinked as OpenSSH does it, and the rest is
/// renamed after a look.
fn rename_aside(root: &Root, from_path: &CStr, to_path: &CStr) -> Result<(), Errno> {
    // What is wrong with the old name is said before what is wrong with the new one.
    let kind = root.lstat(from_path)?.st_mode & libc::S_IFMT;
    root.permit_move(from_path, to_path)?;
    let (from, to) = (root.entry(from_path, Rights::NONE)?, root.entry(to_path, Rights::NONE)?);
    match rename_exclusive(&from, &to) {
        Err(Errno::EINVAL | Errno::ENOSYS) => {}
        outcome => return outcome,
    }
    if kind == libc::S_IFREG {
        match hard_link(&from, &to) {
            Ok(()) => {
                let file = UnlinkatFlags::NoRemoveDir;
                return unlink(&from, file).inspect_err(|_| {
                    let _ = unlink(&to, file);
                });
            }
            // No links on this file system, or none to this file.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EXDEV | Errno::EPERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    match root.lstat(to_path) {
        Err(_) => rename(&from, &to),
        Ok(_) => Err(Errno::EEXIST),
    }
}

fn rename(from: &Entry, to: &Entry) -> Result<(), Errno> {
    renameat(from.directory(), from.name(), to.directory(), to.name())
}

fn remove(root: &Root, path: &CStr, flag: UnlinkatFlags) -> Result<(), Errno> {
    let entry = root.entry(path, Rights::DELETE)?;
    root.losing(&entry, || unlink(&entry, flag))
}

fn unlink(entry: &Entry, flag: UnlinkatFlags) -> Result<(), Errno> {
    unlinkat(entry.directory(), entry.name(), flag)
}

#[cfg(target_env = "gnu")]
fn rename_exclusive(from: &Entry, to: &Entry) -> Result<(), Errno> {
    use nix::fcntl::{RenameFlags, renameat2};
    let flags = RenameFlags::RENAME_NOREPLACE;
    renameat2(from.directory(), from.name(), to.directory(), to.name(), flags)
}

#[cfg(not(target_env = "gnu"))]
fn rename_exclusive(_from: &Entry, _to: &Entry) -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}

fn hard_link(existing: &Entry, new: &Entry) -> Result<(), Errno> {
    linkat(existing.directory(), existing.name(), new.directory(), new.name(), AtFlags::empty())
}

fn vfs_status(status: &Statvfs) -> VfsStatus {
    let flag = |flag, number| if status.flags().contains(flag) { number } else { 0 };
    VfsStatus {
        block_bytes: status.block_size(),
        fragment_bytes: status.fragment_size(),
        blocks: status.blocks(),
        blocks_free: status.blocks_free(),
        blocks_available: status.blocks_available(),
        files: status.files(),
        files_free: status.files_free(),
        files_available: status.files_available(),
        file_system: status.filesystem_id(),
        flags: flag(FsFlags::ST_RDONLY, VfsStatus::READ_ONLY)
            | flag(FsFlags::ST_NOSUID, VfsStatus::NO_SET_ID),
        name_bytes_max: status.name_max(),
    }
}

/// PROTOCOL 4.12. A name that no longer fits the reply is left empty, which says "unknown"; so are all in
/// a root, where the accounts of the system are not.
fn names_by_id(root: &Root, users: &[u8], groups: &[u8]) -> Result<FsDone, Errno> {
    let half = SFTP_NAMES_BYTES_MAX / 2;
    let known = !root.is_fenced();
    let users = names(users, half, |id| {
        let user = known.then(|| User::from_uid(Uid::from_raw(id)).ok().flatten());
        user.flatten().map(|user| user.name)
    })?;
    let groups = names(groups, half, |id| {
        let group = known.then(|| Group::from_gid(Gid::from_raw(id)).ok().flatten());
        group.flatten().map(|group| group.name)
    })?;
    Ok(FsDone::Names { users, groups })
}

fn names(
    ids: &[u8],
    bytes_max: usize,
    look_up: impl Fn(u32) -> Option<String>,
) -> Result<Vec<u8>, Errno> {
    let (ids, odd) = ids.as_chunks::<4>();
    if !odd.is_empty() || ids.len() * 4 > bytes_max {
        return Err(Errno::EINVAL);
    }
    let mut encoded = vec![0; bytes_max];
    let mut out = Writer::new(&mut encoded);
    for (at, id) in ids.iter().enumerate() {
        let name = look_up(u32::from_be_bytes(*id)).unwrap_or_default();
        let reserved = (ids.len() - at) * 4;
        let fits = out.len() + reserved + name.len() <= bytes_max;
        let name = if fits { name.as_str() } else { "" };
        out.string(name.as_bytes()).map_err(|_| Errno::EOVERFLOW)?;
    }
    let len = out.len();
    encoded.truncate(len);
    Ok(encoded)
}

#[cfg(test)]
mod fenced_tests;
#[cfg(test)]
mod judged_tests;
#[cfg(test)]
mod tests;
