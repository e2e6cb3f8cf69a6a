//! What of the file system a login has.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{Files, Quota, Root, pty};
use crate::limits::PARCEL_BYTES_MAX;
use crate::wire::Reader;

/// The directory that this process has made its root.
static ENTERED: OnceLock<PathBuf> = OnceLock::new();

/// Makes a directory the root of this process, for good. What has to be read outside is read before.
///
/// # Errors
/// There is no such directory, or the process may not do that.
pub fn enter_root(directory: &Path) -> io::Result<()> {
    pty::keep_devices()?;
    super::umask::process_umask();
    // The time zone.
    super::sftp::day_and_time(0);
    nix::unistd::chroot(directory)?;
    nix::unistd::chdir("/")?;
    ENTERED.get_or_init(|| directory.to_owned());
    Ok(())
}

/// The directory that [`enter_root`] has made the root of this process.
pub fn entered_root() -> Option<&'static Path> {
    ENTERED.get().map(PathBuf::as_path)
}

/// Where the files of a login are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Wherever the account may go.
    #[default]
    System,
    /// In this directory, which the process of the account has made its root.
    Chroot(PathBuf),
    /// In this directory, and they are all that the login has: no program runs for it.
    Files(Box<Files>),
}

impl Place {
    /// Where paths begin, in the process that serves such a login.
    pub fn root(&self) -> Root {
        match self {
            Place::System => Root::System,
            // The process is in there; what it shows of its files is kept in all the same.
            Place::Chroot(_) => Root::Unopened(Arc::new(Files::all("/".into()))),
            Place::Files(files) => Root::Unopened(Arc::new((**files).clone())),
        }
    }

    /// The directory that the process of such a login has as its root, if not the system's.
    pub fn chroot(&self) -> Option<&Path> {
        match self {
            Place::Chroot(directory) => Some(directory),
            Place::System | Place::Files(_) => None,
        }
    }

    pub const fn is_system(&self) -> bool {
        matches!(self, Place::System)
    }

    /// No program runs for such a login.
    pub const fn is_files(&self) -> bool {
        matches!(self, Place::Files(_))
    }

    /// What its files come to has a bound.
    pub fn has_quota(&self) -> bool {
        matches!(self, Place::Files(files) if files.quota != Quota::default())
    }

    /// The account of the system that does the work, if it is not the login's own.
    pub fn service(&self) -> Option<&str> {
        match self {
            Place::Files(files) => files.service.as_deref(),
            Place::System | Place::Chroot(_) => None,
        }
    }

    /// For the way to the process of the account.
    pub(super) fn encode(&self, put: &mut impl FnMut(&[u8])) {
        match self {
            Place::System => put(&[0]),
            Place::Chroot(path) => {
                put(&[1]);
                put(path.as_os_str().as_bytes());
            }
            Place::Files(files) => {
                put(&[2]);
                files.encode(put);
            }
        }
    }

    /// What [`Place::encode`] wrote; `None` for anything else.
    pub(super) fn decode(r: &mut Reader<'_>) -> Option<Place> {
        let &[kind] = r.string(1).ok()? else { return None };
        match kind {
            0 => Some(Place::System),
            1 => {
                let path = r.string(PARCEL_BYTES_MAX).ok()?;
                Some(Place::Chroot(PathBuf::from(OsStr::from_bytes(path))))
            }
            2 => Files::decode(r).map(Box::new).map(Place::Files),
            _ => None,
        }
    }
}
