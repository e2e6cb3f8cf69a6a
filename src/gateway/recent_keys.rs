//! Lines of key files that have let somebody in a moment ago. In a storm of logins of one account the
//! file need not be read for each, nor with the account's rights: it is looked at, and so is every
//! directory above it. Where nothing about them has changed the kernel would open it again and StrictModes
//! would find what it has found, so the line counts again.
//!
//! A key that has let nobody in is not known here, so it takes as long as for whoever does not exist.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// The file, then each directory above it.
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
        if steps.first() != Some(&Step::new(read)) {
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
        let is_same = |(step, path): (&Step, &Path)| {
            path.symlink_metadata().is_ok_and(|metadata| Step::new(&metadata) == *step)
        };
        if steps.len() == path.ancestors().count()
            && steps.iter().zip(path.ancestors()).all(is_same)
        {
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
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return None;
    }
    let (mut steps, mut local) = (Vec::<Step>::new(), None);
    for (depth, part) in path.ancestors().enumerate() {
        let metadata = part.symlink_metadata().ok()?;
        if !(if depth == 0 { metadata.is_file() } else { metadata.is_dir() }) {
            return None;
        }
        if local != Some(metadata.dev()) {
            let kind = statfs(part).ok()?.filesystem_type();
            local = LOCAL.contains(&kind).then_some(metadata.dev());
            local?;
        }
        steps.push(Step::new(&metadata));
    }
    Some(steps)
}

#[cfg(test)]
mod tests;
