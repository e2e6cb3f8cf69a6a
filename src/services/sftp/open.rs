use std::ffi::CStr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, readlink};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::attrs::mode;
use crate::reactor::Fd;
use crate::services::root::Root;
use crate::wire::sftp::open;

/// Which file a descriptor is open on: two handles with the same identity are one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// An open file.
#[derive(Debug)]
pub struct Opened {
    pub fd: Fd,
    pub file: FileId,
    /// A plain file, as opposed to a directory or a device.
    pub regular: bool,
    pub size: u64,
}

/// Opens a file for an OPEN request with the flags of [`open`].
///
/// Nothing here waits: a FIFO without a peer or a modem line is opened without blocking, and then
/// refused. Reads and writes go by offset, so pipes and sockets are refused as OpenSSH refuses to
/// seek them. Devices keep the non-blocking flag.
pub fn file(root: &Root, path: &CStr, flags: u32, permissions: u32) -> Result<Opened, Errno> {
    let fd = root.open_at(path, open_flags(flags), mode(permissions))?;
    let stat = fstat(&fd)?;
    let kind = stat.st_mode & libc::S_IFMT;
    match kind {
        libc::S_IFIFO | libc::S_IFSOCK => return Err(Errno::ESPIPE),
        libc::S_IFREG | libc::S_IFBLK => {
            refuse_own_process(&fd)?;
            let set = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
            fcntl(&fd, FcntlArg::F_SETFL(set - OFlag::O_NONBLOCK))?;
        }
        _ => {}
    }
    let file = FileId { device: stat.st_dev, inode: stat.st_ino };
    let (regular, size) = (kind == libc::S_IFREG, u64::try_from(stat.st_size).unwrap_or(0));
    Ok(Opened { fd: Fd(fd.into_raw_fd()), file, regular, size })
}

/// Opens a directory to be listed.
pub fn directory(root: &Root, path: &CStr) -> Result<Fd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(Fd(root.open_at(path, flags, Mode::empty())?.into_raw_fd()))
}

fn open_flags(flags: u32) -> OFlag {
    let mut to = match (flags & open::READ != 0, flags & open::WRITE != 0) {
        (true, true) => OFlag::O_RDWR,
        (false, true) => OFlag::O_WRONLY,
        _ => OFlag::O_RDONLY,
    };
    to.set(OFlag::O_APPEND, flags & open::APPEND != 0);
    to.set(OFlag::O_CREAT, flags & open::CREATE != 0);
    to.set(OFlag::O_TRUNC, flags & open::TRUNCATE != 0);
    to.set(OFlag::O_EXCL, flags & open::EXCLUSIVE != 0);
    to | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC
}

/// Memory and maps of this very process (its keys, other sessions' data) are nobody's files.
pub(in crate::services) fn refuse_own_process(fd: &OwnedFd) -> Result<(), Errno> {
    if fstatfs(fd)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Ok(());
    }
    let name = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str())?;
    let mut components = Path::new(&name).components().skip(1).map(|c| c.as_os_str());
    let process = match (components.next(), components.next()) {
        (Some(proc), Some(process)) if proc.as_bytes() == b"proc" => process,
        // Mounted elsewhere; the numbers may be those of another namespace.
        _ => return Err(Errno::EACCES),
    };
    let ours = std::fs::exists(Path::new("/proc/self/task").join(process)).unwrap_or(true);
    if ours { Err(Errno::EACCES) } else { Ok(()) }
}
