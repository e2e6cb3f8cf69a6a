//! The directory that a session's paths begin at: the system's own, or one that no path leads out of.
//!
//! The kernel keeps a path inside (openat2(2) with RESOLVE_IN_ROOT, from one descriptor of the
//! directory), not a comparison of names: absolute links and `..` mean the root's own, whoever swaps
//! directories and links meanwhile. What has no such call of its own is done with the name in a parent
//! directory, or with a descriptor, that was found so.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlink, readlinkat,
};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, lstat, stat};
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};
use nix::unistd::{AccessFlags, access, faccessat};

use super::files::{Files, Quota, Rights};
use super::ledger::Ledger;
use super::sftp::retry;
use crate::limits::RESOLVE_TRIES_MAX;
use crate::reactor::Fd;

/// Where a session's absolute paths begin.
#[derive(Clone, Debug, Default)]
pub enum Root {
    /// At the process's own root.
    #[default]
    System,
    /// In a directory, which is opened before anything is looked at; until then nothing is there.
    Unopened(Arc<Files>),
    /// In a directory.
    Fenced(Arc<Fence>),
}

/// A directory that no path leads out of, and what may be done in it.
#[derive(Debug)]
pub struct Fence {
    directory: OwnedFd,
    pub(super) files: Arc<Files>,
    /// Where there is a quota.
    pub(super) ledger: Option<Arc<Ledger>>,
}

/// A name in a directory that is held, for the calls that take one.
#[derive(Debug)]
pub struct Entry {
    pub(super) directory: Option<OwnedFd>,
    pub(super) name: CString,
}

impl Entry {
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_ref().map_or(AT_FDCWD, OwnedFd::as_fd)
    }

    /// Links that it names are not followed by the calls that make, move and remove names; `.`, `..`
    /// and the root are refused by them.
    pub fn name(&self) -> &CStr {
        &self.name
    }
}

impl Root {
    /// The same root with its directory open.
    ///
    /// # Errors
    /// There is no such directory, or it may not be entered.
    pub fn opened(&self) -> Result<Root, Errno> {
        let Root::Unopened(files) = self else { return Ok(self.clone()) };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = retry(|| open(&files.root, flags, Mode::empty()))?;
        let mut fence = Fence { directory, files: Arc::clone(files), ledger: None };
        if files.quota.bytes.is_some() || files.quota.files.is_some() {
            fence.ledger = Some(Ledger::of(&files.root, || fence.count())?);
        }
        Ok(Root::Fenced(Arc::new(fence)))
    }

    /// The directory is open.
    pub const fn is_open(&self) -> bool {
        matches!(self, Root::Fenced(_))
    }

    /// Another descriptor of the open directory, for another process.
    ///
    /// # Errors
    /// There is none to be had, or the directory is not open.
    pub fn directory(&self) -> io::Result<OwnedFd> {
        self.fence()?.directory.try_clone()
    }

    /// The same root with its directory open: the one that has come from another process. `None`: it is not one
    /// that lacks it, or what is in there is counted, which has to be done first.
    pub fn opened_on(&self, directory: Fd) -> Option<Root> {
        let Root::Unopened(files) = self else { return None };
        if files.quota != Quota::default() {
            return None;
        }
        // SAFETY: it came from another process, and nobody else has it.
        let directory = unsafe { OwnedFd::from_raw_fd(directory.0) };
        Some(Root::Fenced(Arc::new(Fence { directory, files: Arc::clone(files), ledger: None })))
    }

    /// What is judged here, where the kernel's own judgement is not all.
    pub(super) fn judged(&self) -> Option<&Fence> {
        match self {
            Root::Fenced(fence) if fence.files.is_judged() => Some(fence),
            _ => None,
        }
    }

    /// Paths are kept inside a directory, and what is outside is not told.
    pub const fn is_fenced(&self) -> bool {
        !matches!(self, Root::System)
    }

    fn fence(&self) -> Result<&Fence, Errno> {
        match self {
            Root::Fenced(fence) => Ok(fence),
            // Nobody asks before it is open; whoever did would find nothing.
            Root::System | Root::Unopened(_) => Err(Errno::EACCES),
        }
    }

    /// Opens a path, if what the flags ask for may be done there. Links that the kernel makes up (/proc/self/fd/7, /proc/self/root) are not followed:
    /// they lead to this process's own descriptors.
    pub fn open_at(&self, path: &CStr, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        let Root::System = self else {
            return match self.judged() {
                Some(fence) => fence.open_judged(self, path, flags, mode),
                None => self.fence()?.open(path, flags, mode, ResolveFlag::empty()),
            };
        };
        // openat2 is strict where open is lax: a mode only with O_CREAT.
        let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
        let how =
            OpenHow::new().flags(flags).mode(mode).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match retry(|| openat2(AT_FDCWD, path, how)) {
            Err(Errno::ENOSYS | Errno::EPERM) if !has_openat2() => {
                retry(|| openat(AT_FDCWD, path, flags, mode))
            }
            opened => opened,
        }
    }

    /// A descriptor that stands for what a path names, and does nothing to it.
    pub fn hold(&self, path: &CStr, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        flags.set(OFlag::O_NOFOLLOW, !follow);
        self.open_at(path, flags, Mode::empty())
    }

    /// The same, whatever may be done there: for finding out where a path leads.
    fn peek(&self, path: &CStr, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        flags.set(OFlag::O_NOFOLLOW, !follow);
        self.fence()?.open(path, flags, Mode::empty(), ResolveFlag::empty())
    }

    pub fn stat(&self, path: &CStr) -> Result<FileStat, Errno> {
        match self {
            Root::System => stat(path),
            _ => fstat(self.hold(path, true)?),
        }
    }

    pub fn lstat(&self, path: &CStr) -> Result<FileStat, Errno> {
        match self {
            Root::System => lstat(path),
            _ => fstat(self.hold(path, false)?),
        }
    }

    /// The same, whatever may be done there.
    pub(super) fn peek_stat(&self, path: &CStr) -> Result<FileStat, Errno> {
        match self {
            Root::System => lstat(path),
            _ => fstat(self.peek(path, false)?),
        }
    }

    pub fn statvfs(&self, path: &CStr) -> Result<Statvfs, Errno> {
        match self {
            Root::System => statvfs(path),
            _ => fstatvfs(self.hold(path, true)?),
        }
    }

    /// What a link says, whatever may be done there.
    pub fn read_link(&self, path: &CStr) -> Result<Vec<u8>, Errno> {
        let Root::System = self else {
            let link = self.peek(path, false)?;
            // What is no link has no such name in it.
            let target = readlinkat(&link, c"").map_err(|errno| match errno {
                Errno::ENOENT => Errno::EINVAL,
                errno => errno,
            });
            return target.map(OsStringExt::into_vec);
        };
        readlink(path).map(OsStringExt::into_vec)
    }

    /// Whether a path names a directory that can be entered.
    pub fn is_enterable(&self, path: &CStr) -> bool {
        if !self.stat(path).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR) {
            return false;
        }
        let Root::System = self else {
            let flags = AtFlags::empty();
            let held = self.hold(path, true);
            return held.is_ok_and(|held| faccessat(held, c".", AccessFlags::X_OK, flags).is_ok());
        };
        access(path, AccessFlags::X_OK).is_ok()
    }

    /// What is under a name of an open directory, as a listing shows it.
    pub fn stat_entry(&self, directory: BorrowedFd<'_>, name: &CStr) -> Result<FileStat, Errno> {
        if name == c".."
            && let Root::Fenced(fence) = self
        {
            let (here, top) = (fstat(directory)?, fstat(&fence.directory)?);
            if (here.st_dev, here.st_ino) == (top.st_dev, top.st_ino) {
                return Ok(top);
            }
        }
        fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// The last name of a path, in the directory that the rest leads to, if `needed` may be done there.
    pub fn entry(&self, path: &CStr, needed: Rights) -> Result<Entry, Errno> {
        let Root::System = self else {
            if let Some(fence) = self.judged() {
                return fence.entry_judged(self, path, needed);
            }
            let (parent, name) = split(path.to_bytes());
            if name.is_empty() {
                // Nothing, or the root, which the calls refuse before they look for it.
                return match parent {
                    [] => Err(Errno::ENOENT),
                    _ => Ok(Entry { directory: None, name: c"/".to_owned() }),
                };
            }
            let parent = CString::new(if parent.is_empty() { b"." } else { parent });
            let parent = parent.map_err(|_| Errno::EINVAL)?;
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let directory = Some(self.open_at(&parent, flags, Mode::empty())?);
            return Ok(Entry { directory, name: CString::new(name).map_err(|_| Errno::EINVAL)? });
        };
        Ok(Entry { directory: None, name: path.to_owned() })
    }

    /// As [`Root::entry`], for what a second name is made for: here a path that ends in a slash or a dot
    /// would lead on, to a directory, which can have no second name.
    pub fn linkable(&self, path: &CStr) -> Result<Entry, Errno> {
        // Whoever has a second name for a file does with it what may be done under that name.
        let needed = Rights::READ.and(Rights::WRITE).and(Rights::OVERWRITE);
        let entry = self.entry(path, needed)?;
        let name = entry.name.to_bytes();
        if self.is_fenced() && (name.ends_with(b"/") || name == b"." || name == b"..") {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            self.open_at(path, flags, Mode::empty())?;
            return Err(Errno::EPERM);
        }
        Ok(entry)
    }
}

impl Fence {
    /// Opens a path in the directory.
    pub(super) fn open(
        &self,
        path: &CStr,
        flags: OFlag,
        mode: Mode,
        more: ResolveFlag,
    ) -> Result<OwnedFd, Errno> {
        let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
        let inside = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | more;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(inside);
        let mut tries = 0;
        loop {
            // Somebody renames directories on the way, and the kernel is not sure of a `..`.
            match retry(|| openat2(&self.directory, path, how)) {
                Err(Errno::EAGAIN) if tries < RESOLVE_TRIES_MAX => tries += 1,
                opened => return opened,
            }
        }
    }
}

/// A sandbox may be older than the call, and answer as if the file were forbidden.
fn has_openat2() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
        retry(|| openat2(AT_FDCWD, c"/", how)).is_ok()
    })
}

/// Whether the kernel has what it takes to keep paths in a directory.
///
/// # Errors
/// It has not, or a sandbox forbids it.
pub fn check_fences() -> io::Result<()> {
    let root = Root::Unopened(Arc::new(Files::all("/".into()))).opened()?;
    root.hold(c"/", true)?;
    Ok(())
}

/// The path before the last name, and that name with the slashes behind it as one.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let (whole, slashes) = path.split_at(end);
    let start = whole.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let name_end = end + usize::from(!slashes.is_empty() && end > 0);
    if end == 0 {
        return (path, &[]);
    }
    (path.get(..start).unwrap_or(&[]), path.get(start..name_end).unwrap_or(&[]))
}

/// Changes the mode of what a descriptor stands for, even one that was opened for nothing else.
pub fn change_mode(held: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    if fstat(held)?.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Err(Errno::EOPNOTSUPP);
    }
    let (fd, bits) = (held.as_raw_fd(), mode.bits());
    // SAFETY: takes numbers and a string that ends in a NUL.
    let changed =
        unsafe { libc::syscall(libc::SYS_fchmodat2, fd, c"".as_ptr(), bits, libc::AT_EMPTY_PATH) };
    match Errno::result(changed) {
        // Linux before 6.6, or a sandbox that is older than the call.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let path = CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| Errno::EINVAL)?;
            // SAFETY: takes a number and a string that ends in a NUL.
            Errno::result(unsafe { libc::chmod(path.as_ptr(), bits) }).map(drop)
        }
        changed => changed.map(drop),
    }
}

/// Changes the times of what a descriptor stands for: of the last access, and of the last change.
pub fn change_times(held: &OwnedFd, times: [libc::timespec; 2]) -> Result<(), Errno> {
    let (fd, times) = (held.as_raw_fd(), times.as_ptr());
    // SAFETY: takes numbers, a string that ends in a NUL, and two times, which it reads.
    Errno::result(unsafe { libc::utimensat(fd, c"".as_ptr(), times, libc::AT_EMPTY_PATH) })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_before_their_last_name() {
        for (path, parent, name) in [
            ("/a/b", "/a/", "b"),
            ("/a", "/", "a"),
            ("a", "", "a"),
            ("a/b//", "a/", "b/"),
            ("//a//b/", "//a//", "b/"),
            ("/", "/", ""),
            ("//", "//", ""),
            ("", "", ""),
            ("/a/..", "/a/", ".."),
            ("..", "", ".."),
        ] {
            let expected = (parent.as_bytes(), name.as_bytes());
            assert_eq!(split(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn a_root_that_is_not_open_has_nothing_in_it() {
        let root = Root::Unopened(Arc::new(Files::all("/".into())));
        assert_eq!(root.stat(c"/").err(), Some(Errno::EACCES));
        assert_eq!(root.entry(c"/x", Rights::NONE).err(), Some(Errno::EACCES));
        assert!(root.is_fenced());
        assert!(root.opened().expect("it opens").stat(c"/etc").is_ok());
        assert!(check_fences().is_ok());
    }
}
