//! What the rights of folders and a quota say, before the kernel is asked.
//!
//! A path is first brought into the form that has no links, dots and doubled slashes. What may be done is
//! looked up by that, and the kernel is then told to follow no link at all on it (RESOLVE_NO_SYMLINKS):
//! what is opened is what was judged, or nothing.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::ftruncate;

use super::files::Rights;
use super::root::{Entry, Fence, Root, split};
use super::sftp::{directory_records, real_path};
use crate::limits::SCP_ENTRIES_BYTES;
use crate::reactor::Fd;

const FOR_DIRECTORIES: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

impl Fence {
    /// Bytes and names below the directory.
    pub(super) fn count(&self) -> Result<(u64, u64), Errno> {
        let (mut bytes, mut names) = (0_u64, 0_u64);
        let mut space = vec![0; SCP_ENTRIES_BYTES];
        let mut waiting = vec![c"/".to_owned()];
        while let Some(path) = waiting.pop() {
            let directory = match self.open_literal(&path, FOR_DIRECTORIES, Mode::empty()) {
                Ok(directory) => directory,
                // Gone meanwhile, or closed to us: nobody adds to it through us either.
                Err(_) if path.as_c_str() != c"/" => continue,
                Err(errno) => return Err(errno),
            };
            while let Some(entries) = directory_records(Fd(directory.as_raw_fd()), &mut space)? {
                for name in entries.filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
                    let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
                    let Ok(stat) = fstatat(&directory, name, nofollow) else { continue };
                    names += 1;
                    match stat.st_mode & libc::S_IFMT {
                        libc::S_IFREG => bytes = bytes.saturating_add(size_of(&stat)),
                        libc::S_IFDIR => waiting.push(below(&path, name.to_bytes())?),
                        _ => {}
                    }
                }
            }
        }
        Ok((bytes, names))
    }

    /// Opens a path that has no links in it.
    fn open_literal(&self, path: &CStr, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        self.open(path, flags, mode, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    /// What is under a path without links in it; a link at its end is not followed.
    fn look(&self, path: &CStr) -> Result<FileStat, Errno> {
        fstat(self.open_literal(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?)
    }

    fn rights_at(&self, path: &CStr) -> Rights {
        self.files.rights_in(parent_of(path.to_bytes()))
    }

    pub(super) fn open_judged(
        &self,
        root: &Root,
        path: &CStr,
        flags: OFlag,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        let path = literal(root, path, !flags.contains(OFlag::O_NOFOLLOW))?;
        let (here, inside) = (self.rights_at(&path), self.files.rights_in(path.to_bytes()));
        // Whoever can do nothing with it does not see it.
        if here.is_none() && inside.is_none() {
            return Err(Errno::ENOENT);
        }
        if flags.contains(OFlag::O_PATH) {
            return self.open_literal(&path, flags, mode);
        }
        let found = self.look(&path);
        let is_directory =
            found.as_ref().is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        if flags.contains(OFlag::O_DIRECTORY) || is_directory {
            permit(inside, Rights::LIST)?;
            return self.open_literal(&path, flags, mode);
        }
        let access = flags & OFlag::O_ACCMODE;
        if access != OFlag::O_WRONLY {
            permit(here, Rights::READ)?;
        }
        if access == OFlag::O_RDONLY && !flags.intersects(OFlag::O_CREAT | OFlag::O_TRUNC) {
            return self.open_literal(&path, flags, mode);
        }
        let exclusive = flags.contains(OFlag::O_CREAT | OFlag::O_EXCL);
        match found {
            Err(Errno::ENOENT) if flags.contains(OFlag::O_CREAT) => {
                permit(here, Rights::WRITE)?;
                self.make(|| self.open_literal(&path, flags | OFlag::O_EXCL, mode))
            }
            // The kernel says that it is there.
            Ok(_) if exclusive => self.open_literal(&path, flags, mode),
            Ok(_) => {
                permit(here, Rights::OVERWRITE)?;
                self.open_again(&path, flags - OFlag::O_CREAT, mode)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Opens a file that is there, and gives back what it loses.
    fn open_again(&self, path: &CStr, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        let Some(ledger) = self.ledger.as_ref().filter(|_| flags.contains(OFlag::O_TRUNC)) else {
            return self.open_literal(path, flags, mode);
        };
        let file = self.open_literal(path, flags - OFlag::O_TRUNC, mode)?;
        let stat = fstat(&file)?;
        if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            ftruncate(&file, 0)?;
            ledger.give_bytes(size_of(&stat));
        }
        Ok(file)
    }

    /// Makes something that has a name of its own.
    fn make<T>(&self, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let Some(ledger) = &self.ledger else { return make() };
        ledger.take_file(self.files.quota)?;
        make().inspect_err(|_| ledger.give_file())
    }

    pub(super) fn entry_judged(
        &self,
        root: &Root,
        path: &CStr,
        needed: Rights,
    ) -> Result<Entry, Errno> {
        let path = literal(root, path, false)?;
        let (parent, name) = split(path.to_bytes());
        if name.is_empty() {
            return Ok(Entry { directory: None, name: c"/".to_owned() });
        }
        permit(self.rights_at(&path), needed)?;
        let parent = CString::new(parent).map_err(|_| Errno::EINVAL)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let directory = Some(self.open_literal(&parent, flags, Mode::empty())?);
        Ok(Entry { directory, name: CString::new(name).map_err(|_| Errno::EINVAL)? })
    }

    /// Whether something may be moved from one path to another: within a folder that is to be renamed in;
    /// from one folder to another by who may read and delete it here and make it there. What folders with
    /// rights of their own are in, or are, stays where it is, and with it what may be done in them.
    fn permit_move(&self, root: &Root, from: &CStr, to: &CStr) -> Result<(), Errno> {
        let (from, to) = (literal(root, from, false)?, literal(root, to, false)?);
        if self.files.holds_a_named_folder(from.to_bytes())
            || self.files.holds_a_named_folder(to.to_bytes())
        {
            return Err(Errno::EACCES);
        }
        let (here, there) = (self.rights_at(&from), self.rights_at(&to));
        if here == there {
            permit(here, Rights::RENAME)?;
        } else {
            permit(here, Rights::RENAME.and(Rights::READ).and(Rights::DELETE))?;
            permit(there, Rights::WRITE)?;
        }
        match self.look(&to) {
            Ok(_) => permit(there, Rights::OVERWRITE),
            Err(_) => Ok(()),
        }
    }
}

/// Around what changes names: what has to be permitted before it, and what is noted behind it.
impl Root {
    /// Makes a name.
    pub(super) fn making<T>(&self, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        match self.judged() {
            Some(fence) => fence.make(make),
            None => make(),
        }
    }

    /// Removes a name, or puts another thing under it.
    pub(super) fn losing(
        &self,
        entry: &Entry,
        lose: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let Some(ledger) = self.judged().and_then(|fence| fence.ledger.as_ref()) else {
            return lose();
        };
        let found = fstatat(entry.directory(), entry.name(), AtFlags::AT_SYMLINK_NOFOLLOW);
        lose()?;
        if let Ok(stat) = found {
            ledger.give_file();
            // Under another name it is still there, or it was counted twice: then the next count tells.
            if stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_nlink == 1 {
                ledger.give_bytes(size_of(&stat));
            }
        }
        Ok(())
    }

    /// A path without links, if whoever asks may know of what is there.
    pub(super) fn seen(&self, path: Vec<u8>) -> Result<Vec<u8>, Errno> {
        match self.judged() {
            Some(fence)
                if fence.files.rights_in(parent_of(&path)).is_none()
                    && fence.files.rights_in(&path).is_none() =>
            {
                Err(Errno::ENOENT)
            }
            _ => Ok(path),
        }
    }

    /// Whether something may be moved from one path to another.
    pub(super) fn permit_move(&self, from: &CStr, to: &CStr) -> Result<(), Errno> {
        self.judged().map_or(Ok(()), |fence| fence.permit_move(self, from, to))
    }

    /// Whether what a path leads to may be changed: its content and length, or what else is known of it.
    pub(super) fn permit_change(
        &self,
        path: &CStr,
        follow: bool,
        content: bool,
    ) -> Result<(), Errno> {
        let Some(fence) = self.judged() else { return Ok(()) };
        let rights = fence.rights_at(&literal(self, path, follow)?);
        let enough = rights.have(Rights::OVERWRITE) || (!content && rights.have(Rights::WRITE));
        if enough { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Gives a file another length, within the quota.
    pub(super) fn resizing(
        &self,
        file: impl AsFd,
        size: u64,
        resize: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let Some((fence, ledger)) = self.accounted() else { return resize() };
        let before = size_of(&fstat(file)?);
        let more = size.saturating_sub(before);
        ledger.take_bytes(fence.files.quota, more)?;
        resize().inspect_err(|_| ledger.give_bytes(more))?;
        ledger.give_bytes(before.saturating_sub(size));
        Ok(())
    }

    /// So many bytes are about to be added to a file.
    pub(in crate::services) fn take_bytes(&self, bytes: u64) -> Result<(), Errno> {
        let Some((fence, ledger)) = self.accounted() else { return Ok(()) };
        ledger.take_bytes(fence.files.quota, bytes)
    }

    /// There is a quota.
    pub(in crate::services) fn accounts(&self) -> bool {
        self.accounted().is_some()
    }

    fn accounted(&self) -> Option<(&Fence, &super::ledger::Ledger)> {
        let fence = self.judged()?;
        Some((fence, fence.ledger.as_deref()?))
    }
}

/// A path without links, dots and doubled slashes; with `follow` also where a link at its end leads.
fn literal(root: &Root, path: &CStr, follow: bool) -> Result<CString, Errno> {
    let bytes = path.to_bytes();
    let (parent, name) = split(bytes);
    let plain = !matches!(name, b"" | b"." | b"..") && !name.ends_with(b"/");
    if bytes.is_empty() {
        return Err(Errno::ENOENT);
    }
    let path = if follow || !plain {
        real_path(root, b"/", bytes)?
    } else {
        let parent = real_path(root, b"/", parent)?;
        let parent = if parent == b"/" { Vec::new() } else { parent };
        [&parent, &b"/"[..], name].concat()
    };
    CString::new(path).map_err(|_| Errno::EINVAL)
}

/// The folder that a path without links is in; the root is in itself.
fn parent_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) if at > 0 => path.get(..at).unwrap_or(b"/"),
        _ => b"/",
    }
}

fn below(path: &CStr, name: &[u8]) -> Result<CString, Errno> {
    let path = path.to_bytes().strip_suffix(b"/").unwrap_or(path.to_bytes());
    CString::new([path, b"/", name].concat()).map_err(|_| Errno::EINVAL)
}

fn permit(rights: Rights, needed: Rights) -> Result<(), Errno> {
    if rights.have(needed) { Ok(()) } else { Err(Errno::EACCES) }
}

fn size_of(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
