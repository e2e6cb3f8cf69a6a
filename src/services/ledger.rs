//! What the files of a login come to, for its quota.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use nix::errno::Errno;

use super::files::Quota;

/// The ledgers of this process by root directory, for as long as a session uses one.
static OPEN: Mutex<Option<HashMap<PathBuf, Weak<Ledger>>>> = Mutex::new(None);

/// What the files below one root come to. They are counted when the first session of those that are
/// there at one time begins; from then on what sessions of this process do is noted. What somebody else
/// does shows in the next count.
#[derive(Debug, Default)]
pub struct Ledger {
    counted: OnceLock<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Ledger {
    /// The one of this root; `count` finds bytes and names where nobody has counted yet.
    ///
    /// # Errors
    /// Those of `count`.
    pub fn of(
        root: &Path,
        count: impl FnOnce() -> Result<(u64, u64), Errno>,
    ) -> Result<Arc<Ledger>, Errno> {
        let ledger = {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            let open = open.get_or_insert_default();
            open.retain(|_, ledger| ledger.strong_count() > 0);
            let known = open.get(root).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let ledger = Arc::new(Ledger::default());
                open.insert(root.to_owned(), Arc::downgrade(&ledger));
                ledger
            })
        };
        // Not under the lock: others have other trees. Two that count at once count the same.
        if ledger.counted.get().is_none() {
            let (bytes, files) = count()?;
            ledger.counted.get_or_init(|| Sums { bytes: bytes.into(), files: files.into() });
        }
        Ok(ledger)
    }

    /// So many bytes are about to be added.
    ///
    /// # Errors
    /// EDQUOT: there is no room for them, and none is taken.
    pub fn take_bytes(&self, quota: Quota, bytes: u64) -> Result<(), Errno> {
        self.counted.get().map_or(Err(Errno::EDQUOT), |sums| take(&sums.bytes, quota.bytes, bytes))
    }

    /// One name is about to be added.
    ///
    /// # Errors
    /// EDQUOT: there are as many as there may be.
    pub fn take_file(&self, quota: Quota) -> Result<(), Errno> {
        self.counted.get().map_or(Err(Errno::EDQUOT), |sums| take(&sums.files, quota.files, 1))
    }

    pub fn give_bytes(&self, bytes: u64) {
        if let Some(sums) = self.counted.get() {
            give(&sums.bytes, bytes);
        }
    }

    pub fn give_file(&self) {
        if let Some(sums) = self.counted.get() {
            give(&sums.files, 1);
        }
    }
}

fn take(sum: &AtomicU64, limit: Option<u64>, more: u64) -> Result<(), Errno> {
    let fits = |now: u64| {
        let then = now.checked_add(more)?;
        // What adds nothing is never too much: a quota may have been lowered since.
        (more == 0 || limit.is_none_or(|limit| then <= limit)).then_some(then)
    };
    let taken = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
    taken.map(drop).map_err(|_| Errno::EDQUOT)
}

fn give(sum: &AtomicU64, less: u64) {
    let _ = sum
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(less)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_may_be() {
        let quota = Quota { bytes: Some(10), files: Some(2) };
        let root = Path::new("/a root of this test alone");
        let ledger = Ledger::of(root, || Ok((4, 1))).expect("counted");
        let other = Ledger::of(root, || Err(Errno::EIO)).expect("the same, counted already");
        assert_eq!(ledger.take_bytes(quota, 6), Ok(()));
        assert_eq!(other.take_bytes(quota, 1), Err(Errno::EDQUOT));
        assert_eq!(other.take_bytes(quota, u64::MAX), Err(Errno::EDQUOT));
        assert_eq!(other.take_bytes(quota, 0), Ok(()));
        other.give_bytes(3);
        assert_eq!(ledger.take_bytes(quota, 3), Ok(()));
        assert_eq!((ledger.take_file(quota), other.take_file(quota)), (Ok(()), Err(Errno::EDQUOT)));
        ledger.give_file();
        assert_eq!(other.take_file(quota), Ok(()));
        assert_eq!(other.take_bytes(Quota::default(), u64::MAX), Err(Errno::EDQUOT), "no overflow");
        drop((ledger, other));
        assert_eq!(Ledger::of(root, || Err(Errno::EIO)).err(), Some(Errno::EIO), "forgotten");
    }
}
