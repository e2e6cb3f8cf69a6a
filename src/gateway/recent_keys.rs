//! Lines of key files that have let somebody in a moment ago. In a storm of logins of one account the
//! file need not be read for each, nor with the account's rights: it is looked at, and so is every
//! directory above it. Where nothing about them has changed the kernel would open it again and StrictModes
//! would find what it has found, so the line counts again.
//!
//! A key that has let nobody in is not known here, so it takes as long as for whoever does not exist.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::Metadata;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};

use crate::base::Instant;
use crate::limits::{RECENT_KEY_LINE_BYTES_MAX, RECENT_KEY_TIME, RECENT_KEYS_MAX};
use crate::services::Account;

/// Filesystems of this machine alone, whose attributes are never older than what they are of.
const LOCAL: [FsType; 4] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC];

/// With whose rights a file was read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    pub account: &'a Account,
    pub groups: &'a [u32],
}

/// A line that lets a key in, and where it stands: what a file's search says of it when it is the only one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLine {
    /// Counted from 1.
    pub number: u32,
    pub text: Arc<[u8]>,
}

/// At most [`RECENT_KEYS_MAX`] lines, each at most [`RECENT_KEY_TIME`] old.
#[derive(Debug, Default)]
pub struct RecentKeys {
    lines: Mutex<Lines>,
}

/// By the file's path and the key's blob.
type Lines = HashMap<(PathBuf, Box<[u8]>), Known>;

#[derive(Debug)]
struct Known {
    at: Instant,
    account: Account,
    groups: Box<[u32]>,
    /// In the order of [`walk`].
    steps: Arc<[Step]>,
    line: KeyLine,
}

/// What opening a file and StrictModes go by, of one step on the way to it. An access list that closes a
/// directory and leaves its mode is seen when the moment is over.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    dev: u64,
    ino: u64,
    mode: u32,
    owner: (u32, u32),
    /// Of the file alone: when it and what is known of it were changed, and its size.
    written: Option<[i64; 5]>,
}

impl Step {
    fn new(metadata: &Metadata) -> Step {
        let written = [
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
            metadata.size() as i64,
        ];
        Step {
            dev: metadata.dev(),
            ino: metadata.ino(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            written: metadata.is_file().then_some(written),
        }
    }

    /// Of what is at this path from a directory, links not followed. Takes what the kernel knows of it: no server
    /// of a filesystem is asked, and nothing is mounted for it.
    fn at(directory: &OwnedFd, path: &CStr) -> Option<Step> {
        let flags = libc::AT_SYMLINK_NOFOLLOW
            | libc::AT_EMPTY_PATH
            | libc::AT_NO_AUTOMOUNT
            | libc::AT_STATX_DONT_SYNC;
        let mut found = MaybeUninit::<libc::statx>::zeroed();
        let (at, to) = (directory.as_raw_fd(), found.as_mut_ptr());
        // SAFETY: the path ends with a zero byte, there is room for the answer, and both outlive the call.
        let result = unsafe { libc::statx(at, path.as_ptr(), flags, libc::STATX_BASIC_STATS, to) };
        // SAFETY: all of it are numbers, which were zero before the call.
        let found = unsafe { found.assume_init() };
        if result != 0 || found.stx_mask & libc::STATX_BASIC_STATS != libc::STATX_BASIC_STATS {
            return None;
        }
        let (mode, mtime, ctime) = (u32::from(found.stx_mode), found.stx_mtime, found.stx_ctime);
        let written = [
            mtime.tv_sec,
            mtime.tv_nsec.into(),
            ctime.tv_sec,
            ctime.tv_nsec.into(),
            found.stx_size as i64,
        ];
        Some(Step {
            dev: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
            ino: found.stx_ino,
            mode,
            owner: (found.stx_uid, found.stx_gid),
            written: (mode & libc::S_IFMT == libc::S_IFREG).then_some(written),
        })
    }

    const fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

impl RecentKeys {
    /// Remembers the line of a key (`blob`) in a file that was read with these rights, which are in
    /// force. `read`: what its descriptor said of it before it was read. `now`: before that, in seconds
    /// since 1970.
    pub fn remember(
        &self,
        (path, blob): (&Path, &[u8]),
        reader: Reader<'_>,
        line: KeyLine,
        (read, at, now): (&Metadata, Instant, u64),
    ) {
        // What is changed in the same moment may look the same.
        let rested = u64::try_from(read.ctime()).is_ok_and(|changed| changed + 1 < now);
        if !rested || line.text.len() > RECENT_KEY_LINE_BYTES_MAX {
            return;
        }
        let Some(steps) = local_steps(path) else { return };
        if !steps.contains(&Step::new(read)) {
            return;
        }
        let known = Known {
            at,
            account: reader.account.clone(),
            groups: reader.groups.into(),
            steps: steps.into(),
            line,
        };
        let mut lines = self.lines();
        if lines.len() >= RECENT_KEYS_MAX {
            lines.retain(|_, known| at.since(known.at) < RECENT_KEY_TIME);
        }
        if lines.len() < RECENT_KEYS_MAX {
            lines.insert((path.to_owned(), blob.into()), known);
        }
    }

    /// The line of this key in this file, if it was read as this account a moment ago and would be found
    /// again.
    pub fn find(
        &self,
        (path, blob): (&Path, &[u8]),
        reader: Reader<'_>,
        at: Instant,
    ) -> Option<KeyLine> {
        let key = (path.to_owned(), Box::from(blob));
        let (steps, line) = {
            let lines = self.lines();
            let known = lines.get(&key)?;
            let same = known.account == *reader.account && *known.groups == *reader.groups;
            if !same || at.since(known.at) >= RECENT_KEY_TIME {
                return None;
            }
            (Arc::clone(&known.steps), known.line.clone())
        };
        // Not under the lock: it may take a moment.
        let mut known = steps.iter();
        let same = walk(path, |_, step| known.next() == Some(&step)).is_some();
        if same && known.next().is_none() {
            return Some(line);
        }
        self.lines().remove(&key);
        None
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps of a path without links and turns to a file, if all of it is local.
fn local_steps(path: &Path) -> Option<Vec<Step>> {
    // From then on the kernel knows the way, as root goes it.
    path.symlink_metadata().ok()?;
    let mut steps = Vec::<Step>::new();
    walk(path, |at, step| {
        let is_same = steps.last().is_some_and(|last| last.dev == step.dev);
        let fits = if at == path { step.written.is_some() } else { step.is_directory() };
        let fits = fits && (is_same || is_local(at));
        steps.push(step);
        fits
    })?;
    Some(steps)
}

fn is_local(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| LOCAL.contains(&found.filesystem_type()))
}

/// Looks at the directory that a file is in, at the file, and at each directory above, as long as `look` says so.
/// `None`: not to the end, or not without waiting.
///
/// Whoever owns one of them may put something else in its place at any time, where a server is to be asked that
/// never answers, or something is to be mounted. So nothing is looked up but what the kernel remembers, and in no
/// directory that `look` has not found to be as it was.
fn walk(path: &Path, mut look: impl FnMut(&Path, Step) -> bool) -> Option<()> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return None;
    }
    let (folder, name) = (path.parent()?, CString::new(path.file_name()?.as_bytes()).ok()?);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);
    let opened = openat2(AT_FDCWD, folder, OpenHow::new().flags(flags).resolve(resolve)).ok()?;
    let mut look_at = |at, way: &CStr| look(at, Step::at(&opened, way)?).then_some(());
    look_at(folder, c"")?;
    look_at(path, &name)?;
    let mut up = String::new();
    for at in folder.ancestors().skip(1) {
        up.push_str("../");
        look_at(at, &CString::new(&*up).ok()?)?;
    }
    Some(())
}

#[cfg(test)]
mod tests;
