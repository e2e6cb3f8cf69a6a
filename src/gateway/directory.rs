//! The system's user database, remembered for a moment.
//!
//! A login asks for an account, its groups and its state: some forty system calls where files hold
//! them, several round trips where a directory service does. In a storm of logins everybody behind
//! the first finds the answers here.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::accounts::{self, Closed};
use crate::base::Instant;
use crate::limits::{DIRECTORY_ENTRIES_MAX, DIRECTORY_TIME};
use crate::reactor;
use crate::services::Account;

/// What the user database says about an account that exists.
#[derive(Debug)]
pub struct Entry {
    pub account: Account,
    /// By number, the primary one among them.
    pub group_ids: Vec<u32>,
    /// The names of those that have one.
    pub groups: Vec<String>,
    /// What the shadow database has against the account; only root can ask it.
    pub closed: Option<Closed>,
    /// Its shell is there and may be run by somebody, without which sshd lets nobody in.
    pub has_shell: bool,
}

/// Answers that are at most [`DIRECTORY_TIME`] old. Strangers' names are never remembered: they
/// could be any number. Calls may block.
#[derive(Debug, Default)]
pub struct Directory {
    entries: Mutex<HashMap<String, (Instant, Arc<Entry>)>>,
}

impl Directory {
    /// The account of exactly that name; `None` when there is none.
    ///
    /// # Errors
    /// The user database does not answer.
    pub fn find(&self, name: &str) -> io::Result<Option<Arc<Entry>>> {
        let now = reactor::now();
        if let Some(entry) = self.remembered(name, now) {
            return Ok(Some(entry));
        }
        // Not under the lock: a slow answer is one login's business.
        let entry = accounts::by_name(name)?.map(|account| Arc::new(ask(account)));
        if let Some(entry) = &entry {
            self.remember(now, Arc::clone(entry));
        }
        Ok(entry)
    }

    /// The same without asking anybody; `None` where nothing is remembered.
    pub fn find_remembered(&self, name: &str) -> Option<Arc<Entry>> {
        self.remembered(name, reactor::now())
    }

    fn remembered(&self, name: &str, now: Instant) -> Option<Arc<Entry>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, entry) = entries.get(name)?;
        (now.since(*at) < DIRECTORY_TIME).then(|| Arc::clone(entry))
    }

    fn remember(&self, now: Instant, entry: Arc<Entry>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= DIRECTORY_ENTRIES_MAX {
            entries.retain(|_, (at, _)| now.since(*at) < DIRECTORY_TIME);
        }
        if entries.len() < DIRECTORY_ENTRIES_MAX {
            entries.insert(entry.account.name.clone(), (now, entry));
        }
    }
}

fn ask(account: Account) -> Entry {
    let group_ids = accounts::group_ids(&account);
    let groups = accounts::group_names(&group_ids);
    let closed = if nix::unistd::geteuid().is_root() { accounts::closed(&account) } else { None };
    let has_shell = is_program(&account.shell);
    Entry { account, group_ids, groups, closed, has_shell }
}

fn is_program(shell: &Path) -> bool {
    std::fs::metadata(shell)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Arc<Entry> {
        let uid = nix::unistd::geteuid().as_raw();
        let account = accounts::by_uid(uid).expect("a database").expect("an account");
        Arc::new(ask(Account { name: name.to_owned(), ..account }))
    }

    #[test]
    fn an_answer_is_remembered_and_a_stranger_is_not() {
        let directory = Directory::default();
        let ours = entry("x");
        let uid = nix::unistd::geteuid().as_raw();
        let name = accounts::by_uid(uid).expect("a database").expect("an account").name;
        let first = directory.find(&name).expect("a database").expect("an account");
        let second = directory.find(&name).expect("a database").expect("an account");
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((first.account.uid, &first.group_ids), (uid, &ours.group_ids));
        assert!(directory.find("no such user").expect("a database").is_none());
        assert_eq!(directory.entries.lock().expect("the lock").len(), 1);
    }

    #[test]
    fn what_nobody_may_run_is_no_shell() {
        let uid = nix::unistd::geteuid().as_raw();
        let account = accounts::by_uid(uid).expect("a database").expect("an account");
        for (shell, has_shell) in [("/bin/sh", true), ("/", false), ("/no/shell", false)] {
            let entry = ask(Account { shell: shell.into(), ..account.clone() });
            assert_eq!(entry.has_shell, has_shell, "{shell}");
        }
    }

    #[test]
    fn an_old_answer_is_asked_for_again() {
        let directory = Directory::default();
        let start = Instant::from_nanos(0);
        directory.remember(start, entry("x"));
        let almost = Instant::from_nanos(DIRECTORY_TIME.as_nanos() as u64 - 1);
        assert!(directory.remembered("x", almost).is_some());
        assert!(directory.remembered("x", start.after(DIRECTORY_TIME)).is_none());
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let directory = Directory::default();
        let start = Instant::from_nanos(0);
        for n in 0..DIRECTORY_ENTRIES_MAX + 5 {
            directory.remember(start, entry(&n.to_string()));
        }
        assert_eq!(directory.entries.lock().expect("the lock").len(), DIRECTORY_ENTRIES_MAX);
        let later = start.after(DIRECTORY_TIME);
        directory.remember(later, entry("late"));
        assert!(directory.remembered("late", later).is_some());
        assert_eq!(directory.entries.lock().expect("the lock").len(), 1);
    }
}
