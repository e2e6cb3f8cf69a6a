//! Whose files of keys are being read. An account says itself where they are: on a server that does not answer, if
//! it likes. Nobody waits there for long on its behalf but those who came first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::Instant;
use crate::limits::KEY_READ_TIME;

/// Those that read, by the account's uid, and since when.
#[derive(Debug, Default)]
pub struct Readers(Mutex<Vec<(u32, Instant)>>);

struct Reading<'a> {
    readers: &'a Readers,
    of: (u32, Instant),
}

impl Readers {
    /// `None`: what somebody began to read of this account's [`KEY_READ_TIME`] ago or earlier is not read yet.
    pub fn read<T>(&self, uid: u32, now: Instant, read: impl FnOnce() -> T) -> Option<T> {
        let mut all = self.all();
        let late = |since: Instant| now.since(since) >= KEY_READ_TIME;
        if all.iter().any(|(whose, since)| *whose == uid && late(*since)) {
            return None;
        }
        all.push((uid, now));
        drop(all);
        let _reading = Reading { readers: self, of: (uid, now) };
        Some(read())
    }

    fn all(&self) -> MutexGuard<'_, Vec<(u32, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut all = self.readers.all();
        if let Some(at) = all.iter().position(|one| *one == self.of) {
            all.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_whose_files_are_late_is_waited_for_no_more() {
        let readers = Readers::default();
        let (start, late) = (Instant::default(), Instant::default().after(KEY_READ_TIME));
        let inside = readers.read(1, start, || {
            assert_eq!(readers.read(1, start, || 2), Some(2), "another at the same time");
            assert_eq!(readers.read(1, late, || 2), None);
            readers.read(3, late, || 4)
        });
        assert_eq!(inside, Some(Some(4)), "another account");
        assert_eq!(readers.read(1, late, || 5), Some(5), "it is through");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            readers.read(1, start, || panic!("a defect"))
        }));
        assert!(panicked.is_err() && readers.all().is_empty());
    }
}
