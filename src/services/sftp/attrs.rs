use std::ffi::CStr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, UtimensatFlags};
use nix::sys::stat::{fchmod, fchmodat, fstat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, ftruncate, truncate};

use super::fs::{Subject, borrow};
use crate::services::root::{Root, change_mode, change_times};
use crate::wire::sftp::Attributes;

/// The permission, set-id and sticky bits: what a client may set.
const MODE_BITS: u32 = 0o7777;

/// What version 3 tells of a file. Times outside 32 bits wrap, as OpenSSH's do.
pub fn attributes(stat: &FileStat) -> Attributes {
    Attributes {
        size: Some(stat.st_size as u64),
        owner: Some((stat.st_uid, stat.st_gid)),
        permissions: Some(stat.st_mode),
        times: Some((stat.st_atime as u32, stat.st_mtime as u32)),
    }
}

/// Sets what is given, in OpenSSH's order: size, mode, times, owner. A failure does not keep the
/// rest from being tried; the last one is reported.
pub fn set(root: &Root, subject: &Subject, attributes: &Attributes) -> Result<(), Errno> {
    if matches!(subject, Subject::Link(_)) && attributes.size.is_some() {
        return Err(Errno::EINVAL);
    }
    if let Subject::Path(path) | Subject::Link(path) = subject {
        let follow = matches!(subject, Subject::Path(_));
        root.permit_change(path, follow, attributes.size.is_some())?;
    }
    let held = match subject {
        Subject::Path(path) if root.is_fenced() => Some(root.hold(path, true)?),
        Subject::Link(path) if root.is_fenced() => Some(root.hold(path, false)?),
        _ => None,
    };
    let target = match (subject, &held) {
        (Subject::Path(path) | Subject::Link(path), Some(held)) => {
            Target::Held { root, path, held }
        }
        (subject, _) => Target::Plain(subject),
    };
    let mut outcome = Ok(());
    let mut tried = |result: Result<(), Errno>| {
        if result.is_err() {
            outcome = result;
        }
    };
    if let Some(size) = attributes.size {
        tried(set_size(root, &target, size));
    }
    if let Some(permissions) = attributes.permissions {
        tried(set_mode(&target, mode(permissions)));
    }
    if let Some((access, modification)) = attributes.times {
        tried(set_times(&target, seconds(access), seconds(modification)));
    }
    if let Some((user, group)) = attributes.owner {
        tried(set_owner(&target, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))));
    }
    outcome
}

/// What is changed.
enum Target<'a> {
    /// In a root: a descriptor that stands for it, and the path that it was found by.
    Held {
        root: &'a Root,
        path: &'a CStr,
        held: &'a OwnedFd,
    },
    Plain(&'a Subject),
}

/// The settable bits of a wire mode.
pub fn mode(permissions: u32) -> Mode {
    Mode::from_bits_truncate((permissions & MODE_BITS) as libc::mode_t)
}

fn set_size(root: &Root, target: &Target<'_>, bytes: u64) -> Result<(), Errno> {
    let size = i64::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    match target {
        Target::Held { root, path, held } => match fstat(held)?.st_mode & libc::S_IFMT {
            libc::S_IFREG => {
                let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
                let file = root.open_at(path, flags | OFlag::O_CLOEXEC, Mode::empty())?;
                root.resizing(&file, bytes, || ftruncate(&file, size))
            }
            libc::S_IFDIR => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        },
        Target::Plain(Subject::Path(path)) => truncate(path.as_c_str(), size),
        Target::Plain(Subject::Link(_)) => Err(Errno::EINVAL),
        Target::Plain(Subject::Handle(fd)) => {
            root.resizing(borrow(*fd), bytes, || ftruncate(borrow(*fd), size))
        }
    }
}

fn set_mode(target: &Target<'_>, mode: Mode) -> Result<(), Errno> {
    let (path, flag) = match target {
        Target::Held { held, .. } => return change_mode(held, mode),
        Target::Plain(Subject::Path(path)) => (path, FchmodatFlags::FollowSymlink),
        Target::Plain(Subject::Link(path)) => (path, FchmodatFlags::NoFollowSymlink),
        Target::Plain(Subject::Handle(fd)) => return fchmod(borrow(*fd), mode),
    };
    fchmodat(AT_FDCWD, path.as_c_str(), mode, flag)
}

fn set_times(target: &Target<'_>, access: TimeSpec, change: TimeSpec) -> Result<(), Errno> {
    let (path, flag) = match target {
        Target::Held { held, .. } => {
            return change_times(held, [*access.as_ref(), *change.as_ref()]);
        }
        Target::Plain(Subject::Path(path)) => (path, UtimensatFlags::FollowSymlink),
        Target::Plain(Subject::Link(path)) => (path, UtimensatFlags::NoFollowSymlink),
        Target::Plain(Subject::Handle(fd)) => return futimens(borrow(*fd), &access, &change),
    };
    utimensat(AT_FDCWD, path.as_c_str(), &access, &change, flag)
}

fn set_owner(target: &Target<'_>, user: Option<Uid>, group: Option<Gid>) -> Result<(), Errno> {
    let (path, flag) = match target {
        Target::Held { held, .. } => {
            return fchownat(held, c"", user, group, AtFlags::AT_EMPTY_PATH);
        }
        Target::Plain(Subject::Path(path)) => (path, AtFlags::empty()),
        Target::Plain(Subject::Link(path)) => (path, AtFlags::AT_SYMLINK_NOFOLLOW),
        Target::Plain(Subject::Handle(fd)) => return fchown(borrow(*fd), user, group),
    };
    fchownat(AT_FDCWD, path.as_c_str(), user, group, flag)
}

const fn seconds(seconds: u32) -> TimeSpec {
    TimeSpec::new(seconds as i64, 0)
}
