//! Accounts that exist for the time of a test, which root alone can make (`useradd` and `userdel` of
//! the package passwd).

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// One change of the user database at a time: its tools lock it and give up.
static DATABASE: Mutex<()> = Mutex::new(());

/// Other programs change the database too: so often a tool is asked again while one holds its lock.
const LOCK_TRIES_MAX: usize = 40;

/// So often it is looked whether an account's processes have ended.
const ENDS_TRIES_MAX: usize = 100;

/// Runs a tool that changes the user database.
///
/// # Errors
/// What it says; that the database stays locked is one of it.
fn change_database(program: &str, words: &[&str]) -> Result<(), String> {
    let _one = DATABASE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut said = String::new();
    for _ in 0..LOCK_TRIES_MAX {
        let output = Command::new(program).args(words).env("LC_ALL", "C").output();
        let output = output.map_err(|why| format!("{program}: {why}"))?;
        if output.status.success() {
            return Ok(());
        }
        said = format!("{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        if !said.contains("lock") {
            break;
        }
        thread::sleep(Duration::from_millis(250));
    }
    Err(said)
}

/// Takes accounts and groups away whose test was killed before it could.
fn sweep() {
    let left = |database: &str| -> Vec<String> {
        let text = fs::read_to_string(database).unwrap_or_default();
        let names = text.lines().filter_map(|line| line.split(':').next());
        names.filter(|name| is_left(name)).map(str::to_owned).collect()
    };
    left("/etc/passwd").iter().for_each(|name| drop(change_database("userdel", &["-f", name])));
    left("/etc/group").iter().for_each(|name| drop(change_database("groupdel", &[name])));
}

/// It is named by a process that has ended.
fn is_left(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x'));
    let pid = rest.and_then(|(pid, _)| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

const PREFIX: &str = "tidetest";

/// A temporary account with a group of its own and one more; gone with the value.
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub home: TempDir,
}

impl Account {
    /// `None`, and a line that says so, where accounts cannot be made.
    pub fn new() -> Option<Account> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            println!("not run: this test makes accounts, for which it must run as root");
            return None;
        }
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let home = tempfile::tempdir().expect("a home");
        let name =
            format!("{PREFIX}{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut account = Account { name, uid: 0, home };
        let (name, group) = (&*account.name, account.second_group());
        let at = account.home.path().to_str().expect("a path");
        change_database("groupadd", &[&group]).expect("a group");
        // A password field that matches no password, but is not locked.
        let flags = ["-M", "-U", "-s", "/bin/bash", "-p", "*", "-G", &group, "-d", at, name];
        change_database("useradd", &flags).expect("an account");
        let found = nix::unistd::User::from_name(&account.name).expect("a database");
        let found = found.expect("the new account");
        let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
        chown(account.home.path(), Some(uid), Some(gid)).expect("its home");
        account.uid = uid;
        Some(account)
    }

    /// Changes it, with the flags of usermod.
    pub fn change(&self, flags: &[&str]) {
        change_database("usermod", &[flags, &[&*self.name]].concat()).expect("a change");
    }

    /// Changes the days of its password, with the flags of chage.
    pub fn change_age(&self, flags: &[&str]) {
        change_database("chage", &[flags, &[&*self.name]].concat()).expect("a change");
    }

    pub fn second_group(&self) -> String {
        format!("{}g", self.name)
    }

    pub fn at_home(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Programs that run as the account, by the name the kernel shows; all of them by none.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |key: &str| {
                let line = status.lines().find(|line| line.starts_with(key));
                line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
            };
            if field("Uid:") == self.uid.to_string() && (name.is_empty() || field("Name:") == name)
            {
                found.push(pid);
            }
        }
        found
    }

    pub fn delegates(&self) -> Vec<u32> {
        self.processes("tidegate")
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.uid != 0 {
            let _ = Command::new("pkill").args(["-9", "-U", &self.uid.to_string()]).status();
            // The next account may get the number: what is left of these would count as its own.
            for _ in 0..ENDS_TRIES_MAX {
                if self.processes("").is_empty() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        let group = self.second_group();
        let removed = [("userdel", &["-f", &*self.name][..]), ("groupdel", &[&*group])];
        for (program, words) in removed {
            if let Err(why) = change_database(program, words) {
                eprintln!("left behind: {why}");
            }
        }
    }
}
