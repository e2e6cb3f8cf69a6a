use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, UtimensatFlags};
use nix::sys::stat::{fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, ftruncate, truncate};

use super::fs::{Subject, borrow};
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
pub fn set(subject: &Subject, attributes: &Attributes) -> Result<(), Errno> {
    if matches!(subject, Subject::Link(_)) && attributes.size.is_some() {
        return Err(Errno::EINVAL);
    }
    let mut outcome = Ok(());
    let mut tried = |result: Result<(), Errno>| {
        if result.is_err() {
            outcome = result;
        }
    };
    if let Some(size) = attributes.size {
        tried(set_size(subject, size));
    }
    if let Some(permissions) = attributes.permissions {
        tried(set_mode(subject, mode(permissions)));
    }
    if let Some((access, modification)) = attributes.times {
        tried(set_times(subject, seconds(access), seconds(modification)));
    }
    if let Some((user, group)) = attributes.owner {
        tried(set_owner(subject, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))));
    }
    outcome
}

/// The settable bits of a wire mode.
pub fn mode(permissions: u32) -> Mode {
    Mode::from_bits_truncate((permissions & MODE_BITS) as libc::mode_t)
}

fn set_size(subject: &Subject, size: u64) -> Result<(), Errno> {
    let size = i64::try_from(size).map_err(|_| Errno::EINVAL)?;
    match subject {
        Subject::Path(path) => truncate(path.as_c_str(), size),
        Subject::Link(_) => Err(Errno::EINVAL),
        Subject::Handle(fd) => ftruncate(borrow(*fd), size),
    }
}

fn set_mode(subject: &Subject, mode: Mode) -> Result<(), Errno> {
    match subject {
        Subject::Path(path) => {
            fchmodat(AT_FDCWD, path.as_c_str(), mode, FchmodatFlags::FollowSymlink)
        }
        Subject::Link(path) => {
            fchmodat(AT_FDCWD, path.as_c_str(), mode, FchmodatFlags::NoFollowSymlink)
        }
        Subject::Handle(fd) => fchmod(borrow(*fd), mode),
    }
}

fn set_times(subject: &Subject, access: TimeSpec, modification: TimeSpec) -> Result<(), Errno> {
    let (path, flags) = match subject {
        Subject::Path(path) => (path, UtimensatFlags::FollowSymlink),
        Subject::Link(path) => (path, UtimensatFlags::NoFollowSymlink),
        Subject::Handle(fd) => return futimens(borrow(*fd), &access, &modification),
    };
    utimensat(AT_FDCWD, path.as_c_str(), &access, &modification, flags)
}

fn set_owner(subject: &Subject, user: Option<Uid>, group: Option<Gid>) -> Result<(), Errno> {
    let (path, flags) = match subject {
        Subject::Path(path) => (path, AtFlags::empty()),
        Subject::Link(path) => (path, AtFlags::AT_SYMLINK_NOFOLLOW),
        Subject::Handle(fd) => return fchown(borrow(*fd), user, group),
    };
    fchownat(AT_FDCWD, path.as_c_str(), user, group, flags)
}

const fn seconds(seconds: u32) -> TimeSpec {
    TimeSpec::new(seconds as i64, 0)
}
